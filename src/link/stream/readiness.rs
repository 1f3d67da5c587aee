//! Waiting until something may be tried with a stream.

use std::{
    io,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use super::StreamLink;
use crate::link::{
    Wakes, fire,
    send_pipe::Opening,
    waiters::{Key, Pipe, Ready, Wait},
};

/// Tells whether an event came since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    recv: u32,
    send: u32,
}

/// Waiting.
impl StreamLink {
    /// Waits until the connection is open. An error is given once.
    pub(crate) fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.send.poll_connected(Wait::InSlot(cx.waker())) {
            Opening::Connected => Poll::Ready(Ok(())),
            Opening::Pending => Poll::Pending,
            Opening::Failed => {
                let aborted = || io::Error::from(io::ErrorKind::ConnectionAborted);
                Poll::Ready(Err(self.take_error().unwrap_or_else(aborted)))
            }
        }
    }

    /// Whether the connection was opened, and has not failed.
    pub(crate) fn is_connected(&self) -> bool {
        self.send.poll_connected(Wait::Never) == Opening::Connected
    }

    /// Waits until a read may be tried.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.recv.poll_ready(cx.waker()).is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Waits until a write may be tried.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.send.poll_ready(cx.waker()).is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// What of `interest` may be tried now.
    pub(crate) fn ready(&self, interest: Ready) -> Ready {
        let (recv, mut ready) = (self.recv.ready(), self.send.ready());
        // As poll(2) has it: hung up is who has closed, and the peer too.
        if recv.contains(Ready::READ_CLOSED) && self.send.shutdown_requested() {
            ready |= Ready::WRITE_CLOSED;
        }
        ready |= recv;
        ready & interest.mask()
    }

    /// Waits until something of `interest` may be tried. Any number may wait at one time.
    pub(crate) const fn wait(&self, interest: Ready) -> Readiness<'_> {
        Readiness {
            link: self,
            interest,
            key: None,
        }
    }

    /// To be taken before a look whose outcome [`clear_ready`](Self::clear_ready) may be told.
    pub(crate) fn tick(&self) -> Tick {
        Tick {
            recv: self.recv.tick(),
            send: self.send.tick(),
        }
    }

    /// Whoever tried what `interest` is for found that it would block: it waits for the next event,
    /// unless one came since `tick`.
    pub(crate) fn clear_ready(&self, interest: Ready, tick: Tick) {
        if interest.contains(Ready::READABLE) {
            self.recv.clear_ready_since(tick.recv);
        }
        if interest.contains(Ready::WRITABLE) {
            self.clear_writable(tick);
        }
    }

    fn clear_writable(&self, tick: Tick) {
        if self.recv.tick() != tick.recv || !self.send.clear_ready_since(tick.send) {
            return;
        }
        self.writer_dozes.store(true, Ordering::Release);
        // What was pushed before the engine could see that.
        if self.recv.tick() != tick.recv {
            let mut wakes = Wakes::new();
            self.rouse_writer(&mut wakes);
            fire(wakes);
        }
    }
}

/// Waits until a stream is ready for something. Gone without a trace when dropped.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Readiness<'a> {
    link: &'a StreamLink,
    interest: Ready,
    /// Under this it is registered; a future that never had to wait has none.
    key: Option<Key>,
}

impl Readiness<'_> {
    /// Checks the pipes of interest one after the other, each with registration under one lock: an
    /// event in the first while the second is looked at finds the future registered.
    fn check(&mut self, cx: &mut Context<'_>) -> Ready {
        let mask = self.interest.mask();
        let key = *self.key.get_or_insert_with(Key::fresh);
        let mut ready = Ready::EMPTY;
        if mask.intersects(RECV_SIDE) {
            ready = self.link.recv.ready_or_register(mask, key, cx.waker());
        }
        if ready.is_empty() && mask.intersects(SEND_SIDE) {
            ready = self.link.send.ready_or_register(mask, key, cx.waker());
        }
        ready
    }

    fn deregister(&mut self) {
        if let Some(key) = self.key.take() {
            let mask = self.interest.mask();
            if mask.intersects(RECV_SIDE) {
                self.link.recv.deregister(key);
            }
            if mask.intersects(SEND_SIDE) {
                self.link.send.deregister(key);
            }
        }
    }
}

/// What is told by events of the one pipe, and of the other.
const RECV_SIDE: Ready = Ready::READABLE.or(Ready::READ_CLOSED).or(Ready::ERROR);
const SEND_SIDE: Ready = Ready::WRITABLE.or(Ready::WRITE_CLOSED);

impl Future for Readiness<'_> {
    type Output = Ready;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ready> {
        let ready = self.link.ready(self.interest);
        let ready = match ready.is_empty() {
            true => self.check(cx),
            false => ready,
        };
        if ready.is_empty() {
            return Poll::Pending;
        }
        self.deregister();
        Poll::Ready(ready)
    }
}

impl Drop for Readiness<'_> {
    fn drop(&mut self) {
        self.deregister();
    }
}
