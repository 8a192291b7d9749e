use serde_json::json;

use super::*;

fn object(name: &str, endpoint: &str) -> SliceObject {
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [endpoint]}],
    }))
    .unwrap()
}

/// What is sent on, in short.
async fn sent(follower: &mut Follower<Slices>, updates: &mut mpsc::Receiver<Update>, event: Watched<SliceObject>) -> Vec<String> {
    assert!(follower.take(event).await.is_ok());
    let mut texts = Vec::new();
    while let Ok(update) = updates.try_recv() {
        texts.push(match update {
            Update::Changed(Event::Slice(slice), _) => format!("{} {}", slice.key, slice.endpoints[0].address),
            Update::Changed(Event::SliceGone(key), _) => format!("{key} gone"),
            Update::SlicesSynced => "synced".to_owned(),
            other => format!("{other:?}"),
        });
    }
    texts
}

#[tokio::test]
async fn a_list_that_is_read_again_takes_nothing_away_before_it_is_complete() {
    let (tx, mut rx) = mpsc::channel(16);
    let mut follower = Follower::new(Slices("here".into()), Some(tx));
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
    let mut follower = Follower::new(Slices("here".into()), Some(tx));
    let mut next = async |event| sent(&mut follower, &mut rx, event).await;
    assert_eq!(next(Watched::Apply(object("a", "10.0.0.1"))).await, ["ns/a 10.0.0.1"]);
    let mut nobodys = object("a", "10.0.0.1");
    kube::Resource::meta_mut(&mut nobodys).labels = None;
    assert_eq!(next(Watched::Apply(nobodys.clone())).await, ["ns/a gone"]);
    assert!(next(Watched::Apply(nobodys)).await.is_empty());
}

#[test]
fn a_missing_permission_is_told_apart() {
    let status = |code| Box::new(kube::core::Status { code, ..kube::core::Status::default() });
    assert!(is_refused(&watcher::Error::InitialListFailed(kube::Error::Api(status(403)))));
    assert!(!is_refused(&watcher::Error::InitialListFailed(kube::Error::Api(status(500)))));
}
