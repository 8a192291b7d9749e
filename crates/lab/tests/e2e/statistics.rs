//! What the node says that it and its pods use: `/stats/summary`, metrics-server, the HorizontalPodAutoscaler.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler};
use kube_pet_lab::{builds::Builds, daemon::Daemon, daemon::DaemonSpec, eventually};
use serde_json::{Value, json};

use crate::harness::{BUSYBOX, Bed, SOON};

async fn raw(bed: &Bed, path: &str) -> Result<String> {
    bed.lab.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy{path}", bed.pet.name())]).await
}

async fn summary(bed: &Bed) -> Result<Value> {
    serde_json::from_str(&raw(bed, "/stats/summary").await?).context("the summary is JSON")
}

/// Busy for about a tenth of a CPU, holds 20 MiB of memory, writes 5 MiB to its own files and 3 MiB to a volume, and hears from the network.
fn busy() -> Value {
    let script = "head -c 5242880 /dev/zero > /own; head -c 3145728 /dev/zero > /data/f; head -c 20971520 /dev/zero | tail -c 20971520 > /dev/shm/m &
        while :; do i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done; sleep 0.05; done";
    json!({
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [{
            "name": "c", "image": BUSYBOX, "command": ["sh", "-c", script],
            "resources": {"limits": {"memory": "100Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }],
    })
}

/// A number at a JSON pointer, within bounds.
fn within(value: &Value, pointer: &str, least: u64, most: u64) -> Result<u64> {
    let found = value.pointer(pointer).with_context(|| format!("{pointer} is missing in {value:#}"))?;
    let number = found.as_u64().with_context(|| format!("{pointer} is {found}"))?;
    ensure!((least..=most).contains(&number), "{pointer} is {number}, not {least} to {most}");
    Ok(number)
}

const MB: u64 = 1_000_000;
const GB: u64 = 1_000 * MB;

#[e2e]
async fn e2e_the_summary_has_what_the_kubelets_has() -> Result<()> {
    let bed = Bed::shared("summary").await?;
    bed.pod("busy", busy()).await?;
    bed.phase("busy", "Running").await?;
    let uid = bed.get("busy").await?.metadata.uid.context("a UID")?;
    let ip = bed.get("busy").await?.status.and_then(|status| status.pod_ip).context("an address")?;
    // Something arrives at the pod: it answers these with a refusal.
    bed.lab.control_plane().shell(&format!("curl -s -m 2 http://{ip}:9/ || true")).await?;
    let check = || async {
        let summary = summary(&bed).await?;
        let node = &summary["node"];
        ensure!(node["nodeName"] == bed.pet.name());
        for time in ["/startTime", "/cpu/time", "/memory/time", "/network/time", "/fs/time", "/rlimit/time", "/swap/time"] {
            ensure!(
                node.pointer(time).and_then(Value::as_str).is_some_and(|time| time.len() == 20 && time.ends_with('Z')),
                "{time}: {node:#}"
            );
        }
        within(node, "/cpu/usageNanoCores", 1, 64 * GB)?;
        within(node, "/cpu/usageCoreNanoSeconds", GB, u64::MAX)?;
        for memory in ["availableBytes", "usageBytes", "workingSetBytes", "rssBytes"] {
            within(node, &format!("/memory/{memory}"), MB, 100_000 * GB)?;
        }
        for fs in ["/fs", "/runtime/imageFs", "/runtime/containerFs"] {
            let available = within(node, &format!("{fs}/availableBytes"), 100 * MB, 100_000 * GB)?;
            within(node, &format!("{fs}/capacityBytes"), available, 100_000 * GB)?;
            within(node, &format!("{fs}/inodesFree"), 1, u64::MAX)?;
            within(node, &format!("{fs}/usedBytes"), 0, 100_000 * GB)?;
        }
        within(node, "/network/rxBytes", 1000, u64::MAX)?;
        within(node, "/rlimit/curproc", 1, within(node, "/rlimit/maxpid", 100, u64::MAX)?)?;
        let names: Vec<_> = node["systemContainers"].as_array().context("system containers")?.iter().map(|one| &one["name"]).collect();
        for name in ["kubelet", "runtime", "pods"] {
            ensure!(names.iter().any(|own| *own == name), "{name} is not among {names:?}");
        }
        for one in node["systemContainers"].as_array().context("system containers")? {
            within(one, "/memory/workingSetBytes", MB / 2, 10 * GB)?;
            within(one, "/cpu/usageCoreNanoSeconds", MB, u64::MAX)?;
        }
        let pods = summary["pods"].as_array().context("pods")?;
        let pod = pods.iter().find(|pod| pod["podRef"]["uid"] == uid.as_str()).context("the pod is not there yet")?;
        ensure!(pod["podRef"]["namespace"] == bed.namespace.as_str() && pod["podRef"]["name"] == "busy");
        let container = &pod["containers"][0];
        ensure!(container["name"] == "c");
        for part in [pod, container] {
            within(part, "/cpu/usageNanoCores", 1_000_000, 2 * GB)?;
            within(part, "/cpu/usageCoreNanoSeconds", 10 * MB, 1000 * GB)?;
            let used = within(part, "/memory/usageBytes", MB / 4, 105 * MB)?;
            within(part, "/memory/workingSetBytes", MB / 4, used)?;
            within(part, "/memory/pageFaults", 100, u64::MAX)?;
            within(part, "/memory/availableBytes", MB, 105 * MB)?;
            within(part, "/swap/swapUsageBytes", 0, 105 * MB)?;
        }
        within(container, "/rootfs/usedBytes", 5 * MB, 8 * MB)?;
        within(container, "/rootfs/inodesUsed", 2, 100)?;
        within(container, "/logs/usedBytes", 0, MB)?;
        within(pod, "/network/rxBytes", 1, 10 * MB)?;
        ensure!(pod["network"]["name"] == "eth0" && pod["network"]["interfaces"][0]["name"] == "eth0");
        let volumes = pod["volume"].as_array().context("volumes")?;
        let data = volumes.iter().find(|volume| volume["name"] == "data").context("the volume is not counted yet")?;
        within(data, "/usedBytes", 3 * MB, 4 * MB)?;
        within(data, "/availableBytes", MB, 100_000 * GB)?;
        ensure!(volumes.iter().any(|volume| volume["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-"))));
        within(pod, "/ephemeral-storage/usedBytes", 8 * MB, 14 * MB)?;
        within(pod, "/process_stats/process_count", 1, 20)?;
        Ok(())
    };
    eventually(Duration::from_secs(90), "the summary is complete", check).await?;
    let short: Value = serde_json::from_str(&raw(&bed, "/stats/summary?only_cpu_and_memory=true").await?)?;
    ensure!(short["node"]["network"].is_null() && short["node"]["fs"].is_null() && short["node"]["cpu"].is_object(), "{short:#}");
    ensure!(raw(&bed, "/flagz").await?.contains("kubelet flagz"));
    bed.done().await
}

/// What metrics-server may, from its own release's manifest, and where its API is. One for the whole cluster, like metrics-server itself.
fn metrics_server_objects(address: &str) -> Value {
    let subject = json!([{"kind": "ServiceAccount", "name": "metrics-server", "namespace": "kube-system"}]);
    let role = |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "metrics-server", "namespace": "kube-system"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:metrics-server"}, "rules": [
            {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "system:metrics-server"},
            "roleRef": role("ClusterRole", "system:metrics-server"), "subjects": subject},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "metrics-server:system:auth-delegator"},
            "roleRef": role("ClusterRole", "system:auth-delegator"), "subjects": subject},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "metrics-server-auth-reader", "namespace": "kube-system"},
            "roleRef": role("Role", "extension-apiserver-authentication-reader"), "subjects": subject},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics-server", "namespace": "kube-system"},
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": 4443}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "metrics-server", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "metrics-server"}},
            "addressType": "IPv4", "ports": [{"name": "https", "port": 4443, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"name": "metrics-server", "namespace": "kube-system"}}},
    ]})
}

/// Starts metrics-server beside the control plane, as its own ServiceAccount. It verifies the nodes' certificates.
async fn metrics_server(bed: &Bed) -> Result<Daemon> {
    let record = bed.lab.record();
    let address = record.wire().control_plane().to_string();
    bed.lab.kubectl_with_input(&["apply", "-f", "-"], &metrics_server_objects(&address).to_string()).await?;
    let token = bed.lab.kubectl(&["create", "token", "metrics-server", "--namespace", "kube-system"]).await?;
    let authority = record.pki_dir().join("ca.crt").display().to_string();
    let folder = record.dir.join("metrics-server");
    std::fs::create_dir_all(&folder)?;
    let kubeconfig = folder.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://{address}:6443"), "certificate-authority": authority}}],
        "users": [{"name": "c", "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    std::fs::write(&kubeconfig, config.to_string())?;
    let path = |name: &str| kubeconfig.with_file_name(name).display().to_string();
    let argv = vec![
        Builds::locate()?.program("metrics-server")?.display().to_string(),
        "--secure-port=4443".to_owned(),
        format!("--cert-dir={}", folder.display()),
        format!("--kubeconfig={}", path("kubeconfig")),
        format!("--authentication-kubeconfig={}", path("kubeconfig")),
        format!("--authorization-kubeconfig={}", path("kubeconfig")),
        format!("--kubelet-certificate-authority={authority}"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--metric-resolution=10s".to_owned(),
        "--kubelet-request-timeout=5s".to_owned(),
    ];
    let environment = vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())];
    Daemon::start(
        bed.lab.control_plane(),
        DaemonSpec { name: "metrics-server".into(), argv, environment, log: record.log("metrics-server") },
    )
    .await
}

/// CPU in thousandths and memory in MiB, from a line of `kubectl top --no-headers` with this name.
fn top(text: &str, name: &str) -> Result<(u64, u64)> {
    let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("{name} is not in {text}"))?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter(|field| !field.ends_with('%'))
        .filter_map(|field| field.strip_suffix("Mi").or(field.strip_suffix('m'))?.parse().ok())
        .collect();
    match numbers.as_slice() {
        [cpu, memory] => Ok((*cpu, *memory)),
        _ => bail!("not CPU and memory: {line}"),
    }
}

#[e2e]
async fn e2e_metrics_server_tells_use_and_the_autoscaler_follows_it() -> Result<()> {
    let bed = Bed::shared("top").await?;
    let server = metrics_server(&bed).await?;
    let spins = |cpu: &str, script: &str| {
        json!({
            "nodeSelector": {"kubernetes.io/hostname": bed.pet.name()},
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script], "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "200m"}}}],
        })
    };
    bed.create::<Deployment>(json!({
        "metadata": {"name": "spins"},
        "spec": {
            "selector": {"matchLabels": {"app": "spins"}},
            "template": {"metadata": {"labels": {"app": "spins"}}, "spec": spins("100m", "while :; do :; done")},
        },
    }))
    .await?;
    bed.create::<HorizontalPodAutoscaler>(json!({
        "metadata": {"name": "spins"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "spins"}, "minReplicas": 1, "maxReplicas": 2,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
        },
    }))
    .await?;
    bed.pod("idle", spins("10m", "sleep 1000")).await?;
    let told = eventually(Duration::from_secs(120), "kubectl top answers", || async {
        ensure!(server.is_running(), "metrics-server ended: {}", server.log());
        let (node_cpu, node_memory) = top(&bed.lab.kubectl(&["top", "node", bed.pet.name(), "--no-headers"]).await?, bed.pet.name())?;
        let pods = bed.kubectl(&["top", "pod", "--no-headers"]).await?;
        let ((busy, _), (idle, memory)) = (top(&pods, "spins-")?, top(&pods, "idle")?);
        // Limited to 200 thousandths; the limit is enforced per tenth of a second.
        ensure!((100..=260).contains(&busy), "{busy} of 200 thousandths of a CPU");
        ensure!(idle < 20 && memory < 50, "the idle pod uses {idle} thousandths and {memory} MiB");
        ensure!(node_cpu >= busy && node_memory > memory, "the node uses less than a pod: {node_cpu} {node_memory}");
        Ok(())
    });
    let told = told.await;
    let scaled = match told {
        Ok(()) => {
            eventually(Duration::from_secs(180), "the autoscaler adds a replica", || async {
                let replicas = bed.kubectl(&["get", "deployment", "spins", "-o", "jsonpath={.status.readyReplicas}"]).await?;
                let state = bed.kubectl(&["get", "hpa", "spins", "-o", "jsonpath={.status}"]).await?;
                ensure!(replicas == "2", "{replicas} replicas: {state}");
                Ok(())
            })
            .await
        }
        Err(error) => Err(error),
    };
    // An APIService whose server is gone would keep every namespace of this cluster from ending.
    bed.lab.kubectl(&["delete", "apiservice", "v1beta1.metrics.k8s.io"]).await?;
    let log = server.log();
    server.stop(SOON).await?;
    scaled?;
    ensure!(!log.contains("x509"), "a certificate was not accepted: {log}");
    bed.done().await
}
