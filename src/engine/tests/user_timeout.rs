//! R1, R2 and the user timeout (RFC 9293 §3.8.3), and the retransmission timeout behind them.

use std::{io::ErrorKind, time::Duration};

use super::script::Script;
use crate::{
    config::{Config, SocketOptions},
    info::State,
};

fn without_probes() -> Config {
    // Without SACK there are no tail loss probes between the timeouts.
    let mut config = Config::default();
    config.sack(false);
    config
}

/// Lets a silent peer be given up, and returns when segments were sent, in milliseconds.
fn until_given_up(s: &mut Script) -> Vec<u128> {
    let mut times = Vec::new();
    while s.state() == Some(State::Established) {
        s.wait_for_timer().expect("a timer runs");
        times.extend(s.drain().iter().map(|_| s.elapsed().as_millis()));
    }
    times
}

#[test]
fn must18_the_timeout_doubles_from_200_milliseconds_up_to_two_minutes() {
    let mut s = Script::accepted(without_probes());
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1");
    for expected in [
        200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 102_400, 120_000, 120_000,
    ] {
        assert_eq!(s.wait_for_timer().unwrap().as_millis(), expected);
        s.sent("P. 1:11(10) ack 1");
        s.silence();
    }
}

#[test]
fn f18_fifteen_retransmissions_in_924_seconds_and_then_the_connection_has_timed_out() {
    let mut s = Script::accepted(without_probes());
    s.write(0, 10);
    s.drain();
    let times = until_given_up(&mut s);
    assert_eq!(times.len(), 15);
    assert_eq!(s.elapsed().as_secs(), 924);
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn shld11_a_least_timeout_of_a_millisecond_does_not_shorten_r2() {
    let mut config = without_probes();
    config.rto_min(Duration::from_millis(1));
    let mut s = Script::accepted(config);
    s.write(0, 10);
    s.drain();
    until_given_up(&mut s);
    assert!(s.elapsed() >= Duration::from_secs(100), "{:?}", s.elapsed());
    assert!(
        s.elapsed() <= Duration::from_secs(1000),
        "{:?}",
        s.elapsed()
    );
}

#[test]
fn shld9_trouble_is_told_after_r1_and_forgotten_with_the_next_acknowledgement() {
    let mut s = Script::accepted(without_probes());
    s.write(0, 10);
    for _ in 0..2 {
        s.wait_for_timer();
        assert_eq!(s.info().soft_error, None);
    }
    s.wait_for_timer();
    assert_eq!(s.info().soft_error, Some(ErrorKind::TimedOut));
    s.recv(". 1:1(0) ack 11 win 65535");
    assert_eq!(s.info().soft_error, None);
}

#[test]
fn the_user_timeout_ends_it_to_the_millisecond() {
    let mut config = without_probes();
    config.options(SocketOptions {
        user_timeout: Some(Duration::from_millis(2500)),
        ..SocketOptions::default()
    });
    let mut s = Script::accepted(config);
    s.wait_ms(10_000);
    s.write(0, 10);
    s.drain();
    let times = until_given_up(&mut s);
    assert_eq!(times, [10_200, 10_600, 11_400]);
    assert_eq!(s.elapsed().as_millis(), 12_500);
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn must21_a_user_timeout_may_be_longer_than_r2_and_be_changed() {
    let mut s = Script::accepted(without_probes());
    s.set(|options| options.user_timeout = Some(Duration::from_secs(7200)));
    s.write(0, 10);
    s.wait(Duration::from_secs(3600));
    assert_eq!(s.state(), Some(State::Established));
    s.set(|options| options.user_timeout = None);
    until_given_up(&mut s);
    assert!(s.elapsed() < Duration::from_secs(3800));
}

#[test]
fn what_icmp_said_is_what_the_timeout_is_reported_as() {
    let mut s = Script::accepted(without_probes());
    s.write(0, 10);
    let quote = s.next().unwrap();
    s.recv_icmp((3, 1), 0, &quote, 0);
    assert_eq!(s.info().soft_error, Some(ErrorKind::HostUnreachable));
    until_given_up(&mut s);
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::HostUnreachable);
}

#[test]
fn an_acknowledgement_of_anything_starts_the_count_anew() {
    let mut s = Script::accepted(without_probes());
    s.write(0, 3000);
    s.wait(Duration::from_secs(900));
    s.recv(". 1:1(0) ack 1001 win 65535");
    s.wait(Duration::from_secs(800));
    assert_eq!(s.state(), Some(State::Established));
}
