//! What several kinds have: endpoints, conditions, and the schemas of types that come without one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Where a tunnel is reached over UDP.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("isIP(self.host) || !format.dns1123Subdomain().validate(self.host).hasValue()")
        .message("host must be an IP address or a DNS name, without a port")
)]
pub struct Endpoint {
    /// An IP address or a DNS name.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// The UDP port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The condition of this type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Sets a condition; the transition's time changes with the status only. Returns whether anything changed.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let status = if status { "True" } else { "False" };
    let new = |since| Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(old) => {
            let since = if old.status == status { old.last_transition_time.clone() } else { Time(now) };
            let new = new(since);
            let changed = *old != new;
            *old = new;
            changed
        }
        None => {
            conditions.push(new(Time(now)));
            true
        }
    }
}

/// As `metav1.Condition`.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            },
        },
    })
}

pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "nullable": true})
}

/// A public key of WireGuard, as a string that the API server checks.
pub(crate) const KEY_RULE: &str = "self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$')";
pub(crate) const KEY_MESSAGE: &str = "must be a WireGuard public key: 32 bytes in base64";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_is_timed_once() {
        let (first, second) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(2).unwrap());
        let mut conditions = Vec::new();
        assert!(set_condition(&mut conditions, "Ready", false, "A", "a", None, first));
        assert!(!set_condition(&mut conditions, "Ready", false, "A", "a", None, second));
        assert!(set_condition(&mut conditions, "Ready", false, "B", "b", None, second));
        assert_eq!(condition(&conditions, "Ready").unwrap().last_transition_time, Time(first));
        assert!(set_condition(&mut conditions, "Ready", true, "B", "b", None, second));
        assert_eq!(condition(&conditions, "Ready").unwrap().last_transition_time, Time(second));
    }

    #[test]
    fn an_endpoint_is_written_as_usual() {
        assert_eq!(Endpoint { host: "a.example".into(), port: 1 }.to_string(), "a.example:1");
        assert_eq!(Endpoint { host: "fd00::1".into(), port: 1 }.to_string(), "[fd00::1]:1");
    }
}
