//! Processes in running containers, and the output of the containers themselves.

use http::{Method, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::client::Client;
use crate::error::{Error, Operation};
use crate::transport::Call;
use crate::wire::{encode, nullable};

/// The connection of an exec session or an attachment: what is written is standard input (shutting down the write side ends
/// it), what is read is the output: raw with a terminal, in frames ([`crate::FrameReader`]) without.
pub type Duplex = TokioIo<Upgraded>;

/// What to run in a container. `Debug` does not show the environment.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(clippy::struct_excessive_bools, reason = "Podman's own shape")]
pub struct ExecConfig {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// Carry standard input.
    pub attach_stdin: bool,
    /// Carry standard output.
    pub attach_stdout: bool,
    /// Carry standard error.
    pub attach_stderr: bool,
    /// With a terminal.
    pub tty: bool,
    /// Environment, as `NAME=value`, over the container's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// User; the container's when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Working directory; the container's when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// With all capabilities.
    pub privileged: bool,
    /// Keys that detach a terminal. Empty is Podman's default (ctrl-p, ctrl-q), which would swallow them: set to something
    /// that nobody types.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detach_keys: String,
}

impl std::fmt::Debug for ExecConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecConfig").field("cmd", &self.cmd).field("tty", &self.tty).field("user", &self.user).finish_non_exhaustive()
    }
}

/// What an exec session does now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecInspect {
    /// Session.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its container.
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// It runs. False before it has begun, too.
    pub running: bool,
    /// It has run.
    #[serde(rename = "CanRemove")]
    pub ended: bool,
    /// Exit code once it has ended.
    #[serde(deserialize_with = "nullable")]
    pub exit_code: i32,
    /// Its process on the host; 0 before and after it ran.
    #[serde(deserialize_with = "nullable")]
    pub pid: i32,
}

/// What to carry of a container's own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachOptions {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Client {
    /// Prepares a process in a container and gives the session's ID.
    pub async fn create_exec(&self, container: &str, config: &ExecConfig) -> Result<String> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "PascalCase", default)]
        struct Created {
            id: String,
        }
        let call =
            Call::new(Operation::ExecCreate, container, Method::POST, format!("/containers/{}/exec", encode(container))).json(config)?;
        let created: Created = self.transport.json(&call).await?;
        Ok(created.id)
    }

    /// Runs a session's process. A dropped connection does not end it.
    pub async fn start_exec(&self, session: &str) -> Result<Duplex> {
        let call = Call::new(Operation::ExecStart, session, Method::POST, format!("/exec/{}/start", encode(session)))
            .json(&serde_json::json!({ "Detach": false }))?
            .upgrade();
        self.hijack(call, Operation::ExecStart, session).await
    }

    /// Tells a session's terminal its size, in characters.
    pub async fn resize_exec(&self, session: &str, width: u16, height: u16) -> Result<()> {
        let call = Call::new(Operation::ExecResize, session, Method::POST, format!("/exec/{}/resize", encode(session)))
            .query("h", &height.to_string())
            .query("w", &width.to_string());
        self.transport.call(&call).await.map(drop)
    }

    /// What a session does now. Podman forgets it soon after its end (`exit_command_delay` in containers.conf), so this does not wait
    /// for its turn among the calls in flight.
    pub async fn inspect_exec(&self, session: &str) -> Result<ExecInspect> {
        let call = Call::new(Operation::ExecInspect, session, Method::GET, format!("/exec/{}/json", encode(session)));
        call.decode(&self.transport.call_unlimited(&call).await?.body)
    }

    /// Removes a session, whose process is stopped if it runs. Podman before 4.9 has no such call, which is
    /// [`Error::is_not_found`].
    pub async fn remove_exec(&self, session: &str) -> Result<()> {
        let call = Call::new(Operation::ExecRemove, session, Method::POST, format!("/exec/{}/remove", encode(session)))
            .json(&serde_json::json!({ "Force": true }))?;
        self.transport.call(&call).await.map(drop)
    }

    /// Connects to the streams of a container's main process.
    pub async fn attach(&self, container: &str, options: AttachOptions) -> Result<Duplex> {
        let call = Call::new(Operation::ContainerAttach, container, Method::POST, format!("/containers/{}/attach", encode(container)))
            .query("stream", "true")
            .query("stdin", if options.stdin { "true" } else { "false" })
            .query("stdout", if options.stdout { "true" } else { "false" })
            .query("stderr", if options.stderr { "true" } else { "false" })
            .upgrade();
        self.hijack(call, Operation::ContainerAttach, container).await
    }

    /// Tells a container's terminal its size, in characters.
    pub async fn resize_container(&self, container: &str, width: u16, height: u16) -> Result<()> {
        let path = format!("/containers/{}/resize", encode(container));
        let call = Call::new(Operation::ContainerResize, container, Method::POST, path)
            .query("h", &height.to_string())
            .query("w", &width.to_string());
        self.transport.call(&call).await.map(drop)
    }

    async fn hijack(&self, call: Call, operation: Operation, object: &str) -> Result<Duplex> {
        let response = self.transport.stream(&call).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::Connection {
                operation,
                object: object.to_owned(),
                source: format!("expected HTTP 101, got {}", response.status()).into(),
            });
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|source| Error::Connection {
            operation,
            object: object.to_owned(),
            source: source.into(),
        })?;
        Ok(TokioIo::new(upgraded))
    }
}
