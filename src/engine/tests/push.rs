//! The PSH bit (RFC 9293 §3.9.1.2).

use super::script::Script;
use crate::{config::Config, wire::tcp::Flags};

#[test]
fn must61_the_segment_that_empties_the_queue_is_pushed() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 100);
    s.sent("P. 1:101(100) ack 1");
    // A window of a segment lets out what does not empty it.
    let mut s = Script::accepted_with(Config::default(), "mss 1000", 1000);
    s.recv(". 1:1(0) ack 1 win 65535");
    s.recv(". 1:1(0) ack 1 win 1000");
    s.write(0, 1500);
    let first = s.next().unwrap();
    assert!(!first.header.flags.has(Flags::PSH), "{}", first.text);
    s.recv(". 1:1(0) ack 1001 win 1000");
    s.sent("P. 1001:1501(500) ack 1");
}

#[test]
fn what_goes_out_as_one_burst_is_pushed_at_its_end() {
    // As Linux does: who gathers segments hands them on.
    let mut s = Script::accepted(Config::default());
    s.write(0, 14_000);
    assert_eq!(s.sent("P. 1:5001(5000) ack 1").gso_size, 1000);
    s.sent("P. 5001:10001(5000) ack 1");
    s.recv(". 1:1(0) ack 2001 win 65535");
    s.sent("P. 10001:14001(4000) ack 1");
}

#[test]
fn what_is_not_pushed_is_not_held_back_from_the_reader() {
    // Data is acknowledged and delivered with or without the bit.
    let mut s = Script::accepted(Config::default());
    s.recv(". 1:11(10) ack 1 win 65535");
    assert_eq!(s.read().unwrap().len(), 10);
}

#[test]
fn shld27_pushes_collapse_when_several_writes_become_one_segment() {
    let mut s = Script::accepted(Config::default());
    s.recv(". 1:1(0) ack 1 win 0");
    for offset in [0, 300, 600] {
        s.write(offset, 300);
    }
    s.silence();
    s.recv(". 1:1(0) ack 1 win 65535");
    s.sent("P. 1:901(900) ack 1");
    // Nor is each of several segments pushed: the last of them is.
    s.recv(". 1:1(0) ack 901 win 0");
    for offset in (900..3400).step_by(500) {
        s.write(offset, 500);
    }
    for (segment, ack) in [(". 901:1901(1000)", 1901), (". 1901:2901(1000)", 2901)] {
        s.recv(&format!(". 1:1(0) ack {} win 1000", ack - 1000));
        s.sent(&format!("{segment} ack 1"));
    }
    s.recv(". 1:1(0) ack 2901 win 1000");
    s.sent("P. 2901:3401(500) ack 1");
}

#[test]
fn a_retransmission_of_the_middle_is_not_pushed() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 3000);
    s.sent("P. 1:3001(3000) ack 1");
    s.wait_for_timer();
    s.drain();
    while s.info().backoff == 0 {
        s.wait_for_timer();
    }
    s.sent(". 1:1001(1000) ack 1");
}

#[test]
fn what_was_pushed_is_pushed_again() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 2500);
    s.sent("P. 1:2501(2500) ack 1");
    s.write(2500, 1000);
    s.drain();
    s.recv(". 1:1(0) ack 2001 win 65535");
    while s.info().backoff == 0 {
        s.wait_for_timer();
    }
    s.drain();
    s.recv(". 1:1(0) ack 2001 win 65535 <sack 2501:3501>");
    while s.info().backoff == 1 {
        s.drain();
        s.wait_for_timer();
    }
    s.sent("P. 2001:2501(500) ack 1");
}

#[test]
fn small_neighbours_sent_again_as_one_are_pushed_like_the_last_of_them() {
    let mut s = Script::accepted_with(Config::default(), "mss 1000", 1200);
    s.recv(". 1:1(0) ack 1 win 600");
    s.write(0, 900);
    // Half of the largest window goes out, and is not pushed; what is left is.
    s.sent(". 1:601(600) ack 1");
    s.recv(". 1:1(0) ack 1 win 65535");
    s.sent("P. 601:901(300) ack 1");
    // What is written then has to wait, so that the segment does not end all there is.
    s.recv(". 1:1(0) ack 1 win 900");
    s.write(900, 1000);
    while s.info().backoff == 0 {
        s.drain();
        s.wait_for_timer();
    }
    s.sent("P. 1:901(900) ack 1");
}
