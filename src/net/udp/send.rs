//! Sending datagrams.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use tokio::{io::Interest, net::ToSocketAddrs};

use super::{UdpSocket, retry};
use crate::{
    link::Target,
    net::{addr, budgeted},
};

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
