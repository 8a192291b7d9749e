//! `/run/{namespace}/{pod}[/{uid}]/{container}?cmd=…`: a command to its end, its output in one answer.

use http::StatusCode;

use super::audit::Record;
use super::{Call, Running, query, running, subject};
use crate::exec::{Command, Executor};
use crate::server::response::{self, Response};

/// Bytes of each of stdout and stderr that are answered with; the rest is read and dropped, as containerd does.
const MAX_OUTPUT: usize = 16 << 20;

/// Runs the command. The words of `cmd` are separated by single spaces, there is no quoting (the kubelet's rule).
pub(in crate::server) async fn run(call: Call<'_>) -> Response {
    let Call { state, user, parameters, request } = call;
    let target = match running(state, parameters) {
        Ok(target) => target,
        Err(refusal) => return *refusal,
    };
    let command = query(request).into_iter().find(|(name, _)| name == "cmd").map(|(_, value)| value).unwrap_or_default();
    let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
    let mut subject = subject("run", user, request, &target.pod);
    subject.container = Some(target.container.clone());
    subject.command.clone_from(&command);
    "HTTP".clone_into(&mut subject.protocol);
    let mut record = Record::begin(subject);
    // If this is dropped, the client has gone.
    record.ended("the process goes on: the client closed".to_owned());
    let result = to_the_end(&state.executor, &target, &command).await;
    match result {
        Ok((output, 0)) => {
            record.sent(output.len());
            record.ended("exit code 0".to_owned());
            response::run_output(output)
        }
        Ok((output, code)) => {
            record.sent(output.len());
            record.ended(format!("exit code {code}"));
            let output = String::from_utf8_lossy(&output).into_owned();
            let text = format!("command '{}' exited with {code}: {output}", command.join(" "));
            response::text(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
        Err(error) => {
            record.ended(format!("error: {error}"));
            response::text(StatusCode::INTERNAL_SERVER_ERROR, error)
        }
    }
}

/// The output, stdout before stderr, and the exit code.
async fn to_the_end(executor: &Executor, target: &Running, command: &[String]) -> Result<(Vec<u8>, i32), String> {
    let (streams, process) = target.start(executor, Command::for_output(&target.id, command)).await.map_err(|error| error.to_string())?;
    let process = process.keep();
    // In a task of its own: the process goes on without its client, and someone has to read what it writes.
    let collected = tokio::spawn(async move { process.with_code(streams.collect(MAX_OUTPUT)).await });
    let (output, code) = collected.await.map_err(|error| error.to_string())??;
    Ok((output.joined(), code?))
}
