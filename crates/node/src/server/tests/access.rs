//! Every route for every kind of client, asked for in every way: exactly the allowed combinations pass.

use http::Method;
use kube_pet_testkit::podman::{Answer, Fake};
use serde_json::json;

use super::harness::{self, Harness, Identity, Upgrade};
use crate::server::routes::{AREAS, Area, Endpoint, Route};

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    /// It is not known: 401.
    Unknown,
    /// It is known, and that is all: 403.
    None,
    /// It may get.
    Read,
    All,
}

const IDENTITIES: [(Identity, Rights); 14] = [
    (Identity::Nobody, Rights::Unknown),
    (Identity::WrongCa, Rights::Unknown),
    (Identity::ExpiredCertificate, Rights::Unknown),
    (Identity::ServerCertificate, Rights::Unknown),
    (Identity::Token("forged"), Rights::Unknown),
    (Identity::Token("expired"), Rights::Unknown),
    (Identity::Token("other-audience"), Rights::Unknown),
    (Identity::OtherNode, Rights::None),
    (Identity::DeniedCertificate, Rights::None),
    (Identity::Token("denied"), Rights::None),
    (Identity::ReaderCertificate, Rights::Read),
    (Identity::Token("reader"), Rights::Read),
    (Identity::AllowedCertificate, Rights::All),
    (Identity::Token("good"), Rights::All),
];

/// Container `0` runs what echoes, container `1` says hello and ends.
pub(super) fn podman() -> Fake {
    const SWITCHED: &[u8] = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    Fake::start(|path, _| {
        let created = |id: &str| Answer::Reply(201, format!(r#"{{"Id": "{id}"}}"#).into_bytes());
        match path.rsplit_once("/libpod").map_or(path, |(_, rest)| rest).split('?').next().unwrap_or_default() {
            "/containers/0/exec" => created("echo"),
            "/containers/1/exec" => created("hello"),
            "/exec/echo/start" | "/containers/0/attach" => Answer::Echo(SWITCHED.to_vec()),
            "/exec/hello/start" => {
                Answer::Raw([SWITCHED, &[2, 0, 0, 0, 0, 0, 0, 6], b" world", &[1, 0, 0, 0, 0, 0, 0, 5], b"hello"].concat())
            }
            path if path.ends_with("/json") => {
                Answer::Reply(200, br#"{"ID": "e", "Running": false, "CanRemove": true, "ExitCode": 0}"#.to_vec())
            }
            path if path.ends_with("/resize") => Answer::Reply(201, Vec::new()),
            other => panic!("{other}"),
        }
    })
}

fn path(route: &Route) -> String {
    let pod = if route.endpoint == Endpoint::Run { "hello" } else { "p" };
    let fixed = [
        ("{check}", "ping"),
        ("{namespace}", "ns"),
        ("{pod}", pod),
        ("{uid}", &format!("uid-{pod}")),
        ("{container}", "c"),
        ("{path*}", ""),
    ];
    let path = fixed.into_iter().fold(route.pattern.to_owned(), |path, (open, value)| path.replace(open, value));
    let query = match route.endpoint {
        Endpoint::Exec => "?command=sh&input=1&output=1",
        Endpoint::Attach => "?input=1&output=1",
        Endpoint::PortForward => "?ports=80",
        Endpoint::Run => "?cmd=echo+hello",
        _ => "",
    };
    path + query
}

/// What a client with every right gets: the endpoint's own answer.
fn reached(endpoint: Endpoint, upgrade: Upgrade) -> u16 {
    match (endpoint, upgrade) {
        (Endpoint::Exec | Endpoint::Attach, Upgrade::Nothing) => 400,
        (Endpoint::Exec | Endpoint::Attach, _) => 101,
        // The pod has no network here.
        (Endpoint::PortForward, _) => 500,
        // Others take no notice of what the connection could become.
        _ => 200,
    }
}

fn expected(rights: Rights, area: &Area, method: &Method, endpoint: Endpoint, upgrade: Upgrade) -> u16 {
    match (rights, area.verb(method)) {
        (Rights::Unknown, _) => 401,
        (Rights::None, _) => 403,
        (Rights::Read, verb) if verb != "get" => 403,
        _ => reached(endpoint, upgrade),
    }
}

#[tokio::test]
async fn component_every_route_for_every_identity_over_every_protocol() {
    let fake = podman();
    let harness = Harness::with_podman(kube_pet_podman::Client::new(fake.socket()), |_, _| {}).await;
    harness.put_pod("p", json!([harness::running("c", 0)]));
    harness.put_pod("hello", json!([harness::running("c", 1)]));
    harness.write_log("p", "c", 0, "2026-01-01T00:00:00Z stdout F x\n");
    let mut passed = 0;
    for area in AREAS {
        for route in area.routes {
            let subprotocol = if route.endpoint == Endpoint::PortForward { "portforward.k8s.io" } else { "v4.channel.k8s.io" };
            let path = path(route);
            for method in route.methods {
                for upgrade in [Upgrade::Nothing, Upgrade::Spdy(subprotocol), Upgrade::WebSocket("v4.channel.k8s.io")] {
                    for (identity, rights) in &IDENTITIES {
                        let (status, head, _stream) = harness.upgrade(identity, method, &path, &upgrade).await;
                        let expected = expected(*rights, area, method, route.endpoint, upgrade);
                        assert_eq!(status, expected, "{method} {path} {upgrade:?} as {identity:?}: {head}");
                        passed += usize::from(![401, 403].contains(&status));
                    }
                }
            }
        }
    }
    assert!(passed > 100, "{passed}");
}

/// Reading is allowed to many: what runs commands must not be reached by a method or a protocol that only reads.
#[tokio::test]
async fn component_read_rights_never_run_a_command() {
    let fake = podman();
    let harness = Harness::with_podman(kube_pet_podman::Client::new(fake.socket()), |_, _| {}).await;
    harness.put_pod("p", json!([harness::running("c", 0)]));
    let upgrades = [Upgrade::Nothing, Upgrade::Spdy("v4.channel.k8s.io"), Upgrade::WebSocket("v5.channel.k8s.io")];
    for prefix in ["/exec/ns/p/c?command=id&output=1", "/attach/ns/p/c?output=1", "/run/ns/p/c?cmd=id", "/portForward/ns/p?ports=80"] {
        for method in [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::OPTIONS] {
            for upgrade in upgrades {
                let (status, head, _) = harness.upgrade(&Identity::ReaderCertificate, &method, prefix, &upgrade).await;
                assert_eq!(status, 403, "{method} {prefix} {upgrade:?}: {head}");
            }
        }
    }
    assert!(fake.requests().is_empty(), "{:?}", fake.requests());
}
