//! `/logs/`.

use http::Method;

use super::harness::{Answer, Harness, Identity};

async fn get(harness: &Harness, path: &str) -> Answer {
    harness.request(Method::GET, path, &Identity::AllowedCertificate).await
}

fn logs(harness: &Harness) -> std::path::PathBuf {
    let logs = harness.root().join("var/log");
    std::fs::create_dir_all(logs.join("app")).unwrap();
    logs
}

#[tokio::test]
async fn component_the_machines_logs_are_listed_and_read() {
    let harness = Harness::start().await;
    let logs = logs(&harness);
    let long = "a line\n".repeat(100_000);
    std::fs::write(logs.join("syslog"), &long).unwrap();
    std::fs::write(logs.join("empty"), "").unwrap();
    std::fs::write(harness.root().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink("../../secret", logs.join("link")).unwrap();
    let list = get(&harness, "/logs/").await;
    assert_eq!(list.status, 200);
    assert!(list.body.contains("<a href=\"app/\">app/</a>\n<a href=\"empty\">empty</a>\n"), "{}", list.body);
    assert_eq!(get(&harness, "/logs/syslog").await.body, long);
    let empty = get(&harness, "/logs/empty").await;
    assert_eq!((empty.status.as_u16(), empty.body.as_str()), (200, ""));
    assert_eq!(get(&harness, "/logs/app").await.status, 301);
    assert_eq!(get(&harness, "/logs/app/").await.status, 200);
    assert_eq!(get(&harness, "/logs/nosuch").await.status, 404);
    assert_eq!(get(&harness, "/logs/link").await.status, 403);
    for path in ["/logs/..%2F..%2Fsecret", "/logs/../../secret", "/logs/app/%2e%2e/%2e%2e/%2e%2e/secret"] {
        assert_eq!(get(&harness, path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn component_a_query_finds_a_services_file() {
    let harness = Harness::start().await;
    let logs = logs(&harness);
    std::fs::write(logs.join("app/app.log"), "of the app\n").unwrap();
    std::fs::write(logs.join("other.log"), "of the other\n").unwrap();
    assert_eq!(get(&harness, "/logs/?query=app&query=other").await.body, "of the app\nof the other\n");
    assert_eq!(get(&harness, "/logs/?query=nosuch").await.body, "\nlog not found for nosuch\n");
    assert_eq!(get(&harness, "/logs/?query=%2Fother.log").await.body, "of the other\n");
    let options = get(&harness, "/logs/?query=app&tailLines=1").await.body;
    assert!(options.contains("try without specifying options"), "{options}");
    for (path, status) in [
        ("/logs/?query=%2Fnosuch.log", 406),
        ("/logs/?query=..%2F..%2Fsecret", 406),
        ("/logs/?query=a%3Bb", 406),
        ("/logs/?query=+", 400),
        ("/logs/?tailLines=x", 400),
        ("/logs/other.log?query=app", 406),
    ] {
        assert_eq!(get(&harness, path).await.status, status, "{path}");
    }
}
