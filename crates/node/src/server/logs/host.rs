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
use tokio::process::{Child, ChildStdout, Command};
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
    /// The program goes on with what is new, by this argument.
    follow: Option<&'static str>,
}

/// Streams the log, and goes on with it if that is asked for.
pub(super) fn serve(options: &LogOptions) -> Response {
    let journal = JOURNALS.iter().any(|folder| Path::new(folder).is_dir());
    let Some(reading) = reading(options, journal) else {
        return response::text(
            StatusCode::BAD_REQUEST,
            "the log of the boot before this one is in a journal only, and this machine keeps none",
        );
    };
    let (client, body) = mpsc::channel(1);
    let mut left = options.limit_bytes.unwrap_or(u64::MAX);
    tokio::spawn(async move {
        tokio::select! {
            _ = copy(reading, &client, &mut left) => {}
            () = client.closed() => {}
        }
    });
    response::stream(body)
}

/// What is read; `None` where there is nothing that could.
fn reading(options: &LogOptions, journal: bool) -> Option<Reading> {
    let LogOptions { follow, previous, timestamps, since, tail_lines, limit_bytes: _, stream: _ } = options;
    let time = |time: &Timestamp| time.strftime("%Y-%m-%d %H:%M:%S").to_string();
    if journal {
        let mut arguments = vec!["--no-pager".to_owned(), "--utc".to_owned()];
        arguments.push(if *timestamps { "--output=short-iso-precise" } else { "--output=short" }.to_owned());
        arguments.push(if *previous { "--boot=-1" } else { "--boot" }.to_owned());
        arguments.push(tail_lines.map_or_else(|| "--lines=all".to_owned(), |lines| format!("--lines={lines}")));
        arguments.extend(since.iter().map(|since| format!("--since={}", time(since))));
        let follow = follow.then_some("--follow");
        return Some(Reading { program: "journalctl", arguments, tail: None, follow });
    }
    if *previous {
        return None;
    }
    let mut arguments = vec![if *timestamps { "--time-format=iso" } else { "--time-format=ctime" }.to_owned()];
    arguments.extend(since.iter().map(|since| format!("--since={}", time(since))));
    let tail = tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    // Not `--follow-new`: what comes between two runs would be in neither.
    Some(Reading { program: "dmesg", arguments, tail, follow: follow.then_some("--follow") })
}

/// `None`: nobody wants more.
async fn copy(reading: Reading, client: &Sender<io::Result<Bytes>>, left: &mut u64) -> Option<()> {
    let Reading { program, mut arguments, mut tail, follow } = reading;
    // One that goes on never comes to an end that could be counted from: so what there is so far is counted before.
    let mut skipped = 0;
    if let (Some(lines), Some(_)) = (tail, follow) {
        let so_far = count(program, &arguments).await;
        skipped = so_far.saturating_sub(lines);
        tail = None;
    }
    arguments.extend(follow.map(str::to_owned));
    let Some((_child, output)) = start(program, &arguments) else {
        let _ = client.send(Ok(format!("{program} cannot be run on this machine\n").into())).await;
        return None;
    };
    let mut lines = BufReader::new(output);
    let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
    loop {
        let mut line = Vec::new();
        match lines.read_until(b'\n', &mut line).await {
            Ok(0) => break,
            Ok(_) if skipped > 0 => skipped -= 1,
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

/// How many lines a program writes; none if it cannot be run.
async fn count(program: &str, arguments: &[String]) -> usize {
    let Some((_child, output)) = start(program, arguments) else { return 0 };
    let (mut lines, mut line, mut count) = (BufReader::new(output), Vec::new(), 0);
    while lines.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        count += 1;
        line.clear();
    }
    count
}

/// A program and what it writes. It ends with the first.
fn start(program: &str, arguments: &[String]) -> Option<(Child, ChildStdout)> {
    #[expect(clippy::disallowed_methods, reason = "the log's own readers; arguments are numbers and times, and never read by a shell")]
    let mut command = Command::new(program);
    // Without a zone of its own, a program's times are the machine's.
    command.args(arguments).env("TZ", "UTC").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().ok()?;
    let output = child.stdout.take()?;
    Some((child, output))
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

    fn of(query: &str, journal: bool) -> Option<String> {
        let options = LogOptions::from_query(query, "2026-01-02T03:04:05Z".parse().unwrap()).unwrap();
        let Reading { program, mut arguments, tail, follow } = reading(&options, journal)?;
        arguments.extend(follow.map(str::to_owned));
        Some(format!("{program} {} {tail:?}", arguments.join(" ")))
    }

    #[test]
    fn the_options_of_a_log_are_those_of_its_readers() {
        let one = |text: &str| Some(text.to_owned());
        assert_eq!(of("", true), one("journalctl --no-pager --utc --output=short --boot --lines=all None"));
        assert_eq!(
            of("previous=true&timestamps=true&tailLines=5&sinceSeconds=60", true),
            one("journalctl --no-pager --utc --output=short-iso-precise --boot=-1 --lines=5 --since=2026-01-02 03:03:05 None")
        );
        assert_eq!(of("follow=true", true), one("journalctl --no-pager --utc --output=short --boot --lines=all --follow None"));
        assert_eq!(of("tailLines=5", false), one("dmesg --time-format=ctime Some(5)"));
        assert_eq!(of("follow=true&timestamps=true&tailLines=0", false), one("dmesg --time-format=iso --follow Some(0)"));
        assert_eq!(of("previous=true", false), None);
    }

    #[tokio::test]
    async fn component_the_last_lines_are_kept_and_bytes_are_counted() {
        let reading =
            |script: &str, tail| Reading { program: "sh", arguments: vec!["-c".to_owned(), script.to_owned()], tail, follow: None };
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
        // As dmesg: what there is, and with one more argument what comes then.
        let script = "seq 9; test -z \"$1\" || echo new";
        let arguments = ["-c", script, "sh"].map(str::to_owned);
        let follows = |tail| Reading { arguments: arguments.to_vec(), follow: Some("follow"), ..reading(script, tail) };
        assert_eq!(read(follows(Some(2)), u64::MAX).await.0, "8\n9\nnew\n");
        assert_eq!(read(follows(Some(0)), u64::MAX).await.0, "new\n");
        assert_eq!(read(follows(Some(20)), u64::MAX).await.0.lines().count(), 10);
        assert_eq!(read(follows(None), u64::MAX).await.0.lines().count(), 10);
        let absent = Reading { program: "no-such-program", arguments: Vec::new(), tail: None, follow: None };
        assert_eq!(read(absent, u64::MAX).await, ("no-such-program cannot be run on this machine\n".to_owned(), None));
    }
}
