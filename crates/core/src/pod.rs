//! The pod lifecycle: observe → [`decide`] → act.
//!
//! `decide` is pure and total. It is given the newest spec, what was observed of the containers, what this run of the agent
//! remembers (operations under way, last failures) and the time; it says which actions are due, what the status is, and when to
//! look again. Every wake takes the same path, so that a lost event costs latency and never correctness.
//!
//! ```text
//!            rejected by admission
//!   (new) ─────────────────────────────────────────────────────────► Failed ─┐
//!     │ Prepare (sandbox, cgroup, volumes; retried with a delay)             │
//!     ▼                                                                      │
//!   Pending ── init containers, one after the other ──► app containers       │
//!     │            │ exit ≠ 0, Never → Failed             │                  │
//!     │            └ else back-off, again                 ▼                  │
//!     │                                            Running ◄─ back-off ─┐    │
//!     │                                               │ exit, policy    │    │
//!     │                                               ├─────────────────┘    │
//!     │ deadline, deletion, terminal phase            ▼                      │
//!     └───────────────────────────────► stopping: signal, grace, kill        │
//!                                                     │ nothing runs         │
//!                                                     ▼                      ▼
//!                                          released (volumes, sandbox, cgroup)
//!                                                     │ deleted
//!                                                     ▼
//!                                  containers and logs removed, API object deleted
//! ```
//!
//! One container, one attempt:
//!
//! ```text
//!   (none) ── EnsureImage ──► image present ── StartContainer ──► Running ──► Exited ──► (none, attempt + 1)
//!      ▲           │ fails                       │ fails                        │ back-off: 0, 10 s, 20 s … 300 s after
//!      └── back-off┘◄────────────────────────────┘                              └ the end; carried as a label, see `backoff`
//! ```

mod backoff;
mod decide;
mod memory;
mod observed;
mod patch;
mod plan;
mod probes;
mod replacement;
mod resizing;
mod rounds;
mod spec;
mod status;

pub use backoff::{BackoffPolicy, next_restart, next_retry};
pub use decide::{Now, Rules, decide};
pub use memory::{
    Disruption, Eviction, ImageFailure, Memory, PostStart, PrepareFailure, Rejected, ResizeInProgress, ResizeMemory, StartFailure,
};
pub use observed::{ContainerState, Exit, Observed, ObservedContainer, SandboxFacts};
pub use patch::{is_starting, status_differs, status_patch};
pub use plan::{Action, ActionKey, EventKind, Plan, PodEvent, ResizeStanding};
pub use probes::{ProbeKind, Tally, Verdict};
pub use resizing::{RESIZE_IN_PROGRESS, RESIZE_PENDING, note_unknown};
pub use spec::{
    ContainerKind, Desired, RestartPolicy, Stop, container_status, containers, find_container, is_mirror, pod_restart_policy, pod_uid,
    restarts_after, target_container,
};
pub use status::is_own_condition;

#[cfg(test)]
mod tests;
