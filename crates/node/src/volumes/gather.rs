//! What is to be done for each volume, with everything that must be fetched for it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{
    ConfigMap, EmptyDirVolumeSource, Pod, ProjectedVolumeSource, ResourceFieldSelector, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube_pet_core::container_env::resource_field_value;
use kube_pet_core::pod::pod_uid;
use kube_pet_core::quantity::Amount;
use kube_pet_core::resources::pod_cgroup;
use kube_pet_core::volumes::{
    EmptyDirMedium, Payload, PersistentSource, Sources, claim_reference, config_map_payload, downward_api_payload, empty_dir_medium,
    fs_group, fs_group_on_root_mismatch, holds_secrets, host_path_without_backsteps, huge_page_size, joined_options, memory_size,
    nested_mount_points, nfs_source, projected_payload, secret_payload, used_volumes, validate_payload_path, volume_references,
    volume_type,
};

use tracing::warn;

use super::VolumeContext;
use super::claims::{Claims, Found};
use super::error::SetUpError;
use super::trust_bundles::{TrustBundle, rank};
use crate::objects::{BoundToken, CertificateKey, CertificateSpec, CredentialBundle, ObjectFetcher, SecretObject, TokenSpec};

/// One volume, and what to do for it.
pub(super) struct Step {
    pub(super) volume: String,
    /// The name that is told of it: for the volume of a claim, the PersistentVolume's.
    pub(super) shown: String,
    pub(super) work: Result<Work, SetUpError>,
    /// Where files of an earlier time may be.
    pub(super) place: Option<Place>,
    /// A group that the pod's processes get with it.
    pub(super) group: Option<i64>,
}

/// Where a volume's files are written.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) kind: &'static str,
    pub(super) in_memory: bool,
}

/// What to do for one volume.
pub(super) enum Work {
    /// A folder of the pod's own.
    EmptyDir { medium: Medium, fs_group: Option<u32> },
    /// A path of this machine.
    HostPath { path: PathBuf, wanted: String, read_only: bool },
    /// A folder of this machine, mounted into the pod's.
    Local(LocalVolume),
    /// A folder of a server; `name` is that of its folder in the pod's.
    Nfs { name: String, source: String, options: Vec<String>, read_only: bool },
    /// Files.
    Payload { files: Payload, mount_points: BTreeSet<String>, fs_group: Option<u32> },
}

/// What a folder of the pod's own is on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Medium {
    /// The disk of the agent's folders.
    Disk,
    /// A tmpfs of this size; 0 is the kernel's default.
    Memory { size: u64 },
    /// Huge pages of this size.
    HugePages { page_size: u64 },
}

/// A local volume.
#[derive(Clone, Debug)]
pub(super) struct LocalVolume {
    /// The PersistentVolume's name.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) read_only: bool,
    pub(super) options: Vec<String>,
    pub(super) fs_group: Option<FsGroup>,
}

/// The group that gets a volume's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct FsGroup {
    pub(super) group: u32,
    /// `fsGroupChangePolicy: OnRootMismatch`
    pub(super) only_if_root_differs: bool,
}

/// All volumes that containers mount. Those of claims are what `claims` says, and left out if it does not.
pub(super) async fn steps(objects: &ObjectFetcher, pod: &Pod, context: &VolumeContext, mut claims: Claims) -> Vec<Step> {
    let (claimed, others): (Vec<_>, Vec<_>) = used_volumes(pod).into_iter().partition(|volume| claim_reference(pod, volume).is_some());
    // Images are pulled first, and mounted for the container that wants them.
    let others = others.into_iter().filter(|volume| volume.image.is_none());
    let mut steps = join_all(others.map(|volume| step(objects, pod, volume, context))).await;
    steps.extend(claimed.into_iter().filter_map(|volume| Some(claimed_step(pod, &volume.name, claims.found.remove(&volume.name)?))));
    steps
}

fn claimed_step(pod: &Pod, volume: &str, found: Found) -> Step {
    let Found { volume: bound, read_only, refused } = found;
    let name = bound.name;
    let work = match (refused, bound.source) {
        (Some(error), _) => Err(error.into()),
        // It becomes part of a path.
        (None, _) if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') => Err(SetUpError::Name { name: name.clone() }),
        (None, PersistentSource::HostPath { path, wanted }) => host_path(&path, wanted, read_only),
        (None, PersistentSource::Local { path }) if path.split('/').any(|part| part == "..") => Err(SetUpError::Backstep { path }),
        (None, PersistentSource::Local { path }) => Ok(Work::Local(LocalVolume {
            name: name.clone(),
            path: Path::new("/").join(path),
            read_only,
            options: bound.mount_options,
            fs_group: fs_group(pod).map(|group| FsGroup { group, only_if_root_differs: fs_group_on_root_mismatch(pod) }),
        })),
        (None, PersistentSource::Nfs { server, path }) => Ok(Work::Nfs {
            name: name.clone(),
            source: nfs_source(&server, &path),
            options: joined_options(&bound.mount_options, read_only),
            read_only,
        }),
    };
    Step { volume: volume.to_owned(), shown: name, work, place: None, group: bound.group }
}

fn host_path(path: &str, wanted: String, read_only: bool) -> Result<Work, SetUpError> {
    host_path_without_backsteps(path)?;
    Ok(Work::HostPath { path: path.into(), wanted, read_only })
}

/// Those of them whose files the agent writes.
pub(super) async fn payload_steps(objects: &ObjectFetcher, pod: &Pod, context: &VolumeContext) -> Vec<Step> {
    let volumes = used_volumes(pod).into_iter().filter(|volume| place(volume).is_some());
    join_all(volumes.map(|volume| step(objects, pod, volume, context))).await
}

fn place(volume: &Volume) -> Option<Place> {
    let kind = match volume_type(volume) {
        "configMap" => "configmap",
        "secret" => "secret",
        "downwardAPI" => "downward-api",
        "projected" => "projected",
        _ => return None,
    };
    Some(Place { kind, in_memory: holds_secrets(volume) })
}

async fn step(objects: &ObjectFetcher, pod: &Pod, volume: &Volume, context: &VolumeContext) -> Step {
    let place = place(volume);
    let work = match (place, &volume.empty_dir, &volume.host_path) {
        // Names become parts of paths; those of static pods were checked by nobody.
        _ if !is_name(&volume.name) => Err(SetUpError::Name { name: volume.name.clone() }),
        (Some(_), _, _) => payload(objects, pod, volume, context).await,
        (None, Some(source), _) => empty_dir(pod, source, context),
        (None, None, Some(source)) => host_path(&source.path, source.type_.clone().unwrap_or_default(), false),
        (None, None, None) => match &volume.nfs {
            Some(source) => {
                let read_only = source.read_only == Some(true);
                let (name, options) = (volume.name.clone(), joined_options(&[], read_only));
                Ok(Work::Nfs { name, source: nfs_source(&source.server, &source.path), options, read_only })
            }
            None => Err(SetUpError::Unsupported { kind: volume_type(volume) }),
        },
    };
    Step { volume: volume.name.clone(), shown: volume.name.clone(), work, place, group: None }
}

pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !name.is_empty() && name.len() <= 63 && name.bytes().all(plain)
}

fn empty_dir(pod: &Pod, source: &EmptyDirVolumeSource, context: &VolumeContext) -> Result<Work, SetUpError> {
    let medium = match empty_dir_medium(source.medium.as_deref()) {
        EmptyDirMedium::Disk => Medium::Disk,
        EmptyDirMedium::Memory => {
            let allocatable = context.node.allocatable.get("memory").and_then(bytes).unwrap_or(0);
            let of_pod = pod_cgroup(pod).memory_limit.and_then(|limit| u64::try_from(limit).ok());
            Medium::Memory { size: memory_size(source.size_limit.as_ref().and_then(bytes), of_pod, allocatable) }
        }
        EmptyDirMedium::HugePages(size) => Medium::HugePages { page_size: huge_page_size(pod, size.as_deref())? },
        EmptyDirMedium::Unknown(medium) => return Err(SetUpError::UnknownMedium { medium }),
    };
    Ok(Work::EmptyDir { medium, fs_group: fs_group(pod) })
}

/// A quantity in bytes; one that is not a number counts as absent (the API server lets none pass).
fn bytes(quantity: &Quantity) -> Option<u64> {
    u64::try_from(Amount::of(quantity).ok()?.value()).ok()
}

/// The objects that a volume refers to, by name; an absent one does not exist.
#[derive(Default)]
struct Fetched {
    config_maps: BTreeMap<String, Arc<ConfigMap>>,
    secrets: BTreeMap<String, Arc<SecretObject>>,
    tokens: BTreeMap<usize, BoundToken>,
    certificates: BTreeMap<usize, Arc<CredentialBundle>>,
    /// By the index of their source.
    trust_bundles: BTreeMap<usize, TrustBundle>,
    /// Sources whose tokens or certificates come later.
    late: BTreeSet<usize>,
}

async fn fetch(objects: &ObjectFetcher, pod: &Pod, volume: &Volume, returning: bool) -> Result<Fetched, SetUpError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let references = volume_references(volume);
    let mut fetched = Fetched::default();
    let mut errors = Vec::new();
    for name in references.config_maps {
        match objects.config_map(namespace, &name).await {
            Ok(found) => fetched.config_maps.extend(found.map(|object| (name, object))),
            Err(error) => errors.push(error.into()),
        }
    }
    for name in references.secrets {
        match objects.secret(namespace, &name).await {
            Ok(found) => fetched.secrets.extend(found.map(|object| (name, object))),
            Err(error) => errors.push(error.into()),
        }
    }
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or_default();
    for token in references.tokens {
        let spec = TokenSpec {
            audiences: token.audience.into_iter().collect(),
            expiration_seconds: token.expiration_seconds,
            pod_name: pod.metadata.name.clone().unwrap_or_default(),
            pod_uid: pod_uid(pod),
        };
        match objects.service_account_token(namespace, account, &spec).await {
            Ok(issued) => fetched.tokens.extend([(token.source, issued)]),
            // Nobody can be asked for one, and whoever it is for is most likely as far away: the pod's other files are worth more.
            Err(error) if returning && error.is_unreachable() => {
                warn!(pod = spec.pod_name, namespace, volume = volume.name, %error, "a pod comes back without its token; it follows");
                fetched.late.insert(token.source);
            }
            Err(error) => errors.push(error.into()),
        }
    }
    for (source, projection) in &references.certificates {
        let spec = CertificateSpec {
            key: CertificateKey { pod_uid: pod_uid(pod), volume: volume.name.clone(), source: *source },
            namespace,
            pod_name: pod.metadata.name.as_deref().unwrap_or_default(),
            account,
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default(),
            projection,
        };
        match objects.pod_certificate(&spec).await {
            Ok(issued) => fetched.certificates.extend([(*source, issued)]),
            Err(error) if returning && error.is_unreachable() => {
                warn!(pod = spec.pod_name, namespace, volume = volume.name, %error, "a pod comes back without its certificate; it follows");
                fetched.late.insert(*source);
            }
            Err(error) => errors.push(error.into()),
        }
    }
    for (source, wanted) in references.trust_bundles {
        match TrustBundle::find(objects, wanted).await {
            Ok(found) => fetched.trust_bundles.extend(found.map(|found| (source, found))),
            Err(error) => errors.push(error.into()),
        }
    }
    match errors.len() {
        0 => Ok(fetched),
        1 => Err(errors.remove(0)),
        _ => Err(SetUpError::Several(errors)),
    }
}

async fn payload(objects: &ObjectFetcher, pod: &Pod, volume: &Volume, context: &VolumeContext) -> Result<Work, SetUpError> {
    let fetched = fetch(objects, pod, volume, context.returning).await?;
    let files = files(pod, volume, context, &fetched)?;
    for path in files.keys() {
        validate_payload_path(path)?;
    }
    Ok(Work::Payload { files, mount_points: nested_mount_points(&volume.name, pod), fs_group: fs_group(pod) })
}

fn files(pod: &Pod, volume: &Volume, context: &VolumeContext, fetched: &Fetched) -> Result<Payload, SetUpError> {
    let config_map = |name: &str| fetched.config_maps.get(name).map(AsRef::as_ref);
    // A Secret without data exists nevertheless.
    let empty = BTreeMap::new();
    let secret = |name: &str| fetched.secrets.get(name).map(|object| object.data.as_ref().unwrap_or(&empty));
    let token = |index: usize| fetched.tokens.get(&index).map(BoundToken::as_str);
    let certificate = |index: usize| fetched.certificates.get(&index).map(|issued| (issued.key(), issued.chain()));
    let trust_bundles = |index: usize| fetched.trust_bundles.get(&index).map(TrustBundle::texts);
    let resource = |selector: &ResourceFieldSelector| -> Result<String, Box<dyn Error + Send + Sync>> {
        resource_field_value(pod, selector, None, Some(&context.node)).map_err(Into::into)
    };
    let files = if let Some(source) = &volume.config_map {
        let items = source.items.as_deref().unwrap_or_default();
        config_map_payload(&source.name, config_map(&source.name), items, source.default_mode, source.optional == Some(true))
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let items = source.items.as_deref().unwrap_or_default();
        secret_payload(name, secret(name), items, source.default_mode, source.optional == Some(true))
    } else if let Some(source) = &volume.downward_api {
        downward_api_payload(pod, source.items.as_deref().unwrap_or_default(), source.default_mode, &resource)
    } else if let Some(source) = &volume.projected {
        let sources = Sources {
            config_map: &config_map,
            secret: &secret,
            token: &token,
            certificate: &certificate,
            trust_bundles: &trust_bundles,
            rank: &rank,
            resource: &resource,
        };
        projected_payload(pod, &without(source, &fetched.late), &sources)
    } else {
        return Err(SetUpError::Unsupported { kind: volume_type(volume) });
    };
    Ok(files?)
}

/// The same volume, with nothing for these sources.
fn without(source: &ProjectedVolumeSource, left_out: &BTreeSet<usize>) -> ProjectedVolumeSource {
    let mut source = source.clone();
    for (index, projection) in source.sources.iter_mut().flatten().enumerate() {
        if left_out.contains(&index) {
            *projection = VolumeProjection::default();
        }
    }
    source
}
