//! A reader that is slower than the process: kubelets up to 1.37 close at the process's end, and what the reader has not had by then is lost,
//! with exit code 0.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep_until};

use super::clients::{node, python};
use super::{Over, bed, done, finished, kubectl};
use crate::harness::Bed;

/// Bytes of each run, bytes per second, and runs over each protocol: `KUBE_PET_SLOW=BYTES,RATE,RUNS`; the full case is 32 MiB at 1 MiB/s,
/// five times (`make test-slow-reader`).
fn size() -> Result<(u64, u64, usize)> {
    let Ok(text) = std::env::var("KUBE_PET_SLOW") else { return Ok((8 << 20, 4 << 20, 2)) };
    let numbers = text.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>().context("KUBE_PET_SLOW=BYTES,RATE,RUNS")?;
    let [bytes, rate, runs] = numbers[..] else { anyhow::bail!("KUBE_PET_SLOW=BYTES,RATE,RUNS") };
    Ok((bytes, rate, usize::try_from(runs)?))
}

/// kubectl over SPDY, which the API server passes on as it is; a WebSocket goes straight to the node: the API server that translates one
/// closes first itself, and kubectl fails then where pings are under way.
async fn read_slowly(bed: &Bed, over: Over, bytes: u64, rate: u64) -> Result<()> {
    if over == Over::WebSocket {
        let (url, certificate, key) = node(bed)?;
        let (bytes, rate) = (bytes.to_string(), rate.to_string());
        let arguments = ["--slow", &url, &certificate, &key, &bed.namespace, "p", "talker", &bytes, &rate];
        let done = done(python(&arguments)?).await?;
        ensure!(done.code == 0, "{}{}", done.stdout, done.stderr);
        return Ok(());
    }
    let count = bytes.to_string();
    let mut child = kubectl(bed, over, &["exec", "p", "-c", "talker", "--", "head", "-c", &count, "/dev/zero"])?.spawn()?;
    let mut stdout = child.stdout.take().context("piped")?;
    drop(child.stdin.take());
    let (began, mut read, mut piece) = (Instant::now(), 0, vec![0; 32 << 10]);
    loop {
        let length = stdout.read(&mut piece).await?;
        if length == 0 {
            break;
        }
        read += length as u64;
        sleep_until(began + Duration::from_secs_f64(read as f64 / rate as f64)).await;
    }
    let done = finished(child).await?;
    ensure!(done.code == 0, "{over:?}: {done:?}");
    ensure!(read == bytes, "{over:?}: {read} of {bytes} bytes came, with exit code 0");
    let took = began.elapsed();
    ensure!(took + Duration::from_millis(500) >= Duration::from_secs_f64(bytes as f64 / rate as f64), "{over:?}: too fast: {took:?}");
    Ok(())
}

#[e2e]
async fn e2e_a_slow_reader_gets_all_of_a_fast_process() -> Result<()> {
    let bed = bed("slow").await?;
    let (bytes, rate, runs) = size()?;
    let all = Over::BOTH.into_iter().flat_map(|over| (0..runs).map(move |_| over)).map(|over| read_slowly(&bed, over, bytes, rate));
    let failed: Vec<_> =
        futures::future::join_all(all).await.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), 2 * runs);
    bed.done().await
}
