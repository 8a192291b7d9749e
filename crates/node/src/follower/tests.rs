use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::*;

/// ConfigMaps with a value.
struct Values;

impl Kind for Values {
    type Object = ConfigMap;
    type Update = String;
    const NAME: &'static str = "configmaps";
    const REFUSED: &'static str = "nothing works";

    fn put(&mut self, object: ConfigMap) -> Option<(Arc<str>, String)> {
        let key = key_of(&object.metadata);
        let text = format!("{key} {}", object.data?.get("value")?);
        Some((key, text))
    }

    fn gone(&mut self, key: Arc<str>) -> String {
        format!("{key} gone")
    }

    fn synced(&mut self) -> String {
        "synced".to_owned()
    }
}

fn object(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "data": {"value": value}})).unwrap()
}

/// What is sent on.
async fn sent(follower: &mut Follower<Values>, updates: &mut mpsc::Receiver<String>, event: Watched<ConfigMap>) -> Vec<String> {
    assert!(follower.take(event).await.is_ok());
    std::iter::from_fn(|| updates.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_list_that_is_read_again_takes_nothing_away_before_it_is_complete() {
    let (tx, mut rx) = mpsc::channel(16);
    let mut follower = Follower::new(Values, Some(tx));
    let mut next = async |event| sent(&mut follower, &mut rx, event).await;
    let nothing: [&str; 0] = [];

    assert_eq!(next(Watched::Init).await, nothing);
    assert_eq!(next(Watched::InitApply(object("a", "10.0.0.1"))).await, ["ns/a 10.0.0.1"]);
    assert_eq!(next(Watched::InitApply(object("b", "10.0.0.2"))).await, ["ns/b 10.0.0.2"]);
    assert_eq!(next(Watched::InitDone).await, ["synced"]);
    assert_eq!(next(Watched::Apply(object("c", "10.0.0.3"))).await, ["ns/c 10.0.0.3"]);
    assert_eq!(next(Watched::Delete(object("c", "10.0.0.3"))).await, ["ns/c gone"]);

    // Broken off and begun anew: only the end of the list says what is gone.
    assert_eq!(next(Watched::Init).await, nothing);
    assert_eq!(next(Watched::InitApply(object("b", "10.0.0.9"))).await, ["ns/b 10.0.0.9"]);
    assert_eq!(next(Watched::Init).await, nothing);
    assert_eq!(next(Watched::InitApply(object("d", "10.0.0.4"))).await, ["ns/d 10.0.0.4"]);
    assert_eq!(next(Watched::InitApply(object("a", "10.0.0.1"))).await, ["ns/a 10.0.0.1"]);
    assert_eq!(next(Watched::InitDone).await, ["ns/b gone", "synced"]);
}

#[tokio::test]
async fn an_object_that_becomes_none_is_gone() {
    let (tx, mut rx) = mpsc::channel(16);
    let mut follower = Follower::new(Values, Some(tx));
    let mut next = async |event| sent(&mut follower, &mut rx, event).await;
    assert_eq!(next(Watched::Apply(object("a", "10.0.0.1"))).await, ["ns/a 10.0.0.1"]);
    let mut nobodys = object("a", "10.0.0.1");
    nobodys.data = None;
    assert_eq!(next(Watched::Apply(nobodys.clone())).await, ["ns/a gone"]);
    assert!(next(Watched::Apply(nobodys)).await.is_empty());
}

#[test]
fn a_missing_permission_is_told_apart() {
    let status = |code| Box::new(kube::core::Status { code, ..kube::core::Status::default() });
    assert!(is_refused(&watcher::Error::InitialListFailed(kube::Error::Api(status(403)))));
    assert!(!is_refused(&watcher::Error::InitialListFailed(kube::Error::Api(status(500)))));
}
