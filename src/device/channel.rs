//! Packet queues in memory: a device on one side, the embedding program on the other.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Sink, Stream};

use self::queue::{GONE, Queue, into_bytes, received};
use super::{Capabilities, Device};
use crate::packet::{PACKET_MAX, Packet};

mod queue;

/// Packets that each direction of a [`pair`] holds.
const PAIR_CAPACITY: usize = 512;

/// A device that is a pair of bounded queues, and the end of it that the embedding program holds.
///
/// `mtu` is the size of the largest packet, and `capacity` the number of packets that wait in
/// either direction before the sender has to wait too.
///
/// # Examples
/// ```
/// # use synack::device;
/// let (device, mut end) = device::channel(1500, 256);
/// // `device` goes to a stack. Whole IP packets go to and come from `end`.
/// assert!(end.try_recv().is_none());
/// # drop(device);
/// ```
pub fn channel(mtu: usize, capacity: usize) -> (Channel, ChannelEnd) {
    let (inbound, outbound) = queues(mtu, capacity);
    let end = ChannelEnd {
        sender: PacketSender {
            queue: Arc::clone(&inbound),
        },
        receiver: PacketReceiver {
            queue: Arc::clone(&outbound),
        },
    };
    (Channel::new(inbound, outbound), end)
}

/// Two devices joined directly, so that two stacks talk.
///
/// Packets pass with their metadata and without a copy. With [`Channel::offload`] on both, whole
/// super-packets pass and no checksum is computed or verified.
pub fn pair(mtu: usize) -> (Channel, Channel) {
    let (one, other) = queues(mtu, PAIR_CAPACITY);
    (
        Channel::new(Arc::clone(&one), Arc::clone(&other)),
        Channel::new(other, one),
    )
}

/// One queue for each direction, with one MTU.
fn queues(mtu: usize, capacity: usize) -> (Arc<Queue>, Arc<Queue>) {
    let mtu = Arc::new(AtomicUsize::new(mtu.min(PACKET_MAX)));
    (
        Arc::new(Queue::new(Arc::clone(&mtu), capacity)),
        Arc::new(Queue::new(mtu, capacity)),
    )
}

/// The device of a [`channel`] or a [`pair`].
///
/// When the other end is gone, what it has sent is still received, then the device reports its
/// end; sending fails with [`BrokenPipe`](io::ErrorKind::BrokenPipe).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::{Stack, device};
///
/// let (device, end) = device::channel(1420, 256);
/// let stack = Stack::builder().address("10.7.0.2/24".parse()?).spawn(device)?;
/// drop(end); // The stack learns of it, and ends.
/// assert!(stack.closed().await.is_err());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Channel {
    inbound: Arc<Queue>,
    outbound: Arc<Queue>,
    offload: bool,
}

impl Channel {
    fn new(inbound: Arc<Queue>, outbound: Arc<Queue>) -> Self {
        Self {
            inbound,
            outbound,
            offload: false,
        }
    }

    /// Whether the other end takes super-packets and packets with an unfinished checksum. Off
    /// unless it is asked for.
    ///
    /// An embedding program that turns this on must receive with
    /// [`recv_packet`](PacketReceiver::recv_packet), for the bytes alone do not say what is
    /// missing from them.
    #[must_use]
    pub fn offload(mut self, on: bool) -> Self {
        self.offload = on;
        self
    }
}

impl Device for Channel {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: self.outbound.mtu(),
            checksum_offload: self.offload,
            segmentation_offload: self.offload.then_some(PACKET_MAX),
        }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        self.inbound.poll_pop_many(cx, packets, max).map(Ok)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        self.outbound.poll_push_all(cx, packets, self.offload)
    }

    fn drops(&self) -> u64 {
        self.inbound.drops.load(Ordering::Relaxed) + self.outbound.drops.load(Ordering::Relaxed)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.inbound.close_receiver();
        self.outbound.close_sender();
    }
}

/// The embedding program's end of a [`channel`]: a [`Stream`] of the packets that the stack sends
/// and a [`Sink`] for those that it shall receive.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::{Stack, device};
///
/// let (device, mut end) = device::channel(1420, 256);
/// let stack = Stack::builder().address("10.7.0.2/24".parse()?).spawn(device)?;
/// tokio::spawn(async move { stack.connect("10.7.0.1:80").await });
/// let syn = end.recv().await.expect("the stack lives");
/// assert_eq!(syn[0] >> 4, 4);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ChannelEnd {
    sender: PacketSender,
    receiver: PacketReceiver,
}

impl ChannelEnd {
    /// The two directions, to be used in different tasks.
    pub fn split(self) -> (PacketSender, PacketReceiver) {
        (self.sender, self.receiver)
    }

    /// The direction to the stack.
    pub fn sender(&self) -> &PacketSender {
        &self.sender
    }

    /// See [`PacketReceiver::recv`]. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.receiver.recv().await
    }

    /// See [`PacketReceiver::try_recv`].
    pub fn try_recv(&mut self) -> Option<Bytes> {
        self.receiver.try_recv()
    }

    /// See [`PacketSender::send`]. Cancel safe: a cancelled call has sent nothing.
    ///
    /// # Errors
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the stack is gone.
    pub async fn send(&self, packet: impl Into<Bytes>) -> io::Result<()> {
        self.sender.send(packet).await
    }

    /// See [`PacketSender::try_send`].
    ///
    /// # Errors
    /// Gives the packet back if there is no room or no stack any more.
    pub fn try_send(&self, packet: impl Into<Bytes>) -> Result<(), TrySendError> {
        self.sender.try_send(packet)
    }

    /// See [`PacketSender::set_mtu`].
    pub fn set_mtu(&self, mtu: usize) {
        self.sender.set_mtu(mtu);
    }
}

impl Stream for ChannelEnd {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.get_mut().receiver.poll_recv(cx)
    }
}

impl Sink<Bytes> for ChannelEnd {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.queue.poll_room(cx)
    }

    fn start_send(self: Pin<&mut Self>, packet: Bytes) -> io::Result<()> {
        self.sender.queue.push_always(received(packet))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Hands IP packets to the stack; a [`Sink`]. The stack sees its end when the last clone is gone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (device, end) = synack::device::channel(1420, 256);
/// let (sender, mut receiver) = end.split();
/// let another = sender.clone(); // One for each task that has packets.
/// drop(device);
/// assert!(another.send(vec![0x45; 20]).await.is_err() && receiver.recv().await.is_none());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PacketSender {
    queue: Arc<Queue>,
}

impl PacketSender {
    /// Hands a whole IP packet, with all checksums in their place, to the stack; waits while the
    /// queue is full. Cancel safe: a cancelled call has sent nothing.
    ///
    /// A packet that is empty or larger than the MTU is dropped and counted.
    ///
    /// # Errors
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the stack is gone.
    pub async fn send(&self, packet: impl Into<Bytes>) -> io::Result<()> {
        self.send_packet(received(packet.into())).await
    }

    /// Like [`send`](Self::send), for a packet with metadata: a checksum that was verified
    /// elsewhere, a super-packet. Cancel safe: a cancelled call has sent nothing.
    ///
    /// # Errors
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the stack is gone.
    pub async fn send_packet(&self, packet: Packet) -> io::Result<()> {
        poll_fn(|cx| self.queue.poll_room(cx)).await?;
        self.queue.push_always(packet)
    }

    /// Hands a whole IP packet to the stack if there is room at once.
    ///
    /// # Errors
    /// Gives the packet back if there is no room or no stack any more.
    pub fn try_send(&self, packet: impl Into<Bytes>) -> Result<(), TrySendError> {
        self.queue.try_push(packet.into())
    }

    /// Sets the MTU of the stack's device anew, for both directions. At most 65,535.
    pub fn set_mtu(&self, mtu: usize) {
        self.queue.mtu.store(mtu.min(PACKET_MAX), Ordering::Relaxed);
    }

    /// Whether the stack is gone.
    pub fn is_closed(&self) -> bool {
        self.queue.lock().receiver_gone
    }
}

impl Clone for PacketSender {
    fn clone(&self) -> Self {
        self.queue.lock().senders += 1;
        Self {
            queue: Arc::clone(&self.queue),
        }
    }
}

impl Drop for PacketSender {
    fn drop(&mut self) {
        self.queue.close_sender();
    }
}

impl Sink<Bytes> for PacketSender {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue.poll_room(cx)
    }

    fn start_send(self: Pin<&mut Self>, packet: Bytes) -> io::Result<()> {
        self.queue.push_always(received(packet))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Takes the IP packets that the stack sends; a [`Stream`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// let (device, end) = device::channel(1420, 256);
/// let (_sender, mut receiver) = end.split();
/// # let stack = Stack::builder().address("10.7.0.2/24".parse()?).spawn(device)?;
/// # tokio::spawn(async move { stack.connect("10.7.0.1:80").await });
/// let mut packets = Vec::new();
/// assert_eq!(receiver.recv_many(&mut packets, 64).await, 1);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PacketReceiver {
    queue: Arc<Queue>,
}

impl PacketReceiver {
    /// The next whole IP packet from the stack, in one piece; `None` when the stack is gone and all
    /// is received. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next packet with its metadata, as the stack made it: headers and payload apart; `None`
    /// when the stack is gone and all is received. Cancel safe.
    pub async fn recv_packet(&mut self) -> Option<Packet> {
        poll_fn(|cx| self.queue.poll_pop(cx)).await
    }

    /// Waits for at least one packet, then appends up to `max` to `packets`: their number, or zero
    /// when the stack is gone. Cancel safe.
    pub async fn recv_many(&mut self, packets: &mut Vec<Packet>, max: usize) -> usize {
        poll_fn(|cx| self.queue.poll_pop_many(cx, packets, max)).await
    }

    /// The next packet if there is one at once.
    pub fn try_recv(&mut self) -> Option<Bytes> {
        self.queue.try_pop().map(into_bytes)
    }

    /// Like [`recv`](Self::recv), for a hand-written future.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(ready!(self.queue.poll_pop(cx)).map(into_bytes))
    }

    /// Whether the stack is gone; packets that it has sent may still be there.
    pub fn is_closed(&self) -> bool {
        self.queue.lock().senders == 0
    }
}

impl Drop for PacketReceiver {
    fn drop(&mut self) {
        self.queue.close_receiver();
    }
}

impl Stream for PacketReceiver {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.get_mut().poll_recv(cx)
    }
}

/// Why a packet could not be handed over at once.
///
/// ```
/// use synack::device::{channel, channel::TrySendError};
///
/// let (_device, end) = channel(1420, 1);
/// end.try_send(vec![0x45; 20]).unwrap();
/// // Nobody has taken the first: a network would drop this one.
/// assert!(matches!(end.try_send(vec![0x45; 20]), Err(TrySendError::Full(_))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrySendError {
    /// The queue is full.
    Full(Bytes),
    /// The stack is gone.
    Closed(Bytes),
}

impl fmt::Display for TrySendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the packet queue is full",
            Self::Closed(_) => GONE,
        })
    }
}

impl Error for TrySendError {}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use futures::{SinkExt, StreamExt};

    use super::*;
    use crate::packet::Meta;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn get(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn made(payload: &'static [u8]) -> Packet {
        let mut packet = Packet::with_head(b"head:", Meta::default());
        packet.body.push(Bytes::from_static(payload));
        packet
    }

    fn batch(count: usize) -> VecDeque<Packet> {
        (0..count).map(|_| made(b"x")).collect()
    }

    async fn device_send(device: &mut Channel, packet: Packet) -> io::Result<()> {
        let mut packets = VecDeque::from([packet]);
        poll_fn(|cx| device.poll_send(cx, &mut packets)).await
    }

    async fn device_recv(device: &mut Channel) -> io::Result<Vec<Packet>> {
        let mut packets = Vec::new();
        poll_fn(|cx| device.poll_recv(cx, &mut packets, 64)).await?;
        Ok(packets)
    }

    #[tokio::test]
    async fn whole_packets_pass_both_ways_in_order() {
        let (mut device, mut end) = channel(1500, 4);
        device_send(&mut device, made(b"one")).await.unwrap();
        device_send(&mut device, made(b"two")).await.unwrap();
        assert_eq!(end.recv().await.unwrap(), "head:one");
        assert_eq!(end.next().await.unwrap(), "head:two");
        assert!(end.try_recv().is_none());

        end.send(&b"three"[..]).await.unwrap();
        SinkExt::send(&mut end, Bytes::from_static(b"four"))
            .await
            .unwrap();
        let packets = device_recv(&mut device).await.unwrap();
        assert_eq!(packets[0].to_vec(), b"three");
        assert_eq!(packets[1].to_vec(), b"four");
    }

    #[test]
    fn a_packet_in_one_piece_is_not_copied() {
        let bytes = Bytes::from(vec![1; 100]);
        let at = bytes.as_ptr();
        assert_eq!(into_bytes(received(bytes)).as_ptr(), at);
    }

    #[test]
    fn a_full_queue_holds_the_rest_back_and_wakes_once_when_half_is_free() {
        let (mut device, mut end) = channel(1500, 8);
        let wakes = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut packets = batch(20);
        assert!(device.poll_send(&mut cx, &mut packets).is_pending());
        assert!(device.poll_send(&mut cx, &mut packets).is_pending());
        assert_eq!(packets.len(), 12);
        for expected in [0, 0, 0, 1, 1, 1, 1, 1] {
            assert!(end.try_recv().is_some());
            assert_eq!(wakes.get(), expected);
        }
        assert!(device.poll_send(&mut cx, &mut packets).is_pending());
        assert_eq!(packets.len(), 4);
    }

    #[test]
    fn a_receiver_is_woken_once_for_a_batch() {
        let (mut device, end) = channel(1500, 64);
        let wakes = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut received = Vec::new();
        assert!(device.poll_recv(&mut cx, &mut received, 64).is_pending());
        for _ in 0..10 {
            end.try_send(&b"packet"[..]).unwrap();
        }
        assert_eq!(wakes.get(), 1);
        let all = device.poll_recv(&mut cx, &mut received, 64);
        assert!(matches!(all, Poll::Ready(Ok(10))));
    }

    #[tokio::test]
    async fn packets_larger_than_the_mtu_are_dropped_and_counted() {
        let (mut device, mut end) = channel(100, 4);
        end.send(vec![0; 101]).await.unwrap();
        end.try_send(vec![0; 101]).unwrap();
        end.try_send(Vec::new()).unwrap();
        end.send(vec![0; 100]).await.unwrap();
        assert_eq!(device_recv(&mut device).await.unwrap().len(), 1);
        device_send(&mut device, received(Bytes::from(vec![0; 101])))
            .await
            .unwrap();
        assert!(end.try_recv().is_none());
        assert_eq!(device.drops(), 4);

        end.set_mtu(101);
        assert_eq!(device.capabilities().mtu, 101);
        end.send(vec![0; 101]).await.unwrap();
        assert_eq!(device_recv(&mut device).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_dropped_end_lets_the_device_drain_then_end() {
        let (mut device, end) = channel(1500, 4);
        let (sender, receiver) = end.split();
        let clone = sender.clone();
        drop(sender);
        clone.send(&b"last"[..]).await.unwrap();
        drop((clone, receiver));
        assert_eq!(device_recv(&mut device).await.unwrap().len(), 1);
        assert!(device_recv(&mut device).await.unwrap().is_empty());
        let error = device_send(&mut device, made(b"x")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_dropped_device_ends_the_stream_and_fails_the_sink() {
        let (mut device, mut end) = channel(1500, 4);
        device_send(&mut device, made(b"last")).await.unwrap();
        drop(device);
        assert_eq!(end.recv().await.unwrap(), "head:last");
        assert!(end.recv().await.is_none());
        assert!(end.next().await.is_none());
        assert!(end.send(&b"x"[..]).await.is_err());
        assert!(end.sender().is_closed());
        let refused = end.try_send(&b"x"[..]).unwrap_err();
        assert_eq!(refused, TrySendError::Closed(Bytes::from_static(b"x")));
    }

    #[tokio::test]
    async fn a_waiting_sender_learns_that_the_device_is_gone() {
        let (device, end) = channel(1500, 1);
        end.try_send(&b"one"[..]).unwrap();
        let full = end.try_send(&b"two"[..]).unwrap_err();
        assert_eq!(full, TrySendError::Full(Bytes::from_static(b"two")));
        let waiting = tokio::spawn(async move { end.send(&b"two"[..]).await });
        tokio::task::yield_now().await;
        drop(device);
        assert!(waiting.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_pair_passes_super_packets_with_their_metadata() {
        let (one, mut other) = pair(1500);
        let mut one = one.offload(true);
        assert_eq!(one.capabilities().segmentation_offload, Some(PACKET_MAX));
        let mut packet = made(b"");
        packet.meta.gso_size = 1448;
        packet.body.push(Bytes::from(vec![0; 40_000]));
        let meta = packet.meta;
        device_send(&mut one, packet).await.unwrap();
        let packets = device_recv(&mut other).await.unwrap();
        assert_eq!(packets[0].meta, meta);
        assert_eq!(packets[0].len(), 40_005);
        drop(one);
        assert!(device_recv(&mut other).await.unwrap().is_empty());
    }
}
