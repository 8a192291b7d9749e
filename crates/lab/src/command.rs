//! Running programs: the one place of this crate that does.

use std::{ffi::OsStr, path::Path, process::Stdio};

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A command for `program`; nothing of the caller's standard input reaches it.
#[allow(
    clippy::disallowed_methods,
    reason = "the lab is development tooling: it drives ip, nsenter, mount and the control plane's programs"
)]
pub fn program(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// A command from a whole argument vector.
///
/// # Panics
/// Never: an empty vector makes a command that fails to start.
pub fn argv<S: AsRef<OsStr>>(argv: &[S]) -> Command {
    let mut parts = argv.iter();
    let mut command = program(parts.next().map_or(OsStr::new(""), AsRef::as_ref));
    command.args(parts);
    command
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or exits with anything but 0; the error carries its standard error.
pub async fn output(mut command: Command) -> Result<String> {
    let shown = shown(&command);
    let done = command.kill_on_drop(true).output().await.with_context(|| format!("start `{shown}`"))?;
    let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        let stderr = String::from_utf8_lossy(&done.stderr);
        bail!("`{shown}`: {}: {}", done.status, stderr.trim());
    }
    Ok(stdout)
}

/// Runs `argv` to its end and returns its standard output.
///
/// # Errors
/// As [`output`].
pub async fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Result<String> {
    output(argv(arguments)).await
}

/// Runs a command with `input` as its standard input and returns its standard output.
///
/// # Errors
/// As [`output`], and when the input cannot be written.
pub async fn run_with_input(mut command: Command, input: &str) -> Result<String> {
    let shown = shown(&command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early closes its end: its exit code tells why, not our EPIPE.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let done = child.wait_with_output().await.with_context(|| format!("wait for `{shown}`"))?;
    if !done.status.success() {
        let stderr = String::from_utf8_lossy(&done.stderr);
        bail!("`{shown}`: {}: {}; its input was:\n{input}", done.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Whether `name` is a program on the search path.
pub fn on_path(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| is_executable(&folder.join(name))))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failure_tells_program_status_and_stderr() {
        let error = run(&["sh", "-c", "echo out; echo oops >&2; exit 3"]).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("oops"), "{text}");
    }

    #[tokio::test]
    async fn input_reaches_the_program() {
        let output = run_with_input(program("cat"), "hello").await.unwrap();
        assert_eq!(output, "hello");
    }
}
