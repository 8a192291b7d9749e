//! Registry credentials out of a pod's `imagePullSecrets`, matched to an image as the kubelet's keyring does it.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use k8s_openapi::api::core::v1::Secret;
use kube_pet_podman::RegistryAuth;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The Secret that credentials came from, and a hash of them: what is remembered of a pull.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// UID of the Secret.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// SHA-256 of the credentials, in hexadecimal.
    pub credential_hash: String,
}

/// Credentials for an image, and where they came from.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// For the registry.
    pub auth: RegistryAuth,
    /// Where they came from.
    pub source: SecretSource,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("secret", &format_args!("{}/{}", self.source.namespace, self.source.name))
            .finish_non_exhaustive()
    }
}

/// A pull secret that cannot be read. Never carries its contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pull secret {namespace}/{name} is not a valid docker configuration: {problem}")]
pub struct KeyringError {
    namespace: String,
    name: String,
    problem: &'static str,
}

/// All credentials of a pod's pull secrets.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    // By registry host with optional path.
    entries: BTreeMap<String, Vec<Credential>>,
}

#[derive(Deserialize)]
struct DockerConfigJson {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

impl Keyring {
    /// Reads the Secrets of type `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`; others are passed over.
    ///
    /// # Errors
    /// When one cannot be read: the kubelet does not start the container then, nor do we.
    pub fn from_secrets<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Result<Self, KeyringError> {
        let mut keyring = Self::default();
        for secret in secrets {
            let data = |key: &str| {
                let data = secret.data.as_ref()?.get(key)?;
                (!data.0.is_empty()).then_some(&data.0)
            };
            let meta = &secret.metadata;
            let problem = |problem| KeyringError {
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
                problem,
            };
            let auths = match secret.type_.as_deref() {
                Some("kubernetes.io/dockerconfigjson") => {
                    let Some(data) = data(".dockerconfigjson") else { continue };
                    // serde's own error may quote the contents.
                    let config: DockerConfigJson =
                        serde_json::from_slice(data).map_err(|_| problem("it is not the JSON of a config.json"))?;
                    config.auths.unwrap_or_default()
                }
                Some("kubernetes.io/dockercfg") => {
                    let Some(data) = data(".dockercfg") else { continue };
                    serde_json::from_slice(data).map_err(|_| problem("it is not the JSON of a .dockercfg"))?
                }
                _ => continue,
            };
            for (server, entry) in auths {
                let (username, password) = entry.credentials().map_err(problem)?;
                let Some(key) = registry_key(&server) else {
                    tracing::warn!(secret = meta.name.as_deref(), "a pull secret has an entry whose name is no registry; it is not used");
                    continue;
                };
                let source = SecretSource {
                    uid: meta.uid.clone().unwrap_or_default(),
                    namespace: meta.namespace.clone().unwrap_or_default(),
                    name: meta.name.clone().unwrap_or_default(),
                    credential_hash: hash(&username, &password),
                };
                let auth = RegistryAuth { server, username, password, ..RegistryAuth::default() };
                keyring.entries.entry(key).or_default().push(Credential { auth, source });
            }
        }
        Ok(keyring)
    }

    /// The credentials that fit a repository (registry and path, normalised), the more specific ones first.
    #[must_use]
    pub fn lookup(&self, repository: &str) -> Vec<Credential> {
        let found: Vec<_> = self
            .entries
            .iter()
            .rev()
            .filter(|(key, _)| matches(key, repository))
            .flat_map(|(_, credentials)| credentials.iter().cloned())
            .collect();
        if found.is_empty() && repository.starts_with("docker.io/") {
            return self.entries.get("index.docker.io").cloned().unwrap_or_default();
        }
        found
    }

    /// No credentials at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Entry {
    fn credentials(self) -> Result<(String, String), &'static str> {
        let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) else {
            return Ok((self.username.unwrap_or_default(), self.password.unwrap_or_default()));
        };
        let engine = if auth.trim_end().ends_with('=') { STANDARD } else { STANDARD_NO_PAD };
        let decoded = engine.decode(auth.as_bytes()).map_err(|_| "an auth field is not base64")?;
        let decoded = String::from_utf8(decoded).map_err(|_| "an auth field is not text")?;
        let (username, password) =
            decoded.split_once(':').ok_or("unable to parse auth field, must be formatted as base64(username:password)")?;
        Ok((username.to_owned(), password.to_owned()))
    }
}

/// Host and path of an entry's name; the paths `/v1/` and `/v2/` mean the whole host, as for Docker.
fn registry_key(server: &str) -> Option<String> {
    let rest = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if host.is_empty() || host.contains([' ', '\t', '@', '?', '#']) {
        return None;
    }
    let path = if path.starts_with("/v1/") || path.starts_with("/v2/") { &path[3..] } else { path };
    Some(if path == "/" { host.to_owned() } else { format!("{host}{path}") })
}

/// Host labels match with globs, the port exactly, the path as a prefix.
fn matches(key: &str, repository: &str) -> bool {
    let split = |text: &str| {
        let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (host, ""),
        };
        (host.to_owned(), port.to_owned(), path.to_owned())
    };
    let (key_host, key_port, key_path) = split(key);
    let (host, port, path) = split(repository);
    key_port == port
        && path.starts_with(&key_path)
        && key_host.split('.').count() == host.split('.').count()
        && key_host.split('.').zip(host.split('.')).all(|(glob, label)| glob_matches(glob.as_bytes(), label.as_bytes()))
}

/// `*` and `?` within one label of a host name.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    match (glob.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| glob_matches(rest, &text[skip..])),
        (Some((b'?', glob)), Some((_, text))) => glob_matches(glob, text),
        (Some((a, glob)), Some((b, text))) => a == b && glob_matches(glob, text),
        _ => false,
    }
}

fn hash(username: &str, password: &str) -> String {
    use std::fmt::Write as _;
    let mut hasher = Sha256::new();
    hasher.update(username.len().to_be_bytes());
    hasher.update(username);
    hasher.update(password);
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    pub(in crate::images) fn secret(name: &str, json: &str) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(format!("uid-{name}")),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/dockerconfigjson".into()),
            data: Some([(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))].into()),
            ..Secret::default()
        }
    }

    fn users(json: &str, repository: &str) -> Vec<String> {
        let keyring = Keyring::from_secrets([&secret("s", json)]).unwrap();
        keyring.lookup(repository).into_iter().map(|c| c.auth.username).collect()
    }

    #[test]
    fn credentials_are_matched_by_host_port_and_path() {
        let json = r#"{"auths":{
            "r.io":{"username":"host","password":"p"},
            "https://r.io/team":{"username":"team","password":"p"},
            "r.io:5000":{"username":"port","password":"p"},
            "http://*.glob.io/v2/":{"username":"glob","password":"p"},
            "https://index.docker.io/v1/":{"username":"hub","password":"p"}}}"#;
        for (repository, want) in [
            ("r.io/a", vec!["host"]),
            ("r.io/team/a", vec!["team", "host"]),
            ("r.io:5000/a", vec!["port"]),
            ("r.io:5001/a", vec![]),
            ("x.glob.io/a", vec!["glob"]),
            ("x.y.glob.io/a", vec![]),
            ("other.io/a", vec![]),
            ("docker.io/library/busybox", vec!["hub"]),
        ] {
            assert_eq!(users(json, repository), want, "{repository}");
        }
    }

    #[test]
    fn an_auth_field_wins_padded_or_not() {
        for auth in ["dTpwOnE=", "dTpwOnE"] {
            let json = format!(r#"{{"auths":{{"r.io":{{"username":"x","auth":"{auth}"}}}}}}"#);
            let keyring = Keyring::from_secrets([&secret("s", &json)]).unwrap();
            let found = keyring.lookup("r.io/a").remove(0);
            assert_eq!((found.auth.username.as_str(), found.auth.password.as_str()), ("u", "p:q"));
            assert_eq!(found.source.name, "s");
        }
    }

    #[test]
    fn broken_secrets_are_refused_without_showing_them() {
        for json in [
            r#"{"auths":{"r.io":{"auth":"hunter2"}}}"#,
            r#"{"auths":{"r.io":{"auth":"aHVudGVyMg=="}}}"#,
            r#"{"auths":"hunter2"}"#,
            "hunter2",
        ] {
            let error = Keyring::from_secrets([&secret("s", json)]).unwrap_err().to_string();
            assert!(error.starts_with("pull secret ns/s "), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let json = r#"{"auths":{"r.io":{"username":"u","password":"hunter2"}}}"#;
        let keyring = Keyring::from_secrets([&secret("s", json)]).unwrap();
        assert!(!format!("{keyring:?}").contains("hunter2"));
    }

    #[test]
    fn the_old_format_is_read_and_other_secrets_are_passed_over() {
        let mut old = secret("s", "");
        old.type_ = Some("kubernetes.io/dockercfg".into());
        old.data = Some([(".dockercfg".to_owned(), ByteString(br#"{"r.io":{"auth":"dTpw"}}"#.to_vec()))].into());
        assert_eq!(Keyring::from_secrets([&old]).unwrap().lookup("r.io/a").len(), 1);
        let mut opaque = secret("s", "{}");
        opaque.type_ = Some("Opaque".into());
        assert!(Keyring::from_secrets([&opaque]).unwrap().is_empty());
    }

    #[test]
    fn the_hash_tells_credentials_apart() {
        assert_ne!(hash("ab", "c"), hash("a", "bc"));
        assert_eq!(hash("a", "b"), hash("a", "b"));
    }
}
