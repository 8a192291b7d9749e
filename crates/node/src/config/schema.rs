//! From a document to a [`NodeConfiguration`]: every field read, checked and, where fields depend on each other, compared.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use kube_pet_core::quantity::Amount;

use super::dns_cache;
use super::host_pod;
use super::labels::{self, is_dns_subdomain};
use super::section::{Field, Section};
use super::tunnel;
use super::values::{ExternalIpSource, LogFormat};
use super::{API_VERSION, AuthorizationMode, ExecBy, IpNet, KIND, NodeConfiguration, pressure, shutdown};

/// The longest delay between restarts that the kubelet accepts.
const MAX_RESTART_PERIOD: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);
/// The kubelet's.
const SHORTEST_LOG_INTERVAL: Duration = Duration::from_secs(3);

/// Lays a document over the defaults.
pub(super) fn apply(top: Section<'_>, config: &mut NodeConfiguration) {
    // Both are checked file by file, before the files are merged.
    let _ = (top.field("apiVersion"), top.field("kind"));
    // Read before everything else, because defaults are below it.
    let _ = top.field("rootDir");
    identity(&top, config);
    endpoints(&top, config);
    network(&top, config);
    node(&top, config);
    pods(&top, config);
    pressure::read(&top, config);
    shutdown::read(&top, config);
    podman(&top, config);
    logging(&top, config);
    top.finish();
}

/// `apiVersion` and `kind` of one file; drop-ins may leave them out.
pub(super) fn check_type(top: &Section<'_>, required: bool) {
    for (key, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match top.field(key) {
            Some(field) => {
                if let Some(found) = field.text().filter(|found| *found != expected) {
                    field.problem(format!("is {found:?}"), format!("write {key}: {expected}"));
                }
            }
            None if required => top.conflict(key, "is missing", &format!("write {key}: {expected}")),
            None => {}
        }
    }
}

fn identity(top: &Section<'_>, config: &mut NodeConfiguration) {
    if let Some(field) = top.field("nodeName")
        && let Some(name) = field.text()
    {
        name.clone_into(&mut config.node_name);
        if !is_dns_subdomain(name) {
            field.problem(
                format!("{name:?} cannot be a Node's name"),
                "use lower case letters, digits, '-' and '.', with a letter or digit at both ends",
            );
        }
    } else if !is_dns_subdomain(&config.node_name) {
        top.conflict("nodeName", &format!("is missing, and the host name {:?} cannot be a Node's name", config.node_name), "set it");
    }
    top.optional_path("kubeconfig", &mut config.kubeconfig);
    top.path("bootstrapKubeconfig", &mut config.bootstrap_kubeconfig);
    only(top, "rotateCertificates", true, "the node's certificate is always renewed before it ends");
}

/// A setting of the kubelet's that can only have one value here.
fn only(top: &Section<'_>, key: &'static str, value: bool, why: &str) {
    if let Some(field) = top.field(key)
        && field.bool() == Some(!value)
    {
        field.problem(format!("cannot be {}", !value), format!("remove it: {why}"));
    }
}

fn endpoints(top: &Section<'_>, config: &mut NodeConfiguration) {
    top.ip("address", &mut config.address);
    top.number("port", 1..=65535, &mut config.port);
    top.ip("healthzBindAddress", &mut config.healthz_bind_address);
    top.number("healthzPort", 0..=65535, &mut config.healthz_port);
    if config.port == config.healthz_port {
        top.conflict("healthzPort", "is the same as port", "choose another one");
    }
    top.optional_path("tlsCertFile", &mut config.tls_cert_file);
    top.optional_path("tlsPrivateKeyFile", &mut config.tls_private_key_file);
    match (&config.tls_cert_file, &config.tls_private_key_file) {
        (Some(_), None) => top.conflict("tlsPrivateKeyFile", "is missing", "name the key of tlsCertFile"),
        (None, Some(_)) => top.conflict("tlsCertFile", "is missing", "name the certificate of tlsPrivateKeyFile"),
        _ => {}
    }
    top.bool("serverTLSBootstrap", &mut config.server_tls_bootstrap);
    top.duration("streamingConnectionIdleTimeout", SECOND, &mut config.streaming_connection_idle_timeout);
    top.bool("enableSystemLogHandler", &mut config.enable_system_log_handler);
    top.bool("enableSystemLogQuery", &mut config.enable_system_log_query);
    if config.enable_system_log_query && !config.enable_system_log_handler {
        top.conflict("enableSystemLogQuery", "needs enableSystemLogHandler", "turn both on, or both off");
    }

    let authentication = top.section("authentication");
    let x509 = authentication.section("x509");
    x509.optional_path("clientCAFile", &mut config.authentication.x509.client_ca_file);
    x509.finish();
    let webhook = authentication.section("webhook");
    webhook.bool("enabled", &mut config.authentication.webhook.enabled);
    webhook.duration("cacheTTL", Duration::ZERO, &mut config.authentication.webhook.cache_ttl);
    webhook.finish();
    let anonymous = authentication.section("anonymous");
    anonymous.bool("enabled", &mut config.authentication.anonymous.enabled);
    anonymous.finish();
    authentication.finish();

    let authorization = top.section("authorization");
    if let Some(field) = authorization.field("mode") {
        choose(
            &field,
            &[("Webhook", AuthorizationMode::Webhook), ("AlwaysAllow", AuthorizationMode::AlwaysAllow)],
            &mut config.authorization.mode,
        );
    }
    let webhook = authorization.section("webhook");
    let ttl = &mut config.authorization.webhook;
    webhook.duration("cacheAuthorizedTTL", Duration::ZERO, &mut ttl.cache_authorized_ttl);
    webhook.duration("cacheUnauthorizedTTL", Duration::ZERO, &mut ttl.cache_unauthorized_ttl);
    webhook.finish();
    authorization.finish();
    if config.authorization.mode == AuthorizationMode::AlwaysAllow
        && config.authentication.anonymous.enabled
        && let Some(field) = top.section("authorization").field("mode")
    {
        field.problem("lets anybody run commands in every pod, together with authentication.anonymous.enabled", "turn one of the two off");
    }
}

fn network(top: &Section<'_>, config: &mut NodeConfiguration) {
    top.list("clusterDNS", Field::ip, &mut config.cluster_dns);
    if let Some(field) = top.field("clusterDomain")
        && let Some(domain) = field.text()
    {
        domain.trim_end_matches('.').clone_into(&mut config.cluster_domain);
        if !is_dns_subdomain(&config.cluster_domain) {
            field.problem(format!("{domain:?} is not a domain"), "write a domain such as cluster.local");
        }
    }
    if let Some(field) = top.field("resolvConf")
        && let Some(text) = field.text()
    {
        // As for the kubelet: empty means that pods get no name servers of the host's.
        config.resolv_conf = if text.is_empty() { PathBuf::new() } else { field.path().unwrap_or_default() };
    }
    if let Some(field) = top.field("nodeIP") {
        config.node_ip = pair(&field, |part| match part.parse::<IpAddr>() {
            Err(_) => Err("is not an IP address".to_owned()),
            Ok(ip) if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() => Err("cannot be a node's address".to_owned()),
            Ok(ip) => Ok((ip, ip.is_ipv4())),
        });
    }
    if let Some(field) = top.field("podCIDR") {
        config.pod_cidr = pair(&field, |part| {
            let net: IpNet = part.parse()?;
            let hosts = if net.address.is_ipv4() { 32 } else { 128 } - net.prefix;
            if hosts < 2 {
                return Err("is too small for pods".to_owned());
            }
            Ok((net, net.address.is_ipv4()))
        });
    }
    top.list("externalIPSources", external_ip_source, &mut config.external_ip_sources);
    if let Some(mtu) = top.field("mtu").and_then(|field| field.number(576..=65535)) {
        config.mtu = Some(mtu);
    }
    if let Some(field) = top.field("linkPrefix")
        && let Some(prefix) = field.text()
    {
        prefix.clone_into(&mut config.link_prefix);
        let fits = (1..=4).contains(&prefix.len())
            && prefix.starts_with(|c: char| c.is_ascii_lowercase())
            && prefix.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !fits {
            field.problem(
                format!("{prefix:?} cannot begin an interface's name"),
                "use one to four lower case letters and digits, a letter first",
            );
        }
    }
    if let Some(field) = top.field("nonMasqueradeCIDRs") {
        let read = |item: &Field<'_>| {
            let text = item.text()?;
            text.parse::<IpNet>().map_err(|what| item.problem(format!("{text:?} {what}"), "write a network such as 10.0.0.0/8")).ok()
        };
        let mut networks = Vec::new();
        networks.extend(field.items().iter().filter_map(read));
        config.non_masquerade_cidrs = Some(networks);
    }
    let proxy = top.section("serviceProxy");
    proxy.bool("enabled", &mut config.service_proxy.enabled);
    proxy.address("healthzBindAddress", &mut config.service_proxy.healthz_bind_address);
    proxy.address("metricsBindAddress", &mut config.service_proxy.metrics_bind_address);
    proxy.finish();
    let policies = top.section("networkPolicy");
    policies.bool("enabled", &mut config.network_policy.enabled);
    policies.finish();
    host_pod::read(top, config);
    dns_cache::read(top, config);
    tunnel::read(top, config);
}

/// One value, or one of each address family.
fn pair<T>(field: &Field<'_>, read: impl Fn(&str) -> Result<(T, bool), String>) -> Vec<T> {
    let mut values = Vec::new();
    let mut families = Vec::new();
    for part in field.parts() {
        match read(&part) {
            Ok((value, v4)) => {
                if families.contains(&v4) {
                    field.problem(format!("names more than one IPv{} value", if v4 { 4 } else { 6 }), "keep one, or one of each family");
                }
                families.push(v4);
                values.push(value);
            }
            Err(what) => field.problem(format!("{part:?} {what}"), "correct it, or remove the field"),
        }
    }
    values
}

fn external_ip_source(field: &Field<'_>) -> Option<ExternalIpSource> {
    const FIX: &str = "write interface, {interface: NAME}, {static: ADDRESS} or {url: http://…}";
    if let super::tree::Value::Text(text) = &field.tree.value {
        if text == "interface" {
            return Some(ExternalIpSource::Interface(None));
        }
        field.problem(format!("{text:?} is not a source"), FIX);
        return None;
    }
    let section = field.section();
    let interface = section.field("interface").and_then(|f| Some(ExternalIpSource::Interface(Some(f.text()?.to_owned()))));
    let fixed = section.field("static").and_then(|f| Some(ExternalIpSource::Static(f.ip()?)));
    let url = section.field("url").and_then(|f| {
        let url = f.text()?;
        let valid = (url.starts_with("http://") || url.starts_with("https://")) && url.parse::<http::Uri>().is_ok();
        if !valid {
            f.problem("is not an http or https URL", FIX);
        }
        valid.then(|| ExternalIpSource::Url(url.to_owned()))
    });
    section.finish();
    let mut given = [interface, fixed, url].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(source), None) => Some(source),
        (Some(_), Some(_)) => {
            field.problem("names more than one source", "make them items of their own");
            None
        }
        (None, _) => None,
    }
}

fn node(top: &Section<'_>, config: &mut NodeConfiguration) {
    top.bool("registerNode", &mut config.register_node);
    top.texts("nodeLabels", &mut config.node_labels);
    for (key, field) in top.section("nodeLabels").all() {
        if let Some(value) = config.node_labels.get(key)
            && let Err(refused) = labels::check(key, value)
        {
            field.problem(refused.what, refused.fix);
        }
    }
    top.list("registerWithTaints", taint, &mut config.register_with_taints);
    if let Some(field) = top.field("providerID") {
        config.provider_id = field.text().filter(|id| !id.is_empty()).map(str::to_owned);
    }
    let update_set = top.field("nodeStatusUpdateFrequency").is_some();
    top.duration("nodeStatusUpdateFrequency", SECOND, &mut config.node_status_update_frequency);
    if update_set {
        // The kubelet's rule, from the time before leases.
        config.node_status_report_frequency = config.node_status_update_frequency;
    }
    top.duration("nodeStatusReportFrequency", config.node_status_update_frequency, &mut config.node_status_report_frequency);
    top.number("nodeStatusMaxImages", -1..=i64::from(i32::MAX), &mut config.node_status_max_images);
    top.number("nodeLeaseDurationSeconds", 4..=3600, &mut config.node_lease_duration_seconds);
    top.number("eventRecordQPS", 0..=10_000, &mut config.event_record_qps);
    top.number("eventBurst", 1..=10_000, &mut config.event_burst);
}

fn taint(field: &Field<'_>) -> Option<Taint> {
    let section = field.section();
    let mut taint = Taint::default();
    section.text("key", &mut taint.key);
    section.text("effect", &mut taint.effect);
    taint.value = section.field("value").and_then(|value| value.scalar());
    section.finish();
    if !labels::is_label_text(taint.key.rsplit('/').next().unwrap_or_default()) {
        unusable(field, "key", "write the taint's key, such as example.com/dedicated");
    }
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str()) {
        unusable(field, "effect", "write NoSchedule, PreferNoSchedule or NoExecute");
    }
    Some(taint)
}

fn unusable(taint: &Field<'_>, key: &str, fix: &str) {
    match taint.child(key) {
        Some(field) => field.problem("is not valid", fix),
        None => taint.problem(format!("has no {key}"), fix),
    }
}

fn pods(top: &Section<'_>, config: &mut NodeConfiguration) {
    top.path("staticPodPath", &mut config.static_pod_path);
    top.number("maxPods", 1..=10_000, &mut config.max_pods);
    top.number("podPidsLimit", -1..=i64::from(i32::MAX), &mut config.pod_pids_limit);
    if config.pod_pids_limit == 0 {
        top.conflict("podPidsLimit", "cannot be 0", "write -1 for no limit");
    }
    if let Some(field) = top.field("singleProcessOOMKill") {
        config.single_process_oom_kill = field.bool();
        if config.single_process_oom_kill == Some(false) && !kube_pet_host::cgroups::is_unified() {
            field.problem("cannot be false on a machine with cgroup v1", "remove it, or boot the machine with cgroup v2");
        }
    }
    if let Some(field) = top.field("cgroupRoot")
        && let Some(text) = field.text()
    {
        text.clone_into(&mut config.cgroup_root);
        if !text.starts_with('/') || text.split('/').any(|part| part == ".." || part == ".") {
            field.problem(format!("{text:?} is not a cgroup's path"), "write a path from the hierarchy's root on, such as /pets");
        }
    }
    top.bool("secretsAtRest", &mut config.secrets_at_rest);
    top.list(
        "allowedUnsafeSysctls",
        |field| {
            let text = field.text()?;
            let body = text.strip_suffix('*').unwrap_or(text);
            let valid = !body.is_empty() && body.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
            if !valid {
                field.problem(format!("{text:?} is not a sysctl"), "write a name, or a pattern that ends in *");
            }
            valid.then(|| text.to_owned())
        },
        &mut config.allowed_unsafe_sysctls,
    );
    let parallel = top.field("maxParallelImagePulls").is_some();
    top.number("maxParallelImagePulls", 1..=64, &mut config.max_parallel_image_pulls);
    if let Some(field) = top.field("serializeImagePulls")
        && field.bool() == Some(true)
    {
        if parallel && config.max_parallel_image_pulls > 1 {
            field.problem("contradicts maxParallelImagePulls", "remove one of them");
        }
        config.max_parallel_image_pulls = 1;
    }
    image_collection(top, config);
    let back_off = top.section("crashLoopBackOff");
    let period = &mut config.crash_loop_back_off.max_container_restart_period;
    back_off.duration("maxContainerRestartPeriod", SECOND, period);
    if *period > MAX_RESTART_PERIOD {
        back_off.conflict("maxContainerRestartPeriod", "is too long", "write at most 300s");
    }
    back_off.finish();
    container_logs(top, config);
}

fn image_collection(top: &Section<'_>, config: &mut NodeConfiguration) {
    top.number("imageGCHighThresholdPercent", 0..=100, &mut config.image_gc_high_threshold_percent);
    top.number("imageGCLowThresholdPercent", 0..=100, &mut config.image_gc_low_threshold_percent);
    if config.image_gc_low_threshold_percent >= config.image_gc_high_threshold_percent {
        top.conflict("imageGCLowThresholdPercent", "is not below imageGCHighThresholdPercent", "lower the one or raise the other");
    }
    top.duration("imageMinimumGCAge", Duration::ZERO, &mut config.image_minimum_gc_age);
    top.duration("imageMaximumGCAge", Duration::ZERO, &mut config.image_maximum_gc_age);
    if !config.image_maximum_gc_age.is_zero() && config.image_maximum_gc_age <= config.image_minimum_gc_age {
        top.conflict("imageMaximumGCAge", "is not above imageMinimumGCAge", "raise it, or write 0s for no limit");
    }
}

fn container_logs(top: &Section<'_>, config: &mut NodeConfiguration) {
    if let Some(field) = top.field("containerLogMaxSize")
        && let Some(text) = field.scalar()
    {
        match text.parse::<Amount>() {
            Ok(amount) => config.container_log_max_size = amount.to_quantity(),
            Err(_) => field.problem(format!("{text:?} is not a quantity"), "write a number of bytes such as 10Mi, or -1 for no limit"),
        }
    }
    top.number("containerLogMaxFiles", 2..=10_000, &mut config.container_log_max_files);
    top.number("containerLogMaxWorkers", 1..=64, &mut config.container_log_max_workers);
    top.duration("containerLogMonitorInterval", SHORTEST_LOG_INTERVAL, &mut config.container_log_monitor_interval);
}

fn podman(top: &Section<'_>, config: &mut NodeConfiguration) {
    let section = top.section("podman");
    let podman = &mut config.podman;
    section.optional_path("socket", &mut podman.socket);
    section.optional_path("program", &mut podman.program);
    section.optional_path("root", &mut podman.root);
    section.optional_path("runRoot", &mut podman.run_root);
    section.optional_path("tmpDir", &mut podman.tmp_dir);
    section.optional_path("storageConf", &mut podman.storage_conf);
    section.optional_path("registriesConf", &mut podman.registries_conf);
    if let Some(field) = section.field("exec") {
        choose(&field, &[("runtime", ExecBy::Runtime), ("podman", ExecBy::Podman)], &mut podman.exec);
    }
    if podman.socket.is_some() {
        // They are the settings of a service that is not started then.
        for key in ["program", "root", "runRoot", "tmpDir", "storageConf", "registriesConf"] {
            if let Some(field) = section.peek(key) {
                field.problem("has no effect beside podman.socket", "remove one of them");
            }
        }
    }
    section.finish();
}

fn logging(top: &Section<'_>, config: &mut NodeConfiguration) {
    let section = top.section("logging");
    if let Some(field) = section.field("level")
        && let Some(level) = field.text()
    {
        level.clone_into(&mut config.logging.level);
        let valid = level.split(',').all(|directive| {
            let level = directive.rsplit('=').next().unwrap_or_default();
            ["off", "error", "warn", "info", "debug", "trace"].contains(&level.to_lowercase().as_str())
        });
        if !valid {
            field.problem(format!("{level:?} is not a log level"), "write error, warn, info, debug or trace");
        }
    }
    if let Some(field) = section.field("format") {
        choose(&field, &[("text", LogFormat::Text), ("json", LogFormat::Json)], &mut config.logging.format);
    }
    section.finish();
}

pub(super) fn choose<T: Copy>(field: &Field<'_>, choices: &[(&str, T)], into: &mut T) {
    let Some(text) = field.text() else { return };
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => *into = *value,
        None => {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            field.problem(format!("{text:?} is not a choice"), format!("write {}", names.join(" or ")));
        }
    }
}
