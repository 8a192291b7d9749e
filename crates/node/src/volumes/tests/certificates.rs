use super::*;

const PATH: &str = "/apis/certificates.k8s.io/v1/namespaces/ns/podcertificaterequests";

fn request(status: Value) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest", "metadata": {"name": "req-1", "namespace": "ns"},
        "spec": {"signerName": "example.com/s", "podName": "p", "podUID": "uid-1", "serviceAccountName": "default",
            "serviceAccountUID": "account-uid", "nodeName": "pet", "nodeUID": "node-uid", "stubPKCS10Request": ""},
        "status": status})
}

fn decided(kind: &str, chain: &str, refresh_in: i64) -> Value {
    let now = Timestamp::now();
    let after = |seconds: i64| (now + SignedDuration::from_secs(seconds)).to_string();
    let condition =
        json!({"type": kind, "status": "True", "reason": "Because", "message": "of this", "lastTransitionTime": now.to_string()});
    json!({"conditions": [condition], "certificateChain": chain, "beginRefreshAt": after(refresh_in), "notBefore": after(-60), "notAfter": after(3600)})
}

fn chain(text: &str) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

fn certified(key_type: &str) -> Pod {
    let source = json!({"podCertificate": {"signerName": "example.com/s", "keyType": key_type, "maxExpirationSeconds": 3600,
        "credentialBundlePath": "bundle.pem", "keyPath": "key.pem", "certificateChainPath": "chain.pem"}});
    let mut pod = pod(json!({"fsGroup": 7}), json!([{"name": "v", "projected": {"sources": [source]}}]));
    pod.spec.as_mut().unwrap().node_name = Some("pet".into());
    pod
}

fn machine() -> Machine {
    let machine = Machine::new();
    machine.server.set("/api/v1/namespaces/ns/serviceaccounts/default", json!({"metadata": {"name": "default", "uid": "account-uid"}}));
    machine.server.set("/api/v1/nodes/pet", json!({"metadata": {"name": "pet", "uid": "node-uid"}}));
    machine.server.set(PATH, request(json!({})));
    machine
}

#[tokio::test]
async fn mounts_certificates_are_requested_once_and_renewed_when_the_signer_says() {
    let machine = machine();
    let pod = certified("ED25519");
    machine.server.set(&format!("{PATH}/req-1"), request(decided("Issued", &format!("# comment\n{}", chain("QUFB")), 3000)));
    let volumes = machine.prepare(&pod).await.unwrap();
    let file = |name: &str| read(&volumes.path("v").unwrap().join(name));
    let key = file("key.pem");
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!((file("chain.pem"), file("bundle.pem")), (chain("QUFB"), format!("{key}{}", chain("QUFB"))));
    assert_eq!(mode(&volumes.path("v").unwrap().join("key.pem")), 0o640);
    assert!(is_tmpfs(volumes.path("v").unwrap()), "a key never reaches a disk");
    let posts = || machine.server.requests().iter().filter(|request| **request == format!("POST {PATH}")).count();
    machine.prepare(&pod).await.unwrap();
    machine.volumes.refresh(&pod, &context()).await.map_err(texts).unwrap();
    assert_eq!((posts(), file("key.pem")), (1, key.clone()));
    let body: Value = machine.server.bodies().iter().filter_map(|body| serde_json::from_str(body).ok()).next().unwrap();
    assert_eq!((&body["spec"]["podUID"], &body["spec"]["serviceAccountUID"]), (&json!("uid-1"), &json!("account-uid")));
    assert_eq!((&body["spec"]["nodeUID"], &body["metadata"]["ownerReferences"][0]["uid"]), (&json!("node-uid"), &json!("uid-1")));
    assert!(!machine.server.bodies().iter().any(|body| body.contains("PRIVATE")));

    // Another run knows no certificate, and gets one that is to be renewed at once: the files stay until the next one is there.
    let restarted = machine.restarted();
    machine.server.set(&format!("{PATH}/req-1"), request(decided("Issued", &chain("QkJC"), -1)));
    restarted.refresh(&pod, &context()).await.map_err(texts).unwrap();
    let second = file("key.pem");
    assert!(second != key && file("chain.pem") == chain("QkJC"));
    machine.server.set(&format!("{PATH}/req-1"), request(json!({})));
    restarted.refresh(&pod, &context()).await.map_err(texts).unwrap();
    assert_eq!(file("key.pem"), second);
    machine.server.set(&format!("{PATH}/req-1"), request(decided("Issued", &chain("Q0ND"), 3000)));
    restarted.refresh(&pod, &context()).await.map_err(texts).unwrap();
    assert!(file("key.pem") != second && file("chain.pem") == chain("Q0ND"));
    assert_eq!(posts(), 3);
    restarted.teardown(&"uid-1".into()).await.map_err(texts).unwrap();
}

#[tokio::test]
async fn mounts_a_certificate_that_is_refused_is_told_of() {
    for (verdict, words) in [("Denied", "permanently denied"), ("Failed", "permanently failed")] {
        let machine = machine();
        machine.server.set(&format!("{PATH}/req-1"), request(decided(verdict, "", 0)));
        let failed = machine.prepare(&certified("ECDSAP256")).await.unwrap_err();
        let expected = format!(
            "MountVolume.SetUp failed for volume \"v\" : PodCertificateRequest was {words}: reason=\"Because\" message=\"of this\""
        );
        assert_eq!(failed, [expected]);
    }
    let failed = machine().prepare(&certified("RSA4096")).await.unwrap_err();
    assert!(failed[0].ends_with("while generating keypair: unknown key type \"RSA4096\""), "{failed:?}");
}
