//! What no honest peer sends: each is dropped in silence, counted, and leaves the connection as it
//! was.

use super::{
    family::{BOTH, Family, data, lives},
    pair::pattern,
    raw::{self, ACK, FIN, RST, SYN, URG},
    script::Script,
};
use crate::{config::Config, info::State};

const EVERY_FLAG: std::ops::Range<u8> = 0..64;

/// What a listener answers to a SYN with these options.
fn answer_to(options: &[u8]) -> Option<super::script::Sent> {
    let mut s = Script::listening(Config::default(), 16);
    let mut syn = raw::Tcp::from_peer(&s, SYN, 0);
    syn.options = options.to_vec();
    syn.options.resize(options.len().next_multiple_of(4), 0);
    s.recv_packet(syn.packet());
    let sent = s.next();
    s.silence();
    sent
}

#[test]
fn m1_malformed_option_areas_neither_loop_nor_hurt() {
    let mut areas: Vec<Vec<u8>> = Vec::new();
    for kind in [2, 3, 4, 5, 8, 19, 30, 69, 253, 255] {
        for len in [0, 1, 3, 41, 255] {
            areas.push(vec![kind, len, 0, 0]);
            areas.push(vec![1, 1, 1, kind]);
            areas.push([vec![1; 36], vec![1, 1, kind, len]].concat());
        }
    }
    areas.extend([vec![0; 40], vec![1; 40], vec![255; 40], vec![2; 40]]);
    assert!(areas.len() > 50);
    for area in areas {
        let syn_ack = answer_to(&area).expect("the SYN itself is good");
        assert_eq!(syn_ack.header.options.mss, Some(1460), "{area:?}");
        let mut s = Script::accepted(Config::default());
        let mut seg = data(&s);
        seg.options = area.clone();
        s.recv_packet(seg.packet());
        assert_eq!(s.read().unwrap(), pattern(0, 10), "{area:?}");
    }
}

#[test]
fn m1_what_comes_before_a_malformed_option_counts() {
    let sent = answer_to(&[4, 2, 3, 3, 5, 8, 0, 0]).unwrap();
    assert!(sent.header.options.sack_permitted);
    assert_eq!(sent.header.options.window_scale, Some(7));
    assert_eq!(sent.header.options.timestamps, None);
}

#[test]
fn m2_each_option_is_agreed_on_by_itself() {
    let both = |options: &[u8]| {
        let options = answer_to(options).unwrap().header.options;
        let ts = options.timestamps.is_some();
        (options.window_scale.is_some(), options.sack_permitted, ts)
    };
    assert_eq!(both(&[]), (false, false, false));
    assert_eq!(both(&[2, 4, 5, 180]), (false, false, false));
    assert_eq!(both(&[3, 3, 7]), (true, false, false));
    assert_eq!(both(&[4, 2]), (false, true, false));
    assert_eq!(both(&[8, 10, 0, 0, 0, 1, 0, 0, 0, 0]), (false, false, true));
    // Of the wrong size: ignored.
    assert_eq!(both(&[3, 4, 7, 7, 4, 3, 0, 1]), (false, false, false));
    assert_eq!(both(&[8, 9, 0, 0, 0, 1, 0, 0, 0]), (false, false, false));
}

#[test]
fn m2_of_repeated_options_the_last_counts() {
    let mut s = Script::listening(Config::default(), 16);
    let mut syn = raw::Tcp::from_peer(&s, SYN, 0);
    syn.options = (1..=10).flat_map(|n| [2, 4, 3, n]).collect();
    s.recv_packet(syn.packet());
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    assert_eq!(s.engine.info(s.id()).unwrap().snd_mss, 0x030a);
}

#[test]
fn m2_options_of_a_syn_mean_nothing_later() {
    let mut s = Script::accepted(Config::default());
    let mut seg = data(&s);
    seg.options = vec![2, 4, 0, 1, 3, 3, 14, 1];
    s.recv_packet(seg.packet());
    let info = s.engine.info(s.id()).unwrap();
    assert_eq!((info.snd_mss, info.snd_shift), (1000, 0));
}

#[test]
fn m3_a_window_scale_beyond_14_is_14() {
    for shift in [14, 15, 31, 32, 64, 255] {
        let options = format!("mss 1000,wscale {shift}");
        let mut s = Script::accepted_with(Config::default(), &options, 1);
        s.write(0, 100_000);
        let sent: usize = s.drain().iter().map(|sent| sent.payload.len()).sum();
        assert!(sent <= 16_384, "{sent} bytes in flight");
        assert_eq!(s.engine.info(s.id()).unwrap().snd_wnd, 1 << 14);
    }
}

#[test]
fn m4_an_absurd_mss_does_not_drown_us_in_headers() {
    for mss in [0, 1, 8, 47] {
        let options = format!("mss {mss}");
        let mut s = Script::accepted_with(Config::default(), &options, 65_535);
        s.write(0, 10_000);
        let sent = s.drain();
        assert!(sent.iter().all(|sent| sent.gso_size >= 24), "mss {mss}");
        assert!(!sent.is_empty());
    }
}

#[test]
fn m6_data_offsets_and_lengths_that_contradict_each_other() {
    for family in BOTH {
        let mut s = family.accepted();
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
                if len >= 18 {
                    raw::fix_tcp_checksum(s.peer.ip(), s.local.ip(), &mut segment);
                }
                let packet = Family::packet(s.peer, s.local, &segment);
                s.recv_packet(raw::packet(&packet));
                s.silence();
                bad += 1;
                let counted = s.counters().drop_malformed_tcp;
                assert_eq!(counted, bad, "{family:?} {offset} {len}");
            }
        }
        lives(&mut s);
    }
}

#[test]
fn m7_bad_ip_headers_and_truncated_packets() {
    let mut s = Script::accepted(Config::default());
    let good = data(&s).bytes();
    for len in 0..good.len() {
        s.recv_packet(raw::packet(&good[..len]));
    }
    for version_and_ihl in (0..=255).filter(|byte| *byte != 0x45) {
        let mut bad = good.clone();
        bad[0] = version_and_ihl;
        raw::fix_ip_checksum(&mut bad);
        s.recv_packet(raw::packet(&bad));
    }
    for total in (0..40).chain([good.len() as u16 + 1, 65_535]) {
        let mut bad = good.clone();
        bad[2..4].copy_from_slice(&total.to_be_bytes());
        raw::fix_ip_checksum(&mut bad);
        s.recv_packet(raw::packet(&bad));
    }
    let before = s.counters().drop_ip_checksum;
    let mut bad = good.clone();
    bad[10] ^= 1;
    s.recv_packet(raw::packet(&bad));
    assert_eq!(s.counters().drop_ip_checksum, before + 1);
    lives(&mut s);
}

#[test]
fn m7_padding_is_never_data() {
    for family in BOTH {
        let mut s = family.accepted();
        let mut padded = data(&s).bytes();
        padded.extend([0xee; 20]);
        s.recv_packet(raw::packet(&padded));
        s.sent(". 1:1(0) ack 11");
        assert_eq!(s.read().unwrap(), pattern(0, 10));
    }
}

#[test]
fn m8_a_wrong_checksum_is_dropped_whatever_it_would_have_done() {
    for family in BOTH {
        let mut s = family.accepted();
        let at = family.header_len();
        for flags in [ACK, RST, RST | ACK, SYN, FIN | ACK] {
            for wrong in [0, 0xffff, 0x1234] {
                let mut seg = data(&s);
                seg.flags = flags;
                let mut bytes = seg.bytes();
                bytes[at + 16..at + 18].copy_from_slice(&u16::to_be_bytes(wrong));
                s.recv_packet(raw::packet(&bytes));
            }
        }
        assert_eq!(s.counters().drop_tcp_checksum, 15);
        // The addresses are summed too.
        let segment = data(&s).segment();
        let elsewhere = match family {
            Family::V4 => "192.0.2.3:49152",
            Family::V6 => "[2001:db8::3]:49152",
        };
        let packet = Family::packet(elsewhere.parse().unwrap(), s.local, &segment);
        s.recv_packet(raw::packet(&packet));
        assert_eq!(s.counters().drop_tcp_checksum, 16);
        assert_eq!(s.state(), Some(State::Established));
        lives(&mut s);
    }
}

#[test]
fn m9_land_packets_with_our_own_address_are_dropped() {
    for family in BOTH {
        let mut s = family.listening();
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
}

#[test]
fn m10_nobody_can_have_a_martian_address() {
    let v4 = [
        "127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.168.255.255",
    ];
    let v6 = ["::", "::1", "ff02::1", "ff0e::1", "::ffff:192.0.2.1"];
    for (family, martians) in BOTH.into_iter().zip([&v4[..], &v6]) {
        let mut s = family.listening();
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
}

#[test]
fn m11_nothing_to_more_than_one_host_is_answered() {
    let v4 = ["192.168.255.255", "255.255.255.255", "224.0.0.1", "0.0.0.0"];
    let v6 = ["ff02::1", "ff05::2", "ff0e::1:2", "::"];
    for (family, groups) in BOTH.into_iter().zip([v4, v6]) {
        let mut s = family.script();
        let any = match family {
            Family::V4 => "0.0.0.0:8080",
            Family::V6 => "[::]:8080",
        };
        s.engine.listen(any.parse().unwrap(), 16).unwrap();
        for to in groups {
            for flags in [SYN, ACK] {
                let mut seg = raw::Tcp::from_peer(&s, flags, 0);
                seg.dst = std::net::SocketAddr::new(to.parse().unwrap(), 8080);
                s.recv_packet(seg.packet());
                s.silence();
            }
        }
        assert_eq!(s.counters().drop_not_ours, 8);
    }
}

#[test]
fn m12_there_is_no_port_0() {
    let mut s = Script::listening(Config::default(), 16);
    for flags in [SYN, ACK] {
        let mut seg = raw::Tcp::from_peer(&s, flags, 0);
        seg.src.set_port(0);
        s.recv_packet(seg.packet());
        let mut seg = raw::Tcp::from_peer(&s, flags, 0);
        seg.dst.set_port(0);
        s.recv_packet(seg.packet());
    }
    s.silence();
    let error = s.engine.connect("192.0.2.1:0".parse().unwrap(), s.now);
    assert_eq!(
        error.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    s.silence();
}

#[test]
fn m13_all_mixes_of_flags_at_a_listener() {
    for (family, flags) in BOTH
        .into_iter()
        .flat_map(|family| EVERY_FLAG.map(move |flags| (family, flags)))
    {
        let mut s = family.listening();
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
        assert_eq!(answer, expected, "{family:?}, flags {flags:#x}");
        if expected == Some(RST) {
            assert_eq!(sent.unwrap().header.seq.raw(), 777);
        }
    }
}

#[test]
fn m13_no_mix_of_flags_opens_or_resets_in_any_other_state() {
    for flags in EVERY_FLAG.filter(|flags| flags & RST == 0) {
        for (mut s, rcv_nxt, _) in super::resets::synchronized() {
            let mut seg = raw::Tcp::from_peer(&s, flags, rcv_nxt + 200_000);
            seg.ack = s.iss().wrapping_add(1);
            s.recv_packet(seg.packet());
            let answers = s.drain();
            assert!(answers.len() <= 1);
            assert!(answers.iter().all(|sent| sent.header.flags.raw() == ACK));
        }
    }
}

#[test]
fn m14_the_urgent_pointer_changes_nothing() {
    let pointers = [0, 1, 8, 9, 65_535];
    for (family, urgent) in BOTH
        .into_iter()
        .flat_map(|family| pointers.map(|urgent| (family, urgent)))
    {
        let mut s = family.accepted();
        let mut seg = data(&s);
        (seg.flags, seg.urgent) = (ACK | URG, urgent);
        s.recv_packet(seg.packet());
        s.sent(". 1:1(0) ack 11");
        assert_eq!(s.read().unwrap(), pattern(0, 10));
        let mut seg = raw::Tcp::from_peer(&s, ACK | URG, 11);
        (seg.ack, seg.urgent) = (s.iss().wrapping_add(1), urgent);
        s.recv_packet(seg.packet());
        s.silence();
        seg.flags |= FIN;
        s.recv_packet(seg.packet());
        s.sent(". 1:1(0) ack 12");
        assert_eq!(s.read().unwrap(), []);
    }
}

#[test]
fn m16_numbers_at_the_edges_of_the_circle() {
    for isn in [0_u32, (1 << 31) - 1, 1 << 31, u32::MAX] {
        for below in [0, 1, 256] {
            let mut s = Script::listening(Config::default(), 16);
            s.peer_isn = isn.wrapping_sub(below);
            s.recv("S 0:0(0) win 65535 <mss 1000>");
            s.sent("S. 0:0(0) ack 1");
            s.recv("FP. 1:1001(1000) ack 1");
            s.sent(". 1:1(0) ack 1002");
            s.accept();
            assert_eq!(s.read().unwrap(), pattern(0, 1000));
            s.close();
            s.sent("F. 1:1(0) ack 1002");
            s.recv(". 1002:1002(0) ack 2");
            assert_eq!(s.state(), None);
        }
    }
}

/// Accepted, with our first number `below` before this one: it rises by 250 in a millisecond.
fn accepted_below(edge: u32, below: u32) -> Script {
    let mut s = Script::listening(Config::default(), 16);
    s.peer_isn = edge.wrapping_sub(below);
    s.recv("S 0:0(0) win 65535 <mss 1000,sackOK>");
    s.sent("S. 0:0(0) ack 1");
    let missing = edge.wrapping_sub(below).wrapping_sub(s.iss());
    s.recv("R 1:1(0)");
    s.wait(std::time::Duration::from_micros(u64::from(missing) * 4));
    s.recv("S 0:0(0) win 65535 <mss 1000,sackOK>");
    s.sent("S. 0:0(0) ack 1");
    assert_eq!(s.iss(), edge.wrapping_sub(below));
    s.recv(". 1:1(0) ack 1");
    s.accept();
    s
}

#[test]
fn s1_our_numbers_and_the_peers_cross_both_edges_of_the_circle() {
    for edge in [0, 1 << 31] {
        for below in [1, 2, 2501, 5000] {
            let mut s = accepted_below(edge, below);
            // Ours: what is lost at the edge is found by SACK, and sent again.
            s.write(0, 8000);
            let sent: usize = s.drain().iter().map(|sent| sent.payload.len()).sum();
            assert_eq!(sent, 8000);
            s.recv(". 1:1(0) ack 2001 <sack 4001:8001>");
            let again: usize = s.drain().iter().map(|sent| sent.payload.len()).sum();
            assert_eq!(again, 2000, "{edge} {below}");
            s.recv(". 1:1(0) ack 8001");
            assert_eq!((s.info().acked, s.info().in_flight), (8000, 0));
            // The peer's: out of order, twice, and with an overlap.
            for (from, to) in [
                (4001, 5001),
                (2001, 3001),
                (2001, 4001),
                (501, 2501),
                (1, 1001),
            ] {
                s.recv(&format!("P. {from}:{to}({}) ack 8001", to - from));
            }
            let last = s.drain().pop().unwrap();
            assert_eq!(
                last.header.ack.unwrap().raw(),
                s.peer_isn.wrapping_add(5001)
            );
            assert_eq!(s.read().unwrap(), pattern(0, 5000), "{edge} {below}");
        }
    }
}

#[test]
fn m17_reserved_bits_and_unknown_options_are_as_if_they_were_not_there() {
    for reserved in 0..16 {
        let mut s = Script::listening(Config::default(), 16);
        let mut syn = raw::Tcp::from_peer(&s, SYN, 0);
        syn.reserved = reserved;
        syn.options = vec![253, 4, 1, 2, 2, 4, 3, 232, 30, 4, 0, 0];
        s.recv_packet(syn.packet());
        s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
        s.recv(". 1:1(0) ack 1");
        s.accept();
        assert_eq!(s.engine.info(s.id()).unwrap().snd_mss, 1000);
    }
}

#[test]
fn f11_fragments_are_dropped_and_counted() {
    let mut s = Script::accepted(Config::default());
    for (high, low) in [(0x20, 0), (0, 1), (0x20, 3), (0x1f, 0xff)] {
        let mut fragment = data(&s).bytes();
        fragment[6..8].copy_from_slice(&[high, low]);
        raw::fix_ip_checksum(&mut fragment);
        s.recv_packet(raw::packet(&fragment));
    }
    assert_eq!(s.counters().drop_fragment, 4);
    lives(&mut s);
}
