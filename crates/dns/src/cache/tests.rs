use hickory_proto::rr::RecordType;

use super::*;
use crate::message::tests::{ask, question};

fn key(name: &str) -> Key {
    ask(&question(name, RecordType::A)).key()
}

fn at(seconds: u64) -> Moment {
    Moment::after(Duration::from_secs(seconds))
}

fn bytes(length: usize) -> Arc<[u8]> {
    vec![7; length].into()
}

fn cache(entries: usize, bytes: usize) -> Cache {
    Cache::new(Limits { entries: NonZeroUsize::new(entries).unwrap(), bytes, max_stale: Duration::from_secs(3600) })
}

const FAILURE: Failure = Failure { code: ResponseCode::ServFail, unreachable: true };

/// `fresh`, `fresh!` when it is to be refreshed, `stale`, `stale?` when it is to be asked again, `failed`, `nothing`.
fn found(cache: &mut Cache, name: &str, seconds: u64) -> &'static str {
    match cache.get(&key(name), at(seconds)) {
        Found::Fresh { refresh: false, .. } => "fresh",
        Found::Fresh { refresh: true, .. } => "fresh!",
        Found::Stale { recheck: false, .. } => "stale",
        Found::Stale { recheck: true, .. } => "stale?",
        Found::Failed(_) => "failed",
        Found::Nothing => "nothing",
    }
}

#[test]
fn an_answer_is_fresh_then_stale_then_forgotten() {
    let mut cache = cache(10, 10_000);
    assert!(cache.put(key("a."), bytes(50), 30, at(100)));
    for (seconds, expected) in [(100, "fresh"), (129, "fresh!"), (130, "stale?"), (3729, "stale?"), (3730, "nothing"), (120, "nothing")] {
        if seconds == 129 {
            found(&mut cache, "a.", 110);
        }
        assert_eq!(found(&mut cache, "a.", seconds), expected, "after {seconds}");
    }
    assert_eq!((cache.len(), cache.bytes), (0, 0));
}

#[test]
fn the_age_counts_from_when_it_was_learnt() {
    let mut cache = cache(10, 10_000);
    cache.put(key("a."), bytes(50), 30, at(100).before(Duration::from_secs(107)));
    assert!(matches!(cache.get(&key("a."), at(20)), Found::Fresh { age: 27, told: 1, .. }), "learnt before the clock began");
}

#[test]
fn after_a_failure_an_old_answer_is_told_for_thirty_seconds_without_asking() {
    let mut cache = cache(10, 10_000);
    cache.put(key("a."), bytes(50), 30, at(0));
    cache.fail(key("a."), FAILURE, at(40));
    assert_eq!([40, 69, 70].map(|seconds| found(&mut cache, "a.", seconds)), ["stale", "stale", "stale?"]);
    cache.put(key("a."), bytes(50), 30, at(71));
    assert_eq!([72, 102].map(|seconds| found(&mut cache, "a.", seconds)), ["fresh", "stale?"], "the failure is forgotten");
}

#[test]
fn without_an_answer_a_failure_is_told_for_five_seconds() {
    let mut cache = cache(10, 10_000);
    cache.fail(key("a."), FAILURE, at(0));
    assert_eq!([0, 4, 5].map(|seconds| found(&mut cache, "a.", seconds)), ["failed", "failed", "nothing"]);
    assert_eq!(cache.len(), 0, "it takes no answer's place");
}

#[test]
fn a_failure_does_not_spoil_an_answer_that_holds() {
    let mut cache = cache(10, 10_000);
    cache.put(key("a."), bytes(50), 30, at(0));
    cache.fail(key("a."), FAILURE, at(5));
    assert_eq!(found(&mut cache, "a.", 6), "fresh");
}

#[test]
fn only_what_is_asked_for_again_and_again_is_refreshed() {
    let mut cache = cache(10, 10_000);
    cache.put(key("a."), bytes(50), 100, at(0));
    assert_eq!([95, 96, 97].map(|seconds| found(&mut cache, "a.", seconds)), ["fresh", "fresh", "fresh!"]);
    cache.put(key("b."), bytes(50), 100, at(0));
    assert_eq!([1, 2, 3, 89, 90].map(|seconds| found(&mut cache, "b.", seconds)), ["fresh", "fresh", "fresh", "fresh", "fresh!"]);
}

#[test]
fn the_least_recently_asked_for_goes_when_there_are_too_many_or_too_large_ones() {
    let mut entries = cache(2, 10_000);
    for name in ["a.", "b."] {
        entries.put(key(name), bytes(50), 30, at(0));
    }
    found(&mut entries, "a.", 1);
    entries.put(key("c."), bytes(50), 30, at(2));
    assert_eq!(["a.", "b.", "c."].map(|name| found(&mut entries, name, 3)), ["fresh", "nothing", "fresh"]);

    let one = size(&key("a."), &bytes(1000));
    let mut large = cache(10, 2 * one);
    for name in ["a.", "b.", "c."] {
        large.put(key(name), bytes(1000), 30, at(0));
    }
    assert_eq!(["a.", "b.", "c."].map(|name| found(&mut large, name, 1)), ["nothing", "fresh", "fresh"]);
    assert_eq!(large.bytes, 2 * one);
    large.put(key("b."), bytes(10), 30, at(0));
    assert_eq!(large.bytes, one + size(&key("b."), &bytes(10)), "a newer answer takes the older one's place");
}

#[test]
fn what_must_not_be_kept_takes_the_old_answer_with_it() {
    for (length, ttl) in [(50, 0), (MAX_MESSAGE + 1, 30)] {
        let mut cache = cache(10, 1_000_000);
        cache.put(key("a."), bytes(50), 30, at(0));
        assert!(!cache.put(key("a."), bytes(length), ttl, at(1)));
        assert_eq!(found(&mut cache, "a.", 2), "nothing");
        assert_eq!(cache.bytes, 0);
    }
}
