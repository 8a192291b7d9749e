//! What a client may use up, known or not.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::harness::{self, Harness, Identity};

#[tokio::test]
async fn component_slow_and_oversized_requests_end_before_authentication() {
    let harness = Harness::with(|options, _| {
        options.header_timeout = Duration::from_millis(200);
        options.max_header_bytes = 8192;
    })
    .await;
    let slow = harness.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await;
    assert_eq!(slow, "", "closed without an answer");
    let mut large = b"GET /healthz HTTP/1.1\r\nX: ".to_vec();
    large.resize(64 * 1024, b'a');
    let answer = harness.raw(&large).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn component_more_connections_than_allowed_wait_their_turn() {
    let harness = Harness::with(|options, _| options.max_connections = 1).await;
    let first = harness.connect(&Identity::AllowedCertificate).await;
    let second = harness.request(Method::GET, "/healthz", &Identity::AllowedCertificate);
    let mut second = Box::pin(second);
    let early = tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await;
    assert!(early.is_err(), "served beyond the limit");
    drop(first);
    assert_eq!(second.await.status, 200);
}

#[tokio::test]
async fn component_a_user_has_no_more_connections_than_its_part() {
    let harness = Harness::with(|options, _| options.max_connections_per_user = 1).await;
    let mut first = harness.connect(&Identity::AllowedCertificate).await;
    assert_eq!(first.get("/healthz").await.status, 200);
    let second = harness.request(Method::GET, "/healthz", &Identity::Token("good")).await;
    assert_eq!(second.status, 429, "the same user, by another credential");
    assert!(second.closes, "the refused connection does not stay");
    assert_eq!(first.get("/healthz").await.status, 200);
    assert_eq!(harness.request(Method::GET, "/healthz", &Identity::ReaderCertificate).await.status, 200, "others are served");
    drop(first);
    let mut answer = harness.request(Method::GET, "/healthz", &Identity::AllowedCertificate).await;
    while answer.status == 429 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        answer = harness.request(Method::GET, "/healthz", &Identity::AllowedCertificate).await;
    }
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn component_who_is_refused_again_and_again_is_disconnected() {
    let harness = Harness::start().await;
    let mut connection = harness.connect(&Identity::Token("bad")).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let answer = connection.get("/healthz").await;
        answers.push((answer.status.as_u16(), answer.closes));
    }
    assert_eq!(answers, [(401, false), (401, false), (401, true)]);
}

#[tokio::test]
async fn component_a_body_is_not_waited_for_and_not_kept() {
    let harness = Harness::start().await;
    for (identity, status) in [(Identity::Nobody, "401"), (Identity::AllowedCertificate, "405")] {
        let mut stream = harness.tls(&identity).await;
        let head = "POST /pods HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(stream);
        let flood = async {
            let piece = vec![0; 64 * 1024];
            let mut sent = 0_usize;
            while writing.write_all(&piece).await.is_ok() {
                sent += piece.len();
                assert!(sent < 64 << 20, "the server goes on reading");
            }
        };
        let answer = async {
            let mut answer = Vec::new();
            // The server closes with unread data on its side, which resets the connection.
            let _ = reading.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let ((), answer) = tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(flood, answer) }).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn component_a_client_that_takes_nothing_is_given_up() {
    let harness = Harness::with(|options, _| {
        options.max_connections = 1;
        options.streaming_idle = Duration::from_millis(300);
    })
    .await;
    harness.put_pod("p", json!([harness::running("c", 0)]));
    // More than all buffers on the way hold.
    let line = format!("2026-01-01T00:00:00Z stdout F {}\n", "x".repeat(1000));
    harness.write_log("p", "c", 0, &line.repeat(20_000));
    let mut stream = harness.tls(&Identity::AllowedCertificate).await;
    stream.write_all(b"GET /containerLogs/ns/p/c HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The one place is free again while that client still holds its end.
    let next = harness.request(Method::GET, "/healthz", &Identity::AllowedCertificate);
    let next = tokio::time::timeout(Duration::from_secs(20), next).await.expect("the place is not given back");
    assert_eq!(next.status, 200);
    drop(stream);
}

/// The kernel's own buffers are part of the way: what it takes in large steps must not look like a standstill.
#[tokio::test]
async fn component_a_reader_slower_than_the_limit_gets_every_byte() {
    const LIMIT: Duration = Duration::from_secs(1);
    let harness = Harness::with(|options, _| options.streaming_idle = LIMIT).await;
    harness.put_pod("p", json!([harness::terminated("c", 0)]));
    let line = format!("2026-01-01T00:00:00Z stdout F {}\n", "x".repeat(999));
    harness.write_log("p", "c", 0, &line.repeat(20_000));
    let mut stream = harness.tls(&Identity::AllowedCertificate).await;
    rustix::net::sockopt::set_socket_recv_buffer_size(stream.get_ref().0, 64 * 1024).unwrap();
    stream.write_all(b"GET /containerLogs/ns/p/c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let began = std::time::Instant::now();
    let mut read = Vec::new();
    // For twice the limit: slowly, but never nothing for that long.
    while began.elapsed() < 2 * LIMIT {
        let mut piece = vec![0; 64 * 1024];
        let count = stream.read(&mut piece).await.unwrap();
        read.extend_from_slice(&piece[..count]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(read.len() < 19_000_000, "read too fast to show anything");
    stream.read_to_end(&mut read).await.unwrap();
    let body = read.iter().filter(|byte| **byte == b'x').count();
    assert_eq!(body, 20_000 * 999 + "text/plain".matches('x').count());
}
