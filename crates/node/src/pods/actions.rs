//! Carrying out what the core decided. Each action is idempotent and looks at nothing but its arguments and the machine.

mod accounts;
mod env_files;
mod held_image;
mod hooks;
mod image;
mod image_volumes;
mod observe;
mod prepare;
mod resize;
mod runtime_class;
mod start;
mod stop;
mod teardown;

use kube_pet_core::ids::ContainerName;
use kube_pet_core::pod::{ContainerKind, ObservedContainer};

pub(crate) use prepare::catatonit;
pub(super) use resize::{ResizeFailure, Resized};

/// Why an image could not be had: the kubelet's reason and message.
#[derive(Debug)]
pub struct ImageError {
    /// The image: the container's, or that of a volume which it mounts.
    pub image: String,
    /// `ErrImagePull`, `InvalidImageName`, `ErrImageNeverPull` …
    pub reason: &'static str,
    /// Its message.
    pub message: String,
    /// Whether repeated failures wait longer and longer.
    pub backs_off: bool,
}

/// An attempt that is to start: see [`kube_pet_core::pod::Action::StartContainer`].
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Init, app or ephemeral.
    pub kind: ContainerKind,
    /// Its name in the spec.
    pub container: &'a ContainerName,
    /// Its number.
    pub attempt: u32,
    /// Delay of its next restart.
    pub backoff_seconds: u32,
    /// How often all containers of the pod have been restarted together.
    pub round: u32,
}

/// Why a container did not start.
#[derive(Debug)]
pub struct StartError {
    /// `CreateContainerConfigError`, `CreateContainerError` or `RunContainerError`.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
    /// The container, if it was created: it counts as an attempt that ended.
    pub ended: Option<Box<ObservedContainer>>,
    /// Seconds until it may be tried again.
    pub retry_seconds: i64,
}

impl StartError {
    /// The pod's configuration is wrong or not there yet.
    pub fn config(message: impl Into<String>) -> Self {
        Self { reason: "CreateContainerConfigError", message: message.into(), ended: None, retry_seconds: 5 }
    }
    fn create(message: impl Into<String>) -> Self {
        Self { reason: "CreateContainerError", message: message.into(), ended: None, retry_seconds: 5 }
    }
    fn run(message: impl Into<String>, ended: ObservedContainer) -> Self {
        Self { reason: "RunContainerError", message: message.into(), ended: Some(Box::new(ended)), retry_seconds: 1 }
    }
}
