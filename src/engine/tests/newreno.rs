//! Loss recovery without SACK (RFC 5681 §3.2, RFC 6582).

use super::script::Script;
use crate::config::Config;

fn ten_segments() -> Script {
    let mut s = Script::distant(Config::default(), "nop", 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.write(10_000, 90_000);
    s.silence();
    s.wait_ms(100);
    s
}

#[test]
fn rfc3042_2_the_first_two_duplicates_let_out_new_data_each() {
    let mut s = ten_segments();
    s.acked(1, "");
    s.sent(". 10001:11001(1000)");
    s.acked(1, "");
    s.sent(". 11001:12001(1000)");
    assert_eq!((s.windows().0, s.info().recovery), (10_000, "open"));
    s.acked(1, "");
    s.sent(". 1:1001(1000)");
    assert_eq!(
        (s.windows().0, s.windows().1, s.info().recovery),
        (5000, 5000, "recovery")
    );
}

#[test]
fn what_brought_duplicates_grows_the_window_once() {
    // Linux: of three segments that an acknowledgement covers after two duplicates, one is news.
    let mut s = ten_segments();
    s.acked(1, "");
    s.acked(1, "");
    s.drain();
    s.acked(3001, "");
    assert_eq!((s.windows().0, s.info().recovery), (11_000, "open"));
    s.acked(5001, "");
    assert_eq!(s.windows().0, 13_000);
}

#[test]
fn rfc6582_3_2_a_partial_acknowledgement_shows_the_next_hole() {
    let mut s = ten_segments();
    for _ in 0..3 {
        s.acked(1, "");
    }
    let sent = s.drain();
    assert!(
        sent.last()
            .is_some_and(|sent| sent.text.starts_with(". 1:1001")),
        "{sent:?}"
    );
    s.wait_ms(100);
    // Segments 1 and 4 were lost.
    s.acked(3001, "");
    let sent = s.drain();
    assert!(sent[0].text.starts_with(". 3001:4001"), "{sent:?}");
    assert_eq!(s.info().recovery, "recovery");
    s.wait_ms(100);
    s.acked(12_001, "");
    assert_eq!((s.info().recovery, s.windows().1), ("open", 5000));
    assert_eq!(s.counters().timeouts, 0);
}

#[test]
fn rfc6582_3_2_a_partial_acknowledgement_takes_the_duplicates_of_what_it_covers_with_it() {
    let mut s = ten_segments();
    // Of the ten, the first and the fourth were lost.
    for _ in 0..8 {
        s.acked(1, "");
    }
    s.wait_ms(100);
    let mut sent = s.drain();
    s.acked(3001, "");
    sent.extend(s.drain());
    // The two that were lost went out again, and the rest is new.
    let new = sent.iter().map(|sent| sent.payload.len()).sum::<usize>() - 2000;
    // The second and the third have brought one each; six are left, for what has arrived.
    assert_eq!(s.windows().2, 7000 + new as u64 - 6000);
}

#[test]
fn rfc6582_3_2_duplicates_of_the_recovery_point_begin_no_new_recovery() {
    let mut s = ten_segments();
    for _ in 0..3 {
        s.acked(1, "");
    }
    s.drain();
    s.wait_ms(100);
    s.acked(12_001, "");
    s.drain();
    let before = s.windows();
    for _ in 0..5 {
        s.acked(12_001, "");
    }
    assert_eq!((s.info().recovery, s.windows().0), ("open", before.0));
    assert!(
        s.drain()
            .iter()
            .all(|sent| !sent.text.starts_with(". 12001"))
    );
}

#[test]
fn rfc5681_3_2_what_is_no_duplicate_does_not_count() {
    let mut s = ten_segments();
    for wnd in [65_000, 64_000, 63_000, 62_000] {
        s.recv(&format!(". 1:1(0) ack 1 win {wnd}"));
    }
    for at in 1..5 {
        s.recv(&format!("P. {at}:{}(1) ack 1 win 62000", at + 1));
    }
    assert_eq!((s.info().recovery, s.info().retransmitted), ("open", 0));
}

#[test]
fn b14_a_thousand_forged_duplicates_free_no_more_than_a_flight() {
    let mut s = ten_segments();
    for _ in 0..1000 {
        s.acked(1, "");
    }
    let bytes: usize = s.drain().iter().map(|sent| sent.payload.len()).sum();
    assert!(bytes <= 56_000, "{bytes}");
}

#[test]
fn b14_with_sack_duplicates_without_a_block_free_nothing() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 40_000);
    s.sent("P. 1:10001(10000)");
    for _ in 0..1000 {
        s.acked(1, "");
    }
    s.silence();
    assert_eq!(s.info().recovery, "open");
}

#[test]
fn b13_division_of_acknowledgements_gains_nothing() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 40_000);
    s.sent("P. 1:10001(10000)");
    for ack in 2..=1001 {
        s.acked(ack, "");
    }
    assert_eq!(s.windows().0, 11_000);
    let bytes: usize = s.drain().iter().map(|sent| sent.payload.len()).sum();
    assert!(bytes <= 2000, "{bytes}");
}

#[test]
fn b12_acknowledgements_of_what_was_never_sent_open_no_window() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 40_000);
    s.sent("P. 1:10001(10000)");
    for beyond in [1, 65_536, 1 << 20, 1 << 30] {
        s.acked(10_001 + beyond, "");
    }
    assert_eq!((s.windows().0, s.info().acked), (10_000, 0));
}
