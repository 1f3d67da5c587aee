//! Datagrams to any destination.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::Interest;

use crate::{
    engine::UdpDatagram,
    link::{Command, DatagramLink, Target},
};

use super::{
    Stack, budgeted,
    udp::{copy_out, default_marks, retry},
};

/// Takes UDP for every address behind the device, and answers from there: see
/// [`Stack::incoming_udp`].
///
/// Every datagram comes with both of its addresses, and goes with both. Bound sockets and their
/// peers come first. Queues and limits are those of a [`UdpSocket`](super::UdpSocket): what is not
/// read in time is dropped, the newest first.
///
/// ```no_run
/// # async fn example(stack: synack::Stack) -> std::io::Result<()> {
/// let any = stack.incoming_udp()?;
/// loop {
///     let datagram = any.recv().await?;
///     if datagram.to.port() == 53 {
///         let answer = resolve(&datagram.payload);
///         // It comes from where the question went.
///         any.send_from_to(&answer, datagram.to, datagram.from).await?;
///     }
/// }
/// # fn resolve(_: &[u8]) -> Vec<u8> { Vec::new() }
/// # }
/// ```
pub struct AnyUdpSocket {
    link: Arc<DatagramLink>,
    _stack: Stack,
}

impl AnyUdpSocket {
    pub(super) fn new(stack: &Stack) -> io::Result<Self> {
        let (network, config) = (stack.network().clone(), stack.config());
        if !network.take_any() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "somebody takes datagrams to any destination already",
            ));
        }
        let link = Arc::new(DatagramLink::any(
            stack.doorbell().clone(),
            network,
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

    /// Receives a datagram without copying it. Cancel safe; any number of tasks may wait.
    ///
    /// # Errors
    /// The stack has ended.
    pub async fn recv(&self) -> io::Result<UdpDatagram> {
        retry(&self.link, Interest::READABLE, || self.try_recv()).await
    }

    /// [`recv`](Self::recv) as a poll. One waker, the last caller's.
    ///
    /// # Errors
    /// The stack has ended.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<UdpDatagram>> {
        budgeted(cx, |cx| self.link.poll_recv(cx)).map_ok(UdpDatagram::from)
    }

    /// [`recv`](Self::recv) without waiting.
    ///
    /// # Errors
    /// `WouldBlock`: there is nothing. Or the stack has ended.
    pub fn try_recv(&self) -> io::Result<UdpDatagram> {
        self.link.try_recv().map(UdpDatagram::from)
    }

    /// Receives a datagram into `buf`: its length, where it is from and where to. What does not fit
    /// is lost. Cancel safe; any number of tasks may wait.
    ///
    /// # Errors
    /// The stack has ended.
    pub async fn recv_from_to(
        &self,
        buf: &mut [u8],
    ) -> io::Result<(usize, SocketAddr, SocketAddr)> {
        let receive = || self.link.try_recv();
        let datagram = retry(&self.link, Interest::READABLE, receive).await?;
        let (len, from) = copy_out(&datagram, buf);
        Ok((len, from, datagram.local))
    }

    /// Sends a datagram from an address, which need not be the stack's, to another; waits while the
    /// queue is full. Cancel safe: dropped before it is done, it has sent nothing.
    ///
    /// # Errors
    /// `InvalidInput`: nothing can come from `from`, the two are of different families, or port 0.
    /// `NetworkUnreachable`: multicast or broadcast. `EMSGSIZE` (90): too long for one packet.
    pub async fn send_from_to(
        &self,
        buf: &[u8],
        from: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<usize> {
        let send = || self.try_send_from_to(buf, from, to);
        retry(&self.link, Interest::WRITABLE, send).await
    }

    /// [`send_from_to`](Self::send_from_to) as a poll. One waker, the last caller's.
    ///
    /// # Errors
    /// As [`send_from_to`](Self::send_from_to).
    pub fn poll_send_from_to(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        from: SocketAddr,
        to: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        budgeted(cx, |cx| {
            self.link.poll_send(cx, buf, Target::FromTo(from, to))
        })
    }

    /// [`send_from_to`](Self::send_from_to) without waiting.
    ///
    /// # Errors
    /// As [`send_from_to`](Self::send_from_to), or `WouldBlock`: the queue is full.
    pub fn try_send_from_to(
        &self,
        buf: &[u8],
        from: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<usize> {
        self.link.try_send(buf, Target::FromTo(from, to))
    }

    /// Datagrams that came when there was no room for them.
    pub fn dropped(&self) -> u64 {
        self.link.dropped()
    }
}

impl Drop for AnyUdpSocket {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl fmt::Debug for AnyUdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyUdpSocket").finish_non_exhaustive()
    }
}
