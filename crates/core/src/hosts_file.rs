//! A pod's name and its /etc/hosts, byte for byte as the kubelet writes them (Kubernetes 1.37, `kubelet_pods.go`).

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

/// Longest hostname; a longer one is cut.
const MAX_HOSTNAME: usize = 63;
/// Longest DNS name.
const MAX_SUBDOMAIN: usize = 253;
/// Longest name that the kernel's nodename takes.
const MAX_NODENAME: usize = 64;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

/// A pod's name on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodHostname {
    /// What `hostname` prints: the fully qualified name where `setHostnameAsFQDN` asks for it.
    pub hostname: String,
    /// The name without its domain.
    pub short: String,
    /// `<subdomain>.<namespace>.svc.<cluster domain>`, if the pod has a subdomain.
    pub domain: Option<String>,
}

/// A name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Nothing is left of the name.
    #[error("hostname for pod {pod:?} was invalid: {hostname:?}")]
    Invalid {
        /// The pod.
        pod: String,
        /// The name.
        hostname: String,
    },
    /// `setHostnameAsFQDN` with a name that the kernel does not take.
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long \
         ({MAX_NODENAME} characters is the max, {} characters requested)", fqdn.len()
    )]
    TooLong {
        /// The name.
        fqdn: String,
    },
    /// A field is no DNS name. The API server has checked it; a static pod may have it wrong.
    #[error("pod {field} {value:?} is not a valid DNS {}: it must be lower-case letters, digits and '-'", if *field == "HostnameOverride" { "subdomain" } else { "label" })]
    NotDns {
        /// `Hostname`, `HostnameOverride` or `Subdomain`
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// The pod's hostname and domain.
///
/// # Errors
/// When the name cannot be used.
pub fn pod_hostname(pod: &Pod, cluster_domain: &str) -> Result<PodHostname, HostnameError> {
    let spec = pod.spec.as_ref();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let own = spec.and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
    let overridden = spec.and_then(|s| s.hostname_override.clone()).filter(|h| !h.is_empty());
    let subdomain = spec.and_then(|s| s.subdomain.clone()).filter(|s| !s.is_empty() && overridden.is_none());
    for (field, value) in [("Hostname", &own), ("Subdomain", &subdomain)] {
        if let Some(value) = value.as_ref().filter(|v| !is_dns_label(v)) {
            return Err(HostnameError::NotDns { field, value: value.clone() });
        }
    }
    if let Some(value) = overridden.as_ref().filter(|v| v.len() > MAX_SUBDOMAIN || !v.split('.').all(is_dns_label)) {
        return Err(HostnameError::NotDns { field: "HostnameOverride", value: value.clone() });
    }
    let wanted = overridden.or(own).unwrap_or_else(|| name.clone());
    let short = if wanted.len() <= MAX_HOSTNAME {
        wanted.clone()
    } else {
        wanted.chars().take(MAX_HOSTNAME).collect::<String>().trim_end_matches(['-', '.']).to_owned()
    };
    if short.is_empty() {
        return Err(HostnameError::Invalid { pod: name, hostname: wanted });
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = subdomain.map(|s| format!("{s}.{namespace}.svc.{cluster_domain}"));
    let as_fqdn = spec.and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    let hostname = match &domain {
        Some(domain) if as_fqdn => {
            let fqdn = format!("{short}.{domain}");
            if fqdn.len() > MAX_NODENAME {
                return Err(HostnameError::TooLong { fqdn });
            }
            fqdn
        }
        _ => short.clone(),
    };
    Ok(PodHostname { hostname, short, domain })
}

fn is_dns_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= MAX_HOSTNAME
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The content of the pod's /etc/hosts. `host` gives the host's own file; it is asked only for a pod on the host's network.
///
/// # Errors
/// When the pod's name cannot be used.
pub fn content(pod: &Pod, ips: &[IpAddr], cluster_domain: &str, host: impl FnOnce() -> String) -> Result<String, HostnameError> {
    let spec = pod.spec.as_ref();
    let mut out = if spec.and_then(|s| s.host_network).unwrap_or(false) {
        format!("{HOST_HEADER}{}", host())
    } else {
        let name = pod_hostname(pod, cluster_domain)?;
        let mut out = format!("{HEADER}{LOCALHOST}");
        for ip in ips {
            let _ = match &name.domain {
                Some(domain) => writeln!(out, "{ip}\t{}.{domain}\t{}", name.short, name.short),
                None => writeln!(out, "{ip}\t{}", name.short),
            };
        }
        out
    };
    let aliases = spec.and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(out, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
