//! The retransmission timer (RFC 6298).

use std::time::Duration;

use super::script::Script;
use crate::{
    config::{Config, Congestion},
    info::State,
};

const MS: Duration = Duration::from_millis(1);

#[test]
fn rfc6298_5_the_head_goes_out_again_and_the_timer_doubles() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 3000);
    s.sent("P. 1:3001(3000)");
    for wait in [300, 600, 1200] {
        assert_eq!(s.wait_for_timer(), Some(wait * MS));
        s.sent(". 1:1001(1000)");
        s.silence();
        // RFC 5681 §3.1: one segment, and half of what was in use, once.
        assert_eq!(s.windows(), (1000, 5000, 1000));
    }
    assert_eq!(s.info().backoff, 3);
    // What was sent twice tells of no round trip, and the timeout stays what it has become (Karn).
    s.acked(1001, "");
    s.sent("P. 1001:3001(2000)");
    assert_eq!(s.wait_for_timer(), Some(2400 * MS));
    s.sent(". 1001:2001(1000)");
    s.acked(3001, "");
    assert_eq!(s.info().backoff, 4);
    s.write(3000, 1000);
    s.sent("P. 3001:4001(1000)");
    s.wait_ms(100);
    s.acked(4001, "");
    assert_eq!(s.info().backoff, 0);
}

#[test]
fn rfc5682_2_a_second_timeout_after_progress_is_a_loss_and_nothing_new_goes_out() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 4000);
    s.sent("P. 1:4001(4000)");
    s.write(4000, 9000);
    s.wait_ms(310);
    s.sent("P. 4001:10001(6000)");
    s.sent(". 1:1001(1000)");
    s.acked(1001, "");
    // The first is looked at: new data finds out.
    s.sent(". 10001:12001(2000)");
    s.wait_for_timer();
    s.sent(". 1001:2001(1000)");
    s.acked(2001, "");
    s.sent("P. 2001:4001(2000)");
}

#[test]
fn rfc5681_3_1_after_sacks_alone_the_next_timeout_leaves_one_segment_and_ssthresh() {
    for kind in [Congestion::Reno, Congestion::Cubic, Congestion::Bbr] {
        let mut s = Script::distant(Config::default(), "sackOK", 100);
        s.set(|options| options.congestion = kind);
        s.write(0, 10_000);
        s.drain();
        s.wait_ms(100);
        // The path reorders, four segments at last, and what is found lost is lost once more.
        s.acked(1, "sack 1001:2001");
        s.acked(2001, "");
        s.acked(2001, "sack 3001:7001");
        s.acked(7001, "");
        s.acked(7001, "sack 8001:9001");
        while s.info().retransmitted == 0 {
            s.wait_for_timer();
        }
        while s.info().recovery != "loss" {
            s.wait_for_timer();
        }
        s.drain();
        s.acked(7001, "sack 8001:10001");
        let (grown, ssthresh, _) = s.windows();
        assert!(grown > 1000, "{kind:?}");
        s.drain();
        while s.counters().timeouts == 1 {
            s.wait_for_timer();
        }
        assert_eq!(s.windows(), (1000, ssthresh, 1000), "{kind:?}");
        assert!(s.next().unwrap().text.contains(" 7001:8001(1000)"));
        s.silence();
    }
}

#[test]
fn sacks_alone_raise_no_window_where_hardly_anything_was_overtaken() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(100);
    s.acked(1, "sack 1001:2001");
    s.acked(2001, "");
    s.acked(2001, "sack 3001:6001");
    assert_eq!(s.wait_for_timer(), Some(25 * MS));
    s.sent(". 2001:3001(1000)");
    s.wait_ms(300);
    s.sent(". 2001:3001(1000)");
    s.acked(2001, "sack 3001:8001");
    assert_eq!(s.windows().0, 1000);
    s.silence();
}

#[test]
fn small_segments_go_out_again_as_one_with_the_fin_and_around_what_arrived() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.set(|options| options.nodelay = true);
    for (offset, len) in [(0, 100), (100, 100), (200, 900), (1100, 200)] {
        s.write(offset, len);
        s.drain();
    }
    s.close();
    s.sent("F. 1301:1301(0)");
    assert_eq!(s.wait_for_timer(), Some(300 * MS));
    // Three would not fit.
    s.sent("P. 1:201(200)");
    s.silence();
    s.acked(201, "");
    // Two, shown as one.
    s.sent("FP. 201:1301(1100)");
    s.acked(1302, "");
    assert_eq!(s.state(), Some(State::FinWait2));

    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.set(|options| options.nodelay = true);
    for offset in (0..800).step_by(100) {
        s.write(offset, 100);
        s.drain();
    }
    s.wait_ms(100);
    s.acked(1, "sack 201:301 401:501 601:701");
    s.sent("P. 1:201(200)");
    s.wait_ms(100);
    s.acked(201, "sack 201:301 401:501 601:701");
    s.drain();
    s.wait_ms(100);
    s.acked(801, "");
    assert_eq!((s.info().in_flight, s.info().lost), (0, 0));
}

#[test]
fn rfc6298_5_3_an_acknowledgement_of_new_data_restarts_it() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 3000);
    s.sent("P. 1:3001(3000)");
    s.wait_ms(250);
    s.acked(1001, "");
    // The sample of 250 ms: SRTT = 7/8 100 + 1/8 250, and the deviation rises at once.
    let rto = s.info().rto;
    s.acked(1001, "");
    assert_eq!(s.wait_for_timer(), Some(rto));
    s.sent(". 1001:2001(1000)");
}

#[test]
fn rfc6298_3_a_retransmitted_segment_gives_no_sample_without_timestamps() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 1000);
    s.sent("P. 1:1001(1000)");
    s.wait_ms(300);
    s.sent("P. 1:1001(1000)");
    let before = s.info().srtt;
    s.wait_ms(30);
    s.acked(1001, "");
    assert_eq!(s.info().srtt, before);
}

#[test]
fn rfc6298_3_what_arrived_behind_a_hole_gives_no_sample_when_the_hole_is_filled() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 5000);
    s.sent("P. 1:5001(5000)");
    s.wait_ms(100);
    for _ in 0..3 {
        s.acked(1, "");
    }
    s.sent(". 1:1001(1000)");
    let before = s.info().srtt;
    s.wait_ms(150);
    s.acked(5001, "");
    assert_eq!(s.info().srtt, before, "250 ms is no round trip");
}

#[test]
fn rfc7323_4_1_a_timestamp_gives_the_sample_that_karn_forbids() {
    let mut s = Script::distant(Config::default(), "TS val 1 ecr 0", 100);
    s.write(0, 988);
    s.sent("P. 1:989(988)");
    s.wait_ms(1000);
    s.drain();
    let before = s.info().srtt;
    let now = s.elapsed().as_millis() as u32;
    s.wait_ms(180);
    s.acked(989, &format!("TS val 200 ecr {now}"));
    assert_ne!(s.info().srtt, before);
}

/// It comes sooner after the repetition than any round trip takes: it is the first that is answered.
#[test]
fn rfc7323_4_1_an_answer_too_soon_for_the_repetition_times_the_first() {
    let mut s = Script::distant(Config::default(), "TS val 1 ecr 0", 100);
    let first = s.elapsed().as_millis() as u32;
    s.write(0, 988);
    s.sent("P. 1:989(988)");
    s.wait_for_timer();
    s.sent("P. 1:989(988)");
    s.wait_ms(50);
    s.acked(989, &format!("TS val 200 ecr {first}"));
    // An eighth of the way from 100 ms to 350 and more.
    assert!(s.info().srtt > Some(125 * MS), "{:?}", s.info().srtt);
}

#[test]
fn rfc2018_8_a_peer_that_reneged_gets_everything_again() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 5000);
    s.sent("P. 1:5001(5000)");
    s.wait_ms(100);
    s.acked(1, "sack 1001:5001");
    s.sent(". 1:1001(1000)");
    s.wait_ms(100);
    // It kept the hole's segment only.
    s.acked(1001, "");
    s.silence();
    assert_eq!(s.wait_for_timer(), Some(50 * MS));
    s.sent(". 1001:2001(1000)");
    s.wait_ms(100);
    s.acked(2001, "");
    let rest: Vec<_> = s.drain().iter().map(|sent| sent.text.clone()).collect();
    assert!(rest[0].contains("2001:"), "{rest:?}");
}

#[test]
fn rfc2018_8_in_recovery_nothing_goes_out_while_it_looks_as_if_the_peer_had_reneged() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(100);
    s.acked(1, "sack 1001:4001");
    s.sent(". 1:1001(1000)");
    s.acked(1, "sack 1001:5001");
    s.wait_ms(100);
    s.acked(4001, "");
    s.silence();
    assert_eq!(s.wait_for_timer(), Some(50 * MS));
    s.sent(". 4001:5001(1000)");
    s.silence();
}

#[test]
fn rfc8985_6_3_a_timeout_spares_what_was_sent_in_the_last_round_trip() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 2000);
    s.sent("P. 1:2001(2000)");
    s.wait_ms(200);
    s.sent("P. 1001:2001(1000)");
    // New data just before the timer fires.
    s.wait_ms(250);
    s.write(2000, 1000);
    s.sent("P. 2001:3001(1000)");
    s.wait_ms(50);
    s.sent(". 1:1001(1000)");
    s.silence();
    assert_eq!((s.info().lost, s.info().in_flight), (1000, 2000));
}

/// Linux: `tcp_clean_rtx_queue`. The head may only be late, like what the block tells of.
#[test]
fn rfc6298_5_3_a_block_that_took_longer_than_the_head_is_out_begins_the_timeout_anew() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 12_000);
    s.sent("P. 1:10001(10000)");
    // A probe with new data, and two timeouts.
    s.wait_ms(1150);
    assert_eq!((s.counters().loss_probes, s.counters().timeouts), (1, 2));
    s.drain();
    s.wait_ms(400);
    s.acked(1, "sack 10001:11001");
    s.drain();
    s.wait_ms(1000);
    s.silence();
    assert_eq!(s.counters().timeouts, 2);
    s.wait_ms(1000);
    assert_eq!(s.counters().timeouts, 3);
}

#[test]
fn rfc3168_6_1_2_a_window_reduced_by_a_timeout_is_told_with_cwr_on_new_data() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("SEW 0:0(0) win 65535 <mss 1000>");
    s.sent("SE. 0:0(0) ack 1");
    s.wait_ms(100);
    s.recv(". 1:1(0) ack 1 win 65535");
    s.accept();
    s.write(0, 1000);
    s.sent("P. 1:1001(1000)");
    s.wait_for_timer();
    // A retransmission is no new data.
    s.sent("P. 1:1001(1000)");
    s.acked(1001, "");
    s.write(1000, 1000);
    s.sent("PW. 1001:2001(1000)");
    s.acked(2001, "");
    s.write(2000, 1000);
    s.sent("P. 2001:3001(1000)");
}

/// As after a suspended machine, or when an application blocks the thread (A8, A14).
#[test]
fn a_clock_that_jumps_fires_each_timer_once_and_ends_nothing() {
    for options in ["sackOK", "nop"] {
        let mut s = Script::distant(Config::default(), options, 100);
        s.write(0, 5000);
        s.sent("P. 1:5001(5000)");
        s.now += Duration::from_secs(3600);
        s.engine.on_timeout(s.now);
        assert_eq!(s.drain().len(), 1, "{options}");
        assert!(s.counters().timeouts <= 1);
        // The clock may stand still as well: nothing is due, and nothing is sent.
        for _ in 0..100 {
            assert!(s.engine.next_deadline().unwrap() > s.now);
            s.engine.on_timeout(s.now);
            s.silence();
        }
        s.wait_ms(100);
        s.acked(5001, "nop");
        assert_eq!(
            (s.state(), s.info().acked),
            (Some(State::Established), 5000)
        );
    }
}

/// What a router asked for is no episode that could be undone; the timeout behind it is one.
#[test]
fn a_timeout_for_nothing_is_undone_also_where_a_smaller_mtu_was_told_before() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 2000);
    let sent = s.sent("P. 1:2001(2000)");
    s.recv_icmp((3, 4), 800, &sent, 0);
    assert!(!s.drain().is_empty());
    assert_eq!((s.info().snd_mss, s.info().recovery), (760, "loss"));
    s.wait_for_timer();
    let again = s.drain();
    assert_eq!((again.len(), s.counters().timeouts), (1, 1));
    // All that the router let through was only late, and so the first segment came twice.
    s.acked(2001, "nop,nop,sack 1:761");
    assert_eq!(s.counters().spurious_recoveries, 1);
}
