//! UDP and echoes on a whole engine, packet by packet.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    config::Config,
    engine::Engine,
    error::Failure,
    link::{Command, DatagramLink, Marks, Target},
    packet::{Meta, Packet, Payload},
    wire::{
        icmp::{self, Echo, IcmpErrorKind, IcmpMessage, Report, Unreachable},
        ip::{self, IpEmit, IpHeader},
        protocol,
        udp::{self, UdpHeader},
    },
};

const OURS: &str = "192.168.0.1:53";
const PEER: &str = "192.0.2.1:4000";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// One engine, driven by hand.
struct Host {
    engine: Engine,
    now: Instant,
    sent: VecDeque<Packet>,
}

impl Host {
    fn new() -> Self {
        Self::with(Config::default())
    }

    #[expect(clippy::disallowed_methods, reason = "any moment to begin with")]
    fn with(mut config: Config) -> Self {
        let now = Instant::now();
        config.seed(1);
        let nets = [
            "192.168.0.1/16".parse().unwrap(),
            "fd00::1/64".parse().unwrap(),
        ];
        Self {
            engine: Engine::new(config, &nets, 1500, now),
            now,
            sent: VecDeque::new(),
        }
    }

    fn open(&mut self, link: DatagramLink) -> Arc<DatagramLink> {
        let link = Arc::new(link);
        let command = Command::Datagrams(Arc::clone(&link));
        self.engine.on_command(command, self.now);
        link
    }

    fn bind(&mut self, local: &str) -> Arc<DatagramLink> {
        self.bind_with(local, (212_992, 212_992))
    }

    fn bind_with(&mut self, local: &str, limits: (usize, usize)) -> Arc<DatagramLink> {
        let network = self.engine.network().clone();
        let port = network
            .udp_ports()
            .bind(addr(local), crate::link::Reuse::ADDR, false);
        let bell = self.engine.doorbell().clone();
        let marks = Marks {
            ttl: 64,
            tos: 0,
            tclass: 0,
        };
        self.open(DatagramLink::bound(
            bell,
            network,
            port.unwrap(),
            limits,
            marks,
        ))
    }

    fn any(&mut self) -> Arc<DatagramLink> {
        let network = self.engine.network().clone();
        assert!(network.take_any());
        let bell = self.engine.doorbell().clone();
        let marks = Marks {
            ttl: 64,
            tos: 0,
            tclass: 0,
        };
        let limits = (212_992, 212_992);
        self.open(DatagramLink::any(bell, network, limits, marks))
    }

    /// What the reactor does when somebody rang.
    fn look(&mut self) {
        let (mut rung, mut commands) = (Vec::new(), VecDeque::new());
        self.engine.doorbell().take(&mut rung, &mut commands);
        rung.into_iter()
            .for_each(|id| self.engine.on_rung(id, self.now));
        while !self.engine.poll_packet(self.now, 64, &mut self.sent) {}
    }

    fn recv(&mut self, packet: Packet) {
        self.engine.on_packet(packet, self.now);
        self.look();
    }

    /// A datagram comes in.
    fn recv_datagram(&mut self, from: &str, to: &str, payload: &'static [u8]) {
        self.recv(datagram(from, to, payload));
    }

    fn sent_packet(&mut self) -> (Packet, IpHeader) {
        self.look();
        let packet = self.sent.pop_front().expect("something was sent");
        let ip = ip::parse(packet.first(), packet.len()).unwrap();
        (packet, ip)
    }

    /// The datagram that was sent: from, to, payload.
    fn sent(&mut self) -> (SocketAddr, SocketAddr, Vec<u8>) {
        let (packet, ip) = self.sent_packet();
        let header = UdpHeader::of(&packet, &ip).unwrap();
        let payload = packet.to_vec().split_off(ip.header_len + udp::HEADER_LEN);
        let from = (ip.src, header.src_port).into();
        (from, (ip.dst, header.dst_port).into(), payload)
    }

    fn silence(&mut self) {
        self.look();
        assert!(self.sent.is_empty(), "{:?}", self.sent);
    }
}

fn envelope(from: &str, to: &str) -> IpEmit {
    IpEmit {
        src: addr(from).ip(),
        dst: addr(to).ip(),
        protocol: 0,
        ttl: 64,
        tos: 0,
        payload_len: 0,
    }
}

fn datagram(from: &str, to: &str, payload: &'static [u8]) -> Packet {
    let packet = udp::packet(
        envelope(from, to),
        addr(from).port(),
        addr(to).port(),
        Bytes::from_static(payload),
    );
    Packet::received(packet.to_vec().into(), Meta::default())
}

/// What a router or the peer says of a packet that we have sent.
fn report(packet: &Packet, what: Report) -> Packet {
    let ip = ip::parse(packet.first(), packet.len()).unwrap();
    let message = icmp::report(packet, &ip, what, 64);
    Packet::received(message.to_vec().into(), Meta::default())
}

fn kind(error: std::io::Error) -> std::io::ErrorKind {
    error.kind()
}

#[test]
fn datagrams_go_both_ways_in_both_families() {
    for (local, peer) in [(OURS, PEER), ("[fd00::1]:53", "[2001:db8::1]:4000")] {
        let mut host = Host::new();
        let socket = host.bind(local);
        assert!(socket.try_recv().is_err());
        host.recv_datagram(peer, local, b"question");
        let got = socket.try_recv().unwrap();
        assert_eq!((got.local, got.peer), (addr(local), addr(peer)));
        assert_eq!(got.payload, b"question"[..]);
        socket.try_send(b"answer", Target::To(addr(peer))).unwrap();
        assert_eq!(host.sent(), (addr(local), addr(peer), b"answer".to_vec()));
        // An empty one is a datagram too.
        host.recv_datagram(peer, local, b"");
        assert_eq!(socket.try_recv().unwrap().payload, b""[..]);
        let counters = host.engine.counters();
        assert_eq!(
            (counters.datagrams_received, counters.datagrams_sent),
            (2, 1)
        );
    }
}

#[test]
fn a_closed_port_is_told_and_only_so_often() {
    let mut host = Host::new();
    host.recv_datagram(PEER, OURS, b"anybody?");
    let (packet, ip) = host.sent_packet();
    let IcmpMessage::Error(error) = icmp::parse(&packet, &ip).unwrap() else {
        panic!("no error");
    };
    let port = IcmpErrorKind::Unreachable(Unreachable::Port);
    assert_eq!((error.kind, error.quote.protocol), (port, protocol::UDP));
    assert_eq!((error.quote.src_port, error.quote.dst_port), (4000, 53));
    for _ in 0..10_000 {
        host.recv_datagram(PEER, OURS, b"anybody?");
    }
    let told = host.sent.len();
    assert!((500..=1500).contains(&(told + 1)), "{told}");
    assert_eq!(host.engine.counters().limited, 10_000 - told as u64);
    host.sent.clear();
    host.now += Duration::from_secs(2);
    host.recv_datagram(PEER, OURS, b"anybody?");
    assert_eq!(host.sent.len(), 1, "the next second has its own");

    let mut config = Config::default();
    config.reset_closed_ports(false);
    let mut silent = Host::with(config);
    silent.recv_datagram(PEER, OURS, b"anybody?");
    silent.silence();
    assert_eq!(silent.engine.counters().drop_no_socket, 1);
}

#[test]
fn foreign_fragmented_and_damaged_datagrams_are_dropped_and_counted() {
    let mut host = Host::new();
    let socket = host.bind("0.0.0.0:53");
    host.recv_datagram(PEER, "192.168.0.2:53", b"not ours");
    host.recv_datagram(PEER, "224.0.0.1:53", b"multicast");
    host.recv_datagram("127.0.0.1:1", OURS, b"martian");
    host.recv_datagram(PEER, "192.168.0.1:0", b"port 0");
    let mut bytes = datagram(PEER, OURS, b"damaged").to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    host.recv(Packet::received(bytes.into(), Meta::default()));
    let mut bytes = datagram(PEER, OURS, b"short").to_vec();
    bytes[24..26].copy_from_slice(&7_u16.to_be_bytes());
    host.recv(Packet::received(bytes.into(), Meta::default()));
    let mut bytes = datagram(PEER, OURS, b"fragment").to_vec();
    bytes[6] = 0x20;
    let sum = u16::from_be_bytes([bytes[10], bytes[11]]);
    let sum = crate::checksum::update(sum, 0x4000, 0x2000);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    host.recv(Packet::received(bytes.into(), Meta::default()));
    host.silence();
    assert!(socket.try_recv().is_err());
    let counters = host.engine.counters();
    assert_eq!(counters.drop_not_ours, 2);
    assert_eq!(counters.drop_martian, 1);
    assert_eq!(counters.drop_malformed_udp, 2);
    assert_eq!(counters.drop_udp_checksum, 1);
    assert_eq!(counters.drop_fragment, 1);
}

#[test]
fn the_socket_that_fits_best_takes_a_datagram() {
    let mut host = Host::new();
    // The later ones fit better; all share the port.
    let everything = host.bind("[::]:53");
    let v4 = host.bind("0.0.0.0:53");
    let exact = host.bind(OURS);
    let connected = host.bind(OURS);
    connected.connect(addr(PEER)).unwrap();
    let other = host.bind("192.168.0.1:54");
    let takes = |host: &mut Host, from: &str, to: &str| {
        host.recv_datagram(from, to, b"x");
        let sockets = [&everything, &v4, &exact, &connected, &other];
        let taken: Vec<bool> = sockets.iter().map(|s| s.try_recv().is_ok()).collect();
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
        taken.iter().position(|taken| *taken).unwrap()
    };
    assert_eq!(takes(&mut host, PEER, OURS), 3);
    assert_eq!(takes(&mut host, "192.0.2.1:4001", OURS), 2);
    assert_eq!(takes(&mut host, "192.0.2.2:4000", OURS), 2);
    assert_eq!(takes(&mut host, PEER, "192.168.0.1:54"), 4);
    assert_eq!(takes(&mut host, "[2001:db8::1]:1", "[fd00::1]:53"), 0);
    exact.close();
    connected.close();
    assert_eq!(takes_after_close(&mut host, &v4), 1);
    v4.close();
    assert_eq!(takes_after_close(&mut host, &everything), 1);
    everything.close();
    host.look();
    host.recv_datagram(PEER, OURS, b"x");
    assert_eq!(host.engine.counters().drop_no_socket, 1);
}

fn takes_after_close(host: &mut Host, who: &DatagramLink) -> usize {
    host.look();
    host.recv_datagram(PEER, OURS, b"x");
    usize::from(who.try_recv().is_ok())
}

#[test]
fn the_socket_for_any_destination_takes_what_nobody_else_does_and_answers_from_there() {
    let mut host = Host::new();
    let bound = host.bind(OURS);
    let any = host.any();
    assert!(!host.engine.network().take_any(), "there is one");
    for to in ["8.8.8.8:53", "192.168.0.1:99", "203.0.113.7:65535"] {
        host.recv_datagram(PEER, to, b"question");
        let got = any.try_recv().unwrap();
        assert_eq!((got.local, got.peer), (addr(to), addr(PEER)));
        let target = Target::FromTo(got.local, got.peer);
        any.try_send(b"answer", target).unwrap();
        assert_eq!(host.sent(), (addr(to), addr(PEER), b"answer".to_vec()));
    }
    host.recv_datagram("[2001:db8::1]:1", "[2001:db8::53]:53", b"v6");
    assert_eq!(any.try_recv().unwrap().local, addr("[2001:db8::53]:53"));
    host.recv_datagram(PEER, OURS, b"for another");
    assert!(any.try_recv().is_err());
    assert_eq!(bound.try_recv().unwrap().payload, b"for another"[..]);
    for to in ["224.0.0.1:1", "255.255.255.255:1", "127.0.0.1:53"] {
        host.recv_datagram(PEER, to, b"nowhere");
        assert!(any.try_recv().is_err(), "{to}");
    }
    for (from, to, error) in [
        ("224.0.0.1:1", PEER, std::io::ErrorKind::InvalidInput),
        ("0.0.0.0:1", PEER, std::io::ErrorKind::InvalidInput),
        ("[2001:db8::53]:53", PEER, std::io::ErrorKind::InvalidInput),
        ("127.0.0.1:1", PEER, std::io::ErrorKind::InvalidInput),
        (
            "8.8.8.8:53",
            "192.0.2.1:0",
            std::io::ErrorKind::InvalidInput,
        ),
        (
            "8.8.8.8:53",
            "224.0.0.1:9",
            std::io::ErrorKind::NetworkUnreachable,
        ),
    ] {
        let target = Target::FromTo(addr(from), addr(to));
        let result = any.try_send(b"x", target).unwrap_err();
        assert_eq!(kind(result), error, "{from} {to}");
    }
    any.close();
    host.look();
    host.recv_datagram(PEER, "8.8.8.8:53", b"nobody");
    host.silence();
    let _again = host.any();
}

#[test]
fn a_connected_socket_hears_that_nobody_is_there_once() {
    let mut host = Host::new();
    let socket = host.bind(OURS);
    socket.connect(addr(PEER)).unwrap();
    socket.try_send(b"x", Target::Connected).unwrap();
    let (packet, _) = host.sent_packet();
    host.recv_datagram(PEER, OURS, b"before");
    host.recv(report(&packet, Report::Port));
    assert_eq!(
        kind(socket.try_recv().unwrap_err()),
        std::io::ErrorKind::ConnectionRefused
    );
    assert_eq!(socket.try_recv().unwrap().payload, b"before"[..]);
    host.recv(report(&packet, Report::Port));
    let refused = socket.try_send(b"y", Target::Connected).unwrap_err();
    assert_eq!(kind(refused), std::io::ErrorKind::ConnectionRefused);
    socket.try_send(b"z", Target::Connected).unwrap();
    assert_eq!(host.sent().2, b"z");
    host.recv(report(&packet, Report::Port));
    assert!(socket.take_error().is_some() && socket.take_error().is_none());
    // What may pass is not told, and neither is what concerns another peer.
    host.recv(report(&packet, Report::Host));
    assert!(socket.take_error().is_none());
    socket.connect(addr("192.0.2.1:4001")).unwrap();
    host.recv(report(&packet, Report::Port));
    assert!(socket.take_error().is_none());
    assert_eq!(host.engine.counters().icmp_errors, 3);
    assert_eq!(host.engine.counters().drop_icmp, 2);

    let unconnected = host.bind("192.168.0.1:54");
    unconnected.try_send(b"x", Target::To(addr(PEER))).unwrap();
    let (packet, _) = host.sent_packet();
    host.recv(report(&packet, Report::Port));
    assert!(unconnected.take_error().is_none());
}

#[test]
fn what_does_not_fit_in_a_packet_is_refused() {
    let mut host = Host::new();
    let socket = host.bind("[::]:53");
    let number = |result: std::io::Result<usize>| result.map_err(|e| e.raw_os_error());
    let send = |len, to: &str| number(socket.try_send(&vec![0; len], Target::To(addr(to))));
    assert_eq!(send(1472, PEER), Ok(1472));
    assert_eq!(send(1473, PEER), Err(Some(90)));
    assert_eq!(send(1452, "[2001:db8::1]:9"), Ok(1452));
    assert_eq!(send(1453, "[2001:db8::1]:9"), Err(Some(90)));
    assert_eq!(host.sent_packet().0.len(), 1500);
    assert_eq!(host.sent_packet().0.len(), 1500);
    // To ourselves there is no MTU.
    assert_eq!(send(65_507, OURS), Ok(65_507));
    assert_eq!(send(65_508, OURS), Err(Some(90)));
    host.silence();
    assert_eq!(socket.try_recv().unwrap().payload.len(), 65_507);
    // The MTU sinks while a datagram waits.
    assert_eq!(send(1400, PEER), Ok(1400));
    host.engine.set_mtu(1280);
    assert_eq!(send(1400, PEER), Err(Some(90)));
    host.silence();
    assert_eq!(host.engine.counters().drop_datagram_size, 1);
}

#[test]
fn a_connected_socket_learns_what_its_path_carries() {
    let mut host = Host::new();
    let socket = host.bind(OURS);
    socket.connect(addr(PEER)).unwrap();
    socket.try_send(&[0; 1400], Target::Connected).unwrap();
    let (packet, ip) = host.sent_packet();
    // Fragmentation needed, with a next-hop MTU of 1300.
    let mut bytes = icmp::report(&packet, &ip, Report::Host, 64).to_vec();
    bytes[21] = 4;
    bytes[26..28].copy_from_slice(&1300_u16.to_be_bytes());
    bytes[22..24].fill(0);
    let sum = crate::checksum::sum(&bytes[20..]).finish();
    bytes[22..24].copy_from_slice(&sum.to_be_bytes());
    host.recv(Packet::received(bytes.into(), Meta::default()));
    let too_long = socket.try_send(&[0; 1273], Target::Connected).unwrap_err();
    assert_eq!(too_long.raw_os_error(), Some(90));
    socket.try_send(&[0; 1272], Target::Connected).unwrap();
    socket
        .try_send(&[0; 1400], Target::To(addr("192.0.2.2:1")))
        .unwrap();
    socket.connect(addr(PEER)).unwrap();
    socket.try_send(&[0; 1400], Target::Connected).unwrap();
}

#[test]
fn the_oldest_stay_when_nobody_reads_and_room_comes_back() {
    let mut host = Host::new();
    let socket = host.bind_with(OURS, (4096, 4096));
    for n in 0..100 {
        let payload: &'static [u8] = if n < 10 { b"early" } else { b"later" };
        host.recv_datagram(PEER, OURS, payload);
    }
    let room = 4096 / (256 + 5);
    assert_eq!(host.engine.counters().drop_datagram, 100 - room);
    assert_eq!(socket.dropped(), 100 - room);
    let first = socket.try_recv().unwrap();
    assert_eq!(first.payload, b"early"[..]);
    host.recv_datagram(PEER, OURS, b"again");
    assert_eq!(socket.dropped(), 100 - room);

    let mut queued = 0;
    while socket.try_send(b"12345", Target::To(addr(PEER))).is_ok() {
        queued += 1;
    }
    assert_eq!(queued, room);
    host.look();
    assert_eq!(host.sent.len() as u64, room);
    socket.try_send(b"12345", Target::To(addr(PEER))).unwrap();
}

#[test]
fn all_sockets_together_are_bounded_too() {
    let mut config = Config::default();
    config.memory(1 << 20);
    let mut host = Host::with(config);
    let sockets: Vec<_> = (1..=8)
        .map(|port| host.bind(&format!("192.168.0.1:{port}")))
        .collect();
    let long: &'static [u8] = &[7; 1400];
    for port in 1..=8 {
        for _ in 0..120 {
            host.recv_datagram(PEER, &format!("192.168.0.1:{port}"), long);
        }
    }
    let taken = host.engine.counters().datagrams_received;
    let held = taken * (1400 + 256);
    assert!(held > (1 << 20) / 6 && held <= (1 << 20) / 4, "{held}");
    let full = sockets[0]
        .try_send(long, Target::To(addr(PEER)))
        .unwrap_err();
    assert_eq!(kind(full), std::io::ErrorKind::OutOfMemory);
    sockets.iter().for_each(|socket| socket.close());
    host.look();
    let socket = host.bind(OURS);
    host.recv_datagram(PEER, OURS, long);
    assert!(socket.try_recv().is_ok(), "what they held is free");
}

#[test]
fn what_was_sent_before_the_drop_still_goes() {
    let mut host = Host::new();
    let socket = host.bind(OURS);
    for _ in 0..3 {
        socket.try_send(b"last", Target::To(addr(PEER))).unwrap();
    }
    socket.close();
    let next = host.bind(OURS);
    next.try_send(b"next", Target::To(addr(PEER))).unwrap();
    let mut sent: Vec<_> = (0..4).map(|_| host.sent().2).collect();
    sent.sort();
    assert_eq!(sent, [&b"last"[..], b"last", b"last", b"next"]);
    host.recv_datagram(PEER, OURS, b"x");
    assert!(next.try_recv().is_ok());
}

#[test]
fn connections_and_datagrams_take_turns() {
    let mut host = Host::new();
    let [one, other] = ["192.168.0.1:1", "192.168.0.1:2"].map(|local| host.bind(local));
    for _ in 0..50 {
        for socket in [&one, &other] {
            socket.try_send(b"x", Target::To(addr(PEER))).unwrap();
        }
    }
    for n in 0..50 {
        host.engine
            .connect(format!("192.0.2.1:{}", 100 + n).parse().unwrap(), host.now)
            .unwrap();
    }
    host.look();
    let kinds: Vec<_> = host.sent.iter().map(|packet| packet.first()[9]).collect();
    assert_eq!(kinds.len(), 150);
    let early = &kinds[..60];
    for protocol in [protocol::TCP, protocol::UDP] {
        let share = early.iter().filter(|kind| **kind == protocol).count();
        assert!(share >= 20, "{share} of {protocol}");
    }
}

#[test]
fn datagrams_to_ourselves_never_see_the_device() {
    let mut host = Host::new();
    let server = host.bind("0.0.0.0:53");
    let client = host.bind("[::]:99");
    for (to, from) in [
        ("192.168.0.1:53", "192.168.0.1:99"),
        ("127.0.0.1:53", "127.0.0.1:99"),
        ("127.9.9.9:53", "127.0.0.1:99"),
        ("0.0.0.0:53", "127.0.0.1:99"),
    ] {
        client.try_send(b"hello", Target::To(addr(to))).unwrap();
        host.silence();
        let got = server.try_recv().unwrap();
        assert_eq!(got.peer, addr(from), "{to}");
        server.try_send(b"back", Target::To(got.peer)).unwrap();
        host.silence();
        // To a socket of IPv6, addresses of IPv4 are mapped ones.
        let back = client.try_recv().unwrap().peer;
        assert_eq!(back.ip().to_canonical(), addr(from).ip(), "{to}");
        assert!(back.is_ipv6() && back.port() == 53);
    }
    let v6 = host.bind("[::1]:53");
    client
        .try_send(b"six", Target::To(addr("[::1]:53")))
        .unwrap();
    host.silence();
    assert_eq!(v6.try_recv().unwrap().peer, addr("[::1]:99"));
    // A closed port of our own is told to ourselves.
    client.connect(addr("127.0.0.1:7")).unwrap();
    client.try_send(b"x", Target::Connected).unwrap();
    host.silence();
    let refused = client.try_recv().unwrap_err();
    assert_eq!(kind(refused), std::io::ErrorKind::ConnectionRefused);
    // From a loopback address nothing goes out.
    let inner = host.bind("127.0.0.1:1000");
    let out = inner.try_send(b"x", Target::To(addr(PEER))).unwrap_err();
    assert_eq!(kind(out), std::io::ErrorKind::InvalidInput);
    host.silence();
}

/// Answers the echo request that was sent.
fn echo(host: &mut Host) -> Packet {
    let (packet, ip) = host.sent_packet();
    let Ok(IcmpMessage::EchoRequest { echo, .. }) = icmp::parse(&packet, &ip) else {
        panic!("no echo request");
    };
    let payload = packet.into_payload(ip.header_len + icmp::HEADER_LEN, ip.total_len);
    let reply = icmp::echo_reply(&ip, echo, 0, payload, 64);
    Packet::received(reply.to_vec().into(), Meta::default())
}

type Answer = oneshot::Receiver<Result<Duration, Failure>>;

fn ping(host: &mut Host, to: &str) -> Answer {
    let (reply, answer) = oneshot::channel();
    let command = Command::Ping {
        to: to.parse().unwrap(),
        payload: Bytes::from_static(b"are you there?"),
        reply,
    };
    host.engine.on_command(command, host.now);
    answer
}

#[test]
fn a_ping_is_answered_with_the_time_it_took() {
    for to in ["192.0.2.1", "2001:db8::1"] {
        let mut host = Host::new();
        let mut answer = ping(&mut host, to);
        let reply = echo(&mut host);
        host.now += Duration::from_millis(30);
        assert!(answer.try_recv().is_err());
        host.recv(reply.clone());
        assert_eq!(answer.try_recv(), Ok(Ok(Duration::from_millis(30))));
        host.recv(reply);
        assert_eq!(host.engine.counters().drop_icmp, 1, "answered already");
    }
}

#[test]
fn a_ping_believes_only_the_one_it_asked() {
    let mut host = Host::new();
    let mut answer = ping(&mut host, "192.0.2.1");
    let (packet, ip) = host.sent_packet();
    let Ok(IcmpMessage::EchoRequest { echo, .. }) = icmp::parse(&packet, &ip) else {
        panic!("no echo request");
    };
    let from = |src: &str, ident| {
        let ip = IpHeader {
            dst: src.parse().unwrap(),
            ..ip
        };
        let echo = Echo { ident, ..echo };
        let reply = icmp::echo_reply(&ip, echo, 0, Payload::new(), 64);
        Packet::received(reply.to_vec().into(), Meta::default())
    };
    host.recv(from("192.0.2.2", echo.ident));
    host.recv(from("192.0.2.1", !echo.ident));
    assert!(answer.try_recv().is_err());
    host.recv(report(&packet, Report::Host));
    assert_eq!(answer.try_recv(), Ok(Err(Failure::HostUnreachable)));
}

#[test]
fn a_ping_to_ourselves_is_answered_within() {
    let mut host = Host::new();
    for to in ["192.168.0.1", "127.0.0.1", "fd00::1", "::1"] {
        let mut answer = ping(&mut host, to);
        host.silence();
        assert_eq!(answer.try_recv(), Ok(Ok(Duration::ZERO)), "{to}");
    }
    let mut nowhere = ping(&mut host, "224.0.0.1");
    assert_eq!(nowhere.try_recv(), Ok(Err(Failure::NetworkUnreachable)));
}

#[test]
fn pings_that_nobody_waits_for_make_room_and_the_rest_is_bounded() {
    let mut host = Host::new();
    let mut waiting = Vec::new();
    for n in 0..10_000 {
        let answer = ping(&mut host, "192.0.2.1");
        if n % 2 == 0 {
            waiting.push(answer);
        }
    }
    let refusal = |answer: &mut Answer| answer.try_recv() == Ok(Err(Failure::NoMemory));
    let refused = waiting.iter_mut().map(refusal);
    let refused = refused.filter(|refused| *refused).count();
    assert_eq!(waiting.len() - refused, 4096);
}

#[test]
fn any_bytes_in_a_datagram_or_a_report_of_one_are_survived() {
    let mut rng = crate::testing::Rng::new(9);
    let mut host = Host::new();
    let socket = host.bind(OURS);
    socket.connect(addr(PEER)).unwrap();
    let _any = host.any();
    socket.try_send(b"x", Target::Connected).unwrap();
    let (packet, _) = host.sent_packet();
    let samples = [
        datagram(PEER, OURS, b"a datagram").to_vec(),
        report(&packet, Report::Port).to_vec(),
    ];
    for round in 0..50_000 {
        let mut bytes = samples[round % 2].clone();
        for _ in 0..=rng.below(3) {
            let at = 20 + rng.below(bytes.len() - 20);
            bytes[at] = rng.next() as u8;
        }
        bytes.truncate(20 + rng.below(bytes.len()));
        let len = (bytes.len() as u16).to_be_bytes();
        bytes[2..4].copy_from_slice(&len);
        bytes[10..12].fill(0);
        let sum = crate::checksum::sum(&bytes[..20]).finish();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let meta = Meta {
            checksum: crate::packet::Checksum::Verified,
            ..Meta::default()
        };
        host.recv(Packet::received(bytes.into(), meta));
        let _ = socket.try_recv();
        host.sent.clear();
    }
    assert!(host.engine.counters().datagrams_received > 0);
}
