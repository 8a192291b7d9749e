//! What components are told of the configuration.

use std::time::Duration;

use jiff::SignedDuration;
use kube_pet_core::image_collection;
use kube_pet_core::pod::BackoffPolicy;

use crate::config::NodeConfiguration;
use crate::log_rotation::LogPolicy;
use crate::pods::runtime::PodSettings;

pub(super) fn pod_settings(config: &NodeConfiguration, no_user_namespaces: Option<String>) -> PodSettings {
    PodSettings {
        node_name: config.node_name.clone(),
        cluster_dns: config.cluster_dns.iter().map(ToString::to_string).collect(),
        cluster_domain: config.cluster_domain.clone(),
        dns_cache: config.dns_cache.enabled.then(|| config.dns_cache.address.to_string()),
        resolv_conf: config.resolv_conf.clone(),
        cgroup_root: config.pods_cgroup(),
        allowed_unsafe_sysctls: config.allowed_unsafe_sysctls.clone(),
        max_pods: config.max_pods,
        pod_pids_limit: (config.pod_pids_limit > 0).then_some(config.pod_pids_limit),
        // Without the setting the kubelet's default: what the machine can do.
        oom_group: !config.single_process_oom_kill.unwrap_or(!kube_pet_host::cgroups::is_unified()),
        crash: BackoffPolicy {
            initial: BackoffPolicy::default().initial,
            max: u32::try_from(config.crash_loop_back_off.max_container_restart_period.as_secs()).unwrap_or(300),
        },
        seccomp_dir: config.paths().seccomp_dir(),
        recursive_read_only: kube_pet_host::read_only::is_supported(),
        app_armor: std::path::Path::new("/sys/kernel/security/apparmor/profiles").exists(),
        no_user_namespaces,
    }
}

pub(super) fn collection_policy(config: &NodeConfiguration) -> image_collection::Policy {
    let age = |age: Duration| SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    image_collection::Policy {
        high_percent: config.image_gc_high_threshold_percent,
        low_percent: config.image_gc_low_threshold_percent,
        min_age: age(config.image_minimum_gc_age),
        max_age: age(config.image_maximum_gc_age),
    }
}

/// `None`: logs grow without limit.
pub(super) fn log_policy(config: &NodeConfiguration) -> Option<LogPolicy> {
    let max_size = kube_pet_core::quantity::Amount::of(&config.container_log_max_size).ok()?.value();
    Some(LogPolicy {
        max_size: u64::try_from(max_size).ok()?,
        max_files: config.container_log_max_files as usize,
        workers: config.container_log_max_workers as usize,
        interval: config.container_log_monitor_interval,
    })
}
