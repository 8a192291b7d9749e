//! A home that gets another public address.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use kube_pet_lab::{Pet, eventually};
use serde_json::json;

use super::{Homes, numbers};
use crate::harness::SOON;

/// Gives the home's router this address in the place of its own. What it translated to the old one is forgotten with it.
async fn renumber(pet: &Pet, new: Ipv4Addr) -> Result<()> {
    let router = pet.router()?;
    let old = pet.address();
    let script = format!(
        "/usr/sbin/sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1 && /usr/sbin/ip addr add {new}/24 dev eth0 && \
         /usr/sbin/ip addr del {old}/24 dev eth0"
    );
    router.shell(&script).await.map(drop)
}

#[e2e]
async fn e2e_a_home_gets_another_address_and_a_connection_goes_on() -> Result<()> {
    let homes = Homes::start("moving", &["gw1"], json!({"enabled": true, "direct": false})).await?;
    let Homes { bed, b, .. } = &homes;
    numbers::begin(bed, b).await?;
    let [x, y, z, _] = b.address().octets();
    // No machine of this lab has it.
    let new = Ipv4Addr::new(x, y, z, 240);
    renumber(b, new).await?;
    numbers::go_on_after(bed, numbers::read(bed).await?.len() + 50, 3).await?;
    eventually(SOON, "the gateway says where the pet is now", || async {
        let path = "jsonpath={.status.observedEndpoint.host}";
        let seen = bed.lab.kubectl(&["get", "pet", b.name(), "-o", path]).await?;
        ensure!(seen == new.to_string(), "{seen}, and not {new}");
        Ok(())
    })
    .await?;
    // The API server is not behind the tunnel here. What it tells by connections to the old address does not come: that the pods are to end is
    // told by new ones.
    homes.end(&["client", "server"]).await
}
