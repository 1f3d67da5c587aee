//! The examples that the RFCs themselves work through, with their numbers.

use super::script::Script;
use crate::config::Config;

/// A segment that arrives: its first and last number, and what is acknowledged and reported then.
type Step = ((u32, u32), u32, &'static [(u32, u32)]);

/// What the receiver answers to segments of a peer that starts to send at `base`.
#[track_caller]
fn receive(base: u32, steps: &[Step]) {
    let mut s = Script::accepted(Config::default());
    let number = |of: u32| of - base + 1;
    for &((first, last), ack, blocks) in steps {
        let (start, end) = (number(first), number(last + 1));
        s.recv(&format!(". {start}:{end}({}) ack 1 win 65535", end - start));
        let sent = s.next().expect("an acknowledgement");
        let mut blocks: Vec<String> = blocks
            .iter()
            .map(|(left, right)| format!(" {}:{}", number(*left), number(*right)))
            .collect();
        if !blocks.is_empty() {
            blocks.insert(0, "sack".to_owned());
        }
        let expected = format!("ack {} win", number(ack));
        assert!(
            sent.text.contains(&expected) && sent.text.ends_with(&format!("<{}>", blocks.concat())),
            "after {first}-{last}: {}, expected {ack}{}",
            sent.text,
            blocks.concat()
        );
        s.silence();
    }
}

#[test]
fn rfc2018_5_case_1_the_first_four_of_eight_segments_arrive() {
    receive(
        5000,
        &[
            ((5000, 5499), 5500, &[]),
            ((5500, 5999), 6000, &[]),
            ((6000, 6499), 6500, &[]),
            ((6500, 6999), 7000, &[]),
        ],
    );
}

#[test]
fn rfc2018_5_case_2_the_first_of_eight_segments_is_lost() {
    receive(
        5000,
        &[
            ((5500, 5999), 5000, &[(5500, 6000)]),
            ((6000, 6499), 5000, &[(5500, 6500)]),
            ((6500, 6999), 5000, &[(5500, 7000)]),
            ((7000, 7499), 5000, &[(5500, 7500)]),
            ((7500, 7999), 5000, &[(5500, 8000)]),
            ((8000, 8499), 5000, &[(5500, 8500)]),
            ((8500, 8999), 5000, &[(5500, 9000)]),
        ],
    );
}

#[test]
fn rfc2018_5_case_3_every_second_of_eight_segments_is_lost_and_two_come_after_all() {
    receive(
        5000,
        &[
            ((5000, 5499), 5500, &[]),
            ((6000, 6499), 5500, &[(6000, 6500)]),
            ((7000, 7499), 5500, &[(7000, 7500), (6000, 6500)]),
            (
                (8000, 8499),
                5500,
                &[(8000, 8500), (7000, 7500), (6000, 6500)],
            ),
            ((6500, 6999), 5500, &[(6000, 7500), (8000, 8500)]),
            ((5500, 5999), 7500, &[(8000, 8500)]),
        ],
    );
}

#[test]
fn rfc2883_4_1_1_a_segment_comes_twice() {
    receive(
        3000,
        &[
            ((3000, 3499), 3500, &[]),
            ((3500, 3999), 4000, &[]),
            ((3000, 3499), 4000, &[(3000, 3500)]),
        ],
    );
}

#[test]
fn rfc2883_4_1_2_a_segment_out_of_order_and_then_one_twice() {
    receive(
        3000,
        &[
            ((3000, 3499), 3500, &[]),
            ((3500, 3999), 4000, &[]),
            ((4500, 4999), 4000, &[(4500, 5000)]),
            ((3000, 3499), 4000, &[(3000, 3500), (4500, 5000)]),
        ],
    );
}

#[test]
fn rfc2883_4_1_3_a_segment_out_of_order_comes_twice() {
    receive(
        3500,
        &[
            ((3500, 3999), 4000, &[]),
            ((4500, 4999), 4000, &[(4500, 5000)]),
            ((5000, 5499), 4000, &[(4500, 5500)]),
            ((5000, 5499), 4000, &[(5000, 5500), (4500, 5500)]),
        ],
    );
}

#[test]
fn rfc2883_4_2_1_half_of_a_larger_segment_was_there() {
    receive(
        500,
        &[
            ((500, 999), 1000, &[]),
            ((1500, 1999), 1000, &[(1500, 2000)]),
            ((2000, 2499), 1000, &[(1500, 2500)]),
            ((1000, 1499), 2500, &[]),
            ((1000, 1999), 2500, &[(1000, 2000)]),
        ],
    );
}

#[test]
fn rfc2883_4_2_2_two_parts_of_a_larger_segment_that_fills_a_hole_were_there() {
    receive(
        500,
        &[
            ((500, 999), 1000, &[]),
            ((3000, 3499), 1000, &[(3000, 3500)]),
            ((1000, 1499), 1500, &[(3000, 3500)]),
            ((2000, 2499), 1500, &[(2000, 2500), (3000, 3500)]),
            ((1000, 2499), 2500, &[(1000, 1500), (3000, 3500)]),
        ],
    );
}

#[test]
fn rfc2883_4_2_3_two_parts_of_a_larger_segment_behind_a_hole_were_there() {
    receive(
        500,
        &[
            ((500, 999), 1000, &[]),
            ((3500, 3999), 1000, &[(3500, 4000)]),
            ((1500, 1999), 1000, &[(1500, 2000), (3500, 4000)]),
            (
                (2500, 2999),
                1000,
                &[(2500, 3000), (1500, 2000), (3500, 4000)],
            ),
            (
                (1500, 2999),
                1000,
                &[(1500, 2000), (1500, 3000), (3500, 4000)],
            ),
        ],
    );
}
