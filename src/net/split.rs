//! A stream in two halves, so that one task can read while another writes.

use std::{
    error::Error,
    fmt,
    io::{self, IoSlice, IoSliceMut},
    mem,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};

use super::{TcpStream, buffered::Shown};

/// The half to read from, borrowed from a stream by [`TcpStream::split`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// # let (one, other) = device::pair(1500);
/// # let server = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
/// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
/// # let listener = server.listen("10.0.0.1:80").await?;
/// # let (accepted, connected) = tokio::join!(listener.accept(), client.connect("10.0.0.1:80"));
/// # let (mut accepted, mut stream) = (accepted?.0, connected?);
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let (mut reader, mut writer) = stream.split();
/// # accepted.write_all(b"a question").await?;
/// # accepted.shutdown().await?;
/// // Both at one time, in one task.
/// let mut question = String::new();
/// let (read, written) = tokio::join!(
///     reader.read_to_string(&mut question),
///     writer.write_all(b"an answer"),
/// );
/// assert_eq!((read?, written?), (10, ()));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ReadHalf<'a> {
    stream: &'a TcpStream,
    shown: Shown,
}

/// The half to write to, borrowed from a stream by [`TcpStream::split`]. Dropping it closes
/// nothing; `shutdown` does.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// # let (one, other) = device::pair(1500);
/// # let server = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
/// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
/// # let listener = server.listen("10.0.0.1:80").await?;
/// # let (accepted, connected) = tokio::join!(listener.accept(), client.connect("10.0.0.1:80"));
/// # let (mut accepted, mut stream) = (accepted?.0, connected?);
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let (_, mut writer) = stream.split();
/// writer.write_all(b"all").await?;
/// writer.shutdown().await?;
/// let mut text = String::new();
/// accepted.read_to_string(&mut text).await?;
/// assert_eq!(text, "all");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct WriteHalf<'a>(&'a TcpStream);

/// The half to read from that [`TcpStream::into_split`] gives. Dropping it closes nothing until the
/// other half is gone too.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// # let (one, other) = device::pair(1500);
/// # let server = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
/// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
/// # let listener = server.listen("10.0.0.1:80").await?;
/// # let (accepted, connected) = tokio::join!(listener.accept(), client.connect("10.0.0.1:80"));
/// # let (mut accepted, mut stream) = (accepted?.0, connected?);
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let (mut reader, mut writer) = stream.into_split();
/// let echo = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut writer).await });
/// accepted.write_all(b"to and fro").await?;
/// accepted.shutdown().await?;
/// let mut text = String::new();
/// accepted.read_to_string(&mut text).await?;
/// assert_eq!((text.as_str(), echo.await??), ("to and fro", 10));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct OwnedReadHalf {
    stream: Arc<TcpStream>,
    shown: Shown,
}

/// The half to write to that [`TcpStream::into_split`] gives. Dropping it closes the sending side,
/// as `shutdown` does, unless it is [forgotten](Self::forget); from any thread, with or without a
/// runtime.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// # let (one, other) = device::pair(1500);
/// # let server = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
/// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
/// # let listener = server.listen("10.0.0.1:80").await?;
/// # let (accepted, connected) = tokio::join!(listener.accept(), client.connect("10.0.0.1:80"));
/// # let (mut accepted, mut stream) = (accepted?.0, connected?);
/// use tokio::io::AsyncReadExt;
///
/// let (reader, writer) = stream.into_split();
/// drop(writer); // The peer reads to the end; the reader lives on.
/// assert_eq!(accepted.read(&mut [0; 9]).await?, 0);
/// drop(reader);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct OwnedWriteHalf {
    stream: Arc<TcpStream>,
    shutdown_on_drop: bool,
}

/// Two halves that were not made from one stream: given back.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// # let (one, other) = device::pair(1500);
/// # let server = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
/// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
/// # let listener = server.listen("10.0.0.1:80").await?;
/// # let (accepted, connected) = tokio::join!(listener.accept(), client.connect("10.0.0.1:80"));
/// # let (mut accepted, mut stream) = (accepted?.0, connected?);
/// let (reader, writer) = stream.into_split();
/// let (_, other_writer) = accepted.into_split();
/// let error = reader.reunite(other_writer).unwrap_err();
/// assert_eq!(error.to_string(), "the halves belong to different streams");
/// let stream = error.0.reunite(writer)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ReuniteError(pub OwnedReadHalf, pub OwnedWriteHalf);

pub(super) fn borrowed(stream: &mut TcpStream) -> (ReadHalf<'_>, WriteHalf<'_>) {
    let read = ReadHalf {
        stream,
        shown: Shown::default(),
    };
    (read, WriteHalf(stream))
}

pub(super) fn owned(stream: TcpStream) -> (OwnedReadHalf, OwnedWriteHalf) {
    let stream = Arc::new(stream);
    let read = OwnedReadHalf {
        stream: stream.clone(),
        shown: Shown::default(),
    };
    let write = OwnedWriteHalf {
        stream,
        shutdown_on_drop: true,
    };
    (read, write)
}

fn reunite(read: OwnedReadHalf, write: OwnedWriteHalf) -> Result<TcpStream, ReuniteError> {
    if !Arc::ptr_eq(&read.stream, &write.stream) {
        return Err(ReuniteError(read, write));
    }
    write.forget();
    Ok(Arc::into_inner(read.stream).expect("a stream has two halves, and the other is forgotten"))
}

/// Writes what both halves of a kind have in common.
macro_rules! both_halves {
    ($($half:ty)*) => {$(
        impl $half {
            /// As [`TcpStream::ready`]. Cancel safe.
            ///
            /// # Errors
            /// As [`TcpStream::ready`].
            pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
                self.as_ref().ready(interest).await
            }

            /// As [`TcpStream::local_addr`].
            ///
            /// # Errors
            /// As [`TcpStream::local_addr`].
            pub fn local_addr(&self) -> io::Result<SocketAddr> {
                self.as_ref().local_addr()
            }

            /// As [`TcpStream::peer_addr`].
            ///
            /// # Errors
            /// As [`TcpStream::peer_addr`].
            pub fn peer_addr(&self) -> io::Result<SocketAddr> {
                self.as_ref().peer_addr()
            }
        }
    )*};
}

/// Writes what the borrowed and the owned half to read from have in common.
macro_rules! read_halves {
    ($($half:ty)*) => {$(
        impl $half {
            /// As [`TcpStream::readable`]. Cancel safe.
            ///
            /// # Errors
            /// As [`TcpStream::readable`].
            pub async fn readable(&self) -> io::Result<()> {
                self.as_ref().readable().await
            }

            /// As [`TcpStream::try_read`].
            ///
            /// # Errors
            /// As [`TcpStream::try_read`].
            pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
                self.as_ref().try_read(buf)
            }

            /// As [`TcpStream::try_read_vectored`].
            ///
            /// # Errors
            /// As [`TcpStream::try_read`].
            pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.as_ref().try_read_vectored(bufs)
            }

            /// As [`TcpStream::try_read_buf`].
            ///
            /// # Errors
            /// As [`TcpStream::try_read`].
            pub fn try_read_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
                self.as_ref().try_read_buf(buf)
            }

            /// As [`TcpStream::peek`]. Cancel safe.
            ///
            /// # Errors
            /// As [`TcpStream::peek`].
            pub async fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.as_ref().peek(buf).await
            }

            /// As [`TcpStream::poll_peek`].
            ///
            /// # Errors
            /// As [`TcpStream::peek`].
            pub fn poll_peek(
                &mut self,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<usize>> {
                self.as_ref().poll_peek(cx, buf)
            }

            /// As [`TcpStream::read_chunk`]. Cancel safe.
            ///
            /// # Errors
            /// As [`TcpStream::read_chunk`].
            pub async fn read_chunk(&mut self, max: usize) -> io::Result<Option<Bytes>> {
                self.as_ref().read_chunk(max).await
            }
        }

        /// Shows what the stack has received without a copy, so that a `BufReader` around it is of no
        /// use. What is not consumed stays for all other ways to read.
        ///
        /// ```
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
        /// # let (device, _other) = synack::device::pair(1500);
        /// # let stack = synack::Stack::builder().address("10.7.0.2/24".parse()?).spawn(device)?;
        /// # let listener = stack.listen("10.7.0.2:7").await?;
        /// # let mut peer = stack.connect("10.7.0.2:7").await?;
        /// # let (mut stream, _) = listener.accept().await?;
        /// # peer.write_all(b"one\ntwo\n").await?;
        /// # peer.shutdown().await?;
        /// let (reader, _writer) = stream.split();
        /// let mut lines = reader.lines();
        /// assert_eq!(lines.next_line().await?.as_deref(), Some("one"));
        /// assert_eq!(lines.next_line().await?.as_deref(), Some("two"));
        /// assert_eq!(lines.next_line().await?, None);
        /// # Ok(()) }
        /// ```
        impl AsyncBufRead for $half {
            fn poll_fill_buf(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<&[u8]>> {
                let this = self.get_mut();
                this.shown.poll_fill(&this.stream.link, cx)
            }

            fn consume(self: Pin<&mut Self>, amount: usize) {
                let this = self.get_mut();
                this.shown.consume(&this.stream.link, amount);
            }
        }

        impl AsyncRead for $half {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.as_ref().get_ref().as_ref().poll_read_shared(cx, buf)
            }
        }
    )*};
}

/// Writes what the borrowed and the owned half to write to have in common.
macro_rules! write_halves {
    ($($half:ty)*) => {$(
        impl $half {
            /// As [`TcpStream::writable`]. Cancel safe.
            ///
            /// # Errors
            /// As [`TcpStream::writable`].
            pub async fn writable(&self) -> io::Result<()> {
                self.as_ref().writable().await
            }

            /// As [`TcpStream::try_write`].
            ///
            /// # Errors
            /// As [`TcpStream::try_write`].
            pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
                self.as_ref().try_write(buf)
            }

            /// As [`TcpStream::try_write_vectored`].
            ///
            /// # Errors
            /// As [`TcpStream::try_write`].
            pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                self.as_ref().try_write_vectored(bufs)
            }

            /// As [`TcpStream::write_chunk`]: when the future is dropped, a part may have been written.
            ///
            /// # Errors
            /// As [`TcpStream::write_chunk`].
            pub async fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
                self.as_ref().write_chunk(chunk).await
            }
        }

        impl AsyncWrite for $half {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.as_ref().get_ref().as_ref().poll_write_shared(cx, buf)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let stream: &TcpStream = self.as_ref().get_ref().as_ref();
                stream.poll_write_vectored_shared(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            /// Does nothing: what was written is on its way.
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            /// Closes the sending side behind what was written. Waits for nothing, and may be
            /// repeated.
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.get_mut().shutdown();
                Poll::Ready(Ok(()))
            }
        }
    )*};
}

both_halves!(ReadHalf<'_> WriteHalf<'_> OwnedReadHalf OwnedWriteHalf);
read_halves!(ReadHalf<'_> OwnedReadHalf);
write_halves!(WriteHalf<'_> OwnedWriteHalf);

impl WriteHalf<'_> {
    fn shutdown(&mut self) {
        self.0.link.shutdown();
    }
}

impl OwnedReadHalf {
    /// Puts the stream together again.
    ///
    /// # Errors
    /// The halves were not made from one stream: they are given back.
    pub fn reunite(self, other: OwnedWriteHalf) -> Result<TcpStream, ReuniteError> {
        reunite(self, other)
    }
}

impl OwnedWriteHalf {
    /// Puts the stream together again.
    ///
    /// # Errors
    /// The halves were not made from one stream: they are given back.
    pub fn reunite(self, other: OwnedReadHalf) -> Result<TcpStream, ReuniteError> {
        reunite(other, self)
    }

    /// Drops the half without closing the sending side, which then closes with the other half.
    pub fn forget(mut self) {
        self.shutdown_on_drop = false;
    }

    fn shutdown(&mut self) {
        self.stream.link.shutdown();
        self.shutdown_on_drop = false;
    }
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        if mem::take(&mut self.shutdown_on_drop) {
            self.stream.link.shutdown();
        }
    }
}

impl AsRef<TcpStream> for ReadHalf<'_> {
    fn as_ref(&self) -> &TcpStream {
        self.stream
    }
}

impl AsRef<TcpStream> for WriteHalf<'_> {
    fn as_ref(&self) -> &TcpStream {
        self.0
    }
}

impl AsRef<TcpStream> for OwnedReadHalf {
    fn as_ref(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsRef<TcpStream> for OwnedWriteHalf {
    fn as_ref(&self) -> &TcpStream {
        &self.stream
    }
}

impl fmt::Display for ReuniteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the halves belong to different streams")
    }
}

impl Error for ReuniteError {}
