use std::net::Ipv4Addr;

use k8s_openapi::ByteString;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, SanType};

use super::*;

const USER: &str = "system:node:pet1";

struct Case {
    common: &'static str,
    organizations: Vec<&'static str>,
    names: Vec<SanType>,
    extensions: Vec<CustomExtension>,
    algorithm: &'static rcgen::SignatureAlgorithm,
}

impl Default for Case {
    fn default() -> Self {
        let names = vec![dns("pet1"), ip("10.200.0.5")];
        Self { common: USER, organizations: vec![NODES], names, extensions: Vec::new(), algorithm: &rcgen::PKCS_ECDSA_P256_SHA256 }
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn ip(address: &str) -> SanType {
    SanType::IpAddress(address.parse().unwrap())
}

impl Case {
    fn pem(self) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        for organization in self.organizations {
            name.push(DnType::OrganizationName, organization);
        }
        name.push(DnType::CommonName, self.common);
        params.distinguished_name = name;
        params.subject_alt_names = self.names;
        params.custom_extensions = self.extensions;
        let key = KeyPair::generate_for(self.algorithm).unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
    }

    fn request(self) -> CertificateSigningRequestSpec {
        spec(self.pem())
    }
}

fn spec(pem: Vec<u8>) -> CertificateSigningRequestSpec {
    CertificateSigningRequestSpec {
        request: ByteString(pem),
        signer_name: SERVING_SIGNER.into(),
        username: Some(USER.into()),
        groups: Some(vec![NODES.into(), "system:authenticated".into()]),
        usages: Some(vec!["digital signature".into(), "server auth".into()]),
        ..CertificateSigningRequestSpec::default()
    }
}

fn subject() -> Subject {
    Subject { addresses: vec![Ipv4Addr::new(10, 200, 0, 5).into()], allocated: true, ..Subject::default() }
}

fn refused(request: &CertificateSigningRequestSpec) -> (&'static str, String) {
    match decide(request, &subject()) {
        Decision::Refuse(refusal) => (refusal.reason(), refusal.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_node_asks_for_itself_is_approved() {
    assert_eq!(decide(&Case::default().request(), &subject()), Decision::Approve);
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        assert_eq!(decide(&Case { algorithm, ..Case::default() }.request(), &subject()), Decision::Approve, "{algorithm:?}");
    }
    let mut rsa = Case::default().request();
    rsa.usages = Some(USAGES.map(str::to_owned).to_vec());
    assert_eq!(decide(&rsa, &subject()), Decision::Approve);
}

#[test]
fn foreign_names_and_addresses_are_refused() {
    let with = |names| Case { names, ..Case::default() }.request();
    let (reason, text) = refused(&with(vec![dns("pet1"), ip("10.200.0.6")]));
    assert_eq!(reason, "ForeignAddress");
    assert_eq!(text, "the address 10.200.0.6 is not one of pet1's: it has 10.200.0.5");
    assert_eq!(refused(&with(vec![ip("10.200.0.5"), dns("kubernetes.default.svc")])).0, "ForeignName");
    assert_eq!(refused(&with(vec![dns("PET1")])).0, "ForeignName");
    assert_eq!(refused(&with(vec![])).0, "Names");
    assert_eq!(refused(&with(vec![dns("pet1"), SanType::URI("https://pet1".try_into().unwrap())])).0, "Names");
    assert_eq!(refused(&with(vec![dns("pet1"), SanType::Rfc822Name("a@pet1".try_into().unwrap())])).0, "Names");
}

#[test]
fn only_the_node_itself_may_ask() {
    for (common, organizations) in
        [("system:node:pet2", vec![NODES]), ("pet1", vec![NODES]), (USER, vec!["system:masters"]), (USER, vec![])]
    {
        assert_eq!(refused(&Case { common, organizations, ..Case::default() }.request()).0, "ForeignSubject");
    }
    let mut other = Case::default().request();
    other.username = Some("alice".into());
    assert_eq!(refused(&other).0, "RequestorNotANode");
    let mut other = Case::default().request();
    other.groups = Some(vec!["system:authenticated".into()]);
    assert_eq!(refused(&other).1, "the requestor system:node:pet1 is not in the group system:nodes");
}

#[test]
fn usages_extensions_and_keys_are_those_of_serving() {
    for usages in [vec!["server auth"], vec!["digital signature", "server auth", "client auth"], vec!["digital signature"], vec![]] {
        let mut request = Case::default().request();
        request.usages = Some(usages.into_iter().map(str::to_owned).collect());
        assert_eq!(refused(&request).0, "Usages");
    }
    let authority = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff]);
    let request = Case { extensions: vec![authority], ..Case::default() }.request();
    assert_eq!(refused(&request).1, "the request asks for the extension basic constraints, which a serving certificate has no use for");
}

#[test]
fn a_damaged_request_is_refused() {
    assert_eq!(refused(&spec(b"nothing".to_vec())).0, "Unreadable");
    // One byte of the names changed: the signature no longer fits.
    let pem = Case::default().pem();
    let der = CertificateSigningRequestDer::from_pem_slice(&pem).unwrap();
    let mut der = der.as_ref().to_vec();
    let place = der.windows(4).position(|bytes| bytes == [10, 200, 0, 5]).unwrap();
    der[place + 3] = 6;
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(&der);
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
    assert_eq!(refused(&spec(pem.into_bytes())).0, "BadSignature");
}

#[test]
fn an_address_that_is_being_allocated_is_waited_for() {
    let waiting = Subject { allocated: false, ..Subject::default() };
    let request = Case::default().request();
    assert_eq!(decide(&request, &waiting), Decision::Wait(Ipv4Addr::new(10, 200, 0, 5).into()));
    let foreign = Case { names: vec![dns("other"), ip("10.200.0.5")], ..Case::default() }.request();
    assert!(matches!(decide(&foreign, &waiting), Decision::Refuse(_)), "a name is no matter of waiting");
}

#[test]
fn what_the_node_says_of_itself_counts_only_where_the_operator_says_so() {
    let request = Case { names: vec![ip("192.168.1.7")], ..Case::default() }.request();
    let mut subject = Subject { claimed: vec!["192.168.1.7".parse().unwrap()], ..subject() };
    assert!(matches!(decide(&request, &subject), Decision::Refuse(Refusal::ForeignAddress { .. })));
    subject.believed = vec!["192.168.0.0/16".parse().unwrap()];
    assert_eq!(decide(&request, &subject), Decision::Approve);
    subject.claimed.clear();
    subject.fresh = true;
    assert_eq!(decide(&request, &subject), Decision::Wait("192.168.1.7".parse().unwrap()), "the Node may follow");
    subject.fresh = false;
    assert!(matches!(decide(&request, &subject), Decision::Refuse(Refusal::ForeignAddress { .. })), "not even the node says so");
}
