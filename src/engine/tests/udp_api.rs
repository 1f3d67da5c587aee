//! UDP for those who drive the engine themselves, and what that leaves behind.

use std::{collections::VecDeque, io::ErrorKind, net::SocketAddr, time::Instant};

use super::script::Script;
use crate::{
    config::Config,
    engine::Engine,
    info::{Protocol, State},
};

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "any moment to begin with")]
fn now() -> Instant {
    Instant::now()
}

fn engine(config: Config, net: &str, now: Instant) -> Engine {
    Engine::new(config, &[net.parse().unwrap()], 1500, now)
}

/// Carries packets both ways until there are none.
fn exchange(one: &mut Engine, other: &mut Engine, now: Instant) {
    let mut packets = VecDeque::new();
    loop {
        one.poll_packet(now, 64, &mut packets);
        packets
            .drain(..)
            .for_each(|packet| other.on_packet(packet, now));
        other.poll_packet(now, 64, &mut packets);
        if packets.is_empty() {
            return;
        }
        packets
            .drain(..)
            .for_each(|packet| one.on_packet(packet, now));
    }
}

#[test]
fn datagrams_go_to_and_fro_by_id_and_are_seen_in_the_netstat_view() {
    let now = now();
    let mut server = engine(Config::default(), "10.0.0.1/24", now);
    let mut client = engine(Config::default(), "10.0.0.2/24", now);
    let bound = server.bind_udp(addr("0.0.0.0:53")).unwrap();
    let asker = client.bind_udp(addr("10.0.0.2:0")).unwrap();
    assert_eq!(
        server.recv_from(bound).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    client.connect_udp(asker, addr("10.0.0.1:53")).unwrap();
    client
        .send_to(asker, b"who?", addr("10.0.0.1:53"), now)
        .unwrap();
    exchange(&mut client, &mut server, now);

    let row = |engine: &Engine| {
        let sockets = engine.sockets(now);
        assert_eq!((sockets.len(), sockets[0].protocol), (1, Protocol::Udp));
        (
            sockets[0].state,
            sockets[0].local,
            sockets[0].peer,
            sockets[0].recv_queue > 0,
        )
    };
    assert_eq!(
        row(&server),
        (State::Closed, addr("0.0.0.0:53"), None, true)
    );
    let question = server.recv_from(bound).unwrap();
    assert_eq!(
        (&question.payload[..], question.to),
        (&b"who?"[..], addr("10.0.0.1:53"))
    );
    assert_eq!(Some(question.from), client.udp_addr(asker));
    server.send_to(bound, b"me", question.from, now).unwrap();
    exchange(&mut client, &mut server, now);
    let peer = Some(addr("10.0.0.1:53"));
    assert_eq!(
        row(&client),
        (State::Established, question.from, peer, true)
    );
    assert_eq!(client.recv_from(asker).unwrap().payload, "me");

    // The port is free at once, and a connected socket hears of it.
    server.close(bound, now);
    assert!(server.sockets(now).is_empty());
    assert_eq!(
        server.recv_from(bound).unwrap_err().kind(),
        ErrorKind::NotConnected
    );
    client
        .send_to(asker, b"?", addr("10.0.0.1:53"), now)
        .unwrap();
    exchange(&mut client, &mut server, now);
    assert_eq!(
        client.recv_from(asker).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    server.bind_udp(addr("10.0.0.1:53")).unwrap();
}

#[test]
fn datagrams_to_any_destination_are_answered_from_there() {
    let now = now();
    let mut gateway = engine(Config::default(), "10.0.0.1/24", now);
    let mut client = engine(Config::default(), "10.0.0.2/24", now);
    let any = gateway.any_udp().unwrap();
    assert_eq!(gateway.any_udp().unwrap_err().kind(), ErrorKind::AddrInUse);
    let asker = client.bind_udp(addr("10.0.0.2:4000")).unwrap();
    let error = client.send_from_to(asker, b"", addr("9.9.9.9:1"), addr("8.8.8.8:1"), now);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
    client
        .send_to(asker, b"who?", addr("9.9.9.9:53"), now)
        .unwrap();
    exchange(&mut client, &mut gateway, now);
    let question = gateway.recv_from(any).unwrap();
    assert_eq!(question.to, addr("9.9.9.9:53"));
    gateway
        .send_from_to(any, b"me", question.to, question.from, now)
        .unwrap();
    exchange(&mut client, &mut gateway, now);
    assert_eq!(client.recv_from(asker).unwrap().from, addr("9.9.9.9:53"));
    gateway.close(any, now);
    gateway.any_udp().unwrap();
}

#[test]
fn datagrams_nobody_reads_stay_within_a_quarter_of_the_stacks_memory() {
    let now = now();
    let mut config = Config::default();
    config.memory(4 << 20).udp_recv_buffer(64 << 20);
    let mut server = engine(config, "10.0.0.1/24", now);
    let mut client = engine(Config::default(), "10.0.0.2/24", now);
    server.bind_udp(addr("10.0.0.1:53")).unwrap();
    let asker = client.bind_udp(addr("10.0.0.2:4000")).unwrap();
    for _ in 0..6000 {
        client
            .send_to(asker, &[0; 1000], addr("10.0.0.1:53"), now)
            .unwrap();
        exchange(&mut client, &mut server, now);
    }
    let held = server.sockets(now)[0].recv_queue;
    assert!(held > 512 << 10 && held <= 1 << 20, "{held}");
    assert!(server.counters().drop_datagram > 0);
    // The rest is there for connections.
    server.listen(addr("10.0.0.1:80"), 16).unwrap();
    client.connect(addr("10.0.0.1:80"), now).unwrap();
    exchange(&mut client, &mut server, now);
    assert_eq!(server.sockets(now).len(), 3);
}

#[test]
fn without_a_reactor_nothing_that_rang_piles_up() {
    let mut s = Script::accepted(Config::default());
    for i in 0..1000_u32 {
        let (seq, next) = (1 + i, 2 + i);
        s.recv(&format!("P. {seq}:{next}(1) ack {seq} win 65535"));
        s.read().unwrap();
        s.write(i as usize, 1);
        s.drain();
    }
    assert_eq!(s.engine.doorbell().pop_rung(), None);
}
