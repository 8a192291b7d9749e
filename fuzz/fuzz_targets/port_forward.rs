//! Whole sessions of port-forward: whatever a client sends, the session ends.
#![no_main]

mod session;

use kube_pet_stream::Settings;
use kube_pet_stream::port_forward::{PortForward, Protocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PROTOCOLS: [Protocol; 4] =
    [Protocol::Spdy, Protocol::Tunnel, Protocol::WebSocket { base64: false }, Protocol::WebSocket { base64: true }];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let protocol = PROTOCOLS[usize::from(*first) % PROTOCOLS.len()];
    session::run(bytes, async |ours| {
        let mut session = PortForward::open(ours, protocol, &[80, 443], Settings::default()).unwrap();
        while let Some(mut forwarded) = session.accept().await {
            tokio::spawn(async move {
                let _ = forwarded.data.write_all(b"hello").await;
                let _ = forwarded.data.read_to_end(&mut Vec::new()).await;
                if forwarded.port == 80 { forwarded.finish() } else { forwarded.fail("no") }
            });
        }
        session.close().await;
    });
});
