//! What goes over the wire.

use std::time::Duration;

use super::{Answer, Connect as _, Fake};
use crate::*;

fn body_of(request: &str) -> serde_json::Value {
    serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

#[test]
fn a_pods_container_says_what_versions_default_differently() {
    let json = serde_json::to_value(SpecGenerator::new("c", "i")).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "name": "c", "image": "i", "env_host": false, "httpproxy": false, "init": false,
            "restart_policy": "no", "systemd": "false", "sdnotifyMode": "ignore",
            "healthconfig": {"Test": ["NONE"]}, "image_volume_mode": "anonymous",
            "manage_password": false, "use_image_hosts": true, "use_image_resolve_conf": true,
        })
    );
}

#[test]
fn field_names_are_podmans() {
    let mut spec = SpecGenerator::new("c", "i");
    spec.entrypoint = vec!["/e".into()];
    spec.netns = Some(Namespace::path("/run/net"));
    spec.mounts = vec![Mount::bind("/a", "/b", true)];
    spec.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), hard: 2, soft: 1 }];
    spec.log_configuration = Some(LogConfiguration::k8s_file("/l"));
    spec.resource_limits = Some(LinuxResources {
        cpu: Some(LinuxCpu { shares: Some(2), quota: Some(-1), period: Some(100_000), ..LinuxCpu::default() }),
        memory: Some(LinuxMemory { limit: Some(5), swap: Some(5), ..LinuxMemory::default() }),
        pids: Some(LinuxPids { limit: -1 }),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 1 }],
        ..LinuxResources::default()
    });
    spec.devices = vec![Device { path: "/dev/fuse".into(), ..Device::default() }];
    let json = serde_json::to_value(&spec).unwrap();
    for (pointer, want) in [
        ("/netns", serde_json::json!({"nsmode": "path", "value": "/run/net"})),
        ("/mounts/0/type", "bind".into()),
        ("/mounts/0/options", serde_json::json!(["rbind", "ro", "rprivate"])),
        ("/r_limits/0/type", "RLIMIT_NOFILE".into()),
        ("/log_configuration", serde_json::json!({"driver": "k8s-file", "path": "/l"})),
        ("/resource_limits/cpu", serde_json::json!({"shares": 2, "quota": -1, "period": 100_000})),
        ("/resource_limits/memory", serde_json::json!({"limit": 5, "swap": 5})),
        ("/resource_limits/pids/limit", (-1).into()),
        ("/resource_limits/hugepageLimits/0", serde_json::json!({"pageSize": "2MB", "limit": 1})),
        ("/devices/0/path", "/dev/fuse".into()),
    ] {
        assert_eq!(json.pointer(pointer), Some(&want), "{pointer}");
    }
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let mut spec = SpecGenerator::new("c", "i");
    spec.env.insert("PASSWORD".into(), "hunter2".into());
    let auth = RegistryAuth { server: "r".into(), username: "u".into(), password: "hunter2".into(), ..Default::default() };
    let exec = ExecConfig { env: vec!["P=hunter2".into()], ..Default::default() };
    let config: ContainerConfig = serde_json::from_str(r#"{"Env":["P=hunter2"]}"#).unwrap();
    let text = format!("{spec:?} {auth:?} {exec:?} {config:?}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn calls_go_where_podman_expects_them() {
    let fake = Fake::start(|path, _| {
        if path.contains("/wait?") {
            Answer::Reply(200, b"137\n".to_vec())
        } else if path.ends_with("/mount") {
            Answer::Reply(200, b"/store/overlay/x/merged\n".to_vec())
        } else if path.contains("/json") {
            Answer::Reply(200, b"[]".to_vec())
        } else {
            Answer::Reply(204, Vec::new())
        }
    });
    let client = fake.client();
    client.start_container("c").await.unwrap();
    client.kill_container("c", "SIGTERM").await.unwrap();
    client.stop_container("c", Duration::from_secs(30)).await.unwrap();
    client.remove_container("c", true).await.unwrap();
    client.remove_container("c", false).await.unwrap();
    client.list_containers(&[("a.b/c", "d e"), ("f", "")]).await.unwrap();
    let wait = client.wait_container("c", WaitCondition::Stopped, Duration::from_secs(1));
    assert_eq!(wait.await.unwrap(), 137);
    assert_eq!(client.mount_container("c").await.unwrap(), std::path::Path::new("/store/overlay/x/merged"));
    client.remove_pod("p", true).await.unwrap();
    assert!(client.pod_exists("p").await.unwrap());
    assert!(client.image_exists("docker.io/library/a:1").await.unwrap());
    client.resize_exec("e", 80, 24).await.unwrap();
    let lines: Vec<_> =
        fake.requests().iter().map(|r| r.lines().next().unwrap().replace("/v4.0.0/libpod", "").replace(" HTTP/1.1", "")).collect();
    assert_eq!(
        lines,
        [
            "POST /containers/c/start",
            "POST /containers/c/kill?signal=SIGTERM",
            "POST /containers/c/stop?timeout=30",
            "DELETE /containers/c?ignore=true&v=true&volumes=true&force=true&timeout=0",
            "DELETE /containers/c?ignore=true&v=true&volumes=true",
            "GET /containers/json?all=true&filters=%7B%22label%22%3A%5B%22a.b%2Fc%3Dd%20e%22%2C%22f%22%5D%7D",
            "POST /containers/c/wait?condition=stopped&interval=20ms",
            "POST /containers/c/mount",
            "DELETE /pods/p?force=true&timeout=0",
            "GET /pods/p/exists",
            "GET /images/docker.io%2Flibrary%2Fa%3A1/exists",
            "POST /exec/e/resize?h=24&w=80",
        ]
    );
}

#[tokio::test]
async fn credentials_travel_in_the_header_only() {
    use base64::Engine as _;
    let fake = Fake::start(|_, _| Answer::Reply(200, b"{\"id\":\"abc\"}\n".to_vec()));
    let auth = RegistryAuth { username: "u".into(), password: "p?~".into(), ..Default::default() };
    assert_eq!(fake.client().pull_image("r.io/a:1", Some(&auth), |_| {}).await.unwrap(), "abc");
    let request = fake.requests().remove(0);
    assert!(request.starts_with("POST /v4.0.0/libpod/images/pull?reference=r.io%2Fa%3A1&policy=always HTTP"));
    let value = request.lines().find_map(|l| l.strip_prefix("x-registry-auth: ")).unwrap();
    let decoded = base64::engine::general_purpose::URL_SAFE.decode(value).unwrap();
    assert_eq!(decoded, br#"{"username":"u","password":"p?~"}"#);
    fake.client().pull_image("r.io/a:1", None, |_| {}).await.unwrap();
    assert!(!fake.requests()[1].contains("x-registry-auth"));
}

#[tokio::test]
async fn an_exec_session_is_a_two_way_stream() {
    use tokio::io::AsyncReadExt as _;
    let fake = Fake::start(|path, _| {
        if path.ends_with("/start") {
            let mut bytes = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".to_vec();
            bytes.extend_from_slice(b"\x01\0\0\0\0\0\0\x02hi");
            Answer::Raw(bytes)
        } else {
            Answer::Reply(201, b"{\"Id\":\"s1\"}".to_vec())
        }
    });
    let client = fake.client();
    let config = ExecConfig { cmd: vec!["true".into()], attach_stdout: true, ..Default::default() };
    let session = client.create_exec("c", &config).await.unwrap();
    let created = body_of(&fake.requests()[0]);
    assert_eq!((&created["Cmd"][0], &created["AttachStdout"]), (&"true".into(), &true.into()));
    let mut stream = client.start_exec(&session).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x02hi");
    assert!(fake.requests()[1].to_lowercase().contains("upgrade: tcp"));
}
