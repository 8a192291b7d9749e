use std::os::unix::fs::PermissionsExt as _;

use k8s_openapi::ByteString;

use super::*;

fn named(name: &str, version: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("ns".to_owned()),
        name: Some(name.to_owned()),
        resource_version: Some(version.to_owned()),
        ..ObjectMeta::default()
    }
}

fn config_map(version: &str, text: &str) -> ConfigMap {
    ConfigMap { metadata: named("c", version), data: Some([("a".to_owned(), text.to_owned())].into()), ..ConfigMap::default() }
}

fn secret(text: &str) -> Secret {
    Secret { metadata: named("s", "1"), data: Some([("p".to_owned(), ByteString(text.into()))].into()), ..Secret::default() }
}

fn open(folder: &tempfile::TempDir, secrets: bool) -> Arc<Copies> {
    Arc::new(Copies::open(&Paths::new(folder.path()), secrets).unwrap())
}

fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { everything(&path) } else { vec![(path.clone(), fs::read(&path).unwrap())] }).collect()
}

#[tokio::test]
async fn a_later_run_finds_what_was_told_last() {
    let folder = tempfile::tempdir().unwrap();
    let (copies, key) = (open(&folder, false), Key::new("ns", "c"));
    for (version, text) in [("1", "x"), ("2", "y")] {
        copies.keep(&key, Some(&config_map(version, text))).await;
    }
    let later = open(&folder, false);
    assert_eq!(later.find(&key).await, Some(config_map("2", "y")));
    assert_eq!(later.find::<ConfigMap>(&Key::new("ns", "other")).await, None);
    later.keep::<ConfigMap>(&key, None).await;
    assert_eq!(later.find::<ConfigMap>(&key).await, None, "it was deleted");
}

#[tokio::test]
async fn secrets_are_kept_only_if_wanted_and_nothing_of_them_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let (key, secret) = (Key::new("ns", "s"), secret("pass-word-1"));
    let without = open(&folder, false);
    without.keep(&key, Some(&secret)).await;
    assert!(everything(folder.path()).is_empty());
    let with = open(&folder, true);
    with.keep(&key, Some(&secret)).await;
    assert_eq!(open(&folder, true).find(&key).await, Some(secret.clone()));
    for (path, bytes) in everything(folder.path()) {
        let told = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!told(b"pass-word-1") && !told(b"cGFzcy13b3JkLTE"), "{}", path.display());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }
    // One Secret's copy in the place of another's.
    let paths = Paths::new(folder.path());
    fs::copy(paths.object_copies().join("ns/secret-s"), paths.object_copies().join("ns/secret-t")).unwrap();
    assert_eq!(with.find::<Secret>(&Key::new("ns", "t")).await, None);
    // Another machine's key.
    fs::write(paths.secrets_key(), [7; KEY_BYTES]).unwrap();
    assert_eq!(open(&folder, true).find::<Secret>(&key).await, None);
    fs::write(paths.secrets_key(), "short").unwrap();
    let error = Copies::open(&paths, true).err().unwrap().to_string();
    assert!(error.contains("secrets.key: it is damaged"), "{error}");
    // Turned off.
    open(&folder, false);
    assert!(everything(folder.path()).is_empty(), "{:?}", everything(folder.path()));
}

#[tokio::test]
async fn copies_go_with_the_last_pod_of_their_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let (copies, key) = (open(&folder, false), Key::new("ns", "c"));
    copies.keep(&key, Some(&config_map("1", "x"))).await;
    copies.keep_only(&["ns".to_owned()].into());
    assert!(copies.find::<ConfigMap>(&key).await.is_some());
    copies.keep_only(&BTreeSet::new());
    assert!(copies.find::<ConfigMap>(&key).await.is_none());
    // It is written again, though its version is known.
    copies.keep(&key, Some(&config_map("1", "x"))).await;
    assert!(copies.find::<ConfigMap>(&key).await.is_some());
}

#[tokio::test]
async fn names_lead_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let copies = open(&folder, false);
    for (namespace, name) in [("..", "c"), ("ns", "../c"), ("a/b", "c"), ("", "c"), ("ns", "")] {
        copies.keep(&Key::new(namespace, name), Some(&config_map("1", "x"))).await;
    }
    assert!(everything(folder.path()).is_empty());
}
