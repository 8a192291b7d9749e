//! Reads a container's log file and renders what the options ask for. Blocking; knows no HTTP and no pods.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::line::Line;
use super::options::LogOptions;
use crate::log_rotation::files::{kept, open_kept, put_aside};

/// How much is read at once, and so about how much is rendered at once.
const CHUNK: usize = 64 * 1024;
/// A line longer than this is not a CRI line (conmon cuts at 8 KiB, other runtimes at 16 KiB): it is skipped
/// instead of being held in memory.
const LONGEST_LINE: usize = 1024 * 1024;

/// The outcome of one [`LogReader::step`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes for the client; there may be more. Empty where the chunk held nothing that was asked for.
    Data(Vec<u8>),
    /// The end of the file as it is now.
    End,
    /// Everything that was asked for has been sent: a limit is reached.
    Done,
}

/// A position in a log file, with the state of the rendering.
pub(super) struct LogReader {
    path: PathBuf,
    file: File,
    /// The newest name of a file put aside that is `file`'s own, or came before it.
    after: Option<PathBuf>,
    /// `file` was the one that is written when it was opened: its name among those put aside is yet to come.
    live: bool,
    options: LogOptions,
    /// Read, but not yet a whole line.
    pending: Vec<u8>,
    /// The line in `pending` is too long and is being skipped.
    overlong: bool,
    /// The next output begins a line, so a time goes before it.
    at_line_start: bool,
    /// Lines left to send where `tailLines` counts them.
    lines_left: Option<u64>,
    /// Bytes left to send.
    bytes_left: u64,
}

impl LogReader {
    /// Opens the log at the place where the options let it begin. Between the two steps of a rotation, and after one that the end
    /// of the container cut short, that is the file that was put aside last.
    pub(super) fn open(path: &Path, options: LogOptions) -> io::Result<Self> {
        let opened = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => put_aside(path).unwrap_or_default().last().map(File::open),
            other => Some(other),
        };
        let mut file = opened.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?;
        let own = identity(&file)?;
        let mut names = kept(path).unwrap_or_default();
        let live = match names.iter().position(|aside| path_identity(aside) == Some(own)) {
            Some(at) => {
                names.truncate(at + 1);
                false
            }
            None => true,
        };
        if let Some(lines) = options.tail_lines {
            let start = tail_start(&file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            after: names.pop(),
            live,
            pending: Vec::new(),
            overlong: false,
            at_line_start: true,
            lines_left: options.tail_lines.filter(|_| !options.follow),
            bytes_left: options.limit_bytes.unwrap_or(u64::MAX),
            options,
        })
    }

    /// Reads and renders the next chunk.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        if self.is_done() {
            return Ok(Step::Done);
        }
        let begin = self.pending.len();
        self.pending.resize(begin + CHUNK, 0);
        let read = match self.file.read(&mut self.pending[begin..]) {
            Ok(read) => read,
            Err(error) => {
                self.pending.truncate(begin);
                return Err(error);
            }
        };
        self.pending.truncate(begin + read);
        if read == 0 {
            return Ok(Step::End);
        }
        let mut out = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while let Some(at) = rest.iter().position(|b| *b == b'\n') {
            let (line, after) = rest.split_at(at + 1);
            rest = after;
            if !std::mem::take(&mut self.overlong) {
                self.render(line, &mut out);
            }
            if self.is_done() {
                return Ok(Step::Data(out));
            }
        }
        if self.overlong || rest.len() > LONGEST_LINE {
            self.overlong = true;
        } else {
            self.pending = rest.to_vec();
        }
        Ok(Step::Data(out))
    }

    /// Renders a last line that has no newline: nothing more will be written.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let line = std::mem::take(&mut self.pending);
        if !self.is_done() && !line.is_empty() {
            self.render(&line, &mut out);
        }
        out
    }

    /// At the end of the file: whether there is another file to read now, or this one was cut. Takes what was still written to
    /// the old file into account, and files that came and were put aside since, as long as they are kept.
    pub(super) fn follow_rotation(&mut self) -> io::Result<bool> {
        let new = match File::open(&self.path) {
            Ok(file) => file,
            // Between the rename and the creation of the new file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let own = identity(&self.file)?;
        let position = self.file.stream_position()?;
        // After the new file was seen: its writer writes no more to ours.
        let len = self.file.metadata()?.len();
        if own == identity(&new)? {
            if len >= position {
                return Ok(false);
            }
            // Cut to be written anew (copytruncate).
            self.file.seek(SeekFrom::Start(0))?;
            self.pending.clear();
            return Ok(true);
        }
        if len > position {
            return Ok(true);
        }
        self.go_on(new, own)?;
        self.pending.clear();
        Ok(true)
    }

    /// Takes the file after ours; `newest` is the one at the path.
    fn go_on(&mut self, newest: File, own: (u64, u64)) -> io::Result<()> {
        let mut names = kept(&self.path)?;
        names.retain(|name| self.after.as_ref().is_none_or(|after| name > after));
        for name in names {
            match open_kept(&name) {
                // Ours, under the name that it was given since; by now it may be compressed.
                Ok(file) if self.live && (identity(&file)? == own || begin_alike(&file, &self.file)?) => self.live = false,
                Ok(file) => {
                    (self.file, self.after, self.live) = (file, Some(name), false);
                    return Ok(());
                }
                // Removed: more files came than are kept.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.after = Some(name);
        }
        (self.file, self.live) = (newest, true);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.bytes_left == 0 || self.lines_left == Some(0)
    }

    fn render(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = Line::parse(raw) else {
            return;
        };
        if let Some(left) = &mut self.lines_left {
            *left -= 1;
        }
        let starts_line = self.at_line_start;
        self.at_line_start = line.content.last().is_none_or(|b| *b == b'\n');
        if self.options.since.is_some_and(|since| line.time < since) || self.options.stream.is_some_and(|only| line.stream != only) {
            return;
        }
        let begin = out.len();
        if self.options.timestamps && starts_line {
            line.write_time(out);
            out.push(b' ');
        }
        out.extend_from_slice(line.content);
        let limit = usize::try_from(self.bytes_left).unwrap_or(usize::MAX);
        let written = (out.len() - begin).min(limit);
        out.truncate(begin + written);
        self.bytes_left -= written as u64;
    }
}

/// Device and inode.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    let file = file.metadata()?;
    Ok((file.dev(), file.ino()))
}

/// Whether two logs begin with the same line; each line begins with its time in nanoseconds.
fn begin_alike(one: &File, other: &File) -> io::Result<bool> {
    let beginning = |file: &File| {
        let mut bytes = [0; 64];
        file.read_at(&mut bytes, 0).map(|read| bytes[..read].to_vec())
    };
    Ok(beginning(one)? == beginning(other)?)
}

fn path_identity(path: &Path) -> Option<(u64, u64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Where the last `lines` whole lines begin. Reads backwards: the cost depends on the lines, not on the file. As with
/// the kubelet, a last line without a newline does not count as one.
fn tail_start(file: &File, lines: u64) -> io::Result<u64> {
    const BLOCK: u64 = 16 * 1024;
    let mut block = vec![0; BLOCK as usize];
    let mut end = file.metadata()?.len();
    let mut seen = 0;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        let part = &mut block[..(end - begin) as usize];
        file.read_exact_at(part, begin)?;
        for (at, byte) in part.iter().enumerate().rev() {
            if *byte == b'\n' {
                seen += 1;
                if seen > lines {
                    return Ok(begin + at as u64 + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
