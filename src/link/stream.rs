//! What the handles of one stream share with the engine.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};

use super::{
    Wakes,
    doorbell::{Button, ConnId, Doorbell},
    fire,
    recv_pipe::{Read, RecvPipe},
    send_pipe::{Opening, SendPipe, Write},
    waiters::{Key, Pipe, Ready, Wait},
};
use crate::{
    config::{Config, SocketOptions},
    error::Failure,
};

/// What the handles of one stream share with the engine: two pipes, a button, and a few values.
#[derive(Debug)]
pub(crate) struct StreamLink {
    /// From the peer.
    pub(crate) recv: RecvPipe,
    /// To the peer.
    pub(crate) send: SendPipe,
    /// Makes the engine look.
    pub(crate) button: Button,
    peer: SocketAddr,
    settings: Mutex<Settings>,
    /// The options were changed, and the engine has not taken them.
    options_changed: AtomicBool,
    /// `SO_ERROR`: the failure that nobody has been told yet, as a number, or zero.
    error: AtomicU8,
    /// The connection is not open any more.
    closed: AtomicBool,
    /// What [`Closing`] says, as a number; zero while there is an owner.
    closing: AtomicU8,
}

#[derive(Debug)]
struct Settings {
    local: SocketAddr,
    options: Arc<SocketOptions>,
}

/// How the owner left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    /// Received bytes were never read: the peer is to be told by a reset.
    pub(crate) unread: bool,
}

/// Tells whether an event came since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    recv: u32,
    send: u32,
}

const CLOSED_CLEAN: u8 = 1;
const CLOSED_UNREAD: u8 = 2;

impl StreamLink {
    /// A stream that is not connected yet. The face makes it to connect, before the engine knows of
    /// it; the engine makes it for a connection that a listener takes.
    pub(crate) fn new(
        bell: Arc<Doorbell>,
        local: SocketAddr,
        peer: SocketAddr,
        options: SocketOptions,
        recv_capacity: usize,
        send_capacity: usize,
    ) -> Self {
        let options = bell.share(options);
        Self {
            recv: RecvPipe::new(Arc::clone(&bell), recv_capacity),
            send: SendPipe::new(Arc::clone(&bell), send_capacity),
            button: Button::new(bell),
            peer,
            settings: Mutex::new(Settings { local, options }),
            options_changed: AtomicBool::new(false),
            error: AtomicU8::new(0),
            closed: AtomicBool::new(false),
            closing: AtomicU8::new(0),
        }
    }

    /// The same with buffers of the sizes that the options or the configuration say.
    pub(crate) fn sized(
        bell: Arc<Doorbell>,
        local: SocketAddr,
        peer: SocketAddr,
        options: SocketOptions,
        config: &Config,
    ) -> Arc<Self> {
        let recv = options.recv_buffer.unwrap_or(config.recv_buffer);
        let send = options.send_buffer.unwrap_or(config.send_buffer);
        Arc::new(Self::new(bell, local, peer, options, recv, send))
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the engine.
impl StreamLink {
    /// [engine] The connection is open. It starts as writable; an accepted one starts as readable
    /// too, as tokio has it since 1.54.
    pub(crate) fn set_connected(&self, local: SocketAddr, accepted: bool, wakes: &mut Wakes) {
        self.settings().local = local;
        if accepted {
            self.recv.set_ready(wakes);
        }
        self.send.connect(wakes);
    }

    /// [engine] The connection failed, or could not be opened. What was received before stays
    /// readable, what was not sent is dropped, and whichever call is first is told. A second
    /// failure is ignored.
    pub(crate) fn fail(&self, failure: Failure, wakes: &mut Wakes) {
        if self.send.is_failed() {
            return;
        }
        self.set_closed();
        // The error before the ends: whoever sees an end finds it.
        self.error.store(failure as u8, Ordering::Release);
        self.recv.fail(wakes);
        self.send.fail(wakes);
    }

    /// [engine] The connection is CLOSED or in TIME-WAIT: it has no peer any more.
    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// [engine] The options, if a handle has changed them since the last call.
    pub(crate) fn take_options(&self) -> Option<SocketOptions> {
        // Almost always unchanged, and then this is a plain load.
        let changed = self.options_changed.load(Ordering::Acquire)
            && self.options_changed.swap(false, Ordering::AcqRel);
        changed.then(|| self.options())
    }

    /// [engine] Whether the last handle is gone, and how.
    pub(crate) fn closed_by_owner(&self) -> Option<Closing> {
        match self.closing.load(Ordering::Acquire) {
            0 => None,
            how => Some(Closing {
                unread: how == CLOSED_UNREAD,
            }),
        }
    }
}

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
        poll(self.write(bufs, false, Wait::InSlot(cx.waker())))
    }

    /// As [`poll_write`](Self::poll_write), without waiting.
    pub(crate) fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.write(&[IoSlice::new(buf)], false, Wait::Never)
    }

    /// As [`poll_write_vectored`](Self::poll_write_vectored), without waiting.
    pub(crate) fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(bufs, false, Wait::Never)
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
            self.send.clear_ready_since(tick.send);
        }
    }
}

/// The rest.
impl StreamLink {
    /// Our address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.settings().local
    }

    /// The peer's address, while there is a connection.
    ///
    /// # Errors
    /// `NotConnected` before and after.
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        if self.is_connected() && !self.closed.load(Ordering::Acquire) {
            Ok(self.peer)
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    /// The peer's address, connected or not.
    pub(crate) const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The failure that nobody has been told yet (`SO_ERROR`).
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        Failure::from_raw(self.error.swap(0, Ordering::AcqRel)).map(io::Error::from)
    }

    /// What is set.
    pub(crate) fn options(&self) -> SocketOptions {
        *self.settings().options
    }

    /// Changes what is set, and has the engine look.
    pub(crate) fn set_options(&self, change: impl FnOnce(&mut SocketOptions)) {
        {
            let mut settings = self.settings();
            let mut options = *settings.options;
            change(&mut options);
            settings.options = self.bell().share(options);
        }
        self.options_changed.store(true, Ordering::Release);
        self.button.press();
    }

    /// Bytes received and not read.
    pub(crate) fn unread(&self) -> usize {
        self.recv.queued()
    }

    /// Bytes written and not acknowledged.
    pub(crate) fn unsent(&self) -> usize {
        self.send.queued()
    }

    /// Its name, once the engine knows it.
    pub(crate) fn id(&self) -> Option<ConnId> {
        self.button.id()
    }

    /// The bell that it rings.
    pub(crate) const fn bell(&self) -> &Arc<Doorbell> {
        self.button.bell()
    }

    /// The last handle was dropped. What was written is still sent, by an engine that has nobody to
    /// tell.
    pub(crate) fn close(&self) {
        let mut wakers = Wakes::new(); // Nobody waits any more, so they are only dropped.
        let unread = self.recv.discard(&mut wakers);
        self.send.shutdown(&mut wakers);
        let how = if unread { CLOSED_UNREAD } else { CLOSED_CLEAN };
        self.closing.store(how, Ordering::Release);
        self.button.press();
    }

    /// As [`close`](Self::close), but the connection is reset, and what was not sent is dropped.
    #[cfg(test)]
    pub(crate) fn abort(&self) {
        self.set_options(|options| options.linger = Some(std::time::Duration::ZERO));
        self.close();
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

/// `WouldBlock` means that the waker is registered.
fn poll<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;
    use std::{
        future,
        pin::pin,
        task::{Wake, Waker},
        thread,
    };

    use futures::executor::block_on;
    use smallvec::smallvec;

    use super::*;
    use crate::packet::Payload;

    const BOTH: Ready = Ready::READABLE.or(Ready::WRITABLE);
    const ALL: Ready = BOTH
        .or(Ready::READ_CLOSED)
        .or(Ready::WRITE_CLOSED)
        .or(Ready::ERROR);

    fn addr() -> SocketAddr {
        ([10, 7, 0, 2], 80).into()
    }

    fn link(accepted: bool) -> StreamLink {
        let options = SocketOptions::default();
        let link = StreamLink::new(Doorbell::new(), addr(), addr(), options, 1000, 1000);
        link.button.assign(ConnId::new(1, 1));
        link.set_connected(addr(), accepted, &mut Wakes::new());
        link
    }

    fn push(link: &StreamLink, bytes: &'static [u8]) -> usize {
        let mut wakes = Wakes::new();
        let payload: Payload = smallvec![Bytes::from_static(bytes)];
        link.recv.push(payload, &mut wakes);
        wakes.len()
    }

    fn fail(link: &StreamLink, failure: Failure) {
        link.fail(failure, &mut Wakes::new());
    }

    fn read(link: &StreamLink) -> Result<Vec<u8>, io::ErrorKind> {
        let mut buf = [0; 64];
        let mut spare = &mut buf[..];
        let n = link.try_read(&mut spare).map_err(|error| error.kind())?;
        Ok(buf[..n].to_vec())
    }

    fn write(link: &StreamLink, bytes: &[u8]) -> Result<usize, io::ErrorKind> {
        link.try_write(bytes).map_err(|error| error.kind())
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn rings(link: &StreamLink) -> bool {
        let (mut rung, mut commands) = (Vec::new(), Default::default());
        link.bell().take(&mut rung, &mut commands);
        link.button.answer();
        !rung.is_empty()
    }

    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected, WouldBlock};

    #[test]
    fn an_idle_stream_is_small() {
        let size = size_of::<StreamLink>();
        println!(
            "StreamLink {size}, RecvPipe {}, SendPipe {}, Button {}, Readiness {}",
            size_of::<RecvPipe>(),
            size_of::<SendPipe>(),
            size_of::<Button>(),
            size_of::<Readiness<'_>>(),
        );
        assert!(size <= 352, "{size}");
    }

    #[test]
    fn a_reset_is_told_once_to_whichever_call_is_first() {
        let reset = || {
            let link = link(false);
            fail(&link, Failure::Reset);
            link
        };
        let link = reset();
        assert_eq!(read(&link), Err(ConnectionReset));
        assert_eq!((read(&link), read(&link)), (Ok(vec![]), Ok(vec![])));
        assert_eq!(write(&link, b"x"), Err(BrokenPipe));
        let link = reset();
        assert_eq!(write(&link, b"x"), Err(ConnectionReset));
        assert_eq!(write(&link, b"x"), Err(BrokenPipe));
        assert_eq!(read(&link), Ok(vec![]));
        let link = reset();
        link.shutdown();
        let error = link.take_error().map(|error| error.kind());
        assert_eq!(error, Some(ConnectionReset));
        assert!(link.take_error().is_none());
        assert_eq!(link.peer_addr().unwrap_err().kind(), NotConnected);
        assert_eq!(link.local_addr(), addr());
        assert_eq!(
            link.ready(Ready::READABLE),
            Ready::READABLE | Ready::READ_CLOSED
        );
        assert_eq!(link.ready(BOTH | Ready::ERROR), ALL);
    }

    #[test]
    fn what_came_before_a_reset_is_read_first() {
        let link = link(false);
        push(&link, b"data");
        fail(&link, Failure::Reset);
        fail(&link, Failure::TimedOut);
        push(&link, b"late");
        assert_eq!(read(&link), Ok(b"data".to_vec()));
        assert_eq!(read(&link), Err(ConnectionReset));
        assert_eq!(read(&link), Ok(vec![]));
    }

    #[test]
    fn after_the_peers_fin_reads_end_even_if_a_reset_follows() {
        let link = link(false);
        push(&link, b"data");
        link.recv.finish(&mut Wakes::new());
        push(&link, b"late");
        assert_eq!(link.ready(BOTH), BOTH | Ready::READ_CLOSED);
        assert_eq!(write(&link, b"x"), Ok(1));
        fail(&link, Failure::BrokenPipe);
        assert_eq!(read(&link), Ok(b"data".to_vec()));
        assert_eq!((read(&link), read(&link)), (Ok(vec![]), Ok(vec![])));
        let mut buf = [0; 4];
        assert_eq!(link.try_peek(&mut &mut buf[..]).unwrap(), 0);
        assert_eq!(write(&link, b"x"), Err(BrokenPipe));
    }

    #[test]
    fn after_our_shutdown_writing_is_over_and_reading_is_not() {
        let link = link(false);
        write(&link, b"last").unwrap();
        link.shutdown();
        link.shutdown();
        assert!(rings(&link));
        assert_eq!(write(&link, b"x"), Err(BrokenPipe));
        assert_eq!(link.ready(Ready::WRITABLE), Ready::WRITABLE);
        push(&link, b"data");
        assert_eq!(read(&link), Ok(b"data".to_vec()));
        link.recv.finish(&mut Wakes::new());
        let closed = Ready::READ_CLOSED | Ready::WRITE_CLOSED;
        assert_eq!(link.ready(BOTH), BOTH | closed);
        assert_eq!(link.closed_by_owner(), None);
    }

    #[test]
    fn a_stream_from_connect_starts_as_writable_and_an_accepted_one_as_both() {
        assert_eq!(link(false).ready(BOTH), Ready::WRITABLE);
        let link = link(true);
        assert_eq!(link.ready(BOTH), BOTH);
        assert_eq!(read(&link), Err(WouldBlock));
        assert_eq!(link.ready(BOTH), Ready::WRITABLE);
    }

    #[test]
    fn ready_stays_until_something_would_block() {
        let link = link(false);
        push(&link, b"data");
        assert_eq!(read(&link), Ok(b"data".to_vec()));
        assert_eq!(link.ready(BOTH), BOTH);
        assert_eq!(read(&link), Err(WouldBlock));
        assert_eq!(link.ready(BOTH), Ready::WRITABLE);
        // A poll that empties the pipe and had room for more need not be told twice.
        push(&link, b"data");
        let mut buf = [0; 4];
        let read = link.poll_read(&mut cx(), &mut &mut buf[..]);
        assert!(matches!(read, Poll::Ready(Ok(4))));
        assert_eq!(
            link.ready(BOTH),
            BOTH,
            "it may hold more than was asked for"
        );
        push(&link, b"abc");
        let read = link.poll_read(&mut cx(), &mut &mut buf[..]);
        assert!(matches!(read, Poll::Ready(Ok(3))));
        assert_eq!(link.ready(BOTH), Ready::WRITABLE);
        assert_eq!(write(&link, &[0; 2000]), Ok(1000));
        assert_eq!(link.ready(BOTH), Ready::WRITABLE);
        assert_eq!(write(&link, b"x"), Err(WouldBlock));
        assert!(link.ready(BOTH).is_empty());
    }

    #[test]
    fn empty_buffers_are_read_and_written_at_once() {
        let link = link(false);
        let mut none: &mut [u8] = &mut [];
        assert_eq!(link.try_read(&mut none).unwrap(), 0);
        let read = link.poll_read(&mut cx(), &mut none);
        assert!(matches!(read, Poll::Ready(Ok(0))));
        assert_eq!(link.try_peek(&mut none).unwrap(), 0);
        assert!(link.try_read_chunk(0).unwrap().is_empty());
        assert_eq!(write(&link, b""), Ok(0));
        assert_eq!(link.try_write_chunk(&mut Bytes::new()).unwrap(), 0);
        assert!(!rings(&link));
        write(&link, &[0; 1000]).unwrap();
        assert_eq!(write(&link, b""), Ok(0), "nothing needs no room");
    }

    #[test]
    fn connecting_ends_in_a_connection_or_in_an_error() {
        let new = || {
            let options = SocketOptions::default();
            StreamLink::new(Doorbell::new(), addr(), addr(), options, 1000, 1000)
        };
        let (link, mut wakes) = (new(), Wakes::new());
        assert!(link.poll_connected(&mut cx()).is_pending());
        assert_eq!(write(&link, b"x"), Err(WouldBlock));
        assert_eq!(link.peer_addr().unwrap_err().kind(), NotConnected);
        link.set_connected(([10, 7, 0, 2], 40_000).into(), false, &mut wakes);
        assert_eq!((wakes.len(), link.local_addr().port()), (1, 40_000));
        assert!(matches!(
            link.poll_connected(&mut cx()),
            Poll::Ready(Ok(()))
        ));
        assert_eq!(link.peer_addr().unwrap(), addr());
        link.set_closed();
        assert_eq!(link.peer_addr().unwrap_err().kind(), NotConnected);
        let link = new();
        assert!(link.poll_connected(&mut cx()).is_pending());
        fail(&link, Failure::Refused);
        match link.poll_connected(&mut cx()) {
            Poll::Ready(Err(error)) => assert_eq!(error.kind(), ConnectionRefused),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_taken_once_after_each_change() {
        let link = link(false);
        assert_eq!(link.take_options(), None);
        link.set_options(|options| options.nodelay = true);
        assert!(rings(&link));
        assert!(link.take_options().unwrap().nodelay && link.options().nodelay);
        assert_eq!(link.take_options(), None);
    }

    #[test]
    fn closing_tells_whether_anything_was_unread() {
        let read_all = link(false);
        push(&read_all, b"data");
        assert!(read(&read_all).is_ok());
        write(&read_all, b"unsent").unwrap();
        read_all.close();
        assert!(rings(&read_all));
        assert_eq!(read_all.closed_by_owner(), Some(Closing { unread: false }));
        push(&read_all, b"late");
        assert_eq!(read_all.recv.queued(), 0);
        assert_eq!(read_all.unsent(), 6, "still to be sent");
        let link = link(false);
        push(&link, b"data");
        link.abort();
        assert_eq!(link.closed_by_owner(), Some(Closing { unread: true }));
        let linger = link.take_options().unwrap().linger;
        assert_eq!((linger, link.unread()), (Some(Duration::ZERO), 0));
    }

    #[test]
    fn the_last_poll_of_a_direction_and_every_future_are_woken_by_an_event() {
        let link = link(false);
        let mut buf = [0; 4];
        assert!(link.poll_read(&mut cx(), &mut &mut buf[..]).is_pending());
        assert!(link.poll_peek(&mut cx(), &mut &mut buf[..]).is_pending());
        assert!(link.poll_read_ready(&mut cx()).is_pending());
        let mut futures: Vec<_> = (0..5).map(|_| link.wait(Ready::READABLE)).collect();
        for future in &mut futures {
            assert!(pin!(&mut *future).poll(&mut cx()).is_pending());
            assert!(pin!(future).poll(&mut cx()).is_pending());
        }
        futures.pop();
        assert_eq!(push(&link, b"data"), 1 + 4);
        assert_eq!(push(&link, b"data"), 0, "once each");
        for future in futures {
            assert_eq!(block_on(future), Ready::READABLE);
        }
        assert!(link.poll_read_ready(&mut cx()).is_ready());
    }

    #[test]
    fn a_future_for_both_directions_leaves_nothing_behind() {
        let link = link(false);
        write(&link, &[0; 1000]).unwrap();
        assert_eq!(write(&link, b"x"), Err(WouldBlock));
        let mut future = link.wait(BOTH);
        assert!(pin!(&mut future).poll(&mut cx()).is_pending());
        let mut wakes = Wakes::new();
        link.send.release(1000, &mut wakes);
        assert_eq!(wakes.len(), 1);
        assert_eq!(block_on(future), Ready::WRITABLE);
        assert_eq!(push(&link, b"data"), 0, "no longer registered for reading");
        assert!(read(&link).is_ok() && read(&link).is_err());
        let mut future = link.wait(Ready::ERROR);
        assert!(pin!(&mut future).poll(&mut cx()).is_pending());
        fail(&link, Failure::Reset);
        assert_eq!(block_on(future), Ready::ERROR);
    }

    #[test]
    fn what_is_cleared_waits_for_the_next_event_unless_that_came_before() {
        let link = link(false);
        push(&link, b"half");
        let tick = link.tick();
        link.clear_ready(BOTH, tick);
        assert_eq!(
            link.ready(BOTH),
            Ready::WRITABLE,
            "there is room, and no event will say so"
        );
        assert_eq!(push(&link, b"rest"), 0);
        assert_eq!(link.ready(BOTH), BOTH);
        link.clear_ready(BOTH, tick);
        assert_eq!(link.ready(BOTH), BOTH);
        link.clear_ready(BOTH, link.tick());
        assert_eq!(
            read(&link),
            Ok(b"halfrest".to_vec()),
            "it is there all the same"
        );
    }

    #[test]
    fn vectors_and_buffers_that_grow_are_filled_in_order() {
        let link = link(false);
        let bufs = [b"ab".as_slice(), b"", b"cde"].map(IoSlice::new);
        assert_eq!(link.try_write_vectored(&bufs).unwrap(), 5);
        let mut queue = super::super::Rope::new();
        assert!(link.send.take(0, &mut queue, &mut Wakes::new()));
        assert_eq!(queue.pop_front().unwrap(), "abcde");
        push(&link, b"abcdef");
        let (mut one, mut two, mut three) = ([0; 2], [0; 0], [0; 3]);
        let mut bufs = [&mut one[..], &mut two[..], &mut three[..]].map(IoSliceMut::new);
        assert_eq!(link.try_read_vectored(&mut bufs).unwrap(), 5);
        assert_eq!((&one, &three), (b"ab", b"cde"));
        let mut grown = Vec::new();
        assert_eq!(link.try_read(&mut grown).unwrap(), 1);
        assert_eq!(grown, b"f");
    }

    #[test]
    fn a_waker_may_own_the_stream_that_it_waits_for() {
        /// A task of an executor that is gone: only wakers hold it.
        struct Task(Arc<StreamLink>);

        impl Wake for Task {
            fn wake(self: Arc<Self>) {}
        }

        impl Drop for Task {
            fn drop(&mut self) {
                self.0.close();
            }
        }

        let task = |link: &Arc<StreamLink>| Waker::from(Arc::new(Task(Arc::clone(link))));
        for displaced_by_poll in [true, false] {
            let link = Arc::new(link(false));
            let waker = task(&link);
            let waiting = &mut Context::from_waker(&waker);
            let mut future = link.wait(Ready::READABLE);
            match displaced_by_poll {
                true => assert!(link.poll_read_ready(waiting).is_pending()),
                false => assert!(pin!(&mut future).poll(waiting).is_pending()),
            }
            drop(waker);
            match displaced_by_poll {
                true => assert!(link.poll_read_ready(&mut cx()).is_pending()),
                false => drop(future),
            }
            assert!(link.closed_by_owner().is_some());
        }
    }

    #[test]
    fn closing_forgets_who_had_waited() {
        let link = link(false);
        assert!(link.poll_read_ready(&mut cx()).is_pending());
        link.close();
        assert_eq!(push(&link, b"late"), 0);
        let mut wakes = Wakes::new();
        link.fail(Failure::Reset, &mut wakes);
        assert!(wakes.is_empty());
    }

    /// An engine at the other end of a stream: what it is sent, it sends back.
    fn echo(link: &StreamLink, total: u64) {
        let bell = Arc::clone(link.bell());
        let (mut rung, mut commands) = (Vec::new(), Default::default());
        let (mut queue, mut wakes) = (super::super::Rope::new(), Wakes::new());
        let mut piece = 1;
        block_on(future::poll_fn(|cx| {
            loop {
                link.button.answer();
                link.send.take(0, &mut queue, &mut Wakes::new());
                while !queue.is_empty() && link.recv.free() > 0 {
                    piece = (piece * 7 + 1) % 50_000;
                    let start = queue.start();
                    let end = queue
                        .end()
                        .min(start + 1 + piece.min(link.recv.free() as u64));
                    let mut payload = Payload::new();
                    queue.slice(start..end, &mut payload);
                    queue.advance_to(end);
                    link.recv.push(payload, &mut wakes);
                    link.send.release((end - start) as usize, &mut wakes);
                }
                link.recv.ring_when_free(30_000);
                fire(std::mem::take(&mut wakes));
                if queue.start() == total && link.send.is_shutdown() {
                    link.recv.finish(&mut wakes);
                    fire(std::mem::take(&mut wakes));
                    return Poll::Ready(());
                }
                bell.take_rung(cx, &mut rung, &mut commands);
                if rung.is_empty() {
                    return Poll::Pending;
                }
                rung.clear();
            }
        }));
    }

    #[test]
    fn bytes_cross_threads_in_order_and_nobody_sleeps_for_ever() {
        const TOTAL: u64 = 20 << 20;
        let options = SocketOptions::default();
        let (recv, send) = (100_000, 150_000);
        let link = StreamLink::new(Doorbell::new(), addr(), addr(), options, recv, send);
        link.button.assign(ConnId::new(0, 0));
        link.set_connected(addr(), true, &mut Wakes::new());
        let byte = |at: u64| (at * 31 + at / 251) as u8;
        thread::scope(|scope| {
            scope.spawn(|| echo(&link, TOTAL));
            scope.spawn(|| {
                let (mut at, mut len) = (0, 1);
                while at < TOTAL {
                    len = (len * 5 + 3) % 100_000;
                    let end = TOTAL.min(at + 1 + len);
                    let data: Vec<_> = (at..end).map(byte).collect();
                    let mut chunk = Bytes::from(data);
                    while !chunk.is_empty() {
                        let by_copy = len % 2 == 0;
                        let written = block_on(future::poll_fn(|cx| match by_copy {
                            true => link.poll_write(cx, &chunk),
                            false => link.poll_write_chunk(cx, &mut chunk),
                        }));
                        let written = written.unwrap();
                        if by_copy {
                            chunk = chunk.slice(written..);
                        }
                        at += written as u64;
                    }
                }
                link.shutdown();
            });
            let (mut at, mut buf) = (0, vec![0; 70_000]);
            loop {
                let len = 1 + at as usize * 13 % buf.len();
                let n = match at % 3 {
                    0 => {
                        block_on(link.wait(Ready::READABLE));
                        match link.try_read(&mut &mut buf[..len]) {
                            Ok(n) => n,
                            Err(error) if error.kind() == WouldBlock => continue,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    1 => {
                        let read = |cx: &mut Context<'_>| link.poll_read_chunk(cx, len);
                        let chunk = block_on(future::poll_fn(read)).unwrap();
                        buf[..chunk.len()].copy_from_slice(&chunk);
                        chunk.len()
                    }
                    _ => block_on(future::poll_fn(|cx| {
                        link.poll_read(cx, &mut &mut buf[..len])
                    }))
                    .unwrap(),
                };
                if n == 0 {
                    break;
                }
                assert!(buf[..n].iter().zip(at..).all(|(b, at)| *b == byte(at)));
                at += n as u64;
            }
            assert_eq!(at, TOTAL);
        });
    }

    #[test]
    fn what_the_owner_needs_can_be_sent_between_threads() {
        const fn check<T: Send + Sync + Unpin>() {}
        check::<StreamLink>();
        check::<Readiness<'_>>();
    }
}
