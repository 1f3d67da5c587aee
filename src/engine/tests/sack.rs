//! Recovery with SACK (RFC 2018, RFC 6675), and blocks that lie.

use super::script::Script;
use crate::{config::Config, testing::Rng};

fn ten_segments() -> Script {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(100);
    s
}

#[test]
fn rfc6675_5_holes_are_filled_from_the_first_and_before_new_data() {
    let mut s = ten_segments();
    s.write(10_000, 10_000);
    s.silence();
    // Segments 1, 3 and 5 are lost.
    s.acked(1, "sack 9001:10001 5001:9001 3001:4001 1001:2001");
    s.sent(". 1:1001(1000)");
    let sent: Vec<_> = s
        .drain()
        .iter()
        .map(|sent| sent.text[..12].to_string())
        .collect();
    assert_eq!(sent, [". 2001:3001(", ". 4001:5001(", "P. 10001:120"]);
}

#[test]
fn rfc6675_4_pipe_counts_neither_what_was_sacked_nor_what_was_lost() {
    let mut s = ten_segments();
    s.acked(1, "sack 4001:7001");
    // 8 to 10 and two retransmissions are in flight, as ssthresh lets them; 3 and 4 are lost.
    s.sent("P. 1:2001(2000)");
    assert_eq!((s.windows().2, s.info().lost), (5000, 2000));
}

#[test]
fn losses_told_by_the_acknowledgement_that_ends_an_episode_begin_the_next() {
    let mut s = ten_segments();
    s.acked(1, "sack 1001:4001");
    s.sent(". 1:1001(1000)");
    s.wait_ms(100);
    s.acked(10_001, "");
    assert_eq!((s.info().recovery, s.windows().1), ("open", 5000));
    s.write(10_000, 5000);
    s.sent("P. 10001:15001(5000)");
    s.wait_ms(100);
    s.acked(10_001, "sack 11001:14001");
    s.sent(". 10001:11001(1000)");
    // Half of five segments are two.
    assert_eq!(s.windows().1, 2000);
}

#[test]
fn m5_blocks_outside_of_what_is_in_flight_count_for_nothing() {
    let mut s = ten_segments();
    for block in [
        "10001:11001",
        "1:2001",
        "5001:20001",
        "5001:5001",
        "6001:5001",
        "5001:2147483649",
        "-5:8001",
    ] {
        s.acked(1, &format!("sack {block}"));
        assert_eq!(
            (s.windows(), s.info().lost),
            ((10_000, u32::MAX, 10_000), 0),
            "{block}"
        );
    }
    s.silence();
}

#[test]
fn m5_random_blocks_never_break_the_counts() {
    for mss in [48, 1460] {
        let mut rng = Rng::new(7);
        for _ in 0..3 {
            random_blocks(mss, &mut rng);
        }
    }
}

fn random_blocks(mss: u32, rng: &mut Rng) {
    let options = format!("mss {mss},sackOK,nop,wscale 7");
    let mut s = Script::accepted_with(Config::default(), &options, 65_535);
    let mut written = 0;
    let mut una = 1_u32;
    for step in 0..3000 {
        if rng.below(4) == 0 {
            let data = super::pair::pattern(written, 5000);
            written += s.engine.write(s.id(), &data, s.now).unwrap_or(0);
        }
        s.wait_ms(rng.below(30) as u64);
        let mut number = || rng.below(60_000) as u32;
        let blocks: Vec<_> = (0..3)
            .map(|_| {
                format!(
                    "{}:{}",
                    una.wrapping_add(number()),
                    una.wrapping_add(number())
                )
            })
            .collect();
        if rng.below(8) == 0 {
            una += rng.below(3000) as u32;
        }
        s.acked(una, &format!("sack {}", blocks.join(" ")));
        s.drain();
        let info = s
            .engine
            .info(s.id())
            .unwrap_or_else(|| panic!("it ended in step {step}"));
        una = info.acked as u32 + 1;
    }
    assert!(s.info().acked > 0);
}

#[test]
fn rfc2018_3_a_fin_before_its_turn_is_reported_like_text() {
    let mut s = Script::accepted(Config::default());
    s.recv("FP. 101:201(100) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1 <sack 101:202>");
    s.recv("P. 1:101(100) ack 1 win 65535");
    s.sent(". 1:1(0) ack 202 <>");
    let mut s = Script::accepted(Config::default());
    s.recv("F. 101:101(0) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1 <sack 101:102>");
    s.recv("P. 51:81(30) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1 <sack 51:81 101:102>");
    s.recv("P. 81:101(20) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1 <sack 51:102>");
}

#[test]
fn a_block_that_ends_or_begins_inside_of_a_segment_says_nothing_of_that_segment() {
    let mut s = ten_segments();
    // The last byte of the fourth, and all but one byte of the sixth and seventh.
    s.acked(1, "sack 3999:4001");
    s.acked(1, "sack 5001:7000 3999:4001");
    assert_eq!(s.windows().2, 9000);
    assert_eq!(s.wait_for_timer().map(|time| time.as_millis()), Some(25));
    s.sent(". 1:1001(1000)");
    // Of what is lost the fourth is sent again whole.
    s.wait_ms(100);
    s.acked(3001, "sack 5001:7000 3999:4001");
    s.sent(". 3001:4001(1000)");
}

#[test]
fn a_block_up_to_the_end_of_a_short_segment_covers_it() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 2300);
    s.sent("P. 1:2301(2300)");
    s.wait_ms(100);
    s.acked(1, "sack 2001:2301");
    assert_eq!(s.windows().2, 2000);
    s.acked(1, "sack 1001:2301");
    assert_eq!(s.windows().2, 1000);
}
