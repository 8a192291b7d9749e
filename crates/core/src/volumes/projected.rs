//! The files of projected volumes: several sources in one folder.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ProjectedVolumeSource, VolumeProjection};

use super::downward::{ResourceValue, downward_api_payload};
use super::payload::{FileProjection, Payload, PayloadError, config_map_payload, mode_bits, secret_payload};
use super::references::{fs_group, fs_user};

/// Looks up a ConfigMap by its name.
type ConfigMapLookup<'a> = dyn Fn(&str) -> Option<&'a ConfigMap> + 'a;
/// Looks up a Secret's data by its name.
type SecretLookup<'a> = dyn Fn(&str) -> Option<&'a BTreeMap<String, ByteString>> + 'a;
/// Looks up the token of the source with this index.
type TokenLookup<'a> = dyn Fn(usize) -> Option<&'a str> + 'a;

/// What was fetched for a projected volume; `None` is what does not exist.
pub struct Sources<'a> {
    /// ConfigMaps by name.
    pub config_map: &'a ConfigMapLookup<'a>,
    /// Secrets' data by name.
    pub secret: &'a SecretLookup<'a>,
    /// Tokens by the index of their source.
    pub token: &'a TokenLookup<'a>,
    /// Resource fields for the downward API.
    pub resource: &'a ResourceValue<'a>,
}

/// The files of a projected volume. A later source wins over an earlier one that has the same path.
///
/// # Errors
/// All sources that failed, in one error.
pub fn projected_payload(pod: &Pod, volume: &ProjectedVolumeSource, sources: &Sources<'_>) -> Result<Payload, PayloadError> {
    let mut payload = Payload::new();
    let mut errors = Vec::new();
    for (index, source) in volume.sources.iter().flatten().enumerate() {
        match source_payload(pod, volume.default_mode, index, source, sources) {
            Ok(files) => payload.extend(files),
            Err(error) => errors.push(error),
        }
    }
    PayloadError::aggregate(errors).map_or(Ok(payload), Err)
}

fn source_payload(
    pod: &Pod,
    default_mode: Option<i32>,
    index: usize,
    source: &VolumeProjection,
    sources: &Sources<'_>,
) -> Result<Payload, PayloadError> {
    // Exhaustive, so that a source that a newer API adds does not go unnoticed.
    let VolumeProjection { cluster_trust_bundle, config_map, downward_api, pod_certificate, secret, service_account_token } = source;
    if let Some(secret) = secret {
        let items = secret.items.as_deref().unwrap_or_default();
        return secret_payload(&secret.name, (sources.secret)(&secret.name), items, default_mode, secret.optional == Some(true));
    }
    if let Some(map) = config_map {
        let items = map.items.as_deref().unwrap_or_default();
        return config_map_payload(&map.name, (sources.config_map)(&map.name), items, default_mode, map.optional == Some(true));
    }
    if let Some(downward) = downward_api {
        return downward_api_payload(pod, downward.items.as_deref().unwrap_or_default(), default_mode, sources.resource);
    }
    if let Some(token) = service_account_token {
        let text = (sources.token)(index).ok_or_else(|| PayloadError::NoToken { path: token.path.clone() })?;
        return Ok(Payload::from([(token.path.clone(), token_file(pod, default_mode, text))]));
    }
    if cluster_trust_bundle.is_some() {
        return Err(PayloadError::UnsupportedSource { kind: "clusterTrustBundle" });
    }
    if pod_certificate.is_some() {
        return Err(PayloadError::UnsupportedSource { kind: "podCertificate" });
    }
    Ok(Payload::new())
}

/// A token is readable for its one user alone where that user is known, and for the fsGroup where there is one: the change
/// of ownership then makes 0640 of 0600. Otherwise nobody knows who will read it, and the volume's mode holds.
fn token_file(pod: &Pod, default_mode: Option<i32>, text: &str) -> FileProjection {
    let user = fs_user(pod);
    let mode = if user.is_some() || fs_group(pod).is_some() { 0o600 } else { mode_bits(None, default_mode) };
    FileProjection { data: text.as_bytes().to_vec(), mode, user }
}
