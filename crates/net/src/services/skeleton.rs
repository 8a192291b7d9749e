//! What of the table does not change: chains, rules, and the sets that are always there.
//!
//! ```text
//! prerouting ─ from a pod of the node? ─► dispatch4-inside ─┐
//!            └ else ────────────────────► dispatch4 ────────┤
//! output ───────────────────────────────► dispatch4-inside ─┤
//!      an address of a frontend ► service4[-inside], an address of the node ► node-port4[-inside]
//!          may the client? does it have an endpoint already? ► …-pick: one rule for each number of endpoints ► its first endpoint
//!          ► dropped, refused
//! postrouting ─► remember the client's endpoint ─► masquerade: what could not come back, what endpoints must not see, pods to the world
//! input ───────► remember the client's endpoint
//! ```
//! The same for IPv6. All of these are of type nat: only the first packet of a connection sees them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Config;
use super::elements::{Lane, Set, To};
use crate::nft::batch::{Batch, Field, NewSet, SET_CONCAT, SET_EVAL, SET_INTERVAL, SET_MAP, SET_TIMEOUT, Writer};
use crate::nft::expressions::{Meta, Original, Register};
use crate::nft::{digit, octets};
use kube_pet_rules::{Family, Network};

/// Raised with every change of what this module writes: a table of another version is replaced.
pub(super) const VERSION: u32 = 3;

/// Hooks of `linux/netfilter.h`.
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// Before others' destination translation (-100), so that a rule for a port of the node does not take a Service's packets.
const BEFORE_DESTINATION_NAT: i32 = -105;
/// Before connections are told apart and their packets translated back (-200).
const BEFORE_CONNECTIONS: i32 = -300;
/// Before others' source translation (100), so that what is masqueraded here is not changed by theirs.
const BEFORE_SOURCE_NAT: i32 = 95;

const LOOPBACK_V4: Network = Network { address: IpAddr::V4(Ipv4Addr::LOCALHOST), prefix: 8 };
const LOOPBACK_V6: Network = Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 };

fn address_size(family: Family) -> u32 {
    if family == Family::V4 { 4 } else { 16 }
}

fn is_v6(family: Family) -> bool {
    family == Family::V6
}

fn source(w: &mut Writer, family: Family, to: Register) {
    w.network_header(if is_v6(family) { 8 } else { 12 }, address_size(family), to);
}

fn destination(w: &mut Writer, family: Family, to: Register) {
    w.network_header(if is_v6(family) { 24 } else { 16 }, address_size(family), to);
}

/// Registers that an address fills.
fn registers(family: Family) -> u32 {
    address_size(family) / 4
}

/// The packet's frontend, from a register on; the register behind it.
fn frontend(w: &mut Writer, family: Family, to: To, mut at: u32) -> u32 {
    if to == To::Address {
        destination(w, family, Register(at));
        at += registers(family);
    }
    w.meta(Meta::Protocol, Register(at));
    w.destination_port(Register(at + 1));
    at + 2
}

/// The frontend that the connection was made to, before translation.
fn original_frontend(w: &mut Writer, family: Family, to: To, mut at: u32) -> u32 {
    if to == To::Address {
        w.original(if is_v6(family) { Original::DestinationV6 } else { Original::DestinationV4 }, Register(at));
        at += registers(family);
    }
    w.original(Original::Protocol, Register(at));
    w.original(Original::DestinationPort, Register(at + 1));
    at + 2
}

/// Makes the table with everything that is there from the beginning.
pub(super) fn build(batch: &mut Batch<'_>, config: &Config, userdata: &[u8]) {
    batch.table(userdata);
    for set in Set::fixed() {
        make_set(batch, set);
    }
    for name in chain_names() {
        batch.chain(&name);
    }
    let priority = BEFORE_DESTINATION_NAT + i32::from(config.rank);
    batch.nat_chain("prerouting", PREROUTING, priority);
    batch.nat_chain("output", OUTPUT, priority);
    batch.nat_chain("input", INPUT, BEFORE_SOURCE_NAT);
    batch.nat_chain("postrouting", POSTROUTING, BEFORE_SOURCE_NAT);
    if config.loopback {
        // Links that let answers to the loopback in would let a pod's own packets to it in, too: they are told apart before translation.
        batch.filter_chain("loopback", PREROUTING, BEFORE_CONNECTIONS);
        batch.rule("loopback", |w| {
            w.meta(Meta::InputName, Register(0));
            w.compare(Register(0), true, config.pod_links.as_bytes());
            w.family_is(false);
            destination(w, Family::V4, Register(0));
            within(w, &LOOPBACK_V4);
            w.drop_packet();
        });
    }
    batch.rule("refuse", |w| {
        w.meta(Meta::Protocol, Register(0));
        w.compare(Register(0), true, &[6]);
        w.reset();
    });
    batch.rule("refuse", Writer::port_unreachable);
    for family in Family::ALL {
        hooks(batch, config, family);
        for inside in [false, true] {
            echo(batch, family, inside);
            dispatch(batch, config, family, inside);
        }
        for lane in Lane::all().filter(|l| l.family == family) {
            lane_rules(batch, lane);
        }
        masquerade(batch, config, family);
        world(batch, config, family);
    }
}

fn chain_names() -> Vec<String> {
    let mut names = vec!["refuse".to_owned()];
    for family in Family::ALL.map(digit) {
        names.extend(["dispatch", "masquerade", "remember", "world"].map(|chain| format!("{chain}{family}")));
        names.push(format!("dispatch{family}-inside"));
    }
    for lane in Lane::all() {
        names.extend([lane.name(), format!("{}-pick", lane.name())]);
        if !lane.inside {
            names.push(format!("{}-check", lane.name()));
        }
    }
    names
}

/// From the hooks to the chains of a family.
fn hooks(batch: &mut Batch<'_>, config: &Config, family: Family) {
    let digit = digit(family);
    batch.rule("prerouting", |w| {
        w.family_is(is_v6(family));
        w.meta(Meta::InputName, Register(0));
        w.compare(Register(0), true, config.pod_links.as_bytes());
        w.goto(&format!("dispatch{digit}-inside"));
    });
    batch.rule("prerouting", |w| {
        w.family_is(is_v6(family));
        w.goto(&format!("dispatch{digit}"));
    });
    batch.rule("output", |w| {
        w.family_is(is_v6(family));
        w.goto(&format!("dispatch{digit}-inside"));
    });
    for hook in ["input", "postrouting"] {
        batch.rule(hook, |w| {
            w.family_is(is_v6(family));
            w.translated();
            w.jump(&format!("remember{digit}"));
        });
    }
    batch.rule("postrouting", |w| {
        w.family_is(is_v6(family));
        w.translated();
        w.jump(&format!("masquerade{digit}"));
    });
    batch.rule("postrouting", |w| {
        w.family_is(is_v6(family));
        w.goto(&format!("world{digit}"));
    });
}

/// No endpoint stands for the whole of an address, so the node answers a ping: it must not be sent out to where the address is nobody's.
/// A link without an address of IPv6 but its own network's drops it.
fn echo(batch: &mut Batch<'_>, family: Family, inside: bool) {
    batch.rule(&format!("dispatch{}{}", digit(family), if inside { "-inside" } else { "" }), |w| {
        w.meta(Meta::Protocol, Register(0));
        // `IPPROTO_ICMP`, `IPPROTO_ICMPV6`
        w.compare(Register(0), true, &[if is_v6(family) { 58 } else { 1 }]);
        destination(w, family, Register(0));
        w.in_set(&Set::Addresses(family).name());
        w.redirect();
    });
}

fn dispatch(batch: &mut Batch<'_>, config: &Config, family: Family, inside: bool) {
    let digit = digit(family);
    let chain = format!("dispatch{digit}{}", if inside { "-inside" } else { "" });
    batch.rule(&chain, |w| {
        destination(w, family, Register(0));
        w.in_set(&Set::Addresses(family).name());
        // An external IP may be the node's: its other ports are the node's, too.
        w.jump(&Lane { family, to: To::Address, inside }.name());
    });
    if is_v6(family) || !config.loopback {
        batch.rule(&chain, |w| {
            destination(w, family, Register(0));
            within(w, &if is_v6(family) { LOOPBACK_V6 } else { LOOPBACK_V4 });
            w.give_back();
        });
    }
    let own = config.node_addresses.iter().flatten().filter(|n| Family::of(n.address) == family).map(Some);
    let every = config.node_addresses.is_none().then_some(None);
    for addresses in own.chain(every) {
        batch.rule(&chain, |w| {
            w.destination_is_local();
            if let Some(network) = addresses {
                destination(w, family, Register(0));
                within(w, network);
            }
            w.goto(&Lane { family, to: To::Node, inside }.name());
        });
    }
}

fn lane_rules(batch: &mut Batch<'_>, lane: Lane) {
    let Lane { family, to, inside } = lane;
    let name = lane.name();
    let outside = Lane { inside: false, ..lane };
    batch.rule(&name, |w| {
        frontend(w, family, to, 0);
        w.in_set(&Set::Restricted(family, to).name());
        w.jump(&format!("{}-check", outside.name()));
    });
    batch.rule(&name, |w| {
        source(w, family, Register(0));
        frontend(w, family, to, registers(family));
        w.value_of(&Set::Clients(family, to).name());
        w.translate_destination(is_v6(family));
    });
    pick_any(batch, &name, lane);
    batch.rule(&name, |w| {
        frontend(w, family, to, 0);
        w.in_set(&Set::Drop(lane).name());
        w.drop_packet();
    });
    if inside {
        // Where nothing is said for the inside, the outside's holds.
        pick_any(batch, &name, outside);
        batch.rule(&name, |w| {
            frontend(w, family, to, 0);
            w.in_set(&Set::Drop(outside).name());
            w.drop_packet();
        });
    } else {
        let check = format!("{name}-check");
        batch.rule(&check, |w| {
            let next = frontend(w, family, to, 0);
            source(w, family, Register(next));
            w.in_set(&Set::Sources(family, to).name());
            w.give_back();
        });
        batch.rule(&check, Writer::drop_packet);
    }
    batch.rule(&name, |w| {
        frontend(w, family, to, 0);
        w.in_set(&Set::Reject(family, to).name());
        w.goto("refuse");
    });
    if to == To::Address {
        batch.rule(&name, |w| {
            destination(w, family, Register(0));
            w.in_set(&Set::Closed(family).name());
            w.goto("refuse");
        });
    }
}

fn masquerade(batch: &mut Batch<'_>, config: &Config, family: Family) {
    let chain = format!("masquerade{}", digit(family));
    // The machine speaks to itself.
    batch.rule(&chain, |w| {
        w.meta(Meta::OutputName, Register(0));
        w.compare(Register(0), true, b"lo\0");
        w.give_back();
    });
    // Made here: the address was chosen for the way to the Service, not to the endpoint.
    batch.rule(&chain, |w| {
        w.meta(Meta::InterfaceIndex, Register(0));
        w.compare(Register(0), true, &[0; 4]);
        w.masquerade();
    });
    batch.rule(&chain, |w| {
        source(w, family, Register(0));
        destination(w, family, Register(registers(family)));
        w.in_set(&Set::Hairpin(family).name());
        w.masquerade();
    });
    for to in To::ALL {
        batch.rule(&chain, |w| {
            w.meta(Meta::InputName, Register(0));
            w.compare(Register(0), false, config.pod_links.as_bytes());
            original_frontend(w, family, to, 0);
            w.in_set(&Set::Masquerade(family, to).name());
            w.masquerade();
        });
    }
}

/// From pods to what is not of the cluster.
fn world(batch: &mut Batch<'_>, config: &Config, family: Family) {
    let chain = format!("world{}", digit(family));
    let Some(cluster) = &config.masquerade_except else { return };
    batch.rule(&chain, |w| {
        w.meta(Meta::InputName, Register(0));
        w.compare(Register(0), false, config.pod_links.as_bytes());
        w.give_back();
    });
    batch.rule(&chain, |w| {
        w.meta(Meta::OutputName, Register(0));
        w.compare(Register(0), true, config.pod_links.as_bytes());
        w.give_back();
    });
    for network in cluster.iter().filter(|n| Family::of(n.address) == family) {
        batch.rule(&chain, |w| {
            destination(w, family, Register(0));
            within(w, network);
            w.give_back();
        });
    }
    batch.rule(&chain, Writer::masquerade);
}

/// Ends the rule unless the address in the first registers belongs to the network.
fn within(w: &mut Writer, network: &Network) {
    if network.prefix > 0 {
        w.mask(Register(0), &octets(network.mask()));
        w.compare(Register(0), true, &octets(network.range().0));
    }
}

/// Makes a set, and what belongs to those that are made when needed: the rule that looks into it.
pub(super) fn make_set(batch: &mut Batch<'_>, set: Set) {
    let address = |family| if is_v6(family) { Field::IPV6 } else { Field::IPV4 };
    let key = |family, to| {
        let own = if to == To::Address { vec![address(family)] } else { Vec::new() };
        [own, vec![Field::PROTOCOL, Field::PORT]].concat()
    };
    let endpoint = |family| vec![address(family), Field::PORT];
    let (flags, key, value) = match set {
        Set::Count(lane, _) | Set::Drop(lane) => (0, key(lane.family, lane.to), Vec::new()),
        Set::Reject(f, to) | Set::Masquerade(f, to) | Set::Affinity(f, to, _) | Set::Restricted(f, to) => (0, key(f, to), Vec::new()),
        Set::Endpoints(lane) => (SET_MAP, [key(lane.family, lane.to), vec![Field::INDEX]].concat(), endpoint(lane.family)),
        Set::Clients(f, to) => (SET_MAP | SET_TIMEOUT | SET_EVAL, [vec![address(f)], key(f, to)].concat(), endpoint(f)),
        Set::Sources(f, to) => (SET_INTERVAL | SET_CONCAT, [key(f, to), vec![address(f)]].concat(), Vec::new()),
        Set::Addresses(f) | Set::Closed(f) => (0, vec![address(f)], Vec::new()),
        Set::Hairpin(f) => (0, vec![address(f), address(f)], Vec::new()),
    };
    let name = set.name();
    batch.set(&NewSet { name: &name, flags, key: &key, value: &value, size: 0 });
    look_into(batch, set, &name);
}

/// Takes away sets that were made when needed, and the rules that look into them; `stay` are all others of that kind.
pub(super) fn remove_sets(batch: &mut Batch<'_>, unused: &BTreeSet<Set>, stay: &BTreeSet<Set>) {
    let chains: BTreeSet<String> = unused.iter().filter_map(|set| chain_of(*set)).collect();
    // A rule is known by its number only: all of the chain go, and those that stay come again in the same step.
    for chain in &chains {
        batch.flush_chain(chain);
    }
    for set in stay.iter().filter(|set| chain_of(**set).is_some_and(|chain| chains.contains(&chain))) {
        look_into(batch, *set, &set.name());
    }
    for set in unused {
        batch.delete_set(&set.name());
    }
}

/// Where the rule lies that looks into a set which is made when needed.
fn chain_of(set: Set) -> Option<String> {
    match set {
        Set::Count(lane, _) => Some(format!("{}-pick", lane.name())),
        Set::Affinity(family, ..) => Some(format!("remember{}", digit(family))),
        _ => None,
    }
}

fn look_into(batch: &mut Batch<'_>, set: Set, name: &str) {
    let Some(chain) = chain_of(set) else { return };
    match set {
        Set::Count(lane, count) => pick(batch, &chain, lane, count, name),
        Set::Affinity(family, to, seconds) => remember(batch, &chain, (family, to), seconds, name),
        _ => {}
    }
}

/// The rules for each number of endpoints, and then the first endpoint: each lookup sees the elements of its own moment, so a packet that
/// a change overtakes may find its frontend neither in the set of before nor in that of after, or not the endpoint that was drawn.
fn pick_any(batch: &mut Batch<'_>, chain: &str, lane: Lane) {
    batch.rule(chain, |w| w.jump(&format!("{}-pick", lane.name())));
    batch.rule(chain, |w| first_endpoints(w, lane, 1));
}

/// To one of so many first endpoints; the rule ends if there are none.
fn first_endpoints(w: &mut Writer, lane: Lane, count: u16) {
    let next = frontend(w, lane.family, lane.to, 0);
    w.random(u32::from(count), Register(next));
    w.value_of(&Set::Endpoints(lane).name());
    w.translate_destination(is_v6(lane.family));
}

fn pick(batch: &mut Batch<'_>, chain: &str, lane: Lane, count: u16, name: &str) {
    batch.rule(chain, |w| {
        frontend(w, lane.family, lane.to, 0);
        w.in_set(name);
        // A lookup leaves its key as it was, but `nft` lists a rule only where each key is loaded for itself.
        first_endpoints(w, lane, count);
    });
}

fn remember(batch: &mut Batch<'_>, chain: &str, (family, to): (Family, To), seconds: u32, name: &str) {
    batch.rule(chain, |w| {
        original_frontend(w, family, to, 0);
        w.in_set(name);
        w.original(if is_v6(family) { Original::SourceV6 } else { Original::SourceV4 }, Register(0));
        let next = original_frontend(w, family, to, registers(family));
        destination(w, family, Register(next));
        w.destination_port(Register(next + registers(family)));
        let milliseconds = u64::from(seconds) * 1000;
        w.remember(&Set::Clients(family, to).name(), Register(0), Register(next), milliseconds);
    });
}

/// What tells a table of another version or configuration.
pub(super) fn fingerprint(config: &Config) -> Vec<u8> {
    // Exhaustive: a setting that is forgotten here does not compile.
    // The node's own pods are elements only: an agent that learns its networks late, or is given others, leaves the rest alone.
    let Config { table: _, pod_links, local_pods: _, masquerade_except, node_addresses, loopback, rank } = config;
    let networks = |networks: &[Network]| {
        let one = |n: &Network| octets(n.address).into_iter().chain([n.prefix]).collect::<Vec<_>>();
        networks.iter().flat_map(one).collect::<Vec<u8>>()
    };
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let parts = [
        VERSION.to_be_bytes().to_vec(),
        pod_links.as_bytes().to_vec(),
        masquerade_except.as_deref().map_or_else(|| vec![0], networks),
        node_addresses.as_deref().map_or_else(|| vec![0], networks),
        vec![u8::from(*loopback), *rank],
    ];
    for byte in parts.iter().flat_map(|p| p.iter().chain(&[0xff])) {
        // FNV-1a: the same in every build.
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("kube-pet {VERSION} {hash:016x}").into_bytes()
}
