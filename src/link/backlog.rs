//! Established connections that wait to be accepted.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use super::{
    Wakes,
    doorbell::{Button, Doorbell},
    ports::PortGuard,
    stream::StreamLink,
    waiters::{Key, Wait, Waiters},
};
use crate::{config::SocketOptions, error::Failure};

/// What the handle of a listener shares with the engine: a queue of connections, and a button.
#[derive(Debug)]
pub(crate) struct ListenerLink {
    /// Makes the engine look.
    pub(crate) button: Button,
    local: SocketAddr,
    backlog: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: VecDeque<Arc<StreamLink>>,
    waiters: Waiters,
    options: SocketOptions,
    failure: Option<Failure>,
    /// The port, until the handle is dropped.
    reserved: Option<PortGuard>,
}

impl ListenerLink {
    /// A listener on a port that was reserved for listening.
    pub(crate) fn new(
        bell: Arc<Doorbell>,
        local: SocketAddr,
        backlog: usize,
        options: SocketOptions,
        reserved: PortGuard,
    ) -> Self {
        Self {
            button: Button::new(bell),
            local,
            backlog,
            inner: Mutex::new(Inner {
                queue: VecDeque::new(),
                waiters: Waiters::default(),
                options,
                failure: None,
                reserved: Some(reserved),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it listens.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Connections that may wait, less one.
    pub(crate) const fn backlog(&self) -> usize {
        self.backlog
    }

    /// What connections inherit.
    pub(crate) fn options(&self) -> SocketOptions {
        self.lock().options
    }

    /// Changes what later connections inherit.
    pub(crate) fn set_options(&self, change: impl FnOnce(&mut SocketOptions)) {
        change(&mut self.lock().options);
    }

    /// Connections that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// [engine] Whether no more connections may be queued: as on Linux, one more than the backlog
    /// says fits.
    pub(crate) fn is_full(&self) -> bool {
        self.len() > self.backlog
    }

    /// [engine] Queues an established connection, and has all wakened that wait for one.
    pub(crate) fn push(&self, stream: Arc<StreamLink>, wakes: &mut Wakes) {
        let mut inner = self.lock();
        inner.queue.push_back(stream);
        inner.waiters.take(wakes);
    }

    /// [engine] Whether the handle was dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().reserved.is_none()
    }

    /// [engine] Those that will never be accepted.
    pub(crate) fn drain(&self) -> Vec<Arc<StreamLink>> {
        self.lock().queue.drain(..).collect()
    }

    /// [engine] No more connections will come, and here is why. The first failure counts.
    pub(crate) fn fail(&self, failure: Failure, wakes: &mut Wakes) {
        let mut inner = self.lock();
        inner.failure.get_or_insert(failure);
        inner.waiters.take(wakes);
    }

    /// Waits for a connection and takes it.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Arc<StreamLink>>> {
        let mut inner = self.lock();
        let accepted = inner.accept();
        if accepted.is_pending() {
            let displaced = inner.waiters.wait(Wait::InSlot(cx.waker()));
            drop(inner);
            drop(displaced);
        }
        accepted
    }

    /// Takes a connection, if one waits.
    pub(crate) fn try_accept(&self) -> io::Result<Arc<StreamLink>> {
        match self.lock().accept() {
            Poll::Ready(accepted) => accepted,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Waits for a connection and takes it. Any number may wait at one time; all are woken.
    pub(crate) const fn accept(&self) -> Accept<'_> {
        Accept {
            link: self,
            key: None,
        }
    }

    /// The bell that it rings.
    #[cfg(test)]
    pub(crate) const fn bell(&self) -> &Arc<Doorbell> {
        self.button.bell()
    }

    /// The handle was dropped. The port is free when this returns; the engine was rung before, and
    /// so learns of it before it is asked to listen there again.
    pub(crate) fn close(&self) {
        let mut wakers = Wakes::new(); // Nobody waits any more, so they are only dropped.
        let reserved = {
            let mut inner = self.lock();
            inner.waiters.take(&mut wakers);
            inner.reserved.take()
        };
        self.button.press();
        drop(reserved);
    }
}

impl Inner {
    fn accept(&mut self) -> Poll<io::Result<Arc<StreamLink>>> {
        match (self.queue.pop_front(), self.failure) {
            (Some(stream), _) => Poll::Ready(Ok(stream)),
            (None, Some(failure)) => Poll::Ready(Err(failure.into())),
            (None, None) => Poll::Pending,
        }
    }
}

/// Waits for a connection. Dropped before it is ready, it has taken none.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Accept<'a> {
    link: &'a ListenerLink,
    /// Under this it is registered; a future that never had to wait has none.
    key: Option<Key>,
}

impl Future for Accept<'_> {
    type Output = io::Result<Arc<StreamLink>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let link = self.link;
        let mut inner = link.lock();
        let accepted = inner.accept();
        let displaced = if accepted.is_pending() {
            let key = *self.key.get_or_insert_with(Key::fresh);
            inner.waiters.register(key, cx.waker())
        } else {
            self.key.take().and_then(|key| inner.waiters.remove(key))
        };
        drop(inner);
        drop(displaced);
        accepted
    }
}

impl Drop for Accept<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let removed = self.link.lock().waiters.remove(key);
            drop(removed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Waker};

    use futures::executor::block_on;

    use super::{
        super::ports::{Ports, Reuse},
        *,
    };

    fn addr() -> SocketAddr {
        ([10, 7, 0, 2], 80).into()
    }

    fn stream() -> Arc<StreamLink> {
        let options = SocketOptions::default();
        let link = StreamLink::new(Doorbell::new(), addr(), addr(), options, 1000, 1000);
        Arc::new(link)
    }

    fn listener(ports: &Arc<Ports>) -> ListenerLink {
        let guard = ports.bind(addr(), Reuse::default(), true).unwrap();
        let bell = Doorbell::new();
        let options = SocketOptions::default();
        let listener = ListenerLink::new(bell, guard.local(), 1, options, guard);
        listener.button.assign(crate::link::ConnId::new(3, 3));
        listener
    }

    fn ports() -> Arc<Ports> {
        Ports::new(vec![addr().ip()], false, 1)
    }

    fn push(listener: &ListenerLink) -> usize {
        let mut wakes = Wakes::new();
        listener.push(stream(), &mut wakes);
        wakes.len()
    }

    #[test]
    fn one_connection_costs_one_wake_of_the_slot_and_of_every_future() {
        let listener = listener(&ports());
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(listener.poll_accept(cx).is_pending());
        assert!(listener.poll_accept(cx).is_pending());
        let mut futures: Vec<_> = (0..3).map(|_| listener.accept()).collect();
        for future in &mut futures {
            assert!(pin!(future).poll(cx).is_pending());
        }
        drop(futures.pop());
        assert_eq!(push(&listener), 3);
        assert!(listener.poll_accept(cx).is_ready());
        for future in &mut futures {
            assert!(pin!(future).poll(cx).is_pending(), "another was faster");
        }
        assert_eq!(push(&listener), 2);
        block_on(futures.pop().unwrap()).unwrap();
        drop(futures);
        assert_eq!(
            listener.try_accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(push(&listener), 0);
        assert!(listener.try_accept().is_ok());
    }

    #[test]
    fn one_more_than_the_backlog_fits() {
        let listener = listener(&ports());
        for full in [false, true] {
            push(&listener);
            assert_eq!(listener.is_full(), full);
        }
        assert_eq!((listener.len(), listener.backlog()), (2, 1));
        assert_eq!((listener.drain().len(), listener.len()), (2, 0));
    }

    #[test]
    fn a_failure_comes_after_what_is_queued_and_stays() {
        let listener = listener(&ports());
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(listener.poll_accept(cx).is_pending());
        push(&listener);
        let mut wakes = Wakes::new();
        listener.fail(Failure::DeviceGone, &mut wakes);
        assert!(listener.try_accept().is_ok());
        for _ in 0..2 {
            let error = block_on(listener.accept()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NetworkDown);
        }
    }

    #[test]
    fn closing_rings_and_frees_the_port() {
        let ports = ports();
        let listener = listener(&ports);
        listener.set_options(|options| options.ttl = 9);
        assert_eq!(listener.options().ttl, 9);
        assert!(!listener.is_closed() && ports.is_bound(80));
        listener.close();
        assert!(listener.is_closed() && !ports.is_bound(80));
        let (mut rung, mut commands) = (Vec::new(), VecDeque::new());
        listener.bell().take(&mut rung, &mut commands);
        assert_eq!(rung, [crate::link::ConnId::new(3, 3)]);
    }
}
