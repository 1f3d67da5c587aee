//! What the handles of one stream share with the engine.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use super::{
    Wakes,
    doorbell::{Button, ConnId, Doorbell},
    recv_pipe::RecvPipe,
    send_pipe::SendPipe,
};
use crate::{
    config::{Config, SocketOptions},
    error::Failure,
};

mod read;
mod readiness;
#[cfg(test)]
mod tests;
mod write;

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
    /// Somebody who wrote found nothing of use although there was room.
    writer_dozes: AtomicBool,
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
            writer_dozes: AtomicBool::new(false),
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
        self.settings().local = match (local.ip(), self.peer) {
            // Who named the peer as one of IPv6 sees only such.
            (IpAddr::V4(v4), SocketAddr::V6(_)) => {
                SocketAddr::new(v4.to_ipv6_mapped().into(), local.port())
            }
            _ => local,
        };
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

    /// [engine] Something came from the peer, and was pushed. As with epoll, where an event in one
    /// direction tells of the other, a writer looks again that has found nothing of use.
    pub(crate) fn rouse_writer(&self, wakes: &mut Wakes) {
        // Almost never, and then this is a plain load.
        if self.writer_dozes.load(Ordering::Acquire)
            && self.writer_dozes.swap(false, Ordering::AcqRel)
        {
            self.send.rouse(wakes);
        }
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
    /// tell. If the peer is to be told by a reset, no FIN goes behind it, unless it was asked for
    /// before.
    pub(crate) fn close(&self) {
        let mut wakers = Wakes::new(); // Nobody waits any more, so they are only dropped.
        let unread = self.recv.discard(&mut wakers);
        if !unread && self.options().linger != Some(Duration::ZERO) {
            self.send.shutdown(&mut wakers);
        }
        let how = if unread { CLOSED_UNREAD } else { CLOSED_CLEAN };
        self.closing.store(how, Ordering::Release);
        self.button.press();
    }

    /// As [`close`](Self::close), but the connection is reset, and what was not sent is dropped.
    #[cfg(test)]
    pub(crate) fn abort(&self) {
        self.set_options(|options| options.linger = Some(Duration::ZERO));
        self.close();
    }
}
