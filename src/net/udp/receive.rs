//! Receiving datagrams, and looking at those that wait.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use bytes::BufMut;
use tokio::io::{Interest, ReadBuf};

use super::{UdpSocket, retry};
use crate::{
    link::{Datagram, DatagramLink},
    net::budgeted,
};

/// Whether the receiving half of a socket waits, or looks.
type Receive = fn(&DatagramLink) -> io::Result<Datagram>;

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

/// Copies what fits, and tells how much that was and who has sent it.
pub(in crate::net) fn copy_out(datagram: &Datagram, buf: &mut [u8]) -> (usize, SocketAddr) {
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
