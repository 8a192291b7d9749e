//! What the controller counts.

use crate::metrics::{Family, text};

/// Allocations that were made.
pub static ALLOCATIONS: Family =
    Family::counter("kube_pet_allocations_total", "Addresses, pod CIDRs and keys that were given to pets.", &["purpose"]);
/// Tries for something that another had by then.
pub static CONFLICTS: Family = Family::counter(
    "kube_pet_allocation_conflicts_total",
    "Tries for an address, a pod CIDR or a key that another had already.",
    &["purpose"],
);
/// Allocations that were freed.
pub static RECLAIMED: Family =
    Family::counter("kube_pet_reclaimed_total", "Objects that were removed because their pet is gone.", &["kind"]);
/// Refused keys.
pub static KEYS_REFUSED: Family =
    Family::counter("kube_pet_public_keys_refused_total", "Public keys that were refused because another has them.", &[]);
/// Decisions on requests for serving certificates.
pub static CERTIFICATES: Family =
    Family::counter("kube_pet_serving_certificates_total", "Decisions on requests for serving certificates.", &["decision", "reason"]);
/// Passes that failed.
pub static ERRORS: Family = Family::counter("kube_pet_controller_errors_total", "Passes that failed and are tried again.", &["kind"]);
/// Pets.
pub static PETS: Family = Family::gauge("kube_pet_pets", "Pets by whether they have their addresses.", &["allocated"]);
/// Whether this process is the leader.
pub static LEADING: Family = Family::gauge("kube_pet_controller_leading", "Whether this controller is the one that works.", &[]);

/// All of it.
pub fn all() -> String {
    text(&[&ALLOCATIONS, &CONFLICTS, &RECLAIMED, &KEYS_REFUSED, &CERTIFICATES, &ERRORS, &PETS, &LEADING])
}

/// A purpose as a label.
pub fn label(purpose: kube_pet_api::Purpose) -> &'static str {
    match purpose {
        kube_pet_api::Purpose::NodeAddress => "NodeAddress",
        kube_pet_api::Purpose::PodCidr => "PodCIDR",
        kube_pet_api::Purpose::PublicKey => "PublicKey",
    }
}
