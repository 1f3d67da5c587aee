//! Rows of `docs/conformance.md` that no other script is about.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{pair::pattern, script::Script};
use crate::{
    config::{Config, SocketOptions},
    engine::slots::Slot,
    info::State,
    packet::{Meta, Packet},
    wire::tcp::Flags,
};

const V6_PEER: &str = "[2001:db8::1]:49152";
const V6_LOCAL: &str = "[fd00::1]:8080";

/// Accepted with these options on the peer's SYN, over IPv6 if `v6`.
fn accepted(options: &str, v6: bool) -> Script {
    let mut s = Script::new(Config::default());
    if v6 {
        (s.peer, s.local) = (V6_PEER.parse().unwrap(), V6_LOCAL.parse().unwrap());
    }
    s.listener = Some(s.engine.listen(s.local, 4).unwrap());
    s.recv(&format!("S 0:0(0) win 65535 <{options}>"));
    assert!(
        s.next()
            .expect("a SYN-ACK")
            .header
            .flags
            .has(Flags::SYN | Flags::ACK)
    );
    s.recv(". 1:1(0) ack 1 win 65535");
    s.accept();
    s
}

/// Bytes of a full segment.
fn segment(s: &mut Script) -> usize {
    s.write(0, 5000);
    let sent = s.next().expect("data");
    if sent.gso_size > 0 {
        usize::from(sent.gso_size)
    } else {
        sent.payload.len()
    }
}

#[test]
fn must1_windows_are_unsigned_and_wider_than_16_bits() {
    let mut s = Script::accepted_with(Config::default(), "mss 1000,wscale 14", 65_535);
    s.recv(". 1:1(0) ack 1 win 65535");
    let info = s.engine.info(s.id()).unwrap();
    assert_eq!(info.snd_wnd, 65_535 << 14);
}

#[test]
fn must15_without_an_mss_option_a_segment_has_536_bytes_and_1220_over_ipv6() {
    assert_eq!(segment(&mut accepted("", false)), 536);
    assert_eq!(segment(&mut accepted("", true)), 1220);
}

#[test]
fn must16_a_segment_is_the_smaller_of_the_peers_mss_and_the_path_less_options() {
    assert_eq!(segment(&mut accepted("mss 1000", false)), 1000);
    assert_eq!(segment(&mut accepted("mss 9000", false)), 1460);
    assert_eq!(segment(&mut accepted("mss 9000", true)), 1440);
    let mut s = Script::accepted_with(Config::default(), "mss 9000,TS val 100 ecr 0", 65_535);
    assert_eq!(segment(&mut s), 1448);
}

#[test]
fn must14_every_syn_tells_our_mss_and_nothing_else_does() {
    for (mtu, mss) in [(1500, 1460), (576, 536), (9000, 8960), (65_535, 65_495)] {
        let mut s = Script::with_mtu(Config::default(), mtu);
        s.connect();
        assert_eq!(
            s.next().unwrap().header.options.mss,
            Some(mss),
            "SYN at MTU {mtu}"
        );
        s.recv("S. 0:0(0) ack 1 win 65535 <mss 1000>");
        s.write(0, 10);
        s.shutdown();
        for sent in s.drain() {
            // Not even as what is skipped when it is read.
            assert_eq!(sent.header.header_len, 20, "{}", sent.text);
        }
        let mut s = Script::with_mtu(Config::default(), mtu);
        s.listener = Some(s.engine.listen(s.local, 4).unwrap());
        s.recv("S 0:0(0) win 65535");
        assert_eq!(
            s.next().unwrap().header.options.mss,
            Some(mss),
            "SYN-ACK at MTU {mtu}"
        );
    }
}

#[test]
fn must41_a_second_listen_fails_and_must42_connections_do_not_prevent_a_first() {
    let mut s = Script::accepted(Config::default());
    assert_eq!(
        s.engine.listen(s.local, 4).unwrap_err().kind(),
        ErrorKind::AddrInUse
    );
    let first = s.listener.unwrap();
    // One connection more, in SYN-RECEIVED.
    s.peer.set_port(50_000);
    s.recv("S 0:0(0) win 65535");
    s.drain();
    s.engine.close(first, s.now);
    s.listener = Some(s.engine.listen(s.local, 4).unwrap());
    assert_eq!(s.state(), Some(State::Established));
    s.peer.set_port(50_001);
    s.recv("S 0:0(0) win 65535");
    assert!(
        s.next()
            .is_some_and(|sent| sent.header.flags.has(Flags::SYN | Flags::ACK))
    );
}

#[test]
fn must42_a_port_that_connects_can_listen() {
    let mut s = Script::connecting(Config::default());
    s.sent("S 0:0(0)");
    s.listener = Some(s.engine.listen(s.local, 4).unwrap());
    assert_eq!(s.state(), Some(State::SynSent));
}

#[test]
fn must44_the_source_address_is_of_the_peers_family_and_must45_stays() {
    for peer in ["192.0.2.1:80", V6_PEER] {
        let mut s = Script::new(Config::default());
        s.peer = peer.parse().unwrap();
        s.connect();
        let ours: IpAddr = if s.peer.is_ipv4() {
            "192.168.0.1"
        } else {
            "fd00::1"
        }
        .parse()
        .unwrap();
        assert_eq!(s.local.ip(), ours);
        s.sent("S 0:0(0)");
        // The answer finds the connection only at the address and port that the SYN came from.
        s.recv("S. 0:0(0) ack 1 win 65535");
        s.sent(". 1:1(0) ack 1");
        assert_eq!(s.state(), Some(State::Established));
    }
}

#[test]
fn must46_a_connect_to_what_is_no_host_fails_at_once() {
    for peer in [
        "224.0.0.1:80",
        "255.255.255.255:80",
        "192.168.255.255:80",
        "[ff02::1]:80",
    ] {
        let mut s = Script::new(Config::default());
        let refused = s.engine.connect(peer.parse().unwrap(), s.now);
        assert_eq!(
            refused.unwrap_err().kind(),
            ErrorKind::NetworkUnreachable,
            "{peer}"
        );
        s.silence();
    }
}

#[test]
fn must63_a_syn_from_what_is_no_host_is_not_answered() {
    for peer in [
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "127.0.0.1",
        "240.0.0.1",
        "192.168.0.1",
    ] {
        let mut s = Script::listening(Config::default(), 4);
        s.peer.set_ip(peer.parse().unwrap());
        s.recv("S 0:0(0) win 65535");
        s.silence();
        assert_eq!(s.counters().drop_martian, 1, "{peer}");
    }
}

#[test]
fn must57_a_segment_to_many_is_not_answered() {
    for local in ["224.0.0.1", "255.255.255.255", "192.168.255.255"] {
        for segment in ["S 0:0(0) win 65535", ". 1:1(0) ack 1", "P. 1:4(3) ack 1"] {
            let mut s = Script::listening(Config::default(), 4);
            s.local.set_ip(local.parse().unwrap());
            s.recv(segment);
            s.silence();
            assert_eq!(s.counters().drop_not_ours, 1, "{segment} to {local}");
        }
    }
}

#[test]
fn must48_must49_every_segment_has_the_ttl_and_the_diffserv_field_that_were_set() {
    let mut config = Config::default();
    config.options(SocketOptions {
        ttl: 7,
        tos: 0xb8,
        ..SocketOptions::default()
    });
    let mut s = Script::listening(config, 4);
    let check = |s: &mut Script, ttl: u8, tos: u8| {
        let sent = s.next().expect("a segment");
        assert_eq!((sent.ttl, sent.tos), (ttl, tos), "{}", sent.text);
    };
    s.recv("S 0:0(0) win 65535");
    check(&mut s, 7, 0xb8);
    s.recv("P. 1:4(3) ack 1 win 65535");
    check(&mut s, 7, 0xb8);
    s.accept();
    s.write(0, 5);
    check(&mut s, 7, 0xb8);
    // SHLD-21: and they may change.
    let index = s.engine.slots.resolve(s.id()).unwrap();
    let Some(Slot::Open(connection)) = s.engine.slots.get(index).map(|entry| &entry.slot) else {
        panic!("open")
    };
    connection
        .link
        .set_options(|options| (options.ttl, options.tos) = (9, 0x28));
    s.recv(". 4:4(0) ack 6 win 65535");
    s.write(5, 5);
    check(&mut s, 9, 0x28);
}

#[test]
fn must59_what_came_together_is_acknowledged_together() {
    let mut s = Script::accepted(Config::default());
    let together = [
        ". 1:1001(1000) ack 1",
        ". 1001:2001(1000) ack 1",
        ". 2001:3001(1000) ack 1",
    ];
    for text in together {
        let packet = s.packet(text);
        s.engine.on_packet(packet, s.now);
    }
    s.sent(". 1:1(0) ack 3001");
    s.silence();
}

#[test]
fn u10_listen_takes_nothing_but_a_syn() {
    for (segment, answer) in [
        ("R 0:0(0)", None),
        ("R. 0:0(0) ack 1", None),
        ("F 0:0(0)", None),
        ("- 0:0(0)", None),
        ("P 0:3(3)", None),
        (". 0:0(0) ack 77", Some("R 77:77(0)")),
        ("S. 0:0(0) ack 77", Some("R 77:77(0)")),
        ("F. 0:0(0) ack 77", Some("R 77:77(0)")),
    ] {
        let mut s = Script::listening(Config::default(), 4);
        s.recv(segment);
        match answer {
            Some(answer) => drop(s.sent(answer)),
            None => s.silence(),
        }
        s.silence();
        assert_eq!(s.engine.sockets(s.now).len(), 1, "{segment}");
    }
}

#[test]
fn u15_a_segment_without_ack_is_dropped() {
    let mut s = Script::accepted(Config::default());
    s.recv("P 1:11(10) win 65535");
    s.recv("F 1:1(0) win 65535");
    s.silence();
    assert_eq!(s.state(), Some(State::Established));
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(s.counters().drop_bad_flags, 2);
}

#[test]
fn u16_an_older_segment_does_not_set_the_window() {
    let mut s = Script::accepted(Config::default());
    let window = |s: &Script| s.engine.info(s.id()).unwrap().snd_wnd;
    s.recv(". 1:11(10) ack 1 win 5000");
    assert_eq!(window(&s), 5000);
    s.write(0, 100);
    s.recv(". 11:21(10) ack 101 win 4000");
    assert_eq!(window(&s), 4000);
    // It lies before the last that set it.
    s.recv(". 1:1(0) ack 101 win 9000");
    assert_eq!(window(&s), 4000);
    // The same number, and an older acknowledgement.
    s.recv(". 21:21(0) ack 101 win 3000");
    s.recv(". 21:21(0) ack 1 win 9000");
    assert_eq!(window(&s), 3000);
    s.recv(". 21:21(0) ack 101 win 9000");
    assert_eq!(window(&s), 9000);
    // What comes before its turn is newer than what fills the hole before it.
    s.recv(". 31:41(10) ack 101 win 2000");
    assert_eq!(window(&s), 2000);
    s.recv(". 21:21(0) ack 101 win 9000");
    s.recv(". 21:31(10) ack 101 win 8000");
    assert_eq!(window(&s), 2000);
    s.recv(". 41:41(0) ack 101 win 8000");
    assert_eq!(window(&s), 8000);
}

#[test]
fn u21_the_fin_goes_behind_what_was_written() {
    let mut s = Script::accepted_with(Config::default(), "mss 500", 1300);
    s.write(0, 4500);
    s.close();
    let (mut at, mut ended) = (0, false);
    while !ended {
        let sent = s.next().expect("a segment");
        assert_eq!(
            sent.payload,
            pattern(at, sent.payload.len()),
            "{}",
            sent.text
        );
        at += sent.payload.len();
        ended = sent.header.flags.has(Flags::FIN);
        s.recv(&format!(
            ". 1:1(0) ack {} win 1300",
            1 + at + usize::from(ended)
        ));
    }
    assert_eq!(at, 4500);
}

/// The checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// An ICMP error of a router about what `local` sent to `peer` with this sequence number.
fn icmp(s: &Script, (kind, code, rest): (u8, u8, u32), seq: u32) -> Packet {
    fn ip(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let total = (20 + len) as u16;
                let mut ip = vec![
                    0x45,
                    0,
                    (total >> 8) as u8,
                    total as u8,
                    0,
                    0,
                    0x40,
                    0,
                    64,
                    protocol,
                    0,
                    0,
                ];
                ip.extend(src.octets());
                ip.extend(dst.octets());
                let sum = checksum(&ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                ip
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut ip = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, protocol, 64];
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip
            }
            _ => unreachable!("one family"),
        }
    }
    let v4 = s.local.is_ipv4();
    let router: IpAddr = if v4 { "192.0.2.254" } else { "2001:db8::fe" }
        .parse()
        .unwrap();
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest.to_be_bytes());
    body.extend(ip(s.local.ip(), s.peer.ip(), 6, 1480));
    body.extend(s.local.port().to_be_bytes());
    body.extend(s.peer.port().to_be_bytes());
    body.extend(seq.to_be_bytes());
    let mut summed = body.clone();
    if let (IpAddr::V6(src), IpAddr::V6(dst)) = (router, s.local.ip()) {
        summed.extend(src.octets());
        summed.extend(dst.octets());
        summed.extend((body.len() as u32).to_be_bytes());
        summed.extend([0, 0, 0, 58]);
    }
    let sum = checksum(&summed);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = ip(router, s.local.ip(), if v4 { 1 } else { 58 }, body.len());
    packet.extend(body);
    Packet::received(packet.into(), Meta::default())
}

/// RFC 9293 §3.9.2.2: what may pass.
const SOFT_V4: [(u8, u8, u32); 6] = [
    (3, 0, 0),
    (3, 1, 0),
    (3, 5, 0),
    (11, 0, 0),
    (11, 1, 0),
    (12, 0, 0),
];
const SOFT_V6: [(u8, u8, u32); 7] = [
    (1, 0, 0),
    (1, 3, 0),
    (3, 0, 0),
    (3, 1, 0),
    (4, 0, 0),
    (4, 1, 0),
    (4, 2, 0),
];

fn connecting(v6: bool) -> (Script, u32) {
    let mut s = Script::new(Config::default());
    if v6 {
        s.peer = V6_PEER.parse::<SocketAddr>().unwrap();
    }
    s.connect();
    let seq = s.sent("S 0:0(0)").header.seq.raw();
    (s, seq)
}

#[test]
fn must56_soft_errors_end_neither_a_connection_nor_an_attempt() {
    for v6 in [false, true] {
        let soft: &[_] = if v6 { &SOFT_V6 } else { &SOFT_V4 };
        for kind in soft {
            let (mut s, seq) = connecting(v6);
            let error = icmp(&s, *kind, seq);
            s.recv_packet(error);
            assert_eq!(s.state(), Some(State::SynSent), "{kind:?}");
            assert_eq!(s.counters().drop_icmp, 0, "{kind:?}");

            let mut s = accepted("mss 1000", v6);
            s.write(0, 100);
            let seq = s.next().expect("data").header.seq.raw();
            let error = icmp(&s, *kind, seq);
            s.recv_packet(error);
            assert_eq!(s.state(), Some(State::Established), "{kind:?}");
        }
    }
}

#[test]
fn must54_an_icmp_error_finds_its_connection_and_what_it_said_is_told_at_the_end() {
    for (v6, kind) in [(false, (3, 1, 0)), (true, (1, 3, 0))] {
        let (mut s, seq) = connecting(v6);
        let error = icmp(&s, kind, seq);
        s.recv_packet(error);
        assert_eq!(s.counters().icmp_errors, 1);
        s.wait(Duration::from_secs(300));
        assert_eq!(s.read().unwrap_err().kind(), ErrorKind::HostUnreachable);
    }
}

#[test]
fn shld26_a_hard_error_ends_an_attempt_and_no_connection() {
    for (v6, kind) in [(false, (3, 2, 0)), (false, (3, 3, 0)), (true, (1, 4, 0))] {
        let (mut s, seq) = connecting(v6);
        let error = icmp(&s, kind, seq);
        s.recv_packet(error);
        assert_eq!(
            s.read().unwrap_err().kind(),
            ErrorKind::ConnectionRefused,
            "{kind:?}"
        );

        let mut s = accepted("mss 1000", v6);
        s.write(0, 100);
        let seq = s.next().expect("data").header.seq.raw();
        let error = icmp(&s, kind, seq);
        s.recv_packet(error);
        assert_eq!(s.state(), Some(State::Established), "{kind:?}");
    }
}

#[test]
fn must55_source_quench_changes_nothing() {
    let mut s = accepted("mss 1000", false);
    s.write(0, 100);
    let seq = s.next().expect("data").header.seq.raw();
    let cwnd = s.engine.info(s.id()).unwrap().cwnd;
    let quench = icmp(&s, (4, 0, 0), seq);
    s.recv_packet(quench);
    s.silence();
    assert_eq!(s.info().soft_error, None);
    assert_eq!(s.engine.info(s.id()).unwrap().cwnd, cwnd);
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn u25_a_packet_too_big_makes_segments_smaller_and_sends_what_was_lost_again() {
    for (v6, kind, mss) in [(false, (3, 4, 1300), 1260), (true, (2, 0, 1300), 1240)] {
        let mut s = accepted("mss 9000", v6);
        s.write(0, 5000);
        let first = s.next().expect("data");
        assert!(usize::from(first.gso_size) > mss, "{}", first.text);
        s.drain();
        let seq = first.header.seq.raw();
        let error = icmp(&s, kind, seq);
        s.recv_packet(error);
        assert_eq!(s.engine.info(s.id()).unwrap().path_mtu, 1300);
        let again = s.next().expect("what was lost");
        let size = if again.gso_size > 0 {
            usize::from(again.gso_size)
        } else {
            again.payload.len()
        };
        assert_eq!((again.header.seq.raw(), size), (seq, mss));
    }
}

#[test]
fn shld2_a_reset_may_carry_data() {
    let mut s = Script::accepted(Config::default());
    s.recv("R 1:31(30)");
    s.silence();
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn must23_seven_repetitions_of_a_syn_take_more_than_three_minutes() {
    let mut config = Config::default();
    config.syn_retries(7);
    let mut s = Script::connecting(config);
    s.wait(Duration::from_secs(181));
    assert_eq!(s.state(), Some(State::SynSent));
    assert_eq!(s.drain().len(), 8);
    s.wait(Duration::from_secs(200));
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::TimedOut);
}

/// RFC 3168 §6.1.1: ECT is never set on a SYN, so somebody on the way plays with the bits.
#[test]
fn shld8_a_syn_that_is_marked_itself_agrees_on_nothing() {
    let mut s = Script::listening(Config::default(), 4);
    s.recv_marked("SEW 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
}

#[test]
fn shld8_a_mark_is_echoed_until_the_peer_has_reduced() {
    let mut s = Script::listening(Config::default(), 4);
    s.recv("SEW 0:0(0) win 65535 <mss 1000>");
    s.sent("SE. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    s.recv_marked(". 1:1001(1000) ack 1");
    s.sent("E. 1:1(0) ack 1001");
    s.recv(". 1001:2001(1000) ack 1");
    s.sent("E. 1:1(0) ack 2001");
    s.recv("W. 2001:3001(1000) ack 1");
    s.sent(". 1:1(0) ack 3001");
    // And an echo halves what we send, once, which the next data tells.
    let cwnd = s.engine.info(s.id()).unwrap().cwnd;
    s.write(0, 1000);
    assert_eq!(s.next().expect("data").tos & 3, 2);
    s.recv("E. 3001:3001(0) ack 1001");
    assert!(s.engine.info(s.id()).unwrap().cwnd < cwnd);
    s.write(1000, 1000);
    assert!(s.next().expect("data").header.flags.has(Flags::CWR));
}
