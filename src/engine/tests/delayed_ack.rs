//! When what was received is acknowledged (RFC 9293 §3.8.6.3, §3.10.7.4).

use super::script::Script;
use crate::config::Config;

/// Past the first sixteen segments, which are acknowledged at once.
fn warm() -> (Script, u32) {
    let mut s = Script::accepted(Config::default());
    let mut next = 1;
    sixteen_acknowledged(&mut s, &mut next);
    (s, next)
}

/// The peer sends so many bytes.
fn segment(s: &mut Script, next: &mut u32, flags: &str, len: u32) {
    let end = *next + len;
    s.recv(&format!("{flags} {next}:{end}({len}) ack 1 win 65535"));
    *next = end;
}

fn data(s: &mut Script, next: &mut u32, len: u32) {
    segment(s, next, "P.", len);
}

/// Sixteen segments, each of which is acknowledged at once.
fn sixteen_acknowledged(s: &mut Script, next: &mut u32) {
    for _ in 0..16 {
        segment(s, next, ".", 1000);
        s.sent(&format!(". 1:1(0) ack {next}"));
    }
    s.read().unwrap();
    s.drain();
}

#[test]
fn the_first_sixteen_segments_are_acknowledged_at_once_and_then_one_waits_40_milliseconds() {
    let (mut s, mut next) = warm();
    data(&mut s, &mut next, 1000);
    s.wait_ms(39);
    s.silence();
    s.wait_ms(1);
    s.sent(&format!(". 1:1(0) ack {next}"));
}

#[test]
fn of_a_small_window_half_is_acknowledged_at_once() {
    for (buffer, quick) in [(8000, 4), (6000, 3), (4096, 2)] {
        let mut config = Config::default();
        config.recv_buffer(buffer).recv_buffer_max(buffer);
        let (mut s, mut next) = (Script::accepted(config), 1);
        for _ in 0..quick {
            segment(&mut s, &mut next, ".", 1000);
            s.sent(&format!(". 1:1(0) ack {next}"));
            s.read().unwrap();
            s.drain();
        }
        segment(&mut s, &mut next, ".", 1000);
        s.silence();
        s.wait_ms(40);
        s.sent(&format!(". 1:1(0) ack {next}"));
    }
}

#[test]
fn shld19_every_second_full_segment_is_acknowledged_at_once() {
    let (mut s, mut next) = warm();
    for _ in 0..5 {
        data(&mut s, &mut next, 1000);
        s.silence();
        data(&mut s, &mut next, 1000);
        s.sent(&format!(". 1:1(0) ack {next}"));
    }
}

/// Sends segments while each of them is acknowledged at once, and says how many that was.
fn acknowledged_at_once(s: &mut Script, next: &mut u32) -> u32 {
    for count in 0.. {
        segment(s, next, ".", 1000);
        let at_once = s.drain().len();
        s.read().unwrap();
        if at_once == 0 {
            return count;
        }
    }
    unreachable!("the numbers end before")
}

#[test]
fn a_segment_is_acknowledged_at_once_for_each_two_by_which_the_buffer_has_grown() {
    let (mut s, mut next) = warm();
    // As much as before, and then more than twice that in a round trip.
    for count in [14, 40] {
        s.wait_ms(150);
        s.drain();
        assert_eq!(acknowledged_at_once(&mut s, &mut next), 0);
        for _ in 0..count {
            segment(&mut s, &mut next, ".", 1000);
            s.read().unwrap();
        }
        s.drain();
    }
    s.wait_ms(150);
    s.drain();
    let count = acknowledged_at_once(&mut s, &mut next);
    let grown = s.info().rcv_wnd - (128 << 10);
    assert!(grown > 100_000, "{grown}");
    assert!(count.abs_diff(grown / 2000) <= 1, "{count} for {grown}");
}

#[test]
fn shld19_holds_when_the_peer_goes_over_to_smaller_segments() {
    let (mut s, mut next) = warm();
    let mut acks = 0;
    for _ in 0..40 {
        segment(&mut s, &mut next, ".", 600);
        acks += s.drain().len();
    }
    assert!(acks >= 18, "{acks} acknowledgements of 40 segments");
}

#[test]
fn must58_many_small_segments_share_an_acknowledgement() {
    let (mut s, mut next) = warm();
    for _ in 0..50 {
        data(&mut s, &mut next, 10);
    }
    s.silence();
    s.wait_ms(40);
    s.sent(&format!(". 1:1(0) ack {next}"));
    s.silence();
}

#[test]
fn an_acknowledgement_rides_on_an_answer() {
    let (mut s, mut next) = warm();
    data(&mut s, &mut next, 10);
    s.silence();
    s.write(0, 10);
    s.sent(&format!("P. 1:11(10) ack {next}"));
    s.wait_ms(150);
    s.silence();
}

#[test]
fn who_answers_waits_for_the_next_answer_from_the_start() {
    let mut s = Script::accepted(Config::default());
    s.recv("P. 1:11(10) ack 1 win 65535");
    s.sent(". 1:1(0) ack 11");
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 11");
    s.recv("P. 11:21(10) ack 11 win 65535");
    s.silence();
    s.wait_ms(40);
    s.sent(". 11:11(0) ack 21");
    // No answer came in time: no longer.
    s.recv("P. 21:31(10) ack 11 win 65535");
    s.sent(". 11:11(0) ack 31");
}

#[test]
fn after_a_pause_segments_are_acknowledged_at_once_again() {
    let (mut s, mut next) = warm();
    data(&mut s, &mut next, 10);
    s.silence();
    s.wait_ms(300);
    s.drain();
    data(&mut s, &mut next, 10);
    s.sent(&format!(". 1:1(0) ack {next}"));
}

#[test]
fn out_of_order_data_and_what_fills_the_hole_are_acknowledged_at_once() {
    let (mut s, next) = warm();
    s.recv(&format!(
        ". {}:{}(1000) ack 1 win 65535",
        next + 1000,
        next + 2000
    ));
    s.sent(&format!(
        ". 1:1(0) ack {next} <sack {}:{}>",
        next + 1000,
        next + 2000
    ));
    s.recv(&format!(". {}:{}(10) ack 1 win 65535", next, next + 10));
    s.sent(&format!(". 1:1(0) ack {}", next + 10));
    s.recv(&format!(
        ". {}:{}(990) ack 1 win 65535",
        next + 10,
        next + 1000
    ));
    s.sent(&format!(". 1:1(0) ack {}", next + 2000));
    s.silence();
}

#[test]
fn a_duplicate_is_acknowledged_at_once_with_a_dsack() {
    let (mut s, next) = warm();
    for _ in 0..3 {
        s.recv(&format!(". {}:{}(1000) ack 1 win 65535", next - 1000, next));
        let left = next - 1000;
        let sent = s.next().unwrap();
        assert!(
            sent.text.ends_with(&format!("<sack {left}:{next}>")),
            "{}",
            sent.text
        );
    }
}

#[test]
fn a_fin_is_acknowledged_at_once() {
    let (mut s, next) = warm();
    s.recv(&format!("F. {next}:{next}(0) ack 1 win 65535"));
    s.sent(&format!(". 1:1(0) ack {}", next + 1));
}

#[test]
fn quickack_acknowledges_what_waits_and_what_comes_next() {
    let (mut s, mut next) = warm();
    data(&mut s, &mut next, 10);
    s.silence();
    s.set(|options| options.quickack = true);
    s.sent(&format!(". 1:1(0) ack {next}"));
    data(&mut s, &mut next, 10);
    s.sent(&format!(". 1:1(0) ack {next}"));
    s.set(|options| options.quickack = false);
    data(&mut s, &mut next, 10);
    s.silence();
    s.wait_ms(40);
    s.sent(&format!(". 1:1(0) ack {next}"));
}

#[test]
fn the_delay_can_be_set_and_is_under_half_a_second() {
    let mut config = Config::default();
    config.delayed_ack(std::time::Duration::from_secs(9));
    let mut s = Script::accepted(config);
    s.set(|options| options.quickack = false);
    s.recv("P. 1:11(10) ack 1 win 65535");
    s.wait_ms(498);
    s.silence();
    s.wait_ms(1);
    s.sent(". 1:1(0) ack 11");
}

#[test]
fn what_ends_something_is_acknowledged_when_the_application_has_read_it_all() {
    let (mut s, mut next) = warm();
    // Full-sized and pushed, and smaller than the others.
    for (flags, len) in [("P.", 1000), (".", 300)] {
        segment(&mut s, &mut next, flags, len);
        s.silence();
        s.read_some(len as usize - 1).unwrap();
        s.silence();
        s.read_some(1).unwrap();
        s.sent(&format!(". 1:1(0) ack {next}"));
        s.silence();
    }
    // Full-sized and not the end of anything.
    segment(&mut s, &mut next, ".", 1000);
    s.read().unwrap();
    s.silence();
    s.wait_ms(40);
    s.sent(&format!(". 1:1(0) ack {next}"));
}

#[test]
fn who_answers_acknowledges_on_reading_only_what_was_sent_in_two_parts() {
    let (mut s, mut next) = warm();
    s.write(0, 10);
    s.sent(&format!("P. 1:11(10) ack {next}"));
    for parts in 1..=2 {
        for _ in 0..parts {
            s.recv(&format!("P. {next}:{}(10) ack 11 win 65535", next + 10));
            next += 10;
        }
        s.read().unwrap();
        if parts == 1 {
            s.silence();
            s.write(10, 10);
            s.sent(&format!("P. 11:21(10) ack {next}"));
            s.recv(&format!(". {next}:{next}(0) ack 21 win 65535"));
        } else {
            s.sent(&format!(". 21:21(0) ack {next}"));
        }
    }
}

#[test]
fn after_a_repetition_sixteen_segments_are_acknowledged_at_once() {
    let (mut s, mut next) = warm();
    s.recv(&format!(". {}:{next}(1000) ack 1 win 65535", next - 1000));
    s.next().unwrap();
    sixteen_acknowledged(&mut s, &mut next);
    segment(&mut s, &mut next, ".", 1000);
    s.silence();
}

#[test]
fn who_answers_acknowledges_at_once_what_comes_behind_a_repetition() {
    let (mut s, mut next) = warm();
    s.write(0, 10);
    s.sent(&format!("P. 1:11(10) ack {next}"));
    data(&mut s, &mut next, 10);
    s.silence();
    s.recv(&format!(". {}:{next}(10) ack 1 win 65535", next - 10));
    s.next().unwrap();
    data(&mut s, &mut next, 10);
    s.sent(&format!(". 11:11(0) ack {next}"));
}
