//! The last good copies of objects on disk: what an agent that starts while the API server is away gives to the pods that come back.
//!
//! ConfigMaps are there as they are, Secrets only if the configuration wants that, and then sealed (AES-256-GCM) with a key of the
//! machine's own, so that a copy of the disk without its `pki` folder tells nothing. Only root may read any of it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_pet_host::files;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::store::Key;
use crate::paths::Paths;

/// The API server takes no object larger than 3 MiB or so; JSON of binary data is a third longer.
const MAX_BYTES: u64 = 8 << 20;
const KEY_BYTES: usize = 32;

/// A kind of which copies are kept.
pub(super) trait Kept: Serialize + DeserializeOwned + Clone + Send + 'static {
    /// As in names of files.
    const KIND: &'static str;
    const IS_SECRET: bool;
    fn metadata(&self) -> &ObjectMeta;
}

impl Kept for ConfigMap {
    const KIND: &'static str = "configmap";
    const IS_SECRET: bool = false;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Kept for Secret {
    const KIND: &'static str = "secret";
    const IS_SECRET: bool = true;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// Where the copies are.
pub struct Copies {
    paths: Paths,
    seal: Option<Seal>,
    /// Which version each file has.
    written: Mutex<HashMap<PathBuf, String>>,
}

/// Why Secrets are not kept.
#[derive(Debug, thiserror::Error)]
pub enum CopiesError {
    /// The machine's key cannot be read or made.
    #[error("the key for Secrets at rest, {}: {source}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Copies {
    /// Copies below `paths`, of Secrets too if `secrets`; else those that an earlier run has kept are removed with their key. Blocking.
    ///
    /// # Errors
    /// The key for Secrets cannot be had.
    pub fn open(paths: &Paths, secrets: bool) -> Result<Self, CopiesError> {
        let (folder, key) = (paths.object_copies(), paths.secrets_key());
        let seal = if secrets {
            Some(Seal::open(&key).map_err(|source| CopiesError::Key { path: key, source })?)
        } else {
            remove_secrets(&folder, &key);
            None
        };
        Ok(Self { paths: paths.clone(), seal, written: Mutex::default() })
    }

    /// Remembers an object as the API server has just told it; that there is none, too.
    pub(super) async fn keep<T: Kept>(self: &Arc<Self>, key: &Key, object: Option<&T>) {
        let Some(path) = self.place::<T>(key) else { return };
        let version = object.and_then(|object| object.metadata().resource_version.clone());
        if version.is_some() && self.written().get(&path) == version.as_ref() {
            return;
        }
        let (copies, key, object) = (self.clone(), key.clone(), object.cloned());
        let kept = tokio::task::spawn_blocking(move || match object {
            Some(object) => {
                copies.write(&path, &key, &object)?;
                copies.written().extend(version.map(|version| (path, version)));
                Ok(())
            }
            None => {
                copies.written().remove(&path);
                remove(&path)
            }
        });
        if let Ok(Err(error)) = kept.await {
            let error: io::Error = error;
            warn!(%error, kind = T::KIND, "an object is not kept for a start without the API server");
        }
    }

    /// The copy, if there is one.
    pub(super) async fn find<T: Kept>(self: &Arc<Self>, key: &Key) -> Option<T> {
        let path = self.place::<T>(key)?;
        let (copies, of) = (self.clone(), key.clone());
        let found = tokio::task::spawn_blocking(move || copies.read::<T>(&path, &of)).await.ok()?;
        match found {
            Ok(Some(object)) => {
                info!(kind = T::KIND, namespace = key.namespace, name = key.name, "the API server does not answer; using the copy on disk");
                Some(object)
            }
            Ok(None) => None,
            Err(error) => {
                warn!(%error, kind = T::KIND, namespace = key.namespace, name = key.name, "the copy on disk cannot be used");
                None
            }
        }
    }

    /// Removes all copies outside `namespaces`. Blocking.
    pub(super) fn keep_only(&self, namespaces: &BTreeSet<String>) {
        for entry in fs::read_dir(self.paths.object_copies()).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_name().to_str().is_none_or(|name| !namespaces.contains(name)) {
                self.written().retain(|path, _| !path.starts_with(entry.path()));
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    warn!(%error, folder = %entry.path().display(), "copies of objects that nobody needs are not removed");
                }
            }
        }
    }

    /// `None`: nothing of it is kept.
    fn place<T: Kept>(&self, key: &Key) -> Option<PathBuf> {
        let kept = !key.name.is_empty() && (!T::IS_SECRET || self.seal.is_some());
        self.paths.object_copy(&key.namespace, &format!("{}{}", prefix::<T>(), key.name)).filter(|_| kept)
    }

    fn write<T: Kept>(&self, path: &Path, key: &Key, object: &T) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(object)?;
        if T::IS_SECRET {
            let Some(seal) = &self.seal else { return Ok(()) };
            seal.close(&mut bytes, key)?;
        }
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        files::write_atomic(path, &bytes, 0o600).map_err(io::Error::other)
    }

    fn read<T: Kept>(&self, path: &Path, key: &Key) -> io::Result<Option<T>> {
        let mut bytes = match files::read_limited(path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(io::Error::other(error)),
        };
        if T::IS_SECRET {
            let Some(seal) = &self.seal else { return Ok(None) };
            bytes = seal.open_copy(bytes, key)?;
        }
        // What serde says of a Secret might repeat a part of it.
        serde_json::from_slice(&bytes).map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
    }

    fn written(&self) -> MutexGuard<'_, HashMap<PathBuf, String>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prefix<T: Kept>() -> String {
    format!("{}-", T::KIND)
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Of a time when they were kept.
fn remove_secrets(folder: &Path, key: &Path) {
    let namespaces = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let files = namespaces.flat_map(|namespace| fs::read_dir(namespace.path()).into_iter().flatten().filter_map(Result::ok));
    let secrets = files.filter(|file| file.file_name().to_str().is_some_and(|name| name.starts_with(&prefix::<Secret>())));
    for path in secrets.map(|file| file.path()).chain([key.to_owned()]) {
        if let Err(error) = remove(&path) {
            warn!(%error, file = %path.display(), "what was kept of Secrets is not removed");
        }
    }
}

/// Closes and opens copies of Secrets.
struct Seal {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Seal {
    /// The key of this file, which is made if it is not there.
    fn open(path: &Path) -> io::Result<Self> {
        let random = SystemRandom::new();
        let bytes = match files::read_limited(path, KEY_BYTES as u64) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                let mut bytes = vec![0; KEY_BYTES];
                random.fill(&mut bytes).map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
                if let Some(folder) = path.parent() {
                    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                }
                files::write_durable(path, &bytes, 0o600).map_err(io::Error::other)?;
                bytes
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is damaged: it must have {KEY_BYTES} bytes; remove it, and another one is made"),
            )
        })?;
        Ok(Self { key: LessSafeKey::new(key), random })
    }

    /// A copy of one object is none of another: its name belongs to what is authenticated.
    fn name(key: &Key) -> Aad<Vec<u8>> {
        Aad::from(format!("{}/{}", key.namespace, key.name).into_bytes())
    }

    /// In place: the nonce, then what is sealed.
    fn close(&self, bytes: &mut Vec<u8>, key: &Key) -> io::Result<()> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Self::name(key), bytes)
            .map_err(|_| io::Error::other("it cannot be sealed"))?;
        bytes.splice(0..0, nonce);
        Ok(())
    }

    fn open_copy(&self, mut bytes: Vec<u8>, key: &Key) -> io::Result<Vec<u8>> {
        let foreign = || io::Error::new(io::ErrorKind::InvalidData, "it was not sealed with this machine's key, or is damaged");
        let nonce: [u8; NONCE_LEN] = *bytes.first_chunk().ok_or_else(foreign)?;
        let mut sealed = bytes.split_off(NONCE_LEN);
        let open = self.key.open_in_place(Nonce::assume_unique_for_key(nonce), Self::name(key), &mut sealed).map_err(|_| foreign())?;
        Ok(open.to_vec())
    }
}

#[cfg(test)]
mod tests;
