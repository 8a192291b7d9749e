//! The node's own Pet: made, and kept saying what is true.

use std::net::SocketAddr;
use std::time::Duration;

use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube_pet_api::{Endpoint, Pet, PetSpec, ROTATE_KEY_ANNOTATION};
use kube_pet_tunnel::PrivateKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::api::ApiHandle;
use crate::config::TunnelSettings;

const RETRY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(15);

/// What the watch has told.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// Nothing yet.
    Unknown,
    /// There is none.
    Absent,
    /// This one.
    Present(Box<Pet>),
}

/// What the node says of itself.
pub(super) fn spec(key: &PrivateKey, settings: &TunnelSettings) -> PetSpec {
    let endpoints = settings.endpoints.iter().map(|endpoint| Endpoint { host: endpoint.host.clone(), port: endpoint.port }).collect();
    PetSpec {
        public_key: key.public().to_string(),
        next_public_key: None,
        endpoints,
        local_endpoints: Vec::new(),
        direct: settings.direct,
        mtu: settings.mtu,
        machine_id: machine_id(key),
    }
}

/// Another key, if there is one, and the next. Whether that is news.
pub(super) fn set_keys(spec: &mut PetSpec, (key, next): (Option<String>, Option<String>)) -> bool {
    let changes = key.is_some() || spec.next_public_key != next;
    spec.public_key = key.unwrap_or_else(|| std::mem::take(&mut spec.public_key));
    spec.next_public_key = next;
    changes
}

/// Where the machine itself has the tunnel's port. Whether that is news.
pub(super) fn set_local(spec: &mut PetSpec, local: &[SocketAddr]) -> bool {
    let local: Vec<Endpoint> = local.iter().map(|at| Endpoint { host: at.ip().to_string(), port: at.port() }).collect();
    std::mem::replace(&mut spec.local_endpoints, local.clone()) != local
}

/// The size of packets that is in use, where it is not the PetNetwork's. Whether that is news.
pub(super) fn set_mtu(spec: &mut PetSpec, mtu: Option<u16>) -> bool {
    std::mem::replace(&mut spec.mtu, mtu) != mtu
}

/// The machine's ID is not for others to know. A machine without one is known by its first key.
fn machine_id(key: &PrivateKey) -> String {
    let id = kube_pet_host::machine::machine_id();
    let known = if id.is_empty() { key.public().to_string() } else { id };
    let hash = Sha256::digest(format!("kube-pet {known}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What the Pet is to say, and what it says.
pub(super) struct Claim {
    pub(super) api: ApiHandle,
    pub(super) name: String,
    pub(super) wanted: watch::Receiver<PetSpec>,
    pub(super) seen: watch::Receiver<Seen>,
}

impl Claim {
    /// Makes the Pet, and puts right what differs. Never ends.
    pub(super) async fn keep(self) {
        let Self { api, name, mut wanted, mut seen } = self;
        loop {
            let (now, spec) = (seen.borrow_and_update().clone(), wanted.borrow_and_update().clone());
            let written = match now {
                Seen::Unknown => Ok(()),
                Seen::Absent => within(create(&api, &name, &spec)).await,
                // The machine's ID stays what it was: it is the object's for life.
                Seen::Present(pet) if is_said(&pet, &spec) => Ok(()),
                Seen::Present(_) => within(update(&api, &name, &spec)).await,
            };
            if let Err(error) = written {
                warn!(pet = name, error = &error as &dyn std::error::Error, "the node's Pet is not written; retrying");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let changed = tokio::select! {
                changed = seen.changed() => changed,
                changed = wanted.changed() => changed,
            };
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A wish for another key is fulfilled once that is named.
fn is_said(pet: &Pet, spec: &PetSpec) -> bool {
    let wished = pet.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(ROTATE_KEY_ANNOTATION));
    pet.spec == (PetSpec { machine_id: pet.spec.machine_id.clone(), ..spec.clone() }) && !(wished && spec.next_public_key.is_some())
}

async fn within(call: impl Future<Output = kube::Result<()>>) -> kube::Result<()> {
    tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))
}

async fn create(api: &ApiHandle, name: &str, wanted: &PetSpec) -> kube::Result<()> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let pet = Pet { metadata, spec: wanted.clone(), status: None };
    match Api::<Pet>::all(api.client()).create(&PostParams::default(), &pet).await {
        Ok(_) => info!(pet = name, public_key = wanted.public_key, "the node's Pet is made"),
        // The watch tells what it is like.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn update(api: &ApiHandle, name: &str, wanted: &PetSpec) -> kube::Result<()> {
    let PetSpec { public_key, next_public_key, endpoints, local_endpoints, direct, mtu, machine_id: _ } = wanted;
    let mut body = json!({"spec": {
        "publicKey": public_key, "nextPublicKey": next_public_key,
        "endpoints": endpoints, "localEndpoints": local_endpoints, "direct": direct, "mtu": mtu,
    }});
    if next_public_key.is_some() {
        body["metadata"] = json!({"annotations": {ROTATE_KEY_ANNOTATION: null}});
    }
    Api::<Pet>::all(api.client()).patch(name, &PatchParams::default(), &Patch::Merge(body)).await?;
    info!(pet = name, public_key, "the node's Pet is changed");
    Ok(())
}
