//! Podman and the programs that it needs.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use kube_pet_podman::Client;
use serde::Deserialize;

use super::Finding;
use crate::config::NodeConfiguration;

/// The oldest version that is tested.
const OLDEST: (u32, u32) = (4, 3);
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Info {
    host: Host,
    version: Version,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Host {
    conmon: Program,
    oci_runtime: Program,
    security: Security,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Program {
    path: String,
    version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Security {
    rootless: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Version {
    #[serde(rename = "Version")]
    version: String,
}

pub(super) async fn examine(config: &NodeConfiguration) -> Vec<Finding> {
    let socket = config.podman.socket.clone().unwrap_or_else(|| config.paths().podman_socket());
    let mut findings = match info(config).await {
        Ok(info) => from_info(&info),
        Err(finding) => vec![finding],
    };
    if socket.exists() || config.podman.socket.is_some() {
        let name = socket.display().to_string();
        findings.push(match Client::new(&socket).ping().await {
            Ok(_) => Finding::ok("podman-service", format!("the Podman service at {name} answers")),
            Err(error) => Finding::warn(
                "podman-service",
                format!("the Podman service at {name} does not answer"),
                error.to_string(),
                if config.podman.socket.is_some() { "start it, or remove podman.socket" } else { "start the agent: it starts its service" },
            ),
        });
    }
    // Only pods with shareProcessNamespace need it.
    findings.push(match crate::pods::catatonit() {
        Some(path) => Finding::ok("catatonit", format!("catatonit is {}", path.display())),
        None => Finding::warn(
            "catatonit",
            "catatonit is not installed",
            "pods with shareProcessNamespace need it as their first process",
            "install the package catatonit",
        ),
    });
    findings
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

async fn info(config: &NodeConfiguration) -> Result<Info, Finding> {
    let program = match &config.podman.program {
        Some(program) if program.is_file() => program.clone(),
        Some(program) => {
            let what = format!("{} is not there", program.display());
            return Err(Finding::error("podman", what, "podman.program names it", "correct the setting, or remove it"));
        }
        None => in_path("podman").ok_or_else(|| {
            let fix = "install it: apt install podman, dnf install podman, apk add podman …";
            Finding::error("podman", "podman is not installed", "it runs the containers", fix)
        })?,
    };
    ask(config, program).await
}

#[expect(
    clippy::disallowed_methods,
    reason = "the program itself tells best what it can do and what it lacks; the doctor is not the agent"
)]
async fn ask(config: &NodeConfiguration, program: PathBuf) -> Result<Info, Finding> {
    let failed = |cause: String| {
        let fix = format!("run `{} info` and follow its message", program.display());
        Finding::error("podman", "`podman info` fails", cause, fix)
    };
    let mut command = tokio::process::Command::new(&program);
    command.args(config.podman.global_arguments()).envs(config.podman.variables());
    command.args(["info", "--format", "json"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(DEADLINE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("it does not end within {} s; another Podman may hold a lock", DEADLINE.as_secs()))),
    };
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(format!("its output is not understood: {error}")))
}

fn from_info(info: &Info) -> Vec<Finding> {
    let version = &info.version.version;
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut findings = vec![if number < OLDEST {
        Finding::error(
            "podman",
            format!("Podman is {version}"),
            format!("the oldest that works is {}.{}", OLDEST.0, OLDEST.1),
            "install a newer one, from the distribution's backports or its next release",
        )
    } else {
        Finding::ok("podman", format!("Podman is {version}"))
    }];
    if info.host.security.rootless {
        findings.push(Finding::error("podman-root", "Podman runs without root", "pods need the machine's network", "run as root"));
    }
    let Host { conmon, oci_runtime, security: _ } = &info.host;
    for (id, name, program) in [("conmon", "conmon", conmon), ("oci-runtime", "an OCI runtime", oci_runtime)] {
        findings.push(if program.path.is_empty() {
            Finding::error(
                id,
                format!("{name} is not installed"),
                "Podman starts containers with it",
                "install the packages conmon and crun",
            )
        } else {
            Finding::ok(id, format!("{} ({})", program.version.lines().next().unwrap_or_default(), program.path))
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn old_versions_and_missing_programs_are_named() {
        let info = |text: &str| from_info(&serde_json::from_str(text).unwrap());
        let findings = info(
            r#"{"host": {"conmon": {"path": "/usr/bin/conmon", "version": "conmon version 2.1.6"}, "ociRuntime": {"path": ""},
                "security": {"rootless": true}}, "version": {"Version": "4.2.1"}}"#,
        );
        let bad: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).map(|finding| finding.id).collect();
        assert_eq!(bad, ["podman", "podman-root", "oci-runtime"]);
        let findings = info(
            r#"{"host": {"conmon": {"path": "/a", "version": "1"}, "ociRuntime": {"path": "/b", "version": "crun version 1.8\nx"}},
                "version": {"Version": "5.8.6"}}"#,
        );
        assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:?}");
        assert_eq!(findings[2].what, "crun version 1.8 (/b)");
    }
}
