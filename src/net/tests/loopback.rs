//! A stack that talks to itself, over nothing.

use std::net::Ipv4Addr;

use super::*;

/// A stack whose device carries nothing.
fn alone() -> (Stack, device::channel::ChannelEnd) {
    let (device, end) = device::channel(1500, 8);
    (builder(1).spawn(device).unwrap(), end)
}

async fn echo_once(listener: &TcpListener) -> SocketAddr {
    let (mut stream, peer) = listener.accept().await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    stream.write_all(&all).await.unwrap();
    peer
}

async fn ask(stack: &Stack, to: SocketAddr) -> SocketAddr {
    let mut stream = stack.connect(to).await.unwrap();
    let sent = vec![7; 300_000];
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(all == sent);
    stream.local_addr().unwrap()
}

#[tokio::test(start_paused = true)]
async fn own_and_loopback_addresses_reach_own_listeners_without_the_device() {
    let (stack, end) = alone();
    for (bound, to, from) in [
        ("10.0.0.1:80", "10.0.0.1", "10.0.0.1"),
        ("0.0.0.0:81", "10.0.0.1", "10.0.0.1"),
        ("0.0.0.0:82", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0:83", "127.200.3.4", "127.0.0.1"),
        ("127.0.0.1:84", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:85", "0.0.0.0", "127.0.0.1"),
        ("[::1]:86", "::1", "::1"),
        ("[::1]:87", "::", "::1"),
        ("[::]:88", "::1", "::1"),
        ("[::]:89", "fd00::1", "fd00::1"),
        ("[::]:90", "127.0.0.1", "127.0.0.1"),
    ] {
        let listener = stack.listen(bound).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = SocketAddr::new(to.parse().unwrap(), port);
        let (local, peer) = tokio::join!(ask(&stack, to), echo_once(&listener));
        // As on Linux, a listener of IPv6 sees mapped addresses of IPv4.
        assert_eq!(local.ip(), peer.ip().to_canonical(), "{bound}");
        assert_eq!(local.port(), peer.port(), "{bound}");
        assert_eq!(
            local.ip(),
            from.parse::<std::net::IpAddr>().unwrap(),
            "{bound}"
        );
    }
    let counters = stack.counters().await.unwrap();
    assert_eq!(counters.packets_sent, 0);
    drop(end);
}

#[tokio::test(start_paused = true)]
async fn loopback_has_both_families_whatever_the_stack_has() {
    let (device, _end) = device::channel(1500, 8);
    let stack = Stack::builder()
        .address("10.0.0.1/24".parse().unwrap())
        .spawn(device)
        .unwrap();
    let listener = stack.listen("[::1]:80").await.unwrap();
    let to = "[::1]:80".parse().unwrap();
    tokio::join!(ask(&stack, to), echo_once(&listener));
}

#[tokio::test(start_paused = true)]
async fn who_names_an_ipv4_address_as_one_of_ipv6_sees_only_such() {
    let (stack, _end) = alone();
    let _entered = stack.enter();
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:80".parse().unwrap();
    let listener = stack.listen(mapped).await.unwrap();
    assert_eq!(listener.local_addr().unwrap(), mapped);
    for to in [
        "[::ffff:127.0.0.1]:80",
        "[::ffff:0.0.0.0]:80",
        "127.0.0.1:80",
    ] {
        let stream = stack.connect(to).await.unwrap();
        let (accepted, from) = listener.accept().await.unwrap();
        assert!(accepted.local_addr().unwrap() == mapped && from.is_ipv6());
        let shown = [stream.local_addr().unwrap(), stream.peer_addr().unwrap()];
        let v4 = to.starts_with("127");
        assert!(shown.iter().all(|addr| addr.is_ipv4() == v4), "{shown:?}");
        assert_eq!(shown[1].ip().to_canonical(), Ipv4Addr::LOCALHOST);
    }
    let socket = TcpSocket::new_v6().unwrap();
    socket
        .bind("[::ffff:127.0.0.7]:0".parse().unwrap())
        .unwrap();
    let bound = socket.local_addr().unwrap();
    let stream = socket.connect(mapped).await.unwrap();
    assert_eq!(stream.local_addr().unwrap(), bound);
    assert!(bound.is_ipv6());
    drop(listener);
    let refused = stack.connect("127.0.0.1:80").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn this_host_is_the_address_that_a_socket_is_bound_to() {
    let (stack, _end) = alone();
    let listener = stack.listen("127.0.0.3:80").await.unwrap();
    let socket = stack.socket_v4();
    socket.bind("127.0.0.3:0".parse().unwrap()).unwrap();
    let stream = socket.connect("0.0.0.0:80".parse().unwrap()).await;
    let peer = stream.unwrap().peer_addr().unwrap();
    assert_eq!(peer, listener.local_addr().unwrap());
    let socket = stack.socket_v4();
    let refused = socket.connect("0.0.0.0:80".parse().unwrap()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_between_the_same_addresses_is_refused_as_linux_does() {
    let (stack, _end) = alone();
    let listener = stack.listen("127.0.0.1:80").await.unwrap();
    let to = listener.local_addr().unwrap();
    let [one, two] = [stack.socket_v4(), stack.socket_v4()];
    for socket in [&one, &two] {
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:4000".parse().unwrap()).unwrap();
    }
    let _stream = one.connect(to).await.unwrap();
    let error = two.connect(to).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

#[tokio::test(start_paused = true)]
async fn what_is_bound_to_loopback_is_not_reached_from_outside() {
    let (server, client) = pair();
    let _listener = server.listen("127.0.0.1:80").await.unwrap();
    for to in ["10.0.0.1:80", "127.0.0.1:80"] {
        let error = client.connect(to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_port_of_our_own_refuses() {
    let (stack, _end) = alone();
    for to in ["10.0.0.1:9", "127.0.0.1:9", "[::1]:9", "[fd00::1]:9"] {
        let error = stack.connect(to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_knocks_at_closed_ports_of_our_own_is_refused_at_once_however_often() {
    let (stack, _end) = alone();
    let start = time::Instant::now();
    for _ in 0..3000 {
        let error = stack.connect("127.0.0.1:9").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    assert!(start.elapsed() < Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_echoes_of_our_own_gets_every_one() {
    let (stack, _end) = alone();
    for _ in 0..3000 {
        let limit = Duration::from_secs(1);
        let rtt = stack.ping(Ipv4Addr::LOCALHOST.into(), b"", limit).await;
        assert!(rtt.is_ok(), "{rtt:?}");
    }
    assert_eq!(stack.counters().await.unwrap().limited, 0);
}

#[tokio::test(start_paused = true)]
async fn a_socket_connected_to_itself_talks_to_itself() {
    let (stack, _end) = alone();
    for local in ["127.0.0.1:4000", "10.0.0.1:4001", "[::1]:4002"] {
        let local: SocketAddr = local.parse().unwrap();
        let socket = if local.is_ipv4() {
            stack.socket_v4()
        } else {
            stack.socket_v6()
        };
        socket.bind(local).unwrap();
        let mut stream = socket.connect(local).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), stream.local_addr().unwrap());
        stream.write_all(b"monologue").await.unwrap();
        let mut buf = [0; 9];
        stream.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"monologue");
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut buf).await.unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loopback_address_never_goes_out() {
    let (stack, _end) = alone();
    let socket = stack.socket_v4();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = socket.connect("10.0.0.2:80".parse().unwrap()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(stack.counters().await.unwrap().packets_sent, 0);
}
