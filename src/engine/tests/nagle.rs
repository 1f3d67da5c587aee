//! Nagle's algorithm, and what switches it off (RFC 9293 §3.7.4).

use super::script::Script;
use crate::config::Config;

#[test]
fn one_small_segment_is_on_its_way_at_a_time() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1");
    s.write(10, 10);
    s.write(20, 10);
    s.silence();
    s.recv(". 1:1(0) ack 11 win 65535");
    s.sent("P. 11:31(20) ack 1");
}

#[test]
fn full_segments_go_out_behind_a_small_one_and_the_rest_waits() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1");
    s.write(10, 2500);
    assert_eq!(s.sent("P. 11:2011(2000) ack 1").gso_size, 1000);
    s.silence();
    s.recv(". 1:1(0) ack 11 win 65535");
    s.sent("P. 2011:2511(500) ack 1");
}

#[test]
fn a_small_tail_goes_out_behind_full_segments_in_flight() {
    // Minshall's variant: only another small segment holds it back.
    let mut s = Script::accepted(Config::default());
    s.write(0, 1000);
    s.sent("P. 1:1001(1000) ack 1");
    s.write(1000, 10);
    s.sent("P. 1001:1011(10) ack 1");
    s.write(1010, 10);
    s.silence();
    // The full one is acknowledged, the small one is not.
    s.recv(". 1:1(0) ack 1001 win 65535");
    s.silence();
    s.recv(". 1:1(0) ack 1011 win 65535");
    s.sent("P. 1011:1021(10) ack 1");
}

#[test]
fn what_is_held_back_grows_into_a_full_segment_and_goes() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1");
    let mut offset = 10;
    while offset < 1010 {
        s.silence();
        s.write(offset, 8);
        offset += 8;
    }
    let segment = s.sent("P. 11:1011(1000) ack 1");
    assert_eq!(segment.payload, super::pair::pattern(10, 1000));
    s.silence();
}

#[test]
fn must17_nodelay_sends_at_once_and_flushes_what_was_held() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1");
    s.write(10, 10);
    s.silence();
    s.set(|options| options.nodelay = true);
    s.sent("P. 11:21(10) ack 1");
    for offset in [20, 30, 40] {
        s.write(offset, 10);
        s.sent(&format!("P. {}:{}(10) ack 1", offset + 1, offset + 11));
    }
}

#[test]
fn a_fin_takes_along_what_is_held_back() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1");
    s.write(10, 10);
    s.silence();
    s.shutdown();
    s.sent("FP. 11:21(10) ack 1");
}

#[test]
fn a_cork_holds_back_all_but_full_segments_until_it_is_drawn() {
    let mut s = Script::accepted(Config::default());
    s.set(|options| options.cork = true);
    s.write(0, 10);
    s.silence();
    s.write(10, 2000);
    s.sent("P. 1:2001(2000) ack 1");
    s.silence();
    s.recv(". 1:1(0) ack 2001 win 65535");
    s.silence();
    s.set(|options| options.cork = false);
    s.sent("P. 2001:2011(10) ack 1");
}

#[test]
fn nodelay_lets_out_what_waits_behind_a_cork_and_the_cork_stays() {
    // tcp(7): TCP_NODELAY flushes what is pending, even with TCP_CORK set.
    let mut s = Script::accepted(Config::default());
    s.set(|options| options.cork = true);
    s.write(0, 40);
    s.write(40, 40);
    s.silence();
    s.set(|options| options.nodelay = true);
    s.sent("P. 1:81(80) ack 1");
    s.recv(". 1:1(0) ack 81 win 65535");
    s.write(80, 40);
    s.silence();
    // With nothing queued there is nothing that it would let out later.
    s.set(|options| options.cork = false);
    s.sent("P. 81:121(40) ack 1");
    s.set(|options| (options.cork, options.nodelay) = (true, false));
    s.set(|options| options.nodelay = true);
    s.write(120, 40);
    s.silence();
}

#[test]
fn a_cork_holds_for_200_milliseconds_at_most() {
    let mut s = Script::accepted(Config::default());
    s.set(|options| options.cork = true);
    s.write(0, 10);
    s.wait_ms(199);
    s.silence();
    s.wait_ms(2);
    s.sent("P. 1:11(10) ack 1");
    s.recv(". 1:1(0) ack 11 win 65535");
    s.write(10, 10);
    s.wait_ms(199);
    s.silence();
    s.wait_ms(2);
    s.sent("P. 11:21(10) ack 1");
}

#[test]
fn a_cork_goes_before_nodelay() {
    let mut s = Script::accepted(Config::default());
    s.set(|options| (options.nodelay, options.cork) = (true, true));
    s.write(0, 10);
    s.silence();
    s.shutdown();
    s.sent("FP. 1:11(10) ack 1");
}
