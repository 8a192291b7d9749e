//! What needs privileges on this machine's files and kernel: namespaces, mounts, volume trees, cgroups, readings of `/proc`.
//!
//! Functions are synchronous, small and free of policy: callers decide what should be, and call from a blocking thread. The
//! interface stays narrow because it is meant to move behind a socket one day, apart from the rest of the agent.

pub mod atomic_tree;
pub mod cgroups;
pub mod disk_usage;
pub mod exits;
pub mod files;
pub mod interfaces;
pub mod kernel_log;
pub mod machine;
pub mod memory;
pub mod memory_file;
mod mount_attributes;
pub mod mounts;
pub mod namespaces;
pub mod ownership;
pub mod privileges;
pub mod process;
pub mod read_only;
pub mod routes;
pub mod subpath;
pub mod terminal;
pub mod tun;
pub mod user_namespaces;
mod views;
