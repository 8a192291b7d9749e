//! A namespace of a cluster of the lab, and the questions that tests ask about the pods in it again and again.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ContainerStatus, Namespace, Pod},
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{Lab, client, cluster, eventually};

/// The image of [`shell`].
pub const BUSYBOX: &str = "docker.io/library/busybox:1.37";

/// A namespace.
pub struct Space {
    /// Whose cluster it is in.
    pub lab: Arc<Lab>,
    /// The administrator's.
    pub client: Client,
    /// Its name.
    pub namespace: String,
}

impl Space {
    /// A new one, whose name begins like this.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create_like(lab: Arc<Lab>, prefix: &str) -> Result<Self> {
        let client = lab.client().await?;
        let object = serde_json::from_value(json!({"metadata": {"generateName": format!("{prefix}-")}}))?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let made = namespaces.create(&PostParams::default(), &object).await.context("create the test's namespace")?;
        let namespace = made.metadata.name.context("the namespace has a name")?;
        Ok(Self { lab, client, namespace })
    }

    /// Waits until pods can be created in it.
    ///
    /// # Errors
    /// When they cannot within `limit`.
    pub async fn is_usable(&self, limit: Duration) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/default", self.namespace);
        eventually(limit, "the default service account", || client::get(&self.client, &path)).await.map(drop)
    }

    /// Deletes it; what is in it goes later.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete_all(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.context("delete the test's namespace").map(drop)
    }

    /// Waits until it is gone.
    ///
    /// # Errors
    /// When it is still there after `limit`.
    pub async fn all_gone(&self, limit: Duration) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        eventually(limit, "the namespace is gone", || async {
            let left = namespaces.get_opt(&self.namespace).await?;
            ensure!(left.is_none(), "{} is still there", self.namespace);
            Ok(())
        })
        .await
    }

    /// Objects of a kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Its pods.
    pub fn pods(&self) -> Api<Pod> {
        self.api()
    }

    /// Creates any object, from its JSON.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create<K>(&self, object: Value) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
        K::DynamicType: Default,
    {
        cluster::create(&self.api::<K>(), object).await
    }

    /// Creates a pod on a node. Pods whose PID 1 handles no SIGTERM are not waited for longer than a second.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn pod_on(&self, node: &str, name: &str, mut spec: Value) -> Result<Pod> {
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        if spec.get("terminationGracePeriodSeconds").is_none() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod)?).await.with_context(|| format!("create pod {name}"))
    }

    /// A pod.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, name: &str) -> Result<Pod> {
        self.pods().get(name).await.with_context(|| format!("get pod {name}"))
    }

    /// Waits until the pod is as `check` wants it.
    ///
    /// # Errors
    /// With the pod's whole status, when it is not within `limit`.
    pub async fn until(&self, name: &str, limit: Duration, what: &str, check: impl Fn(&Pod) -> bool) -> Result<Pod> {
        eventually(limit, &format!("pod {name}: {what}"), || async {
            let pod = self.get(name).await?;
            if check(&pod) {
                return Ok(pod);
            }
            bail!("{}", serde_json::to_string(&pod.status)?)
        })
        .await
    }

    /// kubectl in this namespace.
    ///
    /// # Errors
    /// When it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", self.namespace.as_str()];
        all.extend(arguments);
        self.lab.kubectl(&all).await
    }
}

/// Empty before it has one.
pub fn phase_of(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// The status of an app or init container.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let apps = status.container_statuses.iter().flatten();
    let inits = status.init_container_statuses.iter().flatten();
    apps.chain(inits).find(|status| status.name == name)
}

/// Reason and exit code of a container that has ended.
pub fn ended<'a>(pod: &'a Pod, name: &str) -> Option<(&'a str, i32)> {
    let ended = container(pod, name)?.state.as_ref()?.terminated.as_ref()?;
    Some((ended.reason.as_deref().unwrap_or(""), ended.exit_code))
}

/// Its first address.
pub fn pod_ip(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref()
}

/// A container of busybox that runs a shell script.
pub fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", script]})
}
