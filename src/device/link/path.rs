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

#[cfg(test)]
mod tests;

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
