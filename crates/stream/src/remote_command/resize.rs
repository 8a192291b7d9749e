//! Sizes of the client's terminal: JSON objects one after another, `{"Width":120,"Height":40}`.

use serde::Deserialize;
use tokio::io::AsyncReadExt;

use crate::channel::Reader;

/// Bytes of an object that is not complete. A size takes about thirty.
const MAX_PENDING: usize = 4096;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width", alias = "width", default)]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height", alias = "height", default)]
    pub height: u16,
}

/// Receives the sizes of the client's terminal.
#[derive(Debug)]
pub struct ResizeReceiver {
    reader: Reader,
    pending: Vec<u8>,
}

impl ResizeReceiver {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, pending: Vec::new() }
    }

    /// Waits for a new size: the newest, when several have come since. None at the end of the session, or when the client sends something
    /// that is no size; it is not asked again then. May be cancelled without a loss.
    ///
    /// Sizes with a zero are passed over: clients without a terminal send them, and no terminal can be of that size.
    pub async fn recv(&mut self) -> Option<TerminalSize> {
        loop {
            let (newest, used) = newest(&self.pending)?;
            self.pending.drain(..used);
            if let Some(size) = newest {
                return Some(size);
            }
            if self.pending.len() > MAX_PENDING {
                return None;
            }
            let mut chunk = [0; 1024];
            let count = self.reader.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
            self.pending.extend_from_slice(&chunk[..count]);
        }
    }
}

/// The last complete size, and how many bytes are done with. None: that is not a sequence of sizes.
pub(crate) fn newest(bytes: &[u8]) -> Option<(Option<TerminalSize>, usize)> {
    let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter::<TerminalSize>();
    let (mut newest, mut used) = (None, 0);
    loop {
        match stream.next() {
            Some(Ok(size)) => {
                used = stream.byte_offset();
                if size.width > 0 && size.height > 0 {
                    newest = Some(size);
                }
            }
            Some(Err(error)) if error.is_eof() => return Some((newest, used)),
            Some(Err(_)) => return newest.map(|size| (Some(size), used)),
            None => return Some((newest, used)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_one_after_another() {
        type Case<'a> = (&'a str, Option<(Option<TerminalSize>, usize)>);
        let size = |width, height| Some(TerminalSize { width, height });
        let table: [Case<'_>; 9] = [
            ("", Some((None, 0))),
            (r#"{"Width":80,"Height":24}"#, Some((size(80, 24), 24))),
            (r#"{"Width":80,"Height":24}{"Width":90,"Height":30}"#, Some((size(90, 30), 48))),
            (r#"{"Width":80,"Height":24}{"Width":9"#, Some((size(80, 24), 24))),
            (r#"{"width":80,"height":24}"#, Some((size(80, 24), 24))),
            (r#"{"Width":0,"Height":0}"#, Some((None, 22))),
            (r#"{"Width":80,"Height":24}garbage"#, Some((size(80, 24), 24))),
            ("garbage", None),
            (r#"{"Width":-1,"Height":24}"#, None),
        ];
        for (text, expected) in table {
            assert_eq!(newest(text.as_bytes()), expected, "{text}");
        }
    }
}
