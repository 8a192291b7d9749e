use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::{Over, finished, kubectl, pod};
use crate::harness::{Bed, SOON, ended, shell};

/// What is typed reaches the container's own process.
#[e2e]
async fn e2e_attach_talks_to_the_containers_process() -> Result<()> {
    let bed = Bed::shared("attach").await?;
    let echo = |name| {
        let mut echo = shell(name, "while read line; do echo got $line; done; sleep 3600");
        echo["stdin"] = json!(true);
        echo
    };
    pod(&bed, "p", &[echo("one"), echo("two")]).await?;
    for (over, word) in [(Over::Spdy, "one"), (Over::WebSocket, "two")] {
        let mut attached = kubectl(&bed, over, &["attach", "-i", "p", "-c", word])?.spawn()?;
        attached.stdin.as_mut().context("piped")?.write_all(format!("{word}\n").as_bytes()).await?;
        let mut lines = BufReader::new(attached.stdout.take().context("piped")?).lines();
        let wanted = format!("got {word}");
        let found = async {
            while let Some(line) = lines.next_line().await? {
                if line == wanted {
                    return anyhow::Ok(true);
                }
            }
            Ok(false)
        };
        ensure!(tokio::time::timeout(SOON, found).await.context("nothing came back")??, "{over:?}: no {wanted}");
        attached.kill().await?;
    }
    bed.done().await
}

/// With `stdinOnce` the input of the container ends with that of the client, and so does the container.
#[e2e]
async fn e2e_attach_ends_the_input_of_a_container_with_stdin_once() -> Result<()> {
    let bed = Bed::shared("once").await?;
    for (over, name) in [(Over::Spdy, "spdy"), (Over::WebSocket, "websocket")] {
        let mut once = shell("c", "cat; echo that was all");
        once["stdin"] = json!(true);
        once["stdinOnce"] = json!(true);
        bed.pod(name, json!({"containers": [once], "restartPolicy": "Never"})).await?;
        bed.phase(name, "Running").await?;
        let mut attached = kubectl(&bed, over, &["attach", "-i", name])?.spawn()?;
        let mut stdin = attached.stdin.take().context("piped")?;
        stdin.write_all(b"some words\n").await?;
        drop(stdin);
        let done = finished(attached).await?;
        ensure!(done.code == 0 && done.stdout.contains("some words\nthat was all\n"), "{over:?}: {done:?}");
        let pod = bed.phase(name, "Succeeded").await?;
        ensure!(ended(&pod, "c") == Some(("Completed", 0)), "{:?}", pod.status);
    }
    bed.done().await
}

/// Without `stdinOnce` the input of the container outlives every client: those with an input, those that end theirs, and those that
/// only look.
#[e2e]
async fn e2e_attach_leaves_the_input_of_other_containers_open() -> Result<()> {
    let bed = Bed::shared("open").await?;
    for (over, name) in [(Over::Spdy, "spdy"), (Over::WebSocket, "websocket")] {
        let mut open = shell("c", "cat; echo that was all");
        open["stdin"] = json!(true);
        bed.pod(name, json!({"containers": [open], "restartPolicy": "Never"})).await?;
        bed.phase(name, "Running").await?;
        for word in ["one", "two"] {
            let mut looks = kubectl(&bed, over, &["attach", name])?.spawn()?;
            let mut types = kubectl(&bed, over, &["attach", "-i", name])?.spawn()?;
            let mut stdin = types.stdin.take().context("piped")?;
            stdin.write_all(format!("{word}\n").as_bytes()).await?;
            let mut lines = BufReader::new(types.stdout.take().context("piped")?).lines();
            let line = tokio::time::timeout(SOON, lines.next_line()).await.context("nothing came back")??;
            ensure!(line.as_deref() == Some(word), "{over:?}: {line:?}");
            drop(stdin);
            let status = tokio::time::timeout(SOON, types.wait()).await.context("the session outlives its input")??;
            ensure!(status.success(), "{over:?}: {status}");
            looks.kill().await?;
        }
        let log = bed.kubectl(&["logs", name]).await?;
        ensure!(log == "one\ntwo\n", "{over:?}: {log}");
        bed.phase(name, "Running").await?;
    }
    bed.done().await
}
