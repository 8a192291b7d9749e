//! Credentials for one registry.

use std::fmt;

use base64::Engine as _;
use serde::Serialize;

/// A registry's credentials. `Debug` and `Display` never show them.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct RegistryAuth {
    /// The key that the credentials were stored under: registry host, optionally with a path.
    #[serde(rename = "serveraddress", skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// User.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password or token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// OAuth2 refresh token, instead of user and password.
    #[serde(rename = "identitytoken", skip_serializing_if = "String::is_empty")]
    pub identity_token: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").field("server", &self.server).finish_non_exhaustive()
    }
}

impl RegistryAuth {
    /// The value of `X-Registry-Auth`.
    pub(crate) fn header(&self) -> Result<String, serde_json::Error> {
        Ok(base64::engine::general_purpose::URL_SAFE.encode(serde_json::to_vec(self)?))
    }
}
