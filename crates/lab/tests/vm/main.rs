//! On virtual machines: what a network namespace cannot be. `make test-vm` runs them; each has a machine of its own, with a disk of its
//! own, that joins the lab's cluster as a user's would.

mod bed;
mod cgroups;
mod joining;
mod powercut;
mod poweroff;
mod reboot;
mod tunnel;
