//! `kubectl logs`, with every option.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::{Bed, SOON, restarts, shell};

const TEN: &str = "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i; done";

#[tokio::test]
async fn e2e_logs_tail_limit_and_timestamps() -> Result<()> {
    let bed = Bed::shared("logs").await?;
    let whole = bed.script("p", TEN, json!({})).await?;
    ensure!(whole.lines().count() == 10, "{whole}");
    ensure!(bed.kubectl(&["logs", "p", "--tail=2"]).await? == "line 9\nline 10\n");
    ensure!(bed.kubectl(&["logs", "p", "--tail=0"]).await?.is_empty());
    ensure!(bed.kubectl(&["logs", "p", "--limit-bytes=10"]).await? == "line 1\nlin");
    let stamped = bed.kubectl(&["logs", "p", "--timestamps", "--tail=1"]).await?;
    let (stamp, line) = stamped.split_once(' ').unwrap_or_default();
    ensure!(line == "line 10\n", "{stamped}");
    stamp.parse::<jiff::Timestamp>()?;
    bed.done().await
}

#[tokio::test]
async fn e2e_logs_since() -> Result<()> {
    let bed = Bed::shared("logsince").await?;
    let log = bed.script("p", "echo early; sleep 4; echo late", json!({})).await?;
    ensure!(log == "early\nlate\n", "{log}");
    let stamped = bed.kubectl(&["logs", "p", "--timestamps", "--tail=1"]).await?;
    let at = stamped.split(' ').next().unwrap_or_default();
    let moment: jiff::Timestamp = at.parse()?;
    let before = moment - jiff::SignedDuration::from_secs(2);
    let since = format!("--since-time={}", before.strftime("%Y-%m-%dT%H:%M:%SZ"));
    ensure!(bed.kubectl(&["logs", "p", &since]).await? == "late\n");
    ensure!(bed.kubectl(&["logs", "p", "--since=1h"]).await? == "early\nlate\n");
    bed.done().await
}

#[tokio::test]
async fn e2e_logs_follow_to_the_end() -> Result<()> {
    let bed = Bed::shared("logfollow").await?;
    let spec = json!({"restartPolicy": "Never", "containers": [
        shell("c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.5; done"),
    ]});
    bed.pod("p", spec).await?;
    bed.until("p", SOON, "has started", |pod| ["Running", "Succeeded"].contains(&crate::harness::phase_of(pod))).await?;
    let log = tokio::time::timeout(SOON, bed.kubectl(&["logs", "-f", "p"])).await??;
    ensure!(log == "line 1\nline 2\nline 3\nline 4\nline 5\n", "{log}");
    bed.done().await
}

#[tokio::test]
async fn e2e_logs_of_the_previous_container() -> Result<()> {
    let bed = Bed::shared("logprevious").await?;
    let mut container = shell("c", "n=$(cat /d/n 2>/dev/null || echo 0); echo $((n + 1)) > /d/n; echo life $n; [ $n = 0 ] || sleep 3600");
    container["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
    let spec = json!({"containers": [container], "volumes": [{"name": "d", "emptyDir": {}}]});
    bed.pod("p", spec).await?;
    bed.until("p", SOON, "second life", |pod| restarts(pod, "c") == 1).await?;
    kube_pet_lab::eventually(SOON, "both lives' logs", || async {
        ensure!(bed.logs("p").await? == "life 1\n");
        ensure!(bed.kubectl(&["logs", "--previous", "p"]).await? == "life 0\n");
        Ok(())
    })
    .await?;
    bed.done().await
}

#[tokio::test]
async fn e2e_logs_survive_odd_bytes_and_long_lines() -> Result<()> {
    let bed = Bed::shared("logodd").await?;
    let script = r#"printf 'a\377b\n'; head -c 100000 /dev/zero | tr '\0' x; echo; printf 'no newline'"#;
    let spec = json!({"restartPolicy": "Never", "containers": [shell("c", script)]});
    bed.pod("p", spec).await?;
    bed.phase("p", "Succeeded").await?;
    let url = format!("/api/v1/namespaces/{}/pods/p/log", bed.namespace);
    let folder = tempdir(&bed)?;
    let file = folder.join("log");
    // As bytes: a client that decodes text would hide what it replaced.
    let redirect = format!("{} get --raw {url} > {}", kubectl_line(&bed)?, file.display());
    kube_pet_lab::command::run(&["sh", "-c", &redirect]).await?;
    let bytes = std::fs::read(&file)?;
    ensure!(bytes.starts_with(b"a\xffb\n"), "{:?}", &bytes[..8.min(bytes.len())]);
    ensure!(bytes.len() == 4 + 100_001 + 10, "{} bytes", bytes.len());
    ensure!(bytes.ends_with(b"x\nno newline"));
    std::fs::remove_dir_all(folder)?;
    bed.done().await
}

fn tempdir(bed: &Bed) -> Result<std::path::PathBuf> {
    let folder = std::env::temp_dir().join(&bed.namespace);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn kubectl_line(bed: &Bed) -> Result<String> {
    let command = bed.lab.kubectl_command(&[])?;
    let command = command.as_std();
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    Ok(words.join(" "))
}
