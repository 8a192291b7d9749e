//! The service as a process of the machine.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kube_pet_host::exits::ExitWatch;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::PodmanServiceError;
use super::configuration::{Limits, containers_conf};
use crate::config::PodmanSettings;
use crate::user_namespaces::hook;

/// Variable of the service's environment that tells what it was started with.
const MARK: &str = "KUBE_PET_PODMAN_SERVICE";

/// Where Podman looks for hooks by itself.
const HOOK_FOLDERS: [&str; 2] = ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"];

/// How the service is started and recognised.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    socket: PathBuf,
    log: PathBuf,
    /// The note of the storage that its check of overlayfs has failed.
    no_overlay: PathBuf,
}

impl Launch {
    pub(super) fn prepare(settings: &PodmanSettings, run_dir: &Path) -> Result<Self, PodmanServiceError> {
        let conf = run_dir.join("containers.conf");
        let hooks = run_dir.join("hooks.d");
        // Podman refuses a folder that is not there, and with folders named looks at its own only if they are among them.
        let folders: Vec<_> = HOOK_FOLDERS.map(PathBuf::from).into_iter().filter(|folder| folder.is_dir()).chain([hooks.clone()]).collect();
        let text = containers_conf(Limits::own(), &folders);
        std::fs::create_dir_all(&hooks)
            .and_then(|()| write_hook(&hooks.join("kube-pet.json")))
            .and_then(|()| std::fs::write(&conf, &text))
            .map_err(|source| PodmanServiceError::Configuration { path: conf.clone(), source })?;

        let socket = run_dir.join("podman.sock");
        let mut arguments = vec!["--log-level=warn".to_owned()];
        arguments.extend(settings.global_arguments());
        arguments.extend(["system", "service", "--time=0"].map(str::to_owned));
        arguments.push(uri(&socket));

        let mut variables = vec![("CONTAINERS_CONF".to_owned(), conf.display().to_string())];
        variables.extend(settings.variables());
        let program = settings.program().to_owned();
        let mut hasher = Sha256::new();
        for part in std::iter::once(&text).chain(&arguments) {
            hasher.update(part);
            hasher.update([0]);
        }
        hasher.update(format!("{variables:?}{}", program.display()));
        let hash: [u8; 8] = hasher.finalize().first_chunk().copied().unwrap_or_default();
        variables.push((MARK.to_owned(), format!("{:016x}", u64::from_be_bytes(hash))));
        let no_overlay = settings.run_root().join("overlay/overlay-false");
        Ok(Self { program, arguments, environment: variables, socket, log: run_dir.join("podman-service.log"), no_overlay })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The service that runs, or a new one. Of several (an agent was killed within a start) the extra ones end.
    pub(super) async fn obtain(&self) -> io::Result<ServiceProcess> {
        let launch = self.clone();
        let found = tokio::task::spawn_blocking(move || launch.find()).await.map_err(io::Error::other)?;
        let listener = if found.is_empty() { None } else { self.listener().await };
        let mut kept = None;
        let mut others = Vec::new();
        for (pid, current) in found {
            let Some(process) = ServiceProcess::open(pid)? else { continue };
            if current && listener == Some(process.pid()) {
                kept = Some(process);
            } else {
                others.push(process);
            }
        }
        for process in others {
            tracing::info!(pid = process.pid(), "ending a Podman service that is superfluous or was started with other settings");
            // Asked to end, it would remove the socket's file, which may be that of the one that stays.
            if kept.is_none() {
                process.terminate().await;
            } else {
                process.kill();
                process.exited().await;
            }
        }
        match kept {
            Some(process) => {
                tracing::info!(pid = process.pid(), "adopting the Podman service of an earlier run");
                Ok(process)
            }
            None => self.start(),
        }
    }

    /// Ends the service, if it runs.
    pub(super) async fn end(&self) -> io::Result<()> {
        let launch = self.clone();
        for (pid, _) in tokio::task::spawn_blocking(move || launch.find()).await.map_err(io::Error::other)? {
            if let Some(process) = ServiceProcess::open(pid)? {
                process.terminate().await;
            }
        }
        Ok(())
    }

    /// The process that listens on the socket, as the kernel knows it.
    async fn listener(&self) -> Option<i32> {
        // A service that has just been started has not bound its socket yet.
        for _ in 0..50 {
            if let Ok(stream) = tokio::net::UnixStream::connect(&self.socket).await {
                return stream.peer_cred().ok()?.pid();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Services on this socket, by process ID, and whether they were started with these settings and the program that is on
    /// disk now. Processes of other mount namespaces may have a socket of the same name.
    fn find(&self) -> Vec<(Pid, bool)> {
        let namespace = |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|m| (m.dev(), m.ino())).ok();
        let own = namespace("self");
        let (uri, mark) = (uri(&self.socket), self.mark());
        let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
        processes
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| {
                let pid = Pid::from_raw(name.parse().ok()?)?;
                let command = std::fs::read(format!("/proc/{name}/cmdline")).ok()?;
                let arguments: Vec<&[u8]> = command.split(|b| *b == 0).collect();
                let serves = arguments.windows(2).any(|pair| pair == [&b"system"[..], b"service"]) && arguments.contains(&uri.as_bytes());
                if !serves || namespace(&name) != own {
                    return None;
                }
                let environment = std::fs::read(format!("/proc/{name}/environ")).unwrap_or_default();
                let marked = environment.split(|b| *b == 0).any(|variable| variable == mark.as_bytes());
                let replaced =
                    std::fs::read_link(format!("/proc/{name}/exe")).is_ok_and(|exe| exe.as_os_str().as_bytes().ends_with(b" (deleted)"));
                Some((pid, marked && !replaced))
            })
            .collect()
    }

    fn mark(&self) -> String {
        self.environment.iter().find(|(name, _)| name == MARK).map(|(name, value)| format!("{name}={value}")).unwrap_or_default()
    }

    fn start(&self) -> io::Result<ServiceProcess> {
        // Nobody listens: `find` saw no service. Podman refuses a file that is there.
        match std::fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        #[expect(clippy::disallowed_methods, reason = "the one program that the agent runs: Podman's service")]
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // What is meant for the agent's own supervisor.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir("/")
            // A process group of its own: it outlives the agent, and a Ctrl-C at the agent's terminal is not for it.
            .process_group(0);
        if std::env::var_os("HOME").is_none() {
            command.env("HOME", "/root");
        }
        let child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.program.display())))?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).ok_or_else(|| io::Error::other("it ended at once"))?;
        let mut process = ServiceProcess::open(pid)?.ok_or_else(|| io::Error::other("it ended at once"))?;
        process.child = Some(child);
        Ok(process)
    }

    /// A second service, as an agent that was killed within a start may leave one.
    #[cfg(test)]
    pub(super) fn start_for_test(&self) -> i32 {
        self.start().unwrap().pid()
    }

    /// How the service ended, with the end of what it wrote.
    pub(super) async fn last_words(&self, process: &mut ServiceProcess) -> String {
        let status = match &mut process.child {
            Some(child) => child.wait().await.map(|status| format!(" ({status})")).unwrap_or_default(),
            None => String::new(),
        };
        let log = tail(&self.log).unwrap_or_default();
        // Warnings are of requests long gone.
        let told = |line: &&str| ["Error", "level=error", "level=fatal", "panic"].iter().any(|word| line.contains(word));
        match log.lines().rfind(told) {
            Some(line) => format!("the Podman service ended{status}: {line}"),
            None => format!("the Podman service ended{status}"),
        }
    }

    /// Lets Podman check anew whether it can use overlayfs: a check that has failed is kept until the next boot
    /// (containers/storage's `cachedFeatureRecord`), although what it failed of, such as a full disk, may be over.
    pub(super) fn forget_overlay_check(&self) {
        if let Err(error) = std::fs::remove_file(&self.no_overlay)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.no_overlay.display(), "Podman's note cannot be removed");
        }
    }

    /// Empties the log when it has grown: it is on a tmpfs. The service appends, so it goes on at the new end.
    pub(super) fn trim_log(&self, limit: u64) {
        if std::fs::metadata(&self.log).is_ok_and(|m| m.len() > limit) {
            let emptied = File::options().write(true).open(&self.log).and_then(|log| log.set_len(0));
            if let Err(error) = emptied {
                tracing::warn!(%error, path = %self.log.display(), "the Podman service's log cannot be emptied");
            }
        }
    }
}

fn write_hook(definition: &Path) -> io::Result<()> {
    let program = hook::program(&std::env::current_exe()?);
    if !program.is_file() {
        warn!(program = %program.display(), "this program's file is gone: pods with user namespaces cannot start until it is there again");
    }
    std::fs::write(definition, hook::definition(&program))
}

fn uri(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2048)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// A service process. Dropping it leaves the process running.
#[derive(Debug)]
pub(super) struct ServiceProcess {
    pid: Pid,
    // Signals go through it: a number that has been given to another process cannot be hit.
    fd: OwnedFd,
    exit: ExitWatch,
    /// Where this agent started it; keeps it from becoming a zombie.
    child: Option<tokio::process::Child>,
}

impl ServiceProcess {
    /// `None` when it has ended already.
    fn open(pid: Pid) -> io::Result<Option<Self>> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => {
                let exit = ExitWatch::open(pid.as_raw_nonzero().get().into()).map_err(io::Error::other)?;
                Ok(Some(Self { pid, fd, exit, child: None }))
            }
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Resolves when it has ended. Safe to cancel.
    pub(super) async fn exited(&self) {
        // An error means that it can never be told; pings tell then.
        if self.exit.wait().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn kill(&self) {
        // Fails only when it has ended.
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
    }

    /// SIGTERM, so that calls under way are answered; SIGKILL after 10 s.
    async fn terminate(&self) {
        let _ = pidfd_send_signal(&self.fd, Signal::TERM);
        if tokio::time::timeout(Duration::from_secs(10), self.exited()).await.is_err() {
            self.kill();
            self.exited().await;
        }
    }
}
