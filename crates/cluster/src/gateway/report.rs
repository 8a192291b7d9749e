//! What a gateway tells of itself, and the active one of the pets.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube_pet_api::{Endpoint, Pet, PetGateway, condition, conditions, set_condition};
use kube_pet_tunnel::{PeerStatus, PublicKey};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::counters::REPORTS_FAILED;
use super::desired::{keys, pets};
use super::keeper::Seen;
use super::{MANAGER, Objects, RETRY};

/// How often the pets are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// A handshake is written when the one that was written is older: a thousand pets shake hands every two minutes, and those that talk to
/// others hear of each write.
const HANDSHAKE_EVERY: Duration = Duration::from_secs(300);
pub(super) struct Reporter {
    client: Client,
    name: String,
    objects: Objects,
}

impl Reporter {
    pub(super) fn new(client: Client, name: String, objects: Objects) -> Self {
        Self { client, name, objects }
    }

    /// Never ends.
    pub(super) async fn stand_by(&self, seen: watch::Receiver<Option<Seen>>) {
        let mut told = None;
        loop {
            let connected = connected_pets(&seen);
            if told != Some(connected) {
                told = self.say(false, connected).await.then_some(connected);
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Tells pets that this gateway is active, before anything else; then what is seen of them. Never ends.
    pub(super) async fn lead(&self, seen: watch::Receiver<Option<Seen>>) {
        while !self.say(true, connected_pets(&seen)).await {
            tokio::time::sleep(RETRY / 4).await;
        }
        let mut told = connected_pets(&seen);
        loop {
            // One that has died cannot take it back.
            for other in self.objects.gateways.state() {
                let name = other.metadata.name.as_deref().unwrap_or_default();
                if name != self.name && other.status.as_ref().is_some_and(|status| status.active) {
                    let _ = self.patch_gateway(name, json!({"active": false})).await;
                }
            }
            let connected = connected_pets(&seen);
            if connected != told && self.say(true, connected).await {
                told = connected;
            }
            let status = seen.borrow().as_ref().and_then(|seen| seen.status.clone());
            if let Some(status) = status {
                self.report(&status.peers).await;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn say(&self, active: bool, connected: u32) -> bool {
        self.patch_gateway(&self.name, json!({"active": active, "connectedPets": connected})).await
    }

    async fn patch_gateway(&self, name: &str, status: Value) -> bool {
        let api: Api<PetGateway> = Api::all(self.client.clone());
        let done = api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await;
        told(&done.map(drop), "PetGateway", name)
    }

    /// Writes what has changed.
    async fn report(&self, peers: &BTreeMap<PublicKey, PeerStatus>) {
        let (now, api) = (SystemTime::now(), Api::<Pet>::all(self.client.clone()));
        for pet in self.objects.pets.state() {
            let Some(name) = pet.metadata.name.clone() else { continue };
            let Some(peer) = peer(&pet, peers) else { continue };
            let Some(status) = news(&self.name, &pet, peer, now) else { continue };
            let patch =
                json!({"apiVersion": "kube-pet.dev/v1alpha1", "kind": "Pet", "metadata": {"uid": pet.metadata.uid}, "status": status});
            let done = api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await;
            told(&done.map(drop), "Pet", &name);
        }
    }
}

fn told(done: &kube::Result<()>, kind: &str, name: &str) -> bool {
    match done {
        Ok(()) => true,
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
            debug!(kind, name, "gone or changed meanwhile");
            false
        }
        Err(error) => {
            REPORTS_FAILED.increment(&[]);
            warn!(kind, name, error = error as &dyn std::error::Error, "a status is not written; retrying");
            false
        }
    }
}

fn connected_pets(seen: &watch::Receiver<Option<Seen>>) -> u32 {
    let now = SystemTime::now();
    let seen = seen.borrow();
    let peers = seen.as_ref().and_then(|seen| seen.status.as_ref()).map(|status| &status.peers);
    let count = peers.map_or(0, |peers| pets(peers).filter(|peer| peer.is_alive(now)).count());
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What is seen of a pet, by the key that it uses.
fn peer<'a>(pet: &Pet, peers: &'a BTreeMap<PublicKey, PeerStatus>) -> Option<&'a PeerStatus> {
    let (used_by, _) = keys(pet.status.as_ref()?, peers)?;
    peers.get(&used_by)
}

/// The gateway's part of a Pet's status, if it says something else than what is written.
fn news(gateway: &str, pet: &Pet, peer: &PeerStatus, now: SystemTime) -> Option<Value> {
    let old = pet.status.clone().unwrap_or_default();
    let connected = peer.is_alive(now);
    let handshake = peer.last_handshake.and_then(|at| Timestamp::try_from(at).ok());
    let written = old.last_handshake_time.as_ref().map(|Time(at)| *at);
    let newer =
        handshake.is_some_and(|at| written.is_none_or(|written| at.duration_since(written).as_secs() >= HANDSHAKE_EVERY.as_secs() as i64));
    // Through the relay it comes from this machine: nobody else reaches it there.
    let relayed = peer.endpoint.is_some_and(|endpoint| endpoint.ip().is_loopback());
    let endpoint = peer.endpoint.filter(|_| !relayed).map(|endpoint| Endpoint { host: endpoint.ip().to_string(), port: endpoint.port() });
    let mut all = old.conditions.clone();
    let (reason, message) = match (connected, peer.last_handshake) {
        (true, _) if relayed => ("Relay", format!("the gateway {gateway} hears from it over TCP")),
        (true, _) => ("Handshake", format!("the gateway {gateway} hears from it")),
        (false, Some(_)) => ("Silent", format!("the gateway {gateway} has not heard from it for some minutes")),
        (false, None) => ("NeverHeard", format!("the gateway {gateway} has never heard from it")),
    };
    let moment = Timestamp::try_from(now).unwrap_or_default();
    let changed = set_condition(&mut all, conditions::CONNECTED, connected, reason, &message, pet.metadata.generation, moment);
    let moved = connected && (old.observed_endpoint != endpoint || old.gateway.as_deref() != Some(gateway));
    if !(changed || moved || newer && connected) {
        return None;
    }
    let mut status = json!({ "conditions": [condition(&all, conditions::CONNECTED)] });
    // A gateway that has never heard from it does not take back what another one has.
    let (last, endpoint, by) = if handshake.is_some() {
        (handshake.map(Time), endpoint, Some(gateway.to_owned()))
    } else {
        (old.last_handshake_time.clone(), old.observed_endpoint.clone(), old.gateway.clone())
    };
    if let (Some(fields), Some(last)) = (status.as_object_mut(), last) {
        fields.insert("lastHandshakeTime".into(), json!(last));
        if let Some(endpoint) = endpoint {
            fields.insert("observedEndpoint".into(), json!(endpoint));
        }
        fields.insert("gateway".into(), json!(by));
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use kube_pet_tunnel::{Implementation, Status};

    use super::*;

    fn pet(status: Value) -> Pet {
        serde_json::from_value(json!({"apiVersion": "kube-pet.dev/v1alpha1", "kind": "Pet", "metadata": {"name": "a", "generation": 1},
            "spec": {"publicKey": "", "machineID": "12345678"}, "status": status}))
        .unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn seen(handshake: Option<u64>, port: u16) -> PeerStatus {
        PeerStatus { endpoint: Some(([198, 51, 100, 2], port).into()), last_handshake: handshake.map(at), ..PeerStatus::default() }
    }

    #[test]
    fn a_pet_is_told_of_once_and_again_when_something_changes() {
        let first = news("gw", &pet(json!({})), &seen(Some(0), 4), at(1)).unwrap();
        assert_eq!(first["gateway"], "gw");
        assert_eq!(first["observedEndpoint"], json!({"host": "198.51.100.2", "port": 4}));
        assert_eq!((&first["conditions"][0]["type"], &first["conditions"][0]["status"]), (&json!("Connected"), &json!("True")));
        let known = pet(first);
        assert_eq!(news("gw", &known, &seen(Some(0), 4), at(100)), None);
        assert_eq!(news("gw", &known, &seen(Some(20), 4), at(21)), None, "not every handshake");
        assert_eq!(news("gw", &known, &seen(Some(299), 4), at(300)), None, "one in five minutes");
        assert!(news("gw", &known, &seen(Some(300), 4), at(301)).is_some());
        assert!(news("gw", &known, &seen(Some(0), 5), at(100)).is_some(), "it has another address");
        assert_eq!(news("gw2", &known, &seen(Some(0), 4), at(100)).unwrap()["gateway"], "gw2");
        let silent = news("gw", &known, &seen(Some(0), 4), at(300)).unwrap();
        assert_eq!((&silent["conditions"][0]["status"], &silent["conditions"][0]["reason"]), (&json!("False"), &json!("Silent")));
    }

    #[test]
    fn a_pet_that_comes_through_the_relay_has_no_address_that_others_could_try() {
        let known = pet(news("gw", &pet(json!({})), &seen(Some(0), 4), at(1)).unwrap());
        let relayed = PeerStatus { endpoint: Some(([127, 0, 0, 1], 9).into()), ..seen(Some(5), 0) };
        let told = news("gw", &known, &relayed, at(6)).unwrap();
        assert_eq!(told.get("observedEndpoint"), None);
        assert_eq!((&told["conditions"][0]["status"], &told["conditions"][0]["reason"]), (&json!("True"), &json!("Relay")));
        assert_eq!(news("gw", &pet(told), &relayed, at(7)), None);
    }

    #[test]
    fn a_pet_that_changes_its_key_is_seen_by_the_one_that_it_uses() {
        let (old, new) = (PublicKey::from([7; 32]), PublicKey::from([8; 32]));
        let changing = pet(json!({"publicKey": old.to_string(), "nextPublicKey": new.to_string()}));
        let peers = |of_new| BTreeMap::from([(old, seen(Some(10), 4)), (new, seen(of_new, 5))]);
        let port = |of_new| peer(&changing, &peers(of_new)).unwrap().endpoint.unwrap().port();
        assert_eq!((port(None), port(Some(20))), (4, 5));
        let (tell, told) = watch::channel(None);
        let mut both = peers(Some(20));
        both.get_mut(&new).unwrap().allowed.insert("10.99.0.7/32".parse().unwrap());
        both.values_mut().for_each(|peer| peer.last_handshake = Some(SystemTime::now()));
        let status = Status { implementation: Implementation::Userspace, listen_port: 1, peers: both };
        tell.send_replace(Some(Seen { at: std::time::Instant::now(), status: Some(std::sync::Arc::new(status)), trouble: None }));
        assert_eq!(connected_pets(&told), 1);
    }

    #[test]
    fn a_gateway_that_has_never_heard_of_it_takes_back_nothing_but_the_condition() {
        let known = pet(news("gw", &pet(json!({})), &seen(Some(0), 4), at(1)).unwrap());
        let told = news("gw2", &known, &seen(None, 4), at(100)).unwrap();
        assert_eq!((&told["gateway"], &told["conditions"][0]["reason"]), (&json!("gw"), &json!("NeverHeard")));
    }
}
