//! What a machine's other owners of nf_tables do, with traffic.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use kube_pet_lab::eventually;
use serde_json::json;

use super::{
    client, cluster_ip,
    load::{self, Load},
    service,
};
use crate::harness::{AGNHOST, Bed, SOON, condition};

/// A Service must be answered so soon after whatever was done.
const LIMIT: Duration = Duration::from_secs(2);
/// What is none of a Service's business: as long as a busy machine may let one client wait.
const UNDISTURBED: Duration = Duration::from_millis(700);
/// How long connections are watched from then on.
const WATCH: Duration = Duration::from_secs(4);

/// firewalld makes its tables anew in one step; others' tables are none of its business.
const FIREWALLD: &str = "
    table inet firewalld {}
    delete table inet firewalld
    table inet firewalld {
        chain filter_INPUT { type filter hook input priority 10; policy accept; ct state established,related accept; ct status dnat accept; }
        chain filter_FORWARD { type filter hook forward priority 10; policy accept; ct state established,related accept; ct status dnat accept; }
        chain nat_PREROUTING { type nat hook prerouting priority -90; policy accept; tcp dport 9 redirect to :9999; }
        chain nat_POSTROUTING { type nat hook postrouting priority 110; policy accept; }
    }";
/// What Debian's nftables.service loads: everything goes, and its own comes, in one step.
const NFTABLES_SERVICE: &str = "
    flush ruleset
    table inet filter {
        chain input { type filter hook input priority 0; policy accept; }
        chain forward { type filter hook forward priority 0; policy accept; }
        chain output { type filter hook output priority 0; policy accept; }
    }";

#[e2e]
async fn e2e_services_come_back_after_reloads_of_other_rules() -> Result<()> {
    let bed = Bed::own("reloads").await?;
    bed.pod("web-0", json!({"containers": [load::server()]})).await?;
    bed.kubectl(&["label", "pod", "web-0", "app=web"]).await?;
    client(&bed).await?;
    bed.until("web-0", SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
    let web = service(&bed, "web", json!({})).await?;
    let target: SocketAddr = format!("{}:80", cluster_ip(&web)?).parse()?;
    eventually(SOON, "the agent has compared the rules", || async {
        let log = bed.pet.agent_log();
        ensure!(log.matches("the kernel's rules are as they should be").count() >= 2, "{log}");
        Ok(())
    })
    .await?;
    // A container of somebody else's, in a network of Podman's: what a reload is for.
    bed.pet.podman(&["run", "--detach", "--name=bystander", "--publish=18090:8080", AGNHOST, "netexec", "--http-port=8080"]).await?;
    for (file, rules) in [("firewalld.nft", FIREWALLD), ("nftables.conf", NFTABLES_SERVICE)] {
        std::fs::write(bed.pet.path(format!("/run/{file}")), rules).with_context(|| format!("write {file}"))?;
    }

    let mut noticed = false;
    for (what, flushes) in [
        ("nft flush ruleset", true),
        ("podman network reload --all", false),
        ("nft -f /run/firewalld.nft", false),
        ("nft -f /run/firewalld.nft", false),
        ("nft -f /run/nftables.conf", true),
        // Both at once: no table may be missing afterwards.
        ("nft flush ruleset; nft -f /run/firewalld.nft", true),
    ] {
        let namespaces = [load::of_pet(&bed), load::of_pod(&bed, "client").await?];
        let clients = Load::start(&namespaces, target, 200, Duration::from_millis(100))?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        match what.strip_prefix("podman ") {
            Some(arguments) => drop(bed.pet.podman(&arguments.split(' ').collect::<Vec<_>>()).await?),
            None => drop(bed.pet.shell(what).await?),
        }
        tokio::time::sleep(WATCH).await;
        let seen = clients.stop().await?;
        println!("{what}: {} answered, {} failed, {:.2?} without an answer", seen.answered, seen.failed.len(), seen.gap);
        ensure!(seen.answered > 200, "{what}: only {} answered", seen.answered);
        let limit = if flushes { LIMIT } else { UNDISTURBED };
        ensure!(seen.gap < limit, "{what}: {:?} without an answer, {:?}", seen.gap, seen.failed);
        noticed |= flushes && !seen.failed.is_empty();
        let tables = bed.pet.shell("nft list tables").await?;
        ensure!(tables.contains("kp-services") && tables.contains("kp-pods"), "{what} leaves {tables}");
    }
    ensure!(noticed, "flushes that no connection has noticed show nothing");
    bed.pet.podman(&["rm", "--force", "--time=0", "bystander"]).await?;
    bed.done().await
}
