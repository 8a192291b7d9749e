//! WireGuard in this process: boringtun's protocol, a TUN link, one UDP socket, and three threads (packets out, packets in, timers).
//!
//! The link lives as long as the process. Peers keep their sessions whatever is changed about them or others: an interval or a network
//! is not part of a session here.

mod peers;
mod pump;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;
use kube_pet_host::tun;
use kube_pet_rules::Network;
use rustix::event::{EventfdFlags, eventfd};
use tracing::warn;

use crate::device::{Change, DeviceError, DeviceStatus, Implementation, PeerStatus, Settings, Wireguard};
use crate::keys::{PrivateKey, PublicKey};
use peers::Table;
use socket::Socket;

/// Handshakes in a second from which on a sender must prove its address. Each is counted twice: before its peer is known, and by it.
const HANDSHAKES: u64 = 200;

/// What the threads share.
struct Shared {
    tun: OwnedFd,
    stop: OwnedFd,
    keys: RwLock<Keys>,
    table: RwLock<Table>,
    socket: RwLock<Arc<Socket>>,
    /// The link was taken away.
    gone: AtomicBool,
}

struct Keys {
    private: PrivateKey,
    public: x25519::PublicKey,
    limiter: Arc<RateLimiter>,
}

impl Keys {
    fn new(private: PrivateKey) -> Self {
        let public = x25519::PublicKey::from(&private.0);
        Self { private, public, limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES)) }
    }
}

/// The device; the link and the threads end with it.
pub(crate) struct UserspaceDevice {
    shared: Arc<Shared>,
    mark: u32,
    receiver: Option<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

impl UserspaceDevice {
    pub(crate) fn open(name: &str, settings: &Settings) -> Result<Self, DeviceError> {
        let tun = tun::create(name)?;
        let socket = Socket::bind(settings.listen_port, settings.mark)?;
        let shared = Arc::new(Shared {
            tun,
            stop: event()?,
            keys: RwLock::new(Keys::new(settings.private_key.clone())),
            table: RwLock::new(Table::new()?),
            socket: RwLock::new(Arc::new(socket)),
            gone: AtomicBool::new(false),
        });
        let mut device = Self { shared, mark: settings.mark, receiver: None, others: Vec::new() };
        for (name, work) in [("tunnel-out", pump::send as fn(&Shared)), ("tunnel-time", pump::tick)] {
            let shared = Arc::clone(&device.shared);
            device.others.push(spawn(name, move || work(&shared))?);
        }
        device.receiver = Some(device.receive()?);
        Ok(device)
    }

    fn receive(&self) -> Result<JoinHandle<()>, DeviceError> {
        let shared = Arc::clone(&self.shared);
        let socket = Arc::clone(&read(&self.shared.socket));
        spawn("tunnel-in", move || pump::receive(&shared, &socket))
    }

    /// Another port: packets that are under way to the old one are lost, and sent again by those who want them to arrive.
    fn listen(&mut self, settings: &Settings) -> Result<(), DeviceError> {
        let socket = Arc::new(Socket::bind(settings.listen_port, settings.mark)?);
        let old = std::mem::replace(&mut *write(&self.shared.socket), socket);
        old.stop();
        if self.receiver.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the thread of a tunnel's old port has failed");
        }
        self.mark = settings.mark;
        self.receiver = Some(self.receive()?);
        Ok(())
    }
}

impl Wireguard for UserspaceDevice {
    fn implementation(&self) -> Implementation {
        Implementation::Userspace
    }

    fn configure(&mut self, settings: &Settings) -> Result<(), DeviceError> {
        let Settings { private_key, listen_port, mark } = settings;
        let port = read(&self.shared.socket).port();
        if self.mark != *mark || (*listen_port != 0 && *listen_port != port) {
            self.listen(settings)?;
        }
        if read(&self.shared.keys).private.public() != private_key.public() {
            *write(&self.shared.keys) = Keys::new(private_key.clone());
            // From now on sessions that begin anew do so by it.
            let keys = read(&self.shared.keys);
            for peer in read(&self.shared.table).all() {
                peer.rekey(&keys);
            }
            drop(keys);
            pump::greet(&self.shared);
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), DeviceError> {
        for change in changes {
            match change {
                Change::Remove(peer) => write(&self.shared.table).remove(peer),
                Change::Set { peer, endpoint, keepalive, add, replace, all } => {
                    let found = {
                        let keys = read(&self.shared.keys);
                        let mut table = write(&self.shared.table);
                        let found = table.ensure(*peer, &keys);
                        if *replace {
                            table.take_networks(peer);
                        }
                        for network in if *replace { all } else { add } {
                            table.give_network(*network, &found);
                        }
                        found
                    };
                    if let Some(keepalive) = keepalive {
                        found.set_keepalive(*keepalive);
                    }
                    if let Some(endpoint) = endpoint {
                        found.set_endpoint(*endpoint);
                    }
                    if (endpoint.is_some() || keepalive.is_some()) && found.keeps_alive() {
                        pump::greet_one(&self.shared, &found);
                    }
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, peer: &PublicKey, sources: &BTreeSet<Network>) {
        if let Some(peer) = read(&self.shared.table).by_key(peer) {
            peer.accept(sources);
        }
    }

    fn status(&mut self) -> Result<DeviceStatus, DeviceError> {
        if self.shared.gone.load(Ordering::Acquire) {
            return Err(DeviceError::Gone);
        }
        let table = read(&self.shared.table);
        let peers: BTreeMap<PublicKey, _> = table.all().map(|peer| (peer.key, peer.status(table.networks(&peer.key)))).collect();
        let public_key = Some(read(&self.shared.keys).private.public());
        Ok(DeviceStatus { public_key, listen_port: read(&self.shared.socket).port(), mark: self.mark, peers })
    }

    fn peers(&mut self, keys: &[PublicKey]) -> Result<BTreeMap<PublicKey, PeerStatus>, DeviceError> {
        if self.shared.gone.load(Ordering::Acquire) {
            return Err(DeviceError::Gone);
        }
        let table = read(&self.shared.table);
        let found = keys.iter().filter_map(|key| Some((*key, table.by_key(key)?.status(table.networks(key)))));
        Ok(found.collect())
    }
}

impl Drop for UserspaceDevice {
    fn drop(&mut self) {
        signal(&self.shared.stop);
        read(&self.shared.socket).stop();
        for thread in self.receiver.take().into_iter().chain(self.others.drain(..)) {
            if thread.join().is_err() {
                warn!("a thread of the tunnel has failed");
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DeviceError> {
    let failed = |source| DeviceError::System { doing: "starting a thread of the tunnel", source };
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)
}

/// Readable from its first signal on.
fn event() -> Result<OwnedFd, DeviceError> {
    let failed = |e: rustix::io::Errno| DeviceError::System { doing: "making an event", source: e.into() };
    eventfd(0, EventfdFlags::CLOEXEC).map_err(failed)
}

fn signal(event: &OwnedFd) {
    let _: Result<usize, io::Error> = rustix::io::write(event, &1_u64.to_ne_bytes()).map_err(io::Error::from);
}

fn read<T>(of: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    of.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(of: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    of.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
