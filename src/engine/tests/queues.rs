//! The accept queue, the table of half-open connections, and what happens to both when the
//! listener goes.

use std::time::Duration;

use super::script::Script;
use crate::{config::Config, info::State};

/// Another peer.
fn from_port(s: &mut Script, port: u16) {
    s.peer.set_port(port);
}

fn syn(s: &mut Script, port: u16) {
    from_port(s, port);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
}

/// A whole handshake of the peer's port, as the peer sees it.
fn open(s: &mut Script, port: u16) {
    syn(s, port);
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
}

#[test]
fn f4_one_more_than_the_backlog_completes_and_no_syn_is_answered_then() {
    for backlog in [0_u16, 1, 16] {
        let mut s = Script::listening(Config::default(), usize::from(backlog));
        for port in 0..=backlog {
            open(&mut s, 1000 + port);
        }
        assert_eq!(s.count(State::Established), usize::from(backlog) + 1);
        syn(&mut s, 5000);
        s.silence();
        assert_eq!(s.counters().drop_accept_queue, 1);
        s.accept();
        syn(&mut s, 5000);
        s.sent("S. 0:0(0) ack 1");
    }
}

#[test]
fn f4_a_last_acknowledgement_that_finds_no_room_is_dropped_and_comes_again() {
    let mut s = Script::listening(Config::default(), 0);
    syn(&mut s, 1000);
    let first = s.sent("S. 0:0(0) ack 1");
    open(&mut s, 2000);
    // The queue is full; the first peer is late.
    from_port(&mut s, 1000);
    s.set_iss(first.header.seq.raw());
    s.recv(". 1:1(0) ack 1");
    s.recv("P. 1:11(10) ack 1");
    s.silence();
    assert_eq!(s.count(State::SynReceived), 1);
    s.wait_ms(1000);
    s.sent("S. 0:0(0) ack 1");
    s.accept();
    s.recv("P. 1:11(10) ack 1");
    s.sent(". 1:1(0) ack 11");
    s.accept();
    assert_eq!(s.read().unwrap().len(), 10);
}

#[test]
fn f4_everybody_who_keeps_trying_gets_in_once_somebody_accepts() {
    let mut s = Script::listening(Config::default(), 4);
    let mut waiting: Vec<u16> = (1000..1050).collect();
    let mut served = 0;
    for _round in 0..20 {
        waiting.retain(|port| {
            syn(&mut s, *port);
            let answered = s.next().is_some();
            if answered {
                s.recv(". 1:1(0) ack 1");
            }
            !answered
        });
        while s.engine.accept(s.listener.unwrap()).is_some() {
            served += 1;
        }
        s.wait_ms(1000);
        s.drain();
    }
    assert_eq!((served, waiting.len()), (50, 0));
}

#[test]
fn closing_a_listener_resets_the_queued_and_forgets_the_half_open() {
    let mut s = Script::listening(Config::default(), 16);
    open(&mut s, 1000);
    syn(&mut s, 2000);
    s.sent("S. 0:0(0) ack 1");
    let listener = s.listener.unwrap();
    s.engine.close(listener, s.now);
    let sent = s.drain();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert!(sent[0].text.starts_with("R. "), "{}", sent[0].text);
    assert_eq!(sent[0].header.dst_port, 1000);
    assert!(s.engine.sockets(s.now).is_empty());
    // The half-open one learns of it when it goes on.
    s.recv(". 1:1(0) ack 1");
    s.sent("R 1:1(0)");
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    let reset = s.next().unwrap();
    assert!(reset.text.starts_with("R. ") && reset.header.seq.raw() == 0);
    assert_eq!(reset.header.ack.unwrap().raw(), s.peer_isn.wrapping_add(1));
    s.wait_ms(100_000);
    s.silence();
}

#[test]
fn what_nobody_accepted_holds_no_memory_once_its_listener_is_closed() {
    let mut s = Script::listening(Config::default(), 16);
    open(&mut s, 1000);
    s.recv("P. 1:1001(1000) ack 1");
    s.sent(". 1:1(0) ack 1001");
    open(&mut s, 1001);
    s.recv("R 1:1(0)");
    s.engine.close(s.listener.unwrap(), s.now);
    let sent = s.drain();
    assert_eq!(sent.len(), 1, "the other peer has reset: {sent:?}");
    assert_eq!(s.engine.slots.iter().count(), 0);
    assert_eq!(s.engine.doorbell().budget().held(), 0);
    assert_eq!(s.counters().orphans_reset, 0, "they never had an owner");
}

#[test]
fn an_accepted_connection_outlives_its_listener() {
    let mut s = Script::accepted(Config::default());
    s.engine.close(s.listener.unwrap(), s.now);
    s.silence();
    s.recv("P. 1:11(10) ack 1");
    s.sent(". 1:1(0) ack 11");
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn a_queued_connection_that_the_peer_resets_is_still_accepted_and_says_so() {
    let mut s = Script::listening(Config::default(), 16);
    open(&mut s, 1000);
    s.recv("R 1:1(0)");
    s.accept();
    let error = s.read().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn f6_beyond_the_limit_of_connections_no_syn_is_answered() {
    let mut config = Config::default();
    config.connections_max(2);
    let mut s = Script::listening(config, 16);
    open(&mut s, 1000);
    open(&mut s, 1001);
    syn(&mut s, 1002);
    s.silence();
    assert_eq!(s.counters().drop_syn, 1);
    let error = s
        .engine
        .connect("192.0.2.9:80".parse().unwrap(), s.now)
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
    s.accept();
    s.engine.abort(s.id(), s.now);
    assert!(s.next().unwrap().text.starts_with("R. "));
    open(&mut s, 1002);
}

#[test]
fn f13_a_peer_has_as_many_connections_as_it_may_have_and_another_is_served() {
    let mut config = Config::default();
    config.per_source_max(100);
    let mut s = Script::listening(config, 1000);
    for port in 0..60 {
        open(&mut s, 1000 + port);
    }
    for port in 60..100 {
        syn(&mut s, 1000 + port);
        s.sent("S. 0:0(0) ack 1");
    }
    syn(&mut s, 1100);
    let refused = s.next().unwrap();
    assert!(refused.text.starts_with("R. "), "{}", refused.text);
    let first = s.peer;
    s.peer = "192.0.2.2:1100".parse().unwrap();
    open(&mut s, 1100);
    // Half-open ones give their places back.
    s.wait(Duration::from_secs(64));
    s.drain();
    s.peer = first;
    open(&mut s, 1100);
    // And connections too.
    s.accept();
    s.engine.abort(s.id(), s.now);
    s.drain();
    for port in 0..40 {
        open(&mut s, 2000 + port);
    }
    syn(&mut s, 3000);
    assert!(s.next().unwrap().text.starts_with("R. "));
}

#[test]
fn handshakes_and_time_wait_take_their_time_after_many_days() {
    let mut s = Script::listening(Config::default(), 16);
    s.wait(Duration::from_secs(100 * 24 * 3600));
    syn(&mut s, 1000);
    s.sent("S. 0:0(0) ack 1");
    s.wait_ms(20);
    s.recv(". 1:1(0) ack 1");
    s.accept();
    assert_eq!(
        s.engine.info(s.id()).unwrap().srtt,
        Some(Duration::from_millis(20))
    );
    s.close();
    s.sent("F. 1:1(0) ack 1");
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    s.wait_ms(59_999);
    assert_eq!(s.count(State::TimeWait), 1);
    s.wait_ms(2);
    assert_eq!(s.count(State::TimeWait), 0);
    syn(&mut s, 1001);
    s.sent("S. 0:0(0) ack 1");
    s.wait_ms(999);
    s.silence();
    s.wait_ms(1);
    s.sent("S. 0:0(0) ack 1");
}
