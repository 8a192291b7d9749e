//! A tunnel's own table of nf_tables: TCP that passes through the tunnel learns how large a segment may be, because the message that
//! tells it later is dropped on many a way; and, where it is asked for, packets of the tunnel's networks leave it with this machine's
//! own address. It also remembers for a minute who was talked to through the tunnel: the sign that a path of its own is worth having.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use kube_pet_rules::{Family, Network};

use crate::nft::batch::{Batch, Field, NewSet, SET_EVAL, SET_TIMEOUT};
use crate::nft::expressions::{Meta, Register};
use crate::nft::table::{comment, elements};
use crate::nft::{digit, octets};
use crate::tables::{Condition, OwnChanges, OwnTable, TableError};

/// Raised with every change of what this module writes: a table of another version is replaced.
const VERSION: u32 = 3;

/// Hooks of `linux/netfilter.h`, and `NF_IP_PRI_MANGLE`, `NF_IP_PRI_NAT_SRC`.
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const POSTROUTING: u32 = 4;
const MANGLE: i32 = -150;
const SOURCE_NAT: i32 = 100;

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Echo requests with this identifier, and their answers, ask about a path: nobody talks by them.
pub const QUESTION: u16 = 0x5182;

/// How long an address is remembered after its last packet, in milliseconds.
const REMEMBERED: u64 = 60_000;
/// Who tries all addresses of a network must not fill the memory.
const MOST: u32 = 4096;

/// What the table does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelRules {
    /// The tunnel's link.
    pub link: String,
    /// Packets from here that leave by another link have this machine's address there; empty: they keep their own.
    pub masquerade: Vec<Network>,
    /// Addresses of these networks are remembered when packets go to them or come from them by the tunnel's link, but for
    /// [`QUESTION`]s.
    pub remembered: Vec<Network>,
}

/// The table.
pub struct TunnelTable {
    table: OwnTable,
}

impl TunnelTable {
    /// Changes nothing.
    ///
    /// # Errors
    /// When the kernel cannot be talked to.
    pub fn open(name: &str, changes: OwnChanges) -> Result<Self, TableError> {
        Ok(Self { table: OwnTable::open(name, changes)? })
    }

    /// Makes the table as it should be, if it is not. Whether there was something to do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ensure(&mut self, rules: &TunnelRules) -> Result<bool, TableError> {
        self.table.begin_reading()?;
        let userdata = userdata(rules);
        match self.table.find(&userdata).map_err(|e| self.table.failed("reading", e))? {
            Ok(()) => Ok(false),
            Err(unusable) => {
                self.table.commit(Some(unusable), |batch| build(batch, rules, &userdata))?;
                Ok(true)
            }
        }
    }

    /// Whether somebody else has changed it. Costs two requests to the kernel.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn verify(&mut self) -> Result<Condition, TableError> {
        self.table.condition()
    }

    /// Addresses of [`TunnelRules::remembered`] that were talked to in the last minute, 4096 of each family at most.
    ///
    /// # Errors
    /// When the kernel refuses, or there is no table.
    pub fn talked_to(&mut self) -> Result<BTreeSet<IpAddr>, TableError> {
        let mut found = BTreeSet::new();
        for family in Family::ALL {
            let name = self.table.name().to_owned();
            let elements = elements(&mut self.table.socket, &name, &set(family)).map_err(|e| self.table.failed("reading", e))?;
            found.extend(elements.iter().filter_map(|((key, _), _)| address(key)));
        }
        Ok(found)
    }

    /// Takes the table away. Whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(self) -> Result<bool, TableError> {
        self.table.remove()
    }
}

/// Tells what the rules are: a table with others is replaced.
fn userdata(rules: &TunnelRules) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    rules.hash(&mut hasher);
    comment(format!("kube-pet tunnel {VERSION} {:016x}", hasher.finish()).as_bytes())
}

fn build(batch: &mut Batch<'_>, rules: &TunnelRules, userdata: &[u8]) {
    let TunnelRules { link, masquerade, remembered } = rules;
    let name = padded(link);
    batch.table(userdata);
    batch.filter_chain("forward", FORWARD, MANGLE);
    batch.rule("forward", |w| {
        w.meta(Meta::OutputName, Register(0));
        w.compare(Register(0), true, &name);
        w.protocol_is(TCP);
        w.opens_tcp();
        w.clamp_segments();
    });
    for family in Family::ALL {
        let key = [if family == Family::V4 { Field::IPV4 } else { Field::IPV6 }];
        batch.set(&NewSet { name: &set(family), flags: SET_TIMEOUT | SET_EVAL, key: &key, value: &[], size: MOST });
    }
    if !remembered.is_empty() {
        // Where addresses are in the header: of the source, and of the destination.
        let ways = [("coming", PREROUTING, Meta::InputName, [12, 8]), ("going", POSTROUTING, Meta::OutputName, [16, 24])];
        for (chain, hook, meta, [v4, v6]) in ways {
            batch.filter_chain(chain, hook, MANGLE);
            for protocol in [ICMP, ICMPV6] {
                batch.rule(chain, |w| {
                    w.protocol_is(protocol);
                    w.echo_identifier(Register(0));
                    w.compare(Register(0), true, &QUESTION.to_be_bytes());
                    w.give_back();
                });
            }
            for network in remembered {
                let family = Family::of(network.address);
                let (offset, length) = if family == Family::V6 { (v6, 16) } else { (v4, 4) };
                batch.rule(chain, |w| {
                    w.meta(meta, Register(0));
                    w.compare(Register(0), true, &name);
                    w.family_is(family == Family::V6);
                    w.network_header(offset, length, Register(0));
                    w.mask(Register(0), &octets(network.mask()));
                    w.compare(Register(0), true, &octets(network.range().0));
                    w.network_header(offset, length, Register(0));
                    w.note(&set(family), Register(0), REMEMBERED);
                });
            }
        }
    }
    if masquerade.is_empty() {
        return;
    }
    batch.nat_chain("postrouting", POSTROUTING, SOURCE_NAT);
    for network in masquerade {
        batch.rule("postrouting", |w| {
            w.meta(Meta::OutputName, Register(0));
            w.compare(Register(0), false, &name);
            let v6 = Family::of(network.address) == Family::V6;
            w.family_is(v6);
            let (offset, length) = if v6 { (8, 16) } else { (12, 4) };
            w.network_header(offset, length, Register(0));
            w.mask(Register(0), &octets(network.mask()));
            w.compare(Register(0), true, &octets(network.range().0));
            w.masquerade();
        });
    }
}

fn set(family: Family) -> String {
    format!("talked-to-{}", digit(family))
}

fn address(key: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(key).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(key).map(IpAddr::from)).ok()
}

/// A link's name as it is in a register.
fn padded(link: &str) -> [u8; 16] {
    let mut name = [0; 16];
    for (place, byte) in name.iter_mut().zip(link.bytes()) {
        *place = byte;
    }
    name
}
