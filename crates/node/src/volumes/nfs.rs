//! Mounting folders of NFS servers, as the kubelet does it: by mount(8), which leaves it to `mount.nfs` to find the version and the server's
//! ports.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::error::SetUpError;

/// What of the program's output is told.
const OUTPUT_LIMIT: usize = 2 << 10;

/// One mount.
#[derive(Clone, Debug)]
pub(super) struct NfsMount {
    /// `<server>:<folder>`.
    pub(super) source: String,
    pub(super) options: Vec<String>,
    pub(super) target: PathBuf,
}

impl NfsMount {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-t".to_owned(), "nfs".to_owned()];
        if !self.options.is_empty() {
            arguments.extend(["-o".to_owned(), self.options.join(",")]);
        }
        arguments.extend(["--".to_owned(), self.source.clone(), self.target.display().to_string()]);
        arguments
    }
}

/// Kills the program and what it has started when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs `program` for the mount. Ends it after `limit`, when the pod is `ending`, and when the future is dropped.
pub(super) async fn mount(program: &Path, mount: &NfsMount, limit: Duration, ending: &CancellationToken) -> Result<(), SetUpError> {
    let arguments = mount.arguments();
    #[expect(
        clippy::disallowed_methods,
        reason = "mount.nfs speaks with the server before the kernel does; there is no library that could"
    )]
    let mut command = Command::new(program);
    command
        .args(&arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Its own, so that mount.nfs is killed with it.
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn().map_err(|source| SetUpError::MountProgram { source })?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let output = tokio::select! {
        output = child.wait_with_output() => output.map_err(|source| SetUpError::MountProgram { source })?,
        () = tokio::time::sleep(limit) => return Err(SetUpError::Hung { what: mount.source.clone(), seconds: limit.as_secs() }),
        () = ending.cancelled() => return Err(SetUpError::Ending),
    };
    // Another process may have its number from now on.
    group.0 = None;
    if output.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim_end().to_owned();
    text.truncate(text.floor_char_boundary(OUTPUT_LIMIT));
    Err(SetUpError::MountCommand { status: status(output.status), arguments: arguments.join(" "), output: text })
}

/// As the kubelet has it.
fn status(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}
