//! A pod's /etc/resolv.conf, after the kubelet's `network/dns` (Kubernetes 1.37).

use k8s_openapi::api::core::v1::Pod;

/// Limits of glibc and of the API server's validation.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_NAME: usize = 253;
/// What names without enough dots are tried with first.
const CLUSTER_OPTIONS: [&str; 1] = ["ndots:5"];

/// The cluster's name service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// `clusterDNS`
    pub servers: Vec<String>,
    /// `clusterDomain`
    pub domain: String,
    /// The node's own cache of it, which is asked first.
    pub cache: Option<String>,
}

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers in order.
    pub servers: Vec<String>,
    /// Search domains in order.
    pub searches: Vec<String>,
    /// Options in order.
    pub options: Vec<String>,
}

/// A pod's resolv.conf and what had to be left out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodResolvConf {
    /// The file's content.
    pub text: String,
    /// Texts of `DNSConfigForming` events.
    pub warnings: Vec<String>,
    /// The pod wants the cluster's name service and none is configured: text of a `MissingClusterDNS` event.
    pub missing_cluster_dns: Option<String>,
}

impl ResolvConf {
    /// Reads the host's file as the kubelet does: the last `search` line counts, options add up, and of an option that is there
    /// twice the last one. Search domains lose their final dot.
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines().map(str::trim) {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    let domains = words.filter(|word| *word != ".");
                    out.searches = domains.map(|w| w.strip_suffix('.').unwrap_or(w).to_owned()).collect();
                }
                Some("options") => words.for_each(|word| set_option(&mut out.options, word.to_owned())),
                _ => {}
            }
        }
        out
    }

    fn render(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.servers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

/// The resolv.conf of a pod by its `dnsPolicy` and `dnsConfig`, from the host's own file.
pub fn pod_resolv_conf(pod: &Pod, host: &str, cluster: &ClusterDns) -> PodResolvConf {
    let spec = pod.spec.as_ref();
    let host = ResolvConf::parse(host);
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let wants_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "None" | "Default" => false,
        _ => !host_network,
    };
    let mut out = PodResolvConf::default();
    let mut conf = if policy == "None" {
        ResolvConf::default()
    } else if wants_cluster && !cluster.servers.is_empty() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut searches = Vec::new();
        if !cluster.domain.is_empty() {
            let domain = &cluster.domain;
            searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        }
        searches.extend(host.searches);
        ResolvConf {
            servers: cluster.servers.clone(),
            searches: without_duplicates(searches),
            options: CLUSTER_OPTIONS.map(str::to_owned).to_vec(),
        }
    } else {
        if wants_cluster {
            let m = &pod.metadata;
            out.missing_cluster_dns = Some(format!(
                "pod: \"{}_{}({})\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.",
                m.name.as_deref().unwrap_or_default(),
                m.namespace.as_deref().unwrap_or_default(),
                m.uid.as_deref().unwrap_or_default()
            ));
        }
        host
    };
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        conf.servers.extend(config.nameservers.iter().flatten().cloned());
        conf.servers = without_duplicates(conf.servers);
        conf.searches.extend(config.searches.iter().flatten().cloned());
        conf.searches = without_duplicates(conf.searches);
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let option = match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            };
            set_option(&mut conf.options, option);
        }
    }
    if wants_cluster
        && !cluster.servers.is_empty()
        && let Some(cache) = &cluster.cache
    {
        ask_first(&mut conf.servers, cache, &cluster.servers);
    }
    fit(&mut conf, &mut out.warnings);
    out.text = conf.render();
    out
}

/// Puts the cache before the others, of which one of the cluster's own makes room for it where there are three. A pod whose own servers
/// need the room is left without it.
fn ask_first(servers: &mut Vec<String>, cache: &str, cluster: &[String]) {
    if servers.len() > MAX_SERVERS || (servers.len() == MAX_SERVERS && cluster.len() < MAX_SERVERS) {
        return;
    }
    servers.retain(|server| server != cache);
    servers.truncate(MAX_SERVERS - 1);
    servers.insert(0, cache.to_owned());
}

/// Adds an option, in the place of one with the same name.
fn set_option(options: &mut Vec<String>, option: String) {
    let name = |option: &str| option.split(':').next().map(str::to_owned);
    match options.iter_mut().find(|old| name(old) == name(&option)) {
        Some(old) => *old = option,
        None => options.push(option),
    }
}

fn without_duplicates(list: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    list.into_iter().filter(|entry| seen.insert(entry.clone())).collect()
}

fn fit(conf: &mut ResolvConf, warnings: &mut Vec<String>) {
    if conf.servers.len() > MAX_SERVERS {
        conf.servers.truncate(MAX_SERVERS);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            conf.servers.join(" ")
        ));
    }
    let before = conf.searches.len();
    conf.searches.truncate(MAX_SEARCHES);
    // Longer ones made glibc 2.28 abort.
    conf.searches.retain(|s| s.len() <= MAX_NAME);
    let mut chars = 0;
    let fitting = conf
        .searches
        .iter()
        .take_while(|s| {
            chars += s.len() + usize::from(chars > 0);
            chars <= MAX_SEARCH_CHARS
        })
        .count();
    conf.searches.truncate(fitting);
    if conf.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            conf.searches.join(" ")
        ));
    }
}

#[cfg(test)]
mod tests;
