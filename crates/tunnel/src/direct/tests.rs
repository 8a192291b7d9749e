use super::answers::EMPTY;
use super::*;
use crate::mtu::Probe;

const KEY: u8 = 7;

fn key(number: u8) -> PublicKey {
    [number; 32].into()
}

/// Each has one endpoint, and the addresses 10.9.n.0/24.
fn neighbour(number: u8) -> Neighbour {
    Neighbour {
        name: format!("pet{number}"),
        networks: BTreeSet::from([format!("10.9.{number}.0/24").parse().unwrap()]),
        endpoints: vec![format!("192.0.2.{number}:51820").parse().unwrap()],
    }
}

/// One machine's view of the others, and a clock.
struct Bench {
    paths: Paths,
    neighbours: Option<BTreeMap<PublicKey, Neighbour>>,
    peers: BTreeMap<PublicKey, PeerStatus>,
    talked_to: BTreeSet<IpAddr>,
    heard: BTreeMap<PublicKey, Heard>,
    limit: Option<u16>,
    begun: Instant,
    /// Seconds since.
    at: u64,
    /// Seconds by which the wall clock was set back.
    back: u64,
}

/// A full number of all periods' minutes.
const EPOCH: u64 = 1_000_000 * 960;

fn wall(at: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(EPOCH + at)
}

impl Bench {
    fn new(numbers: impl IntoIterator<Item = u8>) -> Self {
        let neighbours = Some(numbers.into_iter().map(|number| (key(number), neighbour(number))).collect());
        let (peers, talked_to, heard) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { paths: Paths::default(), neighbours, peers, talked_to, heard, limit: None, begun: Instant::now(), at: 0, back: 0 }
    }

    /// With a path that is used.
    fn direct() -> Self {
        let mut bench = Self::new([KEY]);
        bench.talk(KEY);
        assert_eq!(bench.look(), []);
        bench.shake_hands(KEY);
        assert_eq!(bench.look(), [Turn::Direct]);
        bench
    }

    fn talk(&mut self, number: u8) {
        self.talked_to.insert(format!("10.9.{number}.5").parse().unwrap());
    }

    fn shake_hands(&mut self, number: u8) {
        self.peers.entry(key(number)).or_default().last_handshake = Some(wall(self.at));
    }

    fn moves(&mut self, sent: u64, received: u64) {
        let peer = self.peers.entry(key(KEY)).or_default();
        (peer.sent, peer.received) = (peer.sent + sent, peer.received + received);
    }

    fn look(&mut self) -> Vec<Turn> {
        let Self { paths, neighbours, peers, talked_to, heard, limit, begun, at, back } = self;
        let now = *begun + Duration::from_secs(*at);
        let look = Look { peers, talked_to, heard, limit: *limit, now, wall: wall(*at) - Duration::from_secs(*back) };
        *at += 1;
        let turns = paths.look(neighbours.as_ref(), &look);
        peers.retain(|key, _| paths.peers().contains_key(key));
        heard.clear();
        turns.into_iter().map(|(_, turn)| turn).collect()
    }

    /// Looks until something happens; when that was.
    fn until(&mut self, limit: u64) -> Option<(u64, Turn)> {
        (0..limit).find_map(|_| {
            let at = self.at;
            self.look().first().map(|turn| (at, *turn))
        })
    }

    /// Looks until it is tried; when that was.
    fn until_tried(&mut self, limit: u64) -> Option<u64> {
        (0..limit).find_map(|_| {
            let at = self.at;
            self.look();
            let path = self.paths.paths.get(&key(KEY))?;
            matches!(path.stage, Stage::Trying { .. }).then_some(at)
        })
    }

    fn peer(&self) -> Option<Peer> {
        self.paths.peers().remove(&key(KEY))
    }
}

#[test]
fn who_is_not_talked_to_is_no_peer() {
    let mut bench = Bench::new(1..=200);
    bench.talked_to.extend(["10.10.0.1", "10.8.255.255", "fd00::1"].map(|address| address.parse::<IpAddr>().unwrap()));
    for _ in 0..100 {
        assert_eq!(bench.look(), []);
    }
    assert!(bench.paths.peers().is_empty() && bench.paths.paths.is_empty());
    bench.talk(9);
    bench.look();
    assert_eq!(bench.paths.peers().keys().collect::<Vec<_>>(), [&key(9)]);
}

#[test]
fn packets_go_by_the_path_from_the_handshake_on_and_come_by_it_before() {
    let mut bench = Bench::new([KEY]);
    bench.talk(KEY);
    bench.look();
    let networks = neighbour(KEY).networks;
    let trying = Peer { endpoints: neighbour(KEY).endpoints, keepalive: 5, accepted: networks.clone(), ..Peer::default() };
    assert_eq!(bench.peer(), Some(trying.clone()));
    bench.peers.insert(key(KEY), PeerStatus::default());
    assert_eq!(bench.look(), [], "an interface that has the peer proves nothing");
    bench.shake_hands(KEY);
    assert_eq!(bench.look(), [Turn::Direct]);
    assert_eq!(bench.peer(), Some(Peer { allowed: networks, ..trying }));
}

#[test]
fn who_answers_nothing_is_tried_again_at_full_minutes_that_double() {
    let mut bench = Bench::new([KEY]);
    bench.talk(KEY);
    let mut tried = Vec::new();
    for _ in 0..7 {
        let began = bench.until_tried(2000).unwrap();
        let (ended, turn) = bench.until(60).unwrap();
        assert_eq!((turn, ended - began), (Turn::Unreachable, 21));
        tried.push(began);
    }
    assert_eq!(tried, [0, 60, 120, 240, 480, 960, 1920]);
}

/// By less than the minute that it waits for, it waits on: up to that minute.
#[test]
fn a_clock_that_is_set_back_does_not_make_the_wait_longer_than_its_period() {
    for (back, waits) in [(0, 39), (10, 49), (30, 0), (365 * 86_400, 0)] {
        let mut bench = Bench::new([KEY]);
        bench.talk(KEY);
        assert_eq!(bench.until(60), Some((21, Turn::Unreachable)));
        bench.back = back;
        assert_eq!(bench.until_tried(100), Some(21 + waits.max(1)), "{back}");
    }
}

#[test]
fn each_endpoint_has_its_turn() {
    let mut bench = Bench::new([KEY]);
    let mine = bench.neighbours.as_mut().unwrap().get_mut(&key(KEY)).unwrap();
    mine.endpoints = (1..=5).map(|port| format!("192.0.2.1:{port}").parse().unwrap()).collect();
    bench.talk(KEY);
    assert_eq!(bench.until(100), Some((6 * 7, Turn::Unreachable)));
}

#[test]
fn an_idle_path_is_given_back_and_had_again_at_once() {
    let mut bench = Bench::direct();
    bench.talked_to.clear();
    let last = bench.at - 1;
    assert_eq!(bench.until(100), Some((last + 60, Turn::Idle)));
    let leaving = bench.peer().unwrap();
    assert_eq!((leaving.keepalive, leaving.allowed.len(), leaving.accepted), (0, 0, neighbour(KEY).networks), "still listened to");
    let left = bench.at - 1;
    assert_eq!(bench.until(31), None);
    assert_eq!(bench.peer(), None);
    bench.talk(KEY);
    assert!(bench.until_tried(3).unwrap() <= left + 33);
}

#[test]
fn data_without_an_answer_ends_it() {
    // What is sent and heard each second, and after how many seconds without an answer it is given up.
    let cases: [(&str, u64, u64, Option<u64>); 4] = [
        ("a conversation", 100, 100, Some(5)),
        ("a stream without answers, kept by the other side's keepalives", 1000, EMPTY, Some(12)),
        ("keepalives only", EMPTY, EMPTY, None),
        ("the other side's stream", EMPTY, 1000, None),
    ];
    for (what, sent, received, after) in cases {
        let mut bench = Bench::direct();
        for _ in 0..20 {
            bench.moves(sent, received);
            assert_eq!(bench.look(), [], "{what}");
        }
        let cut = bench.at - 1;
        let ended = (0..60).find_map(|_| {
            bench.moves(sent, 0);
            let at = bench.at;
            bench.look().first().map(|turn| (at - cut, *turn))
        });
        assert_eq!(ended, after.map(|after| (after, Turn::Silent)), "{what}");
    }
}

#[test]
fn a_keepalive_after_the_last_answer_makes_the_silence_no_longer() {
    // Seconds between the last answer and the keepalive, and after how many more it is given up.
    for (between, after) in [(1, 5), (3, 5), (4, 12)] {
        let mut bench = Bench::direct();
        bench.moves(100, 100);
        bench.look();
        for second in 1..=between {
            bench.moves(100, if second == between { EMPTY } else { 0 });
            assert_eq!(bench.look(), [], "{between}");
        }
        let cut = bench.at - 1;
        let ended = (0..60).find_map(|_| {
            bench.moves(100, 0);
            let at = bench.at;
            bench.look().first().map(|turn| (at - cut, *turn))
        });
        assert_eq!(ended, Some((after, Turn::Silent)), "{between}");
    }
}

/// As the kernel's WireGuard: it says that it has heard something after 10 s.
#[test]
fn a_handshake_is_no_answer_of_who_only_listens() {
    // What is heard in the look before the keys are agreed on, and in that look. The other's first packet has 148 bytes, its answer to ours 92.
    for (before, with) in [(0, 92), (0, 148 + EMPTY), (148, EMPTY)] {
        let mut bench = Bench::direct();
        for second in 1..=600 {
            let heard = match second % 120 {
                1 => before,
                2 => with,
                other if other % 10 == 0 => EMPTY,
                _ => 0,
            };
            bench.moves(1000, heard);
            if second % 120 == 2 {
                bench.shake_hands(KEY);
            }
            assert_eq!(bench.look(), [], "{before} {with} after {second} s");
        }
    }
}

#[test]
fn a_handshake_in_a_conversation_makes_the_silence_no_longer() {
    // Looks between the handshake and the cut.
    for more in 0..4 {
        let mut bench = Bench::direct();
        for _ in 0..20 {
            bench.moves(100, 100);
            assert_eq!(bench.look(), []);
        }
        bench.shake_hands(KEY);
        bench.moves(100, 192);
        assert_eq!(bench.look(), []);
        for _ in 0..more {
            bench.moves(100, 100);
            assert_eq!(bench.look(), []);
        }
        let cut = bench.at - 1;
        let ended = (0..60).find_map(|_| {
            bench.moves(100, 0);
            let at = bench.at;
            bench.look().first().map(|turn| (at - cut, *turn))
        });
        assert_eq!(ended, Some((5, Turn::Silent)), "{more}");
    }
}

#[test]
fn an_answer_every_ten_seconds_is_one() {
    let mut bench = Bench::direct();
    for second in 1..=100 {
        bench.moves(1000, if second % 10 == 0 { EMPTY } else { 0 });
        assert_eq!(bench.look(), []);
    }
}

#[test]
fn one_question_without_an_answer_is_waited_for() {
    let mut bench = Bench::direct();
    bench.moves(100, 100);
    bench.look();
    bench.moves(100, 0);
    for _ in 0..10 {
        assert_eq!(bench.look(), []);
    }
    bench.moves(0, EMPTY);
    assert_eq!(bench.look(), []);
}

#[test]
fn keys_that_are_not_renewed_end_it_although_nothing_is_sent() {
    let mut bench = Bench::direct();
    assert_eq!(bench.until(300), Some((216, Turn::Silent)));
}

/// The more often a path breaks soon, the longer it is left alone; one that has lasted begins anew.
#[test]
fn a_path_that_breaks_backs_off_by_how_long_it_has_lasted() {
    for (lasts, doubled) in [(10, true), (90, false)] {
        let mut bench = Bench::new([KEY]);
        bench.talk(KEY);
        let mut pauses = Vec::new();
        for _ in 0..3 {
            bench.until_tried(2000).unwrap();
            bench.shake_hands(KEY);
            assert_eq!(bench.look(), [Turn::Direct]);
            for _ in 0..lasts {
                bench.moves(100, 100);
                bench.look();
            }
            while bench.look() != [Turn::Silent] {
                bench.moves(100, 0);
            }
            let path = &bench.paths.paths[&key(KEY)];
            pauses.push(path.retry.unwrap().duration_since(wall(bench.at - 1)).unwrap().as_secs());
        }
        assert_eq!(pauses.iter().all(|pause| *pause <= 60), !doubled, "{lasts}: {pauses:?}");
    }
}

#[test]
fn a_machine_that_is_gone_or_has_another_key_is_no_peer_any_more() {
    let mut bench = Bench::direct();
    let other = bench.neighbours.as_mut().unwrap().remove(&key(KEY)).unwrap();
    bench.neighbours.as_mut().unwrap().insert(key(8), other);
    assert_eq!(bench.look(), [Turn::Gone]);
    let peers = bench.paths.peers();
    assert_eq!(peers.keys().collect::<Vec<_>>(), [&key(KEY), &key(8)], "what is under way is taken, and the new one is tried");
    assert!(peers.values().all(|peer| peer.allowed.is_empty() && !peer.accepted.is_empty()));
    bench.at += 30;
    bench.look();
    assert_eq!(bench.peer(), None);
}

#[test]
fn endpoints_that_come_later_do_not_touch_a_path_and_networks_do() {
    let mut bench = Bench::direct();
    let mine = bench.neighbours.as_mut().unwrap().get_mut(&key(KEY)).unwrap();
    mine.endpoints = vec!["192.0.2.99:1".parse().unwrap()];
    mine.networks = BTreeSet::from(["10.9.200.0/24".parse().unwrap()]);
    bench.talk(200);
    assert_eq!(bench.look(), []);
    let peer = bench.peer().unwrap();
    assert_eq!(peer.endpoints, neighbour(KEY).endpoints);
    assert_eq!(peer.allowed, BTreeSet::from(["10.9.200.0/24".parse().unwrap()]));
}

#[test]
fn there_are_not_more_than_so_many() {
    let mut bench = Bench::new(1..=200);
    (1..=200).for_each(|number| bench.talk(number));
    bench.look();
    assert_eq!(bench.paths.peers().len(), MOST);
    for _ in 0..21 {
        bench.look();
    }
    bench.look();
    let tried: BTreeSet<_> = bench.paths.peers().into_keys().collect();
    assert!(tried.len() <= MOST && tried.iter().all(|key| bench.paths.paths[key].failures == 0), "others have their turn");
    assert!(!tried.is_empty());
}

#[test]
fn the_next_process_goes_on_before_it_knows_anybody() {
    let mut bench = Bench::direct();
    bench.peers.get_mut(&key(KEY)).unwrap().endpoint = Some("198.51.100.2:7".parse().unwrap());
    let kept = bench.paths.kept(&bench.peers);
    assert_eq!(kept[&key(KEY)].endpoints, ["198.51.100.2:7".parse().unwrap()], "the one that works");
    bench.paths = Paths::resume(kept, bench.begun + Duration::from_secs(bench.at));
    bench.neighbours = None;
    // The kernel has kept the session; the process's own begins anew.
    for with_session in [true, false] {
        let mut next = Bench { paths: bench.paths.clone(), peers: bench.peers.clone(), ..Bench::new([]) };
        (next.neighbours, next.begun, next.at) = (None, bench.begun, bench.at);
        next.talk(KEY);
        if !with_session {
            next.peers.insert(key(KEY), PeerStatus::default());
        }
        let expected = (!with_session).then_some((bench.at + 12, Turn::Silent));
        assert_eq!(next.peer().unwrap().allowed, neighbour(KEY).networks);
        assert_eq!(next.until(30), expected);
    }
    bench.neighbours = Some(BTreeMap::new());
    assert_eq!(bench.look(), [Turn::Gone]);
}

fn answer(bench: &mut Bench, probes: Vec<Probe>) {
    bench.heard.insert(key(KEY), Heard { answers: probes, source: Some("192.168.1.10".parse().unwrap()) });
}

/// What KEY is asked now.
fn asked(bench: &mut Bench) -> Vec<Probe> {
    let from = BTreeSet::from(["10.9.1.1".parse().unwrap()]);
    bench.paths.questions(&from).remove(&key(KEY)).map(|question| question.probes).unwrap_or_default()
}

#[test]
fn questions_are_for_whose_path_is_used_and_go_to_its_own_address() {
    let mut bench = Bench::new([KEY]);
    bench.neighbours.as_mut().unwrap().get_mut(&key(KEY)).unwrap().networks.insert("10.8.0.7/32".parse().unwrap());
    bench.neighbours.as_mut().unwrap().get_mut(&key(KEY)).unwrap().networks.insert("fd00::7/128".parse().unwrap());
    let from = ["10.8.0.1", "fd00::1"].map(|address| address.parse::<IpAddr>().unwrap());
    bench.talk(KEY);
    bench.look();
    assert_eq!(bench.paths.questions(&from.into()), BTreeMap::new(), "it is tried");
    bench.shake_hands(KEY);
    assert_eq!(bench.look(), [Turn::Direct]);
    let question = bench.paths.questions(&from.into()).remove(&key(KEY)).unwrap();
    assert_eq!((question.from, question.to, question.probes.len()), (from[0], "10.8.0.7".parse().unwrap(), 1), "at once");
    let question = bench.paths.questions(&BTreeSet::from([from[1]])).remove(&key(KEY)).unwrap();
    assert_eq!((question.to, question.probes), ("fd00::7".parse().unwrap(), Vec::new()), "once");
    bench.talked_to.clear();
    bench.until(100);
    assert_eq!(bench.paths.questions(&from.into()), BTreeMap::new(), "it is left");
}

/// They may come by the gateway, or by a way that is open in one direction only.
#[test]
fn questions_without_an_answer_end_a_path_although_packets_come() {
    for proved in [true, false] {
        let mut bench = Bench::direct();
        bench.neighbours.as_mut().unwrap().get_mut(&key(KEY)).unwrap().networks.insert("10.8.0.7/32".parse().unwrap());
        for _ in 0..20 {
            bench.moves(1000, 1000);
            assert_eq!(bench.look(), []);
            let probes = asked(&mut bench);
            if proved {
                answer(&mut bench, probes);
            }
        }
        let cut = bench.at - 1;
        let ended = (0..600).find_map(|second| {
            bench.moves(1000, 1000);
            if second % 100 == 0 {
                bench.shake_hands(KEY);
            }
            let at = bench.at;
            bench.look().first().map(|turn| (at - cut, *turn))
        });
        // The last answer is heard in the first second.
        assert_eq!(ended, proved.then_some((4, Turn::Silent)));
    }
}

#[test]
fn nobody_is_asked_where_nobody_talks() {
    let mut bench = Bench::direct();
    for _ in 0..10 {
        bench.look();
        let probes = asked(&mut bench);
        answer(&mut bench, probes);
    }
    bench.talked_to.clear();
    for second in 0..50 {
        assert_eq!(bench.look(), []);
        assert_eq!(asked(&mut bench), [], "{second}");
    }
}

/// A pet whose firewall lets no echo requests in says something now and then, and is not answered.
#[test]
fn questions_that_nobody_can_answer_are_no_data() {
    let mut bench = Bench::direct();
    bench.neighbours.as_mut().unwrap().get_mut(&key(KEY)).unwrap().networks.insert("10.8.0.7/32".parse().unwrap());
    bench.peers.get_mut(&key(KEY)).unwrap().endpoint = Some("192.0.2.7:1".parse().unwrap());
    bench.limit = Some(1420);
    let mut questions = 0;
    for second in 0..300_u64 {
        if second % 100 == 0 {
            bench.shake_hands(KEY);
        }
        let sent: u64 = asked(&mut bench).iter().map(|probe| u64::from(probe.size) + EMPTY).sum();
        questions += u32::from(sent > EMPTY);
        bench.moves(sent, if second % 20 == 0 { 200 } else { 0 });
        answer(&mut bench, Vec::new());
        bench.talk(KEY);
        assert_eq!(bench.look(), [], "{second}");
    }
    assert!(questions > 5, "it talks, so it asks: {questions}");
}

#[test]
fn a_path_that_takes_less_has_routes_of_that_size_as_long_as_it_is_used() {
    let mut bench = Bench::direct();
    bench.neighbours.as_mut().unwrap().get_mut(&key(KEY)).unwrap().networks.insert("10.8.0.7/32".parse().unwrap());
    bench.peers.get_mut(&key(KEY)).unwrap().endpoint = Some("192.0.2.7:1".parse().unwrap());
    bench.limit = Some(1420);
    let live = |bench: &mut Bench, widest: u16, seconds: u64| {
        let mut turns = Vec::new();
        for _ in 0..seconds {
            let answers = asked(bench).into_iter().filter(|probe| probe.size <= widest).collect();
            answer(bench, answers);
            bench.moves(500, 500);
            turns.extend(bench.look());
        }
        turns
    };
    let mtus = |bench: &Bench| {
        let mut link = TunnelLink::default();
        bench.paths.narrow(&mut link);
        assert_eq!(link.routes, link.mtus.keys().copied().collect());
        link.mtus.into_values().collect::<Vec<_>>()
    };
    let turns = live(&mut bench, 1350, 10);
    let [Turn::Resized(Change { from: 1420, to })] = turns[..] else { panic!("{turns:?}") };
    assert!(to <= 1350 && to > 1342, "{to}");
    assert_eq!(mtus(&bench), [u32::from(to); 2]);
    // The way to the gateway has become as narrow: the path has no size of its own.
    bench.limit = Some(1300);
    assert_eq!((live(&mut bench, 1350, 10), mtus(&bench)), (vec![], vec![]));
    bench.limit = Some(1420);
    live(&mut bench, 1350, 10);
    assert_eq!(mtus(&bench), [u32::from(to); 2]);
    bench.limit = None;
    assert_eq!((live(&mut bench, 1350, 1), mtus(&bench)), (vec![], vec![]), "it is configured");
    bench.limit = Some(1420);
    live(&mut bench, 1350, 10);
    assert_eq!(live(&mut bench, 0, 10), [Turn::Silent]);
    assert_eq!(mtus(&bench), [0; 0]);
}
