//! The agent's own Podman service: started, watched, and left running when the agent ends.
//!
//! ```text
//!   look for it ──found, ours, current──► adopt ─┐
//!        │ none                                  ├─► ping until it answers ─► watch ──exited──► look for it (after a while)
//!        └────────────► start ───────────────────┘                              │
//!                                                                 3 lost pings ─┴─► kill, look for it
//! ```
//!
//! Containers belong to neither the agent nor the service: whatever happens here, none of them is touched. The service is
//! found by its command line and mount namespace, not by a file that could be lost or lie, so there are never two.

mod configuration;
mod process;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube_pet_podman::{Client, Version};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::process::{Launch, ServiceProcess};
use crate::config::PodmanSettings;

/// A ping's own deadline is 10 s, so a service that hangs is replaced within 45 s.
const LOST_PINGS: u32 = 3;
const PING_EVERY: Duration = Duration::from_secs(5);
/// Starting takes 130 ms here; a machine that boots may take long.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A service that is back within this time has not made the node unready.
const GRACE: Duration = Duration::from_secs(5);
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// A service that ran this long did not die of its start.
const PROVEN_AFTER: Duration = Duration::from_secs(60);
/// What Podman says when its storage's check of overlayfs fails, which it also does on a full disk.
const NO_OVERLAY: &str = "kernel does not support overlay fs";
const MAX_LOG: u64 = 4 << 20;

/// Whether containers can be run now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeHealth {
    /// The service answers.
    pub ready: bool,
    /// What is wrong; empty when it is ready.
    pub message: String,
    /// The version of the last answer.
    pub version: Option<Version>,
}

/// The service cannot be set up at all.
#[derive(Debug, thiserror::Error)]
pub enum PodmanServiceError {
    /// Its configuration cannot be written.
    #[error("cannot write Podman's configuration {}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// The service's keeper. See [`PodmanService::run`].
pub struct PodmanService {
    client: Client,
    launch: Option<Launch>,
    health: watch::Sender<RuntimeHealth>,
    down_since: Option<Instant>,
}

impl PodmanService {
    /// Prepares the service: writes its configuration below `run_dir` (blocking), starts nothing yet.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(settings: &PodmanSettings, run_dir: &Path) -> Result<(Self, watch::Receiver<RuntimeHealth>), PodmanServiceError> {
        let (socket, launch) = match &settings.socket {
            Some(socket) => (socket.clone(), None),
            None => {
                let launch = Launch::prepare(settings, run_dir)?;
                (launch.socket().to_owned(), Some(launch))
            }
        };
        let (health, receiver) =
            watch::channel(RuntimeHealth { message: "the Podman service has not answered yet".to_owned(), ..RuntimeHealth::default() });
        let service = Self { client: Client::new(socket), launch, health, down_since: Some(Instant::now()) };
        Ok((service, receiver))
    }

    /// A client of the service; it can be used before the service runs.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Keeps the service running until `shutdown`; then leaves it running.
    pub async fn run(mut self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.keep()).await;
    }

    /// Ends the service; one that is not ours is left alone.
    pub async fn end(self) {
        if let Some(launch) = self.launch
            && let Err(error) = launch.end().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the Podman service is not ended");
        }
    }

    async fn keep(&mut self) {
        let Some(launch) = self.launch.take() else {
            return self.watch_foreign().await;
        };
        let mut delay = FIRST_DELAY;
        loop {
            let begin = Instant::now();
            let message = match launch.obtain().await {
                Ok(mut process) => self.serve(&launch, &mut process).await,
                Err(error) => format!("the Podman service cannot be started: {error}"),
            };
            self.down(&message);
            tracing::warn!(cause = message, retry_in = ?delay, "no Podman service; containers run on");
            if message.contains(NO_OVERLAY) {
                launch.forget_overlay_check();
            }
            if begin.elapsed() > PROVEN_AFTER {
                delay = FIRST_DELAY;
            }
            tokio::time::sleep(delay).await;
            self.down(&message);
            delay = (delay * 2).min(LAST_DELAY);
        }
    }

    /// Waits for the service's first answer and then for its end; says how it ended.
    async fn serve(&mut self, launch: &Launch, process: &mut ServiceProcess) -> String {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            let ping = self.client.ping();
            let pinged = tokio::select! {
                pinged = ping => pinged,
                () = process.exited() => return launch.last_words(process).await,
            };
            match pinged {
                Ok(version) => {
                    tracing::info!(version = version.api_version, pid = process.pid(), "Podman service");
                    self.up(version.version);
                    break;
                }
                Err(error) if begin.elapsed() > START_DEADLINE => {
                    return self.replace(process, &error).await;
                }
                Err(error) => self.down(&told(&error)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        let mut lost = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(PING_EVERY) => {}
                () = process.exited() => return launch.last_words(process).await,
            }
            launch.trim_log(MAX_LOG);
            let pinged = tokio::select! {
                pinged = self.client.ping() => pinged,
                () = process.exited() => return launch.last_words(process).await,
            };
            match pinged {
                Ok(version) => {
                    lost = 0;
                    self.up(version.version);
                }
                Err(error) => {
                    lost += 1;
                    tracing::warn!(%error, lost, "the Podman service does not answer");
                    self.down(&told(&error));
                    if lost >= LOST_PINGS {
                        return self.replace(process, &error).await;
                    }
                }
            }
        }
    }

    /// Ends a service that hangs. It holds nothing that a new one could not read from disk.
    async fn replace(&self, process: &mut ServiceProcess, error: &kube_pet_podman::Error) -> String {
        tracing::error!(pid = process.pid(), "the Podman service hangs: it is killed and started again");
        process.kill();
        process.exited().await;
        format!("the Podman service hung and is being started again: {}", told(error))
    }

    async fn watch_foreign(&mut self) {
        let mut lost = 0;
        loop {
            match self.client.ping().await {
                Ok(version) => {
                    lost = 0;
                    self.up(version.version);
                }
                Err(error) => {
                    lost += 1;
                    if lost == 1 {
                        tracing::warn!(%error, "the Podman service does not answer");
                    }
                    self.down(&told(&error));
                }
            }
            let pause = if lost > 0 { Duration::from_secs(1) } else { PING_EVERY };
            tokio::time::sleep(pause).await;
        }
    }

    fn up(&mut self, version: Version) {
        self.down_since = None;
        let now = RuntimeHealth { ready: true, message: String::new(), version: Some(version) };
        self.publish(now);
    }

    /// Says that the service is away; the node is unready only when that lasts.
    fn down(&mut self, message: &str) {
        let since = *self.down_since.get_or_insert_with(Instant::now);
        let before = self.health.borrow().clone();
        if before.ready && since.elapsed() < GRACE {
            return;
        }
        self.publish(RuntimeHealth { ready: false, message: message.to_owned(), version: before.version });
    }

    fn publish(&self, now: RuntimeHealth) {
        self.health.send_if_modified(|health| {
            let changed = *health != now;
            *health = now;
            changed
        });
    }
}

/// An error with its cause, on one line.
fn told(error: &kube_pet_podman::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
