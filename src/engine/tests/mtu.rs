//! The MSS, path MTU discovery and black holes (RFC 9293 §3.7.1, RFC 1191, RFC 8201, RFC 4821).

use std::time::Duration;

use super::{
    pair::pattern,
    script::{Script, Sent},
};
use crate::config::{Config, SocketOptions};

const NEEDED: (u8, u8) = (3, 4);
const TOO_BIG: (u8, u8) = (2, 0);

/// A connection over IPv4 or IPv6 with an MTU of 1500 at both ends.
fn open(v6: bool, config: Config) -> Script {
    let mut s = Script::new(config);
    let mss = if v6 {
        s.local = "[fd00::1]:8080".parse().unwrap();
        s.peer = "[2001:db8::1]:49152".parse().unwrap();
        1440
    } else {
        1460
    };
    s.listener = Some(s.engine.listen(s.local, 16).unwrap());
    s.recv(&format!("S 0:0(0) win 65535 <mss {mss},sackOK>"));
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1 win 65535");
    s.accept();
    s
}

/// The segments on the wire that super-segments stand for.
fn on_the_wire(sent: &[Sent]) -> Vec<usize> {
    let each = |sent: &Sent| match usize::from(sent.gso_size) {
        0 => vec![sent.payload.len()],
        size => sent.payload.chunks(size).map(<[u8]>::len).collect(),
    };
    sent.iter().flat_map(each).collect()
}

#[test]
fn must15_without_the_option_segments_are_of_536_bytes_or_1220() {
    for (local, peer, expected) in [
        ("192.168.0.1:8080", "192.0.2.1:49152", 536),
        ("[fd00::1]:8080", "[2001:db8::1]:49152", 1220),
    ] {
        let mut s = Script::new(Config::default());
        (s.local, s.peer) = (local.parse().unwrap(), peer.parse().unwrap());
        s.listener = Some(s.engine.listen(s.local, 16).unwrap());
        s.recv("S 0:0(0) win 65535 <>");
        s.drain();
        s.recv(". 1:1(0) ack 1 win 65535");
        s.accept();
        assert_eq!(s.info().snd_mss, expected);
    }
}

#[test]
fn m4_whatever_the_peer_asks_for_segments_hold_at_least_36_bytes() {
    for (mss, expected) in [(0, 524), (1, 36), (8, 36), (64, 52), (65_535, 1448)] {
        let options = format!("mss {mss},sackOK,TS val 100 ecr 0");
        let mut s = Script::accepted_with(Config::default(), &options, 65_535);
        assert_eq!(s.info().snd_mss, expected, "mss {mss}");
        s.write(0, 5000);
        let sizes = on_the_wire(&s.drain());
        assert_eq!(sizes[0], expected as usize, "mss {mss}");
    }
}

#[test]
fn tcp_maxseg_lowers_what_is_announced_and_what_is_sent() {
    let mut config = Config::default();
    config.options(SocketOptions {
        mss: Some(700),
        ..SocketOptions::default()
    });
    let mut s = Script::listening(config, 16);
    s.recv("S 0:0(0) win 65535 <mss 1460>");
    s.sent("S. 0:0(0) ack 1 <mss 700>");
    s.recv(". 1:1(0) ack 1 win 65535");
    s.accept();
    assert_eq!(s.info().snd_mss, 700);
}

#[test]
fn what_is_too_big_for_the_path_is_sent_again_in_smaller_segments_at_once() {
    for (v6, kind, mtu, mss) in [(false, NEEDED, 1200, 1160), (true, TOO_BIG, 1300, 1240)] {
        let mut s = open(v6, Config::default());
        s.write(0, 4000);
        let sent = s.next().unwrap();
        s.recv_icmp(kind, mtu, &sent, 0);
        let again = s.drain();
        assert_eq!(on_the_wire(&again), [mss, mss, mss, 4000 - 3 * mss]);
        let bytes: Vec<u8> = again.iter().flat_map(|sent| sent.payload.clone()).collect();
        assert_eq!(bytes, pattern(0, 4000));
        assert_eq!(
            (s.info().path_mtu, s.info().cwnd),
            (mtu, 10 * mss as u32),
            "as many segments as before (RFC 5681 §3.1)"
        );
        // What comes later is small from the start.
        s.recv(". 1:1(0) ack 4001 win 65535");
        s.write(4000, 4000);
        assert_eq!(on_the_wire(&s.drain())[..3], [mss; 3]);
    }
}

#[test]
fn only_what_was_too_big_is_sent_again() {
    let mut s = open(false, Config::default());
    s.set(|options| options.nodelay = true);
    s.write(0, 500);
    s.write(500, 1460);
    s.write(1960, 500);
    let sent = s.drain();
    s.recv_icmp(NEEDED, 1000, &sent[1], 0);
    let again = s.drain();
    assert_eq!(on_the_wire(&again), [960, 500]);
    assert_eq!(again[0].header.seq.raw().wrapping_sub(s.iss()), 501);
}

#[test]
fn b10_what_is_not_of_our_flight_changes_nothing() {
    let mut s = open(false, Config::default());
    s.write(0, 4000);
    let sent = s.next().unwrap();
    for offset in [4000, 100_000, 1 << 31, u32::MAX] {
        s.recv_icmp(NEEDED, 600, &sent, offset);
    }
    assert_eq!(s.info().path_mtu, 1500);
    s.silence();
    s.recv(". 1:1(0) ack 4001 win 65535");
    s.recv_icmp(NEEDED, 600, &sent, 0);
    assert_eq!(s.info().path_mtu, 1500);
    s.silence();
}

#[test]
fn b10_absurd_sizes_are_bounded() {
    for (v6, kind, told, believed) in [
        (false, NEEDED, 68, 552),
        (false, NEEDED, 1, 552),
        (false, NEEDED, 0, 1492),
        (false, NEEDED, 65_535, 1500),
        (true, TOO_BIG, 0, 1280),
        (true, TOO_BIG, 1000, 1280),
        (true, TOO_BIG, u32::MAX, 1500),
    ] {
        let mut s = open(v6, Config::default());
        s.write(0, 4000);
        let sent = s.next().unwrap();
        s.recv_icmp(kind, told, &sent, 0);
        assert_eq!(s.info().path_mtu, believed, "told {told}");
    }
}

#[test]
fn after_ten_minutes_the_larger_size_is_tried_again() {
    let mut s = open(false, Config::default());
    s.write(0, 4000);
    let sent = s.next().unwrap();
    s.recv_icmp(NEEDED, 1000, &sent, 0);
    s.drain();
    s.recv(". 1:1(0) ack 4001 win 65535");
    s.wait(Duration::from_secs(599));
    s.write(4000, 2000);
    assert_eq!(on_the_wire(&s.drain()), [960, 960, 80]);
    s.recv(". 1:1(0) ack 6001 win 65535");
    s.wait(Duration::from_secs(1));
    s.write(6000, 2000);
    assert_eq!(on_the_wire(&s.drain()), [1460, 540]);
}

#[test]
fn a_path_that_swallows_large_packets_without_a_word_is_found_out() {
    for (v6, sizes) in [
        (false, [1460, 1460, 1460, 1024, 536, 536]),
        (true, [1440, 1440, 1440, 1220, 1220, 1220]),
    ] {
        let mut config = Config::default();
        config.sack(false);
        let mut s = open(v6, config);
        s.write(0, 20_000);
        s.drain();
        for (timeout, expected) in sizes.into_iter().skip(1).enumerate() {
            s.wait_for_timer();
            let first = s.drain().swap_remove(0);
            assert_eq!(
                on_the_wire(&[first])[0],
                expected,
                "timeout {}",
                timeout + 1
            );
        }
    }
}

/// A connection more of the peer, from port `port`.
fn open_again(s: &mut Script, port: u16) {
    s.peer.set_port(port);
    s.recv("S 0:0(0) win 65535 <mss 1460,sackOK>");
    // What the path does not take is no reason for the peer to send less.
    s.sent("S. 0:0(0) ack 1 <mss 1460,nop,nop,sackOK>");
    s.recv(". 1:1(0) ack 1 win 65535");
    s.accept();
}

#[test]
fn rfc1191_6_3_what_one_connection_found_out_the_next_one_begins_with_for_ten_minutes() {
    let mut s = open(false, Config::default());
    s.write(0, 1460);
    let sent = s.next().unwrap();
    s.recv_icmp(NEEDED, 1200, &sent, 0);
    s.drain();
    s.recv(". 1:1(0) ack 1461 win 65535");
    s.wait(Duration::from_secs(500));
    open_again(&mut s, 40_001);
    assert_eq!((s.info().path_mtu, s.info().cwnd), (1200, 11_600));
    s.write(0, 3000);
    assert_eq!(on_the_wire(&s.drain()), [1160, 1160, 680]);
    s.recv(". 1:1(0) ack 3001 win 65535");
    // Those that we open too.
    s.peer = "192.0.2.1:80".parse().unwrap();
    s.connect();
    s.drain();
    s.recv("S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK>");
    s.drain();
    assert_eq!(s.info().path_mtu, 1200);
    s.wait(Duration::from_secs(100));
    s.write(0, 3000);
    assert_eq!(on_the_wire(&s.drain())[0], 1460);
}

#[test]
fn b10_another_peer_a_forged_message_and_another_device_leave_nothing_to_the_next() {
    for (sent_to, offset, mtu) in [(2, 0, 1500), (1, 10_000, 1500), (1, 0, 1400)] {
        let mut s = open(false, Config::default());
        s.write(0, 1460);
        let sent = s.next().unwrap();
        s.recv_icmp(NEEDED, 1200, &sent, offset);
        s.drain();
        s.engine.set_mtu(mtu);
        s.recv(". 1:1(0) ack 1461 win 65535");
        s.peer.set_ip([192, 0, 2, sent_to].into());
        s.peer.set_port(40_001);
        s.recv("S 0:0(0) win 65535 <mss 1460,sackOK>");
        s.drain();
        s.recv(". 1:1(0) ack 1 win 65535");
        s.accept();
        assert_eq!(s.info().path_mtu, mtu as u32);
    }
}

#[test]
fn a_small_segment_that_vanishes_is_no_sign_of_a_black_hole() {
    let mut s = open(false, Config::default());
    s.write(0, 100);
    s.wait(Duration::from_secs(100));
    assert_eq!(s.info().path_mtu, 1500);
}

#[test]
fn after_an_outage_segments_are_as_large_as_before() {
    for (v6, full, small) in [(false, 1460, 536), (true, 1440, 1220)] {
        let mut s = open(v6, Config::default());
        s.write(0, 40 * full);
        let sent: usize = on_the_wire(&s.drain()).iter().sum();
        let mut size = full;
        while size != small {
            s.wait_for_timer();
            size = on_the_wire(&s.drain()).first().map_or(size, |size| *size);
        }
        s.recv(&format!(". 1:1(0) ack {} win 65535", full + 1));
        assert_eq!(on_the_wire(&s.drain()), [full, full]);
        // These are delivered, so there is no reason to try smaller ones a second time.
        s.recv(&format!(". 1:1(0) ack {} win 65535", sent + 2 * full + 1));
        assert!(on_the_wire(&s.drain()).iter().all(|size| *size == full));
        let timeouts = s.counters().timeouts;
        let mut first = 0;
        while s.counters().timeouts == timeouts {
            s.wait_for_timer();
            first = on_the_wire(&s.drain())[0];
        }
        assert_eq!((first, s.info().path_mtu), (full, 1500));
    }
}

#[test]
fn rfc4821_7_7_where_large_segments_vanish_again_and_small_ones_do_not_the_path_is_small() {
    let mut s = open(false, Config::default());
    s.write(0, 50_000);
    s.drain();
    let after_timer = |s: &mut Script| {
        s.wait_for_timer();
        on_the_wire(&s.drain()).first().copied()
    };
    while after_timer(&mut s) != Some(1024) {}
    s.recv(". 1:1(0) ack 1461 win 65535");
    assert_eq!(on_the_wire(&s.drain())[0], 1460);
    // One timeout is enough now.
    let timeouts = s.counters().timeouts;
    while s.counters().timeouts == timeouts {
        assert_ne!(after_timer(&mut s), Some(1460));
    }
    assert_eq!(s.info().path_mtu, 1500);
    s.recv(". 1:1(0) ack 2921 win 65535");
    assert_eq!(s.info().path_mtu, 1064);
    assert_eq!(on_the_wire(&s.drain())[0], 1024);
}

#[test]
fn a_transfer_through_a_black_hole_arrives() {
    let mut config = Config::default();
    config.sack(false);
    let mut s = open(false, config);
    let total = 50_000;
    let (mut got, mut written) = (Vec::<u8>::new(), 0);
    while got.len() < total {
        assert!(s.elapsed() < Duration::from_secs(10), "{:?}", s.elapsed());
        if written < total {
            let data = pattern(written, total - written);
            written += s.engine.write(s.id(), &data, s.now).unwrap_or(0);
        }
        let mut lost = true;
        for sent in s.drain() {
            let start = sent.header.seq.raw().wrapping_sub(s.iss()) as usize - 1;
            let size = if sent.gso_size > 0 {
                usize::from(sent.gso_size)
            } else {
                sent.payload.len()
            };
            if size <= 1100 && start <= got.len() {
                let skip = got.len() - start;
                if skip < sent.payload.len() {
                    got.extend(&sent.payload[skip..]);
                }
                lost = false;
            }
        }
        if lost {
            s.wait_for_timer();
        } else {
            s.recv(&format!(". 1:1(0) ack {} win 65535", got.len() + 1));
        }
    }
    assert_eq!(got, pattern(0, total));
}

#[test]
fn the_device_may_change_its_mtu_at_any_time() {
    let mut s = open(false, Config::default());
    s.engine.set_mtu(1000);
    s.write(0, 2000);
    assert_eq!(on_the_wire(&s.drain()), [960, 960, 80]);
    s.recv(". 1:1(0) ack 2001 win 65535");
    s.engine.set_mtu(1500);
    s.write(2000, 2000);
    assert_eq!(on_the_wire(&s.drain()), [1460, 540]);
}
