mod fake_api;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::credentials::{Credential, CredentialStore};
use super::*;
use fake_api::{Decision, FakeApi};

const NODE: &str = "pet-1";

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("not within 20 s: {what}"));
}

fn write_kubeconfig(path: &Path, server: &str, user: serde_json::Value) {
    let document = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(path, document.to_string()).unwrap();
}

struct Node {
    dir: TempDir,
}

impl Node {
    fn new(server: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let user = json!({"token": "abcdef.0123456789abcdef"});
        write_kubeconfig(&dir.path().join("bootstrap"), server, user);
        Self { dir }
    }
    fn options(&self) -> IdentityOptions {
        IdentityOptions {
            node_name: NODE.into(),
            kubeconfig: None,
            bootstrap_kubeconfig: Some(self.dir.path().join("bootstrap")),
            pki_dir: self.pki(),
        }
    }
    fn pki(&self) -> PathBuf {
        self.dir.path().join("pki")
    }
    fn current(&self) -> PathBuf {
        self.pki().join("kube-pet-client-current.pem")
    }
    fn store(&self) -> CredentialStore {
        CredentialStore::open(&self.pki(), "kube-pet-client").unwrap()
    }
    /// Runs the identity's task until the guard is dropped.
    async fn start(&self) -> (ApiHandle, watch::Receiver<bool>, tokio_util::sync::DropGuard) {
        let identity = establish(self.options()).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(identity.task.run(stop.clone()));
        (identity.api, identity.ready, stop.drop_guard())
    }
}

#[tokio::test]
async fn component_bootstrap_requests_stores_and_uses_a_certificate() {
    let fake = FakeApi::start().await;
    fake.decide(Decision::Approve);
    let node = Node::new(&fake.url());
    let (api, mut ready, _guard) = node.start().await;

    let early = api.client().apiserver_version().await.unwrap_err();
    assert!(csr::describe(&early).contains("no certificate for system:node:pet-1 yet"), "{}", csr::describe(&early));
    ready.wait_for(|ready| *ready).await.unwrap();
    api.client().apiserver_version().await.unwrap();

    let request = fake.requests().pop().unwrap();
    assert_eq!(request.signer, csr::CLIENT_SIGNER);
    assert_eq!(request.usages, ["digital signature", "client auth"]);
    assert_eq!(request.subject, "O=system:nodes, CN=system:node:pet-1");
    assert_eq!(fake.tokens(), ["Bearer abcdef.0123456789abcdef"]);

    let link = fs::read_link(node.current()).unwrap();
    assert!(link.is_relative(), "{link:?}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&node.current()), 0o600);
    assert_eq!(mode(&node.pki()), 0o700);
    assert!(!node.pki().join("kube-pet-client-pending.key").exists());
}

#[tokio::test]
async fn component_a_restart_goes_on_with_the_same_request() {
    let fake = FakeApi::start().await;
    let node = Node::new(&fake.url());
    {
        let (_api, _ready, _guard) = node.start().await;
        eventually("the first request", || fake.requests().len() == 1).await;
    }
    let (_api, mut ready, _guard) = node.start().await;
    eventually("the second attempt", || fake.creates() == 2).await;
    fake.decide(Decision::Approve);
    ready.wait_for(|ready| *ready).await.unwrap();
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn component_a_denied_request_is_followed_by_a_new_one() {
    let fake = FakeApi::start().await;
    fake.decide(Decision::Deny);
    let node = Node::new(&fake.url());
    let (_api, mut ready, _guard) = node.start().await;
    eventually("a second request", || fake.requests().len() == 2).await;
    let names: Vec<String> = fake.requests().into_iter().map(|r| r.name).collect();
    assert_ne!(names[0], names[1]);
    fake.decide(Decision::Approve);
    ready.wait_for(|ready| *ready).await.unwrap();
}

#[tokio::test]
async fn component_starts_from_the_stored_certificate_without_api_server_and_bootstrap_file() {
    let fake = FakeApi::start().await;
    fake.decide(Decision::Approve);
    let node = Node::new(&fake.url());
    {
        let (_api, mut ready, _guard) = node.start().await;
        ready.wait_for(|ready| *ready).await.unwrap();
    }
    drop(fake);
    fs::remove_file(node.dir.path().join("bootstrap")).unwrap();
    let identity = establish(node.options()).await.unwrap();
    assert!(*identity.ready.borrow());
}

#[tokio::test]
async fn component_rotation_keeps_the_old_certificate_until_the_new_one_works() {
    let fake = FakeApi::start().await;
    let node = Node::new(&fake.url());
    // Thirty of thirty-one days are over: due at once.
    node.store().install(&fake.credential("system:node:pet-1", -30, 1)).unwrap();
    let before = fs::read_link(node.current()).unwrap();
    fake.refuse_reviews(true);
    fake.decide(Decision::Approve);
    let (mut api, _ready, _guard) = node.start().await;
    eventually("the new certificate is tried", || fake.reviews() >= 1).await;
    eventually("and refused, so another one is requested", || fake.requests().len() == 2).await;
    assert_eq!(fs::read_link(node.current()).unwrap(), before);

    fake.refuse_reviews(false);
    tokio::time::timeout(Duration::from_secs(20), api.replaced()).await.unwrap();
    assert_ne!(fs::read_link(node.current()).unwrap(), before);
    assert!(node.pki().join(&before).exists(), "kept as a fallback");
    // The node itself asks for the renewal, not the bootstrap user.
    assert_eq!(fake.tokens(), Vec::<String>::new());
}

#[tokio::test]
async fn component_corrupt_files_are_set_aside_and_replaced() {
    let fake = FakeApi::start().await;
    fake.decide(Decision::Approve);
    let node = Node::new(&fake.url());
    fs::create_dir(node.pki()).unwrap();
    fs::write(node.current(), "-----BEGIN CERT").unwrap();
    fs::write(node.pki().join("kube-pet-client-pending.key"), [0xff, 0xfe]).unwrap();
    let (_api, mut ready, _guard) = node.start().await;
    ready.wait_for(|ready| *ready).await.unwrap();
    let names: Vec<String> = fs::read_dir(node.pki()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for prefix in ["kube-pet-client-current.pem.corrupt-", "kube-pet-client-pending.key.corrupt-"] {
        assert!(names.iter().any(|n| n.starts_with(prefix)), "{prefix} in {names:?}");
    }
}

#[tokio::test]
async fn component_a_certificate_for_another_node_is_not_taken() {
    let fake = FakeApi::start().await;
    let node = Node::new(&fake.url());
    node.store().install(&fake.credential("system:node:other", -1, 30)).unwrap();
    let identity = establish(node.options()).await.unwrap();
    assert!(!*identity.ready.borrow());
}

#[tokio::test]
async fn no_credentials_at_all_is_an_error_that_says_what_is_missing() {
    let node = Node::new("http://127.0.0.1:1");
    fs::remove_file(node.dir.path().join("bootstrap")).unwrap();
    let Err(error) = establish(node.options()).await else { panic!("established") };
    assert!(error.to_string().contains("no bootstrap kubeconfig"), "{error}");
}

#[tokio::test]
async fn an_expired_kubeconfig_only_gives_way_to_a_bootstrap_kubeconfig_that_is_there() {
    let node = Node::new("http://127.0.0.1:1");
    let own = |name: &str, to_day| {
        let path = node.dir.path().join(name);
        let pem = path.with_extension("pem");
        let credential = fake_api::self_signed("system:node:pet-1", -30, to_day);
        fs::write(&pem, format!("{}{}", credential.chain_pem(), credential.key_pem())).unwrap();
        write_kubeconfig(&path, "http://127.0.0.1:1", json!({"client-certificate": pem, "client-key": pem}));
        path
    };
    let (expired, good) = (own("expired", -1), own("good", 30));
    assert!(!is_current(&expired).await && is_current(&good).await);
    let options = || IdentityOptions { kubeconfig: Some(expired.clone()), ..node.options() };
    assert!(!*establish(options()).await.unwrap().ready.borrow(), "a certificate is asked for");
    fs::remove_file(node.dir.path().join("bootstrap")).unwrap();
    let identity = establish(options()).await.unwrap();
    assert!(matches!(identity.task, IdentityTask(Kind::Reloaded(_))), "there is nothing else: a renewed file is waited for");
}

#[tokio::test]
async fn a_broken_kubeconfig_is_named_without_its_secrets() {
    let node = Node::new("http://127.0.0.1:1");
    let path = node.dir.path().join("bootstrap");
    fs::write(&path, "users:\n- name: u\n  user:\n    token: s3cr3t.token\n   client: [\n").unwrap();
    let Err(error) = establish(node.options()).await else { panic!("established") };
    let text = csr::describe(&error);
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert!(text.contains("line"), "{text}");
    assert!(!text.contains("s3cr3t"), "{text}");
    assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
}

#[tokio::test]
async fn component_a_kubeconfig_is_used_as_it_is_and_read_again() {
    let fake = FakeApi::start().await;
    let node = Node::new("http://127.0.0.1:1");
    let path = node.dir.path().join("kubeconfig");
    write_kubeconfig(&path, "http://127.0.0.1:1", json!({"token": "one"}));
    let mut options = node.options();
    options.kubeconfig = Some(path.clone());
    let mut identity = establish(options).await.unwrap();
    assert!(*identity.ready.borrow());
    write_kubeconfig(&path, &fake.url(), json!({"token": "two"}));
    let IdentityTask(Kind::Reloaded(mut task)) = identity.task else { panic!("managed") };
    task.check().await;
    identity.api.replaced().await;
    identity.api.client().apiserver_version().await.unwrap();
    assert_eq!(fake.tokens(), ["Bearer two"]);
}

#[test]
fn a_key_that_does_not_fit_is_refused() {
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let credential = fake_api::self_signed("x", -1, 1);
    let pem = format!("{}{other}", credential.chain_pem());
    let error = Credential::parse("file", PathBuf::new(), &pem).unwrap_err();
    assert_eq!(error.to_string(), "file: the private key does not belong to the certificate");
}

fn with_served<T>(served: &ServingCertificate, read: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let key = served.current.load();
    let (_, leaf) = X509Certificate::from_der(&key.cert[0]).unwrap();
    read(&leaf)
}

fn common_name(served: &ServingCertificate) -> String {
    with_served(served, |leaf| {
        let name = leaf.subject().iter_common_name().next().unwrap();
        name.as_str().unwrap().to_owned()
    })
}

fn ips(served: &ServingCertificate) -> Vec<String> {
    with_served(served, |leaf| {
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        let names = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::IPAddress(ip) => Some(ip.iter().map(u8::to_string).collect::<Vec<_>>().join(".")),
            _ => None,
        });
        names.collect()
    })
}

#[tokio::test]
async fn component_the_serving_certificate_comes_from_the_signer_and_follows_the_addresses() {
    let fake = FakeApi::start().await;
    fake.decide(Decision::Approve);
    let node = Node::new(&fake.url());
    let config = kube::Config::new(fake.url().parse().unwrap());
    let (_sender, api) = ApiHandle::new(Client::try_from(config).unwrap());
    let dns_only = ServingNames { dns: [NODE.to_owned()].into(), ips: [].into() };
    let (names, receiver) = watch::channel(dns_only.clone());
    let serving = serving(ServingOptions {
        node_name: NODE.into(),
        pki_dir: node.pki(),
        files: None,
        bootstrap: true,
        api: Some(api),
        names: receiver,
    })
    .unwrap();
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    tokio::spawn(serving.task.run(stop));

    // Self-signed at once; a request would be refused without an address.
    assert!(common_name(&serving.certificate).starts_with("pet-1@"));
    for (count, ip) in [(1, "10.0.0.1"), (2, "10.0.0.2")] {
        names.send_replace(ServingNames { ips: [ip.parse().unwrap()].into(), ..dns_only.clone() });
        eventually("a certificate for the address", || {
            fake.requests().len() == count && common_name(&serving.certificate) == "system:node:pet-1" && ips(&serving.certificate) == [ip]
        })
        .await;
    }
    let request = fake.requests().pop().unwrap();
    assert_eq!(request.signer, csr::SERVING_SIGNER);
    assert_eq!(request.usages, ["digital signature", "server auth"]);
}
