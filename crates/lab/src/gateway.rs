//! `kube-pet gateway` on machines that are both on the wire, which is the internet then, and in the cloud, and the route that the cloud has
//! to the active one. A gateway has the permissions that `deploy/` gives it and no others.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, bail};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::json;

use crate::{
    builds, controller,
    daemon::{Daemon, DaemonSpec},
    lab::Lab,
    machine::Machine,
    network::{self, cloud},
    pet,
};

/// Addresses of pets are allocated from here.
pub const NODE_NETWORK: &str = "10.210.0.0/20";
/// Pods of pets.
pub const PET_POD_NETWORK: &str = "10.211.0.0/16";
const PORT: u16 = 51820;
const RELAY_PORT: u16 = 443;

/// A machine with a gateway.
pub struct Gateway {
    /// The machine.
    pub machine: Machine,
    /// Its address on the wire, where pets reach it.
    pub address: Ipv4Addr,
    /// Its address in the cloud.
    pub inner: Ipv4Addr,
    /// The program.
    pub daemon: Daemon,
}

/// The PetNetwork, and the cloud's network that it is joined to.
///
/// # Errors
/// When the API server or `ip` refuses.
pub async fn network(lab: &Lab) -> Result<()> {
    let object = json!({
        "apiVersion": "kube-pet.dev/v1alpha1",
        "kind": "PetNetwork",
        "metadata": {"name": "default"},
        "spec": {
            "nodeCIDRs": [NODE_NETWORK],
            "podCIDRs": [PET_POD_NETWORK],
            "nodePodPrefixLength": {"ipv4": 26},
            "serviceCIDRs": [network::SERVICE_NETWORK],
            // What pets reach through the gateways: the control plane, nodes and their pods.
            "clusterCIDRs": [cloud::NETWORK, network::POD_NETWORK],
        },
    });
    lab.kubectl_with_input(&["apply", "-f", "-"], &object.to_string()).await?;
    cloud::build(lab.control_plane(), &[NODE_NETWORK, PET_POD_NETWORK]).await
}

/// Starts one on a machine of its own.
///
/// # Errors
/// When it does not start.
pub async fn start(lab: &Lab, name: &str) -> Result<Gateway> {
    let record = lab.record();
    let machine = Machine::boot(name, &record.machine_dir(name), "").await?;
    let number = pet::take_number(&record.dir)?;
    network::attach(record.wire(), lab.control_plane(), &machine, number).await?;
    cloud::attach(lab.control_plane(), &machine, number, "cloud0").await?;
    cloud::route_pods(&machine).await?;
    let (address, inner) = (record.wire().pet(number), cloud::address(number));
    let kubeconfig = controller::kubeconfig(lab, "kube-pet-gateway", name).await?;
    let argv = vec![
        builds::own_program("kube-pet", "KUBE_PET_BIN")?.display().to_string(),
        "gateway".to_owned(),
        format!("--name={name}"),
        format!("--endpoint={address}:{PORT}"),
        format!("--relay={address}:{RELAY_PORT}"),
        format!("--key={}", machine.dir.join("key").display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        "--namespace=kube-pet".to_owned(),
        format!("--log-level={}", std::env::var("KUBE_PET_LAB_LOG").unwrap_or_else(|_| "info".into())),
    ];
    let environment = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned()), ("RUST_BACKTRACE".to_owned(), "1".to_owned())];
    let spec = DaemonSpec { name: "gateway".into(), argv, environment, log: record.log(name) };
    Ok(Gateway { daemon: Daemon::start(&machine, spec).await?, machine, address, inner })
}

impl Gateway {
    /// Its PetGateway's name.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// A page of its probes' port.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn page(&self, path: &str) -> Result<String> {
        let url = format!("http://{}:8081{path}", self.address);
        crate::command::run(&["curl", "--silent", "--show-error", "--fail", "--max-time", "10", &url]).await
    }
}

/// The gateway that says that it is active; of two that say so, the one that is not `old`.
///
/// # Errors
/// When there is none, or the API server cannot be asked.
pub async fn active(lab: &Lab, old: Option<&str>) -> Result<String> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kube-pet.dev", "v1alpha1", "PetGateway"));
    let api: Api<DynamicObject> = Api::all_with(lab.client().await?, &kind);
    let all = api.list(&Default::default()).await.context("list the gateways")?;
    let mut names = all.items.into_iter().filter(|one| one.data["status"]["active"] == true).filter_map(|one| one.metadata.name);
    match names.find(|name| Some(name.as_str()) != old) {
        Some(name) => Ok(name),
        None => bail!("no other gateway is active"),
    }
}

/// Leads the cloud's routes to pets to a gateway.
///
/// # Errors
/// When `ip` refuses.
pub async fn route(lab: &Lab, gateway: Ipv4Addr) -> Result<()> {
    for to in [NODE_NETWORK, PET_POD_NETWORK] {
        cloud::route_to_gateway(lab.control_plane(), to, gateway).await?;
    }
    Ok(())
}

/// Keeps the cloud's routes to pets at the active gateway, as a cloud's automation would; never returns.
pub async fn follow_active(lab: &Lab, gateways: &[(String, Ipv4Addr)]) {
    let mut routed: Option<String> = None;
    loop {
        if let Ok(name) = active(lab, routed.as_deref()).await
            && let Some((_, address)) = gateways.iter().find(|(known, _)| *known == name)
            && route(lab, *address).await.is_ok()
        {
            routed = Some(name);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
