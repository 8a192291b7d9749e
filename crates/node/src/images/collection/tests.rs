//! Rounds of collection against a store that the test plays.

use std::path::Path;
use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use kube_pet_podman::Client;
use kube_pet_testkit::podman::{Answer, Fake};
use serde_json::{Value, json};

use super::*;
use crate::images::ImageManagerOptions;

/// A file system that holds something is used more than 0 %, so everything is too much.
const ALWAYS: Policy = Policy { high_percent: 1, low_percent: 0, min_age: SignedDuration::ZERO, max_age: SignedDuration::ZERO };

#[derive(Clone, Default)]
struct Store {
    images: Vec<Value>,
    containers: Vec<Value>,
    /// What Podman refuses to remove, and with which status.
    refuses: Option<(&'static str, u16)>,
}

struct Fixture {
    collector: ImageCollector,
    reclaimer: ImageReclaimer,
    fake: Fake,
    store: Arc<Mutex<Store>>,
    _dir: tempfile::TempDir,
}

fn image(id: &str, names: &[&str]) -> Value {
    json!({"Id": id, "Size": 10, "RepoTags": names})
}

impl Fixture {
    /// `ours` are the images that the agent has pulled, by ID and name.
    fn new(policy: Policy, store: Store, ours: &[(&str, &str)]) -> Self {
        let store = Arc::new(Mutex::new(store));
        let played = store.clone();
        let fake = Fake::start(move |path, _| {
            let store = played.lock().unwrap();
            let path = path.split_once("/libpod").map_or(path, |(_, path)| path).split('?').next().unwrap().to_owned();
            let body = |value: Value| Answer::Reply(200, value.to_string().into_bytes());
            match path.as_str() {
                "/images/json" => body(json!(store.images)),
                "/containers/json" => body(json!(store.containers)),
                path => {
                    let name = path.trim_start_matches("/images/").trim_end_matches("/json").replace("%2F", "/").replace("%3A", ":");
                    let found = store.images.iter().find(|i| i["Id"] == name.as_str());
                    match (found, store.refuses) {
                        (_, Some((refused, status))) if !path.ends_with("/json") && refused == name => {
                            Answer::Reply(status, br#"{"cause":"no","message":"refused"}"#.to_vec())
                        }
                        (Some(image), _) if path.ends_with("/json") => body(image.clone()),
                        (None, _) if path.ends_with("/json") => Answer::Reply(404, br#"{"cause":"image not known"}"#.to_vec()),
                        _ => body(json!({})),
                    }
                }
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let images = ImageManager::new(Client::new(fake.socket()), ImageManagerOptions::default());
        for (id, name) in ours {
            images.inner.records.pulled(name, repository(name).unwrap(), id, None, None).unwrap();
        }
        let (collector, reclaimer) = ImageCollector::new(images, policy, Path::new("/").into(), EventRecorder::disabled());
        Self { collector, reclaimer, fake, store, _dir: dir }
    }

    fn removed(&self) -> Vec<String> {
        let requests = self.fake.requests();
        let removals = requests.iter().filter(|request| request.starts_with("DELETE"));
        let target = |request: &String| {
            let path = request.split(' ').nth(1).unwrap();
            assert!(!path.contains("force"), "{path}");
            path.rsplit_once("/images/").unwrap().1.replace("%2F", "/").replace("%3A", ":")
        };
        removals.map(target).collect()
    }
}

#[tokio::test]
async fn component_only_our_own_unused_images_are_removed() {
    let mut read_only = image("shared", &["r.io/shared:1"]);
    read_only["ReadOnly"] = json!(true);
    let store = Store {
        images: vec![
            image("idle", &["r.io/idle:1"]),
            image("theirs", &["r.io/theirs:1"]),
            image("renamed", &["r.io/renamed:1", "localhost/mine:1"]),
            image("used", &["r.io/used:1"]),
            image("byothers", &["r.io/byothers:1"]),
            image("nameless", &[]),
            read_only,
        ],
        containers: vec![
            json!({"Id": "c1", "ImageID": "used", "State": "running"}),
            json!({"Id": "c2", "ImageID": "byothers", "State": "exited", "Labels": {}}),
        ],
        refuses: None,
    };
    let ours = [
        ("idle", "r.io/idle:1"),
        ("renamed", "r.io/renamed:1"),
        ("used", "r.io/used:1"),
        ("byothers", "r.io/byothers:1"),
        ("nameless", "r.io/idle:1"),
        ("shared", "r.io/shared:1"),
    ];
    let mut fixture = Fixture::new(ALWAYS, store, &ours);
    let error = fixture.collector.collect().await.unwrap_err().to_string();
    let mut removed = fixture.removed();
    removed.sort();
    assert_eq!(removed, ["idle", "nameless"]);
    assert!(error.starts_with("Insufficient free disk space on the node's image filesystem ("), "{error}");
    assert!(error.contains("(freed 20 bytes)"), "{error}");
}

#[tokio::test]
async fn component_an_image_of_several_names_loses_each() {
    let names = ["r.io/a:1", "r.io/a:2"];
    let store = Store { images: vec![image("a", &names)], ..Store::default() };
    let mut fixture = Fixture::new(ALWAYS, store, &[("a", "r.io/a:1"), ("a", "r.io/a:2")]);
    let _ = fixture.collector.collect().await;
    assert_eq!(fixture.removed(), names);
}

#[tokio::test]
async fn component_what_came_into_use_is_no_failure_and_what_fails_is_told() {
    let store = Store { images: vec![image("a", &["r.io/a:1"])], refuses: Some(("a", 409)), ..Store::default() };
    let mut fixture = Fixture::new(ALWAYS, store, &[("a", "r.io/a:1")]);
    let error = fixture.collector.collect().await.unwrap_err();
    assert!(matches!(error, CollectionError::NotEnough(_)), "{error}");
    fixture.store.lock().unwrap().refuses = Some(("a", 500));
    let error = fixture.collector.collect().await.unwrap_err();
    assert!(matches!(error, CollectionError::Removal { freed: 0, .. }), "{error}");
    fixture.store.lock().unwrap().refuses = None;
    let _ = fixture.collector.collect().await;
    assert_eq!(fixture.removed().len(), 3);
}

#[tokio::test]
async fn component_a_pod_that_has_just_asked_for_an_image_gets_it() {
    let policy = Policy { min_age: SignedDuration::from_secs(60), ..ALWAYS };
    let store = Store { images: vec![image("a", &["r.io/a:1"])], ..Store::default() };
    let mut fixture = Fixture::new(policy, store, &[("a", "r.io/a:1")]);
    let now = Timestamp::now();
    let candidate = fixture.collector.look(now).await.unwrap().remove(0);
    fixture.collector.images.note_use("a");
    assert!(!fixture.collector.remove(&candidate, "space").await.unwrap());
    assert!(fixture.removed().is_empty());
}

#[tokio::test]
async fn component_nothing_is_removed_while_there_is_room() {
    let store = Store { images: vec![image("a", &["r.io/a:1"])], ..Store::default() };
    let mut fixture = Fixture::new(Policy { high_percent: 101, ..ALWAYS }, store, &[("a", "r.io/a:1")]);
    fixture.collector.collect().await.unwrap();
    assert!(fixture.removed().is_empty());
}

#[tokio::test]
async fn component_a_node_that_is_short_of_room_asks_for_all_of_it() {
    let off = Policy { high_percent: 100, ..ALWAYS };
    let store = Store { images: vec![image("a", &["r.io/a:1"]), image("theirs", &["r.io/t:1"])], ..Store::default() };
    let Fixture { collector, reclaimer, fake, store, _dir } = Fixture::new(off, store, &[("a", "r.io/a:1")]);
    let work = tokio::spawn(collector.run());
    reclaimer.reclaim().await;
    let removals = fake.requests().iter().filter(|request| request.starts_with("DELETE")).count();
    assert_eq!((removals, store.lock().unwrap().images.len()), (1, 2));
    work.abort();
}

#[test]
fn repositories_are_told_from_tags_and_digests() {
    for (name, expected) in [
        ("docker.io/library/busybox:1", Some("docker.io/library/busybox")),
        ("r.io:5000/a", Some("r.io:5000/a")),
        ("r.io:5000/a:1", Some("r.io:5000/a")),
        ("r.io:5000/a@sha256:1", Some("r.io:5000/a")),
        ("<none>:<none>", Some("<none>")),
        ("<none>", None),
    ] {
        assert_eq!(repository(name), expected, "{name}");
    }
}
