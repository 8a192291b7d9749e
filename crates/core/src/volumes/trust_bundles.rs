//! The file of a `clusterTrustBundle` source: the certificates of one ClusterTrustBundle, or of all that a signer's selection finds
//! (`pkg/kubelet/clustertrustbundle`).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::payload::PayloadError;

/// Which ClusterTrustBundles a source wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustBundles {
    /// The one of this name.
    Named(String),
    /// Those of a signer.
    OfSigner {
        /// The signer.
        signer: String,
        /// A label selector, as the API takes it in a query; the empty one selects all.
        labels: String,
    },
    /// None: a signer without a selector, or nothing at all.
    Nothing,
}

/// Which ClusterTrustBundles `source` wants.
pub fn wanted_trust_bundles(source: &ClusterTrustBundleProjection) -> TrustBundles {
    match (&source.name, &source.signer_name, &source.label_selector) {
        (Some(name), _, _) => TrustBundles::Named(name.clone()),
        (None, Some(signer), Some(selector)) => TrustBundles::OfSigner { signer: signer.clone(), labels: label_query(selector) },
        (None, _, _) => TrustBundles::Nothing,
    }
}

/// A label selector as the API takes it in a query.
fn label_query(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(name, value)| format!("{name}={value}"));
    let tests = selector.match_expressions.iter().flatten().map(|test| {
        let values = test.values.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(",");
        match test.operator.as_str() {
            "In" => format!("{} in ({values})", test.key),
            "NotIn" => format!("{} notin ({values})", test.key),
            "Exists" => test.key.clone(),
            "DoesNotExist" => format!("!{}", test.key),
            // The API server refuses it, and says why.
            other => format!("{} {other} ({values})", test.key),
        }
    });
    equal.chain(tests).collect::<Vec<_>>().join(",")
}

/// The content of a source's file; `found` are the bundles' texts, `None` if the one of that name does not exist.
///
/// Certificates that are there twice are written once, in the order of `rank`, so that nobody comes to rely on one.
///
/// # Errors
/// There are none, and the source is not optional.
pub(super) fn trust_anchors(
    source: &ClusterTrustBundleProjection,
    found: Option<&[&str]>,
    rank: &dyn Fn(&[u8]) -> u64,
) -> Result<Vec<u8>, PayloadError> {
    let optional = source.optional == Some(true);
    let found = match (&source.name, &source.signer_name) {
        (Some(name), _) if found.is_none() && !optional => return Err(PayloadError::NoSuchTrustBundle { name: name.clone() }),
        (None, Some(_)) if found.unwrap_or_default().is_empty() && !optional => return Err(PayloadError::NoTrustBundles),
        (None, None) => return Err(PayloadError::NoChoiceOfTrustBundles),
        _ => found.unwrap_or_default(),
    };
    let anchors: BTreeSet<Vec<u8>> = found.iter().flat_map(|text| certificates(text)).collect();
    let mut anchors: Vec<_> = anchors.into_iter().collect();
    anchors.sort_by_key(|anchor| rank(anchor));
    Ok(anchors.iter().flat_map(|anchor| pem(anchor).into_bytes()).collect())
}

/// A chain of certificates without what is between them.
pub(super) fn clean_pem(chain: &str) -> String {
    certificates(chain).iter().map(|certificate| pem(certificate)).collect()
}

/// The blocks of a PEM text, decoded. What is none is passed over.
fn certificates(text: &str) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----BEGIN ") {
            block = Some(String::new());
        } else if line.starts_with("-----END ") {
            blocks.extend(block.take().and_then(|encoded| STANDARD.decode(encoded).ok()).filter(|bytes| !bytes.is_empty()));
        } else if let Some(encoded) = &mut block {
            encoded.push_str(line);
        }
    }
    blocks
}

/// One certificate, in lines of 64 characters.
fn pem(bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
