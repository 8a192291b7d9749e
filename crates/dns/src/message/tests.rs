use std::str::FromStr as _;

use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, Record};
use proptest::prelude::*;

use super::*;

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub(crate) fn question(text: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message
}

pub(crate) fn with_edns(mut message: Message, payload: u16, dnssec_ok: bool) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
    message.set_edns(edns);
    message
}

pub(crate) fn ask(message: &Message) -> Ask {
    match read_request(&message.to_vec().unwrap()) {
        Request::Ask(ask) => ask,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn reply(to: &Message, code: ResponseCode) -> Message {
    let mut message = Message::response(to.metadata.id, OpCode::Query);
    message.metadata.response_code = code;
    message.add_queries(to.queries.clone());
    message
}

pub(crate) fn address(text: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(text), ttl, RData::A(A::new(192, 0, 2, last)))
}

pub(crate) fn soa(ttl: u32, minimum: u32) -> Record {
    Record::from_rdata(name("example."), ttl, RData::SOA(SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, minimum)))
}

/// The extended error of an answer.
pub(crate) fn extended_error(message: &Message) -> Option<u16> {
    message.edns.as_ref()?.options().options.iter().find_map(|(_, option)| match option {
        EdnsOption::Unknown(15, data) => Some(u16::from_be_bytes(data.as_slice().try_into().ok()?)),
        _ => None,
    })
}

fn ttls(message: &Message) -> Vec<u32> {
    message.all_sections().map(|record| record.ttl).collect()
}

#[test]
fn what_is_no_plain_question_is_refused_by_its_kind() {
    let plain = question("a.example.", RecordType::A);
    let refused = |message: &Message| match read_request(&message.to_vec().unwrap()) {
        Request::Refuse(message) => message.metadata.response_code,
        other => panic!("{other:?}"),
    };
    let with = |change: &dyn Fn(&mut Message)| {
        let mut message = plain.clone();
        change(&mut message);
        refused(&message)
    };
    assert_eq!(with(&|m| m.metadata.op_code = OpCode::Notify), ResponseCode::NotImp);
    assert_eq!(with(&|m| m.queries.clear()), ResponseCode::FormErr);
    assert_eq!(with(&|m| m.queries.push(Query::query(name("b."), RecordType::A))), ResponseCode::FormErr);
    assert_eq!(with(&|m| m.answers.push(address("a.", 1, 1))), ResponseCode::FormErr);
    assert_eq!(with(&|m| m.queries[0].query_class = DNSClass::CH), ResponseCode::Refused);
    assert_eq!(with(&|m| m.queries[0].query_type = RecordType::AXFR), ResponseCode::NotImp);
    assert_eq!(
        with(&|m| {
            m.set_edns({
                let mut edns = Edns::new();
                edns.set_version(1);
                edns
            });
        }),
        ResponseCode::BADVERS
    );
    let mut cut = plain.to_vec().unwrap();
    cut.truncate(cut.len() - 1);
    assert!(matches!(read_request(&cut), Request::Refuse(message) if message.metadata.response_code == ResponseCode::FormErr));
    assert!(matches!(read_request(&cut[..11]), Request::Ignore));
    let answer = reply(&plain, ResponseCode::NoError).to_vec().unwrap();
    assert!(matches!(read_request(&answer), Request::Ignore));
}

#[test]
fn the_key_has_what_the_answer_depends_on_and_no_more() {
    let key = |message: &Message| ask(message).key();
    let plain = question("Www.Example.", RecordType::A);
    assert_eq!(key(&plain), key(&question("www.example.", RecordType::A)));
    assert_eq!(key(&plain), key(&with_edns(plain.clone(), 4096, false)));
    assert_ne!(key(&plain), key(&with_edns(plain.clone(), 4096, true)));
    assert_ne!(key(&plain), key(&question("www.example.", RecordType::AAAA)));
    assert_ne!(key(&plain), key(&question("ww.wexample.", RecordType::A)));
    let mut other = plain.clone();
    other.metadata.checking_disabled = true;
    assert_ne!(key(&plain), key(&other));
    other = plain.clone();
    other.metadata.recursion_desired = false;
    assert_ne!(key(&plain), key(&other));
}

#[test]
fn how_long_an_answer_holds() {
    let asked = question("a.example.", RecordType::A);
    let holds = |code, answers: &[Record], authorities: &[Record]| {
        let mut message = reply(&asked, code);
        message.add_answers(answers.to_vec());
        message.add_authorities(authorities.to_vec());
        keep(message, MAX_NEGATIVE_TTL).unwrap().1
    };
    let alias = Record::from_rdata(name("a.example."), 20, RData::CNAME(CNAME(name("b.example."))));
    assert_eq!(holds(ResponseCode::NoError, &[address("a.example.", 30, 1), address("a.example.", 10, 2)], &[]), 10);
    assert_eq!(holds(ResponseCode::NoError, &[address("a.example.", 0, 1)], &[]), 0);
    assert_eq!(holds(ResponseCode::NoError, &[address("a.example.", u32::MAX, 1)], &[]), MAX_TTL);
    // Nothing: by the SOA, whichever of its numbers is lower; an alias without a target ends with the alias.
    assert_eq!(holds(ResponseCode::NXDomain, &[], &[soa(300, 60)]), 60);
    assert_eq!(holds(ResponseCode::NXDomain, &[], &[soa(30, 60)]), 30);
    assert_eq!(holds(ResponseCode::NoError, &[], &[soa(u32::MAX, u32::MAX)]), MAX_NEGATIVE_TTL);
    assert_eq!(holds(ResponseCode::NoError, std::slice::from_ref(&alias), &[soa(300, 60)]), 20);
    assert_eq!(holds(ResponseCode::NoError, &[alias], &[]), 20);
    // Nobody says for how long.
    assert_eq!(holds(ResponseCode::NXDomain, &[], &[]), 0);
    assert_eq!(holds(ResponseCode::NoError, &[], &[]), 0);
}

#[test]
fn times_count_down_and_old_answers_say_so() {
    let asked = with_edns(question("A.example.", RecordType::A), 4096, false);
    let mut message = reply(&asked, ResponseCode::NoError);
    message.add_answers([address("a.example.", 30, 1), address("a.example.", 60, 2)]);
    let (kept, _) = keep(message, MAX_NEGATIVE_TTL).unwrap();
    let client = ask(&asked);
    let fresh = client.tell(&kept, Told::Fresh { age: 12 }, 0);
    assert_eq!(ttls(&fresh), [18, 48]);
    assert_eq!(fresh.metadata.id, asked.metadata.id);
    assert!(fresh.metadata.recursion_available && fresh.metadata.recursion_desired);
    assert_eq!(fresh.queries[0].name.to_ascii(), "A.example.", "in the client's spelling");
    assert_eq!(extended_error(&fresh), None);
    let stale = client.tell(&kept, Told::Stale, 0);
    assert_eq!((ttls(&stale), extended_error(&stale)), (vec![30, 30], Some(3)));
    let (kept, _) = keep(reply(&asked, ResponseCode::NXDomain), MAX_NEGATIVE_TTL).unwrap();
    assert_eq!(extended_error(&client.tell(&kept, Told::Stale, 0)), Some(19));
    // Who sends no OPT gets none.
    assert!(ask(&question("a.example.", RecordType::A)).tell(&kept, Told::Stale, 0).edns.is_none());
}

#[test]
fn addresses_take_turns_behind_their_alias() {
    let asked = question("a.example.", RecordType::A);
    let mut message = reply(&asked, ResponseCode::NoError);
    message.add_answer(Record::from_rdata(name("a.example."), 20, RData::CNAME(CNAME(name("b.example.")))));
    message.add_answers([1, 2, 3].map(|last| address("b.example.", 30, last)));
    let (kept, _) = keep(message, MAX_NEGATIVE_TTL).unwrap();
    let firsts: Vec<_> = (0..4).map(|turn| ask(&asked).tell(&kept, Told::Fresh { age: 0 }, turn).answers[1].data.to_string()).collect();
    assert_eq!(firsts, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"]);
}

#[test]
fn authentic_data_is_told_to_who_knows_the_bit() {
    let asked = question("a.example.", RecordType::A);
    let mut message = reply(&asked, ResponseCode::NoError);
    message.add_answer(address("a.example.", 30, 1));
    message.metadata.authentic_data = true;
    let (kept, _) = keep(message, MAX_NEGATIVE_TTL).unwrap();
    let told = |message: &Message| ask(message).tell(&kept, Told::Fresh { age: 0 }, 0).metadata.authentic_data;
    assert!(!told(&asked));
    assert!(told(&with_edns(asked.clone(), 1232, true)));
    let mut knows = asked;
    knows.metadata.authentic_data = true;
    assert!(told(&knows));
    assert!(ask(&knows).forward().metadata.authentic_data);
}

#[test]
fn a_long_answer_is_cut_to_what_the_client_takes() {
    let long = |asked: &Message| {
        let mut message = reply(asked, ResponseCode::NoError);
        message.add_answers((0..=60).map(|last| address("a.example.", 30, last)));
        let client = ask(asked);
        let (kept, _) = keep(message, MAX_NEGATIVE_TTL).unwrap();
        let bytes = write(&client.tell(&kept, Told::Fresh { age: 0 }, 0), client.datagram()).unwrap();
        Message::from_vec(&bytes).map(|message| (message.metadata.truncation, message.answers.len(), bytes.len())).unwrap()
    };
    let plain = question("a.example.", RecordType::A);
    assert!(matches!(long(&plain), (true, 0, ..512)));
    assert!(matches!(long(&with_edns(plain.clone(), 100, false)), (true, 0, ..512)), "never less than 512");
    assert!(matches!(long(&with_edns(plain.clone(), 1232, false)), (false, 61, 900..1232)));
    assert_eq!(ask(&with_edns(plain, 65_000, false)).datagram(), 1232);
}

#[test]
fn only_the_answer_to_the_question_is_one() {
    let asked = question("a.example.", RecordType::A);
    let bytes = |message: &Message| message.to_vec().unwrap();
    let right = reply(&asked, ResponseCode::NoError);
    assert!(matches!(read_reply(&bytes(&right), &asked), Some(Ok(_))));
    let mut other_id = right.clone();
    other_id.metadata.id = asked.metadata.id.wrapping_add(1);
    assert!(read_reply(&bytes(&other_id), &asked).is_none());
    let mut other_name = right.clone();
    other_name.queries[0].name = Name::from_str("b.example.").unwrap();
    assert!(read_reply(&bytes(&other_name), &asked).is_none());
    assert!(read_reply(&bytes(&asked), &asked).is_none(), "a question is no answer");
    let mut cut = bytes(&right);
    cut.pop();
    assert!(matches!(read_reply(&cut, &asked), Some(Err(Unreadable))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever comes is answered within limits, or not at all.
    #[test]
    fn any_bytes_from_a_client_are_survived(bytes in bytes()) {
        match read_request(&bytes) {
            Request::Ignore => {}
            Request::Refuse(message) => prop_assert!(write(&message, 512).unwrap().len() <= 512),
            Request::Ask(ask) => {
                prop_assert!(write(&ask.fail(ResponseCode::ServFail, true), ask.datagram()).unwrap().len() <= 512);
                prop_assert!(ask.forward().to_vec().is_ok());
                prop_assert_eq!(restore(ask.key().bytes(), &keep(reply(&ask.forward(), ResponseCode::NXDomain), 5).unwrap().0), Some(ask.key()));
            }
        }
    }

    #[test]
    fn any_bytes_from_an_upstream_are_survived(bytes in bytes()) {
        let mut asked = question("a.example.", RecordType::A);
        if let Some(header) = header(&bytes) {
            asked.metadata.id = header.id;
            if let Some(query) = Message::from_vec(&bytes).ok().and_then(|message| message.queries.first().cloned()) {
                asked.queries = vec![query];
            }
        }
        if let Some(Ok(message)) = read_reply(&bytes, &asked)
            && let Some((kept, ttl)) = keep(message, MAX_NEGATIVE_TTL)
        {
            prop_assert!(ttl <= MAX_TTL);
            prop_assert!(kept.len() <= usize::from(u16::MAX));
            if let Request::Ask(client) = read_request(&asked.to_vec().unwrap()) {
                for told in [Told::Fresh { age: 5 }, Told::Stale] {
                    let message = client.tell(&kept, told, 3);
                    prop_assert!(write(&message, 512).unwrap().len() <= 512);
                }
            }
        }
    }
}

/// Bytes at random, and messages with some bytes changed.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let asked = question("www.a.example.", RecordType::A);
    let mut answer = reply(&asked, ResponseCode::NoError);
    answer.add_answer(Record::from_rdata(name("www.a.example."), 20, RData::CNAME(CNAME(name("b.example.")))));
    answer.add_answers([address("b.example.", 30, 1), address("b.example.", 30, 2)]);
    answer.add_authority(soa(30, 60));
    let seeds = [asked.clone(), with_edns(asked, 1232, true), answer.clone(), with_edns(answer, 512, false)];
    let seeds = seeds.map(|message| message.to_vec().unwrap()).to_vec();
    let changed = (prop::sample::select(seeds), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), 0..4_usize);
    let changed = changed.prop_map(|(mut bytes, changes, cut)| {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut);
        bytes
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), changed]
}
