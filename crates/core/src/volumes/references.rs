//! What a pod's volumes refer to, and for whom their files are.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, PodCertificateProjection, Volume};

use super::trust_bundles::{TrustBundles, wanted_trust_bundles};

/// The objects that one volume needs before its files can be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeReferences {
    /// ConfigMaps in the pod's namespace.
    pub config_maps: BTreeSet<String>,
    /// Secrets in the pod's namespace.
    pub secrets: BTreeSet<String>,
    /// Service-account tokens, bound to the pod.
    pub tokens: Vec<TokenReference>,
    /// ClusterTrustBundles, by the index of their source within the volume.
    pub trust_bundles: Vec<(usize, TrustBundles)>,
    /// Certificates, by the index of their source within the volume.
    pub certificates: Vec<(usize, PodCertificateProjection)>,
}

/// One serviceAccountToken source of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenReference {
    /// Index of the source within the volume.
    pub source: usize,
    /// The audience; none is the API server's own.
    pub audience: Option<String>,
    /// How long the token should be valid, in seconds; none leaves it to the API server.
    pub expiration_seconds: Option<i64>,
}

/// The volumes that at least one container mounts, in the order of the spec. Others are never set up.
pub fn used_volumes(pod: &Pod) -> Vec<&Volume> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let of_containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.volume_mounts.as_deref());
    let of_ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.volume_mounts.as_deref());
    let used: BTreeSet<&str> = of_containers.chain(of_ephemeral).flatten().flatten().map(|m| m.name.as_str()).collect();
    spec.volumes.iter().flatten().filter(|v| used.contains(v.name.as_str())).collect()
}

/// The volumes that are images and that `container` mounts, by name.
pub fn image_volumes<'a>(pod: &'a Pod, container: &Container) -> Vec<(&'a str, &'a ImageVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mounts = |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    volumes.filter(|volume| mounts(&volume.name)).filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?))).collect()
}

/// What `volume` refers to.
pub fn volume_references(volume: &Volume) -> VolumeReferences {
    let mut references = VolumeReferences::default();
    if let Some(source) = &volume.config_map {
        references.config_maps.insert(source.name.clone());
    }
    if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.clone()) {
        references.secrets.insert(name);
    }
    for (index, source) in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()).enumerate() {
        references.config_maps.extend(source.config_map.as_ref().map(|c| c.name.clone()));
        references.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        references.trust_bundles.extend(source.cluster_trust_bundle.as_ref().map(|bundle| (index, wanted_trust_bundles(bundle))));
        references.certificates.extend(source.pod_certificate.as_ref().map(|certificate| (index, certificate.clone())));
        references.tokens.extend(source.service_account_token.as_ref().map(|token| TokenReference {
            source: index,
            audience: token.audience.clone().filter(|a| !a.is_empty()),
            expiration_seconds: token.expiration_seconds,
        }));
    }
    references
}

/// Whether files of `volume` may never reach a disk.
pub fn holds_secrets(volume: &Volume) -> bool {
    let secret_source = |projected: &k8s_openapi::api::core::v1::ProjectedVolumeSource| {
        projected.sources.iter().flatten().any(|s| s.secret.is_some() || s.service_account_token.is_some() || s.pod_certificate.is_some())
    };
    volume.secret.is_some() || volume.projected.as_ref().is_some_and(secret_source)
}

/// The group that owns the pod's volumes.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Whether a volume whose root belongs to the `fsGroup` already is left as it is.
pub fn fs_group_on_root_mismatch(pod: &Pod) -> bool {
    let policy = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.fs_group_change_policy.as_deref());
    policy == Some("OnRootMismatch")
}

/// The one user that all containers are said to run as; none if one of them does not say, or they differ.
pub fn fs_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut user = None;
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let own = container.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod)?;
        if *user.get_or_insert(own) != own {
            return None;
        }
    }
    u32::try_from(user?).ok()
}

/// The name of the field that says what kind of volume this is, for messages.
pub fn volume_type(volume: &Volume) -> &'static str {
    let kinds = [
        (volume.config_map.is_some(), "configMap"),
        (volume.secret.is_some(), "secret"),
        (volume.downward_api.is_some(), "downwardAPI"),
        (volume.projected.is_some(), "projected"),
        (volume.empty_dir.is_some(), "emptyDir"),
        (volume.host_path.is_some(), "hostPath"),
        (volume.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (volume.csi.is_some(), "csi"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.image.is_some(), "image"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.fc.is_some(), "fc"),
        (volume.git_repo.is_some(), "gitRepo"),
    ];
    kinds.iter().find(|(is, _)| *is).map_or("unknown", |(_, name)| name)
}
