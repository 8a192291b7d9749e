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
