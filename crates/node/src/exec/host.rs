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

/// The agent is the last that the kernel ends for want of memory (`OOMScoreAdjust`), and what it starts would be, too. Set before the command
/// runs, so that nothing that it starts has the agent's.
const LAUNCHER: &str = r#"echo 0 2>/dev/null >/proc/self/oom_score_adj; exec "$@""#;

/// Starts a command as root, in the agent's own namespaces. The container that `command` names does not matter.
pub(super) fn start(command: Command<'_>) -> Result<(Streams, Process), ExecError> {
    let Command { container: _, words, stdin, stdout, stderr, tty } = command;
    let failed = |doing: &'static str| move |source| ExecError::Machine { doing, source };
    let (terminal, slave) = if tty { Terminal::open().map(|(master, slave)| (Some(master), Some(slave))) } else { Ok((None, None)) }
        .map_err(failed("making a terminal"))?;
    let Some(program) = words.first() else { return Err(ExecError::Runtime("there is no command".to_owned())) };
    let folder = Path::new(if Path::new("/root").is_dir() { "/root" } else { "/" });
    if !is_there(program, folder) {
        return Err(ExecError::Runtime(format!("{program}: no such program on this machine")));
    }
    // A session of its own, whose terminal this is: no call of the standard library makes one.
    let launcher: &[&str] = if tty { &["setsid", "--ctty", "sh"] } else { &["sh"] };
    #[allow(clippy::disallowed_methods, reason = "whoever is let in may run what root may, by the words of the request")]
    let mut child = tokio::process::Command::new(launcher[0]);
    child.args(&launcher[1..]).args(["-c", LAUNCHER, "sh"]).args(words);
    child.env_clear().envs(ENVIRONMENT).current_dir(folder);
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
    let mut child = child.spawn().map_err(failed("starting the command"))?;
    drop::<Option<OwnedFd>>(slave);
    let streams = match &terminal {
        Some(terminal) => Streams::of_terminal(terminal).map_err(failed("opening the terminal"))?,
        None => Streams::Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() },
    };
    Ok((streams, Process::of_child(child, terminal.map(Arc::new))))
}

/// Whether a shell in `folder` finds a program.
fn is_there(program: &str, folder: &Path) -> bool {
    if program.contains('/') {
        return folder.join(program).is_file();
    }
    let [(_, path), ..] = ENVIRONMENT;
    path.split(':').any(|place| Path::new(place).join(program).is_file())
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
    async fn component_a_command_is_no_better_protected_than_any_other() {
        // Whoever raises its own value may lower it again.
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        std::fs::write("/proc/self/oom_score_adj", "50").unwrap();
        let words = ["sh", "-c", "cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj"];
        for tty in [false, true] {
            let (output, code) = run(&words, tty).await.unwrap();
            assert_eq!((output.split_whitespace().collect::<Vec<_>>(), code), (vec!["0", "50"], Ok(0)), "terminal: {tty}");
        }
        std::fs::write("/proc/self/oom_score_adj", own.trim()).unwrap();
    }

    #[tokio::test]
    async fn component_programs_are_found_by_their_path_too() {
        let (output, _) = run(&["/bin/echo", "a b", "$HOME"], false).await.unwrap();
        assert_eq!(output, "a b $HOME\n");
        for absent in ["/no/such/program", "./no-such-program", ""] {
            assert!(run(&[absent], false).await.unwrap_err().contains("no such program on this machine"), "{absent:?}");
        }
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
