//! systemd-logind over the system bus: the lock that delays a shutdown, and the signal that one begins
//! (<https://systemd.io/INHIBITOR_LOCKS/>).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;
use zbus::wire::Type;
use zbus::{Connection, MatchRule, MessageStream, OwnedVariant, connection, message};

const LOGIND: Object = Object { service: "org.freedesktop.login1", path: "/org/freedesktop/login1" };
const SYSTEMD: Object = Object { service: "org.freedesktop.systemd1", path: "/org/freedesktop/systemd1" };
const LOGIND_MANAGER: &str = "org.freedesktop.login1.Manager";
const SYSTEMD_MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How long an answer is waited for.
const DEADLINE: Duration = Duration::from_secs(10);
/// logind reads its settings again some time after it was told to; looked at after this time, then after twice as long, and so on.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 5;

struct Object {
    service: &'static str,
    path: &'static str,
}

/// logind cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogindError {
    /// No bus.
    #[error("cannot reach the system bus")]
    Bus(#[source] zbus::Error),
    /// A bus that says nothing.
    #[error("no answer from the system bus within {} s", DEADLINE.as_secs())]
    Silent,
    /// No answer, or an error.
    #[error("calling {method} of {service}")]
    Call {
        /// The service's name on the bus.
        service: &'static str,
        /// The method.
        method: &'static str,
        /// The cause.
        #[source]
        source: zbus::Error,
    },
    /// An answer that cannot be read.
    #[error("the answer to {method}")]
    Answer {
        /// The method.
        method: &'static str,
        /// The cause.
        #[source]
        source: zbus::Error,
    },
    /// logind's settings cannot be written.
    #[error("writing {path}")]
    DropIn {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Some other file of settings comes after ours, say.
    #[error("logind delays a shutdown by {} s at most, although {path} asks it for {} s", delay.as_secs(), wanted.as_secs())]
    Delay {
        /// What it delays.
        delay: Duration,
        /// What it should.
        wanted: Duration,
        /// Our file.
        path: PathBuf,
    },
}

/// As long as it is there, a shutdown waits, for logind's longest delay.
pub(super) struct Lock(#[expect(dead_code, reason = "it is held, nothing else")] OwnedFd);

/// A connection to logind.
pub(super) struct Logind {
    bus: Connection,
}

impl Logind {
    /// `address` is that of a bus; the system bus if there is none.
    pub(super) async fn connect(address: Option<&str>) -> Result<Self, LogindError> {
        let builder = address.map_or_else(connection::Builder::system, connection::Builder::address);
        let bus = tokio::time::timeout(DEADLINE, builder.method_timeout(DEADLINE).build()).await.map_err(|_| LogindError::Silent)?;
        let bus = bus.map_err(LogindError::Bus)?;
        Ok(Self { bus })
    }

    /// Tells of begins of shutdowns (true) and of their being called off (false). To be asked for before the lock, so that nothing
    /// is missed.
    pub(super) async fn shutdowns(&self) -> Result<Shutdowns, LogindError> {
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .path(LOGIND.path)
            .interface(LOGIND_MANAGER)
            .member("PrepareForShutdown")
            .build()
            .map_err(LogindError::Bus)?;
        MessageStream::for_match_rule(rule, &self.bus, None).await.map(Shutdowns).map_err(LogindError::Bus)
    }

    /// Whether a shutdown is going on.
    pub(super) async fn is_shutting_down(&self) -> Result<bool, LogindError> {
        self.property("PreparingForShutdown").await
    }

    /// Makes logind wait for locks as long as `wanted`, by settings of its own if need be (`drop_in`).
    pub(super) async fn raise_delay(&self, wanted: Duration, drop_in: &Path) -> Result<(), LogindError> {
        let delay = self.delay().await?;
        if delay >= wanted {
            return Ok(());
        }
        info!(was = ?delay, wanted = ?wanted, path = %drop_in.display(), "logind is told to wait longer for pods at a shutdown");
        write_drop_in(drop_in, wanted).map_err(|source| LogindError::DropIn { path: drop_in.to_owned(), source })?;
        const HANGUP: i32 = 1;
        let () = self.call(&SYSTEMD, SYSTEMD_MANAGER, "KillUnit", &("systemd-logind.service", "all", HANGUP)).await?;
        let mut pause = FIRST_LOOK;
        for _ in 0..LOOKS {
            if self.delay().await? >= wanted {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let delay = self.delay().await?;
        if delay >= wanted { Ok(()) } else { Err(LogindError::Delay { delay, wanted, path: drop_in.to_owned() }) }
    }

    /// Delays shutdowns from now on.
    pub(super) async fn inhibit(&self) -> Result<Lock, LogindError> {
        let arguments = ("shutdown", "kube-pet", "Pods need time to end", "delay");
        let fd: zbus::OwnedFd = self.call(&LOGIND, LOGIND_MANAGER, "Inhibit", &arguments).await?;
        Ok(Lock(fd.into()))
    }

    async fn delay(&self) -> Result<Duration, LogindError> {
        self.property("InhibitDelayMaxUSec").await.map(Duration::from_micros)
    }

    async fn property<T>(&self, name: &'static str) -> Result<T, LogindError>
    where
        T: TryFrom<OwnedVariant, Error = zbus::Error>,
    {
        let value: OwnedVariant = self.call(&LOGIND, PROPERTIES, "Get", &(LOGIND_MANAGER, name)).await?;
        T::try_from(value).map_err(|source| LogindError::Answer { method: name, source })
    }

    async fn call<T: DeserializeOwned + Type>(
        &self,
        object: &Object,
        interface: &'static str,
        method: &'static str,
        arguments: &(impl Serialize + zbus::wire::DynamicType),
    ) -> Result<T, LogindError> {
        let reply = self.bus.call_method(Some(object.service), object.path, Some(interface), method, arguments);
        let reply = reply.await.map_err(|source| LogindError::Call { service: object.service, method, source })?;
        reply.body().deserialize().map_err(|source| LogindError::Answer { method, source })
    }
}

/// See [`Logind::shutdowns`].
pub(super) struct Shutdowns(MessageStream);

impl Shutdowns {
    /// The next one; `None` once the bus is gone.
    pub(super) async fn next(&mut self) -> Option<bool> {
        loop {
            let message = self.0.try_next().await.ok()??;
            if let Ok(begins) = message.body().deserialize() {
                return Some(begins);
            }
        }
    }
}

fn write_drop_in(path: &Path, delay: Duration) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Whole seconds: all groups have them.
    std::fs::write(path, format!("# Written by kube-pet: its pods need so long to end.\n[Login]\nInhibitDelayMaxSec={}\n", delay.as_secs()))
}
