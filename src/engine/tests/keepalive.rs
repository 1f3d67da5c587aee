//! Keep-alive (RFC 9293 §3.8.4).

use std::time::Duration;

use super::script::Script;
use crate::{
    config::{Config, KeepAlive, SocketOptions},
    info::State,
};

const HOUR: Duration = Duration::from_secs(3600);

fn kept_alive(keepalive: KeepAlive) -> Script {
    let mut config = Config::default();
    config.options(SocketOptions {
        keepalive: Some(keepalive),
        ..SocketOptions::default()
    });
    Script::accepted(config)
}

#[test]
fn must25_nothing_is_sent_unless_it_was_asked_for() {
    let mut s = Script::accepted(Config::default());
    s.wait(1000 * HOUR);
    s.silence();
    assert_eq!(s.wait_for_timer(), None);
}

#[test]
fn must28_two_hours_then_nine_probes_75_seconds_apart_then_a_reset() {
    let mut s = kept_alive(KeepAlive::default());
    s.wait(2 * HOUR - Duration::from_millis(1));
    s.silence();
    s.wait_ms(1);
    for _ in 0..9 {
        // SHLD-12: without data, one number before what the peer expects.
        s.sent(". 0:0(0) ack 1");
        assert_eq!(s.state(), Some(State::Established));
        s.wait(Duration::from_secs(75));
    }
    s.sent("R. 1:1(0) ack 1");
    s.silence();
    assert_eq!(s.read().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn must29_an_answer_starts_the_idle_time_anew() {
    let mut s = kept_alive(KeepAlive::default());
    s.wait(2 * HOUR + Duration::from_secs(8 * 75));
    assert_eq!(s.drain().len(), 9);
    s.recv(". 1:1(0) ack 1 win 65535");
    s.wait(2 * HOUR - Duration::from_millis(1));
    s.silence();
    s.wait_ms(1);
    s.sent(". 0:0(0) ack 1");
    s.wait(Duration::from_secs(8 * 75));
    assert_eq!(s.drain().len(), 8, "nine are counted from the answer");
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn data_from_the_peer_puts_the_probe_off() {
    let mut s = kept_alive(KeepAlive::default());
    s.wait(HOUR);
    s.recv("P. 1:11(10) ack 1 win 65535");
    s.drain();
    s.wait(2 * HOUR - Duration::from_millis(1));
    s.silence();
    s.wait_ms(1);
    s.sent(". 0:0(0) ack 11");
}

#[test]
fn must26_not_while_something_is_outstanding() {
    let keepalive = KeepAlive {
        idle: Duration::from_secs(1),
        interval: Duration::from_secs(1),
        count: 3,
    };
    let mut s = kept_alive(keepalive);
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1");
    s.wait(Duration::from_secs(60));
    for sent in s.drain() {
        assert_eq!(sent.payload.len(), 10, "sent {}", sent.text);
    }
    s.recv(". 1:1(0) ack 11 win 65535");
    s.wait(Duration::from_millis(1500));
    s.sent(". 10:10(0) ack 1");
}

#[test]
fn must27_it_can_be_switched_and_changed_on_a_connection() {
    let mut s = Script::accepted(Config::default());
    let keepalive = KeepAlive {
        idle: Duration::from_secs(5),
        interval: Duration::from_secs(1),
        count: 2,
    };
    s.set(|options| options.keepalive = Some(keepalive));
    s.wait(Duration::from_secs(5));
    s.sent(". 0:0(0) ack 1");
    s.set(|options| options.keepalive = None);
    s.wait(HOUR);
    s.silence();
    assert_eq!(s.state(), Some(State::Established));
}

#[test]
fn the_user_timeout_replaces_the_count() {
    let mut config = Config::default();
    config.options(SocketOptions {
        keepalive: Some(KeepAlive {
            idle: Duration::from_secs(5),
            interval: Duration::from_secs(1),
            count: 2,
        }),
        user_timeout: Some(Duration::from_secs(20)),
        ..SocketOptions::default()
    });
    let mut s = Script::accepted(config);
    s.wait(Duration::from_secs(19));
    assert_eq!(s.drain().len(), 15);
    s.wait(Duration::from_secs(1));
    s.sent("R. 1:1(0) ack 1");
    assert_eq!(s.read().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn our_answer_to_a_probe_tells_where_we_are() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1");
    s.recv(". 1:1(0) ack 11 win 65535");
    s.wait(HOUR);
    s.recv(". 0:0(0) ack 11 win 65535");
    s.sent(". 11:11(0) ack 1");
    s.wait(HOUR);
    // With a byte of garbage, as some send it (MAY-6).
    s.recv(". 0:1(1) ack 11 win 65535");
    s.sent(". 11:11(0) ack 1");
}

#[test]
fn a_time_of_zero_is_a_millisecond_and_no_loop_without_end() {
    let none = KeepAlive {
        idle: Duration::ZERO,
        interval: Duration::ZERO,
        count: 3,
    };
    let by_hand = {
        let mut s = Script::accepted(Config::default());
        s.set(|options| options.keepalive = Some(none));
        s
    };
    for mut s in [kept_alive(none), by_hand] {
        s.wait_ms(1);
        s.sent(". 0:0(0) ack 1");
        s.silence();
        s.wait_ms(3);
        assert_eq!(s.drain().len(), 3, "two probes and a reset");
        // What is on its way has a timer of its own.
        s = Script::accepted(Config::default());
        s.set(|options| options.keepalive = Some(none));
        s.write(0, 10);
        s.sent("P. 1:11(10) ack 1");
        s.wait_ms(100);
        s.silence();
    }
}

/// The window's own probes ask for it, and for much longer.
#[test]
fn must26_not_while_a_fin_waits_for_the_window_to_open() {
    let mut s = kept_alive(KeepAlive {
        idle: Duration::from_secs(1),
        interval: Duration::from_secs(1),
        count: 2,
    });
    s.recv(". 1:1(0) ack 1 win 0");
    s.shutdown();
    s.wait(Duration::from_secs(60));
    let sent = s.drain();
    assert!(sent.len() < 10, "{sent:?}");
    assert_eq!(s.state(), Some(State::FinWait1));
    s.recv(". 1:1(0) ack 1 win 65535");
    s.sent("F. 1:1(0) ack 1");
}
