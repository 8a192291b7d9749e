//! Secrets, ConfigMaps, service-account tokens, certificates of pods, claims and their volumes: one by one. ClusterTrustBundles, which every node
//! may read: by name, or those of a signer.
//!
//! Of the others a node may read only the objects that its own pods refer to, and only singly. What was read is shared for a few seconds by
//! everybody who asks (the containers of a pod, pods that share an object), and concurrent readers share one request. The last
//! good copy stays in memory: while the API server is away, containers restart with it. Secrets never reach a disk, a log or an
//! error text.

mod certificates;
mod error;
mod store;
mod tokens;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::Api;
use kube::api::ListParams;
use kube_pet_core::ids::PodUid;

use crate::api::ApiHandle;
use certificates::CertificateStore;
pub use certificates::{CertificateKey, CertificateSpec, CredentialBundle};
pub use error::FetchError;
use store::{Key, Store};
use tokens::TokenStore;
pub use tokens::{BoundToken, TokenSpec};

/// How long an object that was read serves others.
const SHARED_FOR: Duration = Duration::from_secs(5);
/// Deadline of one request.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pauses after which a refused call is tried again: the API server learns of a new binding a moment after the node does, and
/// refuses the pod's objects until then.
const BINDING_PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(300), Duration::from_millis(600)];

/// A Secret whose `Debug` shows no contents.
#[derive(Clone, PartialEq)]
pub struct SecretObject(Secret);

impl Deref for SecretObject {
    type Target = Secret;
    fn deref(&self) -> &Secret {
        &self.0
    }
}

impl fmt::Debug for SecretObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretObject").field("name", &self.0.metadata.name).finish_non_exhaustive()
    }
}

/// Reads objects for the pods of this node. Cheap to clone; clones share what they know.
#[derive(Clone)]
pub struct ObjectFetcher {
    inner: Arc<Inner>,
    max_age: Duration,
}

struct Inner {
    api: Option<ApiHandle>,
    secrets: Store<SecretObject>,
    config_maps: Store<ConfigMap>,
    tokens: TokenStore,
    certificates: CertificateStore,
    trust_bundles: Store<ClusterTrustBundle>,
    /// By signer and label selector.
    bundles_of_signers: Store<Vec<ClusterTrustBundle>>,
}

impl ObjectFetcher {
    /// Reads from `api`; without one, every read fails with [`FetchError::NoApiServer`].
    pub fn new(api: Option<ApiHandle>) -> Self {
        let inner = Inner {
            api,
            secrets: Store::default(),
            config_maps: Store::default(),
            tokens: TokenStore::default(),
            certificates: CertificateStore::default(),
            trust_bundles: Store::default(),
            bundles_of_signers: Store::default(),
        };
        Self { inner: Arc::new(inner), max_age: SHARED_FOR }
    }

    /// The same fetcher, which asks the API server again instead of sharing what was read a moment ago.
    pub fn fresh(&self) -> Self {
        Self { inner: self.inner.clone(), max_age: Duration::ZERO }
    }

    /// A Secret; `None` if it does not exist.
    ///
    /// # Errors
    /// It could not be read, and no copy of it is known.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<SecretObject>>, FetchError> {
        let key = Key::new(namespace, name);
        self.inner
            .secrets
            .get(key, self.max_age, || async { Ok(self.read::<Secret>("secret", namespace, name).await?.map(SecretObject)) })
            .await
    }

    /// A ConfigMap; `None` if it does not exist.
    ///
    /// # Errors
    /// It could not be read, and no copy of it is known.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, FetchError> {
        let key = Key::new(namespace, name);
        self.inner.config_maps.get(key, self.max_age, || self.read::<ConfigMap>("configmap", namespace, name)).await
    }

    /// A claim; `None` if it does not exist. It is asked for each time: what matters of it changes.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn persistent_volume_claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, FetchError> {
        self.read("persistentvolumeclaim", namespace, name).await
    }

    /// A PersistentVolume; `None` if it does not exist. It is asked for each time. The API server lets a node read those that claims of its
    /// pods are bound to.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn persistent_volume(&self, name: &str) -> Result<Option<PersistentVolume>, FetchError> {
        self.read_of(Api::all, "persistentvolume", "", name).await
    }

    /// A ClusterTrustBundle; `None` if it does not exist.
    ///
    /// # Errors
    /// It could not be read, and no copy of it is known.
    pub async fn trust_bundle(&self, name: &str) -> Result<Option<Arc<ClusterTrustBundle>>, FetchError> {
        let read = || self.read_of(Api::all, "clustertrustbundle", "", name);
        self.inner.trust_bundles.get(Key::new("", name), self.max_age, read).await
    }

    /// The ClusterTrustBundles of `signer` that the label selector `labels` selects.
    ///
    /// # Errors
    /// They could not be read, and no copy of them is known.
    pub async fn trust_bundles_of(&self, signer: &str, labels: &str) -> Result<Arc<Vec<ClusterTrustBundle>>, FetchError> {
        let kind = "clustertrustbundles of the signer";
        let read = || async {
            let Some(api) = &self.inner.api else { return Err(FetchError::NoApiServer { kind, name: signer.to_owned() }) };
            let subject = Subject { kind, namespace: "", name: signer };
            let which = ListParams::default().fields(&format!("spec.signerName={signer}")).labels(labels);
            let bundles: Api<ClusterTrustBundle> = Api::all(api.client());
            match tokio::time::timeout(DEADLINE, bundles.list(&which)).await {
                Ok(found) => found.map(|list| Some(list.items)).map_err(|error| subject.error(error)),
                Err(_) => Err(subject.timed_out()),
            }
        };
        let found = self.inner.bundles_of_signers.get(Key::new(signer, labels), self.max_age, read).await?;
        Ok(found.unwrap_or_default())
    }

    /// A token of `account`, bound to the pod: the known one until 80 % of its life or a day have passed, then a new one. An old
    /// token that is still valid is better than an error.
    ///
    /// # Errors
    /// None was issued and none is valid.
    pub async fn service_account_token(&self, namespace: &str, account: &str, spec: &TokenSpec) -> Result<BoundToken, FetchError> {
        let request = || tokens::request(self.inner.api.as_ref(), namespace, account, spec);
        self.inner.tokens.get(namespace, account, spec, request).await.map_err(|error| FetchError::Token(Box::new(error)))
    }

    /// A certificate for a pod, requested if there is none, or when it is to be renewed. An old one that is still valid is better than an
    /// error.
    ///
    /// # Errors
    /// None has been issued yet ([`FetchError::NotIssued`]: the request stays), or none will be.
    pub async fn pod_certificate(&self, spec: &CertificateSpec<'_>) -> Result<Arc<CredentialBundle>, FetchError> {
        let Some(api) = &self.inner.api else {
            return Err(FetchError::NoApiServer { kind: "pod certificate", name: spec.pod_name.to_owned() });
        };
        self.inner.certificates.get(api.client(), spec).await
    }

    /// Forgets the tokens and certificates of a pod that is gone.
    pub fn forget_pod(&self, uid: &PodUid) {
        self.inner.certificates.forget(uid);
        self.inner.tokens.forget(uid);
    }

    /// Forgets copies of objects in namespaces where none of `pods` lives.
    pub fn keep_only<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) {
        let namespaces = pods.into_iter().filter_map(|pod| pod.metadata.namespace.clone()).collect();
        self.inner.secrets.keep_only(&namespaces);
        self.inner.config_maps.keep_only(&namespaces);
    }

    async fn read<T>(&self, kind: &'static str, namespace: &str, name: &str) -> Result<Option<T>, FetchError>
    where
        T: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + fmt::Debug + serde::de::DeserializeOwned,
    {
        self.read_of(|client| Api::namespaced(client, namespace), kind, namespace, name).await
    }

    async fn read_of<T>(
        &self,
        objects: impl FnOnce(kube::Client) -> Api<T>,
        kind: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>, FetchError>
    where
        T: Clone + fmt::Debug + serde::de::DeserializeOwned,
    {
        let Some(api) = &self.inner.api else {
            return Err(FetchError::NoApiServer { kind, name: name.to_owned() });
        };
        let subject = Subject { kind, namespace, name };
        let objects = objects(api.client());
        after_binding(|| async {
            match tokio::time::timeout(DEADLINE, objects.get_opt(name)).await {
                Ok(found) => found.map_err(|error| subject.error(error)),
                Err(_) => Err(subject.timed_out()),
            }
        })
        .await
    }
}

/// Repeats a call that the API server refuses because it has not learnt of the pod's binding yet.
async fn after_binding<T, F>(call: impl Fn() -> F) -> Result<T, FetchError>
where
    F: Future<Output = Result<T, FetchError>>,
{
    for pause in BINDING_PAUSES {
        match call().await {
            Err(error) if error.is_behind() => tokio::time::sleep(pause).await,
            done => return done,
        }
    }
    call().await
}

/// What a request is about, for its errors.
#[derive(Clone, Copy)]
struct Subject<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
}

impl Subject<'_> {
    fn timed_out(self) -> FetchError {
        FetchError::TimedOut { kind: self.kind, namespace: self.namespace.to_owned(), name: self.name.to_owned() }
    }

    fn error(self, error: kube::Error) -> FetchError {
        let Self { kind, namespace, name } = self;
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        match error {
            kube::Error::Api(status) => match status.code {
                403 => FetchError::Forbidden { message: status.message },
                404 => FetchError::NotFound { message: status.message },
                code => FetchError::Refused { kind, namespace, name, code, message: status.message },
            },
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => FetchError::Malformed { kind, namespace, name },
            other => FetchError::Unreachable { kind, namespace, name, source: Arc::new(other) },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
