//! Clients that connect again and again, and what becomes of each connection.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::harness::{AGNHOST, Bed};

/// A container that says its pod's name to whoever connects to 8080, and goes on doing so until its grace period is over.
pub fn server() -> Value {
    json!({
        "name": "c", "image": AGNHOST, "args": ["serve-hostname", "--tcp", "--http=false", "--port=8080"],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    })
}

/// In each network namespace.
const THREADS: u32 = 4;

/// What clients have seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub answered: u32,
    /// When, since the beginning, and why.
    pub failed: Vec<(Duration, String)>,
    pub slowest: Duration,
    /// The longest time without an answer that one of the clients had.
    pub gap: Duration,
    pub servers: BTreeSet<String>,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Seen>>>,
}

impl Load {
    /// Connects so often a second, shared by all namespaces, as long as the machine keeps up. A connection succeeds that brings the
    /// server's name within `patience`.
    pub fn start(namespaces: &[PathBuf], server: SocketAddr, a_second: u32, patience: Duration) -> Result<Self> {
        let (stop, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let clients = THREADS * u32::try_from(namespaces.len())?;
        let pause = Duration::from_secs(1) * clients / a_second;
        let mut threads = Vec::new();
        for namespace in namespaces {
            for _ in 0..THREADS {
                let place = File::open(namespace).with_context(|| format!("open {}", namespace.display()))?;
                let stop = stop.clone();
                // Ends in the namespace that it has entered.
                threads.push(std::thread::spawn(move || {
                    move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).context("enter the namespace")?;
                    Ok(connect_until(&stop, server, began, pause, patience))
                }));
            }
        }
        Ok(Self { stop, threads })
    }

    /// Ends it.
    pub async fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads {
            let joined = tokio::task::spawn_blocking(|| thread.join()).await?;
            let seen = joined.map_err(|_| anyhow::anyhow!("a client panicked"))??;
            all.answered += seen.answered;
            all.failed.extend(seen.failed);
            all.slowest = all.slowest.max(seen.slowest);
            all.gap = all.gap.max(seen.gap);
            all.servers.extend(seen.servers);
        }
        all.failed.sort();
        Ok(all)
    }
}

fn connect_until(stop: &AtomicBool, server: SocketAddr, began: Instant, pause: Duration, patience: Duration) -> Seen {
    let mut seen = Seen::default();
    let mut next = Instant::now();
    let mut last_answer = next;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        std::thread::sleep(next.saturating_duration_since(now));
        // A machine that does not keep up gets no burst later.
        next = next.max(now) + pause;
        let asked = Instant::now();
        match ask(server, patience) {
            Ok(name) => {
                seen.answered += 1;
                seen.gap = seen.gap.max(last_answer.elapsed());
                last_answer = Instant::now();
                seen.servers.insert(name);
            }
            Err(error) => seen.failed.push((began.elapsed(), error.to_string())),
        }
        seen.slowest = seen.slowest.max(asked.elapsed());
    }
    seen.gap = seen.gap.max(last_answer.elapsed());
    seen
}

fn ask(server: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&server, patience)?;
    connection.set_read_timeout(Some(patience))?;
    let mut name = String::new();
    connection.read_to_string(&mut name)?;
    if name.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(name) }
}

/// The network namespace of the pet itself.
pub fn of_pet(bed: &Bed) -> PathBuf {
    Path::new("/proc").join(bed.pet.machine().keeper.pid.to_string()).join("ns/net")
}

/// That of a pod on the pet.
pub async fn of_pod(bed: &Bed, name: &str) -> Result<PathBuf> {
    let uid = bed.get(name).await?.metadata.uid.context("a UID")?;
    Ok(bed.pet.path(format!("/run/kube-pet/sandboxes/{uid}/net")))
}
