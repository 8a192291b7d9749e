//! In network namespaces of the tests' own; root is needed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use kube_pet_host::mounts;
use kube_pet_host::namespaces::{Kind, create, run_in_netns};

use super::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);

/// Runs this on a machine without any network.
fn on_a_machine<T: Send>(work: impl FnOnce(&Path) -> T + Send) -> T {
    let folder = tempfile::tempdir().unwrap();
    let netns = folder.path().join("netns");
    create(&[(Kind::Net, &netns)], || Ok(())).unwrap();
    let result = run_in_netns(&netns, || work(folder.path())).unwrap();
    mounts::unmount_below(folder.path()).unwrap();
    result
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn netns_an_address_stays_as_long_as_a_pod_asks_there() {
    on_a_machine(|folder| {
        let (pod, used) = (folder.join("pod"), Ipv4Addr::new(169, 254, 20, 11));
        for address in [ADDRESS, used] {
            loopback::ensure(address, "kp-dns").unwrap();
        }
        fs::create_dir(&pod).unwrap();
        fs::write(pod.join("resolv.conf"), "search a.b\nnameserver 169.254.20.10\nnameserver 10.96.0.10\n").unwrap();
        assert!(take_away("kp-dns", Use::On(used), folder).unwrap());
        assert_eq!(loopback::labelled("kp-dns").unwrap().len(), 2);
        fs::write(pod.join("resolv.conf"), "nameserver 169.254.20.101\n").unwrap();
        assert!(!take_away("kp-dns", Use::On(used), folder).unwrap());
        assert_eq!(loopback::labelled("kp-dns").unwrap(), [used]);
        assert!(!take_away("kp-dns", Use::Off(used), folder).unwrap());
        assert!(loopback::labelled("kp-dns").unwrap().is_empty());
    });
}

#[test]
fn netns_a_port_that_is_taken_is_told_and_had_when_it_is_free() {
    on_a_machine(|folder| {
        let taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        runtime().block_on(async {
            let error = listen(ADDRESS, "kp-dns").await.unwrap_err().to_string();
            assert_eq!(error, "listening on 169.254.20.10:53 over TCP: another name server has the port (ss -lnp 'sport = :53' names it)");
            let reach = || std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().connect((ADDRESS, PORT));
            assert_eq!(reach().unwrap_err().kind(), io::ErrorKind::HostUnreachable, "the other name server is not asked");
            drop(taken);
            listen(ADDRESS, "kp-dns").await.unwrap();
            assert_eq!(loopback::labelled("kp-dns").unwrap(), [ADDRESS]);
            reach().unwrap();
            let taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
            listen(ADDRESS, "kp-dns").await.unwrap_err();
            assert!(reach().is_err(), "nor is it after a restart of the agent");
            drop(taken);
            take_away("kp-dns", Use::Off(ADDRESS), folder).unwrap();
            assert_ne!(reach().map_err(|error| error.kind()), Err(io::ErrorKind::HostUnreachable), "the machine is as it was");
        });
    });
}

/// A cluster's DNS that gives any name the same address; how often it was asked is in its channel.
async fn cluster_dns() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, (asked, seen)) = (socket.local_addr().unwrap(), tokio::sync::mpsc::unbounded_channel());
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            // The question alone, without what is behind it.
            let end = 12 + buffer[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
            let mut answer = buffer[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1]);
            socket.send_to(&answer, client).await.unwrap();
            let _ = asked.send(());
        }
    });
    (address, seen)
}

fn cache(upstream: SocketAddr) -> (kube_pet_dns::DnsCache, Server) {
    kube_pet_dns::new(Options {
        upstream: vec![upstream],
        changing: None,
        limits: Limits { entries: NonZeroUsize::MIN, bytes: 10_000, max_stale: Duration::from_secs(60) },
        allowed: Arc::new(|_| true),
        clock: Arc::new(now),
        observe: Arc::new(instruments::dns_cache::observe),
    })
}

/// Asks for `a.`, and tells the last byte of the answer.
async fn ask(server: &mut Server) -> u8 {
    let (udp, tcp) = (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    client.send_to(&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1], udp.local_addr().unwrap()).await.unwrap();
    let mut buffer = [0; 512];
    let length = tokio::select! {
        length = client.recv(&mut buffer) => length.unwrap(),
        () = server.run(udp, tcp) => 0,
    };
    buffer[length - 1]
}

#[tokio::test]
async fn component_what_is_known_outlives_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dns-cache");
    let (upstream, mut asked) = cluster_dns().await;
    let (first, mut server) = cache(upstream);
    let record = DnsRecord::new(first, path.clone(), 10_000);
    record.save().await;
    assert!(!path.exists(), "nothing is known");
    assert_eq!(ask(&mut server).await, 1);
    asked.recv().await.unwrap();
    record.save().await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let (second, mut server) = cache(upstream);
    let record = DnsRecord::new(second, path.clone(), 10_000);
    record.restore().await;
    assert_eq!(ask(&mut server).await, 1);
    assert!(asked.try_recv().is_err(), "it was known");
    let mut text = crate::stats::text::Text::default();
    instruments::dns_cache::write(&mut text);
    assert!(text.into_string().contains("kube_pet_dns_cache_answers_total{result=\"hit\"} 1\n"));

    let (third, mut server) = cache(upstream);
    fs::write(&path, "garbage").unwrap();
    DnsRecord::new(third, path.clone(), 10_000).restore().await;
    assert_eq!(ask(&mut server).await, 1);
    asked.recv().await.unwrap();
    record::forget(&path).await;
    record::forget(&path).await;
    assert!(!path.exists());
}
