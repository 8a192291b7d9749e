//! Join tokens: a bootstrap token of the cluster's, with what else a machine needs to know.

use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error as KubeError};
use kube_pet_api::join_token::{BOOTSTRAPPERS, JoinToken, Trust};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// What a token is to be.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// How long it can be used.
    pub ttl: Duration,
    /// The API server's URL, as pets reach it.
    pub server: String,
    /// The cluster's CA certificates, DER.
    pub ca: Vec<Vec<u8>>,
    /// Names the CA by its hash only: shorter, where the cluster has `cluster-info` in `kube-public`.
    pub hash: bool,
}

/// A token could not be made.
#[derive(Debug, Error)]
pub enum TokenError {
    /// Nothing to recognise the cluster by.
    #[error("the kubeconfig names no CA of the cluster, so that a joining machine could not recognise it")]
    NoCa,
    /// Not a certificate.
    #[error("the cluster's CA in the kubeconfig is no certificate that can be read")]
    Ca,
    /// The kernel.
    #[error("reading random bytes")]
    Random(#[source] std::io::Error),
    /// The ttl.
    #[error("a ttl of {0:?} is too long")]
    Ttl(Duration),
    /// The ttl's form.
    #[error("{0:?} is no duration: write one such as 30m or 24h")]
    TtlForm(String),
    /// The API server refused.
    #[error("creating the Secret kube-system/{name}")]
    Create {
        /// The Secret.
        name: String,
        /// The cause.
        #[source]
        source: Box<KubeError>,
    },
}

/// A ttl as it is written, such as `24h`.
pub fn ttl(text: &str) -> Result<Duration, TokenError> {
    let parsed: Result<kube::core::Duration, _> = text.parse();
    match parsed.map(Duration::from) {
        Ok(ttl) if !ttl.is_zero() => Ok(ttl),
        _ => Err(TokenError::TtlForm(text.to_owned())),
    }
}

/// Makes one.
pub async fn create(client: Client, options: &TokenOptions) -> Result<JoinToken, TokenError> {
    let TokenOptions { ttl, server, ca, hash, .. } = options;
    let trust = if *hash { Trust::CaHash(public_key_hash(ca.first().ok_or(TokenError::NoCa)?)?) } else { Trust::Ca(pem(ca)?) };
    let (id, secret) = (random_text(6)?, random_text(16)?);
    let end = SignedDuration::try_from(*ttl).ok().and_then(|ttl| Timestamp::now().checked_add(ttl).ok()).ok_or(TokenError::Ttl(*ttl))?;
    let name = format!("bootstrap-token-{id}");
    let data = [
        ("token-id", id.clone()),
        ("token-secret", secret.clone()),
        ("description", "a pet may join with this; made by kube-pet controller token create".to_owned()),
        ("expiration", end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        ("usage-bootstrap-authentication", "true".to_owned()),
        // With it the cluster signs `cluster-info`, for those who know the token and not the CA.
        ("usage-bootstrap-signing", "true".to_owned()),
        ("auth-extra-groups", BOOTSTRAPPERS.to_owned()),
    ];
    let object = Secret {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        type_: Some("bootstrap.kubernetes.io/token".to_owned()),
        data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect()),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(client, "kube-system");
    let created = api.create(&PostParams::default(), &object).await;
    created.map_err(|source| TokenError::Create { name, source: Box::new(source) })?;
    Ok(JoinToken { server: server.clone(), trust, token: format!("{id}.{secret}") })
}

fn pem(ca: &[Vec<u8>]) -> Result<String, TokenError> {
    use base64::Engine as _;
    if ca.is_empty() {
        return Err(TokenError::NoCa);
    }
    let one = |der: &Vec<u8>| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    Ok(ca.iter().map(one).collect())
}

/// As kubeadm's `--discovery-token-ca-cert-hash`.
pub fn public_key_hash(der: &[u8]) -> Result<String, TokenError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| TokenError::Ca)?;
    let hash: String = Sha256::digest(certificate.public_key().raw).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hash}"))
}

fn random_text(length: usize) -> Result<String, TokenError> {
    let mut source = File::open("/dev/urandom").map_err(TokenError::Random)?;
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut byte = [0_u8];
        source.read_exact(&mut byte).map_err(TokenError::Random)?;
        // The 4 values above the last multiple of 36 would make some letters more likely than others.
        if byte[0] < 252 {
            text.push(char::from(ALPHABET[usize::from(byte[0] % 36)]));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use kube_pet_api::join_token::is_bootstrap_token;

    use super::*;

    #[test]
    fn secrets_have_the_form_that_the_api_server_accepts() {
        let token = || format!("{}.{}", random_text(6).unwrap(), random_text(16).unwrap());
        assert!(is_bootstrap_token(&token()));
        assert_ne!(token(), token());
    }

    #[test]
    fn the_hash_is_of_the_public_key() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = |name: &str| rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec();
        let (one, two) = (certificate("a"), certificate("b"));
        assert_ne!(one, two);
        assert_eq!(public_key_hash(&one).unwrap(), public_key_hash(&two).unwrap());
        assert_eq!(public_key_hash(&one).unwrap().len(), 7 + 64);
        assert!(public_key_hash(b"none").is_err());
    }
}
