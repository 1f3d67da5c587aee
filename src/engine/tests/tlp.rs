//! Tail loss probes (RFC 8985 §7).

use std::time::Duration;

use super::script::Script;
use crate::config::Config;

const SACK: &str = "sackOK";
const MS: Duration = Duration::from_millis(1);

fn distant() -> Script {
    Script::distant(Config::default(), SACK, 100)
}

#[test]
fn rfc8985_7_2_the_probe_goes_out_two_round_trips_after_the_last_segment() {
    let mut s = distant();
    s.write(0, 2000);
    s.sent("P. 1:2001(2000)");
    s.wait_ms(50);
    s.write(2000, 1000);
    s.sent("P. 2001:3001(1000)");
    assert_eq!(s.wait_for_timer(), Some(200 * MS));
    s.sent("P. 2001:3001(1000)");
    assert_eq!((s.counters().loss_probes, s.counters().timeouts), (1, 0));
    // One probe; then the timeout, counted from the probe.
    assert_eq!(s.wait_for_timer(), Some(300 * MS));
    s.sent(". 1:1001(1000)");
    assert_eq!(s.counters().timeouts, 1);
}

#[test]
fn rfc8985_7_2_for_a_single_segment_the_probe_takes_the_place_of_the_timeout() {
    let mut s = distant();
    s.write(0, 1000);
    s.sent("P. 1:1001(1000)");
    // 2 SRTT + 200 ms is later than the RTO of 300 ms.
    assert_eq!(s.wait_for_timer(), Some(300 * MS));
    s.sent("P. 1:1001(1000)");
    assert_eq!((s.counters().loss_probes, s.counters().timeouts), (1, 0));
    assert_eq!(s.windows().0, 10_000);
}

#[test]
fn rfc8985_7_2_the_probe_of_new_data_is_not_later_than_the_timeout_of_the_oldest() {
    let mut s = distant();
    s.write(0, 2000);
    s.sent("P. 1:2001(2000)");
    s.wait_ms(180);
    s.acked(1001, "");
    // Two round trips from here, and the segment is alone.
    let rto = s.info().rto;
    assert!(rto > 290 * MS);
    s.write(2000, 1000);
    s.sent("P. 2001:3001(1000)");
    assert_eq!(s.wait_for_timer(), Some(rto - 180 * MS));
    s.sent("P. 2001:3001(1000)");
    assert_eq!((s.counters().loss_probes, s.counters().timeouts), (1, 0));
}

#[test]
fn rfc8985_7_3_in_place_of_a_second_probe_the_timeout_of_the_oldest_segment_comes() {
    let mut s = distant();
    s.write(0, 3000);
    s.sent("P. 1:3001(3000)");
    s.wait_ms(100);
    s.acked(1001, "");
    assert_eq!(s.wait_for_timer(), Some(200 * MS));
    s.sent("P. 2001:3001(1000)");
    s.write(3000, 1000);
    s.sent("P. 3001:4001(1000)");
    s.wait_ms(100);
    s.acked(2001, "");
    s.silence();
    let (pto, rto) = (2 * s.info().srtt.unwrap(), s.info().rto);
    assert_eq!(s.wait_for_timer(), Some(pto));
    s.silence();
    // It was sent again 100 ms before the acknowledgement.
    assert_eq!(s.wait_for_timer(), Some(rto - 100 * MS - pto));
    s.sent("P. 2001:3001(1000)");
    assert_eq!((s.counters().loss_probes, s.counters().timeouts), (1, 1));
}

#[test]
fn rfc8985_7_2_what_blocks_leave_no_room_for_is_a_second_segment() {
    let mut s = distant();
    s.recv("P. 101:201(100) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1 <nop,nop,sack 101:201>");
    s.write(0, 1000);
    assert_eq!(s.next().unwrap().gso_size, 988);
    // No delayed acknowledgement is to be waited for.
    assert_eq!(s.wait_for_timer(), Some(200 * MS));
    s.sent("P. 989:1001(12)");
}

#[test]
fn rfc8985_7_3_new_data_makes_the_better_probe() {
    let mut s = distant();
    s.write(0, 12_000);
    s.sent("P. 1:10001(10000)");
    assert_eq!(s.wait_for_timer(), Some(200 * MS));
    s.sent(". 10001:11001(1000)");
    s.silence();
    s.wait_ms(100);
    s.acked(1, "sack 10001:11001");
    // Sent before it and long due: everything is lost, and PRR lets the first out.
    assert_eq!(s.info().recovery, "recovery");
    s.sent(". 1:1001(1000)");
}

#[test]
fn rfc8985_7_4_the_duplicate_of_a_probe_is_no_sign_of_reordering() {
    let mut s = distant();
    s.write(0, 3000);
    s.sent("P. 1:3001(3000)");
    assert_eq!(s.wait_for_timer(), Some(200 * MS));
    s.sent("P. 2001:3001(1000)");
    s.acked(3001, "");
    s.acked(3001, "nop,nop,sack 2001:3001");
    s.write(3000, 10_000);
    s.sent("P. 3001:13001(10000)");
    s.wait_ms(100);
    // Nothing is waited for when three segments have overtaken one.
    s.acked(3001, "nop,nop,sack 4001:7001");
    s.sent(". 3001:4001(1000)");
}

#[test]
fn rfc8985_7_3_the_tail_of_a_super_segment_is_its_last_segment_on_the_wire() {
    let mut s = distant();
    s.write(0, 2300);
    s.sent("P. 1:2301(2300)");
    assert_eq!(s.wait_for_timer(), Some(200 * MS));
    s.sent("P. 2001:2301(300)");
}

#[test]
fn rfc8985_7_4_2_a_probe_that_the_peer_had_no_need_of_costs_nothing() {
    for answer in ["sack 1001:2001", ""] {
        let mut s = distant();
        s.write(0, 2000);
        s.sent("P. 1:2001(2000)");
        s.wait_ms(200);
        s.sent("P. 1001:2001(1000)");
        s.acked(2001, "");
        s.wait_ms(100);
        s.acked(2001, answer);
        s.write(2000, 1000);
        s.sent("P. 2001:3001(1000)");
        s.wait_ms(100);
        s.acked(3001, "");
        assert!(s.windows().0 >= 10_000, "{answer:?}: {:?}", s.windows());
    }
}

#[test]
fn rfc8985_7_4_2_a_loss_that_the_probe_repaired_reduces_the_window() {
    let mut s = distant();
    s.write(0, 2000);
    s.sent("P. 1:2001(2000)");
    s.wait_ms(100);
    s.acked(1001, "");
    s.wait_ms(350);
    assert_eq!(s.drain().len(), 1);
    s.acked(2001, "");
    assert_eq!(s.windows().0, 10_000);
    s.write(2000, 1000);
    s.sent("P. 2001:3001(1000)");
    s.wait_ms(100);
    s.acked(3001, "");
    assert_eq!((s.windows().0, s.windows().1), (5000, 5000));
}

#[test]
fn rfc8985_7_2_without_sack_there_is_no_probe() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 2000);
    s.sent("P. 1:2001(2000)");
    assert_eq!(s.wait_for_timer(), Some(300 * MS));
    s.sent(". 1:1001(1000)");
    assert_eq!((s.counters().loss_probes, s.counters().timeouts), (0, 1));
}

#[test]
fn rfc8985_7_2_segments_that_acknowledge_nothing_do_not_put_the_probe_off() {
    let mut s = distant();
    s.write(0, 2000);
    s.sent("P. 1:2001(2000)");
    for at in 1..4 {
        s.wait_ms(60);
        s.recv(&format!("P. {at}:{}(1) ack 1 win 65535", at + 1));
    }
    s.drain();
    assert_eq!(s.counters().loss_probes, 0);
    s.wait_ms(20);
    assert_eq!(s.counters().loss_probes, 1);
}

#[test]
fn rfc8985_7_2_two_small_segments_are_not_a_single_one() {
    let mut s = distant();
    s.set(|options| options.nodelay = true);
    s.write(0, 100);
    s.sent("P. 1:101(100)");
    s.write(100, 100);
    s.sent("P. 101:201(100)");
    assert_eq!(s.wait_for_timer(), Some(200 * MS));
    s.sent("P. 101:201(100)");
}

#[test]
fn rfc8985_7_3_the_probe_takes_the_fin_along_with_its_text() {
    let mut s = distant();
    s.write(0, 11_500);
    s.sent("P. 1:10001(10000)");
    s.shutdown();
    s.wait_ms(100);
    s.acked(10_001, "");
    s.sent("FP. 10001:11501(1500)");
    assert_eq!(s.wait_for_timer(), Some(200 * MS));
    s.sent("FP. 11001:11501(500)");
}

/// What lies behind the edge would not be taken (Linux: `__tcp_retransmit_skb`).
#[test]
fn rfc8985_7_3_nothing_behind_a_window_taken_back_is_probed_for() {
    let mut s = distant();
    s.write(0, 4000);
    s.sent("P. 1:4001(4000)");
    s.wait_ms(100);
    s.recv(". 1:1(0) ack 1001 win 500");
    // The probe would be due after 200 ms, and the timeout 300 ms after the head was sent: by then.
    s.wait_ms(199);
    assert_eq!((s.counters().loss_probes, s.counters().timeouts), (0, 0));
    s.silence();
    s.wait_ms(2);
    assert_eq!((s.counters().loss_probes, s.counters().timeouts), (0, 1));
    // What fits is sent again, and nothing behind it.
    s.sent(". 1001:1501(500)");
    s.silence();
}

#[test]
fn may7_a_timeout_behind_a_window_taken_back_sends_the_first_segment_alone() {
    let mut s = distant();
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(100);
    s.recv(". 1:1(0) ack 4001 win 0");
    for _ in 0..3 {
        while s.counters().timeouts == 0 {
            s.wait_for_timer();
        }
        s.sent(". 4001:5001(1000)");
        s.silence();
        s.recv(". 1:1(0) ack 4001 win 0");
        s.silence();
        s.wait_for_timer();
    }
    s.drain();
    s.recv(". 1:1(0) ack 5001 win 65535");
    let sent = s.drain();
    assert!(sent[0].text.contains(" 5001:"), "{sent:?}");
}
