//! What is counted of the tunnel.

use kube_pet_tunnel::Turn;

use super::Family;
use crate::stats::text::Text;

static PATHS: Family = Family::gauge("kube_pet_tunnel_direct_paths", "Other pets that this node's packets go to without the gateway");
static TURNS: Family = Family::counter(
    "kube_pet_tunnel_path_changes_total",
    "Changes of paths to other pets, by what has happened: direct (used from now on), unreachable (tried, and nobody has answered), silent \
     (not heard from any more), idle (not talked to any more), gone (the pet, or its key), resized (it takes packets of another size)",
    &["to"],
);

static MTU: Family =
    Family::gauge("kube_pet_tunnel_mtu_bytes", "The largest packet in the tunnel: found on the way to the gateway, or configured");

/// The one in use.
pub(crate) fn mtu(bytes: u32) {
    MTU.set(f64::from(bytes));
}

/// How many paths to other pets there are.
#[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
pub(crate) fn paths(count: usize) {
    PATHS.set(count as f64);
}

/// Counts one.
pub(crate) fn turn(turn: Turn) {
    TURNS.add(&[match turn {
        Turn::Direct => "direct",
        Turn::Unreachable => "unreachable",
        Turn::Silent => "silent",
        Turn::Idle => "idle",
        Turn::Gone => "gone",
        Turn::Resized(_) => "resized",
    }]);
}

pub(crate) fn write(text: &mut Text) {
    MTU.write(text);
    PATHS.write(text);
    TURNS.write(text);
}
