//! A Pet gets its addresses and its key, and its Node what a node cannot give itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt as _};
use kube_pet_api::{
    NETWORK, Pet, PetAllocation, PetGateway, PetNetwork, PetStatus, Purpose, ROLE_LABEL, condition, conditions, reasons, set_condition,
};
use serde_json::json;
use tracing::{debug, warn};

use super::allocation::{Ranges, Wanted, is_of, key_allocation, plan, range_allocation, range_of, seed, settled};
use super::claims::{ClaimError, Claimed, Claims, name_of};
use super::counters::{ERRORS, KEYS_REFUSED};
use super::ranges::{Range, Taken, free};

/// The field manager of what the controller writes.
pub const MANAGER: &str = "kube-pet-controller";
/// Everything is looked at again after this time, whatever happens.
const RESYNC: Duration = Duration::from_secs(600);
/// Where a range is full or a key is another's: that may change without the Pet.
const UNSETTLED: Duration = Duration::from_secs(30);

/// What reconciling needs.
pub struct Context {
    pub client: Client,
    pub claims: Claims,
    pub networks: Store<PetNetwork>,
    pub allocations: Store<PetAllocation>,
    pub gateways: Store<PetGateway>,
    pub nodes: Store<Node>,
}

/// The controller's part of a Pet's status, as it is to be.
struct Outcome {
    status: PetStatus,
    surplus: Vec<PetAllocation>,
}

/// One pass.
pub async fn reconcile(pet: Arc<Pet>, context: Arc<Context>) -> Result<Action, ClaimError> {
    if pet.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let name = pet.name_any();
    let own = match known(&pet, &context) {
        Some(own) => own,
        None => context.claims.of_owner(&name).await?,
    };
    let node = context.nodes.get(&ObjectRef::new(&name));
    let mut outcome = Outcome { status: pet.status.clone().unwrap_or_default(), surplus: Vec::new() };
    outcome.status.observed_generation = pet.metadata.generation;
    addresses(&pet, &context, &own, node.as_deref(), &mut outcome).await?;
    public_keys(&pet, &context, &own, &mut outcome).await?;
    node_conditions(&pet, node.as_deref(), &mut outcome.status);
    write_status(&pet, &context, &outcome.status).await?;
    // Only now: what the status said before may still be in use.
    for surplus in &outcome.surplus {
        context.claims.free(surplus).await?;
    }
    if let Some(node) = node {
        furnish(&node, &outcome.status, &context).await?;
    }
    let is_true = |kind| condition(&outcome.status.conditions, kind).is_some_and(|c| c.status == "True");
    let settled = is_true(conditions::ALLOCATED) && is_true(conditions::KEY_ACCEPTED);
    Ok(Action::requeue(if settled { RESYNC } else { UNSETTLED }))
}

/// What the pet has, if the watch is enough to know that it has all.
fn known(pet: &Pet, context: &Context) -> Option<Vec<PetAllocation>> {
    let network = context.networks.get(&ObjectRef::new(NETWORK))?;
    let ranges = Ranges::of(&network.spec).ok()?;
    settled(pet, &ranges, context.allocations.state().iter().map(|allocation| &**allocation))
}

/// After a failed pass.
pub fn retry(pet: Arc<Pet>, error: &ClaimError, _: Arc<Context>) -> Action {
    if error.is_conflict() || error.is_gone() {
        debug!(pet = pet.name_any(), error = error as &dyn std::error::Error, "somebody was faster; looking again");
        return Action::requeue(Duration::from_millis(200));
    }
    ERRORS.increment(&["Pet"]);
    warn!(pet = pet.name_any(), error = error as &dyn std::error::Error, "reconciling failed; retrying");
    Action::requeue(Duration::from_secs(5))
}

async fn addresses(
    pet: &Pet,
    context: &Context,
    own: &[PetAllocation],
    node: Option<&Node>,
    outcome: &mut Outcome,
) -> Result<(), ClaimError> {
    let mut refuse = |reason: &str, message: &str| set(&mut outcome.status, pet, conditions::ALLOCATED, false, reason, message);
    let Some(network) = context.networks.get(&ObjectRef::new(NETWORK)) else {
        refuse(reasons::NO_NETWORK, "there is no PetNetwork named default, so there are no ranges to allocate from");
        return Ok(());
    };
    let ranges = match Ranges::of(&network.spec) {
        Ok(ranges) => ranges,
        Err(error) => {
            refuse("InvalidPetNetwork", &error.to_string());
            return Ok(());
        }
    };
    let plan = plan(pet, &ranges, own);
    let mut have = Vec::new();
    for (wanted, allocation) in &plan.keep {
        have.push((*wanted, context.claims.revive((*allocation).clone()).await?));
    }
    let mut exhausted = Vec::new();
    for wanted in &plan.missing {
        match allocate(pet, context, &ranges, *wanted, node).await? {
            Some(allocation) => have.push((*wanted, allocation)),
            None => exhausted.push(*wanted),
        }
    }
    let of = |purpose| have.iter().filter(move |(wanted, _)| wanted.purpose == purpose).map(|(_, a)| a.spec.value.clone());
    outcome.status.node_addresses = of(Purpose::NodeAddress).collect();
    outcome.status.pod_cidrs = of(Purpose::PodCidr).collect();
    outcome.surplus.extend(plan.surplus.into_iter().cloned());
    match exhausted.first() {
        Some(Wanted { purpose, .. }) => {
            let what = if *purpose == Purpose::NodeAddress { "nodeCIDRs have no free address" } else { "podCIDRs have no free pod CIDR" };
            let message = format!("the PetNetwork's {what}; add a range to it");
            set(&mut outcome.status, pet, conditions::ALLOCATED, false, reasons::EXHAUSTED, &message);
        }
        None => {
            let message = [outcome.status.node_addresses.as_slice(), &outcome.status.pod_cidrs].concat().join(", ");
            set(&mut outcome.status, pet, conditions::ALLOCATED, true, "Allocated", &message);
        }
    }
    Ok(())
}

async fn allocate(
    pet: &Pet,
    context: &Context,
    ranges: &Ranges,
    wanted: Wanted,
    node: Option<&Node>,
) -> Result<Option<PetAllocation>, ClaimError> {
    let (source, prefix) = ranges.source(wanted);
    let taken = taken(pet, context);
    // What the status says although its allocation is gone, and what the Node has from somebody else, are the first to try.
    let status = pet.status.iter().flat_map(|s| s.node_addresses.iter().chain(&s.pod_cidrs));
    let of_node = node.iter().flat_map(|node| pod_cidrs(node));
    let known: Vec<Range> =
        status.chain(of_node).filter_map(|text| text.parse().ok().or_else(|| Some(Range::address(text.parse().ok()?)))).collect();
    let fits = |range: &Range| {
        range.family() == wanted.family && range.prefix() == prefix && source.iter().any(|s| s.contains(range)) && !taken.overlaps(range)
    };
    let candidates = known.into_iter().filter(fits).chain(free(source, wanted.family, prefix, seed(pet), &taken));
    let candidates = candidates.map(|range| range_allocation(pet, wanted.purpose, range));
    context.claims.first_free(pet, candidates).await
}

/// What is known to be in use. It may be old: whether something is free is for the API server to say.
fn taken(pet: &Pet, context: &Context) -> Taken {
    let allocations = context.allocations.state();
    let allocated = allocations.iter().filter(|a| !is_of(&a.spec, pet)).filter_map(|a| range_of(&a.spec));
    let nodes = context.nodes.state();
    let others: Vec<_> = nodes.iter().filter(|node| node.metadata.name != pet.metadata.name).collect();
    let pods = others.iter().flat_map(|node| pod_cidrs(node)).filter_map(|text| text.parse().ok());
    let nodes = others.iter().flat_map(|node| node_addresses(node)).map(Range::address);
    let gateways = context.gateways.state();
    let gateways = gateways.iter().flat_map(|gateway| &gateway.spec.tunnel_addresses);
    let gateways = gateways.filter_map(|text| text.parse().ok()).map(Range::address);
    allocated.chain(pods).chain(nodes).chain(gateways).collect()
}

fn pod_cidrs(node: &Node) -> impl Iterator<Item = &String> {
    node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten())
}

/// The IP addresses in a Node's status, which the node itself writes.
pub fn node_addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.filter_map(|address| address.address.parse().ok())
}

/// The pet's key, and the one that it will have next. Peers may use what the status says of them.
async fn public_keys(pet: &Pet, context: &Context, own: &[PetAllocation], outcome: &mut Outcome) -> Result<(), ClaimError> {
    let mine = || own.iter().filter(|a| a.spec.purpose == Purpose::PublicKey && is_of(&a.spec, pet));
    let status = &mut outcome.status;
    match claim_key(pet, context, own, &pet.spec.public_key).await? {
        None => {
            status.public_key = Some(pet.spec.public_key.clone());
            set(status, pet, conditions::KEY_ACCEPTED, true, "Accepted", "nobody else has the public key");
        }
        Some(owner) => {
            status.public_key = status.public_key.take().filter(|key| mine().any(|a| a.spec.value == *key));
            refuse_key(status, pet, conditions::KEY_ACCEPTED, &owner);
        }
    }
    status.next_public_key = None;
    match &pet.spec.next_public_key {
        None => status.conditions.retain(|condition| condition.type_ != conditions::NEXT_KEY_ACCEPTED),
        Some(next) => match claim_key(pet, context, own, next).await? {
            None => {
                status.next_public_key = Some(next.clone());
                set(status, pet, conditions::NEXT_KEY_ACCEPTED, true, "Accepted", "nobody else has the next public key");
            }
            Some(owner) => refuse_key(status, pet, conditions::NEXT_KEY_ACCEPTED, &owner),
        },
    }
    let used = [Some(&pet.spec.public_key), status.public_key.as_ref(), status.next_public_key.as_ref()];
    let unused: Vec<_> = mine().filter(|a| !used.contains(&Some(&a.spec.value))).cloned().collect();
    outcome.surplus.extend(unused);
    Ok(())
}

/// `None`: it is the pet's. Else who has it.
async fn claim_key(pet: &Pet, context: &Context, own: &[PetAllocation], key: &str) -> Result<Option<String>, ClaimError> {
    let is_mine = |a: &&PetAllocation| a.spec.purpose == Purpose::PublicKey && is_of(&a.spec, pet) && a.spec.value == key;
    let claimed = match own.iter().find(is_mine) {
        Some(found) => Claimed::Own(context.claims.revive(found.clone()).await?),
        None => {
            let wanted = key_allocation(key, &pet.name_any(), &pet.spec.machine_id);
            context.claims.claim(&wanted, |found| is_of(&found.spec, pet)).await?
        }
    };
    Ok(match claimed {
        Claimed::Own(_) => None,
        Claimed::Foreign(found) => Some(found.spec.owner),
    })
}

fn refuse_key(status: &mut PetStatus, pet: &Pet, kind: &str, owner: &str) {
    let message = format!("{owner} has this public key; make another one");
    if set(status, pet, kind, false, reasons::KEY_IN_USE, &message) {
        KEYS_REFUSED.increment(&[]);
        warn!(pet = pet.name_any(), owner, "a public key is refused: another has it");
    }
}

fn node_conditions(pet: &Pet, node: Option<&Node>, status: &mut PetStatus) {
    let Some(node) = node else {
        set(status, pet, conditions::NODE_PRESENT, false, "NoNode", "there is no Node of this name");
        status.conditions.retain(|condition| condition.type_ != conditions::POD_CIDR_SET);
        return;
    };
    set(status, pet, conditions::NODE_PRESENT, true, "Node", "there is a Node of this name");
    let has: Vec<_> = pod_cidrs(node).cloned().collect();
    if has.is_empty() || has == status.pod_cidrs {
        let done = !has.is_empty();
        let (reason, message) =
            if done { ("Set", "the Node has the Pet's pod CIDRs") } else { ("Pending", "the Node has no pod CIDR yet") };
        set(status, pet, conditions::POD_CIDR_SET, done, reason, message);
    } else {
        let message = format!(
            "the Node got {} from another controller, and that cannot be changed; the Pet's pod CIDRs count on this node",
            has.join(", ")
        );
        set(status, pet, conditions::POD_CIDR_SET, false, "OtherPodCIDR", &message);
    }
}

fn set(status: &mut PetStatus, pet: &Pet, kind: &str, value: bool, reason: &str, message: &str) -> bool {
    set_condition(&mut status.conditions, kind, value, reason, message, pet.metadata.generation, Timestamp::now())
}

/// Writes the controller's fields, if the Pet is still what was read: of two controllers one has to look again.
async fn write_status(pet: &Pet, context: &Context, status: &PetStatus) -> Result<(), ClaimError> {
    if pet.status.as_ref() == Some(status) {
        return Ok(());
    }
    let PetStatus { observed_generation, public_key, next_public_key, node_addresses, pod_cidrs, conditions: all, .. } = status;
    let own = [
        conditions::ALLOCATED,
        conditions::KEY_ACCEPTED,
        conditions::NEXT_KEY_ACCEPTED,
        conditions::NODE_PRESENT,
        conditions::POD_CIDR_SET,
    ];
    let mut fields = json!({
        "observedGeneration": observed_generation,
        "nodeAddresses": node_addresses,
        "podCIDRs": pod_cidrs,
        "conditions": all.iter().filter(|condition| own.contains(&condition.type_.as_str())).collect::<Vec<_>>(),
    });
    for (field, key) in [("publicKey", public_key), ("nextPublicKey", next_public_key)] {
        if let Some(key) = key {
            fields[field] = json!(key);
        }
    }
    let patch = json!({
        "apiVersion": "kube-pet.dev/v1alpha1",
        "kind": "Pet",
        "metadata": {"resourceVersion": pet.metadata.resource_version, "uid": pet.metadata.uid},
        "status": fields,
    });
    let name = name_of(pet);
    let pets: Api<Pet> = Api::all(context.client.clone());
    let written = pets.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await;
    written.map(drop).map_err(ClaimError::of("writing the status of the Pet", name))
}

/// What a node cannot give itself: the label of its role, and its pod CIDRs.
async fn furnish(node: &Node, status: &PetStatus, context: &Context) -> Result<(), ClaimError> {
    let mut patch = json!({});
    if !node.labels().contains_key(ROLE_LABEL) {
        patch["metadata"] = json!({"labels": {ROLE_LABEL: ""}});
    }
    if let (Some(first), None) = (status.pod_cidrs.first(), pod_cidrs(node).next()) {
        patch["spec"] = json!({"podCIDR": first, "podCIDRs": status.pod_cidrs});
    }
    if patch == json!({}) {
        return Ok(());
    }
    let name = node.name_any();
    let nodes: Api<Node> = Api::all(context.client.clone());
    let written = nodes
        .patch(&name, &PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }, &Patch::Strategic(patch))
        .await;
    match written {
        Ok(_) => Ok(()),
        // Somebody else has set a pod CIDR since: the next pass says so in the status.
        Err(kube::Error::Api(status)) if status.code == 422 => {
            debug!(node = name, error = status.message, "the Node does not take it");
            Ok(())
        }
        Err(error) => Err(ClaimError::of("writing to the Node", name)(error)),
    }
}
