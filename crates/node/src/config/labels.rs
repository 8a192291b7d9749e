//! What the cluster lets a node say of itself (NodeRestriction), and how labels and names are written.

/// Why a label cannot be set by the node itself.
pub(super) struct Refused {
    pub(super) what: String,
    pub(super) fix: String,
}

/// Labels of Kubernetes' own domains that NodeRestriction lets a node set.
const ALLOWED: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// Labels that the agent computes.
const COMPUTED: [&str; 5] =
    ["kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch"];

/// Checks one label.
pub(super) fn check(key: &str, value: &str) -> Result<(), Refused> {
    let refused = |what: String, fix: &str| Err(Refused { what, fix: fix.into() });
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if !is_label_text(name) || prefix.is_some_and(|prefix| !is_dns_subdomain(prefix)) {
        return refused(
            format!("{key:?} is not a label key"),
            "write [domain/]name of letters, digits, '-', '_' and '.', at most 63 in the name",
        );
    }
    if !value.is_empty() && !is_label_text(value) {
        return refused(
            format!("{value:?} is not a label value"),
            "write at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        );
    }
    if COMPUTED.contains(&key) {
        return refused("is set by the agent itself".into(), "remove it");
    }
    let domain = prefix.unwrap_or_default();
    let own_domain = |suffix: &str| domain == suffix || domain.ends_with(&format!(".{suffix}"));
    let restricted = own_domain("node-restriction.kubernetes.io");
    let reserved = own_domain("kubernetes.io") || own_domain("k8s.io");
    let allowed = ALLOWED.contains(&key) || own_domain("kubelet.kubernetes.io") || own_domain("node.kubernetes.io");
    if restricted || (reserved && !allowed) {
        return refused(
            "the cluster does not let a node set this label on itself".into(),
            "have a cluster administrator set it (kubectl label node), or use a domain of your own",
        );
    }
    Ok(())
}

/// A label's value or the name part of its key, not empty.
pub(super) fn is_label_text(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// RFC 1123 subdomain.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_node_restriction_lets_through() {
        for (key, allowed) in [
            ("example.com/rack", true),
            ("rack", true),
            ("kube-pet.dev/kind", true),
            ("topology.kubernetes.io/zone", true),
            ("x.node.kubernetes.io/y", true),
            ("node-role.kubernetes.io/pet", false),
            ("node-restriction.kubernetes.io/a", false),
            ("foo.k8s.io/a", false),
            ("kubernetes.io/os", false),
            ("-bad", false),
            ("Upper.Domain/a", false),
        ] {
            assert_eq!(check(key, "v").is_ok(), allowed, "{key}");
        }
    }

    #[test]
    fn knows_label_values() {
        assert!(check("a", "").is_ok());
        assert!(check("a", "x y").is_err());
        assert!(check("a", &"x".repeat(64)).is_err());
    }
}
