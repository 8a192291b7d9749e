//! Every path of the node's API in one table: methods, what must be allowed to use it, and who answers.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Healthz,
    HealthzCheck,
    Pods,
    RunningPods,
    Configz,
    ContainerLogs,
    Exec,
    Attach,
    PortForward,
    Run,
    StatsSummary,
    Statusz,
    Flagz,
    SystemLogs,
    Metrics,
    MetricsCadvisor,
    MetricsResource,
    MetricsProbes,
    MetricsSlis,
}

/// How the verb to authorize comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VerbRule {
    /// From the HTTP method: `GET` is `get`, `POST` is `create` …
    Method,
    /// Always `create`: a WebSocket to run a command opens with a GET, and whoever may only read must not run commands.
    /// The kubelet asks for `get` there.
    Create,
}

/// A path with its methods. `{…}` stands for one segment, `{…*}` for all that follow, which may be none.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) pattern: &'static str,
    pub(super) methods: &'static [Method],
    pub(super) endpoint: Endpoint,
}

/// Everything below one path prefix is authorized alike, known or not.
#[derive(Debug)]
pub(super) struct Area {
    /// The first segment of the path.
    prefix: &'static str,
    /// Subresources of the node; one of them must be allowed. The finer one comes first, `proxy` is the old catch-all.
    pub(super) subresources: &'static [&'static str],
    pub(super) verb: VerbRule,
    pub(super) routes: &'static [Route],
}

const GET: &[Method] = &[Method::GET];
const GET_HEAD: &[Method] = &[Method::GET, Method::HEAD];
const GET_POST: &[Method] = &[Method::GET, Method::POST];
const POST: &[Method] = &[Method::POST];

const fn route(pattern: &'static str, methods: &'static [Method], endpoint: Endpoint) -> Route {
    Route { pattern, methods, endpoint }
}

/// The table (the kubelet's `auth.go` and `server.go`).
pub(super) static AREAS: &[Area] = &[
    Area {
        prefix: "healthz",
        subresources: &["healthz", "proxy"],
        verb: VerbRule::Method,
        routes: &[route("/healthz", GET_HEAD, Endpoint::Healthz), route("/healthz/{check}", GET_HEAD, Endpoint::HealthzCheck)],
    },
    Area { prefix: "pods", subresources: &["pods", "proxy"], verb: VerbRule::Method, routes: &[route("/pods", GET, Endpoint::Pods)] },
    Area {
        prefix: "runningpods",
        subresources: &["pods", "proxy"],
        verb: VerbRule::Method,
        routes: &[route("/runningpods", GET, Endpoint::RunningPods)],
    },
    Area {
        prefix: "configz",
        subresources: &["configz", "proxy"],
        verb: VerbRule::Method,
        routes: &[route("/configz", GET, Endpoint::Configz)],
    },
    Area {
        prefix: "metrics",
        subresources: &["metrics"],
        verb: VerbRule::Method,
        routes: &[
            route("/metrics", GET, Endpoint::Metrics),
            route("/metrics/cadvisor", GET, Endpoint::MetricsCadvisor),
            route("/metrics/resource", GET, Endpoint::MetricsResource),
            route("/metrics/probes", GET, Endpoint::MetricsProbes),
            route("/metrics/slis", GET, Endpoint::MetricsSlis),
        ],
    },
    Area {
        prefix: "containerLogs",
        subresources: &["proxy"],
        verb: VerbRule::Method,
        routes: &[route("/containerLogs/{namespace}/{pod}/{container}", GET, Endpoint::ContainerLogs)],
    },
    Area {
        prefix: "exec",
        subresources: &["proxy"],
        verb: VerbRule::Create,
        routes: &[
            route("/exec/{namespace}/{pod}/{container}", GET_POST, Endpoint::Exec),
            route("/exec/{namespace}/{pod}/{uid}/{container}", GET_POST, Endpoint::Exec),
        ],
    },
    Area {
        prefix: "attach",
        subresources: &["proxy"],
        verb: VerbRule::Create,
        routes: &[
            route("/attach/{namespace}/{pod}/{container}", GET_POST, Endpoint::Attach),
            route("/attach/{namespace}/{pod}/{uid}/{container}", GET_POST, Endpoint::Attach),
        ],
    },
    Area {
        prefix: "portForward",
        subresources: &["proxy"],
        verb: VerbRule::Create,
        routes: &[
            route("/portForward/{namespace}/{pod}", GET_POST, Endpoint::PortForward),
            route("/portForward/{namespace}/{pod}/{uid}", GET_POST, Endpoint::PortForward),
        ],
    },
    Area {
        prefix: "run",
        subresources: &["proxy"],
        verb: VerbRule::Create,
        routes: &[
            route("/run/{namespace}/{pod}/{container}", POST, Endpoint::Run),
            route("/run/{namespace}/{pod}/{uid}/{container}", POST, Endpoint::Run),
        ],
    },
    Area {
        prefix: "stats",
        subresources: &["stats"],
        verb: VerbRule::Method,
        routes: &[route("/stats/summary", GET_POST, Endpoint::StatsSummary)],
    },
    Area { prefix: "statusz", subresources: &["statusz"], verb: VerbRule::Method, routes: &[route("/statusz", GET, Endpoint::Statusz)] },
    Area { prefix: "flagz", subresources: &["configz"], verb: VerbRule::Method, routes: &[route("/flagz", GET, Endpoint::Flagz)] },
    Area { prefix: "logs", subresources: &["log"], verb: VerbRule::Method, routes: &[route("/logs/{path*}", GET, Endpoint::SystemLogs)] },
    // Known to authorization, but without an answer.
    Area { prefix: "checkpoint", subresources: &["checkpoint"], verb: VerbRule::Method, routes: &[] },
];

/// Every other path.
static ELSEWHERE: Area = Area { prefix: "", subresources: &["proxy"], verb: VerbRule::Method, routes: &[] };

/// A segment that a pattern leaves open, decoded.
pub(super) type Parameter<'p> = Cow<'p, str>;

/// What a request asks for, once it is allowed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'p> {
    /// An endpoint with the segments that its pattern leaves open.
    Endpoint(Endpoint, Vec<Parameter<'p>>),
    /// The path exists, for these methods.
    OtherMethods(Vec<Method>),
    /// There is no such path.
    Nowhere,
}

impl Area {
    /// The area of a path. Authorization and routing both come from here, so they cannot disagree about a path.
    pub(super) fn of(path: &str) -> &'static Self {
        let first = path.strip_prefix('/').unwrap_or(path).split('/').next();
        AREAS.iter().find(|area| first == Some(area.prefix)).unwrap_or(&ELSEWHERE)
    }

    /// The first segment of its paths; `other` for all that are in no area. For metrics: clients choose paths, not names.
    pub(super) fn name(&self) -> &'static str {
        if self.prefix.is_empty() { "other" } else { self.prefix }
    }

    /// The verb to authorize. Empty, and so allowed to nobody but those allowed everything, for unknown methods.
    pub(super) fn verb(&self, method: &Method) -> &'static str {
        match (self.verb, method) {
            (VerbRule::Create, _) | (_, &Method::POST) => "create",
            (_, &Method::GET | &Method::HEAD) => "get",
            (_, &Method::PUT) => "update",
            (_, &Method::PATCH) => "patch",
            (_, &Method::DELETE) => "delete",
            _ => "",
        }
    }

    /// Finds who answers.
    pub(super) fn target<'p>(&self, method: &Method, path: &'p str) -> Target<'p> {
        let mut allowed = Vec::new();
        for route in self.routes {
            let Some(parameters) = matches(route.pattern, path) else {
                continue;
            };
            if route.methods.contains(method) {
                return Target::Endpoint(route.endpoint, parameters);
            }
            allowed.extend_from_slice(route.methods);
        }
        if allowed.is_empty() { Target::Nowhere } else { Target::OtherMethods(allowed) }
    }
}

/// The open segments of `pattern` in `path`, if it fits. One trailing slash is allowed, as go-restful does.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<Vec<Cow<'p, str>>> {
    let path = match path.strip_suffix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => path,
    };
    let mut parameters = Vec::new();
    if let Some((head, _)) = pattern.split_once("/{").filter(|_| pattern.ends_with("*}")) {
        let rest = path.strip_prefix(head)?;
        let rest = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
        return Some(vec![percent_decode_str(rest).decode_utf8().ok()?]);
    }
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(parameters),
            (Some(open), Some(segment)) if open.starts_with('{') => {
                if segment.is_empty() {
                    return None;
                }
                parameters.push(percent_decode_str(segment).decode_utf8().ok()?);
            }
            (Some(fixed), Some(segment)) if fixed == segment => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_follow_the_prefix_even_of_unknown_paths() {
        let attributes = |path| Area::of(path).subresources;
        assert_eq!(attributes("/pods"), ["pods", "proxy"]);
        assert_eq!(attributes("/pods/x"), ["pods", "proxy"]);
        assert_eq!(attributes("/podsx"), ["proxy"]);
        assert_eq!(attributes("/metrics/unknown"), ["metrics"]);
        assert_eq!(attributes("/stats/summary"), ["stats"]);
        assert_eq!(attributes("/statusz"), ["statusz"]);
        assert_eq!(attributes("/flagz"), ["configz"]);
        assert_eq!(attributes("/logs/"), ["log"]);
        assert_eq!(attributes("//pods"), ["proxy"]);
        assert_eq!(attributes("/metrics%2fcadvisor"), ["proxy"]);
        assert_eq!(attributes("/"), ["proxy"]);
    }

    #[test]
    fn commands_need_create_whatever_the_method() {
        for prefix in ["/exec", "/attach", "/portForward", "/run"] {
            for method in [Method::GET, Method::POST, Method::HEAD, Method::OPTIONS] {
                assert_eq!(Area::of(prefix).verb(&method), "create", "{prefix}");
            }
        }
        let verb = |method| Area::of("/containerLogs/a/b/c").verb(&method);
        assert_eq!(verb(Method::GET), "get");
        assert_eq!(verb(Method::PUT), "update");
        assert_eq!(verb(Method::TRACE), "");
    }

    #[test]
    fn every_route_lies_in_its_area_and_is_found() {
        for area in AREAS {
            for route in area.routes {
                assert!(std::ptr::eq(Area::of(route.pattern), area), "{}", route.pattern);
                let path = route.pattern.replace(['{', '}'], "");
                let target = area.target(&route.methods[0], &path);
                assert!(matches!(target, Target::Endpoint(e, _) if e == route.endpoint), "{path}");
            }
        }
    }

    #[test]
    fn targets() {
        let target = |method: Method, path| Area::of(path).target(&method, path);
        assert_eq!(
            target(Method::GET, "/containerLogs/ns/p%2Eod/c"),
            Target::Endpoint(Endpoint::ContainerLogs, vec!["ns".into(), "p.od".into(), "c".into()])
        );
        let logs = |path: &'static str| Target::Endpoint(Endpoint::SystemLogs, vec![path.into()]);
        assert_eq!(target(Method::GET, "/logs"), logs(""));
        assert_eq!(target(Method::GET, "/logs/"), logs(""));
        assert_eq!(target(Method::GET, "/logs/a/b%20c"), logs("a/b c"));
        assert_eq!(target(Method::GET, "/logs/a/"), logs("a"));
        assert_eq!(target(Method::GET, "/runningpods/"), Target::Endpoint(Endpoint::RunningPods, vec![]));
        assert_eq!(target(Method::POST, "/pods"), Target::OtherMethods(vec![Method::GET]));
        assert_eq!(target(Method::POST, "/stats/summary"), Target::Endpoint(Endpoint::StatsSummary, vec![]));
        for path in ["/", "/containerLogs/ns/pod", "/containerLogs/ns//c", "/pods/x", "/stats", "/stats/container"] {
            assert_eq!(target(Method::GET, path), Target::Nowhere, "{path}");
        }
    }
}
