//! Looking at one container.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::{ContainerId, ContainerName, labels};
use kube_pet_core::pod::{ContainerState, Exit, ObservedContainer, pod_uid};
use kube_pet_podman::ContainerInspect;

use crate::containers::{BACKOFF_LABEL, IMAGE_ID_LABEL, IMAGE_LABEL, RESOURCES_LABEL, ROUND_LABEL, SANDBOX_LABEL, is_helper};
use crate::pods::orphans::KILLED;
use crate::pods::runtime::PodRuntime;

/// The kubelet's limits: of a message, and of one taken from the log.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_MESSAGE: usize = 2048;
const MAX_LOG_LINES: usize = 80;

impl PodRuntime {
    /// What Podman says of a container; `None` if it is gone, or is not one of the pod's.
    pub(in crate::pods) async fn observe(&self, pod: &Pod, id: &ContainerId) -> Result<Option<ObservedContainer>, kube_pet_podman::Error> {
        let inspect = match self.podman.inspect_container(id.as_str()).await {
            Ok(inspect) => inspect,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let label = |key: &str| inspect.config.labels.get(key).cloned().unwrap_or_default();
        if label(labels::POD_UID) != pod_uid(pod).as_str() || is_helper(inspect.config.labels.get(labels::KIND)) {
            return Ok(None);
        }
        let name = ContainerName::new(label(labels::CONTAINER_NAME));
        let attempt = label(labels::ATTEMPT).parse().unwrap_or(0);
        let state = self.state(pod, id, &name, attempt, &inspect);
        let user = match state {
            ContainerState::Running { .. } => process_user(inspect.state.pid),
            _ => None,
        };
        Ok(Some(ObservedContainer {
            id: id.clone(),
            attempt,
            spec_hash: label(labels::SPEC_HASH),
            round: label(ROUND_LABEL).parse().unwrap_or(0),
            backoff_seconds: label(BACKOFF_LABEL).parse().unwrap_or(0),
            sandbox: label(SANDBOX_LABEL),
            image: label(IMAGE_LABEL),
            image_id: label(IMAGE_ID_LABEL),
            amounts: label(RESOURCES_LABEL).parse().ok(),
            created_at: inspect.created.unwrap_or_default(),
            state,
            user,
            name,
        }))
    }

    fn state(&self, pod: &Pod, id: &ContainerId, name: &ContainerName, attempt: u32, inspect: &ContainerInspect) -> ContainerState {
        let state = &inspect.state;
        let started_at = state.started_at.filter(|t| t.as_second() > 0);
        match state.status.as_str() {
            "running" | "paused" | "stopping" => ContainerState::Running { started_at: started_at.unwrap_or_default() },
            _ if is_created(state) => ContainerState::Created,
            _ => {
                let code = state.exit_code;
                let mark = self.oom_mark(pod, id);
                if !mark.is_set() {
                    mark.look();
                }
                if code == KILLED && !state.oom_killed {
                    mark.look_back();
                }
                ContainerState::Exited(Exit {
                    code,
                    started_at,
                    finished_at: state.finished_at.or(started_at).unwrap_or_default(),
                    reason: (state.oom_killed || mark.is_set()).then(|| "OOMKilled".to_owned()),
                    message: self.termination_message(pod, name, attempt, code),
                })
            }
        }
    }

    fn termination_message(&self, pod: &Pod, name: &ContainerName, attempt: u32, code: i32) -> Option<String> {
        let container = kube_pet_core::pod::find_container(pod, name.as_str())?.1;
        let file = self.termination_file(pod, name.as_str(), attempt);
        let written = kube_pet_host::files::read_limited(&file, MAX_MESSAGE).or_else(|_| read_start(&file)).unwrap_or_default();
        if !written.is_empty() {
            return Some(String::from_utf8_lossy(&written).into_owned());
        }
        let from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && code != 0;
        from_log.then(|| {
            let meta = &pod.metadata;
            let log = self.paths.container_log(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
                &pod_uid(pod),
                name.as_str(),
                attempt,
            );
            log_tail(&log)
        })
    }
}

/// Whether a container was made and has never run.
pub(super) fn is_created(state: &kube_pet_podman::ContainerState) -> bool {
    let has_run = state.started_at.is_some_and(|at| at.as_second() > 0);
    match state.status.as_str() {
        "created" | "configured" | "initialized" => true,
        "running" | "paused" | "stopping" => false,
        _ => !has_run && state.exit_code == 0,
    }
}

fn read_start(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut out = Vec::new();
    std::fs::File::open(file)?.take(MAX_MESSAGE).read_to_end(&mut out)?;
    Ok(out)
}

/// The last lines of a CRI log, without their heads.
fn log_tail(log: &Path) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(64 << 10)))?;
        let mut out = Vec::new();
        file.read_to_end(&mut out)?;
        Ok(out)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    for line in &lines[lines.len().saturating_sub(MAX_LOG_LINES)..] {
        let mut parts = line.splitn(4, ' ');
        let (_, _, tag, body) = (parts.next(), parts.next(), parts.next(), parts.next().unwrap_or_default());
        out.push_str(body);
        if tag == Some("F") {
            out.push('\n');
        }
    }
    let mut start = out.len().saturating_sub(MAX_LOG_MESSAGE);
    while !out.is_char_boundary(start) {
        start += 1;
    }
    out[start..].to_owned()
}

/// User, group and supplementary groups of a process.
fn process_user(pid: i32) -> Option<(i64, i64, Vec<i64>)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::split_whitespace);
    let first = |name: &str| field(name)?.next()?.parse().ok();
    let mut groups: Vec<i64> = field("Groups:")?.filter_map(|g| g.parse().ok()).collect();
    groups.sort_unstable();
    Some((first("Uid:")?, first("Gid:")?, groups))
}
