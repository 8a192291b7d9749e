//! /etc/resolv.conf and /etc/hosts for each dnsPolicy, and what the cluster's DNS answers to pods.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube_pet_lab::{cluster_dns, eventually};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::harness::{AGNHOST, Bed, PAUSE, SOON, pod_ip};

async fn resolv_conf(test: &str, spec: Value) -> Result<(String, String)> {
    let bed = Bed::shared(test).await?;
    let text = bed.script("p", "cat /etc/resolv.conf", spec).await?;
    let namespace = bed.namespace.clone();
    bed.done().await?;
    Ok((text, namespace))
}

fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.split_whitespace().next() == Some(word)).collect()
}

#[e2e]
async fn e2e_dns_cluster_first() -> Result<()> {
    let (text, namespace) = resolv_conf("dnscluster", json!({"dnsPolicy": "ClusterFirst"})).await?;
    ensure!(lines(&text, "nameserver") == ["nameserver 10.96.0.10"], "{text}");
    let search = format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local");
    ensure!(lines(&text, "search") == [search.as_str()], "{text}");
    ensure!(lines(&text, "options") == ["options ndots:5"], "{text}");
    Ok(())
}

#[e2e]
async fn e2e_dns_default_is_the_nodes_own() -> Result<()> {
    let bed = Bed::shared("dnsdefault").await?;
    let text = bed.script("p", "cat /etc/resolv.conf", json!({"dnsPolicy": "Default"})).await?;
    let node = bed.pet.shell("cat /etc/resolv.conf").await?;
    ensure!(lines(&text, "nameserver") == lines(&node, "nameserver"), "{text}");
    ensure!(!text.contains("cluster.local"), "{text}");
    bed.done().await
}

#[e2e]
async fn e2e_dns_none_is_what_the_pod_says() -> Result<()> {
    let config = json!({
        "nameservers": ["192.0.2.53"],
        "searches": ["example.test"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    });
    let spec = json!({"dnsPolicy": "None", "dnsConfig": config});
    let (text, _) = resolv_conf("dnsnone", spec).await?;
    ensure!(lines(&text, "nameserver") == ["nameserver 192.0.2.53"], "{text}");
    ensure!(lines(&text, "search") == ["search example.test"], "{text}");
    ensure!(text.contains("ndots:2") && text.contains("edns0"), "{text}");
    Ok(())
}

#[e2e]
async fn e2e_dns_on_the_hosts_network() -> Result<()> {
    let spec = json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true});
    let (text, _) = resolv_conf("dnshost", spec).await?;
    ensure!(!text.contains("10.96.0.10"), "{text}");
    let spec = json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true});
    let (text, _) = resolv_conf("dnswithhost", spec).await?;
    ensure!(lines(&text, "nameserver") == ["nameserver 10.96.0.10"], "{text}");
    Ok(())
}

#[e2e]
async fn e2e_host_names_and_aliases() -> Result<()> {
    let bed = Bed::shared("hosts").await?;
    let spec = json!({
        "hostname": "name",
        "subdomain": "sub",
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["seven.test", "sept.test"]}],
    });
    let text = bed.script("p", "hostname; hostname -f; cat /etc/hosts", spec).await?;
    let full = format!("name.sub.{}.svc.cluster.local", bed.namespace);
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines[..2] == ["name", full.as_str()], "{text}");
    ensure!(text.contains("# Kubernetes-managed hosts file."), "{text}");
    ensure!(text.contains("192.0.2.7\tseven.test\tsept.test"), "{text}");
    bed.done().await
}

/// CoreDNS, which is started by the first test that needs it: on the pet that stays, the tests' own pets come and go.
pub async fn coredns() -> Result<()> {
    static STARTED: OnceCell<()> = OnceCell::const_new();
    let start = || async {
        let bed = Bed::shared("coredns").await?;
        cluster_dns::start(&bed.lab, Some(bed.pet.name()), 1).await?;
        bed.done().await
    };
    STARTED.get_or_try_init(start).await.map(drop)
}

/// A pod that asks CoreDNS.
async fn asking(test: &str) -> Result<Bed> {
    coredns().await?;
    let bed = Bed::shared(test).await?;
    bed.pod("asker", json!({"containers": [{"name": "c", "image": AGNHOST}]})).await?;
    bed.phase("asker", "Running").await?;
    Ok(bed)
}

/// What the asking pod is told, or `status: …` when there is no such name.
async fn dig(bed: &Bed, kind: &str, name: &str) -> Result<String> {
    let command = ["exec", "asker", "--", "dig", "+noall", "+answer", "+comments", "+timeout=2", "+tries=1", "+search", kind, name];
    bed.kubectl(&command).await
}

async fn until_dig(bed: &Bed, kind: &str, name: &str, parts: &[&str]) -> Result<String> {
    eventually(SOON, &format!("{kind} {name}: {parts:?}"), || async {
        let answer = dig(bed, kind, name).await?;
        ensure!(parts.iter().all(|part| answer.contains(part)), "{answer}");
        Ok(answer)
    })
    .await
}

#[e2e]
async fn e2e_dns_answers_for_services_by_short_and_long_names() -> Result<()> {
    let bed = asking("dnsservices").await?;
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]},
    });
    bed.create::<Service>(service).await?;
    let web: Service = bed.api().get("web").await?;
    let address = web.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
    until_dig(&bed, "A", &format!("web.{}.svc.cluster.local.", bed.namespace), &[&address]).await?;
    until_dig(&bed, "A", "kubernetes.default.svc.cluster.local.", &["10.96.0.1"]).await?;
    until_dig(&bed, "PTR", "1.0.96.10.in-addr.arpa.", &["kubernetes.default.svc.cluster.local."]).await?;
    // By the resolver of the pod's C library, through the search list of its resolv.conf.
    for (name, address) in [("kubernetes.default", "10.96.0.1"), ("kubernetes.default.svc", "10.96.0.1"), ("web", &address)] {
        let answer = bed.kubectl(&["exec", "asker", "--", "getent", "ahostsv4", name]).await?;
        ensure!(answer.starts_with(&format!("{address} ")), "{name}: {answer}");
    }
    bed.done().await
}

#[e2e]
async fn e2e_dns_answers_for_headless_services_and_their_ports() -> Result<()> {
    let bed = asking("dnsheadless").await?;
    let service = json!({
        "metadata": {"name": "peers"},
        "spec": {"clusterIP": "None", "selector": {"app": "peer"}, "ports": [{"name": "http", "port": 8080}]},
    });
    bed.create::<Service>(service).await?;
    let mut addresses = Vec::new();
    for name in ["one", "two"] {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": "peer"}},
            "spec": {
                "hostname": name, "subdomain": "peers", "nodeName": bed.pet.name(), "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": PAUSE}],
            },
        });
        bed.create::<Pod>(pod).await?;
        let pod = bed.phase(name, "Running").await?;
        addresses.push(pod_ip(&pod).unwrap_or_default().to_owned());
    }
    let domain = format!("peers.{}.svc.cluster.local.", bed.namespace);
    until_dig(&bed, "A", &domain, &[&addresses[0], &addresses[1]]).await?;
    let one = dig(&bed, "A", &format!("one.{domain}")).await?;
    ensure!(one.contains(&addresses[0]) && !one.contains(&addresses[1]), "{addresses:?}: {one}");
    let wanted = [format!("8080 one.{domain}"), format!("8080 two.{domain}")];
    until_dig(&bed, "SRV", &format!("_http._tcp.{domain}"), &[&wanted[0], &wanted[1]]).await?;
    bed.done().await
}

#[e2e]
async fn e2e_dns_asks_the_nodes_own_resolver_for_the_rest() -> Result<()> {
    let bed = asking("dnsexternal").await?;
    // The lab's resolver knows all of .lab, and nothing else.
    let service = json!({"metadata": {"name": "outside"}, "spec": {"type": "ExternalName", "externalName": "web.lab"}});
    bed.create::<Service>(service).await?;
    let name = format!("outside.{}.svc.cluster.local.", bed.namespace);
    let outside = bed.lab.record().wire().control_plane().to_string();
    until_dig(&bed, "A", &name, &["CNAME\tweb.lab.", &outside]).await?;
    for name in ["nothing.example.test.", "nothing.default.svc.cluster.local."] {
        let answer = dig(&bed, "A", name).await?;
        ensure!(answer.contains("status: NXDOMAIN"), "{name}: {answer}");
    }
    bed.done().await
}
