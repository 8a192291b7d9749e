//! `kube-pet controller`: a lab of its own, in which nobody else approves certificates, and which its tests use one after another.

mod allocation;
mod certificates;
mod joining;
mod keys;
mod permissions;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams},
};
use kube_pet_lab::{
    Lab, LabOptions, controller,
    daemon::Daemon,
    eventually,
    herd::{self, condition, key, objects, pet},
};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::harness::SOON;

static LAB: OnceCell<Arc<Lab>> = OnceCell::const_new();
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The lab, with one controller that works.
pub(crate) struct Cluster {
    pub(crate) lab: Arc<Lab>,
    pub(crate) client: Client,
    controller: Daemon,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// `reclaim_after` is that of the PetNetwork.
    pub(crate) async fn start(reclaim_after: &str) -> Result<Self> {
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
        herd::as_node(&self.lab, name).await
    }

    async fn create_pet(&self, name: &str, machine: &str, key: &str) -> Result<()> {
        herd::create(&self.lab, name, machine, key).await
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
        Ok(herd::metric(&controller::page(&self.lab, 0, "/metrics").await?, name, labels))
    }
}

/// The text of a refusal.
fn refusal<T>(result: kube::Result<T>) -> Result<String> {
    match result {
        Err(kube::Error::Api(status)) => Ok(format!("{} {}", status.code, status.message)),
        Err(error) => Err(error.into()),
        Ok(_) => bail!("it was not refused"),
    }
}
