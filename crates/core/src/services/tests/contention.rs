//! Frontends that several want.

use super::*;

const SHARED: &str = "192.0.2.1";

fn named(name: &str, created: i64, external: &str) -> Service {
    let cluster = format!("10.96.0.{}", name.as_bytes()[0]);
    Service {
        key: format!("ns/{name}").into(),
        created,
        cluster_ips: [ip(&cluster)].into(),
        external_ips: [ip(external)].into(),
        ..service()
    }
}

/// A slice with one endpoint that tells the Services apart.
fn of(name: &str) -> Slice {
    Slice { service: format!("ns/{name}").into(), ..slice(name, [endpoint(&format!("10.0.0.{}", name.as_bytes()[0]))]) }
}

fn leads_to(compiler: &Compiler, frontend: Frontend) -> String {
    match rule(compiler, frontend) {
        Rule::Forward(forward) => {
            forward.endpoints.iter().map(|e| char::from(e.ip().to_string().rsplit('.').next().unwrap().parse::<u8>().unwrap())).collect()
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn of_several_services_with_an_external_ip_the_oldest_has_it() {
    let shared = frontend(Address::Ip(ip(SHARED)), 80);
    let mut compiler = Compiler::default();
    for (name, created) in [("b", 2), ("a", 2), ("c", 1)] {
        compiler.apply(Event::Slice(of(name)));
        compiler.apply(Event::Service(Arc::new(named(name, created, SHARED))));
    }
    assert_eq!(leads_to(&compiler, shared), "c");
    let changes = compiler.apply(Event::ServiceGone("ns/c".into()));
    assert_eq!(changes.len(), 3, "its ClusterIP, the rest of that, and the shared address: {changes:?}");
    // Equally old: by name.
    assert_eq!(leads_to(&compiler, shared), "a");
    assert!(changes[&shared].is_some());
    // The loser's endpoints are of no interest.
    let changes = compiler.apply(Event::SliceGone("ns/b".into()));
    assert!(!changes.contains_key(&shared), "{changes:?}");
    // The winner's address goes to the loser, whose endpoints are gone meanwhile.
    let changes = compiler.apply(Event::Service(Arc::new(named("a", 2, "192.0.2.2"))));
    assert_eq!(changes[&shared], Some(Rule::Reject));
    let changes = compiler.apply(Event::ServiceGone("ns/b".into()));
    assert_eq!(changes[&shared], None);
}

#[test]
fn nobody_takes_a_cluster_ip_away() {
    let mut compiler = compiled(service(), [slice("z", [endpoint("10.0.0.122")])]);
    let changes = compiler.apply(Event::Service(Arc::new(named("a", 0, "10.96.0.1"))));
    assert!(!changes.contains_key(&cluster_ip()), "{changes:?}");
    compiler.apply(Event::Slice(of("a")));
    assert_eq!(leads_to(&compiler, cluster_ip()), "z");
}

#[test]
fn a_service_may_name_its_own_cluster_ip() {
    let service = Service { external_ips: [ip("10.96.0.1")].into(), ..service() };
    let compiler = compiled(service, [slice("z", [endpoint("10.0.0.122")])]);
    assert_eq!(rule(&compiler, cluster_ip()), Rule::Forward(to(&["10.0.0.122:8080"])));
}
