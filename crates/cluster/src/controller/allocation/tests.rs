use kube_pet_api::{NodePodPrefixLength, PetSpec, PetStatus};

use super::*;

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn pet(name: &str, machine: &str) -> Pet {
    Pet::new(
        name,
        PetSpec {
            public_key: KEY.into(),
            next_public_key: None,
            endpoints: Vec::new(),
            local_endpoints: Vec::new(),
            direct: false,
            mtu: None,
            machine_id: machine.into(),
        },
    )
}

fn ranges(nodes: &[&str], pods: &[&str]) -> Ranges {
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    Ranges::of(&PetNetworkSpec {
        node_cidrs: texts(nodes),
        pod_cidrs: texts(pods),
        node_pod_prefix_length: NodePodPrefixLength::default(),
        service_cidrs: Vec::new(),
        cluster_cidrs: Vec::new(),
        mtu: 1420,
        persistent_keepalive_seconds: 25,
        reclaim_after: "1h".into(),
    })
    .unwrap()
}

fn address(pet: &Pet, text: &str) -> PetAllocation {
    range_allocation(pet, Purpose::NodeAddress, Range::address(text.parse().unwrap()))
}

fn pods(pet: &Pet, text: &str) -> PetAllocation {
    range_allocation(pet, Purpose::PodCidr, text.parse().unwrap())
}

fn shown(plan: &Plan<'_>) -> (Vec<String>, Vec<Wanted>, Vec<String>) {
    let value = |a: &PetAllocation| a.spec.value.clone();
    (plan.keep.iter().map(|(_, a)| value(a)).collect(), plan.missing.clone(), plan.surplus.iter().map(|a| value(a)).collect())
}

#[test]
fn a_new_pet_lacks_one_of_each_family() {
    let plan = plan(&pet("a", "machine-1"), &ranges(&["fd01::/64", "10.0.0.0/16"], &["10.1.0.0/16"]), &[]);
    let wanted = [(Purpose::NodeAddress, Family::V6), (Purpose::NodeAddress, Family::V4), (Purpose::PodCidr, Family::V4)];
    assert_eq!(plan.missing, wanted.map(|(purpose, family)| Wanted { purpose, family }));
    assert!(plan.keep.is_empty() && plan.surplus.is_empty());
}

#[test]
fn the_same_machine_gets_the_same_again_and_another_one_does_not() {
    let ranges = ranges(&["10.0.0.0/16"], &["10.1.0.0/16"]);
    let before = pet("a", "machine-1");
    let own = [address(&before, "10.0.0.5"), pods(&before, "10.1.2.0/24")];
    let again = plan(&pet("a", "machine-1"), &ranges, &own);
    assert_eq!(shown(&again), (vec!["10.0.0.5".into(), "10.1.2.0/24".into()], vec![], vec![]));
    for stranger in [pet("a", "machine-2"), pet("b", "machine-1")] {
        let other = plan(&stranger, &ranges, &own);
        assert_eq!((other.keep.len(), other.missing.len(), other.surplus.len()), (0, 2, 0));
    }
}

#[test]
fn what_the_status_says_stays_and_the_rest_is_given_back() {
    let ranges = ranges(&["10.0.0.0/16"], &["10.1.0.0/16"]);
    let mut pet = pet("a", "machine-1");
    let own = [address(&pet, "10.0.0.5"), address(&pet, "10.0.0.9"), pods(&pet, "10.1.2.0/24"), key_allocation(KEY, "a", "machine-1")];
    assert_eq!(shown(&plan(&pet, &ranges, &own)).0, ["10.0.0.5", "10.1.2.0/24"]);
    pet.status = Some(PetStatus { node_addresses: vec!["10.0.0.9".into()], ..PetStatus::default() });
    let sticky = shown(&plan(&pet, &ranges, &own));
    assert_eq!(sticky, (vec!["10.0.0.9".into(), "10.1.2.0/24".into()], vec![], vec!["10.0.0.5".into()]));
}

#[test]
fn the_watch_is_enough_only_where_it_has_what_the_status_says_and_the_ranges_want() {
    let one = ranges(&["10.0.0.0/16"], &["10.1.0.0/16"]);
    let (stranger, mut pet) = (pet("b", "machine-2"), pet("a", "machine-1"));
    let own = vec![address(&pet, "10.0.0.5"), pods(&pet, "10.1.2.0/24"), key_allocation(KEY, "a", "machine-1")];
    let others = [address(&stranger, "10.0.0.6")];
    let settled = |pet: &Pet, ranges: &Ranges, own: &[PetAllocation]| super::settled(pet, ranges, own.iter().chain(&others));
    assert_eq!(settled(&pet, &one, &own), None, "its status does not say so yet");
    let status = PetStatus {
        node_addresses: vec!["10.0.0.5".into()],
        pod_cidrs: vec!["10.1.2.0/24".into()],
        public_key: Some(KEY.into()),
        ..PetStatus::default()
    };
    pet.status = Some(status.clone());
    assert_eq!(settled(&pet, &one, &own), Some(own.clone()));
    assert_eq!(settled(&pet, &one, &own[1..]), None, "one was deleted");
    let more = [own.as_slice(), &[address(&pet, "10.0.0.9")]].concat();
    assert_eq!(settled(&pet, &one, &more), None, "one is to be given back");
    assert_eq!(settled(&pet, &ranges(&["10.0.0.0/16", "fd00::/64"], &["10.1.0.0/16"]), &own), None, "another family is there");
    let mut released = own.clone();
    released[0].status = Some(serde_json::from_value(serde_json::json!({"releasedAt": "2026-01-01T00:00:00Z"})).unwrap());
    assert_eq!(settled(&pet, &one, &released), None, "it is being freed");
    let mut changed = pet.clone();
    changed.metadata.generation = Some(2);
    assert_eq!(settled(&changed, &one, &own), None, "its spec has changed");
    let mut renamed = pet.clone();
    renamed.spec.machine_id = "machine-9".into();
    assert_eq!(settled(&renamed, &one, &own), None, "another machine has them");
}

#[test]
fn an_allocation_stays_when_the_ranges_change() {
    let pet = pet("a", "machine-1");
    let own = [address(&pet, "10.0.0.5"), pods(&pet, "10.1.2.0/24"), pods(&pet, "fd00::/64")];
    let plan = plan(&pet, &ranges(&["10.7.0.0/16"], &["10.8.0.0/16"]), &own);
    assert_eq!(shown(&plan), (vec!["10.0.0.5".into(), "10.1.2.0/24".into(), "fd00::/64".into()], vec![], vec![]));
}

#[test]
fn the_name_is_what_is_given_whoever_gets_it() {
    let name = |allocation: PetAllocation| allocation.metadata.name.unwrap();
    assert_eq!(name(address(&pet("a", "machine-1"), "10.0.0.5")), "node-10.0.0.5");
    assert_eq!(name(pods(&pet("b", "machine-2"), "10.1.2.0/24")), "pods-10.1.2.0-24");
    assert_eq!(name(pods(&pet("b", "machine-2"), "fd00:0:0:1::/64")), "pods-fd00-0-0-1-0-0-0-0-64");
    assert_eq!(name(key_allocation(KEY, "a", "m")), name(key_allocation(KEY, "b", "")));
    assert_ne!(seed(&pet("a", "machine-1")), seed(&pet("b", "machine-1")));
}
