//! A service that hangs, dies, lies or is gone.

use std::time::Duration;

use futures::StreamExt as _;

use super::{Answer, Connect as _, Fake, reply};
use crate::*;

const EMPTY: &[u8] = b"{}";

#[tokio::test(start_paused = true)]
async fn a_call_that_gets_no_answer_ends_at_its_deadline() {
    let fake = Fake::start(|_, _| Answer::Hang);
    let begin = tokio::time::Instant::now();
    let error = fake.client().inspect_container("c").await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    assert!(error.is_connection() && error.is_retryable());
    assert_eq!(begin.elapsed(), Operation::ContainerInspect.deadline());
    assert_eq!(error.to_string(), "cannot inspect container c: no answer within 20 s");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_stops_in_the_middle_ends_at_the_deadline() {
    // Headers that promise more than comes: the fake keeps the connection open.
    let mut bytes = reply(200, b"{\"Id\":\"x\"}");
    bytes.truncate(bytes.len() - 3);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        std::future::pending::<()>().await;
    });
    let error = Client::new(socket).inspect_container("c").await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_do_not_hold_up_a_ping_or_what_is_soon_forgotten() {
    let fake = Fake::start(|path, _| {
        if path.ends_with("/_ping") {
            Answer::Reply(200, b"OK".to_vec())
        } else if path.ends_with("/exec/e/json") {
            Answer::Reply(200, br#"{"ID": "e", "Running": false, "CanRemove": true, "ExitCode": 5}"#.to_vec())
        } else {
            Answer::Hang
        }
    });
    let client = fake.client();
    let calls: Vec<_> = (0..MAX_IN_FLIGHT + 3)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move { client.inspect_container(&i.to_string()).await })
        })
        .collect();
    while fake.requests().len() < MAX_IN_FLIGHT {
        tokio::task::yield_now().await;
    }
    let begin = tokio::time::Instant::now();
    let version = client.ping().await.unwrap();
    assert_eq!(version.version, Version::new(4, 3, 1));
    assert_eq!(client.inspect_exec("e").await.unwrap().exit_code, 5);
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(fake.requests().len(), MAX_IN_FLIGHT + 2, "no more calls in flight than allowed");
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_missing_socket_and_a_closed_connection_are_the_service_being_gone() {
    let error = Client::new("/nonexistent/podman.sock").ping().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }) && error.is_connection(), "{error}");
    assert!(error.to_string().contains("/nonexistent/podman.sock"), "{error}");

    let fake = Fake::start(|_, nth| if nth == 1 { Answer::Reply(200, EMPTY.to_vec()) } else { Answer::Close });
    let client = fake.client();
    client.inspect_container("c").await.unwrap();
    let error = client.start_container("c").await.unwrap_err();
    assert!(matches!(error, Error::Connection { .. }) && error.is_connection(), "{error}");
    assert_eq!(fake.requests().len(), 2, "a start is never sent twice");
}

#[tokio::test]
async fn garbage_is_an_error_and_not_a_panic() {
    let fake = Fake::start(|_, _| Answer::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()));
    assert!(fake.client().info().await.unwrap_err().is_connection());

    let fake = Fake::start(|_, _| Answer::Reply(200, b"<html>".to_vec()));
    let error = fake.client().info().await.unwrap_err();
    assert!(matches!(error, Error::Decode { .. }) && !error.is_retryable(), "{error}");

    let fake = Fake::start(|_, _| Answer::Reply(502, b"<html>bad gateway".to_vec()));
    let error = fake.client().info().await.unwrap_err();
    assert!(error.to_string().contains("bad gateway (HTTP 502)"), "{error}");

    // Wrong types and nulls where lists and maps are expected.
    let body = br#"{"Id":"x","Config":null,"State":null,"Mounts":null,"ExecIDs":null}"#;
    let fake = Fake::start(|_, _| Answer::Reply(200, body.to_vec()));
    assert_eq!(fake.client().inspect_container("x").await.unwrap().id, "x");
    let fake = Fake::start(|_, _| Answer::Reply(200, b"null".to_vec()));
    assert!(fake.client().list_containers(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_cause_of_a_500_is_kept() {
    let body = br#"{"cause":"database is locked","message":"saving state: database is locked","response":500}"#;
    let fake = Fake::start(|_, _| Answer::Reply(500, body.to_vec()));
    let error = fake.client().start_container("c").await.unwrap_err();
    assert!(error.is_retryable() && !error.is_connection(), "{error}");
    assert_eq!(error.to_string(), "cannot start container c: saving state: database is locked (HTTP 500)");
}

#[tokio::test]
async fn a_connection_is_kept_and_a_stale_one_is_replaced() {
    let fake =
        Fake::start(|_, nth| if nth == 2 { Answer::ReplyThenClose(200, EMPTY.to_vec()) } else { Answer::Reply(200, EMPTY.to_vec()) });
    let client = fake.client();
    for _ in 0..4 {
        client.inspect_container("c").await.unwrap();
    }
    // The second connection is opened because the service ended the first after two calls.
    assert_eq!(fake.requests().len(), 4);
}

#[tokio::test]
async fn a_get_on_a_connection_that_dies_is_asked_again_on_a_new_one() {
    let fake = Fake::start(|_, nth| if nth == 2 { Answer::Close } else { Answer::Reply(200, EMPTY.to_vec()) });
    let client = fake.client();
    client.inspect_container("c").await.unwrap();
    client.inspect_container("c").await.unwrap();
    assert_eq!(fake.requests().len(), 3);
}

#[tokio::test]
async fn an_upgraded_service_is_noticed_by_its_next_reply() {
    let versions = ["4.3.1", "5.8.6"];
    let fake = Fake::start(move |_, nth| {
        let text = format!("HTTP/1.1 200 OK\r\nLibpod-Api-Version: {}\r\nContent-Length: 2\r\n\r\nOK", versions[nth - 1]);
        Answer::Raw(text.into_bytes())
    });
    let client = fake.client();
    assert_eq!(client.capabilities(), Capabilities::default());
    client.ping().await.unwrap();
    assert!(!client.capabilities().oom_killed_reliable);
    client.ping().await.unwrap();
    assert!(client.capabilities().oom_killed_reliable);
}

#[tokio::test]
async fn a_pull_whose_stream_breaks_has_not_succeeded() {
    let chunked = |text: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n", text.len());
    let line = "{\"stream\":\"Trying to pull x...\"}\n";
    let cut = chunked(line);
    let fake = Fake::start(move |_, _| Answer::Raw(cut.clone().into_bytes()));
    let error = fake.client().pull_image("x", None, |_| {}).await.unwrap_err();
    assert!(error.is_connection(), "{error}");

    let ended = chunked(line) + "0\r\n\r\n";
    let fake = Fake::start(move |_, _| Answer::Raw(ended.clone().into_bytes()));
    let error = fake.client().pull_image("x", None, |_| {}).await.unwrap_err();
    assert!(error.is_connection(), "{error}");
}

#[tokio::test]
async fn the_stream_of_events_ends_with_an_error_when_the_service_dies() {
    let text = "{\"Type\":\"container\",\"Action\":\"start\",\"Actor\":{\"ID\":\"a\"}}\n";
    let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n", text.len());
    let fake = Fake::start(move |_, _| Answer::Raw(bytes.clone().into_bytes()));
    let mut events = fake.client().events(None).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().status, "start");
    assert!(events.next().await.unwrap().unwrap_err().is_connection());
    assert!(events.next().await.is_none());
}
