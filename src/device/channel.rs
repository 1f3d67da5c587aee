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
#[cfg(test)]
mod tests;

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
