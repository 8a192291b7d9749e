//! The process that owns a lab: starts it, plays the cluster's operator, and removes it at the end.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    builds::Builds,
    cleanup, client, cluster,
    control_plane::{self, ControlPlaneOptions},
    lab::LabOptions,
    machine::Machine,
    network,
    process::ProcessId,
    record::{LabRecord, Slot},
    registry,
};

/// Within a lab's folder: exists when the lab can be used.
pub const READY: &str = "ready";
/// Within a lab's folder: why it could not be started.
pub const FAILED: &str = "failed";
/// Within a lab's folder: what it was asked to be.
pub const OPTIONS: &str = "options.json";
/// Within a lab's folder: the lab's record and its supervisor.
pub const RECORD: &str = "lab.json";

/// Starts the lab that `dir`'s options describe, serves it until SIGTERM, SIGINT or (with `lifeline`) the end of standard
/// input, and removes it.
///
/// # Errors
/// When the lab cannot be started (the reason is left in the folder for whoever waits) or not be removed.
pub async fn supervise(dir: &Path, lifeline: bool) -> Result<()> {
    let options: LabOptions = crate::record::load(&dir.join(OPTIONS))?;
    // The record is there before anything is made: what is made from here on is found again after a crash.
    let process = ProcessId::of(std::process::id().cast_signed())?;
    let taken = Slot::take(&options.name, |index| LabRecord {
        name: options.name.clone(),
        index,
        dir: dir.to_owned(),
        supervisor: process,
        keep_logs: options.keep_logs.clone(),
        foreign_kubeconfig: options.kubeconfig.clone(),
    });
    let (mut slot, record) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            let _ = fs::write(dir.join(FAILED), format!("{error:#}"));
            return Err(error);
        }
    };
    let served = tokio::select! {
        served = serve(&record, &options.control_plane) => served,
        ended = told_to_end(lifeline) => ended,
    };
    if let Err(error) = &served {
        let _ = fs::write(dir.join(FAILED), format!("{error:#}"));
        // Whoever waits reads the reason before the folder goes.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    cleanup::destroy(&record).await?;
    slot.clear()?;
    served
}

async fn serve(lab: &LabRecord, options: &ControlPlaneOptions) -> Result<()> {
    for folder in [lab.logs_dir(), lab.machines_dir()] {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let builds = Builds::locate()?;
    let machine = control_plane::boot(lab).await?;
    let control_plane = async {
        match &lab.foreign_kubeconfig {
            None => control_plane::start(lab, &machine, &builds, options).await,
            Some(_) => masquerade(lab, &machine).await,
        }
    };
    tokio::try_join!(control_plane, registry::start(lab, &machine, &builds))?;
    let client = client::connect(&lab.kubeconfig()).await?;
    cluster::admit_nodes(&client).await?;
    crate::record::save(&lab.dir.join(RECORD), lab)?;
    fs::write(lab.dir.join(READY), "").context("say that the lab is ready")?;
    tokio::join!(cluster::approve_serving_certificates(client.clone(), lab.clone()), cluster::route_pods(client, machine),);
    bail!("the watches of lab {} ended", lab.name)
}

/// With somebody else's control plane the pets reach it through the host, under an address that the host can answer.
async fn masquerade(lab: &LabRecord, machine: &Machine) -> Result<()> {
    let (own, pods) = (lab.wire().network(), network::POD_NETWORK);
    let rules = format!(
        "nft 'add table ip lab; add chain ip lab out {{ type nat hook postrouting priority 100; }}; \
         add rule ip lab out ip daddr != {{ {own}, {pods} }} masquerade'"
    );
    machine.shell(&rules).await.map(drop)
}

async fn told_to_end(lifeline: bool) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let starter_gone = async {
        if !lifeline {
            return std::future::pending().await;
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // A thread of its own: a blocking read on the async runtime's threads would keep the process from ending.
        std::thread::spawn(move || {
            let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0_u8; 1]);
            let _ = sender.send(());
        });
        let _ = receiver.await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = starter_gone => {}
    }
    Ok(())
}
