//! What the tests share: the lab, a machine that has joined, a namespace, and the questions that they ask again and again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use kube_pet_lab::{Lab, LabOptions, Vm, VmOptions, cluster, controller, eventually, joining, vm};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub const BUSYBOX: &str = "docker.io/library/busybox:1.37";

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
    pub lab: Arc<Lab>,
    pub vm: Vm,
    pub client: Client,
    pub namespace: String,
}

/// Runs a test on a machine that has not joined yet. The machine's journal is kept where the test fails.
pub async fn on_vm(name: &str, options: impl FnOnce(VmOptions) -> VmOptions, test: impl AsyncFnOnce(&Bed) -> Result<()>) -> Result<()> {
    let lab = lab().await?;
    let client = lab.client().await?;
    let vm = Vm::start(&lab, options(VmOptions::new(name))).await?;
    let spaces: Api<Namespace> = Api::all(client.clone());
    let space = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    spaces.create(&PostParams::default(), &space).await.context("create the test's namespace")?;
    let bed = Bed { lab, vm, client, namespace: name.to_owned() };
    let tested = test(&bed).await;
    if let Err(error) = tested {
        let journal = bed.vm.shell("journalctl --no-pager --merge").await.unwrap_or_else(|error| format!("{error:#}"));
        let file = kept_logs().join(format!("{name}.journal"));
        std::fs::create_dir_all(kept_logs())?;
        std::fs::write(&file, journal)?;
        bed.vm.remove().await?;
        return Err(error.context(format!("the machine's journal is {}", file.display())));
    }
    spaces.delete(name, &DeleteParams::default()).await.context("delete the test's namespace")?;
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
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/default", self.namespace);
        eventually(SOON, "the default service account", || kube_pet_lab::client::get(&self.client, &path)).await?;
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

    /// Objects of a kind in the test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        self.api()
    }

    /// Creates any object, from its JSON.
    pub async fn create<K>(&self, object: Value) -> Result<()>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        cluster::create(&self.api::<K>(), object).await
    }

    /// Creates a pod on the machine. Pods whose PID 1 handles no SIGTERM are not waited for longer than a second.
    pub async fn pod(&self, name: &str, mut spec: Value) -> Result<()> {
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": self.vm.name()});
        if spec.get("terminationGracePeriodSeconds").is_none() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        self.create::<Pod>(json!({"metadata": {"name": name}, "spec": spec})).await
    }

    pub async fn get(&self, name: &str) -> Result<Pod> {
        self.pods().get(name).await.with_context(|| format!("get pod {name}"))
    }

    /// Waits until the pod is as `check` wants it; on failure the error has the pod's whole status.
    pub async fn until(&self, name: &str, what: &str, check: impl Fn(&Pod) -> bool) -> Result<Pod> {
        eventually(SOON, &format!("pod {name}: {what}"), || async {
            let pod = self.get(name).await?;
            if check(&pod) {
                return Ok(pod);
            }
            bail!("{}", serde_json::to_string(&pod.status)?)
        })
        .await
    }

    pub async fn phase(&self, name: &str, phase: &str) -> Result<Pod> {
        self.until(name, phase, |pod| phase_of(pod) == phase).await
    }

    /// kubectl in the test's namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", self.namespace.as_str()];
        all.extend(arguments);
        self.lab.kubectl(&all).await
    }
}

pub fn phase_of(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// Reason and message of the pod's own.
pub fn told(pod: &Pod) -> (&str, &str) {
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or_default();
    (reason, status.and_then(|status| status.message.as_deref()).unwrap_or_default())
}

pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|status| status.name == name)
}

/// Reason and exit code of a container that has ended.
pub fn ended<'a>(pod: &'a Pod, name: &str) -> Option<(&'a str, i32)> {
    let ended = container(pod, name)?.state.as_ref()?.terminated.as_ref()?;
    Some((ended.reason.as_deref().unwrap_or(""), ended.exit_code))
}

pub fn pod_ip(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref()
}

/// A container of busybox that runs a shell script.
pub fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", script]})
}
