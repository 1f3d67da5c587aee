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
