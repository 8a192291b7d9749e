//! The machine itself as a pod.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use kube_pet_lab::eventually;
use serde_json::json;

use crate::harness::{Bed, SOON, condition, is_ready_again, phase_of};

#[e2e]
async fn e2e_the_machine_has_a_pod_only_where_it_is_wanted() -> Result<()> {
    let bed = Bed::own_with("hostpod", |options| options.with("hostPod", json!({"enabled": true}))).await?;
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), "kube-system");
    let name = format!("host-{}", bed.pet.name());
    let runs = || async {
        let pod = pods.get(&name).await?;
        ensure!(phase_of(&pod) == "Running" && condition(&pod, "Ready") == "True", "{:?}", pod.status);
        Ok(pod)
    };
    let pod = eventually(SOON, "the machine's pod runs", runs).await?;
    let kubectl = |arguments: &'static [&'static str]| {
        let mut all = vec!["--namespace", "kube-system", arguments[0], &name];
        all.extend(&arguments[1..]);
        let all: Vec<String> = all.into_iter().map(str::to_owned).collect();
        let lab = bed.lab.clone();
        async move { lab.kubectl(&all.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let whoami = kubectl(&["exec", "--", "sh", "-c", "id -u; cat /proc/sys/kernel/random/boot_id; echo $HOME"]).await?;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    ensure!(whoami == format!("0\n{boot_id}/root\n"), "{whoami:?}");
    let failed = kubectl(&["exec", "--", "sh", "-c", "exit 7"]).await.err().context("an exit code")?;
    ensure!(format!("{failed:#}").contains("exit code 7"), "{failed:#}");
    // The kernel's log is one for all: a line that is nobody else's.
    let line = format!("kube-pet test {}\n", std::process::id());
    std::fs::write("/dev/kmsg", &line).context("write to the kernel's log")?;
    let log = kubectl(&["logs", "--tail=50"]).await?;
    ensure!(log.contains(&line), "{log}");
    let one = kubectl(&["logs", "--tail=1"]).await?;
    ensure!(one.lines().count() == 1, "{one}");
    is_ready_again(&pods, &name).await?;
    // It is nobody's to end, and comes back.
    let old = pod.metadata.uid;
    pods.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    let back = || async {
        let pod = runs().await?;
        ensure!(pod.metadata.uid != old, "it is still the old one");
        Ok(())
    };
    eventually(SOON, "it is there again", back).await?;
    let shared = Bed::shared("nohostpod").await?;
    ensure!(pods.get_opt(&format!("host-{}", shared.pet.name())).await?.is_none(), "a pet that was not asked has one");
    shared.done().await?;
    bed.done().await
}
