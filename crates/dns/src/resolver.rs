//! From a question to its answer: what the cache knows, what the upstream says, and which of the two is told when.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Name;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::cache::{Cache, Failure, Found, Limits};
use crate::message::{self, Ask, Key, Told};
use crate::moment::Moment;
use crate::snapshot::{self, SnapshotError};
use crate::upstream::Upstream;

/// RFC 8767, 5: how long a client waits for a new answer where there is an old one.
const CLIENT_PATIENCE: Duration = Duration::from_millis(1800);
/// How long an upstream that said nothing to one question is thought to be away for others.
const AWAY: Duration = Duration::from_secs(30);
/// Questions that are upstream at a time, each with one to four sockets.
const MAX_FLIGHTS: usize = 256;

/// How long it holds that there is no such name where names come and go: as in Kubernetes' own node-local cache, so that a new one is found
/// soon.
const CHANGING_NEGATIVE_TTL: u32 = 5;

/// Something that happened, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A question was answered from the cache.
    Hit,
    /// The upstream was asked and has answered.
    Miss,
    /// It has not, or not in time, and an old answer was told.
    Stale,
    /// There was no answer to tell.
    Failed,
    /// A client that may not ask.
    Dropped,
    /// A server gave no answer, or one that says that it has none.
    UpstreamFailure(SocketAddr),
}

pub(crate) type Observe = Arc<dyn Fn(Observation) + Send + Sync>;
/// The time on a clock that goes on while the machine sleeps, or on a test's.
pub(crate) type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// What a question upstream has come to.
type Outcome = Result<(Arc<[u8]>, u32), Failure>;
type Landing = watch::Receiver<Option<Outcome>>;

/// A question that is to be asked upstream.
#[derive(Debug)]
pub(crate) struct Flight {
    key: Key,
    ask: Ask,
    landed: watch::Sender<Option<Outcome>>,
}

/// The cache and its upstream; cheap to clone.
#[derive(Clone)]
pub struct DnsCache(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    upstream: Upstream,
    /// A domain whose names come and go.
    changing: Option<Name>,
    clock: Clock,
    observe: Observe,
    flights: mpsc::UnboundedSender<Flight>,
    changes: AtomicU64,
}

struct State {
    cache: Cache,
    /// What is being asked, for whoever asks the same.
    flights: HashMap<Key, Landing>,
    /// When no server said anything, unless one has since.
    away: Option<Moment>,
}

/// What can be said about a question at once.
pub(crate) enum Lookup {
    Done(Message),
    /// The rest takes time.
    Wait(Wait),
}

/// A question that is being asked upstream.
pub(crate) struct Wait {
    cache: DnsCache,
    ask: Ask,
    landing: Landing,
    /// To be told after [`CLIENT_PATIENCE`].
    stale: Option<(Arc<[u8]>, usize)>,
}

impl DnsCache {
    pub(crate) fn new(
        limits: Limits,
        upstream: Upstream,
        changing: Option<Name>,
        clock: Clock,
        observe: Observe,
    ) -> (Self, mpsc::UnboundedReceiver<Flight>) {
        let (flights, departures) = mpsc::unbounded_channel();
        let state = State { cache: Cache::new(limits), flights: HashMap::new(), away: None };
        let inner = Inner { state: Mutex::new(state), upstream, changing, clock, observe, flights, changes: AtomicU64::new(0) };
        (Self(Arc::new(inner)), departures)
    }

    /// Everything that is known, for [`Self::restore`] of a later run. `wall` is the time since 1970.
    pub fn snapshot(&self, wall: Duration) -> Vec<u8> {
        snapshot::write(&self.state().cache, self.now(), wall)
    }

    /// Takes over what an earlier run knew; how many answers.
    ///
    /// # Errors
    /// When it is damaged; nothing of it is used then.
    pub fn restore(&self, snapshot: &[u8], wall: Duration) -> Result<usize, SnapshotError> {
        snapshot::read(snapshot, &mut self.state().cache, self.now(), wall)
    }

    /// Grows with every answer that is learnt: a snapshot that was made at the same number is still right.
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Relaxed)
    }

    /// How many answers are known.
    pub fn entries(&self) -> usize {
        self.state().cache.len()
    }

    pub(crate) fn observe(&self, observation: Observation) {
        (self.0.observe)(observation);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        (self.0.clock)()
    }

    pub(crate) fn lookup(&self, ask: Ask) -> Lookup {
        let key = ask.key();
        let now = self.now();
        let mut state = self.state();
        let found = state.cache.get(&key, now);
        let (stale, at_once) = match found {
            Found::Fresh { kept, age, told, refresh } => {
                if refresh {
                    self.depart(&mut state, key, &ask);
                }
                drop(state);
                self.observe(Observation::Hit);
                return Lookup::Done(ask.tell(&kept, Told::Fresh { age }, told));
            }
            Found::Failed(failure) => {
                drop(state);
                return Lookup::Done(self.fail(&ask, failure));
            }
            Found::Stale { kept, told, recheck: false } => {
                drop(state);
                return Lookup::Done(self.tell_stale(&ask, &kept, told));
            }
            // A machine without network: each name would make its client wait. It is asked for all the same, beside.
            Found::Stale { kept, told, recheck: true } => (Some((kept, told)), state.away.is_some_and(|at| now.since(at) < AWAY)),
            Found::Nothing => (None, false),
        };
        let landing = self.depart(&mut state, key, &ask);
        drop(state);
        match (landing, stale) {
            (Some(landing), stale) if !at_once => Lookup::Wait(Wait { cache: self.clone(), ask, landing, stale }),
            (_, Some((kept, told))) => Lookup::Done(self.tell_stale(&ask, &kept, told)),
            (_, None) => Lookup::Done(self.fail(&ask, Failure { code: ResponseCode::ServFail, unreachable: false })),
        }
    }

    /// Asks upstream, unless that is being done; `None` where too much is being asked.
    fn depart(&self, state: &mut State, key: Key, ask: &Ask) -> Option<Landing> {
        if let Some(landing) = state.flights.get(&key) {
            return Some(landing.clone());
        }
        if state.flights.len() >= MAX_FLIGHTS {
            return None;
        }
        let (landed, landing) = watch::channel(None);
        self.0.flights.send(Flight { key: key.clone(), ask: ask.clone(), landed }).ok()?;
        state.flights.insert(key, landing.clone());
        Some(landing)
    }

    /// Asks upstream and keeps what it says. Whoever waits is told, also if this is dropped.
    pub(crate) async fn fly(&self, flight: Flight) {
        let Flight { key, ask, landed } = flight;
        let landed = Landed { cache: self, key, landed };
        let asked = self.0.upstream.ask(&ask).await;
        // What no message can be made of is no answer.
        let failed = Failure { code: ResponseCode::ServFail, unreachable: false };
        let changing = self.0.changing.as_ref().is_some_and(|domain| domain.zone_of(&ask.query.name));
        let negative = if changing { CHANGING_NEGATIVE_TTL } else { message::MAX_NEGATIVE_TTL };
        let outcome = asked.and_then(|reply| message::keep(reply, negative).ok_or(failed)).map(|(kept, ttl)| (Arc::from(kept), ttl));
        let now = self.now();
        let mut state = self.state();
        match &outcome {
            Ok((kept, ttl)) => {
                state.away = None;
                state.cache.put(landed.key.clone(), Arc::clone(kept), *ttl, now);
                self.0.changes.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                state.away = failure.unreachable.then_some(now);
                state.cache.fail(landed.key.clone(), *failure, now);
            }
        }
        drop(state);
        landed.landed.send_replace(Some(outcome));
    }

    fn tell_stale(&self, ask: &Ask, kept: &[u8], told: usize) -> Message {
        self.observe(Observation::Stale);
        ask.tell(kept, Told::Stale, told)
    }

    fn fail(&self, ask: &Ask, failure: Failure) -> Message {
        self.observe(Observation::Failed);
        ask.fail(failure.code, failure.unreachable)
    }
}

/// Takes a flight off the list, however it ends.
struct Landed<'a> {
    cache: &'a DnsCache,
    key: Key,
    landed: watch::Sender<Option<Outcome>>,
}

impl Drop for Landed<'_> {
    fn drop(&mut self) {
        self.cache.state().flights.remove(&self.key);
    }
}

impl Wait {
    pub(crate) async fn answer(mut self) -> Message {
        let landed = self.landing.wait_for(Option::is_some);
        let outcome = match &self.stale {
            None => Some(landed.await),
            Some(_) => timeout(CLIENT_PATIENCE, landed).await.ok(),
        };
        let outcome = outcome.and_then(|landed| landed.ok()?.clone());
        match (outcome, self.stale) {
            (Some(Ok((kept, _))), _) => {
                self.cache.observe(Observation::Miss);
                self.ask.tell(&kept, Told::Fresh { age: 0 }, 0)
            }
            (_, Some((kept, told))) => self.cache.tell_stale(&self.ask, &kept, told),
            (Some(Err(failure)), None) => self.cache.fail(&self.ask, failure),
            // The agent ends.
            (None, None) => self.cache.fail(&self.ask, Failure { code: ResponseCode::ServFail, unreachable: false }),
        }
    }
}
