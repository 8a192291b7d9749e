use super::*;
use crate::volumes::{TrustBundles, volume_references};

const A: &str = "-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n";
const B: &str = "-----BEGIN CERTIFICATE-----\nQkJC\n-----END CERTIFICATE-----\n";

fn files(source: serde_json::Value, found: Option<Vec<&str>>, security: serde_json::Value) -> Result<Payload, String> {
    let pod = pod(json!({"spec": {"securityContext": security, "containers": [{"name": "c"}]}}));
    let volume = serde_json::from_value(json!({"defaultMode": 0o640, "sources": [{"clusterTrustBundle": source}]})).unwrap();
    let resource = |_: &_| Ok(String::new());
    let sources = Sources {
        config_map: &|_| None,
        secret: &|_| None,
        token: &|_| None,
        certificate: &|_| None,
        trust_bundles: &|_| found.clone(),
        // The last one first.
        rank: &|anchor| u64::MAX - u64::from(anchor[0]),
        resource: &resource,
    };
    projected_payload(&pod, &volume, &sources).map_err(|error| error.to_string())
}

fn text(payload: &Payload) -> &str {
    std::str::from_utf8(&payload["ca.pem"].data).unwrap()
}

#[test]
fn certificates_are_written_once_in_the_order_that_is_given() {
    let first = format!("# comment\n{A}between\n{B}");
    let named = files(json!({"name": "x", "path": "ca.pem"}), Some(vec![&first]), json!({})).unwrap();
    assert_eq!((text(&named), named["ca.pem"].mode), (format!("{B}{A}").as_str(), 0o640));
    let signer = json!({"signerName": "example.com/s", "labelSelector": {}, "path": "ca.pem"});
    let several = files(signer, Some(vec![A, &first, "-----BEGIN X-----\n%\n-----END X-----"]), json!({"fsGroup": 7})).unwrap();
    assert_eq!((text(&several), several["ca.pem"].mode), (format!("{B}{A}").as_str(), 0o600));
    let long = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "QUFB".repeat(20));
    let wrapped = files(json!({"name": "x", "path": "ca.pem"}), Some(vec![&long]), json!({})).unwrap();
    assert_eq!(text(&wrapped).lines().map(str::len).collect::<Vec<_>>(), [27, 64, 16, 25]);
}

#[test]
fn what_is_missing_is_an_error_unless_it_is_optional() {
    for (source, message) in [
        (json!({"name": "x"}), "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"x\" not found"),
        (json!({"signerName": "s"}), "combination of signerName and labelSelector matched zero ClusterTrustBundles"),
    ] {
        let mut source = source;
        source["path"] = json!("ca.pem");
        assert_eq!(files(source.clone(), None, json!({})).unwrap_err(), message);
        source["optional"] = json!(true);
        assert_eq!(text(&files(source, None, json!({})).unwrap()), "");
    }
    let signer = json!({"signerName": "s", "labelSelector": {}, "path": "ca.pem"});
    assert!(files(signer, Some(vec![]), json!({})).unwrap_err().contains("matched zero"));
    let neither = json!({"path": "ca.pem", "optional": true});
    assert!(files(neither, None, json!({})).unwrap_err().contains("requires either name or signerName"));
}

#[test]
fn what_a_source_selects() {
    let sources = json!([
        {"secret": {"name": "s"}},
        {"clusterTrustBundle": {"name": "x", "path": "a"}},
        {"clusterTrustBundle": {"signerName": "s", "path": "b", "labelSelector": {
            "matchLabels": {"a": "1", "b": ""},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["x", "y"]},
                {"key": "d", "operator": "NotIn", "values": ["z"]},
                {"key": "e", "operator": "Exists"},
                {"key": "f", "operator": "DoesNotExist"},
            ],
        }}},
        {"clusterTrustBundle": {"signerName": "s", "path": "c", "labelSelector": {}}},
        {"clusterTrustBundle": {"signerName": "s", "path": "d"}},
    ]);
    let volume = serde_json::from_value(json!({"name": "v", "projected": {"sources": sources}})).unwrap();
    let of = |labels: &str| TrustBundles::OfSigner { signer: "s".into(), labels: labels.into() };
    let expected =
        [(1, TrustBundles::Named("x".into())), (2, of("a=1,b=,c in (x,y),d notin (z),e,!f")), (3, of("")), (4, TrustBundles::Nothing)];
    assert_eq!(volume_references(&volume).trust_bundles, expected);
}
