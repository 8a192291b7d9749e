use super::*;

const PATH: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";

fn bundle(text: &str) -> Value {
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": {"name": "b"}, "spec": {"trustBundle": pem}})
}

fn list(bundles: &[Value]) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundleList", "metadata": {}, "items": bundles})
}

#[tokio::test]
async fn mounts_trust_bundles_are_written_and_followed() {
    let machine = Machine::new();
    let pod = pod(
        json!({}),
        json!([{"name": "v", "projected": {"sources": [
            {"clusterTrustBundle": {"name": "b", "path": "one.pem"}},
            {"clusterTrustBundle": {"signerName": "example.com/s", "labelSelector": {"matchLabels": {"a": "b"}}, "path": "two.pem"}},
            {"clusterTrustBundle": {"name": "none", "path": "three.pem", "optional": true}},
        ]}}]),
    );
    let failed = machine.prepare(&pod).await.unwrap_err();
    assert!(failed[0].starts_with("MountVolume.SetUp failed for volume \"v\" : "), "{failed:?}");
    machine.server.set(&format!("{PATH}/b"), bundle("QUFB"));
    machine.server.set(PATH, list(&[bundle("QkJC"), bundle("QUFB"), bundle("QkJC")]));
    let volumes = machine.prepare(&pod).await.unwrap();
    let file = |name: &str| read(&volumes.path("v").unwrap().join(name));
    assert_eq!(file("one.pem"), "-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n");
    let two = file("two.pem");
    assert_eq!((two.matches("BEGIN").count(), two.contains("QUFB"), two.contains("QkJC")), (2, true, true), "{two}");
    assert_eq!(file("three.pem"), "");
    assert!(!is_tmpfs(volumes.path("v").unwrap()) || is_tmpfs(machine.root.path()), "trust anchors are no secret");

    // Another run of the agent may put them in another order; this one does not.
    machine.volumes.refresh(&pod, &context()).await.unwrap();
    assert_eq!(file("two.pem"), two);
    machine.server.set(PATH, list(&[bundle("Q0ND")]));
    machine.server.set(&format!("{PATH}/none"), bundle("RERE"));
    let restarted = machine.restarted();
    restarted.refresh(&pod, &context()).await.map_err(texts).unwrap();
    assert!(file("two.pem").contains("Q0ND") && !file("two.pem").contains("QUFB") && file("three.pem").contains("RERE"));
    // While the API server is away, the files stay.
    machine.server.fail(PATH, StatusCode::INTERNAL_SERVER_ERROR, "away");
    machine.restarted().prepare(&pod, &context()).await.map_err(texts).unwrap();
    assert!(file("two.pem").contains("Q0ND"));
}
