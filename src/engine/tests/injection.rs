//! Blind injection (RFC 5961): SYNs, data and acknowledgements from somebody who guesses.

use super::{pair::pattern, resets::synchronized, script::Script};
use crate::{config::Config, info::State};

/// With 3,000 bytes on their way to the peer.
fn sending() -> Script {
    let mut s = Script::accepted(Config::default());
    s.write(0, 3000);
    s.drain();
    s
}

#[test]
fn b2_a_syn_in_any_synchronized_state_is_challenged() {
    for (mut s, rcv_nxt, snd_nxt) in synchronized() {
        let before = s.state();
        let offsets = [0_i64, 100, 70_000 + 65_536, -1, -1000, 1 << 30, -(1 << 30)];
        for offset in offsets {
            for ack in ["", " ack 1", " ack 99999"] {
                let flags = if ack.is_empty() { "S" } else { "S." };
                let seq = (i64::from(rcv_nxt) + offset) as u32;
                s.recv(&format!("{flags} {seq}:{seq}(0){ack} win 100 <mss 500>"));
                s.challenged(rcv_nxt, snd_nxt);
            }
        }
        assert_eq!(s.state(), before);
    }
}

#[test]
fn b2_the_stream_goes_on_after_syns() {
    let mut s = Script::accepted(Config::default());
    s.recv("S 1:1(0) win 100 <mss 500>");
    s.sent(". 1:1(0) ack 1");
    s.recv("S 0:0(0) win 65535 <mss 1000,sackOK,wscale 0>");
    s.silence();
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 101");
    assert_eq!(s.read().unwrap(), pattern(0, 100));
}

#[test]
fn b3_data_with_an_acknowledgement_that_cannot_be_is_not_taken() {
    let offsets = [1_i64, 100_000, -(1 << 30), 1 << 31];
    for offset in offsets {
        let mut s = Script::accepted(Config::default());
        let ack = (1 + offset) as u32;
        s.recv(&format!("P. 1:101(100) ack {ack}"));
        s.sent(". 1:1(0) ack 1");
        assert!(s.read().is_err(), "delivered at {offset}");
        assert_eq!(s.counters().drop_bad_ack, 1);
        s.recv(&format!("FP. 1:101(100) ack {ack}"));
        s.silence();
        assert_eq!(s.state(), Some(State::Established));
        s.recv("P. 1:51(50) ack 1");
        s.sent(". 1:1(0) ack 51");
        assert_eq!(s.read().unwrap(), pattern(0, 50));
    }
}

#[test]
fn b3_the_same_holds_out_of_order_and_in_every_state() {
    for (mut s, rcv_nxt, snd_nxt) in synchronized() {
        let before = s.state();
        let (from, to) = (rcv_nxt + 10, rcv_nxt + 110);
        let ack = snd_nxt + 1;
        s.recv(&format!("P. {from}:{to}(100) ack {ack}"));
        s.sent(&format!(". {snd_nxt}:{snd_nxt}(0) ack {rcv_nxt}"));
        assert_eq!(s.state(), before);
        assert_eq!(s.counters().drop_bad_ack, 1);
    }
}

#[test]
fn b3_an_acknowledgement_as_old_as_the_window_still_brings_data() {
    let mut s = sending();
    s.recv(". 1:1(0) ack 3001");
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 3001:3001(0) ack 101");
    // Of what came before our first byte there was never anything.
    s.recv("P. 101:201(100) ack 0");
    s.sent(". 3001:3001(0) ack 101");
    assert_eq!(s.read().unwrap(), pattern(0, 100));
}

#[test]
fn b3_an_acknowledgement_older_than_the_largest_window_brings_nothing() {
    let mut s = Script::accepted_with(Config::default(), "mss 1000", 2000);
    for at in 0..5 {
        s.write(1000 * at, 1000);
        s.drain();
        s.recv(&format!(". 1:1(0) ack {} win 2000", 1001 + 1000 * at));
    }
    s.silence();
    s.recv("P. 1:101(100) ack 3000");
    s.sent(". 5001:5001(0) ack 1");
    assert!(s.read().is_err());
    assert_eq!(s.counters().drop_bad_ack, 1);
    s.recv("P. 1:101(100) ack 3001");
    s.sent(". 5001:5001(0) ack 101");
    assert_eq!(s.read().unwrap(), pattern(0, 100));
}

#[test]
fn b4_challenges_are_few_and_each_connection_counts_for_itself() {
    let mut s = sending();
    s.recv(". 1:1(0) ack 3001");
    let mut answers = 0;
    for n in 0..10_000_u32 {
        let ack = if n % 2 == 0 { 3002 + n } else { 3_000_000_000 };
        s.recv(&format!(". 1:1(0) ack {ack}"));
        answers += s.drain().len();
        s.wait(std::time::Duration::from_micros(100));
    }
    assert_eq!(answers, 2, "one in half a second");
    assert_eq!(s.counters().limited, 9998);
}

#[test]
fn b4_what_is_out_of_window_without_data_is_answered_twice_a_second() {
    let mut s = Script::accepted(Config::default());
    for _ in 0..100 {
        s.recv(". 200000:200000(0) ack 1");
        s.recv(". -70000:-70000(0) ack 1");
    }
    s.sent(". 1:1(0) ack 1");
    s.silence();
    s.wait_ms(500);
    s.recv(". 200000:200000(0) ack 1");
    s.sent(". 1:1(0) ack 1");
}

#[test]
fn b4_a_half_open_connection_counts_for_itself_too() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    for _ in 0..100 {
        s.recv("R 100:100(0)");
        s.recv(". 70000:70000(0) ack 1");
    }
    s.sent(". 1:1(0) ack 1");
    s.silence();
}

#[test]
fn half_open_text_out_of_the_window_is_answered_each_time_and_does_not_count() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    for _ in 0..3 {
        s.recv("P. 70001:70011(10) ack 1");
        s.sent(". 1:1(0) ack 1");
    }
    s.recv(". 70001:70001(0) ack 1");
    s.sent(". 1:1(0) ack 1");
    s.recv(". 70001:70001(0) ack 1");
    s.silence();
}

#[test]
fn b4a_what_the_limiter_holds_back_waits_nowhere() {
    let mut s = Script::accepted(Config::default());
    for flood in [
        "S 1:1(0)",
        "R 100:100(0)",
        ". 200000:200000(0) ack 1",
        ". 1:1(0) ack 5000",
    ] {
        s.wait_ms(600);
        s.recv(flood);
        s.sent(". 1:1(0) ack 1");
        let packet = s.packet(flood);
        for _ in 0..10_000 {
            s.engine.on_packet(packet.clone(), s.now);
        }
        s.silence();
        assert_eq!(s.engine.answers.len(), 0);
    }
    assert_eq!(s.counters().limited, 40_000);
    assert!(s.engine.answers.capacity() <= 16);
}

#[test]
fn b5_a_flood_at_one_connection_does_not_silence_another() {
    let mut s = Script::accepted(Config::default());
    let first = (s.peer, s.iss());
    s.peer.set_port(1000);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    let second = (s.peer, s.iss());
    for _ in 0..20 {
        s.peer = first.0;
        s.set_iss(first.1);
        for _ in 0..6000 {
            s.recv("R 100:100(0)");
        }
        assert!(s.drain().len() <= 1);
        s.peer = second.0;
        s.set_iss(second.1);
        s.recv("R 100:100(0)");
        s.sent(". 1:1(0) ack 1");
        s.wait_ms(1000);
    }
}

#[test]
fn b12_acknowledgements_of_what_was_never_sent_skip_nothing() {
    let mut s = sending();
    for beyond in [1_u32, 65_536, 1 << 20, 1 << 30] {
        s.recv(&format!(". 1:1(0) ack {}", 3001 + beyond));
    }
    assert_eq!(s.engine.info(s.id()).unwrap().acked, 0);
    s.sent(". 3001:3001(0) ack 1");
    s.silence();
    s.wait_ms(300);
    let again = s.drain();
    assert!(
        again
            .iter()
            .any(|sent| sent.text.contains(" 1:1001(1000)")
                || sent.text.contains(" 2001:3001(1000)")),
        "{again:?}"
    );
    s.recv(". 1:1(0) ack 3001");
    assert_eq!(s.engine.info(s.id()).unwrap().acked, 3000);
}

#[test]
fn b11_packets_of_different_flows_have_no_common_counter() {
    let mut s = Script::listening(Config::default(), 16);
    for port in 0..20 {
        s.peer.set_port(1000 + port);
        s.engine
            .on_packet(s.packet("S 0:0(0) win 65535 <mss 1000>"), s.now);
    }
    let mut out = std::collections::VecDeque::new();
    s.engine.poll_packet(s.now, 64, &mut out);
    let ids: Vec<[u8; 2]> = out
        .iter()
        .map(|packet| [packet.first()[4], packet.first()[5]])
        .collect();
    assert_eq!(ids, vec![[0, 0]; 20]);
    assert!(out.iter().all(|packet| packet.first()[6] == 0x40), "DF");
}

/// The TSvals of connections opened in one moment, by port.
fn clocks() -> Vec<u32> {
    let mut s = Script::listening(Config::default(), 64);
    (0..50)
        .map(|port| {
            s.peer.set_port(1000 + port);
            s.recv("S 0:0(0) win 65535 <mss 1000,TS val 1 ecr 0>");
            s.next().unwrap().header.options.timestamps.unwrap().val
        })
        .collect()
}

#[test]
fn b8_clocks_of_connections_opened_together_are_unrelated() {
    let mut clocks = clocks();
    // RFC 7323 §5.4: of one four-tuple it goes on, and does not begin anew.
    let mut s = Script::listening(Config::default(), 64);
    let clock_of = |s: &mut Script| {
        s.recv("S 0:0(0) win 65535 <mss 1000,TS val 1 ecr 0>");
        let val = s.next().unwrap().header.options.timestamps.unwrap().val;
        s.recv("R 1:1(0)");
        val
    };
    let first = clock_of(&mut s);
    s.wait_ms(5000);
    assert_eq!(clock_of(&mut s).wrapping_sub(first), 5000);
    let steps: Vec<u32> = clocks
        .windows(2)
        .map(|two| two[1].wrapping_sub(two[0]))
        .collect();
    let small = |steps: &[u32]| steps.iter().filter(|step| **step < 1 << 24).count();
    assert!(small(&steps) <= 2, "{steps:?}");
    clocks.sort_unstable();
    let between: Vec<u32> = clocks.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(small(&between) < 20, "{between:?}");
    assert!(clocks[49] - clocks[0] > 1 << 31, "from all of the circle");
}
