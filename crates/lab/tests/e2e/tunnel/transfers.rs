//! Much at a time: what else happens in the tunnel is no hindrance to it, nor is a way that is narrower than all say.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube_pet_lab::Pet;
use serde_json::json;

use super::{Homes, home, server};
use crate::harness::{BUSYBOX, Bed, SOON, condition, pod_ip};

/// So many bytes from the pod `b` to this address, five million a second: who sends as fast as he can, loses packets by that alone. How
/// many have gone.
async fn upload(bed: &Bed, to: &str, bytes: u64) -> Result<u64> {
    let send = format!(
        "head -c {bytes} /dev/zero | curl -sS -m 300 --limit-rate 5M -F file=@- -o /dev/null -w '%{{size_upload}}' http://{to}:8080/upload"
    );
    bed.kubectl(&["exec", "b", "--", "sh", "-c", &send]).await?.parse().context("a number of bytes")
}

/// The provider's line has less room than an Ethernet: what is larger is lost on it, both ways, and nobody says so to those who send it. The
/// router knows, and tells TCP, as they do; what is in the tunnel it cannot tell.
async fn narrow(bed: &Bed, pet: &Pet) -> Result<()> {
    let router = pet.router()?;
    let rules = "table ip narrow { \
        chain output { type filter hook output priority 0; icmp type destination-unreachable drop; }; \
        chain forward { type filter hook forward priority 0; tcp flags syn tcp option maxseg size set 1320; \
            meta l4proto udp ip length > 1360 drop; }; }";
    router.shell(&format!("/usr/sbin/ip link set eth0 mtu 1360 && /usr/sbin/nft '{rules}'")).await?;
    // Its connections to the API server are of before.
    pet.kill_agent().await?;
    pet.start_agent().await?;
    kube_pet_lab::eventually(SOON, "the agent is back", || bed.kubectl(&["exec", "b", "--", "true"])).await?;
    Ok(())
}

/// So many bytes from the pod `b` to the pod `a`, and back.
async fn both_ways(bed: &Bed, bytes: u64) -> Result<()> {
    let address = async |name: &str| -> Result<String> {
        Ok(pod_ip(&bed.api::<Pod>().get(name).await?).context("a running pod has an address")?.to_owned())
    };
    let (a, b) = (address("a").await?, address("b").await?);
    let sent = upload(bed, &a, bytes).await?;
    ensure!(sent > bytes, "{sent} bytes were sent");
    let url = format!("http://{b}:8080/shell?cmd=head+-c+{bytes}+/dev/zero");
    let back = ["exec", "a", "--", "curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{size_download}", url.as_str()];
    let got: u64 = bed.kubectl(&back).await?.parse().context("a number of bytes")?;
    ensure!(got > bytes, "{got} bytes have come");
    Ok(())
}

#[e2e]
async fn e2e_a_transfer_is_not_disturbed_by_a_pet_that_joins_and_passes_a_narrow_way() -> Result<()> {
    // 60 bytes more, on the way: less than what the narrow one lets through. With the usual 1420 no transfer passes it.
    let tunnel = json!({"enabled": true, "direct": false, "mtu": 1280});
    let homes = Homes::start("transfer", &["gw1"], tunnel.clone()).await?;
    let Homes { bed, b, .. } = &homes;
    for (name, node) in [("a", bed.pet.name()), ("b", b.name())] {
        bed.create::<Pod>(server(name, node)).await?;
    }
    let pod = bed.until("a", SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
    let ip = pod_ip(&pod).context("a running pod has an address")?.to_owned();
    bed.until("b", SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;

    // Beside the transfer, packets that nobody repeats: ten a second, from before the third pet comes until it is there.
    let ping = "until [ -e /tmp/stop ]; do ping -q -c 20 -i 0.1 $TO; done";
    let spec = json!({
        "nodeName": b.name(), "restartPolicy": "Never",
        "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", ping], "env": [{"name": "TO", "value": ip}]}],
    });
    bed.create::<Pod>(json!({"metadata": {"name": "ping"}, "spec": spec})).await?;
    bed.phase("ping", "Running").await?;
    let joining = async {
        let third = bed.lab.pet(home("home-c", tunnel)).await?;
        third.ready(SOON).await?;
        Ok::<_, anyhow::Error>(third)
    };
    let (third, sent) = tokio::try_join!(joining, upload(bed, &ip, 100_000_000))?;
    ensure!(sent > 100_000_000, "{sent} bytes were sent");
    bed.kubectl(&["exec", "ping", "--", "touch", "/tmp/stop"]).await?;
    bed.phase("ping", "Succeeded").await?;
    let log = bed.logs("ping").await?;
    let rounds: Vec<_> = log.lines().filter(|line| line.contains(" packets transmitted")).collect();
    ensure!(rounds.len() > 3 && rounds.iter().all(|round| round.contains(" 0% packet loss")), "{log}");

    narrow(bed, b).await?;
    both_ways(bed, 10_000_000).await?;
    let sizes = bed.lab.kubectl(&["get", "pets", "-o", "jsonpath={.items[*].spec.mtu}"]).await?;
    ensure!(sizes == "1280 1280 1280", "what is configured is used, and told: {sizes}");

    third.remove().await?;
    homes.end(&["ping", "a", "b"]).await
}

#[e2e]
async fn e2e_a_way_that_loses_large_packets_is_passed_without_any_setting() -> Result<()> {
    let homes = Homes::start("narrow", &["gw1"], json!({"enabled": true, "direct": false})).await?;
    let Homes { bed, b, .. } = &homes;
    for (name, node) in [("a", bed.pet.name()), ("b", b.name())] {
        bed.create::<Pod>(server(name, node)).await?;
        bed.until(name, SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
    }
    narrow(bed, b).await?;
    let size = async |pet: &Pet| bed.lab.kubectl(&["get", "pet", pet.name(), "-o", "jsonpath={.spec.mtu}"]).await;
    kube_pet_lab::eventually(SOON, "the pet says what its way takes", || async {
        let found = size(b).await?;
        ensure!(found.parse().is_ok_and(|found: u16| (1293..=1300).contains(&found)), "{found:?}\n{}", b.agent_log());
        Ok(())
    })
    .await?;
    ensure!(size(&bed.pet).await?.is_empty(), "the other's is as wide as ever");
    both_ways(bed, 20_000_000).await?;

    // Datagrams that are too large for the way, there and back: the first are lost, and tell the pods what fits.
    let ip = pod_ip(&bed.api::<Pod>().get("a").await?).context("a running pod has an address")?.to_owned();
    let words = "x".repeat(1400);
    let url = format!("http://127.0.0.1:8080/dial?host={ip}&port=8081&protocol=udp&tries=1&request=echo+{words}");
    kube_pet_lab::eventually(SOON, "an answer of 1400 bytes", || async {
        let answer = bed.kubectl(&["exec", "b", "--", "curl", "-sS", "-m", "20", url.as_str()]).await?;
        ensure!(answer.contains(&words), "{answer}");
        Ok(())
    })
    .await?;

    homes.end(&["a", "b"]).await
}
