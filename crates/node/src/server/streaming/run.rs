//! `/run/{namespace}/{pod}[/{uid}]/{container}?cmd=…`: a command to its end, its output in one answer.

use http::StatusCode;
use kube_pet_podman::{Client, ExecConfig};

use super::audit::Record;
use super::{Call, Running, query, running, subject};
use crate::exec_sessions;
use crate::server::response::{self, Response};

/// Bytes of each of stdout and stderr that are answered with; the rest is read and dropped, as containerd does.
const MAX_OUTPUT: usize = 16 << 20;

/// Runs the command. The words of `cmd` are separated by single spaces, there is no quoting (the kubelet's rule).
pub(in crate::server) async fn run(call: Call<'_>) -> Response {
    let Call { state, user, parameters, request } = call;
    let target = match running(&state.store, parameters) {
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
    let result = to_the_end(&state.podman, &target, &command).await;
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
async fn to_the_end(podman: &Client, target: &Running, command: &[String]) -> Result<(Vec<u8>, i32), String> {
    let config = ExecConfig { cmd: command.to_vec(), attach_stdout: true, attach_stderr: true, ..ExecConfig::default() };
    let exec = podman.create_exec(target.id.as_str(), &config).await.map_err(|error| error.to_string())?;
    let process = podman.start_exec(&exec).await.map_err(|error| error.to_string())?;
    let (output, code) = exec_sessions::with_code(podman, &exec, exec_sessions::output(process, MAX_OUTPUT)).await?;
    Ok((output.joined(), code?))
}
