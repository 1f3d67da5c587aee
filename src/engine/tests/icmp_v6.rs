//! What only ICMPv6 has (RFC 4443): its checksum, the headers that it may stand behind, what it
//! reports and what it does not.

use std::collections::VecDeque;

use super::{
    family::{Family, ours},
    raw,
    script::Script,
};
use crate::info::State;

const UNREACHABLE: u8 = 1;
const PARAMETER_PROBLEM: u8 = 4;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

fn syn_sent() -> Script {
    let mut s = Family::V6.script();
    s.connect();
    s.sent("S 0:0(0)");
    s
}

#[test]
fn b9_a_quote_of_what_another_host_sent_fails_nothing() {
    let mut s = syn_sent();
    // Of a packet that never was ours; it was another host's, and the error came to us.
    let local = raw::v6(s.local);
    s.local.set_ip("fd00::9".parse().unwrap());
    let about = ours(&s, 0);
    s.local.set_ip(local.into());
    let bytes = raw::icmpv6_error(local, UNREACHABLE, 4, 0, &about);
    s.recv_packet(raw::packet(&bytes));
    assert_eq!(s.counters().drop_icmp, 1);
    assert_eq!(s.state(), Some(State::SynSent));
}

#[test]
fn b9_an_icmpv6_checksum_must_be_right_pseudo_header_included() {
    let mut s = syn_sent();
    let good = raw::icmpv6_error(raw::v6(s.local), UNREACHABLE, 4, 0, &ours(&s, 0));
    let mut flipped = good.clone();
    flipped[42] ^= 1;
    let mut zero = good.clone();
    zero[42..44].fill(0);
    // As ICMP of IPv4 has it.
    let mut without_addresses = good.clone();
    without_addresses[42..44].fill(0);
    let sum = raw::checksum(&without_addresses[40..]);
    without_addresses[42..44].copy_from_slice(&sum.to_be_bytes());
    for bad in [flipped, zero, without_addresses] {
        s.recv_packet(raw::packet(&bad));
        assert_eq!(s.state(), Some(State::SynSent));
    }
    assert_eq!(s.counters().drop_icmp, 3);
    s.recv_packet(raw::packet(&good));
    assert_eq!(s.state(), Some(State::Closed));
}

#[test]
fn b9_quotes_that_are_cut_or_of_another_kind_say_nothing() {
    let mut s = syn_sent();
    let local = raw::v6(s.local);
    let about = ours(&s, 0);
    // Fewer than eight bytes of the segment (RFC 5927 §2): no number to be checked.
    for len in 0..48 {
        let bytes = raw::icmpv6_error(local, UNREACHABLE, 4, 0, &about[..len]);
        s.recv_packet(raw::packet(&bytes));
    }
    // A quote of IPv4, one that is itself an ICMPv6 error, and a message of IPv4's ICMP.
    let mut v4 = about.clone();
    v4[0] = 0x45;
    let mut error_about_error = about.clone();
    error_about_error[6] = 58;
    for quote in [v4, error_about_error] {
        let bytes = raw::icmpv6_error(local, UNREACHABLE, 4, 0, &quote);
        s.recv_packet(raw::packet(&bytes));
    }
    assert_eq!(s.counters().drop_icmp, 50);
    let mut of_v4 = raw::icmpv6_error(local, 3, 3, 0, &about);
    of_v4[6] = 1;
    s.recv_packet(raw::packet(&of_v4));
    assert_eq!(s.counters().drop_protocol, 1);
    assert_eq!(s.state(), Some(State::SynSent));
    // Eight are enough, and what stands before the message is skipped.
    let whole = raw::icmpv6_error(local, UNREACHABLE, 4, 0, &about[..48]);
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    let router = "2001:db8:ffff::1".parse().unwrap();
    let bytes = raw::ipv6(router, local, 60, &[&options[..], &whole[40..]].concat());
    s.recv_packet(raw::packet(&bytes));
    assert_eq!(s.state(), Some(State::Closed));
}

/// What it answers to this packet.
pub(super) fn answers(s: &mut Script, bytes: &[u8]) -> VecDeque<Vec<u8>> {
    let mut out = VecDeque::new();
    s.engine.on_packet(raw::packet(bytes), s.now);
    while !s.engine.poll_packet(s.now, 64, &mut out) {}
    out.iter().map(|packet| packet.to_vec()).collect()
}

#[test]
fn what_we_do_not_serve_over_ipv6_is_a_parameter_problem_and_not_without_end() {
    let mut s = Family::V6.script();
    let (peer, local) = (raw::v6(s.peer), raw::v6(s.local));
    let packet = raw::ipv6(peer, local, 132, &[0; 16]);
    let mut sent = 0;
    for _ in 0..5000 {
        for report in answers(&mut s, &packet) {
            // RFC 8200 §4: unrecognized next header, and where it stands.
            assert_eq!(report[40..42], [PARAMETER_PROBLEM, 1]);
            assert_eq!(report[44..48], 6_u32.to_be_bytes());
            assert_eq!(report[48..], packet);
            sent += 1;
        }
    }
    assert!((500..1500).contains(&sent), "{sent}");
    assert_eq!(s.counters().limited + sent, 5000);
}

/// A packet that begins with these extension headers, of which `next` is the first.
fn begins_with(s: &Script, next: u8, headers: &[u8]) -> Vec<u8> {
    let segment = raw::Tcp::from_peer(s, raw::SYN, 0).segment();
    raw::ipv6(
        raw::v6(s.peer),
        raw::v6(s.local),
        next,
        &[headers, &segment].concat(),
    )
}

#[test]
fn headers_that_we_do_not_know_are_a_parameter_problem_where_the_sender_wants_to_know() {
    let mut s = Family::V6.script();
    for (next, headers, code, pointer) in [
        // RFC 8200 §4.2: the options 0x80 and 0xC0, at once, behind padding, behind another header.
        (60, &[6, 0, 0x9e, 4, 0, 0, 0, 0][..], 2, 42),
        (0, &[6, 0, 0xde, 4, 0, 0, 0, 0], 2, 42),
        (0, &[6, 0, 0xc2, 4, 0, 1, 0, 0], 2, 42),
        (60, &[6, 0, 0, 1, 0, 0x9e, 1, 0], 2, 45),
        (
            0,
            &[60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 0x80, 3, 0, 0, 0],
            2,
            51,
        ),
        // Two of them: the first.
        (60, &[6, 0, 0x80, 0, 0xc1, 2, 0, 0], 2, 42),
        // §4.4: a type of routing header with a way still to go.
        (43, &[6, 0, 9, 1, 0, 0, 0, 0], 0, 42),
        (43, &[6, 0, 0, 1, 0, 0, 0, 0], 0, 42),
        // §4: a hop-by-hop header where none may be.
        (60, &[0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0], 1, 40),
    ] {
        let packet = begins_with(&s, next, headers);
        let reports = answers(&mut s, &packet);
        assert_eq!(reports.len(), 1, "{headers:?}");
        assert_eq!(reports[0][40..42], [PARAMETER_PROBLEM, code], "{headers:?}");
        let at = u32::from_be_bytes(reports[0][44..48].try_into().unwrap());
        assert_eq!(at, pointer, "{headers:?}");
        assert_eq!(reports[0][48..], packet, "{headers:?}");
    }
    assert_eq!(s.counters().drop_malformed_ip, 9);
}

#[test]
fn headers_that_we_do_not_know_are_dropped_in_silence_otherwise() {
    let mut s = Family::V6.script();
    for (next, headers) in [
        // 0x40 says so; the one behind it comes too late to be asked.
        (60, &[6, 0, 0x5e, 4, 0, 0, 0, 0][..]),
        (60, &[6, 0, 0x40, 0, 0x80, 2, 0, 0]),
        // An option that ends behind its header, after one that asks for an error.
        (60, &[6, 0, 0x9e, 0, 1, 7, 0, 0]),
        // A route of type 0 at its end, and nothing behind the headers.
        (43, &[6, 0, 0, 0, 0, 0, 0, 0]),
        (60, &[59, 0, 1, 4, 0, 0, 0, 0]),
    ] {
        let packet = begins_with(&s, next, headers);
        assert!(answers(&mut s, &packet).is_empty(), "{headers:?}");
    }
    // What may not be answered at all: groups, somebody else, an error, our own address.
    let asks = [58, 0, 0x9e, 4, 0, 0, 0, 0, UNREACHABLE, 0, 0, 0, 0, 0, 0, 0];
    let (peer, local) = (raw::v6(s.peer), raw::v6(s.local));
    let (group, other) = ("ff02::1".parse().unwrap(), "fd00::99".parse().unwrap());
    for (src, dst) in [
        (peer, group),
        (group, local),
        (peer, other),
        (local, local),
        (peer, local),
    ] {
        assert!(answers(&mut s, &raw::ipv6(src, dst, 60, &asks)).is_empty());
    }
}

#[test]
fn reports_of_headers_have_an_end_as_all_errors_have() {
    let mut s = Family::V6.script();
    let packet = begins_with(&s, 60, &[6, 0, 0x9e, 4, 0, 0, 0, 0]);
    let sent: usize = (0..5000).map(|_| answers(&mut s, &packet).len()).sum();
    assert!((500..1500).contains(&sent), "{sent}");
    assert_eq!(s.counters().limited as usize + sent, 5000);
}

#[test]
fn an_icmpv6_error_never_brings_another() {
    let mut s = Family::V6.script();
    let (peer, local) = (raw::v6(s.peer), raw::v6(s.local));
    let about = raw::ipv6(local, peer, 132, &[0; 16]);
    for kind in 1..=4 {
        let error = raw::icmpv6_error(local, kind, 0, 1280, &about);
        assert!(answers(&mut s, &error).is_empty());
    }
    // Nor does what went to a group, or came from one (RFC 4443 §2.4 (e)).
    let group = "ff02::1".parse().unwrap();
    assert!(answers(&mut s, &raw::ipv6(peer, group, 132, &[0; 16])).is_empty());
    assert!(answers(&mut s, &raw::ipv6(group, local, 132, &[0; 16])).is_empty());
}

#[test]
fn an_icmpv6_echo_is_answered_if_its_checksum_is_right() {
    let mut s = Family::V6.script();
    let (peer, local) = (raw::v6(s.peer), raw::v6(s.local));
    let mut body = vec![ECHO_REQUEST, 0, 0, 0, 0, 7, 0, 1, b'h', b'i', b'!'];
    raw::fix_icmpv6_checksum(peer, local, &mut body);
    let answer = answers(&mut s, &raw::ipv6(peer, local, 58, &body));
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0][40], ECHO_REPLY);
    assert_eq!(answer[0][44..], body[4..]);
    body[2] ^= 1;
    assert!(answers(&mut s, &raw::ipv6(peer, local, 58, &body)).is_empty());
    assert_eq!((s.counters().echo_replies, s.counters().drop_icmp), (1, 1));
}
