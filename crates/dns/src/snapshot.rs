//! The cache as a file's content, for the next run. A format of its own, of lengths and bytes: what is kept is bytes already.
//!
//! ```text
//! "kube-pet dns cache 1\n", wall clock (s, u64)
//! then each: key length (u16), key, message length (u16), message, TTL (s, u32), age (s, u64); numbers with the highest byte first
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::message;
use crate::moment::Moment;

const HEAD: &[u8] = b"kube-pet dns cache 1\n";

/// Why a snapshot is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Another format, or something else.
    #[error("it does not begin as a snapshot of this version does")]
    Head,
    /// It ends early.
    #[error("it ends within entry {entry}")]
    Cut {
        /// Its number, from 0 on.
        entry: usize,
    },
    /// Bytes that are no answer to their question.
    #[error("entry {entry} is no answer to its question")]
    Entry {
        /// Its number, from 0 on.
        entry: usize,
    },
}

/// `wall` is the time since 1970: it goes on over a restart, other than `now`.
pub(crate) fn write(cache: &Cache, now: Moment, wall: Duration) -> Vec<u8> {
    let mut out = HEAD.to_vec();
    out.extend(wall.as_secs().to_be_bytes());
    for (key, entry) in cache.entries() {
        for part in [key.bytes(), &entry.kept] {
            // Neither is longer: a name has 255 bytes, and longer messages are not kept.
            out.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend(part.iter().take(u16::MAX.into()));
        }
        out.extend(entry.ttl.to_be_bytes());
        out.extend(now.since(entry.learnt).as_secs().to_be_bytes());
    }
    out
}

/// Puts the entries of a snapshot into a cache; how many. Nothing of one that is damaged is used.
pub(crate) fn read(mut bytes: &[u8], cache: &mut Cache, now: Moment, wall: Duration) -> Result<usize, SnapshotError> {
    bytes = bytes.strip_prefix(HEAD).ok_or(SnapshotError::Head)?;
    let written = number(&mut bytes).map(u64::from_be_bytes).ok_or(SnapshotError::Head)?;
    // A clock that has gone backwards (a machine without a battery, before it has asked for the time) tells nothing.
    let elapsed = wall.as_secs().checked_sub(written);
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let entry = entries.len();
        let (key, kept, ttl, age) = fields(&mut bytes).ok_or(SnapshotError::Cut { entry })?;
        let key = message::restore(key, kept).ok_or(SnapshotError::Entry { entry })?;
        // What cannot be told to hold still does not; how stale it is counts from now on.
        let age = elapsed.map_or(age.max(ttl.into()), |elapsed| age.saturating_add(elapsed));
        entries.push((key, Arc::from(kept), ttl, now.before(Duration::from_secs(age))));
    }
    let count = entries.len();
    for (key, kept, ttl, learnt) in entries {
        cache.put(key, kept, ttl.min(message::MAX_TTL), learnt);
    }
    Ok(count)
}

fn fields<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8], u32, u64)> {
    let key = part(bytes)?;
    let kept = part(bytes)?;
    Some((key, kept, number(bytes).map(u32::from_be_bytes)?, number(bytes).map(u64::from_be_bytes)?))
}

fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(bytes).map(u16::from_be_bytes)?;
    let (part, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    Some(part)
}

fn number<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*number)
}

#[cfg(test)]
mod tests;
