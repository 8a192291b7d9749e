//! Sessions as clients see them, over a pipe in memory.

mod hostile;
mod port_forward;
mod recorded;
mod remote_command;
mod spdy_client;
mod websocket_client;

use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::time::timeout;

use crate::Settings;

/// Two ends of a connection that holds so many bytes in each direction.
fn pipe(bytes: usize) -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(bytes)
}

/// What should not take long: with paused time, a minute passes at once when everything stands still.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future).await.expect("stands still")
}

fn settings() -> Settings {
    Settings::default()
}

/// Bytes in which a loss or a swap shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
}
