mod writer;

use super::*;

fn recorded(name: &str, message: &str, second: i64) -> Recorded {
    Recorded {
        object: ObjectReference { kind: Some("Pod".into()), name: Some(name.into()), ..ObjectReference::default() },
        kind: EventType::Warning,
        reason: "BackOff".into(),
        message: message.into(),
        at: Timestamp::from_second(second).unwrap(),
    }
}

#[test]
fn the_same_event_raises_the_count_of_the_one_before() {
    let mut correlator = Correlator::default();
    let first = correlator.correlate(recorded("a", "m", 1)).unwrap();
    assert_eq!((first.count, first.known_as.as_deref()), (1, None));
    correlator.written(&first, "a.1".into());
    let second = correlator.correlate(recorded("a", "m", 9)).unwrap();
    assert_eq!((second.count, second.known_as.as_deref(), second.first), (2, Some("a.1"), first.first));
    assert_eq!(correlator.correlate(recorded("b", "m", 9)).unwrap().count, 1);
}

#[test]
fn many_similar_events_are_combined() {
    let mut correlator = Correlator::default();
    let messages: Vec<_> = (0..12).map(|n| correlator.correlate(recorded("a", &format!("m{n}"), n)).unwrap().event.message).collect();
    assert_eq!(messages[8], "m8");
    assert_eq!(messages[9], "(combined from similar events): m9");
    assert_eq!(messages[11], "(combined from similar events): m11");
}

#[test]
fn one_object_cannot_flood() {
    let mut correlator = Correlator::default();
    let kept = (0..100).filter(|n| correlator.correlate(recorded("a", &format!("{}", n % 3), 5)).is_some()).count();
    assert_eq!(kept, 25);
    assert!(correlator.correlate(recorded("b", "m", 5)).is_some());
    let normal = Recorded { kind: EventType::Normal, ..recorded("a", "m", 5) };
    assert!(correlator.correlate(normal).is_some(), "warnings and others are counted apart");
    let late = correlator.correlate(recorded("a", "0", 5 + 301)).expect("a token comes back every five minutes");
    assert_eq!(late.count, 35, "what was dropped is counted");
}

#[test]
fn an_event_looks_like_a_kubelets() {
    let mut correlator = Correlator::default();
    let correlated = correlator.correlate(recorded("web", "m", 7)).unwrap();
    let event = event_object("pet1", "ns", &correlated);
    assert_eq!(event.metadata.name.as_deref(), Some("web.1a13b8600"));
    let source = event.source.unwrap();
    assert_eq!((source.component.as_deref(), source.host.as_deref()), (Some("kubelet"), Some("pet1")));
    assert_eq!((event.count, event.reporting_component.as_deref()), (Some(1), Some("kubelet")));
}

#[test]
fn similar_events_are_told_apart_again_after_a_quiet_while() {
    let mut correlator = Correlator::default();
    for n in 0..10 {
        correlator.correlate(recorded("a", &format!("m{n}"), n));
    }
    let event = correlator.correlate(recorded("a", "new", 9 + 600)).unwrap().event;
    assert_eq!(event.message, "(combined from similar events): new");
    let event = correlator.correlate(recorded("a", "newer", 9 + 600 + 601)).unwrap().event;
    assert_eq!(event.message, "newer");
}

#[test]
fn a_name_stays_within_its_limit() {
    let mut correlator = Correlator::default();
    let correlated = correlator.correlate(recorded(&"x".repeat(253), "m", 1_800_000_000)).unwrap();
    assert_eq!(event_object("pet1", "ns", &correlated).metadata.name.unwrap().len(), 253 - 17 + 1 + 16);
}
