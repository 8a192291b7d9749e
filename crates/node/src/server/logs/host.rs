//! The machine's log, for the pod that stands for it: the journal with the kernel's messages in it, or where there is no journal the
//! kernel's messages alone.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc::{self, Sender};

use super::options::LogOptions;
use crate::server::response::{self, Response};

/// Where the journal is kept: on disk, or in memory.
const JOURNALS: [&str; 2] = ["/var/log/journal", "/run/log/journal"];

/// One run of a program.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    program: &'static str,
    arguments: Vec<String>,
    /// Only so many lines at the end are wanted, and the program cannot tell which.
    tail: Option<usize>,
}

/// Streams the log, and goes on with it if that is asked for.
pub(super) fn serve(options: &LogOptions) -> Response {
    let journal = JOURNALS.iter().any(|folder| Path::new(folder).is_dir());
    let Some(readings) = readings(options, journal) else {
        return response::text(
            StatusCode::BAD_REQUEST,
            "the log of the boot before this one is in a journal only, and this machine keeps none",
        );
    };
    let (client, body) = mpsc::channel(1);
    let mut left = options.limit_bytes.unwrap_or(u64::MAX);
    tokio::spawn(async move {
        for reading in readings {
            let done = tokio::select! {
                done = copy(reading, &client, &mut left) => done,
                () = client.closed() => return,
            };
            if done.is_none() {
                return;
            }
        }
    });
    response::stream(body)
}

/// What is read, one after the other; `None` where there is nothing that could.
fn readings(options: &LogOptions, journal: bool) -> Option<Vec<Reading>> {
    let LogOptions { follow, previous, timestamps, since, tail_lines, limit_bytes: _, stream: _ } = options;
    let time = |time: &Timestamp| time.strftime("%Y-%m-%d %H:%M:%S").to_string();
    if journal {
        let mut arguments = vec!["--no-pager".to_owned(), "--utc".to_owned()];
        arguments.push(if *timestamps { "--output=short-iso-precise" } else { "--output=short" }.to_owned());
        arguments.push(if *previous { "--boot=-1" } else { "--boot" }.to_owned());
        arguments.push(tail_lines.map_or_else(|| "--lines=all".to_owned(), |lines| format!("--lines={lines}")));
        arguments.extend(since.iter().map(|since| format!("--since={}", time(since))));
        arguments.extend(follow.then(|| "--follow".to_owned()));
        return Some(vec![Reading { program: "journalctl", arguments, tail: None }]);
    }
    if *previous {
        return None;
    }
    let mut arguments = vec![if *timestamps { "--time-format=iso" } else { "--time-format=ctime" }.to_owned()];
    arguments.extend(since.iter().map(|since| format!("--since={}", time(since))));
    let mut readings = vec![Reading {
        program: "dmesg",
        arguments: arguments.clone(),
        tail: tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
    }];
    if *follow {
        arguments.push("--follow-new".to_owned());
        readings.push(Reading { program: "dmesg", arguments, tail: None });
    }
    Some(readings)
}

/// `None`: nobody wants more.
async fn copy(reading: Reading, client: &Sender<io::Result<Bytes>>, left: &mut u64) -> Option<()> {
    let Reading { program, arguments, tail } = reading;
    #[expect(clippy::disallowed_methods, reason = "the log's own readers; arguments are numbers and times, and never read by a shell")]
    let mut command = Command::new(program);
    // Without a zone of its own, a program's times are the machine's.
    command.args(arguments).env("TZ", "UTC").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let Some(output) = command.spawn().ok().and_then(|mut child| child.stdout.take().map(|output| (child, output))) else {
        let _ = client.send(Ok(format!("{program} cannot be run on this machine\n").into())).await;
        return None;
    };
    let (_child, output) = output;
    let mut lines = BufReader::new(output);
    let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
    loop {
        let mut line = Vec::new();
        match lines.read_until(b'\n', &mut line).await {
            Ok(0) => break,
            Ok(_) => match tail {
                None => send(line, client, left).await?,
                Some(0) => {}
                Some(tail) => {
                    if kept.len() == tail {
                        kept.pop_front();
                    }
                    kept.push_back(line);
                }
            },
            Err(error) => {
                let _ = client.send(Err(error)).await;
                return None;
            }
        }
    }
    for line in kept {
        send(line, client, left).await?;
    }
    Some(())
}

async fn send(mut line: Vec<u8>, client: &Sender<io::Result<Bytes>>, left: &mut u64) -> Option<()> {
    line.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= line.len() as u64;
    client.send(Ok(line.into())).await.ok()?;
    (*left > 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str, journal: bool) -> Option<Vec<String>> {
        let options = LogOptions::from_query(query, "2026-01-02T03:04:05Z".parse().unwrap()).unwrap();
        let text = |reading: &Reading| format!("{} {} {:?}", reading.program, reading.arguments.join(" "), reading.tail);
        Some(readings(&options, journal)?.iter().map(text).collect())
    }

    #[test]
    fn the_options_of_a_log_are_those_of_its_readers() {
        let one = |text: &str| Some(vec![text.to_owned()]);
        assert_eq!(of("", true), one("journalctl --no-pager --utc --output=short --boot --lines=all None"));
        assert_eq!(
            of("previous=true&timestamps=true&tailLines=5&sinceSeconds=60", true),
            one("journalctl --no-pager --utc --output=short-iso-precise --boot=-1 --lines=5 --since=2026-01-02 03:03:05 None")
        );
        assert_eq!(of("follow=true", true), one("journalctl --no-pager --utc --output=short --boot --lines=all --follow None"));
        assert_eq!(of("tailLines=5", false), one("dmesg --time-format=ctime Some(5)"));
        assert_eq!(
            of("follow=true&timestamps=true&tailLines=0", false),
            Some(vec!["dmesg --time-format=iso Some(0)".to_owned(), "dmesg --time-format=iso --follow-new None".to_owned()])
        );
        assert_eq!(of("previous=true", false), None);
    }

    #[tokio::test]
    async fn component_the_last_lines_are_kept_and_bytes_are_counted() {
        let reading = |script: &str, tail| Reading { program: "sh", arguments: vec!["-c".to_owned(), script.to_owned()], tail };
        let read = async |reading: Reading, mut left: u64| {
            let (client, mut body) = mpsc::channel(16);
            let more = copy(reading, &client, &mut left).await;
            drop(client);
            let mut text = Vec::new();
            while let Some(piece) = body.recv().await {
                text.extend_from_slice(&piece.unwrap());
            }
            (String::from_utf8(text).unwrap(), more)
        };
        assert_eq!(read(reading("seq 9", Some(2)), u64::MAX).await, ("8\n9\n".to_owned(), Some(())));
        assert_eq!(read(reading("seq 9", Some(0)), u64::MAX).await, (String::new(), Some(())));
        assert_eq!(read(reading("seq 9", None), 5).await, ("1\n2\n3".to_owned(), None));
        let absent = Reading { program: "no-such-program", arguments: Vec::new(), tail: None };
        assert_eq!(read(absent, u64::MAX).await, ("no-such-program cannot be run on this machine\n".to_owned(), None));
    }
}
