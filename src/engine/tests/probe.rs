//! A peer that closes or takes back its window (RFC 9293 §3.8.6, §3.8.6.1).

use std::{io::ErrorKind, time::Duration};

use super::script::Script;
use crate::{
    config::{Config, SocketOptions},
    info::State,
};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// The peer has closed its window, and 5000 bytes wait.
fn closed(config: Config) -> Script {
    let mut s = Script::accepted(config);
    s.recv(". 1:1(0) ack 1 win 0");
    s.write(0, 5000);
    s.silence();
    s
}

fn next_probe(s: &mut Script) -> u128 {
    let passed = s.wait_for_timer().expect("a timer runs").as_millis();
    s.sent(". 0:0(0) ack 1");
    s.silence();
    passed
}

#[test]
fn the_first_probe_comes_after_one_rto_and_each_takes_twice_as_long() {
    let mut s = closed(Config::default());
    for expected in [
        200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000,
    ] {
        assert_eq!(next_probe(&mut s), expected);
    }
}

#[test]
fn f7_a_silent_peer_gets_few_probes_and_then_nothing_more() {
    let mut s = closed(Config::default());
    s.wait(Duration::from_secs(5));
    assert!(s.drain().len() <= 5);
    s.wait(Duration::from_secs(3600));
    let sent = s.drain();
    // A reset would not reach it either (Linux: `tcp_probe_timer`).
    assert_eq!(sent.len(), 11, "fifteen probes less four");
    let probes = |sent: &super::script::Sent| sent.text.starts_with(". 0:0(0)");
    assert!(sent.iter().all(probes), "{sent:?}");
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn must37_while_probes_are_answered_the_connection_stays() {
    let mut s = closed(Config::default());
    for _ in 0..200 {
        next_probe(&mut s);
        s.recv(". 1:1(0) ack 1 win 0");
    }
    assert!(s.elapsed() > Duration::from_secs(3 * 3600));
    // Two that were lost do not end it.
    next_probe(&mut s);
    next_probe(&mut s);
    s.recv(". 1:1(0) ack 1 win 65535");
    s.sent("P. 1:5001(5000) ack 1");
}

#[test]
fn s11_a_window_update_that_is_lost_five_times_costs_only_time() {
    let mut s = closed(Config::default());
    for _ in 0..5 {
        next_probe(&mut s);
    }
    next_probe(&mut s);
    s.recv(". 1:1(0) ack 1 win 65535");
    s.sent("P. 1:5001(5000) ack 1");
    s.recv(". 1:1(0) ack 5001 win 0");
    s.write(5000, 1);
    assert_eq!(
        s.wait_for_timer().unwrap().as_millis(),
        200,
        "the interval starts anew"
    );
    s.sent(". 5000:5000(0) ack 1");
}

/// Three probes were sent; the next one is due 1.6 s after them.
fn corked_at_a_closed_window() -> Script {
    let mut s = Script::accepted(Config::default());
    s.recv(". 1:1(0) ack 1 win 0");
    s.set(|options| options.cork = true);
    s.write(0, 10);
    for expected in [200, 400, 800] {
        assert_eq!(next_probe(&mut s), expected);
    }
    s
}

/// What a cork holds back goes out with the timer of the probes, which has become slow by then.
#[test]
fn a_window_that_opens_lets_out_what_is_corked_as_soon_as_it_would_have_at_first() {
    let mut s = corked_at_a_closed_window();
    s.recv(". 1:1(0) ack 1 win 65535");
    s.wait_ms(199);
    s.silence();
    s.wait_ms(2);
    s.sent("P. 1:11(10) ack 1");
}

/// Less than all that waits fits: the window is still the reason to wait, and the pace stays.
#[test]
fn a_window_that_opens_for_less_than_what_is_corked_changes_no_interval() {
    let mut s = corked_at_a_closed_window();
    s.recv(". 1:1(0) ack 1 win 5");
    s.wait_ms(1599);
    s.silence();
    s.wait_ms(2);
    assert_eq!(s.drain().len(), 1);
}

#[test]
fn probes_are_answered_while_our_own_window_is_closed() {
    let mut config = Config::default();
    config.recv_buffer(4096).recv_buffer_max(4096);
    let mut s = closed(config);
    s.recv("P. 1:4097(4096) ack 1 win 0");
    s.wait_ms(100);
    s.drain();
    s.wait_ms(1000);
    s.drain();
    // The peer's probe, as Linux and as others send it.
    s.recv(". 4096:4096(0) ack 1 win 0");
    s.sent(". 1:1(0) ack 4097 win 0");
    s.recv(". 4097:4098(1) ack 1 win 0");
    s.sent(". 1:1(0) ack 4097 win 0");
    s.recv(". 4097:4097(0) ack 1 win 65535");
    s.sent("P. 1:5001(5000) ack 4097 win 0");
}

#[test]
fn the_user_timeout_ends_a_closed_window_even_if_probes_are_answered() {
    let mut config = Config::default();
    config.options(SocketOptions {
        user_timeout: Some(Duration::from_secs(30)),
        ..Default::default()
    });
    let mut s = closed(config);
    while s.state() == Some(State::Established) {
        s.wait_for_timer().unwrap();
        if s.drain().iter().any(|sent| sent.text.starts_with("R.")) {
            break;
        }
        s.recv(". 1:1(0) ack 1 win 0");
        assert!(s.elapsed() < Duration::from_secs(31));
    }
    assert_eq!(s.elapsed().as_millis(), 30_200);
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn an_owner_can_leave_a_closed_window_and_it_does_not_last_for_ever() {
    let mut s = closed(Config::default());
    s.close();
    let end = s.elapsed() + Duration::from_secs(200);
    while s.state().is_some() && s.elapsed() < end {
        s.wait_for_timer();
        s.drain();
        s.recv(". 1:1(0) ack 1 win 0");
    }
    assert_eq!(s.state(), None);
}

#[test]
fn a_fin_waits_for_a_window_and_probes_for_it() {
    let mut s = Script::accepted(Config::default());
    s.recv(". 1:1(0) ack 1 win 0");
    s.shutdown();
    s.silence();
    assert_eq!(next_probe(&mut s), 200);
    s.recv(". 1:1(0) ack 1 win 1");
    s.sent("F. 1:1(0) ack 1");
}

#[test]
fn what_fits_a_small_window_goes_out_as_the_probe() {
    let mut s = Script::accepted(Config::default());
    s.recv(". 1:1(0) ack 1 win 100");
    s.write(0, 5000);
    s.silence();
    assert_eq!(s.wait_for_timer().unwrap().as_millis(), 200);
    s.sent("P. 1:101(100) ack 1");
}

#[test]
fn f8_a_window_held_at_ten_bytes_gets_few_segments() {
    let mut s = Script::accepted(Config::default());
    s.recv(". 1:1(0) ack 1 win 10");
    s.write(0, 50_000);
    let (mut count, mut acked) = (0, 1);
    while s.elapsed() < Duration::from_secs(2) {
        s.wait_ms(10);
        for sent in s.drain() {
            count += 1;
            acked =
                acked.max(sent.header.seq.raw().wrapping_sub(s.iss()) + sent.payload.len() as u32);
        }
        s.recv(&format!(". 1:1(0) ack {acked} win 10"));
    }
    assert!((2..=40).contains(&count), "{count} segments");
    s.recv(&format!(". 1:1(0) ack {acked} win 65535"));
    assert!(
        s.drain()
            .iter()
            .map(|sent| sent.payload.len())
            .sum::<usize>()
            >= 9000
    );
}

#[test]
fn s10_a_peer_that_takes_its_window_back_gets_one_segment_at_a_time() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 5000);
    s.sent("P. 1:5001(5000) ack 1");
    s.write(5000, 5000);
    s.sent("P. 5001:10001(5000) ack 1");
    s.write(10_000, 5000);
    s.recv(". 1:1(0) ack 1 win 0");
    s.silence();
    let mut again = 0;
    for _ in 0..40 {
        s.wait_for_timer().unwrap();
        for sent in s.drain() {
            again += usize::from(!sent.payload.is_empty());
            assert!(sent.payload.len() <= 1000, "sent {}", sent.text);
            assert!(
                sent.header.seq.raw().wrapping_sub(s.iss()) < 10_001,
                "new data: {}",
                sent.text
            );
        }
        // SHLD-17: it answers, so it is not timed out.
        s.recv(". 1:1(0) ack 1 win 0");
        s.drain();
    }
    assert!(s.elapsed() > Duration::from_secs(1500));
    assert!(again > 10, "{again} segments");
    s.recv(". 1:1(0) ack 10001 win 65535");
    s.sent("P. 10001:13001(3000) ack 1");
    s.sent("P. 13001:15001(2000) ack 1");
}

#[test]
fn shld15_after_the_window_shrank_nothing_new_goes_beyond_its_edge() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 2000);
    s.sent("P. 1:2001(2000) ack 1");
    s.recv(". 1:1(0) ack 1 win 2500");
    s.write(2000, 3000);
    s.silence();
    s.recv(". 1:1(0) ack 2001 win 2500");
    s.sent("P. 2001:4001(2000) ack 1");
    s.silence();
}

#[test]
fn nothing_runs_for_a_closed_window_when_nothing_waits() {
    let mut s = Script::accepted(Config::default());
    s.recv(". 1:1(0) ack 1 win 0");
    s.wait(WEEK);
    s.silence();
    assert_eq!(s.wait_for_timer(), None);
}

/// SHLD-17 as Linux has it (`tcp_rtx_probe0_timed_out`): as long as it says anything.
#[test]
fn a_peer_that_takes_its_window_back_and_falls_silent_is_given_up_after_two_longest_timeouts() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 5000);
    s.drain();
    let mut heard = s.elapsed();
    while s.elapsed() < Duration::from_secs(1000) {
        s.recv(". 1:1(0) ack 1 win 0");
        heard = s.elapsed();
        s.wait_for_timer().unwrap();
        s.drain();
    }
    while s.state() == Some(State::Established) && s.elapsed() < WEEK {
        s.wait_for_timer().expect("a timer runs");
        s.drain();
    }
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::TimedOut);
    let silent = (s.elapsed() - heard).as_secs();
    assert!((240..=360).contains(&silent), "{silent} s");
}

/// Linux: answers at a window that is taken back put off no user timeout.
#[test]
fn the_user_timeout_ends_what_a_window_that_was_taken_back_holds_up() {
    let limit = Duration::from_secs(2);
    let mut config = Config::default();
    config.options(SocketOptions {
        user_timeout: Some(limit),
        ..SocketOptions::default()
    });
    let mut s = Script::accepted(config);
    s.write(0, 3000);
    s.drain();
    while s.state() == Some(State::Established) && s.elapsed() < 2 * limit {
        s.recv(". 1:1(0) ack 1 win 0");
        s.wait_for_timer().expect("a timer runs");
        s.drain();
    }
    assert_eq!(s.read().unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(s.elapsed(), limit);
}

/// That it refused so long does not count against it once it takes data.
#[test]
fn a_window_that_opens_again_starts_patience_anew() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 5000);
    s.drain();
    while s.elapsed() < Duration::from_secs(2000) {
        s.recv(". 1:1(0) ack 1 win 0");
        s.wait_for_timer().unwrap();
        s.drain();
    }
    s.recv(". 1:1(0) ack 1 win 65535");
    let opened = s.elapsed();
    while s.state() == Some(State::Established) {
        s.wait_for_timer().expect("a timer runs");
        s.drain();
    }
    let patience = (s.elapsed() - opened).as_secs();
    assert!(patience >= 924, "{patience} s");
}
