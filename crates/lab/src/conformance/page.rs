//! The page that tells how a run went.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};

use super::{Report, Selection, Spec};
use crate::{
    command, kubelet,
    topology::{NodeAgent, ServiceProxy},
};

/// A run of at most so many specs has each of them in its page.
const LISTED: usize = 200;

/// Facts about where a report was made.
#[derive(Debug)]
pub struct Surroundings {
    facts: Vec<(&'static str, String)>,
}

impl Surroundings {
    /// Of this machine, and of what makes its nodes.
    ///
    /// # Errors
    /// When the programs of another node agent do not tell their versions.
    pub async fn find(agent: NodeAgent) -> Result<Self> {
        let line = |text: Result<String>| text.unwrap_or_default().trim().to_owned();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's version");
        let mut facts = vec![("Date", jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()), ("Kubernetes", "1.37.1".to_owned())];
        match agent {
            NodeAgent::KubePet => {
                facts.insert(1, ("kube-pet", line(command::run(&["git", "describe", "--always", "--dirty"]).await)));
                facts.push(("Podman", line(command::run(&["podman", "--version"]).await).replace("podman version ", "")));
            }
            NodeAgent::Kubelet => facts.push(("Node", kubelet::versions().await?)),
        }
        facts.push(("Kernel", line(kernel)));
        Ok(Self { facts })
    }
}

/// Writes the page.
///
/// # Errors
/// When the file cannot be written.
pub fn write_page(path: &Path, selection: &Selection, report: &Report, surroundings: &Surroundings) -> Result<()> {
    fs::write(path, page(selection, report, surroundings)).with_context(|| format!("write {}", path.display()))
}

fn page(selection: &Selection, report: &Report, surroundings: &Surroundings) -> String {
    let on = match selection.topology.agent {
        NodeAgent::KubePet => "",
        NodeAgent::Kubelet => " on the real kubelet",
    };
    let mut text = format!("# The official conformance suite{on}\n\nWritten by `make conformance`; do not edit.\n\n| | |\n| --- | --- |\n");
    for (what, value) in &surroundings.facts {
        let _ = writeln!(text, "| {what} | {value} |");
    }
    let services = match (selection.topology.agent, selection.topology.proxy) {
        (NodeAgent::KubePet, ServiceProxy::Agent) => "kube-pet",
        (NodeAgent::KubePet, ServiceProxy::KubeProxy) => "kube-proxy (nftables), to judge the lab",
        (NodeAgent::Kubelet, _) => "kube-proxy (nftables)",
    };
    let dns = if selection.topology.dns { "CoreDNS" } else { "none" };
    let _ = writeln!(
        text,
        "| Focus | {} |\n| Skip | `{}` |\n| At once | {} |\n| Nodes | {}{} |\n| Services by | {services} |\n| DNS | {dns} |\n| Took | {} s |\n\n\
         **{} of {} passed.**\n",
        cell(&selection.focus.to_string()),
        cell(&selection.skip),
        selection.procs,
        selection.topology.pets,
        if selection.topology.tunnel { ", each behind NAT at a home of its own, joined by the tunnel" } else { "" },
        report.took.as_secs(),
        report.passed(),
        report.specs.len()
    );
    table(&mut text, "Failures", report.failures(), why);
    // Thousands of names of a whole run tell nobody anything.
    if report.specs.len() <= LISTED {
        table(&mut text, "All", report.specs.iter(), |spec| &spec.state);
    }
    text
}

/// What failed, without the command lines that some messages go on with.
fn why(spec: &Spec) -> &str {
    let text: &str = if spec.failure.is_empty() { &spec.state } else { &spec.failure };
    text.split_once(": error running ").map_or(text, |(text, _)| text)
}

fn table<'a>(text: &mut String, title: &str, specs: impl Iterator<Item = &'a Spec>, what: impl Fn(&'a Spec) -> &'a str) {
    let specs: BTreeMap<&str, &Spec> = specs.map(|spec| (spec.name.as_str(), spec)).collect();
    if specs.is_empty() {
        return;
    }
    let _ = write!(text, "## {title}\n\n| Spec | {} | Seconds |\n| --- | --- | --- |\n", if title == "All" { "Result" } else { "Why" });
    for spec in specs.values() {
        let _ = writeln!(text, "| {} | {} | {} |", cell(&spec.name), cell(what(spec)), spec.took.as_secs());
    }
    text.push('\n');
}

/// One table cell: no bars, not endless.
fn cell(text: &str) -> String {
    let text = text.replace('|', "\\|");
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    fn report(state: &str, kind: &str, message: &str) -> SpecJson {
        serde_json::from_value(serde_json::json!({
            "ContainerHierarchyTexts": ["[sig-node] Pods"],
            "LeafNodeType": kind,
            "LeafNodeText": "should a | b",
            "State": state,
            "RunTime": 2_500_000_000_u64,
            "Failure": {"Message": message},
        }))
        .unwrap()
    }

    #[test]
    fn the_page_names_each_failure_with_its_first_line() {
        let specs = [
            report("passed", "It", ""),
            report("failed", "It", "\nfirst line\nsecond line"),
            report("skipped", "It", ""),
            report("passed", "BeforeEach", ""),
        ];
        let report = Report { specs: specs.into_iter().filter_map(spec).collect(), took: Duration::from_secs(3) };
        let page = page(&selection(NodeAgent::KubePet), &report, &Surroundings { facts: vec![] });
        assert!(page.contains("**1 of 2 passed.**"), "{page}");
        assert!(page.contains("| [sig-node] Pods should a \\| b | first line | 2 |"), "{page}");
        assert!(!page.contains("second line"), "{page}");
    }

    fn selection(agent: NodeAgent) -> Selection {
        let topology = Topology { pets: 1, agent, proxy: ServiceProxy::Agent, dns: false, tunnel: false };
        Selection { focus: Focus::Matching("a|b".into()), skip: String::new(), procs: 1, topology, limit: Duration::ZERO }
    }

    #[test]
    fn the_page_tells_whose_node_it_was() {
        let report = Report { specs: Vec::new(), took: Duration::ZERO };
        let surroundings = Surroundings { facts: vec![("Node", "the kubelet 1.37.1".into())] };
        let page = page(&selection(NodeAgent::Kubelet), &report, &surroundings);
        assert!(page.starts_with("# The official conformance suite on the real kubelet\n"), "{page}");
        assert!(page.contains("| Node | the kubelet 1.37.1 |") && page.contains("| Services by | kube-proxy (nftables) |"), "{page}");
    }
}
