//! UDP and pings over the whole face, in paused time.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::Poll,
};

use futures::poll;
use tokio::io::ReadBuf;

use super::*;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn number<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[tokio::test(start_paused = true)]
async fn datagrams_go_to_and_fro() {
    let (one, other) = pair();
    for (server, client) in [
        ("10.0.0.1:53", "10.0.0.2:0"),
        ("[fd00::1]:53", "[fd00::2]:0"),
        ("0.0.0.0:54", "0.0.0.0:0"),
    ] {
        let server = one.bind_udp(server).await.unwrap();
        let client = other.bind_udp(client).await.unwrap();
        let mut to = server.local_addr().unwrap();
        if to.ip().is_unspecified() {
            to.set_ip("10.0.0.1".parse().unwrap());
        }
        assert_eq!(client.send_to(b"question", to).await.unwrap(), 8);
        let mut buf = [0; 100];
        assert_eq!(server.peek(&mut buf[..3]).await.unwrap(), 3);
        let from = server.peek_sender().await.unwrap();
        let (len, peer) = server.recv_from(&mut buf).await.unwrap();
        assert_eq!((&buf[..len], peer), (&b"question"[..], from));
        assert_eq!(peer.port(), client.local_addr().unwrap().port());
        server.send_to(b"a long answer", peer).await.unwrap();
        // What does not fit is lost.
        assert_eq!(client.recv(&mut buf[..6]).await.unwrap(), 6);
        assert_eq!(&buf[..6], b"a long");
        let nothing = client.try_recv(&mut buf).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connected_socket_talks_to_its_peer_only() {
    let (one, other) = pair();
    let server = one.bind_udp("10.0.0.1:53").await.unwrap();
    let stranger = one.bind_udp("10.0.0.1:54").await.unwrap();
    let client = other.bind_udp("0.0.0.0:0").await.unwrap();
    assert_eq!(number(client.send(b"x").await), Some(89));
    let none = client.peer_addr().unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotConnected);
    client.connect("10.0.0.1:53").await.unwrap();
    assert_eq!(client.peer_addr().unwrap(), addr("10.0.0.1:53"));
    let local = client.local_addr().unwrap();
    assert_eq!(local.ip(), addr("10.0.0.2:0").ip());
    stranger.send_to(b"noise", local).await.unwrap();
    settle().await;
    server.send_to(b"signal", local).await.unwrap();
    let mut buf = Vec::with_capacity(100);
    let got = client.recv_buf_from(&mut buf).await.unwrap();
    assert_eq!((got, &buf[..]), ((6, addr("10.0.0.1:53")), &b"signal"[..]));
    // The stranger was told that nobody is there, but is not connected.
    assert!(stranger.take_error().unwrap().is_none());
    client.send_to(b"aside", "10.0.0.1:54").await.unwrap();
    assert_eq!(stranger.recv(&mut [0; 10]).await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn nobody_at_the_port_is_told_to_a_connected_socket() {
    let (_one, other) = pair();
    let client = other.bind_udp("0.0.0.0:0").await.unwrap();
    client.connect("10.0.0.1:9").await.unwrap();
    client.send(b"x").await.unwrap();
    let error = client.recv(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    client.send(b"x").await.unwrap();
    client.ready(Interest::ERROR).await.unwrap();
    let error = client.take_error().unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(client.take_error().unwrap().is_none());
    client.send(b"x").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn udp_has_ports_of_its_own() {
    let (one, _other) = pair();
    let _tcp = one.listen("10.0.0.1:80").await.unwrap();
    let udp = one.bind_udp("10.0.0.1:80").await.unwrap();
    let kind = async |addr: &str| one.bind_udp(addr).await.unwrap_err().kind();
    assert_eq!(kind("10.0.0.1:80").await, ErrorKind::AddrInUse);
    assert_eq!(kind("0.0.0.0:80").await, ErrorKind::AddrInUse);
    assert_eq!(kind("[::]:80").await, ErrorKind::AddrInUse);
    assert_eq!(kind("10.0.0.9:80").await, ErrorKind::AddrNotAvailable);
    drop(udp);
    one.bind_udp("[::]:80").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_current_stack_is_bound_on() {
    let (one, _other) = pair();
    let socket = one.scope(UdpSocket::bind("10.0.0.1:0")).await.unwrap();
    assert_ne!(socket.local_addr().unwrap().port(), 0);
    UdpSocket::bind("10.0.0.1:0").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn addresses_that_cannot_work_are_refused() {
    let (one, _other) = pair();
    let v4 = one.bind_udp("10.0.0.1:0").await.unwrap();
    let any = one.bind_udp("[::]:0").await.unwrap();
    let empty: &[SocketAddr] = &[];
    assert_eq!(number(v4.send_to(b"x", "[fd00::2]:1").await), Some(97));
    assert_eq!(number(v4.connect("[fd00::2]:1").await), Some(97));
    let kind = async |to: &str| any.send_to(b"x", to).await.unwrap_err().kind();
    assert_eq!(kind("224.0.0.1:1").await, ErrorKind::NetworkUnreachable);
    assert_eq!(
        kind("255.255.255.255:1").await,
        ErrorKind::NetworkUnreachable
    );
    assert_eq!(kind("10.0.0.255:1").await, ErrorKind::NetworkUnreachable);
    assert_eq!(kind("[ff02::1]:1").await, ErrorKind::NetworkUnreachable);
    assert_eq!(kind("10.0.0.2:0").await, ErrorKind::InvalidInput);
    let none = any.send_to(b"x", empty).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        number(any.send_to(&[0; 1473], "10.0.0.2:1").await),
        Some(90)
    );
    for ttl in [0, 256] {
        assert_eq!(v4.set_ttl(ttl).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(
        v4.set_tos_v4(256).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

#[tokio::test(start_paused = true)]
async fn ttl_and_tos_go_with_every_datagram() {
    let (device, end) = device::channel(1500, 8);
    let stack = builder(1).spawn(device).unwrap();
    let socket = stack.bind_udp("10.0.0.1:1").await.unwrap();
    assert_eq!((socket.ttl().unwrap(), socket.tos_v4().unwrap()), (64, 0));
    socket.set_ttl(9).unwrap();
    socket.set_tos_v4(0xb8).unwrap();
    socket.send_to(b"x", "10.0.0.2:1").await.unwrap();
    let (_sender, mut packets) = end.split();
    let packet = packets.recv().await.unwrap();
    assert_eq!((packet[8], packet[1]), (9, 0xb8));
}

#[tokio::test(start_paused = true)]
async fn readiness_stays_until_something_would_block() {
    let (one, other) = pair();
    let server = one.bind_udp("10.0.0.1:53").await.unwrap();
    let client = other.bind_udp("10.0.0.2:0").await.unwrap();
    let both = Interest::READABLE | Interest::WRITABLE;
    let ready = server.ready(both).await.unwrap();
    assert!(!ready.is_readable() && ready.is_writable());
    client.send_to(b"x", "10.0.0.1:53").await.unwrap();
    server.readable().await.unwrap();
    server.recv(&mut [0]).await.unwrap();
    server.readable().await.unwrap();
    let empty = server.try_io(Interest::READABLE, || server.try_recv(&mut [0]));
    assert_eq!(empty.unwrap_err().kind(), ErrorKind::WouldBlock);
    let later = timeout(Duration::from_secs(1), server.readable()).await;
    assert!(later.is_err());
    let never: io::Result<()> = server.try_io(Interest::READABLE, || unreachable!());
    assert_eq!(never.unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test(start_paused = true)]
async fn all_that_wait_for_a_datagram_are_woken_and_one_gets_it() {
    let (one, other) = pair();
    let server = one.bind_udp("10.0.0.1:53").await.unwrap();
    let client = other.bind_udp("10.0.0.2:0").await.unwrap();
    let [mut a, mut b] = [[0; 4]; 2];
    let mut readable = pin!(server.readable());
    let mut first = pin!(server.recv(&mut a));
    let mut second = pin!(server.recv(&mut b));
    assert!(poll!(readable.as_mut()).is_pending());
    assert!(poll!(first.as_mut()).is_pending());
    assert!(poll!(second.as_mut()).is_pending());
    client.send_to(b"one", "10.0.0.1:53").await.unwrap();
    settle().await;
    assert!(poll!(readable).is_ready());
    assert!(matches!(poll!(second.as_mut()), Poll::Ready(Ok(3))));
    assert!(poll!(first.as_mut()).is_pending());
    client.send_to(b"four", "10.0.0.1:53").await.unwrap();
    assert_eq!(first.await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_receive_loses_nothing() {
    let (one, other) = pair();
    let server = one.bind_udp("10.0.0.1:53").await.unwrap();
    let client = other.bind_udp("10.0.0.2:0").await.unwrap();
    let gone = timeout(Duration::from_secs(1), server.recv(&mut [0])).await;
    assert!(gone.is_err());
    for n in 0..100_u8 {
        client.send_to(&[n], "10.0.0.1:53").await.unwrap();
    }
    settle().await;
    for n in 0..100 {
        let mut buf = [0];
        drop(server.recv(&mut [0]));
        server.recv(&mut buf).await.unwrap();
        assert_eq!(buf, [n]);
    }
}

#[tokio::test(start_paused = true)]
async fn sending_waits_for_room_and_goes_on() {
    let (device, end) = device::channel(1500, 4);
    let stack = builder(1).spawn(device).unwrap();
    let socket = Arc::new(stack.bind_udp("10.0.0.1:1").await.unwrap());
    let to = addr("10.0.0.2:1");
    let sender = Arc::clone(&socket);
    let sending = tokio::spawn(async move {
        for n in 0..2000_u32 {
            sender.send_to(&n.to_be_bytes(), to).await.unwrap();
        }
    });
    // The device takes nothing for now, which is less than what makes it stalled.
    time::sleep(Duration::from_millis(500)).await;
    assert!(!sending.is_finished());
    let full = socket.try_send_to(b"x", to).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let (_sender, mut packets) = end.split();
    for n in 0..2000_u32 {
        let packet = packets.recv().await.unwrap();
        assert_eq!(packet[28..], n.to_be_bytes());
    }
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn polls_register_the_last_caller() {
    let (one, other) = pair();
    let server = one.bind_udp("10.0.0.1:53").await.unwrap();
    let client = other.bind_udp("10.0.0.2:0").await.unwrap();
    let waker = Arc::new(Counting::default());
    let woken = Waker::from(Arc::clone(&waker));
    let cx = &mut Context::from_waker(&woken);
    let mut buf = [0; 8];
    let mut buf = ReadBuf::new(&mut buf);
    assert!(server.poll_recv_ready(cx).is_pending());
    assert!(server.poll_peek_sender(cx).is_pending());
    assert!(server.poll_recv_from(cx, &mut buf).is_pending());
    assert!(server.poll_send_ready(cx).is_ready());
    let sent = client.poll_send_to(cx, b"hello", addr("10.0.0.1:53"));
    assert!(matches!(sent, Poll::Ready(Ok(5))));
    settle().await;
    assert_eq!(waker.0.load(Ordering::Relaxed), 1);
    assert!(server.poll_peek_from(cx, &mut buf).is_ready());
    assert_eq!(buf.filled(), b"hello");
    buf.clear();
    assert!(server.poll_recv(cx, &mut buf).is_ready());
    assert_eq!(buf.filled(), b"hello");
    assert!(server.poll_recv(cx, &mut buf).is_pending());
}

#[derive(Default)]
struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn receiving_takes_part_in_the_cooperative_budget() {
    let (one, _other) = pair();
    let socket = one.bind_udp("127.0.0.1:1").await.unwrap();
    for _ in 0..500 {
        socket.send_to(b"x", "127.0.0.1:1").await.unwrap();
    }
    settle().await;
    let taken = Cell::new(0);
    let mut greedy = pin!(async {
        loop {
            socket.recv(&mut [0]).await.unwrap();
            taken.set(taken.get() + 1);
        }
    });
    let once = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut greedy).poll(cx)));
    assert!(once.await.is_pending());
    assert!((1..=200).contains(&taken.get()), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stack_is_told_to_every_call() {
    let (one, _other) = pair();
    let socket = one.bind_udp("10.0.0.1:53").await.unwrap();
    let any = one.incoming_udp().unwrap();
    let (mut a, mut b) = ([0], [0]);
    let (waiting, also, ping, ()) = tokio::join!(
        socket.recv(&mut a),
        any.recv_from_to(&mut b),
        one.ping("10.0.0.9".parse().unwrap(), b"", Duration::from_secs(99)),
        async {
            settle().await;
            one.shutdown(Duration::ZERO).await;
        }
    );
    assert_eq!(waiting.unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(also.unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(ping.unwrap_err().kind(), ErrorKind::NotConnected);
    let error = socket.send_to(b"x", "10.0.0.2:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    let error = socket.recv(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    one.bind_udp("10.0.0.1:1").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn questions_to_any_server_are_answered_from_there() {
    let (proxy, client) = pair();
    let any = proxy.incoming_udp().unwrap();
    let taken = proxy.incoming_udp().unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    // Who is many, or none, or of the other family, has nothing to say.
    for from in ["224.0.0.1:1", "10.0.0.255:1", "0.0.0.0:1", "[fd00::9]:1"] {
        let refused = any.try_send_from_to(b"", addr(from), addr("10.0.0.2:1"));
        assert_eq!(
            refused.unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{from}"
        );
    }
    let resolver = tokio::spawn(async move {
        for _ in 0..3 {
            let question = any.recv().await.unwrap();
            let answer = [b"answer of ", question.to.to_string().as_bytes()].concat();
            let UdpDatagram { from, to, .. } = question;
            any.send_from_to(&answer, to, from).await.unwrap();
        }
        let mut buf = [0; 16];
        let (len, from, to) = any.recv_from_to(&mut buf).await.unwrap();
        assert_eq!(&buf[..len], b"last");
        any.try_send_from_to(b"bye", to, from).unwrap();
    });
    for server in [
        "8.8.8.8:53",
        "1.1.1.1:53",
        "[2606:4700::1111]:53",
        "9.9.9.9:9953",
    ] {
        let v6 = addr(server).is_ipv6();
        let local = if v6 { "[fd00::2]:0" } else { "10.0.0.2:0" };
        let socket = client.bind_udp(local).await.unwrap();
        socket.connect(server).await.unwrap();
        let question: &[u8] = if server.ends_with("9953") {
            b"last"
        } else {
            b"question"
        };
        socket.send(question).await.unwrap();
        let mut buf = [0; 100];
        let len = socket.recv(&mut buf).await.unwrap();
        let expected = match question {
            b"last" => "bye".to_owned(),
            _ => format!("answer of {server}"),
        };
        assert_eq!(std::str::from_utf8(&buf[..len]).unwrap(), expected);
    }
    resolver.await.unwrap();
    proxy.incoming_udp().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_or_times_out() {
    let (one, _other) = pair();
    let ping = async |to: &str, len| {
        let timeout = Duration::from_secs(3);
        one.ping(to.parse().unwrap(), &vec![7; len], timeout).await
    };
    for to in ["10.0.0.2", "fd00::2", "10.0.0.1", "127.0.0.1", "::1"] {
        ping(to, 56).await.unwrap();
    }
    let began = time::Instant::now();
    let nobody = ping("10.0.0.9", 0).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::TimedOut);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    assert_eq!(number(ping("10.0.0.2", 1473).await), Some(90));
    let nowhere = ping("224.0.0.1", 0).await.unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::NetworkUnreachable);
}

/// The same text against both.
macro_rules! program {
    ($name:ident, $udp:ty) => {
        async fn $name(host: &str) -> Vec<String> {
            let mut seen = Vec::new();
            let mut see = |what: &str, value: String| seen.push(format!("{what}: {value}"));
            type Udp = $udp;
            fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> String {
                result.map_or_else(
                    |error| format!("{:?} {:?}", error.kind(), error.raw_os_error()),
                    |value| format!("{value:?}"),
                )
            }
            /// Only the kind: who makes the error does not matter.
            fn just<T: std::fmt::Debug>(result: io::Result<T>) -> String {
                kind(result.map_err(|error| error.kind().into()))
            }
            let one = Udp::bind((host, 0)).await.unwrap();
            let other = Udp::bind((host, 0)).await.unwrap();
            let (to_one, to_other) = (one.local_addr().unwrap(), other.local_addr().unwrap());
            let mut buf = [0; 16];
            see("bind twice", just(Udp::bind(to_one).await));
            see("nothing", just(one.try_recv(&mut buf)));
            see("peer", just(one.peer_addr()));
            see("unconnected", kind(one.send(b"x").await));
            see("port 0", just(one.send_to(b"x", (host, 0)).await));
            see("other family", kind(one.send_to(b"x", "[::1]:9").await));
            see("empty", kind(other.send_to(b"", to_one).await));
            see("empty comes", kind(one.recv(&mut buf).await));
            see("sent", kind(other.send_to(b"0123456789", to_one).await));
            see("peek", kind(one.peek(&mut buf[..4]).await));
            let from = one.peek_from(&mut buf).await.unwrap();
            see("peek from", format!("{} {}", from.0, from.1 == to_other));
            see(
                "sender",
                format!("{}", one.peek_sender().await.unwrap() == to_other),
            );
            see("cut", kind(one.recv(&mut buf[..4]).await));
            see("rest is lost", just(one.try_recv(&mut buf)));
            other.send_to(b"0123456789", to_one).await.unwrap();
            let mut vec = Vec::with_capacity(4);
            let n = one.recv_buf(&mut vec).await.unwrap();
            see("vec", format!("{n} {}", vec.len()));
            see(
                "too long",
                kind(one.send_to(&vec![0; 65_508], to_other).await),
            );
            see(
                "longest",
                kind(one.send_to(&vec![0; 65_507], to_other).await),
            );
            let mut long = vec![0; 70_000];
            see("longest comes", kind(other.recv(&mut long).await));
            one.connect(to_other).await.unwrap();
            see(
                "connected",
                format!("{}", one.peer_addr().unwrap() == to_other),
            );
            see("send", kind(one.send(b"hello").await));
            see("recv", kind(other.recv(&mut buf).await));
            let third = Udp::bind((host, 0)).await.unwrap();
            third.send_to(b"stranger", to_one).await.unwrap();
            other.send_to(b"friend", to_one).await.unwrap();
            see("friend", kind(one.recv(&mut buf).await));
            drop(other);
            see("into the void", kind(one.send(b"x").await));
            let waited = one.ready(Interest::ERROR | Interest::READABLE).await;
            see("error is ready", format!("{}", waited.unwrap().is_error()));
            see("refused", just(one.recv(&mut buf).await));
            see("once", just(one.try_recv(&mut buf)));
            see("void again", kind(one.send(b"x").await));
            one.ready(Interest::ERROR).await.unwrap();
            let error = one.take_error().unwrap().map(|error| error.kind());
            see("taken", format!("{error:?}"));
            see("then", kind(one.send(b"x").await));
            see("ttl", kind(one.ttl()));
            see("set ttl", kind(one.set_ttl(9)));
            see("ttl", kind(one.ttl()));
            see("no ttl", just(one.set_ttl(256)));
            let six = Udp::bind("[::]:0").await.unwrap();
            let port = six.local_addr().unwrap().port();
            third.send_to(b"4 to 6", (host, port)).await.unwrap();
            let (len, from) = six.recv_from(&mut buf).await.unwrap();
            see("mapped", format!("{len} {}", from.ip()));
            see("back", kind(six.send_to(b"6 to 4", from).await));
            see("4", kind(third.recv(&mut buf).await));
            third.connect(("0.0.0.0", port)).await.unwrap();
            see("this host", format!("{}", third.peer_addr().unwrap().ip()));
            seen
        }
    };
}

program!(on_linux, tokio::net::UdpSocket);
program!(on_synack, UdpSocket);

#[test]
fn one_program_sees_the_same_on_linux_and_here() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let limit = Duration::from_secs(20);
        let (one, _other) = pair();
        let here = one.scope(on_synack("127.0.0.1"));
        let here = timeout(limit, here).await.unwrap();
        let linux = timeout(limit, on_linux("127.0.0.1")).await.unwrap();
        for (here, linux) in here.iter().zip(&linux) {
            assert_eq!(here, linux, "ours, Linux's");
        }
        assert_eq!(here.len(), linux.len());
    });
}

#[tokio::test(start_paused = true)]
async fn a_flow_is_one_pair_of_addresses_and_begins_anew_when_it_was_dropped() {
    let (gateway, client) = pair();
    let mut flows = gateway.udp_flows().unwrap();
    let taken = gateway.udp_flows().unwrap_err().kind();
    assert_eq!(taken, ErrorKind::AddrInUse);
    assert_eq!(
        gateway.incoming_udp().unwrap_err().kind(),
        ErrorKind::AddrInUse
    );
    let bound = gateway.bind_udp("10.0.0.1:7").await.unwrap();
    let (one, other) = (
        client.bind_udp("10.0.0.2:4000").await,
        client.bind_udp("10.0.0.2:5000").await,
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    one.send_to(b"to the bound one", "10.0.0.1:7")
        .await
        .unwrap();
    for (socket, text) in [(&one, "1"), (&other, "2"), (&one, "3"), (&one, "4")] {
        socket
            .send_to(text.as_bytes(), "192.0.2.1:53")
            .await
            .unwrap();
        time::sleep(Duration::from_millis(10)).await;
    }
    one.send_to(b"5", "192.0.2.9:53").await.unwrap();
    let first = flows.next().await.unwrap();
    let (second, third) = (flows.next().await.unwrap(), flows.next().await.unwrap());
    for text in ["1", "3", "4"] {
        assert_eq!(first.recv().await.unwrap(), text);
    }
    assert_eq!(first.try_recv().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(second.recv().await.unwrap(), "2");
    assert_eq!(second.peer_addr(), other.local_addr().unwrap());
    assert_eq!(third.local_addr(), "192.0.2.9:53".parse().unwrap());
    let mut buf = [0; 99];
    assert_eq!(bound.recv(&mut buf).await.unwrap(), 16);
    second.send(b"back").await.unwrap();
    let (len, from) = other.recv_from(&mut buf).await.unwrap();
    assert_eq!((&buf[..len], from), (&b"back"[..], first.local_addr()));

    drop(first);
    one.send_to(b"6", "192.0.2.1:53").await.unwrap();
    assert_eq!(flows.next().await.unwrap().recv().await.unwrap(), "6");
    // Who has a flow keeps it, and nobody gets another.
    drop(flows);
    other.send_to(b"7", "192.0.2.1:53").await.unwrap();
    one.send_to(b"8", "192.0.2.1:99").await.unwrap();
    assert_eq!(second.recv().await.unwrap(), "7");
    drop((second, third));
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.sockets().await.unwrap().len(), 1, "the bound one");
    gateway.udp_flows().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_flows_that_nobody_takes_is_bounded() {
    let (gateway, client) = pair();
    let flows = gateway.udp_flows().unwrap();
    let socket = client.bind_udp("10.0.0.2:4000").await.unwrap();
    for i in 0..3000_u16 {
        socket.send_to(b"?", ("192.0.2.1", 1 + i)).await.unwrap();
    }
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.sockets().await.unwrap().len(), 1024);
    drop(flows);
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.sockets().await.unwrap().len(), 0);
}
