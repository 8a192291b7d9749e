//! A stand-in for Podman: a Python program that answers pings on the socket, so that the keeper is tested with real processes.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use super::*;

const STAND_IN: &str = r#"#!/usr/bin/env python3
import http.server, os, socketserver, sys, time
assert sys.argv[-4:-1] == ["system", "service", "--time=0"], sys.argv
if os.environ.get("CONTAINERS_STORAGE_CONF") == "fail": sys.exit("Error: no such luck")
runroot = [a.removeprefix("--runroot=") for a in sys.argv if a.startswith("--runroot=")]
if runroot and os.path.exists(runroot[0] + "/overlay/overlay-false"): sys.exit("Error: kernel does not support overlay fs: no space left on device")
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("Libpod-Api-Version", "4.3.1"); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"OK")
    def log_message(self, *a): pass
    def address_string(self): return ""
class S(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): daemon_threads = True
S(sys.argv[-1].removeprefix("unix://"), H).serve_forever()
"#;

struct Machine {
    dir: tempfile::TempDir,
    config: PodmanSettings,
}

struct Agent {
    health: watch::Receiver<RuntimeHealth>,
    client: Client,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("podman");
        std::fs::write(&program, STAND_IN).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { config: PodmanSettings { program: Some(program), ..PodmanSettings::default() }, dir }
    }

    fn agent(&self) -> Agent {
        let (service, health) = PodmanService::new(&self.config, &self.dir.path().join("run")).unwrap();
        let (client, shutdown) = (service.client(), CancellationToken::new());
        let task = tokio::spawn(service.run(shutdown.clone()));
        Agent { health, client, shutdown, task }
    }

    /// Processes of the stand-in on this machine's socket.
    fn services(&self) -> Vec<i32> {
        let uri = format!("unix://{}", self.dir.path().join("run/podman.sock").display());
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                command.split(|b| *b == 0).any(|argument| argument == uri.as_bytes())
            })
            .collect()
    }

    async fn one_service(&self) -> i32 {
        for _ in 0..500 {
            if let [pid] = self.services()[..] {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("services: {:?}", self.services());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for pid in self.services() {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
    }
}

impl Agent {
    async fn ready(&mut self) {
        let ready = self.health.wait_for(|health| health.ready);
        let health = tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap().unwrap().clone();
        assert_eq!((health.message.as_str(), health.version), ("", Some(Version::new(4, 3, 1))));
    }

    /// As when the agent is killed: the keeper is gone, in the middle of whatever it does.
    async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn component_the_service_outlives_the_agent_and_is_adopted_by_the_next() {
    let machine = Machine::new();
    let mut agent = machine.agent();
    agent.ready().await;
    let pid = machine.one_service().await;
    let group = rustix::process::getpgid(Pid::from_raw(pid)).unwrap();
    assert_eq!(group.as_raw_nonzero().get(), pid, "a process group of its own");
    agent.shutdown.cancel();
    agent.task.await.unwrap();

    let mut agent = machine.agent();
    agent.ready().await;
    assert_eq!(machine.services(), [pid]);
    agent.die().await;
    let mut agent = machine.agent();
    agent.ready().await;
    assert_eq!(machine.services(), [pid]);
}

#[tokio::test]
async fn component_a_service_that_dies_is_started_again_at_once() {
    let machine = Machine::new();
    let mut agent = machine.agent();
    agent.ready().await;
    for _ in 0..2 {
        let pid = machine.one_service().await;
        let begin = Instant::now();
        signal(pid, Signal::KILL);
        while agent.client.ping().await.is_err() || machine.services() == [pid] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        assert_ne!(machine.one_service().await, pid);
        // Too short to be worth a word at the API server.
        assert!(agent.health.borrow().ready);
    }
    // One that a former agent started is watched as well.
    agent.die().await;
    let mut agent = machine.agent();
    agent.ready().await;
    let pid = machine.one_service().await;
    signal(pid, Signal::KILL);
    while agent.client.ping().await.is_err() || machine.services() == [pid] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_ne!(machine.one_service().await, pid);
}

#[tokio::test]
async fn component_a_service_with_other_settings_is_replaced() {
    let mut machine = Machine::new();
    let mut agent = machine.agent();
    agent.ready().await;
    let pid = machine.one_service().await;
    agent.die().await;
    machine.config.registries_conf = Some("new".into());
    let mut agent = machine.agent();
    agent.ready().await;
    assert_ne!(machine.one_service().await, pid);
}

#[tokio::test]
async fn component_there_is_one_service_even_if_an_agent_dies_within_a_start() {
    let machine = Machine::new();
    for _ in 0..3 {
        let agent = machine.agent();
        while machine.services().is_empty() {
            tokio::task::yield_now().await;
        }
        agent.die().await;
    }
    let mut agent = machine.agent();
    agent.ready().await;
    let pid = machine.one_service().await;
    agent.die().await;
    // Whatever happened before: a second one beside it, without the socket's file, goes.
    let launch = process::Launch::prepare(&machine.config, &machine.dir.path().join("run")).unwrap();
    let second = launch.start_for_test();
    while tokio::net::UnixStream::connect(launch.socket()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(machine.services().len(), 2);
    let mut agent = machine.agent();
    agent.ready().await;
    assert_eq!(machine.one_service().await, second);
    assert_ne!(second, pid);
}

#[tokio::test]
async fn component_a_service_that_cannot_start_is_told_and_tried_again() {
    let mut machine = Machine::new();
    machine.config.storage_conf = Some("fail".into());
    let mut agent = machine.agent();
    let said = agent.health.wait_for(|health| health.message.contains("no such luck"));
    let said = tokio::time::timeout(Duration::from_secs(20), said).await.unwrap().unwrap().clone();
    assert!(!said.ready);
    assert!(said.message.starts_with("the Podman service ended (exit status: 1): "), "{}", said.message);
    agent.die().await;

    machine.config.program = Some("/nonexistent/podman".into());
    let mut agent = machine.agent();
    let said = agent.health.wait_for(|health| health.message.contains("/nonexistent/podman"));
    tokio::time::timeout(Duration::from_secs(20), said).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn component_a_service_that_hangs_is_killed_after_three_lost_pings() {
    let machine = Machine::new();
    let mut agent = machine.agent();
    // With paused time the clock jumps whenever everybody waits, so the real start is waited for outside of it.
    while !agent.health.borrow().ready {
        std::thread::sleep(Duration::from_millis(20));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let pid = machine.one_service().await;
    signal(pid, Signal::STOP);
    let begin = Instant::now();
    agent.health.wait_for(|health| !health.ready).await.unwrap();
    assert!(agent.health.borrow().message.contains("no answer within 10 s"), "{:?}", agent.health.borrow());
    while machine.services().contains(&pid) {
        std::thread::sleep(Duration::from_millis(20));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begin.elapsed() >= Duration::from_secs(30), "{:?}", begin.elapsed());
    agent.die().await;
}

#[tokio::test]
async fn component_a_service_of_somebody_else_is_only_watched() {
    let machine = Machine::new();
    let mut owner = machine.agent();
    owner.ready().await;
    let pid = machine.one_service().await;
    owner.die().await;
    let config = PodmanSettings { socket: Some(machine.dir.path().join("run/podman.sock")), ..PodmanSettings::default() };
    let (service, mut health) = PodmanService::new(&config, Path::new("/nonexistent")).unwrap();
    let task = tokio::spawn(service.run(CancellationToken::new()));
    health.wait_for(|health| health.ready).await.unwrap();
    signal(pid, Signal::KILL);
    let away = health.wait_for(|health| !health.ready);
    tokio::time::timeout(Duration::from_secs(20), away).await.unwrap().unwrap();
    assert!(machine.services().is_empty());
    task.abort();
}

/// containers/storage keeps the check until the next boot.
#[tokio::test]
async fn component_a_check_that_failed_on_a_full_disk_is_made_again() {
    let mut machine = Machine::new();
    let run_root = machine.dir.path().join("runroot");
    std::fs::create_dir_all(run_root.join("overlay")).unwrap();
    std::fs::write(run_root.join("overlay/overlay-false"), "no space left on device").unwrap();
    machine.config.run_root = Some(run_root);
    machine.agent().ready().await;
}
