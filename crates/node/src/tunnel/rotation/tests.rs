use serde_json::json;

use super::*;

#[test]
fn what_is_due() {
    let (day, month) = (Duration::from_secs(86_400), Duration::from_secs(30 * 86_400));
    let none = Facts { every: month, age: day, asked: false, behind: false, next: false, accepted: None, refused: false };
    let next = Facts { next: true, age: month, ..none };
    let cases = [
        (none, Deed::Nothing),
        (Facts { age: month, ..none }, Deed::Make),
        (Facts { age: 100 * month, every: Duration::ZERO, ..none }, Deed::Nothing),
        (Facts { asked: true, ..none }, Deed::Make),
        (Facts { behind: true, every: Duration::ZERO, ..none }, Deed::Make),
        (Facts { asked: true, every: Duration::ZERO, ..none }, Deed::Make),
        // The cluster is away, or has not decided: for as long as it takes.
        (next, Deed::Nothing),
        (Facts { asked: true, behind: true, ..next }, Deed::Nothing),
        (Facts { accepted: Some(Duration::from_secs(9)), ..next }, Deed::Nothing),
        (Facts { accepted: Some(SETTLED), ..next }, Deed::Use),
        (Facts { accepted: Some(SETTLED), asked: true, ..next }, Deed::Use),
        (Facts { refused: true, ..next }, Deed::Nothing),
        (Facts { refused: true, asked: true, ..next }, Deed::Make),
    ];
    for (facts, expected) in cases {
        assert_eq!(deed(&facts), expected, "{facts:?}");
    }
}

#[test]
fn what_becomes_of_a_key_on_trial() {
    for (tried, turns, is_proved, expected) in [
        (0, 0, true, Deed::Forget),
        (10_000, 7, true, Deed::Forget),
        (29, 0, false, Deed::Nothing),
        (30, 0, false, Deed::Back),
        (59, 1, false, Deed::Nothing),
        (60, 1, false, Deed::Back),
        (959, 5, false, Deed::Nothing),
        (960, 1000, false, Deed::Back),
    ] {
        assert_eq!(verdict(Duration::from_secs(tried), turns, is_proved), expected, "{tried} {turns}");
    }
}

struct Bench {
    folder: tempfile::TempDir,
    rotation: Option<Rotation>,
    old: String,
    handshake: Option<SystemTime>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let old = PrivateKey::create(&folder.path().join("key")).unwrap().public().to_string();
        let mut bench = Self { folder, rotation: None, old, handshake: None };
        bench.restart();
        bench
    }

    /// Whose next key is in use, not yet proved.
    async fn on_trial() -> Self {
        let mut bench = Self::new();
        bench.look(asked()).await;
        let next = bench.next().unwrap();
        let accepted = json!({"spec": {"nextPublicKey": next}, "status": {"publicKey": bench.old, "nextPublicKey": next}});
        bench.look(accepted.clone()).await;
        bench.settle();
        assert_eq!(bench.look(accepted).await.unwrap().public().to_string(), next);
        assert_ne!(bench.in_use(), bench.old);
        bench
    }

    fn restart(&mut self) {
        let files = KeyFiles { key: self.file("key"), next: self.file("next"), before: self.file("before"), clock: self.file("clock") };
        self.rotation = Some(Rotation::open(files, Duration::ZERO).unwrap());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn in_use(&self) -> String {
        PrivateKey::load(&self.file("key")).unwrap().public().to_string()
    }

    /// The API server may be away.
    async fn look_alone(&mut self) -> Option<String> {
        let (rotation, key) = self.rotation.take().unwrap().look(None, self.handshake).await;
        self.rotation = Some(rotation);
        key.map(|key| key.public().to_string())
    }

    async fn look(&mut self, pet: serde_json::Value) -> Option<PrivateKey> {
        let mut whole = json!({"apiVersion": "kube-pet.dev/v1alpha1", "kind": "Pet", "metadata": {"name": "a", "generation": 1},
            "spec": {"publicKey": self.old, "machineID": "12345678"}});
        for (part, content) in pet.as_object().unwrap() {
            for (field, value) in content.as_object().unwrap() {
                whole[part][field] = value.clone();
            }
        }
        let (rotation, key) = self.rotation.take().unwrap().look(Some(&serde_json::from_value(whole).unwrap()), self.handshake).await;
        self.rotation = Some(rotation);
        key
    }

    fn next(&self) -> Option<String> {
        self.rotation.as_ref().unwrap().next()
    }

    fn settle(&mut self) {
        let accepted = &mut self.rotation.as_mut().unwrap().accepted;
        *accepted = accepted.unwrap().checked_sub(SETTLED);
    }

    fn wait(&mut self, seconds: u64) {
        let trial = self.rotation.as_mut().unwrap().trial.as_mut().unwrap();
        trial.since = trial.since.checked_sub(Duration::from_secs(seconds)).unwrap();
    }
}

fn asked() -> serde_json::Value {
    json!({"metadata": {"annotations": {ROTATE_KEY_ANNOTATION: ""}}})
}

#[tokio::test]
async fn a_process_that_ends_at_any_step_is_gone_on_with() {
    let mut bench = Bench::new();
    assert!(bench.look(json!({})).await.is_none() && bench.next().is_none());
    assert!(bench.look(asked()).await.is_none());
    let next = bench.next().unwrap();
    bench.restart();
    assert_eq!((bench.next(), bench.in_use()), (Some(next.clone()), bench.old.clone()), "made, and not yet named");
    let accepted = json!({"spec": {"nextPublicKey": next}, "status": {"publicKey": bench.old, "nextPublicKey": next}});
    assert!(bench.look(accepted.clone()).await.is_none(), "others do not know yet");
    bench.settle();
    assert_eq!(bench.look(accepted).await.unwrap().public().to_string(), next);
    assert_eq!((bench.next(), bench.in_use()), (None, next.clone()));
    bench.restart();
    assert_eq!((bench.next(), bench.in_use()), (None, next));
}

#[tokio::test]
async fn a_key_that_no_gateway_knows_gives_way_to_the_one_before() {
    for restarted in [false, true] {
        let mut bench = Bench::on_trial().await;
        let new = bench.in_use();
        if restarted {
            bench.restart();
        }
        // Of the key before.
        bench.handshake = Some(SystemTime::now() - Duration::from_secs(5));
        bench.wait(29);
        assert_eq!(bench.look_alone().await, None);
        bench.wait(1);
        assert_eq!(bench.look_alone().await, Some(bench.old.clone()), "restarted: {restarted}");
        assert_eq!((bench.in_use(), bench.next()), (bench.old.clone(), None));
        // A gateway may know the new one only: it has its turn again, after a longer one of the old key.
        bench.wait(30);
        assert_eq!(bench.look_alone().await, None);
        bench.wait(30);
        assert_eq!(bench.look_alone().await, Some(new.clone()));
        assert_eq!(bench.in_use(), new);
        bench.handshake = Some(SystemTime::now());
        assert_eq!(bench.look_alone().await, None);
        assert!(bench.rotation.as_ref().unwrap().trial.is_none() && !bench.file("before").exists());
        bench.restart();
        assert_eq!((bench.look_alone().await, bench.in_use()), (None, new));
    }
}

#[tokio::test]
async fn a_key_that_a_gateway_has_answered_to_stays() {
    let mut bench = Bench::on_trial().await;
    let new = bench.in_use();
    bench.handshake = Some(SystemTime::now());
    assert_eq!(bench.look_alone().await, None);
    assert!(!bench.file("before").exists());
    assert!(bench.look(asked()).await.is_none() && bench.next().is_some(), "and may be followed by another one");
    assert_eq!(bench.in_use(), new);
}

#[tokio::test]
async fn a_process_that_ends_between_two_files_has_exchanged_nothing_or_all() {
    let mut bench = Bench::new();
    bench.look(asked()).await;
    let next = bench.next().unwrap();
    std::fs::copy(bench.file("key"), bench.file("before")).unwrap();
    bench.restart();
    assert_eq!((bench.in_use(), bench.next()), (bench.old.clone(), Some(next)));
    assert!(bench.rotation.as_ref().unwrap().trial.is_none() && !bench.file("before").exists());

    let mut bench = Bench::on_trial().await;
    std::fs::copy(bench.file("key"), bench.file("next")).unwrap();
    bench.restart();
    assert_eq!(bench.next(), None, "what is in use is not to be used");
    assert!(bench.rotation.as_ref().unwrap().trial.is_some() && !bench.file("next").exists());
}

#[tokio::test]
async fn a_next_key_counts_as_accepted_where_the_pet_asks_for_it() {
    let mut bench = Bench::new();
    bench.look(asked()).await;
    let next = bench.next().unwrap();
    for spec in [json!({}), json!({"nextPublicKey": "another"})] {
        let left = json!({"spec": spec, "status": {"publicKey": bench.old, "nextPublicKey": next}});
        assert!(bench.look(left).await.is_none());
        assert!(bench.rotation.as_ref().unwrap().accepted.is_none());
    }
}

#[tokio::test]
async fn a_refused_key_is_left_until_another_one_is_asked_for() {
    let mut bench = Bench::new();
    bench.look(asked()).await;
    let next = bench.next().unwrap();
    let refused = json!({"spec": {"nextPublicKey": next}, "status": {"publicKey": bench.old, "conditions": [{
        "type": "NextKeyAccepted", "status": "False", "reason": "PublicKeyInUse", "message": "b has it",
        "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    assert!(bench.look(refused.clone()).await.is_none());
    assert_eq!((bench.next(), bench.in_use()), (Some(next.clone()), bench.old.clone()));
    let mut again = refused;
    again["metadata"] = asked()["metadata"].clone();
    assert!(bench.look(again).await.is_none());
    assert!(bench.next().is_some_and(|other| other != next));
    assert_eq!(bench.in_use(), bench.old);
}

#[tokio::test]
async fn a_key_that_was_used_at_a_later_time_gets_a_follower_by_itself() {
    let mut bench = Bench::new();
    let later = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 3600;
    std::fs::write(bench.file("clock"), json!({"publicKey": bench.old, "latest": later}).to_string()).unwrap();
    assert!(bench.look(json!({})).await.is_none() && bench.next().is_none(), "not in the process that had that time");
    std::fs::write(bench.file("clock"), json!({"publicKey": bench.old, "latest": later}).to_string()).unwrap();
    bench.restart();
    bench.look(json!({})).await;
    let next = bench.next().unwrap();
    let accepted = json!({"spec": {"nextPublicKey": next}, "status": {"publicKey": bench.old, "nextPublicKey": next}});
    bench.look(accepted.clone()).await;
    bench.settle();
    assert_eq!(bench.look(accepted).await.unwrap().public().to_string(), next);
    bench.handshake = Some(SystemTime::now());
    assert_eq!(bench.look_alone().await, None);
    bench.restart();
    assert!(bench.look(json!({})).await.is_none() && bench.next().is_none(), "of the new key nobody has seen a later time");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_leaves_the_old_key() {
    let mut bench = Bench::new();
    bench.rotation.as_mut().unwrap().files.next = bench.file("missing/next");
    assert!(bench.look(asked()).await.is_none());
    assert_eq!((bench.next(), bench.in_use()), (None, bench.old.clone()));
}
