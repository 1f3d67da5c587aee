//! Datagrams to any destination, sorted by who talks to whom.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;
use tokio::{io::Interest, sync::mpsc};

use crate::link::{Command, DatagramLink, Target};

use super::{Stack, budgeted, udp::retry};

/// Flows that wait for their owner. Datagrams that would begin further ones are dropped.
const WAITING_MAX: usize = 1024;

/// A handle for each pair of addresses between which datagrams go: see [`Stack::udp_flows`].
///
/// A [`Stream`] that never ends before the stack does. When it is dropped, there are no new flows,
/// and those there are live on.
#[derive(Debug)]
pub struct UdpFlowStream {
    flows: mpsc::Receiver<Arc<DatagramLink>>,
    stack: Stack,
}

/// Datagrams between two addresses, of which the local one need not be the stack's.
///
/// As a connected [`UdpSocket`](super::UdpSocket), with its queues and limits: what is not read in
/// time is dropped, the newest first. When it is dropped, the next datagram begins a flow anew.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// # let (one, other) = device::pair(1500);
/// # let gateway = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
/// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
/// let mut flows = gateway.udp_flows()?;
/// let asker = client.bind_udp("10.0.0.2:0").await?;
/// asker.send_to(b"who?", "192.0.2.1:53").await?;
///
/// let flow = flows.next().await.expect("the stack lives");
/// assert_eq!(flow.local_addr(), "192.0.2.1:53".parse()?);
/// assert_eq!(flow.recv().await?, "who?");
/// flow.send(b"me").await?;
/// let mut answer = [0; 9];
/// assert_eq!(asker.recv_from(&mut answer).await?, (2, "192.0.2.1:53".parse()?));
/// # Ok(()) }
/// ```
pub struct UdpFlow {
    link: Arc<DatagramLink>,
    addrs: (SocketAddr, SocketAddr),
    _stack: Stack,
}

impl UdpFlowStream {
    pub(super) fn new(stack: &Stack) -> io::Result<Self> {
        if !stack.network().take_any() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "somebody takes datagrams to any destination already",
            ));
        }
        let (sender, flows) = mpsc::channel(WAITING_MAX);
        let stream = Self {
            flows,
            stack: stack.clone(),
        };
        stack.send(Command::Flows(sender))?;
        Ok(stream)
    }

    /// The next flow, with the datagram that has begun it; `None` once the stack has ended. Cancel
    /// safe.
    pub async fn next(&mut self) -> Option<UdpFlow> {
        std::future::poll_fn(|cx| self.poll_flow(cx)).await
    }

    fn poll_flow(&mut self, cx: &mut Context<'_>) -> Poll<Option<UdpFlow>> {
        let stack = &self.stack;
        let flow = |link| UdpFlow::new(link, stack.clone());
        self.flows.poll_recv(cx).map(|link| link.and_then(flow))
    }
}

impl Stream for UdpFlowStream {
    type Item = UdpFlow;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<UdpFlow>> {
        self.poll_flow(cx)
    }
}

impl Drop for UdpFlowStream {
    fn drop(&mut self) {
        self.flows.close();
        // Nobody has seen these: without an owner they go at once.
        while let Ok(link) = self.flows.try_recv() {
            link.close();
        }
        self.stack.network().release_any();
    }
}

impl UdpFlow {
    fn new(link: Arc<DatagramLink>, stack: Stack) -> Option<Self> {
        let addrs = link.flow_addrs()?;
        Some(Self {
            link,
            addrs,
            _stack: stack,
        })
    }

    /// Where the peer sends to.
    pub fn local_addr(&self) -> SocketAddr {
        self.addrs.0
    }

    /// Where the datagrams are from.
    pub fn peer_addr(&self) -> SocketAddr {
        self.addrs.1
    }

    /// Receives a datagram without copying it. Cancel safe; any number of tasks may wait.
    ///
    /// # Errors
    /// `ConnectionRefused` and its like, once: what ICMP says of the peer. Or the stack has ended.
    pub async fn recv(&self) -> io::Result<Bytes> {
        retry(&self.link, Interest::READABLE, || self.try_recv()).await
    }

    /// [`recv`](Self::recv) as a poll. One waker, the last caller's.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        budgeted(cx, |cx| self.link.poll_recv(cx)).map_ok(|datagram| datagram.payload)
    }

    /// [`recv`](Self::recv) without waiting.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), or `WouldBlock`: there is nothing.
    pub fn try_recv(&self) -> io::Result<Bytes> {
        self.link.try_recv().map(|datagram| datagram.payload)
    }

    /// Sends a datagram to the peer, from where it sends to; waits while the queue is full. Cancel
    /// safe: dropped before it is done, it has sent nothing.
    ///
    /// # Errors
    /// `EMSGSIZE` (90): too long for one packet. What ICMP says of the peer, once. Or the stack has
    /// ended.
    pub async fn send(&self, payload: &[u8]) -> io::Result<usize> {
        retry(&self.link, Interest::WRITABLE, || self.try_send(payload)).await
    }

    /// [`send`](Self::send) as a poll. One waker, the last caller's.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn poll_send(&self, cx: &mut Context<'_>, payload: &[u8]) -> Poll<io::Result<usize>> {
        budgeted(cx, |cx| self.link.poll_send(cx, payload, Target::Connected))
    }

    /// [`send`](Self::send) without waiting.
    ///
    /// # Errors
    /// As [`send`](Self::send), or `WouldBlock`: the queue is full.
    pub fn try_send(&self, payload: &[u8]) -> io::Result<usize> {
        self.link.try_send(payload, Target::Connected)
    }

    /// Datagrams that came when there was no room for them.
    pub fn dropped(&self) -> u64 {
        self.link.dropped()
    }
}

impl Drop for UdpFlow {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl fmt::Debug for UdpFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpFlow")
            .field("local", &self.addrs.0)
            .field("peer", &self.addrs.1)
            .finish_non_exhaustive()
    }
}
