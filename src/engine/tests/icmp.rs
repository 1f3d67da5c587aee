//! ICMP errors (RFC 5927): what is believed, and what it changes.

use std::{io::ErrorKind, time::Duration};

use super::{raw, script::Script};
use crate::{config::Config, info::State};

const UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// An error about a segment of ours with this number.
fn error(s: &mut Script, kind: u8, code: u8, rest: u32, seq: u32) {
    let mut about = raw::Tcp::from_peer(s, raw::ACK, 0);
    (about.src, about.dst, about.seq) = (s.local, s.peer, s.iss().wrapping_add(seq));
    about.payload = vec![0; 1460];
    let bytes = raw::icmp_error(raw::v4(s.local), kind, code, rest, &about.bytes());
    s.recv_packet(raw::packet(&bytes));
}

fn too_big(s: &mut Script, mtu: u32, seq: u32) {
    error(s, UNREACHABLE, 4, mtu, seq);
}

fn sending() -> Script {
    let options = "mss 1460,sackOK,nop,wscale 0";
    let mut s = Script::accepted_with(Config::default(), options, 65_535);
    s.write(0, 5000);
    s.drain();
    s
}

fn syn_sent() -> Script {
    let mut s = Script::connecting(Config::default());
    s.sent("S 0:0(0)");
    s
}

#[test]
fn b9_no_error_ends_a_connection_whatever_it_quotes() {
    let kinds = [
        (UNREACHABLE, 0),
        (UNREACHABLE, 1),
        (UNREACHABLE, 2),
        (UNREACHABLE, 3),
        (UNREACHABLE, 13),
        (SOURCE_QUENCH, 0),
        (TIME_EXCEEDED, 0),
        (PARAMETER_PROBLEM, 0),
    ];
    let mut s = sending();
    let cwnd = s.engine.info(s.id()).unwrap().cwnd;
    for (kind, code) in kinds {
        for seq in [1, 5000, 5001, 6000, 0, 1 << 30] {
            error(&mut s, kind, code, 0, seq);
        }
    }
    s.silence();
    assert_eq!(s.state(), Some(State::Established));
    assert_eq!(s.engine.info(s.id()).unwrap().cwnd, cwnd);
    assert_eq!(s.counters().drop_icmp, 8 * 4);
    s.recv(". 1:1(0) ack 5001");
    assert_eq!(s.engine.info(s.id()).unwrap().acked, 5000);
}

#[test]
fn b9_a_soft_error_is_what_a_timeout_is_reported_as() {
    let mut s = sending();
    error(&mut s, UNREACHABLE, 1, 0, 1);
    s.wait(Duration::from_secs(2000));
    s.drain();
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::HostUnreachable);
}

#[test]
fn b9_an_unreachable_port_fails_an_attempt_to_connect_at_once() {
    for code in [2, 3] {
        let mut s = syn_sent();
        error(&mut s, UNREACHABLE, code, 0, 0);
        assert_eq!(s.state(), Some(State::Closed));
        s.wait_ms(10_000);
        s.silence();
    }
}

#[test]
fn b9_a_wrong_quote_fails_nothing() {
    let mut s = syn_sent();
    error(&mut s, UNREACHABLE, 3, 0, 1);
    error(&mut s, UNREACHABLE, 3, 0, u32::MAX);
    let peer = s.peer;
    s.peer.set_port(1);
    error(&mut s, UNREACHABLE, 3, 0, 0);
    s.peer = peer;
    assert_eq!(s.state(), Some(State::SynSent));
    assert_eq!(s.counters().drop_icmp, 3);
}

#[test]
fn b9_soft_errors_let_an_attempt_go_on() {
    for (kind, code) in [(UNREACHABLE, 0), (UNREACHABLE, 1), (TIME_EXCEEDED, 0)] {
        let mut s = syn_sent();
        error(&mut s, kind, code, 0, 0);
        assert_eq!(s.state(), Some(State::SynSent));
        s.wait_ms(1000);
        s.sent("S 0:0(0)");
        s.recv("S. 0:0(0) ack 1 win 5000 <mss 1000>");
        assert_eq!(s.state(), Some(State::Established));
    }
}

#[test]
fn f3_an_unreachable_host_ends_the_syn_acks_to_it() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    error(&mut s, UNREACHABLE, 1, 0, 5);
    error(&mut s, UNREACHABLE, 3, 0, 0);
    s.wait_ms(1000);
    s.sent("S. 0:0(0) ack 1");
    error(&mut s, UNREACHABLE, 1, 0, 0);
    s.wait(Duration::from_secs(100));
    s.silence();
}

#[test]
fn b10_packet_too_big_is_believed_of_what_is_in_flight_and_no_further_than_552() {
    for (mtu, mss) in [(1400, 1360), (552, 512), (551, 512), (68, 512), (1, 512)] {
        let mut s = sending();
        too_big(&mut s, mtu, 1);
        assert_eq!(s.engine.info(s.id()).unwrap().snd_mss, mss, "MTU {mtu}");
        let again = s.drain();
        assert!(!again.is_empty(), "what was too big goes out again");
        for sent in again {
            assert!(sent.gso_size <= mss as u16 && sent.payload.len() >= 500.min(mss as usize));
        }
    }
}

#[test]
fn b10_a_wrong_quote_or_a_greater_mtu_changes_nothing() {
    let mut s = sending();
    for seq in [0, 5001, 6000, 1 << 31] {
        too_big(&mut s, 68, seq);
    }
    for mtu in [1500, 1501, 65_535] {
        too_big(&mut s, mtu, 1);
    }
    assert_eq!(s.engine.info(s.id()).unwrap().snd_mss, 1460);
    s.silence();
}

#[test]
fn b10_a_router_that_does_not_say_what_fits_is_helped() {
    let mut s = sending();
    too_big(&mut s, 0, 1);
    let info = s.engine.info(s.id()).unwrap();
    assert_eq!(info.path_mtu, 1492);
}

#[test]
fn errors_to_another_address_than_the_quoted_are_dropped() {
    let mut s = syn_sent();
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
