//! Volumes of claims: which PersistentVolume a pod's volume stands for, and whether the pod may use it, by the rules and with the texts of the
//! kubelet (`desired_state_of_world_populator.go`, `operation_generator.go` and the plugins of the kinds).

mod error;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Volume};
use serde::{Deserialize, Serialize};

use crate::admission::selector_matches;
use crate::node::NodeInfo;

pub use error::{BoundVolumeError, ClaimError};

/// Keeps a claim that is being deleted until no pod uses it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";
/// A group that the pod's processes get, named by the PersistentVolume.
const GROUP_ANNOTATION: &str = "pv.beta.kubernetes.io/gid";
/// Mount options of old PersistentVolumes; before `spec.mountOptions`.
const OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";

/// How a pod's volume refers to a claim in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimReference {
    /// The claim's name.
    pub claim: String,
    /// Whether the pod may not write.
    pub read_only: bool,
    /// Whether the claim was made for this pod, and ends with it.
    pub ephemeral: bool,
}

/// What stands behind a claim: what a pod's volume is, without the API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BoundVolume {
    /// The PersistentVolume's name.
    pub name: String,
    /// Where the data is.
    pub source: PersistentSource,
    /// Options for mounting it.
    #[serde(default)]
    pub mount_options: Vec<String>,
    /// Whether one pod may use it, and no other (`ReadWriteOncePod`).
    #[serde(default)]
    pub one_pod: bool,
    /// A group that the pod's processes get.
    #[serde(default)]
    pub group: Option<i64>,
}

/// The kinds of PersistentVolumes that this node can use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PersistentSource {
    /// A path of the machine's.
    HostPath {
        /// The path.
        path: String,
        /// What must be there; empty: anything.
        wanted: String,
    },
    /// A folder of the machine's, mounted into the pod's.
    Local {
        /// The folder.
        path: String,
    },
    /// A folder of an NFS server.
    Nfs {
        /// The server.
        server: String,
        /// The folder.
        path: String,
    },
}

/// The claim that a volume of a pod stands for; `None` if it is of another kind.
pub fn claim_reference(pod: &Pod, volume: &Volume) -> Option<ClaimReference> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(ClaimReference { claim: source.claim_name.clone(), read_only: source.read_only == Some(true), ephemeral: false });
    }
    volume.ephemeral.as_ref()?;
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    Some(ClaimReference { claim: format!("{pod}-{}", volume.name), read_only: false, ephemeral: true })
}

/// The name of the PersistentVolume that the claim is bound to.
///
/// # Errors
/// There is none that this pod may use.
pub fn bound_name<'a>(pod: &Pod, reference: &ClaimReference, claim: Option<&'a PersistentVolumeClaim>) -> Result<&'a str, ClaimError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = reference.claim.clone();
    let Some(found) = claim else { return Err(ClaimError::NoClaim { namespace, name }) };
    let claim = format!("{namespace}/{name}");
    let protected = found.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTION);
    if found.metadata.deletion_timestamp.is_some() && !protected {
        return Err(ClaimError::Deleted { claim });
    }
    if found.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err(ClaimError::NotBound { claim });
    }
    let Some(volume) = found.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty()) else {
        return Err(ClaimError::NoVolumeName { claim });
    };
    if reference.ephemeral {
        let mut owners = found.metadata.owner_references.iter().flatten();
        if !owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref()) {
            let pod = format!("{namespace}/{}", pod.metadata.name.as_deref().unwrap_or_default());
            return Err(ClaimError::NotOwned { claim, pod });
        }
    }
    Ok(volume)
}

/// What the claim is bound to. `volume` is the name of the pod's volume, `name` that of the PersistentVolume.
///
/// # Errors
/// The PersistentVolume is not the claim's, or none that this node can use.
pub fn bound_volume(
    claim: &PersistentVolumeClaim,
    volume: &str,
    name: &str,
    found: Option<&PersistentVolume>,
) -> Result<BoundVolume, ClaimError> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (of, volume, name) =
        (format!("{}/{}", text(&claim.metadata.namespace), text(&claim.metadata.name)), volume.to_owned(), name.to_owned());
    let Some(found) = found else { return Err(ClaimError::NoVolume { claim: of, volume: name }) };
    let spec = found.spec.clone().unwrap_or_default();
    let Some(owner) = &spec.claim_ref else { return Err(ClaimError::NotYetBound { claim: of, volume: name }) };
    if owner.uid != claim.metadata.uid {
        let (found, expected) = (text(&owner.uid), text(&claim.metadata.uid));
        return Err(ClaimError::OtherClaim { claim: of, volume: name, found, expected });
    }
    if let Some(mode) = spec.volume_mode.clone().filter(|mode| mode != "Filesystem") {
        return Err(ClaimError::Mode { volume, mode });
    }
    let source = if let Some(source) = &spec.host_path {
        PersistentSource::HostPath { path: source.path.clone(), wanted: text(&source.type_) }
    } else if let Some(source) = &spec.local {
        PersistentSource::Local { path: source.path.clone() }
    } else if let Some(source) = &spec.nfs {
        PersistentSource::Nfs { server: source.server.clone(), path: source.path.clone() }
    } else {
        return Err(ClaimError::Unsupported { claim: of, volume: name, kind: kind(&spec) });
    };
    let annotation = |key: &str| found.metadata.annotations.as_ref().and_then(|all| all.get(key));
    let mount_options = match annotation(OPTIONS_ANNOTATION) {
        Some(list) => list.split(',').map(str::to_owned).collect(),
        None => spec.mount_options.clone().unwrap_or_default(),
    };
    Ok(BoundVolume {
        name,
        source,
        mount_options: mount_options.into_iter().filter(|option| !option.is_empty()).collect(),
        // With several modes, which one the pod means is not known.
        one_pod: spec.access_modes.as_deref() == Some(&["ReadWriteOncePod".to_owned()]),
        group: annotation(GROUP_ANNOTATION).and_then(|group| group.parse().ok()),
    })
}

/// Whether a bound volume may be mounted on this node.
///
/// # Errors
/// Its node affinity is for other nodes, or it has options that its kind cannot have.
pub fn check_bound_volume(found: &PersistentVolume, volume: &BoundVolume, node: &NodeInfo) -> Result<(), BoundVolumeError> {
    let affinity = found.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    if affinity.and_then(|affinity| affinity.required.as_ref()).is_some_and(|required| !selector_matches(required, node)) {
        return Err(BoundVolumeError::NodeAffinity);
    }
    match volume.source {
        PersistentSource::HostPath { .. } if !volume.mount_options.is_empty() => Err(BoundVolumeError::MountOptions),
        _ => Ok(()),
    }
}

/// The options of a mount: those of the volume, and whether it is read-only; sorted, each once.
pub fn joined_options(options: &[String], read_only: bool) -> Vec<String> {
    let mut all = options.to_vec();
    all.extend(read_only.then(|| "ro".to_owned()));
    all.sort();
    all.dedup();
    all
}

/// What mount(8) calls a folder of an NFS server.
pub fn nfs_source(server: &str, path: &str) -> String {
    let server = if server.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{server}]") } else { server.to_owned() };
    format!("{server}:{path}")
}

/// The name of the field that says what kind of volume this is.
fn kind(spec: &PersistentVolumeSpec) -> &'static str {
    let kinds = [
        (spec.csi.is_some(), "csi"),
        (spec.iscsi.is_some(), "iscsi"),
        (spec.fc.is_some(), "fc"),
        (spec.rbd.is_some(), "rbd"),
        (spec.cephfs.is_some(), "cephfs"),
        (spec.glusterfs.is_some(), "glusterfs"),
        (spec.flex_volume.is_some(), "flexVolume"),
        (spec.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (spec.azure_disk.is_some(), "azureDisk"),
        (spec.azure_file.is_some(), "azureFile"),
        (spec.cinder.is_some(), "cinder"),
        (spec.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (spec.vsphere_volume.is_some(), "vsphereVolume"),
        (spec.portworx_volume.is_some(), "portworxVolume"),
        (spec.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (spec.quobyte.is_some(), "quobyte"),
        (spec.scale_io.is_some(), "scaleIO"),
        (spec.storageos.is_some(), "storageos"),
        (spec.flocker.is_some(), "flocker"),
    ];
    kinds.iter().find(|(is, _)| *is).map_or("unknown", |(_, name)| name)
}
