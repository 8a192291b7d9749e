//! client-go's event correlation (`tools/record/events_cache.go`): repeated events raise a count, many similar ones are
//! combined, and too many of one object are dropped.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::Recorded;
use super::rate::Bucket;

/// client-go's defaults.
const MAX_SIMILAR: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// Objects and events that are remembered; beyond, everything is forgotten, which costs a few events too many.
const MAX_KEYS: usize = 4096;

/// An event that is to be written.
#[derive(Clone, Debug)]
pub(super) struct Correlated {
    pub event: Recorded,
    pub count: i32,
    pub first: Timestamp,
    /// The name of the event object whose count is raised.
    pub known_as: Option<String>,
    key: String,
}

struct Known {
    count: i32,
    first: Timestamp,
    name: Option<String>,
}

struct Similar {
    messages: VecDeque<String>,
    last: Timestamp,
}

/// What was recorded lately.
#[derive(Default)]
pub(super) struct Correlator {
    known: HashMap<String, Known>,
    similar: HashMap<String, Similar>,
    buckets: HashMap<String, Bucket>,
}

impl Correlator {
    /// What becomes of an event; `None` if the object has had too many. Those that are dropped still count.
    pub(super) fn correlate(&mut self, event: Recorded) -> Option<Correlated> {
        if [self.known.len(), self.similar.len(), self.buckets.len()].into_iter().any(|full| full > MAX_KEYS) {
            *self = Self::default();
        }
        let object = &event.object;
        let of_object = format!("{:?}{:?}", (&object.kind, &object.namespace, &object.name, &object.uid, &object.api_version), event.kind);
        let bucket = of_object.clone();
        // The messages of one object and reason, whichever container they are about.
        let group = format!("{of_object}{:?}", event.reason);
        let (event, key) = self.combine(event, group);
        let known = self.known.entry(key.clone()).or_insert_with(|| Known { count: 0, first: event.at, name: None });
        known.count += 1;
        let correlated = Correlated { count: known.count, first: known.first, known_as: known.name.clone(), key, event };
        let bucket = self.buckets.entry(bucket).or_insert_with(|| Bucket::new(BURST, REFILL_PER_SECOND, correlated.event.at));
        bucket.take(correlated.event.at).then_some(correlated)
    }

    /// Ten different messages within ten minutes make the tenth stand for all that follow.
    fn combine(&mut self, mut event: Recorded, group: String) -> (Recorded, String) {
        let similar = self.similar.entry(group.clone()).or_insert_with(|| Similar { messages: VecDeque::new(), last: event.at });
        if event.at.duration_since(similar.last) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.last = event.at;
        if !similar.messages.contains(&event.message) {
            similar.messages.push_back(event.message.clone());
        }
        if similar.messages.len() < MAX_SIMILAR {
            let key = format!("{group}{:?}{:?}", event.object.field_path, event.message);
            return (event, key);
        }
        similar.messages.pop_front();
        event.message = format!("(combined from similar events): {}", event.message);
        (event, group)
    }

    /// The event object's name, for the next time.
    pub(super) fn written(&mut self, correlated: &Correlated, name: String) {
        if let Some(known) = self.known.get_mut(&correlated.key) {
            known.name = Some(name);
        }
    }
}
