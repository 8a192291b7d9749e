//! Why an object could not be had.

use std::sync::Arc;

use super::DEADLINE;

/// Why an object or a token could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The agent runs without a cluster.
    #[error("cannot get {kind} \"{name}\": there is no API server")]
    NoApiServer {
        /// What was asked for.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The API server does not let this node have the object. Right after a pod was bound this is normal and passes.
    #[error("{message}")]
    Forbidden {
        /// The API server's text.
        message: String,
    },
    /// The account of a token does not exist.
    #[error("{message}")]
    NotFound {
        /// The API server's text.
        message: String,
    },
    /// The API server answered with another error.
    #[error("getting {kind} {}: {message} (status {code})", object(namespace, name))]
    Refused {
        /// What was asked for.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The HTTP status.
        code: u16,
        /// The API server's text.
        message: String,
    },
    /// The API server sent something that is no such object. Nothing of it is repeated here: it may be a secret.
    #[error("getting {kind} {}: the API server's answer cannot be read", object(namespace, name))]
    Malformed {
        /// What was asked for.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// No answer.
    #[error("getting {kind} {}: {source}", object(namespace, name))]
    Unreachable {
        /// What was asked for.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the connection says.
        #[source]
        source: Arc<kube::Error>,
    },
    /// No answer in time.
    #[error("getting {kind} {}: no answer within {} s", object(namespace, name), DEADLINE.as_secs())]
    TimedOut {
        /// What was asked for.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A pod's certificate is requested, and its signer has not issued it yet.
    #[error("credential bundle is not issued yet")]
    NotIssued,
    /// The signer will not issue a pod's certificate.
    #[error("PodCertificateRequest was permanently {verdict}: reason={reason:?} message={message:?}")]
    CertificateRefused {
        /// `denied` or `failed`.
        verdict: &'static str,
        /// The signer's reason.
        reason: String,
        /// The signer's text.
        message: String,
    },
    /// The key of a pod's certificate cannot be made.
    #[error("while generating keypair: {reason}")]
    Key {
        /// Why.
        reason: String,
    },
    /// A token could not be had.
    #[error("failed to fetch token: {0}")]
    Token(#[source] Box<FetchError>),
}

/// Objects of the whole cluster have no namespace.
fn object(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

impl FetchError {
    /// Whether the API server speaks from before the pod's binding: the node authorizer of an object, the NodeRestriction plugin of
    /// a token.
    pub(super) fn is_behind(&self) -> bool {
        let texts = ["no relationship found", "node requested token bound to a pod scheduled on a different node"];
        matches!(self, Self::Forbidden { message } if texts.iter().any(|text| message.contains(text)))
    }

    /// Whether the same call may succeed later without anybody changing this node.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoApiServer { .. } | Self::CertificateRefused { .. } | Self::Key { .. } => false,
            Self::Token(inner) => inner.is_retryable(),
            _ => true,
        }
    }

    /// Whether the error says nothing about the object itself: an old copy of it is then better than none.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::NoApiServer { .. } | Self::NotFound { .. } | Self::CertificateRefused { .. } | Self::Key { .. } => false,
            Self::Token(inner) => inner.is_outage(),
            _ => true,
        }
    }
}
