//! An operating system of its own for a pet: the root folder of another Debian suite, and so another Podman.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{builds::Builds, pet_files::quoted};

/// A Debian suite that `lab/build.sh` makes root folders of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 13: Podman 5.4.
    Trixie,
    /// The newest packages: Podman 5.8.
    Sid,
}

impl Suite {
    /// The suite that `KUBE_PET_SUITE` names; none when it is not set, or empty.
    ///
    /// # Errors
    /// When there is no such suite.
    pub fn from_env() -> Result<Option<Self>> {
        Self::parse(&std::env::var("KUBE_PET_SUITE").unwrap_or_default()).context("KUBE_PET_SUITE")
    }

    fn parse(text: &str) -> Result<Option<Self>> {
        Ok(match text {
            "" => None,
            "trixie" => Some(Self::Trixie),
            "sid" => Some(Self::Sid),
            other => bail!("no suite named {other:?}: trixie or sid"),
        })
    }

    /// Its name at Debian.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// Its root folder, from the cache.
    ///
    /// # Errors
    /// When it was not built; the error says how to.
    pub fn root(self) -> Result<PathBuf> {
        Builds::locate()?.root(self.name())
    }
}

/// The shell commands that put a new namespace on the root folder `root`, before all others. The pet's folder `dir` and the
/// programs' keep their paths, so that whatever comes next is the same as on the lab's own operating system.
///
/// What the pet writes outside its own `/etc`, `/var` and `/tmp` is in memory and gone with a power cut. A chroot would not
/// do: the container runtime remounts `/`, which then has to be a mount.
pub fn script(root: &Path, dir: &Path, programs: &Path) -> String {
    let (root, os, dir, programs) = (quoted(root), quoted(&dir.join("os")), quoted(dir), quoted(programs));
    format!(
        "mount --make-rprivate /
mkdir -p {os}
mount -t tmpfs -o mode=755 os {os}
mkdir {os}/upper {os}/work {os}/root
mount -t overlay -o lowerdir={root},upperdir={os}/upper,workdir={os}/work os {os}/root
cd {os}/root
mount --rbind /proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mkdir -p .{dir} .{programs} .old
mount --bind {dir} .{dir}
mount --bind {programs} .{programs}
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
mount --make-rshared /
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_names() {
        assert_eq!(Suite::parse("").unwrap(), None);
        for suite in [Suite::Trixie, Suite::Sid] {
            assert_eq!(Suite::parse(suite.name()).unwrap(), Some(suite));
        }
        let error = Suite::parse("potato").unwrap_err().to_string();
        assert!(error.contains("potato") && error.contains("trixie"), "{error}");
    }

    #[test]
    fn folders_keep_their_paths() {
        let text = script(Path::new("/c/rootfs/sid"), Path::new("/var/a b"), Path::new("/p"));
        assert!(text.contains("mount --bind '/var/a b' .'/var/a b'\nmount --bind '/p' .'/p'\npivot_root"), "{text}");
    }
}
