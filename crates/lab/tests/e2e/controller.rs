//! `kube-pet controller`: a lab of its own, in which nobody else approves certificates, and which its tests use one after another.

mod allocation;
mod certificates;
mod joining;
mod keys;
mod permissions;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams},
};
use kube_pet_lab::{Lab, LabOptions, controller, daemon::Daemon, eventually};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::harness::SOON;

static LAB: OnceCell<Arc<Lab>> = OnceCell::const_new();
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The lab, with one controller that works.
struct Cluster {
    lab: Arc<Lab>,
    client: Client,
    controller: Daemon,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// `reclaim_after` is that of the PetNetwork.
    async fn start(reclaim_after: &str) -> Result<Self> {
        let alone = ONE_AT_A_TIME.lock().await;
        let lab = LAB.get_or_try_init(|| async {
            let mut options = LabOptions::new(format!("e2e-c-{}", std::process::id()));
            options.keep_logs = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("e2e-controller-logs"));
            options.control_plane.verify_kubelets = true;
            let lab = Lab::start(options).await?;
            lab.approve_serving_certificates(false)?;
            controller::deploy(&lab).await?;
            anyhow::Ok(Arc::new(lab))
        });
        let lab = lab.await?.clone();
        // What a test that failed has left.
        if let Ok(left) = Daemon::load(lab.control_plane(), "controller-0") {
            left.stop(Duration::from_secs(10)).await?;
        }
        controller::network(&lab, reclaim_after).await?;
        let controller = controller::start(&lab, 0, &["--believe-node-addresses=10.201.0.0/16"]).await?;
        Ok(Self { client: lab.client().await?, lab, controller, _alone: alone })
    }

    /// Ends in order: the next test begins with no Pet and nothing allocated.
    async fn done(self) -> Result<()> {
        self.controller.stop(Duration::from_secs(10)).await?;
        for kind in ["Pet", "PetAllocation"] {
            let api = self.all(kind);
            api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        }
        Ok(())
    }

    fn all(&self, kind: &str) -> Api<DynamicObject> {
        objects(self.client.clone(), kind)
    }

    /// A client with the identity of a node.
    async fn as_node(&self, name: &str) -> Result<Client> {
        let file = kube::config::Kubeconfig::read_from(self.lab.record().kubeconfig())?;
        let mut config = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?;
        config.auth_info.impersonate = Some(format!("system:node:{name}"));
        config.auth_info.impersonate_groups = Some(vec!["system:nodes".into(), "system:authenticated".into()]);
        Client::try_from(config).context("make a client")
    }

    async fn create_pet(&self, name: &str, machine: &str, key: &str) -> Result<()> {
        let pets = objects(self.as_node(name).await?, "Pet");
        pets.create(&PostParams::default(), &pet(name, machine, key)?).await.with_context(|| format!("create the Pet {name}")).map(drop)
    }

    /// The status of a Pet, once `check` likes it.
    async fn status(&self, name: &str, what: &str, check: impl Fn(&Value) -> bool) -> Result<Value> {
        let pets = self.all("Pet");
        let what = format!("Pet {name}: {what}");
        let waited = eventually(SOON, &what, || async {
            let pet = pets.get(name).await?;
            let status = pet.data["status"].clone();
            if check(&status) {
                return Ok(status);
            }
            bail!("{status:#}")
        });
        waited.await.with_context(|| format!("controller's log: {}", kube_pet_lab::daemon::tail(&self.controller.spec.log)))
    }

    async fn allocated(&self, name: &str) -> Result<Value> {
        self.status(name, "is allocated", |status| condition(status, "Allocated") == "True" && condition(status, "KeyAccepted") == "True")
            .await
    }

    /// The sum of a metric's samples that have this text in their labels.
    async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let page = controller::page(&self.lab, 0, "/metrics").await?;
        let samples = page.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

fn objects(client: Client, kind: &str) -> Api<DynamicObject> {
    Api::all_with(client, &ApiResource::from_gvk(&GroupVersionKind::gvk("kube-pet.dev", "v1alpha1", kind)))
}

fn pet(name: &str, machine: &str, key: &str) -> Result<DynamicObject> {
    let object = json!({
        "apiVersion": "kube-pet.dev/v1alpha1",
        "kind": "Pet",
        "metadata": {"name": name},
        "spec": {"publicKey": key, "machineID": machine},
    });
    serde_json::from_value(object).context("form of a Pet")
}

/// A public key of a number's own.
fn key(number: u16) -> String {
    use base64::Engine;
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a str {
    let all = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == kind).and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}

/// The text of a refusal.
fn refusal<T>(result: kube::Result<T>) -> Result<String> {
    match result {
        Err(kube::Error::Api(status)) => Ok(format!("{} {}", status.code, status.message)),
        Err(error) => Err(error.into()),
        Ok(_) => bail!("it was not refused"),
    }
}

/// Whether all of these are different.
fn distinct(values: &[String]) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    let twice: Vec<_> = values.iter().filter(|value| !seen.insert(*value)).collect();
    ensure!(twice.is_empty(), "given twice: {twice:?}");
    Ok(())
}
