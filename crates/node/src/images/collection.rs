//! Images that nobody uses are removed when the disk is full, or when they are old: the kubelet's image garbage collection. What may
//! go is decided in [`kube_pet_core::image_collection`].

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;
use kube_pet_core::image_collection::{Candidate, Disk, Ledger, Policy, SeenImage, too_little_freed};
use kube_pet_host::machine;
use kube_pet_podman::ImageSummary;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use super::ImageManager;
use crate::events::{EventRecorder, EventType};
use crate::instruments;

/// The kubelet's `ImageGCPeriod`.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// Podman's service may have to be started first.
const FIRST_AFTER: Duration = Duration::from_secs(10);

/// A round that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CollectionError {
    /// Podman does not tell what there is.
    #[error("list images and containers: {0}")]
    List(#[source] kube_pet_podman::Error),
    /// Its folder is on a file system that cannot be measured.
    #[error("measure the file system of the images: {0}")]
    Measure(#[source] machine::MachineError),
    /// It is one without a size.
    #[error("invalid capacity 0 on image filesystem")]
    NoCapacity,
    /// Some could not be removed.
    #[error("wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {}", .errors.join(", "))]
    Removal {
        /// Bytes.
        wanted: u64,
        /// Bytes.
        freed: u64,
        /// One per image.
        errors: Vec<String>,
    },
    /// Some that were too old could not be removed.
    #[error("wanted to free images older than {} s, encountered errors in image deletion: {}", .max_age.as_secs(), .errors.join(", "))]
    OldRemoval {
        /// `imageMaximumGCAge`
        max_age: jiff::SignedDuration,
        /// One per image.
        errors: Vec<String>,
    },
    /// Everything that may go is gone, and it was not enough.
    #[error("{0}")]
    NotEnough(String),
}

/// Looks at the images now and then.
pub struct ImageCollector {
    images: ImageManager,
    policy: Policy,
    /// Podman's storage.
    store: PathBuf,
    events: EventRecorder,
    ledger: Ledger,
    began: Timestamp,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
}

/// Makes room when the node is short of it. Cheap to clone.
#[derive(Clone)]
pub struct ImageReclaimer(mpsc::Sender<oneshot::Sender<()>>);

impl ImageReclaimer {
    /// Removes all images that nobody uses, and returns when that is done.
    pub async fn reclaim(&self) {
        let (done, wait) = oneshot::channel();
        if self.0.send(done).await.is_ok() {
            let _ = wait.await;
        }
    }
}

impl ImageCollector {
    /// Removes nothing yet. The second one asks it to remove all that it may.
    pub fn new(images: ImageManager, policy: Policy, store: PathBuf, events: EventRecorder) -> (Self, ImageReclaimer) {
        let (ask, asked) = mpsc::channel(1);
        let ledger = Ledger::default();
        (Self { images, policy, store, events, ledger, began: Timestamp::now(), asked }, ImageReclaimer(ask))
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        let mut failed = false;
        let mut rounds = tokio::time::interval_at(Instant::now() + FIRST_AFTER, EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = rounds.tick(), if !self.policy.is_off() => self.round(&mut failed).await,
                Some(done) = self.asked.recv() => {
                    if let Err(error) = self.reclaim().await {
                        warn!(%error, "not all unused images could be removed");
                    }
                    let _ = done.send(());
                }
                else => std::future::pending().await,
            }
        }
    }

    /// All that nobody uses, however full the disk is.
    async fn reclaim(&mut self) -> Result<(), CollectionError> {
        let now = Timestamp::now();
        let candidates = self.look(now).await?;
        self.free(candidates, u64::MAX, now).await.map(drop)
    }

    async fn round(&mut self, failed: &mut bool) {
        match self.collect().await {
            Ok(()) => *failed = false,
            // The first time may be only that Podman is not there yet.
            Err(error) if !std::mem::replace(failed, true) => warn!(%error, "image garbage collection failed once"),
            Err(error) => {
                warn!(%error, "image garbage collection failed multiple times in a row");
                self.events.node_event(EventType::Warning, "ImageGCFailed", error.to_string());
            }
        }
    }

    /// One round: what is too old, then what is too much.
    pub async fn collect(&mut self) -> Result<(), CollectionError> {
        let now = Timestamp::now();
        let mut candidates = self.look(now).await?;
        let old: Vec<_> = candidates.extract_if(.., |image| self.policy.is_too_old(image, self.began, now)).collect();
        let mut errors = Vec::new();
        for image in old {
            if let Err(error) = self.remove(&image, "age").await {
                errors.push(error.to_string());
            }
        }
        if !errors.is_empty() {
            return Err(CollectionError::OldRemoval { max_age: self.policy.max_age, errors });
        }
        let store = self.store.clone();
        let measured = tokio::task::spawn_blocking(move || machine::filesystem(&store)).await;
        let Ok(measured) = measured else { return Ok(()) };
        let filesystem = measured.map_err(CollectionError::Measure)?;
        let disk = Disk { capacity: filesystem.capacity, available: filesystem.available };
        if disk.capacity == 0 {
            let error = CollectionError::NoCapacity;
            self.events.node_event(EventType::Warning, "InvalidDiskCapacity", error.to_string());
            return Err(error);
        }
        let Some(excess) = self.policy.excess(disk) else { return Ok(()) };
        info!(used_percent = excess.used_percent, bytes = excess.bytes, "the disk of the images is used too much; removing unused images");
        let freed = self.free(candidates, excess.bytes, now).await?;
        if freed < excess.bytes {
            let message = too_little_freed(excess, disk, freed);
            self.events.node_event(EventType::Warning, "FreeDiskSpaceFailed", message.clone());
            return Err(CollectionError::NotEnough(message));
        }
        Ok(())
    }

    /// What is there, and which of it may go.
    async fn look(&mut self, now: Timestamp) -> Result<Vec<Candidate>, CollectionError> {
        let podman = &self.images.inner.podman;
        // Containers last: one that was made of an image meanwhile is among them. Not only ours: whoever's container it is, it needs
        // its image.
        let images = podman.list_images().await.map_err(CollectionError::List)?;
        let containers = podman.list_containers(&[]).await.map_err(CollectionError::List)?;
        let used: BTreeSet<&str> = containers.iter().map(|container| container.image_id.as_str()).collect();
        self.ledger.look(&self.seen(&images, &used), now);
        Ok(self.ledger.candidates())
    }

    fn seen(&self, images: &[ImageSummary], used: &BTreeSet<&str>) -> Vec<SeenImage> {
        // An additional store is somebody else's, and there it stays.
        let elsewhere: BTreeSet<&str> = images.iter().filter(|image| image.read_only).map(|image| image.id.as_str()).collect();
        let asked_for = self.images.inner.asked_for.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = images.iter().map(|image| SeenImage {
            id: image.id.clone(),
            size: image.size,
            in_use: used.contains(image.id.as_str()) || image.containers > 0,
            ours: !elsewhere.contains(image.id.as_str()) && self.images.inner.records.brought(&image.id, repositories(image)),
            asked_for: asked_for.get(&image.id).copied(),
        });
        seen.collect()
    }

    /// Removes images until so many bytes are free. Returns how many are.
    async fn free(&self, candidates: Vec<Candidate>, wanted: u64, now: Timestamp) -> Result<u64, CollectionError> {
        let (mut freed, mut errors) = (0_u64, Vec::new());
        for image in candidates.into_iter().filter(|image| self.policy.may_make_room(image, now)) {
            if freed >= wanted {
                break;
            }
            match self.remove(&image, "space").await {
                Ok(true) => freed = freed.saturating_add(image.size),
                Ok(false) => {}
                Err(error) => errors.push(error.to_string()),
            }
        }
        if errors.is_empty() { Ok(freed) } else { Err(CollectionError::Removal { wanted, freed, errors }) }
    }

    /// Removes one image with all its names; whether it is gone. Never by force: Podman itself refuses what has come into use meanwhile.
    async fn remove(&self, image: &Candidate, reason: &str) -> kube_pet_podman::Result<bool> {
        let podman = &self.images.inner.podman;
        let found = match podman.inspect_image(&image.id).await {
            Ok(found) => found,
            Err(error) if error.is_image_unknown() => return Ok(false),
            Err(error) => return Err(error),
        };
        // Again, with the names that it has now: somebody may have given it one, or pods may have asked for it.
        let names: Vec<&str> = found.repo_tags.iter().map(String::as_str).collect();
        let asked = self.images.inner.asked_for.lock().unwrap_or_else(PoisonError::into_inner).get(&image.id).copied();
        let just_asked = asked.is_some_and(|at| Timestamp::now().duration_since(at) < self.policy.min_age);
        if just_asked || !self.images.inner.records.brought(&image.id, names.iter().filter_map(|name| repository(name))) {
            return Ok(false);
        }
        // Podman takes an ID for an image of one name; of several it wants each.
        let targets = if names.len() > 1 { names } else { vec![image.id.as_str()] };
        for target in targets {
            match podman.remove_image(target).await {
                Ok(()) => self.images.forget(target),
                Err(error) if error.is_conflict() => {
                    debug!(image = image.id, %error, "the image has come into use");
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        info!(image = image.id, size = image.size, names = ?found.repo_tags, reason, "an unused image is removed");
        instruments::IMAGE_GARBAGE_COLLECTED.add(&[reason]);
        Ok(true)
    }
}

/// The repositories that an image has names in.
fn repositories(image: &ImageSummary) -> impl Iterator<Item = &str> {
    image.repo_tags.iter().filter_map(|name| repository(name))
}

/// `docker.io/library/busybox` of `docker.io/library/busybox:1`.
fn repository(name: &str) -> Option<&str> {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => Some(repository),
        _ => (name != "<none>").then_some(name),
    }
}

#[cfg(test)]
mod tests;
