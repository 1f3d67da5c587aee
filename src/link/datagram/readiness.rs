//! Waiting until something may be tried with a datagram socket.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use super::{DatagramLink, Inner, queue::Queue};
use crate::link::waiters::{Key, Ready, Wait};

/// When a look at readiness was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatagramTick {
    recv: u64,
    send: u64,
}

/// Waiting.
impl DatagramLink {
    /// Waits until receiving may be tried.
    pub(crate) fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_ready(cx, |inner| &mut inner.recv)
    }

    /// Waits until sending may be tried.
    pub(crate) fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_ready(cx, |inner| &mut inner.send)
    }

    fn poll_ready(&self, cx: &mut Context<'_>, of: fn(&mut Inner) -> &mut Queue) -> Poll<()> {
        let mut inner = self.lock();
        let queue = of(&mut inner);
        if queue.ready {
            return Poll::Ready(());
        }
        let displaced = queue.waiters.wait(Wait::InSlot(cx.waker()));
        drop(inner);
        drop(displaced);
        Poll::Pending
    }

    /// What of `interest` may be tried now.
    pub(crate) fn ready(&self, interest: Ready) -> Ready {
        self.lock().ready(interest)
    }

    /// Waits until something of `interest` may be tried. Any number may wait at one time.
    pub(crate) const fn wait(&self, interest: Ready) -> DatagramReadiness<'_> {
        DatagramReadiness {
            link: self,
            interest,
            key: None,
        }
    }

    /// To be taken before a look whose outcome [`clear_ready`](Self::clear_ready) may be told.
    pub(crate) fn tick(&self) -> DatagramTick {
        let inner = self.lock();
        DatagramTick {
            recv: inner.recv.tick,
            send: inner.send.tick,
        }
    }

    /// Whoever tried what `interest` is for found that it would block: it waits for the next event,
    /// unless one came since `tick`.
    pub(crate) fn clear_ready(&self, interest: Ready, tick: DatagramTick) {
        let mut inner = self.lock();
        if interest.contains(Ready::READABLE) && inner.recv.tick == tick.recv {
            inner.recv.ready = false;
        }
        if interest.contains(Ready::WRITABLE) && inner.send.tick == tick.send {
            inner.send.ready = false;
        }
    }
}

/// Waits until a socket is ready for something. Gone without a trace when dropped.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub(crate) struct DatagramReadiness<'a> {
    link: &'a DatagramLink,
    interest: Ready,
    /// Under this it is registered; a future that never had to wait has none.
    key: Option<Key>,
}

impl Future for DatagramReadiness<'_> {
    type Output = Ready;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ready> {
        let link = self.link;
        let mut inner = link.lock();
        let ready = inner.ready(self.interest);
        if !ready.is_empty() {
            return Poll::Ready(ready);
        }
        let interest = self.interest;
        let key = match self.key {
            Some(key) => key,
            None => Key::fresh(),
        };
        let mut displaced = [None, None];
        if interest.contains(Ready::WRITABLE) {
            displaced[0] = inner.send.waiters.register(key, cx.waker());
        }
        // Errors wake both directions, and whoever waits for nothing else waits here.
        if interest.contains(Ready::READABLE) || !interest.contains(Ready::WRITABLE) {
            displaced[1] = inner.recv.waiters.register(key, cx.waker());
        }
        drop(inner);
        drop(displaced);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for DatagramReadiness<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let mut inner = self.link.lock();
            let removed = [
                inner.recv.waiters.remove(key),
                inner.send.waiters.remove(key),
            ];
            drop(inner);
            drop(removed);
        }
    }
}
