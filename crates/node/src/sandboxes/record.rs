//! What is remembered of a sandbox on disk, so that it comes back with the same address after a reboot.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use kube_pet_core::ids::PodUid;
use kube_pet_core::services::HostPort;
use kube_pet_host::files::{self, FileError};
use serde::{Deserialize, Serialize};
use tracing::error;

use super::SandboxError;
use crate::paths::Paths;

/// A record is a few hundred bytes.
const MAX_BYTES: u64 = 64 << 10;
const FILE: &str = "sandbox.json";

/// One sandbox. Fields that an older version did not write have defaults; fields of a newer one are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// The pod.
    pub(super) uid: PodUid,
    /// For people who read the file.
    #[serde(default)]
    pub(super) namespace: String,
    /// For people who read the file.
    #[serde(default)]
    pub(super) name: String,
    /// Which namespaces are the host's.
    #[serde(default)]
    pub(super) host_network: bool,
    /// As above.
    #[serde(default)]
    pub(super) host_ipc: bool,
    /// The pod's addresses.
    #[serde(default)]
    pub(super) ips: Vec<IpAddr>,
    /// The networks that they were taken from.
    #[serde(default)]
    pub(super) cidrs: Vec<String>,
    /// The node's ports that lead into the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) host_ports: Vec<HostPort>,
    /// The first of the pod's users and groups on the host, with a user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first_id: Option<u32>,
}

fn path(paths: &Paths, uid: &PodUid) -> PathBuf {
    paths.pod_dir(uid).join(FILE)
}

pub(super) fn exists(paths: &Paths, uid: &PodUid) -> bool {
    path(paths, uid).exists()
}

/// Not flushed to the disk here but a moment after the pod has started. After a power cut in between, the pod comes back with another
/// address, which nobody else can have, because all namespaces are gone then.
pub(super) fn write(paths: &Paths, record: &Record) -> Result<(), SandboxError> {
    let folder = paths.pod_dir(&record.uid);
    make_folder(&folder)?;
    let bytes = serde_json::to_vec(record).map_err(|source| SandboxError::Encode { uid: record.uid.clone(), source })?;
    Ok(files::write_atomic(&folder.join(FILE), &bytes, 0o600)?)
}

pub(super) fn remove(paths: &Paths, uid: &PodUid) -> Result<(), SandboxError> {
    let path = path(paths, uid);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SandboxError::Folder { doing: "removing", path, source }),
        _ => Ok(()),
    }
}

/// The record of one pod; `None` if there is none, or if it cannot be understood: that one is moved aside for people to see,
/// and what it said is found out otherwise.
pub(super) fn read(paths: &Paths, uid: &PodUid) -> Option<Record> {
    let path = path(paths, uid);
    let problem = match files::read_limited(&path, MAX_BYTES) {
        Ok(bytes) => match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if record.uid == *uid => return Some(record),
            Ok(record) => format!("it is that of pod {}", record.uid),
            Err(error) => error.to_string(),
        },
        Err(error) if error.is_not_found() => return None,
        Err(error @ FileError::TooLarge { .. }) => error.to_string(),
        Err(error) => {
            error!(%uid, path = %path.display(), %error, "a sandbox record cannot be read; its address is read from the pod's namespace if that exists");
            return None;
        }
    };
    let aside = path.with_file_name("sandbox.json.corrupt");
    let moved = fs::rename(&path, &aside)
        .map_or_else(|error| format!("it cannot be moved aside: {error}"), |()| format!("moved to {}", aside.display()));
    error!(%uid, path = %path.display(), problem, moved, "a sandbox record is corrupt; its address is read from the pod's namespace if that exists");
    None
}

/// All pods whose folder has a record, or something that should be one.
pub(super) fn list(paths: &Paths) -> Result<Vec<PodUid>, SandboxError> {
    let mut found = folders(&paths.pods_dir())?;
    found.retain(|uid| path(paths, uid).symlink_metadata().is_ok());
    Ok(found)
}

/// The folders in `parent` that are named like a pod's UID.
pub(super) fn folders(parent: &Path) -> Result<Vec<PodUid>, SandboxError> {
    let failed = |source| SandboxError::Folder { doing: "listing", path: parent.into(), source };
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| super::is_valid_uid(name)) else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(PodUid::new(name));
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn make_folder(path: &Path) -> Result<(), SandboxError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|source| SandboxError::Folder { doing: "making", path: path.into(), source })
}
