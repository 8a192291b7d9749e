//! Networks that let no UDP through.

use std::sync::mpsc;
use std::thread;

use kube_pet_tunnel::relay::{Limits, Relay, serve};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::world::{CLOUD, HOME, MARK, PORT, World, eventually};

/// Where the cloud's relay is.
const RELAY: &str = "203.0.113.2:443";

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[test]
fn netns_what_udp_does_not_reach_is_reached_over_tcp_and_udp_is_used_again_once_it_is_let_through() {
    let world = World::new();
    world.nft("nat", "table ip blocked { chain forward { type filter hook forward priority -1; meta l4proto udp drop; }; }");
    let (mut cloud, mut home) = (world.end("cloud"), world.end("home"));
    cloud.knows(&home, None);
    home.knows(&cloud, Some(crate::world::CLOUD_OUTSIDE));
    cloud.apply();
    home.apply();
    let (key, port) = (cloud.key(), home.whole_status().listen_port);
    thread::scope(|scope| {
        let (end_server, server_ends) = oneshot::channel::<()>();
        let (end_client, client_ends) = oneshot::channel::<()>();
        let (opened, address) = mpsc::channel();
        let within = &world;
        scope.spawn(move || {
            within.within("cloud", || {
                block_on(async {
                    let listener = TcpListener::bind(RELAY).await.unwrap();
                    tokio::select! {
                        () = serve(listener, PORT, Limits::default(), watch::channel(0).0) => {}
                        _ = server_ends => {}
                    }
                });
            });
        });
        scope.spawn(move || {
            within.within("home", || {
                block_on(async {
                    let relay = Relay::open(RELAY.parse().unwrap(), port, MARK.value).await.unwrap();
                    opened.send(relay.address()).unwrap();
                    let _ = client_ends.await;
                });
            });
        });
        let relay = address.recv().unwrap();
        home.peers.get_mut(&key).unwrap().relay = Some(relay);
        home.apply();
        eventually("a handshake over the relay", || {
            home.tick();
            home.status(&key).last_handshake.is_some()
        });
        assert_eq!(home.status(&key).endpoint, Some(relay));
        // Both begin, and more than a socket's buffer passes.
        let mut conversation = world.converse("home", "cloud", CLOUD);
        conversation.exchange(b"over TCP");
        conversation.transfer(20_000_000).unwrap();
        world.talk("cloud", "home", HOME);
        assert!(cloud.status(&home.key()).endpoint.unwrap().ip().is_loopback());

        // Somewhere else UDP gets through: whoever begins anew tries that first, and the other end follows.
        world.nft("nat", "delete table ip blocked");
        home.lose_link();
        home.apply();
        conversation.exchange(b"over UDP");
        assert_eq!(cloud.status(&home.key()).endpoint.unwrap().ip().to_string(), "198.51.100.2");
        drop((end_server, end_client));
    });
}
