//! `containers.conf` of the agent's Podman service: what a pod's container must not inherit from Podman's defaults.

use std::fmt::Write as _;
use std::path::PathBuf;

use kube_pet_host::privileges::{Capabilities, Capability};

/// What the machine allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// CAP_SYS_RESOURCE: limits can be raised above the service's own.
    pub(super) can_raise: bool,
    /// Own hard limit of open files.
    pub(super) files: Option<u64>,
    /// Own hard limit of processes.
    pub(super) processes: Option<u64>,
}

impl Limits {
    /// Those of this process, which the service will inherit.
    pub(super) fn own() -> Self {
        use rustix::process::{Resource, getrlimit};
        Self {
            can_raise: Capabilities::own().has(Capability::SysResource),
            files: getrlimit(Resource::Nofile).maximum,
            processes: getrlimit(Resource::Nproc).maximum,
        }
    }
}

/// The file's text. It replaces the machine's own containers.conf: Podman 4.3 knows no overrides.
pub(super) fn containers_conf(limits: Limits, hooks: &[PathBuf]) -> String {
    let mut text = String::from(
        "# Written by kube-pet at each start, for its own Podman service only. Changes are lost.\n\
         [containers]\n\
         # CRI lines. No limit: Podman would cut the file off.\n\
         log_driver = \"k8s-file\"\n\
         log_size_max = -1\n\
         # A pod's limit is on its own cgroup; Podman would set 2048.\n\
         pids_limit = 0\n\
         # Podman would add TERM.\n\
         env = [\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"]\n\
         default_sysctls = []\n\
         http_proxy = false\n\
         # As other runtimes of Kubernetes; newer versions of Podman give less.\n\
         default_capabilities = [\"AUDIT_WRITE\", \"CHOWN\", \"DAC_OVERRIDE\", \"FOWNER\", \"FSETID\", \"KILL\", \"MKNOD\", \
         \"NET_BIND_SERVICE\", \"NET_RAW\", \"SETFCAP\", \"SETGID\", \"SETPCAP\", \"SETUID\", \"SYS_CHROOT\"]\n",
    );
    if !limits.can_raise {
        // Podman's defaults are above what this machine allows, and crun would refuse them.
        // Podman lowers its own limits when it starts (to 1048576 files; Debian's 4.3.1 to 32768 processes): only what is
        // below can be given to containers.
        let limit = |name: &str, own: Option<u64>, podman: u64| {
            let value = own.map_or(podman, |own| own.min(podman));
            format!("\"{name}={value}:{value}\"")
        };
        let limits = [limit("nofile", limits.files, 1 << 20), limit("nproc", limits.processes, 32_768)];
        // Writing to a String cannot fail.
        let _ = writeln!(text, "default_ulimits = [{}]", limits.join(", "));
    }
    text.push_str(
        "[engine]\n\
         # How long Podman knows the exit code of an exec session. Two processes of conmon's stay for that time: by default, for\n\
         # five minutes.\n\
         exit_command_delay = 5\n\
         events_logger = \"file\"\n\
         # One layout of cgroups for machines with and without systemd: the agent makes the pods' own.\n\
         cgroup_manager = \"cgroupfs\"\n",
    );
    let hooks: Vec<_> = hooks.iter().map(|folder| format!("{:?}", folder.display().to_string())).collect();
    let _ = writeln!(text, "# The agent's own is for pods with user namespaces.\nhooks_dir = [{}]", hooks.join(", "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_only_where_they_cannot_be_raised() {
        let limits = |can_raise| Limits { can_raise, files: Some(20_000), processes: None };
        assert!(
            containers_conf(limits(false), &[]).contains("\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=32768:32768\"]\n[engine]")
        );
        assert!(!containers_conf(limits(true), &[PathBuf::from("/h")]).contains("default_ulimits"));
        assert!(containers_conf(limits(true), &["/a".into(), "/h".into()]).ends_with("\nhooks_dir = [\"/a\", \"/h\"]\n"));
        assert!(Limits::own().files.is_none_or(|files| files > 0));
    }
}
