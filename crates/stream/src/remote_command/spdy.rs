//! Remote command over SPDY: the client opens one stream per direction and says in its headers what it is for.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::{Options, RemoteCommand, ResizeReceiver, Session, Streams, Version};
use crate::channel::{Reader, Sender, Writer};
use crate::connection::Connection;
use crate::error::OpenError;
use crate::limits::Settings;
use crate::spdy::{self, Incoming};

/// Header that names a stream's purpose.
const STREAM_TYPE: &str = "streamtype";

/// A stream's two directions.
type Stream = (Reader, Sender);

/// The streams that have been announced, and those that have come.
struct Expected {
    streams: Vec<(&'static str, Option<Stream>)>,
}

impl Expected {
    fn new(version: Version, options: Options) -> Self {
        let Options { stdin, stdout, stderr, tty } = options;
        let wanted = [("error", true), ("stdin", stdin), ("stdout", stdout), ("stderr", stderr), ("resize", tty && version >= Version::V3)];
        Self { streams: wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| (name, None)).collect() }
    }

    /// Takes a stream that is awaited, refuses any other.
    fn add(&mut self, incoming: Incoming) {
        let name = incoming.headers.get(STREAM_TYPE).unwrap_or_default();
        match self.streams.iter_mut().find(|(awaited, stream)| *awaited == name && stream.is_none()) {
            Some((_, stream)) => *stream = Some(incoming.accept()),
            None => {
                tracing::debug!(id = incoming.id, streamtype = name, "refused a stream that is not part of the session");
                incoming.refuse();
            }
        }
    }

    /// The error stream, once all have come; until then, the names of those that are missing.
    fn complete(&mut self) -> Result<Sender, String> {
        let missing: Vec<_> = self.streams.iter().filter(|(_, stream)| stream.is_none()).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            return Err(missing.join(", "));
        }
        self.take("error").map(|(_, error)| error).ok_or_else(|| "error".to_owned())
    }

    fn take(&mut self, name: &str) -> Option<Stream> {
        self.streams.iter_mut().find(|(known, _)| *known == name).and_then(|(_, stream)| stream.take())
    }
}

pub(super) async fn open<S>(socket: S, version: Version, options: Options, settings: Settings) -> Result<RemoteCommand, OpenError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, mut incoming) = spdy::serve(socket, &settings);
    let mut expected = Expected::new(version, options);
    let deadline = Instant::now() + settings.stream_creation;
    loop {
        let missing = match expected.complete() {
            Ok(error) => return Ok(assemble(connection, version, settings, expected, error)),
            Err(missing) => missing,
        };
        match timeout_at(deadline, incoming.recv()).await {
            Ok(Some(stream)) => expected.add(stream),
            Ok(None) => return Err(OpenError::ClientClosed { missing }),
            Err(_) => {
                connection.close(spdy::goodbye).await;
                return Err(OpenError::StreamsMissing { waited: settings.stream_creation, missing });
            }
        }
    }
}

fn assemble(connection: Connection, version: Version, settings: Settings, mut expected: Expected, error: Sender) -> RemoteCommand {
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let mut input = |stream: Option<Stream>| {
        stream.map(|(reader, sender)| {
            inputs.push(sender);
            reader
        })
    };
    let stdin = input(expected.take("stdin"));
    let resize = input(expected.take("resize")).map(ResizeReceiver::new);
    // Nothing comes from the client on the others: their readers are dropped.
    let mut output = |stream: Option<Stream>| {
        stream.map(|(_, sender)| {
            outputs.push(sender.clone());
            Writer(sender)
        })
    };
    let stdout = output(expected.take("stdout"));
    let stderr = output(expected.take("stderr"));
    let session = Session { connection, version, settings, spdy: true, inputs, outputs, error };
    RemoteCommand { streams: Streams { stdin, stdout, stderr, resize }, session }
}
