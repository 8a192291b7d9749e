//! The kubelet's pull rules against a store and a registry that the test plays.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::keyring::tests::secret;
use super::*;

const ID: &str = "952be14857671993579eb7cfc1403c33fb808781f0de098ab8e42de3058329cb";

/// What the registry does with pulls of one image.
#[derive(Clone)]
enum Registry {
    Gives,
    Refuses(&'static str),
    /// Gives it to who has the password.
    Asks(&'static str),
    /// Never answers.
    Dead,
    /// Begins and never goes on.
    Stalls,
    /// Gives it when told to.
    Waits(Arc<Notify>),
}

#[derive(Default)]
struct World {
    present: Mutex<Vec<String>>,
    registry: Mutex<BTreeMap<String, Registry>>,
    pulls: Mutex<Vec<String>>,
    removals: Mutex<Vec<String>>,
    /// What a removal waits for.
    removes: Mutex<Option<Arc<Notify>>>,
    /// A container uses the images.
    in_use: AtomicBool,
    flushes: Mutex<Vec<PathBuf>>,
    begun: Notify,
    inspections: AtomicUsize,
}

struct Fixture {
    world: Arc<World>,
    images: ImageManager,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new(limits: PullLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let world = Arc::new(World::default());
        let served = Arc::clone(&world);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&served)));
            }
        });
        Self { images: manager(&dir, &world, limits), world, dir }
    }

    /// A new agent over the same disk.
    fn restart(&mut self, limits: PullLimits) {
        self.images = manager(&self.dir, &self.world, limits);
    }

    fn registry(&self, name: &str, what: Registry) {
        self.world.registry.lock().unwrap().insert(name.to_owned(), what);
    }

    fn preload(&self, name: &str) {
        self.world.present.lock().unwrap().push(name.to_owned());
    }

    fn pulls(&self) -> Vec<String> {
        self.world.pulls.lock().unwrap().clone()
    }

    fn removals(&self) -> Vec<String> {
        self.world.removals.lock().unwrap().clone()
    }

    /// The folders that were flushed since the last time.
    fn flushes(&self) -> Vec<PathBuf> {
        std::mem::take(&mut *self.world.flushes.lock().unwrap())
    }

    /// A pull begins, and the agent goes.
    async fn cut_off(&mut self, image: &'static str, policy: PullPolicy) {
        self.registry(image, Registry::Stalls);
        let (images, before) = (self.images.clone(), self.pulls().len());
        let pull = tokio::spawn(async move { images.ensure(image, policy, &Keyring::default(), || {}).await });
        self.until_pulls(before + 1).await;
        pull.abort();
        assert!(pull.await.unwrap_err().is_cancelled());
        self.restart(PullLimits::default());
        self.registry(image, Registry::Gives);
    }

    async fn until_pulls(&self, count: usize) {
        while self.pulls().len() < count {
            self.world.begun.notified().await;
        }
    }

    async fn ensure(&self, image: &str, policy: PullPolicy) -> Result<PulledImage, ImageError> {
        self.images.ensure(image, policy, &Keyring::default(), || {}).await
    }
}

fn manager(dir: &tempfile::TempDir, world: &Arc<World>, limits: PullLimits) -> ImageManager {
    let (podman, world) = (Client::new(dir.path().join("s")), world.clone());
    let store = PodmanStore::with_flush(podman.clone(), move |path| {
        world.flushes.lock().unwrap().push(path.to_owned());
        Ok(())
    });
    ImageManager::new(podman, ImageManagerOptions { limits, records: Some(dir.path().join("records")), store: Some(store) })
}

async fn serve(mut stream: UnixStream, world: Arc<World>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().replace("%2F", "/").replace("%3A", ":").replace("%40", "@");
        let path = path.trim_start_matches("/v4.0.0/libpod").to_owned();
        if let Some(query) = path.strip_prefix("/images/pull?reference=") {
            let name = query.split('&').next().unwrap().to_owned();
            let auth = head.lines().find_map(|l| l.strip_prefix("x-registry-auth: "));
            return pull(stream, &world, &name, auth.unwrap_or_default()).await;
        }
        if path == "/info" {
            let info = br#"{"store":{"graphRoot":"/graph"}}"#;
            stream.write_all(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", info.len()).as_bytes()).await.unwrap();
            stream.write_all(info).await.unwrap();
            continue;
        }
        if let Some(name) = path.strip_prefix("/images/").filter(|_| head.starts_with("DELETE")) {
            let gate = world.removes.lock().unwrap().clone();
            if let Some(gate) = gate {
                gate.notified().await;
            }
            if world.in_use.load(Ordering::SeqCst) {
                let body = r#"{"cause":"image is in use by a container","message":"image used by c1","response":409}"#;
                stream.write_all(format!("HTTP/1.1 409 X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
                continue;
            }
            world.removals.lock().unwrap().push(name.to_owned());
            world.present.lock().unwrap().retain(|present| present != name);
            stream.write_all(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
            continue;
        }
        let name = path.trim_start_matches("/images/");
        let name = name.trim_end_matches("/json").trim_end_matches("/exists");
        let present = world.present.lock().unwrap().iter().any(|p| p == name);
        let (status, body) = match (present, path.ends_with("/exists")) {
            (true, true) => (204, String::new()),
            (true, false) => {
                world.inspections.fetch_add(1, Ordering::SeqCst);
                let (repository, _) = name.rsplit_once(':').unwrap();
                let id = if name.contains("preloaded") { "1" } else { ID };
                (
                    200,
                    format!(r#"{{"Id":"{id}","Size":42,"Digest":"sha256:1","RepoDigests":["other/x@sha256:2","{repository}@sha256:1"]}}"#),
                )
            }
            (false, _) => (404, r#"{"cause":"image not known","message":"image not known"}"#.to_owned()),
        };
        let length = body.len();
        let reply = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(reply.as_bytes()).await.unwrap();
    }
}

async fn pull(mut stream: UnixStream, world: &World, name: &str, auth: &str) {
    world.pulls.lock().unwrap().push(name.to_owned());
    world.begun.notify_waiters();
    let what = world.registry.lock().unwrap().get(name).cloned();
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"stream\":\"Trying to pull x...\\n\"}\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let refusal = match what {
        None => Some("manifest unknown".to_owned()),
        Some(Registry::Refuses(why)) => Some(why.to_owned()),
        Some(Registry::Asks(password)) => {
            use base64::Engine as _;
            let auth = base64::engine::general_purpose::URL_SAFE.decode(auth).unwrap_or_default();
            let auth = String::from_utf8(auth).unwrap();
            (!auth.contains(&format!("\"password\":\"{password}\""))).then(|| "unauthorized".to_owned())
        }
        Some(Registry::Gives) => None,
        Some(Registry::Dead) => std::future::pending().await,
        Some(Registry::Stalls) => {
            let line = b"{\"stream\":\"Copying blob sha256:1\\n\"}\n";
            stream.write_all(line).await.unwrap();
            std::future::pending().await
        }
        Some(Registry::Waits(gate)) => {
            stream.write_all(b"{\"stream\":\"Copying blob sha256:1\\n\"}\n").await.unwrap();
            gate.notified().await;
            None
        }
    };
    let line = match refusal {
        Some(error) => format!("{{\"error\":\"{error}\"}}\n"),
        None => {
            world.present.lock().unwrap().push(name.to_owned());
            format!("{{\"id\":\"{ID}\"}}\n")
        }
    };
    let _ = stream.write_all(line.as_bytes()).await;
}

fn keyring(name: &str, password: &str) -> Keyring {
    let json = format!(r#"{{"auths":{{"r.io":{{"username":"u","password":"{password}"}}}}}}"#);
    Keyring::from_secrets([&secret(name, &json)]).unwrap()
}

#[tokio::test]
async fn component_policies_decide_whether_the_registry_is_asked() {
    let fixture = Fixture::new(PullLimits::default());
    fixture.registry("docker.io/library/a:1", Registry::Gives);
    let never = fixture.ensure("a:1", PullPolicy::Never).await.unwrap_err();
    assert_eq!(never.reason(), "ErrImageNeverPull");
    assert_eq!(never.to_string(), "Container image \"a:1\" is not present with pull policy of Never");
    assert!(fixture.pulls().is_empty());

    let mut pulling = 0;
    let first = fixture.images.ensure("a:1", PullPolicy::IfNotPresent, &Keyring::default(), || pulling += 1).await.unwrap();
    assert!(first.pulled && pulling == 1);
    assert!(first.message.starts_with("Successfully pulled image \"a:1\" in "), "{}", first.message);
    assert!(first.message.ends_with(" including waiting). Image size: 42 bytes."), "{}", first.message);
    assert_eq!(first.image_id, "docker.io/library/a@sha256:1");
    assert_eq!((first.id.as_str(), first.reference.to_string().as_str()), (ID, "docker.io/library/a:1"));

    let again = fixture.ensure("a:1", PullPolicy::IfNotPresent).await.unwrap();
    assert!(!again.pulled);
    assert_eq!(again.message, "Container image \"a:1\" already present on machine and can be accessed by the pod");
    assert!(!fixture.ensure("a:1", PullPolicy::Never).await.unwrap().pulled);
    assert_eq!(fixture.pulls().len(), 1);
    assert!(fixture.ensure("a:1", PullPolicy::Always).await.unwrap().pulled);
    assert_eq!(fixture.pulls().len(), 2);
    assert_eq!(fixture.world.inspections.load(Ordering::SeqCst), 2, "one per pull");

    fixture.world.present.lock().unwrap().clear();
    let gone = fixture.ensure("a:1", PullPolicy::Never).await.unwrap_err();
    assert_eq!(gone.reason(), "ErrImageNeverPull", "an image removed behind our back is noticed");
}

#[tokio::test]
async fn component_failures_have_the_kubelets_reasons_and_words() {
    let fixture = Fixture::new(PullLimits::default());
    let refused = "pinging container registry r.io: dial tcp 1.2.3.4:443: connect: connection refused";
    fixture.registry("r.io/down:1", Registry::Refuses(refused));
    fixture.registry("r.io/unsigned:1", Registry::Refuses("Source image rejected: no signature"));
    for (image, reason, message, event) in [
        ("r.io/none:1", "ErrImagePull", "manifest unknown".to_owned(), "Failed to pull image \"r.io/none:1\": manifest unknown"),
        (
            "r.io/down:1",
            "RegistryUnavailable",
            format!("image pull failed for r.io/down:1 because the registry is unavailable: {refused}"),
            "Failed to pull image \"r.io/down:1\": pinging container registry r.io: dial tcp 1.2.3.4:443: connect: connection refused",
        ),
        (
            "r.io/unsigned:1",
            "SignatureValidationFailed",
            "image pull failed for r.io/unsigned:1 because the signature validation failed: Source image rejected: no signature".to_owned(),
            "Failed to pull image \"r.io/unsigned:1\": Source image rejected: no signature",
        ),
    ] {
        let error = fixture.ensure(image, PullPolicy::IfNotPresent).await.unwrap_err();
        assert_eq!((error.reason(), error.to_string()), (reason, message));
        assert_eq!(error.event(), ("Failed", event.to_owned()));
        assert!(error.backs_off());
    }
    let invalid = fixture.ensure("A:1", PullPolicy::Always).await.unwrap_err();
    assert_eq!((invalid.reason(), invalid.event().0, invalid.backs_off()), ("InvalidImageName", "InspectFailed", false));
    assert!(invalid.to_string().starts_with("Failed to apply default image tag \"A:1\": couldn't parse image name \"A:1\": "));

    let dead = ImageManager::new(Client::new("/nonexistent"), ImageManagerOptions::default());
    let error = dead.ensure("a:1", PullPolicy::IfNotPresent, &Keyring::default(), || {}).await.unwrap_err();
    assert_eq!((error.reason(), error.event().0), ("ImageInspectError", "InspectFailed"));
}

#[tokio::test]
async fn component_what_a_pull_has_left_that_was_cut_off_is_removed_before_the_next() {
    let mut fixture = Fixture::new(PullLimits::default());
    for name in ["r.io/cut:1", "r.io/whole:1"] {
        fixture.registry(name, Registry::Gives);
    }
    fixture.ensure("r.io/whole:1", PullPolicy::IfNotPresent).await.unwrap();
    // The power went after the store had noted the image and before its files were on the disk.
    PullRecords::open(Some(fixture.dir.path().join("records"))).intend("r.io/cut:1", None).unwrap();
    fixture.preload("r.io/cut:1");
    fixture.restart(PullLimits::default());
    for _ in 0..2 {
        for name in ["r.io/cut:1", "r.io/whole:1"] {
            fixture.ensure(name, PullPolicy::IfNotPresent).await.unwrap();
        }
    }
    assert_eq!(*fixture.world.removals.lock().unwrap(), ["r.io/cut:1"]);
    assert_eq!(fixture.pulls(), ["r.io/whole:1", "r.io/cut:1"]);
}

#[tokio::test]
async fn component_what_was_whole_before_a_pull_that_was_cut_off_stays() {
    let mut fixture = Fixture::new(PullLimits::default());
    fixture.registry("r.io/good:1", Registry::Gives);
    fixture.ensure("r.io/good:1", PullPolicy::Always).await.unwrap();
    fixture.preload("r.io/preloaded:1");
    for image in ["r.io/good:1", "r.io/preloaded:1"] {
        fixture.cut_off(image, PullPolicy::Always).await;
        // Also without the registry.
        assert!(!fixture.ensure(image, PullPolicy::Never).await.unwrap().pulled, "{image}");
        fixture.ensure(image, PullPolicy::Always).await.unwrap();
    }
    assert_eq!(fixture.removals(), Vec::<String>::new());
    // What the pull has brought in place of it does not.
    fixture.registry("r.io/good:2", Registry::Gives);
    fixture.cut_off("r.io/good:2", PullPolicy::Always).await;
    fixture.preload("r.io/good:2");
    fixture.ensure("r.io/good:2", PullPolicy::Always).await.unwrap();
    assert_eq!(fixture.removals(), ["r.io/good:2"]);
}

#[tokio::test]
async fn component_nobody_pulls_while_what_was_cut_off_is_removed() {
    let mut fixture = Fixture::new(PullLimits::default());
    fixture.cut_off("r.io/cut:1", PullPolicy::Always).await;
    fixture.preload("r.io/cut:1");
    let gate = Arc::new(Notify::new());
    *fixture.world.removes.lock().unwrap() = Some(gate.clone());
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let images = fixture.images.clone();
            tokio::spawn(async move { images.ensure("r.io/cut:1", PullPolicy::IfNotPresent, &Keyring::default(), || {}).await })
        })
        .collect();
    let early = tokio::time::timeout(Duration::from_millis(300), fixture.until_pulls(2)).await;
    assert!(early.is_err(), "{:?}", fixture.pulls());
    gate.notify_one();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(fixture.removals(), ["r.io/cut:1"]);
}

#[tokio::test]
async fn component_what_was_cut_off_and_cannot_be_removed_is_not_used() {
    let mut fixture = Fixture::new(PullLimits::default());
    fixture.cut_off("r.io/cut:1", PullPolicy::Always).await;
    fixture.preload("r.io/cut:1");
    fixture.world.in_use.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = fixture.ensure("r.io/cut:1", PullPolicy::IfNotPresent).await.unwrap_err();
        assert_eq!((error.reason(), error.backs_off()), ("ErrImagePull", true));
        assert!(error.to_string().starts_with("a pull was cut off, and what it has left cannot be removed: "), "{error}");
    }
    assert_eq!(fixture.pulls().len(), 1, "only the one that was cut off");
    fixture.world.in_use.store(false, Ordering::SeqCst);
    assert!(fixture.ensure("r.io/cut:1", PullPolicy::IfNotPresent).await.unwrap().pulled);
    assert_eq!(fixture.removals(), ["r.io/cut:1"]);
}

#[tokio::test]
async fn component_the_disk_is_waited_for_only_when_something_was_fetched() {
    let mut fixture = Fixture::new(PullLimits::default());
    fixture.registry("r.io/a:1", Registry::Gives);
    let pull = async |fixture: &Fixture| fixture.ensure("r.io/a:1", PullPolicy::Always).await.unwrap();
    pull(&fixture).await;
    assert_eq!(fixture.flushes(), [PathBuf::from("/graph")]);
    pull(&fixture).await;
    assert_eq!(fixture.flushes(), Vec::<PathBuf>::new());
    // Nobody knows whether what somebody else has put there a moment ago is on the disk.
    fixture.registry("r.io/preloaded:1", Registry::Gives);
    fixture.preload("r.io/preloaded:1");
    fixture.ensure("r.io/preloaded:1", PullPolicy::Always).await.unwrap();
    assert_eq!(fixture.flushes().len(), 1);
    // Nor what a pull that was cut off has brought.
    fixture.cut_off("r.io/a:1", PullPolicy::Always).await;
    pull(&fixture).await;
    assert_eq!(fixture.flushes().len(), 1);
    fixture.world.present.lock().unwrap().clear();
    pull(&fixture).await;
    assert_eq!(fixture.flushes().len(), 1);
}

#[tokio::test]
async fn component_pods_that_want_the_same_share_one_pull() {
    let fixture = Fixture::new(PullLimits::default());
    let gate = Arc::new(Notify::new());
    fixture.registry("r.io/a:1", Registry::Waits(Arc::clone(&gate)));
    let asked = Arc::new(AtomicUsize::new(0));
    let ensure = |keyring: Keyring| {
        let (images, asked) = (fixture.images.clone(), asked.clone());
        tokio::spawn(async move {
            let pulling = || {
                asked.fetch_add(1, Ordering::SeqCst);
            };
            images.ensure("r.io/a:1", PullPolicy::Always, &keyring, pulling).await
        })
    };
    let tasks: Vec<_> = (0..5).map(|_| ensure(Keyring::default())).collect();
    let other = ensure(keyring("s", "p"));
    // One that asks when a pull has ended begins another.
    while asked.load(Ordering::SeqCst) < 6 || fixture.pulls().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // One waiter that goes away ends the pull for nobody else.
    tasks[0].abort();
    while !tasks[0].is_finished() {
        tokio::task::yield_now().await;
    }
    // notify_one is kept for who comes later.
    gate.notify_one();
    gate.notify_one();
    let mut pulled = 0;
    for task in tasks.into_iter().skip(1) {
        // The gate lets one pull pass at a time.
        gate.notify_one();
        pulled += usize::from(task.await.unwrap().unwrap().pulled);
    }
    gate.notify_one();
    assert!(other.await.unwrap().unwrap().pulled);
    assert_eq!(pulled, 4);
    assert_eq!(fixture.pulls().len(), 2, "one for each set of credentials");
}

#[tokio::test]
async fn component_a_pull_ends_with_its_last_waiter() {
    let fixture = Fixture::new(PullLimits { parallel: Some(1), ..PullLimits::default() });
    fixture.registry("r.io/stalls:1", Registry::Stalls);
    fixture.registry("r.io/b:1", Registry::Gives);
    let images = fixture.images.clone();
    let stalled = tokio::spawn(async move { images.ensure("r.io/stalls:1", PullPolicy::Always, &Keyring::default(), || {}).await });
    fixture.until_pulls(1).await;
    stalled.abort();
    // Its slot is free again, or this would wait for half an hour.
    let next = tokio::time::timeout(Duration::from_secs(10), fixture.ensure("r.io/b:1", PullPolicy::Always)).await;
    assert!(next.unwrap().unwrap().pulled);
}

#[tokio::test(start_paused = true)]
async fn component_a_dead_registry_holds_up_nobody_else() {
    let limits = PullLimits { parallel: Some(2), ..PullLimits::default() };
    let fixture = Fixture::new(limits);
    for i in 0..4 {
        fixture.registry(&format!("dead.io/a:{i}"), Registry::Dead);
    }
    fixture.registry("r.io/a:1", Registry::Gives);
    let begin = tokio::time::Instant::now();
    let dead: Vec<_> = (0..4)
        .map(|i| {
            let images = fixture.images.clone();
            tokio::spawn(async move { images.ensure(&format!("dead.io/a:{i}"), PullPolicy::Always, &Keyring::default(), || {}).await })
        })
        .collect();
    while fixture.pulls().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let live = fixture.ensure("r.io/a:1", PullPolicy::Always).await.unwrap();
    assert!(live.pulled);
    assert!(begin.elapsed() < limits.contact * 3, "{:?}", begin.elapsed());
    for task in dead {
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.reason(), "ErrImagePull");
        assert_eq!(error.to_string(), "the registry did not name the image's parts within 120 s");
    }
}

#[tokio::test(start_paused = true)]
async fn component_a_transfer_that_stands_still_is_given_up() {
    let limits = PullLimits::default();
    let fixture = Fixture::new(limits);
    fixture.registry("r.io/a:1", Registry::Stalls);
    let begin = tokio::time::Instant::now();
    let error = fixture.ensure("r.io/a:1", PullPolicy::Always).await.unwrap_err();
    assert_eq!(error.to_string(), "no progress for 1800 s");
    assert!(begin.elapsed() >= limits.progress_deadline && begin.elapsed() < limits.progress_deadline * 2);
}

#[tokio::test]
async fn component_a_private_image_is_for_pods_with_credentials() {
    let mut fixture = Fixture::new(PullLimits::default());
    fixture.registry("r.io/private:1", Registry::Asks("right"));
    let policy = PullPolicy::IfNotPresent;
    let ensure = async |images: &ImageManager, keyring: &Keyring| images.ensure("r.io/private:1", policy, keyring, || {}).await;
    let (right, wrong, none) = (keyring("s", "right"), keyring("t", "wrong"), Keyring::default());
    assert_eq!(ensure(&fixture.images, &none).await.unwrap_err().to_string(), "unauthorized");
    assert_eq!(ensure(&fixture.images, &wrong).await.unwrap_err().to_string(), "unauthorized");
    assert!(ensure(&fixture.images, &right).await.unwrap().pulled);
    for _ in 0..2 {
        assert!(!ensure(&fixture.images, &right).await.unwrap().pulled);
        // It is in the store now, but not for everybody.
        assert_eq!(ensure(&fixture.images, &none).await.unwrap_err().to_string(), "unauthorized");
        let never = fixture.images.ensure("r.io/private:1", PullPolicy::Never, &wrong, || {}).await;
        assert_eq!(never.unwrap_err().reason(), "ErrImageNeverPull");
        fixture.restart(PullLimits::default());
    }
    fixture.preload("r.io/preloaded:1");
    assert!(!fixture.ensure("r.io/preloaded:1", PullPolicy::Never).await.unwrap().pulled);
}

#[test]
fn the_default_policy_follows_the_tag() {
    for (policy, image, want) in [
        (None, "a", PullPolicy::Always),
        (None, "a:latest", PullPolicy::Always),
        (None, "a:1", PullPolicy::IfNotPresent),
        (Some(""), "a:1", PullPolicy::IfNotPresent),
        (Some("Never"), "a", PullPolicy::Never),
        (Some("IfNotPresent"), "a", PullPolicy::IfNotPresent),
        (Some("Always"), "a:1", PullPolicy::Always),
    ] {
        assert_eq!(PullPolicy::of(policy, image), want, "{policy:?} {image}");
    }
}

#[test]
fn durations_read_as_gos() {
    for (millis, want) in [
        (0, "0s"),
        (1, "1ms"),
        (532, "532ms"),
        (1000, "1s"),
        (1200, "1.2s"),
        (1234, "1.234s"),
        (60_000, "1m0s"),
        (63_500, "1m3.5s"),
        (3_600_000, "1h0m0s"),
        (3_661_001, "1h1m1.001s"),
    ] {
        assert_eq!(go_duration(Duration::from_millis(millis)), want);
    }
}

#[test]
fn the_image_id_is_the_pods_repository_with_the_registrys_digest() {
    let digest = |c: char| format!("sha256:{}", c.to_string().repeat(64));
    let (a, b, c) = (digest('a'), digest('b'), digest('c'));
    let image =
        |digests: &[String]| ImageInspect { id: "id".into(), digest: a.clone(), repo_digests: digests.to_vec(), ..ImageInspect::default() };
    let of = |name: &str, digests: &[String]| status_image_id(&Reference::parse(name).unwrap(), &image(digests));
    let both = [format!("r.io/x@{c}"), format!("r.io/a@{a}"), format!("r.io/a@{b}")];
    assert_eq!(of("r.io/a:1", &both[..2]), format!("r.io/a@{a}"));
    assert_eq!(of("r.io/a:1", &both), format!("r.io/a@{b}"), "the list's, not the one image's");
    assert_eq!(of(&format!("r.io/a@{a}"), &both), format!("r.io/a@{a}"), "the one that was asked for");
    assert_eq!(of("r.io/z:1", &both), format!("r.io/x@{c}"));
    assert_eq!(of("r.io/z:1", &[]), "sha256:id");
}
