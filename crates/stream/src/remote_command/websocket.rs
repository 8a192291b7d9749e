//! Remote command over WebSocket: the channels' numbers are those of file descriptors.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Options, RemoteCommand, ResizeReceiver, Session, Streams, Version};
use crate::channel::Writer;
use crate::limits::Settings;
use crate::websocket::frame::Encoding;
use crate::websocket::{Builder, Channel};

pub(super) fn open<S>(socket: S, version: Version, encoding: Encoding, options: Options, settings: Settings) -> RemoteCommand
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Options { stdin, stdout, stderr, tty } = options;
    let mut connection = Builder::new(encoding, &settings);
    // In the order of their numbers.
    let [input, output, errors, error, size] = std::array::from_fn(|_| connection.channel());
    // The sign that the connection is there: an empty message on the first channel that is written.
    let first = if stdout {
        &output
    } else if stderr {
        &errors
    } else {
        &error
    };
    first.sender.send_now(&[]);

    let inputs = vec![input.sender.clone(), size.sender.clone()];
    let mut outputs = Vec::new();
    let mut writer = |wanted: bool, channel: Channel| {
        wanted.then(|| {
            outputs.push(channel.sender.clone());
            Writer(channel.sender)
        })
    };
    let streams = Streams {
        stdout: writer(stdout, output),
        stderr: writer(stderr, errors),
        stdin: stdin.then_some(input.reader),
        resize: tty.then(|| ResizeReceiver::new(size.reader)),
    };
    let connection = connection.serve(socket, version >= Version::V5, &settings);
    let session = Session { connection, version, settings, spdy: false, inputs, outputs, error: error.sender };
    RemoteCommand { streams, session }
}
