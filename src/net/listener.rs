//! A port on which connections are waited for.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{net::ToSocketAddrs, task::coop};

use crate::{
    config::SocketOptions,
    link::{Command, ListenerLink, PortGuard, Reuse, StreamLink},
};

use super::{Stack, TcpStream, addr, budgeted, options};

/// Connections that may wait to be accepted unless [`TcpSocket::listen`](super::TcpSocket::listen)
/// says otherwise; Linux allows 4096 and servers commonly ask for this.
const BACKLOG: usize = 1024;

/// A listener for TCP connections.
///
/// The stack completes handshakes by itself, as many as the backlog holds (1024 with
/// [`bind`](Self::bind)); whoever comes when it is full is not refused, but has to knock again.
/// Dropping the listener resets those that were never accepted.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use synack::net::TcpListener;
///
/// let listener = TcpListener::bind("10.7.0.2:80").await?;
/// loop {
///     let (stream, peer) = listener.accept().await?;
///     # drop((stream, peer));
/// }
/// # }
/// ```
pub struct TcpListener {
    link: Arc<ListenerLink>,
    stack: Stack,
}

impl TcpListener {
    /// Listens on the [current stack](Stack::current), on the first of the addresses that can be
    /// bound. Port 0 picks a free one. Remains of closed connections to the port do not hinder.
    ///
    /// Cancel safe: a dropped future listens nowhere.
    ///
    /// # Errors
    /// That of the last address: `AddrInUse`, `AddrNotAvailable` (not an address of the stack).
    /// `InvalidInput`: there is no address, or it cannot be read as one. Or there is no current
    /// stack.
    pub async fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        Stack::current()?.listen(addr).await
    }

    pub(super) fn bind_one(stack: &Stack, addr: SocketAddr) -> io::Result<Self> {
        let addr = addr::plain(addr);
        let port = stack.ports().bind(addr, Reuse::ADDR, true)?;
        Self::start(stack, port, BACKLOG, stack.default_options())
    }

    /// Listens on a port that is marked as listening.
    pub(super) fn start(
        stack: &Stack,
        port: PortGuard,
        backlog: usize,
        options: SocketOptions,
    ) -> io::Result<Self> {
        let bell = stack.doorbell().clone();
        let local = port.local();
        let link = Arc::new(ListenerLink::new(bell, local, backlog, options, port));
        let listener = Self {
            link: link.clone(),
            stack: stack.clone(),
        };
        stack.send(Command::Listen(link))?;
        Ok(listener)
    }

    /// Waits for the next connection and gives it with the peer's address.
    ///
    /// Cancel safe: no connection is lost. Any number of tasks may wait.
    ///
    /// # Errors
    /// The stack has ended or its device failed; then every call fails so. A peer that comes and
    /// goes never causes an error.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let link = coop::cooperative(self.link.accept()).await?;
        Ok(self.accepted(link))
    }

    /// [`accept`](Self::accept) as a poll. One waker, the last caller's.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        budgeted(cx, |cx| self.link.poll_accept(cx)).map_ok(|link| self.accepted(link))
    }

    fn accepted(&self, link: Arc<StreamLink>) -> (TcpStream, SocketAddr) {
        let peer = link.peer();
        (TcpStream::new(link, self.stack.clone()), peer)
    }

    /// The address listened on, with the port that was picked.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.link.local())
    }

    /// The time to live, or hop limit, that connections start with (`IP_TTL`). Default: 64.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.link.options().ttl.into())
    }

    /// Sets the time to live that connections accepted from now on start with: 1 to 255.
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = options::ttl(ttl)?;
        self.link.set_options(|options| options.ttl = ttl);
        Ok(())
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener")
            .field("addr", &self.link.local())
            .finish_non_exhaustive()
    }
}
