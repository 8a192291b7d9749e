use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use kube_pet_lab::eventually;
use serde_json::json;

use super::{Over, bed, check, done, fill, finished, furnished, kubectl};
use crate::harness::{Bed, SOON, shell};

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

#[e2e]
async fn e2e_exec_by_sessions_of_podman() -> Result<()> {
    let bed = furnished(Bed::own_with("podmanexec", |options| options.with("podman", json!({"exec": "podman"}))).await?).await?;
    for over in Over::BOTH {
        exit_codes(&bed, over).await?;
        round_trip(&bed, over, 10_000_000).await?;
    }
    // Podman knows of the session: it is Podman's.
    let mut child = kubectl(&bed, Over::Spdy, &["exec", "p", "-c", "talker", "--", "sh", "-c", "echo begun; exec sleep 60"])?.spawn()?;
    child.stdout.as_mut().context("piped")?.read_exact(&mut [0; 5]).await?;
    let container = bed.pet.podman(&["ps", "--quiet", "--filter", "name=k8s_talker_p_"]).await?;
    let sessions = bed.pet.podman(&["container", "inspect", "--format", "{{len .ExecIDs}}", container.trim()]).await?;
    ensure!(sessions.trim() != "0", "{sessions}");
    bed.done().await
}

/// What confines a process, where to look for it: the command's own (`self`), or the container's (`1`).
const CONFINEMENT: &str = "for process in 1 self; do echo == $process; \
    grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask)' /proc/$process/status; \
    cat /proc/$process/oom_score_adj /proc/$process/cgroup /proc/$process/limits; for link in /proc/$process/cwd /proc/$process/ns/*; do readlink $link; done; done";

#[e2e]
async fn e2e_a_command_is_confined_as_its_container_is() -> Result<()> {
    let bed = Bed::shared("confined").await?;
    let mut container = shell("c", "exec sleep 3600");
    container["securityContext"] = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        "seccompProfile": {"type": "RuntimeDefault"}});
    container["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "100m"}});
    let security = json!({"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000]});
    bed.pod("p", json!({"securityContext": security, "containers": [container]})).await?;
    bed.phase("p", "Running").await?;
    let told = bed.kubectl(&["exec", "p", "--", "sh", "-c", CONFINEMENT]).await?;
    let (first, own) = told.split_once("== self").context("two processes")?;
    let first = first.trim_start_matches("== 1").trim();
    ensure!(first.contains("Seccomp:\t2") && first.contains("NoNewPrivs:\t1") && first.contains("CapEff:\t0000000000000400"), "{first}");
    ensure!(own.trim() == first, "{told}");
    // Standard output can be opened by its name, by a user too.
    ensure!(bed.kubectl(&["exec", "p", "--", "sh", "-c", "echo named >/dev/stdout"]).await? == "named\n");
    bed.done().await
}

#[e2e]
async fn e2e_a_command_goes_on_without_its_client() -> Result<()> {
    let bed = bed("goeson").await?;
    // It writes more than any buffer on the way holds after its client has left.
    let script = "echo begun; sleep 1; i=0; while [ $i -lt 20000 ]; do echo a line of it that nobody reads any more; i=$((i+1)); done; \
        echo done >/tmp/done";
    for (over, terminal) in [(Over::Spdy, "--stdin"), (Over::WebSocket, "--stdin"), (Over::WebSocket, "--tty")] {
        let mut child = kubectl(&bed, over, &["exec", terminal, "p", "-c", "talker", "--", "sh", "-c", script])?.spawn()?;
        let mut begun = [0; 5];
        child.stdout.as_mut().context("piped")?.read_exact(&mut begun).await?;
        child.kill().await?;
        eventually(SOON, "the command has gone on to its end", || async {
            bed.kubectl(&["exec", "p", "-c", "talker", "--", "rm", "/tmp/done"]).await
        })
        .await?;
    }
    bed.done().await
}

#[e2e]
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
    // Over WebSocket it lives on a moment: the API server closes the connection right behind the status (`StreamTranslatorHandler`, 1.37),
    // and what kubectl has not read when its next ping comes is lost, with any kubelet.
    let script = if over == Over::Spdy { "exec cat" } else { "cat; sleep 2" };
    let mut child = kubectl(bed, over, &["exec", "-i", "p", "-c", "talker", "--", "sh", "-c", script])?.spawn()?;
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
#[e2e]
async fn e2e_exec_carries_a_hundred_megabytes_both_ways() -> Result<()> {
    let bed = bed("pipes").await?;
    for over in Over::BOTH {
        round_trip(&bed, over, 100_000_000).await?;
    }
    bed.done().await
}
