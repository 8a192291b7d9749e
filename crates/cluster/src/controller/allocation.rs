//! What a pet has, what it lacks and what it has too much of; pure.
//!
//! A pet owns the allocations with its name and its machine's ID. What its status says stays, so that two controllers that have
//! allocated for it at once come to the same end: only one of them could write the status, and the other reads it.

use std::collections::BTreeSet;

use kube_pet_api::{Pet, PetAllocation, PetAllocationSpec, PetNetworkSpec, Purpose};
use sha2::{Digest as _, Sha256};

use super::ranges::{Family, NoRange, Range};

/// The ranges of a PetNetwork, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Of node addresses.
    pub nodes: Vec<Range>,
    /// Of pod CIDRs.
    pub pods: Vec<Range>,
    /// Prefix length of a node's pod CIDR: IPv4, IPv6.
    pub pod_prefix: (u8, u8),
}

impl Ranges {
    /// Understands them. The API server has checked their form, unless the definition is an older one.
    pub fn of(network: &PetNetworkSpec) -> Result<Self, NoRange> {
        let all = |texts: &[String]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>();
        let length = network.node_pod_prefix_length;
        Ok(Self { nodes: all(&network.node_cidrs)?, pods: all(&network.pod_cidrs)?, pod_prefix: (length.ipv4, length.ipv6) })
    }

    /// What a pet is to have, in the order of the ranges: the first family is the node's primary one.
    fn wanted(&self) -> Vec<Wanted> {
        let families = |ranges: &[Range]| {
            let mut families: Vec<_> = ranges.iter().map(Range::family).collect();
            let mut seen = BTreeSet::new();
            families.retain(|family| seen.insert(*family));
            families
        };
        let nodes = families(&self.nodes).into_iter().map(|family| Wanted { purpose: Purpose::NodeAddress, family });
        let pods = families(&self.pods).into_iter().map(|family| Wanted { purpose: Purpose::PodCidr, family });
        nodes.chain(pods).collect()
    }

    /// Where it comes from, and its prefix length.
    pub fn source(&self, wanted: Wanted) -> (&[Range], u8) {
        match (wanted.purpose, wanted.family) {
            (Purpose::PodCidr, Family::V4) => (&self.pods, self.pod_prefix.0),
            (Purpose::PodCidr, Family::V6) => (&self.pods, self.pod_prefix.1),
            (_, family) => (&self.nodes, family.width()),
        }
    }
}

/// One thing that a pet is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// An address or a pod CIDR.
    pub purpose: Purpose,
    /// Of which family.
    pub family: Family,
}

/// What to do for a pet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan<'a> {
    /// What it has and keeps, as the status will say it.
    pub keep: Vec<(Wanted, &'a PetAllocation)>,
    /// What has to be allocated.
    pub missing: Vec<Wanted>,
    /// What it has beside that, to be given back once the status says what it keeps.
    pub surplus: Vec<&'a PetAllocation>,
}

/// Whether the allocation is this pet's, on this machine.
pub fn is_of(allocation: &PetAllocationSpec, pet: &Pet) -> bool {
    Some(&allocation.owner) == pet.metadata.name.as_ref() && allocation.machine_id == pet.spec.machine_id
}

/// Compares what a pet has with what it is to have. `own` are the allocations with its name.
pub fn plan<'a>(pet: &Pet, ranges: &Ranges, own: &'a [PetAllocation]) -> Plan<'a> {
    let status = pet.status.clone().unwrap_or_default();
    let told = |allocation: &PetAllocation| {
        let list = if allocation.spec.purpose == Purpose::NodeAddress { &status.node_addresses } else { &status.pod_cidrs };
        list.contains(&allocation.spec.value)
    };
    let mut own: Vec<_> = own.iter().filter(|a| is_of(&a.spec, pet) && a.spec.purpose != Purpose::PublicKey).collect();
    own.sort_by_cached_key(|a| (!told(a), a.metadata.creation_timestamp.clone(), a.metadata.name.clone()));
    let mut plan = Plan::default();
    // A family that the ranges have no more stays with those who have it.
    let mut all_wanted = ranges.wanted();
    let had = own.iter().filter_map(|a| Some(Wanted { purpose: a.spec.purpose, family: family_of(&a.spec)? }));
    for wanted in had {
        if !all_wanted.contains(&wanted) {
            all_wanted.push(wanted);
        }
    }
    for wanted in all_wanted {
        let mut of_kind = own.iter().filter(|a| a.spec.purpose == wanted.purpose && family_of(&a.spec) == Some(wanted.family));
        match of_kind.next() {
            Some(first) => plan.keep.push((wanted, first)),
            None => plan.missing.push(wanted),
        }
        plan.surplus.extend(of_kind);
    }
    plan
}

/// What a pet has by the watch of `known` allocations, if it is exactly what its status says and what it is to have. A pass that is about
/// something else then asks the API server for nothing, which would look through the allocations of all pets to find this one's.
pub fn settled<'a>(pet: &Pet, ranges: &Ranges, known: impl Iterator<Item = &'a PetAllocation>) -> Option<Vec<PetAllocation>> {
    let status = pet.status.as_ref().filter(|status| status.observed_generation == pet.metadata.generation)?;
    let key = status.public_key.as_ref().filter(|key| **key == pet.spec.public_key)?;
    let own: Vec<PetAllocation> = known.filter(|a| Some(&a.spec.owner) == pet.metadata.name.as_ref()).cloned().collect();
    let in_use = own.iter().all(|a| is_of(&a.spec, pet) && a.status.as_ref().is_none_or(|status| status.released_at.is_none()));
    let told: BTreeSet<&String> = status.node_addresses.iter().chain(&status.pod_cidrs).chain([key]).collect();
    let has: BTreeSet<&String> = own.iter().map(|a| &a.spec.value).collect();
    let whole = has == told && own.len() == told.len() && {
        let plan = plan(pet, ranges, &own);
        plan.missing.is_empty() && plan.surplus.is_empty()
    };
    (in_use && whole).then_some(own)
}

fn family_of(allocation: &PetAllocationSpec) -> Option<Family> {
    range_of(allocation).map(|range| range.family())
}

/// The range that an allocation takes; `None` for a key.
pub fn range_of(allocation: &PetAllocationSpec) -> Option<Range> {
    match allocation.purpose {
        Purpose::NodeAddress => allocation.value.parse().ok().map(Range::address),
        Purpose::PodCidr => allocation.value.parse().ok(),
        Purpose::PublicKey => None,
    }
}

/// The object that gives a range to a pet: its name is the range.
pub fn range_allocation(pet: &Pet, purpose: Purpose, range: Range) -> PetAllocation {
    let (prefix, value) = match purpose {
        Purpose::NodeAddress => ("node", range.first_address().to_string()),
        _ => ("pods", range.to_string()),
    };
    named(format!("{prefix}-{}", range.name()), purpose, value, pet.metadata.name.clone().unwrap_or_default(), pet.spec.machine_id.clone())
}

/// The object that gives a public key to a pet, or with an empty `machine_id` to a gateway.
pub fn key_allocation(key: &str, owner: &str, machine_id: &str) -> PetAllocation {
    let hash: String = Sha256::digest(key).iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    named(format!("key-{hash}"), Purpose::PublicKey, key.to_owned(), owner.to_owned(), machine_id.to_owned())
}

fn named(name: String, purpose: Purpose, value: String, owner: String, machine_id: String) -> PetAllocation {
    PetAllocation::new(&name, PetAllocationSpec { purpose, value, owner, machine_id })
}

/// Where the search for a pet's ranges begins.
pub fn seed(pet: &Pet) -> u64 {
    let mut hash = Sha256::new();
    hash.update(pet.metadata.name.as_deref().unwrap_or_default());
    hash.update([0]);
    hash.update(&pet.spec.machine_id);
    hash.finalize().iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
