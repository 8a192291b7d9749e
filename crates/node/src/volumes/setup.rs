//! Setting volumes up on this machine. Runs in a blocking thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kube_pet_core::volumes::Payload;
use kube_pet_host::{atomic_tree, mounts, ownership};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::SetUpError;
use super::foreign::{LOCAL, NFS};
use super::gather::{Medium, Place, Step, Work};
use super::layout::Layout;
use super::prepared::{PreparedKind, PreparedVolume};
use crate::instruments;

/// `f_type` of file systems that live in memory.
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// What became of a step, by the names of its volume: the pod's, and the one that is told.
pub(super) type Done = (String, String, Result<PreparedVolume, SetUpError>);

/// Does all `steps`, unless the pod is `ending`; one that fails does not keep the others from being done.
pub(super) fn all(layout: &Layout, steps: Vec<Step>, ending: &CancellationToken) -> Vec<Done> {
    let mut all = Vec::new();
    for step in steps {
        let (name, shown) = (step.volume.clone(), step.shown.clone());
        let (kind, began) = (kind_of(&step), Instant::now());
        let done = if ending.is_cancelled() { Err(SetUpError::Ending) } else { one(layout, step) };
        instruments::volume_mounted(kind, began.elapsed(), done.is_ok());
        all.push((name, shown, done));
    }
    all
}

/// The kind of a volume, as the kubelet names its plugins.
/// Remembers that all volumes of the pod are ready.
pub(super) fn note_ready(layout: &Layout) {
    let noted = fs::create_dir_all(layout.marks()).and_then(|()| fs::write(layout.once_ready(), b""));
    if let Err(error) = noted {
        warn!(%error, "after a reboot without the API server this pod waits for its tokens");
    }
}

pub(super) fn kind_of(step: &Step) -> &'static str {
    match (&step.work, step.place) {
        (_, Some(place)) => place.kind,
        (Ok(Work::EmptyDir { .. }), None) => "empty-dir",
        (Ok(Work::HostPath { .. }), None) => "host-path",
        (Ok(Work::Local(_)), None) => LOCAL,
        (Ok(Work::Nfs { .. }), None) => NFS,
        _ => "unknown",
    }
}

/// Whether a volume has files that an earlier step wrote completely.
pub(super) fn has_payload(layout: &Layout, step: &Step) -> bool {
    step.place.is_some_and(|place| folder(layout, place, &step.volume).join("..data").is_symlink())
}

fn folder(layout: &Layout, place: Place, volume: &str) -> PathBuf {
    layout.volume(place.kind, volume, place.in_memory)
}

fn one(layout: &Layout, step: Step) -> Result<PreparedVolume, SetUpError> {
    let kept = has_payload(layout, &step);
    match (step.work, step.place) {
        (Ok(Work::EmptyDir { medium, fs_group }), _) => {
            let path = empty_dir(layout, &step.volume, medium, fs_group)?;
            Ok(PreparedVolume::of(path, PreparedKind::Scratch))
        }
        (Ok(Work::Payload { files, mount_points, fs_group }), Some(place)) => {
            if place.in_memory {
                memory_folder(&layout.memory())?;
            }
            let path = folder(layout, place, &step.volume);
            payload(&path, place.in_memory, &files, &mount_points, fs_group)?;
            Ok(PreparedVolume::of(path, PreparedKind::Payload))
        }
        // Set up by others, with patience.
        (Ok(Work::Payload { .. } | Work::HostPath { .. } | Work::Local(_) | Work::Nfs { .. }), _) => {
            Err(SetUpError::Unsupported { kind: "unknown" })
        }
        // A container that restarts while the API server is away starts with the files that it had.
        (Err(error), Some(place)) if kept && error.is_outage() => {
            warn!(volume = step.volume, %error, "a volume keeps its files: what it refers to cannot be read now");
            Ok(PreparedVolume::of(folder(layout, place, &step.volume), PreparedKind::Payload))
        }
        (Err(error), _) => Err(error),
    }
}

pub(super) fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SetUpError + 'a {
    move |source| SetUpError::File { doing, path: path.to_owned(), source }
}

/// Makes `path` with exactly `mode`; its parents, which are the agent's own, are closed to others.
fn make_folder(path: &Path, mode: u32) -> Result<(), SetUpError> {
    if let Some(parent) = path.parent() {
        make_closed(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(at("mkdir", path))?,
    }
    // Whatever the umask says.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at("chmod", path))
}

pub(super) fn make_closed(path: &Path) -> Result<(), SetUpError> {
    DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(at("mkdir", path))
}

/// The folder of what must not reach a disk: a tmpfs, unless it is in memory anyway.
fn memory_folder(path: &Path) -> Result<(), SetUpError> {
    make_closed(path)?;
    let status = rustix::fs::statfs(path).map_err(io::Error::from).map_err(at("statfs", path))?;
    let kind = u64::try_from(status.f_type).unwrap_or_default();
    if kind != TMPFS && kind != RAMFS {
        mounts::tmpfs(path, None, 0o750, true)?;
    }
    Ok(())
}

fn empty_dir(layout: &Layout, volume: &str, medium: Medium, fs_group: Option<u32>) -> Result<PathBuf, SetUpError> {
    let (path, mark) = (layout.volume("empty-dir", volume, false), layout.ready_mark(volume));
    let on_disk = matches!(medium, Medium::Disk);
    let there = if on_disk { path.is_dir() } else { mounts::is_mount_point(&path)? };
    // What is ready belongs to the pod: its mode and its group are not touched again.
    if there && mark.exists() {
        return Ok(path);
    }
    if on_disk || !there {
        make_folder(&path, 0o777)?;
    }
    match medium {
        Medium::Memory { size } if !there => mounts::tmpfs(&path, Some(size).filter(|size| *size > 0), 0o1777, true)?,
        Medium::HugePages { page_size } if !there => mounts::huge_pages(&path, page_size, 0o1777)?,
        _ => {}
    }
    give_to_group(&path, fs_group, false);
    if let Some(folder) = mark.parent() {
        make_closed(folder)?;
    }
    fs::write(&mark, "").map_err(at("writing", &mark))?;
    Ok(path)
}

/// As the kubelet does, a volume that refuses the group (some file systems do) is used nevertheless.
fn give_to_group(path: &Path, fs_group: Option<u32>, read_only: bool) {
    if let Some(group) = fs_group
        && let Err(error) = ownership::give_to_group(path, group, read_only)
    {
        warn!(%error, "a volume does not belong to its fsGroup");
    }
}

fn payload(
    path: &Path,
    in_memory: bool,
    files: &Payload,
    mount_points: &BTreeSet<String>,
    fs_group: Option<u32>,
) -> Result<(), SetUpError> {
    if !path.join("..data").is_symlink() {
        make_folder(path, if in_memory { 0o1777 } else { 0o777 })?;
    }
    for point in mount_points {
        let point = path.join(point);
        DirBuilder::new().recursive(true).mode(0o755).create(&point).map_err(at("mkdir", &point))?;
    }
    let files: atomic_tree::Payload = files
        .iter()
        .map(|(path, file)| {
            let file = atomic_tree::ProjectedFile { bytes: file.data.clone(), mode: file.mode, uid: file.user };
            (path.clone(), file)
        })
        .collect::<BTreeMap<_, _>>();
    let changed = atomic_tree::write(path, &files, |_| {
        // All of the volume: its root was new the first time.
        give_to_group(path, fs_group, true);
        Ok(())
    })?;
    if changed {
        info!(path = %path.display(), files = files.len(), "wrote the files of a volume");
    }
    Ok(())
}
