use std::collections::BTreeMap;
use std::sync::Arc;

use kube_pet_api::{Pet, PetNetwork};
use kube_pet_tunnel::{Neighbour, PublicKey};
use serde_json::json;

use super::interface::Report;
use super::*;

/// An interface that tells what was known, and what was written down of it, when it was to be made.
struct Observed {
    record: PathBuf,
    told: mpsc::UnboundedSender<(Known, Option<Known>)>,
}

impl Link for Observed {
    fn set_key(&mut self, _: PrivateKey) {}

    async fn keep(self, known: &Known, _: Option<Arc<BTreeMap<PublicKey, Neighbour>>>) -> (Self, Option<Report>) {
        let _ = self.told.send((known.clone(), json_file::read(&self.record, json_file::MAX_BYTES).unwrap()));
        (self, None)
    }
}

#[tokio::test]
async fn component_what_the_cluster_has_given_is_written_down_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("tunnel.json");
    let file = |name| folder.path().join(name);
    let files = KeyFiles { key: file("key"), next: file("next"), before: file("before"), clock: file("clock") };
    let key = PrivateKey::create(&files.key).unwrap();
    let (updates, received) = mpsc::channel(64);
    let (told, mut observed) = mpsc::unbounded_channel();
    let task = Task {
        updates: received,
        seen: watch::channel(Seen::Unknown).0,
        wanted: watch::channel(claim::spec(&key, &TunnelSettings::default())).0,
        talks: watch::channel(false).0,
        allocated: watch::channel(None).0,
        known: Known::default(),
        record: record.clone(),
        rotation: Rotation::open(files, Duration::ZERO).unwrap(),
        interface: Observed { record, told },
        objects: Objects::default(),
    };
    let task = tokio::spawn(task.run());
    let pet: Pet = serde_json::from_value(json!({
        "apiVersion": "kube-pet.dev/v1alpha1", "kind": "Pet", "metadata": {"name": "pet"},
        "spec": {"publicKey": "", "machineID": "12345678"},
        "status": {"nodeAddresses": ["10.99.0.7"], "podCIDRs": ["10.100.7.0/24"]},
    }))
    .unwrap();
    let network: PetNetwork = serde_json::from_value(json!({
        "apiVersion": "kube-pet.dev/v1alpha1", "kind": "PetNetwork", "metadata": {"name": "default"},
        "spec": {"nodeCIDRs": ["10.99.0.0/20"], "podCIDRs": ["10.100.0.0/16"]},
    }))
    .unwrap();
    let all = [Update::Own(Some(Box::new(pet))), Update::Network(Some(Box::new(network)))];
    for update in all.into_iter().chain(watches::LISTS.map(Update::Synced)) {
        updates.send(update).await.map_err(drop).unwrap();
    }
    let used = async {
        loop {
            let (known, written) = observed.recv().await.unwrap();
            if known != Known::default() {
                return (known, written);
            }
        }
    };
    let (known, written) = tokio::time::timeout(Duration::from_secs(30), used).await.unwrap();
    assert_eq!(written, Some(known));
    task.abort();
}

#[tokio::test]
async fn component_what_panics_on_a_thread_ends_the_task() {
    let task = tokio::spawn(blocking(|| panic!("the interface broke down")));
    let ended = tokio::time::timeout(Duration::from_secs(30), task).await.unwrap();
    assert!(ended.unwrap_err().is_panic());
}
