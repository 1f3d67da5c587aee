use super::{super::GilbertElliott, *};
use crate::{
    device::headers::{fold, sum},
    packet::Meta,
};

const MS: Duration = Duration::from_millis(1);

#[expect(clippy::disallowed_methods, reason = "any start will do")]
fn now() -> Instant {
    Instant::now()
}

fn packet(number: u32, len: usize) -> Packet {
    let mut bytes = vec![0; len];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Packet::received(Bytes::from(bytes), Meta::default())
}

/// When each packet arrives, after `start`, and what is in it.
fn drain(path: &mut Path, start: Instant) -> Vec<(Duration, Vec<u8>)> {
    let mut arrivals = Vec::new();
    while let Some(due) = path.next_deadline() {
        while let Some(packet) = path.pop_due(due) {
            arrivals.push((due - start, packet.to_vec()));
        }
    }
    arrivals
}

fn numbers(arrivals: &[(Duration, Vec<u8>)]) -> Vec<u32> {
    arrivals
        .iter()
        .map(|(_, bytes)| u32::from_be_bytes(bytes[..4].try_into().unwrap()))
        .collect()
}

/// A path with some of everything.
fn bad() -> Impairment {
    Impairment::new()
        .delay(20 * MS)
        .jitter(5 * MS)
        .rate(10_000_000)
        .queue(QueueLimit::Packets(40))
        .loss(0.05)
        .burst_loss(GilbertElliott::new(0.01, 0.3))
        .reorder(0.05, 3 * MS)
        .duplicate(0.05)
        .corrupt(0.05)
}

fn run(seed: u64, start: Instant) -> (Vec<(Duration, Vec<u8>)>, PathStats) {
    let mut path = Path::new(bad(), seed);
    for i in 0..2000 {
        let len = 40 + (i as usize * 37) % 1400;
        path.push(packet(i, len), start + MS / 2 * i);
    }
    (drain(&mut path, start), path.stats())
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let start = now();
    let (arrivals, stats) = run(1, start);
    assert_eq!((arrivals.clone(), stats), run(1, start + 77 * MS));
    assert_ne!(arrivals, run(2, start).0);
    for count in [
        stats.lost,
        stats.queue_dropped,
        stats.duplicated,
        stats.corrupted,
        stats.reordered,
    ] {
        assert!(count > 0, "{stats:?}");
    }
    let ended = stats.delivered + stats.lost + stats.queue_dropped;
    assert_eq!(stats.sent + stats.duplicated, ended);
    assert_eq!(stats.delivered, arrivals.len() as u64);
}

#[test]
fn switching_one_impairment_on_leaves_the_losses_where_they_were() {
    let start = now();
    let survivors = |impairment: Impairment| {
        let mut path = Path::new(impairment.loss(0.1), 5);
        (0..500).for_each(|i| path.push(packet(i, 100), start));
        let mut numbers = numbers(&drain(&mut path, start));
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    let plain = survivors(Impairment::new());
    let more = Impairment::new().duplicate(0.5).jitter(MS).reorder(0.5, MS);
    assert_eq!(plain, survivors(more));
}

#[test]
fn a_line_takes_its_time_for_each_packet() {
    let start = now();
    // 1250 bytes take a millisecond.
    let line = Impairment::new().rate(10_000_000).delay(5 * MS);
    let mut path = Path::new(line, 0);
    (0..3).for_each(|i| path.push(packet(i, 1250), start));
    path.push(packet(3, 625), start + 10 * MS);
    let times: Vec<Duration> = drain(&mut path, start).iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [6 * MS, 7 * MS, 8 * MS, 15 * MS + MS / 2]);
}

#[test]
fn a_full_queue_drops_what_comes_last() {
    let start = now();
    for limit in [QueueLimit::Packets(2), QueueLimit::Bytes(2500)] {
        let mut path = Path::new(Impairment::new().rate(10_000_000).queue(limit), 0);
        // One is on the line and two wait.
        (0..5).for_each(|i| path.push(packet(i, 1250), start));
        // The second is on the line now.
        path.push(packet(5, 1250), start + MS);
        path.push(packet(6, 1250), start + MS);
        assert_eq!(numbers(&drain(&mut path, start)), [0, 1, 2, 5]);
        assert_eq!(path.stats().queue_dropped, 3);
    }
}

#[test]
fn loss_is_as_frequent_as_told() {
    let start = now();
    let share = |impairment: Impairment| {
        let mut path = Path::new(impairment, 3);
        (0..100_000).for_each(|i| path.push(packet(i, 40), start));
        path.stats().lost as f64 / 100_000.0
    };
    let even = share(Impairment::new().loss(0.02));
    assert!((0.018..0.022).contains(&even), "{even}");
    // In the bad state for p / (p + r) of the time.
    let bursts = share(Impairment::new().burst_loss(GilbertElliott::new(0.01, 0.19)));
    assert!((0.045..0.055).contains(&bursts), "{bursts}");
    assert_eq!(share(Impairment::new()), 0.0);
    assert_eq!(share(Impairment::new().loss(1.0)), 1.0);
}

#[test]
fn bursts_are_as_long_as_told() {
    let start = now();
    let chain = GilbertElliott::new(0.01, 0.25);
    let mut path = Path::new(Impairment::new().burst_loss(chain), 3);
    (0..100_000).for_each(|i| path.push(packet(i, 40), start));
    let arrived = numbers(&drain(&mut path, start));
    let gaps = arrived.windows(2).filter(|pair| pair[1] - pair[0] > 1);
    let mean = path.stats().lost as f64 / gaps.count() as f64;
    assert!((3.7..4.3).contains(&mean), "{mean}");
}

#[test]
fn packets_keep_their_order_unless_told_otherwise() {
    let start = now();
    let order = |impairment: Impairment| {
        let mut path = Path::new(impairment, 9);
        (0..1000).for_each(|i| path.push(packet(i, 40), start + MS * i));
        let order = numbers(&drain(&mut path, start));
        assert_eq!(order.len(), 1000);
        (order.is_sorted(), path.stats().reordered)
    };
    let jitter = Impairment::new().delay(MS).jitter(30 * MS);
    assert_eq!(order(jitter.clone()), (true, 0));
    assert_eq!(order(jitter.jitter_reorders(true)), (false, 0));
    let (sorted, reordered) = order(Impairment::new().reorder(0.1, 5 * MS));
    assert!(!sorted);
    assert!((70..130).contains(&reordered), "{reordered}");
}

#[test]
fn a_filter_decides_before_chance_does() {
    let start = now();
    let mut path = Path::new(Impairment::new(), 0);
    let verdicts = [
        Verdict::Pass,
        Verdict::Drop,
        Verdict::Duplicate,
        Verdict::Delay(MS),
        Verdict::Pass,
        Verdict::Corrupt,
    ];
    for (i, verdict) in (0..).zip(verdicts) {
        path.push_with(packet(i, 4), verdict, start);
    }
    let arrivals = drain(&mut path, start);
    let order = numbers(&arrivals);
    assert_eq!(order[..4], [0, 2, 2, 4]);
    assert_eq!((order[4] ^ 5).count_ones(), 1);
    assert_eq!(order[5], 3);
    assert_eq!(arrivals[5].0, MS);
    let stats = path.stats();
    assert_eq!((stats.filtered, stats.duplicated), (1, 1));
    assert_eq!((stats.reordered, stats.corrupted), (1, 1));
}

#[test]
fn an_outage_loses_what_is_sent_and_not_what_was_sent() {
    let start = now();
    let mut path = Path::new(Impairment::new().delay(MS), 0);
    path.push(packet(0, 40), start);
    path.set_impairment(path.impairment().clone().down(true));
    path.push(packet(1, 40), start);
    path.set_impairment(path.impairment().clone().down(false).path_mtu(100));
    path.push(packet(2, 100), start);
    path.push(packet(3, 101), start);
    assert_eq!(numbers(&drain(&mut path, start)), [0, 2]);
    assert_eq!((path.stats().lost, path.stats().too_big), (1, 1));
}

#[test]
fn endless_delays_are_no_overflow() {
    let start = now();
    let endless = Impairment::new()
        .delay(Duration::MAX)
        .jitter(Duration::MAX)
        .reorder(1.0, Duration::MAX)
        .rate(1);
    let mut path = Path::new(endless, 0);
    (0..10).for_each(|i| path.push(packet(i, 1500), start));
    assert_eq!(path.in_flight(), 10);
    path.clear();
    assert_eq!(path.stats().lost, 10);
}

/// A segment over IPv4 or IPv6, capable of ECN.
fn segment(v6: bool, payload: usize, meta: Meta) -> Packet {
    let mut head = vec![0; if v6 { 60 } else { 40 }];
    if v6 {
        head[..2].copy_from_slice(&[0x60, 0x20]);
        head[4..6].copy_from_slice(&(20 + payload as u16).to_be_bytes());
        head[6] = 6;
    } else {
        head[..2].copy_from_slice(&[0x45, 2]);
        head[9] = 6;
    }
    let data_offset = head.len() - 8;
    head[data_offset] = 0x50;
    if !v6 {
        head[3] = 40;
        let ip = Ip::parse(&head, 40).unwrap();
        ip.set_total_len(&mut head, 40 + payload);
    }
    let mut packet = Packet::with_head(&head, meta);
    packet.body.push(Bytes::from(vec![0; payload]));
    packet
}

#[test]
fn congestion_is_marked_when_the_queue_is_long() {
    let start = now();
    let line = Impairment::new()
        .rate(10_000_000)
        .ecn_mark(QueueLimit::Packets(2));
    for v6 in [false, true] {
        let mut path = Path::new(line.clone(), 0);
        for _ in 0..5 {
            let made = segment(v6, 1000, Meta::default());
            let whole = Packet::received(Bytes::from(made.to_vec()), Meta::default());
            path.push(made, start);
            path.push(whole, start);
        }
        path.push(packet(0, 1000), start);
        let arrivals = drain(&mut path, start);
        let ce = if v6 { 0x30 } else { 3 };
        let marked = |bytes: &[u8]| bytes[1] & ce == ce;
        let marks: Vec<bool> = arrivals.iter().map(|(_, bytes)| marked(bytes)).collect();
        assert_eq!(marks[..3], [false; 3]);
        assert_eq!(marks[3..10], [true; 7]);
        assert_eq!(path.stats().marked, 7);
        if !v6 {
            for (_, bytes) in &arrivals[..10] {
                assert_eq!(fold(sum(&bytes[..20])), 0xffff);
            }
        }
    }
}

#[test]
fn a_damaged_packet_is_one_that_a_checksum_finds() {
    let start = now();
    for i in 0..200 {
        let meta = Meta {
            checksum: Checksum::Partial,
            gso_size: 0,
        };
        let sent = segment(true, 50, meta);
        let mut whole = sent.to_vec();
        fill_checksum(&mut whole);
        let mut path = Path::new(Impairment::new().corrupt(1.0), i);
        path.push(sent.clone(), start);
        let received = path.pop_due(start).unwrap();
        assert_eq!(received.meta.checksum, Checksum::Complete);
        let differ = whole.iter().zip(received.to_vec());
        let bits: u32 = differ.map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(bits, 1);
        // The sender's copy is whole.
        assert_eq!(sent.body[0], [0; 50][..]);
    }
}

#[test]
fn a_super_packet_takes_as_long_as_its_segments() {
    let meta = Meta {
        checksum: Checksum::Partial,
        gso_size: 1000,
    };
    let size = Size::of(&segment(true, 2500, meta));
    assert_eq!((size.on_wire, size.largest), (2500 + 3 * 60, 1060));
    let size = Size::of(&segment(true, 900, meta));
    assert_eq!((size.on_wire, size.largest), (960, 960));
}
