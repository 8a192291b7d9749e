//! The command line of `join` and `leave`.

use clap::Args;
use kube_pet_api::join_token::JoinToken;

use super::ConfigOptions;

#[derive(Args, Debug)]
pub struct JoinOptions {
    /// What `kube-pet controller token create` has printed.
    #[arg(value_name = "TOKEN")]
    pub token: JoinToken,
    #[command(flatten)]
    pub config: ConfigOptions,
    /// How many seconds to wait for the node to be Ready; 0: not at all.
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub wait: u64,
    /// Goes on although the doctor finds errors.
    #[arg(long)]
    pub ignore_findings: bool,
}

#[derive(Args, Debug)]
pub struct LeaveOptions {
    #[command(flatten)]
    pub config: ConfigOptions,
    /// Ends all pods of this machine without asking.
    #[arg(long, required = true)]
    pub yes: bool,
}
