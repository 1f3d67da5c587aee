//! What no honest peer sends, over IPv6: each is dropped in silence, counted, and leaves the
//! connection as it was.

use super::{
    icmp_v6::answers,
    pair::pattern,
    raw::{self, ACK, FIN, RST, SYN, URG},
    script::Script,
};
use crate::{config::Config, info::State};

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

pub(super) fn new() -> Script {
    let mut s = Script::new(Config::default());
    s.local = "[fd00::1]:8080".parse().unwrap();
    s.peer = "[2001:db8::1]:49152".parse().unwrap();
    s
}

pub(super) fn listening() -> Script {
    let mut s = new();
    s.listener = Some(s.engine.listen(s.local, 16).unwrap());
    s
}

pub(super) fn accepted() -> Script {
    let mut s = listening();
    s.recv("S 0:0(0) win 65535 <mss 1440,sackOK,nop,wscale 0>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1 win 65535");
    s.silence();
    s.accept();
    s
}

/// A data segment of ten bytes for an accepted connection.
fn data(s: &Script) -> raw::Tcp {
    let mut seg = raw::Tcp::from_peer(s, ACK, 1);
    seg.ack = s.iss().wrapping_add(1);
    seg.payload = pattern(0, 10);
    seg
}

/// That segment behind these extension headers, of which `next` is the first.
fn behind(s: &Script, next: u8, headers: &[u8]) -> Vec<u8> {
    let body = [headers, &data(s).segment()].concat();
    raw::ipv6(raw::v6(s.peer), raw::v6(s.local), next, &body)
}

/// The connection still takes its next bytes.
#[track_caller]
fn lives(s: &mut Script) {
    s.silence();
    let seg = data(s);
    s.recv_packet(seg.packet());
    s.sent(". 1:1(0) ack 11");
    assert_eq!(s.read().unwrap(), pattern(0, 10));
}

#[test]
fn m6_data_offsets_and_lengths_that_contradict_each_other_over_ipv6() {
    let mut s = accepted();
    let mut bad = 0;
    for offset in 0..16_u8 {
        for len in 0..=40 {
            if offset >= 5 && usize::from(offset) * 4 <= len {
                continue;
            }
            let mut segment = data(&s).segment();
            segment.resize(40, 0);
            segment[12] = offset << 4;
            segment.truncate(len);
            let (src, dst) = (raw::v6(s.peer), raw::v6(s.local));
            if len >= 18 {
                raw::fix_tcp_checksum(src, dst, &mut segment);
            }
            s.recv_packet(raw::packet(&raw::ipv6(src, dst, TCP, &segment)));
            bad += 1;
            assert_eq!(s.counters().drop_malformed_tcp, bad, "{offset} {len}");
        }
    }
    lives(&mut s);
}

#[test]
fn m7_bad_versions_lengths_and_truncated_packets_over_ipv6() {
    let mut s = accepted();
    let good = data(&s).bytes();
    let mut bad = 0;
    let mut drop = |s: &mut Script, bytes: &[u8]| {
        s.recv_packet(raw::packet(bytes));
        bad += 1;
        let counters = s.counters();
        let dropped = counters.drop_malformed_ip + counters.drop_malformed_tcp;
        // Lengths that fit a header, and not the sum over what they say is there.
        assert_eq!(dropped + counters.drop_tcp_checksum, bad, "{bytes:x?}");
    };
    for len in 0..good.len() {
        drop(&mut s, &good[..len]);
    }
    for version in (0..16).filter(|version| *version != 6) {
        let mut wrong = good.clone();
        wrong[0] = version << 4;
        drop(&mut s, &wrong);
    }
    let len = good.len() as u16 - 40;
    for payload_len in (0..len).chain([len + 1, 65_535]) {
        let mut wrong = good.clone();
        wrong[4..6].copy_from_slice(&payload_len.to_be_bytes());
        drop(&mut s, &wrong);
    }
    lives(&mut s);
}

#[test]
fn m7_padding_behind_an_ipv6_packet_is_never_data() {
    let mut s = accepted();
    let mut padded = data(&s).bytes();
    padded.extend([0xee; 20]);
    s.recv_packet(raw::packet(&padded));
    s.sent(". 1:1(0) ack 11");
    assert_eq!(s.read().unwrap(), pattern(0, 10));
}

#[test]
fn m7_extension_headers_that_ask_for_nothing_are_skipped() {
    let routed_to_its_end = [TCP, 0, 4, 0, 0, 0, 0, 0];
    let unknown_but_harmless = [TCP, 0, 0x1e, 4, 1, 2, 3, 4];
    let long = [&[TCP, 1, 1, 12][..], &[0; 12]].concat();
    let two = [
        [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0],
        [TCP, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let atomic = [TCP, 0, 0, 0, 1, 2, 3, 4];
    for (next, headers) in [
        (HOP_BY_HOP, &[TCP, 0, 1, 4, 0, 0, 0, 0][..]),
        (DESTINATION_OPTIONS, &unknown_but_harmless),
        (DESTINATION_OPTIONS, &long),
        (ROUTING, &routed_to_its_end),
        (HOP_BY_HOP, &two),
        (FRAGMENT, &atomic),
    ] {
        let mut s = accepted();
        s.recv_packet(raw::packet(&behind(&s, next, headers)));
        s.sent(". 1:1(0) ack 11");
        assert_eq!(s.read().unwrap(), pattern(0, 10), "{next} {headers:?}");
    }
}

#[test]
fn m7_extension_headers_that_lie_or_ask_for_more_are_dropped() {
    let mut s = accepted();
    let many = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0].repeat(300);
    let no_end = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0].repeat(9);
    let mut bad = 0;
    for (next, headers) in [
        // Longer than the packet, by little and by much.
        (DESTINATION_OPTIONS, &[TCP, 7, 1, 4, 0, 0, 0, 0][..]),
        (HOP_BY_HOP, &[TCP, 255, 1, 4, 0, 0, 0, 0]),
        (ROUTING, &[TCP, 255, 4, 0, 0, 0, 0, 0]),
        // An option past the end of its header, and one cut off behind its type.
        (DESTINATION_OPTIONS, &[TCP, 0, 1, 5, 0, 0, 0, 0]),
        (DESTINATION_OPTIONS, &[TCP, 0, 1, 3, 0, 0, 0, 1]),
        // Options that say that who does not know them must not go on.
        (DESTINATION_OPTIONS, &[TCP, 0, 0x5e, 4, 0, 0, 0, 0]),
        (DESTINATION_OPTIONS, &[TCP, 0, 0x9e, 4, 0, 0, 0, 0]),
        (HOP_BY_HOP, &[TCP, 0, 0xde, 4, 0, 0, 0, 0]),
        // A jumbogram that is none (RFC 2675).
        (HOP_BY_HOP, &[TCP, 0, 0xc2, 4, 0, 1, 0, 0]),
        // RFC 5095: no routes that go on, least of all of type 0.
        (ROUTING, &[TCP, 0, 0, 0, 0, 0, 0, 0]),
        (ROUTING, &[TCP, 0, 0, 1, 0, 0, 0, 0]),
        (ROUTING, &[TCP, 0, 4, 1, 0, 0, 0, 0]),
        // RFC 8200 §4.1: only right behind the header.
        (
            DESTINATION_OPTIONS,
            &[HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0, TCP, 0, 1, 4, 0, 0, 0, 0],
        ),
        (DESTINATION_OPTIONS, &many),
        (DESTINATION_OPTIONS, &no_end),
    ] {
        let packet = behind(&s, next, headers);
        answers(&mut s, &packet);
        bad += 1;
        assert_eq!(
            s.counters().drop_malformed_ip,
            bad,
            "{next} {:?}",
            &headers[..8]
        );
    }
    // Headers that end where the packet does, or before their own end.
    let whole = behind(&s, HOP_BY_HOP, &[DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0]);
    for len in 40..48 {
        let mut cut = whole[..len].to_vec();
        cut[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
        s.recv_packet(raw::packet(&cut));
        bad += 1;
        assert_eq!(s.counters().drop_malformed_ip, bad, "{len} bytes");
    }
    lives(&mut s);
}

#[test]
fn m8_a_wrong_checksum_is_dropped_whatever_it_would_have_done_over_ipv6() {
    let mut s = accepted();
    for flags in [ACK, RST, RST | ACK, SYN, FIN | ACK] {
        for wrong in [0, 0xffff, 0x1234] {
            let mut seg = data(&s);
            seg.flags = flags;
            let mut bytes = seg.bytes();
            bytes[56..58].copy_from_slice(&u16::to_be_bytes(wrong));
            s.recv_packet(raw::packet(&bytes));
        }
    }
    assert_eq!(s.counters().drop_tcp_checksum, 15);
    // The addresses are summed too.
    let mut bytes = data(&s).bytes();
    bytes[8 + 15] ^= 2;
    s.recv_packet(raw::packet(&bytes));
    assert_eq!(s.counters().drop_tcp_checksum, 16);
    assert_eq!(s.state(), Some(State::Established));
    lives(&mut s);
}

#[test]
fn m9_land_packets_with_our_own_ipv6_address_are_dropped() {
    let mut s = listening();
    for n in 0..400 {
        let mut syn = raw::Tcp::from_peer(&s, SYN, n);
        syn.src = s.local;
        s.recv_packet(syn.packet());
    }
    s.silence();
    s.wait_ms(100_000);
    s.silence();
    assert_eq!(s.counters().drop_martian, 400);
}

#[test]
fn m10_nobody_can_have_a_martian_ipv6_address() {
    let mut s = listening();
    let martians = ["::", "::1", "ff02::1", "ff0e::1", "::ffff:192.0.2.1"];
    for martian in martians {
        for flags in [SYN, ACK] {
            let mut seg = raw::Tcp::from_peer(&s, flags, 0);
            seg.src.set_ip(martian.parse().unwrap());
            s.recv_packet(seg.packet());
            s.silence();
        }
    }
    assert_eq!(s.counters().drop_martian, 2 * martians.len() as u64);
}

#[test]
fn m11_nothing_to_an_ipv6_group_is_answered() {
    let mut s = new();
    s.engine.listen("[::]:8080".parse().unwrap(), 16).unwrap();
    for to in ["ff02::1", "ff05::2", "ff0e::1:2", "::"] {
        for flags in [SYN, ACK] {
            let mut seg = raw::Tcp::from_peer(&s, flags, 0);
            seg.dst = std::net::SocketAddr::new(to.parse().unwrap(), 8080);
            s.recv_packet(seg.packet());
            s.silence();
        }
    }
    assert_eq!(s.counters().drop_not_ours, 8);
}

#[test]
fn m13_all_mixes_of_flags_at_a_listener_over_ipv6() {
    for flags in 0..64 {
        let mut s = listening();
        let mut seg = raw::Tcp::from_peer(&s, flags, 0);
        seg.ack = 777;
        s.recv_packet(seg.packet());
        let sent = s.next();
        s.silence();
        let has = |flag| flags & flag != 0;
        let answer = sent.as_ref().map(|sent| sent.header.flags.raw());
        let expected = match (has(RST), has(ACK), has(SYN), has(FIN)) {
            (true, ..) => None,
            (false, true, ..) => Some(RST),
            (false, false, true, false) => Some(SYN | ACK),
            _ => None,
        };
        assert_eq!(answer, expected, "flags {flags:#x}");
    }
}

#[test]
fn m14_the_urgent_pointer_changes_nothing_over_ipv6() {
    for urgent in [0, 1, 8, 9, 65_535] {
        let mut s = accepted();
        let mut seg = data(&s);
        (seg.flags, seg.urgent) = (ACK | URG, urgent);
        s.recv_packet(seg.packet());
        s.sent(". 1:1(0) ack 11");
        assert_eq!(s.read().unwrap(), pattern(0, 10));
    }
}

#[test]
fn f11_fragments_are_dropped_and_counted_over_ipv6() {
    let mut s = accepted();
    for (offset, more) in [(0_u16, 1), (8, 1), (8, 0), (65_528, 0)] {
        let [high, low] = (offset | more).to_be_bytes();
        let header = [TCP, 0, high, low, 0, 0, 0, 9];
        s.recv_packet(raw::packet(&behind(&s, FRAGMENT, &header)));
    }
    assert_eq!(s.counters().drop_fragment, 4);
    lives(&mut s);
}
