//! Messages: what a client asks, what an upstream answers, what of it is kept and how it is told again.

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

/// The size of datagrams that reach everybody (DNS flag day 2020): what is asked for upstream, and at most given to clients.
pub(crate) const DATAGRAM: u16 = 1232;
/// What a client without EDNS takes.
const PLAIN_DATAGRAM: u16 = 512;
/// RFC 8767, 4: higher ones, and what looks negative, count as this.
pub(crate) const MAX_TTL: u32 = 7 * 86_400;
/// RFC 2308, 5: one to three hours work well.
pub(crate) const MAX_NEGATIVE_TTL: u32 = 3 * 3600;
/// RFC 8767, 4: of an answer that is told although its time is over.
pub(crate) const STALE_TTL: u32 = 30;
/// RFC 8914.
const EXTENDED_ERROR: u16 = 15;
const STALE_ANSWER: u16 = 3;
const STALE_NXDOMAIN: u16 = 19;
const NO_REACHABLE_AUTHORITY: u16 = 22;
/// OPT and a signature are all that a question has behind it.
const MAX_ADDITIONALS: u16 = 4;
const HEADER_BYTES: usize = 12;

/// A question with everything that its answer depends on, in one piece: name in lower case, type, class, flags.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(Box<[u8]>);

impl Key {
    fn new(query: &Query, flags: u8) -> Self {
        let mut bytes = Vec::with_capacity(query.name.len() + 6);
        for label in query.name.iter() {
            bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        bytes.push(0);
        bytes.extend(u16::from(query.query_type).to_be_bytes());
        bytes.extend(u16::from(query.query_class).to_be_bytes());
        bytes.push(flags);
        Self(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A question of a client's.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    id: u16,
    /// In the client's own spelling.
    pub(crate) query: Query,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    /// Whether the client knows what the bit for authentic data means (RFC 6840, 5.7).
    authentic: bool,
    edns: Option<ClientEdns>,
}

#[derive(Clone, Copy, Debug)]
struct ClientEdns {
    max_payload: u16,
    dnssec_ok: bool,
}

/// What came from a client.
#[derive(Debug)]
pub(crate) enum Request {
    Ask(Ask),
    /// To be answered at once with this.
    Refuse(Message),
    /// No question: an answer to it could start a loop.
    Ignore,
}

impl Ask {
    pub(crate) fn key(&self) -> Key {
        let flags = [self.recursion_desired, self.checking_disabled, self.dnssec_ok()];
        Key::new(&self.query, flags.into_iter().fold(0, |all, flag| all << 1 | u8::from(flag)))
    }

    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Bytes of a datagram that the client takes.
    pub(crate) fn datagram(&self) -> usize {
        self.edns.map_or(PLAIN_DATAGRAM, |edns| edns.max_payload.clamp(PLAIN_DATAGRAM, DATAGRAM)).into()
    }

    /// An answer without content.
    pub(crate) fn fail(&self, code: ResponseCode, unreachable: bool) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.response_code = code;
        self.address(message, unreachable.then_some(NO_REACHABLE_AUTHORITY))
    }

    /// A kept answer, `age` seconds after it was learnt. `turn` chooses which of several addresses is the first.
    pub(crate) fn tell(&self, kept: &[u8], told: Told, turn: usize) -> Message {
        let Ok(mut message) = Message::from_vec(kept) else { return self.fail(ResponseCode::ServFail, false) };
        for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
            match told {
                Told::Fresh { age } => record.ttl = record.ttl.saturating_sub(age),
                Told::Stale => record.ttl = STALE_TTL,
            }
        }
        let addresses = |kind| self.query.query_type == kind && matches!(kind, RecordType::A | RecordType::AAAA);
        let first = message.answers.iter().rposition(|record| !addresses(record.record_type())).map_or(0, |at| at + 1);
        if let Some(addresses @ [_, _, ..]) = message.answers.get_mut(first..) {
            addresses.rotate_left(turn % addresses.len());
        }
        let error = match (told, message.metadata.response_code) {
            (Told::Fresh { .. }, _) => None,
            (Told::Stale, ResponseCode::NXDomain) => Some(STALE_NXDOMAIN),
            (Told::Stale, _) => Some(STALE_ANSWER),
        };
        self.address(message, error)
    }

    /// Makes a message the answer to this question.
    fn address(&self, mut message: Message, error: Option<u16>) -> Message {
        message.metadata.id = self.id;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.authentic_data &= self.authentic;
        message.queries = vec![self.query.clone()];
        message.edns = self.edns.map(|client| {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM);
            edns.set_dnssec_ok(client.dnssec_ok);
            if let Some(code) = error {
                edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, code.to_be_bytes().to_vec()));
            }
            edns
        });
        message
    }

    /// The question as it is sent upstream, with an ID that nobody can foresee.
    pub(crate) fn forward(&self) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        // Asked for always, so that one answer is for all: who does not know the bit does not get it.
        message.metadata.authentic_data = true;
        message.queries = vec![self.query.clone()];
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM);
        edns.set_dnssec_ok(self.dnssec_ok());
        message.edns = Some(edns);
        message
    }
}

/// How old a kept answer is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    Fresh {
        /// Seconds since it was learnt.
        age: u32,
    },
    Stale,
}

/// Reads what came from a client.
pub(crate) fn read_request(bytes: &[u8]) -> Request {
    let Some(header) = header(bytes) else { return Request::Ignore };
    if header.message_type == MessageType::Response {
        return Request::Ignore;
    }
    let refuse = |code| Request::Refuse(Message::error_msg(header.id, header.op_code, code));
    if header.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    // Before memory is taken for what the header announces.
    let counts = header.counts;
    if (counts.queries, counts.answers, counts.authorities) != (1, 0, 0) || counts.additionals > MAX_ADDITIONALS {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return refuse(ResponseCode::FormErr) };
    let Some(query) = message.queries.pop() else { return refuse(ResponseCode::FormErr) };
    let edns = message.edns.as_ref();
    let version = edns.map_or(0, Edns::version);
    let ask = Ask {
        id: header.id,
        query,
        recursion_desired: header.recursion_desired,
        checking_disabled: header.checking_disabled,
        authentic: header.authentic_data || edns.is_some_and(|edns| edns.flags().dnssec_ok),
        edns: edns.map(|edns| ClientEdns { max_payload: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok }),
    };
    match u16::from(ask.query.query_type) {
        _ if version > 0 => Request::Refuse(ask.fail(ResponseCode::BADVERS, false)),
        _ if ask.query.query_class != DNSClass::IN => Request::Refuse(ask.fail(ResponseCode::Refused, false)),
        // OPT; TKEY, TSIG, IXFR, AXFR, MAILB, MAILA: none of them is a question that an answer could be kept of.
        0 | 41 | 249..=254 => Request::Refuse(ask.fail(ResponseCode::NotImp, false)),
        _ => Request::Ask(ask),
    }
}

/// The answer of an upstream to what it was asked; `None` if it is not.
pub(crate) fn read_reply(bytes: &[u8], asked: &Message) -> Option<Result<Message, Unreadable>> {
    let header = header(bytes)?;
    if header.id != asked.metadata.id || header.message_type != MessageType::Response || header.op_code != OpCode::Query {
        return None;
    }
    if header.counts.queries != 1 {
        return Some(Err(Unreadable));
    }
    let Ok(message) = Message::from_vec(bytes) else { return Some(Err(Unreadable)) };
    // Names are equal in any spelling.
    (message.queries == asked.queries).then_some(Ok(message))
}

/// An answer whose bytes make no sense.
#[derive(Debug)]
pub(crate) struct Unreadable;

fn header(bytes: &[u8]) -> Option<Header> {
    Header::read(&mut BinDecoder::new(bytes.get(..HEADER_BYTES)?)).ok()
}

/// What is kept of an upstream's answer, and for how many seconds it holds: none where it must not be kept. That there is nothing holds for
/// `negative` seconds at most.
pub(crate) fn keep(mut message: Message, negative: u32) -> Option<(Vec<u8>, u32)> {
    message.edns = None;
    message.signature = None;
    message.metadata.id = 0;
    let negative = negative_ttl(&message).map(|ttl| ttl.min(negative));
    for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
        record.ttl = record.ttl.min(MAX_TTL);
        if let (Some(limit), RData::SOA(_)) = (negative, &record.data) {
            record.ttl = record.ttl.min(limit);
        }
    }
    let lowest = message.all_sections().map(|record| record.ttl).min();
    let holds = match (negative, message.metadata.response_code) {
        (Some(limit), ResponseCode::NoError | ResponseCode::NXDomain) => lowest.map(|lowest| lowest.min(limit)),
        (None, ResponseCode::NoError) if !message.answers.is_empty() => lowest,
        // Without an SOA nobody knows how long there is no such name (RFC 2308, 5).
        _ => None,
    };
    Some((message.to_vec().ok()?, holds.unwrap_or(0)))
}

/// Of an answer that says that there is nothing: how long that holds (RFC 2308, 5).
fn negative_ttl(message: &Message) -> Option<u32> {
    let kind = message.queries.first()?.query_type;
    let found = message.answers.iter().any(|record| record.record_type() == kind || kind == RecordType::ANY);
    if found && message.metadata.response_code != ResponseCode::NXDomain {
        return None;
    }
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    })
}

/// Whether these are the bytes of an answer to this question, as [`keep`] gives them.
pub(crate) fn restore(key: &[u8], kept: &[u8]) -> Option<Key> {
    if header(kept)?.counts.queries != 1 {
        return None;
    }
    let message = Message::from_vec(kept).ok()?;
    let expected = Key::new(message.queries.first()?, *key.last()?);
    (message.metadata.message_type == MessageType::Response && expected.bytes() == key).then_some(expected)
}

/// A message as bytes, cut short where it is longer than `limit`: the client then asks over TCP.
pub(crate) fn write(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    message.truncate().to_vec().ok()
}

#[cfg(test)]
pub(crate) mod tests;
