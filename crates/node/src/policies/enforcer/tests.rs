use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use kube_pet_core::policies::{Element, PeerPod, Policy};
use serde_json::{Value, json};

use super::*;
use crate::kernel_tables::{Condition, SharedTable};
use crate::paths::Paths;

/// The kernel: what is there, and whether it refuses.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    elements: Option<BTreeSet<Element>>,
    refuses: bool,
    /// What the table is known to hold, while somebody has changed it.
    expected: Option<BTreeSet<Element>>,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// `link direction` of those that are isolated; `None` without a table.
    fn isolated(&self) -> Option<Vec<String>> {
        let text = |element: &Element| match element {
            Element::Isolated { direction, link, .. } => Some(format!("{link} {direction:?}")),
            _ => None,
        };
        self.state().elements.as_ref().map(|elements| elements.iter().filter_map(text).collect())
    }

    fn allowed(&self) -> usize {
        self.state().elements.iter().flatten().filter(|element| matches!(element, Element::Allowed { .. })).count()
    }
}

impl Kernel for Fake {
    type Table = Self;

    fn open(&self) -> Result<Self, TableError> {
        Ok(self.clone())
    }

    fn remove(&self) -> Result<bool, TableError> {
        Ok(self.state().elements.take().is_some())
    }
}

impl Table for Fake {
    fn apply(&mut self, changes: &[(Element, bool)]) -> Result<(), TableError> {
        let mut state = self.state();
        if state.refuses {
            return Err(TableError::Refused);
        }
        let elements = state.elements.get_or_insert_default();
        for (element, there) in changes {
            if *there {
                elements.insert(element.clone())
            } else {
                elements.remove(element)
            };
        }
        Ok(())
    }

    fn reconcile(&mut self, elements: &BTreeSet<Element>) -> Result<usize, TableError> {
        let mut state = self.state();
        if state.refuses {
            return Err(TableError::Refused);
        }
        state.elements = Some(elements.clone());
        Ok(0)
    }

    fn adopt(&mut self) -> Result<(), TableError> {
        self.state().elements.get_or_insert_default();
        Ok(())
    }

    fn isolates(&self, link: &str, direction: Direction) -> bool {
        let is = |element: &Element| matches!(element, Element::Isolated { direction: d, link: l, .. } if *d == direction && **l == *link);
        self.state().elements.iter().flatten().any(is)
    }
}

impl SharedTable for Fake {
    fn verify(&mut self) -> Result<Condition, TableError> {
        Ok(if self.state().expected.is_some() { Condition::Touched } else { Condition::Intact })
    }

    fn repair(&mut self) -> Result<usize, TableError> {
        let mut state = self.state();
        let Some(expected) = state.expected.take() else { return Ok(0) };
        state.elements = Some(expected);
        Ok(1)
    }
}

/// Pods that are here from the beginning.
struct Here(Vec<LocalPod>, watch::Receiver<u64>);

impl Residents for Here {
    fn list(&mut self) -> Vec<LocalPod> {
        self.0.clone()
    }

    fn has(&self, _: &str) -> bool {
        true
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.1.clone()
    }
}

struct Bed {
    kernel: Fake,
    updates: mpsc::Sender<Update>,
    commands: mpsc::UnboundedSender<Command>,
    peers_wanted: watch::Receiver<bool>,
    paths: Paths,
    _folder: tempfile::TempDir,
    _residents: watch::Sender<u64>,
}

impl Bed {
    /// An agent that starts where these pods are, which an earlier run has isolated for what they receive if `record` has them.
    fn new(kernel: Fake, here: &[&str], record: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path());
        std::fs::create_dir_all(paths.state_dir()).unwrap();
        std::fs::write(paths.state_dir().join("network-policies.json"), json!({"ingress": record}).to_string()).unwrap();
        let (updates_tx, updates) = mpsc::channel(16);
        let (commands_tx, commands) = mpsc::unbounded_channel();
        let (peers_wanted, wanted) = watch::channel(false);
        let (residents_tx, changes) = watch::channel(0);
        let enforcer = Enforcer::new(Parts {
            kernel: kernel.clone(),
            residents: Here(here.iter().map(|name| pod(name)).collect(), changes),
            record: Record::read(&paths),
            updates,
            commands,
            peers_wanted,
            recovered: here.iter().copied().map(PodUid::new).collect(),
        });
        tokio::spawn(enforcer.run());
        Self { kernel, updates: updates_tx, commands: commands_tx, peers_wanted: wanted, paths, _folder: folder, _residents: residents_tx }
    }

    fn hold(&self, name: &str) -> oneshot::Receiver<Result<(), PolicyError>> {
        let (done, answer) = oneshot::channel();
        assert!(self.commands.send(Command { pod: pod(name), done }).is_ok());
        answer
    }

    async fn tell(&self, updates: impl IntoIterator<Item = Update>) {
        for update in updates {
            self.updates.send(update).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn pod(name: &str) -> LocalPod {
    LocalPod {
        uid: name.into(),
        namespace: "ns".into(),
        labels: [("app", name)].into(),
        ports: Box::default(),
        link: format!("kp-{name}").into(),
        sealed: Box::default(),
    }
}

fn policy(app: &str, ingress: Value) -> Update {
    let object =
        json!({"metadata": {"namespace": "ns", "name": app}, "spec": {"podSelector": {"matchLabels": {"app": app}}, "ingress": ingress}});
    let object: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(object).unwrap();
    Update::Changed(Event::Policy(Arc::new(Policy::from(object))))
}

#[tokio::test(start_paused = true)]
async fn component_a_pod_starts_when_the_kernel_has_what_is_asked_for_it() {
    let bed = Bed::new(Fake::default(), &[], &[]);
    let early = bed.hold("web");
    bed.tell([policy("web", json!([])), Update::Known(List::Policies)]).await;
    assert!(early.await.unwrap().is_ok());
    assert_eq!(bed.kernel.isolated().unwrap(), ["kp-web Ingress"]);
    assert!(bed.hold("other").await.unwrap().is_ok(), "selected by none");
    bed.kernel.state().refuses = true;
    bed.tell([policy("db", json!([]))]).await;
    assert!(matches!(bed.hold("db").await.unwrap(), Err(PolicyError::Table { .. })));
    bed.kernel.state().refuses = false;
    assert!(bed.hold("db").await.unwrap().is_ok());
    assert_eq!(bed.kernel.isolated().unwrap(), ["kp-db Ingress", "kp-web Ingress"]);
    let stored: Value = serde_json::from_slice(&std::fs::read(bed.paths.state_dir().join("network-policies.json")).unwrap()).unwrap();
    assert_eq!(stored, json!({"ingress": ["db", "web"], "egress": []}));
    assert!(!*bed.peers_wanted.borrow(), "nobody asks who else is there");
    bed.tell(["ns/web", "ns/db"].map(|key| Update::Changed(Event::PolicyGone(key.into())))).await;
    assert_eq!(bed.kernel.isolated(), None, "no policies, no table");
}

#[tokio::test(start_paused = true)]
async fn component_what_an_earlier_run_left_stays_until_all_is_known() {
    let kernel = Fake::default();
    let mut before = kernel.clone();
    let left: Vec<_> =
        Compiler::default().apply(Event::Local(Arc::new(LocalPod { sealed: Direction::ALL.into(), ..pod("web") }))).into_iter().collect();
    before.apply(&left).unwrap();
    let bed = Bed::new(kernel, &["web"], &["web"]);
    let both = ["kp-web Ingress", "kp-web Egress"];
    bed.tell([policy("web", json!([{"from": [{"podSelector": {}}]}])), Update::Known(List::Policies)]).await;
    assert_eq!(bed.kernel.isolated().unwrap(), both, "peers are not known");
    assert!(*bed.peers_wanted.borrow());
    let peer = PeerPod {
        key: "ns/peer".into(),
        labels: [("app", "peer")].into(),
        ips: ["10.0.0.9".parse().unwrap()].into(),
        ports: Box::default(),
    };
    bed.tell([Update::Changed(Event::Peer(Arc::new(peer))), Update::Known(List::Peers)]).await;
    assert_eq!(bed.kernel.isolated().unwrap(), both, "namespaces are not known");
    bed.tell([Update::Known(List::Namespaces)]).await;
    assert_eq!(bed.kernel.isolated().unwrap(), ["kp-web Ingress"]);
    assert_eq!(bed.kernel.allowed(), 1);
}

#[tokio::test(start_paused = true)]
async fn component_peers_are_not_waited_for_without_end() {
    let bed = Bed::new(Fake::default(), &[], &[]);
    bed.tell([policy("web", json!([{"from": [{"podSelector": {}}]}])), Update::Known(List::Policies)]).await;
    let began = Instant::now();
    assert!(bed.hold("web").await.unwrap().is_ok());
    assert!(began.elapsed() >= PEERS_PATIENCE - Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((bed.kernel.isolated().unwrap().len(), bed.kernel.allowed()), (1, 0), "closed");
}

#[tokio::test(start_paused = true)]
async fn component_without_an_api_server_pods_start_as_they_were() {
    // After a reboot: the kernel has nothing.
    let bed = Bed::new(Fake::default(), &["closed", "open"], &["closed"]);
    let (closed, open, new) = (bed.hold("closed"), bed.hold("open"), bed.hold("new"));
    assert!(closed.await.unwrap().is_ok());
    assert_eq!(bed.kernel.isolated().unwrap(), ["kp-closed Ingress"]);
    assert!(open.await.unwrap().is_ok());
    assert!(matches!(new.await.unwrap(), Err(PolicyError::Unknown { .. })), "it may be selected");
    bed.tell([Update::Known(List::Policies)]).await;
    assert_eq!(bed.kernel.isolated(), None, "the policy is gone");
    assert!(bed.hold("new").await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn component_without_the_right_to_read_policies_pods_start() {
    let bed = Bed::new(Fake::default(), &[], &[]);
    bed.tell([Update::Refused(List::Policies)]).await;
    assert!(bed.hold("web").await.unwrap().is_ok());
    bed.tell([policy("web", json!([])), Update::Known(List::Policies)]).await;
    assert!(bed.hold("web").await.unwrap().is_ok());
    assert_eq!(bed.kernel.isolated().unwrap(), ["kp-web Ingress"], "the right was given");
}

#[tokio::test(start_paused = true)]
async fn component_what_somebody_else_has_changed_is_put_right() {
    let bed = Bed::new(Fake::default(), &[], &[]);
    bed.tell([policy("web", json!([])), Update::Known(List::Policies)]).await;
    assert!(bed.hold("web").await.unwrap().is_ok());
    {
        let mut state = bed.kernel.state();
        state.expected = state.elements.replace(BTreeSet::new());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bed.kernel.isolated().unwrap(), ["kp-web Ingress"]);
}
