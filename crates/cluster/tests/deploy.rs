//! `deploy/`: what is generated is up to date, and no permission is there that no code needs.
//!
//! The Helm chart is the source. Its templates use plain values only, so that the plain manifests are made by putting the values in.
//! `UPDATE_DOCS=1 cargo test -p kube-pet-cluster --test deploy` writes both.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test, its helpers too")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

const NAMESPACE: &str = "kube-pet";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn check(path: &Path, wanted: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == wanted, "{} is out of date: UPDATE_DOCS=1 cargo test -p kube-pet-cluster --test deploy", path.display());
}

fn definitions() -> Vec<(String, String)> {
    let yaml = |definition: &_| serde_saphyr::to_string(definition).unwrap();
    kube_pet_api::definitions().iter().map(|d| (d.metadata.name.clone().unwrap(), yaml(d))).collect()
}

fn templates() -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(deploy().join("helm/kube-pet/templates")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), read(path))).collect()
}

/// A template with the values put in; anything but a plain value is refused.
fn rendered(template: &str, values: &Value) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (expression, after) = after.split_once("}}").expect("an open {{");
        text.push_str(before);
        let expression = expression.trim();
        if expression == ".Release.Namespace" {
            text.push_str(NAMESPACE);
        } else {
            let path = expression.strip_prefix(".Values.").unwrap_or_else(|| panic!("{expression}: only values, and no functions"));
            let value = path.split('.').fold(values, |value, key| &value[key]);
            match value {
                Value::String(value) => text.push_str(value),
                Value::Number(_) | Value::Bool(_) => text.push_str(&value.to_string()),
                other => panic!("{expression} is {other}"),
            }
        }
        rest = after;
    }
    text + rest
}

fn values() -> Value {
    serde_saphyr::from_str(&read(&deploy().join("helm/kube-pet/values.yaml"))).unwrap()
}

/// All objects of the templates.
fn objects() -> Vec<Value> {
    let values = values();
    let text: Vec<_> = templates().iter().map(|(_, text)| rendered(text, &values)).collect();
    text.join("\n---\n")
        .split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).unwrap_or_else(|e| panic!("{e}: {document}")))
        .collect()
}

#[test]
fn the_definitions_are_those_of_the_types() {
    for (name, text) in definitions() {
        check(&deploy().join(format!("helm/kube-pet/crds/{name}.yaml")), &text);
    }
    let files = std::fs::read_dir(deploy().join("helm/kube-pet/crds")).unwrap().count();
    assert_eq!(files, definitions().len(), "a definition without a type");
}

#[test]
fn the_plain_manifests_are_the_chart() {
    let mut text = format!(
        "# Made from deploy/helm/kube-pet; see crates/cluster/tests/deploy.rs.\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"
    );
    for (_, definition) in definitions() {
        text.push_str("---\n");
        text.push_str(definition.trim_start_matches("---\n"));
    }
    let values = values();
    for (_, template) in templates() {
        text.push_str("---\n");
        text.push_str(&rendered(&template, &values));
    }
    check(&deploy().join("kube-pet.yaml"), &text);
}

/// Who needs what, and where: `role group/resource verb` → the file, and what in it.
const CODE: &[(&str, &str, &str, &str, &str)] = &[
    // role, resource, verbs, file, what is written there
    ("kube-pet:controller", "kube-pet.dev/petnetworks", "list watch", "cluster/src/controller.rs", "follow::<PetNetwork>"),
    ("kube-pet:controller", "kube-pet.dev/petgateways", "list watch", "cluster/src/controller.rs", "Api::<PetGateway>::all"),
    ("kube-pet:controller", "kube-pet.dev/petgateways", "get", "cluster/src/controller/sweep.rs", "reading the PetGateway"),
    ("kube-pet:controller", "kube-pet.dev/pets", "list watch", "cluster/src/controller.rs", "Api::<Pet>::all"),
    ("kube-pet:controller", "kube-pet.dev/pets", "get", "cluster/src/controller/certificates.rs", "reading the Pet"),
    ("kube-pet:controller", "kube-pet.dev/pets", "delete", "cluster/src/controller/sweep.rs", "deleting the Pet"),
    ("kube-pet:controller", "kube-pet.dev/petallocations", "list watch", "cluster/src/controller.rs", "follow::<PetAllocation>"),
    ("kube-pet:controller", "kube-pet.dev/petallocations", "get", "cluster/src/controller/claims.rs", "reading the allocation"),
    ("kube-pet:controller", "kube-pet.dev/petallocations", "create", "cluster/src/controller/claims.rs", "creating the allocation"),
    ("kube-pet:controller", "kube-pet.dev/petallocations", "delete", "cluster/src/controller/claims.rs", "freeing the allocation"),
    (
        "kube-pet:controller",
        "kube-pet.dev/petnetworks/status",
        "patch",
        "cluster/src/controller/sweep.rs",
        "writing the status of the PetNetwork",
    ),
    (
        "kube-pet:controller",
        "kube-pet.dev/petgateways/status",
        "patch",
        "cluster/src/controller/gateways.rs",
        "writing the status of the PetGateway",
    ),
    ("kube-pet:controller", "kube-pet.dev/pets/status", "patch", "cluster/src/controller/pets.rs", "writing the status of the Pet"),
    ("kube-pet:controller", "kube-pet.dev/petallocations/status", "patch", "cluster/src/controller/claims.rs", "marking the allocation"),
    ("kube-pet:controller", "/nodes", "list watch", "cluster/src/controller.rs", "follow::<Node>"),
    ("kube-pet:controller", "/nodes", "get", "cluster/src/controller/certificates.rs", "reading the Node"),
    ("kube-pet:controller", "/nodes", "patch", "cluster/src/controller/pets.rs", "writing to the Node"),
    (
        "kube-pet:controller",
        "certificates.k8s.io/certificatesigningrequests",
        "list watch",
        "cluster/src/controller.rs",
        "Api::<CertificateSigningRequest>::all",
    ),
    (
        "kube-pet:controller",
        "certificates.k8s.io/certificatesigningrequests/approval",
        "patch",
        "cluster/src/controller/certificates.rs",
        "patch_approval",
    ),
    ("kube-pet:controller", "certificates.k8s.io/signers", "approve", "cluster/src/controller/certificates.rs", "patch_approval"),
    ("kube-pet:controller", "coordination.k8s.io/leases", "get", "cluster/src/lease.rs", "get_opt"),
    ("kube-pet:controller", "coordination.k8s.io/leases", "create", "cluster/src/lease.rs", "fn create"),
    ("kube-pet:controller", "coordination.k8s.io/leases", "update", "cluster/src/lease.rs", "replace("),
    ("kube-pet:gateway", "kube-pet.dev/pets", "list watch", "cluster/src/gateway.rs", "the watch of Pets"),
    ("kube-pet:gateway", "kube-pet.dev/petnetworks", "list watch", "cluster/src/gateway.rs", "the watch of PetNetworks"),
    ("kube-pet:gateway", "kube-pet.dev/petgateways", "list watch", "cluster/src/gateway.rs", "the watch of PetGateways"),
    ("kube-pet:gateway", "kube-pet.dev/petgateways", "create patch", "cluster/src/gateway.rs", "fn announce"),
    ("kube-pet:gateway", "kube-pet.dev/petgateways/status", "patch", "cluster/src/gateway/report.rs", "fn patch_gateway"),
    ("kube-pet:gateway", "kube-pet.dev/pets/status", "patch", "cluster/src/gateway/report.rs", "fn report"),
    ("kube-pet:gateway", "coordination.k8s.io/leases", "get", "cluster/src/lease.rs", "get_opt"),
    ("kube-pet:gateway", "coordination.k8s.io/leases", "create", "cluster/src/lease.rs", "fn create"),
    ("kube-pet:gateway", "coordination.k8s.io/leases", "update", "cluster/src/lease.rs", "replace("),
    ("kube-pet:network-policies", "networking.k8s.io/networkpolicies", "list watch", "node/src/policies/watch.rs", "NetworkPolicy"),
    ("kube-pet:network-policies", "/namespaces", "list watch", "node/src/policies/watch.rs", "Namespace"),
    ("kube-pet:network-policies", "/pods", "list watch", "node/src/policies/watch.rs", "Pod"),
    ("kube-pet:pets", "kube-pet.dev/pets", "list watch", "node/src/tunnel/watches.rs", "the watch of the node's Pet"),
    ("kube-pet:pets", "kube-pet.dev/pets", "create", "node/src/tunnel/claim.rs", ".create("),
    ("kube-pet:pets", "kube-pet.dev/pets", "patch", "node/src/tunnel/claim.rs", ".patch("),
    ("kube-pet:pets", "kube-pet.dev/pets", "delete", "node/src/join/leave.rs", "pets.delete("),
    ("kube-pet:pets", "kube-pet.dev/petgateways", "list watch", "node/src/tunnel/watches.rs", "follow(Gateways"),
    ("kube-pet:pets", "kube-pet.dev/petnetworks", "list watch", "node/src/tunnel/watches.rs", "follow(Networks"),
];

/// Who is bound to which role, and which code has that from it: `subject role` → the file, and what in it.
const BINDINGS: &[(&str, &str, &str, &str)] = &[
    ("ServiceAccount kube-pet-controller", "kube-pet:controller", "cluster/src/controller.rs", "pub async fn run"),
    ("ServiceAccount kube-pet-gateway", "kube-pet:gateway", "cluster/src/gateway.rs", "pub async fn run"),
    ("Group system:bootstrappers:kube-pet", "system:node-bootstrapper", "node/src/identity/csr.rs", "Api<CertificateSigningRequest>"),
    (
        "Group system:bootstrappers:kube-pet",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "api/src/join_token.rs",
        "\"system:bootstrappers:kube-pet\"",
    ),
    ("Group system:nodes", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "node/src/identity/renewal.rs", "csr::"),
    ("Group system:nodes", "system:node-proxier", "node/src/services/watch.rs", "system:node-proxier"),
    ("Group system:nodes", "kube-pet:network-policies", "node/src/policies/watch.rs", "NetworkPolicy"),
    ("Group system:nodes", "kube-pet:pets", "node/src/tunnel/watches.rs", "the watch of the node's Pet"),
];

fn code(file: &str) -> String {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[test]
fn every_binding_is_needed_by_code() {
    let mut needed = BTreeSet::new();
    for (subject, role, file, what) in BINDINGS {
        assert!(code(file).contains(what), "{file} has no {what:?}: does {subject} still need {role}?");
        needed.insert(format!("{subject}: {role}"));
    }
    let mut given = BTreeSet::new();
    for object in objects().iter().filter(|object| text(&object["kind"]).ends_with("RoleBinding")) {
        for subject in object["subjects"].as_array().unwrap() {
            given.insert(format!("{} {}: {}", text(&subject["kind"]), text(&subject["name"]), text(&object["roleRef"]["name"])));
        }
    }
    assert_eq!(given, needed);
}

#[test]
fn every_permission_is_needed_by_code() {
    let mut needed = BTreeSet::new();
    for (role, resource, verbs, file, what) in CODE {
        assert!(code(file).contains(what), "{file} has no {what:?}: is {verbs} of {resource} still needed?");
        needed.extend(verbs.split(' ').map(|verb| format!("{role}: {verb} {resource}")));
    }
    let mut given = BTreeSet::new();
    for object in objects().iter().filter(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role") {
        let texts = |value: &Value| value.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect::<Vec<_>>();
        for rule in object["rules"].as_array().unwrap() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        assert!(![&group, &resource, &verb].iter().any(|text| *text == "*"), "no wildcards");
                        given.insert(format!("{}: {verb} {group}/{resource}", object["metadata"]["name"].as_str().unwrap()));
                    }
                }
            }
        }
    }
    let unused: Vec<_> = given.difference(&needed).collect();
    let missing: Vec<_> = needed.difference(&given).collect();
    assert!(unused.is_empty() && missing.is_empty(), "given but not needed: {unused:#?}\nneeded but not given: {missing:#?}");
}
