mod access;
mod commands;
mod harness;
mod limits;
mod log_requests;
mod sessions;
mod system_logs;

use http::Method;
use serde_json::json;

use super::routes::{AREAS, VerbRule};
use super::*;
use harness::{Harness, Identity, eventually};

#[tokio::test]
async fn component_the_questions_asked_are_those_of_the_table() {
    for area in AREAS {
        for route in area.routes {
            // A new server each time: refusals are remembered.
            let harness = Harness::start().await;
            let path = route.pattern.replace(['{', '}', '*'], "");
            let method = &route.methods[0];
            harness.request(method.clone(), &path, &Identity::DeniedCertificate).await;
            let verb = match (area.verb, method) {
                (VerbRule::Create, _) | (_, &Method::POST) => "create",
                _ => "get",
            };
            let expected: Vec<serde_json::Value> = area
                .subresources
                .iter()
                .map(|subresource| {
                    json!({"verb": verb, "version": "v1", "resource": "nodes",
                        "subresource": subresource, "name": "pet-1"})
                })
                .collect();
            assert_eq!(harness.api.questions(), expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn component_refusals_read_like_the_kubelets() {
    let harness = Harness::start().await;
    let denied = &Identity::DeniedCertificate;
    let get = |path: &'static str, identity| harness.request(Method::GET, path, identity);
    assert_eq!(get("/pods", &Identity::Nobody).await.body, "Unauthorized");
    assert_eq!(get("/pods", denied).await.body, "Forbidden (user=denied, verb=get, resource=nodes, subresource(s)=[pods proxy])\n");
    assert_eq!(get("/exec/a/b/c", denied).await.body, "Forbidden (user=denied, verb=create, resource=nodes, subresource(s)=[proxy])\n");
    // Nobody learns which paths exist before being allowed to.
    let unknown = "/no/such/path";
    assert_eq!(get(unknown, &Identity::Nobody).await.status, 401);
    assert_eq!(get(unknown, denied).await.status, 403);
    assert_eq!(get(unknown, &Identity::AllowedCertificate).await.status, 404);

    let allowed = &Identity::AllowedCertificate;
    let post = harness.request(Method::POST, "/pods", allowed).await;
    assert_eq!(post.status, 405);
    assert_eq!(post.allow.as_deref(), Some("GET"));
    let delete = harness.request(Method::DELETE, "/exec/a/b/c", allowed).await;
    assert_eq!(delete.allow.as_deref(), Some("GET, POST"));
}

#[tokio::test]
async fn component_an_unreachable_api_server_is_401_for_tokens_and_500_for_certificates() {
    let harness = Harness::start().await;
    harness.api.fail(true);
    let get = |identity| harness.request(Method::GET, "/metrics", identity);
    assert_eq!(get(&Identity::Token("good")).await.status, 401);
    let answer = get(&Identity::AllowedCertificate).await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.body, "Authorization error (user=allowed, verb=get, resource=nodes, subresource=metrics)");
    // Failures are not remembered.
    harness.api.fail(false);
    assert_eq!(get(&Identity::Token("good")).await.status, 200);
    assert_eq!(get(&Identity::AllowedCertificate).await.status, 200);
}

#[tokio::test]
async fn component_answers_of_the_api_server_are_remembered() {
    let harness = Harness::start().await;
    for _ in 0..5 {
        harness.request(Method::GET, "/metrics", &Identity::Token("good")).await;
    }
    assert_eq!(harness.api.token_reviews(), 1);
    assert_eq!(harness.api.questions().len(), 1);
    // Another verb is another question.
    harness.request(Method::POST, "/metrics", &Identity::Token("good")).await;
    assert_eq!(harness.api.questions().len(), 2);
}

#[tokio::test]
async fn component_a_good_token_wins_over_a_foreign_certificate() {
    let harness = Harness::start().await;
    let identity = Identity::WrongCaWithToken("good");
    let answer = harness.request(Method::GET, "/metrics", &identity).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn component_tokens_are_not_looked_at_where_the_webhook_is_off() {
    let harness = Harness::with(|options, _| options.token_life = None).await;
    assert_eq!(harness.request(Method::GET, "/metrics", &Identity::Token("good")).await.status, 401);
    assert_eq!(harness.api.token_reviews(), 0);
    assert_eq!(harness.request(Method::GET, "/metrics", &Identity::AllowedCertificate).await.status, 200);
}

#[tokio::test]
async fn component_anonymous_users_only_where_wanted_and_never_with_bad_credentials() {
    let harness = Harness::with(|options, _| options.anonymous = true).await;
    let get = |identity| harness.request(Method::GET, "/metrics", identity);
    let answer = get(&Identity::Nobody).await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("user=system:anonymous"), "{answer:?}");
    assert_eq!(get(&Identity::Token("bad")).await.status, 401);
    assert_eq!(get(&Identity::WrongCa).await.status, 401);
}

#[tokio::test]
async fn component_a_changed_client_ca_counts_for_open_connections() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let harness = Harness::with(|options, pki| {
        std::fs::write(&file, pki.other_ca_pem()).unwrap();
        options.client_ca = ClientCa::File(file.clone());
    })
    .await;
    let mut connection = harness.connect(&Identity::AllowedCertificate).await;
    assert_eq!(connection.get("/metrics").await.status, 401);
    std::fs::write(&file, harness.pki.ca_pem()).unwrap();
    assert!(harness.handler.authenticator().cas().reload().unwrap());
    assert_eq!(connection.get("/metrics").await.status, 200);
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nx").unwrap();
    let error = harness.handler.authenticator().cas().reload().unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    assert_eq!(connection.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn component_healthz_follows_the_main_loop() {
    let harness = Harness::start().await;
    let allowed = &Identity::AllowedCertificate;
    let get = |path: &'static str| harness.request(Method::GET, path, allowed);
    assert_eq!(get("/healthz").await.body, "ok");
    assert_eq!(get("/healthz?verbose").await.body, "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n");
    assert_eq!(get("/healthz/unknown").await.status, 404);
    assert_eq!(harness.local_health().await, (200, "ok".into()));

    harness.set_health(Err("no pod was looked at for 5 minutes".into()));
    let all = get("/healthz").await;
    assert_eq!(all.status, 500);
    assert_eq!(all.body, "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n");
    assert_eq!(get("/healthz?exclude=syncloop").await.status, 200);
    assert_eq!(get("/healthz/syncloop").await.status, 500);
    assert_eq!(get("/healthz/ping").await.status, 200);
    let (status, text) = harness.local_health().await;
    assert_eq!(status, 503);
    assert!(text.contains("no pod was looked at"), "{text}");
    let slis = get("/metrics/slis").await.body;
    let line = "kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 0";
    assert!(slis.contains(line), "{slis}");
}

#[tokio::test]
async fn component_pods_configuration_and_metrics_come_from_the_state() {
    let harness = Harness::start().await;
    harness.put_pod("busy", json!([harness::running("app", 0)]));
    harness.put_pod("idle", json!([]));
    let allowed = &Identity::AllowedCertificate;
    let get = |path: &'static str| harness.request(Method::GET, path, allowed);

    let pods = get("/pods").await.json();
    assert_eq!(pods["kind"], "PodList");
    assert_eq!(pods["items"].as_array().unwrap().len(), 2);
    let running = get("/runningpods/").await.json();
    assert_eq!(running["items"].as_array().unwrap().len(), 1);
    assert_eq!(running["items"][0]["metadata"]["name"], "busy");
    assert_eq!(running["items"][0]["spec"]["containers"][0]["name"], "app");
    assert_eq!(get("/configz").await.json(), json!({"kubeletconfig": {"maxPods": 110}}));

    let metrics = get("/metrics").await.body;
    for line in [
        "kubelet_node_name{node=\"pet-1\"} 1",
        "kubelet_running_pods 1",
        "kubelet_running_containers{container_state=\"running\"} 1",
        "git_version=\"v1.37.1+kube-pet.0.1.0\",major=\"1\",minor=\"37\"",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|l| l.starts_with(&format!("{name} ")));
        line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    };
    let now = f64::from(u32::try_from(jiff::Timestamp::now().as_second()).unwrap());
    assert!((now - value("process_start_time_seconds")).abs() < 3600.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_open_fds") > 3.0);
}

#[tokio::test]
async fn component_a_stop_breaks_off_what_does_not_end_by_itself() {
    let harness = Harness::start().await;
    harness.put_pod("p", json!([harness::running("c", 0)]));
    harness.write_log("p", "c", 0, "2026-01-01T00:00:00Z stdout F x\n");
    let mut connection = harness.connect(&Identity::AllowedCertificate).await;
    let _follow = connection.open("/containerLogs/ns/p/c?follow=true").await;
    harness.stop();
    eventually("the server has stopped", || harness.has_stopped()).await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let harness = Harness::start().await;
    let (options, state) = harness.another(harness.addr);
    let Err(error) = Server::bind(options, state).await else { panic!("bound twice") };
    assert_eq!(error.to_string(), format!("listening on {}", harness.addr));
}
