//! The environment, command and arguments of a container, computed as the kubelet does from objects that were fetched before.

mod env_file;
mod expansion;
mod fields;
mod references;
mod services;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapKeySelector, Container, EnvVarSource, FileKeySelector, Pod, Secret, SecretKeySelector,
};

pub use env_file::{EnvFileError, env_file_value};
pub use expansion::expand;
pub use fields::{FieldValueError, field_value, resource_field_value};
pub use references::{FileRef, ObjectKind, ObjectRef, container_object_refs, file_refs, object_refs};
pub use services::{ServiceFacts, ServicePortFacts, service_env};

use crate::node::NodeInfo;

/// Why a container's environment cannot be made. The text is the message of its `CreateContainerConfigError`; no variant holds a
/// value of a Secret.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// An object that is not optional does not exist.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// What kind of object.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// An object was not fetched: [`object_refs`] was not asked, or fetching failed.
    #[error("couldn't get {} {namespace}/{name}: it has not been read", kind.title())]
    NotRead {
        /// What kind of object.
        kind: ObjectKind,
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The object has no such key.
    #[error("couldn't find key {key} in {} {namespace}/{name}", kind.title())]
    NoKey {
        /// What kind of object.
        kind: ObjectKind,
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field of the downward API has no value.
    #[error(transparent)]
    Field(#[from] FieldValueError),
    /// A file of variables is missing.
    #[error("couldn't parse env file: there is no {path:?} in volume {volume:?}")]
    NoFile {
        /// The volume.
        volume: String,
        /// The file's path in it.
        path: String,
    },
    /// A file of variables cannot be parsed.
    #[error("couldn't parse env file")]
    File(#[from] EnvFileError),
    /// A file of variables lacks the key.
    #[error("environment variable key {key:?} not found in file {path:?}")]
    NoFileKey {
        /// The key.
        key: String,
        /// The file's path in its volume.
        path: String,
    },
    /// A Secret's value is not UTF-8: such a value cannot be handed to a runtime.
    #[error("key {key} in Secret {namespace}/{name} is not valid UTF-8 and cannot be an environment variable")]
    NotText {
        /// The pod's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
        /// The key.
        key: String,
    },
    /// No process can have such a variable.
    #[error("environment variable {variable:?} contains a NUL byte")]
    Nul {
        /// The variable's name.
        variable: String,
    },
}

/// What a container's environment is made from.
#[derive(Clone, Default)]
pub struct EnvSources<'a> {
    /// The ConfigMaps that [`object_refs`] names; `None` is one that does not exist.
    pub config_maps: BTreeMap<String, Option<&'a ConfigMap>>,
    /// The Secrets that [`object_refs`] names; `None` is one that does not exist.
    pub secrets: BTreeMap<String, Option<&'a Secret>>,
    /// The files that [`file_refs`] names, by volume and path; `None` is one that does not exist.
    pub files: BTreeMap<(String, String), Option<Vec<u8>>>,
    /// This node.
    pub node: Option<&'a NodeInfo>,
    /// The pod's addresses, primary first.
    pub pod_ips: &'a [IpAddr],
    /// The node's addresses, primary first.
    pub host_ips: &'a [IpAddr],
    /// All Services of the cluster.
    pub services: &'a [ServiceFacts],
}

impl fmt::Debug for EnvSources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvSources")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .field("files", &self.files.keys())
            .field("pod_ips", &self.pod_ips)
            .field("host_ips", &self.host_ips)
            .finish_non_exhaustive()
    }
}

/// Variables in the order in which they were first set; a later value replaces an earlier one in its place.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(&at) => self.list[at].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|&at| self.list[at].1.as_str())
    }
}

/// The environment of a container: `envFrom` in order, then `env`, then the Services' variables that are not yet set.
///
/// Later entries win. `$(NAME)` in a value sees the entries before it and the Services' variables.
///
/// # Errors
/// The first source that has no value and is not optional, worded as the kubelet does.
pub fn build_env(container: &Container, pod: &Pod, sources: &EnvSources<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let service_env = service_env(sources.services, namespace, links);
    let resolver = Resolver { container, pod, namespace, sources };

    let mut variables = Variables::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            let config_map = resolver.config_map(&reference.name, optional)?;
            for (key, value) in config_map.and_then(|c| c.data.as_ref()).into_iter().flatten() {
                variables.set(&format!("{prefix}{key}"), value.clone());
            }
        } else if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            let secret = resolver.secret(&reference.name, optional)?;
            for (key, value) in secret.and_then(|s| s.data.as_ref()).into_iter().flatten() {
                let value = resolver.secret_text(&reference.name, key, &value.0)?;
                variables.set(&format!("{prefix}{key}"), value);
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (variable.value.as_deref().unwrap_or_default(), &variable.value_from) {
            ("", Some(source)) => resolver.value(source)?,
            (text, _) => {
                let lookup = |name: &str| {
                    let own = variables.get(name).map(str::to_owned);
                    own.or_else(|| service_env.get(name).cloned())
                };
                Some(expand(text, &lookup))
            }
        };
        if let Some(value) = value {
            variables.set(&variable.name, value);
        }
    }
    for (name, value) in service_env {
        if variables.get(&name).is_none() {
            variables.set(&name, value);
        }
    }
    match variables.list.iter().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
        Some((name, _)) => Err(EnvError::Nul { variable: name.clone() }),
        None => Ok(variables.list),
    }
}

struct Resolver<'a> {
    container: &'a Container,
    pod: &'a Pod,
    namespace: &'a str,
    sources: &'a EnvSources<'a>,
}

impl<'a> Resolver<'a> {
    fn object<T>(&self, kind: ObjectKind, found: Option<&Option<&'a T>>, name: &str, optional: bool) -> Result<Option<&'a T>, EnvError> {
        match found {
            Some(Some(object)) => Ok(Some(object)),
            Some(None) if optional => Ok(None),
            Some(None) => Err(EnvError::NotFound { kind, name: name.to_owned() }),
            None => Err(EnvError::NotRead { kind, namespace: self.namespace.to_owned(), name: name.to_owned() }),
        }
    }

    fn config_map(&self, name: &str, optional: bool) -> Result<Option<&'a ConfigMap>, EnvError> {
        self.object(ObjectKind::ConfigMap, self.sources.config_maps.get(name), name, optional)
    }

    fn secret(&self, name: &str, optional: bool) -> Result<Option<&'a Secret>, EnvError> {
        self.object(ObjectKind::Secret, self.sources.secrets.get(name), name, optional)
    }

    fn secret_text(&self, name: &str, key: &str, value: &[u8]) -> Result<String, EnvError> {
        // The error must not carry the bytes: they are secret.
        String::from_utf8(value.to_vec()).map_err(|_| EnvError::NotText {
            namespace: self.namespace.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        })
    }

    fn no_key(&self, kind: ObjectKind, name: &str, key: &str) -> EnvError {
        let (namespace, name, key) = (self.namespace.to_owned(), name.to_owned(), key.to_owned());
        EnvError::NoKey { kind, namespace, name, key }
    }

    /// The value of a source; `None` leaves the variable unset.
    fn value(&self, source: &EnvVarSource) -> Result<Option<String>, EnvError> {
        // Exhaustive, so that a source that a newer API adds does not go unnoticed.
        let EnvVarSource { config_map_key_ref, field_ref, file_key_ref, resource_field_ref, secret_key_ref } = source;
        let node = self.sources.node;
        if let Some(field) = field_ref {
            let (pod_ips, host_ips) = (self.sources.pod_ips, self.sources.host_ips);
            let version = field.api_version.as_deref().unwrap_or("v1");
            if version != "v1" {
                return Err(FieldValueError::Version { version: version.to_owned() }.into());
            }
            return Ok(Some(field_value(self.pod, &field.field_path, pod_ips, host_ips, node)?));
        }
        if let Some(field) = resource_field_ref {
            let value = resource_field_value(self.pod, field, Some(self.container), node)?;
            return Ok(Some(value));
        }
        if let Some(reference) = config_map_key_ref {
            return self.config_map_key(reference);
        }
        if let Some(reference) = secret_key_ref {
            return self.secret_key(reference);
        }
        if let Some(reference) = file_key_ref {
            return self.file_key(reference);
        }
        Ok(Some(String::new()))
    }

    fn config_map_key(&self, r: &ConfigMapKeySelector) -> Result<Option<String>, EnvError> {
        let optional = r.optional.unwrap_or(false);
        let Some(config_map) = self.config_map(&r.name, optional)? else { return Ok(None) };
        match config_map.data.as_ref().and_then(|data| data.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(self.no_key(ObjectKind::ConfigMap, &r.name, &r.key)),
        }
    }

    fn secret_key(&self, r: &SecretKeySelector) -> Result<Option<String>, EnvError> {
        let optional = r.optional.unwrap_or(false);
        let Some(secret) = self.secret(&r.name, optional)? else { return Ok(None) };
        match secret.data.as_ref().and_then(|data| data.get(&r.key)) {
            Some(value) => self.secret_text(&r.name, &r.key, &value.0).map(Some),
            None if optional => Ok(None),
            None => Err(self.no_key(ObjectKind::Secret, &r.name, &r.key)),
        }
    }

    fn file_key(&self, r: &FileKeySelector) -> Result<Option<String>, EnvError> {
        let optional = r.optional.unwrap_or(false);
        let file = self.sources.files.get(&(r.volume_name.clone(), r.path.clone()));
        let Some(content) = file.and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(EnvError::NoFile { volume: r.volume_name.clone(), path: r.path.clone() }) };
        };
        let value = env_file_value(content, &r.key)?;
        match value {
            value if !value.is_empty() => Ok(Some(value)),
            _ if optional => Ok(None),
            _ => Err(EnvError::NoFileKey { key: r.key.clone(), path: r.path.clone() }),
        }
    }
}

/// Command and arguments with the container's variables put in; what is not given stays absent, so that the image decides.
pub fn expand_command(container: &Container, env: &[(String, String)]) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let variables: HashMap<&str, &str> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    let expanded = |words: &Option<Vec<String>>| {
        let words = words.as_ref().filter(|words| !words.is_empty())?;
        Some(words.iter().map(|word| expand(word, &lookup)).collect())
    };
    (expanded(&container.command), expanded(&container.args))
}

#[cfg(test)]
mod tests;
