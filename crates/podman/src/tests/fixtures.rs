//! Every recorded reply of every recorded version is understood, and says the same.

use std::path::PathBuf;

use futures::StreamExt as _;

use super::{Answer, Connect as _, Fake};
use crate::*;

/// The versions that replies were recorded of.
fn versions() -> Vec<(String, PathBuf)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut versions: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    versions.sort();
    // One of each generation at least: 4.x, 5.x before and after the change of the database and of the pull's wording.
    assert!(versions.len() >= 3, "{versions:?}");
    versions
}

/// A service that answers everything with the recorded file `name` and the status that Podman gave with it.
fn recorded(dir: &std::path::Path, name: &str) -> Fake {
    let body = std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let status = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|v| v.get("response")?.as_u64())
        .map_or(200, |s| u16::try_from(s).unwrap());
    Fake::start(move |_, _| Answer::Reply(status, body.clone()))
}

#[tokio::test]
async fn containers_are_listed_and_inspected() {
    for (version, dir) in versions() {
        let list = recorded(&dir, "container_list.json").client().list_containers(&[]).await.unwrap();
        let by_name = |name: &str| list.iter().find(|c| c.name() == name).unwrap_or_else(|| panic!("{version}: {name}"));
        let running = by_name("fxc");
        assert_eq!(running.state, "running", "{version}");
        assert!(running.pid > 1 && running.started_at.is_some(), "{version}");
        assert_eq!(running.exited_at, None, "{version}: year 1 is never");
        assert_eq!(running.labels["io.kubernetes.pod.uid"], "u1", "{version}");
        assert_eq!(running.pod_id.len(), 64, "{version}");
        let exited = by_name("fxe");
        assert_eq!((exited.state.as_str(), exited.exited, exited.exit_code), ("exited", true, 3));
        assert!(exited.exited_at.is_some(), "{version}");
        assert_eq!(by_name("fxb").started_at, None, "{version}");

        let running = recorded(&dir, "container_inspect_running.json").client();
        let running = running.inspect_container("fxc").await.unwrap();
        assert!(running.state.running && running.state.pid > 1 && running.state.conmon_pid > 1);
        assert!(!running.state.cgroup_path.is_empty(), "{version}");
        assert!(running.static_dir.ends_with("userdata"), "{version}");

        let exited = recorded(&dir, "container_inspect_exited.json").client();
        let exited = exited.inspect_container("fxe").await.unwrap();
        assert_eq!((exited.state.status.as_str(), exited.state.exit_code), ("exited", 3));
        assert!(exited.state.finished_at > exited.state.started_at, "{version}");
        assert_eq!(exited.config.user, "1000:1000", "{version}");
        assert!(matches!(exited.config.stop_signal.as_deref(), Some("3" | "SIGQUIT")), "{version}: {:?}", exited.config.stop_signal);
        assert!(exited.config.entrypoint.join(" ").starts_with("/bin/sh"), "{version}");

        let created = recorded(&dir, "container_inspect_created.json").client();
        let created = created.inspect_container("fxb").await.unwrap();
        assert_eq!(created.state.status, "created", "{version}");
        assert_eq!((created.state.started_at, created.state.exit_code), (None, 0), "{version}");
    }
}

#[tokio::test]
async fn pods_images_info_and_exec_sessions_are_read() {
    for (version, dir) in versions() {
        let pods = recorded(&dir, "pod_list.json").client().list_pods(&[]).await.unwrap();
        let pod = pods.iter().find(|p| p.name == "fx").unwrap();
        assert_eq!((pod.containers.len(), pod.infra_id.as_str()), (2, ""), "{version}");
        assert_eq!(pod.labels["a"], "b", "{version}");
        let made = recorded(&dir, "pod_create.json").client();
        assert_eq!(made.create_pod(&PodSpecGenerator::new("p")).await.unwrap().len(), 64);
        let made = recorded(&dir, "container_create.json").client();
        assert_eq!(made.create_container(&SpecGenerator::default()).await.unwrap().id.len(), 64);

        let image = recorded(&dir, "image_inspect.json").client().inspect_image("x").await.unwrap();
        assert_eq!(image.config.entrypoint, ["/bin/echo", "entry"], "{version}");
        assert_eq!(image.config.cmd, ["cmd"], "{version}");
        assert_eq!((image.config.user.as_str(), image.config.working_dir.as_str()), ("1000:1000", "/tmp"));
        assert_eq!(image.config.stop_signal, "SIGQUIT", "{version}");
        assert!(image.config.volumes.contains_key("/data"), "{version}");
        assert!(image.config.exposed_ports.contains_key("80/tcp"), "{version}");
        assert!(image.repo_digests[0].contains("@sha256:") && image.size > 1000, "{version}");
        assert_eq!((image.os.as_str(), image.architecture.as_str()), ("linux", "amd64"));
        let images = recorded(&dir, "image_list.json").client().list_images().await.unwrap();
        assert!(images.iter().any(|i| i.id == image.id && i.size == image.size), "{version}");

        let info = recorded(&dir, "info.json").client().info().await.unwrap();
        assert!(matches!(info.host.cgroup_version.as_str(), "v1" | "v2"), "{version}");
        assert_eq!(info.host.oci_runtime.name, "crun", "{version}");
        assert!(info.store.graph_root.is_absolute() && info.store.run_root.is_absolute());

        let exec = recorded(&dir, "exec_inspect.json").client().inspect_exec("x").await.unwrap();
        assert_eq!((exec.container_id.len(), exec.running), (64, false), "{version}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    for (version, dir) in versions() {
        let spec = SpecGenerator::new("c", "i");
        let refusal = recorded(&dir, "error_name_in_use.json").client();
        let refusal = refusal.create_container(&spec).await.unwrap_err();
        assert!(refusal.is_name_in_use() && refusal.is_conflict(), "{version}: {refusal}");
        assert!(!refusal.is_image_unknown() && !refusal.is_retryable(), "{version}");

        let refusal = recorded(&dir, "error_image_unknown.json").client();
        let refusal = refusal.create_container(&spec).await.unwrap_err();
        assert!(refusal.is_image_unknown() && !refusal.is_name_in_use(), "{version}: {refusal}");
        let capabilities = Capabilities::for_version(version.parse().unwrap());
        let not_found = matches!(refusal, Error::Status { status, .. } if status == http::StatusCode::NOT_FOUND);
        assert_eq!(not_found, capabilities.missing_image_is_404, "{version}: {refusal}");

        let refusal = recorded(&dir, "error_pod_name_in_use.json").client();
        let refusal = refusal.create_pod(&PodSpecGenerator::new("p")).await.unwrap_err();
        assert!(refusal.is_name_in_use(), "{version}: {refusal}");

        let missing = recorded(&dir, "error_no_such_container.json").client();
        let refusal = missing.inspect_container("zz").await.unwrap_err();
        assert!(refusal.is_not_found() && !refusal.is_image_unknown(), "{version}: {refusal}");
        missing.remove_container("zz", true).await.unwrap();

        let missing = recorded(&dir, "error_no_such_image.json").client();
        assert!(missing.inspect_image("zz").await.unwrap_err().is_image_unknown(), "{version}");
        assert!(!missing.image_exists("zz").await.unwrap(), "{version}");
        missing.remove_image("zz").await.unwrap();

        let refusal = recorded(&dir, "error_start_not_found.json").client();
        let refusal = refusal.start_container("c").await.unwrap_err();
        assert!(refusal.podman_message().unwrap().contains("/nope"), "{version}: {refusal}");
        assert!(!refusal.is_not_found() && !refusal.is_retryable(), "{version}: {refusal}");

        let refusal = recorded(&dir, "error_kill_not_running.json").client();
        let refusal = refusal.kill_container("c", "TERM").await.unwrap_err();
        assert!(refusal.is_wrong_state() && refusal.is_conflict(), "{version}: {refusal}");
        assert!(!refusal.is_connection(), "{version}");
    }
}

#[tokio::test]
async fn pulls_end_with_an_id_or_the_registrys_words() {
    for (version, dir) in versions() {
        let mut lines = Vec::new();
        let id = recorded(&dir, "pull.jsonl").client().pull_image("x", None, |progress| lines.push(progress.line)).await.unwrap();
        assert_eq!(id.len(), 64, "{version}");
        assert!(lines[0].starts_with("Trying to pull "), "{version}: {lines:?}");
        assert!(lines.iter().any(|l| l.starts_with("Copying blob")), "{version}");
        for (name, text) in [
            ("pull_manifest_unknown.jsonl", "manifest unknown"),
            ("pull_name_unknown.jsonl", "name unknown"),
            ("pull_unauthorized.jsonl", "unauthorized"),
            ("pull_registry_unavailable.jsonl", "connection refused"),
        ] {
            let refused = recorded(&dir, name).client().pull_image("x", None, |_| {}).await;
            let refused = refused.unwrap_err();
            assert!(refused.podman_message().unwrap().contains(text), "{version}: {refused}");
        }
    }
}

#[tokio::test]
async fn events_carry_labels_and_exit_codes() {
    for (version, dir) in versions() {
        let fake = recorded(&dir, "events.json");
        let events: Vec<_> = fake.client().events(None).await.unwrap().collect().await;
        let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
        let of = |name: &str, status: &str| {
            events
                .iter()
                .find(|e| e.kind == "container" && e.name == name && e.status == status)
                .unwrap_or_else(|| panic!("{version}: no {status} of {name}"))
        };
        let died = of("fxe", "died");
        assert_eq!(died.exit_code, Some(3), "{version}");
        assert_eq!(died.labels["io.kubernetes.pod.uid"], "u1", "{version}");
        assert!(!died.labels.contains_key("image"), "{version}: {:?}", died.labels);
        assert!(died.time_nano > of("fxe", "create").time_nano, "{version}");
        assert_eq!(of("fxe", "start").exit_code, None, "{version}");
        assert_eq!(died.id.len(), 64, "{version}");
    }
}
