//! `/logs/`: the machine's own logs, files below `/var/log` and (`?query=…`) those of services.

mod files;
mod journal;
mod query;

use std::io;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::request::Parts;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc::Sender;

use super::response::{self, Response};
use crate::paths::Paths;
use query::Query;

/// `enableSystemLogHandler` and `enableSystemLogQuery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemLogs {
    /// Files are served.
    pub files: bool,
    /// `?query=` is understood too; without it, it is not looked at.
    pub query: bool,
}

/// Answers a request for `path` below `/logs/`.
pub(super) async fn serve(offered: SystemLogs, paths: &Paths, path: &str, request: &Parts) -> Response {
    let SystemLogs { files, query } = offered;
    if !files {
        return response::text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n");
    }
    let root = paths.logs_dir();
    let as_folder = request.uri.path().ends_with('/');
    if !query {
        return files::serve(root, path.to_owned(), as_folder, files::refusal).await;
    }
    let query = match Query::parse(request.uri.query().unwrap_or_default()) {
        Ok(None) => return files::serve(root, path.to_owned(), as_folder, files::refusal).await,
        Ok(Some(query)) => query,
        Err(problems) => return response::text(StatusCode::BAD_REQUEST, format!("{problems}\n")),
    };
    if !path.is_empty() {
        return response::text(StatusCode::NOT_ACCEPTABLE, "path not allowed in query mode\n");
    }
    if let Err(problems) = query.check() {
        return response::text(StatusCode::NOT_ACCEPTABLE, format!("{problems}\n"));
    }
    match query.files.first() {
        Some(file) => {
            let file = file.replace('\\', "/");
            let as_folder = file.ends_with('/');
            let invalid = format!("query: Invalid value: {file:?}");
            let refused = |error: &io::Error| response::text(StatusCode::NOT_ACCEPTABLE, format!("{invalid}: {error}\n"));
            files::serve(root, file, as_folder, refused).await
        }
        None => journal::serve(root, query),
    }
}

/// Bytes read at once.
const PIECE: usize = 32 << 10;

type Client = Sender<io::Result<Bytes>>;

/// Sends what comes, to its end; an error ends the answer before its end. `None`: there is nobody to tell more.
async fn pipe(mut from: impl AsyncRead + Unpin, client: &Client) -> Option<()> {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        match from.read_buf(&mut piece).await {
            Ok(0) => return Some(()),
            Ok(_) => client.send(Ok(piece.freeze())).await.ok()?,
            Err(error) => {
                let _ = client.send(Err(error)).await;
                return None;
            }
        }
    }
}
