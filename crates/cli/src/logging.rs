//! The log, on stderr: text for people or JSON for programs; and how the program reports its own end.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context, Result};
use kube_pet_node::config::{LogFormat, Logging};
use tracing_subscriber::EnvFilter;

/// A library whose warnings are ordinary events of networks.
const LOUD: &str = "boringtun";

/// Starts the log. `RUST_LOG`, where it is set, overrides the level.
pub fn start(logging: &Logging) -> Result<()> {
    let Logging { level, format } = logging;
    let directives = std::env::var("RUST_LOG").ok().filter(|set| !set.is_empty()).unwrap_or_else(|| level.clone());
    // Of every handshake that is not answered; what it means is told by the tunnel itself.
    let directives = if directives.contains(LOUD) { directives } else { format!("{directives},{LOUD}=off") };
    let filter = EnvFilter::try_new(&directives).with_context(|| format!("log level {directives:?}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}

/// Tells why the program ends: what was being done, then each cause, one per line.
pub fn failure(error: &anyhow::Error) {
    let mut text = format!("kube-pet: {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  because: {cause}\n"));
    }
    // Nobody is left to tell when stderr is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
