//! What a path does to packets.

use std::time::Duration;

/// What one direction does to packets. Nothing, unless it is told to.
///
/// ```
/// use std::time::Duration;
/// use synack::device::link::{Impairment, Link, QueueLimit};
///
/// let dsl = Impairment::new()
///     .delay(Duration::from_millis(15))
///     .rate(20_000_000)
///     .queue(QueueLimit::Bytes(256 << 10));
/// let (home, provider) = Link::builder().both(dsl).build();
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impairment {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) jitter_reorders: bool,
    pub(super) rate: Option<u64>,
    pub(super) queue: Option<QueueLimit>,
    pub(super) ecn_mark: Option<QueueLimit>,
    pub(super) loss: f64,
    pub(super) burst_loss: Option<GilbertElliott>,
    pub(super) reorder: f64,
    pub(super) reorder_by: Duration,
    pub(super) duplicate: f64,
    pub(super) corrupt: f64,
    pub(super) path_mtu: Option<usize>,
    pub(super) down: bool,
}

/// How much may wait for the line.
///
/// ```
/// use synack::device::link::{Impairment, QueueLimit};
///
/// let shallow = Impairment::new().rate(10_000_000).queue(QueueLimit::Packets(10));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    /// So many packets.
    Packets(usize),
    /// So many bytes.
    Bytes(usize),
}

/// Loss in bursts: a chain of two states, each with its own loss (Gilbert and Elliott).
///
/// ```
/// use synack::device::link::{GilbertElliott, Impairment};
///
/// // A burst every thousand packets, of five in the mean, in which all are lost.
/// let bursts = GilbertElliott { p: 0.001, r: 0.2, loss_good: 0.0, loss_bad: 1.0 };
/// let path = Impairment::new().burst_loss(bursts);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// Probability, with each packet, of going from the good state to the bad one.
    pub p: f64,
    /// Probability, with each packet, of going back.
    pub r: f64,
    /// Loss in the good state.
    pub loss_good: f64,
    /// Loss in the bad state.
    pub loss_bad: f64,
}

impl GilbertElliott {
    /// Nothing is lost in the good state and everything in the bad one: bursts of `1 / r` packets
    /// on average.
    pub const fn new(p: f64, r: f64) -> Self {
        Self {
            p,
            r,
            loss_good: 0.0,
            loss_bad: 1.0,
        }
    }
}

impl Impairment {
    /// A perfect path: no delay, no limit, no loss.
    pub fn new() -> Self {
        Self::default()
    }

    /// Time from the last bit sent to the last bit received. Default zero.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Adds to the delay of each packet between nothing and this, evenly distributed. Packets wait
    /// for those before them, unless [`jitter_reorders`](Self::jitter_reorders). Default zero.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Whether jitter lets packets overtake each other. Default no.
    #[must_use]
    pub fn jitter_reorders(mut self, on: bool) -> Self {
        self.jitter_reorders = on;
        self
    }

    /// The speed of the line; zero, the default, is without limit.
    #[must_use]
    pub fn rate(mut self, bits_per_second: u64) -> Self {
        self.rate = (bits_per_second > 0).then_some(bits_per_second);
        self
    }

    /// What may wait for the line, besides the packet that is on it; others are dropped. Only a
    /// line with a [`rate`](Self::rate) makes packets wait. Default without limit.
    #[must_use]
    pub fn queue(mut self, limit: QueueLimit) -> Self {
        self.queue = Some(limit);
        self
    }

    /// Marks packets that are capable of ECN as having met congestion, when at least this much
    /// waits before them. Default never.
    #[must_use]
    pub fn ecn_mark(mut self, threshold: QueueLimit) -> Self {
        self.ecn_mark = Some(threshold);
        self
    }

    /// Probability of losing a packet, after it has taken its time on the line. Default zero.
    #[must_use]
    pub fn loss(mut self, probability: f64) -> Self {
        self.loss = probability;
        self
    }

    /// Loss in bursts, besides the even [`loss`](Self::loss). Default none.
    #[must_use]
    pub fn burst_loss(mut self, chain: impl Into<Option<GilbertElliott>>) -> Self {
        self.burst_loss = chain.into();
        self
    }

    /// Probability of holding a packet back for `by`, while those behind it overtake. Default zero.
    #[must_use]
    pub fn reorder(mut self, probability: f64, by: Duration) -> Self {
        self.reorder = probability;
        self.reorder_by = by;
        self
    }

    /// Probability of delivering a packet twice. Default zero.
    #[must_use]
    pub fn duplicate(mut self, probability: f64) -> Self {
        self.duplicate = probability;
        self
    }

    /// Probability of flipping one bit of a packet, anywhere in it. Default zero.
    #[must_use]
    pub fn corrupt(mut self, probability: f64) -> Self {
        self.corrupt = probability;
        self
    }

    /// Loses packets larger than this without a word: a black hole for path MTU discovery. The
    /// devices at the ends do not know of it. Default none.
    #[must_use]
    pub fn path_mtu(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.path_mtu = bytes.into();
        self
    }

    /// Loses everything that is sent: an outage. Default no.
    #[must_use]
    pub fn down(mut self, down: bool) -> Self {
        self.down = down;
        self
    }
}
