//! Networks that let no UDP through.

use std::io::{Read as _, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kube_pet_tunnel::relay::{Limits, Relay, serve};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::world::{CLOUD, CLOUD_OUTSIDE, End, HOME, MARK, PORT, World, eventually};

/// Where the cloud's relay is.
const RELAY: &str = "203.0.113.2:443";
const BLOCKED: &str = "table ip blocked { chain forward { type filter hook forward priority -1; meta l4proto udp drop; }; }";
/// How often UDP is tried.
const AGAIN: Duration = Duration::from_secs(2);

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[test]
fn netns_what_udp_does_not_reach_is_reached_over_tcp_and_udp_is_used_again_once_it_is_let_through() {
    let world = World::new();
    world.nft("nat", BLOCKED);
    let (mut cloud, mut home) = (world.end("cloud"), world.end("home"));
    cloud.knows(&home, None);
    home.knows(&cloud, Some(CLOUD_OUTSIDE));
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
                    let relay =
                        Relay::open(RELAY.parse().unwrap(), vec![CLOUD_OUTSIDE.parse().unwrap()], AGAIN, port, MARK.value).await.unwrap();
                    opened.send(relay).unwrap();
                    let _ = client_ends.await;
                });
            });
        });
        let relays = address.recv().unwrap();
        let relay = relays.place().address;
        let live = |home: &mut End<'_>| {
            home.peers.get_mut(&key).unwrap().relay = Some(relays.place());
            home.apply();
        };
        live(&mut home);
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

        // UDP is let through: it is used again, and no answer is lost.
        world.nft("nat", "delete table ip blocked");
        eventually("UDP", || {
            live(&mut home);
            conversation.exchange(b"beside TCP");
            home.status(&key).endpoint == Some(CLOUD_OUTSIDE.parse().unwrap())
        });
        conversation.exchange(b"over UDP");
        assert_eq!(cloud.status(&home.key()).endpoint.unwrap().ip().to_string(), "198.51.100.2");

        // And no more.
        world.nft("nat", BLOCKED);
        conversation.client.write_all(b"!").unwrap();
        eventually("the relay", || {
            live(&mut home);
            home.status(&key).endpoint == Some(relay)
        });
        let mut heard = [0];
        conversation.server.read_exact(&mut heard).unwrap();
        conversation.exchange(b"over TCP again");
        drop((end_server, end_client));
    });
}
