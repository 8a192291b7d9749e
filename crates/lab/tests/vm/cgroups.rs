//! cgroup v2, by its own controllers: out of memory, other limits in the running container, what is used, a machine without memory.

use anyhow::{Context, Result, ensure};
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::bed::{Bed, SOON, container, ended, on_node, phase_of, shell, told};

/// A child of the container's first process takes more memory than there is; the first process would go on.
const GREEDY_CHILD: &str = "head -c 300000000 /dev/zero | tail -c 300000000 > /dev/null; echo survived; sleep 3600";

fn within(memory: &str, script: &str) -> Value {
    let mut container = shell("c", script);
    container["resources"] = json!({"limits": {"memory": memory}});
    json!({"restartPolicy": "Never", "containers": [container]})
}

/// The container's group, as the machine sees it.
async fn of_group(bed: &Bed, pod: &str, files: &[&str]) -> Result<Vec<String>> {
    let uid = bed.get(pod).await?.metadata.uid.context("a UID")?;
    let script = format!(
        "cd /sys/fs/cgroup/kubepods/*/pod{uid}/*-*/ 2>/dev/null || cd /sys/fs/cgroup/kubepods/pod{uid}/*-*/; cat {}",
        files.join(" ")
    );
    Ok(bed.vm.shell(&script).await?.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn vm_limits_of_cgroup_v2_hold_change_and_are_told() -> Result<()> {
    on_node(
        "cgroups",
        |options| options,
        async |bed| {
            bed.pod("busy", busy()).await?;
            out_of_memory(bed).await?;
            resized_in_place(bed).await?;
            numbers(bed).await
        },
    )
    .await
}

async fn out_of_memory(bed: &Bed) -> Result<()> {
    bed.pod("alone", within("64Mi", "exec tail -c 300000000 /dev/zero")).await?;
    bed.pod("child", within("64Mi", GREEDY_CHILD)).await?;
    for name in ["alone", "child"] {
        let pod = bed.phase(name, "Failed").await?;
        ensure!(ended(&pod, "c") == Some(("OOMKilled", 137)), "{name}: {:?}", pod.status);
    }
    let log = bed.kubectl(&["logs", "child"]).await?;
    ensure!(!log.contains("survived"), "{log}");
    Ok(())
}

#[tokio::test]
async fn vm_with_a_single_process_oom_kill_the_container_goes_on() -> Result<()> {
    on_node(
        "oomsingle",
        |options| options.with("singleProcessOOMKill", json!(true)),
        async |bed| {
            bed.pod("child", within("64Mi", GREEDY_CHILD)).await?;
            eventually(SOON, "the first process goes on", || async {
                let log = bed.kubectl(&["logs", "child"]).await?;
                ensure!(log.contains("survived"), "{log}");
                Ok(())
            })
            .await?;
            ensure!(phase_of(&bed.get("child").await?) == "Running");
            Ok(())
        },
    )
    .await
}

async fn resized_in_place(bed: &Bed) -> Result<()> {
    let sized = |cpu: &str, memory: &str| json!({"requests": {"cpu": "50m", "memory": "20Mi"}, "limits": {"cpu": cpu, "memory": memory}});
    let mut app = shell("c", "trap 'exit 0' TERM; while true; do sleep 1; done");
    app["resources"] = sized("200m", "64Mi");
    bed.pod("sized", json!({"containers": [app]})).await?;
    bed.phase("sized", "Running").await?;
    let files = ["cpu.max", "memory.max", "memory.swap.max", "memory.oom.group"];
    let group = of_group(bed, "sized", &files).await?;
    ensure!(group == ["20000 100000", "67108864", "0", "1"], "{group:?}");
    for (cpu, memory, wanted) in
        [("400m", "128Mi", ["40000 100000", "134217728", "0", "1"]), ("100m", "48Mi", ["10000 100000", "50331648", "0", "1"])]
    {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": sized(cpu, memory)}]}}).to_string();
        bed.kubectl(&["patch", "pod", "sized", "--subresource", "resize", "--patch", &patch]).await?;
        eventually(SOON, &format!("the container has {cpu} and {memory}"), || async {
            let group = of_group(bed, "sized", &files).await?;
            ensure!(group == wanted, "{group:?}");
            let pod = bed.get("sized").await?;
            let status = serde_json::to_value(container(&pod, "c").context("a status")?)?;
            ensure!(status["resources"]["limits"] == json!({"cpu": cpu, "memory": memory}) && status["restartCount"] == 0, "{status}");
            let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
            ensure!(!conditions.iter().any(|condition| condition.type_.starts_with("PodResize")), "{conditions:?}");
            Ok(())
        })
        .await?;
        let inside = bed.kubectl(&["exec", "sized", "--", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max"]).await?;
        ensure!(inside.lines().eq(wanted[..2].iter().copied()), "{inside}");
    }
    Ok(())
}

/// Holds 40 MiB, and never rests within its limit of a fifth of a processor.
fn busy() -> Value {
    let mut container = shell("c", "(head -c 41943040 /dev/zero; sleep 3600) | tail -c 41943040 & while true; do :; done");
    container["resources"] = json!({"limits": {"cpu": "200m", "memory": "100Mi"}});
    json!({"containers": [container]})
}

fn between(value: &Value, pointer: &str, least: u64, most: u64) -> Result<u64> {
    let number = value.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("{pointer} in {value:#}"))?;
    ensure!((least..=most).contains(&number), "{pointer} is {number}, not {least} to {most}");
    Ok(number)
}

async fn numbers(bed: &Bed) -> Result<()> {
    const MIB: u64 = 1 << 20;
    eventually(SOON, "the summary is right", || async {
        let summary: Value = serde_json::from_str(&bed.page("/stats/summary").await?)?;
        let node = &summary["node"];
        between(node, "/memory/workingSetBytes", 100 * MIB, 1500 * MIB)?;
        between(node, "/memory/availableBytes", 300 * MIB, 1900 * MIB)?;
        between(node, "/cpu/usageNanoCores", 200_000_000, 2_000_000_000)?;
        between(node, "/fs/capacityBytes", 3000 * MIB, 4096 * MIB)?;
        let pods = summary["pods"].as_array().context("pods")?;
        let pod = pods.iter().find(|pod| pod["podRef"]["name"] == "busy").context("the busy pod")?;
        for of in [pod, &pod["containers"][0]] {
            between(of, "/memory/workingSetBytes", 40 * MIB, 80 * MIB)?;
            between(of, "/memory/rssBytes", 40 * MIB, 80 * MIB)?;
            between(of, "/cpu/usageNanoCores", 100_000_000, 260_000_000)?;
        }
        ensure!(pod.pointer("/containers/0/cpu/psi/some/avg10").is_some(), "{pod:#}");
        Ok(())
    })
    .await?;
    let metrics = bed.page("/metrics/resource").await?;
    let sample = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name) && line.contains("pod=\"busy\"")).context(name.to_owned())?;
        line.rsplit(' ').nth(1).context("a value")?.parse::<f64>().context("a number")
    };
    let memory = sample("container_memory_working_set_bytes{")?;
    ensure!((40e6..100e6).contains(&memory), "{memory}");
    ensure!(sample("container_cpu_usage_seconds_total{")? > 1.0);
    Ok(())
}

#[tokio::test]
async fn vm_a_machine_without_memory_evicts_the_pod_that_took_it() -> Result<()> {
    let limits = json!({"memory.available": "900Mi", "nodefs.available": "5%"});
    on_node("memory", |options| options.with("evictionHard", limits).with("evictionPressureTransitionPeriod", json!("20s")), async |bed| {
        let mut modest = shell("c", "sleep 3600");
        modest["resources"] = json!({"requests": {"memory": "20Mi"}});
        bed.pod("modest", json!({"containers": [modest]})).await?;
        bed.phase("modest", "Running").await?;
        ensure!(bed.node_condition("MemoryPressure").await? == "False");
        bed.pod("greedy", json!({"restartPolicy": "Never", "containers": [shell("c", "(head -c 1000000000 /dev/zero; sleep 3600) | tail -c 1000000000")]})).await?;
        let pod = bed.phase("greedy", "Failed").await?;
        let (reason, message) = told(&pod);
        ensure!(reason == "Evicted" && message.starts_with("The node was low on resource: memory. Threshold quantity: 900Mi"), "{:?}", pod.status);
        eventually(SOON, "the node is well again", || async {
            ensure!(bed.node_condition("MemoryPressure").await? == "False");
            Ok(())
        })
        .await?;
        ensure!(phase_of(&bed.get("modest").await?) == "Running");
        Ok(())
    })
    .await
}
