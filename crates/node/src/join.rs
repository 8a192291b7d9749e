//! `kube-pet join`: from one line of text to a Ready node. `kube-pet leave` undoes it.
//!
//! Each step looks first whether it has been done, so that a join that was broken off, or is repeated, goes on where it is.

mod discovery;
mod leave;
mod unit;
mod waiting;

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};
use kube::{Client, Config};
use kube_pet_api::join_token::{JoinToken, Trust};
use kube_pet_host::files::{self, FileError};
use serde_json::{Value, json};
use thiserror::Error;

use crate::config::NodeConfiguration;
use crate::doctor::{self, Finding, Severity};
use crate::identity;
pub use discovery::DiscoveryError;
pub use leave::{LeaveError, leave};
pub use unit::UnitError;

/// Tells the user what is going on, a line at a time.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Why the machine has not joined.
#[derive(Debug, Error)]
pub enum JoinError {
    /// It is a node already, of something else.
    #[error("this machine is a node of {server} already; `kube-pet leave` undoes that")]
    OtherCluster {
        /// The API server of that cluster.
        server: String,
    },
    /// The CA cannot be found out.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The CA in the token is none.
    #[error("the CA in the join token is no certificate that can be read")]
    Ca,
    /// The URL in the token is none.
    #[error("the API server's URL in the join token, {0:?}, is no URL")]
    Server(String),
    /// The bootstrap token is not valid.
    #[error("{server} does not accept the token: it has expired or was deleted; make a new one with `kube-pet controller token create`")]
    Token {
        /// The API server.
        server: String,
    },
    /// Somebody else answers.
    #[error("{server} is not the cluster of the join token: its certificate is not signed by that cluster's CA; nothing was sent to it")]
    WrongCluster {
        /// The API server.
        server: String,
    },
    /// Its certificate is not valid by this machine's clock.
    #[error("the certificate of {server} is not accepted: {clock}; then join again")]
    Clock {
        /// The API server.
        server: String,
        /// How wrong the clock is, and what sets it.
        clock: String,
    },
    /// No answer, or an odd one.
    #[error("asking {server} who the token is")]
    Ask {
        /// The API server.
        server: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The machine is not fit.
    #[error("the machine cannot be a node yet: mend the errors above (`kube-pet doctor --fix` mends some), then join again")]
    Unfit,
    /// A folder.
    #[error("making the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The service.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// It takes too long.
    #[error("the node is not Ready after {} s: {stage}", waited.as_secs())]
    NotReady {
        /// How long it was waited for.
        waited: Duration,
        /// What is missing.
        stage: String,
    },
}

/// How to join.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// The join token.
    pub token: JoinToken,
    /// The configuration file, written if it is not there.
    pub config_file: PathBuf,
    /// What flags have set, to be written down beside it.
    pub settings: Value,
    /// How long to wait for the node to be Ready; zero: not at all.
    pub wait: Duration,
    /// Whether to go on although the doctor has found errors.
    pub ignore_findings: bool,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The node is Ready.
    Ready,
    /// All is prepared, and the agent has to be started by whoever supervises it.
    Prepared,
}

/// Joins. `config` is the configuration with the flags laid over it.
pub async fn join(config: &NodeConfiguration, options: &JoinOptions, say: Say<'_>) -> Result<Joined, JoinError> {
    let JoinOptions { token, config_file, settings, wait, ignore_findings } = options;
    let stored = identity::stored_kubeconfig(&config.paths().pki_dir());
    if identity::is_current(&stored).await {
        let server = identity::server_of(&stored).await.unwrap_or_default();
        if !same_server(&server, &token.server) {
            return Err(JoinError::OtherCluster { server });
        }
        say(&format!("{} is a node of {server} already", config.node_name));
    } else {
        let told = examine(config, false, &[], *ignore_findings, say).await?;
        let ca = match &token.trust {
            Trust::Ca(pem) => pem.clone(),
            Trust::CaHash(hash) => discovery::authority(&token.server, hash).await?,
        };
        check_token(token, &ca).await?;
        say(&format!("{} accepts the token", token.server));
        write_files(config, token, &ca, config_file, settings, say)?;
        examine(config, true, &told, *ignore_findings, say).await?;
    }
    let started = unit::start(config, config_file, say).await?;
    if !started && !waiting::agent_answers(config).await {
        say(&format!("start the agent, under a supervisor that restarts it: {}", unit::command_line(config_file)));
        return Ok(Joined::Prepared);
    }
    if wait.is_zero() {
        return Ok(Joined::Prepared);
    }
    waiting::until_ready(config, *wait, say).await?;
    Ok(Joined::Ready)
}

fn same_server(one: &str, other: &str) -> bool {
    // A port that is not written is that of the scheme.
    let whole = |text: &str| text.parse::<http::Uri>().map(|uri| (uri.host().map(str::to_owned), uri.port_u16().unwrap_or(443))).ok();
    one.trim_end_matches('/') == other.trim_end_matches('/') || (whole(one).is_some() && whole(one) == whole(other))
}

/// The doctor's findings; only those that are not well are told, and not those that were `told` before.
async fn examine(
    config: &NodeConfiguration,
    with_cluster: bool,
    told: &[Finding],
    ignore: bool,
    say: Say<'_>,
) -> Result<Vec<Finding>, JoinError> {
    let findings = doctor::examine(config, with_cluster).await;
    let bad: Vec<_> = findings.into_iter().filter(|finding| finding.severity != Severity::Ok).collect();
    let (new, known): (Vec<_>, Vec<_>) = bad.iter().cloned().partition(|finding| !told.contains(finding));
    match (new.is_empty(), known.is_empty(), with_cluster) {
        (false, ..) => say(doctor::text(&new).trim_end()),
        (true, true, true) => say("the doctor finds the machine and its way to the cluster well"),
        (true, true, false) => say("the doctor finds the machine well"),
        (true, false, _) => say("the doctor finds the way to the cluster well"),
    }
    if doctor::worst(&bad) == Severity::Error && !ignore { Err(JoinError::Unfit) } else { Ok(bad) }
}

/// Asks the API server who the token is: only the cluster that the token names gets to see it.
async fn check_token(token: &JoinToken, ca: &str) -> Result<(), JoinError> {
    let server = token.server.clone();
    let mut config = Config::new(token.server.parse().map_err(|_| JoinError::Server(server.clone()))?);
    config.root_cert = Some(discovery::certificates(ca).ok_or(JoinError::Ca)?);
    config.auth_info.token = Some(token.token.clone().into());
    config.connect_timeout = Some(Duration::from_secs(10));
    let ask = |source| JoinError::Ask { server: server.clone(), source: Box::new(source) };
    let client = Client::try_from(config.clone()).map_err(ask)?;
    let reviews: Api<SelfSubjectReview> = Api::all(client);
    match reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 401 => Err(JoinError::Token { server }),
        Err(error) if discovery::is_certificate_refusal(&error) => match identity::wrong_clock(&config).await {
            Some(clock) if discovery::is_of_another_time(&error) => Err(JoinError::Clock { server, clock }),
            _ => Err(JoinError::WrongCluster { server }),
        },
        Err(error) => Err(ask(error)),
    }
}

fn write_files(
    config: &NodeConfiguration,
    token: &JoinToken,
    ca: &str,
    config_file: &Path,
    settings: &Value,
    say: Say<'_>,
) -> Result<(), JoinError> {
    make_folder_of(config_file)?;
    if !config_file.exists() {
        let text = format!("apiVersion: {}\nkind: {}\n", crate::config::API_VERSION, crate::config::KIND);
        files::write_atomic(config_file, text.as_bytes(), 0o644)?;
        say(&format!("wrote {}", config_file.display()));
    }
    if settings.as_object().is_some_and(|fields| !fields.is_empty()) {
        // JSON is YAML.
        let path = drop_in(config_file);
        make_folder_of(&path)?;
        files::write_atomic(&path, format!("{settings:#}\n").as_bytes(), 0o644)?;
        say(&format!("wrote {}", path.display()));
    }
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default", "cluster": {"server": token.server, "certificate-authority-data": STANDARD.encode(ca)}}],
        "users": [{"name": "bootstrap", "user": {"token": token.token}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "bootstrap"}}],
        "current-context": "default",
    });
    let path = &config.bootstrap_kubeconfig;
    files::write_durable(path, format!("{kubeconfig:#}\n").as_bytes(), 0o600)?;
    say(&format!("wrote {}", path.display()));
    Ok(())
}

fn make_folder_of(file: &Path) -> Result<(), JoinError> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(|source| JoinError::Folder { path: folder.to_owned(), source })
}

/// Where the settings of the flags are kept.
fn drop_in(config_file: &Path) -> PathBuf {
    let mut folder = config_file.as_os_str().to_owned();
    folder.push(".d");
    PathBuf::from(folder).join("10-join.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_the_same_however_it_is_written() {
        assert!(same_server("https://a.example/", "https://a.example:443"));
        assert!(same_server("https://10.0.0.1:6443", "https://10.0.0.1:6443/"));
        assert!(!same_server("https://10.0.0.1:6443", "https://10.0.0.2:6443"));
        assert!(!same_server("", "https://10.0.0.2:6443"));
    }

    #[test]
    fn settings_lie_beside_the_configuration() {
        assert_eq!(drop_in(Path::new("/etc/kube-pet/node.yaml")), Path::new("/etc/kube-pet/node.yaml.d/10-join.yaml"));
    }
}
