//! Timestamps and what they protect from (RFC 7323).

use std::time::Duration;

use super::script::Script;
use crate::config::Config;

fn open(first: u32) -> Script {
    let mut s = Script::listening(Config::default(), 16);
    s.recv(&format!(
        "S 0:0(0) win 65535 <mss 1460,sackOK,TS val {first} ecr 0>"
    ));
    s.sent(&format!(
        "S. 0:0(0) ack 1 <mss 1460,sackOK,TS val 0 ecr {first}>"
    ));
    s.recv(&format!(". 1:1(0) ack 1 win 65535 <TS val {first} ecr 0>"));
    s.accept();
    s
}

/// Data with this TSval; says what was echoed.
fn data(s: &mut Script, range: std::ops::Range<u32>, val: u32) -> Option<u32> {
    let (start, end) = (range.start, range.end);
    s.recv(&format!(
        "P. {start}:{end}({}) ack 1 win 65535 <TS val {val} ecr 0>",
        end - start
    ));
    s.next().map(|sent| {
        sent.header
            .options
            .timestamps
            .expect("every segment has it")
            .ecr
    })
}

#[test]
fn every_segment_carries_the_clock_and_the_echo() {
    let mut s = open(100);
    s.wait_ms(50);
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1 <TS val 50 ecr 100>");
    s.wait_ms(10);
    s.recv("P. 1:11(10) ack 11 win 65535 <TS val 160 ecr 50>");
    s.sent(". 11:11(0) ack 11 <TS val 60 ecr 160>");
    let now = s.now;
    s.engine.abort(s.id(), now);
    s.sent("R. 11:11(0) ack 11 <TS val 60 ecr 160>");
}

#[test]
fn rfc7323_4_3_example_a_a_delayed_acknowledgement_echoes_the_first_of_the_segments_it_is_for() {
    let mut s = open(1);
    s.set(|options| options.quickack = false);
    for (at, val) in [(1, 1), (11, 2), (21, 3)] {
        assert_eq!(data(&mut s, at..at + 10, val), None);
    }
    s.wait_ms(40);
    s.sent(". 1:1(0) ack 31 <TS val 40 ecr 1>");
}

#[test]
fn rfc7323_4_3_example_b_behind_a_hole_the_echo_stays_and_what_fills_it_is_echoed() {
    let mut s = open(1);
    // The segments A to E arrive as A, C, B, E, D.
    for (at, val, echo) in [(1, 1, 1), (21, 3, 1), (11, 2, 2), (41, 5, 2), (31, 4, 4)] {
        assert_eq!(data(&mut s, at..at + 10, val), Some(echo), "{val}");
    }
}

#[test]
fn paws_drops_old_duplicates_and_answers() {
    let mut s = open(100);
    assert_eq!(data(&mut s, 1..11, 200), Some(200));
    s.recv("P. 11:21(10) ack 1 win 65535 <TS val 199 ecr 0>");
    s.sent(". 1:1(0) ack 11 <TS val 0 ecr 200>");
    assert_eq!((s.counters().drop_paws, s.info().received), (1, 10));
    assert_eq!(data(&mut s, 11..21, 200), Some(200));
}

#[test]
fn paws_answers_old_segments_that_bring_nothing_twice_a_second() {
    // As often as anybody asks, two who believe each other to be old would never stop.
    for old in [
        ". 11:11(0) ack 1 win 65535 <TS val 199 ecr 0>",
        "S 11:11(0) win 65535 <mss 1000,TS val 199 ecr 0>",
    ] {
        let mut s = open(100);
        assert_eq!(data(&mut s, 1..11, 200), Some(200));
        for _ in 0..2 {
            s.recv(old);
            let sent = s.next().expect("a challenge");
            assert!(sent.text.starts_with(". 1:1(0) ack 11"), "{}", sent.text);
            s.recv(old);
            s.wait_ms(499);
            s.recv(old);
            s.silence();
            s.wait_ms(1);
        }
        assert_eq!((s.counters().drop_paws, s.counters().limited), (6, 4));
    }
}

#[test]
fn paws_lets_resets_through() {
    let mut s = open(100);
    s.recv("R. 1:1(0) ack 1 win 0 <TS val 1 ecr 0>");
    assert_eq!(s.state(), Some(crate::info::State::Closed));
}

#[test]
fn s2_the_clock_may_wrap_at_either_edge() {
    for edge in [0_u32, 1 << 31] {
        let mut s = open(edge.wrapping_sub(10));
        // So many segments are acknowledged at once.
        for n in 0..16 {
            let val = edge.wrapping_sub(9).wrapping_add(n);
            assert_eq!(data(&mut s, 1 + n * 10..11 + n * 10, val), Some(val));
        }
    }
}

#[test]
fn s2_a_clock_that_stands_at_zero_is_a_clock() {
    let mut s = open(0);
    for n in 0..5 {
        assert_eq!(data(&mut s, 1 + n * 10..11 + n * 10, 0), Some(0));
    }
    s.write(0, 10);
    s.drain();
    s.recv(". 51:51(0) ack 11 win 65535 <TS val 0 ecr 0>");
    assert_eq!(s.info().acked, 10);
}

#[test]
fn s2_after_25_days_of_silence_an_older_clock_is_believed() {
    let mut s = open(1 << 20);
    assert_eq!(data(&mut s, 1..11, 1 << 20), Some(1 << 20));
    s.wait(Duration::from_secs(23 * 24 * 3600));
    s.recv("P. 11:21(10) ack 1 win 65535 <TS val 5 ecr 0>");
    assert_eq!(s.info().received, 10);
    s.drain();
    s.wait(Duration::from_secs(2 * 24 * 3600));
    assert_eq!(data(&mut s, 11..21, 5), Some(5));
}

/// §5.2: s is older than t if t - s is above 0 and below 2^31.
#[test]
fn rfc7323_5_2_a_clock_that_is_half_its_range_away_is_not_old() {
    let mut s = open(100);
    assert_eq!(data(&mut s, 1..11, 100 + (1 << 31)), Some(100 + (1 << 31)));
    s.recv("P. 11:21(10) ack 1 win 65535 <TS val 101 ecr 0>");
    s.drain();
    assert_eq!((s.counters().drop_paws, s.info().received), (1, 10));
}

#[test]
fn s3_what_is_not_acceptable_does_not_move_the_echo() {
    let mut s = open(100);
    let future = 100 + (1 << 29);
    s.recv(&format!(
        ". 900001:900011(10) ack 1 win 65535 <TS val {future} ecr 0>"
    ));
    s.recv(&format!(
        ". -1000:-990(10) ack 1 win 65535 <TS val {future} ecr 0>"
    ));
    s.recv(&format!(
        "P. 1:11(10) ack 900000 win 65535 <TS val {future} ecr 0>"
    ));
    s.drain();
    assert_eq!(data(&mut s, 1..11, 101), Some(101));
}

#[test]
fn a_segment_without_the_option_is_taken_as_on_linux() {
    // RFC 7323 §3.2 would have it dropped; what a middlebox strips should not end a connection.
    let mut s = open(100);
    s.recv("P. 1:11(10) ack 1 win 65535");
    s.sent(". 1:1(0) ack 11 <TS val 0 ecr 100>");
}

#[test]
fn without_the_option_on_the_syn_it_is_never_sent_and_ignored() {
    let mut s = Script::accepted(Config::default());
    s.recv("P. 1:11(10) ack 1 win 65535 <TS val 9 ecr 0>");
    s.sent(". 1:1(0) ack 11 <>");
    s.recv("P. 11:21(10) ack 1 win 65535 <TS val 1 ecr 0>");
    s.sent(". 1:1(0) ack 21 <>");
}

#[test]
fn rfc7323_5_3_a_lost_acknowledgement_does_not_make_a_timeout_a_round_trip() {
    // Where it says so, the retransmission may even have been a little faster than anything before.
    for (options, times, answered, blocks) in [
        ("TS val 1 ecr 0", 3, 100, ""),
        ("sackOK,TS val 1 ecr 0", 4, 99, ",sack 1:989"),
    ] {
        let mut s = Script::distant(Config::default(), options, 100);
        s.write(0, 988);
        s.sent("P. 1:989(988)");
        let before = s.info().rto;
        // The segment arrives, its acknowledgement does not. Of the retransmissions the peer answers the
        // third, with the timestamp of what it has received first.
        let mut waited = Duration::ZERO;
        for _ in 0..times {
            waited += s.wait_for_timer().unwrap();
            s.sent("P. 1:989(988)");
        }
        assert!(waited.as_millis() > 2000, "{waited:?}");
        s.wait_ms(answered);
        s.acked(989, &format!("TS val 3000 ecr 200{blocks}"));
        assert_eq!(s.info().backoff, 3);
        // The next sample shows that nothing was taken for a round trip.
        let sent_at = s.elapsed().as_millis();
        s.write(988, 988);
        s.sent("P. 989:1977(988)");
        s.wait_ms(100);
        s.acked(1977, &format!("TS val 3100 ecr {sent_at}"));
        assert_eq!(s.info().backoff, 0);
        assert!(
            s.info().rto <= before,
            "{:?} after {before:?}",
            s.info().rto
        );
    }
}
