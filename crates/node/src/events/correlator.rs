//! client-go's event correlation: repeated events raise a count, many similar ones are combined, and too many of one object
//! are dropped.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::Recorded;

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
    messages: Vec<String>,
    since: Timestamp,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// What was recorded lately.
#[derive(Default)]
pub(super) struct Correlator {
    known: HashMap<String, Known>,
    similar: HashMap<String, Similar>,
    buckets: HashMap<String, Bucket>,
}

impl Correlator {
    /// What becomes of an event; `None` if the object has had too many.
    pub(super) fn correlate(&mut self, mut event: Recorded) -> Option<Correlated> {
        for full in [self.known.len(), self.similar.len(), self.buckets.len()] {
            if full > MAX_KEYS {
                *self = Self::default();
            }
        }
        let object = format!("{:?}", (&event.object.kind, &event.object.namespace, &event.object.name, &event.object.uid));
        if !self.spend(&object, event.at) {
            return None;
        }
        let group = format!("{object}{:?}{}{:?}", event.object.field_path, event.reason, event.kind);
        let similar = self.similar.entry(group.clone()).or_insert_with(|| Similar { messages: Vec::new(), since: event.at });
        if event.at.duration_since(similar.since) > SIMILAR_WINDOW {
            *similar = Similar { messages: Vec::new(), since: event.at };
        }
        if !similar.messages.contains(&event.message) {
            similar.messages.push(event.message.clone());
        }
        let key = if similar.messages.len() >= MAX_SIMILAR {
            similar.messages.truncate(MAX_SIMILAR);
            event.message = format!("(combined from similar events): {}", event.message);
            group
        } else {
            format!("{group}{}", event.message)
        };
        let known = self.known.entry(key.clone()).or_insert_with(|| Known { count: 0, first: event.at, name: None });
        known.count += 1;
        Some(Correlated { count: known.count, first: known.first, known_as: known.name.clone(), key, event })
    }

    /// The event object's name, for the next time.
    pub(super) fn written(&mut self, correlated: &Correlated, name: String) {
        if let Some(known) = self.known.get_mut(&correlated.key) {
            known.name = Some(name);
        }
    }

    fn spend(&mut self, object: &str, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(object.to_owned()).or_insert(Bucket { tokens: BURST, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed * REFILL_PER_SECOND).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}
