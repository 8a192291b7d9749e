//! What leads nowhere is told at once.

use super::*;

#[test]
fn netns_no_endpoint_is_refused_at_once_and_a_change_is_seen() {
    let net = Net::new();
    let mut table = net.table(config());
    let frontend = vip(VIP, Protocol::Tcp, 80);
    table.reconcile(&desired(&[(frontend, Rule::Reject)])).unwrap();
    for from in ["pod1", "node", "outside"] {
        assert!(net.refused(from, at(VIP, 80)), "{from}");
    }
    table.apply(&[(frontend, Some(forward(&[at(POD2, 8080)])))]).unwrap();
    assert_eq!(net.answers("pod1", at(VIP, 80)), set(["pod2 10.9.0.5"]));
    table.apply(&[(frontend, Some(forward(&[at(POD2, 8080), at(POD1, 8080)])))]).unwrap();
    assert_eq!(net.answers("outside", at(VIP, 80)).len(), 2);
    table.apply(&[(frontend, Some(forward(&[at(POD1, 8080)])))]).unwrap();
    assert_eq!(net.answers("outside", at(VIP, 80)), set(["pod1 198.51.100.7"]));
    table.apply(&[(frontend, Some(Rule::Drop))]).unwrap();
    assert!(net.dropped("outside", at(VIP, 80)));
    table.apply(&[(frontend, None)]).unwrap();
    assert!(net.dropped("outside", at(VIP, 80)), "nobody has the address");
    assert!(table.rules().is_empty());
}

/// Whether a datagram is answered by "port unreachable".
fn udp_refused(net: &Net, from: &str, to: SocketAddr) -> bool {
    let socket = net.within(from, || UdpSocket::bind(("::", 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let to = match to {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 @ SocketAddr::V6(_) => v6,
    };
    socket.connect(to).unwrap();
    // What the node itself sends is refused on the spot.
    let _ = socket.send(b"?");
    socket.recv(&mut [0; 8]).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

#[test]
fn netns_ports_of_a_cluster_ip_that_no_service_has_are_refused() {
    let net = Net::new();
    let mut table = net.table(config());
    for (address, pod) in [(VIP, POD2), ("fd00:96::20", "fd00:9::6")] {
        let (served, rest) = (vip(address, Protocol::Tcp, 80), Frontend::rest(ip(address)));
        table.apply(&[(served, Some(forward(&[at(pod, 8080)]))), (rest, Some(Rule::Reject))]).unwrap();
        for from in ["pod1", "node", "outside"] {
            assert!(net.ask(from, at(address, 80)).unwrap().starts_with("pod2"));
            assert!(net.refused(from, at(address, 81)), "{from} to {address}");
            assert!(udp_refused(&net, from, at(address, 80)), "{from} to {address} by UDP");
        }
        table.apply(&[(served, None)]).unwrap();
        assert!(net.refused("pod1", at(address, 80)), "the address stays closed");
        table.apply(&[(served, Some(forward(&[at(pod, 8080)]))), (rest, None)]).unwrap();
        assert!(
            !net.refused("outside", at(address, 81)) && net.ask("outside", at(address, 80)).is_ok(),
            "an external IP may be somebody's"
        );
    }
    assert_eq!(table.repair().unwrap(), Repaired::default());
}
