//! The files of projected volumes: several sources in one folder.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ProjectedVolumeSource, VolumeProjection};

use super::downward::{ResourceValue, downward_api_payload};
use super::payload::{FileProjection, Payload, PayloadError, config_map_payload, mode_bits, secret_payload};
use super::references::{fs_group, fs_user};
use super::trust_bundles::{clean_pem, trust_anchors};

/// Looks up a ConfigMap by its name.
type ConfigMapLookup<'a> = dyn Fn(&str) -> Option<&'a ConfigMap> + 'a;
/// Looks up a Secret's data by its name.
type SecretLookup<'a> = dyn Fn(&str) -> Option<&'a BTreeMap<String, ByteString>> + 'a;
/// Looks up the token of the source with this index.
type TokenLookup<'a> = dyn Fn(usize) -> Option<&'a str> + 'a;
/// Looks up the key and the chain, as PEM, of the certificate of the source with this index.
type CertificateLookup<'a> = dyn Fn(usize) -> Option<(&'a str, &'a str)> + 'a;
/// Looks up the texts of the ClusterTrustBundles of the source with this index.
type TrustBundleLookup<'a> = dyn Fn(usize) -> Option<Vec<&'a str>> + 'a;

/// What was fetched for a projected volume; `None` is what does not exist.
pub struct Sources<'a> {
    /// ConfigMaps by name.
    pub config_map: &'a ConfigMapLookup<'a>,
    /// Secrets' data by name.
    pub secret: &'a SecretLookup<'a>,
    /// Tokens by the index of their source.
    pub token: &'a TokenLookup<'a>,
    /// Certificates by the index of their source.
    pub certificate: &'a CertificateLookup<'a>,
    /// ClusterTrustBundles by the index of their source.
    pub trust_bundles: &'a TrustBundleLookup<'a>,
    /// The order of certificates: any, and the same for the same ones.
    pub rank: &'a dyn Fn(&[u8]) -> u64,
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
        return Ok(Payload::from([(token.path.clone(), own_file(pod, default_mode, text.as_bytes().to_vec()))]));
    }
    if let Some(bundle) = cluster_trust_bundle {
        let anchors = trust_anchors(bundle, (sources.trust_bundles)(index).as_deref(), sources.rank)?;
        return Ok(Payload::from([(bundle.path.clone(), own_file(pod, default_mode, anchors))]));
    }
    if let Some(certificate) = pod_certificate {
        let (key, chain) = (sources.certificate)(index).ok_or(PayloadError::NoCertificate)?;
        let chain = clean_pem(chain);
        let files = [
            (&certificate.credential_bundle_path, format!("{key}{chain}")),
            (&certificate.key_path, key.to_owned()),
            (&certificate.certificate_chain_path, chain),
        ];
        let wanted = files.into_iter().filter_map(|(path, text)| Some((path.clone().filter(|path| !path.is_empty())?, text)));
        return Ok(wanted.map(|(path, text)| (path, own_file(pod, default_mode, text.into_bytes()))).collect());
    }
    Ok(Payload::new())
}

/// A token, a key, or a list of certificates is readable for its one user alone where that user is known, and for the fsGroup where there is one:
/// the change of ownership then makes 0640 of 0600. Otherwise nobody knows who will read it, and the volume's mode holds.
fn own_file(pod: &Pod, default_mode: Option<i32>, data: Vec<u8>) -> FileProjection {
    let user = fs_user(pod);
    let mode = if user.is_some() || fs_group(pod).is_some() { 0o600 } else { mode_bits(None, default_mode) };
    FileProjection { data, mode, user }
}
