//! Pulls under way: pods that want the same image with the same credentials share one, and a registry that does not answer
//! holds up nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use kube_pet_podman::{Client, Error};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::keyring::{Credential, SecretSource};

/// Limits of pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullLimits {
    /// Transfers at a time; `None` is unlimited.
    pub parallel: Option<usize>,
    /// How long a pull that has not reached its registry may keep others waiting.
    pub contact: Duration,
    /// How long a registry may take to name the image's parts.
    pub contact_deadline: Duration,
    /// How long a pull may go on without a word from Podman. Before 6.0 Podman says nothing within a layer, so this bounds
    /// the largest layer.
    pub progress_deadline: Duration,
}

impl Default for PullLimits {
    fn default() -> Self {
        Self {
            parallel: Some(5),
            contact: Duration::from_secs(3),
            contact_deadline: Duration::from_secs(120),
            progress_deadline: Duration::from_secs(30 * 60),
        }
    }
}

/// A pull that succeeded.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    /// The image's ID.
    pub(super) id: String,
    /// The credentials that the registry accepted; `None` when none were given.
    pub(super) used: Option<SecretSource>,
    /// From the first request to the registry to the end, without waiting for others.
    pub(super) duration: Duration,
}

/// A pull that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum PullFailure {
    /// The registry or Podman refused; with several credentials, what was said to each.
    #[error("{}", joined(.0))]
    Refused(Vec<String>),
    /// Podman's service is gone.
    #[error("{0}")]
    Service(Arc<Error>),
    /// The registry did not answer.
    #[error("the registry did not name the image's parts within {} s", .0.as_secs())]
    NoContact(Duration),
    /// The transfer stands still.
    #[error("no progress for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The task that pulled is gone; only at shutdown.
    #[error("the pull was given up")]
    Abandoned,
}

/// As Kubernetes prints several errors: one as it is, more in brackets, each once.
fn joined(messages: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for message in messages {
        if !unique.contains(&message.as_str()) {
            unique.push(message);
        }
    }
    match unique.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

type Outcome = Result<Fetched, PullFailure>;

/// Ends the pull when nobody waits for it any more.
struct Pull {
    outcome: Shared<BoxFuture<'static, Outcome>>,
    task: AbortHandle,
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Same image, same credentials.
type Key = (String, Vec<String>);

pub(super) struct Pulls {
    podman: Client,
    limits: PullLimits,
    slots: Option<Arc<Semaphore>>,
    current: Mutex<HashMap<Key, Weak<Pull>>>,
}

impl Pulls {
    pub(super) fn new(podman: Client, limits: PullLimits) -> Self {
        Self { podman, limits, slots: limits.parallel.map(|n| Arc::new(Semaphore::new(n.max(1)))), current: Mutex::new(HashMap::new()) }
    }

    /// Pulls, or waits for the same pull that another pod began. Dropping the future ends the pull unless others wait too.
    pub(super) async fn pull(&self, reference: &str, credentials: &[Credential]) -> Outcome {
        let hashes = credentials.iter().map(|c| c.source.credential_hash.clone()).collect();
        let key = (reference.to_owned(), hashes);
        let pull = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.retain(|_, pull| pull.strong_count() > 0);
            // One that has ended is no answer to a pod that asks only now.
            let running = current.get(&key).and_then(Weak::upgrade).filter(|p| p.outcome.peek().is_none() && !p.task.is_finished());
            running.unwrap_or_else(|| {
                let pull = Arc::new(self.begin(reference.to_owned(), credentials.to_vec()));
                current.insert(key, Arc::downgrade(&pull));
                pull
            })
        };
        pull.outcome.clone().await
    }

    fn begin(&self, reference: String, credentials: Vec<Credential>) -> Pull {
        let (podman, limits, slots) = (self.podman.clone(), self.limits, self.slots.clone());
        let task = tokio::spawn(async move { run(&podman, &reference, &credentials, limits, slots).await });
        let abort = task.abort_handle();
        let outcome = async move { task.await.unwrap_or(Err(PullFailure::Abandoned)) };
        Pull { outcome: outcome.boxed().shared(), task: abort }
    }
}

async fn run(podman: &Client, reference: &str, credentials: &[Credential], limits: PullLimits, slots: Option<Arc<Semaphore>>) -> Outcome {
    let mut slot = match slots {
        // The semaphore is never closed.
        Some(slots) => slots.acquire_owned().await.ok(),
        None => None,
    };
    let begin = Instant::now();
    let attempts: Vec<Option<&Credential>> = if credentials.is_empty() { vec![None] } else { credentials.iter().map(Some).collect() };
    let mut refusals = Vec::new();
    for credential in attempts {
        match attempt(podman, reference, credential, limits, &mut slot).await {
            Ok(id) => {
                return Ok(Fetched { id, used: credential.map(|c| c.source.clone()), duration: begin.elapsed() });
            }
            Err(PullFailure::Refused(messages)) => refusals.extend(messages),
            Err(other) => return Err(other),
        }
    }
    Err(PullFailure::Refused(refusals))
}

async fn attempt<P: Send>(
    podman: &Client,
    reference: &str,
    credential: Option<&Credential>,
    limits: PullLimits,
    slot: &mut Option<P>,
) -> Result<String, PullFailure> {
    // What was said, counted: (transfer has begun, number of lines).
    let (said, mut heard) = watch::channel((false, 0_u64));
    let pull = podman.pull_image(reference, credential.map(|c| &c.auth), |progress| {
        let transfer = !progress.line.starts_with("Trying to pull") && !progress.line.is_empty();
        said.send_modify(|(begun, lines)| {
            *begun |= transfer;
            *lines += 1;
        });
    });
    tokio::pin!(pull);
    let begin = Instant::now();
    let mut last = begin;
    loop {
        let (begun, _) = *heard.borrow_and_update();
        let limit = match (begun, slot.is_some()) {
            (false, true) => begin + limits.contact,
            (false, false) => begin + limits.contact_deadline,
            (true, _) => last + limits.progress_deadline,
        };
        tokio::select! {
            result = &mut pull => {
                return result.map_err(|error| match error.podman_message() {
                    Some(message) => PullFailure::Refused(vec![message.to_owned()]),
                    None => PullFailure::Service(Arc::new(error)),
                });
            }
            changed = heard.changed() => {
                if changed.is_ok() { last = Instant::now(); }
            }
            () = tokio::time::sleep_until(limit) => match (begun, slot.take()) {
                // A dead name or registry: it may go on, but not in the way of others.
                (false, Some(_)) => {}
                (false, None) => return Err(PullFailure::NoContact(limits.contact_deadline)),
                (true, _) => return Err(PullFailure::Stalled(limits.progress_deadline)),
            },
        }
    }
}
