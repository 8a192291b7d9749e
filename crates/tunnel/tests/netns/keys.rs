//! Another key, without a gap.

use std::time::{Duration, Instant};

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

/// Nothing else makes it speak: WireGuard asks again 15 s after what it has said without an answer.
#[test]
fn netns_another_key_is_told_although_nothing_is_said_in_intervals() {
    let world = World::new();
    let (mut cloud, mut home) = world.pair();
    let (old, gateway) = (home.key(), cloud.key());
    home.peers.get_mut(&gateway).unwrap().keepalive = 0;
    home.apply();
    world.talk("home", "cloud", CLOUD);
    eventually("nothing is under way", || {
        let before = home.status(&gateway).sent;
        std::thread::sleep(Duration::from_millis(500));
        home.status(&gateway).sent == before
    });
    home.config.settings.private_key = PrivateKey::generate().unwrap();
    let new = home.key();
    let mut waiting = cloud.peers[&old].clone();
    waiting.allowed.clear();
    cloud.peers.insert(new, waiting);
    cloud.apply();
    let begun = Instant::now();
    home.apply();
    eventually("the cloud hears of the new key", || cloud.status(&new).endpoint.is_some());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
