use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A volume, a pod's folder, and a secret of the host that no pod may reach.
struct Scene(tempfile::TempDir);
impl Scene {
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        for folder in ["volume", "pod", "host"] {
            fs::create_dir(scene.path(folder)).unwrap();
        }
        fs::write(scene.path("host/secret"), "secret").unwrap();
        scene
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn bind(&self, subpath: &str) -> Result<(), SubPathError> {
        bind(&self.path("volume"), subpath, &self.target())
    }
    fn target(&self) -> PathBuf {
        self.path("pod/volume-subpaths/v/c/0")
    }
}
impl Drop for Scene {
    fn drop(&mut self) {
        // Never delete through a mount: it may show the host.
        if mounts::unmount_below(self.0.path()).is_err() {
            self.0.disable_cleanup(true);
        }
    }
}

#[test]
fn folders_and_files_are_bound_and_released() {
    let scene = Scene::new();
    fs::create_dir(scene.path("volume/data")).unwrap();
    fs::write(scene.path("volume/data/f"), "1").unwrap();
    scene.bind("data").unwrap();
    assert_eq!(fs::read(scene.target().join("f")).unwrap(), b"1");
    let before = mounts::below(&scene.path("pod")).unwrap();
    scene.bind("data").unwrap();
    assert_eq!(mounts::below(&scene.path("pod")).unwrap(), before, "bound once");
    // Another container of the same place: a file now.
    scene.bind("data/f").unwrap();
    assert_eq!(fs::read(scene.target()).unwrap(), b"1");
    unbind_below(&scene.path("pod/volume-subpaths")).unwrap();
    unbind_below(&scene.path("pod/volume-subpaths")).unwrap();
    assert!(!scene.path("pod/volume-subpaths").exists());
    assert_eq!(fs::read(scene.path("volume/data/f")).unwrap(), b"1", "the volume keeps its files");
}

#[test]
fn missing_folders_get_the_permissions_of_the_volume() {
    let scene = Scene::new();
    fs::set_permissions(scene.path("volume"), fs::Permissions::from_mode(0o2777)).unwrap();
    scene.bind("a/b/c").unwrap();
    for folder in ["volume/a", "volume/a/b", "volume/a/b/c"] {
        assert_eq!(fs::metadata(scene.path(folder)).unwrap().mode() & 0o7777, 0o2777, "{folder}");
    }
    fs::write(scene.target().join("f"), "1").unwrap();
    assert!(scene.path("volume/a/b/c/f").exists());
}

#[test]
fn links_inside_the_volume_work() {
    let scene = Scene::new();
    fs::create_dir(scene.path("volume/..2026")).unwrap();
    fs::write(scene.path("volume/..2026/key"), "1").unwrap();
    symlink("..2026", scene.path("volume/..data")).unwrap();
    symlink("..data/key", scene.path("volume/key")).unwrap();
    scene.bind("key").unwrap();
    assert_eq!(fs::read(scene.target()).unwrap(), b"1");
    assert!(scene.target().symlink_metadata().unwrap().is_file());
}

#[test]
fn links_that_lead_out_are_refused() {
    let scene = Scene::new();
    let host = scene.path("host");
    symlink(&host, scene.path("volume/absolute")).unwrap();
    symlink("../host", scene.path("volume/relative")).unwrap();
    symlink("/proc/self/root", scene.path("volume/magic")).unwrap();
    symlink("loop", scene.path("volume/loop")).unwrap();
    fs::create_dir(scene.path("volume/deep")).unwrap();
    symlink("../../host/secret", scene.path("volume/deep/secret")).unwrap();
    for subpath in ["absolute", "absolute/secret", "relative", "relative/new/folder", "magic", "loop", "deep/secret", "absolute/made/by/us"]
    {
        assert!(matches!(scene.bind(subpath), Err(SubPathError::Escape { .. })), "{subpath}");
    }
    assert_eq!(fs::read_dir(&host).unwrap().count(), 1, "nothing is made outside");
    // A link to nowhere: no folder is made behind it, neither inside nor outside.
    symlink("../host/new", scene.path("volume/dangling")).unwrap();
    symlink("nowhere", scene.path("volume/dangling-inside")).unwrap();
    assert!(scene.bind("dangling").is_err());
    assert!(scene.bind("dangling/x").is_err());
    assert!(scene.bind("dangling-inside").is_err());
    assert!(!host.join("new").exists() && !scene.path("volume/nowhere").exists());
    assert!(mounts::below(&scene.path("pod")).unwrap().is_empty());
}

#[test]
fn invalid_paths_are_refused_before_anything_is_touched() {
    let scene = Scene::new();
    for subpath in ["..", "../host", "a/../../host", "/etc", "a/..", "x\0y"] {
        assert!(matches!(scene.bind(subpath), Err(SubPathError::Invalid { .. })), "{subpath:?}");
    }
    assert_eq!(fs::read_dir(scene.path("volume")).unwrap().count(), 0);
    assert!(matches!(bind(&scene.path("none"), "a", &scene.target()), Err(SubPathError::Open { .. })));
}

#[test]
fn a_part_below_a_file_is_an_error() {
    let scene = Scene::new();
    fs::write(scene.path("volume/f"), "").unwrap();
    assert!(scene.bind("f/x").is_err());
}

#[test]
fn exchanging_a_folder_for_a_link_meanwhile_never_shows_the_host() {
    let scene = Scene::new();
    fs::create_dir_all(scene.path("volume/a/b")).unwrap();
    symlink(scene.path("host"), scene.path("volume/evil")).unwrap();
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (from, to) in [("a", "kept"), ("evil", "a"), ("a", "evil"), ("kept", "a")] {
                    let _ = fs::rename(scene.path("volume").join(from), scene.path("volume").join(to));
                }
            }
        });
        let seen = (0..500).any(|_| {
            let seen = scene.bind("a").is_ok() && scene.target().join("secret").exists();
            let _ = mounts::unmount_all(&scene.target());
            seen
        });
        stop.store(true, Ordering::Relaxed);
        seen
    });
    assert!(!seen, "the host's folder was visible");
    assert_eq!(fs::read_dir(scene.path("host")).unwrap().count(), 1);
}
