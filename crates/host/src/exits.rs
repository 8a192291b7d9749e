//! The end of a process, told by the kernel at once.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Why a process cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    /// Not a process ID.
    #[error("watching for the exit of process {pid}: not a process ID")]
    NotAPid {
        /// What was given.
        pid: i64,
    },
    /// No pidfd: an old kernel, or no file descriptor left.
    #[error("watching for the exit of process {pid}: {source}")]
    Watch {
        /// The process.
        pid: i32,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// One process being watched. The kernel ties it to the process, not to the number: once opened, a reused PID cannot be
/// mistaken for it. To be sure that the right process was opened, check what the PID was taken from again after opening.
#[derive(Debug)]
pub struct ExitWatch {
    pid: i32,
    /// `None`: had ended before it could be opened.
    pidfd: Option<AsyncFd<OwnedFd>>,
}

impl ExitWatch {
    /// Opens the process `pid` (in the caller's PID namespace); within a tokio runtime.
    pub fn open(pid: i64) -> Result<Self, ExitError> {
        let number = i32::try_from(pid).map_err(|_| ExitError::NotAPid { pid })?;
        let raw = Pid::from_raw(number).ok_or(ExitError::NotAPid { pid })?;
        let failed = |source| ExitError::Watch { pid: number, source };
        let opened = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            // PIDFD_NONBLOCK came with Linux 5.10; nothing here blocks on the descriptor without it.
            Err(Errno::INVAL) => pidfd_open(raw, PidfdFlags::empty()),
            other => other,
        };
        match opened {
            Ok(fd) => Ok(Self { pid: number, pidfd: Some(register(fd).map_err(failed)?) }),
            Err(Errno::SRCH) => Ok(Self { pid: number, pidfd: None }),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Sends SIGKILL; a process that has ended is left alone.
    pub fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd.get_ref(), Signal::KILL);
        }
    }

    /// Returns when the process has ended. Cancel-safe.
    pub async fn wait(&self) -> Result<(), ExitError> {
        match &self.pidfd {
            None => Ok(()),
            Some(pidfd) => match pidfd.readable().await {
                Ok(_) => Ok(()),
                Err(source) => Err(ExitError::Watch { pid: self.pid, source }),
            },
        }
    }
}

#[allow(unsafe_code, reason = "tokio wants a promise that the type system cannot give")]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives, and always names the same file.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Returns when the process `pid` has ended (at once if there is none). Cancel-safe.
pub async fn wait_exit(pid: i64) -> Result<(), ExitError> {
    ExitWatch::open(pid)?.wait().await
}

/// As [`wait_exit`], and at once if the process with this number is not the one that started at `start_time` (see
/// [`start_time`]): the number has been given to another one.
pub async fn wait_exit_of(pid: i64, start: u64) -> Result<(), ExitError> {
    let watch = ExitWatch::open(pid)?;
    // Read after opening: if it is right now, the pidfd is of that process too.
    if start_time(pid) != Some(start) {
        return Ok(());
    }
    watch.wait().await
}

/// When the process started, in clock ticks after boot; `None` if there is no such process.
pub fn start_time(pid: i64) -> Option<u64> {
    stat(pid, 22)
}

/// The process's parent; `None` if there is no such process.
pub fn parent(pid: i64) -> Option<u64> {
    stat(pid, 4)
}

/// A field of proc(5)'s `stat` behind the name, by its number there.
fn stat(pid: i64, field: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name (field 2) may hold blanks and brackets: count from its closing one.
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(field - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn child() -> std::process::Child {
        #[allow(clippy::disallowed_methods, reason = "the test needs a process that it can end")]
        std::process::Command::new("sleep").arg("100").spawn().unwrap()
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_and_not_before() {
        let mut process = child();
        let pid = i64::from(process.id());
        assert_eq!(parent(pid), Some(std::process::id().into()));
        let started = start_time(pid).unwrap();
        let wait = wait_exit_of(pid, started);
        tokio::pin!(wait);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut wait).await.is_err());
        process.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap().unwrap();
        process.wait().unwrap();
        tokio::time::timeout(Duration::from_secs(5), wait_exit(pid)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn another_process_with_the_same_number_is_not_waited_for() {
        let mut process = child();
        let pid = i64::from(process.id());
        let started = start_time(pid).unwrap();
        tokio::time::timeout(Duration::from_secs(5), wait_exit_of(pid, started - 1)).await.unwrap().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    #[tokio::test]
    async fn numbers_that_are_no_process_are_errors() {
        assert!(matches!(wait_exit(0).await, Err(ExitError::NotAPid { .. })));
        assert!(matches!(wait_exit(1 << 40).await, Err(ExitError::NotAPid { .. })));
    }
}
