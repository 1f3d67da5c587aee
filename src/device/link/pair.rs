//! Two devices, and a path in each direction between them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    GilbertElliott, Impairment, LinkEnd, MTU, PathStats, QueueLimit, Verdict,
    hub::{Filter, Hub},
};
use crate::packet::{PACKET_MAX, Packet};

/// A direction of a [`Link`].
///
/// ```
/// use std::time::Duration;
/// use synack::device::link::{Direction, Link};
///
/// let (client, _server) = Link::builder().build();
/// // Slow on the way back only.
/// client.control().modify(Direction::Backward, |path| path.delay(Duration::from_secs(1)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the first end to the second.
    Forward,
    /// From the second end to the first.
    Backward,
}

impl Direction {
    /// The end that receives.
    const fn port(self) -> usize {
        match self {
            Self::Forward => 1,
            Self::Backward => 0,
        }
    }
}

/// Two devices joined by an impaired path in each direction.
///
/// # Examples
/// ```
/// # use std::time::Duration;
/// # use synack::device::link::{Impairment, Link, QueueLimit};
/// let (client, server) = Link::builder()
///     .seed(7)
///     .both(
///         Impairment::new()
///             .delay(Duration::from_millis(20))
///             .rate(10_000_000)
///             .queue(QueueLimit::Packets(50)),
///     )
///     .backward(Impairment::new().delay(Duration::from_millis(20)).loss(0.01))
///     .build();
/// let control = client.control();
/// control.set_down(true); // Pull the plug.
/// # drop((client, server));
/// ```
#[derive(Debug)]
pub struct Link;

impl Link {
    /// A perfect link, to be made worse.
    pub fn builder() -> LinkBuilder {
        LinkBuilder {
            seed: 0,
            mtu: MTU,
            offload: false,
            forward: Impairment::new(),
            backward: Impairment::new(),
            filter: Filter(None),
        }
    }
}

/// Setters of [`Impairment`] that [`LinkBuilder`] has for both directions.
macro_rules! for_both {
    ($($name:ident($($argument:ident: $type:ty),+);)*) => {
        /// What happens in both directions alike.
        impl LinkBuilder {
            $(#[doc = concat!("See [`Impairment::", stringify!($name), "`].")]
            pub fn $name(self, $($argument: $type),+) -> Self {
                self.each(|impairment| impairment.$name($($argument),+))
            })*
        }
    };
}

for_both! {
    delay(delay: Duration);
    jitter(jitter: Duration);
    jitter_reorders(on: bool);
    rate(bits_per_second: u64);
    queue(limit: QueueLimit);
    ecn_mark(threshold: QueueLimit);
    loss(probability: f64);
    burst_loss(chain: GilbertElliott);
    reorder(probability: f64, by: Duration);
    duplicate(probability: f64);
    corrupt(probability: f64);
    path_mtu(bytes: usize);
}

/// Makes a [`Link`]. What is named like a method of [`Impairment`] is for both directions.
///
/// ```
/// use std::time::Duration;
/// use synack::device::link::{Link, Verdict};
///
/// // Everything of 1 KB and more is lost, for a path that swallows large packets.
/// let (one, other) = Link::builder()
///     .mtu(1500)
///     .delay(Duration::from_millis(10))
///     .filter(|_, packet| if packet.len() < 1000 { Verdict::Pass } else { Verdict::Drop })
///     .build();
/// ```
#[derive(Debug)]
#[must_use]
pub struct LinkBuilder {
    seed: u64,
    mtu: usize,
    offload: bool,
    forward: Impairment,
    backward: Impairment,
    filter: Filter,
}

impl LinkBuilder {
    common_setters!("both ends");

    /// What happens from the first end to the second.
    pub fn forward(mut self, impairment: Impairment) -> Self {
        self.forward = impairment;
        self
    }

    /// What happens from the second end to the first.
    pub fn backward(mut self, impairment: Impairment) -> Self {
        self.backward = impairment;
        self
    }

    /// What happens in both directions.
    pub fn both(self, impairment: Impairment) -> Self {
        self.forward(impairment.clone()).backward(impairment)
    }

    /// Looks at each packet before it is sent, and decides. It may use a [`LinkControl`].
    pub fn filter(
        mut self,
        mut filter: impl FnMut(Direction, &Packet) -> Verdict + Send + 'static,
    ) -> Self {
        self.filter = Filter::new(move |from, packet| {
            let direction = match from {
                0 => Direction::Forward,
                _ => Direction::Backward,
            };
            filter(direction, packet)
        });
        self
    }

    /// The two ends. They need tokio's clock when they are used, not here.
    pub fn build(self) -> (LinkEnd, LinkEnd) {
        let hub = Hub::new(
            self.seed,
            self.mtu,
            self.offload,
            vec![self.backward, self.forward],
            None,
            self.filter,
        );
        (LinkEnd::new(Arc::clone(&hub), 0), LinkEnd::new(hub, 1))
    }

    fn each(mut self, change: impl Fn(Impairment) -> Impairment) -> Self {
        self.forward = change(self.forward);
        self.backward = change(self.backward);
        self
    }
}

/// Changes a [`Link`] while it is used, and tells what has happened on it.
///
/// What changes is what happens to packets that are sent from then on.
///
/// ```
/// use synack::device::link::{Direction, Link};
///
/// let (one, _other) = Link::builder().build();
/// let control = one.control();
/// control.set_rate(1_000_000);
/// control.set_down(true);
/// assert_eq!(control.stats(Direction::Forward).lost, 0);
/// ```
#[derive(Clone, Debug)]
pub struct LinkControl {
    pub(super) hub: Arc<Hub>,
}

impl LinkControl {
    /// Changes one direction.
    pub fn modify(&self, direction: Direction, change: impl FnOnce(Impairment) -> Impairment) {
        self.hub.modify(direction.port(), change);
    }

    /// Changes both directions.
    pub fn modify_both(&self, change: impl Fn(Impairment) -> Impairment) {
        self.modify(Direction::Forward, &change);
        self.modify(Direction::Backward, &change);
    }

    /// Begins or ends an outage of both directions. What is in flight arrives.
    pub fn set_down(&self, down: bool) {
        self.modify_both(|i| i.down(down));
    }

    /// The probability of loss in both directions.
    pub fn set_loss(&self, probability: f64) {
        self.modify_both(|i| i.loss(probability));
    }

    /// The delay of both directions.
    pub fn set_delay(&self, delay: Duration) {
        self.modify_both(|i| i.delay(delay));
    }

    /// The speed of both directions in bits per second; zero is without limit.
    pub fn set_rate(&self, bits_per_second: u64) {
        self.modify_both(|i| i.rate(bits_per_second));
    }

    /// The MTU that the ends report; at most 65,535.
    pub fn set_mtu(&self, mtu: usize) {
        self.hub.mtu.store(mtu.min(PACKET_MAX), Ordering::Relaxed);
    }

    /// What one direction does now.
    pub fn impairment(&self, direction: Direction) -> Impairment {
        self.hub.lane(direction.port()).path.impairment().clone()
    }

    /// Counters of one direction.
    pub fn stats(&self, direction: Direction) -> PathStats {
        self.hub.lane(direction.port()).path.stats()
    }

    /// Packets sent in one direction and not yet received.
    pub fn in_flight(&self, direction: Direction) -> usize {
        self.hub.lane(direction.port()).path.in_flight()
    }
}
