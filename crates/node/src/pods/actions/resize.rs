//! Resources of running containers, changed in place: in the kernel's files, not by Podman, whose `update` differs from version to
//! version (before 5.4 what is left out falls back to defaults) and which would have to be up for it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::ContainerId;
use kube_pet_core::resize::{ResizeStep, Resizing, below_usage};
use kube_pet_host::cgroups::{self, CgroupError, Detail, Limits, UNLIMITED};

use crate::instruments;
use crate::pods::runtime::PodRuntime;

/// How long the cgroup of a container that has ended is waited for to go.
const ENDED_PATIENCE: Duration = Duration::from_secs(5);

/// How far a resize came.
#[derive(Debug, Default)]
pub(in crate::pods) struct Resized {
    /// The steps that were done, from the first on.
    pub(in crate::pods) done: Vec<ResizeStep>,
    /// Why the next one was not.
    pub(in crate::pods) failure: Option<ResizeFailure>,
}

/// A resize that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(in crate::pods) enum ResizeFailure {
    /// A container has ended meanwhile: it is looked at again.
    #[error("container {0} has no cgroup any more")]
    Gone(ContainerId),
    /// Memory is in use that would be taken away.
    #[error("{0}")]
    InUse(String),
    /// The kernel refused it.
    #[error(transparent)]
    Refused(#[from] CgroupError),
}

impl PodRuntime {
    /// Does the steps up to the first that fails.
    pub(in crate::pods) async fn resize(&self, pod: &Arc<Pod>, resizing: Resizing) -> Resized {
        let cgroup = self.pod_cgroup(pod);
        let work = move || {
            let mut out = Resized::default();
            out.failure = instruments::cgroup_operation("update", || run(&cgroup, resizing, &mut out.done)).err();
            out
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_default()
    }
}

fn run(pod: &str, resizing: Resizing, done: &mut Vec<ResizeStep>) -> Result<(), ResizeFailure> {
    let Resizing { checks, steps } = resizing;
    let mut found = Vec::new();
    for check in checks {
        let cgroup = match &check.container {
            Some((id, _)) => cgroup_of(pod, id)?,
            None => pod.to_owned(),
        };
        let used = cgroups::usage(&cgroup, Detail::CpuAndMemory)?.memory.map_or(0, |memory| memory.usage);
        found.extend(check.verdict(used));
    }
    if !found.is_empty() {
        return Err(ResizeFailure::InUse(below_usage(&found)));
    }
    for step in steps {
        act(pod, &step)?;
        done.push(step);
    }
    Ok(())
}

fn act(pod: &str, step: &ResizeStep) -> Result<(), ResizeFailure> {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    match step {
        ResizeStep::PodMemory { limit } => cgroups::update(pod, &Limits { memory: Some(number(*limit)), ..Limits::default() })?,
        ResizeStep::PodCpuQuota { quota } => set_quota(pod, number(*quota))?,
        ResizeStep::PodCpuShares { shares } => cgroups::update(pod, &Limits { cpu_shares: Some(*shares), ..Limits::default() })?,
        ResizeStep::ContainerMemory { id, limit, .. } => {
            if let Some(limit) = limit {
                cgroups::update_memory_without_swap(&cgroup_of(pod, id)?, number(*limit))?;
            }
        }
        ResizeStep::ContainerCpu { id, shares, quota, .. } => {
            let quota = Some(quota.map_or(UNLIMITED, number));
            let limits = Limits { cpu_shares: Some(*shares), cpu_quota: quota, ..Limits::default() };
            cgroups::update(&cgroup_of(pod, id)?, &limits)?;
        }
    }
    Ok(())
}

/// On cgroup v1 a pod has no less than any group in it, and the group of a container that has just ended is there for a moment more.
fn set_quota(pod: &str, quota: u64) -> Result<(), CgroupError> {
    let deadline = Instant::now() + ENDED_PATIENCE;
    loop {
        match cgroups::update(pod, &Limits { cpu_quota: Some(quota), ..Limits::default() }) {
            Err(error) if error.is_invalid() && Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

/// A container's cgroup, by whatever name Podman has given it; not the one of its conmon.
fn cgroup_of(pod: &str, id: &ContainerId) -> Result<String, ResizeFailure> {
    let children = cgroups::children(pod)?;
    let own = children.iter().find(|name| name.contains(id.as_str()) && !name.contains("conmon"));
    own.map(|name| format!("{pod}/{name}")).ok_or_else(|| ResizeFailure::Gone(id.clone()))
}
