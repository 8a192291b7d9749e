//! `kube-pet join` and `kube-pet leave`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use kube_pet_node::config::{LogFormat, Logging, NodeConfiguration};
use kube_pet_node::join;

use super::runtime;
use crate::VERSION;
use crate::arguments::joining::{JoinOptions, LeaveOptions};
use crate::logging;

/// `kube-pet join`
pub fn join(options: &JoinOptions) -> Result<ExitCode> {
    let JoinOptions { token, config, wait, ignore_findings } = options;
    let source = config.source().context("finding the working directory")?;
    let options = join::JoinOptions {
        token: token.clone(),
        config_file: source.main_file(),
        settings: source.flags_as_file(),
        wait: Duration::from_secs(*wait),
        ignore_findings: *ignore_findings,
    };
    // A file that is named and not there is about to be written.
    let source = if options.config_file.exists() { source } else { kube_pet_node::config::ConfigSource { file: None, ..source } };
    let config = NodeConfiguration::load(&source)?;
    runtime()?.block_on(join::join(&config, &options, &say))?;
    Ok(ExitCode::SUCCESS)
}

/// `kube-pet leave`
pub fn leave(options: &LeaveOptions) -> Result<ExitCode> {
    let LeaveOptions { config, yes: _ } = options;
    let source = config.source().context("finding the working directory")?;
    let config = NodeConfiguration::load(&source)?;
    logging::start(&Logging { level: "warn".to_owned(), format: LogFormat::Text })?;
    runtime()?.block_on(join::leave(&config, &source.main_file(), VERSION, &say))?;
    Ok(ExitCode::SUCCESS)
}

fn say(text: &str) {
    // Nobody is left to tell when stdout is gone.
    let _ = writeln!(std::io::stdout(), "{text}");
}
