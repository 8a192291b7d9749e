//! `/containerLogs`: container logs straight from their files. A log can be read while Podman is away.

mod follow;
mod host;
mod instance;
mod line;
mod options;
mod reader;

use std::path::{Path, PathBuf};

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use tokio::sync::mpsc;

use self::follow::Followed;
use self::instance::Instance;
use self::options::{BadQuery, LogOptions};
use self::reader::LogReader;
use super::ServerState;
use super::response::{self, Response};
use crate::log_rotation::files::put_aside;
use crate::paths::Paths;

/// Whether a query asks to go on with the container.
pub(super) fn follows(query: &str) -> bool {
    LogOptions::from_query(query, Timestamp::now()).is_ok_and(|options| options.follow)
}

/// Answers one request for a log.
pub(super) async fn serve(state: &ServerState, (namespace, pod_name, container): (&str, &str, &str), query: &str) -> Response {
    let ServerState { store, paths, host_pod, .. } = state;
    let options = match LogOptions::from_query(query, Timestamp::now()) {
        Ok(options) => options,
        Err(BadQuery::Undecodable) => {
            let text = r#"{"message": "Unable to decode query."}"#;
            return response::text(StatusCode::BAD_REQUEST, text);
        }
        Err(BadQuery::Invalid) => {
            let text = r#"{"message": "Invalid request."}"#;
            return response::text(StatusCode::UNPROCESSABLE_ENTITY, text);
        }
    };
    let host = host_pod.as_ref().and_then(|host| host.find(namespace, pod_name));
    if host.is_some_and(|host| instance::in_spec(&host, container)) {
        return host::serve(&options);
    }
    let Some(pod) = store.by_name(namespace, pod_name) else {
        let text = format!("pod {pod_name:?} does not exist");
        return response::text(StatusCode::NOT_FOUND, text);
    };
    if !instance::in_spec(&pod, container) {
        let text = format!("container {container:?} not found in pod {pod_name:?}");
        return response::text(StatusCode::NOT_FOUND, text);
    }
    let instance = match Instance::choose(&pod, container, options.previous) {
        Ok(instance) => instance,
        Err(text) => return response::text(StatusCode::BAD_REQUEST, text),
    };
    let uid = PodUid::new(pod.metadata.uid.clone().unwrap_or_default());
    let wanted =
        Wanted { paths: paths.clone(), pod: pod.clone(), uid: uid.clone(), container: container.to_owned(), instance: instance.clone() };
    let follow = options.follow;
    let opened = tokio::task::spawn_blocking(move || wanted.open(options)).await;
    let (reader, dir) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(text)) => return response::text(StatusCode::BAD_REQUEST, text),
        Err(_) => return response::text(StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
    };
    let followed = follow.then(|| Followed { store: store.clone(), uid, container: container.to_owned(), instance });
    // One chunk under way: a client that does not read holds the reader, not memory.
    let (sender, body) = mpsc::channel(1);
    tokio::spawn(async move { follow::send(reader, &dir, followed, sender).await });
    response::stream(body)
}

struct Wanted {
    paths: Paths,
    pod: std::sync::Arc<Pod>,
    uid: PodUid,
    container: String,
    instance: Instance,
}

impl Wanted {
    fn open(self, options: LogOptions) -> Result<(LogReader, PathBuf), String> {
        let meta = &self.pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let exact = self.paths.container_log(namespace, name, &self.uid, &self.container, self.instance.attempt);
        let dir = exact.parent().map(Path::to_owned).unwrap_or_default();
        let there = exact.exists() || put_aside(&exact).is_ok_and(|files| !files.is_empty());
        let path = if there || !self.instance.or_older { exact } else { newest_before(&dir, self.instance.attempt).unwrap_or(exact) };
        match LogReader::open(&path, options) {
            Ok(reader) => Ok((reader, dir)),
            Err(error) => Err(format!("failed to open log file {path:?}: {error}")),
        }
    }
}

/// The log of the newest attempt below `attempt` that has one.
fn newest_before(dir: &Path, attempt: u32) -> Option<PathBuf> {
    std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let number: u32 = name.to_str()?.strip_suffix(".log")?.parse().ok()?;
            (number < attempt).then(|| (number, entry.path()))
        })
        .max()
        .map(|(_, path)| path)
}
