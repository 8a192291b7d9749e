//! What the tests share: the lab, a machine that has joined, a namespace, and the questions that they ask again and again.

use std::{ops::Deref, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
pub use kube_pet_lab::space::{container, ended, phase_of, pod_ip, shell};
use kube_pet_lab::{Lab, LabOptions, Vm, VmOptions, controller, joining, space::Space, vm};
use serde_json::Value;
use tokio::sync::OnceCell;

/// Time for what takes a second or two on real processors that have nothing else to do.
pub const SOON: Duration = Duration::from_secs(420);

static LAB: OnceCell<Arc<Lab>> = OnceCell::const_new();

/// The lab of this run, with what `deploy/` gives to those who join. It ends with the process.
async fn lab() -> Result<Arc<Lab>> {
    LAB.get_or_try_init(|| async {
        let mut options = LabOptions::new(format!("vm-{}", std::process::id()));
        options.keep_logs = Some(kept_logs());
        options.control_plane.verify_kubelets = true;
        let lab = Lab::start(options).await?;
        controller::deploy(&lab).await?;
        Ok(Arc::new(lab))
    })
    .await
    .cloned()
}

/// Where what a failure needs is kept.
fn kept_logs() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("vm-logs")
}

/// One test's machine and namespace.
pub struct Bed {
    space: Space,
    pub vm: Vm,
}

impl Deref for Bed {
    type Target = Space;

    fn deref(&self) -> &Space {
        &self.space
    }
}

/// Runs a test on a machine that has not joined yet. The machine's journal is kept where the test fails.
pub async fn on_vm(name: &str, options: impl FnOnce(VmOptions) -> VmOptions, test: impl AsyncFnOnce(&Bed) -> Result<()>) -> Result<()> {
    let lab = lab().await?;
    let vm = Vm::start(&lab, options(VmOptions::new(name))).await?;
    let bed = Bed { space: Space::create_like(lab, name).await?, vm };
    let tested = test(&bed).await;
    if let Err(error) = tested {
        let journal = bed.vm.shell("journalctl --no-pager --merge").await.unwrap_or_else(|error| format!("{error:#}"));
        let file = kept_logs().join(format!("{name}.journal"));
        std::fs::create_dir_all(kept_logs())?;
        std::fs::write(&file, journal)?;
        bed.vm.remove().await?;
        return Err(error.context(format!("the machine's journal is {}", file.display())));
    }
    bed.delete_all().await?;
    bed.vm.remove().await
}

/// As [`on_vm`], once the machine has joined and is Ready.
pub async fn on_node(name: &str, options: impl FnOnce(VmOptions) -> VmOptions, test: impl AsyncFnOnce(&Bed) -> Result<()>) -> Result<()> {
    on_vm(name, options, async |bed| {
        bed.join("").await?;
        test(bed).await
    })
    .await
}

impl Bed {
    /// Joins as a user does, and returns what is printed. It comes back once the node is Ready.
    pub async fn join(&self, flags: &str) -> Result<String> {
        let token = joining::token(&self.lab, &["--ttl", "1h"]).await?;
        // The disk has been made a moment ago and is in nobody's way: what a power cut is to find is on it.
        let text = self.vm.shell(&format!("{} join {token} {flags} 2>&1 && sync", vm::PROGRAM)).await?;
        ensure!(text.trim_end().ends_with(&format!("{} is Ready", self.vm.name())), "{text}");
        self.is_usable(SOON).await?;
        Ok(text)
    }

    pub async fn node(&self) -> Result<Node> {
        Api::all(self.client.clone()).get(self.vm.name()).await.context("get the node")
    }

    /// What a condition of the node is.
    pub async fn node_condition(&self, kind: &str) -> Result<String> {
        let conditions = self.node().await?.status.and_then(|status| status.conditions).unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition.type_ == kind);
        found.map(|condition| condition.status).with_context(|| format!("no condition {kind}"))
    }

    /// A page of the node's API, as the API server gets it.
    pub async fn page(&self, path: &str) -> Result<String> {
        self.lab.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy{path}", self.vm.name())]).await
    }

    /// Creates a pod on the machine.
    pub async fn pod(&self, name: &str, spec: Value) -> Result<()> {
        self.pod_on(self.vm.name(), name, spec).await.map(drop)
    }

    /// Waits until the pod is as `check` wants it; on failure the error has the pod's whole status.
    pub async fn until(&self, name: &str, what: &str, check: impl Fn(&Pod) -> bool) -> Result<Pod> {
        self.space.until(name, SOON, what, check).await
    }

    pub async fn phase(&self, name: &str, phase: &str) -> Result<Pod> {
        self.until(name, phase, |pod| phase_of(pod) == phase).await
    }
}

/// Reason and message of the pod's own.
pub fn told(pod: &Pod) -> (&str, &str) {
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or_default();
    (reason, status.and_then(|status| status.message.as_deref()).unwrap_or_default())
}
