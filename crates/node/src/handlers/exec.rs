//! `exec`: a command in the container, by a session of Podman's.

use std::time::Duration;

use kube_pet_core::ids::ContainerId;
use kube_pet_core::quoting::go_quoted;
use kube_pet_podman::{Client, ExecConfig};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{Handlers, OUTPUT_LIMIT, ProbeOutcome};
use crate::exec_sessions::{self, Output};

/// How long the end of a process that took too long is waited for.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// How long Podman may take to begin a process.
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
    /// Podman's, in words.
    Podman(String),
    TimedOut,
}

/// An `exec` probe. The time limit is for the process: what Podman takes to prepare it says nothing about the container.
pub(super) async fn probe(handlers: &Handlers, container: &ContainerId, command: &[String], timeout: Duration) -> ProbeOutcome {
    match run(handlers, container, command, Some(timeout)).await {
        Ok(Ended { code: 0, output }) => ProbeOutcome::Success(shown(output)),
        Ok(Ended { output, .. }) => ProbeOutcome::Failure(shown(output)),
        Err(Trouble::Podman(error)) => ProbeOutcome::Unknown(error),
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
        Err(Trouble::Podman(error)) => Err(Failed { error, output: String::new() }),
        Err(Trouble::TimedOut) => Err(Failed { error: "command timed out".to_owned(), output: String::new() }),
    }
}

async fn run(handlers: &Handlers, container: &ContainerId, command: &[String], timeout: Option<Duration>) -> Result<Ended, Trouble> {
    let words =
        |error: &dyn std::fmt::Display| Trouble::Podman(format!("rpc error: code = Unknown desc = failed to exec in container: {error}"));
    let config = ExecConfig { cmd: command.to_vec(), attach_stdout: true, attach_stderr: true, ..ExecConfig::default() };
    let id = handlers.podman.create_exec(container.as_str(), &config).await.map_err(|error| words(&error))?;
    let session = Session { podman: handlers.podman.clone(), id, cleanups: handlers.cleanups.clone(), over: false };
    let duplex = session.podman.start_exec(&session.id).await.map_err(|error| words(&error))?;
    let begun = Notify::new();
    let end = exec_sessions::process_end(&session.podman, &session.id, || begun.notify_one());
    let work = async { tokio::try_join!(exec_sessions::output(duplex, OUTPUT_LIMIT), end) };
    let over = async {
        if tokio::time::timeout(BEGIN_WAIT, begun.notified()).await.is_err() {
            return Trouble::Podman(format!("the process has not begun within {} s", BEGIN_WAIT.as_secs()));
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
            session.end().await;
            return Err(trouble);
        }
    };
    let code = match code {
        Some(code) => code,
        None => tokio::time::timeout(CODE_WAIT, exec_sessions::code(&session.podman, &session.id))
            .await
            .unwrap_or_else(|_| Err(format!("Podman has no exit code {} s after the end", CODE_WAIT.as_secs())))
            .map_err(|error| words(&error))?,
    };
    session.forget();
    Ok(Ended { code, output })
}

/// A session that has not ended: dropping it kills the process.
struct Session {
    podman: Client,
    id: String,
    cleanups: TaskTracker,
    over: bool,
}

impl Session {
    /// It has ended: Podman forgets it by itself (`exit_command_delay`).
    fn forget(mut self) {
        self.over = true;
    }

    /// Kills the process, as other runtimes do, and waits a moment for its end.
    async fn end(mut self) {
        let _ = tokio::time::timeout(KILL_WAIT, self.spawn_end()).await;
    }

    fn spawn_end(&mut self) -> impl Future<Output = ()> + use<> {
        self.over = true;
        let (podman, id) = (self.podman.clone(), std::mem::take(&mut self.id));
        let task = self.cleanups.spawn(async move {
            if let Err(error) = exec_sessions::end(&podman, &id).await {
                debug!(session = id, %error, "an exec session stays");
            }
        });
        async {
            let _ = task.await;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without a runtime the agent ends, and with it its interest.
        if !self.over && tokio::runtime::Handle::try_current().is_ok() {
            drop(self.spawn_end());
        }
    }
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
