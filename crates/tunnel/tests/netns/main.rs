//! Real packets through real tunnels, between network namespaces that the tests make themselves. Whichever WireGuard the machine has runs
//! them: the kernel's, else the process's own. `make test-vm` runs them with each.

#![allow(clippy::unwrap_used, reason = "a test, its helpers too")]

mod world;

mod direct;
mod keys;
mod leaks;
mod paths;
mod relay;
mod sizes;
mod traffic;
