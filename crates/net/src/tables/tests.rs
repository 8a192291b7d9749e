use std::collections::{BTreeMap, BTreeSet};

use kube_pet_rules::policies::{Direction, Element};

use super::*;
use crate::pod_links::tests::{Scene, ip};
use crate::policies::PolicyTable;
use crate::services::{Address, Config, Frontend, Protocol, Rule, ServiceTable};

fn services(name: &str, changes: &OwnChanges) -> ServiceTable {
    let config = Config {
        table: name.into(),
        pod_links: "kp".into(),
        local_pods: Vec::new(),
        masquerade_except: None,
        node_addresses: None,
        loopback: false,
        rank: 0,
    };
    ServiceTable::open(config, changes.clone()).unwrap()
}

fn closed(port: u16) -> (Frontend, Option<Rule>) {
    (Frontend { address: Address::Ip(ip("10.96.0.20")), protocol: Protocol::Tcp, port }, Some(Rule::Reject))
}

#[test]
fn netns_a_change_to_one_of_our_tables_is_nobody_elses_to_another() {
    Scene::new().within("node", || {
        let ours = OwnChanges::default();
        let (mut proxy, mut enforcer) = (services("kube-pet-services", &ours), PolicyTable::open("kube-pet-policies", ours).unwrap());
        let isolated = Element::Isolated { direction: Direction::Ingress, link: "kpaaaaaaaaaa".into(), profile: 7 };
        proxy.reconcile(&BTreeMap::new()).unwrap();
        enforcer.reconcile(&BTreeSet::from([isolated])).unwrap();
        for port in 80..90 {
            proxy.apply(&[closed(port)]).unwrap();
        }
        assert_eq!([proxy.verify().unwrap(), enforcer.verify().unwrap()], [Condition::Intact; 2]);
        // One that is not ours, between two that are.
        let mut theirs = services("theirs", &OwnChanges::default());
        proxy.apply(&[closed(90)]).unwrap();
        theirs.reconcile(&BTreeMap::new()).unwrap();
        proxy.apply(&[closed(91)]).unwrap();
        assert_eq!([proxy.verify().unwrap(), enforcer.verify().unwrap()], [Condition::Touched; 2]);
        assert_eq!([proxy.repair().unwrap(), enforcer.repair().unwrap()], [Repaired::default(); 2]);
        assert_eq!([proxy.verify().unwrap(), enforcer.verify().unwrap()], [Condition::Intact; 2]);
        // One of ours that is gone.
        assert!(enforcer.remove().unwrap());
        assert_eq!(proxy.verify().unwrap(), Condition::Intact);
    });
}
