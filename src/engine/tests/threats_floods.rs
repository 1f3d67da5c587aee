//! SYN floods: cookies, what the tables cost, and what a spoofed SYN can make us send.

use std::{collections::VecDeque, time::Duration};

use super::{
    pair::pattern,
    raw::{self, ACK},
    script::Script,
};
use crate::{
    config::Config,
    info::State,
    packet::{Checksum, Meta, Packet},
};

/// Half-open connections of spoofed peers fill the table.
fn flooded(max: usize, config: &mut Config) -> Script {
    config.half_open_max(max);
    let mut s = Script::listening(config.clone(), 128);
    for port in 0..max {
        s.peer.set_port(1000 + port as u16);
        s.recv("S 0:0(0) win 65535 <mss 1000>");
        s.sent("S. 0:0(0) ack 1");
    }
    s.peer = "198.51.100.7:4000".parse().unwrap();
    s
}

#[test]
fn f1_with_a_full_table_honest_peers_still_connect() {
    let mut s = flooded(100, &mut Config::default());
    for port in 0..50 {
        s.peer.set_port(4000 + port);
        s.recv("S 0:0(0) win 5000 <mss 1460>");
        s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
        s.wait_ms(10);
        s.recv(". 1:1(0) ack 1 win 5000");
        s.accept();
        s.recv("P. 1:101(100) ack 1 win 5000");
        s.sent(". 1:1(0) ack 101");
        assert_eq!(s.read().unwrap(), pattern(0, 100));
    }
    assert_eq!(s.count(State::SynReceived), 100);
    let counters = s.counters();
    assert_eq!((counters.cookies_sent, counters.cookies_accepted), (50, 50));
}

#[test]
fn f2_a_cookie_keeps_the_options_when_there_are_timestamps() {
    let mut s = flooded(10, &mut Config::default());
    s.wait_ms(777);
    s.recv("S 0:0(0) win 5000 <mss 1200,sackOK,TS val 50 ecr 0,wscale 9>");
    let cookie = s.next().unwrap();
    let options = cookie.header.options;
    assert_eq!(
        (options.mss, options.window_scale, options.sack_permitted),
        (Some(1460), Some(7), true)
    );
    let echo = options.timestamps.unwrap().val;
    let mut ack = raw::Tcp::from_peer(&s, ACK, 1);
    ack.ack = cookie.header.seq.raw().wrapping_add(1);
    ack.wnd = 10;
    ack.options = [
        &[1, 1, 8, 10][..],
        &60_u32.to_be_bytes(),
        &echo.to_be_bytes(),
    ]
    .concat();
    s.recv_packet(ack.packet());
    s.accept();
    let info = s.engine.info(s.id()).unwrap();
    assert_eq!(
        (info.snd_shift, info.sack, info.timestamps),
        (9, true, true)
    );
    assert_eq!((info.snd_wnd, info.snd_mss), (10 << 9, 1200 - 12));
}

#[test]
fn f2_without_timestamps_a_cookie_keeps_the_mss_only_and_promises_no_more() {
    let mut s = flooded(10, &mut Config::default());
    s.recv("S 0:0(0) win 5000 <mss 1300,sackOK,wscale 9>");
    s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
    s.recv(". 1:1(0) ack 1 win 5000");
    s.accept();
    let info = s.engine.info(s.id()).unwrap();
    assert_eq!(
        (info.snd_shift, info.sack, info.timestamps),
        (0, false, false)
    );
    assert_eq!((info.snd_wnd, info.snd_mss), (5000, 1200));
}

#[test]
fn f2_a_cookie_may_come_back_with_data() {
    let mut s = flooded(10, &mut Config::default());
    s.recv("S 0:0(0) win 5000 <mss 1300>");
    s.sent("S. 0:0(0) ack 1");
    s.recv("FP. 1:101(100) ack 1 win 5000");
    s.sent(". 1:1(0) ack 102");
    s.accept();
    assert_eq!(s.read().unwrap(), pattern(0, 100));
}

#[test]
fn f2_a_cookie_is_refused_after_four_minutes_even_if_the_flood_goes_on() {
    let mut s = flooded(10, &mut Config::default());
    let victim = s.peer;
    s.recv("S 0:0(0) win 5000 <mss 1300>");
    let cookie = s.sent("S. 0:0(0) ack 1").header.seq.raw();
    for round in 0..24 {
        s.wait_ms(10_000);
        for port in 0..12 {
            s.peer.set_port(10_000 + round * 100 + port);
            s.recv("S 0:0(0) win 5000 <mss 1300>");
        }
        s.drain();
    }
    s.peer = victim;
    s.set_iss(cookie);
    s.recv(". 1:1(0) ack 1 win 5000");
    s.sent("R 1:1(0)");
    assert_eq!(s.count(State::Established), 0);
}

#[test]
fn f2_a_cookie_of_another_peer_or_number_opens_nothing() {
    let mut s = flooded(10, &mut Config::default());
    s.recv("S 0:0(0) win 5000 <mss 1300>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 2:2(0) ack 1 win 5000");
    s.sent("R 1:1(0)");
    s.peer.set_port(4001);
    s.recv(". 1:1(0) ack 1 win 5000");
    s.sent("R 1:1(0)");
    s.peer.set_port(4000);
    s.recv("S. 1:1(0) ack 1 win 5000");
    s.sent("R 1:1(0)");
    assert_eq!(s.count(State::Established), 0);
}

#[test]
fn f2_random_acknowledgements_open_nothing() {
    let mut s = flooded(10, &mut Config::default());
    s.recv("S 0:0(0) win 5000 <mss 1300>");
    s.sent("S. 0:0(0) ack 1");
    let mut rng = crate::testing::Rng::new(5);
    let bytes = raw::Tcp::from_peer(&s, ACK, 1).bytes();
    let (before, after) = (&bytes[..28], &bytes[32..]);
    let meta = Meta {
        checksum: Checksum::Verified,
        ..Meta::default()
    };
    // A million; a fifth of it where each takes five times as long.
    let rounds = if cfg!(debug_assertions) { 40 } else { 200 };
    for _ in 0..rounds {
        for _ in 0..5000 {
            let ack = (rng.next() as u32).to_be_bytes();
            let bytes = [before, &ack, after].concat();
            s.engine
                .on_packet(Packet::received(bytes.into(), meta), s.now);
        }
        s.wait(Duration::from_millis(250));
        s.drain();
    }
    assert_eq!(s.counters().cookies_accepted, 0);
    assert_eq!(s.count(State::Established), 0);
}

#[test]
fn f2_no_cookie_is_taken_when_there_was_no_flood() {
    // The cookie is right: an engine with the same secrets and a flood made it.
    let mut s = flooded(10, &mut Config::default());
    s.recv("S 0:0(0) win 5000 <mss 1300>");
    let cookie = s.sent("S. 0:0(0) ack 1").header.seq.raw();
    let mut calm = Script::listening(Config::default(), 128);
    calm.peer = s.peer;
    calm.set_iss(cookie);
    calm.recv(". 1:1(0) ack 1 win 5000");
    calm.sent("R 1:1(0)");
    s.recv(". 1:1(0) ack 1 win 5000");
    s.accept();
}

#[test]
fn f3_one_syn_buys_six_syn_acks_and_a_cookie_is_sent_once() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.wait(Duration::from_millis(7999));
    assert_eq!(s.drain().len(), 4);
    s.wait(Duration::from_secs(600));
    assert_eq!(s.drain().len(), 2);

    let mut s = flooded(10, &mut Config::default());
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    let cookie = s.drain();
    assert_eq!(cookie.len(), 1);
    s.wait(Duration::from_secs(600));
    let to_us = |sent: &super::script::Sent| sent.header.dst_port == 4000;
    assert!(!s.drain().iter().any(to_us));
}

#[test]
fn f3_an_exact_reset_stops_the_series() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv("R. 1:1(0) ack 1");
    s.wait(Duration::from_secs(600));
    s.silence();
}

#[test]
fn f1_what_a_half_open_connection_and_a_record_in_time_wait_cost() {
    let mut config = Config::default();
    config.time_wait_max(4096);
    let mut s = Script::listening(config, 128);
    let before = s.engine.demux.memory();
    for n in 0..4096_u16 {
        s.peer.set_port(1000 + n);
        s.recv("S 0:0(0) win 65535 <mss 1000>");
        s.next().unwrap();
    }
    let bytes = s.engine.half_open.memory() + s.engine.demux.memory() - before;
    let each = bytes.div_ceil(4096);
    println!("a half-open connection: {each} bytes");
    assert!(each <= 128, "{each} bytes");

    let mut s = Script::listening(Config::default(), 128);
    s.engine.config.time_wait_max = 28_672;
    for n in 0..28_672_u16 {
        s.peer.set_port(1000 + n);
        s.recv("S 0:0(0) win 65535 <mss 1000>");
        s.sent("S. 0:0(0) ack 1");
        s.recv(". 1:1(0) ack 1");
        s.accept();
        s.close();
        s.sent("F. 1:1(0) ack 1");
        s.recv("F. 1:1(0) ack 2");
        s.sent(". 2:2(0) ack 2");
    }
    assert_eq!(s.engine.time_wait.len(), 28_672);
    let bytes = s.engine.time_wait.memory() + s.engine.demux.memory();
    let each = bytes.div_ceil(28_672);
    println!("a record in TIME-WAIT: {each} bytes");
    assert!(each <= 96, "{each} bytes");
    s.wait_ms(60_001);
    assert_eq!(s.engine.time_wait.memory(), 0);
}

/// The limit of their rate would let through more of them than that in the time.
#[test]
fn no_more_than_4096_answers_wait_for_a_device_that_takes_none() {
    let mut s = Script::new(Config::default());
    let (peer, local) = (raw::v4(s.peer), raw::v4(s.local));
    let mut echo = [8, 0, 0, 0, 0, 7, 0, 1];
    let sum = raw::checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let request = raw::ipv4(peer, local, 1, &echo);
    for _ in 0..8 {
        s.now += Duration::from_secs(1);
        for _ in 0..1_500 {
            s.engine.on_packet(raw::packet(&request), s.now);
        }
    }
    let mut out = VecDeque::new();
    s.engine.poll_packet(s.now, usize::MAX >> 1, &mut out);
    assert_eq!(out.len(), 4096);
    let counters = s.counters();
    assert_eq!((counters.echo_replies, counters.packets_sent), (4096, 4096));
    assert_eq!(counters.limited, 8 * 1_500 - 4096);
}

/// More SYNs than answers may wait, as when the device takes packets slower than it gives them.
#[test]
fn f1_what_is_held_back_is_not_counted_as_sent() {
    let mut s = flooded(10, &mut Config::default());
    let before = s.counters().clone();
    for port in 0..5_000 {
        s.peer.set_port(10_000 + port);
        let syn = raw::Tcp::from_peer(&s, raw::SYN, 0).packet();
        s.engine.on_packet(syn, s.now);
    }
    let mut out = VecDeque::new();
    s.engine.poll_packet(s.now, usize::MAX >> 1, &mut out);
    let sent = out.len() as u64;
    let counters = s.counters();
    assert_eq!(counters.cookies_sent - before.cookies_sent, sent);
    assert_eq!(counters.segments_sent - before.segments_sent, sent);
    assert_eq!(counters.packets_sent - before.packets_sent, sent);
    assert_eq!(counters.limited - before.limited, 5_000 - sent);
    assert!((1_000..5_000).contains(&sent), "{sent}");
}
