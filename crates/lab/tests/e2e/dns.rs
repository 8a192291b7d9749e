//! /etc/resolv.conf and /etc/hosts for each dnsPolicy.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::harness::Bed;

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

#[tokio::test]
async fn e2e_dns_cluster_first() -> Result<()> {
    let (text, namespace) = resolv_conf("dnscluster", json!({"dnsPolicy": "ClusterFirst"})).await?;
    ensure!(lines(&text, "nameserver") == ["nameserver 10.96.0.10"], "{text}");
    let search = format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local");
    ensure!(lines(&text, "search") == [search.as_str()], "{text}");
    ensure!(lines(&text, "options") == ["options ndots:5"], "{text}");
    Ok(())
}

#[tokio::test]
async fn e2e_dns_default_is_the_nodes_own() -> Result<()> {
    let bed = Bed::shared("dnsdefault").await?;
    let text = bed.script("p", "cat /etc/resolv.conf", json!({"dnsPolicy": "Default"})).await?;
    let node = bed.pet.shell("cat /etc/resolv.conf").await?;
    ensure!(lines(&text, "nameserver") == lines(&node, "nameserver"), "{text}");
    ensure!(!text.contains("cluster.local"), "{text}");
    bed.done().await
}

#[tokio::test]
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

#[tokio::test]
async fn e2e_dns_on_the_hosts_network() -> Result<()> {
    let spec = json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true});
    let (text, _) = resolv_conf("dnshost", spec).await?;
    ensure!(!text.contains("10.96.0.10"), "{text}");
    let spec = json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true});
    let (text, _) = resolv_conf("dnswithhost", spec).await?;
    ensure!(lines(&text, "nameserver") == ["nameserver 10.96.0.10"], "{text}");
    Ok(())
}

#[tokio::test]
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
