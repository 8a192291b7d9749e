//! A kube-proxy that a cluster puts on every node, beside the agent that does the same.

use anyhow::{Context, Result, ensure};
use kube_pet_lab::{eventually, kube_proxy};
use serde_json::json;

use super::{SERVES_ON, all_answer, client, cluster_ip, from_machine, from_pod, server, service};
use crate::harness::{Bed, SOON};

#[e2e]
async fn e2e_services_beside_kube_proxy() -> Result<()> {
    let bed = Bed::own("beside").await?;
    let proxy = kube_proxy::start(&bed.lab, &bed.pet).await?;
    tokio::try_join!(server(&bed, "web-0", json!([])), server(&bed, "web-1", json!([])), client(&bed))?;
    let web = service(&bed, "web", json!({"type": "NodePort", "externalTrafficPolicy": "Local"})).await?;
    let ip = cluster_ip(&web)?;
    let ports = web.spec.as_ref().and_then(|spec| spec.ports.as_ref()).context("ports")?;
    let node_port = ports.first().and_then(|port| port.node_port).context("a node port")?;
    let address = bed.pet.address().to_string();
    let both_have = |wanted: usize| {
        let rules = format!(
            "nft list map ip kube-proxy service-ips | grep -q '{ip} . tcp . 80' && \
             test $(nft list map inet kp-services service4-endpoints | grep -o '{ip} . tcp . 80 ' | wc -l) = {wanted}"
        );
        let pet = bed.pet.clone();
        async move { eventually(SOON, "both proxies have the Service", || async { pet.shell(&rules).await.map(drop) }).await }
    };
    both_have(2).await?;

    let both = ["web-0", "web-1"];
    all_answer(&both, async || from_pod(&bed, ip).await).await.context("from a pod")?;
    all_answer(&both, async || from_machine(bed.pet.machine(), ip, 80).await).await.context("from the node")?;
    all_answer(&both, async || from_machine(bed.lab.control_plane(), &address, node_port).await)
        .await
        .context("the node port from elsewhere")?;
    let udp = format!("echo hostname | nc -u -w 2 {ip} 90");
    all_answer(&both, async || bed.kubectl(&["exec", "client", "--", "sh", "-c", &udp]).await).await.context("by UDP")?;
    // A server that asks its own Service may be answered by itself.
    for _ in 0..4 {
        bed.kubectl(&["exec", "web-0", "--", "/agnhost", "connect", &format!("{ip}:80"), "--timeout=3s"]).await?;
    }
    // Neither hides the client where the Service does not.
    let ask = format!("exec 3<>/dev/tcp/{address}/{node_port} && printf 'GET /clientip HTTP/1.0\\r\\n\\r\\n' >&3 && tail -n1 <&3");
    let seen = bed.lab.control_plane().shell(&format!("timeout 3 bash -c \"{}\"", ask.replace('"', "\\\""))).await?;
    let own = bed.lab.record().wire().control_plane().to_string();
    ensure!(seen.starts_with(&format!("{own}:")), "{own} is seen as {seen}");

    // An endpoint goes while clients connect, until long after its server has ended: whoever of the two is later, nobody is led to where
    // nothing is.
    let failures = async {
        let ask = format!(
            "bad=0; end=$(($(date +%s) + {})); while [ $(date +%s) -lt $end ]; do \
             wget -q -O /dev/null -T 2 http://{ip}/hostname || bad=$((bad + 1)); done; echo $bad",
            2 * SERVES_ON
        );
        bed.kubectl(&["exec", "client", "--", "sh", "-c", &ask]).await
    };
    let (failures, deleted) = tokio::join!(failures, bed.kubectl(&["delete", "pod", "web-0", "--wait=false"]));
    deleted?;
    ensure!(failures?.trim() == "0");
    bed.kubectl(&["delete", "pod", "web-1"]).await?;
    eventually(SOON, "no endpoint: refused", || async {
        let answer = from_pod(&bed, ip).await?;
        ensure!(answer.contains("refused"), "{answer}");
        Ok(())
    })
    .await?;
    // And one comes.
    server(&bed, "web-2", json!([])).await?;
    all_answer(&["web-2"], async || from_pod(&bed, ip).await).await.context("from a pod, later")?;
    ensure!(proxy.is_running(), "kube-proxy has ended");
    bed.done().await
}
