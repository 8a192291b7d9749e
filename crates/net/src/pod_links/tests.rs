//! Real packets between namespaces that the tests make themselves.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use kube_pet_host::mounts;
use kube_pet_host::namespaces::{Kind, create};

use super::*;
use crate::addresses::{default_route, host_addresses};

/// A "node", two "pods" and a machine "outside", each a network namespace; the test's own one is not touched.
pub(crate) struct Scene(tempfile::TempDir);
impl Scene {
    pub(crate) fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        for name in ["node", "pod1", "pod2", "outside"] {
            create(&[(Kind::Net, &scene.path(name))], || Ok(())).unwrap();
        }
        scene.node(|| loopback_up().unwrap());
        scene
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn node<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        run_in_netns(&self.path("node"), inside).unwrap()
    }
    pub(crate) fn within<T: Send>(&self, name: &str, inside: impl FnOnce() -> T + Send) -> T {
        run_in_netns(&self.path(name), inside).unwrap()
    }
    /// What the agent does for a pod.
    pub(crate) fn link(&self, pod: &str, host_name: &str, addresses: &[IpAddr]) -> Result<(), PodLinkError> {
        let netns = self.path(pod);
        let link = PodLink { netns: &netns, host_name, alias: "kube-pet test", addresses, mtu: 1400, source: None };
        self.node(|| ensure(&link))
    }
    /// A TCP connection from one namespace to an address in another, with data both ways; the server tells who connected.
    fn talk(&self, from: &str, to: &str, address: IpAddr) -> io::Result<IpAddr> {
        let listener = run_in_netns(&self.path(to), || TcpListener::bind((address, 0))).unwrap()?;
        let target = listener.local_addr()?;
        let server = std::thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
            peer.ip()
        });
        let mut stream = run_in_netns(&self.path(from), || TcpStream::connect_timeout(&target, Duration::from_secs(2))).unwrap()?;
        stream.write_all(b"ping")?;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes)?;
        assert_eq!(&bytes, b"ping");
        Ok(server.join().unwrap())
    }
    /// Gives the node an address that others could reach, on a link to nowhere.
    pub(crate) fn give_node(&self, address: IpAddr) {
        self.node(|| {
            let mut socket = RouteSocket::open().unwrap();
            let free = (0..).find(|n| index_of(&mut socket, &format!("up{n}")).is_err()).unwrap();
            let (near, far) = (format!("up{free}"), format!("end{free}"));
            let mut pair = named(&near);
            pair.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(named(&far)))),
            ]));
            socket.change("making", &near, RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE).unwrap();
            switch_on(&mut socket, &near).unwrap();
            switch_on(&mut socket, &far).unwrap();
            let index = index_of(&mut socket, &near).unwrap();
            add_address(&mut socket, &near, index, address, AddressScope::Universe).unwrap();
        });
    }
    /// A way to everywhere, as machines have one: a packet is given its destination after a route for it was found.
    pub(crate) fn default_route(&self, link: &str, like: IpAddr) {
        self.node(|| {
            let mut socket = RouteSocket::open().unwrap();
            let index = index_of(&mut socket, link).unwrap();
            let mut default = route(like, 0, index, RouteScope::Link);
            default.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Destination(_)));
            replace_route(&mut socket, like, default).unwrap();
        });
    }
}
impl Drop for Scene {
    fn drop(&mut self) {
        let _ = mounts::unmount_below(self.0.path());
    }
}

/// Takes the loopback's address from the calling thread's namespace: what is sent there takes the default route.
pub(crate) fn loopback_away() {
    let mut socket = RouteSocket::open().unwrap();
    let mut message = AddressMessage::default();
    message.header.family = family(ip("127.0.0.1"));
    message.header.prefix_len = 8;
    message.header.index = index_of(&mut socket, "lo").unwrap();
    message.attributes = vec![AddressAttribute::Local(ip("127.0.0.1"))];
    socket.change("taking the address of", "lo", RouteNetlinkMessage::DelAddress(message), 0).unwrap();
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn netns_pods_reach_each_other_and_the_node_over_ipv4() {
    let scene = Scene::new();
    scene.give_node(ip("192.0.2.10"));
    scene.link("pod1", "kpaaaaaaaaaa", &[ip("10.9.0.5")]).unwrap();
    scene.link("pod2", "kpbbbbbbbbbb", &[ip("10.9.0.6")]).unwrap();
    assert_eq!(scene.talk("pod1", "pod2", ip("10.9.0.6")).unwrap(), ip("10.9.0.5"), "pods see each other's real addresses");
    assert_eq!(scene.talk("node", "pod1", ip("10.9.0.5")).unwrap(), ip("192.0.2.10"), "the node shows its own address, not the gateway's");
    assert_eq!(scene.talk("pod1", "node", ip("192.0.2.10")).unwrap(), ip("10.9.0.5"));
    assert_eq!(scene.talk("pod1", "pod1", ip("10.9.0.5")).unwrap(), ip("10.9.0.5"));
    assert_eq!(scene.talk("pod1", "pod1", ip("127.0.0.1")).unwrap(), ip("127.0.0.1"));
}

#[test]
fn netns_pods_reach_each_other_and_the_node_over_ipv6() {
    let scene = Scene::new();
    scene.give_node(ip("2001:db8::10"));
    scene.link("pod1", "kpaaaaaaaaaa", &[ip("10.9.0.5"), ip("fd00:9::5")]).unwrap();
    scene.link("pod2", "kpbbbbbbbbbb", &[ip("10.9.0.6"), ip("fd00:9::6")]).unwrap();
    assert_eq!(scene.talk("pod1", "pod2", ip("fd00:9::6")).unwrap(), ip("fd00:9::5"));
    assert_eq!(scene.talk("node", "pod2", ip("fd00:9::6")).unwrap(), ip("2001:db8::10"));
    assert_eq!(scene.talk("pod2", "pod1", ip("10.9.0.5")).unwrap(), ip("10.9.0.6"));
}

#[test]
fn netns_large_datagrams_and_the_mtu() {
    let scene = Scene::new();
    scene.link("pod1", "kpaaaaaaaaaa", &[ip("10.9.0.5")]).unwrap();
    scene.link("pod2", "kpbbbbbbbbbb", &[ip("10.9.0.6")]).unwrap();
    let server = run_in_netns(&scene.path("pod2"), || UdpSocket::bind("10.9.0.6:0").unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let client = run_in_netns(&scene.path("pod1"), || UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    let target: SocketAddr = server.local_addr().unwrap();
    client.send_to(&[7; 8000], target).unwrap();
    let mut bytes = [0; 9000];
    assert_eq!(server.recv(&mut bytes).unwrap(), 8000);
    let mtu = run_in_netns(&scene.path("pod1"), || fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/mtu").unwrap()).unwrap();
    assert_eq!(mtu.trim(), "1400");
}

#[test]
fn netns_a_second_call_disturbs_nothing_and_repairs_what_is_missing() {
    let scene = Scene::new();
    let addresses = [ip("10.9.0.5"), ip("fd00:9::5")];
    scene.link("pod1", "kpaaaaaaaaaa", &addresses).unwrap();
    let index = || scene.node(|| index_of(&mut RouteSocket::open().unwrap(), "kpaaaaaaaaaa").unwrap());
    let before = index();
    // An open connection must live on.
    let listener = run_in_netns(&scene.path("pod1"), || TcpListener::bind("10.9.0.5:0").unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let mut client = scene.node(|| TcpStream::connect_timeout(&target, Duration::from_secs(2)).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    scene.link("pod1", "kpaaaaaaaaaa", &addresses).unwrap();
    assert_eq!(index(), before);
    client.write_all(b"still there").unwrap();
    let mut bytes = [0; 11];
    server.read_exact(&mut bytes).unwrap();
    // Somebody has removed the routes.
    scene.node(|| {
        let mut socket = RouteSocket::open().unwrap();
        let gone = route(ip("10.9.0.5"), 32, before, RouteScope::NoWhere);
        socket.change("deleting", "route", RouteNetlinkMessage::DelRoute(gone), 0).unwrap();
    });
    assert!(scene.talk("node", "pod1", ip("10.9.0.5")).is_err());
    scene.node(|| ensure_routes("kpaaaaaaaaaa", &addresses, None).unwrap());
    scene.talk("node", "pod1", ip("10.9.0.5")).unwrap();
    assert_eq!(pod_addresses(&scene.path("pod1")).unwrap(), addresses);
    // A pod keeps the address that it uses.
    assert!(matches!(scene.link("pod1", "kpaaaaaaaaaa", &[ip("10.9.0.9")]), Err(PodLinkError::OtherAddresses { .. })));
}

#[test]
fn netns_a_leftover_end_is_replaced() {
    let scene = Scene::new();
    // The name belongs to the link of another pod; then the pod's link has its other end elsewhere.
    scene.link("pod2", "kpaaaaaaaaaa", &[ip("10.9.0.6")]).unwrap();
    scene.link("pod1", "kpaaaaaaaaaa", &[ip("10.9.0.5")]).unwrap();
    scene.talk("node", "pod1", ip("10.9.0.5")).unwrap();
    assert!(pod_addresses(&scene.path("pod2")).unwrap().is_empty());
    scene.link("pod1", "kpcccccccccc", &[ip("10.9.0.5")]).unwrap();
    scene.talk("node", "pod1", ip("10.9.0.5")).unwrap();
    assert_eq!(scene.node(|| list("kp", 10).unwrap()).len(), 1);
}

#[test]
fn netns_removed_links_leave_nothing_and_only_own_links_are_listed() {
    let scene = Scene::new();
    scene.link("pod1", "kpaaaaaaaaaa", &[ip("10.9.0.5")]).unwrap();
    scene.link("pod2", "kp1bbbbbbbbbb", &[ip("10.9.0.6")]).unwrap();
    scene.give_node(ip("192.0.2.10"));
    assert_eq!(scene.node(|| list("kp", 10).unwrap()), [FoundLink { name: "kpaaaaaaaaaa".into(), alias: "kube-pet test".into() }]);
    assert_eq!(scene.node(|| list("kp1", 10).unwrap()).len(), 1);
    assert!(scene.node(|| remove("kpaaaaaaaaaa").unwrap()));
    assert!(!scene.node(|| remove("kpaaaaaaaaaa").unwrap()));
    assert!(pod_addresses(&scene.path("pod1")).unwrap().is_empty());
    let left = scene.node(|| host_addresses().unwrap());
    assert!(!left.iter().any(|address| address.interface == "kpaaaaaaaaaa"));
}

#[test]
fn netns_the_nodes_own_addresses_and_default_route_are_found() {
    let scene = Scene::new();
    assert_eq!(scene.node(|| default_route(false).unwrap()), None);
    scene.give_node(ip("192.0.2.10"));
    scene.link("pod1", "kpaaaaaaaaaa", &[ip("10.9.0.5"), ip("fd00:9::5")]).unwrap();
    let global: Vec<_> = scene.node(|| host_addresses().unwrap()).into_iter().filter(|address| address.global).collect();
    assert_eq!(global.len(), 1, "{global:?}");
    assert_eq!((global[0].address, global[0].interface.as_str(), global[0].up), (ip("192.0.2.10"), "up0", true));
    // Seen from a pod, which has a default route.
    let route = run_in_netns(&scene.path("pod1"), || default_route(false).unwrap()).unwrap().unwrap();
    assert_eq!((route.interface.as_str(), route.gateway, route.source), ("eth0", Some(IpAddr::V4(GATEWAY_V4)), Some(ip("10.9.0.5"))));
    let route = run_in_netns(&scene.path("pod1"), || default_route(true).unwrap()).unwrap().unwrap();
    assert_eq!((route.gateway, route.source), (Some(IpAddr::V6(GATEWAY_V6)), Some(ip("fd00:9::5"))));
}

#[test]
fn netns_a_source_that_the_node_does_not_have_is_no_obstacle() {
    let scene = Scene::new();
    scene.give_node(ip("192.0.2.10"));
    scene.node(|| {
        let mut socket = RouteSocket::open().unwrap();
        let index = index_of(&mut socket, "up0").unwrap();
        add_address(&mut socket, "up0", index, ip("192.0.2.11"), AddressScope::Universe).unwrap();
    });
    scene.link("pod1", "kpaaaaaaaaaa", &[ip("10.9.0.5")]).unwrap();
    scene.node(|| ensure_routes("kpaaaaaaaaaa", &[ip("10.9.0.5")], Some(ip("192.0.2.11"))).unwrap());
    assert_eq!(scene.talk("node", "pod1", ip("10.9.0.5")).unwrap(), ip("192.0.2.11"));
    scene.node(|| ensure_routes("kpaaaaaaaaaa", &[ip("10.9.0.5")], Some(ip("198.51.100.1"))).unwrap());
    assert_eq!(scene.talk("node", "pod1", ip("10.9.0.5")).unwrap(), ip("192.0.2.10"));
}

#[test]
fn netns_a_node_that_loses_its_address_still_reaches_its_pods() {
    let scene = Scene::new();
    scene.give_node(ip("192.0.2.10"));
    scene.link("pod1", "kpaaaaaaaaaa", &[ip("10.9.0.5")]).unwrap();
    scene.node(|| remove("up0").unwrap());
    assert_eq!(scene.talk("node", "pod1", ip("10.9.0.5")).unwrap(), ip("169.254.1.1"));
    scene.give_node(ip("192.0.2.77"));
    scene.node(|| ensure_routes("kpaaaaaaaaaa", &[ip("10.9.0.5")], None).unwrap());
    assert_eq!(scene.talk("node", "pod1", ip("10.9.0.5")).unwrap(), ip("192.0.2.77"));
}

#[test]
fn names_that_are_no_links_are_refused() {
    for name in ["", "a/b", "..", "sixteen-letters-", "with space"] {
        let link = PodLink { netns: Path::new("/nonexistent"), host_name: name, alias: "", addresses: &[], mtu: 1500, source: None };
        assert!(matches!(ensure(&link), Err(PodLinkError::InvalidName { .. })), "{name:?}");
    }
}
