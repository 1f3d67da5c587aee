//! The traits of futures-io.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::io::{AsyncBufRead, AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;

use super::{TcpStream, buffered::Shown};

/// A stream with the traits of futures-io in place of tokio's.
///
/// It is a type of its own, because with both sets of traits on one type the methods of
/// `AsyncReadExt` and `AsyncWriteExt` would be ambiguous. All else is reached through `as_ref`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use futures::io::{AsyncReadExt, AsyncWriteExt};
/// use synack::net::FuturesStream;
/// # let (device, _other) = synack::device::pair(1500);
/// # let stack = synack::Stack::builder().address("10.7.0.2/24".parse()?).spawn(device)?;
///
/// let listener = stack.listen("10.7.0.2:7").await?;
/// let mut stream = FuturesStream::from(stack.connect("10.7.0.2:7").await?);
/// let mut peer = FuturesStream::from(listener.accept().await?.0);
/// stream.write_all(b"hello").await?;
/// stream.close().await?;
/// let mut text = String::new();
/// peer.read_to_string(&mut text).await?;
/// assert_eq!(text, "hello");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct FuturesStream(TcpStream, Shown);

impl FuturesStream {
    /// The stream with tokio's traits.
    pub fn into_inner(self) -> TcpStream {
        self.0
    }
}

impl From<TcpStream> for FuturesStream {
    fn from(stream: TcpStream) -> Self {
        Self(stream, Shown::default())
    }
}

impl AsRef<TcpStream> for FuturesStream {
    fn as_ref(&self) -> &TcpStream {
        &self.0
    }
}

impl AsyncRead for FuturesStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        ready!(self.0.poll_read_shared(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl AsyncBufRead for FuturesStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let Self(stream, shown) = self.get_mut();
        shown.poll_fill(&stream.link, cx)
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let Self(stream, shown) = self.get_mut();
        shown.consume(&stream.link, amount);
    }
}

impl AsyncWrite for FuturesStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_shared(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_vectored_shared(cx, bufs)
    }

    /// Does nothing: what was written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closes the sending side behind what was written. Waits for nothing, and may be repeated.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.link.shutdown();
        Poll::Ready(Ok(()))
    }
}
