//! Paths between two machines, past the one that both are connected to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use kube_pet_net::tables::OwnChanges;
use kube_pet_net::tunnel_table::{TunnelRules, TunnelTable};
use kube_pet_testkit::capability::available;
use kube_pet_tunnel::mtu::Probe;
use kube_pet_tunnel::{Asker, Implementation, Look, Neighbour, Paths, PublicKey, Turn};

use crate::sizes::datagram;
use crate::world::{CLOUD, CLOUD_OUTSIDE, End, HOME, MARK, OTHER, POD, World, eventually, nets};

/// As often as the agent does, and more.
const LOOK: Duration = Duration::from_millis(200);
/// How long nothing may be answered after a cut, whoever asks.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// A machine that looks for paths of its own.
struct Pet<'a> {
    end: End<'a>,
    table: TunnelTable,
    paths: Paths,
    asker: Asker,
    neighbours: BTreeMap<PublicKey, Neighbour>,
    /// How far its clocks are ahead.
    ahead: Duration,
    turns: Vec<Turn>,
    /// Of packets by its path.
    size: u16,
    world: &'a World,
}

impl Pet<'_> {
    fn look(&mut self) {
        let peers = self.end.whole_status().peers;
        let talked_to = self.table.talked_to().unwrap();
        let heard = self.world.within(self.end.place, || self.asker.hear(&peers, MARK.value));
        let (now, wall) = (Instant::now() + self.ahead, SystemTime::now() + self.ahead);
        let look = Look { peers: &peers, talked_to: &talked_to, heard: &heard, limit: Some(1420), now, wall };
        let turns = self.paths.look(Some(&self.neighbours), &look);
        for (_, turn) in turns {
            match turn {
                Turn::Resized(change) => self.size = change.to,
                turn => self.turns.push(turn),
            }
        }
        self.end.apply_narrowed(&self.paths);
        let questions = self.paths.questions(&self.end.config.link.addresses);
        self.world.within(self.end.place, || self.asker.ask(&questions));
    }

    fn look_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        eventually(what, || {
            self.look();
            std::thread::sleep(LOOK);
            holds(self)
        });
    }

    fn is_direct(&self) -> bool {
        self.turns.last() == Some(&Turn::Direct)
    }
}

/// Home and other, both connected to the cloud, and what they know of each other.
struct Pets<'a> {
    cloud: End<'a>,
    home: Pet<'a>,
    other: Pet<'a>,
}

impl<'a> Pets<'a> {
    fn new(world: &'a World) -> Self {
        // As routers do: what comes unasked is dropped before it is remembered.
        for (nat, out) in [("nat", "nat-internet"), ("nat2", "nat2-internet")] {
            let chain = format!("chain in {{ type filter hook input priority 0; iifname {out} ct state new drop; }}");
            world.nft(nat, &format!("table ip input {{ {chain}; }}"));
        }
        let (mut cloud, mut home) = world.pair();
        let mut other = world.end("other");
        cloud.knows(&other, None);
        other.knows(&cloud, Some(CLOUD_OUTSIDE));
        cloud.apply();
        other.apply();
        home.apply();
        world.talk("other", "cloud", CLOUD);
        world.talk("home", "cloud", CLOUD);
        let pet = |end: End<'a>| {
            let remembered = vec!["10.99.0.0/16".parse().unwrap(), "fd99::/64".parse().unwrap()];
            let rules = TunnelRules { link: end.config.link.name.clone(), masquerade: Vec::new(), remembered };
            let table = world.within(end.place, || {
                let mut table = TunnelTable::open("kp-tunnel", OwnChanges::default()).unwrap();
                assert!(table.ensure(&rules).unwrap());
                table
            });
            let (paths, asker, neighbours, turns) = (Paths::default(), Asker::default(), BTreeMap::new(), Vec::new());
            Pet { end, table, paths, asker, neighbours, ahead: Duration::ZERO, turns, size: 1420, world }
        };
        Self { cloud, home: pet(home), other: pet(other) }
    }

    /// Each is told where the other is.
    fn meet(&mut self, home: &str, other: &str) {
        let neighbour = |name: &str, networks, endpoint: &str| Neighbour {
            name: name.to_owned(),
            networks,
            endpoints: vec![endpoint.parse().unwrap()],
        };
        let (home_key, other_key) = (self.home.end.key(), self.other.end.key());
        let networks = nets(&["10.99.0.2/32", "10.99.7.0/24", "fd99::2/128"]);
        self.other.neighbours.insert(home_key, neighbour("home", networks, home));
        let networks = nets(&["10.99.0.3/32", "fd99::3/128"]);
        self.home.neighbours.insert(other_key, neighbour("other", networks, other));
    }

    /// Where the cloud sees them.
    fn observed(&mut self) -> (String, String) {
        let (home, other) = (self.home.end.key(), self.other.end.key());
        (self.cloud.status(&home).endpoint.unwrap().to_string(), self.cloud.status(&other).endpoint.unwrap().to_string())
    }

    fn look_until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        eventually(what, || {
            self.home.look();
            self.other.look();
            std::thread::sleep(LOOK);
            holds(self)
        });
    }

    fn are_direct(&mut self) -> bool {
        self.home.is_direct() && self.other.is_direct()
    }

    /// How many packets of a [`Conversation`] a change of the path may lose: none, but with the kernel's WireGuard, which takes an address from
    /// one peer only, those of two seconds.
    fn may_be_lost(&mut self) -> u32 {
        match self.home.end.implementation() {
            Implementation::Userspace => 0,
            Implementation::Kernel => 2 * A_SECOND,
        }
    }

    /// Bytes that the cloud has had from both.
    fn through_the_cloud(&mut self) -> u64 {
        let keys = [self.home.end.key(), self.other.end.key()];
        keys.iter().map(|key| self.cloud.status(key).received).sum()
    }

    /// What a time of conversation costs the cloud: nothing but what keeps the ways open.
    fn costs_the_cloud_nothing(&mut self) {
        let before = self.through_the_cloud();
        let begun = Instant::now();
        self.look_until("a second", |_| begun.elapsed() > Duration::from_secs(1));
        let cost = self.through_the_cloud() - before;
        assert!(cost < 1000, "{cost} bytes");
    }

    fn live(&mut self, seconds: u64) {
        let begun = Instant::now();
        self.look_until("time", |_| begun.elapsed() > Duration::from_secs(seconds));
    }

    /// Both on one LAN, and there already.
    fn on_one_lan(world: &'a World) -> Self {
        world.wire("home", "192.168.9.1/24", "other", "192.168.9.2/24");
        let mut pets = Self::new(world);
        let port = |end: &mut End<'_>| end.whole_status().listen_port;
        let (home, other) = (port(&mut pets.home.end), port(&mut pets.other.end));
        pets.meet(&format!("192.168.9.1:{home}"), &format!("192.168.9.2:{other}"));
        pets
    }
}

/// Drops what comes to this place by the LAN and is of this kind.
fn lan_drops(world: &World, place: &str, what: &str) {
    let link = if place == "home" { "home-other" } else { "other-home" };
    world.nft(
        place,
        &format!("table ip lan {{ chain early {{ type filter hook prerouting priority -450; iifname {link} {what} drop; }}; }}"),
    );
}

/// Questions in a second.
const A_SECOND: u32 = 200;

/// Questions from home to other, each answered.
struct Conversation {
    stop: Arc<AtomicBool>,
    ask: JoinHandle<u32>,
    hear: JoinHandle<Vec<(u32, Instant)>>,
    echo: JoinHandle<()>,
}

impl Conversation {
    fn begin(world: &World) -> Self {
        let server = world.within("other", || UdpSocket::bind((OTHER, 0)).unwrap());
        let client = world.within("home", || UdpSocket::bind((HOME, 0)).unwrap());
        client.connect(server.local_addr().unwrap()).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        // Both wait for what is under way when they are told to stop.
        let stopped = stop.clone();
        let echo = std::thread::spawn(move || {
            let mut word = [0; 4];
            loop {
                match server.recv_from(&mut word) {
                    Ok((_, from)) => drop(server.send_to(&word, from)),
                    Err(_) if stopped.load(Ordering::Relaxed) => break,
                    Err(_) => {}
                }
            }
        });
        let (stopped, asked) = (stop.clone(), client.try_clone().unwrap());
        let hear = std::thread::spawn(move || {
            let (mut heard, mut word) = (Vec::new(), [0; 4]);
            loop {
                match asked.recv(&mut word) {
                    Ok(_) => heard.push((u32::from_be_bytes(word), Instant::now())),
                    Err(_) if stopped.load(Ordering::Relaxed) => break heard,
                    Err(_) => {}
                }
            }
        });
        let stopped = stop.clone();
        let ask = std::thread::spawn(move || {
            let (mut sent, begun) = (0_u32, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                // Nobody listens there for a moment, it may say.
                let _ = client.send(&sent.to_be_bytes());
                sent += 1;
                std::thread::sleep((Duration::from_secs(1) / A_SECOND * sent).saturating_sub(begun.elapsed()));
            }
            sent
        });
        Self { stop, ask, hear, echo }
    }

    /// How many were sent and not answered, and the longest time without an answer.
    fn end(self) -> (u32, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, heard) = (self.ask.join().unwrap(), self.hear.join().unwrap());
        self.echo.join().unwrap();
        let unique: BTreeSet<u32> = heard.iter().map(|(number, _)| *number).collect();
        let gap = heard.windows(2).map(|pair| pair[1].1 - pair[0].1).max().unwrap();
        (sent - unique.len() as u32, gap)
    }
}

#[test]
fn netns_two_on_one_lan_leave_the_cloud_and_come_back_when_it_is_cut() {
    let world = World::new();
    let mut pets = Pets::on_one_lan(&world);
    for _ in 0..5 {
        pets.home.look();
        pets.other.look();
    }
    assert!(pets.home.paths.peers().is_empty(), "nobody has talked");

    let conversation = Conversation::begin(&world);
    pets.look_until("both send directly", Pets::are_direct);
    pets.costs_the_cloud_nothing();
    let (lost, _) = conversation.end();
    let limit = pets.may_be_lost();
    assert!(lost <= limit, "a change of the path has lost {lost}");

    let conversation = Conversation::begin(&world);
    let begun = Instant::now();
    pets.look_until("a second", |_| begun.elapsed() > Duration::from_secs(1));
    world.run("home", "ip link set home-other down");
    pets.look_until("both send through the cloud", |pets| {
        pets.home.turns.last() == Some(&Turn::Silent) && pets.other.turns.last() == Some(&Turn::Silent)
    });
    let begun = Instant::now();
    pets.look_until("a second", |_| begun.elapsed() > Duration::from_secs(1));
    let (lost, gap) = conversation.end();
    assert!(lost > 0 && gap < LONGEST_SILENCE, "{lost} lost, {gap:?} without an answer");

    // The LAN is back: it is tried again at a full minute.
    world.run("home", "ip link set home-other up");
    let conversation = Conversation::begin(&world);
    for pet in [&mut pets.home, &mut pets.other] {
        pet.ahead = Duration::from_secs(100);
    }
    pets.look_until("both send directly again", Pets::are_direct);
    pets.costs_the_cloud_nothing();
    let (lost, _) = conversation.end();
    assert!(lost <= limit, "the way back has lost {lost}");
}

#[test]
fn netns_two_behind_nat_open_it_from_both_sides() {
    let world = World::new();
    let mut pets = Pets::new(&world);
    let (home, other) = pets.observed();
    pets.meet(&home, &other);
    let conversation = Conversation::begin(&world);
    pets.look_until("both send directly", Pets::are_direct);
    pets.costs_the_cloud_nothing();
    let (lost, limit) = (conversation.end().0, pets.may_be_lost());
    assert!(lost <= limit, "a change of the path has lost {lost}");

    let conversation = Conversation::begin(&world);
    let rules = "ip saddr 198.51.100.2 ip daddr 192.0.2.2 drop; ip saddr 192.0.2.2 ip daddr 198.51.100.2 drop;";
    world.nft("internet", &format!("table ip cut {{ chain forward {{ type filter hook forward priority 0; {rules} }}; }}"));
    pets.look_until("both send through the cloud", |pets| {
        pets.home.turns.last() == Some(&Turn::Silent) && pets.other.turns.last() == Some(&Turn::Silent)
    });
    let (_, gap) = conversation.end();
    assert!(gap < LONGEST_SILENCE, "{gap:?} without an answer");
    world.talk("home", "other", OTHER);
}

/// Each destination has a port of its own there: nobody knows the one for the other.
#[test]
fn netns_behind_symmetric_nat_the_cloud_stays_the_way() {
    let world = World::new();
    for (nat, out) in [("nat", "nat-internet"), ("nat2", "nat2-internet")] {
        let chain = format!("chain post {{ type nat hook postrouting priority 100; oifname {out} masquerade fully-random; }}");
        world.nft(nat, &format!("delete table ip nat; table ip nat {{ {chain}; }}"));
    }
    let mut pets = Pets::new(&world);
    let (home, other) = pets.observed();
    pets.meet(&home, &other);
    let conversation = Conversation::begin(&world);
    let begun = Instant::now();
    pets.look_until("time for two handshakes", |_| begun.elapsed() > Duration::from_secs(8));
    assert!(!pets.home.paths.peers().is_empty() && pets.home.turns.is_empty(), "tried in vain: {:?}", pets.home.turns);
    for pet in [&mut pets.home, &mut pets.other] {
        pet.ahead = Duration::from_secs(15);
    }
    pets.look_until("it is given up", |pets| pets.home.turns == [Turn::Unreachable] && pets.other.turns == [Turn::Unreachable]);
    assert_eq!(conversation.end().0, 0);
}

/// The two sides do not look at the same moment.
#[test]
fn netns_one_side_alone_may_have_changed() {
    let world = World::new();
    let mut pets = Pets::new(&world);
    let userspace = pets.home.end.implementation() == Implementation::Userspace;
    if !available("a WireGuard that takes an address from more than one peer (the kernel's does not)", userspace) {
        return;
    }
    let (home, other) = pets.observed();
    pets.meet(&home, &other);
    let conversation = Conversation::begin(&world);
    // Other looks no more from the moment that it tries, so it cannot have changed.
    pets.home.look_until("home tries", |home| !home.paths.peers().is_empty());
    pets.other.look_until("other tries", |other| !other.paths.peers().is_empty());
    pets.home.look_until("home sends directly", |home| home.is_direct());
    assert!(!pets.other.is_direct());
    let begun = Instant::now();
    eventually("a second", || begun.elapsed() > Duration::from_secs(1));
    assert_eq!(conversation.end().0, 0);
}

/// Packets still come from the other side, and prove nothing.
#[test]
fn netns_a_path_that_is_cut_in_one_direction_is_left_by_whoever_sends_in_it() {
    let world = World::new();
    let mut pets = Pets::on_one_lan(&world);
    let conversation = Conversation::begin(&world);
    pets.look_until("both send directly", Pets::are_direct);
    pets.live(2);
    lan_drops(&world, "other", "meta l4proto udp");
    pets.look_until("home sends through the cloud", |pets| pets.home.turns.last() == Some(&Turn::Silent));
    pets.live(3);
    let (lost, gap) = conversation.end();
    assert!(lost > 0 && gap < LONGEST_SILENCE, "{lost} lost, {gap:?} without an answer");
}

#[test]
fn netns_a_line_that_loses_a_tenth_of_all_packets_stays_the_path() {
    let world = World::new();
    let mut pets = Pets::on_one_lan(&world);
    let conversation = Conversation::begin(&world);
    pets.look_until("both send directly", Pets::are_direct);
    for place in ["home", "other"] {
        lan_drops(&world, place, "numgen random mod 10 == 0");
    }
    for _ in 0..3 {
        pets.live(15);
        assert!(pets.are_direct(), "{:?} {:?}", pets.home.turns, pets.other.turns);
    }
    assert_eq!((pets.home.size, pets.other.size), (1420, 1420));
    let (lost, _) = conversation.end();
    assert!(lost > 3 * 15 * A_SECOND / 10, "{lost} lost");
}

/// As before there were questions; a firewall that lets no echo requests in looks the same.
#[test]
fn netns_who_answers_no_questions_has_a_path_that_is_judged_by_packets() {
    let world = World::new();
    let mut pets = Pets::on_one_lan(&world);
    for place in ["home", "other"] {
        world.nft(place, "table ip deaf { chain in { type filter hook input priority 0; icmp type echo-request drop; }; }");
    }
    let conversation = Conversation::begin(&world);
    pets.look_until("both send directly", Pets::are_direct);
    for _ in 0..2 {
        pets.live(8);
        assert!(pets.are_direct(), "{:?} {:?}", pets.home.turns, pets.other.turns);
    }
    world.run("home", "ip link set home-other down");
    pets.look_until("home sends through the cloud", |pets| pets.home.turns.last() == Some(&Turn::Silent));
    pets.look_until("and other", |pets| pets.other.turns.last() == Some(&Turn::Silent));
    let _ = conversation.end();
}

/// Questions about a path are not what keeps it.
#[test]
fn netns_questions_are_not_taken_for_talk() {
    let world = World::new();
    let mut pets = Pets::on_one_lan(&world);
    world.talk("home", "other", OTHER);
    pets.look_until("both send directly", Pets::are_direct);
    // The minute for which an address is remembered, over in a moment.
    for place in ["home", "other"] {
        world.run(place, "nft flush set inet kp-tunnel talked-to-4");
    }
    for _ in 0..3 {
        let questions = pets.home.paths.questions(&pets.home.end.config.link.addresses);
        let (key, mut question) = questions.into_iter().next().unwrap();
        question.probes = vec![Probe { number: 7, size: 64 }];
        world.within("home", || pets.home.asker.ask(&BTreeMap::from([(key, question)])));
        eventually("an answer", || !world.within("home", || pets.home.asker.hear(&BTreeMap::new(), MARK.value))[&key].answers.is_empty());
    }
    assert_eq!((pets.home.table.talked_to().unwrap(), pets.other.table.talked_to().unwrap()), (BTreeSet::new(), BTreeSet::new()));
    assert!(datagram(&world, ("home", "other"), OTHER, 100));
    assert_eq!(pets.home.table.talked_to().unwrap().len(), 1);
}

#[test]
fn netns_a_path_that_loses_large_packets_is_found_and_passed() {
    let world = World::new();
    let mut pets = Pets::on_one_lan(&world);
    for place in ["home", "other"] {
        lan_drops(&world, place, "ip length > 1360");
    }
    let conversation = Conversation::begin(&world);
    pets.look_until("both send directly", Pets::are_direct);
    assert!(!datagram(&world, ("home", "other"), OTHER, 1350), "nobody knows it yet");
    pets.look_until("both have found its size", |pets| pets.home.size < 1420 && pets.other.size < 1420);
    let _ = conversation.end();
    for size in [pets.home.size, pets.other.size] {
        assert!((1293..=1300).contains(&size), "{size}");
    }
    world.converse("home", "other", OTHER).transfer(1 << 20).unwrap();
    world.converse("other", "home", HOME).transfer(1 << 20).unwrap();
    world.converse("pod", "other", OTHER).transfer(1 << 20).unwrap();
    world.converse("other", "pod", POD).transfer(1 << 20).unwrap();
    for (from, to, target) in [("home", "other", OTHER), ("other", "home", HOME), ("pod", "other", OTHER), ("other", "pod", POD)] {
        // A pod's first one may not be cut in pieces, and is lost: it is told why.
        eventually("a large datagram", || datagram(&world, (from, to), target, 1400));
    }
    assert!(pets.are_direct());
    assert_eq!(route_to_other(&world), pets.home.size.to_string());

    // By the cloud everything passes: the path's routes go with it.
    let conversation = Conversation::begin(&world);
    world.run("home", "ip link set home-other down");
    pets.look_until("home sends through the cloud", |pets| pets.home.turns.last() == Some(&Turn::Silent));
    let _ = conversation.end();
    assert_eq!(world.run("home", "ip route show table 19280 10.99.0.3"), "");
}

fn route_to_other(world: &World) -> String {
    let route = world.run("home", "ip route show table 19280 10.99.0.3");
    route.split(" mtu lock ").nth(1).unwrap_or_default().trim().to_owned()
}
