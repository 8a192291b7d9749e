//! Who is asking: a client certificate of the cluster's CA, or a token that the API server knows.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::{Api, PostParams};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client_ca::ClientCas;
use super::verdicts::{Verdicts, key};
use crate::api::ApiHandle;

/// An answer of the API server that takes longer is no answer.
pub(super) const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// An authenticated (or anonymous) user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

/// Why a request is answered with 401. Only for the log: the client learns nothing.
#[derive(Debug, Error)]
pub(super) enum Unauthenticated {
    #[error("no credentials")]
    NoCredentials,
    #[error("client certificate")]
    Certificate(#[source] rustls::Error),
    #[error("the client certificate's subject cannot be read or has no common name")]
    Subject,
    #[error("the token is not valid")]
    Token,
    #[error("reviewing a token")]
    Review(#[source] Box<kube::Error>),
    #[error("reviewing a token: no answer within {} s", WEBHOOK_TIMEOUT.as_secs())]
    ReviewTimeout,
    #[error("reviewing a token: there is no API server")]
    NoApiServer,
}

/// Turns credentials into users.
pub(super) struct Authenticator {
    cas: ClientCas,
    api: Option<ApiHandle>,
    anonymous: bool,
    token_life: Option<Duration>,
    tokens: Verdicts<Option<User>>,
}

impl Authenticator {
    pub(super) fn new(cas: ClientCas, api: Option<ApiHandle>, anonymous: bool, token_life: Option<Duration>) -> Self {
        Self { cas, api, anonymous, token_life, tokens: Verdicts::new(4096) }
    }

    /// The CAs that client certificates are checked against.
    pub(super) fn cas(&self) -> &ClientCas {
        &self.cas
    }

    /// Certificate first, then token; a bad certificate does not spoil a good token. Anonymous only without any
    /// credentials that failed.
    pub(super) async fn authenticate(
        &self,
        certificates: &[CertificateDer<'static>],
        headers: &HeaderMap,
    ) -> Result<User, Unauthenticated> {
        let mut failure = None;
        if !certificates.is_empty() {
            match self.by_certificate(certificates) {
                Ok(user) => return Ok(authenticated(user)),
                Err(error) => failure = Some(error),
            }
        }
        if let Some(life) = self.token_life
            && let Some(token) = bearer_token(headers)
        {
            match self.by_token(token, life).await {
                Ok(user) => return Ok(authenticated(user)),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error),
            None if self.anonymous => {
                Ok(User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..User::default() })
            }
            None => Err(Unauthenticated::NoCredentials),
        }
    }

    fn by_certificate(&self, certificates: &[CertificateDer<'static>]) -> Result<User, Unauthenticated> {
        self.cas.verify(certificates).map_err(Unauthenticated::Certificate)?;
        let (_, leaf) = certificates.first().and_then(|der| X509Certificate::from_der(der).ok()).ok_or(Unauthenticated::Subject)?;
        let subject = leaf.subject();
        // The last common name is the one that Go takes.
        let name = subject
            .iter_common_name()
            .last()
            .and_then(|cn| cn.as_str().ok())
            .filter(|cn| !cn.is_empty())
            .ok_or(Unauthenticated::Subject)?;
        let groups = subject
            .iter_organization()
            .map(|o| o.as_str().map(str::to_owned))
            .collect::<Result<_, _>>()
            .map_err(|_| Unauthenticated::Subject)?;
        let mut id = String::from("X509SHA256=");
        for byte in Sha256::digest(&certificates[0]) {
            let _ = write!(id, "{byte:02x}");
        }
        Ok(User {
            name: name.to_owned(),
            uid: None,
            groups,
            extra: [("authentication.kubernetes.io/credential-id".into(), vec![id])].into(),
        })
    }

    async fn by_token(&self, token: &str, life: Duration) -> Result<User, Unauthenticated> {
        let key = key([token.as_bytes()]);
        let known = match self.tokens.get(&key, Instant::now()) {
            Some(known) => known,
            None => {
                let user = self.review(token).await?;
                self.tokens.put(key, user.clone(), Instant::now(), life);
                user
            }
        };
        known.ok_or(Unauthenticated::Token)
    }

    async fn review(&self, token: &str) -> Result<Option<User>, Unauthenticated> {
        let Some(api) = &self.api else {
            return Err(Unauthenticated::NoApiServer);
        };
        let reviews: Api<TokenReview> = Api::all(api.client());
        let review = TokenReview { spec: TokenReviewSpec { token: token.to_owned(), ..Default::default() }, ..Default::default() };
        let parameters = PostParams::default();
        let call = reviews.create(&parameters, &review);
        let status = tokio::time::timeout(WEBHOOK_TIMEOUT, call)
            .await
            .map_err(|_| Unauthenticated::ReviewTimeout)?
            .map_err(|e| Unauthenticated::Review(Box::new(e)))?
            .status
            .unwrap_or_default();
        Ok(status.user.filter(|_| status.authenticated == Some(true)).map(User::from))
    }
}

impl From<UserInfo> for User {
    fn from(info: UserInfo) -> Self {
        Self {
            name: info.username.unwrap_or_default(),
            uid: info.uid.filter(|uid| !uid.is_empty()),
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
        }
    }
}

fn authenticated(mut user: User) -> User {
    const GROUP: &str = "system:authenticated";
    if !user.groups.iter().any(|g| g == GROUP) {
        user.groups.push(GROUP.into());
    }
    user
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let mut parts = value.splitn(3, ' ');
    let scheme = parts.next()?;
    let token = parts.next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
