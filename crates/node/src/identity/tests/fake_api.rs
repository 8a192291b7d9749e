//! The part of an API server that hands out certificates, over plain HTTP on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::ToSpan;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::super::credentials::Credential;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Hold,
    Approve,
    Deny,
}

#[derive(Clone, Debug)]
pub(super) struct SeenRequest {
    pub(super) name: String,
    pub(super) signer: String,
    pub(super) usages: Vec<String>,
    pub(super) subject: String,
}

struct State {
    decision: Decision,
    refuse_reviews: bool,
    reviews: usize,
    creates: usize,
    tokens: Vec<String>,
    csrs: Vec<Value>,
    seen: Vec<SeenRequest>,
}

pub(super) struct FakeApi {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    ca: Arc<CertifiedIssuer<'static, KeyPair>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn set_days(params: &mut CertificateParams, from_day: i64, to_day: i64) {
    let day = |days: i64| {
        let zoned = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        let date = zoned.date().checked_add(days.days()).unwrap();
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(from_day);
    params.not_after = day(to_day);
}

fn params(common_name: &str, from_day: i64, to_day: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    set_days(&mut params, from_day, to_day);
    params
}

pub(super) fn self_signed(common_name: &str, from_day: i64, to_day: i64) -> Credential {
    let key = KeyPair::generate().unwrap();
    let certificate = params(common_name, from_day, to_day).self_signed(&key).unwrap();
    let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
    Credential::parse("test", "test".into(), &pem).unwrap()
}

impl FakeApi {
    pub(super) async fn start() -> Self {
        let mut ca = params("fake-ca", -1, 365);
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let ca = Arc::new(ca);
        let state = Arc::new(Mutex::new(State {
            decision: Decision::Hold,
            refuse_reviews: false,
            reviews: 0,
            creates: 0,
            tokens: Vec::new(),
            csrs: Vec::new(),
            seen: Vec::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (for_task, ca_for_task) = (state.clone(), ca.clone());
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (state, ca) = (for_task.clone(), ca_for_task.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let (state, ca) = (state.clone(), ca.clone());
                        async move { Ok::<_, hyper::Error>(answer(&state, &ca, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { addr, state, ca, server }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
    pub(super) fn decide(&self, decision: Decision) {
        self.state.lock().unwrap().decision = decision;
    }
    pub(super) fn refuse_reviews(&self, refuse: bool) {
        self.state.lock().unwrap().refuse_reviews = refuse;
    }
    pub(super) fn requests(&self) -> Vec<SeenRequest> {
        self.state.lock().unwrap().seen.clone()
    }
    pub(super) fn creates(&self) -> usize {
        self.state.lock().unwrap().creates
    }
    pub(super) fn reviews(&self) -> usize {
        self.state.lock().unwrap().reviews
    }
    /// The distinct `Authorization` headers seen.
    pub(super) fn tokens(&self) -> Vec<String> {
        self.state.lock().unwrap().tokens.clone()
    }
    /// A certificate of this cluster, as if issued earlier.
    pub(super) fn credential(&self, common_name: &str, from_day: i64, to_day: i64) -> Credential {
        let key = KeyPair::generate().unwrap();
        let certificate = params(common_name, from_day, to_day).signed_by(&key, &*self.ca).unwrap();
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        Credential::parse("test", "test".into(), &pem).unwrap()
    }
}

async fn answer(state: &Mutex<State>, ca: &CertifiedIssuer<'static, KeyPair>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut state = state.lock().unwrap();
    if let Some(token) = parts.headers.get("authorization") {
        let token = token.to_str().unwrap().to_owned();
        if !state.tokens.contains(&token) {
            state.tokens.push(token);
        }
    }
    const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let path = parts.uri.path();
    let (code, value) = if path == "/version" {
        (
            200,
            json!({"major": "1", "minor": "37", "gitVersion": "v1.37.1", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
        )
    } else if path.ends_with("/selfsubjectreviews") {
        state.reviews += 1;
        match state.refuse_reviews {
            true => failure(401, "Unauthorized"),
            false => (201, json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}})),
        }
    } else if path == CSRS && parts.method == Method::POST {
        state.creates += 1;
        create(&mut state, &serde_json::from_slice(&body).unwrap())
    } else if let Some(name) = path.strip_prefix(CSRS) {
        let decision = state.decision;
        let found = state.csrs.iter_mut().find(|c| c["metadata"]["name"] == name[1..]);
        match found {
            Some(csr) => {
                decide(csr, decision, ca);
                (200, csr.clone())
            }
            None => failure(404, "NotFound"),
        }
    } else {
        failure(404, "NotFound")
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "reason": reason, "message": reason, "code": code});
    (code, status)
}

fn create(state: &mut State, csr: &Value) -> (u16, Value) {
    let name = csr["metadata"]["name"].as_str().unwrap();
    if state.csrs.iter().any(|c| c["metadata"]["name"] == name) {
        return failure(409, "AlreadyExists");
    }
    let pem = request_pem(csr);
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let (_, parsed) =
        <x509_parser::certification_request::X509CertificationRequest<'_> as x509_parser::prelude::FromDer<_>>::from_der(&block.contents)
            .unwrap();
    let spec = &csr["spec"];
    let strings = |v: &Value| -> Vec<String> { serde_json::from_value(v.clone()).unwrap() };
    state.seen.push(SeenRequest {
        name: name.to_owned(),
        signer: spec["signerName"].as_str().unwrap().to_owned(),
        usages: strings(&spec["usages"]),
        subject: parsed.certification_request_info.subject.to_string(),
    });
    state.csrs.push(csr.clone());
    (201, csr.clone())
}

fn request_pem(csr: &Value) -> String {
    use base64::Engine;
    let encoded = csr["spec"]["request"].as_str().unwrap();
    let pem = base64::engine::general_purpose::STANDARD.decode(encoded);
    String::from_utf8(pem.unwrap()).unwrap()
}

fn decide(csr: &mut Value, decision: Decision, ca: &CertifiedIssuer<'static, KeyPair>) {
    use base64::Engine;
    if !csr["status"].is_null() {
        return;
    }
    match decision {
        Decision::Hold => {}
        Decision::Deny => {
            csr["status"] = json!({"conditions": [{"type": "Denied", "status": "True", "reason": "Test", "message": "no"}]});
        }
        Decision::Approve => {
            let mut request = CertificateSigningRequestParams::from_pem(&request_pem(csr)).unwrap();
            set_days(&mut request.params, -1, 365);
            request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let pem = request.signed_by(&**ca).unwrap().pem();
            let encoded = base64::engine::general_purpose::STANDARD.encode(pem);
            csr["status"] =
                json!({"certificate": encoded, "conditions": [{"type": "Approved", "status": "True", "reason": "AutoApproved"}]});
        }
    }
}
