//! What kube-prometheus' rules and dashboards select must be there: each of their selectors is tried on a real scrape.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use regex::Regex;
use serde_json::json;

use crate::harness::{BUSYBOX, Bed};

const SELECTORS: &str = include_str!("fixtures/kube-prometheus-selectors.txt");

/// Selectors that find nothing here, by the beginning of their text, and why.
const NOT_HERE: [(&str, &str); 8] = [
    ("go_goroutines", "the agent is no Go program"),
    ("kubelet_evictions", "shows with the first eviction, as with the kubelet"),
    ("kubelet_node_config_error", "went with dynamic kubelet configuration in Kubernetes 1.26"),
    ("kubelet_runtime_operations_errors_total", "shows with the first error, as with the kubelet"),
    ("kubelet_volume_stats_", "shows with the first mounted claim, as with the kubelet"),
    ("rest_client_requests_total{…3..", "the API server redirects nobody"),
    ("rest_client_requests_total{…5..", "shows with the first error of the API server"),
    ("storage_operation_errors_total", "went in Kubernetes 1.24; storage_operation_duration_seconds has a status instead"),
];

/// One series of a scrape: the labels, `__name__` and those that Prometheus adds among them.
type Series = BTreeMap<String, String>;

fn series(text: &str, path: &str) -> Vec<Series> {
    let sample = |line: &str| {
        let (name, labels) = match line.split_once('{') {
            Some((name, rest)) => (name, rest.rsplit_once('}')?.0),
            None => (line.split(' ').next()?, ""),
        };
        let mut series: Series = matchers(labels).into_iter().map(|(label, _, value)| (label, value)).collect();
        series.insert("__name__".into(), name.into());
        series.insert("job".into(), "kubelet".into());
        series.insert("metrics_path".into(), path.into());
        series.insert("instance".into(), "10.0.0.1:10250".into());
        Some(series)
    };
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).filter_map(sample).collect()
}

/// `label="value"` and the like, separated by commas: label, operator, value.
fn matchers(text: &str) -> Vec<(String, String, String)> {
    #[allow(clippy::unwrap_used, reason = "the expression is a constant")]
    let form = Regex::new(r#"([a-zA-Z_]+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)""#).unwrap();
    let unescape = |value: &str| value.replace("\\\"", "\"").replace("\\\\", "\\");
    form.captures_iter(text).map(|found| (found[1].to_owned(), found[2].to_owned(), unescape(&found[3]))).collect()
}

/// Whether a series is chosen. What a dashboard's variable stands for is left open.
fn chosen(series: &Series, name: &str, matchers: &[(String, String, String)]) -> bool {
    series.get("__name__").is_some_and(|own| own == name)
        && matchers.iter().all(|(label, operator, wanted)| {
            let value = series.get(label).map_or("", String::as_str);
            let whole = |pattern: &str| Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|pattern| pattern.is_match(value));
            match operator.as_str() {
                _ if wanted.starts_with('$') => true,
                "=" => value == wanted,
                "!=" => value != wanted,
                "=~" => whole(wanted),
                _ => !whole(wanted),
            }
        })
}

/// Whether the kernel counts input and output of cgroups. Since 6.10 cgroup v1 has them only where something is throttled.
fn counts_io() -> bool {
    let v1 = std::fs::read_to_string("/sys/fs/cgroup/blkio/blkio.throttle.io_service_bytes_recursive");
    v1.map_or(true, |text| text.trim() != "Total 0")
}

/// Whether a selector is listed as finding nothing here.
fn is_excused(selector: &str) -> bool {
    if ["container_fs_reads", "container_fs_writes"].iter().any(|name| selector.starts_with(name)) && !counts_io() {
        return true;
    }
    NOT_HERE.iter().any(|(start, _)| match start.split_once("{…") {
        Some((name, part)) => selector.starts_with(name) && selector.contains(part),
        None => selector.starts_with(start),
    })
}

#[e2e]
async fn e2e_what_kube_prometheus_selects_is_served() -> Result<()> {
    let bed = Bed::shared("selectors").await?;
    // A container with everything that can be measured: a CPU limit that throttles it, files, traffic, reads and writes past the page cache.
    let script = "while :; do dd if=/dev/zero of=/data/f bs=4k count=8 oflag=direct 2>/dev/null; dd if=/data/f of=/dev/null bs=4k iflag=direct 2>/dev/null;
        wget -qO- http://127.0.0.1:9/ 2>/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1; done";
    let deployment = json!({
        "metadata": {"name": "busy"},
        "spec": {
            "selector": {"matchLabels": {"app": "busy"}},
            "template": {
                "metadata": {"labels": {"app": "busy"}},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": bed.pet.name()},
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "c", "image": BUSYBOX, "command": ["sh", "-c", script],
                        "resources": {"limits": {"cpu": "50m", "memory": "64Mi"}},
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }],
                    "volumes": [{"name": "data", "emptyDir": {}}],
                },
            },
        },
    });
    bed.create::<Deployment>(deployment).await?;
    let selectors: Vec<&str> = SELECTORS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    ensure!(selectors.len() > 100, "the list of selectors is cut short");
    let check = || async {
        let mut found = Vec::new();
        for path in ["/metrics", "/metrics/cadvisor", "/metrics/probes", "/metrics/slis"] {
            let text = bed.lab.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy{path}", bed.pet.name())]).await?;
            found.extend(series(&text, path));
            found.push(Series::from([
                ("__name__".into(), "up".into()),
                ("job".into(), "kubelet".into()),
                ("metrics_path".into(), path.into()),
            ]));
        }
        let mut missing = Vec::new();
        for selector in &selectors {
            let name = selector.split('{').next().context("a name")?;
            let matchers = matchers(selector);
            if !is_excused(selector) && !found.iter().any(|series| chosen(series, name, &matchers)) {
                missing.push(*selector);
            }
        }
        ensure!(missing.is_empty(), "nothing is found by\n{}", missing.join("\n"));
        Ok(())
    };
    kube_pet_lab::eventually(Duration::from_secs(90), "every selector finds a series", check).await?;
    bed.done().await
}
