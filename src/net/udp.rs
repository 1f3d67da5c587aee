//! Datagrams.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BufMut;
use tokio::{
    io::{Interest, ReadBuf, Ready},
    net::ToSocketAddrs,
    task::coop,
};

use crate::link::{Command, Datagram, DatagramLink, Marks, Target};

use super::{
    Stack, addr, budgeted, options,
    stream_io::{from_tokio, to_tokio, would_block},
};

/// A UDP socket.
///
/// What `tokio::net::UdpSocket` does, with these differences:
///
/// - Nothing is fragmented: a datagram that does not fit in one packet of the device fails with
///   `EMSGSIZE` (`raw_os_error` 90), and to a connected peer also one that the path was reported not
///   to carry. Fragments that come in are dropped. A stack's own addresses take any length.
/// - There is no broadcast and no multicast: what sets them up is absent, and sending there fails
///   with `NetworkUnreachable`. What needs a descriptor is absent too.
/// - Sending queues the datagram; up to 212,992 bytes
///   ([`Config::udp_send_buffer`](crate::Config::udp_send_buffer)) wait for the device, then `send`
///   waits. As many received ones wait to be read
///   ([`Config::udp_recv_buffer`](crate::Config::udp_recv_buffer)); what comes then is
///   [dropped](Self::dropped), the oldest stay.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use synack::net::UdpSocket;
///
/// let socket = UdpSocket::bind("10.7.0.2:5353").await?;
/// let mut buf = [0; 1500];
/// let (len, peer) = socket.recv_from(&mut buf).await?;
/// socket.send_to(&buf[..len], peer).await?;
/// # Ok(()) }
/// ```
pub struct UdpSocket {
    pub(super) link: Arc<DatagramLink>,
    _stack: Stack,
}

/// Whether the receiving half of a socket waits, or looks.
type Receive = fn(&DatagramLink) -> io::Result<Datagram>;

impl UdpSocket {
    /// Binds a socket of the [current stack](Stack::current) to the first of the addresses that can
    /// be bound. Port 0 picks a free one. UDP has ports of its own, apart from those of TCP.
    ///
    /// Cancel safe: a dropped future has bound nothing.
    ///
    /// # Errors
    /// That of the last address: `AddrInUse`, `AddrNotAvailable` (not an address of the stack).
    /// `InvalidInput`: there is no address, or it cannot be read as one. Or there is no current
    /// stack.
    pub async fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        Stack::current()?.bind_udp(addr).await
    }

    pub(super) fn bind_one(stack: &Stack, addr: SocketAddr) -> io::Result<Self> {
        let addr = addr::canonical(addr);
        let (network, config) = (stack.network().clone(), stack.config());
        let port = network.udp_ports().bind(addr, false, false, true)?;
        let link = Arc::new(DatagramLink::bound(
            stack.doorbell().clone(),
            network,
            port,
            (config.udp_recv_buffer, config.udp_send_buffer),
            default_marks(stack),
        ));
        let socket = Self {
            link: link.clone(),
            _stack: stack.clone(),
        };
        stack.send(Command::Datagrams(link))?;
        Ok(socket)
    }

    /// Sends to the first of the addresses that can be reached from now on, and receives from nobody
    /// else. May be done again. Cancel safe: only names that have to be looked up make it wait.
    ///
    /// # Errors
    /// That of the last address: `NetworkUnreachable`, `EAFNOSUPPORT` (97) for one of IPv6 on a
    /// socket of IPv4.
    pub async fn connect<A: ToSocketAddrs>(&self, addr: A) -> io::Result<()> {
        let mut last = None;
        for addr in addr::resolve(addr).await? {
            match self.link.connect(addr) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(addr::last_error(last))
    }

    /// Our address: as it was bound, with the port that was picked; once connected, the address
    /// that datagrams are sent from.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.link.local_addr())
    }

    /// The peer that the socket is connected to.
    ///
    /// # Errors
    /// `NotConnected`: to none.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.link.peer_addr()
    }

    /// Takes the error that no call has been given yet, such as that nobody is at the port of the
    /// connected peer.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.link.take_error())
    }

    /// Datagrams that came when there was no room for them (`SO_RXQ_OVFL`).
    pub fn dropped(&self) -> u64 {
        self.link.dropped()
    }

    /// The time to live, or hop limit, of datagrams sent (`IP_TTL`). Default: 64.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.link.marks().ttl.into())
    }

    /// Sets the time to live of datagrams sent from now on: 1 to 255.
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = options::ttl(ttl)?;
        self.link.set_marks(|marks| marks.ttl = ttl);
        Ok(())
    }

    /// The type of service, DSCP and ECN, of datagrams sent (`IP_TOS`). Default: 0.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn tos_v4(&self) -> io::Result<u32> {
        Ok(self.link.marks().tos.into())
    }

    /// Sets the type of service of datagrams sent from now on: 0 to 255.
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range.
    pub fn set_tos_v4(&self, tos: u32) -> io::Result<()> {
        let allowed = "0 to 255";
        let tos =
            u8::try_from(tos).map_err(|_| options::invalid("type of service", tos, allowed))?;
        self.link.set_marks(|marks| marks.tos = tos);
        Ok(())
    }

    /// [`tos_v4`](Self::tos_v4) by its older name.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    #[deprecated = "renamed to `tos_v4`, as in tokio"]
    pub fn tos(&self) -> io::Result<u32> {
        self.tos_v4()
    }

    /// [`set_tos_v4`](Self::set_tos_v4) by its older name.
    ///
    /// # Errors
    /// As [`set_tos_v4`](Self::set_tos_v4).
    #[deprecated = "renamed to `set_tos_v4`, as in tokio"]
    pub fn set_tos(&self, tos: u32) -> io::Result<()> {
        self.set_tos_v4(tos)
    }

    /// The traffic class of datagrams sent (`IPV6_TCLASS`), which is the same setting as
    /// [`tos_v4`](Self::tos_v4).
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn tclass_v6(&self) -> io::Result<u32> {
        self.tos_v4()
    }

    /// Sets the traffic class of datagrams sent from now on: 0 to 255.
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range.
    pub fn set_tclass_v6(&self, tclass: u32) -> io::Result<()> {
        self.set_tos_v4(tclass)
    }
}

/// Sending.
impl UdpSocket {
    /// Sends a datagram to the connected peer; waits while the queue is full. Cancel safe: dropped
    /// before it is done, it has sent nothing.
    ///
    /// # Errors
    /// `EDESTADDRREQ` (89): not connected. `EMSGSIZE` (90): too long for one packet.
    /// `ConnectionRefused`: nobody was there for an earlier one.
    pub async fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.send_when_ready(buf, Target::Connected).await
    }

    /// [`send`](Self::send) as a poll. One waker, the last caller's, which it shares with the other
    /// polls for sending.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn poll_send(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        budgeted(cx, |cx| self.link.poll_send(cx, buf, Target::Connected))
    }

    /// [`send`](Self::send) without waiting.
    ///
    /// # Errors
    /// As [`send`](Self::send), or `WouldBlock`: the queue is full.
    pub fn try_send(&self, buf: &[u8]) -> io::Result<usize> {
        self.link.try_send(buf, Target::Connected)
    }

    /// Sends a datagram to the first address that `target` stands for; waits while the queue is
    /// full. Cancel safe: dropped before it is done, it has sent nothing.
    ///
    /// # Errors
    /// `NetworkUnreachable`: no address of the stack can reach it. `EAFNOSUPPORT` (97): an address
    /// of IPv6 on a socket of IPv4. `EMSGSIZE` (90): too long for one packet. `InvalidInput`: port
    /// 0, or no address.
    pub async fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], target: A) -> io::Result<usize> {
        let first = addr::resolve(target).await?.into_iter().next();
        let target = first.ok_or_else(|| addr::last_error(None))?;
        self.send_when_ready(buf, Target::To(target)).await
    }

    /// [`send_to`](Self::send_to) as a poll. One waker, the last caller's: see
    /// [`poll_send`](Self::poll_send).
    ///
    /// # Errors
    /// As [`send_to`](Self::send_to).
    pub fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        budgeted(cx, |cx| self.link.poll_send(cx, buf, Target::To(target)))
    }

    /// [`send_to`](Self::send_to) without waiting.
    ///
    /// # Errors
    /// As [`send_to`](Self::send_to), or `WouldBlock`: the queue is full.
    pub fn try_send_to(&self, buf: &[u8], target: SocketAddr) -> io::Result<usize> {
        self.link.try_send(buf, Target::To(target))
    }

    async fn send_when_ready(&self, buf: &[u8], target: Target) -> io::Result<usize> {
        let send = || self.link.try_send(buf, target);
        retry(&self.link, Interest::WRITABLE, send).await
    }
}

/// Receiving.
impl UdpSocket {
    /// Receives a datagram; what does not fit in `buf` is lost. Cancel safe; any number of tasks may
    /// wait.
    ///
    /// # Errors
    /// `ConnectionRefused`: nobody is at the port of the connected peer. Or the stack has ended.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv_from(buf).await.map(|(len, _)| len)
    }

    /// [`recv`](Self::recv) as a poll. One waker, the last caller's, which it shares with the other
    /// polls for receiving.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_recv_from(cx, buf).map_ok(drop)
    }

    /// [`recv`](Self::recv) without waiting.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), or `WouldBlock`: there is nothing.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.try_recv_from(buf).map(|(len, _)| len)
    }

    /// [`recv`](Self::recv) into the spare part of a buffer, which it advances. Cancel safe.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
        self.recv_buf_from(buf).await.map(|(len, _)| len)
    }

    /// [`recv_buf`](Self::recv_buf) without waiting.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub fn try_recv_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
        self.try_recv_buf_from(buf).map(|(len, _)| len)
    }

    /// Receives a datagram, with the address of its sender; what does not fit in `buf` is lost.
    /// Cancel safe; any number of tasks may wait.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let datagram = self.receive(DatagramLink::try_recv).await?;
        Ok(copy_out(&datagram, buf))
    }

    /// [`recv_from`](Self::recv_from) as a poll. One waker, the last caller's: see
    /// [`poll_recv`](Self::poll_recv).
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<SocketAddr>> {
        budgeted(cx, |cx| self.link.poll_recv(cx)).map_ok(|datagram| fill(&datagram, buf))
    }

    /// [`recv_from`](Self::recv_from) without waiting.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub fn try_recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.link
            .try_recv()
            .map(|datagram| copy_out(&datagram, buf))
    }

    /// [`recv_from`](Self::recv_from) into the spare part of a buffer, which it advances. Cancel
    /// safe.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_buf_from<B: BufMut>(&self, buf: &mut B) -> io::Result<(usize, SocketAddr)> {
        let datagram = self.receive(DatagramLink::try_recv).await?;
        Ok(append(&datagram, buf))
    }

    /// [`recv_buf_from`](Self::recv_buf_from) without waiting.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub fn try_recv_buf_from<B: BufMut>(&self, buf: &mut B) -> io::Result<(usize, SocketAddr)> {
        self.link.try_recv().map(|datagram| append(&datagram, buf))
    }

    /// Copies the next datagram and leaves it where it is. Cancel safe; any number of tasks may
    /// wait.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.peek_from(buf).await.map(|(len, _)| len)
    }

    /// [`peek`](Self::peek) as a poll. One waker, the last caller's: see
    /// [`poll_recv`](Self::poll_recv).
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_peek_from(cx, buf).map_ok(drop)
    }

    /// [`peek`](Self::peek) without waiting.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub fn try_peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.try_peek_from(buf).map(|(len, _)| len)
    }

    /// [`peek`](Self::peek) with the address of the sender. Cancel safe.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let datagram = self.receive(DatagramLink::try_peek).await?;
        Ok(copy_out(&datagram, buf))
    }

    /// [`peek_from`](Self::peek_from) as a poll. One waker, the last caller's: see
    /// [`poll_recv`](Self::poll_recv).
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn poll_peek_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<SocketAddr>> {
        budgeted(cx, |cx| self.link.poll_peek(cx)).map_ok(|datagram| fill(&datagram, buf))
    }

    /// [`peek_from`](Self::peek_from) without waiting.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub fn try_peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.link
            .try_peek()
            .map(|datagram| copy_out(&datagram, buf))
    }

    /// Who has sent the next datagram, which stays where it is. Cancel safe.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn peek_sender(&self) -> io::Result<SocketAddr> {
        let datagram = self.receive(DatagramLink::try_peek).await?;
        Ok(datagram.peer)
    }

    /// [`peek_sender`](Self::peek_sender) as a poll. One waker, the last caller's: see
    /// [`poll_recv`](Self::poll_recv).
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn poll_peek_sender(&self, cx: &mut Context<'_>) -> Poll<io::Result<SocketAddr>> {
        budgeted(cx, |cx| self.link.poll_peek(cx)).map_ok(|datagram| datagram.peer)
    }

    /// [`peek_sender`](Self::peek_sender) without waiting.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub fn try_peek_sender(&self) -> io::Result<SocketAddr> {
        self.link.try_peek().map(|datagram| datagram.peer)
    }

    async fn receive(&self, receive: Receive) -> io::Result<Datagram> {
        retry(&self.link, Interest::READABLE, || receive(&self.link)).await
    }
}

/// Waiting.
impl UdpSocket {
    /// Waits until one of the directions asked for is ready, and tells which are. The answer may be
    /// out of date when it is used: the operation may still report `WouldBlock`.
    ///
    /// A direction stays ready until an operation in it reports `WouldBlock`. Cancel safe; any
    /// number of tasks may wait.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        Ok(to_tokio(self.link.wait(from_tokio(interest)).await))
    }

    /// Waits until a datagram, or an error, is there. May be done although none is. Cancel safe; any
    /// number of tasks may wait.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until there is room for a datagram. May be done although there is none. Cancel safe;
    /// any number of tasks may wait.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// [`readable`](Self::readable) as a poll. One waker, the last caller's: see
    /// [`poll_recv`](Self::poll_recv).
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        budgeted(cx, |cx| self.link.poll_recv_ready(cx)).map(Ok)
    }

    /// [`writable`](Self::writable) as a poll. One waker, the last caller's: see
    /// [`poll_send`](Self::poll_send).
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        budgeted(cx, |cx| self.link.poll_send_ready(cx)).map(Ok)
    }

    /// Runs `operation` if one of the directions is ready. When it reports `WouldBlock`, these are
    /// not ready any more until something happens.
    ///
    /// # Errors
    /// `WouldBlock` without a call when nothing is ready. That of `operation`.
    pub fn try_io<R>(
        &self,
        interest: Interest,
        operation: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        let interest = from_tokio(interest);
        let tick = self.link.tick();
        if self.link.ready(interest).is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let result = operation();
        if would_block(&result) {
            self.link.clear_ready(interest, tick);
        }
        result
    }

    /// Waits until one of the directions is ready and runs `operation`, again and again until it
    /// reports something other than `WouldBlock`.
    ///
    /// Cancel safe; any number of tasks may wait.
    ///
    /// # Errors
    /// That of `operation`.
    pub async fn async_io<R>(
        &self,
        interest: Interest,
        operation: impl FnMut() -> io::Result<R>,
    ) -> io::Result<R> {
        retry(&self.link, interest, operation).await
    }
}

/// Waits for readiness and tries, until the operation would not block.
pub(super) async fn retry<R>(
    link: &DatagramLink,
    interest: Interest,
    mut operation: impl FnMut() -> io::Result<R>,
) -> io::Result<R> {
    let interest = from_tokio(interest);
    loop {
        link.wait(interest).await;
        let unit = poll_fn(coop::poll_proceed).await;
        let tick = link.tick();
        let result = operation();
        if !would_block(&result) {
            unit.made_progress();
            return result;
        }
        link.clear_ready(interest, tick);
    }
}

/// What new sockets send with their datagrams.
pub(super) fn default_marks(stack: &Stack) -> Marks {
    let options = stack.default_options();
    Marks {
        ttl: options.ttl,
        tos: options.tos,
    }
}

/// Copies what fits, and tells how much that was and who has sent it.
pub(super) fn copy_out(datagram: &Datagram, buf: &mut [u8]) -> (usize, SocketAddr) {
    let len = datagram.payload.len().min(buf.len());
    buf[..len].copy_from_slice(&datagram.payload[..len]);
    (len, datagram.peer)
}

fn fill(datagram: &Datagram, buf: &mut ReadBuf<'_>) -> SocketAddr {
    let len = datagram.payload.len().min(buf.remaining());
    buf.put_slice(&datagram.payload[..len]);
    datagram.peer
}

fn append(datagram: &Datagram, buf: &mut impl BufMut) -> (usize, SocketAddr) {
    // What lies there now: a `Vec` would grow without end.
    let len = datagram.payload.len().min(buf.chunk_mut().len());
    buf.put_slice(&datagram.payload[..len]);
    (len, datagram.peer)
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local", &self.link.local_addr())
            .field("peer", &self.link.peer_addr().ok())
            .finish_non_exhaustive()
    }
}
