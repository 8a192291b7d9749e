//! What the kernel has of a table, as far as it is the same for all tables of the agent's.

use std::io;

use rustix::io::Errno;

use super::socket::NetfilterSocket;
use super::{INET, SUBSYSTEM_NFTABLES, attribute, attributes, find, message};

pub(crate) const fn kind(message: u16) -> u16 {
    SUBSYSTEM_NFTABLES << 8 | message
}

/// A comment, as `nft` writes and lists it: attribute 0 of the table's user data.
pub(crate) fn comment(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[0, length], text, &[0]].concat()
}

/// The attributes of the table, if it is there.
pub(crate) fn table(socket: &mut NetfilterSocket, name: &str) -> io::Result<Option<Vec<u8>>> {
    match socket.request(kind(message::GET_TABLE), 0, INET, |w| w.name(attribute::TABLE_NAME, name)) {
        Ok(mut found) => Ok(found.pop()),
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the kernel calls this very table: another number for one that was made anew.
pub(crate) fn handle(socket: &mut NetfilterSocket, name: &str) -> io::Result<Option<u64>> {
    table(socket, name).map(|found| found.and_then(|table| handle_of(&table)))
}

pub(crate) fn handle_of(table: &[u8]) -> Option<u64> {
    find(table, attribute::TABLE_HANDLE).and_then(|h| h.try_into().ok()).map(u64::from_be_bytes)
}

/// Whether the table is the one that was made with this comment, and its chains are at their hooks.
pub(crate) fn is_as_made(table: &[u8], userdata: &[u8]) -> bool {
    // `NFT_TABLE_F_DORMANT`: a table whose chains somebody has taken from their hooks.
    let flags = find(table, attribute::TABLE_FLAGS).and_then(|f| f.try_into().ok()).map_or(0, u32::from_be_bytes);
    find(table, attribute::TABLE_USERDATA) == Some(userdata) && flags & 1 == 0
}

/// Counts every change of nf_tables in this network namespace.
pub(crate) fn generation(socket: &mut NetfilterSocket) -> io::Result<u32> {
    let found = socket.request(kind(message::GET_GENERATION), 0, 0, |_| {})?;
    let number = |f: &Vec<u8>| find(f, attribute::GENERATION_ID).and_then(|id| id.try_into().ok()).map(u32::from_be_bytes);
    found.first().and_then(number).ok_or_else(|| Errno::PROTO.into())
}

/// The elements of a set: key, end of the key's range (empty if there is none), value.
pub(crate) type Elements = Vec<((Box<[u8]>, Box<[u8]>), Box<[u8]>)>;

/// All elements of a set.
pub(crate) fn elements(socket: &mut NetfilterSocket, table: &str, set: &str) -> io::Result<Elements> {
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
