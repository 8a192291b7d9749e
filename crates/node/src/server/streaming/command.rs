//! exec and attach.

use std::sync::Arc;

use http::StatusCode;
use kube_pet_podman::{AttachOptions, Client};
use kube_pet_stream::negotiation;
use kube_pet_stream::remote_command::{Options, Protocol, RemoteCommand, Status, Streams};
use kube_pet_stream::{End, Settings};
use tracing::debug;

use super::attachments::{Attachments, Held};
use super::bridge::{Broken, InputEnd, Process};
use super::{Call, Handover, Running, Sessions, Socket, bridge, flag, query, reason, refused, running, subject, switching_protocols};
use crate::exec::{Command, Executor};
use crate::server::response::{self, Response};

/// What a session is for.
enum Work {
    Exec(Executor, Vec<String>),
    Attach(Client, Arc<Attachments>),
}

impl Work {
    fn kind(&self) -> &'static str {
        match self {
            Self::Exec(..) => "exec",
            Self::Attach(..) => "attach",
        }
    }
}

/// `/exec/{namespace}/{pod}[/{uid}]/{container}?command=…`
pub(in crate::server) fn exec(sessions: &Sessions, call: Call<'_>) -> Response {
    let command: Vec<String> = query(call.request).into_iter().filter(|(name, _)| name == "command").map(|(_, value)| value).collect();
    if command.is_empty() {
        return response::text(StatusCode::BAD_REQUEST, "you must specify at least 1 of command");
    }
    begin(sessions, call, Work::Exec(call.state.executor.clone(), command)).unwrap_or_else(|refusal| *refusal)
}

/// `/attach/{namespace}/{pod}[/{uid}]/{container}`
pub(in crate::server) fn attach(sessions: &Sessions, call: Call<'_>) -> Response {
    begin(sessions, call, Work::Attach(call.state.podman.clone(), sessions.attachments.clone())).unwrap_or_else(|refusal| *refusal)
}

fn begin(sessions: &Sessions, call: Call<'_>, work: Work) -> Result<Response, Box<Response>> {
    let Call { state, user, parameters, request } = call;
    let query = query(request);
    let asked = Options {
        stdin: flag(&query, &["input", "stdin"]),
        stdout: flag(&query, &["output", "stdout"]),
        stderr: flag(&query, &["error", "stderr"]),
        tty: flag(&query, &["tty"]),
    };
    let options = asked.checked().map_err(|error| Box::new(response::text(StatusCode::BAD_REQUEST, error.to_string())))?;
    let target = running(state, parameters)?;
    if target.on_host && matches!(work, Work::Attach(..)) {
        let text = "nothing of the machine can be attached to: its log is read with logs, and commands are run with exec";
        return Err(Box::new(response::text(StatusCode::BAD_REQUEST, text)));
    }
    let negotiated = negotiation::remote_command(&request.headers).map_err(|refusal| Box::new(refused(*refusal)))?;
    let connection = Handover::of(request)?;
    let mut subject = subject(work.kind(), user, request, &target.pod);
    subject.container = Some(target.container.clone());
    if let Work::Exec(_, command) = &work {
        subject.command.clone_from(command);
    }
    subject.tty = options.tty;
    subject.protocol = format!("{:?}", negotiated.protocol);
    let settings = sessions.settings.clone();
    connection.serve(subject, move |socket| session(socket, negotiated.protocol, options, settings, target, work));
    Ok(switching_protocols(negotiated.headers))
}

/// One session, to its end in words.
async fn session(socket: Socket, protocol: Protocol, options: Options, settings: Settings, target: Running, work: Work) -> String {
    let RemoteCommand { streams, session } = match RemoteCommand::open(socket, protocol, options, settings).await {
        Ok(open) => open,
        Err(error) => return error.to_string(),
    };
    let done = async {
        match &work {
            Work::Exec(executor, command) => run(executor, &target, command, options, streams).await,
            Work::Attach(podman, attachments) => join(podman, attachments, &target, options, streams).await,
        }
    };
    let status = tokio::select! {
        status = done => status.unwrap_or_else(Status::Error),
        end = session.closed() => return format!("the process goes on: {}", reason(&end)),
    };
    let outcome = match &status {
        Status::Success => "success".to_owned(),
        Status::ExitCode(code) => format!("exit code {code}"),
        Status::Error(error) => format!("error: {error}"),
    };
    match session.finish(&status).await {
        End::Client | End::Server => outcome,
        end => format!("{outcome}; {}", reason(&end)),
    }
}

async fn run(executor: &Executor, target: &Running, words: &[String], options: Options, streams: Streams) -> Result<Status, String> {
    let Options { stdin, stdout, stderr, tty } = options;
    let command = Command { container: &target.id, words, stdin, stdout, stderr, tty };
    let (carried, started) = target.start(executor, command).await.map_err(|error| error.to_string())?;
    let started = started.keep();
    let mut process = GoesOn(Some(Process::of(carried, tty)));
    let resized = |size| started.resize(size);
    let carried = async {
        let Some(process) = &mut process.0 else { return Ok(()) };
        ended(bridge::carry(process, streams, InputEnd::Passed, resized).await)
    };
    let ((), code) = started.with_code(carried).await?;
    match code? {
        0 => Ok(Status::Success),
        code => Ok(Status::ExitCode(code)),
    }
}

/// A process that goes on when its client leaves, as with other runtimes: it may be meant to. What it still writes is read for nobody;
/// otherwise it would end by its next line, or its terminal would hang up.
struct GoesOn(Option<Process>);

impl Drop for GoesOn {
    fn drop(&mut self) {
        if let Some(mut process) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            process.close_input();
            runtime.spawn(async move { process.drain().await });
        }
    }
}

async fn join(
    podman: &Client,
    attachments: &Arc<Attachments>,
    target: &Running,
    options: Options,
    streams: Streams,
) -> Result<Status, String> {
    let Options { stdin, stdout, stderr, tty: _ } = options;
    let attach = async |options| {
        let process = podman.attach(target.id.as_str(), options).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(Process::of_podman(process, target.tty))
    };
    let resized = |size: kube_pet_stream::remote_command::TerminalSize| async move {
        if let Err(error) = podman.resize_container(target.id.as_str(), size.width, size.height).await {
            debug!(%error, "the terminal keeps its size");
        }
    };
    let carried = if target.keeps_input(stdin) {
        let process = match attachments.take(&target.id).await {
            Some(process) => process,
            // For whoever comes next, too.
            None => attach(AttachOptions { stdin: true, stdout: true, stderr: !target.tty }).await?,
        };
        Held::new(attachments, &target.id, process).carry(streams, resized).await
    } else {
        // The container's terminal has one output only.
        let mut process = attach(AttachOptions { stdin, stdout, stderr: stderr && !target.tty }).await?;
        bridge::carry(&mut process, streams, InputEnd::Passed, resized).await
    };
    match carried {
        Ok(()) => Ok(Status::Success),
        Err(Broken::Other(error)) => Err(error),
        Err(Broken::Ended) => match podman.inspect_container(target.id.as_str()).await {
            Ok(container) if container.state.status == "running" => Err("the connection to the container broke off".to_owned()),
            _ => Ok(Status::Success),
        },
    }
}

/// A process that has ended is no failure, however Podman takes it.
fn ended(carried: Result<(), Broken>) -> Result<(), String> {
    match carried {
        Ok(()) | Err(Broken::Ended) => Ok(()),
        Err(Broken::Other(text)) => Err(text),
    }
}

#[cfg(test)]
mod tests;
