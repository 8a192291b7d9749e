//! Port-forward over SPDY: for each connection the client opens an error stream, then a data stream, and says in their headers which two
//! belong together.

use std::collections::HashMap;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{DataStream, ErrorStream, Forwarded};
use crate::connection::{Connection, End};
use crate::limits::Settings;
use crate::spdy::{self, Incoming};

const STREAM_TYPE: &str = "streamtype";
const PORT: &str = "port";
const REQUEST_ID: &str = "requestid";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// What the headers of a stream say.
#[derive(Debug, PartialEq, Eq)]
struct Purpose {
    kind: Kind,
    port: u16,
    request_id: String,
}

impl Purpose {
    /// None: a header is missing or wrong, the stream is refused.
    fn of(incoming: &Incoming) -> Option<Self> {
        let get = |name| incoming.headers.get(name);
        Self::parse(incoming.id, get(STREAM_TYPE)?, get(PORT)?, get(REQUEST_ID).unwrap_or_default())
    }

    fn parse(id: u32, kind: &str, port: &str, request_id: &str) -> Option<Self> {
        let kind = match kind {
            "data" => Kind::Data,
            "error" => Kind::Error,
            _ => return None,
        };
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let request_id = match (request_id, kind) {
            // Clients before Kubernetes 1.2 name no request; they open the error stream right before the data stream.
            ("", Kind::Error) => id.to_string(),
            ("", Kind::Data) => id.checked_sub(2)?.to_string(),
            (request_id, _) => request_id.to_owned(),
        };
        Some(Self { kind, port, request_id })
    }
}

/// A connection of which not both streams have come.
struct Pending {
    deadline: Instant,
    data: Option<(u16, DataStream)>,
    error: Option<ErrorStream>,
}

pub(super) struct Pairs {
    connection: Connection,
    incoming: mpsc::Receiver<Incoming>,
    pending: HashMap<String, Pending>,
    settings: Settings,
}

impl Pairs {
    pub(super) fn new<S>(socket: S, settings: Settings) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (connection, incoming) = spdy::serve(socket, &settings);
        Self { connection, incoming, pending: HashMap::new(), settings }
    }

    pub(super) async fn accept(&mut self) -> Option<Forwarded> {
        loop {
            let deadline = self.pending.values().map(|pending| pending.deadline).min();
            let expiry = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                incoming = self.incoming.recv() => if let Some(forwarded) = self.add(incoming?) {
                    return Some(forwarded);
                },
                () = expiry => self.expire(),
            }
        }
    }

    pub(super) async fn close(self) -> End {
        self.connection.close(spdy::goodbye).await
    }

    fn add(&mut self, incoming: Incoming) -> Option<Forwarded> {
        let Some(Purpose { kind, port, request_id }) = Purpose::of(&incoming) else {
            tracing::debug!(id = incoming.id, "refused a stream without a valid port and type");
            incoming.refuse();
            return None;
        };
        let deadline = Instant::now() + self.settings.stream_creation;
        let pending = self.pending.entry(request_id.clone()).or_insert(Pending { deadline, data: None, error: None });
        let taken = match kind {
            Kind::Data => pending.data.is_some(),
            Kind::Error => pending.error.is_some(),
        };
        if taken {
            if let Some(error) = &pending.error {
                let name = if kind == Kind::Data { "data" } else { "error" };
                error.write(&format!("error processing stream for request {request_id}: {name} stream already assigned"));
            }
            incoming.refuse();
            return None;
        }
        let (reader, sender) = incoming.accept();
        match kind {
            Kind::Data => pending.data = Some((port, DataStream { reader, sender, _open: None })),
            // The client writes nothing there.
            Kind::Error => pending.error = Some(ErrorStream { sender }),
        }
        if pending.data.is_none() || pending.error.is_none() {
            return None;
        }
        let Pending { deadline: _, data, error } = self.pending.remove(&request_id)?;
        let (port, data) = data?;
        Some(Forwarded { port, request_id, data, error: error? })
    }

    /// Gives up what has waited too long; the client hears of it where there is an error stream.
    fn expire(&mut self) {
        let now = Instant::now();
        self.pending.retain(|request_id, pending| {
            let wait = pending.deadline > now;
            if let (false, Some(error)) = (wait, &pending.error) {
                error.write(&format!("(request={request_id}) timed out waiting for streams"));
            }
            wait
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes() {
        let purpose = |kind, port, id: &str| Some(Purpose { kind, port, request_id: id.to_owned() });
        let table = [
            ((1, "error", "80", "0"), purpose(Kind::Error, 80, "0")),
            ((3, "data", "65535", "0"), purpose(Kind::Data, 65_535, "0")),
            ((5, "error", "80", ""), purpose(Kind::Error, 80, "5")),
            ((7, "data", "80", ""), purpose(Kind::Data, 80, "5")),
            ((1, "data", "80", ""), None),
            ((1, "error", "0", "0"), None),
            ((1, "error", "65536", "0"), None),
            ((1, "error", "http", "0"), None),
            ((1, "stdin", "80", "0"), None),
        ];
        for ((id, kind, port, request), expected) in table {
            assert_eq!(Purpose::parse(id, kind, port, request), expected, "{id} {kind} {port} {request}");
        }
    }
}
