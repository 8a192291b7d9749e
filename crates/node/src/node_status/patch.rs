//! The difference between what the Node says and what is: a strategic-merge patch of the status.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeStatus;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::conditions;
use super::resources::{HUGE_PAGES, Resources};

/// The capacity with what others have written into it (extended resources), without huge pages of sizes that are gone.
pub(super) fn with_foreign(ours: Resources, before: Option<&Resources>) -> Resources {
    let mut all = ours;
    for (name, amount) in before.into_iter().flatten() {
        if name.contains('/') && !name.starts_with(HUGE_PAGES) {
            all.entry(name.clone()).or_insert_with(|| amount.clone());
        }
    }
    all
}

/// What to write; `None` when nothing changed and no heartbeat is `due`.
///
/// Conditions are merged by type, so those of other writers stay. Addresses are replaced as a whole: their merge key is the
/// type, and two InternalIPs have the same one.
pub(super) fn status(before: &NodeStatus, now: &NodeStatus, due: bool) -> Option<Value> {
    let mut fields = Map::new();
    let conditions = now.conditions.as_deref().unwrap_or_default();
    let conditions_differ = conditions::differ(before.conditions.as_deref().unwrap_or_default(), conditions);
    for (name, was, is) in [("capacity", &before.capacity, &now.capacity), ("allocatable", &before.allocatable, &now.allocatable)] {
        if let Some(changes) = map_changes(was.as_ref(), is.as_ref()) {
            fields.insert(name.into(), changes);
        }
    }
    if before.addresses != now.addresses {
        let mut list = vec![json!({ "$patch": "replace" })];
        list.extend(now.addresses.iter().flatten().map(value));
        fields.insert("addresses".into(), list.into());
    }
    let mut replace = |name: &str, differs: bool, value: Value| {
        if differs {
            fields.insert(name.into(), value);
        }
    };
    replace("nodeInfo", before.node_info != now.node_info, value(&now.node_info));
    replace("daemonEndpoints", before.daemon_endpoints != now.daemon_endpoints, value(&now.daemon_endpoints));
    replace("images", before.images != now.images && now.images.is_some(), value(&now.images));
    replace("declaredFeatures", before.declared_features != now.declared_features, value(&now.declared_features));
    replace("features", before.features != now.features, value(&now.features));
    replace("runtimeHandlers", before.runtime_handlers != now.runtime_handlers, value(&now.runtime_handlers));
    if fields.is_empty() && !conditions_differ && !due {
        return None;
    }
    fields.insert("conditions".into(), value(&conditions));
    Some(json!({ "status": fields }))
}

fn map_changes<V: PartialEq + Serialize>(was: Option<&BTreeMap<String, V>>, is: Option<&BTreeMap<String, V>>) -> Option<Value> {
    let (empty, mut changes) = (BTreeMap::new(), Map::new());
    let (was, is) = (was.unwrap_or(&empty), is.unwrap_or(&empty));
    for (key, amount) in is.iter().filter(|(key, amount)| was.get(*key) != Some(amount)) {
        changes.insert(key.clone(), value(amount));
    }
    for key in was.keys().filter(|key| !is.contains_key(*key)) {
        changes.insert(key.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| changes.into())
}

fn value<T: Serialize>(of: &T) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}
