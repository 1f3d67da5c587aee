//! Headers that only IPv6 has: what no honest peer sends of them is dropped in silence, counted, and
//! leaves the connection as it was.

use super::{
    family::{Family, data, lives},
    icmp_v6::answers,
    pair::pattern,
    raw,
    script::Script,
};

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// That segment behind these extension headers, of which `next` is the first.
fn behind(s: &Script, next: u8, headers: &[u8]) -> Vec<u8> {
    let body = [headers, &data(s).segment()].concat();
    raw::ipv6(raw::v6(s.peer), raw::v6(s.local), next, &body)
}

#[test]
fn m7_bad_versions_lengths_and_truncated_packets_over_ipv6() {
    let mut s = Family::V6.accepted();
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
        let mut s = Family::V6.accepted();
        s.recv_packet(raw::packet(&behind(&s, next, headers)));
        s.sent(". 1:1(0) ack 11");
        assert_eq!(s.read().unwrap(), pattern(0, 10), "{next} {headers:?}");
    }
}

#[test]
fn m7_extension_headers_that_lie_or_ask_for_more_are_dropped() {
    let mut s = Family::V6.accepted();
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
fn f11_fragments_are_dropped_and_counted_over_ipv6() {
    let mut s = Family::V6.accepted();
    for (offset, more) in [(0_u16, 1), (8, 1), (8, 0), (65_528, 0)] {
        let [high, low] = (offset | more).to_be_bytes();
        let header = [TCP, 0, high, low, 0, 0, 0, 9];
        s.recv_packet(raw::packet(&behind(&s, FRAGMENT, &header)));
    }
    assert_eq!(s.counters().drop_fragment, 4);
    lives(&mut s);
}
