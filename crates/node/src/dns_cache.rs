//! The node's cache of the cluster's DNS: pods go on resolving names while the cluster cannot be reached.
//!
//! ```text
//! pod's resolv.conf: nameserver <address>     on `lo`; when the agent is away, the kernel refuses and resolvers go on to the next
//!                    nameserver <cluster's>
//! <address>:53 ─ kube_pet_dns ─► clusterDNS
//!                     └─► record.rs   <rootDir>/var/lib/kube-pet/dns-cache
//! ```

mod record;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kube_pet_core::node::NodeInfo;
use kube_pet_dns::{Limits, Moment, Options, Server};
use kube_pet_net::{NetlinkError, loopback};
use rustix::net::{self, sockopt};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::sync::watch;
use tracing::{error, info, warn};

pub use record::DnsRecord;

use crate::config::DnsCacheSettings;
use crate::instruments;
use crate::paths::Paths;
use crate::sandboxes::SandboxManager;

const PORT: u16 = 53;
/// Connections that wait to be taken.
const BACKLOG: u32 = 128;
/// A port that somebody else has, or an address that cannot be put up, is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is seen to that the address is there: whoever restarts the machine's network may take it away.
const CHECK: Duration = Duration::from_secs(30);
/// How often it is looked whether pods still name an address that is not used any more.
const RETIRE: Duration = Duration::from_secs(60);
/// Bytes for an answer, at the mean: most have 100 to 300.
const ENTRY_BYTES: usize = 1024;

/// A task.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum DnsCacheError {
    /// The address is not on the loopback.
    #[error("the address of the DNS cache")]
    Address(#[from] NetlinkError),
    /// The port.
    #[error("listening on {address} over {protocol}{}", if source.kind() == std::io::ErrorKind::AddrInUse { ": another name server has the port (ss -lnp 'sport = :53' names it)" } else { "" })]
    Listen {
        /// Where.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The agent ends.
    #[error("the work on the address of the DNS cache was interrupted")]
    Interrupted,
}

/// Of the DNS cache, what the rest of the agent uses, and the task behind it.
pub struct DnsCache {
    /// To be run at once.
    pub task: Task,
    /// To be saved at the end; `None` where the cache is off.
    pub record: Option<DnsRecord>,
}

/// What it is made of.
pub struct DnsCacheOptions {
    /// `dnsCache`
    pub settings: DnsCacheSettings,
    /// `clusterDNS`
    pub servers: Vec<IpAddr>,
    /// `clusterDomain`
    pub domain: String,
    /// How the names of the node's ends of pods' links begin, and the label of the address.
    pub link_prefix: String,
    /// Folders.
    pub paths: Paths,
    /// This node's sandboxes: their pods may ask.
    pub sandboxes: SandboxManager,
    /// The node's addresses: what runs on it may ask.
    pub node: watch::Receiver<Arc<NodeInfo>>,
}

impl DnsCache {
    /// Nothing runs yet.
    pub fn new(options: DnsCacheOptions) -> Self {
        let DnsCacheOptions { settings, servers, domain, link_prefix, paths, sandboxes, node } = options;
        let DnsCacheSettings { enabled, address, max_entries, max_stale } = settings;
        let label = format!("{link_prefix}-dns");
        let file = paths.dns_cache();
        if !enabled {
            let off = async move {
                record::forget(&file).await;
                retire(label, Use::Off(address), paths.pods_dir()).await;
            };
            return Self { task: Box::pin(off), record: None };
        }
        let entries = NonZeroUsize::new(max_entries as usize).unwrap_or(NonZeroUsize::MIN);
        let bytes = entries.get().saturating_mul(ENTRY_BYTES);
        let here = IpAddr::V4(address);
        // The address answers for itself on every link of the node's (the host model of Linux): others are not served.
        let allowed = move |client: IpAddr| {
            client == here || client.is_loopback() || sandboxes.has_address(client) || node.borrow().host_ips.contains(&client)
        };
        let (cache, server) = kube_pet_dns::new(Options {
            upstream: servers.into_iter().map(|server| (server, PORT).into()).collect(),
            changing: Some(domain),
            limits: Limits { entries, bytes, max_stale },
            allowed: Arc::new(allowed),
            clock: Arc::new(now),
            observe: Arc::new(instruments::dns_cache::observe),
        });
        let record = DnsRecord::new(cache, file, bytes);
        let run = serve(address, label.clone(), server, record.clone());
        let others = retire(label, Use::On(address), paths.pods_dir());
        let task = Box::pin(async move {
            tokio::join!(run, others);
        });
        Self { task, record: Some(record) }
    }
}

/// The time since the machine has booted, in which it may have slept.
fn now() -> Moment {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    Moment::after(Duration::new(seconds, nanoseconds))
}

async fn serve(address: Ipv4Addr, label: String, mut server: Server, record: DnsRecord) {
    record.restore().await;
    let mut told = false;
    let (udp, tcp) = loop {
        match listen(address, &label).await {
            Ok(sockets) => break sockets,
            Err(error) if !told => {
                error!(%address, error = &error as &dyn std::error::Error, "the DNS cache does not answer, pods ask the cluster's DNS; trying again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    };
    info!(%address, "the DNS cache answers");
    tokio::join!(server.run(udp, tcp), keep_address(address, label), record.keep_saved());
}

/// The ports first: whoever has them at all of the machine's addresses would answer pods that there are no names of the cluster.
async fn listen(address: Ipv4Addr, label: &str) -> Result<(UdpSocket, TcpListener), DnsCacheError> {
    let at = SocketAddr::from((address, PORT));
    let failed = |protocol| move |source| DnsCacheError::Listen { address: at, protocol, source };
    let bound = bind_udp(at).map_err(failed("UDP")).and_then(|udp| Ok((udp, bind_tcp(at).map_err(failed("TCP"))?)));
    match bound {
        Ok(sockets) => {
            put_up(address, label).await?;
            blocking(move || loopback::stop_refusing(address)).await?;
            Ok(sockets)
        }
        Err(error) => {
            let label = label.to_owned();
            blocking(move || loopback::refuse(address, &label)).await?;
            Err(error)
        }
    }
}

/// At an address that the machine need not have yet.
fn bind_udp(at: SocketAddr) -> io::Result<UdpSocket> {
    let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
    let socket = net::socket_with(net::AddressFamily::INET, net::SocketType::DGRAM, flags, None)?;
    sockopt::set_ip_freebind(&socket, true)?;
    net::bind(&socket, &at)?;
    UdpSocket::from_std(socket.into())
}

fn bind_tcp(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    sockopt::set_ip_freebind(&socket, true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

async fn blocking(work: impl FnOnce() -> Result<(), NetlinkError> + Send + 'static) -> Result<(), DnsCacheError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| DnsCacheError::Interrupted)??)
}

async fn put_up(address: Ipv4Addr, label: &str) -> Result<(), DnsCacheError> {
    let label = label.to_owned();
    blocking(move || loopback::ensure(address, &label)).await
}

async fn keep_address(address: Ipv4Addr, label: String) {
    let mut told = false;
    loop {
        tokio::time::sleep(CHECK).await;
        match put_up(address, &label).await {
            Ok(()) if told => {
                info!(%address, "the DNS cache has its address again");
                told = false;
            }
            Err(error) if !told => {
                warn!(%address, error = &error as &dyn std::error::Error, "the DNS cache may have lost its address");
                told = true;
            }
            _ => {}
        }
    }
}

/// What the address of the settings is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    On(Ipv4Addr),
    Off(Ipv4Addr),
}

/// Takes away the addresses of earlier runs but the one in use. One that a pod's resolv.conf names stays until that pod is gone: where it is, the
/// kernel refuses, and the pod's resolver goes on at once; where it is not, the resolver waits for each name.
async fn retire(label: String, used: Use, pods: PathBuf) {
    loop {
        let (label, pods) = (label.clone(), pods.clone());
        match tokio::task::spawn_blocking(move || take_away(&label, used, &pods)).await {
            Ok(Ok(false)) => std::future::pending().await,
            Ok(Ok(true)) | Err(_) => {}
            Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "an address that the DNS cache had is not taken away"),
        }
        tokio::time::sleep(RETIRE).await;
    }
}

/// Whether some are left.
fn take_away(label: &str, used: Use, pods: &Path) -> Result<bool, NetlinkError> {
    let mut left = false;
    if let Use::Off(address) = used
        && !is_named(address, pods)
    {
        // As it is where another name server had the port when the cache was on.
        loopback::stop_refusing(address)?;
    }
    for address in loopback::labelled(label)?.into_iter().filter(|address| Use::On(*address) != used) {
        if is_named(address, pods) {
            left = true;
        } else {
            loopback::remove(address)?;
            info!(%address, "the address that the DNS cache had is taken away");
        }
    }
    Ok(left)
}

fn is_named(address: Ipv4Addr, pods: &Path) -> bool {
    let line = format!("nameserver {address}");
    let mut files = std::fs::read_dir(pods).into_iter().flatten().flatten().map(|pod| pod.path().join("resolv.conf"));
    files.any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(|found| found == line)))
}

#[cfg(test)]
mod tests;
