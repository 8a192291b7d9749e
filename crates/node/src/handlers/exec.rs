//! `exec`: a command in the container.

use std::time::Duration;

use kube_pet_core::ids::ContainerId;
use kube_pet_core::quoting::go_quoted;
use tokio::sync::Notify;

use super::{Handlers, OUTPUT_LIMIT, ProbeOutcome};
use crate::exec::{Command, Output};

/// How long the end of a process that took too long is waited for.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// How long it may take until a process begins.
const BEGIN_WAIT: Duration = Duration::from_secs(30);

/// How long Podman is asked for the exit code of a process that has ended: that is not the process's time.
const CODE_WAIT: Duration = Duration::from_secs(10);

/// Why a hook failed.
pub(super) struct Failed {
    pub(super) error: String,
    pub(super) output: String,
}

/// How a session ended.
struct Ended {
    code: i32,
    output: Output,
}

/// What is shown of the output.
fn shown(output: Output) -> String {
    let mut all = output.joined();
    all.truncate(OUTPUT_LIMIT);
    String::from_utf8_lossy(&all).into_owned()
}

enum Trouble {
    /// Whoever runs it has failed, in words.
    Other(String),
    TimedOut,
}

/// An `exec` probe. The time limit is for the process: what it takes to prepare it says nothing about the container.
pub(super) async fn probe(handlers: &Handlers, container: &ContainerId, command: &[String], timeout: Duration) -> ProbeOutcome {
    match run(handlers, container, command, Some(timeout)).await {
        Ok(Ended { code: 0, output }) => ProbeOutcome::Success(shown(output)),
        Ok(Ended { output, .. }) => ProbeOutcome::Failure(shown(output)),
        Err(Trouble::Other(error)) => ProbeOutcome::Unknown(error),
        Err(Trouble::TimedOut) => {
            let command = go_quoted(&command.join(" "));
            ProbeOutcome::Failure(format!("command timed out: {command} timed out after {}", go_duration(timeout)))
        }
    }
}

/// An `exec` hook.
pub(super) async fn hook(handlers: &Handlers, container: &ContainerId, command: &[String]) -> Result<(), Failed> {
    match run(handlers, container, command, None).await {
        Ok(Ended { code: 0, .. }) => Ok(()),
        Ok(Ended { code, output }) => {
            let error = format!("command '{}' exited with {code}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr));
            Err(Failed { error, output: shown(output) })
        }
        Err(Trouble::Other(error)) => Err(Failed { error, output: String::new() }),
        Err(Trouble::TimedOut) => Err(Failed { error: "command timed out".to_owned(), output: String::new() }),
    }
}

async fn run(handlers: &Handlers, container: &ContainerId, command: &[String], timeout: Option<Duration>) -> Result<Ended, Trouble> {
    let words =
        |error: &dyn std::fmt::Display| Trouble::Other(format!("rpc error: code = Unknown desc = failed to exec in container: {error}"));
    let late = || Trouble::Other(format!("the process has not begun within {} s", BEGIN_WAIT.as_secs()));
    let started = tokio::time::timeout(BEGIN_WAIT, handlers.executor.start(Command::for_output(container, command)));
    let (streams, process) = started.await.map_err(|_| late())?.map_err(|error| words(&error))?;
    let begun = Notify::new();
    let work = async { tokio::try_join!(streams.collect(OUTPUT_LIMIT), process.ended(|| begun.notify_one())) };
    let over = async {
        if tokio::time::timeout(BEGIN_WAIT, begun.notified()).await.is_err() {
            return late();
        }
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
        Trouble::TimedOut
    };
    let ended = tokio::select! {
        ended = work => ended.map_err(|error| words(&error)),
        trouble = over => Err(trouble),
    };
    let (output, code) = match ended {
        Ok(ended) => ended,
        Err(trouble) => {
            process.kill(KILL_WAIT).await;
            return Err(trouble);
        }
    };
    let code = match code {
        Some(code) => code,
        None => tokio::time::timeout(CODE_WAIT, process.code())
            .await
            .unwrap_or_else(|_| Err(format!("Podman has no exit code {} s after the end", CODE_WAIT.as_secs())))
            .map_err(|error| words(&error))?,
    };
    process.keep();
    Ok(Ended { code, output })
}

/// Whole seconds as Go prints a duration.
pub(super) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}
