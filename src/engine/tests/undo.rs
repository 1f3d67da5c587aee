//! Recoveries that were for nothing (RFC 3522).

use super::script::Script;
use crate::config::Config;

#[test]
fn rfc3522_3_2_the_echo_of_the_original_undoes_fast_recovery() {
    let mut s = Script::distant(Config::default(), "sackOK,TS val 1 ecr 0", 100);
    s.write(0, 9880);
    s.sent("P. 1:9881(9880)");
    s.wait_ms(100);
    s.acked(1, "TS val 200 ecr 100,sack 1977:4941");
    let sent = s.drain();
    assert!(sent[0].text.starts_with(". 1:989"), "{sent:?}");
    assert_eq!(s.info().recovery, "recovery");
    s.wait_ms(10);
    // The first two were only late: the peer echoes what was sent at 100 ms, not at 200 ms.
    s.acked(4941, "TS val 210 ecr 100");
    assert_eq!(
        (s.counters().spurious_recoveries, s.info().recovery),
        (1, "open")
    );
    assert!(
        s.windows().0 >= 10_000 && s.windows().1 == u32::MAX,
        "{:?}",
        s.windows()
    );
}

#[test]
fn an_undone_recovery_tells_how_far_segments_are_overtaken() {
    let mut s = Script::distant(Config::default(), "sackOK,TS val 1 ecr 0", 100);
    s.write(0, 40_000);
    s.drain();
    s.wait_ms(100);
    s.acked(1, "TS val 200 ecr 100,sack 989:4941");
    s.drain();
    s.acked(4941, "TS val 210 ecr 100");
    assert_eq!(s.counters().spurious_recoveries, 1);
    s.drain();
    // The next hole may be one of order too, and growth does not wait for it.
    let before = s.windows().0;
    s.acked(4941, "TS val 220 ecr 100,sack 5929:6917");
    assert_eq!(s.windows().0, before + 988);
}

#[test]
fn rfc3522_3_2_the_echo_of_the_retransmission_confirms_the_loss() {
    let mut s = Script::distant(Config::default(), "sackOK,TS val 1 ecr 0", 100);
    s.write(0, 9880);
    s.sent("P. 1:9881(9880)");
    s.wait_ms(100);
    s.acked(1, "TS val 200 ecr 100,sack 989:4941");
    s.drain();
    s.wait_ms(100);
    s.acked(9881, "TS val 300 ecr 200");
    assert_eq!(s.counters().spurious_recoveries, 0);
    assert_eq!((s.info().recovery, s.windows().1 <= 5000), ("open", true));
}

#[test]
fn rfc3522_3_2_the_echo_of_the_original_undoes_a_timeout() {
    let mut s = Script::distant(Config::default(), "TS val 1 ecr 0", 100);
    s.write(0, 9880);
    s.sent("P. 1:9881(9880)");
    s.wait_ms(320);
    s.sent(". 1:989(988)");
    assert_eq!(s.windows().0, 988);
    s.acked(989, "TS val 400 ecr 100");
    assert_eq!(
        (s.counters().spurious_recoveries, s.info().recovery),
        (1, "open")
    );
    assert!(s.windows().0 >= 9880);
    s.silence();
}

#[test]
fn what_was_never_sent_again_and_arrived_was_not_lost() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(100);
    // Both before the retransmission could go out.
    let (first, second) = (
        s.packet(". 1:1(0) ack 1 win 65535 <sack 1001:4001>"),
        s.packet(". 1:1(0) ack 4001 win 65535"),
    );
    s.engine.on_packet(first, s.now);
    s.recv_packet(second);
    s.silence();
    assert_eq!(
        (s.counters().spurious_recoveries, s.windows().1),
        (1, u32::MAX)
    );
}

/// What a round before the last sent again may still be on its way (Linux: `retrans_stamp` stays): its
/// echo tells nothing of what is sent again now.
#[test]
fn rfc3522_3_2_the_echo_of_an_earlier_retransmission_undoes_nothing() {
    let mut s = Script::distant(Config::default(), "TS val 1 ecr 0", 100);
    s.write(0, 9880);
    s.drain();
    s.wait_ms(320);
    s.sent(". 1:989(988)");
    s.wait_ms(100);
    // It was lost; two more are sent again, the first of them for nothing.
    s.acked(989, "TS val 400 ecr 400");
    s.sent(". 989:2965(1976)");
    let sent_again = s.elapsed().as_millis();
    s.wait_ms(10);
    s.acked(1977, "TS val 410 ecr 100");
    assert_eq!(s.counters().spurious_recoveries, 1);
    s.drain();
    while s.info().recovery != "loss" {
        s.wait_for_timer();
    }
    s.sent(". 1977:2965(988)");
    s.acked(2965, &format!("TS val 900 ecr {sent_again}"));
    assert_eq!(
        (s.counters().spurious_recoveries, s.info().recovery),
        (1, "loss")
    );
}

/// And when all of that is acknowledged, the clock begins anew.
#[test]
fn rfc3522_3_2_the_echo_of_an_original_is_compared_with_what_was_sent_again_after_it() {
    let mut s = Script::distant(Config::default(), "sackOK,TS val 1 ecr 0", 100);
    let mut una = 1;
    for round in 1..=2 {
        s.write(una as usize - 1, 4940);
        s.drain();
        let sent = s.elapsed().as_millis();
        s.wait_ms(100);
        s.acked(
            una,
            &format!(
                "TS val {round}00 ecr {sent},sack {}:{}",
                una + 988,
                una + 4940
            ),
        );
        // Since the first it may be one of order.
        while s.info().recovery != "recovery" {
            s.wait_for_timer();
        }
        s.drain();
        s.wait_ms(50);
        una += 4940;
        s.acked(una, &format!("TS val {round}50 ecr {sent}"));
        assert_eq!(s.counters().spurious_recoveries, round);
        s.wait_ms(200);
    }
}

/// The numbers and the time are Linux's.
#[test]
fn what_an_undone_timeout_gave_up_is_in_flight_until_rack_finds_it_lost() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.drain();
    while s.info().recovery != "loss" {
        s.wait_for_timer();
        s.drain();
    }
    assert_eq!((s.windows().2, s.info().lost), (1000, 9000));
    s.acked(1, "sack 3001:4001");
    assert_eq!((s.info().recovery, s.info().lost), ("open", 0));
    assert_eq!(s.windows(), (10_000, u32::MAX, 9000));
    assert_eq!(s.wait_for_timer().map(|time| time.as_millis()), Some(25));
    s.sent(". 1001:2001(1000)");
    s.silence();
    assert_eq!((s.windows().1, s.info().recovery), (5000, "recovery"));
    assert_eq!(s.info().lost, 1000);
}

/// Late and overtaken by what came after it, as Linux takes it.
#[test]
fn rfc3708_a_dsack_on_an_acknowledgement_from_before_snd_una_undoes_a_recovery_that_is_over() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 4000);
    s.drain();
    s.wait_ms(100);
    s.acked(1, "sack 1001:4001");
    s.sent(". 1:1001(1000)");
    s.wait_ms(10);
    s.acked(4001, "");
    assert_eq!((s.windows().1, s.info().recovery), (5000, "open"));
    s.write(4000, 1000);
    s.drain();
    s.wait_ms(100);
    s.acked(5001, "");
    s.acked(4001, "sack 1:1001");
    assert_eq!((s.windows().0, s.windows().1), (10_000, u32::MAX));
}

#[test]
fn rfc3708_all_that_was_sent_again_has_to_be_reported_twice() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.drain();
    s.wait_ms(100);
    s.write(10_000, 10_000);
    s.acked(1, "sack 2001:5001");
    s.wait_ms(10);
    s.acked(1, "sack 2001:10001");
    s.wait_ms(10);
    s.acked(10_001, "");
    s.drain();
    assert_eq!(s.windows(), (5000, 5000, 5000));
    s.acked(10_001, "sack 1:1001");
    s.silence();
    assert_eq!(s.windows().1, 5000);
    s.acked(10_001, "sack 1001:2001");
    s.drain();
    assert_eq!(s.windows(), (10_000, u32::MAX, 10_000));
}
