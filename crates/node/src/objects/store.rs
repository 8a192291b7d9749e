//! Objects of one kind that were read, each with at most one request under way.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::warn;

use super::FetchError;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

pub(super) struct Store<T> {
    entries: Mutex<HashMap<Key, Entry<T>>>,
}

struct Entry<T> {
    /// The newest request: under way, or answered.
    request: Arc<OnceCell<Answer<T>>>,
    /// The newest answer that was an object.
    last_good: Option<Arc<T>>,
}

struct Answer<T> {
    at: Instant,
    found: Result<Option<Arc<T>>, FetchError>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }
}

impl<T> Store<T> {
    /// The object as it was at most `max_age` ago; `read` is called if that is not known. Only an object that exists is shared
    /// over time: what is missing or failed is asked for again, but callers that wait at the same time share one request.
    pub(super) async fn get<F, Fut>(&self, key: Key, max_age: Duration, read: F) -> Result<Option<Arc<T>>, FetchError>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<Option<T>, FetchError>>,
    {
        let request = self.request(&key, max_age);
        // If the caller that reads is dropped, the next one that waits reads in its place.
        let answer = request
            .get_or_init(|| async {
                let found = read().await.map(|object| object.map(Arc::new));
                Answer { at: Instant::now(), found }
            })
            .await;
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&key) else { return answer.found.clone() };
        match &answer.found {
            Ok(found) => {
                if Arc::ptr_eq(&entry.request, &request) {
                    entry.last_good.clone_from(found);
                }
                Ok(found.clone())
            }
            Err(error) => match entry.last_good.clone().filter(|_| error.is_outage()) {
                Some(old) => {
                    warn!(namespace = key.namespace, name = key.name, %error, "using the last known copy of an object");
                    Ok(Some(old))
                }
                None => Err(error.clone()),
            },
        }
    }

    fn request(&self, key: &Key, max_age: Duration) -> Arc<OnceCell<Answer<T>>> {
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry { request: Arc::new(OnceCell::new()), last_good: None });
        let usable = |answer: &Answer<T>| matches!(answer.found, Ok(Some(_))) && answer.at.elapsed() < max_age;
        if !entry.request.get().is_none_or(usable) {
            entry.request = Arc::new(OnceCell::new());
        }
        entry.request.clone()
    }

    /// Drops all objects outside `namespaces`.
    pub(super) fn keep_only(&self, namespaces: &BTreeSet<String>) {
        self.lock().retain(|key, _| namespaces.contains(&key.namespace));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry<T>>> {
        // Every change of the map is a single step: a panic elsewhere leaves nothing half-done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
