use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube_pet_core::admission::{AdmissionConfig, admit};
use kube_pet_core::node::NodeInfo;
use serde_json::json;

use super::super::store::PodStoreWriter;
use super::*;

fn pod(uid: &str, cpu: &str, generation: i64) -> Arc<Pod> {
    let resources = json!({"requests": {"cpu": cpu}});
    let pod = json!({
        "metadata": {"uid": uid, "name": uid, "generation": generation},
        "spec": {"containers": [{"name": "c", "resources": resources}]},
        "status": {"phase": "Running"},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// A node with two CPUs.
fn judge(pod: &Pod, others: &[Arc<Pod>]) -> Result<Admission, Rejected> {
    let node = NodeInfo { allocatable: [("cpu".to_owned(), Quantity("2".into()))].into(), ..NodeInfo::default() };
    let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
    admit(pod, &node, &others, &AdmissionConfig::default()).map_err(|r| Rejected { reason: r.reason, message: r.message })
}

struct Bed {
    ledger: Ledger,
    writer: PodStoreWriter,
    pods: PodStore,
}

impl Bed {
    /// Pods that run with what they ask for.
    fn new(running: &[&Arc<Pod>]) -> Self {
        let (writer, pods) = PodStoreWriter::new();
        let mut ledger = Ledger::default();
        for pod in running {
            writer.put(pod_uid(pod), (*pod).clone());
            assert!(!ledger.note_wish(&pod_uid(pod), pod));
        }
        Self { ledger, writer, pods }
    }

    /// The pod's source shows it like this: what is it given, and what is new of whom?
    fn ask(&mut self, pod: &Arc<Pod>) -> (Given, Vec<String>) {
        self.writer.put(pod_uid(pod), pod.clone());
        let changed = if self.ledger.note_wish(&pod_uid(pod), pod) { self.retry() } else { Vec::new() };
        (self.ledger.given(&pod_uid(pod), pod), changed)
    }

    fn retry(&mut self) -> Vec<String> {
        self.ledger.try_pending(&self.pods, &judge).iter().map(ToString::to_string).collect()
    }

    fn cpu(&self, uid: &str) -> String {
        let mut pod = (*pod(uid, "0", 0)).clone();
        self.ledger.allocation(&PodUid::from(uid)).unwrap().apply(&mut pod);
        pod.spec.unwrap().containers[0].resources.clone().unwrap().requests.unwrap()["cpu"].0.clone()
    }
}

#[test]
fn what_fits_is_given_at_once() {
    let mut bed = Bed::new(&[&pod("a", "1", 1)]);
    let (given, changed) = bed.ask(&pod("a", "2", 2));
    assert_eq!((bed.cpu("a").as_str(), given.generation, given.waits, given.refusal), ("2", Some(2), false, None));
    assert_eq!(changed, ["a"]);
    // And is nothing new afterwards.
    assert!(bed.ask(&pod("a", "2", 2)).1.is_empty());
}

#[test]
fn what_does_not_fit_waits_and_does_not_count() {
    let mut bed = Bed::new(&[&pod("a", "1", 1), &pod("b", "500m", 1)]);
    let (given, _) = bed.ask(&pod("a", "1800m", 2));
    let refusal = given.refusal.unwrap();
    assert_eq!((refusal.cause.as_str(), refusal.generation), ("OutOfcpu", Some(2)));
    assert_eq!(refusal.message, "Node didn't have enough resource: cpu, requested: 1800, used: 500, capacity: 2000");
    assert_eq!(bed.cpu("a"), "1");
    assert!(bed.retry().is_empty(), "the same refusal is no news");
    // Others are judged by what it has, not by what it asks for.
    let (given, _) = bed.ask(&pod("b", "1", 2));
    assert!(given.refusal.is_none());
    // What is taken back waits no more.
    let (given, _) = bed.ask(&pod("a", "1", 3));
    assert!(!given.waits && given.refusal.is_none());
}

#[test]
fn one_that_shrinks_makes_room_for_those_that_wait_in_their_order() {
    let mut bed = Bed::new(&[&pod("a", "1", 1), &pod("b", "500m", 1), &pod("c", "500m", 1)]);
    assert!(bed.ask(&pod("b", "1", 2)).0.waits);
    let mut important = (*pod("c", "1", 2)).clone();
    important.spec.as_mut().unwrap().priority = Some(7);
    assert!(bed.ask(&Arc::new(important)).0.waits);
    let (given, changed) = bed.ask(&pod("a", "500m", 2));
    assert!(!given.waits);
    // There is room for one of the two.
    assert_eq!(changed, ["a", "c"]);
    assert_eq!([bed.cpu("a"), bed.cpu("b"), bed.cpu("c")], ["500m", "500m", "1"]);
}

#[test]
fn a_pod_that_its_source_has_no_more_makes_room_before_it_has_ended() {
    let mut bed = Bed::new(&[&pod("a", "1500m", 1), &pod("b", "500m", 1)]);
    assert!(bed.ask(&pod("b", "1", 2)).0.waits);
    bed.ledger.0.get_mut(&PodUid::from("a")).unwrap().gone = true;
    assert_eq!(bed.retry(), ["b"]);
}

#[test]
fn what_an_earlier_run_has_given_counts_before_its_pod_is_looked_after() {
    let mut bed = Bed::new(&[&pod("b", "500m", 1)]);
    let (then, allocation) = (Some(pod("a", "1500m", 1)), Some(Allocation::of(&pod("a", "1500m", 1))));
    bed.ledger.0.insert("a".into(), Entry { then, allocation, ..Entry::default() });
    assert!(bed.ask(&pod("b", "1", 2)).0.refusal.is_some());
}

#[test]
fn the_end_of_a_pod_makes_room() {
    let mut bed = Bed::new(&[&pod("a", "1500m", 1), &pod("b", "500m", 1)]);
    assert!(bed.ask(&pod("b", "1", 2)).0.waits);
    let mut ended = (*pod("a", "1500m", 1)).clone();
    ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
    bed.writer.put("a".into(), Arc::new(ended));
    assert_eq!(bed.retry(), ["b"]);
    assert_eq!(bed.cpu("b"), "1");
}
