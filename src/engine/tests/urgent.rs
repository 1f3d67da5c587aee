//! Urgent data, which is in line (RFC 9293 §3.8.5, RFC 6093).

use super::{pair::pattern, script::Script};
use crate::config::Config;

#[test]
fn m14_whatever_the_pointer_says_all_bytes_are_in_line() {
    for pointer in [0, 1, 7, 8, 9, 65_535] {
        for flags in ["PU.", "FPU."] {
            let mut s = Script::accepted(Config::default());
            s.recv(&format!("{flags} 1:9(8) ack 1 win 65535 urg {pointer}"));
            assert_eq!(s.read().unwrap(), pattern(0, 8), "pointer {pointer}");
            if flags == "FPU." {
                assert_eq!(s.read().unwrap(), []);
            } else {
                s.recv("P. 9:17(8) ack 1 win 65535");
                assert_eq!(s.read().unwrap(), pattern(8, 8), "pointer {pointer}");
            }
        }
    }
}

#[test]
fn m14_out_of_the_window_it_says_nothing() {
    let mut s = Script::accepted(Config::default());
    s.recv("U. 900001:900009(8) ack 1 win 65535 urg 8");
    s.recv("U. -100:-100(0) ack 1 win 65535 urg 500");
    assert_eq!(s.info().urgent, None);
}

#[test]
fn must33_what_is_left_up_to_the_mark_is_told() {
    let mut s = Script::accepted(Config::default());
    s.recv("PU. 1:101(100) ack 1 win 65535 urg 60");
    // MUST-62: the pointer tells the byte behind the urgent data.
    assert_eq!(s.info().urgent, Some(60));
    let mut some = [0; 59];
    s.engine.read(s.id(), &mut some, s.now).unwrap();
    assert_eq!(s.info().urgent, Some(1));
    s.engine.read(s.id(), &mut some[..1], s.now).unwrap();
    assert_eq!(s.info().urgent, None);
}

#[test]
fn must31_the_mark_may_be_far_ahead_and_move_on() {
    let mut s = Script::accepted(Config::default());
    let mut next = 1_u32;
    for _ in 0..5 {
        s.recv(&format!(
            "U. {next}:{}(1000) ack 1 win 65535 urg 65535",
            next + 1000
        ));
        next += 1000;
        assert_eq!(s.info().urgent, Some(u64::from(next) - 1001 + 65_535));
    }
    // It does not go back.
    s.recv(&format!(
        "U. {next}:{}(1000) ack 1 win 65535 urg 1",
        next + 1000
    ));
    assert_eq!(s.info().urgent, Some(4000 + 65_535));
}

#[test]
fn must32_a_pointer_without_data_is_told_at_once() {
    let mut s = Script::accepted(Config::default());
    s.recv("U. 1:1(0) ack 1 win 65535 urg 10");
    assert_eq!(s.info().urgent, Some(10));
    s.silence();
}
