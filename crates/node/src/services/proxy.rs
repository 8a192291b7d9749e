//! The task `the service proxy`: the only one that changes the kernel's rules for Services and host ports.
//!
//! Services wait until both lists are complete: the rules of an earlier run stay in force until then, and are compared with what
//! should be instead of being replaced, so that traffic goes on. From then on only what changes is programmed. What somebody else
//! has changed in the kernel is found by a look every second, which others' own changes make rarer, and put right.
//!
//! Host ports have a table of their own, which does not wait: pods start without an API server too.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use kube_pet_core::node::NodeInfo;
use kube_pet_core::services::{Event, Network};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::health_checks::HealthChecks;
use super::host_ports::Command;
use super::programmer::{Open, Programmer};
use super::status::ProxyStatus;
use super::table::{Networks, Table};
use super::watch::Update;
use crate::instruments::service_proxy as instruments;
use crate::masquerade::Masquerade;

/// How often the kernel's rules are looked at.
const VERIFY: Duration = Duration::from_secs(1);
/// Updates that are programmed together, if so many wait.
const BATCH: usize = 1000;
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the proxy is made of.
pub(super) struct Parts<T> {
    /// Opens the table for Services; `None`: they are not served here.
    pub(super) services: Option<Open<T>>,
    /// Opens the table for host ports.
    pub(super) host_ports: Open<T>,
    pub(super) updates: mpsc::Receiver<Update>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) node: watch::Receiver<Arc<NodeInfo>>,
    pub(super) masquerade: Masquerade,
    /// Told how it goes.
    pub(super) status: ProxyStatus,
}

pub(super) struct Proxy<T> {
    services: Option<Programmer<T>>,
    host_ports: Programmer<T>,
    updates: mpsc::Receiver<Update>,
    commands: mpsc::UnboundedReceiver<Command>,
    node: watch::Receiver<Arc<NodeInfo>>,
    masquerade: Masquerade,
    health_checks: HealthChecks,
    status: ProxyStatus,
    services_synced: bool,
    slices_synced: bool,
    /// When what is not programmed yet was caused.
    triggers: Vec<Timestamp>,
    started: Timestamp,
}

impl<T: Table> Proxy<T> {
    pub(super) fn new(parts: Parts<T>) -> Self {
        let Parts { services, host_ports, updates, commands, node, masquerade, status } = parts;
        Self {
            services: services.map(|open| Programmer::new("services", open)),
            host_ports: Programmer::new("host ports", host_ports),
            updates,
            commands,
            node,
            masquerade,
            health_checks: HealthChecks::new(status.clone()),
            status,
            services_synced: false,
            slices_synced: false,
            triggers: Vec::new(),
            started: Timestamp::now(),
        }
    }

    pub(super) async fn run(mut self) {
        self.follow_node();
        // The pods of an earlier run must not be missing when the rules are compared for the first time.
        let mut waiting = Vec::new();
        while let Ok(command) = self.commands.try_recv() {
            match command.done {
                None => self.host_ports.take(command.event),
                Some(_) => waiting.push(command),
            }
        }
        for command in waiting {
            self.command(command).await;
        }
        let mut verify = tokio::time::interval(VERIFY);
        verify.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.program().await;
            let retry = [self.host_ports.retry(), self.services.as_ref().and_then(Programmer::retry)].into_iter().flatten().min();
            tokio::select! {
                Some(command) = self.commands.recv() => self.command(command).await,
                Some(update) = self.updates.recv() => {
                    self.update(update);
                    for _ in 1..BATCH {
                        let Ok(update) = self.updates.try_recv() else { break };
                        self.update(update);
                    }
                }
                Ok(()) = self.node.changed() => self.follow_node(),
                () = self.masquerade.changed() => self.follow_node(),
                _ = verify.tick() => {
                    self.host_ports.verify().await;
                    if let Some(services) = &mut self.services {
                        services.verify().await;
                    }
                }
                () = at(retry) => {}
            }
        }
    }

    /// Whether all Services are known.
    fn complete(&self) -> bool {
        self.services_synced && self.slices_synced
    }

    fn update(&mut self, update: Update) {
        match update {
            Update::Changed(event, trigger) => {
                match &event {
                    Event::Service(_) | Event::ServiceGone(_) => instruments::SERVICE_CHANGES.add(&[]),
                    _ => instruments::ENDPOINT_CHANGES.add(&[]),
                }
                // As for kube-proxy, what happened before the start says nothing about programming.
                self.triggers.extend(trigger.filter(|trigger| self.complete() && *trigger > self.started));
                if let Some(services) = &mut self.services {
                    services.take(event);
                }
            }
            Update::ServicesSynced => self.services_synced = true,
            Update::SlicesSynced => self.slices_synced = true,
        }
    }

    fn follow_node(&mut self) {
        let node = self.node.borrow_and_update().clone();
        let pods: Vec<Network> = node.pod_cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
        self.host_ports.use_networks(Networks { pods: pods.clone(), masquerade_except: self.masquerade.exceptions() });
        if let Some(services) = &mut self.services {
            services.use_networks(Networks { pods, masquerade_except: None });
            services.take(Event::Zone(node.labels.get(ZONE).map(|zone| Arc::from(zone.as_str()))));
        }
    }

    /// A pod's host ports: programmed at once, because the pod's start waits.
    async fn command(&mut self, command: Command) {
        let Command { event, done } = command;
        self.host_ports.take(event);
        let result = self.host_ports.program().await;
        if let Some(done) = done {
            // A pod that does not wait any more asks again, or is gone.
            let _ = done.send(result.map(drop));
        }
    }

    /// Brings the kernel up to date as far as that is known. Errors have been told, and are tried again.
    async fn program(&mut self) {
        if !self.host_ports.waits() {
            let _ = self.host_ports.program().await;
        }
        let complete = self.complete();
        let Some(services) = self.services.as_mut().filter(|services| complete && !services.waits()) else { return };
        let programmed = services.program().await;
        self.status.set(!services.is_broken(), matches!(programmed, Ok(true)).then(Timestamp::now));
        if let Ok(changed) = programmed {
            if changed {
                instruments::LAST_SYNC.set(seconds_now());
            }
            for trigger in self.triggers.drain(..).filter(|_| changed) {
                let took = Timestamp::now().duration_since(trigger);
                instruments::NETWORK_PROGRAMMING.observe(&[], took.try_into().unwrap_or_default());
            }
            self.health_checks.follow(services.compiler().health_checks());
        }
    }
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Never without a moment.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
