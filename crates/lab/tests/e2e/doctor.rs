//! `kube-pet doctor` on a machine that is a node.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::Bed;

#[e2e]
async fn e2e_the_doctor_finds_a_node_well_and_names_what_ails_it() -> Result<()> {
    let bed = Bed::own("doctor").await?;
    let findings = |arguments: &'static str| async {
        let text = bed.pet.doctor(arguments).await?;
        anyhow::Ok(serde_json::from_str::<Vec<Value>>(&text).with_context(|| format!("no JSON: {text}"))?)
    };
    let found = findings("--output json").await?;
    let bad: Vec<_> = found.iter().filter(|finding| finding["severity"] == "error").collect();
    ensure!(bad.is_empty(), "{bad:#?}");
    for id in ["podman", "podman-service", "api-credentials", "clock"] {
        let finding = found.iter().find(|finding| finding["id"] == id).with_context(|| format!("no finding {id}: {found:#?}"))?;
        ensure!(finding["severity"] == "ok", "{finding}");
    }
    // Cut off from the API server: named, with what to do.
    bed.pet.set_online(false).await?;
    let found = findings("--output json").await?;
    let bad = found.iter().find(|finding| finding["severity"] == "error").with_context(|| format!("nothing wrong in {found:#?}"))?;
    ensure!(bad["id"] == "api-connection" && bad["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{bad}");
    let text = bed.pet.doctor("").await?;
    ensure!(text.contains("This machine cannot be a node yet"), "{text}");
    bed.pet.set_online(true).await?;
    bed.done().await
}
