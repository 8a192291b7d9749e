use std::sync::Arc;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;
use fake::FakeServer;

pub(crate) mod fake;

fn config_map(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "ns"}, "data": {"k": value}})
}

fn value(map: Option<Arc<ConfigMap>>) -> Option<String> {
    map.and_then(|m| m.data.as_ref()?.get("k").cloned())
}

const MAP: &str = "/api/v1/namespaces/ns/configmaps/m";
const SECRET: &str = "/api/v1/namespaces/ns/secrets/s";

#[tokio::test(start_paused = true)]
async fn component_an_object_is_shared_for_a_moment_only() {
    let server = FakeServer::default();
    let objects = server.fetcher();
    server.set(MAP, config_map("1"));
    assert_eq!(value(objects.config_map("ns", "m").await.unwrap()).as_deref(), Some("1"));
    server.set(MAP, config_map("2"));
    assert_eq!(value(objects.config_map("ns", "m").await.unwrap()).as_deref(), Some("1"));
    assert_eq!(value(objects.fresh().config_map("ns", "m").await.unwrap()).as_deref(), Some("2"));
    server.set(MAP, config_map("3"));
    tokio::time::advance(SHARED_FOR).await;
    assert_eq!(value(objects.config_map("ns", "m").await.unwrap()).as_deref(), Some("3"));
    assert_eq!(server.requests(), [format!("GET {MAP}"), format!("GET {MAP}"), format!("GET {MAP}")]);
}

#[tokio::test]
async fn component_concurrent_readers_share_one_request() {
    let server = FakeServer::default();
    let objects = server.fetcher();
    server.set(MAP, config_map("1"));
    let reads = (0..20).map(|_| objects.config_map("ns", "m"));
    for read in futures::future::join_all(reads).await {
        assert_eq!(value(read.unwrap()).as_deref(), Some("1"));
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn component_a_missing_object_is_asked_for_again() {
    let server = FakeServer::default();
    let objects = server.fetcher();
    assert!(objects.config_map("ns", "m").await.unwrap().is_none());
    server.set(MAP, config_map("1"));
    assert_eq!(value(objects.config_map("ns", "m").await.unwrap()).as_deref(), Some("1"));
    server.remove(MAP);
    assert!(objects.fresh().config_map("ns", "m").await.unwrap().is_none());
    // An object that was deleted is not brought back by an outage.
    server.fail(MAP, StatusCode::INTERNAL_SERVER_ERROR, "down");
    assert!(objects.config_map("ns", "m").await.is_err());
}

#[tokio::test]
async fn component_an_outage_leaves_the_last_copy() {
    let server = FakeServer::default();
    let objects = server.fetcher();
    server.fail(MAP, StatusCode::INTERNAL_SERVER_ERROR, "down");
    let error = objects.config_map("ns", "m").await.unwrap_err();
    assert_eq!(error.to_string(), "getting configmap ns/m: down (status 500)");
    assert!(error.is_retryable());
    server.set(MAP, config_map("1"));
    objects.config_map("ns", "m").await.unwrap();
    server.fail(MAP, StatusCode::INTERNAL_SERVER_ERROR, "down");
    assert_eq!(value(objects.fresh().config_map("ns", "m").await.unwrap()).as_deref(), Some("1"));
    objects.keep_only([]);
    assert!(objects.config_map("ns", "m").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn component_a_read_right_after_binding_waits_for_the_authorizer() {
    let server = FakeServer::default();
    let objects = server.fetcher();
    let message =
        "secrets \"s\" is forbidden: User \"system:node:n\" cannot get resource: no relationship found between node 'n' and this object";
    server.fail(SECRET, StatusCode::FORBIDDEN, message);
    let later = server.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        later.set(SECRET, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"p": "aHVudGVyMg=="}}));
    });
    let secret = objects.secret("ns", "s").await.unwrap().unwrap();
    assert_eq!(secret.data.as_ref().unwrap()["p"].0, b"hunter2");
    assert!(!format!("{secret:?}").contains("hunter2"));
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn component_a_lasting_refusal_is_reported_with_its_text() {
    let server = FakeServer::default();
    server.fail(SECRET, StatusCode::FORBIDDEN, "no relationship found between node and secret");
    let error = server.fetcher().secret("ns", "s").await.unwrap_err();
    assert_eq!(error.to_string(), "no relationship found between node and secret");
    assert!(error.is_retryable());
    assert_eq!(server.requests().len(), 1 + BINDING_PAUSES.len());
}

#[tokio::test]
async fn component_an_unreadable_secret_is_not_quoted() {
    let server = FakeServer::default();
    server.set(SECRET, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": "hunter2"}));
    let error = server.fetcher().secret("ns", "s").await.unwrap_err();
    assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn component_no_api_server_is_said_so() {
    let error = ObjectFetcher::new(None).config_map("ns", "m").await.unwrap_err();
    assert_eq!(error.to_string(), "cannot get configmap \"m\": there is no API server");
    assert!(!error.is_retryable());
}

const TOKEN: &str = "/api/v1/namespaces/ns/serviceaccounts/sa/token";

fn token(name: &str, lifetime: i64, left: i64) -> Value {
    let expires = Timestamp::now() + SignedDuration::from_secs(left);
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
        "spec": {"audiences": ["a"], "expirationSeconds": lifetime},
        "status": {"token": name, "expirationTimestamp": expires.to_string()}})
}

fn spec() -> TokenSpec {
    TokenSpec { audiences: vec!["a".into()], expiration_seconds: Some(3600), pod_name: "p".into(), pod_uid: "u".into() }
}

#[tokio::test]
async fn component_a_token_is_kept_until_it_is_old() {
    let server = FakeServer::default();
    let objects = server.fetcher();
    server.set(TOKEN, token("first", 3600, 3600));
    let first = objects.service_account_token("ns", "sa", &spec()).await.unwrap();
    assert_eq!(first.as_str(), "first");
    assert!(!format!("{first:?}").contains("first"));
    server.set(TOKEN, token("second", 3600, 600));
    assert_eq!(objects.service_account_token("ns", "sa", &spec()).await.unwrap().as_str(), "first");
    objects.forget_pod(&"u".into());
    assert_eq!(objects.service_account_token("ns", "sa", &spec()).await.unwrap().as_str(), "second");
    // The second one has less than a fifth of its life left.
    server.set(TOKEN, token("third", 3600, 3600));
    assert_eq!(objects.service_account_token("ns", "sa", &spec()).await.unwrap().as_str(), "third");
    let body: Value = serde_json::from_str(&server.bodies()[0]).unwrap();
    assert_eq!(body["spec"]["boundObjectRef"], json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}));
    assert_eq!(body["spec"]["audiences"], json!(["a"]));
    assert_eq!(body["spec"]["expirationSeconds"], 3600);
}

#[tokio::test(start_paused = true)]
async fn component_a_token_right_after_binding_waits_for_the_admission() {
    let server = FakeServer::default();
    let objects = server.fetcher();
    let message = "serviceaccounts \"sa\" is forbidden: node requested token bound to a pod scheduled on a different node";
    server.fail(TOKEN, StatusCode::FORBIDDEN, message);
    let later = server.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        later.set(TOKEN, token("t", 3600, 3600));
    });
    assert_eq!(objects.service_account_token("ns", "sa", &spec()).await.unwrap().as_str(), "t");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn component_a_valid_token_outlives_an_outage() {
    let server = FakeServer::default();
    let objects = server.fetcher();
    server.fail(TOKEN, StatusCode::NOT_FOUND, "serviceaccounts \"sa\" not found");
    let error = objects.service_account_token("ns", "sa", &spec()).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to fetch token: serviceaccounts \"sa\" not found");
    server.set(TOKEN, token("old", 3600, 60));
    objects.service_account_token("ns", "sa", &spec()).await.unwrap();
    server.fail(TOKEN, StatusCode::INTERNAL_SERVER_ERROR, "down");
    assert_eq!(objects.service_account_token("ns", "sa", &spec()).await.unwrap().as_str(), "old");
    server.set(TOKEN, token("expired", 3600, -1));
    objects.service_account_token("ns", "sa", &spec()).await.unwrap();
    server.fail(TOKEN, StatusCode::INTERNAL_SERVER_ERROR, "down");
    assert!(objects.service_account_token("ns", "sa", &spec()).await.is_err());
}
