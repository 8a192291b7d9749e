//! Logs of services: from the journal where it knows the service, else from the files that it most likely writes.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::query::{Options, Query};
use super::{Client, files, pipe};
use crate::server::response::{self, Response};

/// What a query may take, as for the kubelet.
const DEADLINE: Duration = Duration::from_secs(30);

/// Streams the logs of the services of `query`. What goes wrong is told in the text, after what could be had; the
/// time limit and errors of reading end the answer before its end.
pub(super) fn serve(root: PathBuf, query: Query) -> Response {
    let (client, body) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            done = tokio::time::timeout(DEADLINE, copy(&root, &query, &client)) => if done.is_err() {
                let _ = client.send(Err(io::ErrorKind::TimedOut.into())).await;
            },
            () = client.closed() => {}
        }
    });
    response::stream(body)
}

async fn copy(root: &Path, query: &Query, client: &Client) -> Option<()> {
    let units = units().await;
    let known = |service: &str| units.contains(&format!("{service}.service"));
    let (journal, files): (Vec<_>, Vec<_>) = query.services.iter().map(String::as_str).partition(|service| known(service));
    if !journal.is_empty() {
        journalctl(&arguments(&query.options, &journal), client).await?;
    }
    if files.is_empty() {
        return Some(());
    }
    if query.options != Options::default() {
        let text = format!("\noptions present and query resolved to log files for [{}]\ntry without specifying options\n", files.join(" "));
        return say(client, text).await;
    }
    for service in files {
        copy_file(root, service, client).await?;
    }
    Some(())
}

/// None: the client is gone.
async fn say(client: &Client, text: String) -> Option<()> {
    client.send(Ok(text.into())).await.ok()
}

/// A program of the machine's that reads its journal; there is no library that could.
#[expect(clippy::disallowed_methods, reason = "the journal's own reader; arguments are checked and never read by a shell")]
fn command() -> Command {
    let mut command = Command::new("journalctl");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// All units that the journal knows. Empty where there is no journal.
async fn units() -> String {
    match command().args(["--field", "_SYSTEMD_UNIT"]).stderr(Stdio::null()).output().await {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => String::new(),
    }
}

fn arguments(options: &Options, services: &[&str]) -> Vec<String> {
    let Options { since, until, tail_lines, boot, pattern } = options;
    let mut arguments: Vec<String> = ["--utc", "--no-pager", "--output=short-precise"].map(str::to_owned).into();
    for (flag, time) in [("since", since), ("until", until)] {
        if let Some(time) = time {
            arguments.push(format!("--{flag}={}", time.strftime("%Y-%m-%d %H:%M:%S")));
        }
    }
    if let Some(lines) = tail_lines {
        arguments.extend(["--pager-end".to_owned(), format!("--lines={lines}")]);
    }
    arguments.extend(services.iter().map(|service| format!("--unit={service}")));
    if !pattern.is_empty() {
        arguments.push(format!("--grep={pattern}"));
    }
    if let Some(boot) = boot {
        arguments.extend(["--boot".to_owned(), boot.to_string()]);
    }
    arguments
}

async fn journalctl(arguments: &[String], client: &Client) -> Option<()> {
    let started = command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = started else { return say(client, "\nerror: journal output not available\n".to_owned()).await };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else { return Some(()) };
    let (out, err) = tokio::join!(pipe(stdout, client), pipe(stderr, client));
    out.and(err)?;
    // That nothing matches a pattern is an exit code of 1, and no failure.
    match child.wait().await {
        Ok(status) if status.code().is_some_and(|code| code <= 1) => Some(()),
        Ok(status) => say(client, format!("\nerror: journalctl ended with {status}\n")).await,
        Err(error) => say(client, format!("\nerror: journalctl: {error}\n")).await,
    }
}

/// `<service>`, `<service>.log` or `<service>/<service>.log`, the first that is a file.
async fn copy_file(root: &Path, service: &str, client: &Client) -> Option<()> {
    let names = [service.to_owned(), format!("{service}.log"), format!("{service}/{service}.log")];
    let root = root.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let mut result = Err(io::ErrorKind::NotFound.into());
        for name in &names {
            result = files::open_file(&root, name);
            if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                break;
            }
        }
        result
    })
    .await
    .ok()?;
    match opened {
        Ok((file, length)) => pipe(tokio::fs::File::from_std(file).take(length), client).await,
        Err(error) if error.kind() == io::ErrorKind::NotFound => say(client, format!("\nlog not found for {service}\n")).await,
        Err(error) => say(client, format!("\nerror getting log for {service}: {error}\n")).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_journalctl() {
        let query =
            Query::parse("query=a&tailLines=5&boot=-1&pattern=x%20y&sinceTime=2026-01-02T03:04:05Z&untilTime=2026-01-03T03:04:05%2B01:00")
                .unwrap()
                .unwrap();
        assert_eq!(
            arguments(&query.options, &["a", "b"]),
            [
                "--utc",
                "--no-pager",
                "--output=short-precise",
                "--since=2026-01-02 03:04:05",
                "--until=2026-01-03 02:04:05",
                "--pager-end",
                "--lines=5",
                "--unit=a",
                "--unit=b",
                "--grep=x y",
                "--boot",
                "-1"
            ]
        );
    }
}
