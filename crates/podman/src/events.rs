//! Podman's events: hints that something changed, never the truth.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;

use bytes::BytesMut;
use futures::Stream;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::Deserialize;

use crate::Result;
use crate::client::Client;
use crate::error::{Error, Operation};
use crate::transport::Call;
use crate::wire::{encode, nullable};

/// Longest line that is believed; a longer one is not Podman's.
const MAX_LINE: usize = 4 << 20;

/// Something that happened to a container, pod or image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `container`, `pod`, `image`, `volume`, `system`, …
    pub kind: String,
    /// `create`, `init`, `start`, `died`, `cleanup`, `remove`, `pull`, …
    pub status: String,
    /// ID of what it happened to.
    pub id: String,
    /// Name of what it happened to.
    pub name: String,
    /// ID of the Podman pod; empty when none.
    pub pod_id: String,
    /// Image of the container.
    pub image: String,
    /// Exit code, for `died`.
    pub exit_code: Option<i32>,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// When, in nanoseconds since 1970. With `id` it tells repeated events apart.
    pub time_nano: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawEvent {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Action")]
    action: String,
    status: String,
    #[serde(rename = "Actor", deserialize_with = "nullable")]
    actor: RawActor,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawActor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes", deserialize_with = "nullable")]
    attributes: BTreeMap<String, String>,
}

impl From<RawEvent> for Event {
    fn from(raw: RawEvent) -> Self {
        let mut labels = raw.actor.attributes;
        let mut take = |key: &str| labels.remove(key).unwrap_or_default();
        let (image, name, pod_id) = (take("image"), take("name"), take("podId"));
        let exit_code = take("containerExitCode").parse().ok();
        let status = if raw.action.is_empty() { raw.status } else { raw.action };
        Self {
            kind: raw.kind,
            // The compatibility layer's word, should it ever come through here.
            exit_code: exit_code.filter(|_| status == "died" || status == "die"),
            status,
            id: raw.actor.id,
            name,
            pod_id,
            image,
            labels,
            time_nano: raw.time_nano,
        }
    }
}

/// A stream of events. Ends with an error when the connection does; ends without one when the service closes it.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event>> + Send>>;

impl Client {
    /// Opens the stream of events, from `since` on or from now on.
    ///
    /// One long-lived stream is the way to use it: Podman leaks a little with each. Lines that are no events are skipped.
    pub async fn events(&self, since: Option<Timestamp>) -> Result<EventStream> {
        use futures::StreamExt as _;
        let mut call = Call::new(Operation::Events, "", Method::GET, "/events".to_owned()).query("stream", "true");
        if let Some(since) = since {
            call = call.query("since", &encode(&since.to_string()));
        }
        let response = self.transport.stream(&call).await?;
        let lines = json_lines::<RawEvent>(response.into_body(), Operation::Events, "");
        Ok(Box::pin(lines.map(|line| line.map(Event::from))))
    }
}

/// The JSON documents of a reply, one per line, as they come.
pub(crate) fn json_lines<T: for<'de> Deserialize<'de> + Send + 'static>(
    body: Incoming,
    operation: Operation,
    object: &str,
) -> Pin<Box<dyn Stream<Item = Result<T>> + Send>> {
    let state = Lines { body, operation, object: object.to_owned(), buffer: LineBuffer::default(), ended: false };
    Box::pin(futures::stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some((item, state))
    }))
}

struct Lines {
    body: Incoming,
    operation: Operation,
    object: String,
    buffer: LineBuffer,
    ended: bool,
}

impl Lines {
    async fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Option<Result<T>> {
        loop {
            if let Some(line) = self.buffer.lines.pop_front() {
                let decoded = serde_json::from_slice(&line).map_err(|source| Error::Decode {
                    operation: self.operation,
                    object: self.object.clone(),
                    source,
                });
                self.ended |= decoded.is_err();
                return Some(decoded);
            }
            if self.ended {
                return None;
            }
            let source: Box<dyn std::error::Error + Send + Sync> = match self.body.frame().await {
                None => {
                    self.ended = true;
                    self.buffer.finish();
                    continue;
                }
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    if self.buffer.push(&data) {
                        continue;
                    }
                    format!("a line of more than {MAX_LINE} bytes").into()
                }
                Some(Err(error)) => error.into(),
            };
            self.ended = true;
            return Some(Err(Error::Connection { operation: self.operation, object: self.object.clone(), source }));
        }
    }
}

#[derive(Default)]
struct LineBuffer {
    partial: BytesMut,
    lines: VecDeque<BytesMut>,
}

impl LineBuffer {
    /// Takes a piece of the reply; false when a line grows beyond all reason.
    fn push(&mut self, mut data: &[u8]) -> bool {
        while let Some(end) = data.iter().position(|&b| b == b'\n') {
            self.partial.extend_from_slice(&data[..end]);
            data = &data[end + 1..];
            self.finish();
        }
        self.partial.extend_from_slice(data);
        self.partial.len() <= MAX_LINE
    }

    fn finish(&mut self) {
        let line = self.partial.split();
        if !line.iter().all(u8::is_ascii_whitespace) {
            self.lines.push_back(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_pieces_end() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\n{\"c\":3}";
        for size in 1..text.len() {
            let mut buffer = LineBuffer::default();
            for piece in text.chunks(size) {
                assert!(buffer.push(piece));
            }
            buffer.finish();
            let lines: Vec<_> = buffer.lines.iter().map(|l| &l[..]).collect();
            assert_eq!(lines, [&b"{\"a\":1}"[..], b"{\"b\":2}", b"{\"c\":3}"], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buffer = LineBuffer::default();
        assert!(!buffer.push(&vec![b'x'; MAX_LINE + 1]));
    }
}
