//! Other clients than the kubectl of the cluster's version.

use anyhow::{Context, Result, ensure};
use kube_pet_lab::builds::Builds;
use kube_pet_lab::command::{argv, program};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{Over, bed, done, finished};
use crate::harness::Bed;

pub(super) fn python(arguments: &[&str]) -> Result<Command> {
    let cache = Builds::locate()?;
    let interpreter = cache.bin().parent().context("the cache")?.join("python/bin/python");
    ensure!(interpreter.exists(), "{} is missing: build it with `lab/build.sh clients` (`make prepare` does)", interpreter.display());
    let mut command = program(interpreter);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../lab/python/streams.py")).args(arguments);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// The node's URL, and the administrator's certificate and key.
pub(super) fn node(bed: &Bed) -> Result<(String, String, String)> {
    let file = |name: &str| Ok::<_, anyhow::Error>(bed.lab.record().pki_dir().join(name).to_str().context("a path")?.to_owned());
    Ok((format!("wss://{}:10250", bed.pet.address()), file("admin.crt")?, file("admin.key")?))
}

/// Python's client: exec with and without a terminal, port-forward and logs, over WebSocket.
#[e2e]
async fn e2e_pythons_client_runs_commands() -> Result<()> {
    let bed = bed("python").await?;
    let kubeconfig = bed.lab.record().kubeconfig();
    let done = done(python(&[kubeconfig.to_str().context("a path")?, &bed.namespace, "p", "talker"])?).await?;
    ensure!(done.code == 0, "{}{}", done.stdout, done.stderr);
    bed.done().await
}

/// Straight to the node's port with the API server's own certificate for it: the WebSocket protocols that the API server would translate.
#[e2e]
async fn e2e_a_websocket_straight_to_the_node() -> Result<()> {
    let bed = bed("straight").await?;
    let (url, certificate, key) = node(&bed)?;
    let done = done(python(&["--node", &url, &certificate, &key, &bed.namespace, "p", "talker"])?).await?;
    ensure!(done.code == 0, "{}{}", done.stdout, done.stderr);
    bed.done().await
}

/// client-go's executors.
#[e2e]
async fn e2e_client_gos_executors_run_commands() -> Result<()> {
    let bed = bed("go").await?;
    let streams = Builds::locate()?.program("streams")?;
    let kubeconfig = bed.lab.record().kubeconfig();
    for protocol in ["spdy", "websocket"] {
        let run = |options: &[&str], shell: &str| {
            let mut command = program(&streams);
            command.arg("-kubeconfig").arg(&kubeconfig).args(["-namespace", &bed.namespace, "-pod", "p", "-container", "talker"]);
            command.args(["-protocol", protocol]).args(options).args(["sh", "-c", shell]);
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.kill_on_drop(true);
            command
        };
        let both = done(run(&[], "echo out; echo err >&2; exit 9")).await?;
        ensure!((both.code, both.stdout.as_str(), both.stderr.as_str()) == (9, "out\n", "err\n"), "{protocol}: {both:?}");
        let mut child = run(&["-stdin"], "sha256sum").spawn()?;
        let mut stdin = child.stdin.take().context("piped")?;
        stdin.write_all(&vec![b'z'; 5_000_000]).await?;
        drop(stdin);
        let sum = finished(child).await?;
        let wanted = kube_pet_lab::command::run(&["sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' z | sha256sum"]).await?;
        ensure!(sum.code == 0 && sum.stdout == wanted, "{protocol}: {sum:?}, not {wanted}");
        // The size follows the command's start, as with every runtime.
        let size = "n=0; until stty size 2>/dev/null | grep '37 91' || [ $n = 100 ]; do n=$((n + 1)); sleep 0.1; done";
        let tty = done(run(&["-tty", "91x37"], size)).await?;
        ensure!(tty.code == 0 && tty.stdout.contains("37 91"), "{protocol}: {tty:?}");
    }
    bed.done().await
}

async fn kubectl_of(bed: &Bed, version: &str, over: Over) -> Result<()> {
    let mut kubectl = argv(&[Builds::locate()?.program(version)?]);
    kubectl.arg("--kubeconfig").arg(bed.lab.record().kubeconfig()).args(["--namespace", &bed.namespace]);
    kubectl.args(["exec", "p", "-c", "talker", "--", "sh", "-c", "echo out; exit 4"]);
    kubectl.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    over.set(&mut kubectl);
    let done = done(kubectl).await?;
    ensure!((done.code, done.stdout.as_str()) == (4, "out\n"), "{version} {over:?}: {done:?}");
    Ok(())
}

/// The minor before the cluster's.
#[e2e]
async fn e2e_an_older_kubectl_runs_commands() -> Result<()> {
    let bed = bed("older").await?;
    for over in Over::BOTH {
        kubectl_of(&bed, "kubectl-1.36", over).await?;
    }
    bed.done().await
}
