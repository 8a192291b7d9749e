//! What to write instead of a field that does not exist.

/// KubeletConfiguration's fields that have no counterpart here, with the reason where there is a short one.
const KUBELET_ONLY: [(&str, &str); 27] = [
    ("cgroupDriver", "the cgroup layout needs no driver"),
    ("containerRuntimeEndpoint", "the runtime is Podman: see podman.socket"),
    ("imageServiceEndpoint", "the runtime is Podman: see podman.socket"),
    ("featureGates", "there are no feature gates"),
    ("readOnlyPort", "there is no port without authentication"),
    ("makeIPTablesUtilChains", "iptables is not used"),
    ("iptablesMasqueradeBit", "iptables is not used"),
    ("iptablesDropBit", "iptables is not used"),
    ("hairpinMode", "pods are routed, there is no bridge"),
    ("failSwapOn", "swap is allowed"),
    ("failCgroupV1", "cgroup v1 is allowed"),
    ("contentType", "the API is spoken in JSON"),
    ("volumePluginDir", "FlexVolumes are not supported"),
    ("runOnce", "use `kube-pet run`"),
    ("staticPodURL", "static pods come from staticPodPath"),
    ("staticPodURLHeader", "static pods come from staticPodPath"),
    ("podLogsDir", "logs are at <rootDir>/var/log/pods"),
    ("cpuManagerPolicy", ""),
    ("memoryManagerPolicy", ""),
    ("topologyManagerPolicy", ""),
    ("protectKernelDefaults", ""),
    ("seccompDefault", ""),
    ("memorySwap", ""),
    ("podsPerCore", ""),
    ("kubeAPIQPS", ""),
    ("kubeAPIBurst", ""),
    ("tracing", ""),
];

/// The fix for an unknown field.
pub(super) fn unknown(key: &str, known: &[&'static str], top_level: bool) -> String {
    let kubelet = KUBELET_ONLY.iter().find(|(name, _)| top_level && *name == key);
    match (kubelet, nearest(key, known)) {
        (Some((_, "")), _) => "the kubelet has this setting, kube-pet does not have it yet: remove it".into(),
        (Some((_, reason)), _) => format!("the kubelet has this setting, kube-pet does not ({reason}): remove it"),
        (None, Some(name)) => format!("did you mean {name}?"),
        (None, None) => "remove it; `kube-pet node --print-config` shows all settings".into(),
    }
}

/// The known name that is most likely meant.
pub(super) fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let lower = key.to_lowercase();
    known
        .iter()
        .map(|name| (distance(&lower, &name.to_lowercase()), *name))
        .filter(|(distance, name)| *distance <= 1.max(name.len().min(key.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein's: how many letters must be changed, added or taken away.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_name_that_was_meant() {
        let known = ["nodeName", "nodeIP", "maxPods", "clusterDNS"];
        for (written, meant) in
            [("nodename", Some("nodeName")), ("maxpod", Some("maxPods")), ("clusterDns", Some("clusterDNS")), ("somethingElse", None)]
        {
            assert_eq!(nearest(written, &known), meant, "{written}");
        }
    }
}
