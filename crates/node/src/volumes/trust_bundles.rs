//! What is found for clusterTrustBundle sources.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use kube_pet_core::volumes::TrustBundles;

use crate::objects::{FetchError, ObjectFetcher};

/// The order of certificates: another one in each run of the agent, as the kubelet's.
static ORDER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The place of a certificate in that order.
pub(super) fn rank(anchor: &[u8]) -> u64 {
    ORDER.hash_one(anchor)
}

/// What was found for one source.
pub(super) enum TrustBundle {
    Named(Arc<ClusterTrustBundle>),
    OfSigner(Arc<Vec<ClusterTrustBundle>>),
}

impl TrustBundle {
    /// Looks for what a source wants; `None` is what does not exist.
    pub(super) async fn find(objects: &ObjectFetcher, wanted: TrustBundles) -> Result<Option<Self>, FetchError> {
        Ok(match wanted {
            TrustBundles::Named(name) => objects.trust_bundle(&name).await?.map(Self::Named),
            TrustBundles::OfSigner { signer, labels } => Some(Self::OfSigner(objects.trust_bundles_of(&signer, &labels).await?)),
            TrustBundles::Nothing => None,
        })
    }

    /// The certificates, as PEM.
    pub(super) fn texts(&self) -> Vec<&str> {
        let bundles = match self {
            Self::Named(bundle) => std::slice::from_ref(&**bundle),
            Self::OfSigner(bundles) => bundles.as_slice(),
        };
        bundles.iter().map(|bundle| bundle.spec.trust_bundle.as_str()).collect()
    }
}
