use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncWriteExt as _;

use super::{Over, bed, finished, kubectl};
use crate::harness::Bed;

/// Drives kubectl in a terminal by `lab/python/terminal.py`, and returns what it has shown.
async fn drive(bed: &Bed, over: Over, arguments: &[&str], script: &str, code: i32) -> Result<String> {
    let terminal = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../lab/python/terminal.py");
    let kubectl = kubectl(bed, over, arguments)?;
    let mut command = kube_pet_lab::command::program("python3");
    command.arg(terminal).arg("80x24").arg(kubectl.as_std().get_program()).args(kubectl.as_std().get_args());
    over.set(&mut command);
    let mut child = command
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    stdin.write_all(script.as_bytes()).await?;
    drop(stdin);
    let done = finished(child).await?;
    ensure!(done.code == code, "{over:?}: {done:?}");
    Ok(done.stdout)
}

#[e2e]
async fn e2e_exec_in_a_terminal_is_resized_interrupted_and_ended() -> Result<()> {
    let bed = bed("terminal").await?;
    for over in Over::BOTH {
        // A ctrl-c that comes while the shell has just forked may reach neither of the two: a person presses it again.
        // The size at the start, after a change, what ctrl-c does (the shell goes on), ctrl-p untouched, and ctrl-d for the end.
        let script = "type until stty size | grep 24; do sleep 0.1; done\nexpect 24 80\n\
                      resize 132x50\ntype until stty size | grep 50; do sleep 0.1; done\nexpect 50 132\n\
                      type tty; test -t 0 && test -t 1 && echo a-$((40+2))\nexpect /dev/pts/\nexpect a-42\n\
                      type echo ready-$((1+1)); sleep 1000\nexpect ready-2\ninsist still-4 \\x03echo still-$((2+2))\\n\n\
                      type echo cat-$((3+3)); cat -v\nexpect cat-6\nkeys \\x16\\x10x\\n\nexpect ^Px\nexpect ^Px\nkeys \\x04\n\
                      type exit 3\n";
        drive(&bed, over, &["exec", "-it", "p", "-c", "talker", "--", "sh"], script, 3).await?;
    }
    bed.done().await
}
