//! The end of Podman's exec sessions: waiting for it, and bringing it about.

use std::time::Duration;

use kube_pet_host::exits::ExitWatch;
use kube_pet_podman::{Client, Error};
use tokio::time::sleep;

/// Pauses between questions to Podman.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How often a session is asked for its process before it counts as not begun: about a second and a half.
const QUESTIONS: u32 = 12;

/// Waits for the end of a session's process: by its pidfd, then until Podman has the code.
///
/// # Errors
/// Podman's, in words: it forgets a session a second after its end (`exit_command_delay`).
pub(crate) async fn exit_code(podman: &Client, session: &str) -> Result<i32, String> {
    let mut pause = FIRST_PAUSE;
    let mut watched = false;
    loop {
        let state = podman.inspect_exec(session).await.map_err(|error| format!("the exit code is not known: {error}"))?;
        if state.ended {
            return Ok(state.exit_code);
        }
        if state.pid > 0 && !watched {
            watched = true;
            pause = FIRST_PAUSE;
            // Without a pidfd, Podman is asked until it knows.
            let _ = kube_pet_host::exits::wait_exit(state.pid.into()).await;
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
