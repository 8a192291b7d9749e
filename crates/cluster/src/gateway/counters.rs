//! The gateway's metrics.

use std::time::SystemTime;

use tokio::sync::watch;

use super::desired::pets;
use super::keeper::Seen;
use crate::metrics::{Family, text};

static ACTIVE: Family = Family::gauge("kube_pet_gateway_active", "Whether this gateway carries the traffic.", &[]);
static PEERS: Family = Family::gauge(
    "kube_pet_gateway_peers",
    "Pets that are peers, by whether they are heard from; one that changes its key is one.",
    &["connected"],
);
static BYTES: Family =
    Family::gauge("kube_pet_gateway_bytes", "Bytes of all peers that there are, as WireGuard counts them.", &["direction"]);
static UP: Family = Family::gauge("kube_pet_gateway_tunnel_up", "Whether the tunnel is what it should be.", &["implementation"]);
pub(super) static CHANGE_SECONDS: Family =
    Family::gauge("kube_pet_gateway_last_change_seconds", "How long the last change of peers or routes took.", &[]);
pub(super) static CHANGES: Family =
    Family::counter("kube_pet_gateway_changes_total", "Changes of peers or routes while the tunnel was up.", &[]);
pub(super) static REPORTS_FAILED: Family =
    Family::counter("kube_pet_gateway_reports_failed_total", "Writes of a status that the API server did not take.", &[]);

static RELAYED: Family = Family::gauge("kube_pet_gateway_relayed_connections", "Connections of pets without UDP.", &[]);

/// Ends with whoever counts.
pub(super) async fn count_relayed(mut count: watch::Receiver<usize>) {
    loop {
        #[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
        RELAYED.set(&[], *count.borrow_and_update() as f64);
        if count.changed().await.is_err() {
            return;
        }
    }
}

pub(super) fn all(active: bool, seen: Option<&Seen>) -> String {
    ACTIVE.set(&[], f64::from(u8::from(active)));
    if let Some((seen, status)) = seen.and_then(|seen| Some((seen, seen.status.as_ref()?))) {
        let now = SystemTime::now();
        let (all, connected) = (pets(&status.peers).count(), pets(&status.peers).filter(|peer| peer.is_alive(now)).count());
        #[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
        let number = |count: u64| count as f64;
        PEERS.set(&["true"], number(connected as u64));
        PEERS.set(&["false"], number((all - connected) as u64));
        BYTES.set(&["received"], number(status.peers.values().map(|peer| peer.received).sum()));
        BYTES.set(&["sent"], number(status.peers.values().map(|peer| peer.sent).sum()));
        UP.set(&[&format!("{:?}", status.implementation).to_lowercase()], f64::from(u8::from(seen.trouble.is_none())));
    }
    text(&[&ACTIVE, &PEERS, &BYTES, &UP, &RELAYED, &CHANGE_SECONDS, &CHANGES, &REPORTS_FAILED])
}
