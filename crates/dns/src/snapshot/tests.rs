use std::num::NonZeroUsize;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::*;
use crate::cache::{Found, Limits};
use crate::message::tests::{address, ask, question, reply};

const WALL: Duration = Duration::from_secs(1_800_000_000);

fn at(seconds: u64) -> Moment {
    Moment::after(Duration::from_secs(seconds))
}

fn empty() -> Cache {
    Cache::new(Limits { entries: NonZeroUsize::new(10).unwrap(), bytes: 100_000, max_stale: Duration::from_secs(3600) })
}

/// `a.` for 60 seconds, `b.` for 600, both learnt at 100; written at 110.
fn written() -> Vec<u8> {
    let mut cache = empty();
    for (name, ttl) in [("a.", 60), ("b.", 600)] {
        let asked = question(name, RecordType::A);
        let mut message = reply(&asked, ResponseCode::NoError);
        message.add_answer(address(name, ttl, 1));
        let (kept, ttl) = message::keep(message, message::MAX_NEGATIVE_TTL).unwrap();
        cache.put(ask(&asked).key(), kept.into(), ttl, at(100));
    }
    write(&cache, at(110), WALL)
}

fn found(cache: &mut Cache, name: &str, now: Moment) -> Found {
    cache.get(&ask(&question(name, RecordType::A)).key(), now)
}

#[test]
fn a_later_run_knows_what_the_earlier_one_did_and_how_old_it_is() {
    let mut cache = empty();
    // The machine has booted: its clock is at the beginning again.
    assert_eq!(read(&written(), &mut cache, at(3), WALL + Duration::from_secs(120)), Ok(2));
    assert!(matches!(found(&mut cache, "a.", at(3)), Found::Stale { .. }));
    assert!(matches!(found(&mut cache, "b.", at(3)), Found::Fresh { age: 130, .. }));
    let mut later = empty();
    read(&written(), &mut later, at(3), WALL + Duration::from_secs(4000)).unwrap();
    assert!(matches!(found(&mut later, "a.", at(3)), Found::Nothing), "too old to be told");
    assert!(matches!(found(&mut later, "b.", at(3)), Found::Stale { .. }));
}

#[test]
fn with_a_clock_that_went_back_nothing_holds_and_nothing_is_lost() {
    let mut cache = empty();
    assert_eq!(read(&written(), &mut cache, at(3), Duration::from_secs(50)), Ok(2));
    for name in ["a.", "b."] {
        assert!(matches!(found(&mut cache, name, at(3)), Found::Stale { .. }), "{name}");
    }
}

#[test]
fn the_order_of_use_is_kept() {
    let mut cache = empty();
    read(&written(), &mut cache, at(3), WALL).unwrap();
    found(&mut cache, "a.", at(4));
    let mut next = empty();
    read(&write(&cache, at(5), WALL), &mut next, at(5), WALL).unwrap();
    let order: Vec<_> = next.entries().map(|(key, _)| key.bytes()[1]).collect();
    assert_eq!(order, [b'b', b'a']);
}

#[test]
fn damage_is_told_and_nothing_of_it_is_used() {
    let whole = written();
    let mut cache = empty();
    let mut try_read = |bytes: &[u8]| read(bytes, &mut cache, at(3), WALL);
    assert_eq!(try_read(b"{}"), Err(SnapshotError::Head));
    assert_eq!(try_read(&whole[..25]), Err(SnapshotError::Head));
    assert_eq!(try_read(&whole[..whole.len() - 1]), Err(SnapshotError::Cut { entry: 1 }));
    let mut other_name = whole.clone();
    let first = HEAD.len() + 8 + 2 + 1;
    assert_eq!(other_name[first], b'a');
    other_name[first] = b'c';
    assert_eq!(try_read(&other_name), Err(SnapshotError::Entry { entry: 0 }));
    assert_eq!(cache.len(), 0);
}

proptest! {
    #[test]
    fn any_change_is_survived(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5), cut in 0..3_usize) {
        let mut bytes = written();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut);
        let mut cache = empty();
        if read(&bytes, &mut cache, at(3), WALL).is_ok() {
            for name in ["a.", "b."] {
                found(&mut cache, name, at(4));
            }
        }
    }
}
