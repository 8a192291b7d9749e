//! Why a claim, or what it is bound to, cannot be used: the kubelet's texts.

/// Why a claim does not lead to a volume, yet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// There is no such claim.
    #[error("error processing PVC {namespace}/{name}: failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found")]
    NoClaim {
        /// The pod's namespace.
        namespace: String,
        /// The claim's name.
        name: String,
    },
    /// It goes away, and nothing keeps it.
    #[error("error processing PVC {claim}: PVC is being deleted")]
    Deleted {
        /// Namespace and name.
        claim: String,
    },
    /// It waits for a volume.
    #[error("error processing PVC {claim}: PVC is not bound")]
    NotBound {
        /// Namespace and name.
        claim: String,
    },
    /// It does not say which volume it is bound to.
    #[error("error processing PVC {claim}: PVC has empty pvc.Spec.VolumeName")]
    NoVolumeName {
        /// Namespace and name.
        claim: String,
    },
    /// The claim of an ephemeral volume was made by somebody else.
    #[error("PVC {claim} was not created for pod {pod} (pod is not owner)")]
    NotOwned {
        /// Namespace and name.
        claim: String,
        /// The pod's.
        pod: String,
    },
    /// There is no such volume.
    #[error("error processing PVC {claim}: failed to fetch PV {volume} from API server: persistentvolumes \"{volume}\" not found")]
    NoVolume {
        /// Namespace and name.
        claim: String,
        /// The volume's name.
        volume: String,
    },
    /// The volume does not know of a claim.
    #[error(
        "error processing PVC {claim}: found PV object {volume} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
    )]
    NotYetBound {
        /// Namespace and name.
        claim: String,
        /// The volume's name.
        volume: String,
    },
    /// The volume is another claim's.
    #[error(
        "error processing PVC {claim}: found PV object {volume} but its pv.Spec.ClaimRef.UID {found} does not point to claim.UID {expected}"
    )]
    OtherClaim {
        /// Namespace and name.
        claim: String,
        /// The volume's name.
        volume: String,
        /// The UID that the volume names.
        found: String,
        /// The claim's.
        expected: String,
    },
    /// A block device cannot be mounted as a folder.
    #[error("volume {volume} has volumeMode {mode}, but is specified in volumeMounts")]
    Mode {
        /// The name of the pod's volume.
        volume: String,
        /// `volumeMode`
        mode: String,
    },
    /// A kind of volume that this version does not know.
    #[error("error processing PVC {claim}: PV {volume} is a volume of type {kind}, which is not supported by this node")]
    Unsupported {
        /// Namespace and name.
        claim: String,
        /// The volume's name.
        volume: String,
        /// The name of the field that says so.
        kind: &'static str,
    },
}

/// Why a bound volume cannot be mounted here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoundVolumeError {
    /// It is on other nodes.
    #[error("no matching NodeSelectorTerms")]
    NodeAffinity,
    /// A hostPath is not mounted.
    #[error("mount options are not supported for this volume type")]
    MountOptions,
    /// `ReadWriteOncePod`.
    #[error("volume uses the ReadWriteOncePod access mode and is already in use by another pod")]
    OtherPod,
}
