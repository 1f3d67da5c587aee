//! Explicit congestion notification (RFC 3168).

use super::script::Script;
use crate::{config::Config, wire::tcp::Flags};

const ECT_0: u8 = 2;

/// Both ends have agreed on it.
fn agreed() -> Script {
    let mut s = Script::listening(Config::default(), 4);
    s.recv("SEW 0:0(0) win 65535 <mss 1000,sackOK>");
    s.sent("SE. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    s
}

fn asking() -> Script {
    let mut config = Config::default();
    config.ecn(true);
    Script::connecting(config)
}

#[test]
fn rfc3168_6_1_1_who_opens_asks_with_both_bits_and_ece_alone_agrees() {
    for (answer, ect) in [("SE.", ECT_0), ("SEW.", 0), ("S.", 0)] {
        let mut s = asking();
        let syn = s.sent("SEW 0:0(0)");
        assert_eq!(syn.tos & 3, 0, "a SYN is not ECN-capable");
        s.recv(&format!("{answer} 0:0(0) ack 1 <mss 1000>"));
        assert_eq!(s.sent(". 1:1(0) ack 1").tos & 3, 0);
        s.write(0, 1000);
        assert_eq!(s.next().unwrap().tos & 3, ect, "{answer}");
    }
}

#[test]
fn rfc3168_6_1_2_echoes_reduce_the_window_once_in_a_round_trip_and_are_answered_once() {
    let mut s = agreed();
    s.write(0, 10_000);
    s.drain();
    let (before, ..) = s.windows();
    s.recv("E. 1:1(0) ack 1001");
    let (reduced, ..) = s.windows();
    assert!(reduced < before);
    s.recv("E. 1:1(0) ack 2001");
    s.recv("E. 1:1(0) ack 10001");
    let (after, ..) = s.windows();
    assert!(after >= reduced, "{after} after {reduced}");
    s.write(10_000, 2000);
    let sent = s.drain();
    let told = sent.iter().filter(|sent| sent.header.flags.has(Flags::CWR));
    assert_eq!(told.count(), 1);
    assert!(sent[0].header.flags.has(Flags::CWR));
}

#[test]
fn rfc3168_6_1_4_and_5_acknowledgements_and_repetitions_are_not_ecn_capable() {
    let mut s = agreed();
    s.recv(". 1:1001(1000) ack 1");
    assert_eq!(s.sent(". 1:1(0) ack 1001").tos & 3, 0);
    s.write(0, 1000);
    assert_eq!(s.next().unwrap().tos & 3, ECT_0);
    s.wait_for_timer();
    let again = s.sent("P. 1:1001(1000) ack 1001");
    assert_eq!(again.tos & 3, 0);
}

/// After a mark the peer's window may be down to a segment: whoever waited for a second one would
/// wait for nothing.
#[test]
fn rfc3168_6_1_3_a_mark_the_next_segment_and_the_answer_to_it_are_acknowledged_at_once() {
    let mut s = agreed();
    let mut next = 1;
    let mut segment = |s: &mut Script, flags: &str, marked| {
        let text = format!("{flags} {next}:{}(1000) ack 1", next + 1000);
        if marked {
            s.recv_marked(&text);
        } else {
            s.recv(&text);
        }
        next += 1000;
        next
    };
    for _ in 0..16 {
        segment(&mut s, ".", false);
    }
    s.read().unwrap();
    s.drain();
    segment(&mut s, ".", false);
    s.silence();
    // It is the second after the delayed one; what follows it would wait otherwise.
    for marked in [true, false] {
        let next = segment(&mut s, ".", marked);
        s.sent(&format!("E. 1:1(0) ack {next}"));
        s.read().unwrap();
    }
    segment(&mut s, ".", false);
    s.silence();
    let next = segment(&mut s, ".", false);
    s.sent(&format!("E. 1:1(0) ack {next}"));
    let next = segment(&mut s, "W.", false);
    s.sent(&format!(". 1:1(0) ack {next}"));
    segment(&mut s, ".", false);
    s.silence();
}
