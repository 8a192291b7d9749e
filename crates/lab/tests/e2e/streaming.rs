//! `kubectl exec`, `attach`, `cp` and `port-forward`: what a person does to a running pod.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::harness::{AGNHOST, Bed, SOON, condition, shell};

async fn bed(test: &str) -> Result<Bed> {
    let bed = Bed::shared(test).await?;
    let web = json!({"name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8080"]});
    let mut echo = shell("echo", "while read line; do echo got $line; done; sleep 3600");
    echo["stdin"] = json!(true);
    bed.pod("p", json!({"containers": [web, echo]})).await?;
    bed.until("p", SOON, "Ready", |pod| condition(pod, "Ready") == "True").await?;
    Ok(bed)
}

#[tokio::test]
async fn e2e_exec_carries_output_input_and_exit_code() -> Result<()> {
    let own = bed("exec").await?;
    let bed = &own;
    let exec = |script: &'static str| async move { bed.kubectl(&["exec", "p", "-c", "web", "--", "sh", "-c", script]).await };
    ensure!(exec("echo out; echo err >&2").await? == "out\n");
    let failed = format!("{:#}", exec("echo why >&2; exit 7").await.err().context("exit 7 is a failure")?);
    ensure!(failed.contains("exit code 7") && failed.contains("why"), "{failed}");
    let failed = format!("{:#}", bed.kubectl(&["exec", "p", "-c", "web", "--", "nosuch"]).await.err().context("there is no such program")?);
    ensure!(failed.contains("nosuch"), "{failed}");
    // Both ways, more than any buffer holds, to the last byte.
    let input: String = (0..400_000).map(|number| format!("{number}\n")).collect();
    let arguments = ["--namespace", &bed.namespace, "exec", "-i", "p", "-c", "web", "--", "cat"];
    let output = bed.lab.kubectl_with_input(&arguments, &input).await?;
    ensure!(output == input, "{} of {} bytes came back", output.len(), input.len());
    // The container's own streams.
    let arguments = ["--namespace", &bed.namespace, "attach", "-i", "p", "-c", "echo", "--pod-running-timeout=5s"];
    let mut attached = bed.lab.kubectl_command(&arguments)?.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    attached.stdin.as_mut().context("piped")?.write_all(b"hello\n").await?;
    let mut lines = BufReader::new(attached.stdout.take().context("piped")?).lines();
    let line = tokio::time::timeout(SOON, lines.next_line()).await.context("nothing came back")??;
    ensure!(line.as_deref() == Some("got hello"), "{line:?}");
    attached.kill().await?;
    own.done().await
}

#[tokio::test]
async fn e2e_port_forward_reaches_the_pods_loopback() -> Result<()> {
    let bed = bed("forward").await?;
    let arguments = ["--namespace", &bed.namespace, "port-forward", "--address", "127.0.0.1", "pod/p", ":8080", ":9"];
    let mut forward = bed.lab.kubectl_command(&arguments)?.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(forward.stdout.take().context("piped")?).lines();
    let mut ports = Vec::new();
    while ports.len() < 2 {
        let line = tokio::time::timeout(SOON, lines.next_line()).await.context("no port is forwarded")??.context("kubectl has ended")?;
        let port = line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u16>().ok());
        ports.extend(port);
    }
    let request = |port: u16| async move {
        let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        connection.write_all(b"GET /hostname HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answers = futures::future::join_all((0..20).map(|_| request(ports[0]))).await;
    for answer in answers {
        let answer = answer?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\np"), "{answer}");
    }
    // Nothing listens there: the connection ends, and the one beside it works on. (kubectl itself gives up after such an error.)
    ensure!(request(ports[1]).await.unwrap_or_default().is_empty());
    forward.kill().await?;
    bed.done().await
}
