//! Two queues of datagrams between a socket's handle and the engine.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{
    Network, Wakes,
    doorbell::{Button, Doorbell},
    network::check_len,
    ports::PortGuard,
    waiters::{Key, Ready, Wait, Waiters},
};
use crate::error::Failure;

/// What a datagram takes of its queue beside its payload, so that empty ones are not for nothing.
const OVERHEAD: usize = 256;

/// Error numbers of Linux for which `io::ErrorKind` has no stable name.
const EDESTADDRREQ: i32 = 89;
const EAFNOSUPPORT: i32 = 97;

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
    /// Type of service, or traffic class.
    pub(crate) tos: u8,
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

/// One direction.
#[derive(Debug)]
struct Queue {
    datagrams: VecDeque<Datagram>,
    bytes: usize,
    limit: usize,
    /// An operation may be tried: until one would block.
    ready: bool,
    /// Counts what made it ready.
    tick: u64,
    waiters: Waiters,
}

/// When a look at readiness was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatagramTick {
    recv: u64,
    send: u64,
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

/// Sending.
impl DatagramLink {
    /// Queues a datagram, or waits for room.
    pub(crate) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        payload: &[u8],
        target: Target,
    ) -> Poll<io::Result<usize>> {
        poll(self.send(payload, target, Wait::InSlot(cx.waker())))
    }

    /// As [`poll_send`](Self::poll_send), without waiting.
    pub(crate) fn try_send(&self, payload: &[u8], target: Target) -> io::Result<usize> {
        self.send(payload, target, Wait::Never)
    }

    fn send(&self, payload: &[u8], target: Target, wait: Wait<'_>) -> io::Result<usize> {
        let mut inner = self.lock();
        if let Some(failure) = inner.failure {
            return Err(failure.into());
        }
        if let Some(error) = inner.error.take() {
            return Err(error.into());
        }
        let (local, peer) = match target {
            Target::Connected => {
                let unconnected = || io::Error::from_raw_os_error(EDESTADDRREQ);
                (inner.local, inner.peer.ok_or_else(unconnected)?)
            }
            Target::To(peer) => {
                let peer = self.destination(peer)?;
                (self.source(inner.local, peer.ip())?, peer)
            }
            Target::FromTo(from, to) => {
                let (from, to) = (canonical(from), self.destination(to)?);
                self.check_foreign_source(from, to)?;
                (from, to)
            }
        };
        if peer.port() == 0 {
            return Err(invalid("nobody can be at port 0"));
        }
        self.network.check_len(payload.len(), peer.ip())?;
        if let Some(mtu) = inner.path_mtu.filter(|_| inner.peer == Some(peer)) {
            check_len(payload.len(), peer.ip(), mtu)?;
        }
        let size = payload.len() + OVERHEAD;
        if !inner.send.has_room(size) {
            inner.send.ready = false;
            let displaced = inner.send.waiters.wait(wait);
            drop(inner);
            drop(displaced);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if !self.network.hold(size) {
            return Err(Failure::NoMemory.into());
        }
        let payload = Bytes::copy_from_slice(payload);
        let len = payload.len();
        inner.send.push(Datagram {
            local,
            peer,
            payload,
        });
        drop(inner);
        self.button.press();
        Ok(len)
    }

    /// Where a datagram to `peer` goes, if it can go there.
    fn destination(&self, peer: SocketAddr) -> io::Result<SocketAddr> {
        let mut peer = canonical(peer);
        if self.bound.is_some_and(|bound| bound.is_ipv4()) && peer.is_ipv6() {
            return Err(io::Error::from_raw_os_error(EAFNOSUPPORT));
        }
        if peer.ip().is_unspecified() {
            // "This host", as on Linux.
            let loopback = match peer {
                SocketAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            peer.set_ip(loopback);
        }
        let nobody = match peer.ip() {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        if nobody {
            return Err(unreachable(peer.ip()));
        }
        Ok(peer)
    }

    /// The address from which a socket that is bound to `local` sends to `peer`.
    fn source(&self, local: SocketAddr, peer: IpAddr) -> io::Result<SocketAddr> {
        let ip = match local.ip() {
            ip if !ip.is_unspecified() => ip,
            _ => self
                .network
                .source_for(peer)
                .ok_or_else(|| unreachable(peer))?,
        };
        if ip.is_ipv4() != peer.is_ipv4() {
            return Err(unreachable(peer));
        }
        if ip.is_loopback() && !self.network.is_local(peer) {
            return Err(invalid("a loopback address reaches only the stack itself"));
        }
        Ok(SocketAddr::new(ip, local.port()))
    }

    /// What the socket for any destination sends may come from wherever a datagram can go to.
    fn check_foreign_source(&self, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
        let nobody = match from.ip() {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        if nobody || from.ip().is_unspecified() || from.is_ipv4() != to.is_ipv4() {
            return Err(invalid("not an address that a datagram can come from"));
        }
        if from.ip().is_loopback() && !self.network.is_local(to.ip()) {
            return Err(invalid("a loopback address reaches only the stack itself"));
        }
        Ok(())
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

impl Queue {
    fn new(limit: usize, ready: bool) -> Self {
        Self {
            datagrams: VecDeque::new(),
            bytes: 0,
            limit,
            ready,
            tick: 0,
            waiters: Waiters::default(),
        }
    }

    /// One always has room, however long it is.
    fn has_room(&self, size: usize) -> bool {
        self.datagrams.is_empty() || self.bytes + size <= self.limit
    }

    fn push(&mut self, datagram: Datagram) {
        self.bytes += datagram.size();
        self.datagrams.push_back(datagram);
    }

    fn pop(&mut self, network: &Network) -> Option<Datagram> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.size();
        network.release(datagram.size());
        Some(datagram)
    }

    fn clear(&mut self, network: &Network) {
        network.release(self.bytes);
        self.bytes = 0;
        self.datagrams = VecDeque::new();
    }

    /// Something for which this direction is to be tried again.
    fn happened(&mut self, wakes: &mut Wakes) {
        self.ready = true;
        self.tick += 1;
        self.waiters.take(wakes);
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

fn poll<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

/// Without what only the kernel uses, and `::ffff:a.b.c.d` as the IPv4 address that it means.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn unreachable(peer: IpAddr) -> io::Error {
    let text = format!("no address of the stack can reach {peer}");
    io::Error::new(io::ErrorKind::NetworkUnreachable, text)
}

#[cfg(test)]
mod tests {
    use std::{
        task::{Wake, Waker},
        thread,
    };

    use futures::executor::block_on;

    use super::{super::Ports, *};

    fn socket() -> DatagramLink {
        let nets: [ipnet::IpNet; 1] = ["10.7.0.2/24".parse().unwrap()];
        let ports = Ports::new(vec![nets[0].addr()], false, 1);
        let bell = Doorbell::new();
        bell.budget().set_limit(8 << 20);
        let network = Network::new(&nets, 1500, Arc::clone(&ports), Arc::clone(&bell));
        let local = "10.7.0.2:53".parse().unwrap();
        let port = ports.bind(local, false, false, true).unwrap();
        let marks = Marks { ttl: 64, tos: 0 };
        let limits = (8192, 8192);
        DatagramLink::bound(bell, network, port, limits, marks)
    }

    fn peer() -> SocketAddr {
        "10.7.0.9:4000".parse().unwrap()
    }

    fn datagram(n: u32) -> Datagram {
        Datagram {
            local: "10.7.0.2:53".parse().unwrap(),
            peer: peer(),
            payload: Bytes::copy_from_slice(&n.to_be_bytes()),
        }
    }

    #[test]
    fn memory_is_given_back_whichever_way_datagrams_go() {
        let socket = socket();
        let network = Arc::clone(&socket.network);
        let wakes = &mut Wakes::new();
        for n in 0..4 {
            assert!(socket.deliver(datagram(n), wakes));
            socket.try_send(b"1234", Target::To(peer())).unwrap();
        }
        assert_eq!(network.held(), 8 * (OVERHEAD + 4));
        socket.try_recv().unwrap();
        socket.try_peek().unwrap();
        socket.take_to_send(wakes).unwrap();
        assert_eq!(network.held(), 6 * (OVERHEAD + 4));
        socket.close();
        assert_eq!(network.held(), 3 * (OVERHEAD + 4));
        assert!(!socket.deliver(datagram(9), wakes));
        drop(socket);
        assert_eq!(network.held(), 0);
    }

    #[test]
    fn whoever_waits_is_woken_by_what_it_waits_for_and_leaves_no_trace() {
        let socket = socket();
        let cx = &mut Context::from_waker(Waker::noop());
        let wakes = &mut Wakes::new();
        let waiting = |socket: &DatagramLink| {
            let inner = socket.lock();
            (inner.recv.waiters.len(), inner.send.waiters.len())
        };
        while socket.try_send(b"", Target::To(peer())).is_ok() {}
        {
            let mut both = Box::pin(socket.wait(Ready::READABLE | Ready::WRITABLE));
            let mut error = Box::pin(socket.wait(Ready::ERROR));
            assert!(both.as_mut().poll(cx).is_pending());
            assert!(both.as_mut().poll(cx).is_pending());
            assert!(error.as_mut().poll(cx).is_pending());
            assert!(socket.poll_recv(cx).is_pending());
            assert!(socket.poll_send_ready(cx).is_pending());
            assert_eq!(waiting(&socket), (3, 2));
        }
        assert_eq!(waiting(&socket), (1, 1));
        // Room is told of when half of it is free, and not before.
        let tick = socket.tick();
        for _ in 0..16 {
            assert_eq!(wakes.len(), 0);
            socket.take_to_send(wakes).unwrap();
        }
        assert_eq!((wakes.len(), waiting(&socket)), (1, (1, 0)));
        assert_eq!(socket.ready(Ready::WRITABLE), Ready::WRITABLE);
        socket.clear_ready(Ready::WRITABLE, tick);
        assert_eq!(
            socket.ready(Ready::WRITABLE),
            Ready::WRITABLE,
            "it came since"
        );
        assert!(socket.deliver(datagram(1), wakes));
        assert_eq!((wakes.len(), waiting(&socket)), (2, (0, 0)));
    }

    #[test]
    fn a_waker_may_own_the_socket_that_it_waits_for() {
        struct Owner(Arc<DatagramLink>);
        impl Wake for Owner {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Owner {
            fn drop(&mut self) {
                self.0.close(); // Takes the lock of the socket.
            }
        }
        let socket = Arc::new(socket());
        let waker = Waker::from(Arc::new(Owner(Arc::clone(&socket))));
        let poll = |waker: &Waker| {
            socket
                .poll_recv(&mut Context::from_waker(waker))
                .is_pending()
        };
        assert!(poll(&waker));
        drop(waker);
        assert!(poll(Waker::noop()));
        assert!(socket.is_closed());
    }

    #[test]
    fn datagrams_cross_threads_in_order_and_nobody_sleeps_for_ever() {
        const COUNT: u32 = 20_000;
        let socket = &socket();
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..COUNT {
                    let mut sent = Err(io::ErrorKind::WouldBlock.into());
                    while sent.is_err() {
                        block_on(socket.wait(Ready::WRITABLE));
                        sent = socket.try_send(&n.to_be_bytes(), Target::To(peer()));
                    }
                }
            });
            // In the place of the engine: what is sent comes back.
            scope.spawn(|| {
                let mut wakes = Wakes::new();
                let mut moved = 0;
                while moved < COUNT {
                    if let Some((datagram, ..)) = socket.take_to_send(&mut wakes) {
                        while !socket.deliver(datagram.clone(), &mut wakes) {
                            super::super::fire(std::mem::take(&mut wakes));
                            thread::yield_now();
                        }
                        moved += 1;
                    } else {
                        thread::yield_now();
                    }
                    super::super::fire(std::mem::take(&mut wakes));
                }
            });
            for n in 0..COUNT {
                let mut got = Err(io::ErrorKind::WouldBlock.into());
                while got.is_err() {
                    block_on(socket.wait(Ready::READABLE));
                    got = socket.try_recv();
                }
                assert_eq!(got.unwrap(), datagram(n));
            }
        });
    }

    #[test]
    fn what_was_to_be_sent_is_let_go_of_when_the_stack_ends() {
        let socket = socket();
        socket.try_send(b"1234", Target::To(peer())).unwrap();
        socket.deliver(datagram(1), &mut Wakes::new());
        socket.fail(Failure::StackClosed, &mut Wakes::new());
        assert!(!socket.has_to_send());
        assert_eq!(socket.network.held(), OVERHEAD + 4);
        socket.try_recv().unwrap();
        socket.try_recv().unwrap_err();
    }

    #[test]
    fn what_a_path_carries_is_forgotten_with_the_peer_at_its_end() {
        let socket = socket();
        let local = socket.local_addr();
        socket.connect(peer()).unwrap();
        assert!(socket.set_path_mtu((local, peer()), 500));
        let long = [0; 1000];
        let error = socket.try_send(&long, Target::Connected).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(90));
        socket.connect("10.7.0.8:4000".parse().unwrap()).unwrap();
        socket.try_send(&long, Target::Connected).unwrap();
    }

    #[test]
    fn the_end_of_a_flow_gives_nobody_else_the_socket_for_any_destination() {
        let network = Arc::clone(&socket().network);
        let bell = Doorbell::new();
        let marks = Marks { ttl: 64, tos: 0 };
        assert!(network.take_any());
        let local = "192.0.2.1:53".parse().unwrap();
        let limits = (8192, 8192);
        DatagramLink::flow(
            Arc::clone(&bell),
            Arc::clone(&network),
            (local, peer()),
            limits,
            marks,
        )
        .close();
        assert!(!network.take_any());
        DatagramLink::any(bell, Arc::clone(&network), limits, marks).close();
        assert!(network.take_any());
    }
}
