//! Datagrams.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use tokio::net::ToSocketAddrs;

use crate::link::{Command, DatagramLink, Marks, Reuse};

use super::{Stack, addr, options};

mod readiness;
mod receive;
mod send;

pub(super) use self::{readiness::retry, receive::copy_out};

/// A UDP socket.
///
/// What `tokio::net::UdpSocket` does, with these differences:
///
/// - Nothing is fragmented: a datagram that does not fit in one packet of the device fails with
///   `EMSGSIZE` (`raw_os_error` 90), and to a connected peer also one that the path was reported not
///   to carry. Fragments that come in are dropped. A stack's own addresses take any length.
/// - There is no broadcast and no multicast: what sets them up is absent, and sending there fails
///   with `NetworkUnreachable`. What needs a descriptor is absent too.
/// - Sending queues the datagram; up to 212,992 bytes
///   ([`Config::udp_send_buffer`](crate::Config::udp_send_buffer)) wait for the device, then `send`
///   waits. As many received ones wait to be read
///   ([`Config::udp_recv_buffer`](crate::Config::udp_recv_buffer)); what comes then is
///   [dropped](Self::dropped), the oldest stay.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use synack::net::UdpSocket;
///
/// let socket = UdpSocket::bind("10.7.0.2:5353").await?;
/// let mut buf = [0; 1500];
/// let (len, peer) = socket.recv_from(&mut buf).await?;
/// socket.send_to(&buf[..len], peer).await?;
/// # Ok(()) }
/// ```
pub struct UdpSocket {
    pub(super) link: Arc<DatagramLink>,
    _stack: Stack,
}

options::older_names!(UdpSocket);

impl UdpSocket {
    /// Binds a socket of the [current stack](Stack::current) to the first of the addresses that can
    /// be bound. Port 0 picks a free one. UDP has ports of its own, apart from those of TCP.
    ///
    /// Cancel safe: a dropped future has bound nothing.
    ///
    /// # Errors
    /// That of the last address: `AddrInUse`, `AddrNotAvailable` (not an address of the stack).
    /// `InvalidInput`: there is no address, or it cannot be read as one. Or there is no current
    /// stack.
    pub async fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        Stack::current()?.bind_udp(addr).await
    }

    pub(super) fn bind_one(stack: &Stack, addr: SocketAddr) -> io::Result<Self> {
        let addr = addr::canonical(addr);
        let (network, config) = (stack.network().clone(), stack.config());
        let port = network.udp_ports().bind(addr, Reuse::default(), true)?;
        let link = Arc::new(DatagramLink::bound(
            stack.doorbell().clone(),
            network,
            port,
            (config.udp_recv_buffer, config.udp_send_buffer),
            default_marks(stack),
        ));
        let socket = Self {
            link: link.clone(),
            _stack: stack.clone(),
        };
        stack.send(Command::Datagrams(link))?;
        Ok(socket)
    }

    /// Sends to the first of the addresses that can be reached from now on, and receives from nobody
    /// else. May be done again. Cancel safe: only names that have to be looked up make it wait.
    ///
    /// # Errors
    /// That of the last address: `NetworkUnreachable`, `EAFNOSUPPORT` (97) for one of IPv6 on a
    /// socket of IPv4.
    pub async fn connect<A: ToSocketAddrs>(&self, addr: A) -> io::Result<()> {
        let mut last = None;
        for addr in addr::resolve(addr).await? {
            match self.link.connect(addr) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(addr::last_error(last))
    }

    /// Our address: as it was bound, with the port that was picked; once connected, the address
    /// that datagrams are sent from.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.link.local_addr())
    }

    /// The peer that the socket is connected to.
    ///
    /// # Errors
    /// `NotConnected`: to none.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.link.peer_addr()
    }

    /// Takes the error that no call has been given yet, such as that nobody is at the port of the
    /// connected peer.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.link.take_error())
    }

    /// Datagrams that came when there was no room for them (`SO_RXQ_OVFL`).
    pub fn dropped(&self) -> u64 {
        self.link.dropped()
    }

    /// The time to live, or hop limit, of datagrams sent (`IP_TTL`). Default: 64.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.link.marks().ttl.into())
    }

    /// Sets the time to live of datagrams sent from now on: 1 to 255.
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = options::ttl(ttl)?;
        self.link.set_marks(|marks| marks.ttl = ttl);
        Ok(())
    }

    /// The type of service, DSCP and ECN, of datagrams of IPv4 (`IP_TOS`). Default: 0.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn tos_v4(&self) -> io::Result<u32> {
        Ok(self.link.marks().tos.into())
    }

    /// Sets the type of service of datagrams of IPv4 from now on: 0 to 255.
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range.
    pub fn set_tos_v4(&self, tos: u32) -> io::Result<()> {
        let tos = class(tos)?;
        self.link.set_marks(|marks| marks.tos = tos);
        Ok(())
    }

    /// The traffic class, DSCP and ECN, of datagrams of IPv6 (`IPV6_TCLASS`). Default: 0.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn tclass_v6(&self) -> io::Result<u32> {
        Ok(self.link.marks().tclass.into())
    }

    /// Sets the traffic class of datagrams of IPv6 from now on: 0 to 255.
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range.
    pub fn set_tclass_v6(&self, tclass: u32) -> io::Result<()> {
        let tclass = class(tclass)?;
        self.link.set_marks(|marks| marks.tclass = tclass);
        Ok(())
    }
}

fn class(value: u32) -> io::Result<u8> {
    u8::try_from(value).map_err(|_| options::invalid("type of service", value, "0 to 255"))
}

/// What new sockets send with their datagrams.
pub(super) fn default_marks(stack: &Stack) -> Marks {
    let options = stack.default_options();
    Marks {
        ttl: options.ttl,
        tos: options.tos,
        tclass: options.tclass,
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local", &self.link.local_addr())
            .field("peer", &self.link.peer_addr().ok())
            .finish_non_exhaustive()
    }
}
