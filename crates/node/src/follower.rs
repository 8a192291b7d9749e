//! Follows all objects of a kind in the whole cluster, by a list and watch.
//!
//! A list that is read again, after a disconnection or with a new identity, is compared with what is known: what is in it goes
//! on without a gap, and nothing is taken away before it is complete.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, TryStreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::runtime::watcher::{self, Event as Watched};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::api::ApiHandle;

/// Objects of a list that are in memory as a whole at a time.
const PAGE: u32 = 100;
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A missing permission is not given within seconds.
const REFUSED_RETRY: Duration = Duration::from_secs(15);

/// The receiver has ended.
pub(crate) struct Gone;

/// A kind that is followed.
pub(crate) trait Kind: Send {
    type Object: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static;
    type Update: Send;
    const NAME: &'static str;
    /// What does not work without the permission, and whose it is.
    const REFUSED: &'static str;

    /// What an object is here; `None`: nothing, so that it counts as gone.
    fn put(&mut self, object: Self::Object) -> Option<(Arc<str>, Self::Update)>;
    /// It is there no more.
    fn gone(&mut self, key: Arc<str>) -> Self::Update;
    /// A list is complete.
    fn synced(&mut self) -> Self::Update;
    /// The API server does not allow it.
    fn refused(&mut self) -> Option<Self::Update> {
        None
    }
}

/// Compares what comes with what is known.
pub(crate) struct Follower<K: Kind> {
    kind: K,
    updates: Option<mpsc::Sender<K::Update>>,
    known: HashSet<Arc<str>>,
    /// What a list that is being read has told.
    listed: HashSet<Arc<str>>,
    trouble: Option<Trouble>,
}

/// Told once, until it is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Refused,
    Other,
}

impl<K: Kind> Follower<K> {
    pub(crate) fn new(kind: K, updates: Option<mpsc::Sender<K::Update>>) -> Self {
        Self { kind, updates, known: HashSet::new(), listed: HashSet::new(), trouble: None }
    }

    pub(crate) async fn run(mut self, mut api: ApiHandle, config: watcher::Config) {
        loop {
            let objects: Api<K::Object> = Api::all(api.client());
            let stream = watcher::watcher(objects, config.clone().page_size(PAGE).timeout(240));
            let ended = tokio::select! {
                ended = self.follow(stream) => ended,
                () = api.replaced() => Ok(()),
            };
            if ended.is_err() {
                return;
            }
        }
    }

    async fn follow(&mut self, stream: impl Stream<Item = watcher::Result<Watched<K::Object>>> + Send) -> Result<(), Gone> {
        let mut stream = std::pin::pin!(stream);
        let mut delay = RETRY.0;
        loop {
            match stream.try_next().await {
                Ok(Some(event)) => {
                    // `Init` only says that a list is being tried.
                    if !matches!(event, Watched::Init) {
                        delay = RETRY.0;
                        if self.trouble.take().is_some() {
                            info!(kind = K::NAME, "the watch is back");
                        }
                    }
                    self.take(event).await?;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    let refused = is_refused(&error);
                    self.tell(&error, refused);
                    if let Some(update) = refused.then(|| self.kind.refused()).flatten() {
                        self.send(update).await?;
                    }
                    tokio::time::sleep(if refused { REFUSED_RETRY } else { delay }).await;
                    delay = (delay * 2).min(RETRY.1);
                }
            }
        }
    }

    fn tell(&mut self, error: &watcher::Error, refused: bool) {
        let trouble = if refused { Trouble::Refused } else { Trouble::Other };
        if self.trouble.replace(trouble) == Some(trouble) {
            return;
        }
        if refused {
            warn!(
                kind = K::NAME,
                error = error as &dyn std::error::Error,
                "this node may not list them, so {} to the group system:nodes (docs/join.md)",
                K::REFUSED
            );
        } else {
            warn!(kind = K::NAME, error = error as &dyn std::error::Error, "watching them failed; retrying");
        }
    }

    async fn take(&mut self, event: Watched<K::Object>) -> Result<(), Gone> {
        match event {
            Watched::Init => self.listed.clear(),
            Watched::InitApply(object) => {
                if let Some(key) = self.put(object).await? {
                    self.listed.insert(key);
                }
            }
            Watched::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let gone: Vec<_> = self.known.difference(&listed).cloned().collect();
                self.known = listed;
                for key in gone {
                    let update = self.kind.gone(key);
                    self.send(update).await?;
                }
                let synced = self.kind.synced();
                self.send(synced).await?;
            }
            Watched::Apply(object) => drop(self.put(object).await?),
            Watched::Delete(object) => self.remove(&key_of(kube::Resource::meta(&object))).await?,
        }
        Ok(())
    }

    async fn put(&mut self, object: K::Object) -> Result<Option<Arc<str>>, Gone> {
        let key = key_of(kube::Resource::meta(&object));
        let Some((key, update)) = self.kind.put(object) else {
            self.remove(&key).await?;
            return Ok(None);
        };
        self.known.insert(key.clone());
        self.send(update).await?;
        Ok(Some(key))
    }

    async fn remove(&mut self, key: &str) -> Result<(), Gone> {
        match self.known.take(key) {
            Some(key) => {
                let update = self.kind.gone(key);
                self.send(update).await
            }
            None => Ok(()),
        }
    }

    async fn send(&self, update: K::Update) -> Result<(), Gone> {
        match &self.updates {
            Some(updates) => updates.send(update).await.map_err(|_| Gone),
            None => Ok(()),
        }
    }
}

/// Runs a watch once it is wanted. It does not end where nobody can want it any more: the agent ends then.
pub(crate) async fn once(mut wanted: watch::Receiver<bool>, watch: BoxFuture<'static, ()>) {
    if wanted.wait_for(|wanted| *wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
    watch.await;
}

fn is_refused(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.code == 403,
        watcher::Error::WatchError(status) => status.code == 403,
        _ => false,
    }
}

/// `namespace/name` of an object.
pub(crate) fn key_of(metadata: &ObjectMeta) -> Arc<str> {
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default()).into()
}

#[cfg(test)]
mod tests;
