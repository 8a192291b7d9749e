//! Whether the other side answers, by what WireGuard counts.

use std::time::{Duration, Instant, SystemTime};

use crate::device::PeerStatus;

/// Bytes of a packet without data (`struct message_data` of WireGuard).
pub(super) const EMPTY: u64 = 32;
/// WireGuard's `KEEPALIVE_TIMEOUT` of 10 s, and the way there and back.
pub(super) const SILENT: Duration = Duration::from_secs(12);
/// The same for who answers.
const UNANSWERED: Duration = Duration::from_secs(5);
const LOOKS: u32 = 2;
/// An answer so long before the last sign of life was the newest one: a keepalive may come after it.
const JUST: Duration = Duration::from_secs(3);

/// Whether the other side of a path, or of a way to a gateway, answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answers {
    heard: Instant,
    received: u64,
    sent: u64,
    /// Looks in which data was sent since.
    data: u32,
    /// When data was heard.
    answered: Option<Instant>,
    /// The same, as it was known in the look before.
    answered_before: Option<Instant>,
    /// When keys were agreed on, and whether that was news in the last look.
    last_handshake: Option<SystemTime>,
    agreed: bool,
}

impl Answers {
    pub(crate) fn new(peer: &PeerStatus, now: Instant) -> Self {
        let PeerStatus { endpoint: _, keepalive: _, allowed: _, last_handshake, received, sent } = *peer;
        Self { heard: now, received, sent, data: 0, answered: None, answered_before: None, last_handshake, agreed: false }
    }

    /// Takes the counters in. `unproved`: what was sent may be nothing but questions that the other side does not know how to answer.
    pub(crate) fn are_missing(&mut self, peer: &PeerStatus, unproved: bool, now: Instant) -> bool {
        let sent = peer.sent.saturating_sub(std::mem::replace(&mut self.sent, peer.sent));
        let is_handshake = self.is_handshake(peer);
        if peer.received != self.received {
            if !is_handshake && peer.received.saturating_sub(self.received) > EMPTY {
                self.answered = Some(now);
            }
            (self.heard, self.received, self.data) = (now, peer.received, 0);
            return false;
        }
        self.data += u32::from(sent > EMPTY && !unproved);
        let silence = now.duration_since(self.heard);
        let answering = self.answered.is_some_and(|answered| self.heard.duration_since(answered) <= JUST);
        let unanswered = answering && self.data >= LOOKS && silence >= UNANSWERED;
        unanswered || (self.data > 0 && silence >= SILENT)
    }

    /// Whether what is heard now may be a handshake's (148 and 92 bytes). Whoever is asked for one agrees a round trip after it has heard the
    /// first packet: what the look before has taken for data was that, then.
    fn is_handshake(&mut self, peer: &PeerStatus) -> bool {
        let agreed = std::mem::replace(&mut self.last_handshake, peer.last_handshake) != peer.last_handshake;
        if agreed {
            self.answered = self.answered_before;
        }
        self.answered_before = self.answered;
        std::mem::replace(&mut self.agreed, agreed) || agreed
    }
}
