//! The client of the API server, which counts.

use kube::{Client, Config};

use super::counting::CountRequests;

pub(super) fn build(config: Config, counting: &CountRequests) -> kube::Result<Client> {
    Ok(kube_pet_client::builder(config)?.with_layer(counting).build())
}
