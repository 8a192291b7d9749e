//! The relays of gateways: places on the loopback that WireGuard sends to where UDP does not get through.

use std::collections::BTreeMap;

use kube_pet_tunnel::Endpoint;
use kube_pet_tunnel::relay::{Place, Relay, UDP_AGAIN};
use tracing::warn;

use super::model::MARK;

/// Those that are open. Each costs a socket; a connection is made when WireGuard sends to it.
#[derive(Default)]
pub(super) struct Relays {
    /// WireGuard's UDP port, that they are open for.
    port: u16,
    /// With the endpoints that are tried beside them.
    open: BTreeMap<Endpoint, (Vec<Endpoint>, Relay)>,
}

impl Relays {
    /// Opens those that are wanted, with the gateways' endpoints, for WireGuard at this port, and ends the others. None are without a port. What fails is tried again
    /// with the next call.
    pub(super) async fn follow(&mut self, wanted: BTreeMap<Endpoint, Vec<Endpoint>>, port: u16) {
        if port == 0 {
            return;
        }
        if self.port != port {
            self.open.clear();
            self.port = port;
        }
        self.open.retain(|gateway, (udp, _)| wanted.get(gateway) == Some(udp));
        for (gateway, udp) in wanted {
            if self.open.contains_key(&gateway) {
                continue;
            }
            match Relay::open(gateway.clone(), udp.clone(), UDP_AGAIN, port, MARK.value).await {
                Ok(relay) => drop(self.open.insert(gateway, (udp, relay))),
                Err(error) => warn!(%gateway, %error, "a gateway's relay cannot be used; retrying"),
            }
        }
    }

    /// Where each of them is.
    pub(super) fn places(&self) -> BTreeMap<Endpoint, Place> {
        self.open.iter().map(|(gateway, (_, relay))| (gateway.clone(), relay.place())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways(texts: &[&str]) -> BTreeMap<Endpoint, Vec<Endpoint>> {
        texts.iter().map(|text| (text.parse().unwrap(), vec!["192.0.2.1:51820".parse().unwrap()])).collect()
    }

    #[tokio::test]
    async fn component_relays_follow_the_gateways_and_wireguards_port() {
        let mut relays = Relays::default();
        relays.follow(gateways(&["192.0.2.1:443"]), 0).await;
        assert!(relays.places().is_empty(), "nobody would be heard");
        relays.follow(gateways(&["192.0.2.1:443"]), 51820).await;
        let first = relays.places();
        relays.follow(gateways(&["192.0.2.1:443", "192.0.2.2:443"]), 51820).await;
        let both = relays.places();
        assert_eq!(both.len(), 2);
        assert!(first.iter().all(|open| both.iter().any(|one| one == open)), "one that is open stays where it is");
        relays.follow(gateways(&["192.0.2.2:443"]), 51820).await;
        assert_eq!(relays.places().into_keys().collect::<Vec<_>>(), ["192.0.2.2:443".parse().unwrap()]);
        relays.follow(gateways(&["192.0.2.2:443"]), 51821).await;
        assert_ne!(relays.places().values().next(), both.values().last(), "the old one hears another port");
    }
}
