//! Which instance of a container a request for its log means, from the status that the pod has now.

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::pod::container_status;

/// An instance of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    /// The attempt whose file is wanted.
    pub(super) attempt: u32,
    /// Whether an older file may stand in for it: not while it runs, where the newer one is only not there yet.
    pub(super) or_older: bool,
    /// The ID of the instance while it runs.
    running: Option<String>,
}

/// Whether the pod's spec names this container.
pub(super) fn in_spec(pod: &Pod, container: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut names = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| &c.name)
        .chain(spec.ephemeral_containers.iter().flatten().map(|c| &c.name));
    names.any(|name| name == container)
}

impl Instance {
    /// Chooses by the kubelet's rules (`validateContainerLogStatus`); the error is the kubelet's text for status 400.
    pub(super) fn choose(pod: &Pod, container: &str, previous: bool) -> Result<Self, String> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let refuse = |what: &str| Err(format!("container {container:?} in pod {name:?} {what}"));
        let Some(status) = container_status(pod, container) else {
            return refuse("is not available");
        };
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let has_id = |id: &Option<String>| id.as_deref().is_some_and(|id| !id.is_empty());
        let attempt = u32::try_from(status.restart_count).unwrap_or(0);
        let finished = |attempt| Ok(Self { attempt, or_older: true, running: None });
        if previous {
            if !last.is_some_and(|t| has_id(&t.container_id)) {
                return Err(format!("previous terminated container {container:?} in pod {name:?} not found"));
            }
            // While a container waits for its restart, its newest instance is the previous one.
            let newest_is_previous = state.running.is_none() && state.terminated.is_none();
            return match attempt.checked_sub(u32::from(!newest_is_previous)) {
                Some(attempt) => finished(attempt),
                None => Err(format!("previous terminated container {container:?} in pod {name:?} not found")),
            };
        }
        if state.running.is_some() {
            return Ok(Self { attempt, or_older: false, running: Some(status.container_id.clone().unwrap_or_default()) });
        }
        if let Some(terminated) = &state.terminated {
            // An instance that could not be started has no ID and no log; the one before it may have.
            let readable = has_id(&terminated.container_id) || last.is_some_and(|t| has_id(&t.container_id));
            return if readable { finished(attempt) } else { refuse("is terminated") };
        }
        if let Some(last) = last {
            return if has_id(&last.container_id) { finished(attempt) } else { refuse("is terminated") };
        }
        match state.waiting.map(|w| w.reason.unwrap_or_default()) {
            Some(reason) => match reason.as_str() {
                "ErrImagePull" => refuse("is waiting to start: image can't be pulled"),
                "ImagePullBackOff" => refuse("is waiting to start: trying and failing to pull image"),
                reason => refuse(&format!("is waiting to start: {reason}")),
            },
            None => refuse("is waiting to start - no logs yet"),
        }
    }

    /// Whether this instance still runs, so that more can come.
    pub(super) fn still_runs(&self, pod: Option<&Pod>, container: &str) -> bool {
        let Some(id) = &self.running else {
            return false;
        };
        pod.and_then(|pod| container_status(pod, container)).is_some_and(|status| {
            status.state.as_ref().is_some_and(|s| s.running.is_some())
                && u32::try_from(status.restart_count) == Ok(self.attempt)
                && status.container_id.as_deref().unwrap_or_default() == id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        let status = match status {
            Value::Null => json!([]),
            mut status => {
                status["name"] = "c".into();
                status["image"] = "i".into();
                status["imageID"] = "i".into();
                status["ready"] = true.into();
                json!([status])
            }
        };
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}],
                "ephemeralContainers": [{"name": "e"}]},
            "status": {"containerStatuses": status},
        }))
        .unwrap()
    }

    fn terminated(id: &str) -> Value {
        json!({"terminated": {"exitCode": 1, "containerID": id}})
    }

    #[test]
    fn the_attempt_follows_the_state() {
        let running = json!({"running": {}});
        let backoff = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let cases = [
            // state, lastState, restartCount → current, previous
            (running.clone(), json!({}), 0, Ok(0), Err(())),
            (running, terminated("podman://a"), 2, Ok(2), Ok(1)),
            (backoff, terminated("podman://b"), 2, Ok(2), Ok(2)),
            (terminated("podman://b"), json!({}), 0, Ok(0), Err(())),
            (terminated("podman://b"), terminated("podman://a"), 3, Ok(3), Ok(2)),
            (terminated(""), terminated("podman://a"), 1, Ok(1), Ok(0)),
        ];
        for (state, last, count, current, previous) in cases {
            let pod = pod(json!({"state": state, "lastState": last, "restartCount": count}));
            let attempt = |previous| Instance::choose(&pod, "c", previous).map(|i| i.attempt).map_err(|_| ());
            assert_eq!(attempt(false), current, "{state} {last}");
            assert_eq!(attempt(true), previous, "{state} {last}");
        }
    }

    #[test]
    fn refusals_are_the_kubelets() {
        let text = |status: Value, previous| Instance::choose(&pod(status), "c", previous).unwrap_err();
        let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}, "restartCount": 0});
        for (status, expected) in [
            (Value::Null, r#"container "c" in pod "p" is not available"#),
            (waiting("ContainerCreating"), r#"container "c" in pod "p" is waiting to start: ContainerCreating"#),
            (waiting("ErrImagePull"), r#"container "c" in pod "p" is waiting to start: image can't be pulled"#),
            (waiting("ImagePullBackOff"), r#"container "c" in pod "p" is waiting to start: trying and failing to pull image"#),
            (json!({"state": terminated(""), "restartCount": 0}), r#"container "c" in pod "p" is terminated"#),
            (json!({"restartCount": 0}), r#"container "c" in pod "p" is waiting to start - no logs yet"#),
        ] {
            assert_eq!(text(status, false), expected);
        }
        assert_eq!(text(waiting("ContainerCreating"), true), r#"previous terminated container "c" in pod "p" not found"#);
    }

    #[test]
    fn every_kind_of_container_is_known() {
        let pod = pod(Value::Null);
        for name in ["c", "i", "e"] {
            assert!(in_spec(&pod, name), "{name}");
        }
        assert!(!in_spec(&pod, "x"));
    }

    #[test]
    fn another_instance_is_not_this_one() {
        let running = |id: &str, count: u32| pod(json!({"state": {"running": {}}, "containerID": id, "restartCount": count}));
        let instance = Instance::choose(&running("podman://a", 1), "c", false).unwrap();
        assert!(instance.still_runs(Some(&running("podman://a", 1)), "c"));
        assert!(!instance.still_runs(Some(&running("podman://b", 1)), "c"));
        assert!(!instance.still_runs(Some(&running("podman://a", 2)), "c"));
        let ended = pod(json!({"state": terminated("podman://a"), "restartCount": 1}));
        assert!(!instance.still_runs(Some(&ended), "c"));
        assert!(!instance.still_runs(None, "c"));
    }
}
