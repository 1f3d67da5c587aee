//! Datagrams for those who drive the engine themselves.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    engine::{Engine, api::no_such_id},
    error::Failure,
    link::{ConnId, Datagram, DatagramLink, Marks, Reuse, Target},
};

/// A datagram with both of its addresses.
///
/// ```
/// use synack::engine::UdpDatagram;
///
/// /// What goes back is from where the question went.
/// fn answer(question: &UdpDatagram, payload: Vec<u8>) -> UdpDatagram {
///     UdpDatagram { from: question.to, to: question.from, payload: payload.into() }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpDatagram {
    /// Who has sent it.
    pub from: SocketAddr,
    /// Where to: an address that need not be the stack's.
    pub to: SocketAddr,
    /// What it carries.
    pub payload: Bytes,
}

impl From<Datagram> for UdpDatagram {
    fn from(datagram: Datagram) -> Self {
        Self {
            from: datagram.peer,
            to: datagram.local,
            payload: datagram.payload,
        }
    }
}

impl Engine {
    /// A UDP socket on an address of the stack, or with the unspecified address on all; port 0
    /// picks a free one, which [`udp_addr`](Self::udp_addr) tells. [`close`](Self::close) ends it.
    ///
    /// ```
    /// use std::{collections::VecDeque, time::Instant};
    /// use synack::{config::Config, engine::Engine};
    ///
    /// let now = Instant::now();
    /// let mut server = Engine::new(Config::default(), &["10.0.0.1/24".parse()?], 1500, now);
    /// let mut client = Engine::new(Config::default(), &["10.0.0.2/24".parse()?], 1500, now);
    /// let dns = server.bind_udp("10.0.0.1:53".parse()?)?;
    /// let asker = client.bind_udp("10.0.0.2:0".parse()?)?;
    /// client.send_to(asker, b"who?", "10.0.0.1:53".parse()?, now)?;
    ///
    /// let mut packets = VecDeque::new();
    /// client.poll_packet(now, 64, &mut packets);
    /// packets.drain(..).for_each(|packet| server.on_packet(packet, now));
    /// let asked = server.recv_from(dns)?;
    /// assert_eq!(&asked.payload[..], b"who?");
    /// assert_eq!(Some(asked.from), client.udp_addr(asker));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `AddrInUse`, or `AddrNotAvailable` for an address that is not the stack's.
    pub fn bind_udp(&mut self, local: SocketAddr) -> io::Result<ConnId> {
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let port = self
            .network
            .udp_ports()
            .bind(local, Reuse::default(), true)?;
        let (limits, marks) = self.datagram_defaults();
        let (bell, network) = (Arc::clone(&self.bell), Arc::clone(&self.network));
        self.add_datagrams(DatagramLink::bound(bell, network, port, limits, marks))
    }

    /// A UDP socket for whatever is sent to any unicast address, and no bound socket takes: the
    /// door for VPNs and proxies. There is one at a time; [`close`](Self::close) ends it.
    ///
    /// # Errors
    /// `AddrInUse`: there is one already.
    pub fn any_udp(&mut self) -> io::Result<ConnId> {
        if !self.network.take_any() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (limits, marks) = self.datagram_defaults();
        let (bell, network) = (Arc::clone(&self.bell), Arc::clone(&self.network));
        self.add_datagrams(DatagramLink::any(bell, network, limits, marks))
    }

    /// The next datagram that has come for a socket. Those that come when its queue is full are
    /// lost, and counted.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. `ConnectionRefused` and its like, once: what ICMP says of the
    /// [connected](Self::connect_udp) peer. `NotConnected`: there is no such socket.
    pub fn recv_from(&mut self, id: ConnId) -> io::Result<UdpDatagram> {
        self.datagrams(id)?.try_recv().map(UdpDatagram::from)
    }

    /// Sends a datagram from a bound socket.
    ///
    /// # Errors
    /// `WouldBlock`: the queue is full until [`poll_packet`](Self::poll_packet) has been called.
    /// `NetworkUnreachable`, `EMSGSIZE` (90): it does not fit in a packet. `NotConnected`: there is
    /// no such socket.
    pub fn send_to(
        &mut self,
        id: ConnId,
        payload: &[u8],
        to: SocketAddr,
        now: Instant,
    ) -> io::Result<usize> {
        self.send_datagram_on(id, payload, Target::To(to), now)
    }

    /// Sends a datagram from the socket for [any destination](Self::any_udp), from where it says.
    ///
    /// # Errors
    /// As [`send_to`](Self::send_to). `InvalidInput`: nothing can come from `from`, or the two
    /// addresses are of different families.
    pub fn send_from_to(
        &mut self,
        id: ConnId,
        payload: &[u8],
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> io::Result<usize> {
        let any = self.datagrams(id)?.local_bound().is_none();
        if !any {
            let text = "only the socket for any destination may say where from";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.send_datagram_on(id, payload, Target::FromTo(from, to), now)
    }

    /// From now on a bound socket takes datagrams from this peer only, and hears of errors.
    ///
    /// # Errors
    /// `NetworkUnreachable`. `InvalidInput`: it is the socket for any destination. `NotConnected`:
    /// there is no such socket.
    pub fn connect_udp(&mut self, id: ConnId, peer: SocketAddr) -> io::Result<()> {
        let link = self.datagrams(id)?;
        if link.local_bound().is_none() {
            let text = "the socket for any destination has no peer";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        link.connect(peer)
    }

    /// Where a UDP socket is bound; `None` if there is no such bound socket.
    pub fn udp_addr(&self, id: ConnId) -> Option<SocketAddr> {
        let link = self.datagrams(id).ok()?;
        link.local_bound().map(|_| link.local_addr())
    }

    pub(super) fn datagram_defaults(&self) -> ((usize, usize), Marks) {
        let (config, options) = (&self.config, &self.config.options);
        let marks = Marks {
            ttl: options.ttl,
            tos: options.tos,
            tclass: options.tclass,
        };
        ((config.udp_recv_buffer, config.udp_send_buffer), marks)
    }

    fn add_datagrams(&mut self, link: DatagramLink) -> io::Result<ConnId> {
        let link = Arc::new(link);
        self.open_datagrams(Arc::clone(&link));
        link.button.id().ok_or_else(|| Failure::StackClosed.into())
    }

    fn datagrams(&self, id: ConnId) -> io::Result<&Arc<DatagramLink>> {
        self.udp.link(id).ok_or_else(no_such_id)
    }

    fn send_datagram_on(
        &mut self,
        id: ConnId,
        payload: &[u8],
        target: Target,
        now: Instant,
    ) -> io::Result<usize> {
        let sent = self.datagrams(id)?.try_send(payload, target);
        self.after(id, now);
        sent
    }
}
