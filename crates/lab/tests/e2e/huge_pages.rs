//! Huge pages: as resources, and as files.

use anyhow::{Context, Result, ensure};
use kube_pet_lab::eventually;
use kube_pet_testkit::capability::available;
use serde_json::json;

use crate::harness::{Bed, SOON, shell};

const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Some more pages than the machine has set aside, for the time of a test.
struct Pages {
    before: u64,
    now: u64,
}

impl Pages {
    fn add(count: u64) -> Option<Self> {
        let before = read(PAGES).ok()?;
        // From here on they are given back, whatever comes.
        let mut pages = Self { before, now: before };
        std::fs::write(PAGES, (before + count).to_string()).ok()?;
        pages.now = read(PAGES).ok()?;
        (pages.now == before + count).then_some(pages)
    }

    /// Exactly what there was. Pages that are in use go when they are free.
    fn give_back(&self) -> Result<()> {
        std::fs::write(PAGES, self.before.to_string()).context("give huge pages back")?;
        let left = read(PAGES)?;
        ensure!(left == self.before, "the machine has {left} huge pages instead of {}", self.before);
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = self.give_back();
    }
}

fn read(path: &str) -> Result<u64> {
    std::fs::read_to_string(path)?.trim().parse().with_context(|| format!("a number in {path}"))
}

/// `16Mi`, `1Gi` as MiB.
fn mebibytes(quantity: &str) -> Option<u64> {
    let number = |suffix| quantity.strip_suffix(suffix)?.parse::<u64>().ok();
    number("Mi").or_else(|| Some(number("Gi")? << 10))
}

/// What is not written to the error stream: lines of two streams have no order.
fn is_output(line: &&str) -> bool {
    !line.starts_with("fallocate:")
}

#[e2e]
async fn e2e_huge_pages_are_counted_limited_and_mounted() -> Result<()> {
    let pages = Pages::add(8);
    if !available("huge pages that can be set aside", pages.is_some()) {
        return Ok(());
    }
    let pages = pages.context("huge pages")?;
    let free = PAGES.replace("nr_", "free_");
    let before = read(&free)?;
    let bed = Bed::own("hugepages").await?;
    eventually(SOON, "the node offers them", || async {
        let offered = bed.kubectl(&["get", "node", bed.pet.name(), "-o", r"jsonpath={.status.allocatable.hugepages-2Mi}"]).await?;
        ensure!(mebibytes(&offered) == Some(2 * pages.now), "{offered:?} of {} pages", pages.now);
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
    let mut lines = log.lines().filter(is_output);
    ensure!(lines.next() == Some("fits") && lines.next() == Some("full"), "{log}");
    let mount = lines.next().context("a mount")?;
    ensure!(mount.contains(" hugetlbfs ") && mount.contains("pagesize=2M"), "{mount}");
    let log = bed.kubectl(&["logs", "p", "-c", "without"]).await?;
    ensure!(log.lines().filter(is_output).eq(["none"]), "{log}");
    bed.delete("p").await?;
    bed.gone("p", SOON).await?;
    let left = read(&free)?;
    ensure!(left == before, "{left} of {before} pages are free");
    pages.give_back()?;
    bed.done().await
}
