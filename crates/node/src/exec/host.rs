//! Commands on the machine itself, for the pod that stands for it (`hostPod`).

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use kube_pet_host::terminal::Terminal;

use super::runtime::Process;
use super::{Command, ExecError, Streams};

/// The environment of a login: nothing of the agent's own.
const ENVIRONMENT: [(&str, &str); 3] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("USER", "root")];

/// Starts a command as root, in the agent's own namespaces. The container that `command` names does not matter.
pub(super) fn start(command: Command<'_>) -> Result<(Streams, Process), ExecError> {
    let Command { container: _, words, stdin, stdout, stderr, tty } = command;
    let failed = |doing: &'static str| move |source| ExecError::Machine { doing, source };
    let (terminal, slave) = if tty { Terminal::open().map(|(master, slave)| (Some(master), Some(slave))) } else { Ok((None, None)) }
        .map_err(failed("making a terminal"))?;
    // A session of its own, whose terminal this is: no call of the standard library makes one.
    let launcher: &[&str] = if tty { &["setsid", "--ctty"] } else { &[] };
    let mut all = launcher.iter().copied().chain(words.iter().map(String::as_str));
    let Some(program) = all.next() else { return Err(ExecError::Runtime("there is no command".to_owned())) };
    #[allow(clippy::disallowed_methods, reason = "whoever is let in may run what root may, by the words of the request")]
    let mut child = tokio::process::Command::new(program);
    child.args(all).env_clear().envs(ENVIRONMENT).current_dir(if Path::new("/root").is_dir() { "/root" } else { "/" });
    match &slave {
        Some(slave) => {
            let end = || slave.try_clone().map(Stdio::from).map_err(failed("opening the terminal"));
            child.env("TERM", "xterm").stdin(end()?).stdout(end()?).stderr(end()?);
        }
        None => {
            let wanted = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
            child.stdin(wanted(stdin)).stdout(wanted(stdout)).stderr(wanted(stderr)).process_group(0);
        }
    }
    let mut child = child.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ExecError::Runtime(format!("{program}: no such program on this machine")),
        _ => ExecError::Machine { doing: "starting the command", source: error },
    })?;
    drop::<Option<OwnedFd>>(slave);
    let streams = match &terminal {
        Some(terminal) => Streams::of_terminal(terminal).map_err(failed("opening the terminal"))?,
        None => Streams::Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() },
    };
    Ok((streams, Process::of_child(child, terminal.map(Arc::new))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube_pet_core::ids::ContainerId;
    use kube_pet_stream::remote_command::TerminalSize;

    use super::*;

    async fn run(words: &[&str], tty: bool) -> Result<(String, Result<i32, String>), String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let id = ContainerId::new("host");
        let command = Command { tty, stdin: tty, stderr: !tty, ..Command::for_output(&id, &words) };
        let (streams, process) = start(command).map_err(|error| error.to_string())?;
        process.resize(TerminalSize { width: 120, height: 40 });
        let (output, code) = tokio::join!(streams.collect(4096), process.code());
        Ok((String::from_utf8_lossy(&output?.joined()).into_owned(), code))
    }

    #[tokio::test]
    async fn component_a_command_has_its_output_its_code_and_a_login_s_environment() {
        let (output, code) = run(&["sh", "-c", "echo $HOME; echo ${CARGO_MANIFEST_DIR:-none}; echo err >&2; exit 7"], false).await.unwrap();
        assert_eq!((output.as_str(), code), ("/root\nnone\nerr\n", Ok(7)));
        let (_, code) = run(&["sh", "-c", "kill -TERM $$"], false).await.unwrap();
        assert_eq!(code, Ok(143));
        let error = run(&["no-such-program"], false).await.unwrap_err();
        assert!(error.contains("no-such-program: no such program on this machine"), "{error}");
    }

    #[tokio::test]
    async fn component_a_terminal_is_the_command_s_own() {
        // /dev/tty is there for the session's terminal only.
        let script = "test -t 0 && echo typed > /dev/tty; sleep 0.2; stty size; echo $TERM";
        let (output, code) = run(&["sh", "-c", script], true).await.unwrap();
        assert_eq!((output.as_str(), code), ("typed\r\n40 120\r\nxterm\r\n", Ok(0)));
    }

    #[tokio::test]
    async fn component_a_command_can_be_killed() {
        let id = ContainerId::new("host");
        let words = ["sleep".to_owned(), "600".to_owned()];
        let (_streams, process) = start(Command::for_output(&id, &words)).unwrap();
        tokio::time::timeout(Duration::from_secs(10), process.kill()).await.unwrap().unwrap();
        assert_eq!(process.code().await, Ok(137));
    }
}
