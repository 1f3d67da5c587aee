//! Sending datagrams, and where they may go.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{Datagram, DatagramLink, OVERHEAD, Target};
use crate::{
    error::Failure,
    link::{
        network::check_len,
        waiters::{Wait, poll},
    },
};

/// Error numbers of Linux for which `io::ErrorKind` has no stable name.
const EDESTADDRREQ: i32 = 89;
const EAFNOSUPPORT: i32 = 97;

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
    pub(super) fn destination(&self, peer: SocketAddr) -> io::Result<SocketAddr> {
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
        if self.network.is_for_many(peer.ip()) {
            return Err(unreachable(peer.ip()));
        }
        Ok(peer)
    }

    /// The address from which a socket that is bound to `local` sends to `peer`.
    pub(super) fn source(&self, local: SocketAddr, peer: IpAddr) -> io::Result<SocketAddr> {
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
        let nobody = from.ip().is_unspecified() || self.network.is_for_many(from.ip());
        if nobody || from.is_ipv4() != to.is_ipv4() {
            return Err(invalid("not an address that a datagram can come from"));
        }
        if from.ip().is_loopback() && !self.network.is_local(to.ip()) {
            return Err(invalid("a loopback address reaches only the stack itself"));
        }
        Ok(())
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
