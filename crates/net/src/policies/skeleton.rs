//! What of the table does not change: chains, rules and sets.
//!
//! ```text
//! forward ─ an error of ICMP that belongs to a connection passes
//!         ├ of who began the connection ─► request ─┬► from a pod to itself: passes
//!         └ of who was called ───────────► reply ───┼► egress-…: may the pod that began it send this? else it is dropped
//!                                                   └► ingress-…: may the pod that was called receive this? else it is dropped
//! ```
//! `reply` asks the same with the sides of the packet exchanged. What a pod and its node send to each other sees none of this: that is
//! always allowed (Kubernetes' documentation of NetworkPolicies: the exception to IP blocks).

use super::elements::Set;
use crate::nft::batch::{Batch, Field, NewSet, SET_CONCAT, SET_INTERVAL, Writer};
use crate::nft::expressions::{Meta, Register};
use crate::nft::table::comment;
use kube_pet_rules::Family;
use kube_pet_rules::policies::Direction;

/// Raised with every change of what this module writes: a table of another version is replaced.
const VERSION: u32 = 1;

/// A hook of `linux/netfilter.h`.
const FORWARD: u32 = 2;
/// Behind destination translation (-100): the endpoint counts, not the Service. Before source translation (100).
const BEFORE_FILTERS: i32 = -5;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

pub(super) fn userdata() -> Vec<u8> {
    comment(format!("kube-pet policies {VERSION}").as_bytes())
}

/// Whose packet it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Request,
    Reply,
}

impl Of {
    const ALL: [Self; 2] = [Self::Request, Self::Reply];

    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Reply => "reply",
        }
    }
}

/// Makes the table.
pub(super) fn build(batch: &mut Batch<'_>) {
    batch.table(&userdata());
    for set in Set::all() {
        make_set(batch, set);
    }
    for of in Of::ALL {
        for direction in Direction::ALL {
            batch.chain(&check(direction, of));
        }
        batch.chain(of.name());
    }
    batch.filter_chain("forward", FORWARD, BEFORE_FILTERS);
    for of in Of::ALL {
        both_sides(batch, of);
        for direction in Direction::ALL {
            one_side(batch, direction, of);
        }
    }
    for protocol in [ICMP, ICMPV6] {
        batch.rule("forward", |w| {
            w.protocol_is(protocol);
            w.is_related();
            w.accept();
        });
    }
    batch.rule("forward", |w| {
        w.is_reply();
        w.goto(Of::Reply.name());
    });
    batch.rule("forward", |w| w.goto(Of::Request.name()));
}

fn check(direction: Direction, of: Of) -> String {
    format!("{}-{}", direction.name(), of.name())
}

/// The link of the pod that a direction is about, in four registers.
fn link(w: &mut Writer, direction: Direction, of: Of, to: Register) {
    let from_there = (direction == Direction::Egress) == (of == Of::Request);
    w.meta(if from_there { Meta::InputName } else { Meta::OutputName }, to);
}

/// From a hook to the check, if the pod is isolated.
fn isolated(batch: &mut Batch<'_>, chain: &str, direction: Direction, of: Of) {
    batch.rule(chain, |w| {
        link(w, direction, of, Register(0));
        w.in_set(&Set::Isolated(direction).name());
        w.jump(&check(direction, of));
    });
}

fn both_sides(batch: &mut Batch<'_>, of: Of) {
    batch.rule(of.name(), |w| {
        link(w, Direction::Egress, of, Register(0));
        link(w, Direction::Ingress, of, Register(4));
        w.in_set(&Set::Itself.name());
        w.accept();
    });
    isolated(batch, of.name(), Direction::Egress, of);
    isolated(batch, of.name(), Direction::Ingress, of);
}

fn one_side(batch: &mut Batch<'_>, direction: Direction, of: Of) {
    let chain = check(direction, of);
    for family in Family::ALL {
        for set in [Set::Peers(direction, family), Set::Ports(direction, family), Set::Ranges(direction, family)] {
            batch.rule(&chain, |w| {
                w.family_is(family == Family::V6);
                link(w, direction, of, Register(0));
                let next = peer(w, direction, of, family);
                if !matches!(set, Set::Peers(..)) {
                    w.meta(Meta::Protocol, Register(next));
                    match of {
                        Of::Request => w.destination_port(Register(next + 1)),
                        Of::Reply => w.source_port(Register(next + 1)),
                    }
                }
                w.in_set(&set.name());
                w.give_back();
            });
        }
    }
    batch.rule(&chain, Writer::drop_packet);
}

/// The other side's address, behind the link; the register behind it.
fn peer(w: &mut Writer, direction: Direction, of: Of, family: Family) -> u32 {
    let source = (direction == Direction::Ingress) == (of == Of::Request);
    let (offset, size) = match (family, source) {
        (Family::V4, true) => (12, 4),
        (Family::V4, false) => (16, 4),
        (Family::V6, true) => (8, 16),
        (Family::V6, false) => (24, 16),
    };
    w.network_header(offset, size, Register(4));
    4 + size / 4
}

fn make_set(batch: &mut Batch<'_>, set: Set) {
    let address = |family| if family == Family::V4 { Field::IPV4 } else { Field::IPV6 };
    let with_port = |family| vec![Field::LINK, address(family), Field::PROTOCOL, Field::PORT];
    let (flags, key) = match set {
        Set::Isolated(_) => (0, vec![Field::LINK]),
        Set::Itself => (0, vec![Field::LINK, Field::LINK]),
        Set::Peers(_, family) => (0, vec![Field::LINK, address(family)]),
        Set::Ports(_, family) => (0, with_port(family)),
        Set::Ranges(_, family) => (SET_INTERVAL | SET_CONCAT, with_port(family)),
    };
    batch.set(&NewSet { name: &set.name(), flags, key: &key, value: &[], size: 0 });
}
