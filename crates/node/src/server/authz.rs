//! Whether they may: a SubjectAccessReview for a subresource of this node.

use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use thiserror::Error;

use super::authn::{User, WEBHOOK_TIMEOUT};
use super::verdicts::{Verdicts, key};
use crate::api::ApiHandle;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// The API server, by SubjectAccessReview.
    Webhook {
        /// How long a permission is remembered.
        allowed_life: Duration,
        /// How long a refusal is remembered.
        denied_life: Duration,
    },
    /// Every authenticated user may do everything. Only where there is no API server.
    AlwaysAllow,
}

impl Default for Authorization {
    /// The kubelet's defaults.
    fn default() -> Self {
        Self::Webhook { allowed_life: Duration::from_secs(5 * 60), denied_life: Duration::from_secs(30) }
    }
}

/// The API server could not be asked; answered with 500.
#[derive(Debug, Error)]
pub(super) enum AuthorizationError {
    #[error("asking for access")]
    Review(#[source] Box<kube::Error>),
    #[error("asking for access: no answer within {} s", WEBHOOK_TIMEOUT.as_secs())]
    Timeout,
    #[error("asking for access: there is no API server")]
    NoApiServer,
    #[error("encoding the question for access")]
    Encode(#[source] serde_json::Error),
}

/// Asks, and remembers the answers.
pub(super) struct Authorizer {
    mode: Authorization,
    node_name: String,
    api: Option<ApiHandle>,
    verdicts: Verdicts<bool>,
}

impl Authorizer {
    pub(super) fn new(mode: Authorization, node_name: String, api: Option<ApiHandle>) -> Self {
        Self { mode, node_name, api, verdicts: Verdicts::new(4096) }
    }

    /// Whether `user` may do `verb` on `nodes/<subresource>` of this node.
    pub(super) async fn allows(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, AuthorizationError> {
        let Authorization::Webhook { allowed_life, denied_life } = self.mode else {
            return Ok(true);
        };
        let spec = self.question(user, verb, subresource);
        // The question as it would be sent: nothing that matters to the answer can be missing from the key.
        let encoded = serde_json::to_vec(&spec).map_err(AuthorizationError::Encode)?;
        let key = key([encoded.as_slice()]);
        if let Some(known) = self.verdicts.get(&key, Instant::now()) {
            return Ok(known);
        }
        let allowed = self.ask(spec).await?;
        let life = if allowed { allowed_life } else { denied_life };
        self.verdicts.put(key, allowed, Instant::now(), life);
        Ok(allowed)
    }

    fn question(&self, user: &User, verb: &str, subresource: &str) -> SubjectAccessReviewSpec {
        SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: user.uid.clone(),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()).filter(|e| !e.is_empty()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                version: Some("v1".into()),
                resource: Some("nodes".into()),
                subresource: Some(subresource.to_owned()),
                name: Some(self.node_name.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    async fn ask(&self, spec: SubjectAccessReviewSpec) -> Result<bool, AuthorizationError> {
        let Some(api) = &self.api else {
            return Err(AuthorizationError::NoApiServer);
        };
        let reviews: Api<SubjectAccessReview> = Api::all(api.client());
        let review = SubjectAccessReview { spec, ..Default::default() };
        let parameters = PostParams::default();
        let call = reviews.create(&parameters, &review);
        let answer = tokio::time::timeout(WEBHOOK_TIMEOUT, call)
            .await
            .map_err(|_| AuthorizationError::Timeout)?
            .map_err(|e| AuthorizationError::Review(Box::new(e)))?;
        Ok(answer.status.is_some_and(|s| s.allowed && s.denied != Some(true)))
    }
}
