use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    let metadata = json!({
        "name": "web-0", "namespace": "shop", "uid": "u-1",
        "labels": {"app": "web", "tier": "front\"end"},
        "annotations": {"example.com/Note": "a\nb"},
    });
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn of(container: Value) -> (Pod, Container) {
    let pod = pod(json!({"nodeName": "pet", "serviceAccountName": "sa", "containers": [container]}));
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    (pod, container)
}

fn service(namespace: &str, name: &str, ip: &str, ports: &[(Option<&str>, i32, &str)]) -> ServiceFacts {
    let ports = ports.iter().map(|(name, port, protocol)| ServicePortFacts {
        name: name.map(str::to_owned),
        port: *port,
        protocol: (*protocol).to_owned(),
    });
    ServiceFacts { namespace: namespace.into(), name: name.into(), cluster_ip: ip.into(), ports: ports.collect() }
}

fn config_map(data: Value) -> ConfigMap {
    serde_json::from_value(json!({"data": data})).unwrap()
}

/// `data` in base64, as the API has it.
fn secret(data: Value) -> Secret {
    serde_json::from_value(json!({"data": data})).unwrap()
}

fn get<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

#[test]
fn expansion_follows_upstream() {
    let lookup = |name: &str| match name {
        "VAR_A" => Some("A".to_owned()),
        "VAR_B" => Some("B".to_owned()),
        "VAR_REF" => Some("$(VAR_A)".to_owned()),
        "VAR_EMPTY" => Some(String::new()),
        _ => None,
    };
    // The table of upstream's expand_test.go.
    for (input, expected) in [
        ("$(VAR_A)", "A"),
        ("___$(VAR_B)___", "___B___"),
        ("$(VAR_A)$(VAR_B)", "AB"),
        ("f000-$VAR_A", "f000-$VAR_A"),
        ("$(VAR_DNE)", "$(VAR_DNE)"),
        ("foo$(VAR_EMPTY)bar", "foobar"),
        ("$$(VAR_A)", "$(VAR_A)"),
        ("$$$(VAR_A)", "$A"),
        ("$$$$(VAR_A)", "$$(VAR_A)"),
        ("$$$$$$$(VAR_A)", "$$$A"),
        ("$VAR_A)", "$VAR_A)"),
        ("foo$(VAR_Awhoops!", "foo$(VAR_Awhoops!"),
        ("foo00(VAR_A)001", "foo00(VAR_A)001"),
        ("$?_boo_$!(VAR_A)", "$?_boo_$!(VAR_A)"),
        ("$(VAR_REF)", "$(VAR_A)"),
        ("%%$(VAR_REF)--$(VAR_REF)%%", "%%$(VAR_A)--$(VAR_A)%%"),
        ("foo$(VAR_EMPTY)bar$", "foobar$"),
        ("$()", "$()"),
        ("$$", "$"),
        ("$(foo$$var)", "$(foo$$var)"),
        ("$(foo$(VAR_A)", "$(foo$(VAR_A)"),
        ("\n", "\n"),
        ("日$(VAR_A)本$", "日A本$"),
    ] {
        assert_eq!(expand(input, &lookup), expected, "{input}");
    }
}

#[test]
fn variables_of_a_service() {
    let db = service("shop", "my-db", "10.0.0.7", &[(Some("sql-main"), 5432, "TCP"), (Some("dns"), 53, "UDP")]);
    let env: Vec<String> = service_env(&[db], "shop", true).iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        env,
        [
            "MY_DB_PORT=tcp://10.0.0.7:5432",
            "MY_DB_PORT_53_UDP=udp://10.0.0.7:53",
            "MY_DB_PORT_53_UDP_ADDR=10.0.0.7",
            "MY_DB_PORT_53_UDP_PORT=53",
            "MY_DB_PORT_53_UDP_PROTO=udp",
            "MY_DB_PORT_5432_TCP=tcp://10.0.0.7:5432",
            "MY_DB_PORT_5432_TCP_ADDR=10.0.0.7",
            "MY_DB_PORT_5432_TCP_PORT=5432",
            "MY_DB_PORT_5432_TCP_PROTO=tcp",
            "MY_DB_SERVICE_HOST=10.0.0.7",
            "MY_DB_SERVICE_PORT=5432",
            "MY_DB_SERVICE_PORT_DNS=53",
            "MY_DB_SERVICE_PORT_SQL_MAIN=5432",
        ]
    );
    let six = service_env(&[service("shop", "v6", "fd00::1", &[(None, 80, "")])], "shop", true);
    assert_eq!(six["V6_PORT"], "tcp://[fd00::1]:80");
}

#[test]
fn which_services_are_seen() {
    let port: &[(Option<&str>, i32, &str)] = &[(None, 443, "TCP")];
    let all = [
        service("default", "kubernetes", "10.0.0.1", port),
        service("shop", "web", "10.0.0.2", port),
        service("shop", "headless", "None", port),
        service("other", "far", "10.0.0.3", port),
        service("shop", "portless", "10.0.0.4", &[]),
    ];
    let hosts = |links| -> Vec<String> {
        let env = service_env(&all, "shop", links);
        env.into_keys().filter(|k| k.ends_with("_SERVICE_HOST")).collect()
    };
    assert_eq!(hosts(true), ["KUBERNETES_SERVICE_HOST", "PORTLESS_SERVICE_HOST", "WEB_SERVICE_HOST"]);
    assert_eq!(hosts(false), ["KUBERNETES_SERVICE_HOST"]);
    let mut shadowed = all.to_vec();
    shadowed.insert(0, service("shop", "kubernetes", "10.9.9.9", port));
    assert_eq!(service_env(&shadowed, "shop", true)["KUBERNETES_SERVICE_HOST"], "10.9.9.9");
}

#[test]
fn order_and_precedence() {
    let (pod, container) = of(json!({
        "name": "c",
        "envFrom": [
            {"configMapRef": {"name": "base"}},
            {"secretRef": {"name": "more"}, "prefix": "S_"},
            {"configMapRef": {"name": "gone", "optional": true}},
        ],
        "env": [
            {"name": "A", "value": "own"},
            {"name": "B", "value": "$(A)-$(S_X)-$(WEB_SERVICE_HOST)-$(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "WEB_SERVICE_PORT", "value": "mine"},
            {"name": "EMPTY"},
        ],
    }));
    let base = config_map(json!({"A": "from map", "Z": "z"}));
    let more = secret(json!({"X": "c2VjcmV0"}));
    let sources = EnvSources {
        config_maps: [("base".into(), Some(&base)), ("gone".into(), None)].into(),
        secrets: [("more".into(), Some(&more))].into(),
        services: &[service("shop", "web", "10.0.0.2", &[(None, 80, "TCP")])],
        ..EnvSources::default()
    };
    let env = build_env(&container, &pod, &sources).unwrap();
    let names: Vec<&str> = env.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(&names[..7], ["A", "Z", "S_X", "B", "LATER", "WEB_SERVICE_PORT", "EMPTY"]);
    assert_eq!(get(&env, "A"), Some("own"));
    assert_eq!(get(&env, "B"), Some("own-secret-10.0.0.2-$(LATER)"));
    assert_eq!(get(&env, "WEB_SERVICE_PORT"), Some("mine"));
    assert_eq!(get(&env, "WEB_PORT"), Some("tcp://10.0.0.2:80"));
    assert_eq!(get(&env, "EMPTY"), Some(""));
    assert_eq!(names.len(), env.iter().map(|(n, _)| n).collect::<std::collections::BTreeSet<_>>().len());
    assert!(!format!("{sources:?}").contains("c2VjcmV0"));
}

#[test]
fn messages_of_missing_sources() {
    let data = config_map(json!({"k": "v"}));
    let bytes = secret(json!({"bin": "/w==", "nul": "AA=="}));
    let sources = EnvSources {
        config_maps: [("here".into(), Some(&data)), ("gone".into(), None)].into(),
        secrets: [("here".into(), Some(&bytes)), ("gone".into(), None)].into(),
        ..EnvSources::default()
    };
    let key = |kind: &str, name: &str, key: &str, optional: bool| json!({"name": "c", "env": [{"name": "V", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]});
    for (container, message) in [
        (key("configMapKeyRef", "gone", "k", false), "configmap \"gone\" not found"),
        (key("secretKeyRef", "gone", "k", false), "secret \"gone\" not found"),
        (key("configMapKeyRef", "here", "x", false), "couldn't find key x in ConfigMap shop/here"),
        (key("secretKeyRef", "here", "x", false), "couldn't find key x in Secret shop/here"),
        (key("configMapKeyRef", "unread", "x", true), "couldn't get ConfigMap shop/unread: it has not been read"),
        (key("secretKeyRef", "here", "bin", false), "key bin in Secret shop/here is not valid UTF-8 and cannot be an environment variable"),
        (key("secretKeyRef", "here", "nul", false), "environment variable \"V\" contains a NUL byte"),
        (json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}]}), "configmap \"gone\" not found"),
        (json!({"name": "c", "envFrom": [{"secretRef": {"name": "gone", "optional": false}}]}), "secret \"gone\" not found"),
    ] {
        let (pod, container) = of(container);
        assert_eq!(build_env(&container, &pod, &sources).unwrap_err().to_string(), message);
    }
    for container in [key("configMapKeyRef", "gone", "k", true), key("secretKeyRef", "here", "x", true)] {
        let (pod, container) = of(container);
        assert!(build_env(&container, &pod, &sources).unwrap().is_empty());
    }
}

#[test]
fn fields() {
    let (pod, _) = of(json!({"name": "c"}));
    let (pods, hosts): (Vec<IpAddr>, Vec<IpAddr>) =
        (vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()], vec!["192.0.2.1".parse().unwrap()]);
    let value = |path: &str| field_value(&pod, path, &pods, &hosts, None).map_err(|e| e.to_string());
    for (path, expected) in [
        ("metadata.name", Ok("web-0")),
        ("metadata.namespace", Ok("shop")),
        ("metadata.uid", Ok("u-1")),
        ("metadata.labels['app']", Ok("web")),
        ("metadata.labels['none']", Ok("")),
        ("metadata.annotations['example.com/Note']", Ok("a\nb")),
        ("metadata.labels", Ok("app=\"web\"\ntier=\"front\\\"end\"")),
        ("spec.nodeName", Ok("pet")),
        ("spec.serviceAccountName", Ok("sa")),
        ("status.podIP", Ok("10.1.0.5")),
        ("status.podIPs", Ok("10.1.0.5,fd00::5")),
        ("status.hostIP", Ok("192.0.2.1")),
        ("status.hostIPs", Ok("192.0.2.1")),
        ("status.phase", Err("unsupported fieldPath: status.phase")),
        ("spec.containers", Err("field label not supported: spec.containers")),
        ("spec.x['y']", Err("field label does not support subscript: spec.x['y']")),
    ] {
        assert_eq!(value(path), expected.map(str::to_owned).map_err(str::to_owned), "{path}");
    }
    assert!(value("metadata.labels['-bad']").unwrap_err().starts_with("invalid key subscript in metadata.labels['-bad']: "));
    assert!(field_value(&pod, "status.hostIP", &[], &[], None).is_err());
    assert_eq!(field_value(&pod, "status.podIP", &[], &[], None).unwrap(), "");
}

#[test]
fn resource_fields() {
    let (pod, container) = of(json!({
        "name": "c",
        "resources": {"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"memory": "64Mi", "hugepages-2Mi": "4Mi"}},
    }));
    let node = NodeInfo {
        allocatable: [("cpu", "3500m"), ("memory", "8Gi"), ("ephemeral-storage", "10G")]
            .map(|(k, v)| (k.to_owned(), Quantity(v.into())))
            .into(),
        ..NodeInfo::default()
    };
    let value = |selector: Value| {
        let selector = serde_json::from_value(selector).unwrap();
        resource_field_value(&pod, &selector, Some(&container), Some(&node)).map_err(|e| e.to_string())
    };
    for (selector, expected) in [
        (json!({"resource": "requests.cpu"}), "1"),
        (json!({"resource": "requests.cpu", "divisor": "1m"}), "250"),
        (json!({"resource": "requests.cpu", "divisor": "0"}), "1"),
        (json!({"resource": "limits.cpu"}), "4"),
        (json!({"resource": "limits.cpu", "divisor": "1m"}), "3500"),
        (json!({"resource": "limits.memory", "divisor": "1Mi", "containerName": "c"}), "64"),
        (json!({"resource": "requests.memory"}), "33554432"),
        (json!({"resource": "limits.ephemeral-storage"}), "10000000000"),
        (json!({"resource": "requests.ephemeral-storage"}), "0"),
        (json!({"resource": "limits.hugepages-2Mi", "divisor": "1Mi"}), "4"),
        (json!({"resource": "requests.hugepages-1Gi"}), "0"),
    ] {
        assert_eq!(value(selector.clone()), Ok(expected.to_owned()), "{selector}");
    }
    assert_eq!(value(json!({"resource": "limits.nvidia.com/gpu"})).unwrap_err(), "unsupported container resource : limits.nvidia.com/gpu");
    assert_eq!(value(json!({"resource": "limits.cpu", "containerName": "x"})).unwrap_err(), "container x not found");
    assert!(value(json!({"resource": "limits.cpu", "divisor": "1x"})).unwrap_err().contains("\"1x\""));
}

#[test]
fn commands() {
    let (_, container) = of(json!({"name": "c", "command": ["sh", "-c", "echo $(A) $$(A) $(NO)"], "args": []}));
    let env = [("A".to_owned(), "1".to_owned())];
    let (command, args) = expand_command(&container, &env);
    assert_eq!(command.unwrap(), ["sh", "-c", "echo 1 $(A) $(NO)"]);
    assert_eq!(args, None);
}

#[test]
fn references() {
    let pod = pod(json!({
        "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s", "optional": true}}]}],
        "containers": [{"name": "c", "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": true}}},
            {"name": "C", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p/e.env", "key": "K"}}},
        ]}],
    }));
    let refs: Vec<_> = object_refs(&pod).into_iter().map(|r| (r.kind, r.name, r.optional)).collect();
    assert_eq!(refs, [(ObjectKind::ConfigMap, "m".into(), true), (ObjectKind::Secret, "s".into(), false)]);
    let app = &pod.spec.as_ref().unwrap().containers[0];
    assert_eq!(container_object_refs(app).len(), 2);
    let files = file_refs(&pod.spec.as_ref().unwrap().containers[0]);
    assert_eq!(files.into_iter().collect::<Vec<_>>(), [FileRef { volume: "v".into(), path: "p/e.env".into() }]);
}

#[test]
fn env_files() {
    let file = b"# c\n\n A='1' # one\r\nB='two\nlines'\nE= 'x'\nC='$(A)'\n";
    for (key, value) in [("A", "1"), ("B", "two\nlines"), ("C", "$(A)"), ("E", ""), ("NO", "")] {
        assert_eq!(env_file_value(file, key).unwrap(), value, "{key}");
    }
    for (file, error) in [
        ("A", EnvFileError::NoEquals { line: 1 }),
        ("\n='x'", EnvFileError::NoName { line: 2 }),
        ("A ='x'", EnvFileError::Space { line: 1 }),
        ("A=x", EnvFileError::NoQuote { line: 1 }),
        ("A='x\ny' z", EnvFileError::Trailing { line: 2 }),
        ("\nA='x\ny", EnvFileError::Unclosed { line: 2 }),
    ] {
        assert_eq!(env_file_value(file.as_bytes(), "K"), Err(error), "{file}");
    }
    let (pod, container) = of(json!({"name": "c", "env": [
        {"name": "V", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "e", "key": "A"}}},
        {"name": "W", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "gone", "key": "A", "optional": true}}},
    ]}));
    let files = [(("v".into(), "e".into()), Some(file.to_vec())), (("v".into(), "gone".into()), None)].into();
    let env = build_env(&container, &pod, &EnvSources { files, ..EnvSources::default() }).unwrap();
    assert_eq!(env, [("V".to_owned(), "1".to_owned())]);
}

proptest! {
    #[test]
    fn expansion_never_panics_and_keeps_text_without_dollars(text in ".{0,40}") {
        let expanded = expand(&text, &|_| Some(String::new()));
        prop_assert!(text.contains('$') || expanded == text);
    }

    #[test]
    fn unknown_references_stay(text in "[a-z()$]{0,30}") {
        // Only `$$` is shortened when nothing is known.
        let expanded = expand(&text, &|_| None);
        prop_assert!(text.contains("$$") || expanded == text);
    }

    #[test]
    fn env_files_never_panic(text in "[A-C='# \n\t]{0,40}", key in "[A-C]") {
        let _ = env_file_value(text.as_bytes(), &key);
    }

    #[test]
    fn env_file_values_read_back(value in "[^'\0\r]{1,40}") {
        prop_assert_eq!(env_file_value(format!("X='1'\nK='{value}'\n").as_bytes(), "K").unwrap(), value);
    }
}
