//! One atomic change: messages between a begin and an end, in the order in which the kernel does them.

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};

use super::{INET, SUBSYSTEM_NFTABLES, attribute, message};
use crate::netlink::message_length;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// The length of a nest is 16 bits wide: elements are spread over messages well before.
const FULL: usize = 48 << 10;

/// Bytes of netlink messages, as they grow. Numbers in attributes of nf_tables are big endian.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    /// `nlmsghdr` and `nfgenmsg`; the sequence number is set when the message is sent.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, family: u8, resource: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        start
    }

    pub(crate) fn end(&mut self, start: usize) {
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.put(start, &length.to_ne_bytes());
    }

    pub(crate) fn attribute(&mut self, kind: u16, payload: &[u8]) {
        let length = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub(crate) fn name(&mut self, kind: u16, name: &str) {
        let length = u16::try_from(5 + name.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.open(kind);
        inside(self);
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | 0x8000).to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.put(start, &length.to_ne_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// A set or a map to make.
pub(crate) struct NewSet<'a> {
    pub(crate) name: &'a str,
    /// `NFT_SET_…`
    pub(crate) flags: u32,
    /// Types and sizes of the key's fields, in bytes.
    pub(crate) key: &'a [Field],
    /// Of the value; empty for a set.
    pub(crate) value: &'a [Field],
    /// How many elements it takes; 0: as many as the kernel allows.
    pub(crate) size: u32,
}

/// A field of a key or value: the number of its type in the program `nft`, for its listings, and its size in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) kind: u32,
    pub(crate) size: u32,
}

impl Field {
    pub(crate) const IPV4: Self = Self { kind: 7, size: 4 };
    pub(crate) const IPV6: Self = Self { kind: 8, size: 16 };
    pub(crate) const PROTOCOL: Self = Self { kind: 12, size: 1 };
    pub(crate) const PORT: Self = Self { kind: 13, size: 2 };
    /// The name of a link.
    pub(crate) const LINK: Self = Self { kind: 41, size: 16 };
    /// A number of the machine's byte order: `mark` to `nft`.
    pub(crate) const INDEX: Self = Self { kind: 19, size: 4 };
    /// Fields begin at whole registers.
    pub(crate) fn width(self) -> u32 {
        self.size.next_multiple_of(4)
    }
}

/// `NFT_SET_INTERVAL`, `NFT_SET_MAP`, `NFT_SET_TIMEOUT`, `NFT_SET_EVAL`, `NFT_SET_CONCAT`.
pub(crate) const SET_INTERVAL: u32 = 4;
pub(crate) const SET_MAP: u32 = 8;
pub(crate) const SET_TIMEOUT: u32 = 16;
pub(crate) const SET_EVAL: u32 = 32;
pub(crate) const SET_CONCAT: u32 = 128;

/// An element of a set; in a map it has a value, in an interval an end.
#[derive(Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) end: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// A change of one table.
pub(crate) struct Batch<'a> {
    table: &'a str,
    writer: Writer,
    sets: u32,
    rules: usize,
    /// Elements of the same kind and set share a message.
    open: Option<Open>,
}

struct Open {
    kind: u16,
    set: String,
    message: usize,
    list: usize,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(table: &'a str) -> Self {
        let mut writer = Writer::default();
        let start = writer.begin(BATCH_BEGIN, 0, 0, SUBSYSTEM_NFTABLES);
        writer.end(start);
        Self { table, writer, sets: 0, rules: 0, open: None }
    }

    pub(crate) fn table(&mut self, userdata: &[u8]) {
        let table = self.table;
        self.message(message::NEW_TABLE, NLM_F_CREATE, |w| {
            w.name(attribute::TABLE_NAME, table);
            w.number(attribute::TABLE_FLAGS, 0);
            if !userdata.is_empty() {
                w.attribute(attribute::TABLE_USERDATA, userdata);
            }
        });
    }

    pub(crate) fn delete_table(&mut self) {
        let table = self.table;
        self.message(message::DEL_TABLE, 0, |w| w.name(attribute::TABLE_NAME, table));
    }

    /// `NFT_TABLE_F_DORMANT`: its chains are at no hook.
    #[cfg(test)]
    pub(crate) fn sleep(&mut self) {
        let table = self.table;
        self.message(message::NEW_TABLE, 0, |w| {
            w.name(attribute::TABLE_NAME, table);
            w.number(attribute::TABLE_FLAGS, 1);
        });
    }

    pub(crate) fn chain(&mut self, name: &str) {
        let table = self.table;
        self.message(message::NEW_CHAIN, NLM_F_CREATE, |w| {
            w.name(attribute::CHAIN_TABLE, table);
            w.name(attribute::CHAIN_NAME, name);
        });
    }

    /// A chain at one of the hooks of `linux/netfilter.h` that sees the first packet of each connection.
    pub(crate) fn nat_chain(&mut self, name: &str, hook: u32, priority: i32) {
        self.base_chain(name, "nat", hook, priority);
    }

    /// A chain that sees every packet.
    pub(crate) fn filter_chain(&mut self, name: &str, hook: u32, priority: i32) {
        self.base_chain(name, "filter", hook, priority);
    }

    fn base_chain(&mut self, name: &str, kind: &str, hook: u32, priority: i32) {
        let table = self.table;
        self.message(message::NEW_CHAIN, NLM_F_CREATE, |w| {
            w.name(attribute::CHAIN_TABLE, table);
            w.name(attribute::CHAIN_NAME, name);
            w.nest(attribute::CHAIN_HOOK, |w| {
                w.number(attribute::HOOK_NUMBER, hook);
                w.attribute(attribute::HOOK_PRIORITY, &priority.to_be_bytes());
            });
            w.number(attribute::CHAIN_POLICY, 1);
            w.name(attribute::CHAIN_TYPE, kind);
        });
    }

    /// Appends a rule; `expressions` are as [`super::expressions`] writes them.
    pub(crate) fn rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Writer)) {
        let table = self.table;
        self.rules += 1;
        self.message(message::NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |w| {
            w.name(attribute::RULE_TABLE, table);
            w.name(attribute::RULE_CHAIN, chain);
            w.nest(attribute::RULE_EXPRESSIONS, expressions);
        });
    }

    /// Takes a chain's rules away.
    pub(crate) fn flush_chain(&mut self, chain: &str) {
        let table = self.table;
        self.message(message::DEL_RULE, 0, |w| {
            w.name(attribute::RULE_TABLE, table);
            w.name(attribute::RULE_CHAIN, chain);
        });
    }

    /// How many rules there are in it.
    pub(crate) fn rules(&self) -> usize {
        self.rules
    }

    pub(crate) fn set(&mut self, set: &NewSet<'_>) {
        self.sets += 1;
        let (table, id) = (self.table, self.sets);
        self.message(message::NEW_SET, NLM_F_CREATE, |w| {
            w.name(attribute::SET_TABLE, table);
            w.name(attribute::SET_NAME, set.name);
            w.number(attribute::SET_FLAGS, set.flags);
            w.number(attribute::SET_KEY_TYPE, kind_of(set.key));
            w.number(attribute::SET_KEY_LENGTH, set.key.iter().map(|f| f.width()).sum());
            if !set.value.is_empty() {
                w.number(attribute::SET_DATA_TYPE, kind_of(set.value));
                w.number(attribute::SET_DATA_LENGTH, set.value.iter().map(|f| f.width()).sum());
            }
            w.number(attribute::SET_ID, id);
            if set.size != 0 {
                w.nest(attribute::SET_DESCRIPTION, |w| w.number(attribute::DESCRIPTION_SIZE, set.size));
            }
            if set.flags & SET_CONCAT != 0 {
                w.nest(attribute::SET_DESCRIPTION, |w| {
                    w.nest(attribute::DESCRIPTION_CONCATENATION, |w| {
                        for field in set.key {
                            w.nest(attribute::LIST_ITEM, |w| w.number(attribute::FIELD_LENGTH, field.size));
                        }
                    });
                });
            }
        });
    }

    /// Takes a set away; no rule may look into it any more.
    pub(crate) fn delete_set(&mut self, set: &str) {
        let table = self.table;
        self.message(message::DEL_SET, 0, |w| {
            w.name(attribute::SET_TABLE, table);
            w.name(attribute::SET_NAME, set);
        });
    }

    pub(crate) fn add(&mut self, set: &str, element: Element<'_>) {
        self.element(message::NEW_ELEMENTS, NLM_F_CREATE, set, element);
    }

    pub(crate) fn delete(&mut self, set: &str, element: Element<'_>) {
        self.element(message::DEL_ELEMENTS, 0, set, element);
    }

    fn element(&mut self, kind: u16, flags: u16, set: &str, element: Element<'_>) {
        let full = |open: &Open, writer: &Writer| writer.bytes.len() - open.list > FULL;
        if self.open.as_ref().is_none_or(|o| o.kind != kind || o.set != set || full(o, &self.writer)) {
            self.close();
            let message = self.writer.begin(SUBSYSTEM_NFTABLES << 8 | kind, flags, INET, 0);
            self.writer.name(attribute::ELEMENTS_TABLE, self.table);
            self.writer.name(attribute::ELEMENTS_SET, set);
            let list = self.writer.open(attribute::ELEMENTS_LIST);
            self.open = Some(Open { kind, set: set.to_owned(), message, list });
        }
        self.writer.nest(attribute::LIST_ITEM, |w| {
            w.nest(attribute::ELEMENT_KEY, |w| w.attribute(attribute::DATA_VALUE, element.key));
            if !element.end.is_empty() {
                w.nest(attribute::ELEMENT_KEY_END, |w| w.attribute(attribute::DATA_VALUE, element.end));
            }
            if !element.value.is_empty() && kind == message::NEW_ELEMENTS {
                w.nest(attribute::ELEMENT_DATA, |w| w.attribute(attribute::DATA_VALUE, element.value));
            }
        });
    }

    fn message(&mut self, kind: u16, flags: u16, inside: impl FnOnce(&mut Writer)) {
        self.close();
        let start = self.writer.begin(SUBSYSTEM_NFTABLES << 8 | kind, flags, INET, 0);
        inside(&mut self.writer);
        self.writer.end(start);
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.writer.close(open.list);
            self.writer.end(open.message);
        }
    }

    /// The messages, with sequence numbers from `first`; and the last number, of the message whose success is told. Kernels before 6.10 do not
    /// answer for the end of a batch, so it is the last message inside. `None`: nothing to do.
    pub(crate) fn finish(mut self, first: u32) -> Option<(Vec<u8>, u32)> {
        self.close();
        let bytes = &mut self.writer.bytes;
        let (mut at, mut sequence, mut last) = (0, first, None);
        while let Some(length) = message_length(bytes.get(at..).unwrap_or_default()) {
            if let Some(place) = bytes.get_mut(at + 8..at + 12) {
                place.copy_from_slice(&sequence.to_ne_bytes());
            }
            (last, sequence) = (Some(at), sequence + 1);
            at += length;
        }
        let last = last.filter(|at| *at > 0)?;
        if let Some([low, _]) = bytes.get_mut(last + 6..last + 8) {
            *low |= u8::try_from(NLM_F_ACK).unwrap_or_default();
        }
        let start = self.writer.begin(BATCH_END, 0, 0, SUBSYSTEM_NFTABLES);
        self.writer.end(start);
        self.writer.put(start + 8, &sequence.to_ne_bytes());
        Some((self.writer.bytes, sequence - 1))
    }
}

/// How `nft` numbers the type of a concatenation: six bits for each field.
fn kind_of(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |kind, field| kind << 6 | field.kind)
}
