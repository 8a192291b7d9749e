use proptest::prelude::*;

use super::*;

fn uid(name: &str) -> PodUid {
    PodUid::new(name)
}
fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
fn allocator(cidrs: &[&str]) -> Allocator {
    Allocator::new(&cidrs.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(), false).unwrap()
}

#[test]
fn addresses_are_given_in_turn_and_freed_ones_come_last() {
    let mut ipam = allocator(&["10.1.0.0/29"]);
    assert_eq!(ipam.allocate(&uid("a")).unwrap(), [ip("10.1.0.1")]);
    assert_eq!(ipam.allocate(&uid("a")).unwrap(), [ip("10.1.0.1")], "asked again, the same");
    assert_eq!(ipam.allocate(&uid("b")).unwrap(), [ip("10.1.0.2")]);
    assert_eq!(ipam.release(&uid("a")), [ip("10.1.0.1")]);
    assert!(ipam.release(&uid("a")).is_empty());
    for (name, last) in [("c", 3), ("d", 4), ("e", 5), ("f", 6)] {
        assert_eq!(ipam.allocate(&uid(name)).unwrap(), [ip(&format!("10.1.0.{last}"))]);
    }
    assert_eq!(ipam.allocate(&uid("g")).unwrap(), [ip("10.1.0.1")]);
    let full = ipam.allocate(&uid("h")).unwrap_err();
    assert_eq!(full.to_string(), "pod CIDR 10.1.0.0/29 has no free address: all 6 are in use");
    assert!(ipam.get(&uid("h")).is_empty());
    ipam.release(&uid("d"));
    assert_eq!(ipam.allocate(&uid("h")).unwrap(), [ip("10.1.0.4")]);
}

#[test]
fn the_gateway_is_left_out_if_asked() {
    let mut ipam = Allocator::new(&["10.1.0.0/30".to_owned()], true).unwrap();
    assert_eq!(ipam.allocate(&uid("a")).unwrap(), [ip("10.1.0.2")]);
    assert!(matches!(ipam.allocate(&uid("b")), Err(IpamError::Exhausted { used: 1, .. })));
}

#[test]
fn two_families_give_one_address_each_in_order() {
    let mut ipam = allocator(&["fd00:1::/64", "10.1.0.0/24"]);
    assert_eq!(ipam.allocate(&uid("a")).unwrap(), [ip("fd00:1::1"), ip("10.1.0.1")]);
    ipam.reserve(&uid("b"), ip("10.1.0.9")).unwrap();
    ipam.reserve(&uid("b"), ip("fd00:1::9")).unwrap();
    assert_eq!(ipam.get(&uid("b")), [ip("fd00:1::9"), ip("10.1.0.9")]);
    // Only one address was recorded: the other one is added.
    ipam.reserve(&uid("c"), ip("10.1.0.7")).unwrap();
    assert_eq!(ipam.allocate(&uid("c")).unwrap(), [ip("fd00:1::a"), ip("10.1.0.7")]);
    assert_eq!(ipam.allocate(&uid("c")).unwrap(), [ip("fd00:1::a"), ip("10.1.0.7")]);
}

#[test]
fn reservations_are_checked() {
    let mut ipam = allocator(&["10.1.0.0/24"]);
    ipam.reserve(&uid("a"), ip("10.1.0.200")).unwrap();
    ipam.reserve(&uid("a"), ip("10.1.0.200")).unwrap();
    assert!(matches!(ipam.reserve(&uid("b"), ip("10.1.0.200")), Err(IpamError::Taken { holder, .. }) if holder == uid("a")));
    assert!(matches!(ipam.reserve(&uid("a"), ip("10.1.0.201")), Err(IpamError::Other { .. })));
    for bad in ["10.2.0.1", "10.1.0.0", "10.1.0.255", "fd00::1", "9.255.255.255"] {
        assert!(matches!(ipam.reserve(&uid("c"), ip(bad)), Err(IpamError::OutOfRange { .. })), "{bad}");
    }
    assert_eq!(ipam.allocate(&uid("d")).unwrap(), [ip("10.1.0.201")]);
    assert_eq!(ipam.holder(ip("10.1.0.200")), Some(&uid("a")));
}

#[test]
fn networks_are_checked() {
    for bad in ["", "10.1.0.0", "10.1.0.0/33", "10.1.0.0/-1", "x/24", "10.1.0.1/32", "10.1.0.0/31", "fd00::/127", "10.1.0.0/24/1"] {
        assert!(bad.parse::<Cidr>().is_err(), "{bad}");
    }
    assert_eq!("10.1.0.77/24".parse::<Cidr>().unwrap().to_string(), "10.1.0.0/24");
    assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains(ip("255.255.255.255")));
    assert!("::/0".parse::<Cidr>().unwrap().contains(ip("::1")));
    for bad in [&[][..], &["10.1.0.0/24", "10.2.0.0/24"], &["10.1.0.0/24", "fd00::/64", "fd01::/64"]] {
        let cidrs: Vec<String> = bad.iter().map(|&text| text.to_owned()).collect();
        assert!(matches!(Allocator::new(&cidrs, false), Err(IpamError::Families { .. })));
    }
}

#[test]
fn the_state_survives_being_stored() {
    let mut ipam = allocator(&["10.1.0.0/24", "fd00:1::/64"]);
    ipam.allocate(&uid("a")).unwrap();
    ipam.allocate(&uid("b")).unwrap();
    ipam.release(&uid("b"));
    let text = serde_json::to_string(&ipam).unwrap();
    let mut read: Allocator = serde_json::from_str(&text).unwrap();
    assert_eq!(read, ipam);
    assert_eq!(read.allocate(&uid("c")).unwrap()[0], ip("10.1.0.3"), "b's address is not given at once");
    let mut fresh = allocator(&["10.1.0.0/24"]);
    fresh.resume(&[9]);
    assert_eq!(fresh.allocate(&uid("a")).unwrap(), [ip("10.1.0.10")]);
    fresh.resume(&[u64::MAX - 1]);
    assert_eq!(fresh.allocate(&uid("b")).unwrap(), [ip("10.1.0.1")]);
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u8),
    Reserve(u8, u8),
    Release(u8),
    Store,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..20u8).prop_map(Step::Allocate),
        2 => (0..20u8, any::<u8>()).prop_map(|(pod, last)| Step::Reserve(pod, last)),
        3 => (0..20u8).prop_map(Step::Release),
        1 => Just(Step::Store),
    ]
}

proptest! {
    /// The books of somebody else: whatever happens, an address has one holder, is of the network, and is given while one is free.
    #[test]
    fn no_address_is_given_twice_or_lost(prefix in 26..=30u8, skip_gateway: bool, steps in prop::collection::vec(step(), 0..200)) {
        let cidr: Cidr = format!("10.1.0.0/{prefix}").parse().unwrap();
        let mut ipam = Allocator::new(&[cidr.to_string()], skip_gateway).unwrap();
        let mut books: BTreeMap<u8, IpAddr> = BTreeMap::new();
        let usable = (1usize << (32 - prefix)) - if skip_gateway { 3 } else { 2 };
        let name = |pod: u8| PodUid::new(format!("pod-{pod}"));
        for step in steps {
            match step {
                Step::Allocate(pod) => match ipam.allocate(&name(pod)) {
                    Ok(given) => {
                        prop_assert_eq!(given.len(), 1);
                        prop_assert!(cidr.contains(given[0]));
                        prop_assert!(given[0] != ip("10.1.0.0") && !(skip_gateway && given[0] == ip("10.1.0.1") && books.get(&pod) != Some(&given[0])));
                        if let Some(had) = books.insert(pod, given[0]) {
                            prop_assert_eq!(had, given[0]);
                        }
                    }
                    Err(_) => {
                        let used = books.values().filter(|address| !(skip_gateway && **address == ip("10.1.0.1"))).count();
                        prop_assert!(used >= usable && !books.contains_key(&pod));
                    }
                },
                Step::Reserve(pod, last) => {
                    let address = IpAddr::V4(Ipv4Addr::new(10, 1, 0, last));
                    if ipam.reserve(&name(pod), address).is_ok() {
                        books.insert(pod, address);
                    }
                }
                Step::Release(pod) => {
                    let freed = ipam.release(&name(pod));
                    prop_assert_eq!(freed.first().copied(), books.remove(&pod));
                }
                Step::Store => ipam = serde_json::from_str(&serde_json::to_string(&ipam).unwrap()).unwrap(),
            }
            let distinct: BTreeSet<&IpAddr> = books.values().collect();
            prop_assert_eq!(distinct.len(), books.len(), "an address has two holders");
            for (pod, address) in &books {
                let name = name(*pod);
                prop_assert_eq!(ipam.holder(*address), Some(&name));
            }
            prop_assert_eq!(ipam.pods().count(), books.len());
        }
    }
}
