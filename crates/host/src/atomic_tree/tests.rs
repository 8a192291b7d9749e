use super::*;

fn payload(files: &[(&str, &str)]) -> Payload {
    files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), ProjectedFile { bytes: text.as_bytes().to_vec(), mode: 0o644, uid: None }))
        .collect()
}

fn put(volume: &Path, files: &[(&str, &str)]) -> bool {
    write(volume, &payload(files), |_| Ok(())).unwrap()
}

fn names(volume: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Names without the one timestamped folder, which must be there.
fn visible(volume: &Path) -> Vec<String> {
    let (dated, rest): (Vec<String>, Vec<String>) = names(volume).into_iter().partition(|name| name.starts_with("..2"));
    assert_eq!(dated.len(), 1, "{dated:?}");
    rest
}

#[test]
fn the_layout_is_that_of_the_kubelet() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path();
    assert!(put(volume, &[("one", "1"), ("sub/dir/two", "2"), ("sub/three", "3")]));
    assert_eq!(visible(volume), ["..data", "one", "sub"]);
    assert_eq!(fs::read_link(volume.join("one")).unwrap(), Path::new("..data/one"));
    assert_eq!(fs::read_link(volume.join("sub")).unwrap(), Path::new("..data/sub"));
    let dated = fs::read_link(volume.join("..data")).unwrap();
    assert_eq!(dated.components().count(), 1);
    assert_eq!(fs::metadata(volume.join(&dated)).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read(volume.join("sub/dir/two")).unwrap(), b"2");
}

#[test]
fn only_changes_are_written_and_they_appear_together() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path();
    assert!(put(volume, &[("a", "1"), ("b", "1"), ("gone/x", "1")]));
    let before = fs::read_link(volume.join("..data")).unwrap();
    assert!(!put(volume, &[("a", "1"), ("b", "1"), ("gone/x", "1")]));
    assert_eq!(fs::read_link(volume.join("..data")).unwrap(), before);
    assert!(put(volume, &[("a", "2"), ("b", "1"), ("new", "1")]));
    assert_eq!(visible(volume), ["..data", "a", "b", "new"]);
    assert_eq!(fs::read(volume.join("a")).unwrap(), b"2");
    assert!(put(volume, &[]));
    assert_eq!(visible(volume), ["..data"]);
}

#[test]
fn a_removed_file_in_a_folder_that_stays_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &[("sub/a", "1"), ("sub/b", "1")]);
    assert!(put(dir.path(), &[("sub/a", "1")]));
    assert!(!dir.path().join("sub/b").exists());
}

#[test]
fn modes_and_owners_are_exact_and_a_changed_one_is_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = payload(&[("f", "secret")]);
    files.get_mut("f").unwrap().mode = 0o400;
    files.get_mut("f").unwrap().uid = Some(1234);
    assert!(write(dir.path(), &files, |_| Ok(())).unwrap());
    let metadata = fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o400, 1234));
    assert_eq!(fs::symlink_metadata(dir.path().join("f")).unwrap().uid(), 1234);
    assert!(!write(dir.path(), &files, |_| Ok(())).unwrap());
    files.get_mut("f").unwrap().mode = 0o440;
    assert!(write(dir.path(), &files, |_| Ok(())).unwrap());
    assert!(!format!("{files:?}").contains(&format!("{:?}", b"secret")), "no content in debug output");
}

#[test]
fn ownership_is_set_before_publication_and_its_failure_publishes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &[("f", "old")]);
    let result = write(dir.path(), &payload(&[("f", "new")]), |folder| {
        assert_eq!(fs::read(folder.join("f")).unwrap(), b"new");
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"old");
        Err(io::ErrorKind::PermissionDenied.into())
    });
    assert!(result.is_err());
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"old");
    assert_eq!(visible(dir.path()), ["..data", "f"]);
}

#[test]
fn what_a_crash_left_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path();
    put(volume, &[("a", "1"), ("b", "1")]);
    // Killed while writing a new version, after the link was made, and before the users' links were.
    fs::create_dir(volume.join("..2020_01_01_00_00_00.1")).unwrap();
    fs::write(volume.join("..2020_01_01_00_00_00.1/half"), "x").unwrap();
    symlink("..2020_01_01_00_00_00.1", volume.join("..data_tmp")).unwrap();
    fs::remove_file(volume.join("b")).unwrap();
    symlink("..data/stale", volume.join("stale")).unwrap();
    // The next call has something to write.
    assert!(put(volume, &[("a", "2"), ("b", "1")]));
    assert_eq!(visible(volume), ["..data", "a", "b"]);
    // And the next has not.
    fs::remove_file(volume.join("b")).unwrap();
    symlink("..2020_01_01_00_00_00.1", volume.join("..data_tmp")).unwrap();
    assert!(put(volume, &[("a", "1"), ("b", "1")]));
    symlink("..2020_01_01_00_00_00.1", volume.join("..data_tmp")).unwrap();
    assert!(!put(volume, &[("a", "1"), ("b", "1")]));
    assert_eq!(visible(volume), ["..data", "a", "b"]);
    // Killed after the old version was removed by hand: the link leads nowhere.
    fs::remove_dir_all(volume.join(fs::read_link(volume.join("..data")).unwrap())).unwrap();
    assert!(put(volume, &[("a", "1"), ("b", "1")]));
    assert_eq!(fs::read(volume.join("b")).unwrap(), b"1");
}

#[test]
fn a_data_link_that_leads_out_of_the_volume_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("f"), "keep").unwrap();
    let dir = tempfile::tempdir().unwrap();
    symlink(outside.path(), dir.path().join("..data")).unwrap();
    assert!(put(dir.path(), &[("f", "1")]));
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"1");
    assert_eq!(fs::read(outside.path().join("f")).unwrap(), b"keep");
}

#[test]
fn files_that_others_put_into_the_volume_stay() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &[("a", "1")]);
    fs::write(dir.path().join("theirs"), "x").unwrap();
    put(dir.path(), &[("a", "2")]);
    assert!(dir.path().join("theirs").exists());
}

#[test]
fn hostile_paths_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (long_name, long_path) = ("x".repeat(256), "x/".repeat(2100));
    for path in ["", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "..data", "..data/x", "..x", ".", "a\0b", &long_name, &long_path] {
        let result = write(dir.path(), &payload(&[(path, "1")]), |_| Ok(()));
        assert!(matches!(result, Err(TreeError::InvalidPath { .. })), "{path:?}");
    }
    assert!(write(dir.path(), &payload(&[("a", "1"), ("a/b", "1")]), |_| Ok(())).is_err());
    assert!(names(dir.path()).is_empty());
    assert!(put(dir.path(), &[("a/..b", "1"), ("./c//d", "1"), (".hidden", "1")]));
    assert_eq!(visible(dir.path()), ["..data", ".hidden", "a", "c"]);
}

#[test]
fn timestamps_are_utc_dates() {
    assert_eq!(timestamp(0), "1970_01_01_00_00_00");
    assert_eq!(timestamp(951_827_696), "2000_02_29_12_34_56");
    assert_eq!(timestamp(1_798_761_599), "2026_12_31_23_59_59");
}
