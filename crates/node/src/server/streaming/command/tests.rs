//! Sessions between a Podman service and a client that the test plays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube_pet_core::ids::ContainerId;
use kube_pet_stream::remote_command::Version;
use kube_pet_testkit::podman::{Answer, Fake};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;

use super::*;

/// More than all buffers on the way hold.
const OUTPUT: usize = 2_000_000;

/// An exec session that has written `OUTPUT` bytes and ended with code 5. Podman knows it until it is told to forget.
fn podman(forgotten: &Arc<AtomicBool>, asked: &Arc<Notify>) -> Fake {
    let (forgotten, asked) = (forgotten.clone(), asked.clone());
    Fake::start(move |path, _| {
        if path.ends_with("/containers/c1/exec") {
            return Answer::Reply(201, br#"{"Id": "e1"}"#.to_vec());
        }
        if path.ends_with("/exec/e1/start") {
            let mut bytes = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".to_vec();
            bytes.extend([1, 0, 0, 0]);
            bytes.extend(u32::try_from(OUTPUT).unwrap().to_be_bytes());
            bytes.extend(vec![b'x'; OUTPUT]);
            return Answer::Raw(bytes);
        }
        assert!(path.ends_with("/exec/e1/json"), "{path}");
        if forgotten.load(Ordering::SeqCst) {
            return Answer::Reply(404, br#"{"cause": "no such exec session", "message": "no exec session", "response": 404}"#.to_vec());
        }
        asked.notify_one();
        Answer::Reply(200, br#"{"ID": "e1", "Running": false, "CanRemove": true, "ExitCode": 5}"#.to_vec())
    })
}

#[tokio::test]
async fn component_a_client_slower_than_podmans_memory_still_learns_the_exit_code() {
    let (forgotten, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let fake = podman(&forgotten, &asked);
    let (mut client, server) = tokio::io::duplex(64 << 10);
    let target = Running {
        pod: Arc::default(),
        container: "c".into(),
        id: ContainerId::new("c1"),
        tty: false,
        stdin: false,
        stdin_once: false,
        on_host: false,
    };
    let options = Options { stdin: false, stdout: true, stderr: true, tty: false };
    let protocol = Protocol::WebSocket { version: Version::V4, base64: false };
    let served = async {
        let RemoteCommand { streams, session } = RemoteCommand::open(server, protocol, options, Settings::default()).await.unwrap();
        let executor = Executor::by_podman(Client::new(fake.socket()));
        let status = run(&executor, &target, &["true".to_owned()], options, streams).await.unwrap();
        session.finish(&status).await;
    };
    let slow = async {
        // Nothing is read until the code has been asked for; from then on Podman knows nothing any more.
        tokio::time::timeout(Duration::from_secs(20), asked.notified()).await.expect("the code is asked for while output is left");
        forgotten.store(true, Ordering::SeqCst);
        let mut read = Vec::new();
        let told =
            |read: &[u8]| String::from_utf8_lossy(&read[read.len().saturating_sub(400)..]).contains(r#""reason":"ExitCode","message":"5""#);
        while !told(&read) {
            assert_ne!(client.read_buf(&mut read).await.unwrap(), 0, "the session has ended without the exit code");
        }
        drop(client);
        read.iter().filter(|byte| **byte == b'x').count()
    };
    let ((), read) = tokio::join!(served, slow);
    let in_status = Status::ExitCode(5).to_json().matches('x').count();
    assert_eq!(read, OUTPUT + in_status);
}
