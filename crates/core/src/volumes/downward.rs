//! The files of downwardAPI volumes: the pod's own metadata, and its containers' resources.

use std::collections::BTreeMap;
use std::error::Error;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Pod, ResourceFieldSelector};

use super::payload::{FileProjection, Payload, PayloadError, mode_bits};
use crate::quoting::go_quoted;

/// Computes a container's resource field, with the node's allocatable as the default of limits.
pub type ResourceValue<'a> = dyn Fn(&ResourceFieldSelector) -> Result<String, Box<dyn Error + Send + Sync>> + Send + Sync + 'a;

/// Why a field of the downward API has no value.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// The path is none that volumes know.
    #[error("unsupported fieldPath: {path}")]
    UnsupportedPath {
        /// The path.
        path: String,
    },
    /// Only labels and annotations are read by key.
    #[error("fieldPath \"{path}\" does not support subscript")]
    NoSubscript {
        /// The path before the subscript.
        path: String,
    },
    /// A resource field could not be computed.
    #[error(transparent)]
    Resource(Box<dyn Error + Send + Sync>),
}

/// The files of a downwardAPI volume or source.
///
/// # Errors
/// All items that have no value, in one error.
pub fn downward_api_payload(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    resource: &ResourceValue<'_>,
) -> Result<Payload, PayloadError> {
    let mut payload = Payload::new();
    let mut errors = Vec::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => metadata_field(pod, &field.field_path),
            (None, Some(selector)) => resource(selector).map_err(FieldError::Resource),
            (None, None) => Ok(String::new()),
        };
        match value {
            Ok(value) => {
                let mode = mode_bits(item.mode, default_mode);
                payload.insert(item.path.clone(), FileProjection { data: value.into_bytes(), mode, user: None });
            }
            Err(error) => errors.push(PayloadError::Field(error)),
        }
    }
    PayloadError::aggregate(errors).map_or(Ok(payload), Err)
}

/// A field of the pod's metadata as text. Volumes know fewer fields than environment variables do: only those that may change
/// while the pod runs, and its names.
///
/// # Errors
/// A path outside `metadata.{annotations,labels,name,namespace,uid}`.
pub fn metadata_field(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let of_key = |map: &Option<BTreeMap<String, String>>, key: &str| map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")).filter(|(map, _)| !map.is_empty()) {
        return match map {
            "metadata.annotations" => Ok(of_key(&meta.annotations, key)),
            "metadata.labels" => Ok(of_key(&meta.labels, key)),
            _ => Err(FieldError::NoSubscript { path: map.to_owned() }),
        };
    }
    match path {
        "metadata.annotations" => Ok(meta.annotations.as_ref().map(format_map).unwrap_or_default()),
        "metadata.labels" => Ok(meta.labels.as_ref().map(format_map).unwrap_or_default()),
        "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
        _ => Err(FieldError::UnsupportedPath { path: path.to_owned() }),
    }
}

/// `key="value"` lines, sorted, without a newline at the end; values are quoted as Go's `strconv.Quote` does.
pub fn format_map(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map.iter().map(|(key, value)| format!("{key}={}", go_quoted(value))).collect();
    lines.join("\n")
}
