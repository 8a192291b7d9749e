//! A machine whose clock is wrong. Namespaces share the machine's real one, so Debian's libfaketime tells the agent, `join` and the doctor
//! another time of day, by a file that may change while they run. What measures how long something takes is left as it is.
//!
//! Podman is not told: a Go program asks the kernel itself. conmon is not, either, because Podman gives it an environment of its own. So
//! what they write down, the times of containers and of lines of logs, is what a machine with the right clock writes.

use std::{env::consts::ARCH, fs, path::PathBuf};

use anyhow::{Context, Result};
use jiff::SignedDuration;

use crate::machine::Machine;

/// Where the machine has the difference, in seconds, as libfaketime reads it.
const FILE: &str = "/run/lab/clock";

/// The library, where a program of threads needs it.
pub fn library() -> PathBuf {
    PathBuf::from(format!("/usr/lib/{ARCH}-linux-gnu/faketime/libfaketimeMT.so.1"))
}

/// Moves the clock: ahead of the real one, or behind it. Programs that were started with [`environment`] see that within a second.
///
/// # Errors
/// When libfaketime is not installed, or the file cannot be written.
pub fn set(machine: &Machine, difference: SignedDuration) -> Result<()> {
    anyhow::ensure!(machine.path(library()).exists(), "{} is missing on {}: package libfaketime", library().display(), machine.name);
    let path = machine.path(FILE);
    let new = path.with_extension("new");
    fs::write(&new, format!("{:+}\n", difference.as_secs()))
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("write {}", path.display()))
}

/// What a program has to be started with to see the machine's clock; nothing where that was never set.
pub fn environment(machine: &Machine) -> Vec<(String, String)> {
    if !machine.path(FILE).exists() {
        return Vec::new();
    }
    let variables = [
        ("LD_PRELOAD", library().display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", FILE.to_owned()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
