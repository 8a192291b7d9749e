use super::server::{Server, redirect, reply, start_2};
use super::*;

async fn get(server: &Server, path: &str) -> ProbeOutcome {
    probe(json!({"httpGet": {"port": server.port, "path": path}})).await
}

#[tokio::test]
async fn component_the_status_decides() {
    let server = Server::start(|line| {
        let status = line.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        reply(status, "secret")
    })
    .await;
    for status in [200, 204, 299] {
        let body = if status == 204 { "" } else { "secret" };
        assert_eq!(get(&server, &format!("/{status}")).await, ProbeOutcome::Success(body.into()), "{status}");
    }
    for status in [400, 404, 500, 599] {
        // Without the body.
        assert_eq!(get(&server, &format!("/{status}")).await, failure(format!("HTTP probe failed with statuscode: {status}")));
    }
    for status in [300, 301, 308] {
        let warning = "Probe terminated redirects, Response body: secret";
        assert_eq!(get(&server, &format!("/{status}")).await, ProbeOutcome::Warning(warning.into()), "{status}: no location");
    }
}

#[tokio::test]
async fn component_requests_are_the_kubelets() {
    let server = Server::start(|_| reply(200, "")).await;
    let host = format!("127.0.0.1:{}", server.port);
    let headers = |headers: Value| json!({"httpGet": {"port": server.port, "path": "/healthz?x=1", "httpHeaders": headers}});
    let head = |lines: &[&str]| {
        let mut lines: Vec<String> = lines.iter().map(|line| line.replace("HOST", &host)).collect();
        lines.sort();
        lines
    };
    for (given, expected) in [
        (json!([]), head(&["Host: HOST", "User-Agent: kube-probe/1.37", "Accept: */*", "Connection: close"])),
        (
            json!([{"name": "host", "value": "muffins.example"}, {"name": "x-cake", "value": "a"}, {"name": "X-Cake", "value": ""}]),
            head(&["Host: muffins.example", "User-Agent: kube-probe/1.37", "Accept: */*", "Connection: close", "X-Cake: a", "X-Cake: "]),
        ),
        (json!([{"name": "User-Agent", "value": ""}, {"name": "Accept", "value": ""}]), head(&["Host: HOST", "Connection: close"])),
        (
            json!([{"name": "User-Agent", "value": "foo/1.0"}, {"name": "Accept", "value": "text/html"}, {"name": "Content-Length", "value": "3"}]),
            head(&["Host: HOST", "Connection: close", "User-Agent: foo/1.0", "Accept: text/html"]),
        ),
    ] {
        assert_eq!(probe(headers(given)).await, ProbeOutcome::Success(String::new()));
        let request = server.requests().pop().unwrap();
        let mut lines: Vec<&str> = request.trim_end_matches("\r\n").split("\r\n").collect();
        assert_eq!(lines.remove(0), "GET /healthz?x=1 HTTP/1.1");
        lines.sort_unstable();
        assert_eq!(lines, expected);
    }
    let bad = probe(headers(json!([{"name": "X-Cake", "value": "a\nb"}]))).await;
    assert_eq!(bad, failure(format!("Get \"{}\": net/http: invalid header field value for \"X-Cake\"", server.url("/healthz?x=1"))));
}

#[tokio::test]
async fn component_redirects_are_followed_on_the_same_host_only() {
    let second = Server::start(|_| reply(200, "the other port")).await;
    let elsewhere = second.url("/there");
    let server = Server::start(move |line| match line.split(' ').nth(1).unwrap() {
        "/old" => redirect(302, "new/"),
        "/new/" => reply(200, "arrived"),
        "/port" => redirect(308, &elsewhere),
        "/away" => redirect(301, "http://elsewhere.example/x"),
        "/bad" => redirect(301, "/%zz"),
        loop_ => redirect(307, loop_),
    })
    .await;
    assert_eq!(get(&server, "/old").await, ProbeOutcome::Success("arrived".into()));
    let last = server.requests().pop().unwrap();
    assert!(last.contains(&format!("Referer: {}\r\n", server.url("/old"))), "{last}");
    assert_eq!(get(&server, "/port").await, ProbeOutcome::Success("the other port".into()));
    let away = "Probe terminated redirects, Response body: this";
    assert_eq!(get(&server, "/away").await, ProbeOutcome::Warning(away.into()));
    let bad = format!("Get \"{}\": failed to parse Location header \"/%zz\"", server.url("/bad"));
    assert_eq!(get(&server, "/bad").await, failure(bad));
    let before = server.requests().len();
    assert_eq!(get(&server, "/loop").await, failure("Get \"/loop\": stopped after 10 redirects"));
    assert_eq!(server.requests().len() - before, 10);
}

#[tokio::test]
async fn component_a_host_header_stays_over_relative_redirects() {
    let second = Server::start(|_| reply(200, "")).await;
    let elsewhere = second.url("/there");
    let server = Server::start(move |line| if line.contains("/one") { redirect(302, "/two") } else { redirect(302, &elsewhere) }).await;
    let named = json!({"httpGet": {"port": server.port, "path": "/one", "httpHeaders": [{"name": "Host", "value": "muffins.example"}]}});
    assert_eq!(probe(named).await, ProbeOutcome::Success(String::new()));
    assert!(server.requests()[1].contains("Host: muffins.example\r\n"));
    assert!(second.requests()[0].contains(&format!("Host: 127.0.0.1:{}\r\n", second.port)));
}

#[tokio::test]
async fn component_ten_kibibytes_of_a_body_are_read() {
    let server = Server::start(|_| format!("HTTP/1.1 200 OK\r\n\r\nhang-after-head{}", "x".repeat(20 << 10))).await;
    match get(&server, "/").await {
        ProbeOutcome::Success(body) => assert_eq!(body.len(), 10 << 10),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn component_slow_servers_fail_at_the_time_limit() {
    let server = Server::start(|line| {
        if line.contains("/head") { "hang".to_owned() } else { "HTTP/1.1 200 OK\r\nX-Test: hang-after-head\r\n\r\n".to_owned() }
    })
    .await;
    let begun = Instant::now();
    let late = format!("Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)", server.url("/head"));
    assert_eq!(get(&server, "/head").await, failure(late));
    assert!((900..2500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    // An error, so the kubelet tries thrice.
    let late = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
    assert_eq!(get(&server, "/body").await, ProbeOutcome::Errored(late.into()));
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn component_what_is_wrong_with_a_connection_is_told_in_go_s_words() {
    let server = Server::start(|line| match line.split(' ').nth(1).unwrap() {
        "/nothing" => String::new(),
        "/cut" => "HTTP/1.1 200 OK\r\nContent-".to_owned(),
        "/short" => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_owned(),
        _ => "220 mail.example ESMTP\r\n".to_owned(),
    })
    .await;
    let get_failed = |path: &str, error: &str| failure(format!("Get \"{}\": {error}", server.url(path)));
    assert_eq!(get(&server, "/nothing").await, get_failed("/nothing", "EOF"));
    assert_eq!(get(&server, "/cut").await, get_failed("/cut", "unexpected EOF"));
    assert_eq!(get(&server, "/short").await, ProbeOutcome::Errored("unexpected EOF".into()));
    let malformed = "net/http: HTTP/1.x transport connection broken: malformed HTTP response \"220 mail.example ESMTP\"";
    assert_eq!(get(&server, "/mail").await, get_failed("/mail", malformed));
    let port = closed_port().await;
    let refused = format!("Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(probe(json!({"httpGet": {"port": port, "path": "/"}})).await, failure(refused));
    let (pod, container) = pod(json!({"name": "c"}));
    let action: Probe = serde_json::from_value(json!({"httpGet": {"port": port}})).unwrap();
    let nowhere = without_podman().probe(&pod, &container, &action, &[], &ContainerId::new("c1")).await;
    assert_eq!(nowhere, failure(format!("Get \"http://:{port}\": dial tcp :{port}: missing address")));
}

#[tokio::test]
async fn component_https_takes_any_certificate() {
    let server = Server::start_tls(|_| reply(200, "over TLS")).await;
    let https = |port: u16| json!({"httpGet": {"port": port, "path": "/x", "scheme": "HTTPS"}});
    assert_eq!(probe(https(server.port)).await, ProbeOutcome::Success("over TLS".into()));
    let two = start_2(true, async |request: hyper::Request<hyper::body::Incoming>| {
        assert!(!request.headers().contains_key("connection") && !request.headers().contains_key("host"));
        hyper::Response::new(format!("{:?} {}", request.version(), request.uri()))
    })
    .await;
    assert_eq!(probe(https(two)).await, ProbeOutcome::Success(format!("HTTP/2.0 https://127.0.0.1:{two}/x")));
    let plain = Server::start(|_| reply(400, "")).await;
    let url = plain.url("/x").replace("http:", "https:");
    let words = "http: server gave HTTP response to HTTPS client";
    assert_eq!(probe(https(plain.port)).await, failure(format!("Get \"{url}\": {words}")));
    let mail = Server::start(|_| "220 mail.example ESMTP\r\n".to_owned()).await;
    let url = mail.url("/x").replace("http:", "https:");
    let words = "tls: first record does not look like a TLS handshake";
    assert_eq!(probe(https(mail.port)).await, failure(format!("Get \"{url}\": {words}")));
}

#[tokio::test]
async fn component_a_hook_wants_no_more_than_a_response() {
    let server = Server::start(|_| reply(500, "no")).await;
    assert_eq!(hook(json!({"httpGet": {"port": server.port, "path": "/stop"}})).await, Ok(HookDone::default()));
    let head = server.requests().pop().unwrap();
    assert!(head.starts_with("GET /stop HTTP/1.1\r\n") && head.contains("User-Agent: kube-lifecycle/1.37\r\n"), "{head}");
    let port = closed_port().await;
    assert_eq!(
        hook(json!({"httpGet": {"port": port, "path": "/stop"}})).await.unwrap_err(),
        format!(
            "HTTP lifecycle hook (/stop) for Container \"c\" in Pod \"web_default(web-uid)\" failed - error: \
             Get \"http://127.0.0.1:{port}/stop\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        )
    );
}

#[tokio::test]
async fn component_an_https_hook_falls_back_to_http_without_credentials() {
    let server = Server::start(|_| reply(200, "")).await;
    let headers = json!([{"name": "Authorization", "value": "Bearer secret"}, {"name": "X-Cake", "value": "a"}]);
    let done = hook(json!({"httpGet": {"port": server.port, "scheme": "HTTPS", "httpHeaders": headers}})).await.unwrap();
    let text = format!("request to HTTPS lifecycle hook 127.0.0.1:{} got HTTP response, retry with HTTP succeeded", server.port);
    assert_eq!(done.http_fallback, Some(text));
    let head = server.requests().pop().unwrap();
    assert!(head.contains("X-Cake: a\r\n") && !head.contains("secret"), "{head}");
}
