//! Every kind of volume.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::{Bed, SOON, phase_of, shell};

fn mounted(volume: Value) -> Value {
    let mut volume = volume;
    volume["name"] = json!("v");
    json!({"container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, "volumes": [volume]})
}

#[e2e]
async fn e2e_volume_empty_dir() -> Result<()> {
    let bed = Bed::shared("emptydir").await?;
    let script = "stat -c %a /v; echo x > /v/f; cat /v/f";
    let log = bed.script("disk", script, mounted(json!({"emptyDir": {}}))).await?;
    ensure!(log == "777\nx\n", "{log}");
    let script = "grep ' /v ' /proc/mounts | cut -d' ' -f1,3; df -k /v | tail -1 | tr -s ' ' | cut -d' ' -f2";
    let memory = mounted(json!({"emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}));
    let log = bed.script("memory", script, memory).await?;
    ensure!(log == "tmpfs tmpfs\n8192\n", "{log}");
    bed.done().await
}

#[e2e]
async fn e2e_volume_empty_dir_survives_a_restart_of_its_container() -> Result<()> {
    let bed = Bed::shared("emptydir2").await?;
    let mut container = shell("c", "if [ -e /v/f ]; then sleep 3600; fi; echo x > /v/f; exit 1");
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let spec = json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]});
    bed.pod("p", spec).await?;
    bed.until("p", SOON, "runs its second life", |pod| {
        crate::harness::restarts(pod, "c") == 1 && crate::harness::started_at(pod, "c").is_some()
    })
    .await?;
    bed.done().await
}

#[e2e]
async fn e2e_volume_host_path() -> Result<()> {
    let bed = Bed::shared("hostpath").await?;
    let folder = format!("/var/tmp/{}", bed.namespace);
    let volume = |path: String, kind: &str| mounted(json!({"hostPath": {"path": path, "type": kind}}));
    bed.script("create", "echo x > /v/f", volume(folder.clone(), "DirectoryOrCreate")).await?;
    let text = std::fs::read_to_string(bed.pet.path(&folder).join("f"))?;
    ensure!(text == "x\n", "{text}");
    let log = bed.script("file", "cat /v", volume(format!("{folder}/f"), "File")).await?;
    ensure!(log == "x\n", "{log}");
    let spec = json!({
        "containers": [{"name": "c", "image": crate::harness::BUSYBOX, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "hostPath": {"path": format!("{folder}/f"), "type": "Directory"}}],
    });
    bed.pod("wrong", spec).await?;
    bed.event("wrong", "Warning FailedMount").await?;
    ensure!(phase_of(&bed.get("wrong").await?) == "Pending");
    bed.done().await
}

#[e2e]
async fn e2e_volume_config_map() -> Result<()> {
    let bed = Bed::shared("configmap").await?;
    bed.create::<ConfigMap>(json!({
        "metadata": {"name": "m"},
        "data": {"a": "A", "b": "B"},
        "binaryData": {"bytes": "/wA="},
    }))
    .await?;
    let script = "ls /v; cat /v/a; stat -L -c %a /v/a; readlink /v/a; od -An -tx1 /v/bytes";
    let log = bed.script("all", script, mounted(json!({"configMap": {"name": "m"}}))).await?;
    ensure!(log == "a\nb\nbytes\nA644\n..data/a\n ff 00\n", "{log}");
    let some = json!({"configMap": {
        "name": "m",
        "defaultMode": 0o400,
        "items": [{"key": "a", "path": "deep/er", "mode": 0o600}, {"key": "b", "path": "plain"}],
    }});
    let script = "find -L /v -type f ! -path '*/..*' -exec stat -L -c '%n %a' {} + | sort";
    let log = bed.script("items", script, mounted(some)).await?;
    ensure!(log == "/v/deep/er 600\n/v/plain 400\n", "{log}");
    let optional = mounted(json!({"configMap": {"name": "none", "optional": true}}));
    ensure!(bed.script("optional", "ls /v", optional).await?.is_empty());
    bed.done().await
}

#[e2e]
async fn e2e_volume_secret_is_in_memory_only() -> Result<()> {
    let bed = Bed::shared("secret").await?;
    let word = "a-word-that-is-nowhere-else";
    bed.create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"k": word}})).await?;
    let mut container = shell("c", "cat /v/k; grep ' /v ' /proc/mounts | cut -d' ' -f3; sleep 3600");
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v", "readOnly": true}]);
    let spec = json!({"containers": [container], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
    bed.pod("p", spec).await?;
    bed.phase("p", "Running").await?;
    kube_pet_lab::eventually(SOON, "the secret is read", || async {
        ensure!(bed.logs("p").await? == format!("{word}tmpfs\n"));
        Ok(())
    })
    .await?;
    // The log is the pod's own doing; nothing else on the disk may have the word.
    let found = bed
        .pet
        .shell(&format!(
            "grep -rlF --exclude-dir=pods {word} /var/lib/kube-pet /var/log/containers 2>/dev/null || true; \
                         grep -rlF {word} /var/lib/kube-pet/pods 2>/dev/null || true"
        ))
        .await?;
    ensure!(found.is_empty(), "on disk: {found}");
    ensure!(!bed.pet.agent_log().contains(word), "in the agent's log");
    bed.done().await
}

#[e2e]
async fn e2e_volume_downward_api_follows_labels() -> Result<()> {
    let bed = Bed::shared("downward").await?;
    let mut container = shell("c", "while :; do cat /v/labels; echo; sleep 0.5; done");
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let spec = json!({
        "containers": [container],
        "volumes": [{"name": "v", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        ]}}],
    });
    bed.pod("p", spec).await?;
    bed.phase("p", "Running").await?;
    let patch = json!({"metadata": {"labels": {"colour": "green"}}});
    bed.pods().patch("p", &PatchParams::default(), &Patch::Merge(patch)).await?;
    kube_pet_lab::eventually(std::time::Duration::from_secs(120), "the new label is in the file", || async {
        let log = bed.logs("p").await?;
        ensure!(log.contains("colour=\"green\""), "{log}");
        Ok(())
    })
    .await?;
    bed.done().await
}

#[e2e]
async fn e2e_volume_projected_joins_its_sources() -> Result<()> {
    let bed = Bed::shared("projected").await?;
    bed.create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"a": "A"}})).await?;
    bed.create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"b": "B"}})).await?;
    let volume = mounted(json!({"projected": {"sources": [
        {"configMap": {"name": "m"}},
        {"secret": {"name": "s"}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"serviceAccountToken": {"path": "token"}},
    ]}}));
    let log = bed.script("p", "cat /v/a /v/b /v/name; wc -c < /v/token", volume).await?;
    let size = log.strip_prefix("ABp").unwrap_or_default().trim();
    ensure!(size.parse::<u32>().is_ok_and(|size| size > 100), "{log}");
    bed.done().await
}

#[e2e]
async fn e2e_volume_sub_path_and_its_escape() -> Result<()> {
    let bed = Bed::shared("subpath").await?;
    let folder = format!("/var/tmp/{}", bed.namespace);
    let host = bed.pet.path(&folder);
    std::fs::create_dir_all(host.join("in/side"))?;
    std::fs::write(host.join("in/side/f"), "inside")?;
    std::os::unix::fs::symlink("/etc", host.join("in/out"))?;
    let pod = |mount: Value| {
        let mut mount = mount;
        mount["name"] = json!("v");
        mount["mountPath"] = json!("/v");
        json!({
            "container": {
                "volumeMounts": [mount],
                "env": [{"name": "WHERE", "value": "side"}],
            },
            "volumes": [{"name": "v", "hostPath": {"path": format!("{folder}/in")}}],
        })
    };
    let log = bed.script("plain", "cat /v/f", pod(json!({"subPath": "side"}))).await?;
    ensure!(log == "inside", "{log}");
    let log = bed.script("expr", "cat /v/f", pod(json!({"subPathExpr": "$(WHERE)"}))).await?;
    ensure!(log == "inside", "{log}");
    let mut spec = pod(json!({"subPath": "out"}));
    spec["containers"] = json!([{
        "name": "c", "image": crate::harness::BUSYBOX, "command": ["cat", "/v/passwd"],
        "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "out"}],
    }]);
    spec.as_object_mut().map(|fields| fields.remove("container"));
    bed.pod("escape", spec).await?;
    bed.until("escape", SOON, "is refused", |pod| crate::harness::waiting(pod, "c") == "CreateContainerConfigError").await?;
    bed.done().await
}

#[e2e]
async fn e2e_volume_fs_group_owns_the_files() -> Result<()> {
    let bed = Bed::shared("fsgroup").await?;
    bed.create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}})).await?;
    let spec = json!({
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 2000, "supplementalGroups": [3000]},
        "container": {"volumeMounts": [{"name": "e", "mountPath": "/e"}, {"name": "s", "mountPath": "/s"}]},
        "volumes": [
            {"name": "e", "emptyDir": {}},
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
        ],
    });
    let script = "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '; echo; \
                  touch /e/f; stat -c %g /e/f; stat -L -c '%g %a' /s/k; cat /s/k";
    let log = bed.script("p", script, spec).await?;
    ensure!(log == "1000\n1001\n1001 2000 3000 \n2000\n2000 440\nv", "{log}");
    bed.done().await
}

/// A tmpfs is mounted below the volume by a container that may; the next one can write to it only where it is not asked not to.
#[e2e]
async fn e2e_volume_read_only_with_the_mounts_below_it() -> Result<()> {
    let bed = Bed::shared("recursive").await?;
    let mut mounter = shell("m", "mkdir /v/inner && mount -t tmpfs none /v/inner && echo x > /v/inner/f");
    mounter["securityContext"] = json!({"privileged": true});
    mounter["volumeMounts"] = json!([{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]);
    let recursively = |path: &str, mode: &str| json!({"name": "v", "mountPath": path, "readOnly": true, "recursiveReadOnly": mode});
    let spec = json!({
        "initContainers": [mounter],
        "container": {"volumeMounts": [
            recursively("/enabled", "Enabled"),
            recursively("/possible", "IfPossible"),
            recursively("/disabled", "Disabled"),
        ]},
        "volumes": [{"name": "v", "emptyDir": {}}],
    });
    let script = "for d in enabled possible disabled; do cat /$d/inner/f; \
                  touch /$d/g 2>/dev/null || echo $d; touch /$d/inner/g 2>/dev/null || echo $d/inner; done";
    let log = bed.script("p", script, spec).await?;
    ensure!(log == "x\nenabled\nenabled/inner\nx\npossible\npossible/inner\nx\ndisabled\n", "{log}");
    let pod = bed.get("p").await?;
    let status = crate::harness::container(&pod, "c").and_then(|status| status.volume_mounts.clone()).unwrap_or_default();
    let modes: Vec<_> = status.iter().filter(|mount| mount.name == "v").filter_map(|mount| mount.recursive_read_only.as_deref()).collect();
    ensure!(modes == ["Enabled", "Enabled", "Disabled"], "{modes:?}");
    let node: k8s_openapi::api::core::v1::Node = kube::Api::all(bed.client.clone()).get(bed.pet.name()).await?;
    let handlers = node.status.and_then(|status| status.runtime_handlers).unwrap_or_default();
    let features = handlers.first().and_then(|handler| handler.features.clone()).unwrap_or_default();
    ensure!(features.recursive_read_only_mounts == Some(true), "{features:?}");
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    bed.done().await
}
