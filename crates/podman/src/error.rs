//! What can go wrong with a call, and what that means for the caller.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

/// The calls that this client makes. Each has a deadline of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Operation {
    Ping,
    Info,
    ContainerCreate,
    ContainerStart,
    ContainerKill,
    ContainerStop,
    ContainerRemove,
    ContainerInspect,
    ContainerList,
    ContainerWait,
    ContainerUpdate,
    ContainerAttach,
    ContainerMount,
    PodCreate,
    PodRemove,
    PodList,
    PodExists,
    ImagePull,
    ImageInspect,
    ImageList,
    ImageRemove,
    ImageExists,
    ExecCreate,
    ExecStart,
    ExecResize,
    ContainerResize,
    ExecInspect,
    ExecRemove,
    Events,
}

impl Operation {
    /// How long the call may take once it has been sent; for streams, until the reply's headers are there.
    ///
    /// The values are an order of magnitude above what a busy machine was seen to need: they end calls to a service that
    /// hangs, they do not police slow disks.
    #[must_use]
    pub fn deadline(self) -> Duration {
        Duration::from_secs(match self {
            Self::Ping => 10,
            Self::Info
            | Self::ContainerInspect
            | Self::PodExists
            | Self::ImageInspect
            | Self::ImageExists
            | Self::ExecInspect
            | Self::ExecRemove
            | Self::ExecResize
            | Self::ContainerResize => 20,
            Self::ContainerList | Self::PodList | Self::ImageList => 30,
            Self::ContainerKill | Self::ContainerUpdate | Self::ExecCreate | Self::Events => 30,
            Self::ContainerCreate
            | Self::ContainerMount
            | Self::ContainerStop
            | Self::PodCreate
            | Self::ExecStart
            | Self::ContainerAttach => 60,
            // An exec session that still ends makes `rm` wait (Podman 4.3 to 6.0), image removal unlinks large trees.
            Self::ContainerStart | Self::ContainerRemove | Self::PodRemove | Self::ImageRemove => 120,
            // `wait` replies only when it is over: the caller gives the limit.
            Self::ContainerWait | Self::ImagePull => 120,
        })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping => "ping the Podman service",
            Self::Info => "read Podman's system information",
            Self::ContainerCreate => "create container",
            Self::ContainerStart => "start container",
            Self::ContainerKill => "send a signal to container",
            Self::ContainerStop => "stop container",
            Self::ContainerRemove => "remove container",
            Self::ContainerInspect => "inspect container",
            Self::ContainerList => "list containers",
            Self::ContainerWait => "wait for container",
            Self::ContainerUpdate => "update the limits of container",
            Self::ContainerAttach => "attach to container",
            Self::ContainerMount => "mount the root of container",
            Self::PodCreate => "create pod",
            Self::PodRemove => "remove pod",
            Self::PodList => "list pods",
            Self::PodExists => "look for pod",
            Self::ImagePull => "pull image",
            Self::ImageInspect => "inspect image",
            Self::ImageList => "list images",
            Self::ImageRemove => "remove image",
            Self::ImageExists => "look for image",
            Self::ExecCreate => "create an exec session in container",
            Self::ExecStart => "start exec session",
            Self::ExecResize => "resize the terminal of exec session",
            Self::ContainerResize => "resize the terminal of container",
            Self::ExecInspect => "inspect exec session",
            Self::ExecRemove => "remove exec session",
            Self::Events => "read Podman's events",
        })
    }
}

/// A call that failed. `object` is the name or ID that the call was about; it is empty for calls about none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service's socket does not accept connections: it is not running.
    #[error("cannot {operation}{}: no connection to {}", Named(object), socket.display())]
    Connect {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: String,
        /// The socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The connection ended within the call: the service died, or does not speak HTTP. The call may have been carried out.
    #[error("cannot {operation}{}: the connection to the Podman service broke", Named(object))]
    Connection {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The service did not answer in time. The call may still be carried out.
    #[error("cannot {operation}{}: no answer within {} s", Named(object), after.as_secs())]
    Deadline {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: String,
        /// How long was waited.
        after: Duration,
    },
    /// Podman refused.
    #[error("cannot {operation}{}: {message} (HTTP {})", Named(object), status.as_u16())]
    Status {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: String,
        /// The HTTP status. Not to be relied on: Podman 4.3 says 500 where later versions say 404 or 409.
        status: StatusCode,
        /// Podman's root cause, a fixed text per kind of error.
        cause: String,
        /// Podman's whole message, the cause included.
        message: String,
    },
    /// The answer could not be understood.
    #[error("cannot {operation}{}: unexpected answer from Podman", Named(object))]
    Decode {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The request could not be put together: a name or value that cannot be sent.
    #[error("cannot {operation}{}: the request cannot be encoded", Named(object))]
    Encode {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

struct Named<'a>(&'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " {}", self.0) }
    }
}

impl Error {
    /// What was being done.
    #[must_use]
    pub fn operation(&self) -> Operation {
        match self {
            Self::Connect { operation, .. }
            | Self::Connection { operation, .. }
            | Self::Deadline { operation, .. }
            | Self::Status { operation, .. }
            | Self::Decode { operation, .. }
            | Self::Encode { operation, .. } => *operation,
        }
    }

    /// Podman's own message, where it gave one.
    #[must_use]
    pub fn podman_message(&self) -> Option<&str> {
        match self {
            Self::Status { message, .. } => Some(message),
            _ => None,
        }
    }

    fn mentions(&self, texts: &[&str]) -> bool {
        match self {
            Self::Status { cause, message, .. } => texts.iter().any(|text| cause.contains(text) || message.contains(text)),
            _ => false,
        }
    }

    /// The service is gone (or hangs): nothing was refused, and the same call may succeed later.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Connection { .. } | Self::Deadline { .. })
    }

    /// Trying the same call again later may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.is_connection()
            // SQLite under parallel calls (Podman 4.5 and later).
            || self.mentions(&["database is locked", "resource temporarily unavailable"])
    }

    /// The container, pod, image or exec session does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        let by_status = matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND);
        by_status || self.mentions(&["no such container", "no such pod", "no such exec session", "image not known", "no such image"])
    }

    /// The image that a container is made of, or that was asked for, is not in the store.
    #[must_use]
    pub fn is_image_unknown(&self) -> bool {
        self.mentions(&["image not known", "no such image"])
            || (matches!(
                self.operation(),
                Operation::ContainerCreate | Operation::ImageInspect | Operation::ImageExists | Operation::ImageRemove
            ) && matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
                && !self.mentions(&["no such pod", "no such container"]))
    }

    /// Another container or pod has the name.
    #[must_use]
    pub fn is_name_in_use(&self) -> bool {
        self.mentions(&["name is already in use", "is already in use by", "pod already exists", "container already exists"])
    }

    /// The object is in a state that does not allow the call: it is not running, still in use, or its name is taken.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let by_status = matches!(self, Self::Status { status, .. } if *status == StatusCode::CONFLICT);
        by_status || self.is_name_in_use() || self.is_wrong_state() || self.mentions(&["is in use by"])
    }

    /// The container is not in the state that the call needs (for `kill`: it does not run).
    #[must_use]
    pub fn is_wrong_state(&self) -> bool {
        self.mentions(&["container state improper", "can only kill running containers"])
    }
}
