//! The tunnel, kept on threads that may wait, and what is seen of it.

use std::sync::Arc;
use std::time::Instant;

use kube_pet_net::tables::OwnChanges;
use kube_pet_tunnel::{Desired, Keeper, PrivateKey, Settings, Status};

use super::Options;
use super::counters::{CHANGE_SECONDS, CHANGES};
use super::desired::MARK;

/// What a look at the interface has shown.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    /// Of the last look that worked.
    pub(super) status: Option<Arc<Status>>,
    pub(super) trouble: Option<String>,
}

pub(super) struct Watched {
    keeper: Keeper,
    status: Option<Arc<Status>>,
}

impl Watched {
    pub(super) fn new(options: &Options, private_key: PrivateKey) -> Self {
        let settings = Settings { private_key, listen_port: options.listen_port, mark: MARK.value };
        Self { keeper: Keeper::new(settings, options.mode, OwnChanges::default()), status: None }
    }

    /// Makes the interface what it should be. `None` if that broke down.
    pub(super) async fn keep(mut self, desired: Arc<Desired>) -> Option<(Self, Seen)> {
        let kept = tokio::task::spawn_blocking(move || {
            if let Some(took) = self.keeper.keep(&desired) {
                CHANGE_SECONDS.set(&[], took.as_secs_f64());
                CHANGES.increment(&[]);
            }
            self.status = self.keeper.status().map(Arc::new).or(self.status);
            let seen = Seen { at: Instant::now(), status: self.status.clone(), trouble: self.keeper.trouble().map(str::to_owned) };
            (self, seen)
        });
        kept.await.ok()
    }
}
