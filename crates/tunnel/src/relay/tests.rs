use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// Something in WireGuard's place: a UDP port of the loopback.
async fn wireguard() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A gateway's relay, and how many connections it says it has.
async fn gateway(wireguard: u16, limits: Limits) -> (Endpoint, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().into();
    let (told, count) = watch::channel(0);
    tokio::spawn(serve(listener, wireguard, limits, told));
    (endpoint, count)
}

async fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut packet = vec![0; 65536];
    let (length, from) = timeout(SOON, socket.recv_from(&mut packet)).await.expect("a packet comes").unwrap();
    packet.truncate(length);
    (packet, from)
}

#[tokio::test]
async fn component_packets_arrive_as_they_were_sent_both_ways() {
    let ((pet, pets_port), (hub, hubs_port)) = (wireguard().await, wireguard().await);
    let (endpoint, mut count) = gateway(hubs_port, Limits::default()).await;
    let relay = Relay::open(endpoint, Vec::new(), UDP_AGAIN, pets_port, 0).await.unwrap();
    let packets: Vec<Vec<u8>> = [1, 148, 1452, 9000].map(|length| (0..length).map(|n| (n % 251) as u8).collect()).to_vec();
    for packet in &packets {
        pet.send_to(packet, relay.place().address).await.unwrap();
    }
    let mut from = None;
    for packet in &packets {
        let (heard, by) = hear(&hub).await;
        assert_eq!(heard.len(), packet.len());
        assert_eq!(&heard, packet);
        from = Some(by);
    }
    hub.send_to(b"back", from.unwrap()).await.unwrap();
    assert_eq!(hear(&pet).await, (b"back".to_vec(), relay.place().address));

    timeout(SOON, count.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    drop(relay);
    timeout(SOON, count.wait_for(|count| *count == 0)).await.expect("the connection ends with the relay").unwrap();
}

#[tokio::test]
async fn component_who_is_not_answered_is_turned_away_and_who_is_stays() {
    let (hub, port) = wireguard().await;
    let (endpoint, _count) = gateway(port, Limits { unanswered: Duration::from_millis(300), ..Limits::default() }).await;
    let connect = || TcpStream::connect(endpoint.address().unwrap());
    let (mut stranger, mut friend) = (connect().await.unwrap(), connect().await.unwrap());
    friend.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    let (packet, from) = hear(&hub).await;
    assert_eq!(packet, [1, 2, 3]);
    hub.send_to(&[7], from).await.unwrap();
    assert_eq!(timeout(SOON, stranger.read(&mut [0; 8])).await.expect("the stranger is turned away").unwrap(), 0);
    let mut answer = [0; 3];
    friend.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0, 1, 7]);
    // The stranger's time is over, the friend's is not.
    friend.write_all(&[0, 1, 9]).await.unwrap();
    assert_eq!(hear(&hub).await.0, [9]);
}

#[tokio::test]
async fn component_what_is_no_packet_ends_the_connection() {
    let (_hub, port) = wireguard().await;
    let (endpoint, _count) = gateway(port, Limits::default()).await;
    for nonsense in [[0, 0], [255, 255]] {
        let mut stream = TcpStream::connect(endpoint.address().unwrap()).await.unwrap();
        stream.write_all(&nonsense).await.unwrap();
        assert_eq!(timeout(SOON, stream.read(&mut [0; 8])).await.expect("it ends").unwrap_or(0), 0, "{nonsense:?}");
    }
}

#[tokio::test]
async fn component_more_connections_than_allowed_wait_for_others_to_end() {
    let (hub, port) = wireguard().await;
    let (endpoint, _count) = gateway(port, Limits { connections: 1, ..Limits::default() }).await;
    let connect = || TcpStream::connect(endpoint.address().unwrap());
    let (mut first, mut second) = (connect().await.unwrap(), connect().await.unwrap());
    first.write_all(&[0, 1, 1]).await.unwrap();
    assert_eq!(hear(&hub).await.0, [1]);
    second.write_all(&[0, 1, 2]).await.unwrap();
    assert!(timeout(Duration::from_millis(200), hub.recv_from(&mut [0; 8])).await.is_err(), "the second one waits");
    drop(first);
    assert_eq!(hear(&hub).await.0, [2]);
}

#[tokio::test]
async fn component_a_pets_relay_connects_again() {
    let (pet, pets_port) = wireguard().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::open(listener.local_addr().unwrap().into(), Vec::new(), UDP_AGAIN, pets_port, 0).await.unwrap();
    for _ in 0..2 {
        // WireGuard says it again and again, until it is answered.
        let (mut stream, _) = loop {
            pet.send_to(&[5], relay.place().address).await.unwrap();
            if let Ok(accepted) = timeout(Duration::from_millis(100), listener.accept()).await {
                break accepted.unwrap();
            }
        };
        let mut frame = [0; 3];
        timeout(SOON, stream.read_exact(&mut frame)).await.expect("the packet that it began with is carried").unwrap();
        assert_eq!(frame, [0, 1, 5]);
    }
}

#[tokio::test]
async fn component_nobody_but_wireguard_is_heard_on_the_loopback() {
    let ((_pet, pets_port), (hub, hubs_port)) = (wireguard().await, wireguard().await);
    let (endpoint, count) = gateway(hubs_port, Limits::default()).await;
    let relay = Relay::open(endpoint, Vec::new(), UDP_AGAIN, pets_port, 0).await.unwrap();
    let (other, _) = wireguard().await;
    other.send_to(&[1], relay.place().address).await.unwrap();
    assert!(timeout(Duration::from_millis(300), hub.recv_from(&mut [0; 8])).await.is_err());
    assert_eq!(*count.borrow(), 0);
}

/// A packet of WireGuard's of this type.
fn packet(kind: u8, number: u8) -> Vec<u8> {
    [&[kind, 0, 0, 0], &[number; 28][..]].concat()
}

#[tokio::test]
async fn component_udp_is_tried_beside_the_connection_and_what_comes_back_is_told() {
    let ((pet, pets_port), (hub, hubs_port)) = (wireguard().await, wireguard().await);
    let (endpoint, _count) = gateway(hubs_port, Limits::default()).await;
    let udp = hub.local_addr().unwrap();
    let again = Duration::from_millis(300);
    let relay = Relay::open(endpoint, vec![udp.into()], again, pets_port, 0).await.unwrap();
    let to = relay.place().address;
    // Until it is copied, each comes once.
    let beside = loop {
        pet.send_to(&packet(4, 1), to).await.unwrap();
        let (first, from) = hear(&hub).await;
        let second = timeout(Duration::from_millis(100), hub.recv_from(&mut [0; 64])).await;
        assert_eq!(first, packet(4, 1));
        if let Ok(Ok((32, other))) = second {
            break [from, other];
        }
    };
    assert_ne!(beside[0], beside[1], "one over TCP, one beside it");
    assert_eq!(relay.place().reached, None);
    for from in beside {
        hub.send_to(&packet(2, 2), from).await.unwrap();
        assert_eq!(hear(&pet).await, (packet(2, 2), to), "WireGuard has it from the relay, whichever way it came");
    }
    timeout(SOON, async {
        while relay.place().reached != Some(udp) {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}
