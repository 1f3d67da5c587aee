//! F-RTO (RFC 5682): timeouts that were none.

use super::script::Script;
use crate::config::Config;

fn after_timeout(options: &str) -> Script {
    let mut s = Script::distant(Config::default(), options, 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.write(10_000, 4000);
    s.silence();
    // The path has stalled: the probe, if there is one, and the timeout.
    s.wait_ms(520);
    let sent = s.drain();
    assert!(
        sent.last()
            .is_some_and(|last| last.text.starts_with(". 1:1001")),
        "{sent:?}"
    );
    assert_eq!(s.counters().timeouts, 1);
    assert_eq!(s.windows().0, 1000);
    s
}

#[test]
fn rfc5682_2_1_without_sack_two_acknowledgements_of_originals_undo_the_timeout() {
    let mut s = after_timeout("nop");
    s.acked(1001, "");
    // Step 2b: new data, and not what is believed to be lost.
    s.sent(". 10001:12001(2000)");
    s.silence();
    s.acked(2001, "");
    assert_eq!(s.counters().spurious_recoveries, 1);
    assert_eq!((s.info().recovery, s.info().lost), ("open", 0));
    assert!(s.windows().0 >= 10_000, "{:?}", s.windows());
    assert_eq!(s.info().retransmitted, 1000);
}

#[test]
fn rfc5682_2_1_a_duplicate_after_the_new_data_makes_the_timeout_real() {
    let mut s = after_timeout("nop");
    s.acked(1001, "");
    s.sent(". 10001:12001(2000)");
    s.acked(1001, "");
    let sent = s.drain();
    assert!(
        sent.iter().all(|sent| sent.text.starts_with(". 1001:")),
        "{sent:?}"
    );
    assert_eq!(s.counters().spurious_recoveries, 0);
    assert_eq!(s.info().recovery, "loss");
}

#[test]
fn rfc5682_3_1_with_sack_an_acknowledgement_of_more_than_was_sent_again_is_enough() {
    let mut s = after_timeout("sackOK");
    s.acked(3001, "");
    assert_eq!(s.counters().spurious_recoveries, 1);
    assert_eq!(s.info().recovery, "open");
}

#[test]
fn rfc5682_3_1_with_sack_a_block_for_the_new_data_makes_the_timeout_real() {
    let mut s = after_timeout("sackOK");
    s.acked(1001, "");
    let new = s.drain();
    assert!(
        new.iter().any(|sent| sent.text.starts_with(". 11001:")),
        "{new:?}"
    );
    s.wait_ms(100);
    s.acked(1001, "sack 11001:12001");
    assert_eq!(s.counters().spurious_recoveries, 0);
    let sent = s.drain();
    assert!(
        sent.iter().any(|sent| sent.text.starts_with(". 1001:")),
        "{sent:?}"
    );
}

#[test]
fn rfc5682_2_1_with_nothing_new_to_send_the_conventional_way_is_gone() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 5000);
    s.sent("P. 1:5001(5000)");
    s.wait_ms(300);
    s.sent(". 1:1001(1000)");
    s.acked(1001, "");
    s.sent(". 1001:3001(2000)");
    assert_eq!(s.counters().spurious_recoveries, 0);
}

/// The segment that was sent again for nothing does not say when the others should have come.
#[test]
fn rfc5682_3_1_what_a_spurious_timeout_sent_again_makes_nothing_lost_by_its_age() {
    let mut s = after_timeout("sackOK");
    s.wait_ms(150);
    s.acked(3001, "");
    assert_eq!(s.counters().spurious_recoveries, 1);
    assert_eq!((s.info().recovery, s.info().lost), ("open", 0));
    let sent = s.drain();
    assert!(
        sent.iter()
            .all(|sent| sent.text.starts_with("P. 11001:") || sent.text.starts_with(". 11001:")),
        "{sent:?}"
    );
    assert_eq!(s.info().retransmitted, 1000);
}

/// Linux: `tcp_may_raise_cwnd`.
#[test]
fn rfc5681_3_1_after_a_timeout_blocks_alone_open_no_window() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 5000);
    s.sent("P. 1:5001(5000)");
    s.wait_ms(200);
    s.sent("P. 4001:5001(1000)");
    s.wait_ms(320);
    s.sent(". 1:1001(1000)");
    s.wait_ms(120);
    s.acked(1, "sack 4001:5001");
    s.silence();
    s.acked(5001, "");
}

#[test]
fn rfc5682_2_1_without_sack_a_hole_that_the_retransmission_fills_undoes_nothing() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 6000);
    s.sent("P. 1:6001(6000)");
    s.wait_ms(310);
    s.sent(". 1:1001(1000)");
    s.write(6000, 2000);
    s.wait_ms(250);
    // The peer held the next three, perhaps, and what it said of them was lost.
    s.acked(4001, "");
    s.sent("P. 6001:8001(2000)");
    assert_eq!((s.info().recovery, s.windows().1), ("loss", 5000));
    s.acked(4001, "");
    s.sent("P. 4001:6001(2000)");
    assert_eq!(s.counters().spurious_recoveries, 0);
}

#[test]
fn duplicates_of_what_a_timeout_gave_up_let_nothing_out() {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 4000);
    s.sent("P. 1:4001(4000)");
    s.wait_ms(310);
    s.sent(". 1:1001(1000)");
    s.wait_ms(50);
    for _ in 0..3 {
        s.acked(1, "");
        s.silence();
    }
    s.acked(1001, "");
    s.sent(". 1001:3001(2000)");
}
