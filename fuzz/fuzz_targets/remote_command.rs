//! Whole sessions of exec: whatever a client sends, the session ends.
#![no_main]

use std::time::Duration;

use kube_pet_stream::Settings;
use kube_pet_stream::remote_command::{Options, Protocol, RemoteCommand, Status, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PROTOCOLS: [Protocol; 4] = [
    Protocol::Spdy(Version::V4),
    Protocol::Spdy(Version::V1),
    Protocol::WebSocket { version: Version::V5, base64: false },
    Protocol::WebSocket { version: Version::V4, base64: true },
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let protocol = PROTOCOLS[usize::from(*first) % PROTOCOLS.len()];
    let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let client = async {
            let _ = theirs.write_all(bytes).await;
            let _ = theirs.shutdown().await;
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        };
        let server = async {
            let Ok(RemoteCommand { streams, session }) = RemoteCommand::open(ours, protocol, options, Settings::default()).await else {
                return;
            };
            let (mut stdin, mut resize) = (streams.stdin.unwrap(), streams.resize);
            let sizes = async {
                while let Some(sizes) = &mut resize
                    && sizes.recv().await.is_some()
                {}
            };
            let mut typed = Vec::new();
            let _ = tokio::join!(stdin.read_to_end(&mut typed), sizes);
            assert!(typed.len() <= bytes.len());
            session.finish(&Status::ExitCode(1)).await;
        };
        let both = async { tokio::join!(client, server) };
        tokio::time::timeout(Duration::from_secs(24 * 3600), both).await.expect("a session that does not end");
    });
});
