//! Port-forward over the channels of a WebSocket: two for each port of the request, data and error, which begin with the port's number.

use std::collections::VecDeque;
use std::convert::Infallible;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::{DataStream, ErrorStream, Forwarded};
use crate::connection::{Connection, End};
use crate::error::OpenError;
use crate::limits::Settings;
use crate::websocket::frame::Encoding;
use crate::websocket::{self, Builder};

/// Ports in one request: two channels each, and 255 has a meaning of its own.
pub const MAX_PORTS: usize = 127;

/// Why the ports of a request are not valid. The API answers 400 with the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPorts {
    /// There is none.
    #[error("query parameter \"ports\" is required")]
    Missing,
    /// One is not a number from 1 to 65535.
    #[error("unable to parse {text:?} as a port")]
    NotAPort {
        /// What stands there.
        text: String,
    },
    /// There are too many.
    #[error("no more than {MAX_PORTS} ports can be forwarded over one WebSocket")]
    TooMany,
}

/// Reads the values of the query parameter `ports`, percent-decoded: each is a port or several with commas between.
///
/// # Errors
/// When there is none, one is not a port, or there are more than [`MAX_PORTS`].
pub fn parse_ports<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Vec<u16>, InvalidPorts> {
    let mut ports = Vec::new();
    for text in values.into_iter().flat_map(|value| value.split(',')) {
        let port = text.parse().ok().filter(|port| *port > 0);
        ports.push(port.ok_or_else(|| InvalidPorts::NotAPort { text: text.to_owned() })?);
    }
    match ports.len() {
        0 => Err(InvalidPorts::Missing),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(InvalidPorts::TooMany),
    }
}

/// Held by each port that is served; when all are dropped the session is at its end.
pub(super) type OpenPort = mpsc::Sender<Infallible>;

pub(super) struct Ports {
    connection: Connection,
    ready: VecDeque<Forwarded>,
    open: mpsc::Receiver<Infallible>,
    settings: Settings,
}

impl Ports {
    pub(super) fn new<S>(socket: S, encoding: Encoding, ports: &[u16], settings: &Settings) -> Result<Self, OpenError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if ports.is_empty() || ports.len() > MAX_PORTS {
            return Err(OpenError::PortCount { count: ports.len() });
        }
        let (held, open) = mpsc::channel(1);
        let mut connection = Builder::new(encoding, settings);
        let ready = ports.iter().enumerate().map(|(index, &port)| {
            let (data, error) = (connection.channel(), connection.channel());
            for sender in [&data.sender, &error.sender] {
                sender.send_now(&port.to_le_bytes());
            }
            let data = DataStream { reader: data.reader, sender: data.sender, _open: Some(held.clone()) };
            Forwarded { port, request_id: index.to_string(), data, error: ErrorStream { sender: error.sender } }
        });
        let ready = ready.collect();
        Ok(Self { connection: connection.serve(socket, false, settings), ready, open, settings: settings.clone() })
    }

    pub(super) async fn accept(&mut self) -> Option<Forwarded> {
        if let Some(forwarded) = self.ready.pop_front() {
            return Some(forwarded);
        }
        tokio::select! {
            none = self.open.recv() => none.map(|never| match never {}),
            _ = self.connection.ended() => None,
        }
    }

    pub(super) async fn close(self) -> End {
        let Self { connection, ready, open: _, settings } = self;
        drop(ready);
        connection.outbox.push(websocket::goodbye);
        // The client reads the rest and answers; it must not be cut off before.
        connection.close_after_client(settings.close, |_| {}).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        type Case<'a> = (&'a [&'a str], Result<Vec<u16>, InvalidPorts>);
        let wrong = |text: &str| Err(InvalidPorts::NotAPort { text: text.to_owned() });
        let table: [Case<'_>; 8] = [
            (&["80"], Ok(vec![80])),
            (&["80", "443"], Ok(vec![80, 443])),
            (&["80,443", "1,65535"], Ok(vec![80, 443, 1, 65_535])),
            (&[], Err(InvalidPorts::Missing)),
            (&[""], wrong("")),
            (&["80,"], wrong("")),
            (&["0"], wrong("0")),
            (&["65536"], wrong("65536")),
        ];
        for (values, expected) in table {
            assert_eq!(parse_ports(values.iter().copied()), expected, "{values:?}");
        }
        let many = vec!["1"; MAX_PORTS + 1];
        assert_eq!(parse_ports(many), Err(InvalidPorts::TooMany));
    }
}
