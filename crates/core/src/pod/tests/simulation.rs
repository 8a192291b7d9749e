//! Seeded histories: spec changes, container exits, lost events, late lists, failing operations, restarts of the agent in the
//! middle of anything, clock steps, evictions, resizes, restarts of all containers. Whatever happens, no container ever has two live copies, none is restarted without a cause,
//! and once the faults end the pod becomes what its spec says.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Lifecycle, LifecycleHandler, PodStatus, Probe, ResourceRequirements};

use super::*;
use crate::pod::rounds::Round;
use crate::pod::spec::restarts_all_after;
use crate::quantity::Amount;
use crate::resize::{Actuated, ContainerAmounts, PodAmounts, ResizeStep, Resizing};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The machine as it really is.
struct World {
    seed: u64,
    random: Random,
    pod: Pod,
    present: bool,
    /// Seconds of the wall clock; steps happen.
    clock: i64,
    /// Seconds of the steady clock.
    steady: i64,
    containers: BTreeMap<ContainerId, ObservedContainer>,
    sandbox: Option<String>,
    sandboxes: u32,
    next_id: u32,
    faults: bool,
    /// Containers whose liveness or startup probe has failed at some time.
    probed: BTreeSet<ContainerId>,
    /// What the kernel was really told.
    kernel: Actuated,
    /// What the agent has written down of it.
    checkpoint: Actuated,
    /// What happened, for a failing seed.
    log: Vec<String>,
}

/// Sidecars, hooks and probes, as chance has it.
fn furnish(mut pod: Pod, random: &mut Random) -> Pod {
    let spec = pod.spec.as_mut().unwrap();
    if random.chance(30) {
        let init = spec.init_containers.get_or_insert_default();
        let place = random.below(init.len() as u64 + 1) as usize;
        let names: &[&str] = if random.chance(50) { &["s1", "s2"] } else { &["s1"] };
        let sidecars = names.iter().map(|name| Container { restart_policy: Some("Always".into()), ..container(name) });
        init.splice(place..place, sidecars);
    }
    for container in spec.init_containers.iter_mut().flatten().filter(|c| is_sidecar(c)).chain(&mut spec.containers) {
        let hook = |random: &mut Random| random.chance(15).then(LifecycleHandler::default);
        container.lifecycle = Some(Lifecycle { post_start: hook(random), pre_stop: hook(random), ..Lifecycle::default() });
        let probe = |random: &mut Random| random.chance(20).then(Probe::default);
        container.startup_probe = probe(random);
        container.readiness_probe = probe(random);
        container.liveness_probe = probe(random);
    }
    if random.chance(30) {
        let mut all: Vec<_> = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).collect();
        let place = random.below(all.len() as u64) as usize;
        let rules = r#"[{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]"#;
        all[place].restart_policy.get_or_insert_with(|| "Never".into());
        all[place].restart_policy_rules = Some(serde_json::from_str(rules).unwrap());
    }
    pod
}

/// The agent's view, lost when it dies.
struct Agent {
    memory: Memory,
    observed: Observed,
    status: Option<PodStatus>,
}

const STARTING: &str = "starting";

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let policy = ["Always", "OnFailure", "Never"][random.below(3) as usize];
        let init: &[&str] = if random.chance(40) { &["i1", "i2"] } else { &[] };
        let apps: &[&str] = if random.chance(50) { &["a", "b"] } else { &["a"] };
        let pod = furnish(pod(policy, init, apps), &mut random);
        Self {
            seed,
            random,
            pod,
            present: true,
            clock: 0,
            steady: 0,
            containers: BTreeMap::new(),
            sandbox: None,
            sandboxes: 0,
            next_id: 0,
            faults: true,
            probed: BTreeSet::new(),
            kernel: Actuated::default(),
            checkpoint: Actuated::default(),
            log: vec![format!("policy {policy} init {init:?} apps {apps:?}")],
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}\n{}", self.seed, self.log.join("\n"));
    }

    fn agent(&mut self) -> Agent {
        let actuated = self.checkpoint.clone();
        let memory = Memory { admitted: true, start_time: Some(at(0)), actuated, ..Memory::default() };
        let mut agent = Agent { memory, observed: Observed::default(), status: self.pod.status.clone() };
        self.relist(&mut agent);
        for step in std::mem::take(&mut agent.memory.actuated.begun) {
            let runs = |id: &ContainerId| self.containers.get(id).is_some_and(ObservedContainer::is_running);
            if step.container().is_none_or(runs) {
                self.told(&step);
                agent.memory.actuated.apply(&step);
                self.check_shares();
            }
        }
        if !agent.observed.containers.is_empty() {
            agent.observed.sandbox = self.sandbox_facts();
        }
        agent
    }

    fn sandbox_facts(&self) -> Option<SandboxFacts> {
        self.sandbox.clone().map(|id| SandboxFacts { id, ..sandbox() })
    }

    fn relist(&self, agent: &mut Agent) {
        agent.observed.containers = self.containers.values().cloned().collect();
    }

    fn step(&mut self, agent: &mut Agent) -> bool {
        let mut pod = self.pod.clone();
        pod.status.clone_from(&agent.status);
        let stop = Stop::of(&pod, self.present);
        let plan = decide(
            Desired { pod: &pod, stop },
            &agent.observed,
            &agent.memory,
            &Rules::default(),
            Now { wall: at(self.clock), steady: at(self.steady) },
        );
        self.check_status(&plan.status, agent.status.as_ref());
        let stands = plan.status.phase.as_deref() == Some("Failed") && plan.status.reason.as_deref() == Some("Evicted");
        if agent.memory.evicted.is_some() && !stands {
            self.fail(&format!("an evicted pod is {:?}: {:?}", plan.status.phase, plan.status.reason));
        }
        agent.status = Some(plan.status.clone());
        plan.note_ahead(&mut agent.memory.actuated);
        self.checkpoint.clone_from(&agent.memory.actuated);
        self.probe(agent, &plan.probes);
        if !self.faults || self.random.chance(70) {
            self.pod.status = Some(plan.status);
        }
        for action in plan.actions {
            self.log.push(format!("{:>5} {action:?}", self.clock));
            // The agent may die before, or after the effect but before it has noted anything.
            if self.faults && self.random.chance(2) {
                *agent = self.agent();
                return false;
            }
            self.act(agent, action);
            if self.faults && self.random.chance(2) {
                *agent = self.agent();
                return false;
            }
        }
        plan.finished
    }

    /// Probes come to a verdict now and then; without faults, to the good one.
    fn probe(&mut self, agent: &mut Agent, probes: &BTreeSet<(ContainerId, ProbeKind)>) {
        for (id, kind) in probes {
            if !self.faults || self.random.chance(30) {
                let fails = self.faults && self.random.chance(25);
                if fails && *kind != ProbeKind::Readiness {
                    self.probed.insert(id.clone());
                }
                agent.memory.probes.insert((id.clone(), *kind), if fails { Verdict::Failure } else { Verdict::Success });
            }
        }
    }

    fn check_status(&self, new: &PodStatus, old: Option<&PodStatus>) {
        let phase = |s: &PodStatus| s.phase.clone().unwrap_or_default();
        if let Some(old) = old.map(phase).filter(|p| p == "Failed" || p == "Succeeded")
            && old != phase(new)
        {
            self.fail(&format!("phase {old} became {}", phase(new)));
        }
    }

    fn act(&mut self, agent: &mut Agent, action: Action) {
        let fails = self.faults && self.random.chance(10);
        match action {
            Action::Prepare => {
                if fails {
                    agent.memory.prepare_failure =
                        Some(PrepareFailure { message: STARTING.into(), count: 1, retry_at: at(self.steady + 2) });
                    return;
                }
                if self.sandbox.is_none() {
                    self.sandboxes += 1;
                    self.sandbox = Some(format!("sb{}", self.sandboxes));
                }
                self.kernel.pod = Some(PodAmounts::of(&self.pod));
                agent.memory.actuated.pod = self.kernel.pod;
                agent.memory.prepare_failure = None;
                agent.observed.sandbox = self.sandbox_facts();
            }
            Action::EnsureImage { container, attempt } => {
                if fails {
                    let image = super::containers(&self.pod).find(|(_, c)| c.name == container.as_str()).unwrap().1.image.clone().unwrap();
                    let failure = ImageFailure {
                        missing: image.clone(),
                        image,
                        reason: "ErrImagePull".into(),
                        message: String::new(),
                        at: at(self.steady),
                        backoff_seconds: 10,
                        backs_off: true,
                    };
                    agent.memory.image_failures.insert(container, failure);
                } else {
                    agent.memory.image_failures.remove(&container);
                    agent.memory.images.insert(container, attempt);
                }
            }
            Action::StartContainer { container, attempt, backoff_seconds, round, obsolete, .. } => {
                agent.memory.images.remove(&container);
                self.check_round(agent, &container, round);
                self.start(agent, container, attempt, backoff_seconds, round, fails);
                for id in obsolete {
                    if self.containers.get(&id).is_some_and(ObservedContainer::is_running) {
                        self.fail("a running container was called obsolete");
                    }
                    self.containers.remove(&id);
                    agent.observed.containers.retain(|c| c.id != id);
                }
            }
            Action::PostStart { id, .. } => {
                if fails {
                    agent.memory.post_start.insert(id, PostStart::Failed);
                } else {
                    agent.memory.post_start.remove(&id);
                }
            }
            Action::PreStop { id, .. } => {
                agent.memory.stopping.entry(id.clone()).or_insert(at(self.steady));
                if !fails {
                    agent.memory.pre_stopped.insert(id);
                }
            }
            Action::Signal { id, .. } | Action::Kill { id, .. } => {
                self.check_turn(agent, &id);
                agent.memory.stopping.entry(id.clone()).or_insert(at(self.steady));
                agent.memory.signalled.entry(id.clone()).or_insert(at(self.steady));
                if !fails && self.random.chance(80) {
                    self.end(&id, 143);
                }
            }
            Action::Resize(resizing) => self.resize(agent, &resizing, fails),
            Action::RemoveContainer { id } => {
                self.containers.remove(&id);
                agent.observed.containers.retain(|c| c.id != id);
            }
            Action::Release => {
                if self.containers.values().any(ObservedContainer::is_running) {
                    self.fail("released under a running container");
                }
                if fails {
                    agent.memory.teardown_retry_at = Some(at(self.steady + 2));
                } else {
                    self.sandbox = None;
                    agent.observed.sandbox = None;
                    agent.memory.released = true;
                }
            }
            Action::Remove => {
                self.containers.clear();
                agent.observed.containers.clear();
                agent.memory.removed = true;
            }
            Action::DeleteObject => {
                self.present = false;
                agent.memory.deleted = true;
            }
        }
    }

    /// A sidecar that ends with its pod goes after the app containers and later sidecars, unless the grace period is over.
    fn check_turn(&self, agent: &Agent, id: &ContainerId) {
        let sidecar =
            self.containers.get(id).filter(|c| matches!(c.name.as_str(), "s1" | "s2") && Some(&c.sandbox) == self.sandbox.as_ref());
        let own_fault = self.probed.contains(id)
            || agent.memory.actuated.replaced.contains(id)
            || sidecar.is_some_and(|sidecar| Round::find(&self.pod, &agent.observed, &agent.memory).is_over(sidecar))
            || agent.memory.actuated.restarts.contains(id)
            || agent.memory.post_start.get(id) == Some(&PostStart::Failed);
        let Some(sidecar) = sidecar.filter(|_| !own_fault) else { return };
        let grace = SignedDuration::from_secs(if agent.memory.evicted.is_some() { 1 } else { 30 });
        let in_time = agent.memory.stopping.get(id).is_none_or(|began| at(self.steady) < *began + grace);
        let first: &[&str] = if sidecar.name.as_str() == "s1" { &["a", "b", "s2"] } else { &["a", "b"] };
        let early = agent.observed.containers.iter().find(|c| c.is_running() && first.contains(&c.name.as_str()));
        if let Some(early) = early.filter(|_| in_time) {
            self.fail(&format!("the sidecar {id} was signalled before {}", early.name));
        }
    }

    /// A round begins when the one before is over: a container has asked for it, and nothing of it runs. In each, the init containers
    /// run one after the other, and before the app containers.
    fn check_round(&self, agent: &Agent, name: &ContainerName, round: u32) {
        let reached = self.containers.values().map(|c| c.round).max().unwrap_or(0);
        let of_before = || self.containers.values().filter(move |c| c.round < round);
        if let Some(left) = of_before().find(|c| c.is_running()) {
            self.fail(&format!("{name} starts in round {round} while {} runs since round {}", left.id, left.round));
        }
        let asked = of_before().any(|c| {
            let container = find_container(&self.pod, c.name.as_str()).unwrap().1;
            c.round + 1 == round && c.exit().is_some_and(|exit| restarts_all_after(&container, exit.code))
        });
        if round < reached || round > reached && !asked {
            self.fail(&format!("{name} starts in round {round} after {reached}"));
        }
        // Nothing starts in a round whose end the agent has seen.
        let over = super::containers(&self.pod).find(|(_, container)| {
            let newest = agent.observed.newest(&container.name).filter(|newest| newest.round == round);
            newest.and_then(ObservedContainer::exit).is_some_and(|exit| restarts_all_after(container, exit.code))
        });
        if let Some((_, source)) = over {
            self.fail(&format!("{name} starts in round {round}, which {} has ended", source.name));
        }
        let init = self.pod.spec.as_ref().unwrap().init_containers.as_deref().unwrap_or_default();
        let before = init.iter().take_while(|container| container.name != name.as_str());
        // A sidecar that has come up once stays among those before, whatever happens to it.
        if let Some(missing) = before.into_iter().find(|container| !self.has_passed(container, round)) {
            self.fail(&format!("{name} starts before {} is done in round {round}", missing.name));
        }
    }

    /// Whether an init container has succeeded in a round, or a sidecar has been started in it.
    fn has_passed(&self, container: &Container, round: u32) -> bool {
        let mut attempts = self.containers.values().filter(|c| c.name.as_str() == container.name && c.round == round);
        attempts
            .any(|c| if is_sidecar(container) { c.state != ContainerState::Created } else { c.exit().is_some_and(|exit| exit.code == 0) })
    }

    fn assert_single(&self, name: &ContainerName) {
        if self.containers.values().any(|c| c.name == *name && c.is_running()) {
            self.fail(&format!("a second live copy of {name}"));
        }
    }

    fn start(&mut self, agent: &mut Agent, name: ContainerName, attempt: u32, backoff_seconds: u32, round: u32, fails: bool) {
        self.assert_single(&name);
        if agent.memory.evicted.is_some() {
            self.fail(&format!("{name} started in an evicted pod"));
        }
        let Some(sandbox) = self.sandbox.clone() else { self.fail("started without a sandbox") };
        if self.containers.values().any(|c| c.name == name && c.attempt >= attempt) {
            self.fail(&format!("attempt {attempt} of {name} again"));
        }
        let spec_hash = container_hash(&find_container(&self.pod, name.as_str()).unwrap().1);
        // A cause: nothing before it, or the one before has ended and the policy, the spec or the sandbox wants another.
        let before = self.containers.values().filter(|c| c.name == name).max_by_key(|c| c.attempt);
        if let Some(before) = before {
            let Some(exit) = before.exit() else { self.fail("restarted before it ended") };
            let (kind, container) = find_container(&self.pod, name.as_str()).unwrap();
            let probed = self.probed.contains(&before.id);
            let resized = agent.memory.actuated.restarts.contains(&before.id) && before.sandbox == sandbox;
            let wanted = resized
                || before.round < round
                || restarts_after(&self.pod, &container, exit.code)
                || probed
                || agent.memory.actuated.replaced.contains(&before.id) && before.sandbox == sandbox
                // What has been done in namespaces that are gone is done again in new ones before anything else is started there.
                || before.sandbox != sandbox && kind == ContainerKind::Init;
            if !wanted {
                self.fail(&format!("{name} restarted without a cause"));
            }
        }
        self.next_id += 1;
        let mut made = seen(name.as_str(), attempt, backoff_seconds, ContainerState::Created);
        made.id = ContainerId::new(format!("c{}", self.next_id));
        made.spec_hash = spec_hash;
        made.round = round;
        made.sandbox = sandbox;
        made.created_at = at(self.clock);
        let amounts = ContainerAmounts::of(&self.pod, &find_container(&self.pod, name.as_str()).unwrap().1);
        made.amounts = Some(amounts);
        self.kernel.containers.insert(made.id.clone(), amounts);
        // The pod's cgroup could not be changed, and the start is tried all the same: cgroup v1 refuses it.
        let refused = self.quota() < amounts.cpu_limit * 100;
        if fails || refused {
            // Created, and nobody was told.
            if !refused && self.random.chance(50) {
                self.containers.insert(made.id.clone(), made.clone());
                agent.observed.containers.push(made);
            } else {
                let failure =
                    StartFailure { attempt, reason: "CreateContainerError".into(), message: String::new(), retry_at: at(self.steady + 5) };
                agent.memory.start_failures.insert(name, failure);
            }
            return;
        }
        agent.memory.start_failures.remove(&name);
        made.state = ContainerState::Running { started_at: at(self.clock) };
        self.containers.insert(made.id.clone(), made.clone());
        if find_container(&self.pod, name.as_str()).unwrap().1.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()) {
            agent.memory.post_start.insert(made.id.clone(), PostStart::Due);
        }
        agent.observed.containers.push(made);
        self.check_shares();
    }

    /// Step by step; the agent may not get to its end, or not to write down what it has done.
    fn resize(&mut self, agent: &mut Agent, resizing: &Resizing, fails: bool) {
        agent.memory.resize.retry_at = None;
        agent.memory.actuated.begun.clear();
        for step in &resizing.steps {
            if fails && self.random.chance(30) {
                agent.memory.resize.retry_at = Some(at(self.steady + 10));
                return;
            }
            self.told(step);
            agent.memory.actuated.apply(step);
            self.check_shares();
        }
    }

    /// A step changes nothing but what it names, whatever the agent takes the rest for.
    fn told(&mut self, step: &ResizeStep) {
        let has = |id: &ContainerId| self.kernel.containers.get(id).copied().unwrap_or_default();
        match step {
            ResizeStep::ContainerMemory { id, amounts, .. } => {
                let ContainerAmounts { memory_request, memory_limit, .. } = *amounts;
                self.kernel.containers.insert(id.clone(), ContainerAmounts { memory_request, memory_limit, ..has(id) });
            }
            ResizeStep::ContainerCpu { id, amounts, .. } => {
                let ContainerAmounts { cpu_request, cpu_limit, .. } = *amounts;
                self.kernel.containers.insert(id.clone(), ContainerAmounts { cpu_request, cpu_limit, ..has(id) });
            }
            ResizeStep::PodMemory { .. } | ResizeStep::PodCpuQuota { .. } | ResizeStep::PodCpuShares { .. } => self.kernel.apply(step),
        }
    }

    fn quota(&self) -> i64 {
        self.kernel.pod.and_then(|pod| pod.cpu_quota).unwrap_or(i64::MAX)
    }

    /// No running container may have more CPU time than its pod: cgroup v1 refuses it.
    fn check_shares(&self) {
        let quota = self.quota();
        for container in self.containers.values().filter(|c| c.is_running()) {
            let limit = self.kernel.containers[&container.id].cpu_limit * 100;
            if limit > quota {
                self.fail(&format!("{} has {limit} of {quota}", container.id));
            }
        }
    }

    /// Resources of one container change; of a pod that restarts nothing, never those that ask for a restart.
    fn change_resources(&mut self) {
        let number = self.random.below(20) as i64;
        let place = self.random.next() as usize;
        let restart = self.random.chance(30) && pod_restart_policy(&self.pod) != RestartPolicy::Never;
        let spec = self.pod.spec.as_mut().unwrap();
        let mut all: Vec<_> = spec.init_containers.iter_mut().flatten().filter(|c| is_sidecar(c)).chain(&mut spec.containers).collect();
        let place = place % all.len();
        let container = &mut all[place];
        let list = |cpu: i64, memory: i64| {
            Some(BTreeMap::from([
                ("cpu".to_owned(), Amount::milli(cpu * 10).to_quantity()),
                ("memory".to_owned(), Amount::bytes(memory << 20).to_quantity()),
            ]))
        };
        let resources = ResourceRequirements { requests: list(1 + number, 1), limits: list(2 + 2 * number, 100 - number), claims: None };
        container.resources = Some(resources);
        if restart {
            container.resize_policy =
                Some(serde_json::from_str(r#"[{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]"#).unwrap());
        }
        self.log.push(format!("{:>5} resources of {} change to {number}", self.clock, container.name));
    }

    fn end(&mut self, id: &ContainerId, code: i32) {
        let now = at(self.clock);
        if let Some(container) = self.containers.get_mut(id)
            && let ContainerState::Running { started_at } = container.state
        {
            container.state = ContainerState::Exited(Exit {
                code,
                started_at: Some(started_at),
                finished_at: now.max(started_at),
                reason: None,
                message: None,
            });
        }
    }

    /// Something happens on its own.
    fn happen(&mut self, agent: &mut Agent) {
        let passed = self.random.below(15) as i64;
        self.clock += passed;
        self.steady += passed;
        match self.random.below(100) {
            0..30 => {
                let ids: Vec<_> = self.containers.values().filter(|c| c.is_running()).map(|c| c.id.clone()).collect();
                if !ids.is_empty() {
                    let id = ids[self.random.below(ids.len() as u64) as usize].clone();
                    let code = [0, 1, 42][self.random.below(3) as usize];
                    self.log.push(format!("{:>5} {id} exits {code}", self.clock));
                    self.end(&id, code);
                    // The event may be lost.
                    if self.random.chance(60) {
                        self.relist(agent);
                    }
                }
            }
            30..34 => {
                let version = self.random.below(1000);
                self.log.push(format!("{:>5} image changes to {version}", self.clock));
                self.pod.spec.as_mut().unwrap().containers[0].image = Some(format!("busybox:{version}"));
            }
            34..37 => {
                self.log.push(format!("{:>5} agent dies", self.clock));
                *agent = self.agent();
            }
            37..39 => {
                let step = self.random.below(4000) as i64 - 2000;
                self.log.push(format!("{:>5} clock steps by {step}", self.clock));
                self.clock += step;
            }
            39 => {
                self.log.push(format!("{:>5} reboot", self.clock));
                let ids: Vec<_> = self.containers.keys().cloned().collect();
                ids.iter().for_each(|id| self.end(id, 137));
                self.sandbox = None;
                *agent = self.agent();
            }
            40 if self.random.chance(30) => {
                self.log.push(format!("{:>5} deleted", self.clock));
                self.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(self.clock + 30)));
                self.pod.metadata.deletion_grace_period_seconds = Some(30);
            }
            41 if self.random.chance(10) => {
                self.log.push(format!("{:>5} object gone", self.clock));
                self.present = false;
            }
            42..60 => self.relist(agent),
            61..67 => self.change_resources(),
            60 if self.random.chance(30) => self.evict(agent),
            _ => {}
        }
    }

    /// The node is short of something. A pod that ends already is let end, as by its worker.
    fn evict(&mut self, agent: &mut Agent) {
        let terminal = agent.status.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Failed" | "Succeeded")));
        if terminal || agent.memory.evicted.is_some() || self.pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        self.log.push(format!("{:>5} evicted", self.clock));
        let failed = Rejected { reason: "Evicted".into(), message: String::new() };
        agent.memory.evicted = Some(Eviction {
            failed,
            grace_seconds: Some(1),
            disruption: Some(Disruption { since: at(self.clock), message: String::new() }),
            event: true,
        });
    }

    fn converged(&self, agent: &Agent) -> Result<(), String> {
        let phase = agent.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        if phase == "Failed" || phase == "Succeeded" {
            let clean = self.sandbox.is_none() && !self.containers.values().any(ObservedContainer::is_running);
            return if clean { Ok(()) } else { Err(format!("{phase}, and not released")) };
        }
        if phase != "Running" {
            return Err(format!("phase {phase}"));
        }
        let pod = self.kernel.pod.unwrap();
        if pod != pod.towards(PodAmounts::of(&self.pod)) {
            return Err(format!("the pod has {pod:?}"));
        }
        let reached = self.containers.values().map(|c| c.round).max().unwrap_or(0);
        let mut any = false;
        for container in &self.pod.spec.as_ref().unwrap().containers {
            let live: Vec<_> = self.containers.values().filter(|c| c.name.as_str() == container.name && c.is_running()).collect();
            let newest = agent.observed.newest(&container.name);
            let done = newest.and_then(ObservedContainer::exit).is_some_and(|exit| !restarts_after(&self.pod, container, exit.code));
            if let Some(late) = newest.filter(|newest| newest.round < reached) {
                return Err(format!("{} is of round {} after {reached}", late.id, late.round));
            }
            any |= !live.is_empty();
            match live[..] {
                [one] if one.spec_hash == container_hash(container) => {
                    let wanted = ContainerAmounts::of(&self.pod, container);
                    let has = self.kernel.containers[&one.id];
                    if has != wanted {
                        return Err(format!("{} has {has}, and is to have {wanted}", container.name));
                    }
                }
                [] if done => {}
                _ => return Err(format!("{} of {} live", live.len(), container.name)),
            }
        }
        if !any {
            return Err("no container runs, and none will".to_owned());
        }
        // A restart of all that was asked for was made.
        for (kind, container) in super::containers(&self.pod).filter(|(kind, _)| *kind != ContainerKind::Ephemeral) {
            let asks = |exit: &Exit| restarts_all_after(&container, exit.code);
            if agent.observed.newest(&container.name).and_then(ObservedContainer::exit).is_some_and(asks) {
                return Err(format!("{kind:?} container {} has asked for a restart of all", container.name));
            }
        }
        Ok(())
    }
}

fn history(seed: u64) {
    let mut world = World::new(seed);
    let mut agent = world.agent();
    let mut finished = false;
    for _ in 0..world.random.below(60) + 20 {
        world.happen(&mut agent);
        finished = finished || world.step(&mut agent);
    }
    world.faults = false;
    world.log.push("-- quiet".into());
    for _ in 0..200 {
        world.clock += 10;
        world.steady += 10;
        world.relist(&mut agent);
        finished = finished || world.step(&mut agent);
        if finished {
            break;
        }
        let busy: Vec<_> =
            world.containers.values().filter(|c| c.is_running() && c.name.as_str().starts_with('i')).map(|c| c.id.clone()).collect();
        busy.iter().for_each(|id| world.end(id, 0));
    }
    let stopped = !world.present || world.pod.metadata.deletion_timestamp.is_some();
    if stopped {
        if !finished || !world.containers.is_empty() || world.sandbox.is_some() {
            world.fail("deleted, and not taken apart");
        }
    } else if let Err(what) = world.converged(&agent) {
        world.fail(&format!("did not converge: {what}"));
    }
}

/// Ten thousand, or as many as `HISTORIES` says.
#[test]
fn many_histories() {
    let count = std::env::var("HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    for seed in 1..=count {
        history(seed);
    }
}
