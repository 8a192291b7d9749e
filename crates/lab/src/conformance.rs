//! The official suite of Kubernetes against a lab, and the page that tells how it went.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::{
    builds::Builds,
    lab::{Lab, LabOptions},
    progress::say,
    topology::Topology,
};

mod list;
mod page;

pub use list::SpecList;
pub use page::{Surroundings, write_page};

/// Which part of the suite to run, and how.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Which specs.
    pub focus: Focus,
    /// Regular expression that a spec's name must not match.
    pub skip: String,
    /// How many specs run at once.
    pub procs: u16,
    /// What the cluster is made of.
    pub topology: Topology,
    /// When to give up.
    pub limit: Duration,
}

/// Which specs to run.
#[derive(Clone, Debug)]
pub enum Focus {
    /// Those whose names match a regular expression.
    Matching(String),
    /// Those of a list, all of which must run.
    Listed(SpecList),
}

impl Focus {
    fn expression(&self) -> String {
        match self {
            Self::Matching(expression) => expression.clone(),
            Self::Listed(list) => list.expression(),
        }
    }
}

impl fmt::Display for Focus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matching(expression) => write!(formatter, "`{expression}`"),
            Self::Listed(list) => write!(formatter, "the specs of `{}`", list.path().display()),
        }
    }
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    /// The specs that ran.
    pub specs: Vec<Spec>,
    /// Wall time.
    pub took: Duration,
}

/// One spec that ran.
#[derive(Debug)]
pub struct Spec {
    /// Its whole name.
    pub name: String,
    /// `passed`, `failed`, `timedout`, …
    pub state: String,
    /// How long it took.
    pub took: Duration,
    /// First line of its failure; empty when it passed.
    pub failure: String,
}

impl Report {
    /// Those that passed.
    pub fn passed(&self) -> usize {
        self.specs.len() - self.failures().count()
    }
    /// Those that did not pass.
    pub fn failures(&self) -> impl Iterator<Item = &Spec> {
        self.specs.iter().filter(|spec| spec.state != "passed")
    }
}

/// Starts a lab of its own with the selection's topology, runs the suite on it and removes it.
///
/// # Errors
/// When the lab does not come up or the suite does not run. Failed specs are no error: they are in the report.
pub async fn run(name: &str, selection: &Selection, output: &Path) -> Result<Report> {
    let mut options = LabOptions::new(name);
    options.keep_logs = Some(output.join("logs"));
    let lab = Lab::start(options).await?;
    selection.topology.build(&lab).await?;
    let report = run_on(&lab, selection, output).await;
    lab.stop().await?;
    report
}

/// Runs the suite on a lab whose nodes are Ready. `output` gets the suite's own log and reports.
///
/// # Errors
/// When the suite does not run.
pub async fn run_on(lab: &Lab, selection: &Selection, output: &Path) -> Result<Report> {
    fs::create_dir_all(output).with_context(|| format!("make {}", output.display()))?;
    let json = output.join("report.json");
    // A report of an earlier run must not pass for this one's.
    let _ = fs::remove_file(&json);
    let start = Instant::now();
    let log = output.join("suite.log");
    say(format!("suite: running; its whole output is in {}", log.display()));
    let mut command = command(lab, selection, output)?;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().context("start ginkgo")?;
    if let Some(stdout) = child.stdout.take() {
        show_progress(BufReader::new(stdout), &log).await?;
    }
    child.wait().await.context("wait for ginkgo")?;
    let report = parse(&json, start.elapsed())?;
    ensure!(
        !report.specs.is_empty(),
        "no spec matches {} --skip '{}', or none ran: see {}",
        selection.focus,
        selection.skip,
        log.display()
    );
    if let Focus::Listed(list) = &selection.focus {
        list.check(report.specs.iter().map(|spec| spec.name.as_str()))?;
    }
    Ok(report)
}

fn command(lab: &Lab, selection: &Selection, output: &Path) -> Result<tokio::process::Command> {
    let builds = Builds::locate()?;
    // In the control plane's network: the suite calls pods by their addresses.
    let mut command = lab.control_plane().enter_network();
    command
        .arg(builds.program("ginkgo")?)
        .arg(format!("-procs={}", selection.procs))
        .args(["--no-color", "--poll-progress-after=0", "--keep-going"])
        .arg(format!("--timeout={}s", selection.limit.as_secs()))
        .arg(format!("--output-dir={}", output.display()))
        .arg("--json-report=report.json")
        .arg(format!("--focus={}", selection.focus.expression()))
        .arg(format!("--skip={}", selection.skip))
        .arg(builds.program("e2e.test")?)
        .args(["--", "--provider=skeleton", "--dns-domain=cluster.local"])
        .arg(format!("--kubeconfig={}", lab.record().kubeconfig().display()))
        .arg(format!("--kubectl-path={}", builds.program("kubectl")?.display()))
        .arg(format!("--num-nodes={}", selection.topology.pets))
        .args(["--minStartupPods=0", "--allowed-not-ready-nodes=0"])
        .args(["--disable-log-dump", "--dump-logs-on-failure=false"])
        .args(["--prepull-images=false"])
        .arg(format!("--report-dir={}", output.display()))
        .current_dir(output);
    Ok(command)
}

/// Copies everything to the log, and to the person only what tells how far it is.
async fn show_progress(mut lines: BufReader<impl tokio::io::AsyncRead + Unpin>, log: &Path) -> Result<()> {
    let mut log = tokio::fs::File::create(log).await.with_context(|| format!("create {}", log.display()))?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = lines.read_until(b'\n', &mut line).await.context("read the suite's output")?;
        if length == 0 {
            return log.flush().await.context("write the suite's log");
        }
        log.write_all(&line).await.context("write the suite's log")?;
        let text = String::from_utf8_lossy(&line);
        if ["• [FAILED]", "[FAIL]", "Ran ", "Will run", "Running Suite"].iter().any(|start| text.starts_with(start)) {
            say(text.trim_end());
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuiteJson {
    #[serde(default)]
    spec_reports: Option<Vec<SpecJson>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecJson {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    run_time: u64,
    #[serde(default)]
    failure: FailureJson,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct FailureJson {
    message: String,
}

fn parse(json: &Path, took: Duration) -> Result<Report> {
    let text = fs::read(json).with_context(|| format!("read {}: the suite ended without a report", json.display()))?;
    let suites: Vec<SuiteJson> = serde_json::from_slice(&text).with_context(|| format!("understand {}", json.display()))?;
    let specs = suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default()).filter_map(spec).collect();
    Ok(Report { specs, took })
}

fn spec(report: SpecJson) -> Option<Spec> {
    // A set-up that failed (no node Ready, say) has no spec of its own but is what the reader must see.
    let ran = report.state != "skipped" && report.state != "pending";
    let named = report.leaf_node_type == "It";
    if !ran || !(named || report.state != "passed") {
        return None;
    }
    let mut name = report.container_hierarchy_texts.unwrap_or_default();
    name.push(if named { report.leaf_node_text } else { format!("[{}] {}", report.leaf_node_type, report.leaf_node_text) });
    Some(Spec {
        name: name.join(" ").trim().to_owned(),
        state: report.state,
        took: Duration::from_nanos(report.run_time),
        failure: report.failure.message.trim().lines().next().unwrap_or("").to_owned(),
    })
}

/// Where a run's logs and reports go by default: below cargo's own folder, which no commit takes.
pub fn default_output(name: &str) -> PathBuf {
    let target = std::env::current_exe()
        .ok()
        .and_then(|program| program.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "target")).map(Path::to_owned));
    target.unwrap_or_else(|| PathBuf::from("/var/tmp/kube-pet-lab")).join("lab").join(name)
}
