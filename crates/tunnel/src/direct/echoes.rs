//! Whether a path's other side answers when it is asked. The kernel there does so: no other program is needed, nor the same version.
//!
//! - **Silence counts of who has answered by this path before.** Others (their firewall lets no echo requests in) are asked less and less
//!   often, and judged by WireGuard's signs alone.
//! - **One question a second**; from the first one that is not answered within a second on, eight. Silence is [`SILENT`] without any answer, and
//!   [`ENOUGH`] questions in it: of a line that loses a tenth of all packets in each direction, so many in a row are lost once in 10^12.
//! - **Any answer counts**, also one that took some seconds.

use std::time::{Duration, Instant};

/// A second, less what a look may come too early.
const EVERY: Duration = Duration::from_millis(900);
/// The third second.
const SILENT: Duration = Duration::from_millis(2700);
/// For who has answered nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
const BURST: u16 = 8;
const ENOUGH: u16 = 1 + 2 * BURST;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Echoes {
    /// Whether anything was answered by this path.
    proved: bool,
    /// Questions since the last answer, and when the first of them was sent.
    unanswered: u16,
    since: Option<Instant>,
    /// The last question, and how long it is until the next one where nothing was answered.
    asked: Option<Instant>,
    pause: Duration,
}

impl Echoes {
    /// Whether anything was answered by this path.
    pub(super) fn are_proved(&self) -> bool {
        self.proved
    }

    /// There is an answer.
    pub(super) fn hear(&mut self) {
        (self.proved, self.unanswered, self.since) = (true, 0, None);
    }

    /// Nobody talks, and nothing is asked: what was not answered proves nothing any more.
    pub(super) fn rest(&mut self) {
        (self.unanswered, self.since) = (0, None);
    }

    pub(super) fn are_missing(&self, now: Instant) -> bool {
        self.proved && self.unanswered >= ENOUGH && self.since.is_some_and(|since| now.duration_since(since) >= SILENT)
    }

    /// How many questions are to be sent now. They are taken as sent.
    pub(super) fn due(&mut self, now: Instant) -> u16 {
        let pause = if self.proved { EVERY } else { self.pause };
        if self.asked.is_some_and(|asked| now.duration_since(asked) < pause) {
            return 0;
        }
        let due = if self.proved && self.unanswered > 0 { BURST } else { 1 };
        self.pause = self.pause.saturating_mul(2).clamp(EVERY, LONGEST_PAUSE);
        (self.asked, self.unanswered) = (Some(now), self.unanswered.saturating_add(due));
        self.since.get_or_insert(now);
        due
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A line on which answers take so many seconds.
    struct Line {
        echoes: Echoes,
        now: Instant,
        late: usize,
        under_way: VecDeque<u16>,
        asked: u32,
        random: u64,
    }

    impl Line {
        fn new(late: usize, random: u64) -> Self {
            Self { echoes: Echoes::default(), now: Instant::now(), late, under_way: VecDeque::new(), asked: 0, random }
        }

        /// A second in which of a hundred packets so many are lost in each direction. Whether it has become silent.
        fn second(&mut self, lost: u64) -> bool {
            let answers = if self.under_way.len() >= self.late { self.under_way.pop_front() } else { None };
            if answers.is_some_and(|answers| answers > 0) {
                self.echoes.hear();
            }
            let missing = self.echoes.are_missing(self.now);
            let due = self.echoes.due(self.now);
            self.asked += u32::from(due);
            let mut passes = || {
                // xorshift64
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                self.random % 100 >= lost
            };
            let mut answered = 0;
            for _ in 0..due {
                answered += u16::from(passes() && passes());
            }
            self.under_way.push_back(answered);
            self.now += Duration::from_secs(1);
            missing
        }

        /// Seconds until it is silent.
        fn until_silent(&mut self, limit: u32, lost: u64) -> Option<u32> {
            (0..limit).find(|_| self.second(lost))
        }
    }

    #[test]
    fn a_line_that_loses_a_tenth_each_way_is_never_silent() {
        for seed in 1..=400 {
            for late in 1..=2 {
                let mut line = Line::new(late, seed);
                assert_eq!(line.until_silent(3600, 10), None, "seed {seed}, {late} s");
                assert!(line.asked < 3600 * 5, "{} questions an hour", line.asked);
            }
        }
    }

    #[test]
    fn answers_that_take_seconds_are_answers() {
        for late in 3..=4 {
            assert_eq!(Line::new(late, 1).until_silent(3600, 0), None, "{late} s");
        }
    }

    #[test]
    fn a_cut_is_known_in_the_third_second_after_the_first_question_that_it_loses() {
        let mut line = Line::new(1, 1);
        assert_eq!(line.until_silent(100, 0), None);
        assert_eq!(line.asked, 100, "one a second");
        // The answer to the one of the second before is still under way.
        assert_eq!(line.until_silent(100, 100), Some(3));
    }

    #[test]
    fn who_has_never_answered_is_never_silent_and_hardly_asked() {
        let mut line = Line::new(1, 1);
        assert_eq!(line.until_silent(24 * 3600, 100), None);
        assert!(line.asked < 1500, "{} questions a day", line.asked);
        // It answers after all, and then no more.
        assert_eq!(line.until_silent(70, 0), None);
        assert_eq!(line.until_silent(100, 100), Some(3));
    }

    #[test]
    fn what_was_asked_before_a_rest_proves_nothing_after_it() {
        let mut line = Line::new(1, 1);
        assert_eq!(line.until_silent(10, 0), None);
        assert_eq!(line.until_silent(3, 100), None);
        line.echoes.rest();
        line.under_way.clear();
        line.now += Duration::from_secs(60);
        assert_eq!(line.until_silent(3, 100), None);
        assert!(line.second(100));
    }
}
