//! What the kernel has of the table.

use std::collections::{BTreeSet, HashMap};
use std::io;

use rustix::io::Errno;

use super::Config;
use super::elements::{Place, Set};
use super::skeleton;
use crate::nft::batch::Batch;
use crate::nft::socket::NetfilterSocket;
use crate::nft::{INET, SUBSYSTEM_NFTABLES, attribute, attributes, find, message, text};

/// The elements of the table's sets, and which sets there are beside the fixed ones.
#[derive(Default)]
pub(super) struct Found {
    /// The table's number.
    pub(super) handle: Option<u64>,
    pub(super) elements: HashMap<Place, Box<[u8]>>,
    pub(super) made: BTreeSet<Set>,
}

const fn kind(message: u16) -> u16 {
    SUBSYSTEM_NFTABLES << 8 | message
}

/// A comment, as `nft` writes and lists it: attribute 0 of the table's user data.
pub(super) fn userdata(config: &Config) -> Vec<u8> {
    let comment = skeleton::fingerprint(config);
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    [&[0, length], comment.as_slice(), &[0]].concat()
}

/// The attributes of the table, if it is there.
fn table(socket: &mut NetfilterSocket, name: &str) -> io::Result<Option<Vec<u8>>> {
    match socket.request(kind(message::GET_TABLE), 0, INET, |w| w.name(attribute::TABLE_NAME, name)) {
        Ok(mut found) => Ok(found.pop()),
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the kernel calls this very table: another number for one that was made anew.
pub(super) fn handle(socket: &mut NetfilterSocket, name: &str) -> io::Result<Option<u64>> {
    table(socket, name).map(|found| found.and_then(|table| handle_of(&table)))
}

fn handle_of(table: &[u8]) -> Option<u64> {
    find(table, attribute::TABLE_HANDLE).and_then(|h| h.try_into().ok()).map(u64::from_be_bytes)
}

/// Counts every change of nf_tables in this network namespace.
pub(super) fn generation(socket: &mut NetfilterSocket) -> io::Result<u32> {
    let found = socket.request(kind(message::GET_GENERATION), 0, 0, |_| {})?;
    let number = |f: &Vec<u8>| find(f, attribute::GENERATION_ID).and_then(|id| id.try_into().ok()).map(u32::from_be_bytes);
    found.first().and_then(number).ok_or_else(|| Errno::PROTO.into())
}

/// The table's content; if it is not one that this configuration makes, whether there is another one of its name.
pub(super) fn read(socket: &mut NetfilterSocket, config: &Config) -> io::Result<Result<Found, bool>> {
    let Some(there) = table(socket, &config.table)? else { return Ok(Err(false)) };
    // `NFT_TABLE_F_DORMANT`: a table whose chains somebody has taken from their hooks.
    let flags = find(&there, attribute::TABLE_FLAGS).and_then(|f| f.try_into().ok()).map_or(0, u32::from_be_bytes);
    if find(&there, attribute::TABLE_USERDATA) != Some(&userdata(config)) || flags & 1 != 0 {
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

/// The elements of a set: key, end of the key's range (empty if there is none), value.
pub(super) type Elements = Vec<((Box<[u8]>, Box<[u8]>), Box<[u8]>)>;

/// All elements of a set.
pub(super) fn elements(socket: &mut NetfilterSocket, table: &str, set: &str) -> io::Result<Elements> {
    let messages = socket.dump(kind(message::GET_ELEMENTS), INET, |w| {
        w.name(attribute::ELEMENTS_TABLE, table);
        w.name(attribute::ELEMENTS_SET, set);
    })?;
    let value =
        |item: &[u8], kind| -> Box<[u8]> { find(item, kind).and_then(|data| find(data, attribute::DATA_VALUE)).unwrap_or_default().into() };
    let mut found = Elements::new();
    for message in &messages {
        let items = find(message, attribute::ELEMENTS_LIST).unwrap_or_default();
        for (_, item) in attributes(items).filter(|(kind, _)| *kind == attribute::LIST_ITEM) {
            let key = (value(item, attribute::ELEMENT_KEY), value(item, attribute::ELEMENT_KEY_END));
            found.push((key, value(item, attribute::ELEMENT_DATA)));
        }
    }
    Ok(found)
}
