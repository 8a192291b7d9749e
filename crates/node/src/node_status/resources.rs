//! Capacity, what is kept back, and what is left for pods.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube_pet_core::quantity::Amount;

use super::machine::Readings;
use crate::config::{NodeConfiguration, Signal};

/// Resource names and amounts.
pub(super) type Resources = BTreeMap<String, Quantity>;

const CPU: &str = "cpu";
const MEMORY: &str = "memory";
const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// What the names of huge pages begin with.
pub(super) const HUGE_PAGES: &str = "hugepages-";

/// `status.capacity`
pub(super) fn capacity(readings: &Readings, max_pods: u32) -> Resources {
    let mut capacity = Resources::from([("pods".to_owned(), Amount::whole(i64::from(max_pods)).to_quantity())]);
    let mut add = |name: &str, amount: Option<Amount>| {
        if let Some(amount) = amount {
            capacity.insert(name.to_owned(), amount.to_quantity());
        }
    };
    add(CPU, readings.cpus.map(|cpus| Amount::whole(i64::from(cpus))));
    add(MEMORY, readings.memory.map(|memory| bytes(memory.total)));
    add(EPHEMERAL_STORAGE, readings.nodefs.map(|disk| bytes(disk.capacity)));
    for (page_size, count) in &readings.huge_pages {
        add(&format!("{HUGE_PAGES}{}", bytes(*page_size)), Some(bytes(page_size.saturating_mul(*count))));
    }
    capacity
}

/// `status.allocatable`: the capacity without the reservations, the hard eviction limits and the huge pages.
pub(super) fn allocatable(capacity: &Resources, readings: &Readings, config: &NodeConfiguration) -> Resources {
    let amount = |quantity: &Quantity| Amount::of(quantity).unwrap_or_default();
    let reserved = |name: &str| {
        let own = [&config.system_reserved, &config.kube_reserved].into_iter().filter_map(|map| map.get(name));
        let limit = match name {
            MEMORY => config.eviction_hard.get(&Signal::MemoryAvailable).zip(readings.memory.map(|memory| memory.total)),
            EPHEMERAL_STORAGE => config.eviction_hard.get(&Signal::NodefsAvailable).zip(readings.nodefs.map(|disk| disk.capacity)),
            _ => None,
        };
        own.map(amount).sum::<Amount>() + limit.map_or(Amount::ZERO, |(limit, total)| bytes(limit.of(total)))
    };
    let huge: Amount = capacity.iter().filter(|(name, _)| name.starts_with(HUGE_PAGES)).map(|(_, quantity)| amount(quantity)).sum();
    capacity
        .iter()
        .map(|(name, quantity)| {
            let mut left = amount(quantity) - reserved(name);
            if name == MEMORY {
                left = left - huge;
            }
            (name.clone(), left.or_zero().to_quantity())
        })
        .collect()
}

fn bytes(value: u64) -> Amount {
    Amount::bytes(i64::try_from(value).unwrap_or(i64::MAX))
}
