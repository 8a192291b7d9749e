//! What the kernel has of the table.

use std::collections::{BTreeSet, HashMap};
use std::io;

use super::Config;
use super::elements::{Place, Set};
use super::skeleton;
use crate::nft::batch::Batch;
use crate::nft::socket::NetfilterSocket;
use crate::nft::table::{comment, handle_of, is_as_made, kind, table};
use crate::nft::{INET, attribute, find, message, text};

pub(super) use crate::nft::table::{elements, generation, handle};

/// The elements of the table's sets, and which sets there are beside the fixed ones.
#[derive(Default)]
pub(super) struct Found {
    /// The table's number.
    pub(super) handle: Option<u64>,
    pub(super) elements: HashMap<Place, Box<[u8]>>,
    pub(super) made: BTreeSet<Set>,
}

pub(super) fn userdata(config: &Config) -> Vec<u8> {
    comment(&skeleton::fingerprint(config))
}

/// The table's content; if it is not one that this configuration makes, whether there is another one of its name.
pub(super) fn read(socket: &mut NetfilterSocket, config: &Config) -> io::Result<Result<Found, bool>> {
    let Some(there) = table(socket, &config.table)? else { return Ok(Err(false)) };
    if !is_as_made(&there, &userdata(config)) {
        return Ok(Err(true));
    }
    let fixed: HashMap<String, Set> = Set::fixed().into_iter().map(|set| (set.name(), set)).collect();
    let (mut found, mut sets, mut seen) = (Found { handle: handle_of(&there), ..Found::default() }, Vec::new(), 0);
    for set in socket.dump(kind(message::GET_SET), INET, |w| w.name(attribute::SET_TABLE, &config.table))? {
        let name = find(&set, attribute::SET_NAME).map(text).unwrap_or_default();
        if let Some(set) = fixed.get(&name) {
            seen += 1;
            sets.push((name, *set));
        } else if let Some(set) = Set::made_when_needed(&name) {
            found.made.insert(set);
            sets.push((name, set));
        } else {
            return Ok(Err(true));
        }
    }
    let rules = socket.dump(kind(message::GET_RULE), INET, |w| w.name(attribute::RULE_TABLE, &config.table))?.len();
    if seen != fixed.len() || rules != fixed_rules(config) + found.made.len() {
        return Ok(Err(true));
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
