//! Another key, without a gap.

use std::time::Duration;

use kube_pet_tunnel::PrivateKey;

use crate::world::{CLOUD, World, eventually};

#[test]
fn netns_a_key_is_exchanged_under_a_connection() {
    let world = World::new();
    let (mut cloud, mut home) = world.pair();
    let mut conversation = world.converse("home", "cloud", CLOUD);
    conversation.exchange(b"with the old key");
    let old = home.key();
    // The cloud learns of the new one beside the old one, which keeps the networks until the new one is used.
    home.config.settings.private_key = PrivateKey::generate().unwrap();
    let new = home.key();
    let mut waiting = cloud.peers[&old].clone();
    let networks = std::mem::take(&mut waiting.allowed);
    cloud.peers.insert(new, waiting);
    cloud.apply();
    conversation.exchange(b"still with the old key");
    home.apply();
    eventually("a handshake with the new key", || cloud.status(&new).last_handshake.is_some() || cloud.status(&new).endpoint.is_some());
    cloud.peers.remove(&old);
    cloud.peers.get_mut(&new).unwrap().allowed = networks;
    cloud.apply();
    conversation.client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    conversation.exchange(b"with the new key");
    assert!(cloud.status(&new).received > 0);
}
