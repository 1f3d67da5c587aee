//! ICMP errors of both families (RFC 5927): what is believed, and what it changes.

use std::{io::ErrorKind, time::Duration};

use super::{
    family::{BOTH, Complaint, Family, complain},
    raw,
    script::Script,
};
use crate::{config::Config, info::State};

const UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;

fn sending(family: Family) -> Script {
    let mut s = family.accepted();
    s.write(0, 5000);
    s.drain();
    s
}

fn syn_sent(family: Family) -> Script {
    let mut s = family.script();
    s.connect();
    s.sent("S 0:0(0)");
    s
}

#[test]
fn b9_no_error_ends_a_connection_whatever_it_quotes() {
    let v4 = [
        (3, 0),
        (3, 1),
        (3, 2),
        (3, 3),
        (3, 13),
        (SOURCE_QUENCH, 0),
        (11, 0),
        (12, 0),
    ];
    let unreachable = (0..=7).map(|code| (1, code));
    let v6 = unreachable.chain([(3, 0), (3, 1), (4, 0), (4, 1), (4, 2)]);
    for (family, kinds) in BOTH.into_iter().zip([v4.to_vec(), v6.collect()]) {
        let mut s = sending(family);
        let cwnd = s.info().cwnd;
        for (kind, code) in &kinds {
            for seq in [1, 5000, 5001, 6000, 0, 1 << 30] {
                complain(&mut s, Complaint::Other(*kind, *code), seq);
            }
        }
        s.silence();
        assert_eq!(s.state(), Some(State::Established));
        assert_eq!(s.info().cwnd, cwnd);
        assert_eq!(s.counters().drop_icmp as usize, kinds.len() * 4);
        s.recv(". 1:1(0) ack 5001");
        assert_eq!(s.info().acked, 5000);
    }
}

#[test]
fn b9_a_soft_error_is_what_a_timeout_is_reported_as() {
    for family in BOTH {
        let mut s = sending(family);
        complain(&mut s, Complaint::Host, 1);
        s.wait(Duration::from_secs(2000));
        s.drain();
        assert_eq!(s.read().unwrap_err().kind(), ErrorKind::HostUnreachable);
    }
}

#[test]
fn b9_an_unreachable_port_fails_an_attempt_to_connect_at_once() {
    // IPv4 knows protocols that cannot be reached as well.
    let protocol = Complaint::Other(3, 2);
    for (family, complaint) in [
        (Family::V4, Complaint::Port),
        (Family::V4, protocol),
        (Family::V6, Complaint::Port),
    ] {
        let mut s = syn_sent(family);
        complain(&mut s, complaint, 0);
        assert_eq!(s.state(), Some(State::Closed));
        assert_eq!(s.read().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        s.wait_ms(10_000);
        s.silence();
    }
}

#[test]
fn b9_a_wrong_quote_fails_nothing() {
    for family in BOTH {
        let mut s = syn_sent(family);
        complain(&mut s, Complaint::Port, 1);
        complain(&mut s, Complaint::Port, u32::MAX);
        let peer = s.peer;
        s.peer.set_port(1);
        complain(&mut s, Complaint::Port, 0);
        let elsewhere = match family {
            Family::V4 => "192.0.2.2:49152",
            Family::V6 => "[2001:db8::2]:49152",
        };
        s.peer = elsewhere.parse().unwrap();
        complain(&mut s, Complaint::Port, 0);
        s.peer = peer;
        assert_eq!(s.state(), Some(State::SynSent));
        assert_eq!(s.counters().drop_icmp, 4);
    }
}

#[test]
fn b9_soft_errors_let_an_attempt_go_on() {
    let no_route = Complaint::Other(3, 0);
    for (family, complaint) in [
        (Family::V4, no_route),
        (Family::V4, Complaint::Host),
        (Family::V4, Complaint::TimeExceeded),
        (Family::V6, Complaint::Other(1, 0)),
        (Family::V6, Complaint::Host),
        (Family::V6, Complaint::TimeExceeded),
    ] {
        let mut s = syn_sent(family);
        complain(&mut s, complaint, 0);
        assert_eq!(s.state(), Some(State::SynSent));
        s.wait_ms(1000);
        s.sent("S 0:0(0)");
        s.recv("S. 0:0(0) ack 1 win 5000 <mss 1000>");
        assert_eq!(s.state(), Some(State::Established));
    }
}

#[test]
fn f3_an_unreachable_host_ends_the_syn_acks_to_it() {
    for family in BOTH {
        let mut s = family.listening();
        s.recv("S 0:0(0) win 65535 <mss 1000>");
        s.sent("S. 0:0(0) ack 1");
        complain(&mut s, Complaint::Host, 5);
        complain(&mut s, Complaint::Port, 0);
        s.wait_ms(1000);
        s.sent("S. 0:0(0) ack 1");
        complain(&mut s, Complaint::Host, 0);
        s.wait(Duration::from_secs(100));
        s.silence();
    }
}

#[test]
fn b10_packet_too_big_is_believed_of_what_is_in_flight_and_no_further_than_552_or_1280() {
    let v4 = [(1400, 1360), (552, 512), (551, 512), (68, 512), (1, 512)];
    let v6 = [
        (1400, 1340),
        (1280, 1220),
        (1279, 1220),
        (68, 1220),
        (0, 1220),
    ];
    for (family, sizes) in BOTH.into_iter().zip([v4, v6]) {
        for (mtu, mss) in sizes {
            let mut s = sending(family);
            complain(&mut s, Complaint::TooBig(mtu), 1);
            assert_eq!(s.info().snd_mss, mss, "MTU {mtu}");
            let again = s.drain();
            let bytes: usize = again.iter().map(|sent| sent.payload.len()).sum();
            assert_eq!(bytes, 5000, "what was too big goes out again");
            for sent in again {
                assert!(sent.gso_size <= mss as u16, "{}", sent.text);
            }
        }
    }
}

#[test]
fn b10_a_wrong_quote_or_a_greater_mtu_changes_nothing() {
    for (family, least) in BOTH.into_iter().zip([68, 1280]) {
        let mut s = sending(family);
        for seq in [0, 5001, 6000, 1 << 31] {
            complain(&mut s, Complaint::TooBig(least), seq);
        }
        for mtu in [1500, 1501, 65_535] {
            complain(&mut s, Complaint::TooBig(mtu), 1);
        }
        assert_eq!(s.info().snd_mss, u32::from(family.mss()));
        s.silence();
    }
}

#[test]
fn b10_a_router_that_does_not_say_what_fits_is_helped() {
    let mut s = sending(Family::V4);
    complain(&mut s, Complaint::TooBig(0), 1);
    let info = s.engine.info(s.id()).unwrap();
    assert_eq!(info.path_mtu, 1492);
}

#[test]
fn errors_to_another_address_than_the_quoted_are_dropped() {
    let mut s = syn_sent(Family::V4);
    let mut about = raw::Tcp::from_peer(&s, raw::ACK, 0);
    (about.src, about.dst, about.seq) = (s.local, s.peer, s.iss());
    let mut bytes = raw::icmp_error(raw::v4(s.local), UNREACHABLE, 3, 0, &about.bytes());
    // To us, but about the packet of somebody else.
    bytes[28 + 12..28 + 16].copy_from_slice(&[192, 168, 0, 9]);
    let end = bytes.len();
    bytes[22..24].fill(0);
    let sum = raw::checksum(&bytes[20..end]);
    bytes[22..24].copy_from_slice(&sum.to_be_bytes());
    s.recv_packet(raw::packet(&bytes));
    assert_eq!(s.state(), Some(State::SynSent));
    assert_eq!(s.counters().drop_icmp, 1);
}

#[test]
fn what_we_do_not_serve_is_reported_but_not_without_end() {
    let mut s = Script::new(Config::default());
    let (src, dst) = (raw::v4(s.peer), raw::v4(s.local));
    let packet = raw::ipv4(src, dst, 132, &[0; 16]);
    let mut out = std::collections::VecDeque::new();
    for _ in 0..5000 {
        s.engine.on_packet(raw::packet(&packet), s.now);
        while !s.engine.poll_packet(s.now, 64, &mut out) {}
    }
    assert!((500..1500).contains(&out.len()), "{}", out.len());
    let report = out.pop_front().unwrap().to_vec();
    assert_eq!((report[9], report[20], report[21]), (1, UNREACHABLE, 2));
    assert_eq!(s.counters().limited as usize + out.len() + 1, 5000);
    // Resets have a limit of their own.
    s.recv_packet(raw::Tcp::from_peer(&s, raw::SYN, 0).packet());
    assert_eq!(s.drain().len(), 1);
}
