//! Podman's exec sessions: their output, waiting for their end, and bringing it about.

use std::time::Duration;

use kube_pet_host::exits::ExitWatch;
use kube_pet_podman::{Client, Duplex, Error, ExecInspect, FrameReader, StreamKind};
use tokio::sync::Notify;
use tokio::time::sleep;

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

/// A session's output until its end; of each stream the first `limit` bytes are kept, the rest is read and dropped.
///
/// # Errors
/// Of the connection, in words, or Podman's own.
pub(crate) async fn output(process: Duplex, limit: usize) -> Result<Output, String> {
    let mut output = Output::default();
    let mut frames = FrameReader::new(process);
    while let Some(frame) = frames.next().await.map_err(|error| format!("reading the process's output: {error}"))? {
        let into = match frame.stream {
            StreamKind::Stdout => &mut output.stdout,
            StreamKind::Stderr => &mut output.stderr,
            StreamKind::System => return Err(String::from_utf8_lossy(&frame.data).trim().to_owned()),
            StreamKind::Stdin => continue,
        };
        let room = limit - into.len();
        into.extend_from_slice(&frame.data[..frame.data.len().min(room)]);
    }
    Ok(output)
}

/// Pauses between questions to Podman. Each question holds up what Podman does with the session itself.
const FIRST_PAUSE: Duration = Duration::from_millis(8);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How long a command may take before its process is looked for: most have ended by then, and their output tells.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// How often a session is asked for its process before it counts as not begun: about a second and a half.
const QUESTIONS: u32 = 12;

/// What `output` comes to, and the code of the session's process, which ends before its output does where others hold that open. The
/// code is asked for while the output is under way: Podman forgets a session five seconds after its end (`exit_command_delay`),
/// which a slow client may not have read by then.
///
/// # Errors
/// Of the output, at once. The code's error is a result of its own: without a code, the output is still wanted.
pub(crate) async fn with_code<T>(
    podman: &Client,
    session: &str,
    output: impl Future<Output = Result<T, String>>,
) -> Result<(T, Result<i32, String>), String> {
    let ended = Notify::new();
    let output = async {
        let done = output.await;
        ended.notify_one();
        done
    };
    let exit_code = async {
        let _ = tokio::time::timeout(FIRST_LOOK, ended.notified()).await;
        Ok(match process_end(podman, session, || ()).await {
            Ok(None) => code(podman, session).await,
            Ok(Some(code)) => Ok(code),
            Err(error) => Err(error),
        })
    };
    tokio::try_join!(output, exit_code)
}

/// Waits for the end of a session's process, by its pidfd; with its code if Podman has that already. `begun` is called once the
/// process is there.
///
/// # Errors
/// Podman's, in words: it forgets a session five seconds after its end (`exit_command_delay`).
pub(crate) async fn process_end(podman: &Client, session: &str, begun: impl FnOnce()) -> Result<Option<i32>, String> {
    let seen = until(podman, session, |state| state.ended || state.pid > 0).await?;
    begun();
    if seen.ended {
        return Ok(Some(seen.exit_code));
    }
    // Without a pidfd, Podman is asked until it knows.
    match kube_pet_host::exits::wait_exit(seen.pid.into()).await {
        Ok(()) => Ok(None),
        Err(_) => code(podman, session).await.map(Some),
    }
}

/// The exit code of a process that has ended, as soon as Podman has it.
///
/// # Errors
/// As [`process_end`].
pub(crate) async fn code(podman: &Client, session: &str) -> Result<i32, String> {
    Ok(until(podman, session, |state| state.ended).await?.exit_code)
}

async fn until(podman: &Client, session: &str, enough: impl Fn(&ExecInspect) -> bool) -> Result<ExecInspect, String> {
    let mut pause = FIRST_PAUSE;
    loop {
        let state = podman.inspect_exec(session).await.map_err(|error| format!("the exit code is not known: {error}"))?;
        if enough(&state) {
            return Ok(state);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Kills a session's process (SIGKILL, without its children, as containerd does) and waits for its end; a session whose process
/// never began is removed where Podman can do that (4.9 and later).
///
/// # Errors
/// Podman's, other than that there is no such session; or the kernel's.
pub(crate) async fn end(podman: &Client, session: &str) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    let state = async |pause: Duration| {
        sleep(pause).await;
        match podman.inspect_exec(session).await {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    };
    for _ in 0..QUESTIONS {
        let Some(seen) = state(Duration::ZERO).await? else { return Ok(()) };
        if seen.ended {
            return Ok(());
        }
        if seen.pid > 0
            && let Ok(process) = ExitWatch::open(seen.pid.into())
        {
            // The number was still the session's after its process had been opened: it is that process.
            if state(Duration::ZERO).await?.is_some_and(|again| again.running && again.pid == seen.pid) {
                process.kill();
                let _ = process.wait().await;
                return Ok(());
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    podman.remove_exec(session).await
}
