use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;

use super::{Over, bed, kubectl};
use crate::harness::{AGNHOST, Bed, SOON, condition};

/// kubectl port-forward, and the local ports that it has chosen for `ports`.
pub(super) async fn forward(bed: &Bed, over: Over, ports: &[&str]) -> Result<(Child, Vec<u16>)> {
    let mut arguments = vec!["port-forward", "--address", "127.0.0.1", "pod/p"];
    arguments.extend(ports);
    let mut forward = kubectl(bed, over, &arguments)?.spawn()?;
    let mut lines = BufReader::new(forward.stdout.take().context("piped")?).lines();
    let mut local = Vec::new();
    while local.len() < ports.len() {
        let line = tokio::time::timeout(SOON, lines.next_line()).await.context("no port is forwarded")??.context("kubectl has ended")?;
        local.extend(line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u16>().ok()));
    }
    // What it says about each connection must not fill the pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((forward, local))
}

async fn request(port: u16) -> Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(b"GET /hostname HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Several requests over one connection, as browsers do.
async fn keep_alive(port: u16) -> Result<()> {
    let mut connection = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
    for number in 0..5 {
        connection.write_all(b"GET /hostname HTTP/1.1\r\nHost: p\r\n\r\n").await?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            tokio::time::timeout(SOON, connection.read_line(&mut line)).await.context("no answer")??;
            ensure!(!line.is_empty(), "request {number}: the connection has ended");
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await?;
        ensure!(body == b"p", "request {number}: {body:?}");
    }
    Ok(())
}

#[e2e]
async fn e2e_port_forward_reaches_the_pods_loopback() -> Result<()> {
    let own = bed("forward").await?;
    let bed = &own;
    for over in Over::BOTH {
        let (mut kubectl, ports) = forward(bed, over, &[":8080", ":9"]).await?;
        keep_alive(ports[0]).await.with_context(|| format!("{over:?}"))?;
        let answers = futures::future::join_all((0..50).map(|_| request(ports[0]))).await;
        for answer in answers {
            let answer = answer?;
            ensure!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\np"), "{over:?}: {answer}");
        }
        // Nothing listens there: the connection ends, and kubectl says why.
        ensure!(request(ports[1]).await.unwrap_or_default().is_empty(), "{over:?}");
        let mut errors = BufReader::new(kubectl.stderr.take().context("piped")?).lines();
        let refused = async {
            while let Some(line) = errors.next_line().await? {
                if line.contains("Connection refused") && line.contains("port 9") {
                    return anyhow::Ok(true);
                }
            }
            Ok(false)
        };
        ensure!(tokio::time::timeout(SOON, refused).await.context("kubectl says nothing")??, "{over:?}");
        kubectl.kill().await?;
    }
    own.done().await
}

#[e2e]
async fn e2e_port_forward_reaches_a_pod_in_a_user_namespace() -> Result<()> {
    let bed = Bed::shared("forwarduserns").await?;
    let ready = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
    let web = json!({"name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8080"], "readinessProbe": ready});
    bed.pod("p", json!({"hostUsers": false, "containers": [web]})).await?;
    // kubectl ends with the first connection that is refused.
    bed.until("p", SOON, "Ready", |pod| condition(pod, "Ready") == "True").await?;
    for over in Over::BOTH {
        let (mut kubectl, ports) = forward(&bed, over, &[":8080"]).await?;
        let answer = request(ports[0]).await?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\np"), "{over:?}: {answer}");
        kubectl.kill().await?;
    }
    bed.done().await
}
