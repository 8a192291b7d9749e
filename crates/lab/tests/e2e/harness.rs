//! What the tests share: the lab, a pet, a namespace each, and the questions that they ask again and again.

use std::{ops::Deref, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
pub use kube_pet_lab::space::{BUSYBOX, container, ended, phase_of, pod_ip, shell};
use kube_pet_lab::{Lab, LabOptions, Pet, PetOptions, eventually, space::Space};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// Time for what should take a second or two: generous, because many tests share two processors.
pub const SOON: Duration = Duration::from_secs(60);

static LAB: OnceCell<Arc<Lab>> = OnceCell::const_new();
static SHARED_PET: Mutex<()> = Mutex::const_new(());

/// The lab of this run. It ends with the process: statics are never dropped, but its lifeline closes.
pub async fn lab() -> Result<Arc<Lab>> {
    LAB.get_or_try_init(|| async {
        if let Ok(name) = std::env::var("KUBE_PET_LAB") {
            return Ok(Arc::new(Lab::find(&name)?));
        }
        let mut options = LabOptions::new(format!("e2e-{}", std::process::id()));
        options.keep_logs = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("e2e-logs"));
        // The stricter way: whatever works with it works without it.
        options.control_plane.verify_kubelets = true;
        Ok(Arc::new(Lab::start(options).await?))
    })
    .await
    .cloned()
}

/// One test's namespace, and the pet that its pods run on.
pub struct Bed {
    space: Space,
    pub pet: Pet,
}

impl Deref for Bed {
    type Target = Space;

    fn deref(&self) -> &Space {
        &self.space
    }
}

impl Bed {
    /// On the pet that most tests share. Nothing may be broken here.
    pub async fn shared(test: &str) -> Result<Self> {
        let lab = lab().await?;
        let one_at_a_time = SHARED_PET.lock().await;
        let pet = match lab.existing_pet("shared") {
            Ok(pet) => pet,
            Err(_) => lab.pet(PetOptions::new("shared")).await?,
        };
        drop(one_at_a_time);
        Self::on(lab, pet, test).await
    }

    /// On a pet of the test's own.
    pub async fn own(test: &str) -> Result<Self> {
        Self::own_with(test, |options| options).await
    }

    /// On a pet of the test's own, with settings of its own.
    pub async fn own_with(test: &str, settings: impl FnOnce(PetOptions) -> PetOptions) -> Result<Self> {
        let lab = lab().await?;
        if let Ok(left) = lab.existing_pet(test) {
            left.remove().await?;
        }
        let pet = lab.pet(settings(PetOptions::new(test))).await?;
        Self::on(lab, pet, test).await
    }

    pub async fn on(lab: Arc<Lab>, pet: Pet, test: &str) -> Result<Self> {
        pet.ready(SOON).await?;
        let space = Space::create_like(lab, test).await?;
        space.is_usable(SOON).await?;
        Ok(Self { space, pet })
    }

    /// Ends a test in order: its pods are deleted, and its own pet removed.
    pub async fn done(self) -> Result<()> {
        self.delete_all().await?;
        if self.pet.name() != "shared" {
            self.all_gone(SOON).await?;
            self.pet.remove().await?;
        }
        Ok(())
    }

    /// Creates a pod on the test's pet.
    pub async fn pod(&self, name: &str, spec: Value) -> Result<Pod> {
        self.pod_on(self.pet.name(), name, spec).await
    }

    pub async fn phase(&self, name: &str, phase: &str) -> Result<Pod> {
        self.until(name, SOON, phase, |pod| phase_of(pod) == phase).await
    }

    pub async fn gone(&self, name: &str, limit: Duration) -> Result<()> {
        eventually(limit, &format!("pod {name} is gone"), || async {
            let left = self.pods().get_opt(name).await?;
            ensure!(left.is_none(), "{:?}", left.and_then(|pod| pod.status));
            Ok(())
        })
        .await
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        self.pods().delete(name, &DeleteParams::default()).await.with_context(|| format!("delete pod {name}")).map(drop)
    }

    pub async fn logs(&self, name: &str) -> Result<String> {
        self.kubectl(&["logs", name]).await
    }

    /// Runs a shell script to its success in a pod, with these volumes mounted, and returns what it prints.
    pub async fn script(&self, name: &str, script: &str, mut spec: Value) -> Result<String> {
        spec["restartPolicy"] = json!("Never");
        let mut container = spec.as_object_mut().and_then(|fields| fields.remove("container")).unwrap_or(json!({}));
        container["name"] = json!("c");
        container["image"] = json!(BUSYBOX);
        container["command"] = json!(["sh", "-c", script]);
        spec["containers"] = json!([container]);
        self.pod(name, spec).await?;
        let pod = self.until(name, SOON, "has ended", |pod| ["Succeeded", "Failed"].contains(&phase_of(pod))).await?;
        let log = self.logs(name).await?;
        ensure!(
            phase_of(&pod) == "Succeeded",
            "pod {name} failed, {:?}, {}; it printed: {log}",
            ended(&pod, "c"),
            serde_json::to_string(&pod.status)?
        );
        Ok(log)
    }

    /// The Events about an object, as `Type Reason Message`.
    pub async fn events(&self, name: &str) -> Result<Vec<String>> {
        let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let events = self.api::<Event>().list(&about).await?;
        Ok(events
            .items
            .into_iter()
            .map(|event| {
                let text = |field: Option<String>| field.unwrap_or_default();
                format!("{} {} {}", text(event.type_), text(event.reason), text(event.message))
            })
            .collect())
    }

    pub async fn event(&self, name: &str, part: &str) -> Result<String> {
        eventually(SOON, &format!("an Event `{part}` about {name}"), || async {
            let events = self.events(name).await?;
            let found = events.iter().find(|event| event.contains(part));
            found.cloned().with_context(|| format!("only {events:#?}"))
        })
        .await
    }
}

pub fn restarts(pod: &Pod, name: &str) -> i32 {
    container(pod, name).map_or(-1, |status| status.restart_count)
}

/// Why a container waits; empty when it does not.
pub fn waiting<'a>(pod: &'a Pod, name: &str) -> &'a str {
    container(pod, name).and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()).unwrap_or("")
}

/// Says of a pod's status what controllers say of pods whose node they do not hear of, and waits until the node has taken it back.
pub async fn is_ready_again(pods: &Api<Pod>, name: &str) -> Result<()> {
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let told = pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(unready)).await.context("set a pod to not ready")?;
    ensure!(condition(&told, "Ready") == "False", "{:?}", told.status);
    eventually(SOON, &format!("pod {name} is ready again"), || async {
        let pod = pods.get(name).await?;
        ensure!(condition(&pod, "Ready") == "True", "{:?}", pod.status);
        Ok(())
    })
    .await
}

/// When a running container was started.
pub fn started_at(pod: &Pod, name: &str) -> Option<String> {
    let running = container(pod, name)?.state.as_ref()?.running.as_ref()?;
    running.started_at.as_ref().map(|time| time.0.to_string())
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> &'a str {
    let status = pod.status.as_ref();
    let mut conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    conditions.find(|condition| condition.type_ == kind).map_or("", |condition| condition.status.as_str())
}
