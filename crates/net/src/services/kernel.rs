//! What the kernel has of the table.

use std::collections::{BTreeSet, HashMap};
use std::io;

use super::Config;
use super::elements::{Place, Set};
use super::skeleton;
use crate::nft::batch::Batch;
use crate::nft::table::{comment, kind};
use crate::nft::{INET, attribute, find, message, text};
use crate::tables::{OwnTable, Unusable};

pub(super) use crate::nft::table::elements;

/// The elements of the table's sets, and which sets there are beside the fixed ones.
#[derive(Default)]
pub(super) struct Found {
    pub(super) elements: HashMap<Place, Box<[u8]>>,
    pub(super) made: BTreeSet<Set>,
}

pub(super) fn userdata(config: &Config) -> Vec<u8> {
    comment(&skeleton::fingerprint(config))
}

/// The table's content, if this configuration makes such a table.
pub(super) fn read(table: &mut OwnTable, config: &Config) -> io::Result<Result<Found, Unusable>> {
    if let Err(unusable) = table.find(&userdata(config))? {
        return Ok(Err(unusable));
    }
    let socket = &mut table.socket;
    let fixed: HashMap<String, Set> = Set::fixed().into_iter().map(|set| (set.name(), set)).collect();
    let (mut found, mut sets, mut seen) = (Found::default(), Vec::new(), 0);
    for set in socket.dump(kind(message::GET_SET), INET, |w| w.name(attribute::SET_TABLE, &config.table))? {
        let name = find(&set, attribute::SET_NAME).map(text).unwrap_or_default();
        if let Some(set) = fixed.get(&name) {
            seen += 1;
            sets.push((name, *set));
        } else if let Some(set) = Set::made_when_needed(&name) {
            found.made.insert(set);
            sets.push((name, set));
        } else {
            return Ok(Err(Unusable::Different));
        }
    }
    let rules = socket.dump(kind(message::GET_RULE), INET, |w| w.name(attribute::RULE_TABLE, &config.table))?.len();
    if seen != fixed.len() || rules != fixed_rules(config) + found.made.len() {
        return Ok(Err(Unusable::Different));
    }
    for (name, set) in sets {
        if matches!(set, Set::Clients(..)) {
            continue;
        }
        for ((key, end), value) in elements(socket, &config.table, &name)? {
            found.elements.insert(Place { set, key, end }, value);
        }
    }
    Ok(Ok(found))
}

fn fixed_rules(config: &Config) -> usize {
    let mut batch = Batch::new(&config.table);
    skeleton::build(&mut batch, config, &[]);
    batch.rules()
}
