//! What the targets of whole sessions share.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// A client that sends `bytes`, ends its direction and reads what comes, against `server`: both have to end. Time is simulated.
pub fn run(bytes: &[u8], server: impl AsyncFnOnce(DuplexStream)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let client = async {
            let _ = theirs.write_all(bytes).await;
            let _ = theirs.shutdown().await;
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        };
        let both = async { tokio::join!(client, server(ours)) };
        tokio::time::timeout(Duration::from_secs(24 * 3600), both).await.expect("a session that does not end");
    });
}
