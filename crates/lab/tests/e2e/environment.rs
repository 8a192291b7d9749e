//! Environment variables from every source.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use crate::harness::{Bed, SOON, phase_of, shell, waiting};

#[e2e]
async fn e2e_environment_comes_from_every_source() -> Result<()> {
    let bed = Bed::shared("env").await?;
    bed.create::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"key": "from map", "WHOLE": "map"}})).await?;
    bed.create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"key": "from secret"}})).await?;
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let spec = json!({"container": {
        "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}},
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
        "env": [
            {"name": "LITERAL", "value": "text"},
            {"name": "EXPANDED", "value": "$(LITERAL)+$$(LITERAL)+$(NONE)"},
            {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "key"}}},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
            {"name": "OPTIONAL", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": true}}},
            {"name": "POD", "valueFrom": field("metadata.name")},
            {"name": "NODE", "valueFrom": field("spec.nodeName")},
            {"name": "IP", "valueFrom": field("status.podIP")},
            {"name": "HOST", "valueFrom": field("status.hostIP")},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ],
    }});
    let log = bed.script("p", "env", spec).await?;
    let pod = bed.get("p").await?;
    let ip = pod.status.and_then(|status| status.pod_ip).unwrap_or_default();
    for line in [
        "LITERAL=text",
        "EXPANDED=text+$(LITERAL)+$(NONE)",
        "MAP=from map",
        "SECRET=from secret",
        "P_WHOLE=map",
        "POD=p",
        &format!("NODE={}", bed.pet.name()),
        &format!("IP={ip}"),
        &format!("HOST={}", bed.pet.address()),
        "CPU=250",
        "MEMORY=64",
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
    ] {
        ensure!(log.lines().any(|found| found == line), "no `{line}` in {log}");
    }
    ensure!(!log.contains("OPTIONAL="), "{log}");
    bed.done().await
}

#[e2e]
async fn e2e_a_missing_config_map_is_waited_for() -> Result<()> {
    let bed = Bed::shared("missingmap").await?;
    let mut container = shell("c", "echo $MAP; sleep 3600");
    container["env"] = json!([{"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]);
    bed.pod("p", json!({"containers": [container]})).await?;
    bed.until("p", SOON, "CreateContainerConfigError", |pod| waiting(pod, "c") == "CreateContainerConfigError").await?;
    bed.event("p", "Warning Failed Error: configmap \"late\" not found").await?;
    bed.create::<ConfigMap>(json!({"metadata": {"name": "late"}, "data": {"k": "v"}})).await?;
    bed.until("p", SOON, "Running", |pod| phase_of(pod) == "Running").await?;
    bed.done().await
}

/// The file is what the init container has written when the container starts: also after the container has changed it.
#[e2e]
async fn e2e_variables_come_from_a_file_of_an_init_container() -> Result<()> {
    let bed = Bed::shared("filekey").await?;
    let key = |name: &str, path: &str, key: &str, optional: bool| json!({"name": name, "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": path, "key": key, "optional": optional}}});
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let mut writer = shell("w", "mkdir /v/d; printf \"# c\\nA='one'\\nB='two\\nlines' # more\\n\" > /v/d/e.env; ln -s /etc/passwd /v/link");
    writer["volumeMounts"] = mount.clone();
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    let spec = json!({
        "initContainers": [writer],
        "volumes": volumes,
        "container": {"env": [
            key("A", "d/e.env", "A", false),
            key("B", "d/e.env", "B", false),
            {"name": "C", "value": "$(A)+"},
            key("NOT_SET", "d/e.env", "NONE", true),
            key("NO_FILE", "none", "A", true),
        ]},
    });
    let log = bed.script("p", "echo \"$A|$B|$C\"; env", spec).await?;
    ensure!(log.starts_with("one|two\nlines|one+\n"), "{log}");
    ensure!(!log.contains("NOT_SET") && !log.contains("NO_FILE"), "{log}");
    for (pod, path, name) in [("nokey", "d/e.env", "NONE"), ("nofile", "none", "A"), ("link", "link", "root")] {
        let mut container = shell("c", "sleep 3600");
        container["env"] = json!([key("A", path, name, false)]);
        bed.pod(pod, json!({"initContainers": [writer], "containers": [container], "volumes": volumes})).await?;
    }
    for (pod, message) in [
        ("nokey", "Error: environment variable key \"NONE\" not found in file \"d/e.env\""),
        ("nofile", "Error: couldn't parse env file"),
        // The link leads to /etc/passwd in the volume, where there is none.
        ("link", "Error: couldn't parse env file"),
    ] {
        bed.until(pod, SOON, "CreateContainerConfigError", |pod| waiting(pod, "c") == "CreateContainerConfigError").await?;
        bed.event(pod, &format!("Warning Failed {message}")).await?;
    }
    bed.done().await
}
