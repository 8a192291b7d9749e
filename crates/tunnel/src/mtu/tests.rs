use std::collections::VecDeque;

use super::*;

const LIMIT: u16 = 1420;

/// A gateway, and the line to it.
struct Line {
    widest: u16,
    /// Of a hundred packets, in each direction.
    lost: u64,
    /// Seconds until an answer is there.
    late: usize,
    gateway: u8,
    random: u64,
}

impl Line {
    fn new(widest: u16) -> Self {
        Self { widest, lost: 0, late: 1, gateway: 1, random: 1 }
    }

    fn silent() -> Self {
        Self::new(0)
    }

    fn carries(&mut self, probe: &Probe) -> bool {
        let mut is_lost = || {
            // xorshift64
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % 100 < self.lost
        };
        probe.size <= self.widest && !is_lost() && !is_lost()
    }

    fn way(&self) -> Way {
        Way { peer: [self.gateway; 32].into(), endpoint: ([192, 0, 2, 1], 51820).into(), source: [192, 168, 1, 10].into() }
    }
}

struct Machine {
    discovery: Discovery,
    line: Line,
    limit: u16,
    now: Instant,
    under_way: VecDeque<Vec<Probe>>,
    sent: Vec<Probe>,
    changes: Vec<Change>,
}

impl Machine {
    fn on(line: Line) -> Self {
        let (sent, changes, under_way) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { discovery: Discovery::new(None), line, limit: LIMIT, now: Instant::now(), under_way, sent, changes }
    }

    fn run(&mut self, seconds: u64) -> u16 {
        for _ in 0..seconds {
            let answers = if self.under_way.len() >= self.line.late { self.under_way.pop_front() } else { None };
            let (probes, change) = self.discovery.look(self.limit, Some(self.line.way()), &answers.unwrap_or_default(), self.now);
            self.changes.extend(change);
            self.sent.extend(&probes);
            self.under_way.push_back(probes.into_iter().filter(|probe| self.line.carries(probe)).collect());
            self.now += Duration::from_secs(1);
        }
        self.discovery.size()
    }

    fn bytes(&mut self) -> usize {
        std::mem::take(&mut self.sent).iter().map(|probe| usize::from(probe.size)).sum()
    }
}

#[test]
fn a_narrow_way_is_found_in_eight_seconds_whatever_its_width() {
    for widest in FLOOR..=LIMIT {
        let mut machine = Machine::on(Line::new(widest));
        let found = machine.run(9);
        assert!(found <= widest && found + PRECISION > widest, "{found} on a way for {widest}");
        assert!(machine.changes.len() <= 1, "{:?}", machine.changes);
        assert!(machine.bytes() < 60_000, "{widest}");
        assert_eq!(machine.run(590), found, "and stays");
    }
}

#[test]
fn a_way_that_takes_everything_is_asked_once_and_then_a_packet_each_minute() {
    let mut machine = Machine::on(Line::new(LIMIT));
    assert_eq!((machine.run(60), machine.sent.len()), (LIMIT, 16));
    machine.bytes();
    assert_eq!((machine.run(3600), machine.changes.len()), (LIMIT, 0));
    assert!((59..=60).contains(&(machine.sent.len() / 2)), "{} packets", machine.sent.len());
}

#[test]
fn large_tunnels_are_searched_too() {
    let mut machine = Machine::on(Line::new(5000));
    machine.limit = 9000;
    let found = machine.run(16);
    assert!(found <= 5000 && found + PRECISION > 5000, "{found}");
}

#[test]
fn a_way_that_takes_less_than_ipv6_needs_is_taken_for_one_that_does() {
    assert_eq!(Machine::on(Line::new(1000)).run(20), FLOOR);
}

#[test]
fn a_gateway_that_answers_nothing_lowers_nothing_and_is_hardly_asked() {
    let mut machine = Machine::on(Line::silent());
    assert_eq!((machine.run(20), machine.changes.len()), (LIMIT, 0));
    machine.bytes();
    machine.run(24 * 3600);
    assert_eq!(machine.discovery.size(), LIMIT);
    assert!(machine.sent.len() < 3000, "{} packets a day", machine.sent.len());
    // It answers after all.
    machine.line = Line::new(1350);
    let found = machine.run(150);
    assert!(found <= 1350 && found > 1342, "{found}");
}

#[test]
fn a_line_that_loses_a_tenth_of_all_packets_is_not_taken_for_a_narrow_one() {
    for random in 1..=300 {
        let mut machine = Machine::on(Line { lost: 10, random, ..Line::new(LIMIT) });
        machine.run(3600);
        assert_eq!(machine.changes, [], "{random}");
    }
}

#[test]
fn a_narrow_line_that_loses_a_tenth_is_found() {
    for random in 1..=100 {
        let mut machine = Machine::on(Line { lost: 10, random, ..Line::new(1340) });
        let found = machine.run(60);
        assert!(found <= 1340 && found > 1320, "{random}: {found}");
    }
}

#[test]
fn answers_that_take_seconds_count() {
    for late in 1..=4 {
        let mut machine = Machine::on(Line { late, ..Line::new(LIMIT) });
        assert_eq!((machine.run(600), machine.changes.len()), (LIMIT, 0), "{late} s");
        let mut machine = Machine::on(Line { late, ..Line::new(1340) });
        let found = machine.run(120);
        assert!(found <= 1340 && found > 1332, "{late} s: {found}");
    }
}

#[test]
fn a_way_that_becomes_narrow_is_noticed_within_a_minute_and_one_that_becomes_wide_within_ten() {
    let mut machine = Machine::on(Line::new(LIMIT));
    machine.run(100);
    machine.line.widest = 1330;
    let found = machine.run(70);
    assert!(found <= 1330 && found > 1322, "{found}");
    machine.line.widest = LIMIT;
    assert_eq!(machine.run(500), found, "it is not asked all the time");
    assert_eq!(machine.run(110), LIMIT);
    let total: Vec<_> = machine.changes.iter().map(|change| (change.from, change.to)).collect();
    assert_eq!(total, [(LIMIT, found), (found, LIMIT)]);
}

#[test]
fn what_does_not_become_wider_costs_nine_packets_each_ten_minutes() {
    let mut machine = Machine::on(Line::new(1400));
    let found = machine.run(20);
    machine.sent.clear();
    assert_eq!(machine.run(3600), found);
    let larger = machine.sent.iter().filter(|probe| probe.size > found).count();
    assert!((60..=120).contains(&larger), "{larger} packets");
}

#[test]
fn another_way_is_asked_at_once_and_the_size_stays_until_the_answer_is_clear() {
    let mut machine = Machine::on(Line::new(1340));
    let narrow = machine.run(20);
    machine.line = Line { gateway: 2, ..Line::silent() };
    assert_eq!(machine.run(15), narrow, "it is silent at first");
    machine.line.widest = LIMIT;
    assert_eq!(machine.run(20), LIMIT);
    machine.line = Line { gateway: 3, ..Line::new(1340) };
    machine.run(1);
    assert_eq!((machine.discovery.size(), machine.run(9)), (LIMIT, narrow));
}

#[test]
fn without_a_way_nothing_is_asked_and_nothing_forgotten() {
    let mut machine = Machine::on(Line::new(1340));
    let narrow = machine.run(20);
    assert_eq!(machine.discovery.look(LIMIT, None, &[], machine.now), (Vec::new(), None));
    assert_eq!((machine.discovery.size(), machine.run(20)), (narrow, narrow));
    assert_eq!(machine.changes.len(), 1);
}

#[test]
fn what_an_earlier_process_has_found_is_in_use_until_it_is_asked_for() {
    let mut machine = Machine { discovery: Discovery::new(Some(1300)), ..Machine::on(Line::silent()) };
    assert_eq!(machine.run(5), 1300);
    machine.line.widest = LIMIT;
    assert_eq!(machine.run(10), LIMIT);
    let mut machine = Machine { discovery: Discovery::new(Some(1)), ..Machine::on(Line::silent()) };
    assert_eq!(machine.run(1), FLOOR);
}

#[test]
fn another_limit_is_in_use_at_once() {
    let mut machine = Machine::on(Line::new(1500));
    machine.run(20);
    machine.limit = 1400;
    assert_eq!(machine.run(1), 1400);
    machine.limit = 1440;
    assert_eq!(machine.run(1), 1440, "it was the limit, and is");
    machine.line.widest = 1340;
    let narrow = machine.run(80);
    machine.limit = 1420;
    assert_eq!(machine.run(1), narrow);
    machine.limit = 1280;
    machine.bytes();
    assert_eq!((machine.run(100), machine.bytes()), (1280, 0), "there is nothing to be found");
}

#[test]
fn an_answer_counts_in_its_own_size_only() {
    let mut machine = Machine::on(Line::silent());
    machine.run(1);
    let cut: Vec<Probe> = machine.sent.iter().map(|probe| Probe { size: probe.size.min(1300), ..*probe }).collect();
    machine.now += Duration::from_secs(1);
    let (again, _) = machine.discovery.look(LIMIT, Some(machine.line.way()), &cut, machine.now);
    assert!(again.iter().any(|probe| probe.size > 1300), "{again:?}");
}
