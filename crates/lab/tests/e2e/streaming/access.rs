//! Who may run commands at the node's own port, as the real API server decides it.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube_pet_lab::pki::Pki;
use serde_json::json;

use super::bed;
use crate::harness::{Bed, SOON};

const SPDY: [&str; 3] = ["Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io"];
const WEBSOCKET: [&str; 5] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: v4.channel.k8s.io",
];

/// How a client shows who it is.
enum Identity {
    Nobody,
    Token(String),
    /// Certificate and key.
    Files(String, String),
}

async fn status(bed: &Bed, identity: &Identity, method: &str, path: &str, headers: &[&str]) -> Result<String> {
    let url = format!("https://{}:10250{path}", bed.pet.address());
    let mut curl = vec!["curl", "-sk", "--http1.1", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, &url];
    let header = match identity {
        Identity::Token(token) => Some(format!("Authorization: Bearer {token}")),
        _ => None,
    };
    if let Identity::Files(certificate, key) = identity {
        curl.extend(["--cert", certificate, "--key", key]);
    }
    for header in header.as_deref().into_iter().chain(headers.iter().copied()) {
        curl.extend(["-H", header]);
    }
    // A connection that has become another protocol ends with curl's patience: its code has been told by then.
    let mut command = kube_pet_lab::command::argv(&curl);
    let output = command.kill_on_drop(true).output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn account(bed: &Bed, name: &str, rules: serde_json::Value) -> Result<String> {
    bed.create::<ServiceAccount>(json!({"metadata": {"name": name}})).await?;
    let role = format!("{}-{name}", bed.namespace);
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": role}, "rules": rules},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": role},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
         "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": bed.namespace}]},
    ]});
    bed.lab.kubectl_with_input(&["apply", "-f", "-"], &objects.to_string()).await?;
    token(bed, name, &[]).await
}

async fn token(bed: &Bed, account: &str, options: &[&str]) -> Result<String> {
    let mut arguments = vec!["create", "token", account];
    arguments.extend(options);
    Ok(bed.kubectl(&arguments).await?.trim().to_owned())
}

/// A certificate of a CA, as files for curl.
fn certificate(folder: &std::path::Path, name: &str, user: &str, group: &str) -> Result<Identity> {
    std::fs::create_dir_all(folder)?;
    Pki::create(folder)?.client(name, user, Some(group))?;
    let path = |ending: &str| Ok::<_, anyhow::Error>(folder.join(format!("{name}.{ending}")).to_str().context("a path")?.to_owned());
    Ok(Identity::Files(path("crt")?, path("key")?))
}

#[e2e]
async fn e2e_exactly_who_may_create_runs_commands() -> Result<()> {
    let bed = bed("access").await?;
    let rights = |verbs: &[&str]| json!([{"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": verbs}]);
    let reader = account(&bed, "reader", rights(&["get"])).await?;
    let runner = account(&bed, "runner", rights(&["get", "create"])).await?;
    let nobody = account(&bed, "nobody", json!([])).await?;
    // The last character of a signature may carry bits that do not count; its first does.
    let (signed, signature) = runner.rsplit_once('.').context("a token")?;
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{signed}.{first}{}", &signature[1..]);
    let foreign = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("access-{}", bed.namespace));
    let pki = bed.lab.record().pki_dir();
    let file = |name: &str| Ok::<_, anyhow::Error>(pki.join(name).to_str().context("a path")?.to_owned());
    let identities = [
        ("nobody", Identity::Nobody, "401", "401"),
        ("a forged token", Identity::Token(forged), "401", "401"),
        ("a token for another audience", Identity::Token(token(&bed, "runner", &["--audience", "vault"]).await?), "401", "401"),
        ("a certificate of another CA", certificate(&foreign, "admin", "admin", "system:masters")?, "401", "401"),
        ("a token without rights", Identity::Token(nobody), "403", "403"),
        ("the node's own certificate", Identity::Files(own(&bed)?, own(&bed)?), "403", "403"),
        ("a token that may get", Identity::Token(reader), "200", "403"),
        ("a token that may create", Identity::Token(runner), "200", "101"),
        ("the administrator", Identity::Files(file("admin.crt")?, file("admin.key")?), "200", "101"),
    ];
    let exec = format!("/exec/{}/p/talker?command=sleep&command=1&output=1", bed.namespace);
    let logs = format!("/containerLogs/{}/p/talker", bed.namespace);
    // New roles take a moment to be known everywhere.
    kube_pet_lab::eventually(SOON, "the grants are known", || async {
        for (_, identity, _, create) in &identities {
            if create == &"101" {
                let code = status(&bed, identity, "POST", &exec, &SPDY).await?;
                ensure!(code == "101", "{code}");
            }
        }
        Ok(())
    })
    .await?;
    for (who, identity, get, create) in &identities {
        let code = status(&bed, identity, "GET", &logs, &[]).await?;
        ensure!(code == *get, "logs as {who}: {code}, not {get}");
        for (method, headers) in [("POST", &SPDY[..]), ("GET", &SPDY[..]), ("GET", &WEBSOCKET[..]), ("POST", &[][..])] {
            let wanted = if headers.is_empty() && *create == "101" { "400" } else { create };
            let code = status(&bed, identity, method, &exec, headers).await?;
            ensure!(code == wanted, "exec by {method} {headers:?} as {who}: {code}, not {wanted}");
        }
    }
    for name in ["reader", "runner", "nobody"] {
        let role = format!("{}-{name}", bed.namespace);
        bed.lab.kubectl(&["delete", "clusterrole,clusterrolebinding", &role]).await?;
    }
    std::fs::remove_dir_all(foreign)?;
    bed.done().await
}

/// The pet's client certificate and key, in one file.
fn own(bed: &Bed) -> Result<String> {
    Ok(bed.pet.path("var/lib/kube-pet/pki/kube-pet-client-current.pem").to_str().context("a path")?.to_owned())
}
