use std::fs::OpenOptions;
use std::io::Write;

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::harness::{running, terminated};
use super::*;

const ALLOWED: Identity = Identity::AllowedCertificate;

fn line(text: &str) -> String {
    format!("2026-01-01T00:00:00.5+00:00 stdout F {text}\n")
}

async fn get(harness: &Harness, path: &str) -> (u16, String) {
    let answer = harness.request(Method::GET, path, &ALLOWED).await;
    (answer.status.as_u16(), answer.body)
}

/// The next piece of a followed log; `None` at its end.
async fn next(body: &mut Incoming) -> Option<String> {
    let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("nothing came within 10 s")?;
    let data = frame.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

fn append(harness: &Harness, text: &str) {
    let path = harness.log_path("p", "c", 0);
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn component_logs_of_the_right_instance() {
    let harness = Harness::start().await;
    harness.put_pod("p", json!([running("c", 1)]));
    harness.write_log("p", "c", 0, &line("before"));
    harness.write_log("p", "c", 1, &line("now"));
    let path = "/containerLogs/ns/p/c";
    assert_eq!(get(&harness, path).await, (200, "now\n".into()));
    let with_time = get(&harness, &format!("{path}?timestamps=true&limitBytes=34")).await;
    assert_eq!(with_time, (200, "2026-01-01T00:00:00.500000000Z now".into()));
    assert_eq!(get(&harness, &format!("{path}?previous=true")).await, (200, "before\n".into()));
    // An attempt that could not be started leaves no file: the one before it stands in.
    harness.put_pod("p", json!([terminated("c", 2)]));
    assert_eq!(get(&harness, path).await, (200, "now\n".into()));
}

#[tokio::test]
async fn component_log_requests_that_cannot_be_served_say_why() {
    let harness = Harness::start().await;
    let waiting = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}}}]);
    harness.put_pod("p", waiting);
    harness.put_pod("q", json!([running("c", 0)]));
    for (path, status, text) in [
        ("/ns/x/c", 404, r#"pod "x" does not exist"#),
        ("/other/p/c", 404, r#"pod "p" does not exist"#),
        ("/ns/p/x", 404, r#"container "x" not found in pod "p""#),
        ("/ns/p/c", 400, r#"container "c" in pod "p" is waiting to start: ContainerCreating"#),
        ("/ns/q/c?previous=true", 400, r#"previous terminated container "c" in pod "q" not found"#),
        ("/ns/p/c?tailLines=-1", 422, r#"{"message": "Invalid request."}"#),
        ("/ns/p/c?sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422, r#"{"message": "Invalid request."}"#),
        ("/ns/p/c?tailLines=x", 400, r#"{"message": "Unable to decode query."}"#),
    ] {
        let answer = get(&harness, &format!("/containerLogs{path}")).await;
        assert_eq!(answer, (status, text.into()), "{path}");
    }
    let (status, text) = get(&harness, "/containerLogs/ns/q/c").await;
    assert_eq!(status, 400);
    assert!(text.contains("0.log"), "{text}");
}

#[tokio::test]
async fn component_following_sends_at_once_and_ends_with_the_container() {
    let harness = Harness::start().await;
    harness.put_pod("p", json!([running("c", 0)]));
    harness.write_log("p", "c", 0, &line("one"));
    let mut connection = harness.connect(&ALLOWED).await;
    let answer = connection.open("/containerLogs/ns/p/c?follow=true").await;
    let mut body = answer.into_body();
    assert_eq!(next(&mut body).await.unwrap(), "one\n");
    append(&harness, &line("two"));
    assert_eq!(next(&mut body).await.unwrap(), "two\n");

    let path = harness.log_path("p", "c", 0);
    std::fs::rename(&path, path.with_extension("log.old")).unwrap();
    append(&harness, &line("three"));
    assert_eq!(next(&mut body).await.unwrap(), "three\n");

    // A change of something else does not end it.
    harness.put_pod("q", json!([running("c", 0)]));
    append(&harness, &line("four"));
    assert_eq!(next(&mut body).await.unwrap(), "four\n");

    append(&harness, &line("last"));
    harness.put_pod("p", json!([terminated("c", 0)]));
    assert_eq!(next(&mut body).await.unwrap(), "last\n");
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn component_following_a_silent_container_answers_before_its_first_line() {
    let harness = Harness::start().await;
    harness.put_pod("p", json!([running("c", 0)]));
    harness.write_log("p", "c", 0, "");
    let mut connection = harness.connect(&ALLOWED).await;
    let open = connection.open("/containerLogs/ns/p/c?follow=1");
    let answer = tokio::time::timeout(Duration::from_secs(10), open).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn component_following_ends_when_the_client_is_gone() {
    let harness = Harness::start().await;
    harness.put_pod("p", json!([running("c", 0)]));
    harness.write_log("p", "c", 0, &line("one"));
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let mut connection = harness.connect(&ALLOWED).await;
    let answer = connection.open("/containerLogs/ns/p/c?follow=true").await;
    let mut body = answer.into_body();
    next(&mut body).await.unwrap();
    assert!(tasks.num_alive_tasks() > before);
    drop((body, connection));
    eventually("the reader has ended", || tasks.num_alive_tasks() == before).await;
}

#[tokio::test]
async fn component_a_slow_client_gets_everything() {
    let harness = Harness::start().await;
    harness.put_pod("p", json!([terminated("c", 0)]));
    let text: String = (0..100_000).map(|n| line(&format!("{n:0100}"))).collect();
    harness.write_log("p", "c", 0, &text);
    let mut connection = harness.connect(&ALLOWED).await;
    let mut body = connection.open("/containerLogs/ns/p/c").await.into_body();
    let mut received = 0;
    let mut pieces = 0;
    while let Some(piece) = next(&mut body).await {
        received += piece.len();
        pieces += 1;
        if pieces < 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(received, 100_000 * 101);
}
