//! A command by a session of Podman's: its start, waiting for its end, and bringing that about.

use std::time::Duration;

use kube_pet_host::exits::ExitWatch;
use kube_pet_podman::{Client, Duplex, Error, ExecConfig, ExecInspect};
use kube_pet_stream::remote_command::TerminalSize;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::debug;

use super::Command;

/// Nobody types this: Podman's own default would take ctrl-p out of every shell.
const NO_DETACH: &str = "ctrl-^,ctrl-@,ctrl-^,ctrl-_";

/// How often a terminal's size is told, until the process runs, and the pause between: ten seconds in all, for machines that are busy.
const RESIZE_TRIES: usize = 200;
const RESIZE_PAUSE: Duration = Duration::from_millis(50);

/// Pauses between questions to Podman. Each question holds up what Podman does with the session itself.
const FIRST_PAUSE: Duration = Duration::from_millis(8);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How long a command may take before its process is looked for: most have ended by then, and their output tells.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// How often a session is asked for its process before it counts as not begun: about a second and a half.
const QUESTIONS: u32 = 12;

/// An exec session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    podman: Client,
    id: String,
}

impl Session {
    /// Prepares one.
    pub(super) async fn create(podman: &Client, command: Command<'_>) -> Result<Self, Error> {
        let Command { container, words, stdin, stdout, stderr, tty } = command;
        let config = ExecConfig {
            cmd: words.to_vec(),
            attach_stdin: stdin,
            attach_stdout: stdout,
            attach_stderr: stderr,
            tty,
            detach_keys: NO_DETACH.to_owned(),
            ..ExecConfig::default()
        };
        Ok(Self { podman: podman.clone(), id: podman.create_exec(container.as_str(), &config).await? })
    }

    /// Starts its process, which may not have begun when this returns.
    pub(super) async fn start(&self) -> Result<Duplex, Error> {
        self.podman.start_exec(&self.id).await
    }

    /// As [`super::Process::with_code`]. The code is asked for while the output is under way: Podman forgets a session five seconds
    /// after its end (`exit_command_delay`), which a slow client may not have read by then.
    pub(super) async fn with_code<T>(&self, output: impl Future<Output = Result<T, String>>) -> Result<(T, Result<i32, String>), String> {
        let ended = Notify::new();
        let output = async {
            let done = output.await;
            ended.notify_one();
            done
        };
        let exit_code = async {
            let _ = tokio::time::timeout(FIRST_LOOK, ended.notified()).await;
            Ok(match self.ended(|| ()).await {
                Ok(None) => self.code().await,
                Ok(Some(code)) => Ok(code),
                Err(error) => Err(error),
            })
        };
        tokio::try_join!(output, exit_code)
    }

    /// As [`super::Process::ended`], by the process's pidfd.
    pub(super) async fn ended(&self, begun: impl FnOnce()) -> Result<Option<i32>, String> {
        let seen = self.until(|state| state.ended || state.pid > 0).await?;
        begun();
        if seen.ended {
            return Ok(Some(seen.exit_code));
        }
        // Without a pidfd, Podman is asked until it knows.
        match kube_pet_host::exits::wait_exit(seen.pid.into()).await {
            Ok(()) => Ok(None),
            Err(_) => self.code().await.map(Some),
        }
    }

    pub(super) async fn code(&self) -> Result<i32, String> {
        Ok(self.until(|state| state.ended).await?.exit_code)
    }

    async fn until(&self, enough: impl Fn(&ExecInspect) -> bool) -> Result<ExecInspect, String> {
        let mut pause = FIRST_PAUSE;
        loop {
            let state = self.podman.inspect_exec(&self.id).await.map_err(|error| format!("the exit code is not known: {error}"))?;
            if enough(&state) {
                return Ok(state);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(super) async fn resize(&self, size: TerminalSize) {
        // The first size comes before the process runs, which Podman refuses; a shell would be left with no size at all.
        for _ in 0..RESIZE_TRIES {
            match self.podman.resize_exec(&self.id, size.width, size.height).await {
                Ok(()) => return,
                Err(error) => debug!(%error, "the terminal keeps its size for now"),
            }
            sleep(RESIZE_PAUSE).await;
        }
    }

    /// As [`super::Process::kill`]; a session whose process never began is removed where Podman can do that (4.9 and later).
    ///
    /// # Errors
    /// Podman's, other than that there is no such session.
    pub(super) async fn kill(&self) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..QUESTIONS {
            let Some(seen) = self.state().await? else { return Ok(()) };
            if seen.ended {
                return Ok(());
            }
            if seen.pid > 0
                && let Ok(process) = ExitWatch::open(seen.pid.into())
            {
                // The number was still the session's after its process had been opened: it is that process.
                if self.state().await?.is_some_and(|again| again.running && again.pid == seen.pid) {
                    process.kill();
                    let _ = process.wait().await;
                    return Ok(());
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.podman.remove_exec(&self.id).await
    }

    async fn state(&self) -> Result<Option<ExecInspect>, Error> {
        match self.podman.inspect_exec(&self.id).await {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
