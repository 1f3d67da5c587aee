//! Opening: both sides, both at once, with oneself, and in spite of old duplicates.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use super::{pair::pattern, raw, script::Script};
use crate::{
    config::{Config, SocketOptions},
    info::State,
    link::StreamLink,
};

/// SYN-SENT, the SYN seen.
fn syn_sent() -> Script {
    let mut s = Script::connecting(Config::default());
    s.sent("S 0:0(0) win 65535 <mss 1460,sackOK,TS val 0 ecr 0,wscale 7>");
    s
}

fn failure(s: &mut Script) -> ErrorKind {
    s.read().unwrap_err().kind()
}

fn states(s: &Script) -> Vec<State> {
    s.engine
        .sockets(s.now)
        .iter()
        .map(|info| info.state)
        .collect()
}

#[test]
fn a_syn_is_sent_seven_times_and_then_it_is_timed_out() {
    let mut s = syn_sent();
    for at in [1, 3, 7, 15, 31, 63] {
        s.wait(Duration::from_secs(at) - s.elapsed() - Duration::from_millis(1));
        s.silence();
        s.wait_ms(1);
        s.sent("S 0:0(0) win 65535");
    }
    s.wait_ms(63_999);
    assert_eq!(s.state(), Some(State::SynSent));
    s.wait_ms(1);
    assert_eq!(s.elapsed(), Duration::from_secs(127));
    assert_eq!(s.state(), Some(State::Closed));
    s.silence();
    assert_eq!(s.counters().timed_out, 1);
}

#[test]
fn a_user_timeout_bounds_the_time_to_connect() {
    let mut config = Config::default();
    config.options(SocketOptions {
        user_timeout: Some(Duration::from_secs(5)),
        ..SocketOptions::default()
    });
    let mut s = Script::connecting(config);
    s.wait_ms(4999);
    assert_eq!(s.drain().len(), 3);
    assert_eq!(s.state(), Some(State::SynSent));
    s.wait_ms(1);
    assert_eq!(s.state(), Some(State::Closed));
}

#[test]
fn a_syn_ack_is_sent_six_times_and_then_forgotten() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
    for at in [1, 3, 7, 15, 31] {
        s.wait(Duration::from_secs(at) - s.elapsed() - Duration::from_millis(1));
        s.silence();
        s.wait_ms(1);
        s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
    }
    s.wait_ms(31_999);
    assert_eq!(states(&s), [State::Listen, State::SynReceived]);
    s.wait_ms(1);
    assert_eq!(states(&s), [State::Listen]);
    s.wait_ms(100_000);
    s.silence();
}

#[test]
fn a_half_open_connection_may_end_in_a_reset_if_it_was_asked_for() {
    let mut config = Config::default();
    config.reset_half_open(true);
    let mut s = Script::listening(config, 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.wait(Duration::from_secs(62));
    assert_eq!(s.drain().len(), 6);
    s.wait(Duration::from_secs(1));
    s.sent("R. 1:1(0) ack 1");
    s.silence();
    assert_eq!(states(&s), [State::Listen]);
    assert_eq!(s.counters().resets_sent, 1);
}

#[test]
fn figure_8_both_open_at_once() {
    let mut s = syn_sent();
    s.recv("S 0:0(0) win 5000 <mss 1000>");
    assert_eq!(s.state(), Some(State::SynReceived));
    s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
    s.recv("S. 0:0(0) ack 1 win 5000 <mss 1000>");
    assert_eq!(s.state(), Some(State::Established));
    s.sent(". 1:1(0) ack 1");
    s.recv("P. 1:11(10) ack 1");
    assert_eq!(s.read().unwrap(), pattern(0, 10));
}

#[test]
fn an_acknowledgement_of_crossed_syns_gets_no_answer_and_its_window_is_scaled() {
    let mut s = syn_sent();
    s.recv("S 0:0(0) win 5000 <mss 1000,wscale 3>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1 win 1000");
    assert_eq!(s.state(), Some(State::Established));
    s.silence();
    assert_eq!(s.engine.info(s.id()).unwrap().snd_wnd, 8000);
}

#[test]
fn crossed_syns_are_repeated_and_may_end_in_a_reset() {
    let mut s = syn_sent();
    s.recv("S 0:0(0) win 5000 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv("S 0:0(0) win 5000 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.wait_ms(1000);
    s.sent("S. 0:0(0) ack 1");
    s.recv("S. 0:0(0) ack 77 win 5000 <mss 1000>");
    s.sent("R 77:77(0)");
    assert_eq!(s.state(), Some(State::SynReceived));
    s.recv("R 1:1(0)");
    assert_eq!(s.state(), Some(State::Closed));
    s.silence();
}

#[test]
fn letting_go_of_crossed_syns_resets_the_peer() {
    let mut s = syn_sent();
    s.recv("S 0:0(0) win 5000 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.close();
    s.sent("R. 1:1(0) ack 1");
    assert_eq!(s.state(), None);
}

#[test]
fn letting_go_of_an_attempt_sends_nothing_and_a_late_answer_meets_a_reset() {
    let mut s = syn_sent();
    s.close();
    s.silence();
    assert_eq!(states(&s), []);
    s.recv("S. 0:0(0) ack 1 win 5000 <mss 1000>");
    s.sent("R 1:1(0)");
}

#[test]
fn s6_a_socket_can_connect_to_itself() {
    let mut s = Script::new(Config::default());
    let at = "192.168.0.1:4000".parse().unwrap();
    let guard = s
        .engine
        .ports()
        .clone()
        .bind(at, crate::link::Reuse::default(), false)
        .unwrap();
    let options = s.engine.default_options();
    let bell = Arc::clone(s.engine.doorbell());
    let link = Arc::new(StreamLink::new(bell, at, at, options, 65_536, 65_536));
    let now = s.engine.at(s.now);
    s.id = s.engine.open(link, Some(guard), at, now);
    s.silence();
    assert_eq!(s.state(), Some(State::Established));
    s.write(0, 1000);
    assert_eq!(s.read().unwrap(), pattern(0, 1000));
    s.shutdown();
    assert_eq!(s.read().unwrap(), []);
    s.close();
    s.silence();
    assert_eq!(states(&s), [State::TimeWait]);
    s.wait_ms(60_001);
    assert_eq!(states(&s), []);
}

#[test]
fn figure_9_an_old_duplicate_syn_is_found_out_by_the_peer() {
    let mut s = Script::listening(Config::default(), 16);
    let isn = s.peer_isn;
    s.peer_isn = isn.wrapping_sub(10);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv("R 1:1(0)");
    assert_eq!(states(&s), [State::Listen]);
    s.peer_isn = isn;
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn a_newer_syn_that_overtakes_the_reset_of_figure_9_opens_in_the_end() {
    let mut s = Script::listening(Config::default(), 16);
    let isn = s.peer_isn;
    s.peer_isn = isn.wrapping_sub(10);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv("S 10:10(0) win 65535 <mss 1000>");
    s.sent(". 1:1(0) ack 1");
    s.recv("R 1:1(0)");
    s.peer_isn = isn;
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
}

#[test]
fn figure_9_we_answer_an_acknowledgement_of_an_old_syn_with_a_reset() {
    let mut s = syn_sent();
    s.recv("S. 0:0(0) ack -9 win 5000 <mss 1000>");
    s.sent("R -9:-9(0)");
    assert_eq!(s.state(), Some(State::SynSent));
    s.recv("S. 500:500(0) ack 1 win 5000 <mss 1000>");
    s.sent(". 1:1(0) ack 501");
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn s8_figure_10_a_peer_that_lost_its_connection_opens_again() {
    let mut s = Script::accepted(Config::default());
    let old = s.peer_isn;
    s.recv("S 4000:4000(0) win 65535 <mss 1000>");
    s.sent(". 1:1(0) ack 1");
    s.recv("R 1:1(0)");
    assert_eq!(s.state(), Some(State::Closed));
    assert_eq!(failure(&mut s), ErrorKind::ConnectionReset);
    s.peer_isn = old.wrapping_add(4000);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn s8_figure_10_we_reset_what_the_peer_remembers_and_try_again() {
    let mut s = syn_sent();
    s.recv(". 300:300(0) ack 100 win 5000");
    s.sent("R 100:100(0)");
    assert_eq!(s.state(), Some(State::SynSent));
    s.wait_ms(1000);
    s.sent("S 0:0(0)");
    s.recv("S. 0:0(0) ack 1 win 5000 <mss 1000>");
    s.sent(". 1:1(0) ack 1");
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn s8_figure_11_data_for_a_connection_that_the_peer_lost_ends_it() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 100);
    s.sent("P. 1:101(100) ack 1");
    s.recv("R 1:1(0)");
    assert_eq!(s.state(), Some(State::Closed));
    assert_eq!(failure(&mut s), ErrorKind::ConnectionReset);
}

#[test]
fn figure_12_an_old_duplicate_syn_at_a_listener_leads_back_to_listen() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv("R 1:1(0)");
    s.silence();
    assert_eq!(states(&s), [State::Listen]);
    s.wait_ms(100_000);
    s.silence();
}

#[test]
fn a_reset_in_syn_sent_counts_only_if_it_acknowledges_the_syn() {
    let mut s = syn_sent();
    s.recv("R 0:0(0)");
    s.recv("R. 0:0(0) ack 2");
    s.recv("R. 0:0(0) ack 0");
    s.silence();
    assert_eq!(s.state(), Some(State::SynSent));
    s.recv("R. 0:0(0) ack 1");
    assert_eq!(s.state(), Some(State::Closed));
    s.silence();
}

#[test]
fn what_is_neither_syn_nor_reset_changes_nothing_in_syn_sent() {
    let mut s = syn_sent();
    s.recv(". 1:1(0) ack 1");
    s.recv("F. 1:1(0) ack 1");
    s.recv("P. 1:101(100) ack 1");
    s.recv("- 1:1(0)");
    s.recv("F 1:1(0)");
    s.silence();
    assert_eq!(s.state(), Some(State::SynSent));
}

#[test]
fn an_echo_of_a_timestamp_that_we_never_sent_is_reset() {
    let mut s = syn_sent();
    s.wait_ms(100);
    s.recv("S. 0:0(0) ack 1 win 5000 <mss 1000,TS val 700 ecr 101>");
    s.sent("R 1:1(0)");
    s.recv("R. 0:0(0) ack 1 <TS val 700 ecr 101>");
    assert_eq!(s.state(), Some(State::SynSent));
    s.recv("S. 0:0(0) ack 1 win 5000 <mss 1000,TS val 700 ecr 100>");
    s.sent(". 1:1(0) ack 1");
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn s9_data_on_a_syn_is_not_taken_and_comes_again() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:100(100) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    assert_eq!(failure(&mut s), ErrorKind::WouldBlock);
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 101");
    assert_eq!(s.read().unwrap(), pattern(0, 100));
}

#[test]
fn data_and_fin_may_come_with_the_last_acknowledgement() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv("FP. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 102");
    s.accept();
    assert_eq!(s.state(), Some(State::CloseWait));
    assert_eq!(s.read().unwrap(), pattern(0, 100));
    assert_eq!(s.read().unwrap(), []);
}

#[test]
fn data_opens_where_the_last_acknowledgement_was_lost() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv("P. 101:201(100) ack 1");
    s.accept();
    s.sent(". 1:1(0) ack 1");
    s.recv(". 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 201");
    assert_eq!(s.read().unwrap(), pattern(0, 200));
}

#[test]
fn data_and_fin_may_come_with_a_syn_ack_whose_window_is_not_scaled() {
    let mut s = syn_sent();
    let mut seg = raw::Tcp::from_peer(&s, raw::SYN | raw::ACK | raw::FIN, 0);
    seg.ack = 1_u32.wrapping_add(s.iss());
    seg.options = vec![2, 4, 0x03, 0xe8, 1, 3, 3, 7];
    seg.payload = pattern(0, 100);
    s.recv_packet(seg.packet());
    s.sent(". 1:1(0) ack 102");
    assert_eq!(s.read().unwrap(), pattern(0, 100));
    assert_eq!(s.read().unwrap(), []);
    assert!(s.engine.info(s.id()).unwrap().snd_wnd <= 65_535);
}

#[test]
fn s7_a_wrong_acknowledgement_in_syn_received_is_reset_and_the_entry_stays() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 2");
    s.sent("R 2:2(0)");
    s.recv(". 1:1(0) ack 0");
    s.sent("R 0:0(0)");
    s.recv(". -5000:-5000(0) ack 2");
    s.sent("R 2:2(0)");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn s7_the_same_syn_brings_the_same_syn_ack_twice_a_second() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    let first = s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    let again = s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
    assert_eq!(first.header, again.header);
    for _ in 0..100 {
        s.recv("S 0:0(0) win 65535 <mss 1000>");
    }
    s.silence();
    s.wait_ms(500);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
    // And the timer begins anew.
    s.wait_ms(999);
    s.silence();
    s.wait_ms(1);
    s.sent("S. 0:0(0) ack 1");
}

#[test]
fn in_syn_received_what_is_out_of_window_is_acknowledged() {
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv("P. 70001:70101(100) ack 1");
    s.sent(". 1:1(0) ack 1");
    assert_eq!(states(&s), [State::Listen, State::SynReceived]);
    s.wait_ms(600);
    s.recv("R 70001:70001(0)");
    s.silence();
    s.recv("R 100:100(0)");
    s.sent(". 1:1(0) ack 1");
    s.recv("- 1:1(0)");
    s.silence();
    s.recv(". 1:1(0) ack 1");
    s.accept();
}

/// RFC 9293 §3.10.7.3: the peer's older connection goes with our reset, and the SYN does not wait
/// for its timeout; once, for an answer to each would make a loop.
#[test]
fn a_syn_that_met_an_older_connection_goes_out_again_soon() {
    let mut s = Script::connecting(Config::default());
    s.sent("S 0:0(0)");
    s.recv(". 300:300(0) ack 100 win 1000");
    s.sent("R 100:100(0)");
    assert_eq!(s.wait_for_timer(), Some(Duration::from_millis(2)));
    s.sent("S 0:0(0)");
    s.recv(". 300:300(0) ack 100 win 1000");
    s.sent("R 100:100(0)");
    assert_eq!(s.wait_for_timer(), Some(Duration::from_secs(2)));
    s.sent("S 0:0(0)");
}
