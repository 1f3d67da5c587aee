//! Two queues of datagrams between a socket's handle and the engine.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;

use self::queue::Queue;
use super::{
    Network, Wakes,
    doorbell::{Button, Doorbell},
    ports::PortGuard,
    waiters::{Ready, Wait, poll},
};
use crate::error::Failure;

mod queue;
mod readiness;
mod send;
#[cfg(test)]
mod tests;

/// What a datagram takes of its queue beside its payload, so that empty ones are not for nothing.
const OVERHEAD: usize = 256;

/// A datagram on its way between the application and the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Our address; with the socket for any destination, any.
    pub(crate) local: SocketAddr,
    /// The peer's.
    pub(crate) peer: SocketAddr,
    /// What it carries.
    pub(crate) payload: Bytes,
}

impl Datagram {
    fn size(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

/// Both addresses of a datagram to be sent, as far as the application says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// To the connected peer.
    Connected,
    /// To this address.
    To(SocketAddr),
    /// From the first, which may be any, to the second.
    FromTo(SocketAddr, SocketAddr),
}

/// What is sent with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// Type of service.
    pub(crate) tos: u8,
    /// Traffic class.
    pub(crate) tclass: u8,
}

/// What the handle of a datagram socket shares with the engine.
#[derive(Debug)]
pub(crate) struct DatagramLink {
    /// Makes the engine look.
    pub(crate) button: Button,
    network: Arc<Network>,
    /// As it was bound; `None` for the socket for any destination, and for a flow.
    bound: Option<SocketAddr>,
    /// It belongs to one pair of addresses, neither of which need be ours.
    is_flow: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// As it was bound, or what `connect` has made of it.
    local: SocketAddr,
    peer: Option<SocketAddr>,
    /// What the path to the connected peer is said to carry.
    path_mtu: Option<usize>,
    recv: Queue,
    send: Queue,
    dropped: u64,
    marks: Marks,
    /// Told once, to whichever call is first (`SO_ERROR`).
    error: Option<Failure>,
    /// The stack has ended: told to every call.
    failure: Option<Failure>,
    /// The port, until the handle is dropped.
    reserved: Option<PortGuard>,
    closed: bool,
}

impl DatagramLink {
    /// A socket on a port that was reserved for it.
    pub(crate) fn bound(
        bell: Arc<Doorbell>,
        network: Arc<Network>,
        port: PortGuard,
        (recv, send): (usize, usize),
        marks: Marks,
    ) -> Self {
        let local = port.local();
        let inner = Inner::new(local, Some(port), (recv, send), marks);
        Self {
            button: Button::new(bell),
            network,
            bound: Some(local),
            is_flow: false,
            inner: Mutex::new(inner),
        }
    }

    /// The socket for any destination, which was [taken](Network::take_any).
    pub(crate) fn any(
        bell: Arc<Doorbell>,
        network: Arc<Network>,
        (recv, send): (usize, usize),
        marks: Marks,
    ) -> Self {
        let nowhere = SocketAddr::from(([0; 16], 0));
        Self {
            button: Button::new(bell),
            network,
            bound: None,
            is_flow: false,
            inner: Mutex::new(Inner::new(nowhere, None, (recv, send), marks)),
        }
    }

    /// [engine] What goes between these two addresses.
    pub(crate) fn flow(
        bell: Arc<Doorbell>,
        network: Arc<Network>,
        (local, peer): (SocketAddr, SocketAddr),
        (recv, send): (usize, usize),
        marks: Marks,
    ) -> Self {
        let mut inner = Inner::new(local, None, (recv, send), marks);
        inner.peer = Some(peer);
        Self {
            button: Button::new(bell),
            network,
            bound: None,
            is_flow: true,
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the engine.
impl DatagramLink {
    /// [engine] The two addresses of a flow.
    pub(crate) fn flow_addrs(&self) -> Option<(SocketAddr, SocketAddr)> {
        let inner = self.is_flow.then(|| self.lock())?;
        Some((inner.local, inner.peer?))
    }

    /// [engine] Where it was bound; `None` for the socket for any destination, and for a flow.
    pub(crate) const fn local_bound(&self) -> Option<SocketAddr> {
        self.bound
    }

    /// [engine] How well it fits a datagram to its port: the best takes it, `None` not at all.
    pub(crate) fn score(&self, local: SocketAddr, peer: SocketAddr) -> Option<u8> {
        let inner = self.lock();
        let ip = inner.local.ip();
        if inner.closed || inner.local.port() != local.port() {
            return None;
        }
        let by_address = match ip {
            _ if ip == local.ip() => 2,
            IpAddr::V6(ip) if ip.is_unspecified() => 0,
            IpAddr::V4(ip) if ip.is_unspecified() && local.is_ipv4() => 1,
            _ => return None,
        };
        match inner.peer {
            Some(connected) if connected == peer => Some(by_address + 4),
            Some(_) => None,
            None => Some(by_address),
        }
    }

    /// [engine] Queues a datagram that has come, and has all wakened that wait for one. False if
    /// there is no room: then it is lost.
    pub(crate) fn deliver(&self, datagram: Datagram, wakes: &mut Wakes) -> bool {
        let mut inner = self.lock();
        let size = datagram.size();
        if inner.closed || !inner.recv.has_room(size) || !self.network.hold(size) {
            inner.dropped += 1;
            return false;
        }
        inner.recv.push(datagram);
        inner.recv.happened(wakes);
        true
    }

    /// [engine] Takes a datagram to be sent, and tells whether there are more. Whoever waits for
    /// room is wakened when half of it is free.
    pub(crate) fn take_to_send(&self, wakes: &mut Wakes) -> Option<(Datagram, Marks, bool)> {
        let mut inner = self.lock();
        let datagram = inner.send.pop(&self.network)?;
        if !inner.send.ready && inner.send.bytes <= inner.send.limit / 2 {
            inner.send.happened(wakes);
        }
        let more = !inner.send.datagrams.is_empty();
        Some((datagram, inner.marks, more))
    }

    /// [engine] Whether there is something to be sent.
    pub(crate) fn has_to_send(&self) -> bool {
        !self.lock().send.datagrams.is_empty()
    }

    /// [engine] What was sent to the connected peer did not arrive. False if that is not who it was
    /// sent to.
    pub(crate) fn set_error(
        &self,
        (local, peer): (SocketAddr, SocketAddr),
        failure: Failure,
        wakes: &mut Wakes,
    ) -> bool {
        let mut inner = self.lock();
        if !inner.is_connected(local, peer) {
            return false;
        }
        inner.error = Some(failure);
        inner.recv.happened(wakes);
        inner.send.happened(wakes);
        true
    }

    /// [engine] What was sent to the connected peer was too long for the path. False if that is not
    /// who it was sent to.
    pub(crate) fn set_path_mtu(&self, (local, peer): (SocketAddr, SocketAddr), mtu: usize) -> bool {
        let mut inner = self.lock();
        let connected = inner.is_connected(local, peer);
        if connected {
            inner.path_mtu = Some(inner.path_mtu.map_or(mtu, |before| before.min(mtu)));
        }
        connected
    }

    /// [engine] Bytes that wait to be received and to be sent, as they count against the limits.
    pub(crate) fn queued(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.recv.bytes, inner.send.bytes)
    }

    /// [engine] Whether the handle was dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// [engine] The stack has ended, and here is why. The first failure counts.
    pub(crate) fn fail(&self, failure: Failure, wakes: &mut Wakes) {
        let mut inner = self.lock();
        inner.failure.get_or_insert(failure);
        inner.send.clear(&self.network);
        inner.recv.happened(wakes);
        inner.send.happened(wakes);
    }
}

/// Receiving.
impl DatagramLink {
    /// Takes the next datagram, or waits for one.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        poll(self.recv(Wait::InSlot(cx.waker()), Inner::pop_received))
    }

    /// As [`poll_recv`](Self::poll_recv), without waiting.
    pub(crate) fn try_recv(&self) -> io::Result<Datagram> {
        self.recv(Wait::Never, Inner::pop_received)
    }

    /// Looks at the next datagram and leaves it where it is, or waits for one.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        poll(self.recv(Wait::InSlot(cx.waker()), Inner::look_at_received))
    }

    /// As [`poll_peek`](Self::poll_peek), without waiting.
    pub(crate) fn try_peek(&self) -> io::Result<Datagram> {
        self.recv(Wait::Never, Inner::look_at_received)
    }

    fn recv(
        &self,
        wait: Wait<'_>,
        next: fn(&mut Inner, &Network) -> Option<Datagram>,
    ) -> io::Result<Datagram> {
        let mut inner = self.lock();
        // As on Linux, an error goes before what was received.
        if let Some(error) = inner.error.take() {
            return Err(error.into());
        }
        if let Some(mut datagram) = next(&mut inner, &self.network) {
            datagram.peer = self.shown(datagram.peer);
            return Ok(datagram);
        }
        if let Some(failure) = inner.failure {
            return Err(failure.into());
        }
        inner.recv.ready = false;
        let displaced = inner.recv.waiters.wait(wait);
        drop(inner);
        drop(displaced);
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// As Linux shows it: to a socket of IPv6, addresses of IPv4 are mapped ones.
    fn shown(&self, addr: SocketAddr) -> SocketAddr {
        match (self.bound, addr.ip()) {
            (Some(bound), IpAddr::V4(ip)) if bound.is_ipv6() => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port())
            }
            _ => addr,
        }
    }
}

/// The rest.
impl DatagramLink {
    /// From now on it sends to this peer and takes datagrams from nobody else.
    pub(crate) fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        let peer = self.destination(peer)?;
        let bound = self.bound.unwrap_or_else(|| self.lock().local);
        let local = self.source(bound, peer.ip())?;
        let mut inner = self.lock();
        inner.peer = Some(peer);
        inner.local = local;
        inner.path_mtu = None;
        Ok(())
    }

    /// Our address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.shown(self.lock().local)
    }

    /// The peer that it is connected to.
    ///
    /// # Errors
    /// `NotConnected`: to none.
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.lock().peer;
        peer.map(|peer| self.shown(peer))
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The error that nobody has been told yet (`SO_ERROR`).
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.lock().error.take().map(io::Error::from)
    }

    /// What is sent with each datagram.
    pub(crate) fn marks(&self) -> Marks {
        self.lock().marks
    }

    /// Changes what is sent with each datagram.
    pub(crate) fn set_marks(&self, change: impl FnOnce(&mut Marks)) {
        change(&mut self.lock().marks);
    }

    /// Datagrams that came when there was no room.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// The handle was dropped. The port is free when this returns; the engine was rung before, and
    /// so learns of it before it is told of another socket there. What was sent is still sent.
    pub(crate) fn close(&self) {
        let mut wakers = Wakes::new(); // Nobody waits any more, so they are only dropped.
        let reserved = {
            let mut inner = self.lock();
            inner.closed = true;
            inner.recv.clear(&self.network);
            inner.recv.waiters.take(&mut wakers);
            inner.send.waiters.take(&mut wakers);
            inner.reserved.take()
        };
        self.button.press();
        if self.bound.is_none() && !self.is_flow {
            self.network.release_any();
        }
        drop(reserved);
    }
}

impl Drop for DatagramLink {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        inner.recv.clear(&self.network);
        inner.send.clear(&self.network);
    }
}

impl Inner {
    fn new(
        local: SocketAddr,
        reserved: Option<PortGuard>,
        (recv, send): (usize, usize),
        marks: Marks,
    ) -> Self {
        Self {
            local,
            peer: None,
            path_mtu: None,
            recv: Queue::new(recv, false),
            send: Queue::new(send, true),
            dropped: 0,
            marks,
            error: None,
            failure: None,
            reserved,
            closed: false,
        }
    }

    fn is_connected(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        !self.closed && self.local == local && self.peer == Some(peer)
    }

    fn pop_received(&mut self, network: &Network) -> Option<Datagram> {
        self.recv.pop(network)
    }

    fn look_at_received(&mut self, _: &Network) -> Option<Datagram> {
        self.recv.datagrams.front().cloned()
    }

    fn ready(&self, interest: Ready) -> Ready {
        let failed = self.error.is_some() || self.failure.is_some();
        let all = Ready::READABLE.when(self.recv.ready)
            | Ready::WRITABLE.when(self.send.ready)
            | Ready::ERROR.when(failed);
        all & interest
    }
}
