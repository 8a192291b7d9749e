use super::*;

fn image_pod() -> Pod {
    pod(json!({}), json!([{"name": "i", "image": {"reference": "docker.io/test/data:1"}}, {"name": "e", "emptyDir": {}}]))
}

/// What Podman has mounted of an image.
fn image(machine: &Machine) -> PathBuf {
    let root = machine.root.path().join("merged");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/f"), "content").unwrap();
    root
}

fn refuses_to_write(path: &Path) -> bool {
    fs::write(path.join("new"), "x").unwrap_err().kind() == std::io::ErrorKind::ReadOnlyFilesystem
}

#[tokio::test]
async fn mounts_images_are_mounted_read_only_once_and_unmounted_with_the_pod() {
    let (machine, uid) = (Machine::new(), PodUid::from("uid-1"));
    let root = image(&machine);
    let pod = image_pod();
    let volumes = machine.prepare(&pod).await.unwrap();
    assert!(volumes.path("i").is_none() && volumes.path("e").is_some(), "an image is not pulled yet when other volumes are made");
    assert_eq!(machine.volumes.mounted_image(&uid, "i").await.unwrap(), None);
    assert!(machine.volumes.mount_image(&uid, "../i", root.clone()).await.is_err());
    let mounted = machine.volumes.mount_image(&uid, "i", root.clone()).await.unwrap();
    assert_eq!(read(&mounted.join("bin/f")), "content");
    assert!(refuses_to_write(&mounted));
    assert_eq!(machine.volumes.mount_image(&uid, "i", root.clone()).await.unwrap(), mounted);
    assert_eq!(mounts::below(&mounted).unwrap().len(), 1);
    assert_eq!(machine.restarted().mounted_image(&uid, "i").await.unwrap(), Some(mounted.clone()));

    let restarted = machine.restarted();
    restarted.teardown(&uid).await.map_err(texts).unwrap();
    assert!(!machine.state().exists());
    assert_eq!(read(&root.join("bin/f")), "content");
}

#[tokio::test]
async fn mounts_images_and_their_sub_paths_as_a_container_mounts_them() {
    let (machine, uid) = (Machine::new(), PodUid::from("uid-1"));
    let mut pod = image_pod();
    let mut volumes = machine.prepare(&pod).await.unwrap();
    let mounted = machine.volumes.mount_image(&uid, "i", image(&machine)).await.unwrap();
    volumes.add_image("i", mounted.clone());
    let mut of = |mount: Value| {
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.volume_mounts = serde_json::from_value(json!([mount])).unwrap();
        machine
            .volumes
            .mounts_for(&pod, &pod.spec.as_ref().unwrap().containers[0], &volumes, &|_| None, None)
            .map(|mut made| made.remove(0))
    };
    let whole = of(json!({"name": "i", "mountPath": "/i"})).unwrap();
    assert_eq!((whole.source, whole.read_only, whole.selinux_relabel), (mounted, true, false));
    let part = of(json!({"name": "i", "mountPath": "/i", "subPath": "bin"})).unwrap();
    assert_eq!(read(&part.source.join("f")), "content");
    assert!(part.read_only && refuses_to_write(&part.source));
    let missing = of(json!({"name": "i", "mountPath": "/i", "subPath": "no/such"})).unwrap_err();
    assert_eq!(missing.to_string(), "ImageVolumeMountFailed: there is no subPath `no/such` in the image of volume \"i\"");
    assert!(VolumeError::from(missing).is_of_image());
}
