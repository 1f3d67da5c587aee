//! Reading from a stream.

use std::{
    io::{self, IoSliceMut},
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};

use super::StreamLink;
use crate::link::{
    recv_pipe::Read,
    waiters::{Ready, Wait, poll},
};

/// Reading.
impl StreamLink {
    /// Reads into the spare part of `buf`. Zero: the end of the stream, or no spare part.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut impl BufMut,
    ) -> Poll<io::Result<usize>> {
        let (max, wait) = (buf.remaining_mut(), Wait::InSlot(cx.waker()));
        let copy = |piece: &[u8]| buf.put_slice(piece);
        poll(self.read_result(self.recv.read(max, true, wait, copy)))
    }

    /// As [`poll_read`](Self::poll_read), without waiting.
    pub(crate) fn try_read(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let max = buf.remaining_mut();
        let copy = |piece: &[u8]| buf.put_slice(piece);
        self.read_result(self.recv.read(max, false, Wait::Never, copy))
    }

    /// As [`try_read`](Self::try_read), into several buffers one after another.
    pub(crate) fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let max = bufs.iter().map(|buf| buf.len()).sum();
        // As readv(2), which does not look at the socket then.
        if max == 0 {
            return match self.ready(Ready::READABLE).is_empty() {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(0),
            };
        }
        let mut bufs = bufs.iter_mut();
        let mut spare: &mut [u8] = &mut [];
        let copy = |mut piece: &[u8]| {
            while !piece.is_empty() {
                if spare.is_empty() {
                    match bufs.next() {
                        Some(buf) => spare = buf,
                        None => return, // Not reached: no more than `max` bytes are shown.
                    }
                }
                let (fits, rest) = piece.split_at(piece.len().min(spare.len()));
                spare.put_slice(fits);
                piece = rest;
            }
        };
        self.read_result(self.recv.read(max, false, Wait::Never, copy))
    }

    /// Copies what is queued, and leaves it queued.
    pub(crate) fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buf: &mut impl BufMut,
    ) -> Poll<io::Result<usize>> {
        let (max, wait) = (buf.remaining_mut(), Wait::InSlot(cx.waker()));
        poll(self.read_result(self.recv.peek(max, wait, |piece| buf.put_slice(piece))))
    }

    /// As [`poll_peek`](Self::poll_peek), without waiting.
    pub(crate) fn try_peek(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let (max, wait) = (buf.remaining_mut(), Wait::Never);
        self.read_result(self.recv.peek(max, wait, |piece| buf.put_slice(piece)))
    }

    /// Takes up to `max` bytes that lie in one piece, without a copy. Nothing: the end of the
    /// stream.
    pub(crate) fn poll_read_chunk(
        &self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<Bytes>> {
        poll(self.read_result(self.recv.read_chunk(max, Wait::InSlot(cx.waker()))))
    }

    /// As [`poll_read_chunk`](Self::poll_read_chunk), without waiting.
    pub(crate) fn try_read_chunk(&self, max: usize) -> io::Result<Bytes> {
        self.read_result(self.recv.read_chunk(max, Wait::Never))
    }

    /// What lies in one piece at the front, without a copy; it stays queued. Nothing: the end of the
    /// stream.
    pub(crate) fn poll_front(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        poll(self.read_result(self.recv.front(Wait::InSlot(cx.waker()))))
    }

    /// Drops bytes from the front of what is queued.
    pub(crate) fn consume(&self, bytes: usize) {
        if self.recv.consume(bytes) {
            self.button.press();
        }
    }

    /// Presses the button if the engine wants to know, under no lock.
    fn read_result<T: Default>(&self, read: Read<T>) -> io::Result<T> {
        match read {
            Read::Some { taken, press } => {
                if press {
                    self.button.press();
                }
                Ok(taken)
            }
            Read::End => Ok(T::default()),
            Read::Failed => self.take_error().map_or_else(|| Ok(T::default()), Err),
            Read::Empty => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
