use std::path::Path;

use k8s_openapi::api::core::v1::PodStatus;
use kube_pet_testkit::logind::FakeLogind;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::pods::inventory::Sighting;
use crate::pods::store::PodStoreWriter;

const SOON: Duration = Duration::from_secs(10);

/// An agent whose pods end when a test says so.
struct Agent {
    store: Arc<PodStoreWriter>,
    evictions: mpsc::UnboundedReceiver<(&'static str, Eviction)>,
    told: mpsc::UnboundedSender<(&'static str, Eviction)>,
    workers: Subscribers,
    shutting_down: watch::Receiver<bool>,
    task: JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    fn socket(folder: &Path) -> PathBuf {
        folder.join("bus")
    }

    fn start(folder: tempfile::TempDir, groups: &[(i32, u32)]) -> Self {
        let agent = Self::begin(folder, groups);
        agent.store.restored();
        agent
    }

    /// One that has not read yet which pods there are.
    fn begin(folder: tempfile::TempDir, groups: &[(i32, u32)]) -> Self {
        let (store, pods) = PodStoreWriter::new();
        let workers = Subscribers::default();
        let (sender, shutting_down) = watch::channel(false);
        let (told, evictions) = mpsc::unbounded_channel();
        let group = |(priority, seconds): &(i32, u32)| ShutdownGrace { priority: *priority, shutdown_grace_period_seconds: *seconds };
        let manager = ShutdownManager::new(ShutdownOptions {
            groups: groups.iter().map(group).collect(),
            pods,
            workers: workers.clone(),
            events: EventRecorder::disabled(),
            shutting_down: sender,
            drop_in: folder.path().join("etc/systemd/logind.conf.d/99-kube-pet.conf"),
            record: folder.path().join("state"),
            bus: Some(format!("unix:path={}", Self::socket(folder.path()).display())),
        });
        let task = tokio::spawn(manager.run());
        Self { store: Arc::new(store), evictions, told, workers, shutting_down, task, folder }
    }

    fn pod(name: &str, priority: i32, grace: i64) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name},
            "spec": {"containers": [], "priority": priority, "terminationGracePeriodSeconds": grace},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {}}}]},
        }))
        .unwrap()
    }

    /// A running pod; it ends `takes` after it was told to.
    fn run(&self, name: &'static str, priority: i32, grace: i64, takes: Duration) {
        let (sender, mut sightings) = mpsc::unbounded_channel();
        let uid = PodUid::new(name);
        self.workers.add(uid.clone(), sender);
        let pod = Self::pod(name, priority, grace);
        self.store.put(uid.clone(), Arc::new(pod.clone()));
        let (store, told) = (self.store.clone(), self.told.clone());
        tokio::spawn(async move {
            while let Some(Sighting::Evicted(eviction)) = sightings.recv().await {
                let _ = told.send((name, eviction));
                tokio::time::sleep(takes).await;
                let status = PodStatus { phase: Some("Failed".into()), ..PodStatus::default() };
                store.put(uid.clone(), Arc::new(Pod { status: Some(status), ..pod.clone() }));
            }
        });
    }

    /// The next pod that is told to go, and its grace period.
    async fn next(&mut self) -> (&'static str, Option<i64>) {
        let (name, eviction) = tokio::time::timeout(SOON, self.evictions.recv()).await.expect("nobody has to go").unwrap();
        assert_eq!((eviction.failed.reason.as_str(), eviction.event), ("Terminated", false));
        assert_eq!(eviction.failed.message, "Pod was terminated in response to imminent node shutdown.");
        assert_eq!(eviction.disruption.unwrap().message, eviction.failed.message);
        (name, eviction.grace_seconds)
    }

    async fn is(&mut self, shutting_down: bool) {
        let is = self.shutting_down.wait_for(|now| *now == shutting_down);
        tokio::time::timeout(SOON, is).await.expect("in time").expect("it works on");
    }
}

async fn until(what: &str, check: impl Fn() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn component_a_shutdown_waits_for_pods_group_by_group() {
    let folder = folder();
    let logind = FakeLogind::serve(&Agent::socket(folder.path()), 5, Some(60)).unwrap();
    let mut agent = Agent::start(folder, &[(0, 20), (1000, 10), (2_000_000_000, 30)]);
    assert_eq!(logind.locked(SOON).await.unwrap(), "shutdown kube-pet Pods need time to end delay");
    // It was told to wait for all of them.
    let settings = std::fs::read_to_string(agent.folder.path().join("etc/systemd/logind.conf.d/99-kube-pet.conf")).unwrap();
    assert!(settings.ends_with("[Login]\nInhibitDelayMaxSec=60\n"), "{settings}");
    assert_eq!(logind.reloads(), 1);

    let takes = Duration::from_millis(300);
    agent.run("plain", 0, 30, takes);
    agent.run("quick", 500, 5, takes);
    agent.run("critical", 2_000_001_000, 60, takes);
    let begun = Instant::now();
    logind.shut_down(true).await.unwrap();
    agent.is(true).await;
    let mut first = [agent.next().await, agent.next().await];
    first.sort_unstable();
    assert_eq!(first, [("plain", Some(20)), ("quick", Some(5))]);
    assert!(agent.evictions.try_recv().is_err(), "the others' turn comes later");
    assert!(logind.lock().is_some());
    // Nobody is in the second group: it takes no time.
    assert_eq!(agent.next().await, ("critical", Some(30)));
    assert!(begun.elapsed() >= takes);
    assert!(logind.lock().is_some());
    until("the lock is given back", || logind.lock().is_none()).await;
    assert!(begun.elapsed() >= 2 * takes && begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let record = std::fs::read_to_string(agent.folder.path().join("state")).unwrap();
    assert!(record.contains("\"startTime\":\"2") && record.contains("\"endTime\":\"2"), "{record}");

    // It was called off, and the next one is waited for as well.
    logind.shut_down(false).await.unwrap();
    agent.is(false).await;
    logind.locked(SOON).await.unwrap();
    agent.run("later", 0, 30, takes);
    logind.shut_down(true).await.unwrap();
    assert_eq!(agent.next().await, ("later", Some(20)));
}

#[tokio::test]
async fn component_a_shutdown_in_the_agents_first_moments_waits_for_the_pods_of_before() {
    let folder = folder();
    let logind = FakeLogind::serve(&Agent::socket(folder.path()), 5, Some(60)).unwrap();
    let mut agent = Agent::begin(folder, &[(0, 20)]);
    logind.locked(SOON).await.unwrap();
    logind.shut_down(true).await.unwrap();
    agent.is(true).await;
    agent.run("before", 0, 30, Duration::from_millis(100));
    assert!(agent.evictions.try_recv().is_err() && logind.lock().is_some());
    agent.store.restored();
    assert_eq!(agent.next().await, ("before", Some(20)));
    until("the lock is given back", || logind.lock().is_none()).await;
}

#[tokio::test]
async fn component_pods_that_do_not_end_in_time_are_not_waited_for() {
    let folder = folder();
    let logind = FakeLogind::serve(&Agent::socket(folder.path()), 60, None).unwrap();
    let mut agent = Agent::start(folder, &[(0, 1), (1000, 1)]);
    logind.locked(SOON).await.unwrap();
    // Its settings are left alone where they do.
    assert!(!agent.folder.path().join("etc").exists() && logind.reloads() == 0);
    agent.run("stubborn", 0, 30, Duration::from_secs(3600));
    agent.run("next", 1000, 30, Duration::ZERO);
    let begun = Instant::now();
    logind.shut_down(true).await.unwrap();
    assert_eq!(agent.next().await, ("stubborn", Some(1)));
    assert_eq!(agent.next().await, ("next", Some(1)));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    until("the lock is given back", || logind.lock().is_none()).await;
}

#[tokio::test]
async fn component_pods_of_later_groups_stay_when_a_shutdown_is_called_off() {
    let folder = folder();
    let logind = FakeLogind::serve(&Agent::socket(folder.path()), 60, None).unwrap();
    let mut agent = Agent::start(folder, &[(0, 20), (1000, 20)]);
    logind.locked(SOON).await.unwrap();
    agent.run("first", 0, 30, Duration::from_secs(3600));
    agent.run("second", 1000, 30, Duration::ZERO);
    logind.shut_down(true).await.unwrap();
    assert_eq!(agent.next().await.0, "first");
    logind.shut_down(false).await.unwrap();
    agent.is(false).await;
    logind.locked(SOON).await.unwrap();
    assert!(agent.evictions.try_recv().is_err());
}

#[tokio::test]
async fn component_a_bus_that_comes_late_or_goes_is_found_again() {
    let folder = folder();
    let socket = Agent::socket(folder.path());
    let mut agent = Agent::start(folder, &[(0, 5)]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let logind = FakeLogind::serve(&socket, 60, None).unwrap();
    logind.locked(SOON).await.unwrap();
    logind.disconnect().await.unwrap();
    logind.locked(SOON).await.unwrap();
    agent.run("a", 0, 30, Duration::ZERO);
    logind.shut_down(true).await.unwrap();
    assert_eq!(agent.next().await, ("a", Some(5)));
}

#[tokio::test]
async fn component_a_real_bus_carries_it_all() {
    let program = Path::new("/usr/bin/dbus-daemon");
    if !kube_pet_testkit::capability::available("dbus-daemon", program.exists()) {
        return;
    }
    let folder = folder();
    let (socket, config) = (Agent::socket(folder.path()), folder.path().join("bus.conf"));
    let address = format!("unix:path={}", socket.display());
    let policy = r#"<policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/></policy>"#;
    std::fs::write(&config, format!("<busconfig><listen>{address}</listen><auth>EXTERNAL</auth>{policy}</busconfig>")).unwrap();
    #[allow(clippy::disallowed_methods, reason = "the bus is what is tested with")]
    let mut command = tokio::process::Command::new(program);
    let _bus =
        command.arg("--nofork").arg("--config-file").arg(&config).stderr(std::process::Stdio::null()).kill_on_drop(true).spawn().unwrap();
    until("the bus is there", || socket.exists()).await;
    let logind = FakeLogind::on_bus(&address, 5, Some(30)).await.unwrap();
    let mut agent = Agent::start(folder, &[(0, 30)]);
    logind.locked(SOON).await.unwrap();
    assert_eq!(logind.reloads(), 1);
    agent.run("a", 0, 10, Duration::ZERO);
    logind.shut_down(true).await.unwrap();
    agent.is(true).await;
    assert_eq!(agent.next().await, ("a", Some(10)));
    until("the lock is given back", || logind.lock().is_none()).await;
    logind.shut_down(false).await.unwrap();
    agent.is(false).await;
    logind.locked(SOON).await.unwrap();
}

#[tokio::test]
async fn component_a_logind_that_does_not_wait_long_enough_is_no_use() {
    let folder = folder();
    let logind = FakeLogind::serve(&Agent::socket(folder.path()), 5, None).unwrap();
    let drop_in = folder.path().join("99.conf");
    let address = format!("unix:path={}", Agent::socket(folder.path()).display());
    let error = Logind::connect(Some(&address)).await.unwrap().raise_delay(Duration::from_secs(30), &drop_in).await.unwrap_err();
    let expected = format!("logind delays a shutdown by 5 s at most, although {} asks it for 30 s", drop_in.display());
    assert_eq!(error.to_string(), expected);
    assert!(logind.lock().is_none());
}
