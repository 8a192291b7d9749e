use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod};

/// Kinds of objects that environments are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl ObjectKind {
    /// As the kubelet's own messages spell it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

impl fmt::Display for ObjectKind {
    /// As the API machinery's messages spell it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        })
    }
}

/// An object, in the pod's namespace, that an environment needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// What kind of object.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// Whether every reference to it is optional.
    pub optional: bool,
}

/// A file of variables in one of the pod's volumes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileRef {
    /// The volume's name.
    pub volume: String,
    /// The path in it; to be resolved without following links out of the volume.
    pub path: String,
}

/// The objects that the environments of all containers of a pod need, each once.
pub fn object_refs(pod: &Pod) -> Vec<ObjectRef> {
    let spec = pod.spec.iter();
    references(spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers)))
}

/// The objects that one container's environment needs, each once.
pub fn container_object_refs(container: &Container) -> Vec<ObjectRef> {
    references([container])
}

fn references<'a>(containers: impl IntoIterator<Item = &'a Container>) -> Vec<ObjectRef> {
    let mut found: BTreeMap<(ObjectKind, String), bool> = BTreeMap::new();
    let mut note = |kind, name: &str, optional: Option<bool>| {
        let only_optional = found.entry((kind, name.to_owned())).or_insert(true);
        *only_optional &= optional.unwrap_or(false);
    };
    for container in containers {
        for source in container.env_from.iter().flatten() {
            if let Some(r) = &source.config_map_ref {
                note(ObjectKind::ConfigMap, &r.name, r.optional);
            }
            if let Some(r) = &source.secret_ref {
                note(ObjectKind::Secret, &r.name, r.optional);
            }
        }
        let sources = container.env.iter().flatten();
        for source in sources.filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(r) = &source.config_map_key_ref {
                note(ObjectKind::ConfigMap, &r.name, r.optional);
            }
            if let Some(r) = &source.secret_key_ref {
                note(ObjectKind::Secret, &r.name, r.optional);
            }
        }
    }
    let refs = found.into_iter();
    refs.map(|((kind, name), optional)| ObjectRef { kind, name, optional }).collect()
}

/// The files that a container's environment needs.
pub fn file_refs(container: &Container) -> BTreeSet<FileRef> {
    let sources = container.env.iter().flatten().filter_map(|v| v.value_from.as_ref());
    sources
        .filter_map(|source| source.file_key_ref.as_ref())
        .map(|r| FileRef { volume: r.volume_name.clone(), path: r.path.clone() })
        .collect()
}
