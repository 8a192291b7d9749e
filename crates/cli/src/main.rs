//! `kube-pet`: makes a machine a Kubernetes node.

mod arguments;
mod commands;
mod gateway;
mod logging;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};

/// This build: `v<Kubernetes>+kube-pet.<version>.g<commit>`.
pub const VERSION: &str = env!("KUBE_PET_VERSION");

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Node(options) => commands::node(&options),
        Command::Run(options) => commands::run(&options),
        Command::Doctor(options) => commands::doctor(&options),
        Command::Join(options) => commands::joining::join(&options),
        Command::Leave(options) => commands::joining::leave(&options),
        Command::Controller(options) => commands::cluster::controller(options),
        Command::Gateway(options) => gateway::run(&options),
        Command::UserNamespaceHook => commands::user_namespace_hook(),
        Command::Version => commands::version(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            logging::failure(&error);
            ExitCode::FAILURE
        }
    }
}
