//! The expressions of rules. A rule's registers are 4 bytes each; a key of several fields lies in consecutive ones.

use super::attribute::{DATA_VALUE, DATA_VERDICT, EXPRESSION_DATA, EXPRESSION_NAME, LIST_ITEM, VERDICT_CHAIN, VERDICT_CODE};
use super::batch::Writer;
use super::{IPV4, IPV6};

/// A register, counted from 0.
#[derive(Clone, Copy)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    /// The first is called `NFT_REG_1` as `nft` does, the others `NFT_REG32_01` and on.
    fn number(self) -> u32 {
        if self.0 == 0 { 1 } else { 8 + self.0 }
    }
}

/// `NFT_META_…`
#[derive(Clone, Copy)]
pub(crate) enum Meta {
    InterfaceIndex = 4,
    InputName = 6,
    OutputName = 7,
    Family = 15,
    Protocol = 16,
}

/// `NFT_CT_…` of the direction in which a connection began.
#[derive(Clone, Copy)]
pub(crate) enum Original {
    Protocol = 10,
    DestinationPort = 12,
    SourceV4 = 19,
    DestinationV4 = 20,
    SourceV6 = 21,
    DestinationV6 = 22,
}

/// `IPS_DST_NAT`: the connection's destination is translated.
const STATUS_DST_NAT: u32 = 0x20;
/// `NF_CT_STATE_BIT(IP_CT_RELATED)`
const STATE_RELATED: u32 = 4;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`
const RANDOM_FULLY: u32 = 16;

impl Writer {
    fn expression(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.nest(LIST_ITEM, |w| {
            w.name(EXPRESSION_NAME, name);
            w.nest(EXPRESSION_DATA, inside);
        });
    }

    pub(crate) fn meta(&mut self, key: Meta, to: Register) {
        self.expression("meta", |w| {
            w.number(1, to.number());
            w.number(2, key as u32);
        });
    }

    /// Bytes of the network header.
    pub(crate) fn network_header(&mut self, offset: u32, length: u32, to: Register) {
        self.payload(1, offset, length, to);
    }

    /// The destination port of TCP, UDP and SCTP.
    pub(crate) fn destination_port(&mut self, to: Register) {
        self.payload(2, 2, 2, to);
    }

    /// The source port of TCP, UDP and SCTP.
    pub(crate) fn source_port(&mut self, to: Register) {
        self.payload(2, 0, 2, to);
    }

    /// The identifier of an echo request, or of its answer, of ICMP and ICMPv6.
    pub(crate) fn echo_identifier(&mut self, to: Register) {
        self.payload(2, 4, 2, to);
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32, to: Register) {
        self.expression("payload", |w| {
            w.number(1, to.number());
            w.number(2, base);
            w.number(3, offset);
            w.number(4, length);
        });
    }

    pub(crate) fn original(&mut self, key: Original, to: Register) {
        self.expression("ct", |w| {
            w.number(1, to.number());
            w.number(2, key as u32);
            w.attribute(3, &[0]);
        });
    }

    /// Ends the rule unless the register begins with (or, `equal` being false, if it begins with) the bytes.
    pub(crate) fn compare(&mut self, register: Register, equal: bool, bytes: &[u8]) {
        self.expression("cmp", |w| {
            w.number(1, register.number());
            w.number(2, u32::from(!equal));
            w.nest(3, |w| w.attribute(DATA_VALUE, bytes));
        });
    }

    /// Ends the rule unless the packet is of the protocol.
    pub(crate) fn protocol_is(&mut self, protocol: u8) {
        self.meta(Meta::Protocol, Register(0));
        self.compare(Register(0), true, &[protocol]);
    }

    pub(crate) fn mask(&mut self, register: Register, mask: &[u8]) {
        self.expression("bitwise", |w| {
            w.number(1, register.number());
            w.number(2, register.number());
            w.number(3, u32::try_from(mask.len()).unwrap_or_default());
            w.nest(4, |w| w.attribute(DATA_VALUE, mask));
            w.nest(5, |w| w.attribute(DATA_VALUE, &vec![0; mask.len()]));
        });
    }

    /// Ends the rule unless the packet is of the family.
    pub(crate) fn family_is(&mut self, v6: bool) {
        self.meta(Meta::Family, Register(0));
        self.compare(Register(0), true, &[if v6 { IPV6 } else { IPV4 }]);
    }

    /// Ends the rule unless the destination is (or, `local` being false, if it is) an address of this machine.
    pub(crate) fn destination_is_local(&mut self) {
        self.expression("fib", |w| {
            w.number(1, Register(0).number());
            w.number(2, 3);
            w.number(3, 2);
        });
        self.compare(Register(0), true, &2_u32.to_ne_bytes());
    }

    /// Ends the rule unless the connection's destination is translated.
    pub(crate) fn translated(&mut self) {
        self.expression("ct", |w| {
            w.number(1, Register(0).number());
            w.number(2, 2);
        });
        self.mask(Register(0), &STATUS_DST_NAT.to_ne_bytes());
        self.compare(Register(0), false, &[0; 4]);
    }

    /// Ends the rule unless the packet belongs to a connection that the other side began.
    pub(crate) fn is_reply(&mut self) {
        self.expression("ct", |w| {
            w.number(1, Register(0).number());
            w.number(2, 1);
        });
        self.compare(Register(0), true, &[1]);
    }

    /// Ends the rule unless the packet tells of another connection's trouble.
    pub(crate) fn is_related(&mut self) {
        self.expression("ct", |w| {
            w.number(1, Register(0).number());
            w.number(2, 0);
        });
        self.mask(Register(0), &STATE_RELATED.to_ne_bytes());
        self.compare(Register(0), false, &[0; 4]);
    }

    /// Ends the rule unless the key, from the first register on, is in the set.
    pub(crate) fn in_set(&mut self, set: &str) {
        self.expression("lookup", |w| {
            w.name(1, set);
            w.number(2, Register(0).number());
        });
    }

    /// Puts the value of the key, from the first register on, in its place; ends the rule where there is none.
    pub(crate) fn value_of(&mut self, map: &str) {
        self.expression("lookup", |w| {
            w.name(1, map);
            w.number(2, Register(0).number());
            w.number(3, Register(0).number());
        });
    }

    /// A random number below the modulus.
    pub(crate) fn random(&mut self, modulus: u32, to: Register) {
        self.expression("numgen", |w| {
            w.number(1, to.number());
            w.number(2, modulus);
            w.number(3, 1);
            w.number(4, 0);
        });
    }

    /// Destination translation to the address in the first register and the port behind it.
    pub(crate) fn translate_destination(&mut self, v6: bool) {
        let port = Register(if v6 { 4 } else { 1 });
        self.expression("nat", |w| {
            w.number(1, 1);
            w.number(2, u32::from(if v6 { IPV6 } else { IPV4 }));
            w.number(3, Register(0).number());
            w.number(5, port.number());
        });
    }

    /// Destination translation to the node itself: the address of the link that the packet came by, or the loopback's.
    pub(crate) fn redirect(&mut self) {
        self.expression("redir", |_| {});
    }

    pub(crate) fn masquerade(&mut self) {
        self.expression("masq", |w| w.number(1, RANDOM_FULLY));
    }

    /// Remembers the value for the key for a time, from the last time on.
    pub(crate) fn remember(&mut self, map: &str, key: Register, value: Register, milliseconds: u64) {
        self.expression("dynset", |w| {
            w.name(1, map);
            w.number(3, 1);
            w.number(4, key.number());
            w.number(5, value.number());
            w.attribute(6, &milliseconds.to_be_bytes());
        });
    }

    /// Remembers the key for a time, from the last time on; ends the rule where the set is full.
    pub(crate) fn note(&mut self, set: &str, key: Register, milliseconds: u64) {
        self.expression("dynset", |w| {
            w.name(1, set);
            w.number(3, 1);
            w.number(4, key.number());
            w.attribute(6, &milliseconds.to_be_bytes());
        });
    }

    /// Ends the rule unless the packet opens a TCP connection, or answers one that does so.
    pub(crate) fn opens_tcp(&mut self) {
        // SYN set, RST not.
        self.payload(2, 13, 1, Register(0));
        self.mask(Register(0), &[0x06]);
        self.compare(Register(0), true, &[0x02]);
    }

    /// Lowers the largest segment that a TCP connection's opener offers to what its route can carry.
    pub(crate) fn clamp_segments(&mut self) {
        let register = Register(0).number();
        // `NFT_RT_TCPMSS`, in the machine's byte order.
        self.expression("rt", |w| {
            w.number(1, register);
            w.number(2, 3);
        });
        // `NFT_BYTEORDER_HTON`
        self.expression("byteorder", |w| {
            w.number(1, register);
            w.number(2, register);
            w.number(3, 1);
            w.number(4, 2);
            w.number(5, 2);
        });
        // `TCPOPT_MSS`, two bytes behind its kind and length; `NFT_EXTHDR_OP_TCPOPT`. The kernel raises none.
        self.expression("exthdr", |w| {
            w.attribute(2, &[2]);
            w.number(3, 2);
            w.number(4, 2);
            w.number(6, 1);
            w.number(7, register);
        });
    }

    pub(crate) fn reset(&mut self) {
        self.expression("reject", |w| {
            w.number(1, 1);
            w.attribute(2, &[0]);
        });
    }

    /// ICMP's or ICMPv6's "port unreachable".
    pub(crate) fn port_unreachable(&mut self) {
        self.expression("reject", |w| {
            w.number(1, 2);
            w.attribute(2, &[1]);
        });
    }

    pub(crate) fn jump(&mut self, chain: &str) {
        self.verdict(-3, Some(chain));
    }

    pub(crate) fn goto(&mut self, chain: &str) {
        self.verdict(-4, Some(chain));
    }

    pub(crate) fn give_back(&mut self) {
        self.verdict(-5, None);
    }

    pub(crate) fn accept(&mut self) {
        self.verdict(1, None);
    }

    pub(crate) fn drop_packet(&mut self) {
        self.verdict(0, None);
    }

    /// `NFT_JUMP`, `NFT_GOTO`, `NFT_RETURN`, `NF_ACCEPT`, `NF_DROP`.
    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.expression("immediate", |w| {
            w.number(1, 0);
            w.nest(2, |w| {
                w.nest(DATA_VERDICT, |w| {
                    w.attribute(VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        w.name(VERDICT_CHAIN, chain);
                    }
                });
            });
        });
    }
}
