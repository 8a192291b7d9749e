//! Machines that become nodes as a user's do: by `kube-pet join` with a token.

use anyhow::{Context, Result};

use crate::{
    builds, command,
    lab::Lab,
    pet::{Pet, PetOptions},
};

/// The agent's program as pets see it.
pub const PROGRAM: &str = "/run/lab/bin/kube-pet";
/// The option that names the configuration as the lab has written it.
pub const CONFIG: &str = "--config /etc/kube-pet/node.yaml";

/// What `kube-pet controller token create` prints, by the administrator.
///
/// # Errors
/// When it is refused.
pub async fn token(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let mut command = command::program(builds::own_program("kube-pet", "KUBE_PET_BIN")?);
    command.arg("controller").arg("--kubeconfig").arg(lab.record().kubeconfig()).args(["token", "create"]).args(arguments);
    Ok(command::output(command).await?.trim().to_owned())
}

/// A machine with Podman and a configuration, that knows of no cluster.
///
/// # Errors
/// When it does not boot.
pub async fn machine(lab: &Lab, options: PetOptions) -> Result<Pet> {
    let pet = Pet::create(lab, options).await?;
    std::fs::remove_file(pet.path("/etc/kube-pet/bootstrap.kubeconfig")).context("forget the cluster")?;
    Ok(pet)
}

/// Runs `kube-pet join`. Whether it succeeds, and what it prints, with its errors.
///
/// # Errors
/// When it cannot be run.
pub async fn join(pet: &Pet, token: &str, flags: &str) -> Result<(bool, String)> {
    let text = pet.kube_pet(&format!("join {token} {CONFIG} {flags} 2>&1; echo $?")).await?;
    let (text, code) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    Ok((code == "0", text.to_owned()))
}
