//! A status as a strategic-merge patch.
//!
//! The lists of container statuses are atomic: the API server replaces them whole, and would take a `$patch` directive for one
//! more container. The lists of addresses are merged by address, so that an old one would stay: they ask to be replaced. Fields
//! that must vanish are sent as null.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use super::resizing::{RESIZE_IN_PROGRESS, RESIZE_PENDING};

/// The body of a PATCH of `pods/status`. The UID guards against a pod of the same name that came later.
/// Conditions are merged by their type, so that those of others survive.
pub fn status_patch(uid: &str, status: &PodStatus) -> Value {
    let mut out = match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    for list in ["podIPs", "hostIPs"] {
        if let Some(Value::Array(items)) = out.get_mut(list) {
            items.insert(0, json!({"$patch": "replace"}));
        }
    }
    if let Some(Value::Object(resources)) = out.get_mut("resources") {
        for list in ["limits", "requests"] {
            match resources.get_mut(list) {
                Some(Value::Object(amounts)) => {
                    for name in ["cpu", "memory"] {
                        amounts.entry(name).or_insert(Value::Null);
                    }
                }
                _ => drop(resources.insert(list.to_owned(), Value::Null)),
            }
        }
    }
    if let Some(Value::Array(conditions)) = out.get_mut("conditions") {
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            for field in ["reason", "message"] {
                condition.entry(field).or_insert(Value::Null);
            }
        }
        // The conditions of ours that come and go; the others stay once they are there.
        for kind in [RESIZE_PENDING, RESIZE_IN_PROGRESS] {
            if !conditions.iter().any(|condition| condition["type"] == kind) {
                conditions.push(json!({"type": kind, "$patch": "delete"}));
            }
        }
    }
    for field in ["reason", "message"] {
        out.entry(field).or_insert(Value::Null);
    }
    json!({"metadata": {"uid": uid}, "status": out})
}

/// Whether two statuses differ in what the API server would keep: its times have whole seconds.
pub fn status_differs(a: &PodStatus, b: &PodStatus) -> bool {
    a != b && normalised(a) != normalised(b)
}

/// Whether a status only says that the pod is on its way: nothing has ended or failed, nothing runs yet.
pub fn is_starting(status: &PodStatus) -> bool {
    let containers = [&status.init_container_statuses, &status.container_statuses];
    status.phase.as_deref() == Some("Pending")
        && containers.into_iter().flatten().flatten().all(|container| {
            let state = container.state.as_ref();
            let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
            matches!(waiting, Some("ContainerCreating" | "PodInitializing"))
        })
}

fn normalised(status: &PodStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or(Value::Null);
    normalise(&mut value);
    value
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(normalise);
            map.retain(|_, v| !(v.is_null() || v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty)));
        }
        Value::Array(items) => {
            items.iter_mut().for_each(normalise);
            if items.iter().all(|i| i.get("type").is_some()) {
                items.sort_by(|a, b| a["type"].as_str().cmp(&b["type"].as_str()));
            }
        }
        Value::String(text) => {
            if let Ok(time) = text.parse::<jiff::Timestamp>() {
                *text = time.as_second().to_string();
            }
        }
        _ => {}
    }
}
