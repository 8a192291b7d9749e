//! What a connection holds while it is open: its place among all, its users' parts, and the count of its failures.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::quota::{Quota, Share};

/// Requests with credentials that do not count, or with none, before a connection is closed: each costs a review.
const MAX_REFUSALS: usize = 3;

/// One connection's place among those that are served at the same time. It is free again once every copy is dropped.
#[derive(Clone)]
pub(super) struct Place {
    held: Arc<Held>,
    tasks: TaskTracker,
    stop_now: CancellationToken,
}

struct Held {
    _slot: OwnedSemaphorePermit,
    peer: SocketAddr,
    /// Of each user that has made a request: one, but for proxies that carry several users' requests.
    shares: Mutex<Vec<Share>>,
    refusals: AtomicUsize,
}

impl Place {
    pub(super) fn new(slot: OwnedSemaphorePermit, peer: SocketAddr, tasks: TaskTracker, stop_now: CancellationToken) -> Self {
        let held = Held { _slot: slot, peer, shares: Mutex::default(), refusals: AtomicUsize::new(0) };
        Self { held: Arc::new(held), tasks, stop_now }
    }

    /// Where the connection comes from.
    pub(super) fn peer(&self) -> SocketAddr {
        self.held.peer
    }

    /// Counts the connection as one of `user`'s. False: the user has too many.
    pub(super) fn admit(&self, connections: &Arc<Quota>, user: &str) -> bool {
        let mut shares = self.held.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.iter().any(|share| share.user() == user) {
            return true;
        }
        let Some(share) = connections.take(user) else { return false };
        shares.push(share);
        true
    }

    /// Counts a request that nobody known has made. True: the connection should end with its answer.
    pub(super) fn refuse(&self) -> bool {
        self.held.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_REFUSALS
    }

    /// Work that outlives the connection's requests: it keeps the place, and ends with the server at the latest.
    pub(super) fn spawn(self, work: impl Future<Output = ()> + Send + 'static) {
        let Self { held, tasks, stop_now } = self;
        tasks.spawn(async move {
            stop_now.run_until_cancelled(work).await;
            drop(held);
        });
    }
}
