//! `/run/{namespace}/{pod}[/{uid}]/{container}?cmd=…`: a command to its end, its output in one answer.

use bytes::BytesMut;
use http::StatusCode;
use kube_pet_podman::{Client, Demultiplexer, ExecConfig, StreamKind};
use tokio::io::AsyncReadExt as _;

use super::audit::Record;
use super::{Call, Running, query, running, subject};
use crate::exec_sessions;
use crate::server::response::{self, Response};

/// Bytes of each of stdout and stderr that are answered with; the rest is read and dropped, as containerd does.
const MAX_OUTPUT: usize = 16 << 20;
const PIECE: usize = 32 << 10;

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
    let result = to_the_end(&state.podman, &target, &command).await;
    match result {
        Ok((output, 0)) => {
            record.ended("exit code 0".to_owned());
            response::run_output(output)
        }
        Ok((output, code)) => {
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
    let mut process = podman.start_exec(&exec).await.map_err(|error| error.to_string())?;
    let output = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut frames = Demultiplexer::default();
        let mut piece = BytesMut::with_capacity(PIECE);
        loop {
            match process.read_buf(&mut piece).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(format!("reading the process's output: {error}")),
            }
            while let Some(frame) = frames.next(&mut piece).map_err(|error| error.to_string())? {
                let into = match frame.stream {
                    StreamKind::Stdout => &mut stdout,
                    StreamKind::Stderr => &mut stderr,
                    StreamKind::System => return Err(String::from_utf8_lossy(&frame.data).trim().to_owned()),
                    StreamKind::Stdin => continue,
                };
                let room = MAX_OUTPUT - into.len();
                into.extend_from_slice(&frame.data[..frame.data.len().min(room)]);
            }
            piece.reserve(PIECE);
        }
        stdout.append(&mut stderr);
        Ok(stdout)
    };
    let (output, code) = tokio::join!(output, exec_sessions::exit_code(podman, &exec));
    Ok((output?, code?))
}
