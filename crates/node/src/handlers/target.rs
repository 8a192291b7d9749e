//! Where a handler goes: ports by name, and addresses of HTTP as Go's `net/url` reads and writes them.

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube_pet_core::quoting::go_quoted;

/// A port as number, or as the name of one of the container's ports; the kubelet's words otherwise.
pub(super) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref().unwrap_or_default() == name)
            .map(|port| port.container_port)
            .ok_or_else(|| format!("port {} not found", go_quoted(name)))?,
    };
    u16::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// As Go prints the struct.
pub(super) fn as_go(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => format!("{{0 {number} }}"),
        IntOrString::String(name) => format!("{{1 0 {name}}}"),
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(super) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An address to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) https: bool,
    /// Without brackets.
    pub(super) host: String,
    /// `None`: not written, the scheme's own.
    pub(super) port: Option<u16>,
    /// Encoded; empty or beginning with a slash.
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

impl Url {
    /// The address of an action, without looking at what its path may contain besides a path.
    pub(super) fn of(action: &HTTPGetAction, container: &Container, pod_ip: &str) -> Result<Self, String> {
        let scheme = action.scheme.as_deref().unwrap_or_default().to_ascii_lowercase();
        let https = match scheme.as_str() {
            "" | "http" => false,
            "https" => true,
            other => return Err(format!("unsupported protocol scheme {}", go_quoted(other))),
        };
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
        let port = Some(port(&action.port, container)?);
        let text = action.path.as_deref().unwrap_or_default();
        let (path, query, fragment) = if parses(text) {
            let (text, fragment) = split(text, '#');
            let (path, query) = split(text, '?');
            (path, query, fragment)
        } else {
            // The kubelet takes what it cannot read for a path as a whole.
            (text, None, None)
        };
        let path = encoded(path);
        let path = if path.is_empty() || path.starts_with('/') { path } else { format!("/{path}") };
        Ok(Self { https, host, port, path, query: query.map(printable), fragment: fragment.map(str::to_owned) })
    }

    /// Where a response's `Location` leads (RFC 3986, section 5); `None` if it is none that HTTP can follow.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        if !parses(location) {
            return None;
        }
        let (text, fragment) = split(location, '#');
        let (text, query) = split(text, '?');
        let fragment = fragment.map(str::to_owned);
        let mut url = Self { fragment, query: query.map(printable), ..self.clone() };
        let (scheme, text) = match text.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme.to_ascii_lowercase()), rest),
            _ => (None, text),
        };
        match scheme.as_deref() {
            None => {}
            Some("http") => url.https = false,
            Some("https") => url.https = true,
            Some(_) => return None,
        }
        if let Some(text) = text.strip_prefix("//") {
            let end = text.find('/').unwrap_or(text.len());
            let (authority, path) = text.split_at(end);
            let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            (url.host, url.port) = authority_parts(authority)?;
            url.path = without_dots(&encoded(path));
            return Some(url);
        }
        if scheme.is_some() {
            // `http:path` has no host.
            return None;
        }
        if text.is_empty() {
            if query.is_none() {
                url.query.clone_from(&self.query);
            }
        } else if text.starts_with('/') {
            url.path = without_dots(&encoded(text));
        } else {
            let folder = self.path.rfind('/').map_or("/", |slash| &self.path[..=slash]);
            url.path = without_dots(&format!("{folder}{}", encoded(text)));
        }
        Some(url)
    }

    /// The port to connect to.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// For the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self.port {
            Some(port) => host_port(&self.host, port),
            None if self.host.contains(':') => format!("[{}]", self.host),
            None => self.host.clone(),
        }
    }

    /// What is asked for, as in a request's first line.
    pub(super) fn path_and_query(&self) -> String {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        self.query.as_ref().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
    }

    /// The scheme's name.
    pub(super) fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)?;
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        if let Some(fragment) = self.fragment.as_deref().filter(|fragment| !fragment.is_empty()) {
            write!(f, "#{fragment}")?;
        }
        Ok(())
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn authority_parts(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<IpAddr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => split(authority, ':'),
    };
    let port = match port {
        None | Some("") => None,
        Some(port) => Some(port.parse().ok()?),
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Go refuses control characters, and broken percent signs in a path.
fn parses(text: &str) -> bool {
    let path = text.split(['#', '?']).next().unwrap_or_default().as_bytes();
    let escapes = path.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        let digit = |offset: usize| path.get(at + offset).is_some_and(u8::is_ascii_hexdigit);
        digit(1) && digit(2)
    });
    escapes && !text.bytes().any(|byte| byte.is_ascii_control())
}

/// A path with all that cannot stand in a request escaped. What is escaped already stays when all of it may stand as it is.
fn encoded(path: &str) -> String {
    let stands = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&byte);
    if parses(path) && path.bytes().all(stands) {
        return path.to_owned();
    }
    let raw = if parses(path) { percent_encoding::percent_decode_str(path).collect::<Vec<u8>>() } else { path.as_bytes().to_vec() };
    let mut out = String::with_capacity(raw.len());
    for byte in raw {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A query with what cannot stand in a request's first line escaped.
fn printable(query: &str) -> String {
    let mut out = String::with_capacity(query.len());
    for byte in query.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut folder = false;
    for part in path.split('/').skip(1) {
        folder = matches!(part, "." | "..");
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if folder {
        parts.push("");
    }
    if path.is_empty() { String::new() } else { format!("/{}", parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ContainerPort;

    use super::*;

    fn url(path: &str) -> Url {
        let action = HTTPGetAction { path: Some(path.to_owned()), port: IntOrString::Int(8080), ..HTTPGetAction::default() };
        Url::of(&action, &Container::default(), "10.1.0.7").unwrap()
    }

    #[test]
    fn ports_have_a_number_or_the_name_of_one() {
        let ports = [("web", 8080), ("zero", 0)].map(|(name, container_port)| ContainerPort {
            name: Some(name.into()),
            container_port,
            ..ContainerPort::default()
        });
        let container = Container { ports: Some(ports.to_vec()), ..Container::default() };
        let ask = |value: IntOrString| port(&value, &container);
        assert_eq!(ask(IntOrString::Int(65535)), Ok(65535));
        assert_eq!(ask(IntOrString::String("web".into())), Ok(8080));
        assert_eq!(ask(IntOrString::String("admin".into())), Err("port \"admin\" not found".into()));
        assert_eq!(ask(IntOrString::String("zero".into())), Err("invalid port number: 0".into()));
        assert_eq!(ask(IntOrString::Int(65536)), Err("invalid port number: 65536".into()));
    }

    #[test]
    fn paths_are_read_as_go_reads_them() {
        for (path, text, asked) in [
            ("", "http://10.1.0.7:8080", "/"),
            ("healthz", "http://10.1.0.7:8080/healthz", "/healthz"),
            ("/healthz?full=1#top", "http://10.1.0.7:8080/healthz?full=1#top", "/healthz?full=1"),
            ("/a b/ü", "http://10.1.0.7:8080/a%20b/%C3%BC", "/a%20b/%C3%BC"),
            ("/a%2Fb", "http://10.1.0.7:8080/a%2Fb", "/a%2Fb"),
            ("/%zz?x", "http://10.1.0.7:8080/%25zz%3Fx", "/%25zz%3Fx"),
            ("/?q=a b", "http://10.1.0.7:8080/?q=a%20b", "/?q=a%20b"),
        ] {
            let url = url(path);
            assert_eq!((url.to_string().as_str(), url.path_and_query().as_str()), (text, asked), "{path}");
        }
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        let action = HTTPGetAction { port: IntOrString::Int(80), scheme: Some("HTTPS".into()), ..HTTPGetAction::default() };
        let url = Url::of(&action, &Container::default(), "fd00::7").unwrap();
        assert_eq!(url.to_string(), "https://[fd00::7]:80");
        assert_eq!(url.join("http://[fd00::8]/x").unwrap().authority(), "[fd00::8]");
    }

    #[test]
    fn locations_are_resolved() {
        let from = url("/a/b?x=1");
        for (location, expected) in [
            ("/c", "http://10.1.0.7:8080/c"),
            ("c", "http://10.1.0.7:8080/a/c"),
            ("../c/./d/..", "http://10.1.0.7:8080/c/"),
            ("?y=2", "http://10.1.0.7:8080/a/b?y=2"),
            ("", "http://10.1.0.7:8080/a/b?x=1"),
            ("//other:1/c", "http://other:1/c"),
            ("https://user@other/c?z#f", "https://other/c?z#f"),
            ("https://other", "https://other"),
        ] {
            assert_eq!(from.join(location).unwrap().to_string(), expected, "{location}");
        }
        for location in ["ftp://other/", "http:c", "http://other:port/", "http:///c", "/%zz", "/\u{1}"] {
            assert_eq!(from.join(location), None, "{location}");
        }
    }
}
