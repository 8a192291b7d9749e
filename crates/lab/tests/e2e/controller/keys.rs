//! A pet's next key beside the one that it has.

use anyhow::{Result, ensure};
use kube::api::{ListParams, Patch, PatchParams};
use kube_pet_lab::eventually;
use serde_json::{Value, json};

use super::{Cluster, condition, key, objects};
use crate::harness::SOON;

impl Cluster {
    async fn change_pet(&self, name: &str, spec: Value) -> Result<()> {
        let pets = objects(self.as_node(name).await?, "Pet");
        pets.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await?;
        Ok(())
    }
}

#[e2e]
async fn e2e_a_next_key_is_accepted_beside_the_first_unless_another_has_it() -> Result<()> {
    let cluster = Cluster::start("168h").await?;
    for (number, name) in [(1, "one"), (2, "two")] {
        cluster.create_pet(name, &format!("machine-{name}"), &key(number)).await?;
        cluster.allocated(name).await?;
    }
    cluster.change_pet("one", json!({"nextPublicKey": key(2)})).await?;
    let status = cluster.status("one", "its next key is refused", |status| condition(status, "NextKeyAccepted") == "False").await?;
    ensure!(status["publicKey"] == key(1).as_str() && status["nextPublicKey"].is_null(), "{status:#}");
    ensure!(condition(&status, "KeyAccepted") == "True" && status.to_string().contains("two has this public key"), "{status:#}");

    cluster.change_pet("one", json!({"nextPublicKey": key(3)})).await?;
    let both = |status: &Value| status["publicKey"] == key(1).as_str() && status["nextPublicKey"] == key(3).as_str();
    cluster.status("one", "has two keys", both).await?;
    // Nobody else gets either of them.
    for number in [1, 3] {
        cluster.change_pet("two", json!({"nextPublicKey": key(number)})).await?;
        let of_now = format!("\"observedGeneration\":{}", if number == 1 { 2 } else { 3 });
        let refused = |status: &Value| {
            let all = status["conditions"].as_array().cloned().unwrap_or_default();
            all.iter().any(|one| one["type"] == "NextKeyAccepted" && one["status"] == "False" && one.to_string().contains(&of_now))
        };
        cluster.status("two", "neither is its", refused).await?;
    }

    cluster.change_pet("one", json!({"publicKey": key(3), "nextPublicKey": null})).await?;
    let changed = |status: &Value| {
        status["publicKey"] == key(3).as_str() && status["nextPublicKey"].is_null() && condition(status, "NextKeyAccepted").is_empty()
    };
    cluster.status("one", "has the other key", changed).await?;
    // What is not used any more is free for others.
    let allocations = cluster.all("PetAllocation");
    eventually(SOON, "the old key is given back", || async {
        let list = allocations.list(&ListParams::default()).await?.items;
        ensure!(!list.iter().any(|one| one.data["spec"]["value"] == key(1).as_str()), "{} allocations", list.len());
        Ok(())
    })
    .await?;
    cluster.done().await
}
