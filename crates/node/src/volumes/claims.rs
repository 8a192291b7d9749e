//! From the claims of a pod's volumes to what they are bound to: asked of the API server each time, else taken from the pod's record.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::node::NodeInfo;
use kube_pet_core::pod::pod_uid;
use kube_pet_core::volumes::{
    BoundVolume, BoundVolumeError, ClaimError, ClaimReference, bound_name, bound_volume, check_bound_volume, claim_reference, used_volumes,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::error::VolumeError;
use super::layout::Layout;
use super::record;
use super::removal::RemovalError;
use crate::objects::{FetchError, ObjectFetcher};
use crate::paths::Paths;

/// Why a claim does not lead to a volume.
#[derive(Debug, thiserror::Error)]
pub enum ClaimProblem {
    /// What the objects say.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The claim cannot be read.
    #[error("error processing PVC {claim}: failed to fetch PVC from API server: {source}")]
    FetchClaim {
        /// Namespace and name.
        claim: String,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// The volume cannot be read.
    #[error("error processing PVC {claim}: failed to fetch PV {volume} from API server: {source}")]
    FetchVolume {
        /// Namespace and name.
        claim: String,
        /// The PersistentVolume's name.
        volume: String,
        /// Why.
        #[source]
        source: FetchError,
    },
}

/// A claim that leads to a volume.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) volume: BoundVolume,
    pub(super) read_only: bool,
    /// Why it cannot be mounted nevertheless.
    pub(super) refused: Option<BoundVolumeError>,
}

/// What the claims of a pod lead to, by the name of the pod's volume.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) found: BTreeMap<String, Found>,
    pub(super) problems: BTreeMap<String, ClaimProblem>,
}

/// Resolves claims.
#[derive(Clone)]
pub(super) struct ClaimResolver {
    paths: Paths,
    objects: ObjectFetcher,
    /// One pod at a time takes what one pod only may have.
    records: Arc<Mutex<()>>,
}

impl ClaimResolver {
    pub(super) fn new(paths: Paths, objects: ObjectFetcher) -> Self {
        Self { paths, objects, records: Arc::default() }
    }

    /// What the claims of all volumes that containers mount lead to. Nothing is recorded for a pod that is `ending`.
    pub(super) async fn resolve(&self, pod: &Pod, node: &NodeInfo, ending: &CancellationToken) -> Claims {
        let wanted: Vec<_> = used_volumes(pod).into_iter().filter_map(|v| Some((v.name.clone(), claim_reference(pod, v)?))).collect();
        if wanted.is_empty() {
            return Claims::default();
        }
        let uid = pod_uid(pod);
        let layout = Layout::new(&self.paths, &uid);
        let reading = layout.clone();
        let known = tokio::task::spawn_blocking(move || record::read(&reading)).await.unwrap_or_default();
        let each = wanted.iter().map(|(name, reference)| {
            let known = known.volumes.get(name);
            async move { (name.clone(), self.one(pod, name, reference, node, known).await) }
        });
        let mut claims = Claims::default();
        for (name, resolved) in join_all(each).await {
            match resolved {
                Ok(found) => drop(claims.found.insert(name, found)),
                Err(problem) => drop(claims.problems.insert(name, problem)),
            }
        }
        let (paths, records, ending) = (self.paths.clone(), self.records.clone(), ending.clone());
        let keep = move || {
            let _alone = records.lock().unwrap_or_else(PoisonError::into_inner);
            let mut record = known.clone();
            for (name, found) in claims.found.iter_mut().filter(|(_, found)| found.refused.is_none()) {
                let held = known.volumes.values().any(|volume| volume.name == found.volume.name);
                if found.volume.one_pod && !held && record::is_used_elsewhere(&paths, &uid, &found.volume.name) {
                    found.refused = Some(BoundVolumeError::OtherPod);
                } else {
                    record.volumes.insert(name.clone(), found.volume.clone());
                }
            }
            if record != known
                && !ending.is_cancelled()
                && let Err(error) = record::write(&layout, &record)
            {
                warn!(%error, "the pod's claims are used, but their volumes would not come back without the API server");
            }
            claims
        };
        tokio::task::spawn_blocking(keep).await.unwrap_or_default()
    }

    /// Forgets what the pod had, which has been told that it ends.
    pub(super) fn forget(&self, layout: &Layout) -> Result<(), VolumeError> {
        let _alone = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let path = layout.claims();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(VolumeError::Remove(RemovalError::Io { path, source })),
            _ => Ok(()),
        }
    }

    async fn one(
        &self,
        pod: &Pod,
        volume: &str,
        reference: &ClaimReference,
        node: &NodeInfo,
        known: Option<&BoundVolume>,
    ) -> Result<Found, ClaimProblem> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let of = || format!("{namespace}/{}", reference.claim);
        let remembered = |error: &FetchError| {
            let volume = known.filter(|_| error.is_outage())?.clone();
            warn!(claim = of(), volume = volume.name, %error, "a claim is taken for bound as before: it cannot be read now");
            Some(Found { volume, read_only: reference.read_only, refused: None })
        };
        let claim = match self.objects.persistent_volume_claim(namespace, &reference.claim).await {
            Ok(claim) => claim,
            Err(source) => return remembered(&source).ok_or_else(|| ClaimProblem::FetchClaim { claim: of(), source }),
        };
        let name = bound_name(pod, reference, claim.as_ref())?.to_owned();
        let found = match self.objects.persistent_volume(&name).await {
            Ok(found) => found,
            Err(source) => {
                return remembered(&source).ok_or_else(|| ClaimProblem::FetchVolume { claim: of(), volume: name, source });
            }
        };
        let bound = bound_volume(&claim.unwrap_or_default(), volume, &name, found.as_ref())?;
        // What was mounted once belongs here, also if the node's labels are not known yet.
        let refused = if known == Some(&bound) { None } else { check_bound_volume(&found.unwrap_or_default(), &bound, node).err() };
        Ok(Found { volume: bound, read_only: reference.read_only, refused })
    }
}
