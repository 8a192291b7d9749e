//! Huge pages: as resources, and as files.

use anyhow::{Context, Result, ensure};
use kube_pet_lab::eventually;
use kube_pet_testkit::capability::available;
use serde_json::json;

use crate::harness::{Bed, SOON, shell};

const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// The machine's pages, as many as wanted for the time of a test.
struct Pages {
    before: String,
}

impl Pages {
    fn set_aside(count: u64) -> Option<Self> {
        let before = std::fs::read_to_string(PAGES).ok()?;
        let pages = Self { before };
        std::fs::write(PAGES, count.to_string()).ok()?;
        let now = std::fs::read_to_string(PAGES).ok()?;
        (now.trim().parse() == Ok(count)).then_some(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = std::fs::write(PAGES, self.before.trim());
    }
}

#[tokio::test]
async fn e2e_huge_pages_are_counted_limited_and_mounted() -> Result<()> {
    let pages = Pages::set_aside(8);
    if !available("huge pages that can be set aside", pages.is_some()) {
        return Ok(());
    }
    let bed = Bed::own("hugepages").await?;
    eventually(SOON, "the node offers them", || async {
        let offered = bed.kubectl(&["get", "node", bed.pet.name(), "-o", r"jsonpath={.status.allocatable.hugepages-2Mi}"]).await?;
        ensure!(offered == "16Mi", "{offered:?}");
        Ok(())
    })
    .await?;
    let amounts = json!({"hugepages-2Mi": "4Mi", "memory": "64Mi", "cpu": "10m"});
    let mut with = shell("with", "fallocate -l 4M /huge/a && echo fits; fallocate -l 2M /huge/b || echo full; grep ' /huge ' /proc/mounts");
    with["resources"] = json!({"requests": amounts, "limits": amounts});
    with["volumeMounts"] = json!([{"name": "h", "mountPath": "/huge"}]);
    let mut without = shell("without", "fallocate -l 2M /huge/c || echo none");
    without["volumeMounts"] = with["volumeMounts"].clone();
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [with, without],
        "volumes": [{"name": "h", "emptyDir": {"medium": "HugePages-2Mi"}}],
    });
    bed.pod("p", spec).await?;
    bed.phase("p", "Succeeded").await?;
    let log = bed.kubectl(&["logs", "p", "-c", "with"]).await?;
    let mut lines = log.lines().filter(|line| !line.starts_with("fallocate:"));
    ensure!(lines.next() == Some("fits") && lines.next() == Some("full"), "{log}");
    let mount = lines.next().context("a mount")?;
    ensure!(mount.contains(" hugetlbfs ") && mount.contains("pagesize=2M"), "{mount}");
    let log = bed.kubectl(&["logs", "p", "-c", "without"]).await?;
    ensure!(log.lines().last() == Some("none"), "{log}");
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    let used = std::fs::read_to_string(PAGES.replace("nr_", "free_"))?;
    ensure!(used.trim() == "8", "{used} pages are free");
    bed.done().await
}
