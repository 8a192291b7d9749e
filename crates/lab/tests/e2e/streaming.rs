//! `kubectl exec`, `attach`, `cp` and `port-forward`, and what other clients do with the same: what a person does to a running pod.

mod access;
mod attach;
mod clients;
mod copy;
mod exec;
mod forward;
mod slow;
mod system_logs;
mod terminal;

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::harness::{AGNHOST, Bed, SOON, condition, shell};

/// The protocol that a client speaks to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Spdy,
    WebSocket,
}

impl Over {
    const BOTH: [Self; 2] = [Self::Spdy, Self::WebSocket];

    /// Makes kubectl speak it, and nothing else.
    fn set(self, command: &mut Command) {
        let websocket = (self == Self::WebSocket).to_string();
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", &websocket).env("KUBECTL_PORT_FORWARD_WEBSOCKETS", &websocket);
    }
}

/// A bed with pod `p`: container `web` serves HTTP on 8080, `talker` says a line and sleeps.
async fn bed(test: &str) -> Result<Bed> {
    furnished(Bed::shared(test).await?).await
}

async fn furnished(bed: Bed) -> Result<Bed> {
    let web = json!({"name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8080"]});
    pod(&bed, "p", &[web, shell("talker", "echo a line; exec sleep 3600")]).await?;
    // Its log says so before it does.
    kube_pet_lab::eventually(SOON, "the server answers", || async {
        let answer = bed.kubectl(&["exec", "p", "-c", "talker", "--", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/hostname"]).await?;
        ensure!(answer == "p", "{answer}");
        Ok(())
    })
    .await?;
    Ok(bed)
}

/// A pod of these containers, running.
async fn pod(bed: &Bed, name: &str, containers: &[Value]) -> Result<()> {
    bed.pod(name, json!({"containers": containers})).await?;
    bed.until(name, SOON, "Ready", |pod| condition(pod, "Ready") == "True").await?;
    Ok(())
}

/// kubectl in the test's namespace, with its streams on pipes.
fn kubectl(bed: &Bed, over: Over, arguments: &[&str]) -> Result<Command> {
    let mut command = bed.lab.kubectl_command(&["--namespace", &bed.namespace])?;
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    over.set(&mut command);
    Ok(command)
}

/// What a command did, within a minute.
#[derive(Debug)]
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs a command that reads nothing.
async fn done(mut command: Command) -> Result<Done> {
    command.stdin(Stdio::null());
    finished(command.spawn().context("start")?).await
}

async fn finished(child: Child) -> Result<Done> {
    let Ok(output) = tokio::time::timeout(SOON, child.wait_with_output()).await else { bail!("does not end within {SOON:?}") };
    let output = output?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Done { code: output.status.code().context("killed")?, stdout: text(output.stdout), stderr: text(output.stderr) })
}

/// Bytes in which a loss, a swap or a repetition shows: a counter, scrambled.
fn fill(buffer: &mut [u8], offset: u64) {
    for (index, byte) in (offset..).zip(buffer) {
        *byte = (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
}

/// Fails unless `bytes` are those of [`fill`] at `offset`.
fn check(bytes: &[u8], offset: u64) -> Result<()> {
    let mut wanted = vec![0; bytes.len()];
    fill(&mut wanted, offset);
    ensure!(wanted == bytes, "other bytes than were sent, after {offset}");
    Ok(())
}
