use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_pet_api::{PetAllocationSpec, PetAllocationStatus, PetGatewaySpec, PetSpec, PetStatus};

use super::*;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pet(name: &str, machine: &str, node_gone: Option<i64>) -> Arc<Pet> {
    let spec = PetSpec {
        public_key: "key".into(),
        next_public_key: None,
        endpoints: Vec::new(),
        local_endpoints: Vec::new(),
        direct: false,
        mtu: None,
        machine_id: machine.into(),
    };
    let mut pet = Pet::new(name, spec);
    let mut status = PetStatus::default();
    let since = at(node_gone.unwrap_or(0));
    set_condition(&mut status.conditions, conditions::NODE_PRESENT, node_gone.is_none(), "Node", "", None, since);
    pet.status = Some(status);
    Arc::new(pet)
}

fn allocation(owner: &str, machine: &str, purpose: Purpose, released: Option<i64>) -> Arc<PetAllocation> {
    let value = if purpose == Purpose::PublicKey { "key" } else { "10.0.0.1" };
    let mut allocation =
        PetAllocation::new("a", PetAllocationSpec { purpose, value: value.into(), owner: owner.into(), machine_id: machine.into() });
    allocation.status = Some(PetAllocationStatus { released_at: released.map(|second| Time(at(second))) });
    Arc::new(allocation)
}

fn known(pets: &[&Arc<Pet>], allocations: &[&Arc<PetAllocation>]) -> Known {
    let (pets, allocations) = (pets.iter().copied().cloned().collect(), allocations.iter().copied().cloned().collect());
    Known { pets, allocations, gateways: Vec::new() }
}

#[test]
fn an_allocation_is_released_kept_and_freed() {
    let fresh = allocation("a", "machine-1", Purpose::NodeAddress, None);
    let released = allocation("a", "machine-1", Purpose::NodeAddress, Some(1000));
    assert_eq!(deeds(&known(&[], &[&fresh]), HOUR, at(2000)), [Deed::Release(fresh.clone())]);
    assert_eq!(deeds(&known(&[], &[&released]), HOUR, at(1000 + 3599)), []);
    assert_eq!(deeds(&known(&[], &[&released]), HOUR, at(1000 + 3600)), [Deed::Free(released.clone())]);
    assert_eq!(deeds(&known(&[], &[&released]), NEVER, at(1_000_000)), [], "nobody has said how long");
    let own = pet("a", "machine-1", None);
    assert_eq!(deeds(&known(&[&own], &[&fresh, &released]), HOUR, at(9000)), [], "the pet is there");
    let other = pet("a", "machine-2", None);
    assert_eq!(deeds(&known(&[&other], &[&fresh]), HOUR, at(9000)), [Deed::Release(fresh)], "another machine of the name");
}

#[test]
fn a_pet_without_a_node_is_forgotten_in_the_end() {
    let gone = pet("a", "machine-1", Some(1000));
    assert_eq!(deeds(&known(&[&gone], &[]), HOUR, at(1000 + 3599)), []);
    assert_eq!(deeds(&known(&[&gone], &[]), HOUR, at(1000 + 3600)), [Deed::Forget(gone, at(1000))]);
    assert_eq!(deeds(&known(&[&pet("a", "machine-1", None)], &[]), HOUR, at(1_000_000)), []);
}

#[test]
fn keys_are_free_with_their_owner() {
    let key = allocation("a", "machine-1", Purpose::PublicKey, None);
    assert_eq!(deeds(&known(&[], &[&key]), HOUR, at(0)), [Deed::Free(key)]);
    let of_gateway = allocation("g", "", Purpose::PublicKey, None);
    let gateway = |key: &str| {
        let spec = PetGatewaySpec { public_key: key.into(), endpoints: Vec::new(), relay: None, tunnel_addresses: Vec::new() };
        vec![Arc::new(PetGateway::new("g", spec))]
    };
    let with = |gateways| Known { gateways, ..known(&[], &[&of_gateway]) };
    assert_eq!(deeds(&with(gateway("key")), HOUR, at(0)), []);
    assert_eq!(deeds(&with(gateway("new")), HOUR, at(0)), [Deed::Free(of_gateway.clone())]);
}

#[test]
fn durations_are_those_of_kubernetes() {
    assert_eq!(reclaim_after("168h"), SignedDuration::from_hours(168));
    assert_eq!(reclaim_after("1m30s"), SignedDuration::from_secs(90));
    assert_eq!(reclaim_after("soon"), NEVER);
    assert_eq!(pause(SignedDuration::from_secs(2)), Duration::from_secs(1));
    assert_eq!(pause(NEVER), Duration::from_secs(15));
}
