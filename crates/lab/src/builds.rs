//! The programs that the lab runs and does not build itself: from `lab/build.sh`'s cache, and the product's own binary.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::command;

/// The cache that `lab/build.sh` fills.
#[derive(Clone, Debug)]
pub struct Builds {
    cache: PathBuf,
}

impl Builds {
    /// The cache in use: `KUBE_PET_LAB_CACHE`, or the user's cache folder.
    ///
    /// # Errors
    /// When no home folder is known.
    pub fn locate() -> Result<Self> {
        let cache = match std::env::var_os("KUBE_PET_LAB_CACHE") {
            Some(folder) => PathBuf::from(folder),
            None => user_cache()?.join("kube-pet/lab"),
        };
        Ok(Self { cache })
    }

    /// A program of the cache.
    ///
    /// # Errors
    /// When it was not built; the error says how to.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.cache.join("bin").join(name);
        ensure!(path.exists(), "{} is missing: build it with `lab/build.sh {}` (`make prepare` does)", path.display(), target_of(name));
        Ok(path)
    }

    /// The folder of the programs.
    pub fn bin(&self) -> PathBuf {
        self.cache.join("bin")
    }

    /// The root folder of another Debian suite.
    ///
    /// # Errors
    /// When it was not built; the error says how to.
    pub fn root(&self, suite: &str) -> Result<PathBuf> {
        let path = self.cache.join("rootfs").join(suite);
        ensure!(path.exists(), "{} is missing: build it with `lab/build.sh rootfs-{suite}`", path.display());
        Ok(path)
    }

    /// What virtual machines boot: `root/`, `vmlinuz`, `initrd.img`.
    ///
    /// # Errors
    /// When it was not built; the error says how to.
    pub fn vm(&self) -> Result<PathBuf> {
        let path = self.cache.join("vm");
        ensure!(path.exists(), "{} is missing: build it with `lab/build.sh vm` (`make test-vm` does)", path.display());
        Ok(path)
    }

    /// The images, as an OCI layout.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }
}

fn user_cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(folder));
    }
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    Ok(Path::new(&home).join(".cache"))
}

fn target_of(program: &str) -> &'static str {
    match program {
        "e2e.test" | "ginkgo" => "suite",
        "labregistry" => "images",
        "coredns" => "coredns",
        "metrics-server" => "metrics-server",
        "helm" => "helm",
        "kubectl-1.36" | "streams" => "clients",
        "wireguard-go" | "wg" => "wireguard",
        "kubelet" | "kube-proxy" | "containerd" | "containerd-shim-runc-v2" => "peer",
        _ => "controlplane",
    }
}

/// The newest build of another crate's test program `target` that has this test. Cargo names them with a hash that nobody is told.
///
/// # Errors
/// When there is none beside the program that is running.
pub async fn test_program(target: &str, test: &str) -> Result<PathBuf> {
    let running = std::env::current_exe().context("find the running program")?;
    let folder = running.parent().context("a program is in a folder")?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?.flatten() {
        let path = entry.path();
        let stem = path.file_name().and_then(|name| name.to_str()?.strip_prefix(target)?.strip_prefix('-').map(str::to_owned));
        if stem.is_some_and(|hash| !hash.contains('.'))
            && let Ok(built) = entry.metadata().and_then(|meta| meta.modified())
        {
            found.push((built, path));
        }
    }
    found.sort();
    for (_, path) in found.into_iter().rev() {
        if command::run(&[path.as_os_str(), "--list".as_ref()])
            .await
            .is_ok_and(|list| list.lines().any(|line| line == format!("{test}: test")))
        {
            return Ok(path);
        }
    }
    bail!("no test program {target} with {test} in {}: `cargo build --tests`", folder.display())
}

/// A program of this workspace: the one that `variable` names, or the newest of the usual build folders' that lies beside the
/// program that is running.
///
/// # Errors
/// When there is none.
pub fn own_program(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{variable} names {}, which is no file", path.display());
        return path.canonicalize().with_context(|| format!("resolve {}", path.display()));
    }
    let running = std::env::current_exe().context("find the running program")?;
    // target/debug/lab, target/debug/deps/e2e-0123456789abcdef
    let beside = running.ancestors().skip(1).take(2);
    beside
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} beside {}: `cargo build --bins`, or set {variable}", running.display()))
}
