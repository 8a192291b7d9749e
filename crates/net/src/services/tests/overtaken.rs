//! Packets on their way through the rules while elements change.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn netns_no_connection_is_refused_while_endpoints_change() {
    changes_refuse_nothing(forward);
}

#[test]
fn netns_no_connection_is_refused_while_endpoints_of_the_inside_change() {
    // Nobody is where traffic from outside would go.
    let outside = || vec![at(POD2, 9)];
    changes_refuse_nothing(|few| Rule::Forward(Forward { endpoints: outside(), inside: Some(few.to_vec()), ..Forward::default() }));
}

fn changes_refuse_nothing(rule: impl Fn(&[SocketAddr]) -> Rule + Sync) {
    let net = Net::new();
    let mut table = net.table(config());
    let (served, rest) = (vip(VIP, Protocol::Tcp, 80), Frontend::rest(ip(VIP)));
    let endpoints = [at(POD1, 8080), at(POD2, 8080), at(POD1, 8081), at(POD2, 8081)];
    for (pod, place) in [("pod1", "one"), ("pod2", "two")] {
        net.serve(pod, place, 8081);
    }
    table.reconcile(&desired(&[(served, rule(&endpoints)), (rest, Rule::Reject)])).unwrap();
    let (net, done, rule) = (&net, &AtomicBool::new(false), &rule);
    let failed = std::thread::scope(|threads| {
        let changes = threads.spawn(move || {
            net.within("node", || {
                let mut changes = 0;
                while !done.load(Ordering::Relaxed) {
                    let few = [&endpoints[..], &endpoints[..1], &endpoints[1..], &endpoints[2..3]][changes % 4];
                    table.apply(&[(served, Some(rule(few)))]).unwrap();
                    changes += 1;
                }
                changes
            })
        });
        let asked = (0..20_000).map(|_| net.ask("node", at(VIP, 80)));
        let failed: Vec<_> = asked.filter_map(Result::err).map(|error| error.to_string()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(changes.join().unwrap() > 100);
        failed
    });
    assert!(failed.is_empty(), "{} of 20000: {failed:?}", failed.len());
}
