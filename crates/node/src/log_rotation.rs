//! Container logs that grow are put aside, as the kubelet's `ContainerLogManager` does (`pkg/kubelet/logs`): `0.log` becomes
//! `0.log.20260131-154500`, the ones before it are compressed, the oldest are removed.
//!
//! conmon writes the logs. It goes on writing to the file that was renamed until it is told to open its log again, so no line is
//! lost, and none is written twice. Podman has no call for that; what it would do itself with `log_size_max` is to cut the file
//! off, with all that is in it.

mod conmon;
pub(crate) mod files;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ContainerStatus;
use kube_pet_core::ids::{ContainerId, PodUid};
use kube_pet_podman::Client;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::conmon::{Control, ControlError};
use crate::paths::Paths;
use crate::pods::store::PodStore;

/// How long conmon may take to open its log again. It is a matter of milliseconds; old versions (2.1) write the old file to the
/// disk first.
const REOPEN_WAIT: Duration = Duration::from_secs(10);

/// How long a log may be missing before conmon is told (again) to open it. Twice in a row would lose what was written in between:
/// each time it begins with an empty file.
const MISSING_TOO_LONG: Duration = Duration::from_secs(60);

/// When and how logs are put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPolicy {
    /// Bytes from which on a log is put aside (`containerLogMaxSize`).
    pub max_size: u64,
    /// Files of one container's log, the one being written included; at least 2 (`containerLogMaxFiles`).
    pub max_files: usize,
    /// Logs that are worked on at a time (`containerLogMaxWorkers`).
    pub workers: usize,
    /// How often the sizes are looked at (`containerLogMonitorInterval`).
    pub interval: Duration,
}

/// Why a log stays as it is until the next look.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotationError {
    #[error("{0}")]
    Podman(#[from] kube_pet_podman::Error),
    #[error("{0}")]
    Control(#[from] ControlError),
    #[error("{doing} {path}: {source}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0} is there already")]
    SameSecond(PathBuf),
    #[error("the process that writes {0} has not opened it again yet")]
    NotReopened(PathBuf),
    #[error("the agent ends")]
    Ending,
}

impl RotationError {
    fn file<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }
}

/// The log of a running container.
#[derive(Clone, Debug)]
struct Log {
    id: ContainerId,
    path: PathBuf,
}

/// What is to be done about a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Rotation,
    Reopening,
}

/// Looks at the logs of all running containers, now and then.
pub struct LogRotator {
    podman: Client,
    paths: Paths,
    store: PodStore,
    policy: LogPolicy,
    /// Since when logs are missing, or since conmon was told to open them.
    missing: Mutex<HashMap<ContainerId, Instant>>,
    /// Ends what is under way in threads.
    end: CancellationToken,
}

impl LogRotator {
    /// For the pods of `store`.
    pub fn new(podman: Client, paths: Paths, store: PodStore, policy: LogPolicy) -> Self {
        Self { podman, paths, store, policy, missing: Mutex::default(), end: CancellationToken::new() }
    }

    /// Works until it is dropped.
    pub async fn run(self) {
        let _end = self.end.clone().drop_guard();
        loop {
            tokio::time::sleep(self.policy.interval).await;
            self.look().await;
        }
    }

    async fn look(&self) {
        let logs = self.running();
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| logs.iter().any(|log| log.id == *id));
        let max_size = self.policy.max_size;
        let Ok(sizes) = tokio::task::spawn_blocking(move || {
            let size = |log: &Log| match std::fs::metadata(&log.path) {
                Ok(file) => Some(file.len()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                // Not a reason to touch it.
                Err(_) => Some(0),
            };
            logs.into_iter().map(|log| (size(&log), log)).collect::<Vec<_>>()
        })
        .await
        else {
            return;
        };
        let mut work = Vec::new();
        for (size, log) in sizes {
            match size {
                Some(size) => {
                    self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&log.id);
                    if size >= max_size {
                        work.push((Need::Rotation, log));
                    }
                }
                None if self.is_missing_too_long(&log.id) => work.push((Need::Reopening, log)),
                None => {}
            }
        }
        futures::stream::iter(work)
            .for_each_concurrent(self.policy.workers, async |(need, log)| match self.work(need, &log).await {
                Ok(()) => debug!(log = %log.path.display(), ?need, "a container's log"),
                Err(RotationError::Ending) => {}
                Err(RotationError::Control(ControlError::Gone { .. })) => debug!(log = %log.path.display(), "its container has ended"),
                Err(error) => warn!(%error, log = %log.path.display(), "a container's log is not rotated"),
            })
            .await;
    }

    /// Remembers since when; the first look at a log that is missing decides nothing, because it may be about to come.
    fn is_missing_too_long(&self, id: &ContainerId) -> bool {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *missing.entry(id.clone()).or_insert_with(Instant::now);
        since.elapsed() >= MISSING_TOO_LONG
    }

    fn told_to_open(&self, id: &ContainerId) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Instant::now());
    }

    async fn work(&self, need: Need, log: &Log) -> Result<(), RotationError> {
        let inspected = match self.podman.inspect_container(log.id.as_str()).await {
            Ok(inspected) => inspected,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let bundle = inspected.oci_config_path.parent().map(Path::to_owned).unwrap_or_default();
        // Told or not is what counts from now on, however this ends.
        self.told_to_open(&log.id);
        let (path, max_files, end) = (log.path.clone(), self.policy.max_files, self.end.clone());
        let done = tokio::task::spawn_blocking(move || match need {
            Need::Rotation => rotate(&path, &bundle, max_files, &end),
            Need::Reopening => {
                let control = Control::open(&bundle)?;
                control.reopen_log()?;
                wait_for(&path, &bundle)
            }
        });
        done.await.unwrap_or(Err(RotationError::Ending))
    }

    fn running(&self) -> Vec<Log> {
        let mut logs = Vec::new();
        for pod in self.store.list() {
            let (meta, Some(status)) = (&pod.metadata, &pod.status) else { continue };
            let (Some(namespace), Some(name), Some(uid)) = (&meta.namespace, &meta.name, &meta.uid) else { continue };
            let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
            for container in lists.into_iter().flatten().flatten() {
                if let Some((id, attempt)) = instance(container) {
                    let path = self.paths.container_log(namespace, name, &PodUid::new(uid.clone()), &container.name, attempt);
                    logs.push(Log { id, path });
                }
            }
        }
        logs
    }
}

/// The instance that runs.
fn instance(status: &ContainerStatus) -> Option<(ContainerId, u32)> {
    status.state.as_ref()?.running.as_ref()?;
    let (_, id) = status.container_id.as_ref()?.split_once("://")?;
    Some((ContainerId::new(id), u32::try_from(status.restart_count).ok()?))
}

/// Puts a log aside and lets its writer begin a new one. Blocking.
fn rotate(log: &Path, bundle: &Path, max_files: usize, end: &CancellationToken) -> Result<(), RotationError> {
    files::make_room(log, max_files, end)?;
    // Before anything is moved: somebody is there to write the new file.
    let control = Control::open(bundle)?;
    let aside = files::aside(log, &jiff::Zoned::now());
    if aside.exists() {
        return Err(RotationError::SameSecond(aside));
    }
    std::fs::rename(log, &aside).map_err(RotationError::file("put aside", log))?;
    let reopened = control.reopen_log().map_err(RotationError::from).and_then(|()| wait_for(log, bundle));
    match reopened {
        // Told, and still there: it will do it. If the name were given back now, it would replace the file.
        Ok(()) | Err(RotationError::NotReopened(_)) => reopened,
        Err(error) => {
            // Nobody writes the new file; the old one is the newest again.
            if !log.exists() {
                std::fs::rename(&aside, log).map_err(RotationError::file("give back its name to", log))?;
            }
            Err(error)
        }
    }
}

/// Waits until the writer has begun the new file.
fn wait_for(log: &Path, bundle: &Path) -> Result<(), RotationError> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if log.exists() {
            return Ok(());
        }
        if begun.elapsed() >= REOPEN_WAIT {
            return Err(RotationError::NotReopened(log.to_owned()));
        }
        if let Err(error) = Control::open(bundle) {
            // It may have done it last of all.
            return if log.exists() { Ok(()) } else { Err(error.into()) };
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests;
