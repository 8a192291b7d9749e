//! One of several does the work: leader election by a Lease, by client-go's rules.
//!
//! A holder counts as gone when its Lease has not changed for its duration as *this* process has seen it: clocks are not compared.
//! A leader that could not renew in time ends; it must not go on, because another may have begun.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error as KubeError};
use thiserror::Error;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How fast a leader is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// After this long without renewal others may take over.
    pub duration: Duration,
    /// After this long without a renewal the leader gives up; less than [`Self::duration`].
    pub deadline: Duration,
    /// Time between two tries.
    pub retry: Duration,
}

impl Default for Timing {
    /// client-go's.
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), deadline: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// Leadership is over.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// Another has it.
    #[error("the lease {name} is held by {holder}")]
    Lost {
        /// The Lease.
        name: String,
        /// Who has it.
        holder: String,
    },
    /// The API server was away for too long.
    #[error("the lease {name} was not renewed within {} s", deadline.as_secs_f32())]
    Expired {
        /// The Lease.
        name: String,
        /// How long it was tried.
        deadline: Duration,
        /// The last error.
        #[source]
        source: Box<KubeError>,
    },
}

/// An identity of this process: the host's name and the process ID. Two hosts of one name would be one.
pub fn own_identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}_{}", std::process::id())
}

/// Takes part in an election.
#[derive(Clone, Debug)]
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
}

impl Elector {
    /// For the Lease `name` in `namespace`; `identity` is unique among those that take part.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity: identity.to_owned(), timing }
    }

    /// Waits, without limit, until this process is the leader. May be dropped at any time.
    pub async fn acquire(&self) -> Leadership {
        let mut watched: Option<(LeaseSpec, Instant)> = None;
        let mut told = None;
        loop {
            match self.api.get_opt(&self.name).await {
                Ok(None) => match self.create().await {
                    Ok(lease) => return self.leading(lease),
                    Err(error) => debug!(lease = %self.name, error = &error as &dyn std::error::Error, "the lease is not created"),
                },
                Ok(Some(lease)) => {
                    let spec = lease.spec.clone().unwrap_or_default();
                    let since = match &watched {
                        Some((seen, since)) if *seen == spec => *since,
                        _ => watched.insert((spec.clone(), Instant::now())).1,
                    };
                    if self.is_free(&spec, since) {
                        match self.take(lease).await {
                            Ok(lease) => return self.leading(lease),
                            Err(error) => debug!(lease = %self.name, error = &error as &dyn std::error::Error, "the lease is not taken"),
                        }
                    } else if told != spec.holder_identity {
                        info!(lease = %self.name, holder = spec.holder_identity.as_deref().unwrap_or_default(), "standing by");
                        told = spec.holder_identity;
                    }
                }
                Err(error) => warn!(lease = %self.name, error = &error as &dyn std::error::Error, "the lease cannot be read; retrying"),
            }
            tokio::time::sleep(self.timing.retry).await;
        }
    }

    fn is_free(&self, spec: &LeaseSpec, unchanged_since: Instant) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let duration = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
        // A process of the same identity that is here again has it at once: there is one of each.
        holder.is_empty() || holder == self.identity || unchanged_since.elapsed() >= duration
    }

    fn leading(&self, lease: Lease) -> Leadership {
        info!(lease = %self.name, identity = %self.identity, "leading");
        Leadership { elector: self.clone(), lease, renewed: Instant::now() }
    }

    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = old.filter(|old| old.holder_identity.as_deref() == Some(&self.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            // Rounded up: a second is the least that a Lease can say.
            lease_duration_seconds: Some(i32::try_from(self.timing.duration.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)),
            acquire_time: same.and_then(|old| old.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same.is_some() || old.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    async fn create(&self) -> Result<Lease, KubeError> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(self.spec(None)) }).await
    }

    /// Conflicts, by its resource version, with whoever was faster.
    async fn take(&self, mut lease: Lease) -> Result<Lease, KubeError> {
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        self.api.replace(&self.name, &PostParams::default(), &lease).await
    }
}

/// This process is the leader as long as [`Self::keep`] runs.
#[derive(Debug)]
pub struct Leadership {
    elector: Elector,
    lease: Lease,
    renewed: Instant,
}

impl Leadership {
    /// Renews it; returns only when it is over. Dropping it keeps the Lease until it runs out: see [`Self::release`].
    pub async fn keep(&mut self) -> LeaseError {
        let Elector { api, name, identity, timing } = &self.elector.clone();
        loop {
            tokio::time::sleep(timing.retry).await;
            let left = timing.deadline.saturating_sub(self.renewed.elapsed());
            let attempt = tokio::time::timeout(left.max(timing.retry / 2), self.elector.take(self.lease.clone()));
            let asked = Instant::now();
            let error = match attempt.await {
                Ok(Ok(lease)) => {
                    self.lease = lease;
                    self.renewed = asked;
                    continue;
                }
                Ok(Err(error)) => error,
                Err(_) => KubeError::Service("no answer in time".into()),
            };
            debug!(lease = %name, error = &error as &dyn std::error::Error, "the lease is not renewed; retrying");
            // Somebody wrote it: the newest state says who has it.
            if let KubeError::Api(status) = &error
                && (status.code == 409 || status.code == 404)
                && let Ok(Ok(found)) = tokio::time::timeout(timing.retry, api.get_opt(name)).await
            {
                let holder = found.as_ref().and_then(|l| l.spec.as_ref()?.holder_identity.clone()).unwrap_or_default();
                match found {
                    Some(found) if holder == *identity => self.lease = found,
                    _ => return LeaseError::Lost { name: name.clone(), holder },
                }
            }
            if self.renewed.elapsed() >= timing.deadline {
                return LeaseError::Expired { name: name.clone(), deadline: timing.deadline, source: Box::new(error) };
            }
        }
    }

    /// Gives it back, so that another need not wait. The caller has ended its work before.
    pub async fn release(mut self) {
        let spec = self.lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        let params = PostParams::default();
        let done = self.elector.api.replace(&self.elector.name, &params, &self.lease);
        if !matches!(tokio::time::timeout(Duration::from_secs(2), done).await, Ok(Ok(_))) {
            debug!(lease = %self.elector.name, "the lease is not given back; it runs out");
        }
    }
}
