//! Explicit congestion notification (RFC 3168).

use super::script::Script;
use crate::{
    config::{Config, Congestion, SocketOptions},
    wire::tcp::Flags,
};

const ECT_0: u8 = 2;

/// Both ends have agreed on it.
fn agreed() -> Script {
    let mut s = Script::listening(Config::default(), 4);
    s.recv("SEW 0:0(0) win 65535 <mss 1000,sackOK>");
    s.sent("SE. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    s
}

fn asking() -> Script {
    let mut config = Config::default();
    config.ecn(true);
    Script::connecting(config)
}

#[test]
fn rfc3168_6_1_1_who_opens_asks_with_both_bits_and_ece_alone_agrees() {
    for (answer, ect) in [("SE.", ECT_0), ("SEW.", 0), ("S.", 0)] {
        let mut s = asking();
        let syn = s.sent("SEW 0:0(0)");
        assert_eq!(syn.tos & 3, 0, "a SYN is not ECN-capable");
        s.recv(&format!("{answer} 0:0(0) ack 1 <mss 1000>"));
        assert_eq!(s.sent(". 1:1(0) ack 1").tos & 3, 0);
        s.write(0, 1000);
        assert_eq!(s.next().unwrap().tos & 3, ect, "{answer}");
    }
}

#[test]
fn rfc3168_6_1_2_echoes_reduce_the_window_once_in_a_round_trip_and_are_answered_once() {
    let mut s = agreed();
    s.write(0, 10_000);
    s.drain();
    let (before, ..) = s.windows();
    s.recv("E. 1:1(0) ack 1001");
    let (reduced, ..) = s.windows();
    assert!(reduced < before);
    s.recv("E. 1:1(0) ack 2001");
    s.recv("E. 1:1(0) ack 10001");
    let (after, ..) = s.windows();
    assert!(after >= reduced, "{after} after {reduced}");
    s.write(10_000, 2000);
    let sent = s.drain();
    let told = sent.iter().filter(|sent| sent.header.flags.has(Flags::CWR));
    assert_eq!(told.count(), 1);
    assert!(sent[0].header.flags.has(Flags::CWR));
}

#[test]
fn rfc3168_6_1_4_and_5_acknowledgements_and_repetitions_are_not_ecn_capable() {
    let mut s = agreed();
    s.recv(". 1:1001(1000) ack 1");
    assert_eq!(s.sent(". 1:1(0) ack 1001").tos & 3, 0);
    s.write(0, 1000);
    assert_eq!(s.next().unwrap().tos & 3, ECT_0);
    s.wait_for_timer();
    let again = s.sent("P. 1:1001(1000) ack 1001");
    assert_eq!(again.tos & 3, 0);
}

/// After a mark the peer's window may be down to a segment: whoever waited for a second one would
/// wait for nothing.
#[test]
fn rfc3168_6_1_3_a_mark_the_next_segment_and_the_answer_to_it_are_acknowledged_at_once() {
    let mut s = agreed();
    let mut next = 1;
    let mut segment = |s: &mut Script, flags: &str, marked| {
        let text = format!("{flags} {next}:{}(1000) ack 1", next + 1000);
        if marked {
            s.recv_marked(&text);
        } else {
            s.recv(&text);
        }
        next += 1000;
        next
    };
    for _ in 0..16 {
        segment(&mut s, ".", false);
    }
    s.read().unwrap();
    s.drain();
    segment(&mut s, ".", false);
    s.silence();
    // It is the second after the delayed one; what follows it would wait otherwise.
    for marked in [true, false] {
        let next = segment(&mut s, ".", marked);
        s.sent(&format!("E. 1:1(0) ack {next}"));
        s.read().unwrap();
    }
    segment(&mut s, ".", false);
    s.silence();
    let next = segment(&mut s, ".", false);
    s.sent(&format!("E. 1:1(0) ack {next}"));
    let next = segment(&mut s, "W.", false);
    s.sent(&format!(". 1:1(0) ack {next}"));
    segment(&mut s, ".", false);
    s.silence();
}

/// Congestion control as plain as it can be, over a round trip of 100 ms, with timestamps if
/// `options` say so, ten segments in flight and `more` bytes to send.
fn ten_in_flight(options: &str, more: usize) -> Script {
    let mut config = Config::default();
    let socket = SocketOptions {
        congestion: Congestion::Reno,
        ..config.options
    };
    config.options(socket);
    let mut s = Script::listening(config, 4);
    s.recv(&format!("SEW 0:0(0) win 65535 <{options}>"));
    s.sent("SE. 0:0(0) ack 1");
    s.wait_ms(100);
    let ts = if options.contains("TS") {
        " <TS val 100 ecr 0>"
    } else {
        ""
    };
    s.recv(&format!(". 1:1(0) ack 1 win 65535{ts}"));
    s.accept();
    s.write(0, 10_000);
    s.drain();
    s.wait_ms(100);
    s.write(10_000, more);
    s.silence();
    s
}

/// Flags, first number and length of all that was sent.
fn taken(s: &mut Script) -> Vec<String> {
    let sent = s.drain();
    sent.iter()
        .map(|sent| sent.text.split(" ack").next().unwrap().to_owned())
        .collect()
}

const NOTHING: [&str; 0] = [];

/// As Linux answers the same segments.
#[test]
fn rfc3168_6_1_2_a_loss_in_the_window_of_a_mark_does_not_reduce_it_again() {
    let mut s = ten_in_flight("mss 1000,sackOK", 20_000);
    s.recv("E. 1:1(0) ack 1001");
    assert_eq!(taken(&mut s), ["W. 10001:11001(1000)"]);
    assert_eq!((s.windows().1, s.info().recovery), (5000, "cwr"));
    s.recv("E. 1:1(0) ack 2001");
    assert_eq!(taken(&mut s), NOTHING);
    s.recv("E. 1:1(0) ack 2001 <sack 3001:4001>");
    assert_eq!(taken(&mut s), [". 11001:12001(1000)"]);
    s.recv(". 1:1(0) ack 2001 <sack 3001:5001>");
    assert_eq!(taken(&mut s), NOTHING);
    s.recv(". 1:1(0) ack 2001 <sack 3001:6001>");
    assert_eq!(taken(&mut s), [". 2001:3001(1000)"]);
    assert_eq!((s.windows().1, s.info().recovery), (5000, "recovery"));
    s.recv(". 1:1(0) ack 2001 <sack 3001:10001>");
    s.drain();
    assert_eq!(s.windows().2, 5000);
    s.recv(". 1:1(0) ack 10001");
    assert_eq!(taken(&mut s), [". 14001:15001(1000)"]);
    assert_eq!((s.windows().1, s.info().recovery), (5000, "open"));
    // The next window is another one.
    s.recv("E. 1:1(0) ack 11001");
    assert_eq!((s.windows().1, s.info().recovery), (2000, "cwr"));
}

/// As Linux answers the same segments.
#[test]
fn rfc3168_6_1_2_an_echo_without_progress_counts_and_takes_a_round_trip_to_halve_the_flight() {
    let mut s = ten_in_flight("mss 1000,sackOK", 20_000);
    s.recv("E. 1:1(0) ack 1");
    assert_eq!(taken(&mut s), NOTHING);
    assert_eq!((s.windows().1, s.info().recovery), (5000, "cwr"));
    let mut new = 10_001;
    for ack in 1..=11 {
        s.wait_ms(3);
        s.recv(&format!(". 1:1(0) ack {}", ack * 1000 + 1));
        let flags = if ack == 1 { "W." } else { "." };
        if [1, 3, 5, 7, 10, 11].contains(&ack) {
            assert_eq!(
                taken(&mut s),
                [format!("{flags} {new}:{}(1000)", new + 1000)]
            );
            new += 1000;
        } else {
            assert_eq!(taken(&mut s), NOTHING);
        }
    }
    assert_eq!(s.windows(), (5000, 5000, 5000));
    assert_eq!(s.info().recovery, "open");
}

#[test]
fn rfc3168_6_1_2_a_mark_in_the_window_of_a_loss_does_not_reduce_it_again() {
    let mut s = ten_in_flight("mss 1000,sackOK", 20_000);
    s.recv(". 1:1(0) ack 1 <sack 1001:4001>");
    // The bit that tells of it is on new data.
    let expected = [". 1:1001(1000)", "W. 10001:11001(1000)"];
    assert_eq!(taken(&mut s), expected);
    s.recv("E. 1:1(0) ack 1 <sack 1001:9001>");
    s.recv("E. 1:1(0) ack 9001");
    s.recv("E. 1:1(0) ack 10001");
    assert_eq!((s.windows().1, s.info().recovery), (5000, "open"));
    s.recv("E. 1:1(0) ack 11001");
    assert_eq!((s.windows().1, s.info().recovery), (2000, "cwr"));
}

#[test]
fn rfc3168_6_1_2_a_timeout_in_the_window_of_a_mark_does_not_reduce_it_again() {
    let mut s = ten_in_flight("mss 1000,sackOK", 20_000);
    s.recv("E. 1:1(0) ack 1001");
    assert_eq!(taken(&mut s), ["W. 10001:11001(1000)"]);
    while s.info().recovery != "loss" {
        s.wait_for_timer();
    }
    assert_eq!((s.windows().0, s.windows().1), (1000, 5000));
}

#[test]
fn a_timeout_after_the_window_of_a_mark_reduces_it_again() {
    let mut s = ten_in_flight("mss 1000,sackOK", 20_000);
    s.recv("E. 1:1(0) ack 1001");
    s.recv(". 1:1(0) ack 10001");
    s.drain();
    assert_eq!((s.windows().1, s.info().recovery), (5000, "cwr"));
    while s.info().recovery != "loss" {
        s.wait_for_timer();
    }
    assert_eq!((s.windows().0, s.windows().1), (1000, 2000));
}

#[test]
fn a_timeout_long_after_a_mark_reduces_the_window_again() {
    let mut s = ten_in_flight("mss 1000,sackOK", 0);
    s.recv("E. 1:1(0) ack 1001");
    s.recv(". 1:1(0) ack 10001");
    assert_eq!((s.windows().1, s.info().recovery), (5000, "cwr"));
    s.wait_ms(10_000);
    let now = s.engine.at(s.now);
    s.engine.slots.park_all(now);
    s.write(10_000, 1000);
    while s.info().recovery != "loss" {
        s.wait_for_timer();
    }
    assert_eq!((s.windows().0, s.windows().1), (1000, 2000));
}

/// The loss was none, the mark was one.
#[test]
fn what_the_network_has_marked_is_not_undone() {
    for (flags, is_undone) in [(".", true), ("E.", false)] {
        let mut s = ten_in_flight("mss 1012,sackOK,TS val 100 ecr 0", 0);
        s.recv(". 1:1(0) ack 1 <TS val 200 ecr 100,sack 1001:4001>");
        s.drain();
        assert_eq!((s.windows().1, s.info().recovery), (5000, "recovery"));
        s.wait_ms(10);
        // The original has arrived late, before what was sent again.
        s.recv(&format!("{flags} 1:1(0) ack 4001 <TS val 210 ecr 100>"));
        let expected = if is_undone { u32::MAX } else { 5000 };
        assert_eq!((s.windows().1, s.info().recovery), (expected, "open"));
        // What is undone is not told (Linux: `tcp_ecn_withdraw_cwr`).
        s.recv(". 1:1(0) ack 10001 <TS val 220 ecr 100>");
        s.write(10_000, 1000);
        let told = s.next().unwrap().header.flags.has(Flags::CWR);
        assert_eq!(told, !is_undone);
    }
}

#[test]
fn rfc3168_6_1_4_an_acknowledgement_neither_brings_a_mark_nor_ends_the_echo() {
    let mut s = agreed();
    s.recv_marked(". 1:1(0) ack 1");
    s.recv(". 1:1001(1000) ack 1");
    s.sent(". 1:1(0) ack 1001");
    s.recv_marked(". 1001:2001(1000) ack 1");
    s.sent("E. 1:1(0) ack 2001");
    s.recv("W. 2001:2001(0) ack 1");
    s.recv(". 2001:3001(1000) ack 1");
    s.sent("E. 1:1(0) ack 3001");
}
