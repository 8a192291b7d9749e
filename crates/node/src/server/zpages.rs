//! `/statusz` and `/flagz`: what runs here, as text for people, or as an object of `config.k8s.io` for who asks for one
//! (`Accept: application/json;as=Statusz;g=config.k8s.io;v=v1beta1`). As `k8s.io/apiserver/pkg/server/{statusz,flagz}`.

use std::collections::BTreeMap;
use std::fmt::Write;

use http::header::{ACCEPT, HeaderMap};
use http::{HeaderName, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::ServerState;
use super::response::{self, Response};
use super::routes::AREAS;

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for \
                       debugging purposes only.";
const GROUP: &str = "config.k8s.io";

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Text,
    /// An object of this version.
    Object(&'static str),
    /// Nothing that there is.
    Other,
}

/// The first of the accepted types that there is an answer in.
fn wanted(headers: &HeaderMap, kind: &str) -> Wanted {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.trim().is_empty() {
        return Wanted::Text;
    }
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let parameters: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
        let named = parameters.contains_key("as");
        let object = parameters.get("as") == Some(&kind) && parameters.get("g") == Some(&GROUP);
        match (media_type, parameters.get("v")) {
            ("text/plain" | "text/*" | "*/*", _) if !named => return Wanted::Text,
            ("application/json", Some(&"v1beta1")) if object => return Wanted::Object("v1beta1"),
            ("application/json", Some(&"v1alpha1")) if object => return Wanted::Object("v1alpha1"),
            _ => {}
        }
    }
    Wanted::Other
}

fn answer(headers: &HeaderMap, kind: &str, text: impl FnOnce() -> String, fields: impl FnOnce() -> Value) -> Response {
    match wanted(headers, kind) {
        Wanted::Text => response::text(StatusCode::OK, text()),
        Wanted::Object(version) => {
            let mut object = fields();
            object["kind"] = kind.into();
            object["apiVersion"] = format!("{GROUP}/{version}").into();
            object["metadata"] = json!({ "name": "kubelet" });
            let answer = response::json(&object);
            if version == "v1beta1" {
                return answer;
            }
            let warning =
                format!("299 - \"This version of the {} endpoint is deprecated. Please use a newer version.\"", kind.to_lowercase());
            response::with_header(answer, HeaderName::from_static("warning"), &warning)
        }
        Wanted::Other => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotAcceptable", "code": 406,
                "message": "only the following media types are accepted: application/json, text/plain",
            });
            let mut refusal = response::json(&status);
            *refusal.status_mut() = StatusCode::NOT_ACCEPTABLE;
            refusal
        }
    }
}

/// `/statusz`. There is no Go version to tell.
pub(super) fn statusz(state: &ServerState, headers: &HeaderMap) -> Response {
    #[allow(clippy::cast_possible_truncation, reason = "seconds of the Unix time")]
    let started = kube_pet_host::process::start_time().and_then(|at| Timestamp::from_second(at as i64).ok()).unwrap_or_default();
    let uptime = Timestamp::now().duration_since(started).as_secs().max(0);
    let version = state.version.git_version.split('+').next().unwrap_or_default().trim_start_matches('v').to_owned();
    let paths: Vec<&str> = AREAS.iter().flat_map(|area| area.routes).map(|route| route.pattern).collect();
    let text = || {
        let mut text = format!("\nkubelet statusz\n{WARNING}\n\n");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Started: {}", started.strftime("%a %b %e %H:%M:%S UTC %Y"));
        let _ = writeln!(text, "Up: {} hr {:02} min {:02} sec", uptime / 3600, uptime / 60 % 60, uptime % 60);
        let _ = writeln!(text, "Binary version: {version}\nPaths: {}", paths.join(" "));
        text
    };
    let fields = || {
        json!({
            "startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "uptimeSeconds": uptime,
            "goVersion": "",
            "binaryVersion": version,
            "paths": paths,
        })
    };
    answer(headers, "Statusz", text, fields)
}

/// `/flagz`: the arguments that this process was started with.
pub(super) fn flagz(state: &ServerState, headers: &HeaderMap) -> Response {
    let text = || {
        let mut text = format!("\nkubelet flagz\n{WARNING}\n");
        for (name, value) in &state.flags {
            let _ = writeln!(text, "{name}={value}");
        }
        text
    };
    answer(headers, "Flagz", text, || json!({ "flags": state.flags }))
}

/// The flags among a process's arguments. What `--set` sets may be secret (a proxy's password), so only its field is told.
pub fn flags(arguments: impl IntoIterator<Item = String>) -> BTreeMap<String, String> {
    let mut flags: BTreeMap<String, String> = BTreeMap::new();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        let Some(flag) = argument.strip_prefix("--").filter(|flag| !flag.is_empty()) else { continue };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (flag.to_owned(), arguments.next_if(|next| !next.starts_with("--")).unwrap_or_else(|| "true".to_owned())),
        };
        if name == "set" {
            let field = value.split_once('=').map_or("", |(field, _)| field);
            let told = flags.entry(name).or_default();
            *told = [told.as_str(), field].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",");
        } else {
            flags.insert(name, value);
        }
    }
    if let Some(set) = flags.get_mut("set") {
        set.push_str(" (values CLASSIFIED)");
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_accepts() {
        let wanted = |accept: &str| {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            super::wanted(&headers, "Statusz")
        };
        for text in ["", "*/*", "text/plain", "text/html, text/plain;q=0.5", "application/json, */*"] {
            assert_eq!(wanted(text), Wanted::Text, "{text}");
        }
        assert_eq!(wanted("application/json;as=Statusz;g=config.k8s.io;v=v1beta1"), Wanted::Object("v1beta1"));
        assert_eq!(wanted("application/json;v=v1alpha1;g=config.k8s.io;as=Statusz"), Wanted::Object("v1alpha1"));
        for other in
            ["application/json", "application/json;as=Flagz;g=config.k8s.io;v=v1beta1", "application/json;as=Statusz;g=x;v=v1", "image/png"]
        {
            assert_eq!(wanted(other), Wanted::Other, "{other}");
        }
    }

    #[test]
    fn flags_are_told_without_what_may_be_secret() {
        let arguments = ["kube-pet", "node", "--root=/r", "--config", "c.yaml", "--set", "a.b=secret", "--set=c=d=e", "--print-config"];
        let flags = flags(arguments.map(str::to_owned));
        let told: Vec<_> = flags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(told, ["config=c.yaml", "print-config=true", "root=/r", "set=a.b,c (values CLASSIFIED)"]);
    }
}
