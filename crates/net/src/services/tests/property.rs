//! Whatever has happened, the kernel has what a build from nothing would make.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

/// Frontends and rules of few values, so that they meet.
fn change() -> impl Strategy<Value = (Frontend, Option<Rule>)> {
    let address = prop_oneof![
        Just(Address::Ip(ip(VIP))),
        Just(Address::Ip(ip("10.96.0.21"))),
        Just(Address::Ip(ip("fd00:96::20"))),
        Just(Address::Node(Family::V4)),
        Just(Address::Node(Family::V6)),
    ];
    let frontend = (address, prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)], 80_u16..82)
        .prop_map(|(address, protocol, port)| Frontend { address, protocol, port });
    let endpoint =
        prop_oneof![(1_u8..8).prop_map(|n| at(&format!("10.9.0.{n}"), 80)), (1_u8..8).prop_map(|n| at(&format!("fd00:9::{n}"), 80))];
    let endpoints = prop::collection::vec(endpoint, 0..6);
    let source = prop_oneof![Just(network("198.51.100.0", 24)), Just(network("198.51.0.0", 16)), Just(network("fd00::", 8))];
    let forward =
        (endpoints.clone(), prop::option::of(endpoints), any::<bool>(), prop::option::of(1_u64..3), prop::collection::vec(source, 0..3));
    let rule = prop_oneof![
        1 => Just(Rule::Reject),
        1 => Just(Rule::Drop),
        6 => forward.prop_map(|(endpoints, inside, masquerade, affinity, sources)| {
            Rule::Forward(Forward { endpoints, inside, masquerade, affinity: affinity.map(Duration::from_secs), sources })
        }),
    ];
    let rest = prop_oneof![Just(VIP), Just("fd00:96::20")].prop_map(|address| Frontend::rest(ip(address)));
    prop_oneof![
        8 => (frontend, prop::option::weighted(0.8, rule)),
        1 => (rest, prop::option::weighted(0.8, Just(Rule::Reject))),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Change(Vec<(Frontend, Option<Rule>)>),
    /// Another agent takes over.
    Restart,
    /// Somebody takes the table away.
    Flush,
    /// Somebody takes the elements of a set away.
    Strip(Set),
}

fn step() -> impl Strategy<Value = Step> {
    let set = prop::sample::select(Set::fixed()).prop_filter("the kernel's own", |set| !matches!(set, Set::Clients(..)));
    prop_oneof![
        12 => prop::collection::vec(change(), 0..5).prop_map(Step::Change),
        1 => Just(Step::Restart),
        1 => Just(Step::Flush),
        1 => set.prop_map(Step::Strip),
    ]
}

/// Of a set and a key, with the end of its range: values.
type State = BTreeMap<(Set, Vec<u8>, Vec<u8>), Vec<Box<[u8]>>>;

/// What the kernel has. Which endpoint has which number says nothing.
fn state(table: &mut ServiceTable) -> State {
    let found = kernel::read(&mut table.table, &table.config).unwrap().expect("a table of ours");
    let mut state: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (Place { set, key, end }, value) in found.elements {
        let key = if matches!(set, Set::Endpoints(_)) { &key[..key.len() - 4] } else { &key[..] };
        state.entry((set, key.to_vec(), end.to_vec())).or_default().push(value);
    }
    state.values_mut().for_each(|values| values.sort());
    state
}

fn strip(table: &mut ServiceTable, set: Set) {
    let found = kernel::read(&mut table.table, &table.config).unwrap().expect("a table of ours");
    let mut stranger = ServiceTable::open(config(), OwnChanges::default()).unwrap();
    let mut batch = Batch::new("kube-pet-test");
    for place in found.elements.keys().filter(|place| place.set == set) {
        batch.delete(&set.name(), Element { key: &place.key, end: &place.end, value: &[] });
    }
    stranger.table.socket.commit(batch).unwrap();
}

fn case(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut table = ServiceTable::open(config(), OwnChanges::default()).unwrap();
    table.reconcile(&BTreeMap::new()).unwrap();
    let mut model = BTreeMap::new();
    for step in steps {
        match step {
            Step::Change(changes) => {
                table.apply(&changes).unwrap();
                for (frontend, rule) in changes {
                    match rule {
                        Some(rule) => model.insert(frontend, rule),
                        None => model.remove(&frontend),
                    };
                }
            }
            Step::Restart => {
                table = ServiceTable::open(config(), OwnChanges::default()).unwrap();
                prop_assert_eq!(table.reconcile(&model).unwrap(), Repaired::default());
            }
            Step::Flush => {
                ServiceTable::open(config(), OwnChanges::default()).unwrap().remove().unwrap();
                prop_assert_eq!(table.verify().unwrap(), Condition::Gone);
                prop_assert!(table.repair().unwrap().rebuilt);
            }
            Step::Strip(set) => {
                strip(&mut table, set);
                prop_assert!(!table.repair().unwrap().rebuilt);
            }
        }
        prop_assert_eq!(table.verify().unwrap(), Condition::Intact);
    }
    let shared = table.shared.clone();
    let mut scratch = ServiceTable::open(Config { table: "kube-pet-scratch".into(), ..config() }, OwnChanges::default()).unwrap();
    scratch.reconcile(&model).unwrap();
    prop_assert_eq!(state(&mut table), state(&mut scratch));
    scratch.remove().unwrap();
    let mut fresh = ServiceTable::open(config(), OwnChanges::default()).unwrap();
    prop_assert_eq!(fresh.reconcile(&model).unwrap(), Repaired::default(), "the kernel has exactly this");
    prop_assert_eq!(fresh.rules(), table.rules());
    prop_assert_eq!(fresh.shared, shared);
    Ok(())
}

#[test]
fn netns_any_events_leave_what_a_fresh_load_would() {
    let net = Net::new();
    let mut runner = TestRunner::new(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() });
    // The runner needs more stack than a thread in a namespace has.
    runner.run(&prop::collection::vec(step(), 1..14), |steps| net.within("node", || case(steps))).unwrap();
}
