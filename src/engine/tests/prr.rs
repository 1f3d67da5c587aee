//! Proportional rate reduction (RFC 9937).

use super::script::Script;
use crate::config::Config;

#[test]
fn rfc9937_6_one_loss_in_twenty_sends_one_segment_for_every_two_delivered() {
    let mut config = Config::default();
    config.initial_window(20);
    let mut s = Script::distant(config, "sackOK", 100);
    s.write(0, 20_000);
    s.sent("P. 1:20001(20000)");
    s.write(20_000, 20_000);
    s.wait_ms(100);
    // The first segment is lost; an acknowledgement comes for each of the others.
    let mut sent = Vec::new();
    for last in 2..=20 {
        s.acked(1, &format!("sack 1001:{}", last * 1000 + 1));
        sent.push(
            s.drain()
                .iter()
                .map(|sent| sent.payload.len() / 1000)
                .sum::<usize>(),
        );
    }
    // Limited transmit, twice, and the retransmission.
    assert_eq!(sent[..3], [1, 1, 1]);
    assert_eq!(s.windows().1, 10_000);
    // Never two at once, and at the end ssthresh is in flight.
    assert!(sent.iter().all(|segments| *segments <= 1), "{sent:?}");
    assert_eq!(s.windows().2, 10_000, "{sent:?}");
}

#[test]
fn rfc9937_6_heavy_loss_is_repaired_in_slow_start_up_to_ssthresh() {
    let mut config = Config::default();
    config.initial_window(20);
    let mut s = Script::distant(config, "sackOK", 100);
    s.write(0, 20_000);
    s.sent("P. 1:20001(20000)");
    s.wait_ms(100);
    // 16 of 20 are lost, which leaves less than ssthresh in flight.
    s.acked(1, "sack 16001:20001");
    let first: usize = s.drain().iter().map(|sent| sent.payload.len()).sum();
    assert!((1000..=4000).contains(&first), "{first}");
    s.wait_ms(100);
    s.acked(1 + first as u32, "sack 16001:20001");
    let second: usize = s.drain().iter().map(|sent| sent.payload.len()).sum();
    assert_eq!(
        second,
        first + 1000,
        "SafeACK: what was delivered and one segment more"
    );
}

#[test]
fn rfc9937_6_no_delivered_data_sends_nothing() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.write(10_000, 10_000);
    s.wait_ms(100);
    s.acked(1, "sack 1001:4001");
    // ceil(3 * 5 / 10) segments.
    s.sent(". 1:1001(1000)");
    s.sent(". 10001:11001(1000)");
    for _ in 0..20 {
        s.acked(1, "sack 1001:4001");
    }
    s.silence();
}

#[test]
fn a_loss_that_the_clock_finds_counts_the_segment_that_told_of_it() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(100);
    s.acked(1, "sack 1001:2001");
    assert_eq!(s.wait_for_timer().map(|time| time.as_millis()), Some(25));
    s.sent(". 1:1001(1000)");
    s.wait_ms(91);
    s.acked(1, "sack 1001:3001");
    s.silence();
    s.wait_ms(10);
    // All that was sent before the retransmission is lost, and three segments were delivered since
    // the loss was found, the one that told of it among them.
    s.acked(3001, "");
    s.sent(". 3001:5001(2000)");
    s.silence();
}

#[test]
fn a_loss_that_the_clock_finds_is_repaired_no_faster_than_the_window_shrinks() {
    let mut s = Script::distant(Config::default(), "sackOK", 60);
    s.write(0, 10_000);
    s.sent("P. 1:10001(10000)");
    s.wait_ms(60);
    s.acked(1, "sack 4001:5001");
    assert_eq!(s.wait_for_timer().map(|time| time.as_millis()), Some(15));
    s.sent(". 1:1001(1000)");
    s.wait_ms(15);
    // Two delivered of ten, and one sent: half of them is.
    s.acked(1, "sack 2001:3001 4001:5001");
    s.silence();
}

/// Ten segments in flight for a round trip, and 20 more to send.
fn ten_in_flight() -> Script {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    s.write(0, 10_000);
    s.drain();
    s.wait_ms(100);
    s.write(10_000, 20_000);
    s
}

/// Acknowledges segment after segment, 2 ms apart, and returns what each lets out.
fn let_out(s: &mut Script, acks: impl IntoIterator<Item = (u32, String)>) -> Vec<Vec<u32>> {
    acks.into_iter()
        .map(|(ack, sack)| {
            s.wait_ms(2);
            s.acked(ack, &sack);
            let sent = s.drain();
            let number = |sent: &super::script::Sent| sent.header.seq.raw().wrapping_sub(s.iss());
            sent.iter()
                .inspect(|sent| assert_eq!(sent.payload.len(), 1000))
                .map(number)
                .collect()
        })
        .collect()
}

/// Which segments go out when is what Linux does with the same acknowledgements.
#[test]
fn rfc9937_one_loss_in_ten_is_repaired_segment_by_segment_as_on_linux() {
    let mut s = ten_in_flight();
    let blocks = (2..=10).map(|last| (1, format!("sack 1001:{}", last * 1000 + 1)));
    let acks = blocks.chain([(10_001, String::new()), (11_001, String::new())]);
    let expected: [&[u32]; 11] = [
        &[10_001],
        &[11_001],
        &[1],
        &[],
        &[12_001],
        &[],
        &[13_001],
        &[],
        &[],
        &[14_001],
        &[15_001],
    ];
    assert_eq!(let_out(&mut s, acks), expected);
    assert_eq!(s.windows().1, 5000);
}

/// As above.
#[test]
fn rfc9937_four_losses_in_ten_are_repaired_segment_by_segment_as_on_linux() {
    let mut s = ten_in_flight();
    let blocks = (5..=10).map(|last| (1, format!("sack 4001:{}", last * 1000 + 1)));
    let partial = (1..=3).map(|una| (una * 1000 + 1, "sack 4001:10001".to_owned()));
    let expected: [&[u32]; 9] = [
        &[10_001],
        &[11_001],
        &[1],
        &[],
        &[1001],
        &[2001],
        &[3001],
        &[12_001],
        &[13_001],
    ];
    assert_eq!(let_out(&mut s, blocks.chain(partial)), expected);
}

/// As Linux answers the same segments.
#[test]
fn rfc5681_4_3_loss_in_two_successive_windows_reduces_twice() {
    let mut s = ten_in_flight();
    let blocks = (2..=10).map(|last| (1, format!("sack 1001:{}", last * 1000 + 1)));
    let_out(&mut s, blocks);
    s.wait_ms(30);
    s.acked(1, "sack 1001:12001");
    s.drain();
    // What was sent in recovery is lost too, and sent again in it.
    s.acked(1, "sack 13001:14001 1001:12001");
    s.sent(". 1:1001(1000)");
    s.sent(". 12001:13001(1000)");
    s.sent(". 16001:17001(1000)");
    s.wait_ms(8);
    s.acked(12_001, "sack 13001:14001");
    s.sent(". 17001:18001(1000)");
    assert_eq!((s.windows().1, s.info().recovery), (2000, "recovery"));
}
