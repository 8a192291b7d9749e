//! What the other side of a path is asked: whether it is there, and which sizes the path takes.

use std::time::Instant;

use super::asker::Heard;
use super::echoes::Echoes;
use crate::mtu::{Change, Discovery, Probe, Way};

/// Bytes of the question whether it is there. The search for a size asks for larger ones only.
const SMALLEST: u16 = 64;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Questions {
    echoes: Echoes,
    /// What was found stays for the next time that the path is used.
    sizes: Discovery,
    narrow: Option<u16>,
    number: u16,
    due: Vec<Probe>,
    /// Some were due in the last look.
    asked: bool,
}

impl Default for Questions {
    fn default() -> Self {
        let (echoes, sizes) = (Echoes::default(), Discovery::new(None));
        Self { echoes, sizes, narrow: None, number: 0, due: Vec::new(), asked: false }
    }
}

impl Questions {
    /// The path is used from now on. Whether it is answered by is not known.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.echoes, self.asked) = (Echoes::default(), false);
        self.ask(now);
    }

    /// Takes in what was answered. Whether what was sent since the last look may be questions that the other side cannot answer.
    pub(super) fn hear(&mut self, heard: Option<&Heard>) -> bool {
        if heard.is_some_and(|heard| !heard.answers.is_empty()) {
            self.echoes.hear();
        }
        std::mem::take(&mut self.asked) && !self.echoes.are_proved()
    }

    pub(super) fn are_unanswered(&self, now: Instant) -> bool {
        self.echoes.are_missing(now)
    }

    /// Says what is due. `limit`: no larger size is asked for; none at all without one.
    pub(super) fn look(
        &mut self,
        talks: bool,
        limit: Option<u16>,
        way: Option<Way>,
        heard: Option<&Heard>,
        now: Instant,
    ) -> Option<Change> {
        if talks {
            self.ask(now);
        } else {
            self.echoes.rest();
        }
        let Some(limit) = limit else {
            self.narrow = None;
            return None;
        };
        let answers = heard.map(|heard| heard.answers.as_slice()).unwrap_or_default();
        let (probes, change) = self.sizes.look(limit, way, answers, now);
        self.asked |= !probes.is_empty();
        self.due.extend(probes);
        self.narrow = Some(self.sizes.size()).filter(|size| *size < limit);
        change
    }

    /// The size of packets by the path, where it is less than the limit.
    pub(super) fn narrow(&self) -> Option<u16> {
        self.narrow
    }

    /// What is to be sent.
    pub(super) fn take(&mut self) -> Vec<Probe> {
        std::mem::take(&mut self.due)
    }

    fn ask(&mut self, now: Instant) {
        for _ in 0..self.echoes.due(now) {
            self.number = self.number.wrapping_add(1);
            self.due.push(Probe { number: self.number, size: SMALLEST });
            self.asked = true;
        }
    }
}
