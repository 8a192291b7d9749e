//! A command by the container's OCI runtime, called as conmon calls it: `crun exec --process … --pid-file …`, whose exit code is that of
//! the process. crun stays as the process's parent until it ends.
//!
//! What crun reads and writes are files in memory ([`MemoryFile`]); nothing of a session is left on a disk.

mod document;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kube_pet_host::exits::{self, ExitWatch};
use kube_pet_host::memory_file::MemoryFile;
use kube_pet_host::terminal::{ConsoleSocket, Terminal};
use kube_pet_podman::{Client, Operation};
use kube_pet_stream::remote_command::TerminalSize;
use serde::Deserialize;
use tokio::process::Child;
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::time::sleep;
use tracing::debug;

use super::{Command, ExecError, Streams};
use crate::instruments;

/// Where crun keeps what runs, with Podman run as root.
const STATE_DIR: &str = "/run/crun";

/// Processes that are being started at once: that is work for the processors, and probes come in herds.
const STARTING: usize = 8;

/// How often it is looked whether a process has begun.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Bytes that the pipes of a process hold: with Linux's 64 KiB it and the agent wait for each other more often. The kernel allocates
/// what is filled only.
const PIPE_SIZE: usize = 256 << 10;

/// Bytes of crun's log that are read.
const LOG_LIMIT: usize = 64 << 10;

/// crun, as the agent calls it.
#[derive(Debug)]
pub(crate) struct Runtime {
    podman: Client,
    /// The program, as Podman names it; `None`: it is another runtime.
    program: OnceCell<Option<PathBuf>>,
    state_dir: PathBuf,
    run_dir: PathBuf,
    starting: Semaphore,
}

impl Runtime {
    pub(super) fn new(podman: Client, run_dir: &Path) -> Self {
        Self {
            podman,
            program: OnceCell::new(),
            state_dir: PathBuf::from(STATE_DIR),
            run_dir: run_dir.to_owned(),
            starting: Semaphore::new(STARTING),
        }
    }

    #[cfg(test)]
    pub(super) fn of(program: PathBuf, podman: Client, dir: &Path) -> Self {
        let mut runtime = Self::new(podman, dir);
        runtime.program = OnceCell::new_with(Some(Some(program)));
        runtime.state_dir = dir.join("crun");
        runtime
    }

    /// Starts a command; `None` if this container is not crun's, as far as can be seen. Returns once its process runs, or has run.
    pub(super) async fn start(&self, command: Command<'_>) -> Result<Option<(Streams, Process)>, ExecError> {
        let Some(program) = self.program().await else { return Ok(None) };
        // Closed never.
        let _place = self.starting.acquire().await;
        let begin = Instant::now();
        let (state_dir, id) = (self.state_dir.clone(), command.container.as_str().to_owned());
        let (words, tty) = (command.words.to_vec(), command.tty);
        let document = tokio::task::spawn_blocking(move || document::of(&state_dir, &id, &words, tty)).await;
        let document = match document {
            Ok(Ok(document)) => document,
            Ok(Err(error)) => {
                debug!(%error, "the command is left to Podman");
                return Ok(None);
            }
            Err(error) => return Err(ExecError::Machine { doing: "reading the container's configuration", source: error.into() }),
        };
        let started = self.launch(program, command, &document).await;
        instruments::runtime_operation(Operation::ExecStart, begin.elapsed(), started.is_ok());
        match started {
            // Removed or moved since Podman named it.
            Err(ExecError::Machine { source, .. }) if source.kind() == io::ErrorKind::NotFound && !program.exists() => {
                debug!(program = %program.display(), "there is no such program; the command is left to Podman");
                Ok(None)
            }
            started => started.map(Some),
        }
    }

    async fn program(&self) -> Option<&Path> {
        let ask = async || -> kube_pet_podman::Result<Option<PathBuf>> {
            let runtime = self.podman.info().await?.host.oci_runtime;
            let path = PathBuf::from(runtime.path);
            Ok((runtime.name == "crun" && path.is_absolute()).then_some(path))
        };
        match self.program.get_or_try_init(ask).await {
            Ok(program) => program.as_deref(),
            Err(error) => {
                debug!(%error, "the OCI runtime is not known");
                None
            }
        }
    }

    async fn launch(&self, program: &Path, command: Command<'_>, document: &[u8]) -> Result<(Streams, Process), ExecError> {
        let memory = |name, content: &[u8]| MemoryFile::new(name, content).map_err(failed("making a file in memory"));
        let files = Files { pid: memory("exec-pid", b"")?, log: memory("exec-log", b"")? };
        let document = memory("exec-process", document)?;
        #[allow(clippy::disallowed_methods, reason = "the OCI runtime has no other interface")]
        let mut crun = tokio::process::Command::new(program);
        crun.arg("--root").arg(&self.state_dir).arg("--log").arg(files.log.path()).args(["--log-format", "json", "exec"]);
        crun.arg("--process").arg(document.path()).arg("--pid-file").arg(files.pid.path());
        let console = if command.tty { Some(self.console()?) } else { None };
        if let Some(console) = &console {
            crun.arg("--console-socket").arg(console.path());
        }
        let wanted = |wanted: bool| if wanted && !command.tty { Stdio::piped() } else { Stdio::null() };
        crun.arg(command.container.as_str())
            .stdin(wanted(command.stdin))
            .stdout(wanted(command.stdout))
            .stderr(wanted(command.stderr))
            // Nothing of the agent's own environment, above all no sockets that systemd hands over.
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true);
        let mut child = crun.spawn().map_err(failed("starting the OCI runtime"))?;
        let parent = child.id().map_or(0, i64::from);
        // Before any wait, which closes the input.
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        for pipe in [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            // Not granted, it is only slower.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_SIZE);
        }
        let pipes = Streams::Pipes { stdin, stdout, stderr };
        let mut ended = None;
        let terminal = match &console {
            None => None,
            Some(console) => tokio::select! {
                // The terminal first, which a short command has sent before it ended.
                biased;
                terminal = console.receive() => Some(terminal.map_err(failed("receiving the terminal"))?),
                status = child.wait() => {
                    ended = Some(status.map_err(failed("waiting for the OCI runtime"))?);
                    None
                }
            },
        };
        let pid = loop {
            // In this order: what has ended has written its number before.
            let over = ended.is_some();
            match files.pid() {
                Some(pid) => break pid,
                None if over => return Err(ExecError::Runtime(files.words().unwrap_or_else(|| unexplained(ended)))),
                None => {}
            }
            if let Ok(status) = tokio::time::timeout(LOOK_EVERY, child.wait()).await {
                ended = Some(status.map_err(failed("waiting for the OCI runtime"))?);
            }
        };
        let streams = match &terminal {
            Some(terminal) => Streams::of_terminal(terminal).map_err(failed("opening the terminal"))?,
            None => pipes,
        };
        Ok((streams, Process { pid, parent, terminal: terminal.map(Arc::new), code: reap(child, files.log) }))
    }

    fn console(&self) -> Result<ConsoleSocket, ExecError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("exec-{}-{}.sock", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ConsoleSocket::bind(self.run_dir.join(name)).map_err(failed("making a socket for the terminal"))
    }
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> ExecError {
    move |source| ExecError::Machine { doing, source }
}

fn unexplained(status: Option<ExitStatus>) -> String {
    match status {
        Some(status) => format!("the runtime ended with {status} and said nothing"),
        None => "the runtime said nothing".to_owned(),
    }
}

/// What crun writes.
struct Files {
    pid: MemoryFile,
    log: MemoryFile,
}

impl Files {
    /// The process, once it has begun.
    fn pid(&self) -> Option<i64> {
        let content = self.pid.content(32).ok()?;
        std::str::from_utf8(&content).ok()?.trim().parse().ok()
    }

    fn words(&self) -> Option<String> {
        last_error(&self.log)
    }
}

/// The last error in crun's log.
fn last_error(log: &MemoryFile) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        msg: String,
        level: String,
    }
    let content = log.content(LOG_LIMIT).ok()?;
    let lines = serde_json::Deserializer::from_slice(&content).into_iter::<Line>();
    lines.map_while(Result::ok).filter(|line| line.level == "error").last().map(|line| line.msg)
}

type Code = Result<i32, String>;

/// Waits for crun in a task of its own, so that it is reaped and its code kept, however long the client takes. The task ends with the process.
fn reap(mut child: Child, log: MemoryFile) -> watch::Receiver<Option<Code>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let code = match child.wait().await {
            // A process that could not be executed after all, for example because its interpreter is missing.
            Ok(status) => match (last_error(&log), status.code()) {
                (Some(words), _) => Err(ExecError::Runtime(words).to_string()),
                (None, Some(code)) => Ok(code),
                (None, None) => Err(unexplained(Some(status))),
            },
            Err(error) => Err(failed("waiting for the OCI runtime")(error).to_string()),
        };
        sender.send_replace(Some(code));
    });
    receiver
}

/// A process that crun has begun.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pid: i64,
    /// crun itself.
    parent: i64,
    terminal: Option<Arc<Terminal>>,
    code: watch::Receiver<Option<Code>>,
}

impl Process {
    /// A child of the agent's own.
    pub(super) fn of_child(mut child: Child, terminal: Option<Arc<Terminal>>) -> Self {
        let pid = child.id().map_or(0, i64::from);
        let (sender, code) = watch::channel(None);
        tokio::spawn(async move {
            let code = match child.wait().await {
                // As a shell has it: what was killed by signal n has 128 + n.
                Ok(status) => status.code().or_else(|| Some(128 + status.signal()?)).ok_or_else(|| unexplained(Some(status))),
                Err(error) => Err(error.to_string()),
            };
            sender.send_replace(Some(code));
        });
        Self { pid, parent: std::process::id().into(), terminal, code }
    }

    #[cfg(test)]
    pub(super) fn pid(&self) -> i64 {
        self.pid
    }

    pub(super) async fn code(&self) -> Code {
        let mut code = self.code.clone();
        match code.wait_for(Option::is_some).await.map(|code| code.clone()) {
            Ok(Some(code)) => code,
            _ => Err("the agent ends".to_owned()),
        }
    }

    pub(super) fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.terminal
            && let Err(error) = terminal.resize(size.width, size.height)
        {
            debug!(%error, "the terminal keeps its size");
        }
    }

    pub(super) async fn kill(&self) -> Result<(), exits::ExitError> {
        while self.code.borrow().is_none() {
            let process = ExitWatch::open(self.pid)?;
            // Its parent reaps it before it ends itself: with the parent, the number is still this process's.
            if exits::parent(self.pid).map(u64::cast_signed) != Some(self.parent) {
                // It has ended, and its parent is about to.
                let _ = self.code().await;
                return Ok(());
            }
            process.kill();
            process.wait().await?;
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}
