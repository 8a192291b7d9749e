//! What this node does with each field of a pod: one table, from which pods are judged and `docs/supported.md` is written.
//!
//! A field without support is never dropped silently: it gets a warning, or the pod is refused where running without it would be
//! unsafe or wrong.

mod markdown;
#[cfg(test)]
mod schema;
mod table;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

pub use markdown::markdown;
use table::{CONTAINER, EPHEMERAL, POD, VOLUME};

use crate::admission::Rejection;

/// `status.reason` of a pod that needs what this node does not offer.
pub const REFUSED_REASON: &str = "PodFeatureUnsupported";

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has its effect.
    Supported,
    /// Nothing for a node to do: other components act on it.
    ControlPlane,
    /// It should have an effect and has none; the pod runs, with a warning.
    NotYet,
    /// A pod that has it is not run.
    Refused,
}

/// A field that a pod sets and that does not have its effect on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where, with the name or else the index of the elements of lists: `spec.containers[web].livenessProbe`.
    pub path: String,
    /// What becomes of it; never `Supported`.
    pub state: State,
    /// Why, or what happens instead.
    pub note: &'static str,
}

/// A line of the table.
pub(crate) struct Field {
    /// Below the section's root, with `[]` for the elements of a list.
    path: &'static str,
    state: State,
    note: &'static str,
    /// Values that the state holds for; all others are supported.
    only: Option<Only>,
}

/// A condition on a field's value.
pub(crate) struct Only {
    /// In words, after the field's name.
    text: &'static str,
    holds: fn(&Place<'_>) -> bool,
}

/// A field in a pod.
struct Place<'a> {
    /// The object that has the field.
    parent: &'a Value,
    /// The field.
    value: &'a Value,
    /// Whether the table names an object around it as a whole.
    covered: bool,
}

/// A part of the table: what is below one place of the pod.
struct Section {
    title: &'static str,
    /// Where in a pod, with `[]` for the elements of a list.
    roots: &'static [&'static str],
    fields: &'static [Field],
}

const SECTIONS: [Section; 4] = [
    Section { title: "Pod", roots: &["spec"], fields: POD },
    Section {
        title: "Containers, init containers and ephemeral containers",
        roots: &["spec.containers[]", "spec.initContainers[]", "spec.ephemeralContainers[]"],
        fields: CONTAINER,
    },
    Section { title: "Ephemeral containers only", roots: &["spec.ephemeralContainers[]"], fields: EPHEMERAL },
    Section { title: "Volumes", roots: &["spec.volumes[]"], fields: VOLUME },
];

enum Known {
    /// This field stands in the table.
    Field(&'static Field),
    /// Only fields below it do.
    Parent,
    /// Nothing is said of it.
    No,
}

/// The entry for a path such as `spec.initContainers[].image`, and whether the table goes into more detail below it.
fn lookup(path: &str) -> (Known, bool) {
    let mut parent = false;
    for section in &SECTIONS {
        for root in section.roots {
            if path == *root || root.starts_with(&format!("{path}.")) || root.starts_with(&format!("{path}[]")) {
                parent = true;
                continue;
            }
            let Some(below) = path.strip_prefix(root).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let deeper = |field: &&Field| {
                let rest = field.path.strip_prefix(below);
                rest.is_some_and(|rest| rest.starts_with(['.', '[']))
            };
            let has_deeper = section.fields.iter().any(|field| deeper(&field));
            if let Some(field) = section.fields.iter().find(|field| field.path == below) {
                return (Known::Field(field), has_deeper);
            }
            parent |= has_deeper;
        }
    }
    if parent { (Known::Parent, true) } else { (Known::No, false) }
}

/// The fields of a pod, as JSON, that do not have their effect on this node.
///
/// Only `spec` is looked at; what is null, empty, false or zero counts as not set, unless the table names that value.
pub fn findings(pod: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(spec) = pod.get("spec") {
        let place = Place { parent: pod, value: spec, covered: false };
        walk(&place, "spec", "spec", &mut found);
    }
    found
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        // A volume's source may well be empty and mean something.
        Value::Bool(true) | Value::Object(_) => false,
    }
}

/// Judges all fields below `place`; `pattern` is `path` without what tells elements apart.
fn walk(place: &Place<'_>, path: &str, pattern: &str, found: &mut Vec<Finding>) {
    match place.value {
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                let place = Place { value, ..*place };
                let name = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
                let element = name.map_or_else(|| index.to_string(), str::to_owned);
                let (path, pattern) = (format!("{path}[{element}]"), format!("{pattern}[]"));
                walk(&place, &path, &pattern, found);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let place = Place { parent: place.value, value, ..*place };
                let (path, pattern) = (format!("{path}.{name}"), format!("{pattern}.{name}"));
                judge(&place, path, &pattern, found);
            }
        }
        _ => {}
    }
}

fn judge(place: &Place<'_>, path: String, pattern: &str, found: &mut Vec<Finding>) {
    let (known, deeper) = lookup(pattern);
    let covered = place.covered || matches!(known, Known::Field(_));
    let (state, note) = match known {
        Known::Field(field) => {
            let applies = match &field.only {
                Some(only) => (only.holds)(place),
                None => !is_unset(place.value),
            };
            let state = if applies { field.state } else { State::Supported };
            (state, field.note)
        }
        Known::No if !covered && !is_unset(place.value) => (State::NotYet, "the field is not known to this version"),
        Known::Parent | Known::No => (State::Supported, ""),
    };
    if state != State::Supported {
        found.push(Finding { path, state, note });
    } else if deeper {
        walk(&Place { covered, ..*place }, &path, pattern, found);
    }
}

/// Why a pod with these findings is not run, if it is not.
pub fn refusal(findings: &[Finding]) -> Option<Rejection> {
    let refused = findings.iter().filter(|finding| finding.state == State::Refused);
    let texts: Vec<String> = refused.map(|finding| format!("{} ({})", finding.path, finding.note)).collect();
    if texts.is_empty() {
        return None;
    }
    let message = format!("Pod requires node features that are not available: {}", texts.join(", "));
    Some(Rejection::new(REFUSED_REASON, message))
}

/// Why a pod with `hostUsers: false` is not run, if it is not; `missing` is what this machine lacks for user namespaces. The API server
/// refuses such a pod that has namespaces of the host's; pods from files come without its checks.
pub fn refusal_of_user_namespace(pod: &Pod, missing: Option<&str>) -> Option<Rejection> {
    let spec = pod.spec.as_ref().filter(|spec| spec.host_users == Some(false))?;
    let of_the_host = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    let contradiction = of_the_host.into_iter().find(|(_, value)| *value == Some(true)).map(|(field, _)| format!("it contradicts {field}"));
    let reason = contradiction.or_else(|| missing.map(str::to_owned))?;
    let message = format!("Pod requires node features that are not available: spec.hostUsers (`false`: {reason})");
    Some(Rejection::new(REFUSED_REASON, message))
}

/// The text of the warning that a finding deserves, if it does.
pub fn warning(finding: &Finding) -> Option<String> {
    let Finding { path, state, note } = finding;
    (*state == State::NotYet).then(|| format!("{path} has no effect on this node: {note}"))
}

#[cfg(test)]
mod tests;
