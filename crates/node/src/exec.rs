//! Commands in containers, for exec, `run`, and exec probes and hooks.
//!
//! Where a container's OCI runtime is crun, the agent calls it itself, as conmon would ([`runtime`]): then the process's streams are
//! pipes of the agent's. Otherwise, and where the configuration says so, a session of Podman's does it ([`podman`]), whose service and
//! conmon copy every byte once more each (`docs/decisions/0005-exec-by-the-runtime.md`).

mod host;
mod kill_on_drop;
mod podman;
mod runtime;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use kube_pet_core::ids::ContainerId;
use kube_pet_host::terminal::{Terminal, TerminalReader};
use kube_pet_podman::{Client, Duplex, FrameReader, StreamKind};
use kube_pet_stream::remote_command::TerminalSize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::pipe;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio_util::task::TaskTracker;

pub(crate) use self::kill_on_drop::KillOnDrop;
use self::runtime::Runtime;
use crate::config::ExecBy;

/// What to run, and which of its streams are wanted.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "the names are those of the API")]
pub(crate) struct Command<'a> {
    pub(crate) container: &'a ContainerId,
    /// Program and arguments.
    pub(crate) words: &'a [String],
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

impl<'a> Command<'a> {
    /// A command that is run for its output.
    pub(crate) fn for_output(container: &'a ContainerId, words: &'a [String]) -> Self {
        Self { container, words, stdin: false, stdout: true, stderr: true, tty: false }
    }
}

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// Podman's.
    #[error(transparent)]
    Podman(#[from] kube_pet_podman::Error),
    /// The runtime's own words, for example that there is no such program in the container.
    #[error("OCI runtime exec failed: {0}")]
    Runtime(String),
    /// This machine's.
    #[error("{doing} to run a command: {source}")]
    Machine {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Runs commands in containers.
#[derive(Clone, Debug)]
pub struct Executor {
    podman: Client,
    runtime: Option<Arc<Runtime>>,
    cleanups: TaskTracker,
}

impl Executor {
    /// `run_dir`: where the sockets of terminals are made; only root may enter it.
    #[must_use]
    pub fn new(podman: Client, by: ExecBy, run_dir: &Path) -> Self {
        let runtime = match by {
            ExecBy::Runtime => Some(Arc::new(Runtime::new(podman.clone(), run_dir))),
            ExecBy::Podman => None,
        };
        Self { podman, runtime, cleanups: TaskTracker::new() }
    }

    /// Only by sessions of Podman's.
    #[cfg(test)]
    pub(crate) fn by_podman(podman: Client) -> Self {
        Self { podman, runtime: None, cleanups: TaskTracker::new() }
    }

    /// Starts a command. What has not begun yet when the future is dropped is killed.
    pub(crate) async fn start(&self, command: Command<'_>) -> Result<(Streams, KillOnDrop), ExecError> {
        let guarded = |process| KillOnDrop::new(process, self.cleanups.clone());
        if let Some(runtime) = &self.runtime
            && let Some((streams, process)) = runtime.start(command).await?
        {
            return Ok((streams, guarded(Process::Runtime(process))));
        }
        let session = podman::Session::create(&self.podman, command).await?;
        let process = guarded(Process::Podman(session.clone()));
        Ok((Streams::Podman(session.start().await?), process))
    }

    /// Starts a command on the machine itself, as root; the container that `command` names does not matter.
    pub(crate) fn start_on_host(&self, command: Command<'_>) -> Result<(Streams, KillOnDrop), ExecError> {
        let (streams, process) = host::start(command)?;
        Ok((streams, KillOnDrop::new(Process::Runtime(process), self.cleanups.clone())))
    }

    /// Waits until all processes that are being killed have ended.
    pub async fn idle(&self) {
        self.cleanups.close();
        self.cleanups.wait().await;
    }
}

/// What leads to and from a process.
pub(crate) enum Streams {
    /// All in one.
    Podman(Duplex),
    /// Those that are wanted.
    Pipes { stdin: Option<ChildStdin>, stdout: Option<ChildStdout>, stderr: Option<ChildStderr> },
    /// Of a terminal.
    Terminal { input: pipe::Sender, output: TerminalReader },
}

impl Streams {
    fn of_terminal(terminal: &Terminal) -> io::Result<Self> {
        Ok(Self::Terminal { input: terminal.writer()?, output: terminal.reader()? })
    }

    /// Everything that is written until all have closed it; of each stream the first `limit` bytes are kept, the rest is read and
    /// dropped, so that nobody is held up.
    ///
    /// # Errors
    /// Of the connection, in words, or Podman's own.
    pub(crate) async fn collect(self, limit: usize) -> Result<Output, String> {
        let mut output = Output::default();
        match self {
            Self::Podman(duplex) => {
                let mut frames = FrameReader::new(duplex);
                while let Some(frame) = frames.next().await.map_err(unread)? {
                    let into = match frame.stream {
                        StreamKind::Stdout => &mut output.stdout,
                        StreamKind::Stderr => &mut output.stderr,
                        StreamKind::System => return Err(String::from_utf8_lossy(&frame.data).trim().to_owned()),
                        StreamKind::Stdin => continue,
                    };
                    keep(into, &frame.data, limit);
                }
            }
            Self::Pipes { stdin, stdout, stderr } => {
                drop(stdin);
                tokio::try_join!(all(stdout, &mut output.stdout, limit), all(stderr, &mut output.stderr, limit)).map_err(unread)?;
            }
            Self::Terminal { input: _input, output: terminal } => all(Some(terminal), &mut output.stdout, limit).await.map_err(unread)?,
        }
        Ok(output)
    }
}

fn unread(error: impl std::fmt::Display) -> String {
    format!("reading the process's output: {error}")
}

fn keep(into: &mut Vec<u8>, bytes: &[u8], limit: usize) {
    let room = limit - into.len();
    into.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

async fn all(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut piece = vec![0; 8 << 10];
    loop {
        match from.read(&mut piece).await? {
            0 => return Ok(()),
            count => keep(into, &piece[..count], limit),
        }
    }
}

/// What a process has written, up to a limit for each stream.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Output {
    /// Standard output, then standard error, as the kubelet joins them.
    pub(crate) fn joined(self) -> Vec<u8> {
        [self.stdout, self.stderr].concat()
    }
}

/// A process in a container. Dropping this does not end it.
#[derive(Clone, Debug)]
pub(crate) enum Process {
    Podman(podman::Session),
    Runtime(runtime::Process),
}

impl Process {
    /// What `output` comes to, and the process's exit code: it ends before its output does where others hold that open.
    ///
    /// # Errors
    /// Of the output, at once. The code's error is a result of its own: without a code, the output is still wanted.
    pub(crate) async fn with_code<T>(&self, output: impl Future<Output = Result<T, String>>) -> Result<(T, Result<i32, String>), String> {
        match self {
            Self::Podman(session) => session.with_code(output).await,
            Self::Runtime(process) => tokio::try_join!(output, async { Ok(process.code().await) }),
        }
    }

    /// Waits for the end; with the code if it is known already. `begun` is called once the process is there.
    ///
    /// # Errors
    /// In words, when it cannot be waited for.
    pub(crate) async fn ended(&self, begun: impl FnOnce()) -> Result<Option<i32>, String> {
        match self {
            Self::Podman(session) => session.ended(begun).await,
            Self::Runtime(process) => {
                begun();
                process.code().await.map(Some)
            }
        }
    }

    /// The exit code of a process that has ended, as soon as it is known.
    ///
    /// # Errors
    /// In words, when nobody knows it.
    pub(crate) async fn code(&self) -> Result<i32, String> {
        match self {
            Self::Podman(session) => session.code().await,
            Self::Runtime(process) => process.code().await,
        }
    }

    /// Tells the terminal its size.
    pub(crate) async fn resize(&self, size: TerminalSize) {
        match self {
            Self::Podman(session) => session.resize(size).await,
            Self::Runtime(process) => process.resize(size),
        }
    }

    /// Kills the process (SIGKILL, without its children, as containerd does) and waits for its end.
    ///
    /// # Errors
    /// In words: of whoever was asked.
    pub(crate) async fn kill(&self) -> Result<(), String> {
        match self {
            Self::Podman(session) => session.kill().await.map_err(|error| error.to_string()),
            Self::Runtime(process) => process.kill().await.map_err(|error| error.to_string()),
        }
    }
}
