//! RACK (RFC 8985 §6): losses found by time.

use std::time::Duration;

use super::script::Script;
use crate::config::Config;

const SACK: &str = "sackOK";
const MS: Duration = Duration::from_millis(1);

fn ten_segments() -> Script {
    let mut s = Script::distant(Config::default(), SACK, 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(100);
    s
}

#[test]
fn rfc8985_6_2_one_sacked_segment_waits_a_quarter_of_the_round_trip_for_those_before_it() {
    let mut s = ten_segments();
    s.acked(1, "sack 1001:2001");
    s.silence();
    // RACK.rtt is 100 ms, and they are as old as that; RACK.reo_wnd is min_RTT / 4.
    assert_eq!(s.wait_for_timer(), Some(25 * MS));
    s.sent(". 1:1001(1000)");
    assert_eq!(s.info().recovery, "recovery");
}

#[test]
fn rfc8985_6_2_a_late_original_within_the_window_saves_the_retransmission() {
    let mut s = ten_segments();
    s.acked(1, "sack 1001:2001");
    s.wait_ms(20);
    s.acked(2001, "");
    s.silence();
    assert_eq!((s.info().recovery, s.info().retransmitted), ("open", 0));
}

#[test]
fn rfc8985_6_2_three_sacked_segments_are_enough_while_no_reordering_was_seen() {
    let mut s = ten_segments();
    s.acked(1, "sack 1001:2001");
    s.acked(1, "sack 1001:3001");
    s.silence();
    s.acked(1, "sack 1001:4001");
    s.sent(". 1:1001(1000)");
    // Reno halves. 7 segments are in flight, the retransmission among them.
    assert_eq!(s.windows(), (5000, 5000, 7000));
}

#[test]
fn rfc8985_6_2_three_small_segments_are_three() {
    let mut s = Script::distant(Config::default(), SACK, 100);
    s.set(|options| options.nodelay = true);
    for offset in (0..800).step_by(100) {
        s.write(offset, 100);
        s.drain();
    }
    s.wait_ms(100);
    s.acked(1, "sack 101:201 301:401");
    s.silence();
    s.acked(1, "sack 101:201 301:401 501:601");
    assert_eq!(s.info().recovery, "recovery");
    s.sent("P. 1:101(100)");
}

#[test]
fn rfc8985_6_2_once_reordering_was_seen_three_are_not_enough() {
    let mut s = ten_segments();
    s.acked(1, "sack 1001:2001");
    s.acked(2001, "");
    s.acked(2001, "sack 3001:6001");
    s.silence();
    assert_eq!(s.wait_for_timer(), Some(25 * MS));
    s.sent(". 2001:3001(1000)");
}

#[test]
fn rfc8985_6_2_a_d_sack_widens_the_window_by_a_quarter_once_in_a_round_trip() {
    let mut s = ten_segments();
    s.acked(1, "sack 1001:2001");
    s.acked(2001, "");
    s.acked(2001, "sack 3001:4001");
    assert_eq!(s.wait_for_timer(), Some(25 * MS));
    s.sent(". 2001:3001(1000)");
    // The original was only late, and then the retransmission comes too.
    s.acked(4001, "");
    s.wait_ms(75);
    s.acked(4001, "sack 2001:3001");
    s.acked(4001, "sack 2001:3001");
    s.acked(10_001, "");
    s.write(10_000, 3000);
    s.sent("P. 10001:13001(3000)");
    s.wait_ms(100);
    s.acked(10_001, "sack 11001:12001");
    assert_eq!(s.wait_for_timer(), Some(50 * MS));
    s.sent(". 10001:11001(1000)");
}

#[test]
fn rfc8985_6_2_a_lost_retransmission_is_found_when_later_data_arrives() {
    let mut s = ten_segments();
    s.write(10_000, 10_000);
    s.silence();
    s.acked(1, "sack 1001:4001");
    s.sent(". 1:1001(1000)");
    // Two more are SACKed for each that goes out (PRR).
    s.wait_ms(10);
    s.acked(1, "sack 1001:6001");
    s.wait_ms(10);
    s.acked(1, "sack 1001:8001");
    let new = s.drain();
    assert!(
        new.iter()
            .all(|sent| sent.text.starts_with(". 1") && !sent.text.starts_with(". 1:")),
        "{new:?}"
    );
    // What went out after the retransmission arrives: the retransmission did not.
    s.wait_ms(100);
    s.acked(1, "sack 10001:11001 1001:8001");
    let sent = s.drain();
    assert!(sent[0].text.starts_with(". 1:1001(1000)"), "{sent:?}");
    assert_eq!(s.counters().timeouts, 0);
}

#[test]
fn rfc8985_6_2_a_retransmission_acknowledged_faster_than_any_round_trip_is_its_original() {
    let mut s = ten_segments();
    s.acked(1, "sack 1001:4001");
    s.sent(". 1:1001(1000)");
    s.wait_ms(5);
    // RACK must not take the retransmission for delivered at 105 ms: all else would be lost.
    s.acked(4001, "");
    assert_eq!(s.info().lost, 0);
    s.silence();
}

#[test]
fn rfc8985_6_2_the_round_trip_is_that_of_what_was_delivered_last_and_not_of_what_was_sent_last() {
    let mut s = ten_segments();
    s.acked(1, "sack 5001:8001");
    s.sent("P. 1:3001(3000)");
    s.wait_ms(3);
    // A late original: the path reorders.
    s.acked(1, "sack 4001:8001");
    s.wait_ms(120);
    // The second and third arrived when they were sent again, the fourth has been on its way for
    // 223 ms all the time, so the last two may still come, and the first, which was sent again.
    s.acked(1, "sack 1001:4001 4001:8001");
    s.silence();
    assert_eq!(s.wait_for_timer(), Some(125 * MS));
    s.sent(". 1:1001(1000)");
    s.sent("P. 8001:10001(2000)");
}

#[test]
fn rfc8985_6_2_the_reordering_timer_is_for_the_last_of_those_that_may_be_lost() {
    let mut s = Script::distant(Config::default(), SACK, 100);
    for (offset, text) in [(0, "1:1001"), (1000, "1001:2001"), (2000, "2001:3001")] {
        s.write(offset, 1000);
        s.sent(&format!("P. {text}(1000)"));
        s.wait_ms(10);
    }
    s.wait_ms(90);
    s.acked(1, "sack 2001:3001");
    s.silence();
    // The first is due in 5 ms, the second in 15 ms.
    assert_eq!(s.wait_for_timer(), Some(15 * MS));
    s.sent("P. 1:1001(1000)");
    assert_eq!(s.info().lost, 1000, "the second is found with it");
}

/// Nobody sent it again, so nothing was late or believed to be lost.
#[test]
fn what_the_network_doubled_is_no_sign_of_reordering() {
    let mut s = ten_segments();
    s.acked(1001, "");
    s.acked(1001, "sack 1:1001");
    s.acked(1001, "sack 2001:5001");
    s.sent(". 1001:2001(1000)");
    // One was, and one more report than that cannot be of it.
    s.acked(5001, "");
    s.acked(5001, "sack 1001:2001");
    s.acked(5001, "sack 6001:9001");
    s.sent(". 5001:6001(1000)");
}

#[test]
fn what_the_network_doubled_in_an_episode_is_told_from_what_was_sent_again() {
    let mut s = ten_segments();
    s.acked(1, "sack 2001:5001");
    s.sent(". 1:1001(1000)");
    s.acked(1, "sack 3001:4001 2001:5001");
    // The hole that is new waits for no reordering window.
    s.acked(1, "sack 6001:10001 2001:5001");
    s.sent(". 1001:2001(1000)");
    s.sent(". 5001:6001(1000)");
}
