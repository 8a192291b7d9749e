//! Images as volumes: what Podman has mounted of an image, bound read-only into the pod's folder.

use std::fs;
use std::path::PathBuf;

use kube_pet_core::ids::PodUid;
use kube_pet_host::mounts::{self, BindOptions, MountFlags};

use super::error::SetUpError;
use super::gather::is_name;
use super::layout::Layout;
use super::setup::make_closed;
use super::{VolumeManager, lock};

const KIND: &str = "image";

impl VolumeManager {
    /// Where an image is mounted as a volume of the pod; `None` if it is not.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub async fn mounted_image(&self, uid: &PodUid, volume: &str) -> Result<Option<PathBuf>, SetUpError> {
        let target = self.image_folder(uid, volume)?;
        let looked = tokio::task::spawn_blocking(move || Ok(mounts::is_mount_point(&target)?.then_some(target)));
        looked.await.unwrap_or(Err(SetUpError::Ending))
    }

    /// Mounts `root`, where Podman has an image, as a volume of the pod, and returns where.
    ///
    /// # Errors
    /// The system refuses, or the pod is being taken down.
    pub async fn mount_image(&self, uid: &PodUid, volume: &str, root: PathBuf) -> Result<PathBuf, SetUpError> {
        let (state, target) = (self.state(uid), self.image_folder(uid, volume)?);
        let mounting = tokio::task::spawn_blocking(move || {
            let _alone = lock(&state.disk);
            if state.ending.is_cancelled() {
                return Err(SetUpError::Ending);
            }
            // Another container of the pod may have been first.
            if !mounts::is_mount_point(&target)? {
                make_closed(&target)?;
                // Programs in it may be run: runtimes began with noexec, and gave it up.
                let options = BindOptions { read_only: true, flags: MountFlags::NOSUID | MountFlags::NODEV, ..BindOptions::default() };
                if let Err(error) = mounts::bind(&root, &target, options) {
                    let _ = fs::remove_dir(&target);
                    return Err(error.into());
                }
            }
            Ok(target)
        });
        mounting.await.unwrap_or(Err(SetUpError::Ending))
    }

    fn image_folder(&self, uid: &PodUid, volume: &str) -> Result<PathBuf, SetUpError> {
        // It becomes part of a path; those of static pods were checked by nobody.
        if !is_name(volume) {
            return Err(SetUpError::Name { name: volume.to_owned() });
        }
        Ok(Layout::new(&self.paths, uid).volume(KIND, volume, false))
    }
}
