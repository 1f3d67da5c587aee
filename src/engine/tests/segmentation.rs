//! How data becomes segments: their size, super-segments, TTL and Diffserv.

use super::{pair::pattern, script::Script};
use crate::{
    config::{Config, SocketOptions},
    packet::PACKET_MAX,
};

const TIMESTAMPS: &str = "mss 1460,sackOK,TS val 100 ecr 0,nop,wscale 7";

#[test]
fn shld28_full_segments_leave_as_one_super_segment() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 4500);
    let segment = s.sent("P. 1:4501(4500) ack 1");
    assert_eq!(segment.gso_size, 1000);
    assert_eq!(segment.payload, pattern(0, 4500));
    s.silence();
}

#[test]
fn a_window_goes_out_in_two_halves_at_least() {
    // As Linux does: one is acknowledged while the other is on its way.
    let mut config = Config::default();
    config.initial_window(7);
    let mut s = Script::accepted(config);
    s.write(0, 9000);
    s.sent("P. 1:3001(3000) ack 1");
    s.sent("P. 3001:6001(3000) ack 1");
    s.sent(". 6001:7001(1000) ack 1");
    s.silence();
}

#[test]
fn a_segment_waits_for_more_only_if_the_next_acknowledgement_is_due_within_a_millisecond() {
    // As Linux does since 6.18.
    for (apart, waits) in [(0, true), (1, true), (2, false), (60, false)] {
        let mut s = Script::distant(Config::default(), "sackOK", 100);
        s.write(0, 1000);
        s.drain();
        s.wait_ms(apart);
        s.write(1000, 20_000);
        s.drain();
        s.wait_ms(100 - apart);
        s.acked(1001, "");
        s.sent("P. 10001:12001(2000)");
        // Room for one, where bursts are of two.
        s.acked(1501, "");
        assert_eq!(s.drain().is_empty(), waits, "{apart} ms apart");
    }
}

#[test]
fn a_single_segment_has_no_gso_size() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 1000);
    assert_eq!(s.sent("P. 1:1001(1000) ack 1").gso_size, 0);
}

#[test]
fn must16_options_are_taken_from_the_segment_and_not_added_to_it() {
    let mut s = Script::accepted_with(Config::default(), TIMESTAMPS, 65_535);
    assert_eq!(s.info().snd_mss, 1448);
    s.write(0, 3000);
    assert_eq!(s.sent("P. 1:3001(3000) ack 1").gso_size, 1448);
    // A SACK block takes 12 bytes more of each.
    s.recv(". 1001:2001(1000) ack 3001 win 65535 <TS val 101 ecr 0>");
    s.sent(". 3001:3001(0) ack 1");
    s.write(3000, 3000);
    let sent = s.sent("P. 3001:6001(3000) ack 1");
    assert_eq!(sent.gso_size, 1436);
    assert_eq!(sent.header.header_len, 44);
}

#[test]
fn a_super_segment_stays_within_a_packet_of_64_kib() {
    let mut config = Config::default();
    config.initial_window(64);
    let mut s = Script::accepted_with(config, TIMESTAMPS, 65_535);
    s.recv(". 1:1(0) ack 1 win 65535 <TS val 100 ecr 0>");
    let written = s.write(0, 130_000);
    let mut end = 1;
    for sent in s.drain() {
        assert_eq!(sent.header.seq.raw().wrapping_sub(s.iss()) as usize, end);
        assert!(sent.payload.len() + 20 + sent.header.header_len <= PACKET_MAX);
        assert!(sent.payload.len() % 1448 == 0 || end + sent.payload.len() == written + 1);
        end += sent.payload.len();
    }
    assert!(end > 64 * 1448, "{end}");
}

#[test]
fn a_segment_may_be_larger_than_a_super_segment_where_the_mtu_is() {
    let mut s = Script::with_mtu(Config::default(), PACKET_MAX);
    s.listener = Some(s.engine.listen(s.local, 16).unwrap());
    s.recv("S 0:0(0) win 65535 <mss 65495,sackOK,nop,wscale 7>");
    s.sent("S. 0:0(0) ack 1 <mss 65495,sackOK,nop,wscale 7>");
    s.recv(". 1:1(0) ack 1 win 65535");
    s.accept();
    assert_eq!(s.info().snd_mss, 65_495);
    s.write(0, 128 << 10);
    let sent = s.sent(". 1:65496(65495) ack 1");
    assert_eq!((sent.gso_size, sent.header.header_len), (0, 20));
    s.sent(". 65496:130991(65495) ack 1");
    s.sent("P. 130991:131073(82) ack 1");
}

#[test]
fn many_small_writes_become_full_segments() {
    let mut s = Script::accepted(Config::default());
    s.recv(". 1:1(0) ack 1 win 0");
    for offset in (0..3000).step_by(10) {
        s.write(offset, 10);
    }
    s.silence();
    s.recv(". 1:1(0) ack 1 win 65535");
    let mut got = Vec::new();
    for sent in s.drain() {
        assert_eq!(sent.payload.len() % 1000, 0, "{}", sent.text);
        got.extend(sent.payload);
    }
    assert_eq!(got, pattern(0, 3000));
}

#[test]
fn a_peer_with_a_window_of_less_than_two_segments_gets_smaller_ones() {
    let mut s = Script::accepted_with(Config::default(), "mss 1460,sackOK", 2000);
    s.write(0, 5000);
    assert_eq!(s.sent("P. 1:2001(2000) ack 1").gso_size, 1000);
    s.recv(". 1:1(0) ack 2001 win 4000");
    let sent = s.next().unwrap();
    assert!(
        sent.gso_size == 1460 || sent.payload.len() == 3000,
        "{}",
        sent.text
    );
}

#[test]
fn must49_ttl_and_diffserv_are_the_options_and_change_with_them() {
    let mut config = Config::default();
    config.options(SocketOptions {
        ttl: 33,
        tos: 0xb8,
        ..SocketOptions::default()
    });
    let mut s = Script::listening(config, 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    let syn_ack = s.sent("S. 0:0(0) ack 1");
    assert_eq!((syn_ack.ttl, syn_ack.tos), (33, 0xb8));
    s.recv(". 1:1(0) ack 1 win 65535");
    s.accept();
    s.write(0, 10);
    let data = s.sent("P. 1:11(10) ack 1");
    assert_eq!((data.ttl, data.tos), (33, 0xb8));
    // SHLD-21; the ECN bits are TCP's own.
    s.set(|options| (options.ttl, options.tos) = (255, 0x2b));
    s.recv("P. 1:11(10) ack 11 win 65535");
    let ack = s.sent(". 11:11(0) ack 11");
    assert_eq!((ack.ttl, ack.tos), (255, 0x28));
}

#[test]
fn so_sndbuf_bounds_what_may_be_written() {
    let mut s = Script::accepted(Config::default());
    s.set(|options| options.send_buffer = Some(10_000));
    s.recv(". 1:1(0) ack 1 win 0");
    assert_eq!(s.write(0, 50_000), 10_000);
    assert!(s.engine.write(s.id(), b"x", s.now).is_err());
    s.set(|options| options.send_buffer = Some(30_000));
    assert_eq!(s.write(10_000, 50_000), 20_000);
}

#[test]
fn the_send_buffer_grows_with_the_window_and_not_before() {
    let mut config = Config::default();
    config.send_buffer(20_000);
    let mut s = Script::accepted_with(config, "mss 1000,sackOK,nop,wscale 7", 65_535);
    s.recv(". 1:1(0) ack 1 win 65535");
    let mut written = s.write(0, 1 << 20);
    assert_eq!(written, 20_000);
    let mut end = 1;
    for _ in 0..100 {
        for sent in s.drain() {
            end =
                end.max(sent.header.seq.raw().wrapping_sub(s.iss()) as usize + sent.payload.len());
        }
        s.recv(&format!(". 1:1(0) ack {end} win 65535"));
        if let Ok(more) = s.engine.write(s.id(), &pattern(written, 1 << 20), s.now) {
            written += more;
        }
        s.collect();
    }
    assert!(
        written + 1 - end > 100_000,
        "{} in the buffer",
        written + 1 - end
    );
}

#[test]
fn the_send_buffer_outlasts_the_round_trips_in_which_a_loss_keeps_it_full() {
    let mut config = Config::default();
    config.send_buffer(4096).initial_window(20);
    let mut s = Script::distant(config, "sackOK,wscale 7", 100);
    let mut written = 0;
    let mut fill = |s: &mut Script| {
        while let Ok(more) = s
            .engine
            .write(s.id(), &pattern(written as usize, 1 << 20), s.now)
        {
            written += more as u32;
            s.collect();
        }
        written
    };
    // Without loss: the buffer grows to three windows of 40 segments.
    fill(&mut s);
    while s.windows().0 < 40_000 {
        s.wait_ms(100);
        let in_flight = s.windows().2 as u32;
        let acked = s.info().acked as u32 + 1 + in_flight;
        s.acked(acked, "");
        fill(&mut s);
    }
    s.drain();
    let (una, flight) = (s.info().acked as u32 + 1, s.windows().2 as u32);
    assert!(flight >= 40_000 && fill(&mut s) + 1 - una >= 100_000);
    // The first segment is lost, and what is sent in its place as well: ssthresh is in flight all
    // the time, of data that is new.
    let mut sacked = una + 1000;
    let mut new = 0;
    for _ in 0..2 {
        s.wait_ms(100);
        let end = una + flight + new;
        while sacked < end {
            sacked += 1000;
            s.acked(una, &format!("sack {}:{sacked}", una + 1000));
            fill(&mut s);
            let fresh = s.drain();
            let fresh = fresh.iter().filter(|sent| {
                let seq = sent.header.seq.raw().wrapping_sub(s.iss());
                seq >= end
            });
            new += fresh.map(|sent| sent.payload.len() as u32).sum::<u32>();
        }
        assert!(s.windows().2 >= 19_000, "{:?}", s.windows());
    }
    assert!(new >= 38_000, "{new}");
}

/// Linux: `tcp_create_openreq_child`. A SYN's window is often all the peer has ever had.
#[test]
fn the_window_of_a_syn_that_we_answer_is_no_measure_of_segments() {
    let mut s = Script::listening(Config::default(), 1);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1 win 1000");
    s.accept();
    assert_eq!(s.info().snd_mss, 500);
}
