//! `kubectl logs`, with every option.

use anyhow::{Context as _, Result, ensure};
use kube_pet_lab::PetOptions;
use serde_json::json;

use crate::harness::{Bed, SOON, restarts, shell};

const TEN: &str = "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i; done";

#[e2e]
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

#[e2e]
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

#[e2e]
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

#[e2e]
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

#[e2e]
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

/// Numbered lines, fast, through several rotations: a client that follows gets each once, and so do the files that are kept.
#[e2e]
async fn e2e_logs_rotate_without_losing_a_line() -> Result<()> {
    const LINES: usize = 500_000;
    let settings = |options: PetOptions| {
        let options = options.with("containerLogMaxSize", json!("1Mi")).with("containerLogMaxFiles", json!(4));
        options.with("containerLogMonitorInterval", json!("3s"))
    };
    let bed = Bed::own_with("logrotate", settings).await?;
    // 50 000 lines (3.5 MB) at a time, as fast as awk can.
    let script = r#"n=0; while [ $n -lt 10 ]; do
        awk -v from=$((n * 50000 + 1)) 'BEGIN { for (i = from; i < from + 50000; i++) printf "%08d the quick brown fox jumps over the lazy dog\n", i }'
        n=$((n + 1)); sleep 1; done; sleep 3600"#;
    bed.pod("p", json!({"containers": [shell("c", script)]})).await?;
    let pod = bed.phase("p", "Running").await?;
    let uid = pod.metadata.uid.unwrap_or_default();
    let folder = tempdir(&bed)?;
    let followed = folder.join("followed");
    let line = format!("exec {} --namespace {} logs -f p > {}", kubectl_line(&bed)?, bed.namespace, followed.display());
    let follower = tokio::spawn(async move { kube_pet_lab::command::run(&["sh", "-c", &line]).await });
    kube_pet_lab::eventually(SOON * 5, "the last line arrives", || async {
        let text = std::fs::read(&followed)?;
        ensure!(text.len() >= LINES * 53, "{} bytes", text.len());
        Ok(())
    })
    .await?;
    ensure!(numbers(&std::fs::read_to_string(&followed)?)? == (1, LINES));

    let logs = bed.pet.path(format!("/var/log/pods/{}_p_{uid}/c", bed.namespace));
    // The last rotation may be under way, and take a file away between its name and its content.
    kube_pet_lab::eventually(SOON, "the files are as many as may be, and whole", || async {
        let mut files: Vec<_> = std::fs::read_dir(&logs)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.sort();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
        let compressed = names.iter().filter(|name| name.ends_with(".gz")).count();
        ensure!(names.len() == 4 && names[0] == "0.log" && compressed == 2, "{names:?}");
        let mut kept = String::new();
        for file in files.iter().skip(1).chain(files.first()) {
            let show = if file.extension().is_some_and(|extension| extension == "gz") { "zcat" } else { "cat" };
            kept += &kube_pet_lab::command::run(&[show, &file.display().to_string()]).await?;
        }
        let kept = contents(&kept);
        // The first line may have been cut by the limit of files.
        let (_, kept) = kept.split_once('\n').context("lines")?;
        let (first, last) = numbers(kept)?;
        ensure!(first > 1 && last == LINES, "{first} to {last}");
        Ok(())
    })
    .await?;

    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    follower.await??;
    ensure!(!logs.exists(), "{} stays", logs.display());
    std::fs::remove_dir_all(folder)?;
    bed.done().await
}

/// What was written, of a log file's lines: time, stream, `P` for a part of a line or `F` for its end, text.
fn contents(log: &str) -> String {
    let mut out = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ').skip(2);
        let (tag, text) = (fields.next(), fields.next().unwrap_or_default());
        out += text;
        if tag != Some("P") {
            out.push('\n');
        }
    }
    out
}

/// The first and the last number of lines that begin with consecutive ones.
fn numbers(text: &str) -> Result<(usize, usize)> {
    let mut numbers = text.lines().map(|line| line.get(..8).unwrap_or(line).parse::<usize>());
    let first = numbers.next().context("no line")??;
    let mut last = first;
    for number in numbers {
        let number = number?;
        ensure!(number == last + 1, "{number} after {last}");
        last = number;
    }
    Ok((first, last))
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
