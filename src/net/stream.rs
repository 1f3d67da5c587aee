//! A connection, as the application holds it.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::ToSocketAddrs,
};

use crate::{
    config::SocketOptions,
    error::Failure,
    link::{Command, PortGuard, StreamLink},
};

use super::{Stack, addr, budgeted, split, tcp};

/// A TCP connection.
///
/// Reading and writing are those of [`AsyncRead`] and [`AsyncWrite`]; `shutdown` closes the sending
/// side behind what was written, and the reading side lives on. Dropping the stream never blocks:
/// what was written is still delivered by the stack, then the connection closes. It is reset
/// instead if received data was never read, or if
/// [linger is zero](Self::set_zero_linger): behind what the windows let out at once, and nothing is
/// sent again.
///
/// After a reset by the peer, what was received before can be read; then one call fails with
/// `ConnectionReset`, whichever is first; then reads end with zero bytes and writes fail with
/// `BrokenPipe`.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use synack::net::TcpStream;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let mut stream = TcpStream::connect("10.7.0.1:7").await?;
/// stream.write_all(b"hello").await?;
/// let mut answer = [0; 5];
/// stream.read_exact(&mut answer).await?;
/// # Ok(()) }
/// ```
pub struct TcpStream {
    pub(super) link: Arc<StreamLink>,
    pub(super) stack: Stack,
}

impl TcpStream {
    /// Opens a connection from the [current stack](Stack::current): tries the addresses in turn
    /// until one answers.
    ///
    /// Cancel safe: dropping the future abandons the attempt.
    ///
    /// # Errors
    /// That of the last address: `ConnectionRefused`, `TimedOut`, `HostUnreachable`,
    /// `NetworkUnreachable` (also when the stack has no address of that family),
    /// `AddrNotAvailable` (no free local port). `InvalidInput`: there is no address, or it cannot be
    /// read as one. Or there is no current stack.
    pub async fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        Stack::current()?.connect(addr).await
    }

    /// Opens a connection to one address.
    pub(super) async fn open(
        stack: &Stack,
        peer: SocketAddr,
        bound: Option<PortGuard>,
        options: SocketOptions,
    ) -> io::Result<Self> {
        let of_v6 = peer.is_ipv6();
        let peer = stack.destination(peer, bound.as_ref().map(PortGuard::local))?;
        if peer.port() == 0 {
            return Err(Failure::Refused.into()); // Nobody can listen there.
        }
        let local = match &bound {
            Some(guard) => guard.local(),
            None if peer.is_ipv4() => (Ipv4Addr::UNSPECIFIED, 0).into(),
            None => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        if local.ip().to_canonical().is_loopback() && !stack.network().is_local(peer.ip()) {
            let text = "a loopback address reaches only the stack itself";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let bell = stack.doorbell().clone();
        let shown = addr::shown(peer, of_v6);
        let link = StreamLink::sized(bell, local, shown, options, stack.config());
        // From here on, dropping the future closes the stream, and behind that gives the port back:
        // the engine is rung before it can be asked to connect from there again.
        let release = bound.as_ref().map(PortGuard::release);
        let stream = Self::new(link.clone(), stack.clone());
        stack.send(Command::Connect { link, bound, peer })?;
        poll_fn(|cx| stream.link.poll_connected(cx)).await?;
        if let Some(release) = release {
            release.keep();
        }
        Ok(stream)
    }

    pub(super) fn new(link: Arc<StreamLink>, stack: Stack) -> Self {
        Self { link, stack }
    }

    /// Our address of the connection.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.link.local_addr())
    }

    /// The peer's address of the connection.
    ///
    /// # Errors
    /// `NotConnected` once the connection has been reset or is closed in both directions.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.link.peer_addr()
    }

    /// Takes the error that the connection failed with, if no call has been given it yet.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.link.take_error())
    }

    /// A half to read from and a half to write to, which borrow the stream.
    ///
    /// The half to read from is an [`AsyncBufRead`](tokio::io::AsyncBufRead), without a copy. The
    /// stream itself is none: the `split` of `AsyncBufReadExt` would hide this one from programs
    /// that use both.
    pub fn split(&mut self) -> (tcp::ReadHalf<'_>, tcp::WriteHalf<'_>) {
        split::borrowed(self)
    }

    /// A half to read from and a half to write to, which own the stream together: the connection
    /// closes when both are gone. Dropping the writing half closes the sending side.
    pub fn into_split(self) -> (tcp::OwnedReadHalf, tcp::OwnedWriteHalf) {
        split::owned(self)
    }

    pub(super) fn poll_read_shared(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        budgeted(cx, |cx| self.link.poll_read(cx, buf)).map_ok(drop)
    }

    pub(super) fn poll_write_shared(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        budgeted(cx, |cx| self.link.poll_write(cx, buf))
    }

    pub(super) fn poll_write_vectored_shared(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        budgeted(cx, |cx| self.link.poll_write_vectored(cx, bufs))
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_shared(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_shared(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored_shared(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: what was written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closes the sending side behind what was written. Waits for nothing, and may be repeated.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.shutdown();
        Poll::Ready(Ok(()))
    }
}

impl AsRef<Self> for TcpStream {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("addr", &self.link.local_addr())
            .field("peer", &self.link.peer())
            .finish_non_exhaustive()
    }
}
