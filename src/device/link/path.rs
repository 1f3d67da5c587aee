//! One direction of a link, without a clock.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Impairment, QueueLimit, chance::Chance};
use crate::{
    device::{
        capture::fill_checksum,
        headers::{Ip, Tcp},
    },
    packet::{Checksum, Packet},
};

/// What a filter decides on a packet.
///
/// ```
/// use synack::device::link::{Link, Verdict};
///
/// // Every third packet comes twice.
/// let mut count = 0;
/// let link = Link::builder().filter(move |_, _| {
///     count += 1;
///     if count % 3 == 0 { Verdict::Duplicate } else { Verdict::Pass }
/// });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, to whatever chance has in store for it.
    #[default]
    Pass,
    /// It is lost before it reaches the line.
    Drop,
    /// It is delivered twice.
    Duplicate,
    /// One bit of it is flipped.
    Corrupt,
    /// It arrives so much later, behind packets that were sent after it.
    Delay(Duration),
}

/// Counters of one direction. What was sent and what was duplicated was delivered, is counted under
/// one of the losses, or is [in flight](Path::in_flight).
///
/// ```
/// use synack::device::link::{Direction, Link, PathStats};
///
/// let (one, _other) = Link::builder().loss(0.5).build();
/// let PathStats { sent, lost, .. } = one.control().stats(Direction::Forward);
/// assert!(lost <= sent);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathStats {
    /// Packets sent, whatever became of them.
    pub sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Packets delivered.
    pub delivered: u64,
    /// Their bytes.
    pub bytes_delivered: u64,
    /// Lost by chance, to an outage, or because nobody receives any more.
    pub lost: u64,
    /// Lost because the queue was full.
    pub queue_dropped: u64,
    /// Lost because they were larger than the path allows.
    pub too_big: u64,
    /// Dropped by the filter.
    pub filtered: u64,
    /// Duplicated.
    pub duplicated: u64,
    /// Damaged.
    pub corrupted: u64,
    /// Held back, for others to overtake.
    pub reordered: u64,
    /// Marked with ECN's Congestion Experienced.
    pub marked: u64,
}

/// One direction of a link, as a function of what is pushed and when.
///
/// It knows no clock: `now` is an argument and should not go back. All that chance decides about a
/// packet is decided when it is pushed, with the same number of draws whatever is switched on; so
/// changing one impairment leaves the others' decisions as they were.
///
/// # Examples
/// ```
/// # use std::time::{Duration, Instant};
/// # use bytes::Bytes;
/// # use synack::{device::link::{Impairment, Path}, packet::{Meta, Packet}};
/// let second = Duration::from_secs(1);
/// let mut path = Path::new(Impairment::new().delay(second), 7);
/// let now = Instant::now();
/// path.push(Packet::received(Bytes::from_static(b"packet"), Meta::default()), now);
/// assert_eq!(path.next_deadline(), Some(now + second));
/// assert!(path.pop_due(now).is_none());
/// assert!(path.pop_due(now + second).is_some());
/// ```
#[derive(Clone, Debug)]
pub struct Path {
    impairment: Impairment,
    chance: Chance,
    in_bad_state: bool,
    /// When the line has sent all that was given to it.
    line_free: Option<Instant>,
    waiting: Waiting,
    /// Nothing that keeps its place is delivered before this.
    last_due: Option<Instant>,
    /// By the time they are due, those of one time in the order in which they were sent.
    in_flight: VecDeque<(Instant, Packet)>,
    stats: PathStats,
}

/// What waits for the line: when each of it gets there.
#[derive(Clone, Debug, Default)]
struct Waiting {
    starts: VecDeque<(Instant, usize)>,
    bytes: usize,
}

impl Waiting {
    fn forget_until(&mut self, now: Instant) {
        while let Some((start, bytes)) = self.starts.front()
            && *start <= now
        {
            self.bytes -= bytes;
            self.starts.pop_front();
        }
    }

    /// Whether this much is there, if `bytes` in one packet are added to it.
    fn exceeds(&self, limit: QueueLimit, bytes: Option<usize>) -> bool {
        match limit {
            QueueLimit::Packets(max) => self.starts.len() + usize::from(bytes.is_some()) > max,
            QueueLimit::Bytes(max) => self.bytes + bytes.unwrap_or(0) > max,
        }
    }

    fn reaches(&self, threshold: QueueLimit) -> bool {
        match threshold {
            QueueLimit::Packets(at) => self.starts.len() >= at,
            QueueLimit::Bytes(at) => self.bytes >= at,
        }
    }
}

impl Path {
    /// A path on which nothing is in flight.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            chance: Chance::new(seed),
            in_bad_state: false,
            line_free: None,
            waiting: Waiting::default(),
            last_due: None,
            in_flight: VecDeque::new(),
            stats: PathStats::default(),
        }
    }

    /// Sends a packet.
    pub fn push(&mut self, packet: Packet, now: Instant) {
        self.push_with(packet, Verdict::Pass, now);
    }

    /// Sends a packet on which a filter has decided.
    pub fn push_with(&mut self, packet: Packet, verdict: Verdict, now: Instant) {
        let draws = Draws::new(&mut self.chance);
        let size = Size::of(&packet);
        self.stats.sent += 1;
        self.stats.bytes_sent += packet.len() as u64;
        if verdict == Verdict::Drop {
            self.stats.filtered += 1;
        } else if self.impairment.down {
            self.stats.lost += 1;
        } else if self
            .impairment
            .path_mtu
            .is_some_and(|mtu| size.largest > mtu)
        {
            self.stats.too_big += 1;
        } else if let Some(left) = self.line(size.on_wire, now) {
            if self.loses(&draws) {
                self.stats.lost += 1;
            } else {
                self.deliver(packet, verdict, &draws, left);
            }
        } else {
            self.stats.queue_dropped += 1;
        }
    }

    /// The next packet that has arrived by now.
    pub fn pop_due(&mut self, now: Instant) -> Option<Packet> {
        if self.next_deadline()? > now {
            return None;
        }
        let (_, packet) = self.in_flight.pop_front()?;
        self.stats.delivered += 1;
        self.stats.bytes_delivered += packet.len() as u64;
        Some(packet)
    }

    /// When the next packet arrives.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.front().map(|(due, _)| *due)
    }

    /// Packets sent and not yet taken out: waiting for the line, on it, or due.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// What it does to packets.
    pub fn impairment(&self) -> &Impairment {
        &self.impairment
    }

    /// Changes what it does to packets that are sent from now on.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// What has happened so far.
    pub fn stats(&self) -> PathStats {
        self.stats
    }

    /// Loses all that is in flight.
    pub fn clear(&mut self) {
        self.stats.lost += self.in_flight.len() as u64;
        self.in_flight.clear();
    }

    /// Puts a packet on the line: what became of it and when its last bit has left, or `None` if it
    /// found no room to wait.
    fn line(&mut self, bytes: usize, now: Instant) -> Option<Left> {
        let Some(rate) = self.impairment.rate else {
            return Some(Left {
                at: now,
                marked: false,
            });
        };
        let start = self.line_free.map_or(now, |free| free.max(now));
        self.waiting.forget_until(now);
        let marked = self
            .impairment
            .ecn_mark
            .is_some_and(|threshold| self.waiting.reaches(threshold));
        if start > now {
            let limit = self.impairment.queue;
            if limit.is_some_and(|limit| self.waiting.exceeds(limit, Some(bytes))) {
                return None;
            }
            self.waiting.starts.push_back((start, bytes));
            self.waiting.bytes += bytes;
        }
        let nanos = (bytes as u128 * 8_000_000_000).div_ceil(u128::from(rate));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let at = later(start, Duration::from_nanos(nanos));
        self.line_free = Some(at);
        Some(Left { at, marked })
    }

    fn loses(&mut self, draws: &Draws) -> bool {
        let mut lost = draws.loss < self.impairment.loss;
        if let Some(chain) = self.impairment.burst_loss {
            let (turn, loss) = if self.in_bad_state {
                (chain.r, chain.loss_bad)
            } else {
                (chain.p, chain.loss_good)
            };
            lost |= draws.burst_loss < loss;
            self.in_bad_state ^= draws.burst_turn < turn;
        }
        lost
    }

    fn deliver(&mut self, mut packet: Packet, verdict: Verdict, draws: &Draws, left: Left) {
        let impairment = &self.impairment;
        if left.marked && mark_congestion(&mut packet) {
            self.stats.marked += 1;
        }
        if verdict == Verdict::Corrupt || draws.corrupt < impairment.corrupt {
            flip_bit(&mut packet, draws.corrupt_at);
            self.stats.corrupted += 1;
        }
        let jitter = impairment.jitter.mul_f64(draws.jitter);
        let mut due = later(later(left.at, impairment.delay), jitter);
        let held = match verdict {
            Verdict::Delay(by) => Some(by),
            _ if draws.reorder < impairment.reorder => Some(impairment.reorder_by),
            _ => None,
        };
        if !impairment.jitter_reorders {
            due = self.last_due.map_or(due, |last| last.max(due));
        }
        match held {
            Some(by) => {
                self.stats.reordered += 1;
                due = later(due, by);
            }
            None => self.last_due = Some(due),
        }
        if verdict == Verdict::Duplicate || draws.duplicate < self.impairment.duplicate {
            self.stats.duplicated += 1;
            self.schedule(packet.clone(), due);
        }
        self.schedule(packet, due);
    }

    fn schedule(&mut self, packet: Packet, due: Instant) {
        // Nearly always this is the end.
        let mut place = self.in_flight.len();
        if self.in_flight.back().is_some_and(|(last, _)| *last > due) {
            place = self.in_flight.partition_point(|(other, _)| *other <= due);
        }
        self.in_flight.insert(place, (due, packet));
    }
}

/// A sum that cannot overflow: nothing takes longer than a year.
fn later(at: Instant, by: Duration) -> Instant {
    at + by.min(Duration::from_secs(365 * 24 * 3600))
}

/// A packet that has left the line.
#[derive(Clone, Copy, Debug)]
struct Left {
    at: Instant,
    marked: bool,
}

/// What chance says about one packet.
#[derive(Clone, Copy, Debug)]
struct Draws {
    loss: f64,
    burst_turn: f64,
    burst_loss: f64,
    corrupt: f64,
    corrupt_at: u64,
    jitter: f64,
    reorder: f64,
    duplicate: f64,
}

impl Draws {
    fn new(chance: &mut Chance) -> Self {
        Self {
            loss: chance.fraction(),
            burst_turn: chance.fraction(),
            burst_loss: chance.fraction(),
            corrupt: chance.fraction(),
            corrupt_at: chance.next(),
            jitter: chance.fraction(),
            reorder: chance.fraction(),
            duplicate: chance.fraction(),
        }
    }
}

/// How large a packet is on the wire.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Bytes in all; each segment of a super-packet has headers of its own.
    on_wire: usize,
    /// The largest packet on the wire.
    largest: usize,
}

impl Size {
    fn of(packet: &Packet) -> Self {
        let len = packet.len();
        let mss = usize::from(packet.meta.gso_size);
        let headers = Tcp::of(packet).map_or(0, |tcp| tcp.header_len);
        let payload = len.saturating_sub(headers);
        if mss == 0 || payload <= mss {
            return Self {
                on_wire: len,
                largest: len,
            };
        }
        Self {
            on_wire: payload + headers * payload.div_ceil(mss),
            largest: headers + mss,
        }
    }
}

/// Sets Congestion Experienced (RFC 3168 §5), unless the packet is not capable of ECN.
fn mark_congestion(packet: &mut Packet) -> bool {
    let len = packet.len();
    let Some(ip) = Ip::parse(packet.first(), len) else {
        return false;
    };
    let bits = if ip.v6 { 0x30 } else { 3 };
    if packet.first()[1] & bits == 0 {
        return false;
    }
    if packet.head().is_empty() {
        let mut first = packet.body[0].to_vec();
        mark(&mut first, ip, bits);
        packet.body[0] = Bytes::from(first);
    } else {
        mark(packet.head_mut(), ip, bits);
    }
    true
}

fn mark(header: &mut [u8], ip: Ip, bits: u8) {
    header[1] |= bits;
    // This also computes the header checksum anew.
    ip.set_total_len(header, ip.total_len);
}

/// Flips one bit, in a copy: the bytes may be the sender's, who will need them again.
fn flip_bit(packet: &mut Packet, at: u64) {
    let mut bytes = packet.to_vec();
    let mut meta = packet.meta;
    if meta.checksum == Checksum::Partial {
        fill_checksum(&mut bytes);
    }
    // Nothing but the checksum tells the receiver.
    meta.checksum = Checksum::Complete;
    let bits = bytes.len() as u64 * 8;
    if let Some(bit) = at.checked_rem(bits) {
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
    *packet = Packet::received(Bytes::from(bytes), meta);
}

#[cfg(test)]
mod tests {
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
}
