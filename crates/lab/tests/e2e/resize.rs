//! Pods whose resources change while they run.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use crate::harness::{Bed, SOON, container, phase_of, restarts, shell};

fn amounts(cpu: &str, memory: &str) -> Value {
    json!({"cpu": cpu, "memory": memory})
}

/// A container that runs on, with requests and limits.
fn sized(name: &str, requests: Value, limits: Value) -> Value {
    let mut container = shell(name, "trap 'exit 0' TERM; while true; do sleep 0.2; done");
    container["resources"] = json!({"requests": requests, "limits": limits});
    container
}

async fn patch(bed: &Bed, name: &str, spec: Value) -> Result<()> {
    let patch = json!({ "spec": spec }).to_string();
    bed.kubectl(&["patch", "pod", name, "--subresource", "resize", "--patch", &patch]).await.map(drop)
}

fn told<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn is_settled(pod: &Pod) -> bool {
    let observed = pod.status.as_ref().and_then(|status| status.observed_generation);
    observed == pod.metadata.generation && told(pod, "PodResizePending").is_none() && told(pod, "PodResizeInProgress").is_none()
}

/// Waits until the newest spec is what the pod has.
async fn settled(bed: &Bed, name: &str) -> Result<Pod> {
    bed.until(name, SOON, "has what it asks for", |pod| phase_of(pod) == "Running" && is_settled(pod)).await
}

/// A number of a cgroup, of v1 or v2: the limit of memory in MiB, the CPU quota in microseconds per 100 ms.
const MEMORY: &str = "cat memory.max memory/memory.limit_in_bytes memory.limit_in_bytes";
const QUOTA: &str = "cat cpu.max cpu/cpu.cfs_quota_us cpu.cfs_quota_us";

fn number(text: &str) -> Result<u64> {
    text.split_whitespace().next().context("a number")?.parse().with_context(|| text.to_owned())
}

/// As the container itself sees them: memory in MiB, quota.
async fn inside(bed: &Bed, pod: &str, container: &str) -> Result<(u64, u64)> {
    let read = |what: &'static str| async move {
        let script = format!("cd /sys/fs/cgroup; {what} 2>/dev/null; true");
        number(&bed.kubectl(&["exec", pod, "-c", container, "--", "sh", "-c", &script]).await?)
    };
    Ok((read(MEMORY).await? >> 20, read(QUOTA).await?))
}

/// Of the pod's own cgroup.
async fn around(bed: &Bed, pod: &Pod) -> Result<(u64, u64)> {
    let uid = pod.metadata.uid.clone().context("a UID")?;
    let read = |controller: &'static str, what: &'static str| {
        let script = format!(
            "for d in $(find -L /sys/fs/cgroup/{controller} /sys/fs/cgroup -maxdepth 6 -type d -name 'pod{uid}' 2>/dev/null); do \
             cd $d; {what} 2>/dev/null; done; true"
        );
        async move { number(&bed.pet.shell(&script).await?) }
    };
    Ok((read("memory", MEMORY).await? >> 20, read("cpu", QUOTA).await?))
}

#[e2e]
async fn e2e_resources_change_in_place() -> Result<()> {
    let bed = Bed::shared("resize").await?;
    let mut sidecar = sized("s", amounts("20m", "20Mi"), amounts("100m", "32Mi"));
    sidecar["restartPolicy"] = json!("Always");
    let app = sized("c", amounts("50m", "20Mi"), amounts("200m", "64Mi"));
    bed.pod("p", json!({"initContainers": [sidecar], "containers": [app]})).await?;
    let pod = bed.phase("p", "Running").await?;
    ensure!(inside(&bed, "p", "c").await? == (64, 20_000));
    ensure!(around(&bed, &pod).await? == (96, 30_000));

    // Up for the one, down for the other.
    let spec = json!({
        "initContainers": [{"name": "s", "resources": {"requests": amounts("10m", "10Mi"), "limits": amounts("50m", "16Mi")}}],
        "containers": [{"name": "c", "resources": {"requests": amounts("150m", "40Mi"), "limits": amounts("400m", "128Mi")}}],
    });
    patch(&bed, "p", spec).await?;
    let pod = settled(&bed, "p").await?;
    ensure!(inside(&bed, "p", "c").await? == (128, 40_000));
    ensure!(inside(&bed, "p", "s").await? == (16, 5_000));
    ensure!(around(&bed, &pod).await? == (144, 45_000));
    let status = serde_json::to_value(container(&pod, "c").context("a status")?)?;
    ensure!(status["resources"] == json!({"requests": amounts("150m", "40Mi"), "limits": amounts("400m", "128Mi")}), "{status}");
    ensure!(status["allocatedResources"] == amounts("150m", "40Mi"), "{status}");
    let status = serde_json::to_value(&pod.status)?;
    ensure!(status["allocatedResources"] == amounts("160m", "50Mi"), "{status}");
    ensure!(status["resources"]["limits"] == amounts("450m", "144Mi"), "{status}");
    bed.event("p", "Normal ResizeStarted Pod resize started: {\"initContainers\":[{\"name\":\"s\"").await?;
    let completed = bed.event("p", "Normal ResizeCompleted Pod resize completed").await?;
    ensure!(completed.ends_with("\"generation\":2}"), "{completed}");

    // And down again.
    let spec = json!({"containers": [{"name": "c", "resources": {"requests": amounts("50m", "20Mi"), "limits": amounts("200m", "64Mi")}}]});
    patch(&bed, "p", spec).await?;
    let pod = settled(&bed, "p").await?;
    ensure!(inside(&bed, "p", "c").await? == (64, 20_000));
    ensure!(around(&bed, &pod).await? == (80, 25_000));
    ensure!((restarts(&pod, "c"), restarts(&pod, "s")) == (0, 0), "{:?}", pod.status);
    bed.done().await
}

#[e2e]
async fn e2e_a_resize_restarts_where_the_policy_says_so() -> Result<()> {
    let bed = Bed::shared("resizerestart").await?;
    let mut restarting = sized("r", amounts("20m", "20Mi"), amounts("100m", "32Mi"));
    restarting["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let other = sized("c", amounts("20m", "20Mi"), amounts("100m", "32Mi"));
    bed.pod("p", json!({"restartPolicy": "OnFailure", "containers": [restarting, other]})).await?;
    bed.phase("p", "Running").await?;
    let with = |limits: Value| json!({"containers": [{"name": "r", "resources": {"limits": limits}}]});
    patch(&bed, "p", with(amounts("200m", "32Mi"))).await?;
    let pod = settled(&bed, "p").await?;
    ensure!(inside(&bed, "p", "r").await? == (32, 20_000) && restarts(&pod, "r") == 0, "{:?}", pod.status);
    patch(&bed, "p", with(amounts("200m", "64Mi"))).await?;
    // It ends with 0, which `OnFailure` would leave at that.
    let pod = bed.until("p", SOON, "is settled after a restart", |pod| is_settled(pod) && restarts(pod, "r") == 1).await?;
    ensure!(phase_of(&pod) == "Running" && restarts(&pod, "c") == 0, "{:?}", pod.status);
    ensure!(inside(&bed, "p", "r").await? == (64, 20_000));
    ensure!(around(&bed, &pod).await? == (96, 30_000));
    bed.event("p", "Normal Killing Container r resize requires restart").await?;
    bed.done().await
}

#[e2e]
async fn e2e_memory_in_use_is_not_taken_away() -> Result<()> {
    let bed = Bed::shared("resizeused").await?;
    let mut app = sized("c", amounts("20m", "20Mi"), amounts("100m", "128Mi"));
    app["command"] = json!(["sh", "-c", "dd if=/dev/zero of=/dev/shm/ballast bs=1M count=40 && sleep 3600"]);
    app["readinessProbe"] = json!({"exec": {"command": ["sh", "-c", "[ $(stat -c %s /dev/shm/ballast) = 41943040 ]"]}, "periodSeconds": 1});
    bed.pod("p", json!({"containers": [app]})).await?;
    bed.until("p", SOON, "Ready", |pod| crate::harness::condition(pod, "Ready") == "True").await?;
    let with = |memory: &str| json!({"containers": [{"name": "c", "resources": {"limits": {"memory": memory}}}]});
    patch(&bed, "p", with("24Mi")).await?;
    let error = |pod: &Pod| told(pod, "PodResizeInProgress").and_then(|c| c.reason.clone()).as_deref() == Some("Error");
    let pod = bed.until("p", SOON, "the resize fails", error).await?;
    let message = told(&pod, "PodResizeInProgress").and_then(|c| c.message.clone()).unwrap_or_default();
    ensure!(message.contains("container \"c\" memory limit (25165824) below current usage"), "{message}");
    ensure!(inside(&bed, "p", "c").await? == (128, 10_000));
    let status = serde_json::to_value(container(&pod, "c"))?;
    ensure!(status["resources"]["limits"]["memory"] == "128Mi", "{status}");
    bed.event("p", "Warning ResizeError Pod resize error").await?;
    patch(&bed, "p", with("96Mi")).await?;
    let pod = settled(&bed, "p").await?;
    ensure!(inside(&bed, "p", "c").await? == (96, 10_000) && restarts(&pod, "c") == 0);
    bed.done().await
}

#[e2e]
async fn e2e_a_resize_waits_for_room_also_across_a_crash() -> Result<()> {
    let bed = Bed::own("resizewaits").await?;
    let priorities: kube::Api<k8s_openapi::api::scheduling::v1::PriorityClass> = kube::Api::all(bed.client.clone());
    let class = json!({"metadata": {"name": "resize-first"}, "value": 1000});
    let created = priorities.create(&kube::api::PostParams::default(), &serde_json::from_value(class)?).await;
    ensure!(created.is_ok() || matches!(&created, Err(kube::Error::Api(status)) if status.code == 409), "{created:?}");
    let node: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(bed.client.clone());
    let node = node.get(bed.pet.name()).await?;
    let allocatable = node.status.and_then(|status| status.allocatable).unwrap_or_default();
    let cpu = milli_cpu(&allocatable.get("cpu").context("CPU")?.0)?;
    let milli = |part: u64| json!({"cpu": format!("{}m", cpu * part / 10)});
    let request = |name: &str, part: u64| {
        let mut container = shell(name, "trap 'exit 0' TERM; while true; do sleep 0.2; done");
        container["resources"] = json!({"requests": milli(part)});
        container
    };
    // 6 + 1 + 1 of 10 parts.
    bed.pod("big", json!({"containers": [request("c", 6)]})).await?;
    bed.pod("later", json!({"containers": [request("c", 1)]})).await?;
    bed.pod("first", json!({"containers": [request("c", 1)], "priorityClassName": "resize-first"})).await?;
    for name in ["big", "later", "first"] {
        bed.phase(name, "Running").await?;
    }
    let ask = |part: u64| json!({"containers": [{"name": "c", "resources": {"requests": milli(part)}}]});
    let deferred = |pod: &Pod| told(pod, "PodResizePending").and_then(|c| c.reason.clone()).as_deref() == Some("Deferred");
    for name in ["later", "first"] {
        patch(&bed, name, ask(6)).await?;
        let pod = bed.until(name, SOON, "deferred", deferred).await?;
        let told = told(&pod, "PodResizePending").context("a condition")?;
        let message = told.message.as_deref().unwrap_or_default();
        ensure!(message.starts_with("Node didn't have enough resource: cpu, requested: "), "{message}");
        ensure!(told.observed_generation == Some(2), "{told:?}");
        let status = serde_json::to_value(container(&pod, "c"))?;
        ensure!(status["allocatedResources"] == milli(1), "{status}");
        bed.event(name, "Warning ResizeDeferred Pod resize OutOfcpu: {").await?;
    }
    // More than the node has, the API server refuses.
    let refused = patch(&bed, "first", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1000"}}}]})).await;
    ensure!(refused.is_err_and(|error| format!("{error:#}").contains("have enough allocatable resources")));

    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    bed.pet.ready(SOON).await?;
    // What waits is not counted: there is room for this one. It comes only once the agent looks after its pods again.
    bed.pod("small", json!({"containers": [request("c", 1)], "nodeName": bed.pet.name()})).await?;
    bed.phase("small", "Running").await?;
    for name in ["later", "first"] {
        let pod = bed.get(name).await?;
        ensure!(deferred(&pod) && restarts(&pod, "c") == 0, "{:?}", pod.status);
    }
    bed.delete("big").await?;
    settled(&bed, "first").await?;
    let later = bed.get("later").await?;
    ensure!(deferred(&later), "{:?}", later.status);
    // One that shrinks makes room as well.
    patch(&bed, "first", ask(1)).await?;
    let later = settled(&bed, "later").await?;
    let status = serde_json::to_value(container(&later, "c"))?;
    ensure!(status["allocatedResources"] == milli(6) && restarts(&later, "c") == 0, "{status}");
    bed.done().await
}

/// Thousandths of a quantity of CPU.
fn milli_cpu(text: &str) -> Result<u64> {
    match text.strip_suffix('m') {
        Some(milli) => milli.parse().context("a quantity"),
        None => text.parse::<u64>().map(|whole| whole * 1000).context("a quantity"),
    }
}

#[e2e]
async fn e2e_an_agent_killed_in_the_midst_of_a_resize_goes_on_with_it() -> Result<()> {
    let bed = Bed::own("resizecrash").await?;
    let mut slow = sized("slow", amounts("20m", "20Mi"), amounts("100m", "32Mi"));
    slow["command"] = json!(["sh", "-c", "trap 'sleep 4; exit 0' TERM; while true; do sleep 0.2; done"]);
    slow["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let quick = sized("quick", amounts("20m", "20Mi"), amounts("100m", "32Mi"));
    bed.pod("p", json!({"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 30, "containers": [slow, quick]})).await?;
    bed.phase("p", "Running").await?;
    for (round, memory) in [(1, 48_u64), (2, 40)] {
        let limits = amounts("150m", &format!("{memory}Mi"));
        let containers = ["slow", "quick"].map(|name| json!({"name": name, "resources": {"limits": limits}}));
        patch(&bed, "p", json!({ "containers": containers })).await?;
        bed.event("p", &format!("\"generation\":{}}}", round + 1)).await?;
        bed.pet.kill_agent().await?;
        bed.pet.start_agent().await?;
        let done = |pod: &Pod| is_settled(pod) && restarts(pod, "slow") == round && phase_of(pod) == "Running";
        let pod = bed.until("p", SOON, "settled", done).await?;
        ensure!(restarts(&pod, "quick") == 0, "{:?}", pod.status);
        for name in ["slow", "quick"] {
            let has = inside(&bed, "p", name).await?;
            ensure!(has == (memory, 15_000), "{name} has {has:?} in round {round}");
        }
        ensure!(around(&bed, &pod).await? == (2 * memory, 30_000));
    }
    // Nothing is done twice: what an agent that starts finds is what the pod was given.
    bed.pet.kill_agent().await?;
    bed.pet.start_agent().await?;
    bed.pet.ready(SOON).await?;
    bed.pod("after", json!({"containers": [shell("c", "sleep 3600")]})).await?;
    bed.phase("after", "Running").await?;
    let pod = bed.get("p").await?;
    ensure!(is_settled(&pod) && (restarts(&pod, "slow"), restarts(&pod, "quick")) == (2, 0), "{:?}", pod.status);
    bed.done().await
}

#[e2e]
async fn e2e_the_common_resources_of_a_pod_change_in_place() -> Result<()> {
    let bed = Bed::shared("resizepod").await?;
    let containers = [shell("a", "sleep 3600"), shell("b", "sleep 3600")];
    let common = |cpu: &str, memory: &str| json!({"requests": amounts("50m", "32Mi"), "limits": amounts(cpu, memory)});
    bed.pod("p", json!({"resources": common("200m", "64Mi"), "containers": containers})).await?;
    let pod = bed.phase("p", "Running").await?;
    ensure!(around(&bed, &pod).await? == (64, 20_000));
    patch(&bed, "p", json!({"resources": common("300m", "96Mi")})).await?;
    let pod = settled(&bed, "p").await?;
    let done = eventually(SOON, "all cgroups follow", || async {
        ensure!(around(&bed, &pod).await? == (96, 30_000) && inside(&bed, "p", "a").await? == (96, 30_000));
        Ok(())
    });
    done.await?;
    let status = serde_json::to_value(&pod.status)?;
    ensure!(status["resources"] == common("300m", "96Mi"), "{status}");
    ensure!(restarts(&pod, "a") == 0);
    bed.done().await
}
