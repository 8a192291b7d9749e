//! What the DNS cache counts. With labels alone: where it is off, nothing shows.

use kube_pet_dns::Observation;

use super::Family;
use crate::stats::text::Text;

static ANSWERS: Family = Family::counter(
    "kube_pet_dns_cache_answers_total",
    "Questions to the node's DNS cache, by where the answer was from: hit (the cache), miss (the cluster's DNS), stale (the cache, \
     because the cluster's DNS gave none), failed (nowhere), dropped (a client that may not ask)",
    &["result"],
);
static UPSTREAM_FAILURES: Family = Family::counter(
    "kube_pet_dns_cache_upstream_failures_total",
    "How often a server of the cluster's DNS gave the node's DNS cache no answer, or said that it has none",
    &["server"],
);

/// Counts it.
pub(crate) fn observe(observation: Observation) {
    match observation {
        Observation::Hit => ANSWERS.add(&["hit"]),
        Observation::Miss => ANSWERS.add(&["miss"]),
        Observation::Stale => ANSWERS.add(&["stale"]),
        Observation::Failed => ANSWERS.add(&["failed"]),
        Observation::Dropped => ANSWERS.add(&["dropped"]),
        Observation::UpstreamFailure(server) => UPSTREAM_FAILURES.add(&[&server.ip().to_string()]),
    }
}

pub(crate) fn write(text: &mut Text) {
    ANSWERS.write(text);
    UPSTREAM_FAILURES.write(text);
}
