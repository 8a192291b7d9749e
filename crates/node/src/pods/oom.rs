//! Whether the kernel killed a container for want of memory.
//!
//! Podman does not always know: 4.x looks for conmon's note in the wrong place, and conmon writes none on hybrid cgroups. The
//! kernel's own counter is in the container's cgroup, which is removed some 50 ms after its end. So it is read at the moment
//! of the exit, and what it says is kept as a file beside the pod's others, where a restarted agent finds it. Who comes too late (the machine is
//! busy, or the agent was not there) finds it in the kernel's log.

use std::path::PathBuf;

use kube_pet_core::ids::ContainerId;
use kube_pet_host::{cgroups, files, kernel_log};
use tracing::debug;

/// What the note says.
const KILLED: &str = "";
const NOT_KILLED: &str = "no\n";

/// The note about one container.
#[derive(Clone, Debug)]
pub struct OomMark {
    /// There if it is known: empty if the container was killed.
    file: PathBuf,
    /// The pod's cgroup.
    cgroup: String,
    /// Part of the name of the container's cgroup.
    id: String,
}

impl OomMark {
    /// The mark of the container `id`, kept in the folder `pod_dir`, with its cgroup below `cgroup`.
    pub fn new(pod_dir: PathBuf, cgroup: String, id: &ContainerId) -> Self {
        Self { file: pod_dir.join("oom-killed").join(id.as_str()), cgroup, id: id.to_string() }
    }

    /// Reads the counter, if the cgroup is still there, and keeps what it says. A few small reads of cgroupfs.
    pub fn look(&self) {
        let groups = match cgroups::children(&self.cgroup) {
            Ok(groups) => groups,
            Err(error) => {
                debug!(%error, "the kernel's OOM counters cannot be read");
                return;
            }
        };
        let own = groups.iter().filter(|group| group.contains(&self.id));
        // One that is removed meanwhile has nothing to say any more.
        if own.filter_map(|group| cgroups::oom_kills(&format!("{}/{group}", self.cgroup)).ok()).any(|kills| kills > 0) {
            self.keep(KILLED);
        }
    }

    /// Looks in the kernel's log as well: for what was killed by SIGKILL, when the counter may be gone. Takes milliseconds, once for a
    /// container: the line is there before its process ends, and what was not found is kept, too.
    pub fn look_back(&self) {
        if self.file.exists() {
            return;
        }
        match kernel_log::tells_of_oom_kill(&self.id) {
            Ok(told) => self.keep(if told { KILLED } else { NOT_KILLED }),
            Err(error) => debug!(%error, "the kernel's log cannot be read"),
        }
    }

    fn keep(&self, word: &str) {
        let made = self.file.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|error| error.to_string());
        // As a whole: one that was begun would be empty.
        let kept = made.and_then(|()| files::write_atomic(&self.file, word.as_bytes(), 0o600).map_err(|error| error.to_string()));
        if let Err(error) = kept {
            debug!(error, file = %self.file.display(), "what is known of an OOM kill could not be noted");
        }
    }

    /// Whether the container was killed, as far as was seen.
    pub fn is_set(&self) -> bool {
        std::fs::read_to_string(&self.file).is_ok_and(|word| word == KILLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernels_log_has_not_told_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mark = OomMark::new(dir.path().into(), "/kubepods/none".into(), &ContainerId::new("c1-of-no-container"));
        mark.look_back();
        let is_readable = kernel_log::tells_of_oom_kill("c1-of-no-container").is_ok();
        if kube_pet_testkit::capability::available("/dev/kmsg", is_readable) {
            assert_eq!(std::fs::read_to_string(&mark.file).unwrap(), NOT_KILLED);
        }
        assert!(!mark.is_set());
    }

    #[test]
    fn a_mark_outlives_the_one_who_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let mark = || OomMark::new(dir.path().join("pod"), "/kubepods/none".into(), &ContainerId::new("c1"));
        // There is no such cgroup: nothing is claimed.
        mark().look();
        assert!(!mark().is_set());
        // Nor is it looked up again once the kernel's log has told nothing.
        mark().keep(NOT_KILLED);
        mark().look_back();
        assert!(!mark().is_set());
        mark().keep(KILLED);
        mark().look_back();
        assert!(mark().is_set());
        assert!(!OomMark::new(dir.path().join("pod"), "/x".into(), &ContainerId::new("c2")).is_set());
    }
}
