//! Who a container runs as, where Podman's own look-up in the image is not Kubernetes' (see [`kube_pet_core::accounts`]).
//!
//! The image's files are read by way of a container that never runs ([`super::held_image`]), which is removed again. What was read is kept
//! by the image's ID, which stands for the same files for ever.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use k8s_openapi::api::core::v1::{Container, Pod};
use kube_pet_core::accounts::{self, Accounts, Identity};
use kube_pet_core::security::Effective;
use kube_pet_podman::ImageInspect;
use tracing::debug;

use super::StartError;
use super::held_image::holder_name;
use crate::pods::runtime::PodRuntime;

/// Of a hostile image no more is read.
const MAX_FILE: u64 = 1 << 20;

/// Images whose accounts are kept; with more, all are read again.
const MAX_KEPT: usize = 256;

impl PodRuntime {
    /// The user that Podman is told, and in `security` all groups where it is not to add its own.
    pub(super) async fn user(
        &self,
        pod: &Pod,
        container: &Container,
        image: &ImageInspect,
        security: &mut Effective,
    ) -> Result<String, StartError> {
        let wanted = accounts::wanted(security, &image.config.user);
        if !accounts::must_be_resolved(security, &wanted) {
            return Ok(wanted);
        }
        let accounts = self.accounts(pod, container, &image.id).await.map_err(|error| {
            StartError::create(format!("cannot read the users of image {:?}: {error}", container.image.as_deref().unwrap_or_default()))
        })?;
        let Identity { uid, gid, groups } = accounts.identity(security, &wanted).map_err(|error| StartError::create(error.to_string()))?;
        security.groups = groups.into_iter().collect();
        Ok(format!("{uid}:{gid}"))
    }

    async fn accounts(&self, pod: &Pod, container: &Container, image_id: &str) -> Result<Arc<Accounts>, String> {
        let kept = self.accounts.lock().unwrap_or_else(PoisonError::into_inner).get(image_id).cloned();
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let name = holder_name(pod, "ACCOUNTS", &container.name);
        // What a run of the agent that was cut short has left may be of another image.
        self.podman.remove_container(&name, true).await.map_err(|error| error.to_string())?;
        let read = async {
            let root = self.hold_image(pod, &name, image_id).await.map_err(|error| error.to_string())?;
            tokio::task::spawn_blocking(move || read(&root)).await.map_err(|error| error.to_string())?
        };
        let read = read.await;
        if let Err(error) = self.podman.remove_container(&name, true).await {
            debug!(name, %error, "it goes with the pod");
        }
        let accounts = Arc::new(read?);
        let mut kept = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(image_id.to_owned(), accounts.clone());
        Ok(accounts)
    }
}

fn read(root: &Path) -> Result<Accounts, String> {
    let file = |path: &str| -> Result<String, String> {
        let bytes = kube_pet_host::files::read_within(root, path, MAX_FILE).map_err(|error| super::prepare::describe(&error))?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    };
    Ok(Accounts::parse(&file("/etc/passwd")?, &file("/etc/group")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_missing_say_nothing_and_links_do_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("passwd"), "root:x:1:1\n").unwrap();
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()), Ok(Accounts::default()));
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("passwd"), root.path().join("etc/passwd")).unwrap();
        assert_eq!(read(root.path()), Ok(Accounts::default()));
        std::fs::create_dir(root.path().join("etc/group")).unwrap();
        let error = read(root.path()).unwrap_err();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
