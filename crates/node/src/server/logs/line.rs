//! One line of a CRI log: `<RFC 3339 time> stdout|stderr <tags> <content>`.

use jiff::Timestamp;

/// Which output of the container a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// A parsed line; borrows from the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) time: Timestamp,
    /// The time as it is written in the file.
    time_text: &'a str,
    pub(super) stream: Stream,
    /// The output itself as bytes. A whole line ends in a newline, a partial one (`P`) does not.
    pub(super) content: &'a [u8],
}

impl<'a> Line<'a> {
    /// Parses one raw line with its newline, if it has one. `None` where it is not a CRI line.
    pub(super) fn parse(raw: &'a [u8]) -> Option<Self> {
        let (time, rest) = split_at_space(raw)?;
        let time_text = std::str::from_utf8(time).ok()?;
        let (stream, rest) = split_at_space(rest)?;
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let (tags, mut content) = split_at_space(rest)?;
        // Tags are a list so that more can come; only the first one is defined.
        let partial = tags.split(|b| *b == b':').next() == Some(b"P");
        if partial {
            content = content.strip_suffix(b"\n").unwrap_or(content);
        }
        Some(Self { time: time_text.parse().ok()?, time_text, stream, content })
    }

    /// Writes the time the way the kubelet does: nine fraction digits, `Z` for an offset of zero.
    pub(super) fn write_time(&self, out: &mut Vec<u8>) {
        let text = self.time_text;
        // `2026-01-02T03:04:05` is 19 characters; what parsed as a timestamp has at least these.
        let (seconds, rest) = text.split_at_checked(19).unwrap_or((text, ""));
        let digits = rest.strip_prefix('.').unwrap_or("");
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let (digits, offset) = match rest.strip_prefix('.') {
            Some(_) => digits.split_at(end),
            None => ("", rest),
        };
        out.extend_from_slice(seconds.as_bytes());
        out.push(b'.');
        out.extend_from_slice(&digits.as_bytes()[..digits.len().min(9)]);
        out.resize(out.len() + 9usize.saturating_sub(digits.len()), b'0');
        match offset {
            "+00:00" | "-00:00" => out.push(b'Z'),
            other => out.extend_from_slice(other.as_bytes()),
        }
    }
}

fn split_at_space(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time_of(text: &str) -> String {
        let raw = format!("{text} stdout F x\n");
        let mut out = Vec::new();
        Line::parse(raw.as_bytes()).unwrap().write_time(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_written_as_the_kubelet_writes_them() {
        // conmon's form, then containerd's.
        assert_eq!(time_of("2026-11-24T03:51:24.123456789+00:00"), "2026-11-24T03:51:24.123456789Z");
        assert_eq!(time_of("2026-11-24T03:51:24.1Z"), "2026-11-24T03:51:24.100000000Z");
        assert_eq!(time_of("2026-11-24T03:51:24+02:00"), "2026-11-24T03:51:24.000000000+02:00");
    }

    #[test]
    fn content_is_bytes_and_partial_lines_lose_their_newline() {
        let parse = |raw: &'static [u8]| Line::parse(raw).map(|l| (l.stream, l.content));
        assert_eq!(parse(b"2026-11-24T03:51:24Z stderr F a b \xff\xfe\n"), Some((Stream::Stderr, &b"a b \xff\xfe\n"[..])));
        assert_eq!(parse(b"2026-11-24T03:51:24Z stdout P:x half\n"), Some((Stream::Stdout, &b"half"[..])));
        assert_eq!(parse(b"2026-11-24T03:51:24Z stdout F \n"), Some((Stream::Stdout, &b"\n"[..])));
    }

    #[test]
    fn what_is_not_a_cri_line_is_none() {
        for raw in [
            &b""[..],
            b"\n",
            b"plain text\n",
            b"2026-11-24T03:51:24Z stdout F",
            b"2026-11-24T03:51:24Z stdin F x\n",
            b"2026-11-24 stdout F x\n",
            b"\xff\xff stdout F x\n",
        ] {
            assert_eq!(Line::parse(raw), None, "{raw:?}");
        }
    }
}
