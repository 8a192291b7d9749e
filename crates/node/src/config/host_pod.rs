//! `hostPod`: its settings, and how they are read.

use serde::Serialize;

use super::NodeConfiguration;
use super::section::Section;

/// `hostPod`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPodSettings {
    /// Whether a pod stands for the machine: who may run commands in it is root on the machine.
    pub enabled: bool,
    /// Its namespace.
    pub namespace: String,
}

impl Default for HostPodSettings {
    /// Off.
    fn default() -> Self {
        Self { enabled: false, namespace: "kube-system".to_owned() }
    }
}

pub(super) fn read(top: &Section<'_>, config: &mut NodeConfiguration) {
    let section = top.section("hostPod");
    section.bool("enabled", &mut config.host_pod.enabled);
    if let Some(field) = section.field("namespace")
        && let Some(text) = field.text()
    {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > 63 || !text.bytes().all(plain) || text.starts_with('-') || text.ends_with('-') {
            field.problem(format!("{text:?} is no name of a namespace"), "write lower-case letters, digits and '-'");
        } else {
            config.host_pod.namespace = text.to_owned();
        }
    }
    section.finish();
}
