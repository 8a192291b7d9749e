//! The largest packet that the way to the gateway takes, or a path straight to another machine: found by asking, since what is lost on it is
//! often lost without a word (RFC 8899, RFC 4821). Pure: [`Discovery::look`] is told which packets were answered, and says which are due;
//! [`Prober`] sends them to the gateway, and [`crate::direct::Asker`] to others.
//!
//! ```text
//!  another way ──► Search from FLOOR to the limit ──► Settled ── every 10 min, if below the limit ──► Search upwards
//!                      ▲                                │
//!                      └── a small one is answered, ◄───┘ every minute: one of the size in use, and a small one
//!                          the large one is not
//! ```
//! - **A search** asks for eight sizes at once, and then again for the smallest one that was not answered: when it fits, so may the next;
//!   when it does not, no larger one does, and the search goes on below it. What is asked is answered in its own size: both directions count.
//! - **A size does not fit** when eight packets of it were not answered although a small one, sent right behind each, was. Where small ones are
//!   lost, too, it takes sixteen. So a gateway that answers nothing lowers nothing, nor does a line that loses a tenth of all packets.
//! - **The size in use** changes at the end of a search only. On another way the old one stays in use until then.
//! - **Silence**: a small packet now and then, with pauses of up to 64 s. Its answer begins the search anew, with the patience that it took.

pub(crate) mod echo;
mod prober;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::keys::PublicKey;
pub(crate) use prober::source;
pub use prober::{GATEWAY, Prober};

/// What IPv6 needs (RFC 8200): no way is taken for narrower.
pub const FLOOR: u16 = 1280;
/// As `ping` sends.
const SMALL: u16 = 84;
/// Time for an answer. What comes later counts, too.
const ROUND: Duration = Duration::from_millis(900);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// RFC 8899's confirmation of the size in use.
const CONFIRM: Duration = Duration::from_secs(60);
/// RFC 8899's `PMTU_RAISE_TIMER`.
const RAISE: Duration = Duration::from_secs(600);
/// Sizes that are asked for at once.
const STEPS: u32 = 8;
/// Packets of one size at a time.
const BURST: usize = 4;
const ENOUGH: usize = 8;
const ENOUGH_WHERE_MUCH_IS_LOST: usize = 16;
/// A line on which so many do not tell is left alone until the next confirmation.
const MOST: usize = 256;
/// What is not worth another round.
const PRECISION: u16 = 8;

/// Whom packets go to, and by which way as far as that can be seen. Another one may take other sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The gateway, or the other machine.
    pub peer: PublicKey,
    /// Where it is sent to.
    pub endpoint: SocketAddr,
    /// This machine's address for that.
    pub source: IpAddr,
}

/// A packet to be sent, or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which.
    pub number: u16,
    /// Its bytes, with the IP header.
    pub size: u16,
}

/// Another size is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: u16,
    /// Now.
    pub to: u16,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Discovery {
    limit: u16,
    size: u16,
    way: Option<Way>,
    stage: Stage,
    number: u16,
}

#[derive(Clone, Debug)]
enum Stage {
    Search(Search),
    Settled(Settled),
}

/// The size in use fits, as far as is known.
#[derive(Clone, Debug)]
struct Settled {
    since: Instant,
    /// The last confirmation.
    asked: Instant,
    pending: Option<Confirmation>,
}

#[derive(Clone, Debug)]
struct Confirmation {
    large: Probe,
    small: Probe,
    /// The small one was answered.
    heard: bool,
}

#[derive(Clone, Debug)]
struct Search {
    /// What fits.
    low: u16,
    /// What may.
    high: u16,
    sizes: Vec<u16>,
    tries: Vec<Try>,
    /// The first of the last round.
    round: usize,
    /// Whether they were answered.
    small: BTreeMap<u16, bool>,
    /// Some were not.
    much_is_lost: bool,
    /// The last round.
    asked: Option<Instant>,
    /// Until the next one.
    pause: Duration,
    /// How long an answer takes.
    patience: Duration,
    /// A small one that was sent alone, into the silence.
    alone: Option<(u16, Instant)>,
}

/// A packet that was not answered (yet), and the small one behind it.
#[derive(Clone, Debug)]
struct Try {
    probe: Probe,
    beside: u16,
}

enum Step {
    Send(Vec<Probe>),
    Found(u16),
    Undecided,
}

impl Discovery {
    /// `known`: what an earlier process has found. It is in use until a search says otherwise.
    pub fn new(known: Option<u16>) -> Self {
        let size = known.map_or(u16::MAX, |known| known.max(FLOOR));
        Self { limit: u16::MAX, size, way: None, stage: Stage::Search(Search::new(FLOOR, u16::MAX)), number: 0 }
    }

    /// The size in use.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// What is to be sent now, and whether another size is in use. To be called about once a second. `limit`: the largest size that may be
    /// used; `way`: none while the gateway is not heard from.
    pub fn look(&mut self, limit: u16, way: Option<Way>, answers: &[Probe], now: Instant) -> (Vec<Probe>, Option<Change>) {
        if limit != self.limit || way != self.way {
            self.size = if self.size == self.limit { limit } else { self.size.min(limit) };
            (self.limit, self.way) = (limit, way);
            self.stage = Stage::Search(Search::new(FLOOR, limit));
        }
        if way.is_none() || limit <= FLOOR {
            return (Vec::new(), None);
        }
        match &mut self.stage {
            Stage::Search(search) => {
                search.hear(answers);
                let found = match search.step(now, &mut self.number) {
                    Step::Send(probes) => return (probes, None),
                    Step::Found(size) => size,
                    Step::Undecided => self.size,
                };
                self.stage = Stage::Settled(Settled { since: now, asked: now, pending: None });
                let before = std::mem::replace(&mut self.size, found);
                (Vec::new(), (before != found).then_some(Change { from: before, to: found }))
            }
            Stage::Settled(settled) => {
                if settled.fails(answers, now) {
                    self.stage = Stage::Search(Search::new(FLOOR, self.size));
                } else if self.size < limit && now.duration_since(settled.since) >= RAISE {
                    self.stage = Stage::Search(Search::new(self.size, limit));
                } else if now.duration_since(settled.asked) >= CONFIRM {
                    return (settled.confirm(self.size, now, &mut self.number), None);
                } else {
                    return (Vec::new(), None);
                }
                self.look(limit, way, &[], now)
            }
        }
    }
}

impl Settled {
    fn confirm(&mut self, size: u16, now: Instant, number: &mut u16) -> Vec<Probe> {
        let (large, small) = (next(size, number), next(SMALL, number));
        self.asked = now;
        self.pending = Some(Confirmation { large, small, heard: false });
        vec![large, small]
    }

    /// Whether the small one has come back alone.
    fn fails(&mut self, answers: &[Probe], now: Instant) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        pending.heard |= answers.contains(&pending.small);
        if answers.contains(&pending.large) {
            self.pending = None;
            return false;
        }
        pending.heard && now.duration_since(self.asked) >= ROUND
    }
}

impl Search {
    fn new(low: u16, high: u16) -> Self {
        let mut search = Self {
            low,
            high,
            sizes: Vec::new(),
            tries: Vec::new(),
            round: 0,
            small: BTreeMap::new(),
            much_is_lost: false,
            asked: None,
            pause: ROUND,
            patience: ROUND,
            alone: None,
        };
        search.divide();
        search
    }

    /// Sizes between what fits and what may, the largest of them too.
    fn divide(&mut self) {
        let (low, room) = (u32::from(self.low), u32::from(self.high.saturating_sub(self.low)));
        let sizes = (1..=STEPS).filter_map(|step| u16::try_from(low + room * step / STEPS).ok());
        self.sizes = sizes.filter(|size| *size > self.low).collect();
        self.sizes.dedup();
        (self.tries, self.small, self.asked, self.alone) = (Vec::new(), BTreeMap::new(), None, None);
        self.pause = self.patience;
    }

    fn hear(&mut self, answers: &[Probe]) {
        for answer in answers {
            if let Some(heard) = self.small.get_mut(&answer.number).filter(|_| answer.size == SMALL) {
                *heard = true;
            } else if self.tries.iter().any(|tried| tried.probe == *answer) {
                self.low = self.low.max(answer.size);
            }
        }
    }

    fn step(&mut self, now: Instant, number: &mut u16) -> Step {
        if self.low >= self.high {
            return Step::Found(self.low);
        }
        if let Some((_, sent)) = self.alone.filter(|(number, _)| self.small.get(number) == Some(&true)) {
            self.patience = now.duration_since(sent).max(ROUND);
            self.much_is_lost = false;
            self.divide();
        }
        if self.asked.is_some_and(|asked| now.duration_since(asked) < self.pause) {
            return Step::Send(Vec::new());
        }
        if self.asked.is_some() && !self.is_heard() {
            return self.wait(now, number);
        }
        self.much_is_lost |= self.small.values().any(|heard| !heard);
        let Some(target) = self.sizes.iter().copied().find(|size| *size > self.low) else { return Step::Found(self.low) };
        let enough = if self.much_is_lost { ENOUGH_WHERE_MUCH_IS_LOST } else { ENOUGH };
        if self.lost(target) >= enough {
            self.high = target - 1;
            if self.high.saturating_sub(self.low) < PRECISION {
                return Step::Found(self.low);
            }
            self.divide();
        } else if self.tries.len() >= MOST {
            return Step::Undecided;
        }
        let sizes = if self.tries.is_empty() { self.sizes.clone() } else { vec![target; BURST] };
        self.asked = Some(now);
        self.ask(&sizes, number)
    }

    /// Whether the last round has had any answer.
    fn is_heard(&self) -> bool {
        self.alone.is_none() && self.tries.iter().skip(self.round).any(|tried| self.small.get(&tried.beside) == Some(&true))
    }

    fn wait(&mut self, now: Instant, number: &mut u16) -> Step {
        let small = next(SMALL, number);
        self.small = BTreeMap::from([(small.number, false)]);
        (self.asked, self.alone) = (Some(now), Some((small.number, now)));
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        Step::Send(vec![small])
    }

    /// Packets of this size that were not answered, although the small ones behind them were.
    fn lost(&self, size: u16) -> usize {
        self.tries.iter().filter(|tried| tried.probe.size == size && self.small.get(&tried.beside) == Some(&true)).count()
    }

    /// Each with a small one behind it.
    fn ask(&mut self, sizes: &[u16], number: &mut u16) -> Step {
        let mut probes = Vec::with_capacity(sizes.len() * 2);
        self.round = self.tries.len();
        for size in sizes {
            let (large, small) = (next(*size, number), next(SMALL, number));
            self.tries.push(Try { probe: large, beside: small.number });
            self.small.insert(small.number, false);
            probes.extend([large, small]);
        }
        Step::Send(probes)
    }
}

fn next(size: u16, number: &mut u16) -> Probe {
    *number = number.wrapping_add(1);
    Probe { number: *number, size }
}

#[cfg(test)]
mod tests;
