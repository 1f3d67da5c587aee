//! Duplicate SACK (RFC 2883): what we report, and what we learn.

use super::script::Script;
use crate::config::Config;

fn receiver() -> Script {
    Script::accepted(Config::default())
}

#[test]
fn rfc2883_4_a_duplicate_is_reported_once() {
    let mut s = receiver();
    s.recv("P. 1:501(500) ack 1 win 65535");
    s.recv("P. 501:1001(500) ack 1 win 65535");
    s.drain();
    s.recv("P. 501:1001(500) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1001 <sack 501:1001>");
    s.recv("P. 1001:1501(500) ack 1 win 65535");
    let next = s.next().unwrap();
    assert!(
        next.header.options.sack.is_empty(),
        "once only: {}",
        next.text
    );
}

#[test]
fn rfc3708_when_all_that_was_sent_again_was_received_twice_the_reduction_is_undone() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(100);
    s.acked(1, "sack 2001:5001");
    let sent: usize = s.drain().iter().map(|sent| sent.payload.len()).sum();
    assert_eq!(sent, 1000);
    s.acked(5001, "");
    assert_eq!(s.windows().1, 5000);
    s.wait_ms(100);
    s.acked(10_001, "");
    s.acked(10_001, "sack 1:1001");
    assert_eq!(s.counters().spurious_recoveries, 1);
    assert!(
        s.windows().0 >= 10_000 && s.windows().1 == u32::MAX,
        "{:?}",
        s.windows()
    );
}

#[test]
fn rfc3708_d_sacks_of_what_was_never_sent_again_undo_nothing() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(100);
    s.acked(2001, "sack 3001:6001");
    s.sent(". 2001:3001(1000)");
    s.acked(2001, "sack 1:2001 3001:6001");
    s.acked(2001, "sack -2000000000:2001 3001:6001");
    assert_eq!((s.counters().spurious_recoveries, s.windows().1), (0, 5000));
}

#[test]
fn rfc2883_4_a_fin_that_comes_again_is_part_of_the_block() {
    let mut s = receiver();
    s.recv("FP. 1:101(100) ack 1 win 65535");
    s.sent(". 1:1(0) ack 102");
    s.recv("FP. 1:101(100) ack 1 win 65535");
    s.sent(". 1:1(0) ack 102 <sack 1:102>");
    s.recv("F. 101:101(0) ack 1 win 65535");
    s.sent(". 1:1(0) ack 102 <sack 101:102>");
}

#[test]
fn rfc2883_4_what_was_held_and_comes_again_in_its_turn_is_reported() {
    let mut s = receiver();
    s.recv(". 501:801(300) ack 1 win 65535");
    s.drain();
    s.recv(". 1:1001(1000) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1001 <sack 501:801>");
    s.recv(". 1001:1101(100) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1101 <>");
}

#[test]
fn the_fin_that_comes_with_a_duplicate_is_acknowledged_without_a_block() {
    let mut s = receiver();
    s.recv(". 1:1001(1000) ack 1 win 65535");
    s.drain();
    s.recv("F. 1:1001(1000) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1002 <>");
    // The FIN itself twice is a duplicate as any other.
    s.recv("F. 1001:1001(0) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1002 <sack 1001:1002>");
}

/// §4.2.3: of two parts of a segment the first, and none with the answer to another segment.
#[test]
fn rfc2883_4_2_3_of_a_segment_that_repeats_two_parts_the_first_is_reported() {
    let mut s = receiver();
    s.recv(". 1:501(500) ack 1 win 65535");
    s.drain();
    s.recv(". 801:1001(200) ack 1 win 65535");
    s.sent(". 1:1(0) ack 501 <sack 801:1001>");
    s.recv(". 301:901(600) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1001 <sack 301:501>");
    s.recv(". 2001:3001(1000) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1001 <sack 2001:3001>");
}
