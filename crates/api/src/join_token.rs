//! The one line that a machine joins with: where the cluster is, how it is recognised, and a bootstrap token.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const PREFIX: &str = "kube-pet1.";

/// The group of the tokens that the controller makes; `deploy/` allows it to join.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers:kube-pet";

/// A join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The API server's URL, as pets reach it.
    #[serde(rename = "s")]
    pub server: String,
    /// How the cluster is recognised.
    #[serde(flatten)]
    pub trust: Trust,
    /// The bootstrap token, `id.secret`.
    #[serde(rename = "t")]
    pub token: String,
}

/// How the cluster is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// By its CA certificates, PEM.
    #[serde(rename = "c")]
    Ca(String),
    /// By the SHA-256 of the CA's public key, as kubeadm writes it: `sha256:<hex>`. The CA itself comes from the ConfigMap
    /// `cluster-info` in `kube-public`.
    #[serde(rename = "h")]
    CaHash(String),
}

/// Not a join token.
#[derive(Debug, Error)]
pub enum JoinTokenError {
    /// It begins otherwise.
    #[error("this is no join token: one begins with {PREFIX} (make one with `kube-pet controller token create`)")]
    Prefix,
    /// A part of it is missing.
    #[error("the join token is damaged; copy the whole line")]
    Damaged,
    /// The bootstrap token in it.
    #[error("the join token holds no bootstrap token of the form abcdef.0123456789abcdef")]
    Token,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, trust, token: _ } = self;
        f.debug_struct("JoinToken").field("server", server).field("trust", trust).finish_non_exhaustive()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(JoinTokenError::Prefix)?;
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| JoinTokenError::Damaged)?;
        let token: Self = serde_json::from_slice(&json).map_err(|_| JoinTokenError::Damaged)?;
        if is_bootstrap_token(&token.token) { Ok(token) } else { Err(JoinTokenError::Token) }
    }
}

/// Whether it has the form of a bootstrap token.
pub fn is_bootstrap_token(text: &str) -> bool {
    let of = |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.split_once('.').is_some_and(|(id, secret)| of(id, 6) && of(secret, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_way() {
        for trust in [Trust::Ca("-----BEGIN CERTIFICATE-----\n".into()), Trust::CaHash("sha256:00".into())] {
            let token = JoinToken { server: "https://api.example:6443".into(), trust, token: "abcdef.0123456789abcdef".into() };
            let text = token.to_string();
            assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token);
            assert!(!format!("{token:?}").contains("0123456789abcdef"), "no secret in a log");
            assert!(matches!(text[..text.len() - 3].parse::<JoinToken>(), Err(JoinTokenError::Damaged)));
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        assert!(matches!("abcdef.0123456789abcdef".parse::<JoinToken>(), Err(JoinTokenError::Prefix)));
        let other = JoinToken { server: String::new(), trust: Trust::CaHash(String::new()), token: "ABCDEF.0123456789abcdef".into() };
        assert!(matches!(other.to_string().parse::<JoinToken>(), Err(JoinTokenError::Token)));
    }
}
