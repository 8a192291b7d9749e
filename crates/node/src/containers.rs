//! From a container in a PodSpec to what Podman is asked to make.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube_pet_core::ids::{ContainerName, labels};
use kube_pet_core::pod::{ContainerKind, pod_uid};
use kube_pet_core::resize::ContainerAmounts;
use kube_pet_core::resources::ContainerLimits;
use kube_pet_core::security::{Effective, Seccomp};
use kube_pet_podman::{
    HugepageLimit, IdMappings, LinuxCpu, LinuxMemory, LinuxResources, LogConfiguration, Mount, Namespace, SpecGenerator,
};

use crate::sandboxes::UserNamespace;
use crate::user_namespaces::hook;
use crate::volumes::{ContainerMount, Propagation};

/// Where a container's attempt stands: what its labels say.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// This agent's node.
    pub node_name: &'a str,
    /// Its name in the spec.
    pub container: &'a ContainerName,
    /// Init or app.
    pub kind: ContainerKind,
    /// Its attempt.
    pub attempt: u32,
    /// Delay of its next restart.
    pub backoff_seconds: u32,
    /// How often all containers of the pod have been restarted together.
    pub round: u32,
    /// Hash of its spec.
    pub spec_hash: &'a str,
    /// The sandbox that it joins.
    pub sandbox_id: &'a str,
}

/// Label of [`Place::backoff_seconds`].
pub const BACKOFF_LABEL: &str = "kube-pet.dev/restart-backoff-seconds";
/// Label of [`Place::round`].
pub const ROUND_LABEL: &str = "kube-pet.dev/round";
/// Label of [`Place::sandbox_id`].
pub const SANDBOX_LABEL: &str = "kube-pet.dev/sandbox";
/// Label with the image as the spec has it, normalised.
pub const IMAGE_LABEL: &str = "kube-pet.dev/image";
/// Label with `status.imageID`.
pub const IMAGE_ID_LABEL: &str = "kube-pet.dev/image-id";
/// Label with the resources that a container was made with.
pub const RESOURCES_LABEL: &str = "kube-pet.dev/resources";
/// Label of the pause container that holds a shared PID namespace.
pub const PAUSE_KIND: &str = "pause";
/// And of the container that holds the image of a volume, and never runs.
pub const IMAGE_VOLUME_KIND: &str = "image-volume";
/// Label with the termination message's path in the container.
pub const TERMINATION_PATH_LABEL: &str = "kube-pet.dev/termination-message-path";

/// The namespaces that a container joins.
#[derive(Clone, Debug, Default)]
pub struct Joined {
    /// `None`: the host's.
    pub net: Option<PathBuf>,
    /// `None`: the host's.
    pub ipc: Option<PathBuf>,
    /// `None`: the host's.
    pub uts: Option<PathBuf>,
    /// `None`: the host's.
    pub user: Option<UserNamespace>,
    /// The host's process IDs.
    pub host_pid: bool,
    /// The container that holds the pod's shared PID namespace.
    pub shared_pid: Option<String>,
}

/// Everything else that is known once env, mounts and image are there.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub spec: &'a Container,
    /// Podman's pod.
    pub podman_pod: String,
    /// The image's ID, so that nothing is resolved again.
    pub image_id: String,
    /// `status.image`
    pub image_name: String,
    /// `status.imageID`
    pub image_status_id: String,
    /// The security context that holds.
    pub security: Effective,
    /// `user:group`, or what of it Podman looks up in the image.
    pub user: String,
    /// The folder of Localhost seccomp profiles.
    pub seccomp_dir: PathBuf,
    /// Its limits.
    pub limits: ContainerLimits,
    /// The kernel's names of the sizes of huge pages that can be limited.
    pub huge_pages: Vec<String>,
    /// The kernel's OOM killer ends all its processes together.
    pub oom_group: bool,
    /// What a container's `oom_score_adj` cannot be below on this machine; without it, pods that should be protected from the
    /// kernel's OOM killer run with this instead of not at all.
    pub lowest_oom_score_adj: Option<i32>,
    /// The pod's cgroup.
    pub cgroup_parent: String,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// `command`, expanded.
    pub command: Option<Vec<String>>,
    /// `args`, expanded.
    pub args: Option<Vec<String>>,
    /// The volumes.
    pub mounts: Vec<ContainerMount>,
    /// Files of the agent: hosts, resolv.conf, shm, termination log; source and destination.
    pub files: Vec<(PathBuf, String)>,
    /// The namespaces.
    pub joined: Joined,
    /// The log file.
    pub log: PathBuf,
    /// Hostname, for the variable of that name.
    pub hostname: String,
}

/// Whether a container with this label of [`labels::KIND`] is none of the pod's own: it holds a namespace or an image.
pub fn is_helper(kind: Option<&String>) -> bool {
    kind.is_some_and(|kind| [PAUSE_KIND, IMAGE_VOLUME_KIND].contains(&kind.as_str()))
}

/// `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`.
pub fn container_name(pod: &Pod, container: &str, attempt: u32) -> String {
    let m = &pod.metadata;
    format!(
        "k8s_{container}_{}_{}_{}_{attempt}",
        m.name.as_deref().unwrap_or_default(),
        m.namespace.as_deref().unwrap_or_default(),
        m.uid.as_deref().unwrap_or_default()
    )
}

/// Labels of the pod that every object of it carries.
pub fn pod_labels(pod: &Pod, node_name: &str) -> BTreeMap<String, String> {
    let m = &pod.metadata;
    BTreeMap::from([
        (labels::POD_NAME.to_owned(), m.name.clone().unwrap_or_default()),
        (labels::POD_NAMESPACE.to_owned(), m.namespace.clone().unwrap_or_default()),
        (labels::POD_UID.to_owned(), pod_uid(pod).to_string()),
        (labels::NODE.to_owned(), node_name.to_owned()),
    ])
}

/// What Podman is asked to make.
pub fn spec_generator(place: &Place<'_>, parts: Parts<'_>) -> SpecGenerator {
    let Parts {
        pod,
        spec,
        podman_pod,
        image_id,
        image_name,
        image_status_id,
        security,
        user,
        seccomp_dir,
        limits,
        huge_pages,
        oom_group,
        lowest_oom_score_adj,
        cgroup_parent,
        env,
        command,
        args,
        mounts,
        files,
        joined,
        log,
        hostname,
    } = parts;
    let mut out = SpecGenerator::new(container_name(pod, place.container.as_str(), place.attempt), image_id);
    out.pod = podman_pod;
    out.labels = pod_labels(pod, place.node_name);
    out.labels.extend([
        (labels::CONTAINER_NAME.to_owned(), place.container.to_string()),
        (labels::ATTEMPT.to_owned(), place.attempt.to_string()),
        (labels::SPEC_HASH.to_owned(), place.spec_hash.to_owned()),
        (labels::KIND.to_owned(), place.kind.as_str().to_owned()),
        (BACKOFF_LABEL.to_owned(), place.backoff_seconds.to_string()),
        (ROUND_LABEL.to_owned(), place.round.to_string()),
        (SANDBOX_LABEL.to_owned(), place.sandbox_id.to_owned()),
        (IMAGE_LABEL.to_owned(), image_name),
        (IMAGE_ID_LABEL.to_owned(), image_status_id),
        (RESOURCES_LABEL.to_owned(), ContainerAmounts::of(pod, spec).to_string()),
    ]);
    // `command` takes the place of ENTRYPOINT, and the image's CMD is then not used either.
    out.entrypoint = command.unwrap_or_default();
    out.command = args.unwrap_or_default();
    out.env = BTreeMap::from([("HOSTNAME".to_owned(), hostname)]);
    out.env.extend(env);
    out.unsetenv = ["container", "TERM"]
        .into_iter()
        .filter(|name| !(out.env.contains_key(*name) || *name == "TERM" && spec.tty == Some(true)))
        .map(str::to_owned)
        .collect();
    out.work_dir = spec.working_dir.clone().unwrap_or_default();
    out.create_working_dir = true;
    out.stdin = spec.stdin.unwrap_or(false);
    out.terminal = spec.tty.unwrap_or(false);
    out.mounts = volume_mounts(mounts);
    out.mounts.extend(files.into_iter().map(|(source, destination)| Mount::bind(source.display().to_string(), destination, false)));
    join(&mut out, joined);
    out.user = user;
    confine(&mut out, security, &seccomp_dir);
    out.cgroup_parent = cgroup_parent;
    limit(&mut out, &limits, &huge_pages, oom_group, lowest_oom_score_adj);
    out.log_configuration = Some(LogConfiguration::k8s_file(log.display().to_string()));
    out.stop_timeout = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).and_then(|s| u32::try_from(s).ok());
    out
}

fn join(out: &mut SpecGenerator, joined: Joined) {
    let namespace = |path: Option<PathBuf>| Some(path.map_or_else(Namespace::host, |p| Namespace::path(p.display().to_string())));
    out.netns = namespace(joined.net);
    out.ipcns = namespace(joined.ipc);
    out.utsns = namespace(joined.uts);
    out.pidns = Some(match (joined.host_pid, joined.shared_pid) {
        (true, _) => Namespace::host(),
        (false, Some(id)) => Namespace::container(id),
        (false, None) => Namespace::private(),
    });
    out.cgroupns = None;
    if let Some(user) = &joined.user {
        join_user_namespace(out, user);
    }
}

/// Podman gives a container's files the IDs of a user namespace only where it makes that itself. So it is asked for one with the same IDs, and
/// its hook ([`hook`]) puts the pod's in its place. Without the hook the container does not start: it could not join the
/// pod's other namespaces.
pub(crate) fn join_user_namespace(out: &mut SpecGenerator, user: &UserNamespace) {
    out.userns = Some(Namespace::private());
    out.idmappings = Some(IdMappings::range(user.ids.first, user.ids.count));
    out.annotations.insert(hook::ANNOTATION.to_owned(), user.path.display().to_string());
}

fn confine(out: &mut SpecGenerator, security: Effective, seccomp_dir: &std::path::Path) {
    out.groups = security.groups.iter().map(ToString::to_string).collect();
    out.privileged = security.privileged;
    out.read_only_filesystem = security.read_only_root;
    out.read_write_tmpfs = security.read_only_root.then_some(false);
    out.no_new_privileges = security.no_new_privileges;
    let plain = |cap: &String| cap.trim_start_matches("CAP_").to_ascii_uppercase();
    let dropped: Vec<_> = security.cap_drop.iter().map(plain).collect();
    // The default set is the Podman service's: what is added by name, Podman gives to a process without root as well.
    out.cap_add = security.cap_add.iter().map(plain).collect();
    out.cap_drop = dropped;
    out.seccomp_profile_path = match security.seccomp {
        Seccomp::Unconfined => "unconfined".to_owned(),
        Seccomp::RuntimeDefault => String::new(),
        Seccomp::Localhost(file) => seccomp_dir.join(file).display().to_string(),
    };
    out.apparmor_profile = security.app_armor.unwrap_or_default();
    if let Some(selinux) = security.selinux {
        let options = [("user", selinux.user), ("role", selinux.role), ("type", selinux.type_), ("level", selinux.level)];
        out.selinux_opts = options.into_iter().filter_map(|(key, value)| value.map(|v| format!("{key}:{v}"))).collect();
    }
    if security.unmasked_proc {
        out.unmask = vec!["ALL".to_owned()];
    }
}

fn limit(out: &mut SpecGenerator, limits: &ContainerLimits, huge_pages: &[String], oom_group: bool, lowest_oom_score_adj: Option<i32>) {
    let pages = huge_pages.iter().map(|size| {
        let limit = limits.hugepages.get(size).and_then(|limit| u64::try_from(*limit).ok());
        HugepageLimit { page_size: size.clone(), limit: limit.unwrap_or(0) }
    });
    out.resource_limits = Some(LinuxResources {
        cpu: Some(LinuxCpu {
            shares: Some(limits.cpu_shares),
            quota: limits.cpu_quota,
            period: limits.cpu_quota.map(|_| 100_000),
            ..LinuxCpu::default()
        }),
        hugepage_limits: pages.collect(),
        memory: limits.memory_limit.map(|limit| LinuxMemory { limit: Some(limit), swap: Some(limit), ..LinuxMemory::default() }),
        // Here and not in the specification's own `unified`, of which Podman 4.3 takes no notice.
        unified: oom_group.then(|| ("memory.oom.group".to_owned(), "1".to_owned())).into_iter().collect(),
        ..LinuxResources::default()
    });
    out.oom_score_adj = Some(lowest_oom_score_adj.map_or(limits.oom_score_adj, |lowest| limits.oom_score_adj.max(lowest)));
}

fn volume_mounts(mounts: Vec<ContainerMount>) -> Vec<Mount> {
    mounts
        .into_iter()
        .map(|mount| {
            let mut options = vec!["rbind".to_owned()];
            options.push(match mount.propagation {
                Propagation::Private => "rprivate".to_owned(),
                Propagation::HostToContainer => "rslave".to_owned(),
                Propagation::Bidirectional => "rshared".to_owned(),
            });
            options.push(if mount.read_only { "ro" } else { "rw" }.to_owned());
            Mount { options, ..Mount::bind(mount.source.display().to_string(), mount.destination, mount.read_only) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_ends_as_a_whole_by_a_file_of_its_group() {
        let limits =
            ContainerLimits { cpu_shares: 2, cpu_quota: None, memory_limit: Some(5), hugepages: BTreeMap::new(), oom_score_adj: 0 };
        for (oom_group, files) in [(true, serde_json::json!({"memory.oom.group": "1"})), (false, serde_json::Value::Null)] {
            let mut out = SpecGenerator::new("c", "i");
            limit(&mut out, &limits, &[], oom_group, None);
            assert_eq!(serde_json::to_value(&out).unwrap()["resource_limits"]["unified"], files);
        }
    }
}
