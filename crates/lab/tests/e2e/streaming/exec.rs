use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Over, bed, check, done, fill, finished, kubectl};
use crate::harness::Bed;

async fn exit_codes(bed: &Bed, over: Over) -> Result<()> {
    let shell =
        |script: &'static str| async move { done(kubectl(bed, over, &["exec", "p", "-c", "web", "--", "sh", "-c", script])?).await };
    let ok = shell("echo out; echo err >&2").await?;
    ensure!((ok.code, ok.stdout.as_str(), ok.stderr.as_str()) == (0, "out\n", "err\n"), "{over:?} echo: {ok:?}");
    for (script, code) in [("exit 1", 1), ("echo why >&2; exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let failed = shell(script).await?;
        ensure!(failed.code == code, "{over:?} {script}: {failed:?}");
        ensure!(failed.stderr.contains(&format!("exit code {code}")), "{over:?} {script}: {failed:?}");
    }
    let missing = done(kubectl(bed, over, &["exec", "p", "-c", "web", "--", "nosuch"])?).await?;
    ensure!(missing.code != 0 && missing.stderr.contains("nosuch") && !missing.stderr.contains("unixpacket"), "{over:?}: {missing:?}");
    let missing = done(kubectl(bed, over, &["exec", "p", "-c", "nosuch", "--", "true"])?).await?;
    ensure!(missing.code == 1 && missing.stderr.contains("container"), "{over:?}: {missing:?}");
    // What a program leaves unread of its input is no error. It lives on a moment: what it writes last of all, Podman may drop
    // when it leaves input (`docs/podman-versions.md`).
    let mut child = kubectl(bed, over, &["exec", "-i", "p", "-c", "web", "--", "sh", "-c", "head -c 3; sleep 1"])?.spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    let feed = async move {
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..64 {
            if stdin.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    let (head, ()) = tokio::join!(finished(child), feed);
    let head = head?;
    ensure!((head.code, head.stdout.as_str()) == (0, "xxx"), "{over:?} head: {head:?}");
    Ok(())
}

#[tokio::test]
async fn e2e_exec_tells_output_and_exit_code() -> Result<()> {
    let bed = bed("exec").await?;
    for over in Over::BOTH {
        exit_codes(&bed, over).await?;
    }
    bed.done().await
}

/// `size` bytes into `cat` and out again, both at the same time.
async fn round_trip(bed: &Bed, over: Over, size: u64) -> Result<()> {
    const PIECE: usize = 1 << 16;
    let mut child = kubectl(bed, over, &["exec", "-i", "p", "-c", "talker", "--", "cat"])?.spawn()?;
    let (mut stdin, mut stdout) = (child.stdin.take().context("piped")?, child.stdout.take().context("piped")?);
    let write = async move {
        let (mut piece, mut offset) = (vec![0; PIECE], 0);
        while offset < size {
            let length = PIECE.min(usize::try_from(size - offset)?);
            fill(&mut piece[..length], offset);
            stdin.write_all(&piece[..length]).await.context("kubectl takes no more")?;
            offset += length as u64;
        }
        anyhow::Ok(())
    };
    let read = async move {
        let (mut piece, mut offset) = (vec![0; PIECE], 0);
        loop {
            let length = stdout.read(&mut piece).await?;
            if length == 0 {
                return anyhow::Ok(offset);
            }
            check(&piece[..length], offset)?;
            offset += length as u64;
        }
    };
    let (written, read) = tokio::join!(write, read);
    written?;
    let read = read?;
    ensure!(read == size, "{over:?}: {read} of {size} bytes came back");
    let ended = finished(child).await?;
    ensure!(ended.code == 0, "{over:?}: {ended:?}");
    Ok(())
}

/// 100 MB each way: more than any buffer on the way holds.
#[tokio::test]
async fn e2e_exec_carries_a_hundred_megabytes_both_ways() -> Result<()> {
    let bed = bed("pipes").await?;
    for over in Over::BOTH {
        round_trip(&bed, over, 100_000_000).await?;
    }
    bed.done().await
}
