//! Stacks joined in memory by a link that delays, loses, reorders and damages packets as told.
//!
//! All chance comes from a seed: the same packets sent in the same order at the same times meet the
//! same fate. [`Path`] is one direction, with the time as an argument; [`Link`] makes two devices
//! of two such paths, on tokio's clock; [`Switch`] joins more than two.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::time::{self, Sleep};

use self::chance::Chance;
pub use self::path::{GilbertElliott, Impairment, Path, PathStats, QueueLimit, Verdict};
use super::{Capabilities, Device};
use crate::packet::{PACKET_MAX, Packet};

mod chance;
mod path;

/// The MTU of a link that is told none.
const MTU: usize = 1500;

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

/// What the builders have in common.
macro_rules! common_setters {
    ($mtu_of:literal) => {
        /// Where all chance comes from. Default zero.
        pub fn seed(mut self, seed: u64) -> Self {
            self.seed = seed;
            self
        }

        #[doc = concat!("The MTU of ", $mtu_of, ". Default 1500, at most 65,535.")]
        pub fn mtu(mut self, mtu: usize) -> Self {
            self.mtu = mtu;
            self
        }

        /// Whether super-packets and packets with an unfinished checksum pass as they are.
        /// Impairments then meet super-packets whole. Default no.
        pub fn offload(mut self, on: bool) -> Self {
            self.offload = on;
            self
        }
    };
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

/// More than two devices joined in one place, which sends packets on by their destination.
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// # use synack::device::link::{Impairment, Switch};
/// let slow = Impairment::new().delay(Duration::from_millis(20));
/// let (switch, ends) = Switch::builder()
///     .port("10.0.0.1/32".parse()?, Impairment::new())
///     .port("10.0.0.2/32".parse()?, Impairment::new())
///     .port("0.0.0.0/0".parse()?, slow)
///     .build();
/// assert_eq!(ends.len(), 3);
/// switch.set_down(1, true);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Switch {
    hub: Arc<Hub>,
}

impl Switch {
    /// A switch without ports.
    pub fn builder() -> SwitchBuilder {
        SwitchBuilder {
            seed: 0,
            mtu: MTU,
            offload: false,
            ports: Vec::new(),
            routes: Vec::new(),
            filter: Filter(None),
        }
    }

    /// Counters of the path to a port. Ports are counted from zero.
    ///
    /// # Panics
    /// Here and below: if there is no such port.
    pub fn stats(&self, port: usize) -> PathStats {
        self.hub.lane(port).path.stats()
    }

    /// Changes what happens on the path to a port.
    pub fn modify(&self, port: usize, change: impl FnOnce(Impairment) -> Impairment) {
        self.hub.modify(port, change);
    }

    /// Begins or ends an outage of the path to a port.
    pub fn set_down(&self, port: usize, down: bool) {
        self.modify(port, |i| i.down(down));
    }
}

/// Makes a [`Switch`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::device::link::{Impairment, Switch};
///
/// let (switch, ends) = Switch::builder()
///     .mtu(1400)
///     .port("10.0.0.1/32".parse()?, Impairment::new())
///     .port("0.0.0.0/0".parse()?, Impairment::new().loss(0.01))
///     .build();
/// assert_eq!(switch.stats(0).sent, 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use]
pub struct SwitchBuilder {
    seed: u64,
    mtu: usize,
    offload: bool,
    ports: Vec<Impairment>,
    routes: Vec<(IpNet, usize)>,
    filter: Filter,
}

impl SwitchBuilder {
    common_setters!("all ports");

    /// Adds a port for these destinations; the longest prefix wins. The impairment is that of the
    /// path to it.
    pub fn port(mut self, prefix: IpNet, impairment: Impairment) -> Self {
        self.ports.push(impairment);
        self.also(prefix)
    }

    /// More destinations for the port added last.
    pub fn also(mut self, prefix: IpNet) -> Self {
        if let Some(port) = self.ports.len().checked_sub(1) {
            self.routes.push((prefix, port));
        }
        self
    }

    /// Looks at each packet before it is sent, with the port that it comes from, and decides.
    pub fn filter(
        mut self,
        filter: impl FnMut(usize, &Packet) -> Verdict + Send + 'static,
    ) -> Self {
        self.filter = Filter::new(filter);
        self
    }

    /// The switch, and a device for each port.
    pub fn build(self) -> (Switch, Vec<LinkEnd>) {
        let ports = self.ports.len();
        let hub = Hub::new(
            self.seed,
            self.mtu,
            self.offload,
            self.ports,
            Some(self.routes),
            self.filter,
        );
        let ends = (0..ports)
            .map(|port| LinkEnd::new(Arc::clone(&hub), port))
            .collect();
        (Switch { hub }, ends)
    }
}

/// One end of a [`Link`], or a port of a [`Switch`].
///
/// It sends without ever waiting: what finds no room is lost. When all other ends are gone, what is
/// in flight still arrives, then the device reports its end; sending over a link whose other end is
/// gone fails with [`BrokenPipe`](io::ErrorKind::BrokenPipe). The clock is tokio's and wakes up
/// every millisecond at the most often, so packets that are due between arrive together.
///
/// ```
/// use synack::device::{Device, Link};
///
/// let (one, other) = Link::builder().mtu(1400).build();
/// assert_eq!((one.capabilities().mtu, other.capabilities().mtu), (1400, 1400));
/// ```
#[derive(Debug)]
pub struct LinkEnd {
    hub: Arc<Hub>,
    port: usize,
    sleep: Option<Pin<Box<Sleep>>>,
    drops: u64,
}

impl LinkEnd {
    fn new(hub: Arc<Hub>, port: usize) -> Self {
        Self {
            hub,
            port,
            sleep: None,
            drops: 0,
        }
    }

    /// What changes and observes the link while it is used.
    ///
    /// # Panics
    /// If this is a port of a switch: its [`Switch`] does that.
    pub fn control(&self) -> LinkControl {
        assert!(
            self.hub.routes.is_none(),
            "a port of a switch has no LinkControl"
        );
        LinkControl {
            hub: Arc::clone(&self.hub),
        }
    }

    /// Where a packet goes: the port, unless none has the destination.
    fn route(&self, packet: &Packet) -> Option<usize> {
        let Some(routes) = &self.hub.routes else {
            return Some(1 - self.port);
        };
        let destination = destination(packet.first())?;
        routes
            .iter()
            .filter(|(prefix, _)| prefix.contains(&destination))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map(|(_, port)| *port)
    }

    fn admits(&self, packet: &Packet) -> bool {
        let max = if self.hub.offload && packet.meta.gso_size > 0 {
            PACKET_MAX
        } else {
            self.hub.mtu.load(Ordering::Relaxed)
        };
        (1..=max).contains(&packet.len())
    }
}

impl Device for LinkEnd {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: self.hub.mtu.load(Ordering::Relaxed),
            checksum_offload: self.hub.offload,
            segmentation_offload: self.hub.offload.then_some(PACKET_MAX),
        }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let now = time::Instant::now().into_std();
            let before = packets.len();
            let deadline = {
                let mut lane = self.hub.lane(self.port);
                while packets.len() - before < max.max(1)
                    && let Some(packet) = lane.path.pop_due(now)
                {
                    packets.push(packet);
                }
                let count = packets.len() - before;
                let deadline = lane.path.next_deadline();
                if count > 0 || (deadline.is_none() && lane.senders == 0) {
                    return Poll::Ready(Ok(count));
                }
                lane.register(cx);
                deadline
            };
            let Some(deadline) = deadline.map(time::Instant::from_std) else {
                return Poll::Pending;
            };
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(time::sleep_until(deadline)));
            if sleep.deadline() != deadline {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(cx));
        }
    }

    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        if packets.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.hub.routes.is_none() && self.hub.lane(1 - self.port).receiver_gone {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the other end of the link is gone",
            )));
        }
        let now = time::Instant::now().into_std();
        let mut wakers = Vec::new();
        for packet in packets.drain(..) {
            let verdict = self.hub.filter(self.port, &packet);
            match self.route(&packet).filter(|_| self.admits(&packet)) {
                Some(port) => wakers.extend(self.hub.lane(port).push(packet, verdict, now)),
                None => {
                    self.drops += 1;
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    fn drops(&self) -> u64 {
        self.drops
    }
}

impl Drop for LinkEnd {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        for port in 0..self.hub.lanes.len() {
            let mut lane = self.hub.lane(port);
            if port == self.port {
                lane.receiver_gone = true;
                lane.receiver = None;
                lane.path.clear();
            } else {
                lane.senders -= 1;
                if lane.senders == 0 {
                    wakers.extend(lane.receiver.take());
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
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
    hub: Arc<Hub>,
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

/// What the ends share. A lane belongs to the port that receives from it.
#[derive(Debug)]
struct Hub {
    mtu: AtomicUsize,
    offload: bool,
    lanes: Vec<Mutex<Lane>>,
    /// A link has none: what one end sends is for the other.
    routes: Option<Vec<(IpNet, usize)>>,
    /// Never locked together with a lane.
    filter: Mutex<Filter>,
    has_filter: bool,
}

impl Hub {
    fn new(
        seed: u64,
        mtu: usize,
        offload: bool,
        impairments: Vec<Impairment>,
        routes: Option<Vec<(IpNet, usize)>>,
        filter: Filter,
    ) -> Arc<Self> {
        let senders = impairments.len().saturating_sub(1);
        // Each lane has a stream of random numbers of its own.
        let mut seeds = Chance::new(seed);
        let lanes = impairments
            .into_iter()
            .map(|impairment| {
                Mutex::new(Lane {
                    path: Path::new(impairment, seeds.next()),
                    senders,
                    receiver_gone: false,
                    receiver: None,
                })
            })
            .collect();
        Arc::new(Self {
            mtu: AtomicUsize::new(mtu.min(PACKET_MAX)),
            offload,
            lanes,
            routes,
            has_filter: filter.0.is_some(),
            filter: Mutex::new(filter),
        })
    }

    fn lane(&self, port: usize) -> MutexGuard<'_, Lane> {
        self.lanes[port]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn modify(&self, port: usize, change: impl FnOnce(Impairment) -> Impairment) {
        let mut lane = self.lane(port);
        let changed = change(lane.path.impairment().clone());
        lane.path.set_impairment(changed);
    }

    fn filter(&self, from: usize, packet: &Packet) -> Verdict {
        if !self.has_filter {
            return Verdict::Pass;
        }
        let mut filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut filter.0 {
            Some(filter) => filter(from, packet),
            None => Verdict::Pass,
        }
    }
}

/// A path and who is at its ends.
#[derive(Debug)]
struct Lane {
    path: Path,
    senders: usize,
    receiver_gone: bool,
    receiver: Option<Waker>,
}

impl Lane {
    /// Sends a packet: whom to wake, because there is now something to receive earlier than before.
    fn push(&mut self, packet: Packet, verdict: Verdict, now: Instant) -> Option<Waker> {
        let before = self.path.next_deadline();
        self.path.push_with(packet, verdict, now);
        if self.receiver_gone {
            self.path.clear();
        }
        if self.path.next_deadline() == before {
            return None;
        }
        self.receiver.take()
    }

    fn register(&mut self, cx: &Context<'_>) {
        let known = self.receiver.as_ref();
        if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.receiver = Some(cx.waker().clone());
        }
    }
}

type Decide = dyn FnMut(usize, &Packet) -> Verdict + Send;

/// Decides on a packet by the port that it comes from.
struct Filter(Option<Box<Decide>>);

impl Filter {
    fn new(decide: impl FnMut(usize, &Packet) -> Verdict + Send + 'static) -> Self {
        Self(Some(Box::new(decide)))
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Filter" } else { "None" })
    }
}

/// The destination address of an IP packet.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    Some(match packet.first()? >> 4 {
        4 => IpAddr::from(*packet.get(16..20)?.first_chunk::<4>()?),
        6 => IpAddr::from(*packet.get(24..40)?.first_chunk::<16>()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;

    use super::*;
    use crate::packet::Meta;

    const MS: Duration = Duration::from_millis(1);

    fn packet(number: u8, len: usize) -> Packet {
        Packet::received(Bytes::from(vec![number; len]), Meta::default())
    }

    async fn send(end: &mut LinkEnd, packet: Packet) -> io::Result<()> {
        let mut packets = VecDeque::from([packet]);
        poll_fn(|cx| end.poll_send(cx, &mut packets)).await
    }

    /// The first bytes of the packets that arrive together.
    async fn receive(end: &mut LinkEnd) -> Vec<u8> {
        let mut packets = Vec::new();
        let count = poll_fn(|cx| end.poll_recv(cx, &mut packets, 64))
            .await
            .unwrap();
        assert_eq!(count, packets.len());
        packets.iter().map(|packet| packet.first()[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn packets_arrive_when_they_should() {
        let (mut one, mut other) = Link::builder()
            .delay(10 * MS)
            .backward(Impairment::new().delay(30 * MS).rate(1_000_000))
            .build();
        let start = time::Instant::now();
        send(&mut one, packet(1, 1000)).await.unwrap();
        send(&mut one, packet(2, 1000)).await.unwrap();
        assert_eq!(receive(&mut other).await, [1, 2]);
        assert_eq!(start.elapsed(), 10 * MS);

        // 1000 bytes take 8 ms.
        let start = time::Instant::now();
        send(&mut other, packet(3, 1000)).await.unwrap();
        send(&mut other, packet(4, 1000)).await.unwrap();
        assert_eq!(receive(&mut one).await, [3]);
        assert_eq!(start.elapsed(), 38 * MS);
        assert_eq!(receive(&mut one).await, [4]);
        assert_eq!(start.elapsed(), 46 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_receiver_is_woken_for_what_comes_earlier() {
        let (mut one, mut other) = Link::builder()
            .filter(|_, packet| match packet.first()[0] {
                1 => Verdict::Delay(500 * MS),
                _ => Verdict::Pass,
            })
            .build();
        let start = time::Instant::now();
        let receiving = tokio::spawn(async move {
            let first = receive(&mut other).await;
            let at = start.elapsed();
            (first, at, receive(&mut other).await, start.elapsed())
        });
        time::sleep(10 * MS).await;
        send(&mut one, packet(1, 40)).await.unwrap();
        time::sleep(10 * MS).await;
        send(&mut one, packet(2, 40)).await.unwrap();
        let expected = (vec![2], 20 * MS, vec![1], 510 * MS);
        assert_eq!(receiving.await.unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_filter_may_use_the_control() {
        let control: Arc<Mutex<Option<LinkControl>>> = Arc::default();
        let of_filter = Arc::clone(&control);
        let mut seen = 0;
        let (mut one, mut other) = Link::builder()
            .filter(move |direction, _| {
                seen += 1;
                let control = of_filter.lock().unwrap();
                control.as_ref().unwrap().set_down(seen == 2);
                match direction {
                    Direction::Forward => Verdict::Pass,
                    Direction::Backward => Verdict::Drop,
                }
            })
            .build();
        *control.lock().unwrap() = Some(one.control());
        for number in 1..=3 {
            send(&mut one, packet(number, 40)).await.unwrap();
        }
        send(&mut other, packet(4, 40)).await.unwrap();
        assert_eq!(receive(&mut other).await, [1, 3]);
        let stats = one.control().stats(Direction::Forward);
        assert_eq!((stats.sent, stats.delivered, stats.lost), (3, 2, 1));
        assert_eq!(other.control().stats(Direction::Backward).filtered, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_end_is_seen_when_all_has_arrived() {
        let (mut one, mut other) = Link::builder().delay(MS).build();
        send(&mut one, packet(1, 40)).await.unwrap();
        drop(one);
        let error = send(&mut other, packet(2, 40)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(receive(&mut other).await, [1]);
        assert!(receive(&mut other).await.is_empty());

        let (one, mut other) = Link::builder().build();
        let waiting = tokio::spawn(async move { receive(&mut other).await });
        tokio::task::yield_now().await;
        drop(one);
        assert!(waiting.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn packets_larger_than_the_mtu_are_dropped_and_counted() {
        let (mut one, mut other) = Link::builder().mtu(1000).build();
        send(&mut one, packet(1, 1001)).await.unwrap();
        assert_eq!(one.drops(), 1);
        other.control().set_mtu(1001);
        assert_eq!(one.capabilities().mtu, 1001);
        send(&mut one, packet(2, 1001)).await.unwrap();
        assert_eq!(receive(&mut other).await, [2]);

        let (mut one, mut other) = Link::builder().offload(true).build();
        let mut large = packet(3, 60_000);
        large.meta.gso_size = 1448;
        send(&mut one, large).await.unwrap();
        assert_eq!(receive(&mut other).await, [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_switch_sends_packets_on_by_their_destination() {
        let (switch, ends) = Switch::builder()
            .port("10.0.0.1/32".parse().unwrap(), Impairment::new())
            .also("fd00::1/128".parse().unwrap())
            .port("10.0.0.0/8".parse().unwrap(), Impairment::new())
            .port("10.0.0.3/32".parse().unwrap(), Impairment::new().loss(1.0))
            .build();
        let Ok([mut a, mut b, mut c]) = <[LinkEnd; 3]>::try_from(ends) else {
            panic!("three ports");
        };
        let to = |address: &str| {
            let mut bytes = [0; 40];
            match address.parse().unwrap() {
                IpAddr::V4(address) => {
                    bytes[0] = 0x45;
                    bytes[16..20].copy_from_slice(&address.octets());
                }
                IpAddr::V6(address) => {
                    bytes[0] = 0x60;
                    bytes[24..40].copy_from_slice(&address.octets());
                }
            }
            Packet::received(Bytes::copy_from_slice(&bytes), Meta::default())
        };
        send(&mut c, to("10.0.0.1")).await.unwrap();
        send(&mut c, to("fd00::1")).await.unwrap();
        send(&mut c, to("10.9.9.9")).await.unwrap();
        send(&mut a, to("10.0.0.3")).await.unwrap();
        send(&mut a, to("192.0.2.1")).await.unwrap();
        send(&mut a, packet(0, 40)).await.unwrap();
        assert_eq!(receive(&mut a).await, [0x45, 0x60]);
        assert_eq!(receive(&mut b).await, [0x45]);
        assert_eq!(switch.stats(2).lost, 1);
        assert_eq!(a.drops(), 2);
        drop((a, c));
        assert!(receive(&mut b).await.is_empty());
        send(&mut b, to("10.0.0.1")).await.unwrap();
        assert_eq!(switch.stats(0).lost, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_run_over_devices() {
        async fn run(seed: u64) -> Vec<(Duration, Vec<u8>)> {
            let (mut one, mut other) = Link::builder()
                .seed(seed)
                .delay(5 * MS)
                .jitter(20 * MS)
                .loss(0.1)
                .duplicate(0.1)
                .reorder(0.1, 10 * MS)
                .build();
            let start = time::Instant::now();
            for number in 0..200 {
                send(&mut one, packet(number, 40)).await.unwrap();
                time::sleep(MS).await;
            }
            drop(one);
            let mut arrivals = Vec::new();
            loop {
                let packets = receive(&mut other).await;
                if packets.is_empty() {
                    return arrivals;
                }
                arrivals.push((start.elapsed(), packets));
            }
        }
        let first = run(1).await;
        assert_eq!(first, run(1).await);
        assert_ne!(first, run(2).await);
    }
}
