//! Images: the kubelet's pull semantics over Podman's store. Back-off after a failure is the pod core's.

pub mod collection;
pub mod keyring;
mod pulls;
mod records;
pub mod reference;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerImage;
use kube_pet_podman::{Client, ImageInspect};

pub use self::keyring::{Credential, Keyring, KeyringError, SecretSource};
pub use self::pulls::PullLimits;
pub use self::reference::{InvalidReference, Reference};

use self::pulls::{PullFailure, Pulls};
use self::records::PullRecords;
use crate::podman_store::PodmanStore;

/// Names of one image in the node's status (`MaxNamesPerImageInNodeStatus`).
const MAX_NAMES: usize = 5;

/// How long an inspection is believed without asking what its name stands for; that it is still there is asked each time.
const INSPECTION_LIFETIME: Duration = Duration::from_secs(30);

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time.
    Always,
    /// Only when it is not in the store.
    IfNotPresent,
    /// Never ask the registry.
    Never,
}

impl PullPolicy {
    /// The container's policy; where it has none (static pods), by the API server's default for its image.
    #[must_use]
    pub fn of(policy: Option<&str>, image: &str) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ if Reference::parse(image).is_ok_and(|r| r.is_latest()) => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

/// An image that is in the store and that the pod may use.
#[derive(Clone, Debug)]
pub struct PulledImage {
    /// Podman's ID of the image: what containers are made from.
    pub id: String,
    /// `status.containerStatuses[].image`: the normalised name.
    pub reference: Reference,
    /// `status.containerStatuses[].imageID`: repository and digest.
    pub image_id: String,
    /// What the image says of itself.
    pub inspect: Arc<ImageInspect>,
    /// The text of the `Pulled` event.
    pub message: String,
    /// It was pulled for this request.
    pub pulled: bool,
}

/// An image that a container cannot have now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is no image name.
    #[error("Failed to apply default image tag {image:?}: {source}")]
    InvalidName {
        /// As the pod gave it.
        image: String,
        /// The cause.
        source: InvalidReference,
    },
    /// Podman could not be asked.
    #[error("Failed to inspect image {image:?}: {source}")]
    Inspect {
        /// As the pod gave it.
        image: String,
        /// The cause.
        source: Arc<kube_pet_podman::Error>,
    },
    /// Not in the store, or not for this pod, and the policy is Never.
    #[error("Container image {image:?} is not present with pull policy of Never")]
    NeverPull {
        /// As the pod gave it.
        image: String,
    },
    /// The registry refused the connection.
    #[error("image pull failed for {image} because the registry is unavailable: {message}")]
    RegistryUnavailable {
        /// As the pod gave it.
        image: String,
        /// Podman's words.
        message: String,
    },
    /// The machine's signature policy refuses the image.
    #[error("image pull failed for {image} because the signature validation failed: {message}")]
    SignatureValidationFailed {
        /// As the pod gave it.
        image: String,
        /// Podman's words.
        message: String,
    },
    /// Any other failed pull.
    #[error("{message}")]
    Pull {
        /// As the pod gave it.
        image: String,
        /// Podman's and the registry's words.
        message: String,
    },
    /// What is remembered of pulls cannot be written: the disk is full or read-only.
    #[error("Failed to record image pull intent for container image {image:?}: {source}")]
    Record {
        /// As the pod gave it.
        image: String,
        /// The cause.
        source: Arc<std::io::Error>,
    },
}

impl ImageError {
    /// The container's waiting reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::Inspect { .. } => "ImageInspectError",
            Self::NeverPull { .. } => "ErrImageNeverPull",
            Self::RegistryUnavailable { .. } => "RegistryUnavailable",
            Self::SignatureValidationFailed { .. } => "SignatureValidationFailed",
            Self::Pull { .. } | Self::Record { .. } => "ErrImagePull",
        }
    }

    /// Reason and text of the Warning event.
    #[must_use]
    pub fn event(&self) -> (&'static str, String) {
        match self {
            Self::InvalidName { .. } | Self::Inspect { .. } => ("InspectFailed", self.to_string()),
            Self::NeverPull { .. } => ("ErrImageNeverPull", self.to_string()),
            Self::Record { .. } => ("Failed", self.to_string()),
            Self::RegistryUnavailable { image, message }
            | Self::SignatureValidationFailed { image, message }
            | Self::Pull { image, message } => ("Failed", format!("Failed to pull image {image:?}: {message}")),
        }
    }

    /// A pull was tried, so the next one waits longer each time (ImagePullBackOff); the other failures are simply looked at
    /// again.
    #[must_use]
    pub fn backs_off(&self) -> bool {
        matches!(self, Self::RegistryUnavailable { .. } | Self::SignatureValidationFailed { .. } | Self::Pull { .. })
    }

    fn of_pull(image: &str, failure: &PullFailure) -> Self {
        let (image, message) = (image.to_owned(), failure.to_string());
        if message.contains("connection refused") {
            Self::RegistryUnavailable { image, message }
        } else if message.contains("Source image rejected") {
            Self::SignatureValidationFailed { image, message }
        } else {
            Self::Pull { image, message }
        }
    }
}

/// Settings.
#[derive(Clone, Debug, Default)]
pub struct ImageManagerOptions {
    /// Limits of pulls.
    pub limits: PullLimits,
    /// Where it is remembered which images were pulled with whose credentials; without it, only in memory.
    pub records: Option<PathBuf>,
    /// Podman's storage, which is flushed after a pull; without it, none is.
    pub store: Option<PodmanStore>,
}

/// The images of this node. Cheap to clone.
#[derive(Clone)]
pub struct ImageManager {
    inner: Arc<Inner>,
}

struct Inner {
    podman: Client,
    pulls: Pulls,
    records: PullRecords,
    store: Option<PodmanStore>,
    /// Held while what a pull has left is removed.
    clearing: tokio::sync::Mutex<()>,
    inspected: Mutex<HashMap<String, (Instant, Arc<ImageInspect>)>>,
    /// When a pod last asked for an image, by ID.
    asked_for: Mutex<HashMap<String, Timestamp>>,
}

impl ImageManager {
    /// The images in Podman's store. Reads the records (blocking, once).
    pub fn new(podman: Client, options: ImageManagerOptions) -> Self {
        let ImageManagerOptions { limits, records, store } = options;
        Self {
            inner: Arc::new(Inner {
                pulls: Pulls::new(podman.clone(), limits),
                records: PullRecords::open(records),
                store,
                clearing: tokio::sync::Mutex::default(),
                inspected: Mutex::default(),
                asked_for: Mutex::default(),
                podman,
            }),
        }
    }

    /// Makes sure that the container's image is there and that the pod may use it; pulls it where the policy says so.
    ///
    /// `on_pulling` is called when a pull begins: the time for the event `Pulling image "…"` ([`pulling_message`]). The
    /// event `Pulled` is in [`PulledImage::message`]. Dropping the future ends the pull unless other pods wait for it too.
    pub async fn ensure(
        &self,
        image: &str,
        policy: PullPolicy,
        keyring: &Keyring,
        on_pulling: impl FnOnce(),
    ) -> Result<PulledImage, ImageError> {
        let reference = Reference::parse(image).map_err(|source| ImageError::InvalidName { image: image.to_owned(), source })?;
        let credentials = keyring.lookup(reference.repository());
        let name = reference.to_string();
        if policy != PullPolicy::Always
            && let Some(found) =
                self.inspect(&name).await.map_err(|source| ImageError::Inspect { image: image.to_owned(), source: Arc::new(source) })?
        {
            if self.inner.records.allows(&name, reference.repository(), &found.id, &credentials) {
                self.note_use(&found.id);
                let message = format!("Container image {image:?} already present on machine and can be accessed by the pod");
                return Ok(pulled_image(reference, found, message, false));
            }
            tracing::debug!(image, "the image is in the store, but was pulled with other credentials");
        }
        if policy == PullPolicy::Never {
            return Err(ImageError::NeverPull { image: image.to_owned() });
        }
        self.pull(image, reference, &name, &credentials, on_pulling).await
    }

    async fn pull(
        &self,
        image: &str,
        reference: Reference,
        name: &str,
        credentials: &[Credential],
        on_pulling: impl FnOnce(),
    ) -> Result<PulledImage, ImageError> {
        let records = &self.inner.records;
        self.clear_cut_off(image, name).await?;
        // Whose the image is, if it turns out to be the one that is there already.
        let before =
            self.inspect(name).await.map_err(|source| ImageError::Inspect { image: image.to_owned(), source: Arc::new(source) })?;
        let before = before.map(|image| image.id.clone());
        let unrecorded = |source| ImageError::Record { image: image.to_owned(), source: Arc::new(source) };
        let (owned, had) = (name.to_owned(), before.clone());
        let alone = self.blocking(move |records| records.intend(&owned, had.as_deref())).await.map_err(unrecorded)?;
        on_pulling();
        let begin = Instant::now();
        let fetched = match self.inner.pulls.pull(name, credentials).await {
            Ok(fetched) => fetched,
            Err(failure) => {
                records.abandon(name);
                return Err(ImageError::of_pull(image, &failure));
            }
        };
        let waited = begin.elapsed();
        self.forget(name);
        let inspect = |source| ImageError::Inspect { image: image.to_owned(), source: Arc::new(source) };
        let found = match self.inspect(name).await.map_err(inspect)? {
            Some(found) => found,
            // Podman names what it pulled by ID: good enough where the name was taken by another pull since.
            None => Arc::new(self.inner.podman.inspect_image(&fetched.id).await.map_err(inspect)?),
        };
        // The store notes at once that it has an image, and the kernel writes its files half a minute later. Until all of it is on the disk
        // the pull counts as one that was cut off. What was on it before has not been fetched again.
        let had_it = alone && before.as_ref() == Some(&found.id) && records.is_whole(&found.id);
        if let Some(store) = self.inner.store.as_ref().filter(|_| !had_it) {
            store.flush().await.map_err(|error| unrecorded(std::io::Error::other(error)))?;
        }
        let (owned, repository) = (name.to_owned(), reference.repository().to_owned());
        let (id, used) = (found.id.clone(), fetched.used);
        let record = move |records: PullRecords| records.pulled(&owned, &repository, &id, before.as_deref(), used.as_ref());
        self.blocking(record).await.map_err(unrecorded)?;
        self.note_use(&found.id);
        let message = format!(
            "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
            go_duration(fetched.duration),
            go_duration(waited.max(fetched.duration)),
            found.size
        );
        Ok(pulled_image(reference, found, message, true))
    }

    /// Removes what a pull of this name has left that was cut off before this run: a power cut leaves layers of empty files that the store
    /// takes for whole, and a pull would find that it has them already. An image that was whole before that pull began stays.
    async fn clear_cut_off(&self, image: &str, name: &str) -> Result<(), ImageError> {
        // One after the other: who finds nothing to clear goes on with what is there.
        let _turn = self.inner.clearing.lock().await;
        let records = &self.inner.records;
        let Some(whole) = records.cut_off(name) else { return Ok(()) };
        self.forget(name);
        let left = self.inspect(name).await.map_err(|source| ImageError::Inspect { image: image.to_owned(), source: Arc::new(source) })?;
        if left.is_some_and(|left| whole.as_ref() != Some(&left.id)) {
            self.inner.podman.remove_image(name).await.map_err(|error| ImageError::Pull {
                image: image.to_owned(),
                message: format!("a pull was cut off, and what it has left cannot be removed: {error}"),
            })?;
            self.forget(name);
        }
        records.cleared(name);
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        write: impl FnOnce(PullRecords) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let records = self.inner.records.clone();
        tokio::task::spawn_blocking(move || write(records)).await.map_err(std::io::Error::other)?
    }

    /// What the image of this normalised name says of itself; `None` when it is not in the store.
    pub async fn inspect(&self, name: &str) -> kube_pet_podman::Result<Option<Arc<ImageInspect>>> {
        let podman = &self.inner.podman;
        let known = {
            let inspected = self.inner.inspected.lock().unwrap_or_else(PoisonError::into_inner);
            inspected.get(name).cloned()
        };
        if let Some((at, known)) = known
            && at.elapsed() < INSPECTION_LIFETIME
        {
            if podman.image_exists(name).await? {
                return Ok(Some(known));
            }
            self.forget(name);
            return Ok(None);
        }
        match podman.inspect_image(name).await {
            Ok(image) => {
                let image = Arc::new(image);
                let mut inspected = self.inner.inspected.lock().unwrap_or_else(PoisonError::into_inner);
                inspected.retain(|_, (at, _)| at.elapsed() < INSPECTION_LIFETIME);
                inspected.insert(name.to_owned(), (Instant::now(), Arc::clone(&image)));
                Ok(Some(image))
            }
            Err(error) if error.is_image_unknown() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn note_use(&self, id: &str) {
        self.inner.asked_for.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), Timestamp::now());
    }

    /// Drops what is remembered of a normalised name: Podman said that the image is gone.
    pub fn forget(&self, name: &str) {
        self.inner.inspected.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// `status.images` of the node: the largest first, at most `max` (`nodeStatusMaxImages`; −1 is all). Also forgets what
    /// was remembered of images that are gone.
    pub async fn list_for_node_status(&self, max: i32) -> kube_pet_podman::Result<Vec<ContainerImage>> {
        let mut images = self.inner.podman.list_images().await?;
        let present: BTreeSet<String> = images.iter().map(|i| i.id.clone()).collect();
        self.inner.asked_for.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| present.contains(id));
        let records = self.inner.records.clone();
        // A record that stays is no harm; it goes with the next list.
        let _ = tokio::task::spawn_blocking(move || records.prune(&present)).await;
        images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
        let mut seen = BTreeSet::new();
        Ok(images
            .into_iter()
            // An image in an additional store is listed once per store.
            .filter(|image| seen.insert(image.id.clone()))
            .map(|image| ContainerImage {
                names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(MAX_NAMES).collect()),
                size_bytes: Some(i64::try_from(image.size).unwrap_or(i64::MAX)),
            })
            .filter(|image| image.names.as_ref().is_some_and(|names| !names.is_empty()))
            .take(usize::try_from(max).unwrap_or(usize::MAX))
            .collect())
    }
}

/// The text of the event `Pulling`.
#[must_use]
pub fn pulling_message(image: &str) -> String {
    format!("Pulling image {image:?}")
}

fn pulled_image(reference: Reference, inspect: Arc<ImageInspect>, message: String, pulled: bool) -> PulledImage {
    PulledImage { id: inspect.id.clone(), image_id: status_image_id(&reference, &inspect), reference, inspect, message, pulled }
}

/// `imageID` as other runtimes give it: the pod's repository with the digest that the registry knows. For an image of several
/// architectures that is the digest of the list, which Podman keeps beside that of the one image.
#[must_use]
pub fn status_image_id(reference: &Reference, image: &ImageInspect) -> String {
    let of_repository: Vec<(&str, &str)> = image
        .repo_digests
        .iter()
        .filter_map(|name| name.split_once('@'))
        .filter(|(repository, _)| *repository == reference.repository())
        .collect();
    let wanted = reference.digest();
    let chosen = of_repository
        .iter()
        .find(|(_, digest)| Some(*digest) == wanted)
        .or_else(|| of_repository.iter().find(|(_, digest)| *digest != image.digest))
        .or_else(|| of_repository.first());
    match (chosen, image.repo_digests.first()) {
        (Some((repository, digest)), _) => format!("{repository}@{digest}"),
        (None, Some(any)) => any.clone(),
        (None, None) => format!("sha256:{}", image.id),
    }
}

/// A duration as Go prints it, cut to milliseconds: `0s`, `532ms`, `1.2s`, `1m3.5s`, `1h0m0s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (seconds, fraction) = (millis / 1000, millis % 1000);
    let fraction = match fraction {
        0 => String::new(),
        part => format!(".{part:03}").trim_end_matches('0').to_owned(),
    };
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}{fraction}s"),
        (0, _) => format!("{minutes}m{rest}{fraction}s"),
        _ => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

#[cfg(test)]
mod tests;
