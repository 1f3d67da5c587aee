//! Resets: those that come, in each state, and those that closed ports send.

use std::io::ErrorKind;

use super::{
    close::{close_wait, closing, fin_wait_1, fin_wait_2, last_ack},
    raw::{self, ACK, FIN, RST, SYN},
    script::Script,
};
use crate::{config::Config, info::State};

/// A script in each synchronized state, with its RCV.NXT and SND.NXT.
pub(super) fn synchronized() -> Vec<(Script, u32, u32)> {
    let config = Config::default;
    vec![
        (Script::accepted(config()), 1, 1),
        (fin_wait_1(config()), 1, 2),
        (fin_wait_2(config()), 1, 2),
        (close_wait(config()), 2, 1),
        (closing(config()), 2, 2),
        (last_ack(config()), 2, 2),
    ]
}

#[test]
fn b1_an_exact_reset_ends_every_synchronized_state() {
    for (mut s, rcv_nxt, _) in synchronized() {
        let before = s.state();
        s.recv(&format!("R {rcv_nxt}:{rcv_nxt}(0)"));
        assert_eq!(s.state(), Some(State::Closed), "from {before:?}");
        s.silence();
        let error = s.engine.read(s.id(), &mut [0; 9], s.now);
        match before {
            // Its stream had come to its end before.
            Some(State::CloseWait | State::Closing | State::LastAck) => {}
            _ => assert_eq!(error.unwrap_err().kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(s.counters().resets_received, 1);
    }
}

#[test]
fn b1_an_exact_reset_counts_whatever_it_acknowledges() {
    for (mut s, rcv_nxt, _) in synchronized() {
        s.recv(&format!("R. {rcv_nxt}:{rcv_nxt}(0) ack 123456"));
        assert_eq!(s.state(), Some(State::Closed));
    }
}

#[test]
fn b1_a_reset_in_the_window_but_not_exact_is_challenged() {
    for (mut s, rcv_nxt, snd_nxt) in synchronized() {
        let before = s.state();
        for offset in [1, 1000, 65_000] {
            let seq = rcv_nxt + offset;
            s.recv(&format!("R {seq}:{seq}(0)"));
            s.challenged(rcv_nxt, snd_nxt);
        }
        assert_eq!(s.state(), before);
    }
}

#[test]
fn b1_a_reset_outside_of_the_window_is_ignored() {
    for (mut s, rcv_nxt, _) in synchronized() {
        let before = s.state();
        for offset in [-1_i64, -1000, -70_000, 70_000 + 65_536, 1 << 30, -(1 << 30)] {
            let seq = (i64::from(rcv_nxt) + offset) as u32;
            s.recv(&format!("R {seq}:{seq}(0)"));
            s.recv(&format!("R. {seq}:{seq}(0) ack 1"));
            s.silence();
        }
        assert_eq!(s.state(), before);
    }
}

/// A peer that does not count its FIN when it resets is not believed, for anybody could guess one
/// number more; what we send next it answers with the number that we ask for.
#[test]
fn b1_a_reset_with_the_number_of_the_fin_ends_nothing_and_the_answer_to_what_we_send_does() {
    let mut s = close_wait(Config::default());
    s.recv("R 1:1(0)");
    s.silence();
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 2");
    s.recv("R 2:2(0)");
    assert_eq!(s.state(), Some(State::Closed));
}

#[test]
fn a_reset_at_a_closed_window_must_be_exact_too() {
    let mut config = Config::default();
    config.recv_buffer(4096).recv_buffer_max(4096);
    let mut s = Script::accepted(config);
    for offset in (0..4096).step_by(512) {
        let (from, to) = (1 + offset, 513 + offset);
        s.recv(&format!(". {from}:{to}(512) ack 1"));
    }
    s.wait_ms(50);
    let last = s.drain().pop().unwrap();
    assert_eq!(last.header.wnd, 0, "{}", last.text);
    s.recv("R 4098:4098(0)");
    s.recv("R 4096:4096(0)");
    s.silence();
    assert_eq!(s.state(), Some(State::Established));
    s.recv("R 4097:4097(0)");
    assert_eq!(s.state(), Some(State::Closed));
}

#[test]
fn a_reset_with_an_old_timestamp_still_counts() {
    let mut s = Script::accepted_with(
        Config::default(),
        "mss 1000,sackOK,TS val 100 ecr 0,wscale 0",
        65_535,
    );
    s.recv("R 1:1(0) <TS val 5 ecr 0>");
    assert_eq!(s.state(), Some(State::Closed));
}

#[test]
fn a_reset_after_the_peers_fin_breaks_the_pipe() {
    let mut s = close_wait(Config::default());
    s.recv("R 2:2(0)");
    let error = s.engine.write(s.id(), b"x", s.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[test]
fn data_that_came_before_a_reset_is_read_before_its_error() {
    let mut s = Script::accepted(Config::default());
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 101");
    s.recv("R 101:101(0)");
    assert_eq!(s.read().unwrap().len(), 100);
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_stops_what_was_to_be_sent() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 100_000);
    s.drain();
    s.recv("R 1:1(0)");
    s.wait_ms(100_000);
    s.silence();
}

/// What a closed port answers: flags, SEQ and ACK.
fn answer(flags: u8, payload: usize) -> Option<(u8, u32, u32)> {
    let mut s = Script::new(Config::default());
    let mut seg = raw::Tcp::from_peer(&s, flags, 0);
    (seg.seq, seg.ack) = (1000, 7777);
    seg.payload = vec![0; payload];
    s.recv_packet(seg.packet());
    let reset = s.next()?;
    s.silence();
    let ack = reset.header.ack.map_or(0, |ack| ack.raw());
    assert_eq!((reset.header.wnd, reset.payload.len()), (0, 0));
    Some((reset.header.flags.raw(), reset.header.seq.raw(), ack))
}

#[test]
fn s15_a_closed_port_answers_as_the_rfc_says() {
    let cases = [
        (SYN, 0, Some((RST | ACK, 0, 1001))),
        (SYN, 10, Some((RST | ACK, 0, 1011))),
        (SYN | FIN, 0, Some((RST | ACK, 0, 1002))),
        (FIN, 5, Some((RST | ACK, 0, 1006))),
        (0, 0, Some((RST | ACK, 0, 1000))),
        (ACK, 0, Some((RST, 7777, 0))),
        (ACK, 100, Some((RST, 7777, 0))),
        (SYN | ACK, 0, Some((RST, 7777, 0))),
        (FIN | ACK, 0, Some((RST, 7777, 0))),
        (RST, 0, None),
        (RST | ACK, 0, None),
        (RST | SYN, 0, None),
    ];
    for (flags, payload, expected) in cases {
        assert_eq!(answer(flags, payload), expected, "{flags:#x} {payload}");
    }
}

#[test]
fn a_stack_that_shares_its_addresses_does_not_reset_what_it_does_not_know() {
    let mut config = Config::default();
    config.reset_closed_ports(false);
    let mut s = Script::new(config);
    for flags in 0..64 {
        s.recv_packet(raw::Tcp::from_peer(&s, flags, 0).packet());
    }
    s.silence();
    assert_eq!(s.counters().drop_no_socket, 64);
}

#[test]
fn f5_floods_of_nonsense_get_at_most_one_answer_each_and_not_without_end() {
    let mut s = Script::new(Config::default());
    let (mut answers, mut bytes_in, mut bytes_out) = (0, 0, 0);
    for port in 0..5000_u16 {
        s.peer.set_port(port + 1);
        let flags = [ACK, FIN, FIN | 0x28, ACK | RST, SYN][usize::from(port % 5)];
        let packet = raw::Tcp::from_peer(&s, flags, 0).packet();
        bytes_in += packet.len();
        s.recv_packet(packet);
        let replies = s.drain();
        assert!(replies.len() <= 1);
        answers += replies.len();
        bytes_out += replies.len() * 40;
    }
    assert!((500..1500).contains(&answers), "{answers} in one second");
    assert!(bytes_out <= bytes_in);
    s.wait_ms(1000);
    s.recv_packet(raw::Tcp::from_peer(&s, SYN, 0).packet());
    assert_eq!(s.drain().len(), 1);
}

/// A reset is not acknowledged, so it is sent once. Where it is lost, the peer learns of the end when
/// it sends something: what has nothing to send has keep-alive to ask with (RFC 9293 §3.8.4).
#[test]
fn a_reset_that_was_lost_is_sent_again_to_whoever_asks_and_to_nobody_else() {
    let mut s = Script::accepted(Config::default());
    s.recv("P. 1:101(100) ack 1 win 65535");
    s.drain();
    s.close();
    s.sent("R. 1:1(0) ack 101");
    s.wait_ms(3_600_000);
    s.silence();
    // The probe of a peer that keeps alive, and data.
    s.recv(". 100:100(0) ack 1 win 65535");
    s.sent("R 1:1(0)");
    s.recv("P. 101:201(100) ack 1 win 65535");
    s.sent("R 1:1(0)");
    s.silence();
}
