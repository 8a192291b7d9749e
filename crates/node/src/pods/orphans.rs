//! Containers whose conmon is gone: killed by hand, or for want of memory, for it counts as a part of the pod. Podman learns of an end by
//! a file that conmon writes, with the exit code, and takes the container for running for ever without it: it can be neither stopped nor
//! removed. So the agent writes it in conmon's place (`libpod/container_internal.go`, `checkExitFile`; the same in all versions).

use std::fs;
use std::path::Path;

use kube_pet_core::ids::ContainerId;
use kube_pet_host::files::{FileError, write_atomic};

/// Podman's folder of these files: below its `tmp_dir`.
pub(super) const EXITS: &str = "/run/libpod/exits";
/// Nobody knows it: what containerd and CRI-O say then.
pub(super) const UNKNOWN: i32 = 255;
/// Of what the OOM killer has ended.
pub(super) const KILLED: i32 = 137;

/// Whether the process `pid` is the conmon of this container.
pub(super) fn is_conmon(pid: i32, id: &ContainerId) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).any(|word| word == id.as_str().as_bytes())
}

/// Tells Podman of an end, unless that was done: whether it was not. The file appears with what is in it.
pub(super) fn tell_end(exits: &Path, id: &ContainerId, code: i32) -> Result<bool, FileError> {
    let file = exits.join(id.as_str());
    if file.exists() {
        return Ok(false);
    }
    write_atomic(&file, code.to_string().as_bytes(), 0o600)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once() {
        let exits = tempfile::tempdir().unwrap();
        let id = ContainerId::new("c1");
        assert!(tell_end(exits.path(), &id, KILLED).unwrap());
        assert!(!tell_end(exits.path(), &id, UNKNOWN).unwrap(), "what conmon has told stands");
        assert_eq!(fs::read_to_string(exits.path().join("c1")).unwrap(), "137");
        assert_eq!(fs::read_dir(exits.path()).unwrap().count(), 1, "nothing else is left");
        assert!(tell_end(&exits.path().join("none"), &id, UNKNOWN).is_err());
    }

    #[test]
    fn a_conmon_is_known_by_its_container() {
        // Of the words of this very process.
        let word = std::env::args().next().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(is_conmon(own, &ContainerId::new(word.as_str())));
        assert!(!is_conmon(own, &ContainerId::new(&word[1..])));
        assert!(!is_conmon(i32::MAX, &ContainerId::new(word.as_str())), "there is no such process");
    }
}
