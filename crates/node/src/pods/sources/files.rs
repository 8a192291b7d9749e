//! Static pods: manifests in a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use kube_pet_core::ids::PodUid;
use kube_pet_core::pod::pod_uid;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{PodUpdate, Source};

/// How often the folder is read (the kubelet's `fileCheckFrequency` is 20 s; reading names and times is cheap).
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Larger manifests are refused.
const MAX_BYTES: u64 = 1 << 20;

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read manifest {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("manifest {path} has {bytes} bytes; at most {MAX_BYTES} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file is not a Pod.
    #[error("manifest {path} is not a v1 Pod: {detail}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        detail: String,
    },
    /// The Pod lacks something.
    #[error("manifest {path}: {field} {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads one manifest, YAML or JSON, and makes it a pod of this node as the kubelet does: name suffix, UID from the content,
/// `kubernetes.io/config.*` annotations.
pub fn read_manifest(path: &Path, node_name: &str) -> Result<Pod, ManifestError> {
    let read = |source| ManifestError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if bytes > MAX_BYTES {
        return Err(ManifestError::TooLarge { path: path.to_owned(), bytes });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let mut pod: Pod = serde_saphyr::from_str(&text).map_err(|e| ManifestError::Parse { path: path.to_owned(), detail: e.to_string() })?;
    let invalid = |field, problem: &str| ManifestError::Invalid { path: path.to_owned(), field, problem: problem.to_owned() };
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or_else(|| invalid("metadata.name", "is missing"))?;
    if !is_dns_subdomain(&name) {
        return Err(invalid("metadata.name", "must be lower-case letters, digits, '-' and '.', as a DNS name"));
    }
    let spec = pod.spec.as_mut().ok_or_else(|| invalid("spec", "is missing"))?;
    if spec.containers.is_empty() {
        return Err(invalid("spec.containers", "is empty"));
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        if !is_dns_label(&container.name) {
            return Err(invalid("spec.containers[].name", &format!("{:?} must be a DNS label", container.name)));
        }
        if container.image.as_deref().unwrap_or_default().is_empty() {
            return Err(invalid("spec.containers[].image", &format!("of container {} is missing", container.name)));
        }
    }
    spec.node_name = Some(node_name.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.enable_service_links.get_or_insert(true);
    let any = Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    spec.tolerations.get_or_insert_default().push(any);
    let mut hash = Sha256::new();
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update(node_name);
    hash.update(&text);
    let hash: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    pod.metadata.uid = Some(hash.clone());
    pod.metadata.name = Some(format!("{name}-{node_name}"));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.deletion_timestamp = None;
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.source".into(), "file".into());
    annotations.insert("kubernetes.io/config.hash".into(), hash);
    annotations.remove("kubernetes.io/config.mirror");
    pod.status = None;
    Ok(pod)
}

fn is_dns_label(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

/// Pods from given files, told once: `kube-pet run FILE…`.
pub async fn once(pods: Vec<Pod>, out: mpsc::Sender<PodUpdate>) {
    for pod in pods {
        if out.send(PodUpdate::Put(Source::File, Arc::new(pod))).await.is_err() {
            return;
        }
    }
    let _ = out.send(PodUpdate::Synced(Source::File)).await;
}

/// No pods, from no source: all there have been are gone.
pub async fn nothing(out: mpsc::Sender<PodUpdate>) {
    for source in [Source::Api, Source::File] {
        let _ = out.send(PodUpdate::Synced(source)).await;
    }
}

/// Follows a folder until the receiver is dropped. A manifest that becomes unreadable keeps its pod as it was: only a file that
/// is gone ends its pod.
///
/// `reserved`: namespace and name that no static pod may have, because the agent's own pod has them.
pub async fn watch(folder: PathBuf, node_name: String, reserved: Option<(String, String)>, out: mpsc::Sender<PodUpdate>) {
    let mut seen: BTreeMap<PathBuf, Entry> = BTreeMap::new();
    let mut synced = false;
    loop {
        let names = match list(&folder) {
            Ok(names) => names,
            Err(error) => {
                if !synced {
                    warn!(folder = %folder.display(), %error, "cannot read the folder of static pods");
                }
                Vec::new()
            }
        };
        let mut updates = Vec::new();
        let mut now: BTreeMap<PathBuf, Entry> = BTreeMap::new();
        for (path, stamp) in names {
            let before = seen.remove(&path);
            if let Some(before) = before.as_ref().filter(|b| b.stamp == stamp) {
                now.insert(path, before.clone());
                continue;
            }
            let old = before.and_then(|b| b.uid);
            match read_manifest(&path, &node_name).and_then(|pod| unreserved(pod, &path, reserved.as_ref())) {
                Ok(pod) => {
                    let uid = pod_uid(&pod);
                    if let Some(old) = old.filter(|old| *old != uid) {
                        updates.push(PodUpdate::Gone(Source::File, old));
                    }
                    info!(path = %path.display(), pod = pod.metadata.name.as_deref().unwrap_or_default(), "static pod read");
                    updates.push(PodUpdate::Put(Source::File, Arc::new(pod)));
                    now.insert(path, Entry { stamp, uid: Some(uid) });
                }
                Err(error) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    warn!(%error, source, "static pod manifest ignored; mend the file, or remove it to end its pod");
                    now.insert(path, Entry { stamp, uid: old });
                }
            }
        }
        updates.extend(seen.into_values().filter_map(|gone| gone.uid).map(|uid| PodUpdate::Gone(Source::File, uid)));
        seen = now;
        if !std::mem::replace(&mut synced, true) {
            updates.push(PodUpdate::Synced(Source::File));
        }
        for update in updates {
            if out.send(update).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(CHECK_EVERY) => {}
            () = out.closed() => return,
        }
    }
}

/// Two static pods of one name would take each other's mirror away, again and again.
fn unreserved(pod: Pod, path: &Path, reserved: Option<&(String, String)>) -> Result<Pod, ManifestError> {
    let meta = &pod.metadata;
    let taken = reserved.filter(|(namespace, name)| meta.namespace.as_ref() == Some(namespace) && meta.name.as_ref() == Some(name));
    match taken {
        None => Ok(pod),
        Some((namespace, name)) => Err(ManifestError::Invalid {
            path: path.to_owned(),
            field: "metadata.name",
            problem: format!("makes it {namespace}/{name}, which is the pod that stands for this machine (hostPod)"),
        }),
    }
}

#[derive(Clone)]
struct Entry {
    stamp: (u64, std::time::SystemTime),
    uid: Option<PodUid>,
}

type Stamped = (PathBuf, (u64, std::time::SystemTime));

/// Manifest files, as the kubelet takes them: not hidden, regular (through links).
fn list(folder: &Path) -> std::io::Result<Vec<Stamped>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if let Ok(meta) = std::fs::metadata(&path)
            && meta.is_file()
        {
            out.push((path, (meta.len(), meta.modified().unwrap_or(std::time::UNIX_EPOCH))));
        }
    }
    out.sort();
    Ok(out)
}

#[cfg(test)]
mod tests;
