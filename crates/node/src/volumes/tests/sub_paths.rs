use super::*;

fn with_mounts(volumes: Value, mounts: Value) -> Pod {
    let mut pod = pod(json!({}), volumes);
    pod.spec.as_mut().unwrap().containers[0].volume_mounts = serde_json::from_value(mounts).unwrap();
    pod
}

fn mount_points(machine: &Machine, pod: &Pod, volumes: &PodVolumes) -> Result<Vec<ContainerMount>, String> {
    let variable = |name: &str| (name == "POD_NAME").then(|| "p-0".to_owned());
    let container = &pod.spec.as_ref().unwrap().containers[0];
    machine.volumes.mounts_for(pod, container, volumes, &variable, None).map_err(|error| error.to_string())
}

#[tokio::test]
async fn mounts_sub_paths_are_made_and_bound() {
    let machine = Machine::new();
    machine.config_map("m", json!({"a": "1"}));
    let pod = with_mounts(
        json!([{"name": "e", "emptyDir": {}}, {"name": "m", "configMap": {"name": "m"}}]),
        json!([
            {"name": "e", "mountPath": "/e", "subPathExpr": "logs/$(POD_NAME)"},
            {"name": "m", "mountPath": "etc/a", "subPath": "a", "mountPropagation": "HostToContainer"},
            {"name": "e", "mountPath": "/whole", "readOnly": true},
        ]),
    );
    let volumes = machine.prepare(&pod).await.unwrap();
    let mounted = mount_points(&machine, &pod, &volumes).unwrap();
    assert_eq!(mode(&volumes.path("e").unwrap().join("logs/p-0")), 0o777);
    fs::write(mounted[0].source.join("f"), "x").unwrap();
    assert_eq!(read(&volumes.path("e").unwrap().join("logs/p-0/f")), "x");
    assert_eq!((mounted[0].read_only, mounted[0].selinux_relabel), (false, true));
    assert_eq!((mounted[1].destination.as_str(), read(&mounted[1].source)), ("/etc/a", "1".into()));
    assert_eq!((mounted[1].read_only, mounted[1].propagation), (true, Propagation::HostToContainer));
    assert_eq!((&mounted[2].source, mounted[2].read_only), (volumes.path("e").unwrap(), true));
    assert_eq!(mount_points(&machine, &pod, &volumes).unwrap(), mounted);

    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert!(!machine.state().exists());
}

#[tokio::test]
async fn mounts_a_hostile_sub_path_is_refused_without_details() {
    let machine = Machine::new();
    let outside = machine.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "x").unwrap();
    let mounting = |mount: Value| {
        let mut mount = mount;
        mount["name"] = json!("e");
        mount["mountPath"] = json!("/e");
        with_mounts(json!([{"name": "e", "emptyDir": {}}]), json!([mount]))
    };
    let volumes = machine.prepare(&mounting(json!({}))).await.unwrap();
    let volume = volumes.path("e").unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    symlink("../../../../../../../../etc", volume.join("up")).unwrap();
    fs::write(volume.join("file"), "").unwrap();
    let cases = [
        (json!({"subPath": "link/secret"}), "failed to prepare subPath for volumeMount \"e\" of container \"c\""),
        (json!({"subPath": "up/shadow"}), "failed to prepare subPath for volumeMount \"e\" of container \"c\""),
        (json!({"subPath": "../x"}), "unable to provision SubPath `../x`: must not contain '..'"),
        (json!({"subPath": "/etc"}), "error SubPath `/etc` must not be an absolute path"),
        (json!({"subPathExpr": "$(NOPE)"}), "missing value for NOPE"),
    ];
    for (mount, expected) in cases {
        assert_eq!(mount_points(&machine, &mounting(mount), &volumes), Err(expected.to_owned()));
    }
    let unknown = with_mounts(json!([]), json!([{"name": "gone", "mountPath": "/e"}]));
    let expected = "cannot find volume \"gone\" to mount into container \"c\"";
    assert_eq!(mount_points(&machine, &unknown, &volumes), Err(expected.to_owned()));
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert_eq!(read(&outside.join("secret")), "x");
}

#[tokio::test]
async fn mounts_what_a_pod_mounted_into_its_volume_survives_it() {
    let machine = Machine::new();
    let outside = machine.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let host = json!([{"name": "h", "hostPath": {"path": outside}}, {"name": "e", "emptyDir": {}}]);
    let pod = with_mounts(host, json!([{"name": "h", "mountPath": "/h", "subPath": "sub"}, {"name": "e", "mountPath": "/e"}]));
    let volumes = machine.prepare(&pod).await.unwrap();
    let mounted = mount_points(&machine, &pod, &volumes).unwrap();
    fs::write(mounted[0].source.join("kept"), "y").unwrap();
    // As a privileged container with bidirectional propagation may do.
    let inner = volumes.path("e").unwrap().join("inner");
    fs::create_dir(&inner).unwrap();
    mounts::bind(&outside, &inner, BindOptions::default()).unwrap();
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert!(!machine.state().exists());
    assert_eq!((read(&outside.join("precious")), read(&outside.join("sub/kept"))), ("x".into(), "y".into()));
}

#[tokio::test]
async fn mounts_recursively_read_only_hold_what_is_mounted_below_the_volume() {
    if !kube_pet_host::read_only::is_supported() {
        println!("skipped: the kernel has no mount_setattr");
        return;
    }
    let machine = Machine::new();
    let mount = |mode: &str| {
        let mount = json!({"name": "e", "mountPath": "/e", "readOnly": true, "recursiveReadOnly": mode});
        with_mounts(json!([{"name": "e", "emptyDir": {}}]), json!([mount]))
    };
    let volumes = machine.prepare(&mount("Enabled")).await.unwrap();
    let inner = volumes.path("e").unwrap().join("inner");
    fs::create_dir(&inner).unwrap();
    mounts::tmpfs(&inner, None, 0o777, true).unwrap();
    let refused = mount_points(&machine, &mount("Enabled"), &volumes).unwrap_err();
    assert!(refused.ends_with("it is not supported by the runtime"), "{refused}");
    let plain = mount_points(&machine, &mount("IfPossible"), &volumes).unwrap().remove(0);
    assert_eq!((&plain.source, plain.recursive_read_only), (volumes.path("e").unwrap(), false));

    let able = machine.restarted().with_recursive_read_only(true);
    for mode in ["Enabled", "IfPossible"] {
        let pod = mount(mode);
        let made = able.mounts_for(&pod, &pod.spec.as_ref().unwrap().containers[0], &volumes, &|_| None, None).unwrap().remove(0);
        assert!(made.read_only && made.recursive_read_only);
        let error = fs::write(made.source.join("inner/f"), "x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{mode}");
    }
    fs::write(inner.join("f"), "x").unwrap();
    able.teardown(&"uid-1".into()).await.map_err(texts).unwrap();
    assert!(!machine.state().exists());
}
