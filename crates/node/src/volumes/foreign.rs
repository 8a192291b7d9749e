//! Volumes whose files are not the agent's: paths of the machine, local volumes, folders of servers. What is done with them may hang, and is
//! done with patience; other volumes and other pods go on meanwhile.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube_pet_core::ids::PodUid;
use kube_pet_core::volumes::{FileKind, HostPathStep, check_host_path};
use kube_pet_host::mounts::{self, BindOptions, MountFlags, Propagation};
use kube_pet_host::ownership;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::{SetUpError, VolumeError};
use super::gather::{FsGroup, LocalVolume};
use super::layout::Layout;
use super::nfs::{self, NfsMount};
use super::patience::{Hung, Patience, Subject};
use super::setup::{at, make_closed};

/// The folder of local volumes, in the kubelet's words.
pub(super) const LOCAL: &str = "local-volume";
pub(super) const NFS: &str = "nfs";

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A file system that is asked for something small.
    pub(super) answer: Duration,
    /// A volume that is mounted, or given to a group: as the kubelet (`podAttachAndMountTimeout`).
    pub(super) set_up: Duration,
    /// Unmounting, and as long again by force.
    pub(super) unmount: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { answer: Duration::from_secs(10), set_up: Duration::from_secs(123), unmount: Duration::from_secs(10) }
    }
}

/// Sets up and unmounts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Foreign {
    patience: Patience,
    /// mount(8)
    pub(super) program: PathBuf,
    pub(super) limits: Limits,
    pods_dir: PathBuf,
}

/// A warning for the pod, with its reason.
pub(super) type Warning = (&'static str, String);

impl Foreign {
    pub(super) fn new(pods_dir: PathBuf) -> Self {
        Self { patience: Patience::default(), program: "mount".into(), limits: Limits::default(), pods_dir }
    }

    /// A path of the machine's, which must be what the volume says.
    pub(super) async fn host_path(&self, path: &Path, wanted: String, ending: &CancellationToken) -> Result<(), SetUpError> {
        let (limit, asked) = (self.limits.answer, path.to_owned());
        let done = self.patience.run(Subject::SetUp(path.to_owned()), limit, move || host_path(&asked, &wanted));
        or_ending(done, ending).await?.map_err(|hung| hangs(path, hung))?
    }

    /// A folder of the machine's, mounted at `target`.
    pub(super) async fn local(
        &self,
        volume: LocalVolume,
        target: PathBuf,
        ending: CancellationToken,
    ) -> Result<Option<Warning>, SetUpError> {
        // As the kubelet: one pod after the other, so that only the first one's group is given.
        let (subject, pods) = (Subject::SetUp(volume.path.clone()), self.pods_dir.clone());
        let (path, ends) = (volume.path.clone(), ending.clone());
        let done = self.patience.run(subject, self.limits.set_up, move || local(&volume, &target, &pods, &ending));
        or_ending(done, &ends).await?.map_err(|hung| hangs(&path, hung))?
    }

    /// A folder of a server's.
    pub(super) async fn nfs(&self, mount: NfsMount, ending: CancellationToken) -> Result<(), SetUpError> {
        let target = mount.target.clone();
        let limit = self.limits.set_up;
        let place = or_ending(self.patience.alone(Subject::SetUp(target.clone()), limit), &ending).await?;
        let _alone = place.map_err(|hung| SetUpError::Hung { what: mount.source.clone(), seconds: hung.limit.as_secs() })?;
        let folder = target.clone();
        let listed = blocking(move || {
            let listed = mounts::is_listed(&folder)?;
            if !listed {
                make_closed(&folder)?;
            }
            Ok(listed)
        });
        if listed.await? {
            return Ok(());
        }
        let mounted = nfs::mount(&self.program, &mount, limit, &ending).await;
        let mounted = if mounted.is_ok() && ending.is_cancelled() { Err(SetUpError::Ending) } else { mounted };
        if mounted.is_ok() {
            info!(source = mount.source, target = %mount.target.display(), "mounted a folder of a server");
            return Ok(());
        }
        let undone = target.clone();
        let undo = self.patience.run(Subject::Undo(target), self.limits.unmount, move || {
            if mounts::is_listed(&undone).is_ok_and(|listed| listed)
                && let Err(error) = mounts::unmount_all(&undone)
            {
                warn!(%error, "what was mounted too late stays for now");
            }
            let _ = fs::remove_dir(&undone);
        });
        let _ = undo.await;
        mounted
    }

    /// Whether the file system that `path` is on answers. That there is no such path is an answer.
    pub(super) async fn answers(&self, path: &Path) -> Result<(), Hung> {
        let asked = path.to_owned();
        let ask = move || rustix::fs::statfs(&asked).map(|_| ()).unwrap_or_default();
        self.patience.run(Subject::Answer(path.to_owned()), self.limits.answer, ask).await
    }

    /// An unmount that does not come to an end.
    #[cfg(test)]
    pub(super) async fn hold_unmount(&self, uid: &PodUid) -> Option<super::patience::Place> {
        self.patience.alone(Subject::Unmount(uid.clone()), self.limits.unmount).await.ok()
    }

    /// Unmounts all of a pod's volumes: in peace, which writes back what the pod has written, and by force if that does not end.
    pub(super) async fn unmount(&self, uid: &PodUid, layout: &Layout) -> Vec<VolumeError> {
        let limit = self.limits.unmount;
        let folders = layout.all();
        let work = folders.clone();
        let peaceful = move || work.iter().filter_map(|folder| mounts::unmount_below(folder).err()).map(VolumeError::Unmount).collect();
        match self.patience.run(Subject::Unmount(uid.clone()), limit, peaceful).await {
            Ok(errors) => return errors,
            Err(Hung { limit }) => warn!(uid = uid.as_str(), seconds = limit.as_secs(), "unmounting a pod's volumes hangs; it is forced"),
        }
        let work = folders.clone();
        let forced = move || drop(work.iter().map(|folder| mounts::abort_below(folder)).collect::<Vec<_>>());
        let ended = self.patience.run(Subject::Abort(uid.clone()), limit, forced).await;
        // A mount may be out of the way while the kernel still waits for its server.
        let left =
            tokio::task::spawn_blocking(move || folders.iter().any(|folder| mounts::below(folder).map_or(true, |left| !left.is_empty())));
        match (ended, left.await) {
            (_, Ok(false)) => Vec::new(),
            (Err(_), _) => vec![VolumeError::UnmountHangs { seconds: 2 * limit.as_secs() }],
            // What stays is named by who comes next.
            (Ok(()), _) => Vec::new(),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, SetUpError> + Send + 'static) -> Result<T, SetUpError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(SetUpError::Ending))
}

/// What comes of `work`, unless the pod ends before.
async fn or_ending<T>(work: impl Future<Output = T>, ending: &CancellationToken) -> Result<T, SetUpError> {
    ending.run_until_cancelled(work).await.ok_or(SetUpError::Ending)
}

fn hangs(path: &Path, hung: Hung) -> SetUpError {
    SetUpError::Hung { what: path.display().to_string(), seconds: hung.limit.as_secs() }
}

fn host_path(path: &Path, wanted: &str) -> Result<(), SetUpError> {
    let found = fs::metadata(path).ok().map(|metadata| file_kind(metadata.file_type()));
    match check_host_path(&path.display().to_string(), wanted, found)? {
        HostPathStep::Ready => Ok(()),
        HostPathStep::CreateDirectory => DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(at("mkdir", path)),
        HostPathStep::CreateFile => {
            let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
            opened.map(drop).map_err(at("open", path))
        }
    }
}

fn file_kind(kind: fs::FileType) -> FileKind {
    if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_file() {
        FileKind::File
    } else if kind.is_socket() {
        FileKind::Socket
    } else if kind.is_char_device() {
        FileKind::CharDevice
    } else if kind.is_block_device() {
        FileKind::BlockDevice
    } else {
        FileKind::Other
    }
}

fn local(volume: &LocalVolume, target: &Path, pods: &Path, ending: &CancellationToken) -> Result<Option<Warning>, SetUpError> {
    if mounts::is_listed(target)? {
        return Ok(None);
    }
    let path = &volume.path;
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SetUpError::Missing { path: path.clone() }),
        Err(error) => return Err(at("stat", path)(error)),
        Ok(metadata) if !metadata.is_dir() => {
            return Err(SetUpError::NotAFolder { path: path.clone(), found: file_kind(metadata.file_type()) });
        }
        Ok(_) => {}
    }
    let shared = volume.fs_group.is_some() && is_mounted_elsewhere(&volume.name, target, pods)?;
    make_closed(target)?;
    let options = BindOptions {
        read_only: volume.read_only,
        // Later mounts at the source appear, as with the kubelet; what is unmounted here stays mounted there.
        propagation: Propagation::HostToContainer,
        flags: flags(&volume.name, &volume.options),
        ..BindOptions::default()
    };
    let bound = mounts::bind(path, target, options).map_err(SetUpError::from);
    // Who takes the pod down has set this before looking for mounts: one of the two sees the other.
    let bound = if bound.is_ok() && ending.is_cancelled() {
        mounts::unmount_all(target).map_err(SetUpError::from).and(Err(SetUpError::Ending))
    } else {
        bound
    };
    if let Err(error) = bound {
        let _ = fs::remove_dir(target);
        return Err(error);
    }
    match volume.fs_group {
        Some(FsGroup { group, .. }) if shared => {
            let current = fs::metadata(target).map_err(at("stat", target))?.gid();
            let text = format!(
                "The requested fsGroup is {group}, but the volume {} has GID {current}. The volume may not be shareable.",
                volume.name
            );
            Ok((current != group).then_some(("AlreadyMountedVolume", text)))
        }
        Some(fs_group) if !volume.read_only => {
            give(target, fs_group);
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn give(target: &Path, FsGroup { group, only_if_root_differs }: FsGroup) {
    if only_if_root_differs && ownership::root_matches(target, group, false) {
        return;
    }
    if let Err(error) = ownership::give_to_group(target, group, false) {
        warn!(%error, "a volume does not belong to its fsGroup");
    }
}

/// Whether another pod has the volume.
fn is_mounted_elsewhere(name: &str, target: &Path, pods: &Path) -> Result<bool, SetUpError> {
    let place = Path::new(&format!("kubernetes.io~{LOCAL}")).join(name);
    let pod =
        |path: &Path| path.strip_prefix(fs::canonicalize(pods).ok()?).ok()?.components().next().map(|first| first.as_os_str().to_owned());
    let own = target.strip_prefix(pods).ok().and_then(|below| Some(below.components().next()?.as_os_str().to_owned()));
    Ok(mounts::below(pods)?.iter().any(|point| point.ends_with(&place) && pod(point) != own))
}

fn flags(volume: &str, options: &[String]) -> MountFlags {
    let mut flags = MountFlags::empty();
    for option in options {
        match mounts::mount_flag(option) {
            Some(flag) => flags |= flag,
            // As with mount(8): options of file systems mean nothing to a bind mount.
            None => warn!(volume, option, "an option of a local volume has no effect on a folder"),
        }
    }
    flags
}
