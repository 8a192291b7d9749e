//! systemd-logind, and the system bus that it is on: as much of both as an inhibitor of shutdowns meets. One client at a time.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zbus::{Connection, Guid, connection, fdo};

const PATH: &str = "/org/freedesktop/login1";

/// What it was asked for, and how it stands.
#[derive(Debug, Default)]
struct State {
    /// `InhibitDelayMaxUSec`, in seconds.
    delay: u64,
    /// Read again when logind is told to; the delay then is this.
    after_reload: Option<u64>,
    shutting_down: bool,
    reloads: usize,
    /// Arguments of the calls of `Inhibit`, and the other end of each lock.
    locks: Vec<(String, UnixStream)>,
}

type Shared = Arc<Mutex<State>>;

fn state(shared: &Shared) -> std::sync::MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A logind that waits for locks.
pub struct FakeLogind {
    shared: Shared,
    client: watch::Receiver<Option<Connection>>,
    task: JoinHandle<()>,
}

impl Drop for FakeLogind {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeLogind {
    /// Serves on a socket, which must not be there yet. `delay` is the longest that logind waits, in seconds; `after_reload` what it
    /// is once logind has read its settings again.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn serve(socket: &Path, delay: u64, after_reload: Option<u64>) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
        let shared = Shared::new(Mutex::new(State { delay, after_reload, ..State::default() }));
        let (sender, client) = watch::channel(None);
        let served = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(connection) = greet(stream, &served).await {
                    sender.send_replace(Some(connection));
                }
            }
        });
        Ok(Self { shared, client, task })
    }

    /// On a bus that is there: a real one.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    pub async fn on_bus(address: &str, delay: u64, after_reload: Option<u64>) -> Result<Self> {
        let shared = Shared::new(Mutex::new(State { delay, after_reload, ..State::default() }));
        let builder = connection::Builder::address(address).serve_at(PATH, Logind(shared.clone()));
        let builder = builder.serve_at("/org/freedesktop/systemd1", Systemd(shared.clone()));
        let builder = builder.name("org.freedesktop.login1").name("org.freedesktop.systemd1");
        let connection = builder.build().await.with_context(|| format!("serve on {address}"))?;
        let client = watch::channel(Some(connection)).1;
        Ok(Self { shared, client, task: tokio::spawn(std::future::pending()) })
    }

    /// Waits until somebody has a lock; what for, who, why and in which mode.
    ///
    /// # Errors
    /// When nobody takes one in time.
    pub async fn locked(&self, limit: Duration) -> Result<String> {
        let locked = async {
            loop {
                if let Some(text) = self.lock() {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(limit, locked).await.context("nobody delays the shutdown")
    }

    /// What the newest lock that is held is for.
    pub fn lock(&self) -> Option<String> {
        state(&self.shared).locks.iter_mut().rev().find_map(|(text, end)| is_held(end).then(|| text.clone()))
    }

    /// How often logind was told to read its settings again.
    pub fn reloads(&self) -> usize {
        state(&self.shared).reloads
    }

    /// Begins a shutdown, or calls it off.
    ///
    /// # Errors
    /// When nobody is there to hear of it.
    pub async fn shut_down(&self, begins: bool) -> Result<()> {
        state(&self.shared).shutting_down = begins;
        let client = self.client.borrow().clone().context("nobody is connected")?;
        client.emit_signal(None::<&str>, PATH, "org.freedesktop.login1.Manager", "PrepareForShutdown", &begins).await?;
        Ok(())
    }

    /// Ends the connection, as a bus that is started again does.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn disconnect(&self) -> Result<()> {
        let client = self.client.borrow().clone().context("nobody is connected")?;
        state(&self.shared).locks.clear();
        client.close().await.context("end the connection")
    }
}

/// The other end of a pipe tells whether anybody still has the first.
fn is_held(end: &mut UnixStream) -> bool {
    matches!(end.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn greet(stream: tokio::net::UnixStream, shared: &Shared) -> Result<Connection> {
    let builder = connection::Builder::unix_stream(stream.into_std()?).server(Guid::generate()).p2p();
    let builder = builder.serve_at("/org/freedesktop/DBus", Bus);
    let builder = builder.serve_at(PATH, Logind(shared.clone())).serve_at("/org/freedesktop/systemd1", Systemd(shared.clone()));
    Ok(builder.build().await?)
}

/// As much of the bus as a client needs to begin.
struct Bus;

#[zbus::interface(name = "org.freedesktop.DBus")]
impl Bus {
    fn hello(&self) -> String {
        ":1.7".into()
    }
    fn add_match(&self, _rule: &str) {}
    fn remove_match(&self, _rule: &str) {}
}

struct Logind(Shared);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> fdo::Result<zbus::OwnedFd> {
        let mut state = state(&self.0);
        if state.shutting_down {
            return Err(fdo::Error::Failed("The operation inhibition has been requested for is already running".into()));
        }
        let failed = |error: std::io::Error| fdo::Error::Failed(error.to_string());
        let (own, theirs) = UnixStream::pair().map_err(failed)?;
        own.set_nonblocking(true).map_err(failed)?;
        state.locks.push((format!("{what} {who} {why} {mode}"), own));
        Ok(std::os::fd::OwnedFd::from(theirs).into())
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> u64 {
        state(&self.0).delay * 1_000_000
    }

    #[zbus(property)]
    fn preparing_for_shutdown(&self) -> bool {
        state(&self.0).shutting_down
    }
}

struct Systemd(Shared);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    fn kill_unit(&self, unit: &str, who: &str, signal: i32) {
        let mut state = state(&self.0);
        if (unit, who, signal) == ("systemd-logind.service", "all", 1) {
            state.reloads += 1;
            state.delay = state.after_reload.unwrap_or(state.delay);
        }
    }
}
