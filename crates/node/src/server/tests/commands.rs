//! `/run`.

use http::Method;
use serde_json::json;

use super::access::podman;
use super::harness::{self, Harness, Identity};

#[tokio::test]
async fn component_run_answers_with_the_output_stdout_first() {
    let fake = podman();
    let harness = Harness::with_podman(kube_pet_podman::Client::new(fake.socket()), |_, _| {}).await;
    harness.put_pod("p", json!([harness::running("c", 1)]));
    harness.put_pod("ended", json!([harness::terminated("c", 1)]));
    let post = |path: &'static str| harness.request(Method::POST, path, &Identity::AllowedCertificate);
    let answer = post("/run/ns/p/c?cmd=echo+hello++world").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "hello world"));
    let created = fake.requests().iter().find(|request| request.contains("/containers/1/exec")).cloned().unwrap();
    assert!(created.contains(r#""Cmd":["echo","hello","","world"]"#), "{created}");
    assert_eq!(post("/run/ns/p/uid-p/c?cmd=id").await.status, 200);
    assert_eq!(post("/run/ns/p/another-uid/c?cmd=id").await.status, 404);
    assert_eq!(post("/run/ns/p/nosuch?cmd=id").await.status, 404);
    assert_eq!(post("/run/ns/ended/c?cmd=id").await.status, 500);
    assert_eq!(harness.request(Method::GET, "/run/ns/p/c?cmd=id", &Identity::AllowedCertificate).await.status, 405);
}

#[tokio::test]
async fn component_commands_of_the_machine_s_own_pod_only_run_on_the_machine() {
    let harness = Harness::start().await;
    let post = |path: &'static str| harness.request(Method::POST, path, &Identity::AllowedCertificate);
    let answer = post("/run/kube-system/host-pet-1/host?cmd=echo+here").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "here\n"));
    // Who may write a pod's status gets no further by it.
    for id in ["host://b1", "host://", "b1", "docker://b1", "://b1"] {
        let mut status = harness::running("c", 1);
        status["containerID"] = json!(id);
        harness.put_pod("p", json!([status]));
        for path in ["/run/ns/p/c?cmd=echo+here", "/run/ns/p/uid-p/c?cmd=echo+here"] {
            let answer = post(path).await;
            assert_eq!((answer.status.as_u16(), answer.body.trim()), (500, "container \"c\" is not running"), "{id}");
        }
        let attach = post("/attach/ns/p/c?output=1").await;
        assert_eq!((attach.status.as_u16(), attach.body.trim()), (500, "container \"c\" is not running"), "{id}");
    }
}
