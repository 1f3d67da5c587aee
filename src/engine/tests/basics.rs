//! The shortest life of a connection, from both sides.

use std::collections::VecDeque;

use super::{raw, script::Script};
use crate::{config::Config, error::Failure, info::State};

#[test]
fn a_passive_open_then_data_then_the_peer_closes_first() {
    let mut s = Script::accepted(Config::default());
    s.recv("P. 1:11(10) ack 1 win 65535");
    s.sent(". 1:1(0) ack 11");
    assert_eq!(s.read().unwrap(), super::pair::pattern(0, 10));
    s.write(0, 5);
    s.sent("P. 1:6(5) ack 11");
    s.recv("F. 11:11(0) ack 6 win 65535");
    s.sent(". 6:6(0) ack 12");
    assert_eq!(s.state(), Some(State::CloseWait));
    assert_eq!(s.read().unwrap(), []);
    s.close();
    s.sent("F. 6:6(0) ack 12");
    assert_eq!(s.state(), Some(State::LastAck));
    s.recv(". 12:12(0) ack 7 win 65535");
    assert_eq!(s.state(), None);
    s.silence();
}

#[test]
fn an_active_open_then_we_close_first_and_wait() {
    let mut s = Script::connecting(Config::default());
    s.sent("S 0:0(0) win 65535 <mss 1460,sackOK,TS val 0 ecr 0,wscale 7>");
    s.recv("S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 700 ecr 0,wscale 8>");
    s.sent(". 1:1(0) ack 1");
    s.close();
    s.sent("F. 1:1(0) ack 1");
    assert_eq!(s.state(), Some(State::FinWait1));
    s.recv(". 1:1(0) ack 2 win 500 <TS val 701 ecr 0>");
    assert_eq!(s.state(), Some(State::FinWait2));
    s.recv("F. 1:1(0) ack 2 win 500 <TS val 702 ecr 0>");
    s.sent(". 2:2(0) ack 2");
    let infos = s.engine.sockets(s.now);
    assert_eq!(
        infos.iter().map(|info| info.state).collect::<Vec<_>>(),
        [State::TimeWait]
    );
    s.wait_ms(60_001);
    assert!(s.engine.sockets(s.now).is_empty());
}

#[test]
fn a_full_batch_does_not_hide_what_was_sent_to_ourselves() {
    let mut s = Script::listening(Config::default(), 1);
    s.engine.connect(s.local, s.now).unwrap();
    s.engine.connect(s.peer, s.now).unwrap();
    let mut out = VecDeque::new();
    // The SYN to the peer fills it; the one to ourselves has yet to come in.
    assert!(!s.engine.poll_packet(s.now, 1, &mut out));
    assert_eq!(out.len(), 1);
    assert!(s.engine.poll_packet(s.now, 2, &mut out));
    assert_eq!((out.len(), s.count(State::Established)), (1, 2));
}

#[test]
fn nothing_is_sent_any_more_once_the_device_is_gone() {
    let mut s = Script::listening(Config::default(), 1);
    s.engine.connect(s.peer, s.now).unwrap();
    let stray = raw::Tcp::from_peer(&s, raw::ACK, 0).packet();
    s.engine.on_packet(stray, s.now);
    assert_eq!(s.counters().resets_sent, 1);
    s.engine.fail(Failure::DeviceGone);
    s.silence();
}
