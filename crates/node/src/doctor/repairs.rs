//! What `--fix` does. Nothing is removed, and nothing outlives a reboot.

use std::path::PathBuf;
use std::process::Stdio;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

/// A change that is safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Loads a module of the kernel.
    LoadModule(&'static str),
    /// Writes a kernel setting.
    WriteSetting(PathBuf, &'static str),
    /// Mounts the cgroup hierarchy of one controller.
    MountController(PathBuf, &'static str),
    /// Makes mounts below this one visible in the namespaces made of it.
    ShareMount(PathBuf),
}

/// A repair that failed.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The module was not loaded.
    #[error("modprobe {module}: {reason}")]
    Module {
        /// The module.
        module: &'static str,
        /// What modprobe says.
        reason: String,
    },
    /// The setting was not written.
    #[error("writing {path}")]
    Setting {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The mount failed.
    #[error("mounting {path}")]
    Mount {
        /// Where.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl Repair {
    pub(super) async fn apply(&self) -> Result<(), RepairError> {
        match self {
            Self::LoadModule(module) => load(module).await,
            Self::WriteSetting(path, value) => {
                std::fs::write(path, value).map_err(|source| RepairError::Setting { path: path.clone(), source })
            }
            Self::MountController(path, controller) => {
                let failed = |source| RepairError::Mount { path: path.clone(), source };
                std::fs::create_dir_all(path).map_err(failed)?;
                let options = std::ffi::CString::new(*controller).map_err(|error| failed(error.into()))?;
                let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                mount("cgroup", path, "cgroup", flags, options.as_c_str()).map_err(|errno| failed(errno.into()))
            }
            Self::ShareMount(path) => {
                let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
                mount_change(path, shared).map_err(|errno| RepairError::Mount { path: path.clone(), source: errno.into() })
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "only modprobe knows where a module's file and its dependencies are; the doctor is not the agent"
)]
async fn load(module: &'static str) -> Result<(), RepairError> {
    let failed = |reason: String| RepairError::Module { module, reason };
    let ran = tokio::process::Command::new("modprobe").arg(module).stdin(Stdio::null()).output().await;
    let output = ran.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
