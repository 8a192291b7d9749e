//! What the agent tells about itself: `/metrics`, `/metrics/probes`, `/metrics/slis`. Names, labels and help texts are the kubelet's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::volumes::claim_reference;
use kube_pet_host::process;

use super::pods::statuses;
use super::{BuildVersion, ServerState, health};
use crate::instruments;
use crate::stats::text::{Kind, Text};

/// `/metrics`.
pub(super) fn node(state: &ServerState) -> String {
    let mut text = Text::default();
    instruments::write(&mut text);
    text.family("kubelet_node_name", Kind::Gauge, "[ALPHA] The node's name. The count is always 1.");
    text.sample("kubelet_node_name", &[("node", &state.node_name)], 1.0);
    let pods = state.store.list();
    running(&mut text, pods.iter().map(AsRef::as_ref));
    volumes(&mut text, pods.iter().map(AsRef::as_ref), &|pod, volume| state.stats.plugin_of_claim(pod, volume));
    claims(&mut text, state);
    build_info(&mut text, &state.version);
    process_metrics(&mut text);
    text.into_string()
}

fn running<'a>(text: &mut Text, pods: impl Iterator<Item = &'a Pod>) {
    let mut running_pods = 0u32;
    let mut containers = BTreeMap::from([("created", 0u32), ("exited", 0), ("running", 0), ("unknown", 0)]);
    for pod in pods {
        let mut runs = false;
        for status in statuses(pod) {
            let state = match &status.state {
                Some(state) if state.running.is_some() => "running",
                Some(state) if state.terminated.is_some() => "exited",
                _ => continue,
            };
            runs |= state == "running";
            *containers.entry(state).or_default() += 1;
        }
        running_pods += u32::from(runs);
    }
    let help = "[ALPHA] Number of pods that have a running pod sandbox";
    text.single("kubelet_running_pods", Kind::Gauge, help, Some(running_pods.into()));
    let name = "kubelet_running_containers";
    text.family(name, Kind::Gauge, "[ALPHA] Number of containers currently running");
    for (state, count) in containers {
        text.sample(name, &[("container_state", state)], count.into());
    }
}

/// Volumes of the pods here, by kind: those that should be there, and of pods whose containers have got them, those that are.
/// `of_claim` names the plugin of a volume that is a claim.
fn volumes<'a>(text: &mut Text, pods: impl Iterator<Item = &'a Pod>, of_claim: &dyn Fn(&Pod, &str) -> Option<String>) {
    let mut counts: BTreeMap<(String, &str), u32> = BTreeMap::new();
    for pod in pods {
        let mounted = statuses(pod).any(|status| status.container_id.is_some());
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let claimed = claim_reference(pod, volume).is_some();
            let Some(plugin) = (if claimed { of_claim(pod, &volume.name) } else { plugin_name(volume) }) else { continue };
            for state in std::iter::once("desired_state_of_world").chain(mounted.then_some("actual_state_of_world")) {
                *counts.entry((plugin.clone(), state)).or_default() += 1;
            }
        }
    }
    if counts.is_empty() {
        return;
    }
    let name = "volume_manager_total_volumes";
    text.family(name, Kind::Gauge, "[ALPHA] Number of volumes in Volume Manager");
    for ((plugin, state), count) in counts {
        text.sample(name, &[("plugin_name", &plugin), ("state", state)], count.into());
    }
}

/// The kubelet's name of a volume's plugin: `kubernetes.io/` and the kind with dashes.
fn plugin_name(volume: &k8s_openapi::api::core::v1::Volume) -> Option<String> {
    let fields = serde_json::to_value(volume).ok()?;
    let kind = fields.as_object()?.keys().find(|key| *key != "name")?.clone();
    let dashed: String = match kind.as_str() {
        "configMap" => "configmap".into(),
        "downwardAPI" => "downward-api".into(),
        other => other.chars().flat_map(|c| c.is_ascii_uppercase().then_some('-').into_iter().chain(c.to_lowercase())).collect(),
    };
    Some(format!("kubernetes.io/{dashed}"))
}

/// The disks of claims that pods have mounted.
fn claims(text: &mut Text, state: &ServerState) {
    let claims = state.stats.claims();
    if claims.is_empty() {
        return;
    }
    #[allow(clippy::cast_precision_loss, reason = "a metric")]
    let mut family = |name: &str, help: &str, value: fn(&kube_pet_host::machine::Filesystem) -> u64| {
        let name = format!("kubelet_volume_stats_{name}");
        text.family(&name, Kind::Gauge, &format!("[ALPHA] {help}"));
        for claim in &claims {
            let labels = [("namespace", claim.namespace.as_str()), ("persistentvolumeclaim", claim.claim.as_str())];
            text.sample(&name, &labels, value(&claim.filesystem) as f64);
        }
    };
    family("available_bytes", "Number of available bytes in the volume", |disk| disk.available);
    family("capacity_bytes", "Capacity in bytes of the volume", |disk| disk.capacity);
    family("inodes", "Maximum number of inodes in the volume", |disk| disk.inodes);
    family("inodes_free", "Number of free inodes in the volume", |disk| disk.inodes_free);
    family("inodes_used", "Number of used inodes in the volume", |disk| disk.inodes.saturating_sub(disk.inodes_free));
    family("used_bytes", "Number of used bytes in the volume", |disk| disk.used);
}

fn build_info(text: &mut Text, version: &BuildVersion) {
    let name = "kubernetes_build_info";
    let mut numbers = version.git_version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    text.family(
        name,
        Kind::Gauge,
        "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go \
         version, and compiler from which Kubernetes was built, and platform on which it is running.",
    );
    let platform = format!("linux/{}", version.architecture);
    let labels = [
        ("git_commit", version.git_commit.as_str()),
        ("git_version", version.git_version.as_str()),
        ("major", major),
        ("minor", minor),
        ("platform", platform.as_str()),
    ];
    text.sample(name, &labels, 1.0);
}

fn process_metrics(text: &mut Text) {
    let used = process::this_process();
    let mut single = |name: &str, kind, help: &str, value| text.single(name, kind, help, value);
    single("process_cpu_seconds_total", Kind::Counter, "Total user and system CPU time spent in seconds.", used.cpu_seconds);
    single("process_max_fds", Kind::Gauge, "Maximum number of open file descriptors.", used.max_open_files);
    let (received, transmitted) = used.network_bytes.unzip();
    single("process_network_receive_bytes_total", Kind::Counter, "Number of bytes received by the process over the network.", received);
    single("process_network_transmit_bytes_total", Kind::Counter, "Number of bytes sent by the process over the network.", transmitted);
    single("process_open_fds", Kind::Gauge, "Number of open file descriptors.", used.open_files);
    single("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.", used.resident_bytes);
    single("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory size in bytes.", used.virtual_bytes);
    // -1 is Prometheus' word for no limit.
    let max = Some(used.max_virtual_bytes.unwrap_or(-1.0));
    single("process_virtual_memory_max_bytes", Kind::Gauge, "Maximum amount of virtual memory available in bytes.", max);
    start_time(text, used.start_time);
}

fn start_time(text: &mut Text, value: Option<f64>) {
    text.single("process_start_time_seconds", Kind::Gauge, "Start time of the process since unix epoch in seconds.", value);
}

/// `/metrics/probes`.
pub(super) fn probes() -> String {
    let mut text = Text::default();
    instruments::PROBES_DURATION.write(&mut text);
    instruments::PROBES.write(&mut text);
    start_time(&mut text, process::start_time());
    text.into_string()
}

/// `/metrics/slis`.
pub(super) fn slis(state: &ServerState) -> String {
    let mut text = Text::default();
    let outcomes = health::CHECKS.map(|check| (check, health::check(&state.health, check).is_ok()));
    let name = "kubernetes_healthcheck";
    text.family(name, Kind::Gauge, "[STABLE] This metric records the result of a single healthcheck.");
    for (check, healthy) in outcomes {
        text.sample(name, &[("name", check), ("type", "healthz")], f64::from(u8::from(healthy)));
    }
    instruments::HEALTHCHECKS.write(&mut text);
    text.into_string()
}
