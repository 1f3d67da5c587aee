//! TIME-WAIT: repetitions, assassins, and who may take its place.

use std::time::Duration;

use super::{close, script::Script};
use crate::{config::Config, engine::ephemeral::EphemeralPorts, info::State};

/// We closed first, and the peer after us; both have said everything.
fn waiting() -> Script {
    let mut s = close::fin_wait_2(Config::default());
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    s.close();
    s
}

/// The same with timestamps: the peer's last was 300.
fn waiting_with_timestamps() -> Script {
    let options = "mss 1000,sackOK,TS val 100 ecr 0,wscale 0";
    let mut s = Script::accepted_with(Config::default(), options, 65_535);
    s.close();
    s.sent("F. 1:1(0) ack 1");
    s.recv(". 1:1(0) ack 2 <TS val 200 ecr 0>");
    s.recv("F. 1:1(0) ack 2 <TS val 300 ecr 0>");
    s.sent(". 2:2(0) ack 2 <TS val 0 ecr 300>");
    s
}

#[test]
fn b15_a_reset_does_not_end_it() {
    let mut s = waiting();
    s.recv("R 2:2(0)");
    s.recv("R. 2:2(0) ack 2");
    s.recv("R 3:3(0)");
    s.silence();
    s.wait_ms(59_999);
    assert_eq!(s.count(State::TimeWait), 1);
    s.wait_ms(2);
    assert_eq!(s.count(State::TimeWait), 0);
}

/// The whole figure of RFC 1337 §1 with a reset of every kind at every moment, and with timestamps,
/// which do not tell old resets from new ones.
#[test]
fn b15_resets_at_any_moment_shorten_nothing() {
    let mut s = waiting_with_timestamps();
    for _ in 0..59 {
        s.wait_ms(1000);
        s.recv("R 2:2(0) <TS val 301 ecr 0>");
        s.recv("R. 2:2(0) ack 2 <TS val 100 ecr 0>");
        s.recv("R 1:1(0)");
        s.recv("R 9:9(0)");
        s.silence();
    }
    s.wait_ms(999);
    assert_eq!(s.count(State::TimeWait), 1);
    s.wait_ms(2);
    assert_eq!(s.count(State::TimeWait), 0);
}

#[test]
fn a_syn_that_is_a_fin_takes_no_place() {
    let mut s = waiting();
    s.recv("SF 1000:1000(0) win 65535 <mss 1000>");
    s.sent(". 2:2(0) ack 2");
    s.recv("S 1000:1000(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1001");
}

#[test]
fn b15_a_reset_right_behind_the_fin_does_not_prevent_it() {
    let mut s = close::fin_wait_2(Config::default());
    // Both before anything is sent.
    let packets = [s.packet("F. 1:1(0) ack 2"), s.packet("R 2:2(0)")];
    for packet in packets {
        s.engine.on_packet(packet, s.now);
    }
    s.sent(". 2:2(0) ack 2");
    assert_eq!(s.count(State::TimeWait), 1);
}

#[test]
fn b15_old_data_and_what_it_provokes_leave_it_alone() {
    let mut s = waiting();
    s.recv("P. -99:1(100) ack 1");
    s.sent(". 2:2(0) ack 2");
    s.recv("R 2:2(0)");
    s.silence();
    s.wait_ms(59_999);
    assert_eq!(s.count(State::TimeWait), 1);
}

#[test]
fn a_repeated_fin_is_acknowledged_and_begins_the_time_anew() {
    let mut s = waiting();
    s.wait_ms(50_000);
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    s.wait_ms(59_999);
    assert_eq!(s.count(State::TimeWait), 1);
    s.wait_ms(2);
    assert_eq!(s.count(State::TimeWait), 0);
}

#[test]
fn an_acknowledgement_gets_no_answer() {
    let mut s = waiting();
    s.recv(". 2:2(0) ack 2");
    s.silence();
}

#[test]
fn a_syn_with_a_higher_number_takes_its_place_above_our_old_numbers() {
    let mut s = waiting();
    let old = s.iss();
    s.recv("S 3:3(0) win 65535 <mss 1000>");
    let syn_ack = s.next().unwrap();
    assert!(syn_ack.text.starts_with("S. "), "{}", syn_ack.text);
    assert_eq!(
        syn_ack.header.seq.raw().wrapping_sub(old),
        2 + 65_535 + 2,
        "RFC 6191 and Linux: above all that we sent"
    );
    assert_eq!(s.count(State::TimeWait), 0);
    s.recv(". 4:4(0) ack 1");
    s.accept();
    s.recv("P. 4:14(10) ack 1");
    assert_eq!(s.read().unwrap().len(), 10);
}

#[test]
fn a_syn_with_an_old_number_is_acknowledged() {
    let mut s = waiting();
    for seq in [2_i32, 1, -1000, -(1 << 30)] {
        s.recv(&format!("S {seq}:{seq}(0) win 65535 <mss 1000>"));
        s.sent(". 2:2(0) ack 2");
        s.wait_ms(600);
    }
    s.recv("S. 100:100(0) ack 2 win 65535 <mss 1000>");
    s.sent(". 2:2(0) ack 2");
    assert_eq!(s.count(State::TimeWait), 1);
}

#[test]
fn a_syn_with_a_newer_timestamp_takes_its_place_whatever_its_number() {
    let mut s = waiting_with_timestamps();
    s.recv("S -5000:-5000(0) win 65535 <mss 1000,TS val 301 ecr 0>");
    assert!(s.next().unwrap().text.starts_with("S. "));
    assert_eq!(s.count(State::SynReceived), 1);
}

#[test]
fn a_syn_with_an_older_timestamp_does_not_whatever_its_number() {
    let mut s = waiting_with_timestamps();
    s.recv("S 5000:5000(0) win 65535 <mss 1000,TS val 299 ecr 0>");
    s.sent(". 2:2(0) ack 2 <TS val 0 ecr 300>");
    assert_eq!(s.count(State::TimeWait), 1);
}

#[test]
fn at_the_same_timestamp_the_number_decides() {
    let mut s = waiting_with_timestamps();
    s.recv("S 1:1(0) win 65535 <mss 1000,TS val 300 ecr 0>");
    s.sent(". 2:2(0) ack 2");
    s.recv("S 5000:5000(0) win 65535 <mss 1000,TS val 300 ecr 0>");
    assert!(s.next().unwrap().text.starts_with("S. "));
}

#[test]
fn without_a_listener_nobody_takes_its_place() {
    let mut s = waiting();
    s.engine.close(s.listener.unwrap(), s.now);
    s.recv("S 5000:5000(0) win 65535 <mss 1000>");
    s.sent(". 2:2(0) ack 2");
    assert_eq!(s.count(State::TimeWait), 1);
}

#[test]
fn with_a_full_accept_queue_it_stays() {
    let mut s = Script::listening(Config::default(), 0);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.accept();
    s.close();
    s.sent("F. 1:1(0) ack 1");
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    let first = s.peer;
    s.peer.set_port(1000);
    s.recv("S 0:0(0) win 65535 <mss 1000>");
    s.sent("S. 0:0(0) ack 1");
    s.recv(". 1:1(0) ack 1");
    s.peer = first;
    s.recv("S 5000:5000(0) win 65535 <mss 1000>");
    s.silence();
    assert_eq!(s.count(State::TimeWait), 1);
}

#[test]
fn a_flood_of_old_syns_is_not_answered_without_end() {
    let mut s = waiting();
    let mut answers = 0;
    for _ in 0..5000 {
        s.recv("S -1:-1(0) win 65535 <mss 1000>");
        answers += s.drain().len();
    }
    assert_eq!(answers, 1);
}

/// RFC 5961 §7: two records that each hold the other's number for wrong end their talk.
#[test]
fn what_has_no_text_is_answered_twice_a_second_and_text_always() {
    let mut s = waiting();
    for _ in 0..3 {
        s.recv(". 40:40(0) ack 2");
        s.sent(". 2:2(0) ack 2");
        s.recv("S 1:1(0) win 65535 <mss 1000>");
        s.recv(". -7:-7(0) ack 2");
        s.silence();
        s.recv("P. -7:2(9) ack 2");
        s.sent(". 2:2(0) ack 2");
        s.recv("F. 1:1(0) ack 2");
        s.sent(". 2:2(0) ack 2");
        s.wait_ms(600);
    }
}

#[test]
fn f15_the_oldest_goes_when_there_are_too_many() {
    let mut config = Config::default();
    config.time_wait_max(10);
    let mut s = Script::listening(config, 100);
    for port in 0..25 {
        s.peer.set_port(1000 + port);
        s.recv("S 0:0(0) win 65535 <mss 1000>");
        s.sent("S. 0:0(0) ack 1");
        s.recv(". 1:1(0) ack 1");
        s.accept();
        s.close();
        s.sent("F. 1:1(0) ack 1");
        s.recv("F. 1:1(0) ack 2");
        s.sent(". 2:2(0) ack 2");
        s.wait_ms(10);
    }
    let infos = s.engine.sockets(s.now);
    let waiting = infos.iter().filter(|info| info.state == State::TimeWait);
    let mut ports: Vec<u16> = waiting.map(|info| info.peer.unwrap().port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, (1015..1025).collect::<Vec<_>>());
    assert_eq!(s.counters().time_wait_recycled, 15);
}

#[test]
fn with_no_time_to_wait_nothing_is_remembered() {
    let mut config = Config::default();
    config.time_wait(Duration::ZERO);
    let mut s = close::fin_wait_2(config);
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    assert_eq!(s.count(State::TimeWait), 0);
    s.recv("F. 1:1(0) ack 2");
    s.sent("R 2:2(0)");
}

#[test]
fn f14_all_ports_in_time_wait_are_used_again() {
    let mut config = Config::default();
    config.time_wait_max(1 << 16);
    let mut s = Script::new(config);
    s.engine.ephemeral = EphemeralPorts::new(40_000..=40_999, &mut s.engine.rng);
    let now = s.now;
    for _ in 0..2500 {
        s.peer = "192.0.2.1:80".parse().unwrap();
        s.connect();
        let syn = s.drain().pop().unwrap();
        assert!(syn.text.starts_with("S 0:0(0)"), "{}", syn.text);
        s.recv("S. 0:0(0) ack 1 win 65535 <mss 1000>");
        s.sent(". 1:1(0) ack 1");
        s.close();
        s.sent("F. 1:1(0) ack 1");
        s.recv("F. 1:1(0) ack 2");
        s.sent(". 2:2(0) ack 2");
    }
    assert_eq!(s.now, now);
    assert_eq!(s.engine.time_wait.len(), 1000);
}
