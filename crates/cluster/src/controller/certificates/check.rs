//! Whether a request for a serving certificate is what it says; pure.
//!
//! The certificate lets its holder answer as the addresses and names in it, to everybody who trusts the cluster's CA, and that is
//! often the same CA as the API server's. So nothing that the node itself can write (its Node's addresses) is proof of an address:
//! proof is the Pet's status, and ranges that the operator has named.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use crate::controller::ranges::Range;

/// The signer of the certificates with which nodes serve.
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
const NODE_USER: &str = "system:node:";
const NODES: &str = "system:nodes";
const EXTENSION_REQUEST: &str = "1.2.840.113549.1.9.14";
const USAGES: [&str; 3] = ["digital signature", "key encipherment", "server auth"];

/// What is known of the node that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The addresses in its Pet's status.
    pub addresses: Vec<IpAddr>,
    /// What its Node says that its addresses are: believed within [`Self::believed`] only.
    pub claimed: Vec<IpAddr>,
    /// Ranges in which the operator believes nodes.
    pub believed: Vec<Range>,
    /// Whether the Pet has all that it is to have; before that, an address that is not its is no lie yet.
    pub allocated: bool,
    /// Whether the Node may not have said yet what its addresses are.
    pub fresh: bool,
}

/// Why a request is not approved. The text goes into the request's condition.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not a node that asks for itself.
    #[error("the requestor {0} is not a node: its name does not begin with system:node:")]
    NotANode(String),
    /// A node is in this group, always.
    #[error("the requestor {user} is not in the group {group}")]
    NotInGroup {
        /// Who asked.
        user: String,
        /// What it is not in.
        group: &'static str,
    },
    /// The request is damaged, or of another kind.
    #[error("the request is no PEM-encoded certificate request that can be read: {0}")]
    Unreadable(String),
    /// Made by somebody who has not the key.
    #[error("the request is not signed with its own key")]
    Signature,
    /// The name in the request.
    #[error("the subject {found:?} is not the requestor's: it must be O={NODES}, CN={user}")]
    ForeignSubject {
        /// What it says.
        found: String,
        /// Who asked.
        user: String,
    },
    /// Addresses that the requestor may not have.
    #[error("the address {address} is not one of {node}'s: {}", of(has))]
    ForeignAddress {
        /// The node.
        node: String,
        /// The address.
        address: IpAddr,
        /// What it has.
        has: Vec<IpAddr>,
    },
    /// Names that the requestor may not have.
    #[error("the DNS name {name:?} is not the node's: only {node:?} is")]
    ForeignName {
        /// The node.
        node: String,
        /// The name.
        name: String,
    },
    /// Neither an address nor a DNS name.
    #[error("the request asks for a {0}: a serving certificate has DNS names and addresses only")]
    OtherName(&'static str),
    /// Nothing to be reached at.
    #[error("the request names neither an address nor a DNS name")]
    NoName,
    /// What a serving certificate has nothing to do with.
    #[error("the request asks for the extension {0}, which a serving certificate has no use for")]
    Extension(String),
    /// For more than serving.
    #[error("the usages {0:?} are not those of a serving certificate: digital signature, server auth, and for RSA keys key encipherment")]
    Usages(Vec<String>),
    /// A key that is too weak, or of a kind that is not used here.
    #[error("the key is {0}: RSA of 2048 bits or more, ECDSA on P-256 or P-384, or Ed25519 is needed")]
    Key(String),
}

fn of(addresses: &[IpAddr]) -> String {
    match addresses {
        [] => "it has none".to_owned(),
        some => format!("it has {}", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl Refusal {
    /// A word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotANode(_) | Self::NotInGroup { .. } => "RequestorNotANode",
            Self::Unreadable(_) => "Unreadable",
            Self::Signature => "BadSignature",
            Self::ForeignSubject { .. } => "ForeignSubject",
            Self::ForeignAddress { .. } => "ForeignAddress",
            Self::ForeignName { .. } => "ForeignName",
            Self::OtherName(_) | Self::NoName => "Names",
            Self::Extension(_) => "Extension",
            Self::Usages(_) => "Usages",
            Self::Key(_) => "Key",
        }
    }
}

/// What is decided of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is what it says.
    Approve,
    /// It is not.
    Refuse(Refusal),
    /// An address is not the Pet's yet; look again later.
    Wait(IpAddr),
}

/// The node that asks, by the requestor's name; `None`: somebody else.
pub fn node_of(request: &CertificateSigningRequestSpec) -> Option<&str> {
    request.username.as_deref()?.strip_prefix(NODE_USER).filter(|name| !name.is_empty())
}

/// Decides.
pub fn decide(request: &CertificateSigningRequestSpec, subject: &Subject) -> Decision {
    match examine(request, subject) {
        Ok(None) => Decision::Approve,
        Ok(Some(address)) => Decision::Wait(address),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// The address to wait for, if there is one.
fn examine(request: &CertificateSigningRequestSpec, subject: &Subject) -> Result<Option<IpAddr>, Refusal> {
    let user = request.username.clone().unwrap_or_default();
    let node = node_of(request).ok_or_else(|| Refusal::NotANode(user.clone()))?;
    for group in [NODES, "system:authenticated"] {
        if !request.groups.iter().flatten().any(|found| found == group) {
            return Err(Refusal::NotInGroup { user, group });
        }
    }
    usages(request)?;
    let der = CertificateSigningRequestDer::from_pem_slice(&request.request.0).map_err(|error| Refusal::Unreadable(error.to_string()))?;
    let (rest, csr) = X509CertificationRequest::from_der(&der).map_err(|error| Refusal::Unreadable(error.to_string()))?;
    if !rest.is_empty() {
        return Err(Refusal::Unreadable("there is more after it".to_owned()));
    }
    key(&csr)?;
    csr.verify_signature().map_err(|_| Refusal::Signature)?;
    name(&csr, &user)?;
    alternatives(&csr, node, subject)
}

fn usages(request: &CertificateSigningRequestSpec) -> Result<(), Refusal> {
    let given: BTreeSet<&str> = request.usages.iter().flatten().map(String::as_str).collect();
    let needed = given.contains("digital signature") && given.contains("server auth");
    if needed && given.iter().all(|usage| USAGES.contains(usage)) {
        return Ok(());
    }
    Err(Refusal::Usages(given.into_iter().map(ToOwned::to_owned).collect()))
}

fn key(csr: &X509CertificationRequest<'_>) -> Result<(), Refusal> {
    let info = &csr.certification_request_info.subject_pki;
    let found = match info.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= 2048 => return Ok(()),
        Ok(PublicKey::RSA(rsa)) => format!("RSA of {} bits", rsa.key_size()),
        Ok(PublicKey::EC(point)) if [256, 384].contains(&point.key_size()) => return Ok(()),
        Ok(PublicKey::EC(point)) => format!("ECDSA of {} bits", point.key_size()),
        // Ed25519.
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => return Ok(()),
        _ => format!("of the algorithm {}", info.algorithm.algorithm.to_id_string()),
    };
    Err(Refusal::Key(found))
}

fn name(csr: &X509CertificationRequest<'_>, user: &str) -> Result<(), Refusal> {
    let subject = &csr.certification_request_info.subject;
    let foreign = || Refusal::ForeignSubject { found: subject.to_string(), user: user.to_owned() };
    let one = |mut values: Vec<Option<&str>>| if values.len() == 1 { values.pop().flatten().map(str::to_owned) } else { None };
    let common = one(subject.iter_common_name().map(|value| value.as_str().ok()).collect());
    let organization = one(subject.iter_organization().map(|value| value.as_str().ok()).collect());
    if subject.iter_attributes().count() == 2 && common.as_deref() == Some(user) && organization.as_deref() == Some(NODES) {
        return Ok(());
    }
    Err(foreign())
}

fn alternatives(csr: &X509CertificationRequest<'_>, node: &str, subject: &Subject) -> Result<Option<IpAddr>, Refusal> {
    let (mut named, mut wait) = (false, None);
    // The parser shows the extensions of the first such attribute only; a signer may read them all.
    if csr.certification_request_info.iter_attributes().filter(|a| a.oid.to_id_string() == EXTENSION_REQUEST).count() > 1 {
        return Err(Refusal::Extension("more than once".to_owned()));
    }
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(alternatives) = extension else {
            // Key usages are the signer's to write, from the request's own list.
            if let ParsedExtension::KeyUsage(_) | ParsedExtension::ExtendedKeyUsage(_) = extension {
                continue;
            }
            return Err(Refusal::Extension(kind_of(extension)));
        };
        for alternative in &alternatives.general_names {
            named = true;
            match alternative {
                GeneralName::DNSName(name) if *name == node => {}
                GeneralName::DNSName(name) => {
                    return Err(Refusal::ForeignName { node: node.to_owned(), name: (*name).to_owned() });
                }
                GeneralName::IPAddress(bytes) => {
                    let address = address(bytes).ok_or_else(|| Refusal::Unreadable("an address has a wrong length".to_owned()))?;
                    if !is_own(address, subject) {
                        if subject.allocated && !(subject.fresh && is_believed(address, subject)) {
                            return Err(Refusal::ForeignAddress { node: node.to_owned(), address, has: subject.addresses.clone() });
                        }
                        wait = Some(address);
                    }
                }
                GeneralName::RFC822Name(_) => return Err(Refusal::OtherName("mail address")),
                GeneralName::URI(_) => return Err(Refusal::OtherName("URI")),
                _ => return Err(Refusal::OtherName("name of another kind")),
            }
        }
    }
    if named { Ok(wait) } else { Err(Refusal::NoName) }
}

fn kind_of(extension: &ParsedExtension<'_>) -> String {
    match extension {
        ParsedExtension::BasicConstraints(_) => "basic constraints".to_owned(),
        ParsedExtension::UnsupportedExtension { oid } => oid.to_id_string(),
        _ => "of another kind".to_owned(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn is_own(address: IpAddr, subject: &Subject) -> bool {
    subject.addresses.contains(&address) || (subject.claimed.contains(&address) && is_believed(address, subject))
}

fn is_believed(address: IpAddr, subject: &Subject) -> bool {
    subject.believed.iter().any(|range| range.contains(&Range::address(address)))
}

#[cfg(test)]
mod tests;
