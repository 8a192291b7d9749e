//! `nodeSelector` and required node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use super::Rejection;
use crate::node::NodeInfo;

pub(super) fn check(pod: &Pod, node: &NodeInfo) -> Result<(), Rejection> {
    if matches(pod, node) {
        return Ok(());
    }
    Err(Rejection::predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"))
}

fn matches(pod: &Pod, node: &NodeInfo) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let mut selector = spec.node_selector.iter().flatten();
    if !selector.all(|(key, value)| node.labels.get(key) == Some(value)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| selector_matches(required, node))
}

/// Whether one of the selector's terms matches the node.
pub(crate) fn selector_matches(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// All of a term must hold; a term without requirements selects nothing, and so does one that is not well-formed.
fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let labels_hold = labels.iter().all(|requirement| label_matches(requirement, &node.labels) == Some(true));
    let fields_hold = fields.iter().all(|requirement| field_matches(requirement, &node.name) == Some(true));
    !(labels.is_empty() && fields.is_empty()) && labels_hold && fields_hold
}

/// `None` if the requirement is not well-formed.
fn label_matches(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> Option<bool> {
    let values = requirement.values.as_deref().unwrap_or_default();
    if !values.iter().all(|value| is_label_value(value)) {
        return None;
    }
    let actual = labels.get(&requirement.key);
    let listed = actual.is_some_and(|actual| values.contains(actual));
    let compared = |holds: fn(&i64, &i64) -> bool| {
        let [bound] = values else { return None };
        let bound: i64 = bound.parse().ok()?;
        let actual = actual.and_then(|actual| actual.parse().ok());
        Some(actual.is_some_and(|actual| holds(&actual, &bound)))
    };
    match requirement.operator.as_str() {
        "In" => (!values.is_empty()).then_some(listed),
        "NotIn" => (!values.is_empty()).then_some(!listed),
        "Exists" => values.is_empty().then_some(actual.is_some()),
        "DoesNotExist" => values.is_empty().then_some(actual.is_none()),
        "Gt" => compared(i64::gt),
        "Lt" => compared(i64::lt),
        _ => None,
    }
}

/// The only field of a node is its name; all others are empty.
fn field_matches(requirement: &NodeSelectorRequirement, node_name: &str) -> Option<bool> {
    let [value] = requirement.values.as_deref().unwrap_or_default() else {
        return None;
    };
    let actual = match requirement.key.as_str() {
        "metadata.name" => node_name,
        _ => "",
    };
    match requirement.operator.as_str() {
        "In" => Some(value == actual),
        "NotIn" => Some(value != actual),
        _ => None,
    }
}

/// At most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends; or nothing.
fn is_label_value(value: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63 && end(bytes.first()) && end(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}
