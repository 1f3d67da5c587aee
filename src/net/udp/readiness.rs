//! Waiting until a datagram can be sent or received.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use tokio::{
    io::{Interest, Ready},
    task::coop,
};

use super::UdpSocket;
use crate::{
    link::DatagramLink,
    net::{
        budgeted,
        stream_io::{from_tokio, to_tokio, would_block},
    },
};

impl UdpSocket {
    /// Waits until one of the directions asked for is ready, and tells which are. The answer may be
    /// out of date when it is used: the operation may still report `WouldBlock`.
    ///
    /// A direction stays ready until an operation in it reports `WouldBlock`. Cancel safe; any
    /// number of tasks may wait.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        Ok(to_tokio(self.link.wait(from_tokio(interest)).await))
    }

    /// Waits until a datagram, or an error, is there. May be done although none is. Cancel safe; any
    /// number of tasks may wait.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until there is room for a datagram. May be done although there is none. Cancel safe;
    /// any number of tasks may wait.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// [`readable`](Self::readable) as a poll. One waker, the last caller's: see
    /// [`poll_recv`](Self::poll_recv).
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        budgeted(cx, |cx| self.link.poll_recv_ready(cx)).map(Ok)
    }

    /// [`writable`](Self::writable) as a poll. One waker, the last caller's: see
    /// [`poll_send`](Self::poll_send).
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        budgeted(cx, |cx| self.link.poll_send_ready(cx)).map(Ok)
    }

    /// Runs `operation` if one of the directions is ready. When it reports `WouldBlock`, these are
    /// not ready any more until something happens.
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
    /// # Errors
    /// That of `operation`.
    pub async fn async_io<R>(
        &self,
        interest: Interest,
        operation: impl FnMut() -> io::Result<R>,
    ) -> io::Result<R> {
        retry(&self.link, interest, operation).await
    }
}

/// Waits for readiness and tries, until the operation would not block.
pub(in crate::net) async fn retry<R>(
    link: &DatagramLink,
    interest: Interest,
    mut operation: impl FnMut() -> io::Result<R>,
) -> io::Result<R> {
    let interest = from_tokio(interest);
    loop {
        link.wait(interest).await;
        let unit = poll_fn(coop::poll_proceed).await;
        let tick = link.tick();
        let result = operation();
        if !would_block(&result) {
            unit.made_progress();
            return result;
        }
        link.clear_ready(interest, tick);
    }
}
