//! The subcommands: configuration, log, runtime, signals; the work is the agent's.

pub mod cluster;
pub mod joining;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use kube_pet_host::memory;
use kube_pet_node::app;
use kube_pet_node::config::NodeConfiguration;
use kube_pet_node::doctor::{self, Finding, Severity};
use kube_pet_node::user_namespaces::hook;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::VERSION;
use crate::arguments::{ConfigOptions, DoctorOptions, NodeOptions, Output, RunOptions};
use crate::logging;

/// `kube-pet node`
pub fn node(options: &NodeOptions) -> Result<ExitCode> {
    memory::keep_little();
    let config = load(&options.config)?;
    if options.print_config {
        return print(&config.to_yaml()?);
    }
    logging::start(&config.logging)?;
    info!(version = VERSION, node = config.node_name, "starting");
    runtime()?.block_on(async {
        let shutdown = end_on_signal("ending; the pods run on")?;
        app::run_node(config, VERSION, shutdown).await.map_err(anyhow::Error::from)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `kube-pet run`
pub fn run(options: &RunOptions) -> Result<ExitCode> {
    memory::keep_little();
    let config = load(&options.config)?;
    logging::start(&config.logging)?;
    let files = manifests(&options.files)?;
    runtime()?.block_on(async {
        let shutdown = end_on_signal("ending; the pods run on")?;
        app::run_files(config, VERSION, files, shutdown).await.map_err(anyhow::Error::from)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The files, and those in the folders, by name.
fn manifests(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("listing the folder {}", path.display()))?;
        let mut found: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known)))
            .collect();
        anyhow::ensure!(!found.is_empty(), "the folder {} holds no manifest (*.yaml, *.yml, *.json)", path.display());
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

/// `kube-pet doctor`: fails when an error is left.
pub fn doctor(options: &DoctorOptions) -> Result<ExitCode> {
    let config = load(&options.config)?;
    let findings = runtime()?.block_on(async {
        let mut findings = doctor::examine(&config, !options.offline).await;
        if options.fix {
            let tried = doctor::repair(&findings).await;
            if !tried.is_empty() {
                findings = doctor::examine(&config, !options.offline).await;
            }
            findings.extend(tried.into_iter().filter_map(|(id, result)| Some(Finding::failed_repair(id, &result.err()?))));
        }
        findings
    });
    match options.output {
        Output::Text => print(&doctor::text(&findings))?,
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&findings)?))?,
    };
    Ok(if doctor::worst(&findings) == Severity::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `kube-pet user-namespace-hook`, which Podman runs.
pub fn user_namespace_hook() -> Result<ExitCode> {
    let configuration = std::io::read_to_string(std::io::stdin()).context("reading the container's OCI configuration")?;
    print(&hook::join(&configuration)?)
}

/// `kube-pet version`
pub fn version() -> Result<ExitCode> {
    print(&format!("kube-pet {VERSION}\n"))
}

fn load(options: &ConfigOptions) -> Result<NodeConfiguration> {
    let source = options.source().context("finding the working directory")?;
    Ok(NodeConfiguration::load(&source)?)
}

fn print(text: &str) -> Result<ExitCode> {
    std::io::stdout().write_all(text.as_bytes()).context("writing to stdout")?;
    Ok(ExitCode::SUCCESS)
}

/// Two workers: the agent waits far more than it computes.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    // The one that is linked; a second call in a process is refused, and no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting the runtime")
}

/// Cancelled at SIGTERM and SIGINT.
pub(crate) fn end_on_signal(told: &'static str) -> Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("{told}");
        token.cancel();
    });
    Ok(shutdown)
}
