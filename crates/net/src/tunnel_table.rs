//! A tunnel's own table of nf_tables: TCP that passes through the tunnel learns how large a segment may be, because the message that
//! tells it later is dropped on many a way; and, where it is asked for, packets of the tunnel's networks leave it with this machine's
//! own address.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use kube_pet_rules::{Family, Network};

use crate::nft::batch::Batch;
use crate::nft::expressions::{Meta, Register};
use crate::nft::octets;
use crate::nft::table::comment;
use crate::tables::{Condition, OwnChanges, OwnTable, TableError};

/// Raised with every change of what this module writes: a table of another version is replaced.
const VERSION: u32 = 1;

/// Hooks of `linux/netfilter.h`, and `NF_IP_PRI_MANGLE`, `NF_IP_PRI_NAT_SRC`.
const FORWARD: u32 = 2;
const POSTROUTING: u32 = 4;
const MANGLE: i32 = -150;
const SOURCE_NAT: i32 = 100;

const TCP: u8 = 6;

/// What the table does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelRules {
    /// The tunnel's link.
    pub link: String,
    /// Packets from here that leave by another link have this machine's address there; empty: they keep their own.
    pub masquerade: Vec<Network>,
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
    let TunnelRules { link, masquerade } = rules;
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

/// A link's name as it is in a register.
fn padded(link: &str) -> [u8; 16] {
    let mut name = [0; 16];
    for (place, byte) in name.iter_mut().zip(link.bytes()) {
        *place = byte;
    }
    name
}
