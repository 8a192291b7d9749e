//! What the service proxy counts, by kube-proxy's names and buckets. Without its label `ip_family`: both families are programmed
//! together.

use super::Family;
use crate::stats::text::Text;

/// 1 ms, doubled fourteen times.
const SYNC_BUCKETS: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
/// kube-proxy has one for each second up to a minute; the objective is about these.
const PROGRAMMING_BUCKETS: &[f64] = &[0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];

pub(crate) static SYNC: Family =
    Family::histogram("kubeproxy_sync_proxy_rules_duration_seconds", "[ALPHA] SyncProxyRules latency in seconds", &[], SYNC_BUCKETS);
pub(crate) static SYNC_FULL: Family = Family::histogram(
    "kubeproxy_sync_full_proxy_rules_duration_seconds",
    "[ALPHA] SyncProxyRules latency in seconds for full resyncs",
    &[],
    SYNC_BUCKETS,
);
pub(crate) static SYNC_PARTIAL: Family = Family::histogram(
    "kubeproxy_sync_partial_proxy_rules_duration_seconds",
    "[ALPHA] SyncProxyRules latency in seconds for partial resyncs",
    &[],
    SYNC_BUCKETS,
);
pub(crate) static LAST_SYNC: Family =
    Family::gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "[ALPHA] The last time proxy rules were successfully synced");
pub(crate) static NETWORK_PROGRAMMING: Family = Family::histogram(
    "kubeproxy_network_programming_duration_seconds",
    "[ALPHA] In Cluster Network Programming Latency in seconds",
    &[],
    PROGRAMMING_BUCKETS,
);
pub(crate) static ENDPOINT_CHANGES: Family =
    Family::counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "[ALPHA] Cumulative proxy rules Endpoint changes", &[]);
pub(crate) static SERVICE_CHANGES: Family =
    Family::counter("kubeproxy_sync_proxy_rules_service_changes_total", "[ALPHA] Cumulative proxy rules Service changes", &[]);
pub(crate) static SYNC_FAILURES: Family =
    Family::counter("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "[ALPHA] Cumulative proxy nftables sync failures", &[]);
pub(crate) static REPAIRS: Family =
    Family::counter("kube_pet_service_proxy_repairs_total", "How often rules that somebody else had changed were put right", &[]);

/// All of them, in the order in which they are written.
static ALL: [&Family; 9] =
    [&REPAIRS, &NETWORK_PROGRAMMING, &SYNC_FULL, &SYNC_PARTIAL, &SYNC, &ENDPOINT_CHANGES, &LAST_SYNC, &SYNC_FAILURES, &SERVICE_CHANGES];

pub(crate) fn write(text: &mut Text) {
    for family in ALL {
        family.write(text);
    }
}
