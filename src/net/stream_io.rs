//! Reading and writing through `&TcpStream`, and waiting until it is possible.

use std::{
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use tokio::{
    io::{Interest, ReadBuf, Ready},
    task::coop,
};

use crate::link;

use super::{TcpStream, budgeted};

impl TcpStream {
    /// Waits until one of the directions asked for is ready, and tells which are. The answer may be
    /// out of date when it is used: the operation may still report `WouldBlock`.
    ///
    /// A direction stays ready until an operation in it reports `WouldBlock`. Cancel safe; any
    /// number of tasks may wait. `Interest::PRIORITY` is never ready: urgent data is read in line.
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
    /// use tokio::io::{AsyncWriteExt, Interest};
    ///
    /// # accepted.write_all(b"something").await?;
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// let ready = stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
    /// assert!(ready.is_readable() && ready.is_writable());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        Ok(to_tokio(self.link.wait(from_tokio(interest)).await))
    }

    /// Waits until something can be read, the peer has closed its side, or the connection failed.
    /// May be done although nothing is there. Cancel safe; any number of tasks may wait.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until something can be written, or the connection failed. May be done although there
    /// is no room. Cancel safe; any number of tasks may wait.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// [`readable`](Self::readable) as a poll. Shares its one waker, the last caller's, with
    /// `poll_read`, [`poll_peek`](Self::poll_peek) and [`poll_read_chunk`](Self::poll_read_chunk).
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        budgeted(cx, |cx| self.link.poll_read_ready(cx)).map(Ok)
    }

    /// [`writable`](Self::writable) as a poll. Shares its one waker, the last caller's, with
    /// `poll_write` and [`poll_write_chunk`](Self::poll_write_chunk).
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        budgeted(cx, |cx| self.link.poll_write_ready(cx)).map(Ok)
    }

    /// Reads what is there: `Ok(0)` at the end of the stream, or when `buf` is empty and something
    /// could be read.
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
    /// use std::io::ErrorKind;
    /// use tokio::io::AsyncWriteExt;
    ///
    /// accepted.write_all(b"hello").await?;
    /// let mut buf = [0; 16];
    /// let len = loop {
    ///     stream.readable().await?;
    ///     match stream.try_read(&mut buf) {
    ///         Ok(len) => break len,
    ///         Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// };
    /// assert_eq!(&buf[..len], b"hello");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there. That which the connection failed with.
    pub fn try_read(&self, mut buf: &mut [u8]) -> io::Result<usize> {
        self.link.try_read(&mut buf)
    }

    /// [`try_read`](Self::try_read) into several buffers, one behind the other.
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read).
    pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.link.try_read_vectored(bufs)
    }

    /// [`try_read`](Self::try_read) into the spare part of a buffer, which it advances.
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read).
    pub fn try_read_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
        let spare = buf.chunk_mut().len(); // A `Vec` would grow without end.
        self.link.try_read(&mut buf.limit(spare))
    }

    /// Writes as much as there is room for.
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
    /// stream.writable().await?;
    /// assert_eq!(stream.try_write(b"as much as there is room for")?, 28);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `WouldBlock` when there is no room. `BrokenPipe` after `shutdown` or after the failure of the
    /// connection was told. That which the connection failed with.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.link.try_write(buf)
    }

    /// [`try_write`](Self::try_write) from several buffers, one behind the other.
    ///
    /// # Errors
    /// As [`try_write`](Self::try_write).
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.link.try_write_vectored(bufs)
    }

    /// Runs `operation` if one of the directions is ready. When it reports `WouldBlock`, these are
    /// not ready any more until something happens.
    ///
    /// `operation` would normally call a `try_` method of this stream; no lock is held meanwhile.
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
    /// use tokio::io::{AsyncWriteExt, Interest};
    ///
    /// accepted.write_all(b"hello").await?;
    /// let mut buf = [0; 16];
    /// // Whatever may block, in a loop that waits.
    /// let len = stream.async_io(Interest::READABLE, || stream.try_read(&mut buf)).await?;
    /// assert_eq!(len, 5);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// That of `operation`.
    pub async fn async_io<R>(
        &self,
        interest: Interest,
        mut operation: impl FnMut() -> io::Result<R>,
    ) -> io::Result<R> {
        let interest = from_tokio(interest);
        loop {
            self.link.wait(interest).await;
            let unit = poll_fn(coop::poll_proceed).await;
            let tick = self.link.tick();
            let result = operation();
            if !would_block(&result) {
                unit.made_progress();
                return result;
            }
            self.link.clear_ready(interest, tick);
        }
    }

    /// Copies what is there without taking it; waits for the first byte. `Ok(0)` at the end of the
    /// stream, or when `buf` is empty. Cancel safe; any number of tasks may wait.
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
    /// accepted.write_all(b"GET /").await?;
    /// let mut start = [0; 3];
    /// assert_eq!(stream.peek(&mut start).await?, 3);
    /// assert_eq!(&start, b"GET");
    /// // It is still there.
    /// assert_eq!(stream.read(&mut [0; 99]).await?, 5);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// That which the connection failed with.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.async_io(Interest::READABLE, || self.link.try_peek(&mut &mut *buf))
            .await
    }

    /// [`peek`](Self::peek) as a poll. One waker, the last caller's: see
    /// [`poll_read_ready`](Self::poll_read_ready).
    ///
    /// # Errors
    /// That which the connection failed with.
    pub fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        budgeted(cx, |cx| self.link.poll_peek(cx, buf))
    }

    /// Reads up to `max` bytes (one at least) without copying them: `None` at the end of the stream.
    ///
    /// A chunk is what came in one piece, and shares its memory: whoever keeps a small part of it
    /// for long should copy that. Cancel safe; any number of tasks may wait.
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
    /// use tokio::io::AsyncWriteExt;
    ///
    /// accepted.write_all(b"no copy").await?;
    /// accepted.shutdown().await?;
    /// while let Some(chunk) = stream.read_chunk(64 << 10).await? {
    ///     assert_eq!(chunk, "no copy");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// That which the connection failed with.
    pub async fn read_chunk(&self, max: usize) -> io::Result<Option<Bytes>> {
        let read = || self.link.try_read_chunk(max.max(1));
        let chunk = self.async_io(Interest::READABLE, read).await?;
        Ok(some_unless_empty(chunk))
    }

    /// [`read_chunk`](Self::read_chunk) as a poll. One waker, the last caller's: see
    /// [`poll_read_ready`](Self::poll_read_ready).
    ///
    /// # Errors
    /// That which the connection failed with.
    pub fn poll_read_chunk(
        &self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<Option<Bytes>>> {
        budgeted(cx, |cx| self.link.poll_read_chunk(cx, max.max(1))).map_ok(some_unless_empty)
    }

    /// Writes the whole chunk; a large one (4 KiB and more) without copying it, in which case its
    /// memory is held until the peer has acknowledged it.
    ///
    /// When the future is dropped, a part off the front may have been written. To know which, use
    /// [`try_write_chunk`](Self::try_write_chunk) with [`writable`](Self::writable).
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
    /// use bytes::Bytes;
    ///
    /// let page = Bytes::from(vec![b'x'; 100_000]);
    /// stream.write_chunk(page.clone()).await?; // Its memory is shared with the stack.
    /// assert_eq!(stream.unsent(), 100_000);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `BrokenPipe` after `shutdown`. That which the connection failed with.
    pub async fn write_chunk(&self, mut chunk: Bytes) -> io::Result<()> {
        while !chunk.is_empty() {
            let write = || self.link.try_write_chunk(&mut chunk);
            self.async_io(Interest::WRITABLE, write).await?;
        }
        Ok(())
    }

    /// Takes as much off the front of `chunk` as there is room for; a large one without copying it,
    /// as [`write_chunk`](Self::write_chunk) does.
    ///
    /// # Errors
    /// As [`try_write`](Self::try_write).
    pub fn try_write_chunk(&self, chunk: &mut Bytes) -> io::Result<usize> {
        self.link.try_write_chunk(chunk)
    }

    /// [`try_write_chunk`](Self::try_write_chunk) as a poll that waits for room. One waker, the last
    /// caller's: see [`poll_write_ready`](Self::poll_write_ready).
    ///
    /// # Errors
    /// `BrokenPipe` after `shutdown`. That which the connection failed with.
    pub fn poll_write_chunk(
        &self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        budgeted(cx, |cx| self.link.poll_write_chunk(cx, chunk))
    }
}

pub(super) fn would_block<R>(result: &io::Result<R>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn some_unless_empty(chunk: Bytes) -> Option<Bytes> {
    (!chunk.is_empty()).then_some(chunk)
}

/// What is waited for. There is no priority data here.
pub(super) fn from_tokio(interest: Interest) -> link::Ready {
    let mut ready = link::Ready::EMPTY;
    if interest.is_readable() {
        ready |= link::Ready::READABLE;
    }
    if interest.is_writable() {
        ready |= link::Ready::WRITABLE;
    }
    if interest.is_error() {
        ready |= link::Ready::ERROR;
    }
    ready
}

pub(super) fn to_tokio(ready: link::Ready) -> Ready {
    [
        (link::Ready::READABLE, Ready::READABLE),
        (link::Ready::WRITABLE, Ready::WRITABLE),
        (link::Ready::READ_CLOSED, Ready::READ_CLOSED),
        (link::Ready::WRITE_CLOSED, Ready::WRITE_CLOSED),
        (link::Ready::ERROR, Ready::ERROR),
    ]
    .into_iter()
    .filter(|(ours, _)| ready.contains(*ours))
    .fold(Ready::EMPTY, |all, (_, theirs)| all | theirs)
}
