//! `podman`: which service, and how it is called.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// `podman`
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodmanSettings {
    /// A service that somebody else runs. Default: one of the agent's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The program of the agent's own service. Default: `podman` from the PATH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
    /// `--root`: images and containers. Default: Podman's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// `--runroot`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_root: Option<PathBuf>,
    /// `--tmpdir`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp_dir: Option<PathBuf>,
    /// `CONTAINERS_STORAGE_CONF`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_conf: Option<PathBuf>,
    /// `CONTAINERS_REGISTRIES_CONF`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registries_conf: Option<PathBuf>,
    /// Who runs commands in containers.
    pub exec: ExecBy,
}

/// Who runs commands in containers (exec, probes, hooks).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ExecBy {
    /// The OCI runtime, called by the agent, where that is crun; else as [`Self::Podman`].
    #[default]
    Runtime,
    /// Sessions of the Podman service.
    Podman,
}

impl PodmanSettings {
    /// The program of the agent's own service, to be looked up in the PATH if it is only a name.
    pub fn program(&self) -> &Path {
        self.program.as_deref().unwrap_or(Path::new("podman"))
    }

    /// The folder whose file system is measured for images and containers: Podman's own default where nothing else is set. What Podman itself
    /// says is in [`PodmanStore`](crate::podman_store::PodmanStore), once it answers.
    pub fn store(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(|| "/var/lib/containers/storage".into())
    }

    /// The folder of what its storage keeps until the next boot: Podman's own default where nothing else is set.
    pub fn run_root(&self) -> PathBuf {
        self.run_root.clone().unwrap_or_else(|| "/run/containers/storage".into())
    }

    /// Arguments before Podman's subcommand: which store it works on.
    pub fn global_arguments(&self) -> Vec<String> {
        let flags = [("--root", &self.root), ("--runroot", &self.run_root), ("--tmpdir", &self.tmp_dir)];
        flags.into_iter().filter_map(|(flag, path)| Some(format!("{flag}={}", path.as_ref()?.display()))).collect()
    }

    /// Variables of its environment.
    pub fn variables(&self) -> Vec<(String, String)> {
        let files = [("CONTAINERS_STORAGE_CONF", &self.storage_conf), ("CONTAINERS_REGISTRIES_CONF", &self.registries_conf)];
        files.into_iter().filter_map(|(name, path)| Some((name.to_owned(), path.as_ref()?.display().to_string()))).collect()
    }
}
