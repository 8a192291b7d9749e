use super::*;

const GOOD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: c\n    image: busybox\n";

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_manifest_becomes_a_pod_of_this_node() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "web.yaml", GOOD);
    let pod = read_manifest(&path, "pet1").unwrap();
    assert_eq!(pod.metadata.name.as_deref(), Some("web-pet1"));
    assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(pod.metadata.annotations.as_ref().unwrap()["kubernetes.io/config.source"], "file");
    let uid = pod.metadata.uid.clone().unwrap();
    assert_eq!(uid, read_manifest(&path, "pet1").unwrap().metadata.uid.unwrap(), "the same content is the same pod");
    write(dir.path(), "web.yaml", &GOOD.replace("busybox", "nginx"));
    assert_ne!(uid, read_manifest(&path, "pet1").unwrap().metadata.uid.unwrap(), "new content is a new pod");
}

#[test]
fn errors_name_the_file_and_the_field() {
    let dir = tempfile::tempdir().unwrap();
    for (text, wanted) in [
        ("{", "is not a v1 Pod"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {containers: []}\n", "metadata.name is missing"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n", "is not a v1 Pod"),
        (&GOOD.replace("name: web", "name: ../web"), "metadata.name must be"),
        (&GOOD.replace("    image: busybox\n", ""), "image of container c is missing"),
        (&GOOD.replace("- name: c", "- name: a/b"), "must be a DNS label"),
    ] {
        let path = write(dir.path(), "bad.yaml", text);
        let error = read_manifest(&path, "pet1").unwrap_err().to_string();
        assert!(error.contains("bad.yaml") && error.contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn a_broken_manifest_leaves_its_pod_and_a_removed_one_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "web.yaml", GOOD);
    write(dir.path(), ".hidden.yaml", GOOD);
    let (tx, mut rx) = mpsc::channel(8);
    let task = tokio::spawn(watch(dir.path().to_owned(), "pet1".into(), None, tx));
    let Some(PodUpdate::Put(Source::File, pod)) = rx.recv().await else { panic!("no pod") };
    assert!(matches!(rx.recv().await, Some(PodUpdate::Synced(Source::File))));
    std::fs::write(&path, "{ broken").unwrap();
    tokio::time::sleep(CHECK_EVERY + Duration::from_millis(500)).await;
    assert!(rx.try_recv().is_err(), "a broken file must change nothing");
    std::fs::remove_file(&path).unwrap();
    let Some(PodUpdate::Gone(Source::File, uid)) = rx.recv().await else { panic!("pod not gone") };
    assert_eq!(uid, pod_uid(&pod));
    drop(rx);
    task.await.unwrap();
}

#[tokio::test]
async fn component_the_name_of_the_machine_s_own_pod_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "host.yaml", &GOOD.replace("name: web", "name: host\n  namespace: kube-system"));
    write(dir.path(), "other.yaml", &GOOD.replace("name: web", "name: host"));
    let (tx, mut rx) = mpsc::channel(8);
    let reserved = ("kube-system".to_owned(), "host-pet1".to_owned());
    let task = tokio::spawn(watch(dir.path().to_owned(), "pet1".into(), Some(reserved.clone()), tx));
    let Some(PodUpdate::Put(Source::File, pod)) = rx.recv().await else { panic!("no pod") };
    assert_eq!((pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref()), (Some("default"), Some("host-pet1")));
    assert!(matches!(rx.recv().await, Some(PodUpdate::Synced(Source::File))));
    task.abort();
    let path = dir.path().join("host.yaml");
    let error = unreserved(read_manifest(&path, "pet1").unwrap(), &path, Some(&reserved)).unwrap_err().to_string();
    assert!(error.contains("host.yaml: metadata.name makes it kube-system/host-pet1"), "{error}");
}
