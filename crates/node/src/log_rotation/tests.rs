//! Rotations with a conmon that the test plays.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::Arc;
use std::sync::mpsc;

use kube_pet_testkit::podman::{Answer, Fake};
use serde_json::json;

use super::*;
use crate::pods::store::PodStoreWriter;

/// A bundle with a control pipe, and a log.
struct Bed {
    dir: tempfile::TempDir,
    log: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("var/log/pods/default_web_u1/c/2.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("ctl"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::write(&log, "old\n").unwrap();
        Self { dir, log }
    }

    fn bundle(&self) -> &Path {
        self.dir.path()
    }

    /// Reads words as conmon does until the pipe is closed; answers each by a new log, if it is to. The first thing sent says
    /// that it reads.
    fn conmon(&self, reopens: bool) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        let (log, pipe) = (self.log.clone(), self.bundle().join("ctl"));
        let mut old = File::options().append(true).open(&log).unwrap();
        std::thread::spawn(move || {
            // For reading and writing: the pipe stays open.
            let pipe = File::options().read(true).write(true).open(pipe).unwrap();
            sender.send("reads".into()).unwrap();
            for line in BufReader::new(pipe).lines() {
                old.write_all(b"late\n").unwrap();
                if reopens {
                    let new = log.with_extension("log.tmp");
                    old = File::create(&new).unwrap();
                    fs::rename(new, &log).unwrap();
                    old.write_all(b"new\n").unwrap();
                }
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        assert_eq!(receiver.recv().unwrap(), "reads");
        receiver
    }

    fn texts(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.log.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
    }
}

#[test]
fn component_the_writer_is_told_and_no_line_is_lost() {
    let bed = Bed::new();
    let words = bed.conmon(true);
    rotate(&bed.log, bed.bundle(), 5, &CancellationToken::new()).unwrap();
    assert_eq!(words.recv().unwrap(), "2 0 0");
    assert_eq!(bed.texts(), ["new\n", "old\nlate\n"]);
}

#[test]
fn component_without_a_writer_the_log_keeps_its_name() {
    let bed = Bed::new();
    let gone = rotate(&bed.log, bed.bundle(), 5, &CancellationToken::new());
    assert!(matches!(gone, Err(RotationError::Control(ControlError::Gone { .. }))), "{gone:?}");
    assert_eq!(bed.texts(), ["old\n"]);
    assert!(bed.log.exists());
    fs::remove_file(bed.bundle().join("ctl")).unwrap();
    fs::write(bed.bundle().join("ctl"), "").unwrap();
    let other = rotate(&bed.log, bed.bundle(), 5, &CancellationToken::new());
    assert!(matches!(other, Err(RotationError::Control(ControlError::NoPipe { .. }))), "{other:?}");
    assert_eq!(fs::read(bed.bundle().join("ctl")).unwrap(), b"");
}

#[test]
fn component_a_writer_that_ends_before_it_could_leaves_the_log_its_name() {
    let bed = Bed::new();
    let reader = File::options().read(true).write(true).open(bed.bundle().join("ctl")).unwrap();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(reader);
    });
    let gone = rotate(&bed.log, bed.bundle(), 5, &CancellationToken::new());
    assert!(matches!(gone, Err(RotationError::Control(ControlError::Gone { .. }))), "{gone:?}");
    ends.join().unwrap();
    assert_eq!(fs::read_to_string(&bed.log).unwrap(), "old\n");
    assert_eq!(bed.texts().len(), 1);
}

#[tokio::test]
async fn component_large_logs_of_running_containers_are_rotated() {
    let bed = Bed::new();
    let words = bed.conmon(true);
    let config = bed.bundle().join("config.json");
    let fake = Fake::start(move |path, _| {
        assert!(path.ends_with("/containers/abc/json"), "{path}");
        Answer::Reply(200, json!({"Id": "abc", "OCIConfigPath": config}).to_string().into_bytes())
    });
    let (writer, store) = PodStoreWriter::new();
    let status = |state| json!({"name": "c", "image": "i", "imageID": "i", "ready": true, "restartCount": 2, "containerID": "podman://abc", "state": state});
    let put = |state| {
        let pod =
            json!({"metadata": {"namespace": "default", "name": "web", "uid": "u1"}, "status": {"containerStatuses": [status(state)]}});
        writer.put(PodUid::new("u1"), Arc::new(serde_json::from_value(pod).unwrap()));
    };
    let policy = |max_size| LogPolicy { max_size, max_files: 3, workers: 1, interval: Duration::from_secs(10) };
    let rotator = |max_size| LogRotator::new(Client::new(fake.socket()), Paths::new(bed.bundle()), store.clone(), policy(max_size));
    put(json!({"terminated": {"exitCode": 0}}));
    rotator(4).look().await;
    put(json!({"running": {}}));
    rotator(5).look().await;
    assert_eq!(bed.texts(), ["old\n"]);
    assert!(fake.requests().is_empty(), "sizes are looked at without Podman");
    rotator(4).look().await;
    assert_eq!(words.recv().unwrap(), "2 0 0");
    assert_eq!(bed.texts(), ["new\n", "old\nlate\n"]);
}

#[tokio::test]
async fn component_a_missing_log_is_asked_for_after_a_while_only() {
    let bed = Bed::new();
    let words = bed.conmon(true);
    fs::remove_file(&bed.log).unwrap();
    let config = bed.bundle().join("config.json");
    let fake = Fake::start(move |_, _| Answer::Reply(200, json!({"Id": "abc", "OCIConfigPath": config}).to_string().into_bytes()));
    let (writer, store) = PodStoreWriter::new();
    let status = json!({"name": "c", "image": "i", "imageID": "i", "ready": true, "restartCount": 2, "containerID": "podman://abc", "state": {"running": {}}});
    let pod = json!({"metadata": {"namespace": "default", "name": "web", "uid": "u1"}, "status": {"containerStatuses": [status]}});
    writer.put(PodUid::new("u1"), Arc::new(serde_json::from_value(pod).unwrap()));
    let policy = LogPolicy { max_size: 4, max_files: 3, workers: 1, interval: Duration::from_secs(10) };
    let rotator = LogRotator::new(Client::new(fake.socket()), Paths::new(bed.bundle()), store, policy);
    rotator.look().await;
    rotator.look().await;
    assert!(fake.requests().is_empty());
    let Some(long_ago) = Instant::now().checked_sub(MISSING_TOO_LONG) else { return };
    rotator.missing.lock().unwrap().insert(ContainerId::new("abc"), long_ago);
    rotator.look().await;
    assert_eq!(words.recv().unwrap(), "2 0 0");
    assert_eq!(bed.texts(), ["new\n"]);
}
