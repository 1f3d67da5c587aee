//! Closing: in every order, with and without somebody who still reads.

use std::{io::ErrorKind, time::Duration};

use super::{pair::pattern, script::Script};
use crate::{
    config::{Config, SocketOptions},
    info::State,
};

fn established() -> Script {
    Script::accepted(Config::default())
}

/// We close first.
pub(super) fn fin_wait_1(config: Config) -> Script {
    let mut s = Script::accepted(config);
    s.shutdown();
    s.sent("F. 1:1(0) ack 1");
    assert_eq!(s.state(), Some(State::FinWait1));
    s
}

pub(super) fn fin_wait_2(config: Config) -> Script {
    let mut s = fin_wait_1(config);
    s.recv(". 1:1(0) ack 2");
    assert_eq!(s.state(), Some(State::FinWait2));
    s
}

/// The peer closes first.
pub(super) fn close_wait(config: Config) -> Script {
    let mut s = Script::accepted(config);
    s.recv("F. 1:1(0) ack 1");
    s.sent(". 1:1(0) ack 2");
    assert_eq!(s.state(), Some(State::CloseWait));
    s
}

pub(super) fn last_ack(config: Config) -> Script {
    let mut s = close_wait(config);
    s.shutdown();
    s.sent("F. 1:1(0) ack 2");
    assert_eq!(s.state(), Some(State::LastAck));
    s
}

pub(super) fn closing(config: Config) -> Script {
    let mut s = fin_wait_1(config);
    s.recv("F. 1:1(0) ack 1");
    s.sent(". 2:2(0) ack 2");
    assert_eq!(s.state(), Some(State::Closing));
    s
}

fn states(s: &Script) -> Vec<State> {
    let infos = s.engine.sockets(s.now);
    let states = infos.iter().map(|info| info.state);
    states.filter(|state| *state != State::Listen).collect()
}

fn lingering(linger: Duration) -> Config {
    let mut config = Config::default();
    config.options(SocketOptions {
        linger: Some(linger),
        ..SocketOptions::default()
    });
    config
}

#[test]
fn figure_13_an_orderly_close() {
    let mut s = fin_wait_2(Config::default());
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    assert_eq!(states(&s), [State::TimeWait]);
    assert_eq!(s.read().unwrap(), []);
    s.wait_ms(60_001);
    assert_eq!(states(&s), []);
    s.silence();
}

#[test]
fn figure_14_both_close_at_once() {
    let mut s = closing(Config::default());
    s.recv(". 2:2(0) ack 2");
    assert_eq!(states(&s), [State::TimeWait]);
    s.silence();
    s.wait_ms(60_001);
    assert_eq!(states(&s), []);
}

#[test]
fn a_fin_that_acknowledges_ours_leads_to_time_wait_at_once() {
    let mut s = fin_wait_1(Config::default());
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    assert_eq!(states(&s), [State::TimeWait]);
}

#[test]
fn the_peer_closes_first_and_nothing_is_left() {
    let mut s = last_ack(Config::default());
    s.recv(". 2:2(0) ack 2");
    assert_eq!(states(&s), []);
    s.recv(". 2:2(0) ack 2");
    s.sent("R 2:2(0)");
}

#[test]
fn after_our_fin_the_peer_still_sends_and_we_still_read() {
    let mut s = fin_wait_1(Config::default());
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 2:2(0) ack 101");
    s.recv("P. 101:201(100) ack 2");
    s.sent(". 2:2(0) ack 201");
    assert_eq!(s.read().unwrap(), pattern(0, 200));
    s.recv("FP. 201:301(100) ack 2");
    s.sent(". 2:2(0) ack 302");
    assert_eq!(s.read().unwrap(), pattern(200, 100));
    assert_eq!(s.read().unwrap(), []);
}

#[test]
fn after_the_peers_fin_we_still_send() {
    let mut s = close_wait(Config::default());
    s.write(0, 500);
    s.sent("P. 1:501(500) ack 2");
    s.recv(". 2:2(0) ack 501");
    s.write(500, 500);
    s.sent("P. 501:1001(500) ack 2");
    s.close();
    s.sent("F. 1001:1001(0) ack 2");
    s.recv(". 2:2(0) ack 1002");
    assert_eq!(states(&s), []);
}

#[test]
fn s5_a_fin_before_its_data_waits_for_it() {
    let mut s = established();
    s.recv("FP. 101:201(100) ack 1");
    s.sent(". 1:1(0) ack 1");
    assert_eq!(s.state(), Some(State::Established));
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 202");
    assert_eq!(s.state(), Some(State::CloseWait));
    assert_eq!(s.read().unwrap(), pattern(0, 200));
    assert_eq!(s.read().unwrap(), []);
}

#[test]
fn s5_a_bare_fin_before_the_data_waits_for_it() {
    let mut s = established();
    s.recv("F. 101:101(0) ack 1");
    s.sent(". 1:1(0) ack 1");
    assert_eq!(s.state(), Some(State::Established));
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 102");
    assert_eq!(s.read().unwrap(), pattern(0, 100));
    assert_eq!(s.read().unwrap(), []);
}

#[test]
fn s5_what_lies_behind_a_fin_is_never_read() {
    let mut s = established();
    s.recv("F. 101:101(0) ack 1");
    s.drain();
    s.recv("P. 1:301(300) ack 1");
    s.sent(". 1:1(0) ack 102");
    assert_eq!(s.read().unwrap(), pattern(0, 100));
    s.recv("P. 102:202(100) ack 1");
    s.recv("F. 150:150(0) ack 1");
    s.silence();
    assert_eq!(s.read().unwrap(), []);
    assert_eq!(s.state(), Some(State::CloseWait));
}

#[test]
fn s5_a_repeated_fin_is_acknowledged_and_counts_once() {
    for state in [close_wait, last_ack, closing] {
        let mut s = state(Config::default());
        let before = s.state();
        for _ in 0..3 {
            s.recv("F. 1:1(0) ack 1");
            assert_eq!(s.next().unwrap().header.ack.unwrap().raw(), {
                s.peer_isn.wrapping_add(2)
            });
            s.silence();
        }
        assert_eq!(s.state(), before);
    }
}

/// The peer has our FIN, but not our acknowledgement of its own: where the FIN that it repeats says
/// so, it is answered at once, as it would be in TIME-WAIT.
#[test]
fn a_repeated_fin_that_acknowledges_ours_is_answered_on_the_way_to_time_wait() {
    let mut s = closing(Config::default());
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    assert_eq!(states(&s), [State::TimeWait]);
}

#[test]
fn s16_closing_with_unread_data_resets() {
    let mut s = established();
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 101");
    s.close();
    s.sent("R. 1:1(0) ack 101");
    assert_eq!(states(&s), []);
}

#[test]
fn s16_closing_in_close_wait_with_unread_data_resets() {
    let mut s = established();
    s.recv("FP. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 102");
    s.close();
    s.sent("R. 1:1(0) ack 102");
    assert_eq!(states(&s), []);
}

#[test]
fn closing_with_unread_data_throws_away_what_was_to_be_sent() {
    let mut s = established();
    s.write(0, 100);
    s.sent("P. 1:101(100) ack 1");
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 101:101(0) ack 101");
    s.close();
    s.sent("R. 101:101(0) ack 101");
    s.wait_ms(10_000);
    s.silence();
}

#[test]
fn closing_while_something_is_held_out_of_order_is_orderly_until_the_hole_is_filled() {
    let mut s = established();
    s.recv("P. 101:201(100) ack 1");
    s.sent(". 1:1(0) ack 1");
    s.close();
    s.sent("F. 1:1(0) ack 1");
    s.recv("P. 1:101(100) ack 2");
    s.sent("R 2:2(0)");
    assert_eq!(states(&s), []);
}

#[test]
fn data_after_close_meets_a_reset_with_its_own_number() {
    let mut s = established();
    s.close();
    s.sent("F. 1:1(0) ack 1");
    s.recv("P. 1:101(100) ack 1");
    s.sent("R 1:1(0)");
    assert_eq!(states(&s), []);
    s.silence();
}

#[test]
fn data_after_close_in_fin_wait_2_meets_a_reset_too() {
    let mut s = established();
    s.close();
    s.sent("F. 1:1(0) ack 1");
    s.recv(". 1:1(0) ack 2");
    s.silence();
    s.recv("FP. 1:101(100) ack 2");
    s.sent("R 2:2(0)");
    assert_eq!(states(&s), []);
}

#[test]
fn data_repeated_after_close_is_only_acknowledged() {
    let mut s = established();
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 101");
    s.read().unwrap();
    s.close();
    s.sent("F. 1:1(0) ack 101");
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 2:2(0) ack 101");
    s.recv("F. 101:101(0) ack 2");
    s.sent(". 2:2(0) ack 102");
    assert_eq!(states(&s), [State::TimeWait]);
}

#[test]
fn linger_zero_resets_where_the_peer_may_still_expect_something() {
    for state in [established_with, fin_wait_1, fin_wait_2, close_wait] {
        let mut s = state(lingering(Duration::ZERO));
        s.close();
        let reset = s.next().unwrap();
        assert!(reset.text.starts_with("R. "), "{}", reset.text);
        s.silence();
        assert_eq!(states(&s), []);
    }
}

#[test]
fn a_timed_linger_sends_on_in_the_background_when_its_time_is_over() {
    // As on Linux, where the time bounds how long `close` blocks, and nothing else.
    let mut s = Script::accepted_with(lingering(Duration::from_secs(2)), "mss 1000", 1000);
    s.write(0, 3000);
    s.close();
    s.sent("P. 1:1001(1000) ack 1");
    s.recv(". 1:1(0) ack 1001 win 0");
    s.wait_ms(10_000);
    assert!(s.drain().iter().all(|sent| sent.payload.is_empty()));
    assert_eq!(states(&s), [State::FinWait1]);
    s.recv(". 1:1(0) ack 1001 win 5000");
    s.sent("FP. 1001:3001(2000) ack 1");
    s.recv("F. 1:1(0) ack 3002");
    s.sent(". 3002:3002(0) ack 2");
    assert_eq!(states(&s), [State::TimeWait]);
    assert_eq!(s.counters().resets_sent, 0);
}

#[test]
fn a_user_timeout_holds_for_an_orphan_too() {
    let mut s = Script::accepted(lingering(Duration::from_secs(2)));
    s.set(|options| options.user_timeout = Some(Duration::from_secs(3)));
    s.write(0, 1000);
    s.close();
    s.wait_ms(2900);
    assert_eq!(states(&s), [State::FinWait1]);
    s.wait_ms(200);
    assert_eq!(states(&s), []);
    assert_eq!(s.counters().timed_out, 1);
}

fn established_with(config: Config) -> Script {
    Script::accepted(config)
}

#[test]
fn an_abort_in_closing_or_last_ack_says_nothing() {
    for state in [closing, last_ack] {
        let mut s = state(Config::default());
        s.engine.abort(s.id(), s.now);
        s.silence();
        assert_eq!(s.state(), Some(State::Closed));
        assert_eq!(states(&s), []);
    }
}

#[test]
fn an_abort_resets_and_tells_the_owner() {
    for state in [established_with, fin_wait_1, fin_wait_2, close_wait] {
        let mut s = state(Config::default());
        s.engine.abort(s.id(), s.now);
        let reset = s.next().unwrap();
        assert!(reset.text.starts_with("R. "), "{}", reset.text);
        let error = s.engine.write(s.id(), b"x", s.now).unwrap_err().kind();
        assert!(
            [ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe].contains(&error),
            "{error}"
        );
        assert_eq!(states(&s), []);
    }
}

#[test]
fn an_abort_within_a_window_taken_back_resets_at_its_edge() {
    let mut s = established();
    s.write(0, 900);
    s.sent("P. 1:901(900) ack 1");
    s.recv(". 1:1(0) ack 1 win 100");
    s.engine.abort(s.id(), s.now);
    s.sent("R. 101:101(0) ack 1");
}

#[test]
fn f16_an_orphan_waits_in_fin_wait_2_for_a_minute() {
    let mut s = fin_wait_2(Config::default());
    s.wait(Duration::from_secs(3600));
    assert_eq!(s.state(), Some(State::FinWait2));
    s.close();
    s.wait_ms(59_999);
    assert_eq!(states(&s), [State::FinWait2]);
    s.wait_ms(1);
    assert_eq!(states(&s), []);
    s.silence();
    s.recv("F. 1:1(0) ack 2");
    s.sent("R 2:2(0)");
}

#[test]
fn f16_orphans_whose_fin_is_never_acknowledged_go_within_two_minutes() {
    for state in [fin_wait_1, last_ack, closing] {
        let mut s = state(Config::default());
        s.close();
        s.wait(Duration::from_secs(60));
        assert_eq!(states(&s).len(), 1);
        let fins = s.drain().len();
        assert!((6..12).contains(&fins), "{fins} FINs in the first minute");
        s.wait(Duration::from_secs(60));
        assert_eq!(states(&s), []);
    }
}

#[test]
fn f16_an_orphan_with_a_slow_start_goes_within_two_minutes_too() {
    // Its SYN-ACK was sent twice, so that it starts from a timeout of 3 s.
    let mut s = Script::listening(Config::default(), 16);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.wait_ms(1000);
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    s.write(0, 100);
    s.close();
    s.wait(Duration::from_secs(120));
    assert_eq!(states(&s), []);
}

#[test]
fn f16_orphans_at_a_closed_window_go_within_two_minutes() {
    let mut s = Script::accepted_with(Config::default(), "mss 1000", 0);
    s.write(0, 1000);
    s.close();
    s.wait(Duration::from_secs(60));
    assert_eq!(states(&s), [State::FinWait1]);
    s.drain();
    s.wait(Duration::from_secs(65));
    assert_eq!(states(&s), []);
}

#[test]
fn f16_beyond_the_limit_orphans_are_reset() {
    let mut config = Config::default();
    config.orphans_max(1);
    let mut s = Script::accepted(config);
    s.close();
    s.sent("F. 1:1(0) ack 1");
    s.peer.set_port(1000);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    s.close();
    s.sent("R. 1:1(0) ack 1");
    assert_eq!(s.counters().orphans_reset, 1);
    assert_eq!(states(&s), [State::FinWait1]);
}

#[test]
fn f17_dropping_a_stream_in_close_wait_leaves_nothing_in_the_end() {
    let mut s = close_wait(Config::default());
    s.close();
    s.sent("F. 1:1(0) ack 2");
    assert_eq!(states(&s), [State::LastAck]);
    s.wait(Duration::from_secs(110));
    assert_eq!(states(&s), []);
}

#[test]
fn of_two_fins_before_their_turn_the_first_in_the_stream_counts() {
    let fins = ["F. 11:21(10)", "F. 31:31(0)"];
    for [first, second] in [fins, [fins[1], fins[0]]] {
        let mut s = Script::accepted(Config::default());
        s.recv(&format!("{first} ack 1 win 65535"));
        s.recv(&format!("{second} ack 1 win 65535"));
        s.drain();
        s.recv("P. 1:11(10) ack 1 win 65535");
        assert_eq!(s.drain().last().unwrap().text[..16], *". 1:1(0) ack 22 ");
        assert_eq!(s.state(), Some(State::CloseWait));
        assert_eq!(s.read().unwrap(), pattern(0, 20));
        assert_eq!(s.read().unwrap(), []);
    }
}
