//! Whole sessions of exec: whatever a client sends, the session ends.
#![no_main]

mod session;

use kube_pet_stream::Settings;
use kube_pet_stream::remote_command::{Options, Protocol, RemoteCommand, Status, Version};
use tokio::io::AsyncReadExt as _;

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
    session::run(bytes, async |ours| {
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
    });
});
