//! Calls on file systems that may never answer: those of servers and of other disks. Each runs in a thread of its own, which is waited for
//! only so long and then left to itself; nothing is asked twice of one that has not answered yet. So a dead server costs a thread, and
//! neither a place among the runtime's threads nor a pod beside it.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube_pet_core::ids::PodUid;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::{Instant, timeout_at};

/// What is asked: one call at a time for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// Setting up what is at a path.
    SetUp(PathBuf),
    /// Whether the file system at a path answers.
    Answer(PathBuf),
    /// Unmounting what was mounted too late.
    Undo(PathBuf),
    /// Unmounting a pod's volumes.
    Unmount(PodUid),
    /// The same, by force.
    Abort(PodUid),
}

/// No answer in time. The call may still be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} s", .limit.as_secs())]
pub(super) struct Hung {
    pub(super) limit: Duration,
}

/// A call, or the right to make it.
pub(super) type Place = OwnedMutexGuard<()>;

/// All calls that are under way. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Patience {
    places: Arc<Mutex<HashMap<Subject, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Patience {
    /// Waits until no other call of `subject` is under way.
    pub(super) async fn alone(&self, subject: Subject, limit: Duration) -> Result<Place, Hung> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.retain(|_, place| Arc::strong_count(place) > 1);
            places.entry(subject).or_default().clone()
        };
        tokio::time::timeout(limit, place.lock_owned()).await.map_err(|_| Hung { limit })
    }

    /// Runs `work`, once no other call of `subject` is under way.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        subject: Subject,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Hung> {
        let deadline = Instant::now() + limit;
        let place = self.alone(subject, limit).await?;
        let (tx, done) = oneshot::channel();
        let thread = move || {
            let result = work();
            drop(place);
            // Nobody waits any more.
            let _ = tx.send(result);
        };
        let spawned: io::Result<_> = std::thread::Builder::new().name("volume".to_owned()).spawn(thread);
        match spawned {
            // A machine without threads to spare answers nothing, either.
            Err(_) => Err(Hung { limit }),
            Ok(_) => match timeout_at(deadline, done).await {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(_)) | Err(_) => Err(Hung { limit }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_call_that_hangs_is_left_alone_and_not_made_again() {
        let patience = Patience::default();
        let (answer, question) = mpsc::channel::<()>();
        let (asked, count) = mpsc::channel();
        let subject = || Subject::Answer("/dead".into());
        let counted = asked.clone();
        let hung = patience.run(subject(), SHORT, move || {
            counted.send(()).unwrap();
            question.recv().unwrap();
        });
        assert_eq!(hung.await, Err(Hung { limit: SHORT }));
        let counted = asked.clone();
        assert!(patience.run(subject(), SHORT, move || counted.send(()).unwrap()).await.is_err());
        assert_eq!(patience.run(Subject::Answer("/alive".into()), SHORT, || 7).await, Ok(7));
        assert_eq!(count.try_iter().count(), 1);
        answer.send(()).unwrap();
        assert_eq!(patience.run(subject(), Duration::from_secs(10), || 8).await, Ok(8));
        drop(patience.alone(Subject::Answer("/other".into()), SHORT).await.unwrap());
        assert_eq!(patience.places.lock().unwrap().len(), 1, "what is over is forgotten");
    }
}
