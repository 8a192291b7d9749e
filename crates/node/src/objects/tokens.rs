//! Service-account tokens, each bound to one pod.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use kube_pet_core::ids::PodUid;
use kube_pet_core::volumes::token_needs_refresh;
use tracing::warn;

use super::{DEADLINE, FetchError, Subject, after_binding};
use crate::api::ApiHandle;

/// What a token should be good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenSpec {
    /// Who accepts it; none is the API server itself.
    pub audiences: Vec<String>,
    /// How long it should be valid, in seconds; none leaves it to the API server.
    pub expiration_seconds: Option<i64>,
    /// The pod that it is bound to: it ends with the pod.
    pub pod_name: String,
    /// That pod's UID.
    pub pod_uid: PodUid,
}

/// A token. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct BoundToken {
    token: String,
    /// When it ends.
    pub expires: Timestamp,
    /// The granted life, in seconds.
    pub lifetime_seconds: Option<i64>,
}

impl BoundToken {
    /// The token itself.
    pub fn as_str(&self) -> &str {
        &self.token
    }
}

impl fmt::Debug for BoundToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundToken").field("expires", &self.expires).finish_non_exhaustive()
    }
}

type Key = (String, String, TokenSpec);

#[derive(Default)]
pub(super) struct TokenStore {
    tokens: Mutex<HashMap<Key, BoundToken>>,
}

impl TokenStore {
    /// The known token, or the one that `request` gets.
    pub(super) async fn get<F, Fut>(&self, namespace: &str, account: &str, spec: &TokenSpec, request: F) -> Result<BoundToken, FetchError>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<BoundToken, FetchError>>,
    {
        let key = (namespace.to_owned(), account.to_owned(), spec.clone());
        let known = self.lock().get(&key).cloned();
        if let Some(token) = &known
            && !token_needs_refresh(Timestamp::now(), token.expires, token.lifetime_seconds)
        {
            return Ok(token.clone());
        }
        match request().await {
            Ok(token) => {
                self.lock().insert(key, token.clone());
                Ok(token)
            }
            Err(error) => match known.filter(|token| Timestamp::now() < token.expires) {
                Some(token) => {
                    warn!(namespace, account, pod = spec.pod_name, %error, "cannot renew a token yet; the old one is still valid");
                    Ok(token)
                }
                None => Err(error),
            },
        }
    }

    pub(super) fn forget(&self, pod: &PodUid) {
        self.lock().retain(|(_, _, spec), _| spec.pod_uid != *pod);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, BoundToken>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the API server for a token.
pub(super) async fn request(api: Option<&ApiHandle>, namespace: &str, account: &str, spec: &TokenSpec) -> Result<BoundToken, FetchError> {
    let subject = Subject { kind: "serviceaccount token", namespace, name: account };
    let Some(api) = api else {
        return Err(FetchError::NoApiServer { kind: subject.kind, name: account.to_owned() });
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(api.client(), namespace);
    let body = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(spec.audiences.clone()),
            attestations: None,
            expiration_seconds: spec.expiration_seconds,
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(spec.pod_name.clone()),
                uid: Some(spec.pod_uid.to_string()),
            }),
        }),
        ..TokenRequest::default()
    };
    let parameters = PostParams::default();
    let granted = after_binding(|| async {
        let answer = tokio::time::timeout(DEADLINE, accounts.create_token_request(account, &parameters, &body)).await;
        answer.map_err(|_| subject.timed_out())?.map_err(|error| subject.error(error))
    })
    .await?;
    let malformed = || FetchError::Malformed { kind: subject.kind, namespace: namespace.to_owned(), name: account.to_owned() };
    let status = granted.status.ok_or_else(malformed)?;
    let token = status.token.filter(|token| !token.is_empty()).ok_or_else(malformed)?;
    let expires = status.expiration_timestamp.ok_or_else(malformed)?.0;
    Ok(BoundToken { token, expires, lifetime_seconds: granted.spec.and_then(|spec| spec.expiration_seconds) })
}
