//! `dnsCache`: its settings, and how they are read.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use kube_pet_net::pod_links::GATEWAY_V4;
use serde::Serialize;

use super::NodeConfiguration;
use super::duration;
use super::section::Section;

/// `dnsCache`
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsCacheSettings {
    /// Whether the agent answers pods from a cache of the cluster's DNS.
    pub enabled: bool,
    /// Where it listens, on the node's loopback.
    pub address: Ipv4Addr,
    /// How many answers it knows.
    pub max_entries: u32,
    /// How long after its time an answer is told where the cluster's DNS gives none.
    #[serde(serialize_with = "duration::serialize")]
    pub max_stale: Duration,
}

impl Default for DnsCacheSettings {
    /// Off. The address is that of Kubernetes' own node-local cache.
    fn default() -> Self {
        Self {
            enabled: false,
            address: Ipv4Addr::new(169, 254, 20, 10),
            max_entries: 10_000,
            max_stale: Duration::from_secs(3 * 24 * 3600),
        }
    }
}

/// After the settings of the network, which it must fit.
pub(super) fn read(top: &Section<'_>, config: &mut NodeConfiguration) {
    let section = top.section("dnsCache");
    let cache = &mut config.dns_cache;
    section.bool("enabled", &mut cache.enabled);
    if let Some(field) = section.field("address")
        && let Some(address) = field.ip()
    {
        match address {
            IpAddr::V4(v4) if is_usable(v4) => cache.address = v4,
            IpAddr::V4(v4) => field.problem(format!("pods cannot ask at {v4}"), "write an address that nobody has, such as 169.254.20.10"),
            IpAddr::V6(_) => field.problem("is not an IPv4 address", "write an address that nobody has, such as 169.254.20.10"),
        }
    }
    section.number("maxEntries", 100..=1_000_000, &mut cache.max_entries);
    section.duration("maxStale", Duration::ZERO, &mut cache.max_stale);
    if cache.enabled {
        if config.cluster_dns.is_empty() {
            section.conflict("enabled", "needs clusterDNS: there is nobody to ask", "set clusterDNS, or turn the cache off");
        }
        let address = IpAddr::V4(cache.address);
        let taken = [
            (config.cluster_dns.contains(&address), "is in clusterDNS: the cache would ask itself"),
            (config.node_ip.contains(&address), "is the node's own address"),
            (config.pod_cidr.iter().any(|net| net.contains(address)), "is in podCIDR: a pod could get it"),
        ];
        for (_, what) in taken.iter().filter(|(taken, _)| *taken) {
            section.conflict("address", what, "write an address that nobody has, such as 169.254.20.10");
        }
    }
    section.finish();
}

fn is_usable(address: Ipv4Addr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address == GATEWAY_V4)
}
