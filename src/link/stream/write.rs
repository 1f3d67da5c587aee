//! Writing to a stream.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll},
};

use bytes::Bytes;

use super::StreamLink;
use crate::link::{
    Wakes, fire,
    send_pipe::Write,
    waiters::{Ready, Wait, poll},
};

/// Writing.
impl StreamLink {
    /// Takes as much of `buf` as there is room for.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        poll(self.write(&[IoSlice::new(buf)], true, Wait::InSlot(cx.waker())))
    }

    /// Takes as much of `bufs` as there is room for.
    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll(self.write_vectored(bufs, Wait::InSlot(cx.waker())))
    }

    /// As [`poll_write`](Self::poll_write), without waiting.
    pub(crate) fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.write(&[IoSlice::new(buf)], false, Wait::Never)
    }

    /// As [`poll_write_vectored`](Self::poll_write_vectored), without waiting.
    pub(crate) fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_vectored(bufs, Wait::Never)
    }

    /// Takes a part off the front of `chunk`, without a copy if it is large.
    pub(crate) fn poll_write_chunk(
        &self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        poll(self.write_chunk(chunk, Wait::InSlot(cx.waker())))
    }

    /// As [`poll_write_chunk`](Self::poll_write_chunk), without waiting.
    pub(crate) fn try_write_chunk(&self, chunk: &mut Bytes) -> io::Result<usize> {
        self.write_chunk(chunk, Wait::Never)
    }

    /// Nothing more will be written: a FIN goes behind what is queued. Any number of times, and
    /// nothing waits.
    pub(crate) fn shutdown(&self) {
        let mut wakes = Wakes::new();
        self.send.shutdown(&mut wakes);
        self.button.press();
        fire(wakes);
    }

    fn write(&self, bufs: &[IoSlice<'_>], clears: bool, wait: Wait<'_>) -> io::Result<usize> {
        let press = || self.button.press();
        self.write_result(self.send.write(bufs, clears, wait, press))
    }

    /// As on Linux a vector without a byte is nobody's business: neither an error nor the end of
    /// writing is told to it (writev(2) does not get to the socket).
    fn write_vectored(&self, bufs: &[IoSlice<'_>], wait: Wait<'_>) -> io::Result<usize> {
        let nothing = bufs.iter().all(|buf| buf.is_empty());
        if nothing && self.ready(Ready::WRITABLE).contains(Ready::WRITABLE) {
            return Ok(0);
        }
        self.write(bufs, false, wait)
    }

    fn write_chunk(&self, chunk: &mut Bytes, wait: Wait<'_>) -> io::Result<usize> {
        let written = self.send.write_chunk(chunk, wait);
        if matches!(written, Write::Some(1..)) {
            self.button.press();
        }
        self.write_result(written)
    }

    fn write_result(&self, written: Write) -> io::Result<usize> {
        match written {
            Write::Some(bytes) => Ok(bytes),
            Write::Closed => {
                let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
                Err(self.take_error().unwrap_or_else(broken))
            }
            Write::Full => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
