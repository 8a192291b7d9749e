//! Other pets, as far as paths straight to them go. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use kube_pet_api::Pet;
use kube_pet_tunnel::{Endpoint, Neighbour, PublicKey};

/// More than these are not tried: each takes 7 s.
const MOST: usize = 8;

/// What is kept of another pet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    key: PublicKey,
    neighbour: Neighbour,
    local: Vec<Endpoint>,
    observed: Option<Endpoint>,
}

impl Other {
    /// `None`: it takes no part, is about to change its key, or has no accepted key or no addresses yet. A next key that it only names may be
    /// another's.
    pub(super) fn of(pet: &Pet) -> Option<Self> {
        let status = pet.status.as_ref().filter(|status| pet.spec.direct && status.next_public_key.is_none())?;
        let networks = status.networks();
        let endpoint = |endpoint: &kube_pet_api::Endpoint| Endpoint { host: endpoint.host.clone(), port: endpoint.port };
        let endpoints = pet.spec.endpoints.iter().map(endpoint).collect();
        let key = status.public_key.as_ref()?.parse().ok()?;
        let name = pet.metadata.name.clone().unwrap_or_default();
        (!networks.is_empty()).then(|| Self {
            key,
            neighbour: Neighbour { name, networks, endpoints },
            // A name may lead anywhere.
            local: pet.spec.local_endpoints.iter().map(endpoint).filter(|endpoint| endpoint.address().is_some()).collect(),
            observed: status.observed_endpoint.as_ref().map(endpoint),
        })
    }
}

/// All others with where they may be reached: first the addresses on their own network, where that may be this pet's, too; then what they
/// are configured with, addresses of theirs that everybody reaches, and where the gateway sees them.
pub(super) fn neighbours(own: Option<&Pet>, others: &HashMap<Arc<str>, Other>) -> BTreeMap<PublicKey, Neighbour> {
    let status = own.and_then(|pet| pet.status.as_ref());
    let seen = status.and_then(|status| status.observed_endpoint.as_ref()).map(|endpoint| endpoint.host.as_str());
    let mine: Vec<&str> = own.into_iter().flat_map(|pet| &pet.spec.local_endpoints).map(|endpoint| endpoint.host.as_str()).collect();
    let all = others.values().map(|other| {
        let near = seen.is_some() && other.observed.as_ref().map(|endpoint| endpoint.host.as_str()) == seen;
        let (everywhere, here): (Vec<_>, Vec<_>) = other.local.iter().partition(|endpoint| is_reached_everywhere(endpoint));
        let here = here.into_iter().filter(|_| near);
        let candidates = here.chain(&other.neighbour.endpoints).chain(everywhere).chain(&other.observed);
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for candidate in candidates.filter(|candidate| may_be_sent_to(candidate) && !mine.contains(&candidate.host.as_str())) {
            if !endpoints.contains(candidate) && endpoints.len() < MOST {
                endpoints.push(candidate.clone());
            }
        }
        (other.key, Neighbour { endpoints, ..other.neighbour.clone() })
    });
    all.collect()
}

/// Not private (RFC 1918, 6598 and 4193) or of a link.
fn is_reached_everywhere(endpoint: &Endpoint) -> bool {
    match endpoint.address().map(|address| address.ip()) {
        Some(IpAddr::V4(v4)) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_private() || v4.is_link_local() || (a == 100 && b & 0xc0 == 64))
        }
        Some(IpAddr::V6(v6)) => is_unicast_global(v6),
        None => false,
    }
}

/// RFC 4291: 2000::/3.
fn is_unicast_global(address: Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    first & 0xe000 == 0x2000
}

/// Another machine, if it is an address.
fn may_be_sent_to(endpoint: &Endpoint) -> bool {
    endpoint.address().map(|address| address.ip()).is_none_or(|address| {
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || broadcast)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pet(number: u8, observed: &str, local: &[&str]) -> Pet {
        let endpoint = |text: &str| {
            let Endpoint { host, port } = text.parse().unwrap();
            json!({"host": host, "port": port})
        };
        serde_json::from_value(json!({
            "apiVersion": "kube-pet.dev/v1alpha1", "kind": "Pet", "metadata": {"name": format!("pet{number}")},
            "spec": {"publicKey": "not this one", "machineID": "12345678", "direct": true,
                "localEndpoints": local.iter().map(|text| endpoint(text)).collect::<Vec<_>>()},
            "status": {"publicKey": PublicKey::from([number; 32]).to_string(), "nodeAddresses": [format!("10.99.0.{number}")],
                "podCIDRs": [format!("10.100.{number}.0/24")], "observedEndpoint": endpoint(observed)},
        }))
        .unwrap()
    }

    fn endpoints(own: &Pet, other: &Pet) -> Vec<String> {
        let others = HashMap::from([("x".into(), Other::of(other).unwrap())]);
        let found = neighbours(Some(own), &others).into_values().next().unwrap();
        found.endpoints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn private_addresses_are_for_those_who_are_seen_at_the_same_public_one() {
        let own = pet(1, "198.51.100.1:1", &["192.168.1.10:51820"]);
        let near = pet(2, "198.51.100.1:2", &["192.168.1.11:51820", "[2001:db8::2]:51820", "[fd00::2]:51820"]);
        assert_eq!(endpoints(&own, &near), ["192.168.1.11:51820", "[fd00::2]:51820", "[2001:db8::2]:51820", "198.51.100.1:2"]);
        let far = pet(2, "203.0.113.1:2", &["192.168.1.11:51820", "100.64.0.1:51820", "[2001:db8::2]:51820", "[fd00::2]:51820"]);
        assert_eq!(endpoints(&own, &far), ["[2001:db8::2]:51820", "203.0.113.1:2"]);
    }

    #[test]
    fn a_name_is_no_address_of_the_machine_itself() {
        let own = pet(1, "198.51.100.1:1", &[]);
        let near = pet(2, "198.51.100.1:2", &["elsewhere.example:51820", "192.168.1.11:51820"]);
        assert_eq!(endpoints(&own, &near), ["192.168.1.11:51820", "198.51.100.1:2"]);
    }

    #[test]
    fn what_is_configured_comes_before_what_is_seen_and_nothing_twice() {
        let own = pet(1, "198.51.100.1:1", &[]);
        let mut other = pet(2, "203.0.113.1:51820", &["203.0.113.1:51820"]);
        other.spec.endpoints = vec![kube_pet_api::Endpoint { host: "pet.example".into(), port: 7 }];
        assert_eq!(endpoints(&own, &other), ["pet.example:7", "203.0.113.1:51820"]);
    }

    #[test]
    fn nobody_is_sent_to_himself() {
        let own = pet(1, "198.51.100.1:1", &["192.168.1.10:51820"]);
        let other = pet(2, "198.51.100.1:2", &["192.168.1.10:51820", "127.0.0.1:7", "0.0.0.0:7", "224.0.0.1:7", "255.255.255.255:7"]);
        assert_eq!(endpoints(&own, &other), ["198.51.100.1:2"]);
    }

    #[test]
    fn who_takes_no_part_or_has_nothing_yet_is_no_neighbour() {
        let whole = pet(2, "198.51.100.1:2", &[]);
        assert_eq!(Other::of(&whole).unwrap().neighbour.networks.len(), 2);
        let mut unwilling = whole.clone();
        unwilling.spec.direct = false;
        let mut without_key = whole.clone();
        without_key.status.as_mut().unwrap().public_key = None;
        let mut without_addresses = whole.clone();
        let status = without_addresses.status.as_mut().unwrap();
        (status.node_addresses, status.pod_cidrs) = (Vec::new(), Vec::new());
        let mut changing = whole.clone();
        changing.spec.next_public_key = Some(PublicKey::from([9; 32]).to_string());
        assert_eq!(Other::of(&changing), Other::of(&whole), "nobody has accepted that key yet");
        changing.status.as_mut().unwrap().next_public_key = changing.spec.next_public_key.clone();
        for pet in [unwilling, changing, without_key, without_addresses, Pet { status: None, ..whole }] {
            assert_eq!(Other::of(&pet), None);
        }
    }
}
