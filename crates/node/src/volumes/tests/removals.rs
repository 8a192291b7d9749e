use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, mkdirat, openat};

use super::*;

#[tokio::test]
async fn mounts_nothing_is_removed_through_a_mount_or_a_link() {
    let machine = Machine::new();
    let (tree, outside) = (machine.root.path().join("tree"), machine.root.path().join("outside"));
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    symlink(&outside, tree.join("a/link")).unwrap();
    mounts::bind(&outside, &tree.join("a/b"), BindOptions::default()).unwrap();
    let error = remove_tree(&tree).unwrap_err();
    assert!(matches!(&error, RemovalError::Mounted { path } if path.ends_with("a/b")), "{error}");
    assert_eq!(read(&outside.join("precious")), "x");
    mounts::unmount_all(&tree.join("a/b")).unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(read(&outside.join("precious")), "x");
    remove_tree(&tree).unwrap();
    symlink(&outside, &tree).unwrap();
    remove_tree(&tree).unwrap();
    assert!(fs::symlink_metadata(&tree).is_err() && outside.join("precious").exists());
}

#[tokio::test]
async fn mounts_a_tree_deeper_than_paths_and_descriptors_is_removed() {
    let machine = Machine::new();
    let tree = machine.root.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let open = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut folder: OwnedFd = fs::File::open(&tree).unwrap().into();
    for _ in 0..3000 {
        mkdirat(&folder, "a-name-of-some-length", Mode::from_raw_mode(0o700)).unwrap();
        folder = openat(&folder, "a-name-of-some-length", open, Mode::empty()).unwrap();
    }
    drop(folder);
    fs::write(tree.join("..removing-1"), "in the way").unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
}
