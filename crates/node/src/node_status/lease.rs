//! The heartbeat: a Lease in `kube-node-lease`, renewed at a quarter of its duration, whatever else goes wrong.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;

use super::Known;
use super::call::{CallError, Complaint, call};
use crate::api::ApiHandle;

const NAMESPACE: &str = "kube-node-lease";
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(7);

/// Renews the lease for as long as there is a Node, until dropped.
pub(super) async fn keep(api: ApiHandle, node_name: String, seconds: i32, mut known: watch::Receiver<Known>) {
    let interval = Duration::from_secs(u64::from(seconds.unsigned_abs())) / 4;
    let mut complaint = Complaint::new("the node's lease is not renewed");
    let mut retry = FIRST_RETRY;
    loop {
        // Without a Node there is nothing to own the lease, and nobody to ask for it.
        let uid = known.wait_for(|known| known.uid().is_some()).await.ok().map(|known| known.uid().unwrap_or_default());
        let uid = match uid {
            Some(uid) => uid,
            None => return std::future::pending().await,
        };
        let pause = match renew(&api, &node_name, &uid, seconds).await {
            Ok(()) => {
                complaint.over();
                retry = FIRST_RETRY;
                jittered(interval)
            }
            Err(error) => {
                complaint.tell(&error);
                let pause = retry;
                retry = (retry * 2).min(LAST_RETRY).min(interval);
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(api: &ApiHandle, name: &str, uid: &str, seconds: i32) -> Result<(), CallError> {
    let leases: Api<Lease> = Api::namespaced(api.client(), NAMESPACE);
    let owner =
        OwnerReference { api_version: "v1".into(), kind: "Node".into(), name: name.into(), uid: uid.into(), ..OwnerReference::default() };
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let body = json!({ "metadata": { "ownerReferences": [owner] }, "spec": spec });
    let (params, body) = (PatchParams::default(), Patch::Merge(body));
    match call(leases.patch(name, &params, &body)).await {
        Err(error) if error.is_not_found() => {}
        renewed => return renewed.map(drop),
    }
    let metadata = ObjectMeta { name: Some(name.into()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
    call(leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) })).await.map(drop)
}

/// ±4 %, as the kubelet: nodes that were started together do not stay together.
fn jittered(interval: Duration) -> Duration {
    let random = f64::from(Timestamp::now().subsec_nanosecond() % 1_000_000) / 1e6;
    interval.mul_f64(0.96 + 0.08 * random)
}
