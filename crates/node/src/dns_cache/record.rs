//! What the DNS cache knows, on disk: for a restart of the agent, and for a machine that boots without network.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube_pet_host::files;
use tracing::{info, warn};

/// The first time after a start, and from then on.
const SOON: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(300);

/// The cache and its file; cheap to clone.
#[derive(Clone)]
pub struct DnsRecord(Arc<Inner>);

struct Inner {
    cache: kube_pet_dns::DnsCache,
    path: PathBuf,
    max_bytes: u64,
    /// The number of changes that the file has.
    saved: AtomicU64,
}

impl DnsRecord {
    pub(super) fn new(cache: kube_pet_dns::DnsCache, path: PathBuf, bytes: usize) -> Self {
        // A file of an earlier run with other limits may be larger.
        let max_bytes = (bytes as u64).saturating_mul(4);
        Self(Arc::new(Inner { cache, path, max_bytes, saved: AtomicU64::new(0) }))
    }

    /// Takes over what an earlier run has left.
    pub(super) async fn restore(&self) {
        let inner = self.0.clone();
        let read = tokio::task::spawn_blocking(move || {
            let bytes = match files::read_limited(&inner.path, inner.max_bytes) {
                Ok(bytes) => bytes,
                Err(error) if error.is_not_found() => return,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "what the DNS cache of an earlier run knew cannot be read");
                    return;
                }
            };
            match inner.cache.restore(&bytes, wall()) {
                Ok(answers) => info!(answers, "the DNS cache knows what that of an earlier run did"),
                Err(error) => {
                    let path = inner.path.display();
                    warn!(%path, error = &error as &dyn std::error::Error, "what the DNS cache of an earlier run knew is not used");
                }
            }
        });
        let _ = read.await;
    }

    /// Writes it down now and then, if something has changed.
    pub(super) async fn keep_saved(&self) {
        tokio::time::sleep(SOON).await;
        loop {
            self.save().await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Writes it down, if something has changed since it was.
    pub async fn save(&self) {
        let inner = self.0.clone();
        let written = tokio::task::spawn_blocking(move || {
            let changes = inner.cache.changes();
            if inner.saved.load(Ordering::Relaxed) != changes {
                // On the disk when the machine loses its power: that is what it is for.
                files::write_durable(&inner.path, &inner.cache.snapshot(wall()), 0o600)?;
                inner.saved.store(changes, Ordering::Relaxed);
            }
            Ok::<_, files::FileError>(())
        });
        if let Ok(Err(error)) = written.await {
            warn!(error = &error as &dyn std::error::Error, "what the DNS cache knows is not written down");
        }
    }
}

/// An earlier run has kept a cache, this one does not: which names pods ask for is nobody's business any more.
pub(super) async fn forget(path: &Path) {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "what the DNS cache of an earlier run knew is not removed");
        }
        _ => {}
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
