//! The engine for those who drive it themselves: opening, listening, reading and writing by id.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    config::SocketOptions,
    engine::{Engine, slots::Slot},
    error::Failure,
    info::{SocketInfo, State, TcpInfo},
    link::{ConnId, ListenerLink, Reuse, StreamLink},
};

pub(super) fn no_such_id() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "there is no such connection any more",
    )
}

impl Engine {
    /// Listens on an address, with room for `backlog` connections that nobody has accepted yet.
    ///
    /// # Errors
    /// `AddrInUse`, or `AddrNotAvailable` for an address that is not the stack's.
    pub fn listen(&mut self, local: SocketAddr, backlog: usize) -> io::Result<ConnId> {
        let guard = self.ports.bind(local, Reuse::ADDR, true)?;
        let local = guard.local();
        let options = self.config.options;
        let link = Arc::new(ListenerLink::new(
            Arc::clone(&self.bell),
            local,
            backlog,
            options,
            guard,
        ));
        self.listen_on(link)
            .ok_or_else(|| Failure::StackClosed.into())
    }

    /// Takes a connection that is established, with the address of its peer.
    ///
    /// It exists until [`close`](Self::close) or [`abort`](Self::abort) and the end of what TCP
    /// owes its peer.
    pub fn accept(&mut self, listener: ConnId) -> Option<(ConnId, SocketAddr)> {
        let index = self.slots.resolve(listener)?;
        let Slot::Listener(listener) = &self.slots.get(index)?.slot else {
            return None;
        };
        let link = listener.link.try_accept().ok()?;
        Some((link.button.id()?, link.peer()))
    }

    /// Opens a connection. [`state`](Self::state) tells when it is established, and
    /// [`write`](Self::write) why it is not.
    ///
    /// # Errors
    /// `NetworkUnreachable` when the stack has no address of the peer's family, `AddrNotAvailable`
    /// when no port is free.
    pub fn connect(&mut self, peer: SocketAddr, now: Instant) -> io::Result<ConnId> {
        let now = self.at(now);
        let options = self.config.options;
        let local = super::unspecified(peer.ip());
        let bell = Arc::clone(&self.bell);
        let link = StreamLink::sized(bell, local, peer, options, &self.config);
        match self.open(Arc::clone(&link), None, peer, now) {
            Some(id) => Ok(id),
            None => Err(link.take_error().unwrap_or_else(no_such_id)),
        }
    }

    fn link(&self, id: ConnId) -> io::Result<&Arc<StreamLink>> {
        let slot = self
            .slots
            .resolve(id)
            .and_then(|index| self.slots.get(index))
            .map(|entry| &entry.slot);
        match slot {
            Some(Slot::Opening(opening)) => Ok(&opening.link),
            Some(Slot::Open(connection)) => Ok(&connection.link),
            Some(Slot::Idle(idle)) => Ok(&idle.link),
            Some(Slot::Done(link)) => Ok(link),
            Some(Slot::Listener(_) | Slot::Undecided(_)) | None => Err(no_such_id()),
        }
    }

    /// The state of a connection or listener; CLOSED also for what is in TIME-WAIT by now, and `None`
    /// once it was let go of.
    pub fn state(&self, id: ConnId) -> Option<State> {
        match &self
            .slots
            .resolve(id)
            .and_then(|index| self.slots.get(index))?
            .slot
        {
            Slot::Listener(_) => Some(State::Listen),
            Slot::Opening(opening) => Some(opening.state()),
            Slot::Open(connection) => Some(connection.state),
            Slot::Idle(idle) => Some(idle.state),
            Slot::Undecided(_) => Some(State::SynReceived),
            Slot::Done(_) => Some(State::Closed),
        }
    }

    /// Reads what has come: 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing yet; why the connection has ended, once; `NotConnected` for
    /// an id of nothing.
    ///
    /// ```
    /// # use std::{collections::VecDeque, time::Instant};
    /// # use synack::{config::Config, engine::Engine};
    /// # let now = Instant::now();
    /// # let mut server = Engine::new(Config::default(), &["10.0.0.1/24".parse()?], 1500, now);
    /// # let mut client = Engine::new(Config::default(), &["10.0.0.2/24".parse()?], 1500, now);
    /// # let exchange = |one: &mut Engine, other: &mut Engine| for _ in 0..9 {
    /// #     let mut packets = VecDeque::new();
    /// #     one.poll_packet(now, 64, &mut packets);
    /// #     packets.drain(..).for_each(|packet| other.on_packet(packet, now));
    /// #     other.poll_packet(now, 64, &mut packets);
    /// #     packets.drain(..).for_each(|packet| one.on_packet(packet, now));
    /// # };
    /// let listener = server.listen("10.0.0.1:80".parse()?, 16)?;
    /// let id = client.connect("10.0.0.1:80".parse()?, now)?;
    /// exchange(&mut client, &mut server);
    /// client.write(id, b"hello", now)?;
    /// exchange(&mut client, &mut server);
    /// let (accepted, _peer) = server.accept(listener).expect("it is established");
    /// let mut buf = [0; 16];
    /// assert_eq!(server.read(accepted, &mut buf, now)?, 5);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(&mut self, id: ConnId, buf: &mut [u8], now: Instant) -> io::Result<usize> {
        let mut spare = buf;
        let read = self.link(id)?.try_read(&mut spare);
        self.after(id, now);
        read
    }

    /// Reads the next chunk of what has come, without a copy where it is a large one: empty at the
    /// end of the stream.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_chunk(&mut self, id: ConnId, max: usize, now: Instant) -> io::Result<Bytes> {
        let read = self.link(id)?.try_read_chunk(max);
        self.after(id, now);
        read
    }

    /// Writes what there is room for, and says how much that was.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, or no connection yet; why the connection has ended, once;
    /// then, and after [`shutdown`](Self::shutdown), `BrokenPipe`; `NotConnected` for an id of
    /// nothing.
    pub fn write(&mut self, id: ConnId, data: &[u8], now: Instant) -> io::Result<usize> {
        let written = self.link(id)?.try_write(data);
        self.after(id, now);
        written
    }

    /// Writes a chunk without a copy: takes off its front what there is room for.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_chunk(
        &mut self,
        id: ConnId,
        chunk: &mut Bytes,
        now: Instant,
    ) -> io::Result<usize> {
        let written = self.link(id)?.try_write_chunk(chunk);
        self.after(id, now);
        written
    }

    /// Ends our side behind what was written; the peer's side lives on.
    ///
    /// # Errors
    /// `NotConnected` for an id of nothing.
    pub fn shutdown(&mut self, id: ConnId, now: Instant) -> io::Result<()> {
        self.link(id)?.shutdown();
        self.after(id, now);
        Ok(())
    }

    /// Lets go of a connection, a listener or a UDP socket: what was written is still sent, unless something was
    /// not read.
    ///
    /// ```
    /// # use std::{collections::VecDeque, time::Instant};
    /// # use synack::{config::Config, engine::Engine};
    /// # let now = Instant::now();
    /// # let mut server = Engine::new(Config::default(), &["10.0.0.1/24".parse()?], 1500, now);
    /// # let mut client = Engine::new(Config::default(), &["10.0.0.2/24".parse()?], 1500, now);
    /// # let exchange = |one: &mut Engine, other: &mut Engine| for _ in 0..9 {
    /// #     let mut packets = VecDeque::new();
    /// #     one.poll_packet(now, 64, &mut packets);
    /// #     packets.drain(..).for_each(|packet| other.on_packet(packet, now));
    /// #     other.poll_packet(now, 64, &mut packets);
    /// #     packets.drain(..).for_each(|packet| one.on_packet(packet, now));
    /// # };
    /// let id = client.connect("10.0.0.1:80".parse()?, now)?;
    /// client.close(id, now); // Nobody has answered yet, so there is nothing left of it.
    /// assert!(client.sockets(now).is_empty());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&mut self, id: ConnId, now: Instant) {
        if let Some(index) = self.slots.resolve(id)
            && let Some(Slot::Listener(listener)) = self.slots.get(index).map(|entry| &entry.slot)
        {
            listener.link.close();
        } else if let Some(link) = self.udp.link(id) {
            link.close();
        } else if let Ok(link) = self.link(id) {
            link.close();
        }
        self.after(id, now);
    }

    /// Resets a connection.
    pub fn abort(&mut self, id: ConnId, now: Instant) {
        let now = self.at(now);
        self.abort_id(id, now);
    }

    /// What is set for a connection.
    pub fn options(&self, id: ConnId) -> Option<SocketOptions> {
        self.link(id).ok().map(|link| link.options())
    }

    /// Changes what is set for a connection. What is out of range is clamped.
    ///
    /// # Errors
    /// `NotConnected` for an id of nothing.
    ///
    /// ```
    /// # use std::{collections::VecDeque, time::Instant};
    /// # use synack::{config::Config, engine::Engine};
    /// # let now = Instant::now();
    /// # let mut server = Engine::new(Config::default(), &["10.0.0.1/24".parse()?], 1500, now);
    /// # let mut client = Engine::new(Config::default(), &["10.0.0.2/24".parse()?], 1500, now);
    /// # let exchange = |one: &mut Engine, other: &mut Engine| for _ in 0..9 {
    /// #     let mut packets = VecDeque::new();
    /// #     one.poll_packet(now, 64, &mut packets);
    /// #     packets.drain(..).for_each(|packet| other.on_packet(packet, now));
    /// #     other.poll_packet(now, 64, &mut packets);
    /// #     packets.drain(..).for_each(|packet| one.on_packet(packet, now));
    /// # };
    /// let id = client.connect("10.0.0.1:80".parse()?, now)?;
    /// client.set_options(id, |options| options.nodelay = true, now)?;
    /// assert_eq!(client.options(id).map(|options| options.nodelay), Some(true));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_options(
        &mut self,
        id: ConnId,
        change: impl FnOnce(&mut SocketOptions),
        now: Instant,
    ) -> io::Result<()> {
        self.link(id)?.set_options(|options| {
            change(options);
            *options = options.clamped();
        });
        self.after(id, now);
        Ok(())
    }

    /// The fields of `TCP_INFO`.
    pub fn info(&self, id: ConnId) -> Option<TcpInfo> {
        self.tcp_info(id)
    }

    /// The netstat view.
    pub fn sockets(&self, now: Instant) -> Vec<SocketInfo> {
        self.socket_infos(self.at(now))
    }

    /// Looks at what was changed through a link. There is no reactor to take what rings.
    pub(super) fn after(&mut self, id: ConnId, now: Instant) {
        self.on_rung(id, now);
        while let Some(rung) = self.bell.pop_rung() {
            self.on_rung(rung, now);
        }
    }
}
