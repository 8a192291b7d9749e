//! `/metrics/resource`: what metrics-server reads, and nothing more. Names, help texts and times as in the kubelet's
//! `resource_metrics.go`.

use jiff::Timestamp;

use super::snapshot::{Group, PodSample, Snapshot};
use super::text::{Kind, Labels, Text};

/// What a family takes from a group; `None` where there is nothing to say.
type Value = fn(&Group) -> Option<f64>;

#[allow(clippy::cast_precision_loss, reason = "a metric")]
const CPU: Value = |group| Some(group.usage.cpu?.total_nanos as f64 / 1e9);
#[allow(clippy::cast_precision_loss, reason = "a metric")]
const WORKING_SET: Value = |group| Some(group.usage.memory?.working_set as f64);
#[allow(clippy::cast_precision_loss, reason = "a metric")]
const SWAP: Value = |group| Some(group.usage.memory?.swap as f64);
#[allow(clippy::cast_precision_loss, reason = "a metric")]
const SWAP_LIMIT: Value = |group| Some(group.usage.memory?.swap_limit? as f64);

/// The page. Without a measurement it says that there was none.
pub(super) fn write(snapshot: Option<&Snapshot>) -> String {
    let mut text = Text::default();
    if let Some(snapshot) = snapshot {
        samples(&mut text, snapshot);
    }
    let error = if snapshot.is_some() { 0.0 } else { 1.0 };
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    text.single("resource_scrape_error", Kind::Gauge, &format!("[STABLE] {help}"), Some(error));
    text.single("scrape_error", Kind::Gauge, &format!("[ALPHA] (Deprecated since 1.29.0) {help}"), Some(error));
    text.into_string()
}

fn samples(text: &mut Text, snapshot: &Snapshot) {
    let containers = |text: &mut Text, name: &str, kind, help: &str, value: Value| {
        family(text, name, kind, help, container_groups(snapshot).filter_map(|(labels, group)| Some((labels, value(group)?, group.at))));
    };
    let pods = |text: &mut Text, name: &str, kind, help: &str, value: Value| {
        let groups = snapshot.pods.iter().filter_map(|pod| Some((pod_labels(pod), pod.group.as_ref()?)));
        family(text, name, kind, help, groups.filter_map(|(labels, group)| Some((labels, value(group)?, group.at))));
    };
    let node = |text: &mut Text, name: &str, kind, help: &str, value: Value| {
        let root = &snapshot.root;
        family(text, name, kind, help, value(root).map(|value| (Labels::default(), value, root.at)));
    };
    containers(
        text,
        "container_cpu_usage_seconds_total",
        Kind::Counter,
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        CPU,
    );
    containers(
        text,
        "container_memory_working_set_bytes",
        Kind::Gauge,
        "[STABLE] Current working set of the container in bytes",
        WORKING_SET,
    );
    start_times(text, snapshot);
    containers(
        text,
        "container_swap_limit_bytes",
        Kind::Gauge,
        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
        SWAP_LIMIT,
    );
    containers(
        text,
        "container_swap_usage_bytes",
        Kind::Gauge,
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        SWAP,
    );
    node(text, "node_cpu_usage_seconds_total", Kind::Counter, "[STABLE] Cumulative cpu time consumed by the node in core-seconds", CPU);
    node(text, "node_memory_working_set_bytes", Kind::Gauge, "[STABLE] Current working set of the node in bytes", WORKING_SET);
    #[allow(clippy::cast_precision_loss, reason = "a metric")]
    let swap = snapshot.machine.map(|memory| memory.swap_total.saturating_sub(memory.swap_free) as f64);
    family(
        text,
        "node_swap_usage_bytes",
        Kind::Gauge,
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        swap.map(|swap| (Labels::default(), swap, snapshot.at)),
    );
    pods(text, "pod_cpu_usage_seconds_total", Kind::Counter, "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", CPU);
    pods(text, "pod_memory_working_set_bytes", Kind::Gauge, "[STABLE] Current working set of the pod in bytes", WORKING_SET);
    pods(
        text,
        "pod_swap_usage_bytes",
        Kind::Gauge,
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        SWAP,
    );
}

/// The one family whose samples have no time of their own.
fn start_times(text: &mut Text, snapshot: &Snapshot) {
    let name = "container_start_time_seconds";
    let containers = snapshot.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
    let mut started =
        containers.filter_map(|(pod, container)| Some((container_labels(pod, &container.name), container.started_at?))).peekable();
    if started.peek().is_none() {
        return;
    }
    text.family(name, Kind::Gauge, "[STABLE] Start time of the container since unix epoch in seconds");
    for (labels, at) in started {
        text.sample_at(name, &labels, at.as_duration().as_secs_f64(), None);
    }
}

fn family(text: &mut Text, name: &str, kind: Kind, help: &str, samples: impl IntoIterator<Item = (Labels, f64, Timestamp)>) {
    let mut samples = samples.into_iter().peekable();
    if samples.peek().is_none() {
        return;
    }
    text.family(name, kind, help);
    for (labels, value, at) in samples {
        text.sample_at(name, &labels, value, Some(at));
    }
}

fn container_groups(snapshot: &Snapshot) -> impl Iterator<Item = (Labels, &Group)> {
    let of_pod = |pod: &'_ PodSample, name: &str| container_labels(pod, name);
    snapshot.pods.iter().flat_map(move |pod| pod.containers.iter().map(move |container| (of_pod(pod, &container.name), &container.group)))
}

/// metrics-server looks for `container="`, `pod="` and `namespace="` as plain text: no other label may end in one of these.
fn container_labels(pod: &PodSample, container: &str) -> Labels {
    Labels::new(&[("container", container), ("namespace", pod.namespace()), ("pod", pod.name())])
}

fn pod_labels(pod: &PodSample) -> Labels {
    Labels::new(&[("namespace", pod.namespace()), ("pod", pod.name())])
}
