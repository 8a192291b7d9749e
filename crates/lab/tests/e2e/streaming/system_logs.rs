//! `/logs/` through the API server's proxy, and the audit lines of sessions.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Over, done, kubectl, pod};
use crate::harness::{Bed, SOON, shell};

#[e2e]
async fn e2e_the_machines_logs_and_a_line_for_each_session() -> Result<()> {
    let bed = Bed::own_with("syslogs", |options| options.with("enableSystemLogQuery", json!(true))).await?;
    pod(&bed, "p", &[shell("c", "echo a line; exec sleep 3600")]).await?;
    std::fs::write(bed.pet.path("var/log/app.log"), "of the app\n")?;
    let node = bed.pet.name().to_owned();
    let raw = |path: String| {
        let path = format!("/api/v1/nodes/{node}/proxy/logs/{path}");
        let bed = &bed;
        async move { bed.lab.kubectl(&["get", "--raw", &path]).await }
    };
    let list = raw(String::new()).await?;
    ensure!(list.contains(">app.log</a>") && list.contains(">pods/</a>"), "{list}");
    ensure!(raw("app.log".into()).await? == "of the app\n");
    ensure!(raw("?query=app".into()).await? == "of the app\n");
    let links = raw("containers/".into()).await?;
    let link = links.split("<a href=\"").find_map(|rest| rest.split_once('"').map(|(name, _)| name).filter(|name| name.starts_with("p_")));
    let Some(link) = link else { anyhow::bail!("no link: {links}") };
    let log = raw(format!("containers/{link}")).await?;
    ensure!(log.ends_with("stdout F a line\n"), "{log}");

    let secret = done(kubectl(&bed, Over::WebSocket, &["exec", "p", "--", "sh", "-c", "echo out; exit 6"])?).await?;
    ensure!(secret.code == 6, "{secret:?}");
    kube_pet_lab::eventually(SOON, "the session's lines", || async {
        let log = bed.pet.agent_log();
        let line = |what: &str| log.lines().find(|line| line.contains(what) && line.contains("/p")).map(str::to_owned).unwrap_or_default();
        let (begin, end) = (line("session begins"), line("session ended"));
        ensure!(begin.contains("exec") && begin.contains("exit 6"), "{begin}");
        ensure!(end.contains("exit code 6"), "{end}");
        Ok(())
    })
    .await?;
    bed.done().await
}
