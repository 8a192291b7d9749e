//! Whole paths over sockets of the loopback, on a clock of the tests' own: upstreams are told how to behave.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::time::{Instant, advance};

use super::*;
use crate::message::tests::{address, extended_error, question, reply, soa, with_edns};

/// What an upstream does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    /// An address that ends with this, for this many seconds.
    Answer(u8, u32),
    /// More addresses than a datagram has room for: `true` over TCP only.
    Long,
    NoName,
    Says(ResponseCode),
    Garbage,
    Silent,
    /// An answer after two and a half seconds.
    Late,
    /// An answer to another question, then the right one.
    Mixed,
}

struct Fake {
    address: SocketAddr,
    mood: Mutex<Mood>,
    asked: AtomicUsize,
    over_tcp: AtomicUsize,
}

impl Fake {
    async fn start(mood: Mood) -> Arc<Self> {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let fake = Arc::new(Self { address, mood: Mutex::new(mood), asked: AtomicUsize::new(0), over_tcp: AtomicUsize::new(0) });
        let server = fake.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 2048];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                if *server.mood.lock().unwrap() == Mood::Late {
                    tokio::time::sleep(Duration::from_millis(2500)).await;
                }
                for answer in server.answers(&Message::from_vec(&buffer[..length]).unwrap(), false) {
                    udp.send_to(&answer, client).await.unwrap();
                }
            }
        });
        let server = fake.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut bytes).await.unwrap();
                server.over_tcp.fetch_add(1, Ordering::Relaxed);
                for answer in server.answers(&Message::from_vec(&bytes).unwrap(), true) {
                    stream.write_u16(answer.len() as u16).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        fake
    }

    fn answers(&self, asked: &Message, tcp: bool) -> Vec<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let name = asked.queries[0].name.to_ascii();
        let mut message = reply(asked, ResponseCode::NoError);
        match *self.mood.lock().unwrap() {
            Mood::Answer(last, ttl) => drop(message.add_answer(address(&name, ttl, last))),
            Mood::Long if tcp => drop(message.add_answers((0..100).map(|last| address(&name, 30, last)))),
            Mood::Long => message.metadata.truncation = true,
            Mood::NoName => {
                message.metadata.response_code = ResponseCode::NXDomain;
                message.add_authority(soa(60, 20));
            }
            Mood::Says(code) => message.metadata.response_code = code,
            Mood::Garbage => {
                let mut bytes = message.to_vec().unwrap();
                bytes.truncate(14);
                return vec![bytes];
            }
            Mood::Silent => return Vec::new(),
            Mood::Late => drop(message.add_answer(address(&name, 30, 7))),
            Mood::Mixed => {
                message.add_answer(address(&name, 30, 1));
                let mut other = reply(&question("other.example.", RecordType::A), ResponseCode::NoError);
                other.metadata.id = asked.metadata.id;
                return vec![other.to_vec().unwrap(), message.to_vec().unwrap()];
            }
        }
        vec![message.to_vec().unwrap()]
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

struct Scene {
    cache: DnsCache,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Observation>>>,
}

impl Scene {
    async fn start(upstream: &[&Arc<Fake>]) -> Self {
        Self::with(upstream.iter().map(|fake| fake.address).collect(), |client| client.is_loopback()).await
    }

    async fn with(upstream: Vec<SocketAddr>, allowed: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        let began = Instant::now();
        let seen: Arc<Mutex<Vec<Observation>>> = Arc::default();
        let tell = seen.clone();
        let (cache, mut server) = new(Options {
            upstream,
            changing: Some("cluster.local".to_owned()),
            limits: Limits { entries: NonZeroUsize::new(1000).unwrap(), bytes: 1 << 20, max_stale: Duration::from_secs(3600) },
            allowed: Arc::new(allowed),
            clock: Arc::new(move || Moment::after(began.elapsed())),
            observe: Arc::new(move |observation| tell.lock().unwrap().push(observation)),
        });
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        tokio::spawn(async move { server.run(udp, tcp).await });
        Self { cache, address, seen }
    }

    async fn send(&self, message: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message.to_vec().unwrap(), self.address).await.unwrap();
        let mut buffer = vec![0; 2048];
        let length = socket.recv(&mut buffer).await.unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    /// The answer, and how long it took.
    async fn ask(&self, name: &str) -> (Message, Duration) {
        let began = Instant::now();
        let message = self.send(&with_edns(question(name, RecordType::A), 1232, false)).await;
        (message, began.elapsed())
    }

    /// The last number of the first address.
    async fn last(&self, name: &str) -> u8 {
        last(&self.ask(name).await.0)
    }

    fn seen(&self, observation: Observation) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| **seen == observation).count()
    }
}

fn last(message: &Message) -> u8 {
    message.answers.first().map_or(0, |record| record.data.to_string().rsplit('.').next().unwrap().parse().unwrap())
}

const AT_ONCE: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn component_an_answer_is_asked_for_once_and_told_until_its_time_is_over() {
    let fake = Fake::start(Mood::Answer(1, 30)).await;
    let scene = Scene::start(&[&fake]).await;
    assert_eq!(scene.last("a.example.").await, 1);
    advance(Duration::from_secs(20)).await;
    fake.set(Mood::Answer(2, 30));
    let (told, took) = scene.ask("A.Example.").await;
    assert_eq!((last(&told), told.answers[0].ttl), (1, 10));
    assert!(took < AT_ONCE);
    assert_eq!(fake.asked(), 1);
    advance(Duration::from_secs(10)).await;
    assert_eq!(scene.last("a.example.").await, 2);
    assert_eq!((scene.seen(Observation::Hit), scene.seen(Observation::Miss)), (1, 2));
    assert_eq!(scene.cache.entries(), 1);
}

#[tokio::test(start_paused = true)]
async fn component_an_old_answer_is_told_after_1800_ms_and_then_at_once_for_30_s() {
    let fake = Fake::start(Mood::Answer(1, 30)).await;
    let scene = Scene::start(&[&fake]).await;
    for name in ["a.example.", "b.example."] {
        assert_eq!(scene.last(name).await, 1);
    }
    advance(Duration::from_secs(60)).await;
    fake.set(Mood::Silent);
    let (told, took) = scene.ask("a.example.").await;
    assert_eq!((last(&told), told.answers[0].ttl, extended_error(&told)), (1, 30, Some(3)));
    assert!((Duration::from_millis(1800)..Duration::from_millis(1900)).contains(&took), "{took:?}");
    // The question is still upstream; when that has failed, nobody waits.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(fake.asked(), 4);
    for name in ["a.example.", "b.example."] {
        let (told, took) = scene.ask(name).await;
        assert_eq!((last(&told), extended_error(&told)), (1, Some(3)), "{name}");
        assert!(took < AT_ONCE, "{name}: {took:?}");
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(fake.asked(), 5, "the other name is asked for beside");
    assert_eq!((scene.seen(Observation::Stale), scene.seen(Observation::Failed)), (3, 0));
    // Back again: the next question after the pause has the new answer.
    fake.set(Mood::Answer(2, 30));
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(scene.last("a.example.").await, 2);
    assert_eq!(scene.ask("a.example.").await.0.answers[0].ttl, 30);
}

#[tokio::test(start_paused = true)]
async fn component_an_answer_that_comes_late_is_kept() {
    let fake = Fake::start(Mood::Answer(1, 30)).await;
    let scene = Scene::start(&[&fake]).await;
    scene.last("a.example.").await;
    advance(Duration::from_secs(60)).await;
    fake.set(Mood::Late);
    assert_eq!(scene.last("a.example.").await, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (told, took) = scene.ask("a.example.").await;
    assert_eq!((last(&told), told.answers[0].ttl, extended_error(&told)), (7, 30, None));
    assert!(took < AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn component_many_clients_are_one_question_upstream() {
    let fake = Fake::start(Mood::Silent).await;
    let scene = Scene::start(&[&fake]).await;
    let clients = (0..50).map(|_| scene.ask("a.example."));
    let mood = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(fake.asked(), 1);
        fake.set(Mood::Answer(9, 30));
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(clients), mood);
    assert!(answers.iter().all(|(message, _)| last(message) == 9));
    assert_eq!(fake.asked(), 2, "once more after a second, for the lost datagram");
}

#[tokio::test(start_paused = true)]
async fn component_without_any_answer_the_client_is_told_before_it_gives_up() {
    let fake = Fake::start(Mood::Silent).await;
    let scene = Scene::start(&[&fake]).await;
    let (told, took) = scene.ask("a.example.").await;
    assert_eq!((told.metadata.response_code, extended_error(&told)), (ResponseCode::ServFail, Some(22)));
    assert!((Duration::from_secs(4)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(scene.ask("a.example.").await.1 < AT_ONCE, "for five seconds nobody waits again");
    tokio::time::sleep(Duration::from_secs(5)).await;
    fake.set(Mood::Answer(3, 30));
    assert_eq!(scene.last("a.example.").await, 3);
    assert_eq!(scene.seen(Observation::UpstreamFailure(fake.address)), 2);
}

#[tokio::test(start_paused = true)]
async fn component_a_port_that_nobody_listens_on_is_known_at_once() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let scene = Scene::with(vec![gone], |_| true).await;
    let (told, took) = scene.ask("a.example.").await;
    assert_eq!(told.metadata.response_code, ResponseCode::ServFail);
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn component_failures_of_an_upstream_are_told_but_not_over_an_old_answer() {
    let fake = Fake::start(Mood::Says(ResponseCode::Refused)).await;
    let scene = Scene::start(&[&fake]).await;
    assert_eq!(scene.ask("a.example.").await.0.metadata.response_code, ResponseCode::Refused);
    assert_eq!(fake.asked(), 1, "who says no is not asked again");
    tokio::time::sleep(Duration::from_secs(5)).await;
    fake.set(Mood::Answer(1, 30));
    assert_eq!(scene.last("a.example.").await, 1);
    for mood in [Mood::Says(ResponseCode::ServFail), Mood::Garbage] {
        tokio::time::sleep(Duration::from_secs(61)).await;
        fake.set(mood);
        let (told, took) = scene.ask("a.example.").await;
        assert_eq!((last(&told), extended_error(&told)), (1, Some(3)), "{mood:?}");
        assert!(took < AT_ONCE, "{mood:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn component_that_there_is_no_such_name_is_kept_too() {
    let fake = Fake::start(Mood::NoName).await;
    let scene = Scene::start(&[&fake]).await;
    for (age, ttl) in [(0, 20), (15, 5)] {
        advance(Duration::from_secs(age)).await;
        let (told, _) = scene.ask("a.example.").await;
        assert_eq!((told.metadata.response_code, told.authorities[0].ttl), (ResponseCode::NXDomain, ttl));
    }
    assert_eq!(fake.asked(), 1);
    advance(Duration::from_secs(20)).await;
    fake.set(Mood::Silent);
    let (told, _) = scene.ask("a.example.").await;
    assert_eq!((told.metadata.response_code, extended_error(&told)), (ResponseCode::NXDomain, Some(19)));
}

#[tokio::test(start_paused = true)]
async fn component_a_new_name_of_the_cluster_is_found_soon() {
    let fake = Fake::start(Mood::NoName).await;
    let scene = Scene::start(&[&fake]).await;
    for (name, ttl) in [("new.cluster.local.", 5), ("new.Cluster.local.", 5), ("newcluster.local.", 20)] {
        assert_eq!(scene.ask(name).await.0.authorities[0].ttl, ttl, "{name}");
    }
    fake.set(Mood::Answer(1, 30));
    advance(Duration::from_secs(5)).await;
    assert_eq!(scene.last("new.cluster.local.").await, 1);
    assert_eq!(scene.last("newcluster.local.").await, 0);
}

#[tokio::test(start_paused = true)]
async fn component_the_next_server_is_asked_after_a_second_and_then_first() {
    let (silent, other) = (Fake::start(Mood::Silent).await, Fake::start(Mood::Answer(2, 30)).await);
    let scene = Scene::start(&[&silent, &other]).await;
    let (told, took) = scene.ask("a.example.").await;
    assert_eq!(last(&told), 2);
    assert!((Duration::from_secs(1)..Duration::from_millis(1100)).contains(&took), "{took:?}");
    assert!(scene.ask("b.example.").await.1 < AT_ONCE);
    other.set(Mood::Says(ResponseCode::ServFail));
    silent.set(Mood::Answer(1, 30));
    let (told, took) = scene.ask("c.example.").await;
    assert_eq!(last(&told), 1);
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!((silent.asked(), other.asked()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn component_a_long_answer_is_fetched_over_tcp_and_given_over_tcp() {
    let fake = Fake::start(Mood::Long).await;
    let scene = Scene::start(&[&fake]).await;
    let (told, _) = scene.ask("a.example.").await;
    assert!(told.metadata.truncation && told.answers.is_empty());
    assert_eq!(fake.over_tcp.load(Ordering::Relaxed), 1);
    let mut stream = TcpStream::connect(scene.address).await.unwrap();
    // Two questions at once, on one connection.
    for _ in 0..2 {
        let bytes = question("a.example.", RecordType::A).to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
    for _ in 0..2 {
        let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 100);
    }
    let began = Instant::now();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "an idle connection ends");
    assert!((Duration::from_secs(10)..Duration::from_secs(11)).contains(&began.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn component_an_answer_to_another_question_is_passed_over() {
    let fake = Fake::start(Mood::Mixed).await;
    let scene = Scene::start(&[&fake]).await;
    assert_eq!(scene.last("a.example.").await, 1);
    assert_eq!(fake.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn component_what_is_asked_for_a_lot_is_refreshed_before_it_ends() {
    let fake = Fake::start(Mood::Answer(1, 30)).await;
    let scene = Scene::start(&[&fake]).await;
    for wait in [0, 10, 10, 8] {
        advance(Duration::from_secs(wait)).await;
        if wait == 8 {
            assert_eq!(fake.asked(), 1);
            fake.set(Mood::Answer(2, 30));
        }
        assert_eq!(scene.last("a.example.").await, 1);
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    let (told, took) = scene.ask("a.example.").await;
    assert_eq!((last(&told), told.answers[0].ttl, fake.asked()), (2, 30, 2));
    assert!(took < AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn component_strangers_get_no_answer() {
    let fake = Fake::start(Mood::Answer(1, 30)).await;
    let scene = Scene::with(vec![fake.address], |_| false).await;
    let asked = timeout(Duration::from_secs(30), scene.ask("a.example.")).await;
    assert!(asked.is_err());
    let mut stream = TcpStream::connect(scene.address).await.unwrap();
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!((fake.asked(), scene.seen(Observation::Dropped)), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn component_one_client_cannot_take_the_places_of_all() {
    let fake = Fake::start(Mood::Silent).await;
    let scene = Scene::start(&[&fake]).await;
    let scene = &scene;
    let clients = (0..WAITING.1 + 1).map(|n| async move { scene.ask(&format!("n{n}.example.")).await });
    let answers = futures::future::join_all(clients).await;
    let at_once = answers.iter().filter(|(_, took)| *took < Duration::from_secs(1)).count();
    assert_eq!(at_once, 1);
    assert!(answers.iter().all(|(message, _)| message.metadata.response_code == ResponseCode::ServFail));
}

#[tokio::test(start_paused = true)]
async fn component_garbage_does_not_end_it() {
    let fake = Fake::start(Mood::Answer(1, 30)).await;
    let scene = Scene::start(&[&fake]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut bytes = question("a.example.", RecordType::A).to_vec().unwrap();
    for turn in 0..2000_usize {
        let at = turn * 7 % bytes.len();
        bytes[at] = bytes[at].wrapping_mul(31).wrapping_add(turn as u8);
        let _ = socket.send_to(&bytes[..turn % (bytes.len() + 1)], scene.address).await;
    }
    let mut stream = TcpStream::connect(scene.address).await.unwrap();
    stream.write_all(&[0xff; 300]).await.unwrap();
    assert_eq!(scene.last("b.example.").await, 1);
}
