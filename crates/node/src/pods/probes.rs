//! The tries of a pod's probes: one task per container and kind, as long as the worker's plan wants it. Only a verdict that
//! changes reaches the worker, so that a probe that keeps saying the same costs no decision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Probe};
use kube_pet_core::ids::ContainerId;
use kube_pet_core::pod::{ContainerState, Observed, ProbeKind, Tally, Verdict, find_container};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::runtime::PodRuntime;
use crate::handlers::ProbeOutcome;
use crate::instruments;

/// One probe of one container.
pub(super) type ProbeId = (ContainerId, ProbeKind);

/// The probers of one pod. Dropping it ends them.
pub(super) struct Probers {
    tasks: BTreeMap<ProbeId, AbortOnDropHandle<()>>,
    /// As it was told last.
    pod: watch::Sender<Arc<Pod>>,
    verdicts: mpsc::UnboundedSender<(ProbeId, Verdict)>,
}

impl Probers {
    /// No prober yet; verdicts come out of the receiver.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<(ProbeId, Verdict)>) {
        let (verdicts, receiver) = mpsc::unbounded_channel();
        (Self { tasks: BTreeMap::new(), pod: watch::Sender::default(), verdicts }, receiver)
    }

    /// Ends the probers that are no longer wanted and starts those that are missing.
    pub fn keep(&mut self, runtime: &Arc<PodRuntime>, pod: &Arc<Pod>, observed: &Observed, wanted: &BTreeSet<ProbeId>) {
        self.tasks.retain(|id, _| wanted.contains(id));
        self.pod.send_replace(pod.clone());
        for id in wanted {
            if self.tasks.contains_key(id) {
                continue;
            }
            let Some(seen) = observed.containers.iter().find(|c| c.id == id.0) else { continue };
            let ContainerState::Running { started_at } = seen.state else { continue };
            let Some((_, container)) = find_container(pod, seen.name.as_str()) else { continue };
            let Some(probe) = id.1.of(&container).cloned() else { continue };
            let prober = Prober {
                runtime: runtime.clone(),
                pod: self.pod.subscribe(),
                container: seen.name.to_string(),
                pod_ips: observed.sandbox.as_ref().map(|s| s.pod_ips.clone()).unwrap_or_default(),
                probe,
                id: id.clone(),
                started_at,
                verdicts: self.verdicts.clone(),
            };
            self.tasks.insert(id.clone(), AbortOnDropHandle::new(tokio::spawn(prober.run().in_current_span())));
        }
    }
}

struct Prober {
    runtime: Arc<PodRuntime>,
    pod: watch::Receiver<Arc<Pod>>,
    container: String,
    pod_ips: Vec<std::net::IpAddr>,
    probe: Probe,
    id: ProbeId,
    started_at: Timestamp,
    verdicts: mpsc::UnboundedSender<(ProbeId, Verdict)>,
}

impl Prober {
    async fn run(self) {
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        tokio::time::sleep(self.first_delay(period)).await;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tally = Tally::default();
        let mut told = None;
        loop {
            ticks.tick().await;
            let Some(result) = self.attempt().await else { continue };
            let Some(verdict) = tally.add(&self.probe, result).filter(|verdict| told != Some(*verdict)) else { continue };
            told = Some(verdict);
            if self.verdicts.send((self.id.clone(), verdict)).is_err() {
                return;
            }
        }
    }

    /// What is left of `initialDelaySeconds`. Where this agent found the container running, its probes are spread over a period, so
    /// that a restart of the agent does not try all of them at once.
    fn first_delay(&self, period: Duration) -> Duration {
        let age = Duration::try_from(Timestamp::now().duration_since(self.started_at)).unwrap_or_default();
        let left = seconds(self.probe.initial_delay_seconds, 0).saturating_sub(age);
        let up = self.runtime.began.elapsed();
        if up < period && age > up {
            let share = u32::from(u8::from_str_radix(self.id.0.as_str().get(..2).unwrap_or_default(), 16).unwrap_or(0));
            return left.max(period * share / 256);
        }
        left
    }

    /// One try; `None` if it says nothing about the container.
    async fn attempt(&self) -> Option<Verdict> {
        let pod = self.pod.borrow().clone();
        let (kind, container) = find_container(&pod, &self.container)?;
        let name = self.id.1.as_str();
        let meta = &pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (pod_name, namespace, uid) = (text(&meta.name), text(&meta.namespace), text(&meta.uid));
        let tried_at = Instant::now();
        let outcome = self.runtime.handlers.probe(&pod, &container, &self.probe, &self.pod_ips, &self.id.0).await;
        let (verdict, event) = match outcome {
            ProbeOutcome::Success(_) => (Some(Verdict::Success), None),
            ProbeOutcome::Warning(text) => (Some(Verdict::Success), Some(("ProbeWarning", format!("{name} probe warning: {text}")))),
            ProbeOutcome::Failure(text) => (Some(Verdict::Failure), Some(("Unhealthy", format!("{name} probe failed: {text}")))),
            ProbeOutcome::Errored(text) => {
                (None, Some(("Unhealthy", format!("{name} probe errored and resulted in failure state: {text}"))))
            }
            ProbeOutcome::Unknown(text) => {
                (None, Some(("Unhealthy", format!("{name} probe errored and resulted in unknown state: {text}"))))
            }
        };
        instruments::PROBES_DURATION.observe(&[name, &self.container, &pod_name, &namespace], tried_at.elapsed());
        if let Some(verdict) = verdict {
            let result = if verdict == Verdict::Success { "successful" } else { "failed" };
            instruments::PROBES.add(&[name, result, &self.container, &pod_name, &namespace, &uid]);
        }
        if let Some((reason, message)) = event {
            self.runtime.warn(&pod, Some((kind, &self.container)), reason, message);
        }
        verdict
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}
