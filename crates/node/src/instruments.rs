//! What the agent counts about itself, for `/metrics`: counters and histograms by the kubelet's names, help texts and buckets.
//!
//! They are statics, as in every Prometheus client: a number that is only ever added to needs no owner, and the code that counts
//! needs no handle to carry around. The values are in a map behind a lock each, touched a few times a second at most.
//!
//! Written here and not with the crate `prometheus-client`, which writes OpenMetrics: other names for counters, no timestamps per
//! sample, `# EOF`. What the kubelet serves is the older text format, and that is the hundred lines of [`crate::stats::text`].

pub(crate) mod dns_cache;
mod family;
pub(crate) mod service_proxy;
pub(crate) mod tunnel;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use kube_pet_podman::Operation;

pub use family::Family;

use crate::stats::text::Text;

/// Prometheus' default buckets, in seconds.
const DEFAULT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The kubelet's for the runtime: 5 ms, times 2.5.
const RUNTIME: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];
const POD_START: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0,
    1800.0, 2700.0, 3600.0,
];
const STATUS_SYNC: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
const STORAGE: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];
const REST_CLIENT: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// Calls to Podman.
pub static RUNTIME_OPERATIONS: Family = Family::counter(
    "kubelet_runtime_operations_total",
    "[ALPHA] Cumulative number of runtime operations by operation type.",
    &["operation_type"],
);
/// Those that failed.
pub static RUNTIME_OPERATIONS_ERRORS: Family = Family::counter(
    "kubelet_runtime_operations_errors_total",
    "[ALPHA] Cumulative number of runtime operation errors by operation type.",
    &["operation_type"],
);
/// How long they took.
pub static RUNTIME_OPERATIONS_DURATION: Family = Family::histogram(
    "kubelet_runtime_operations_duration_seconds",
    "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
    &["operation_type"],
    RUNTIME,
);
/// Complete lists of Podman's containers.
pub static PLEG_RELIST_DURATION: Family =
    Family::histogram("kubelet_pleg_relist_duration_seconds", "[ALPHA] Duration in seconds for relisting pods in PLEG.", &[], DEFAULT);
/// Time from one to the next.
pub static PLEG_RELIST_INTERVAL: Family =
    Family::histogram("kubelet_pleg_relist_interval_seconds", "[ALPHA] Interval in seconds between relisting in PLEG.", &[], DEFAULT);
/// One pass of a pod's worker.
pub static POD_WORKER_DURATION: Family = Family::histogram(
    "kubelet_pod_worker_duration_seconds",
    "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
    &["operation_type"],
    DEFAULT,
);
/// From the first sight of a pod until it runs.
pub static POD_START_DURATION: Family = Family::histogram(
    "kubelet_pod_start_duration_seconds",
    "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
    &[],
    POD_START,
);
/// A status, from its change to the API server's answer.
pub static POD_STATUS_SYNC_DURATION: Family = Family::histogram(
    "kubelet_pod_status_sync_duration_seconds",
    "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is \
     successfully updated for that pod, even if multiple intevening changes to pod status occur.",
    &[],
    STATUS_SYNC,
);
/// Making and removing cgroups.
pub static CGROUP_MANAGER_DURATION: Family = Family::histogram(
    "kubelet_cgroup_manager_duration_seconds",
    "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.",
    &["operation_type"],
    DEFAULT,
);
/// Making a pod's sandbox.
pub static RUN_PODSANDBOX_DURATION: Family = Family::histogram(
    "kubelet_run_podsandbox_duration_seconds",
    "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
    &["runtime_handler"],
    DEFAULT,
);
/// Sandboxes that could not be made.
pub static RUN_PODSANDBOX_ERRORS: Family = Family::counter(
    "kubelet_run_podsandbox_errors_total",
    "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
    &["runtime_handler"],
);
/// Pods with `hostUsers: false` whose sandbox was begun.
pub static STARTED_USER_NAMESPACED_PODS: Family =
    Family::counter("kubelet_started_user_namespaced_pods_total", "[ALPHA] Cumulative number of pods with user namespaces started", &[]);
/// Their sandboxes, and first attempts of their containers, that could not be started.
pub static STARTED_USER_NAMESPACED_PODS_ERRORS: Family = Family::counter(
    "kubelet_started_user_namespaced_pods_errors_total",
    "[ALPHA] Cumulative number of errors when starting pods with user namespaces",
    &[],
);
/// Containers that were started.
pub static STARTED_CONTAINERS: Family =
    Family::counter("kubelet_started_containers_total", "[ALPHA] Cumulative number of containers started", &["container_type"]);
/// Containers that could not be started.
pub static STARTED_CONTAINERS_ERRORS: Family = Family::counter(
    "kubelet_started_containers_errors_total",
    "[ALPHA] Cumulative number of errors when starting containers",
    &["container_type", "code"],
);
/// Containers that ended.
pub static TERMINATED_CONTAINERS: Family = Family::counter(
    "kubelet_terminated_containers_total",
    "[ALPHA] Cumulative number of container terminations.",
    &["container_type", "exit_code", "reason"],
);
/// Images that were removed because nobody used them.
pub static IMAGE_GARBAGE_COLLECTED: Family = Family::counter(
    "kubelet_image_garbage_collected_total",
    "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
    &["reason"],
);
/// Pods that were evicted.
pub static EVICTIONS: Family =
    Family::counter("kubelet_evictions", "[ALPHA] Cumulative number of pod evictions by eviction signal", &["eviction_signal"]);
/// Pods that had to go for critical ones.
pub static PREEMPTIONS: Family =
    Family::counter("kubelet_preemptions", "[ALPHA] Cumulative number of pod preemptions by preemption resource", &["preemption_signal"]);
/// The last shutdown of the machine that waited for pods.
pub static SHUTDOWN_START: Family =
    Family::gauge("kubelet_graceful_shutdown_start_time_seconds", "[ALPHA] Last graceful shutdown start time since unix epoch in seconds");
/// Its end.
pub static SHUTDOWN_END: Family =
    Family::gauge("kubelet_graceful_shutdown_end_time_seconds", "[ALPHA] Last graceful shutdown end time since unix epoch in seconds");
/// Setting volumes up.
pub static STORAGE_OPERATION_DURATION: Family = Family::histogram(
    "storage_operation_duration_seconds",
    "[BETA] Storage operation duration",
    &["volume_plugin", "operation_name", "status", "migrated"],
    STORAGE,
);
/// Requests to the API server.
pub static REST_CLIENT_REQUESTS: Family = Family::counter(
    "rest_client_requests_total",
    "[BETA] Number of HTTP requests, partitioned by status code, method, and host.",
    &["code", "method", "host"],
);
/// How long they took, until the answer's headers.
pub static REST_CLIENT_REQUEST_DURATION: Family = Family::histogram(
    "rest_client_request_duration_seconds",
    "[BETA] Request latency in seconds. Broken down by verb, and host.",
    &["verb", "host"],
    REST_CLIENT,
);
/// Requests to the node's API.
pub static HTTP_REQUESTS: Family = Family::counter(
    "kubelet_http_requests_total",
    "[ALPHA] Number of the http requests received since the server started",
    &["method", "path", "server_type", "long_running"],
);
/// How long they took, until the answer's headers.
pub static HTTP_REQUESTS_DURATION: Family = Family::histogram(
    "kubelet_http_requests_duration_seconds",
    "[ALPHA] Duration in seconds to serve http requests",
    &["method", "path", "server_type", "long_running"],
    DEFAULT,
);
/// Client certificates that could not be renewed.
pub static CLIENT_RENEW_ERRORS: Family =
    Family::counter("kubelet_certificate_manager_client_expiration_renew_errors", "[ALPHA] Counter of certificate renewal errors.", &[]);
/// Serving certificates that could not be renewed.
pub static SERVER_RENEW_ERRORS: Family =
    Family::counter("kubelet_server_expiration_renew_errors", "[ALPHA] Counter of certificate renewal errors.", &[]);
/// When the client certificate ends, in seconds of the Unix time.
pub static CLIENT_CERTIFICATE_END: Family = Family::moment(
    "kubelet_certificate_manager_client_ttl_seconds",
    "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry \
     (negative if already expired). If client certificate is invalid or unused, the value will be +INF.",
);
/// When the serving certificate ends, in seconds of the Unix time.
pub static SERVER_CERTIFICATE_END: Family = Family::moment(
    "kubelet_certificate_manager_server_ttl_seconds",
    "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate \
     expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.",
);

/// Health checks; shown by `/metrics/slis` alone.
pub(crate) static HEALTHCHECKS: Family = Family::counter(
    "kubernetes_healthchecks_total",
    "[STABLE] This metric records the results of all healthcheck.",
    &["name", "type", "status"],
);

/// Tries of probes; shown by `/metrics/probes` alone. The series of a pod go with it: [`forget_pod`].
pub(crate) static PROBES: Family = Family::counter(
    "prober_probe_total",
    "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
);

/// How long they took; as [`PROBES`].
pub(crate) static PROBES_DURATION: Family = Family::histogram(
    "prober_probe_duration_seconds",
    "[ALPHA] Duration in seconds for a probe response.",
    &["probe_type", "container", "pod", "namespace"],
    DEFAULT,
);

/// Drops the series that name a pod.
pub(crate) fn forget_pod(namespace: &str, name: &str, uid: &str) {
    PROBES.keep(|label| label("pod_uid") != uid);
    PROBES_DURATION.keep(|label| label("pod") != name || label("namespace") != namespace);
}

/// All of them, in the order in which they are written.
static ALL: [&Family; 30] = [
    &CLIENT_RENEW_ERRORS,
    &CLIENT_CERTIFICATE_END,
    &SERVER_CERTIFICATE_END,
    &CGROUP_MANAGER_DURATION,
    &HTTP_REQUESTS_DURATION,
    &HTTP_REQUESTS,
    &PLEG_RELIST_DURATION,
    &PLEG_RELIST_INTERVAL,
    &POD_START_DURATION,
    &POD_STATUS_SYNC_DURATION,
    &POD_WORKER_DURATION,
    &RUN_PODSANDBOX_DURATION,
    &RUN_PODSANDBOX_ERRORS,
    &STARTED_USER_NAMESPACED_PODS,
    &STARTED_USER_NAMESPACED_PODS_ERRORS,
    &RUNTIME_OPERATIONS_DURATION,
    &RUNTIME_OPERATIONS_ERRORS,
    &RUNTIME_OPERATIONS,
    &SERVER_RENEW_ERRORS,
    &STARTED_CONTAINERS_ERRORS,
    &STARTED_CONTAINERS,
    &TERMINATED_CONTAINERS,
    &REST_CLIENT_REQUEST_DURATION,
    &REST_CLIENT_REQUESTS,
    &EVICTIONS,
    &PREEMPTIONS,
    &SHUTDOWN_START,
    &SHUTDOWN_END,
    &IMAGE_GARBAGE_COLLECTED,
    &STORAGE_OPERATION_DURATION,
];

/// Writes all of them; one with labels that has counted nothing yet does not show, as with Prometheus' Go client.
pub(crate) fn write(text: &mut Text) {
    for family in ALL {
        family.write(text);
    }
    service_proxy::write(text);
    dns_cache::write(text);
    tunnel::write(text);
}

/// A call to Podman. Calls that the kubelet has no name for (pings, waits) are not counted.
pub(crate) fn runtime_operation(operation: Operation, took: Duration, succeeded: bool) {
    let Some(name) = operation_type(operation) else { return };
    RUNTIME_OPERATIONS.add(&[name]);
    RUNTIME_OPERATIONS_DURATION.observe(&[name], took);
    if !succeeded {
        RUNTIME_OPERATIONS_ERRORS.add(&[name]);
    }
}

/// The kubelet's name (`instrumented_services.go`) for what the call does.
fn operation_type(operation: Operation) -> Option<&'static str> {
    Some(match operation {
        Operation::Info => "status",
        Operation::ContainerCreate => "create_container",
        Operation::ContainerStart => "start_container",
        Operation::ContainerStop | Operation::ContainerKill => "stop_container",
        Operation::ContainerRemove => "remove_container",
        Operation::ContainerInspect => "container_status",
        Operation::ContainerList => "list_containers",
        Operation::ContainerUpdate => "update_container",
        Operation::ContainerAttach => "attach",
        Operation::PodCreate => "run_podsandbox",
        Operation::PodRemove => "remove_podsandbox",
        Operation::PodList => "list_podsandbox",
        Operation::PodExists => "podsandbox_status",
        Operation::ImagePull => "pull_image",
        Operation::ImageInspect | Operation::ImageExists => "image_status",
        Operation::ImageList => "list_images",
        Operation::ImageRemove => "remove_image",
        Operation::ExecStart => "exec",
        _ => return None,
    })
}

/// Counts the containers that have ended from one status of a pod to the next.
pub(crate) fn terminations(old: Option<&PodStatus>, new: &PodStatus) {
    type List = fn(&PodStatus) -> &Option<Vec<ContainerStatus>>;
    let lists: [(&str, List); 3] = [
        ("init_container", |status| &status.init_container_statuses),
        ("container", |status| &status.container_statuses),
        ("ephemeral_container", |status| &status.ephemeral_container_statuses),
    ];
    let ended = |status: &ContainerStatus| status.state.as_ref().and_then(|state| state.terminated.clone());
    for (container_type, list) in lists {
        let before =
            |name: &str| old.into_iter().flat_map(|old| list(old).iter().flatten()).find(|status| status.name == name).and_then(ended);
        for status in list(new).iter().flatten() {
            if let Some(end) = ended(status).filter(|_| before(&status.name).is_none()) {
                TERMINATED_CONTAINERS.add(&[container_type, &end.exit_code.to_string(), end.reason.as_deref().unwrap_or_default()]);
            }
        }
    }
}

/// A volume of this kind (`empty-dir`) was set up, or could not be.
pub(crate) fn volume_mounted(kind: &str, took: Duration, succeeded: bool) {
    let status = if succeeded { "success" } else { "fail-unknown" };
    STORAGE_OPERATION_DURATION.observe(&[&format!("kubernetes.io/{kind}"), "volume_mount", status, "false"], took);
}

/// Counts how long making or removing a cgroup takes.
pub(crate) fn cgroup_operation<T>(kind: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    CGROUP_MANAGER_DURATION.observe(&[kind], began.elapsed());
    done
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_nothing_is_left_out() {
        let names: BTreeSet<_> = ALL.iter().map(|family| family.name()).collect();
        assert_eq!(names.len(), ALL.len());
        let source = include_str!("instruments.rs");
        assert_eq!(source.matches("\npub static ").count(), ALL.len());
    }

    #[test]
    fn an_end_is_counted_once() {
        let status = |state: serde_json::Value| -> PodStatus {
            let container = serde_json::json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            serde_json::from_value(serde_json::json!({ "containerStatuses": [container] })).unwrap()
        };
        let running = status(serde_json::json!({"running": {}}));
        let ended = status(serde_json::json!({"terminated": {"exitCode": 117, "reason": "Error"}}));
        terminations(None, &running);
        terminations(Some(&running), &ended);
        terminations(Some(&ended), &ended);
        let mut text = Text::default();
        write(&mut text);
        let line = "kubelet_terminated_containers_total{container_type=\"container\",exit_code=\"117\",reason=\"Error\"} 1\n";
        assert!(text.into_string().contains(line));
    }

    #[test]
    fn calls_are_counted_by_the_kubelets_names() {
        runtime_operation(Operation::ImageRemove, Duration::from_millis(20), false);
        runtime_operation(Operation::Ping, Duration::from_millis(20), true);
        let mut text = Text::default();
        write(&mut text);
        let text = text.into_string();
        for line in [
            "kubelet_runtime_operations_total{operation_type=\"remove_image\"} 1\n",
            "kubelet_runtime_operations_errors_total{operation_type=\"remove_image\"} 1\n",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"remove_image\",le=\"0.0125\"} 0\n",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"remove_image\",le=\"0.03125\"} 1\n",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"remove_image\",le=\"+Inf\"} 1\n",
            "kubelet_runtime_operations_duration_seconds_sum{operation_type=\"remove_image\"} 0.02\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("ping"));
    }
}
