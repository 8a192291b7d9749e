//! Users and groups of containers' processes (KEP-3619).

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::harness::{AGNHOST, Bed, container};

/// The image's user 1000 is a member of its group 50000. `id -G` as the container, and a command in it, see it; what the status says.
async fn groups(bed: &Bed, name: &str, context: Value) -> Result<(String, String, Option<Vec<i64>>)> {
    let spec = json!({
        "securityContext": context,
        "containers": [{"name": "c", "image": AGNHOST, "command": ["sh", "-c", "id -G; while :; do sleep 1; done"]}],
    });
    bed.pod(name, spec).await?;
    let told = |pod: &Pod| container(pod, "c").and_then(|status| status.user.clone()?.linux);
    let pod = bed.until(name, crate::harness::SOON, "tells its user", |pod| told(pod).is_some()).await?;
    let inside = bed.kubectl(&["exec", name, "--", "id", "-G"]).await?;
    let supplemental = told(&pod).and_then(|user| user.supplemental_groups);
    Ok((bed.logs(name).await?.trim().to_owned(), inside.trim().to_owned(), supplemental))
}

#[e2e]
async fn e2e_groups_of_the_image_count_unless_the_policy_is_strict() -> Result<()> {
    let bed = Bed::shared("groups").await?;
    for (name, context, expected) in [
        ("merge", json!({"runAsUser": 1000, "supplementalGroups": [60000]}), [1000, 50000, 60000].as_slice()),
        ("strict", json!({"runAsUser": 1000, "supplementalGroups": [60000], "supplementalGroupsPolicy": "Strict"}), &[1000, 60000]),
        ("group", json!({"runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [60000]}), &[3000, 50000, 60000]),
        ("root", json!({"fsGroup": 70000, "supplementalGroupsPolicy": "Strict"}), &[0, 70000]),
    ] {
        let (log, inside, told) = groups(&bed, name, context).await?;
        let words: Vec<_> = expected.iter().map(ToString::to_string).collect();
        ensure!(log == words.join(" ") && inside == log, "{name}: {log:?} and {inside:?}");
        ensure!(told.as_deref() == Some(expected), "{name}: {told:?}");
    }
    let features = bed.kubectl(&["get", "node", bed.pet.name(), "-o", "jsonpath={.status.features.supplementalGroupsPolicy}"]).await?;
    ensure!(features == "true", "{features:?}");
    bed.done().await
}
