//! What handles ask for.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::SocketOptions,
    engine::{
        Engine,
        demux::{FourTuple, Target},
        listener::Listener,
        slots::Slot,
        tables::tuple_of,
        unspecified,
    },
    error::Failure,
    info::{Protocol, SocketInfo, State, TcpInfo, TimerKind},
    link::{Command, ConnId, ListenerLink, PortGuard, Reuse, StreamLink},
    tcp::handshake::Opening,
    time::Time,
};

/// Ports looked at before one whose last connection to the peer is in TIME-WAIT will do.
const PORTS_TRIED: u32 = 128;

impl Engine {
    /// A handle asks for something.
    pub(crate) fn on_command(&mut self, command: Command, now: Instant) {
        let now = self.at(now);
        match command {
            Command::Connect { link, bound, peer } => drop(self.open(link, bound, peer, now)),
            Command::Listen(link) => drop(self.listen_on(link)),
            Command::Datagrams(link) => self.open_datagrams(link),
            Command::Flows(flows) => self.udp.set_flows(flows),
            Command::Ping { to, payload, reply } => self.ping(to, payload, reply, now),
            Command::Incoming(decider) => self.set_decider(decider),
            Command::Decide(id, decision) => self.decide(id, decision, now),
            // Whoever asked may have gone; then nobody misses the answer.
            Command::Sockets(reply) => drop(reply.send(self.socket_infos(now))),
            Command::Counters(reply) => drop(reply.send(self.counters.clone())),
            Command::Info(id, reply) => drop(reply.send(self.tcp_info(id))),
            Command::Abort(id) => self.abort_id(id, now),
            Command::Shutdown { drain } => self.begin_shutdown(drain, now),
        }
    }

    /// A handle has pressed its button.
    pub(crate) fn on_rung(&mut self, id: ConnId, now: Instant) {
        if self.look_at_datagrams(id) {
            return;
        }
        if let Some(index) = self.slots.resolve(id) {
            let now = self.tick(now);
            self.look(index, now);
        }
    }

    /// Answers the button, then looks.
    pub(super) fn look(&mut self, index: u32, now: Time) {
        let Some(entry) = self.slots.get_mut(index) else {
            return;
        };
        match &mut entry.slot {
            Slot::Open(connection) => {
                let _logged = entry.tuple.logged();
                connection.link.button.answer();
                let was_orphan = connection.is_orphan();
                connection.on_rung(&mut context!(self, now));
                if connection.is_orphan() && !was_orphan {
                    self.orphans += 1;
                    let is_open = connection.state != State::Closed;
                    if is_open && self.orphans > self.config.orphans_max {
                        self.counters.orphans_reset += 1;
                        connection.abort(Failure::Aborted, &mut context!(self, now));
                    }
                }
                self.settle(index);
            }
            Slot::Opening(opening) => {
                opening.link.button.answer();
                if let Some(options) = opening.link.take_options() {
                    opening.options = options;
                }
                // Nobody waits for it any more; a late SYN-ACK will meet a reset.
                if opening.link.closed_by_owner().is_some() {
                    self.abandon_opening(index);
                }
            }
            Slot::Idle(_) | Slot::Undecided(_) => {}
            Slot::Done(link) => {
                link.button.answer();
                if link.closed_by_owner().is_some() {
                    drop(self.remove_slot(index));
                }
            }
            Slot::Listener(listener) => {
                listener.link.button.answer();
                if listener.link.is_closed() {
                    self.close_listener(index, Failure::Reset, now);
                }
            }
        }
    }

    /// The listener is gone: what nobody accepted is reset.
    fn close_listener(&mut self, index: u32, failure: Failure, now: Time) {
        let id = self.slots.id(index);
        let Some(entry) = self.remove_slot(index) else {
            return;
        };
        let Slot::Listener(listener) = entry.slot else {
            return;
        };
        listener.link.fail(failure, &mut self.wakes);
        for link in listener.link.drain() {
            if let Some(id) = link.button.id() {
                self.abort_id(id, now);
            }
            // It is kept for no owner: there will be none.
            link.close();
        }
        let half_open: Vec<u32> = self
            .half_open
            .iter()
            .filter(|(_, pending)| Some(pending.of) == id)
            .map(|(entry, _)| entry)
            .collect();
        for entry in half_open {
            self.forget_half_open(entry);
        }
    }

    /// Registers a listener. Its port is reserved already.
    pub(super) fn listen_on(&mut self, link: Arc<ListenerLink>) -> Option<ConnId> {
        if self.abort_at.is_some() {
            link.fail(Failure::StackClosed, &mut self.wakes);
            return None;
        }
        let local = SocketAddr::new(link.local().ip().to_canonical(), link.local().port());
        let tuple = FourTuple::new(local, unspecified(local.ip()));
        let slot = Slot::Listener(Box::new(Listener {
            link: Arc::clone(&link),
            half_open: 0,
        }));
        let id = self.slots.insert(tuple, None, slot);
        self.listeners.insert(local, id.index());
        link.button.assign(id);
        link.button.answer();
        if link.is_closed() {
            drop(self.remove_slot(id.index()));
            return None;
        }
        Some(id)
    }

    /// OPEN (RFC 9293 §3.10.1): chooses what was left open and sends a SYN.
    pub(super) fn open(
        &mut self,
        link: Arc<StreamLink>,
        bound: Option<PortGuard>,
        peer: SocketAddr,
        now: Time,
    ) -> Option<ConnId> {
        let options = link.options();
        match self.choose_local(bound.as_ref(), peer) {
            Ok(local) => {
                let tuple = FourTuple::new(local, peer);
                // A record of the same connection in TIME-WAIT gives way (RFC 6191): ours is newer.
                let mut iss = self.keys.isn(local, peer, now);
                if let Some(Target::TimeWait(record)) = self.target(&tuple) {
                    iss = self.time_wait.get(record).record.next_iss();
                    self.forget_time_wait(record);
                }
                Some(self.start_opening(link, options, tuple, bound, iss, now))
            }
            Err(failure) => {
                link.fail(failure, &mut self.wakes);
                None
            }
        }
    }

    fn start_opening(
        &mut self,
        link: Arc<StreamLink>,
        options: SocketOptions,
        tuple: FourTuple,
        bound: Option<PortGuard>,
        iss: crate::seq::SeqNum,
        now: Time,
    ) -> ConnId {
        let ts_offset = self.keys.timestamp_offset(tuple.local(), tuple.peer());
        let opening = Opening::new(
            Arc::clone(&link),
            options,
            iss,
            ts_offset,
            self.path(&tuple, now),
            now,
        );
        // MUST-42: who only connects hinders no listener. (Linux: one that connected without
        // SO_REUSEADDR does.) One that is bound counts by that until it is open, so that its handle
        // can give the port back at once.
        if bound.is_none() {
            self.ports.connection_opened(tuple.local(), Reuse::ADDR);
        }
        let id = self
            .slots
            .insert(tuple, bound, Slot::Opening(Box::new(opening)));
        self.insert_target(&tuple, Target::Slot(id.index()));
        self.counters.active_opens += 1;
        link.button.assign(id);
        self.settle(id.index());
        self.look(id.index(), now);
        id
    }

    /// The local address of a connection to `peer` (MUST-44), and a port that is free for it.
    fn choose_local(
        &mut self,
        bound: Option<&PortGuard>,
        peer: SocketAddr,
    ) -> Result<SocketAddr, Failure> {
        if self.abort_at.is_some() {
            return Err(Failure::StackClosed);
        }
        if !self.has_room_for_connection() {
            return Err(Failure::NoMemory);
        }
        let one_host = crate::wire::ip::is_unicast_destination(peer.ip())
            && !self.network.is_broadcast(peer.ip());
        if !one_host && !peer.ip().is_loopback() {
            return Err(Failure::NetworkUnreachable);
        }
        if peer.port() == 0 {
            return Err(Failure::Refused);
        }
        let wanted = bound.map(PortGuard::local);
        let ip = match wanted
            .map(|local| local.ip().to_canonical())
            .filter(|ip| !ip.is_unspecified())
        {
            Some(ip) => ip,
            None => self
                .network
                .source_for(peer.ip())
                .ok_or(Failure::NetworkUnreachable)?,
        };
        if ip.is_ipv4() != peer.is_ipv4() {
            return Err(Failure::NetworkUnreachable);
        }
        if let Some(port) = wanted.map(|local| local.port()).filter(|port| *port != 0) {
            let local = SocketAddr::new(ip, port);
            return match self.target(&FourTuple::new(local, peer)) {
                None | Some(Target::TimeWait(_)) => Ok(local),
                Some(_) => Err(Failure::AddressInUse),
            };
        }
        self.free_port(ip, peer)
            .map(|port| SocketAddr::new(ip, port))
            .ok_or(Failure::NoPort)
    }

    /// RFC 6056: a port that nobody listens on, and from which no connection leads to `peer`.
    fn free_port(&mut self, ip: IpAddr, peer: SocketAddr) -> Option<u16> {
        let Self {
            ephemeral,
            ports,
            demux,
            slots,
            half_open,
            time_wait,
            ..
        } = self;
        let free = |port: u16, over_time_wait: bool| {
            let tuple = FourTuple::new(SocketAddr::new(ip, port), peer);
            let taken = demux.get(&tuple, |target| {
                tuple_of(slots, half_open, time_wait, target)
            });
            !ports.is_bound(port)
                && taken
                    .is_none_or(|target| over_time_wait && matches!(target, Target::TimeWait(_)))
        };
        // When nearly all are in TIME-WAIT, looking at each of them would take too long.
        let mut seen = 0;
        let port = ephemeral.next(ip, peer, |port| {
            seen += 1;
            free(port, seen > PORTS_TRIED)
        });
        port.or_else(|| ephemeral.next(ip, peer, |port| free(port, true)))
    }

    pub(super) fn abort_id(&mut self, id: ConnId, now: Time) {
        let Some(index) = self.slots.resolve(id) else {
            return;
        };
        let Some(entry) = self.slots.get_mut(index) else {
            return;
        };
        match &mut entry.slot {
            Slot::Open(connection) => {
                let _logged = entry.tuple.logged();
                connection.abort(Failure::Aborted, &mut context!(self, now));
                self.settle(index);
            }
            Slot::Opening(opening) => {
                opening.link.fail(Failure::Aborted, &mut self.wakes);
                self.abandon_opening(index);
            }
            Slot::Listener(_) => self.close_listener(index, Failure::Aborted, now),
            Slot::Undecided(_) => drop(self.remove_slot(index)),
            Slot::Idle(_) | Slot::Done(_) => {}
        }
    }

    /// Nobody waits for it any more. A peer that we have told of it is told of its end.
    fn abandon_opening(&mut self, index: u32) {
        match self
            .slots
            .get(index)
            .map(|entry| (&entry.slot, entry.tuple))
        {
            Some((Slot::Opening(opening), tuple)) => {
                let (header, options) = (opening.abort_segment(), opening.options);
                self.finish_opening(index);
                if let Some(header) = header
                    && self.send(tuple, header, &options)
                {
                    self.counters.resets_sent += 1;
                }
            }
            Some(_) => drop(self.remove_slot(index)),
            None => {}
        }
    }

    /// No new connections; those there are have `drain` to come to their end.
    fn begin_shutdown(&mut self, drain: Duration, now: Time) {
        let at = now + drain;
        self.abort_at = Some(self.abort_at.map_or(at, |before| before.min(at)));
        let listeners: Vec<u32> = self
            .slots
            .iter()
            .filter(|(_, e)| matches!(e.slot, Slot::Listener(_)))
            .map(|(index, _)| index)
            .collect();
        for index in listeners {
            self.close_listener(index, Failure::StackClosed, now);
        }
    }

    /// The time to drain is over.
    pub(super) fn abort_all(&mut self, now: Time) {
        self.aborted = true;
        let ids: Vec<ConnId> = self
            .slots
            .iter()
            .filter_map(|(index, _)| self.slots.id(index))
            .collect();
        for id in ids {
            let Some(entry) = self
                .slots
                .resolve(id)
                .and_then(|index| self.slots.get_mut(index))
            else {
                continue;
            };
            match &mut entry.slot {
                Slot::Open(connection) => {
                    let _logged = entry.tuple.logged();
                    connection.abort(Failure::StackClosed, &mut context!(self, now))
                }
                Slot::Opening(opening) => opening.link.fail(Failure::StackClosed, &mut self.wakes),
                Slot::Idle(_) | Slot::Listener(_) | Slot::Undecided(_) | Slot::Done(_) => {}
            }
            if matches!(entry.slot, Slot::Opening(_) | Slot::Undecided(_)) {
                self.abandon_opening(id.index());
            } else {
                self.settle(id.index());
            }
        }
    }

    /// The netstat view: listeners, connections, half-open ones and those in TIME-WAIT; and UDP.
    pub(super) fn socket_infos(&self, now: Time) -> Vec<SocketInfo> {
        let mut infos: Vec<SocketInfo> = self
            .slots
            .iter()
            .filter_map(|(_, entry)| match &entry.slot {
                Slot::Listener(listener) => Some(listener_info(listener)),
                Slot::Opening(opening) => Some(opening.socket_info(now)),
                Slot::Open(connection) => Some(connection.socket_info(now)),
                Slot::Idle(idle) => Some(idle.socket_info(now)),
                Slot::Undecided(undecided) => {
                    let timer = (TimerKind::Limit, undecided.deadline.since(now));
                    Some(small_info(&entry.tuple, State::SynReceived, timer))
                }
                Slot::Done(_) => None,
            })
            .collect();
        infos.extend(self.half_open.iter().map(|(entry, pending)| {
            let timer = (TimerKind::Retransmit, self.half_open.due(entry).since(now));
            small_info(&pending.tuple, State::SynReceived, timer)
        }));
        infos.extend(self.time_wait.iter().map(|(record, waiting)| {
            let timer = (TimerKind::TimeWait, self.time_wait.due(record).since(now));
            small_info(&waiting.tuple, State::TimeWait, timer)
        }));
        infos.extend(self.udp.infos());
        infos
    }

    pub(super) fn tcp_info(&self, id: ConnId) -> Option<TcpInfo> {
        match &self
            .slots
            .resolve(id)
            .and_then(|index| self.slots.get(index))?
            .slot
        {
            Slot::Open(connection) => Some(connection.tcp_info()),
            Slot::Idle(idle) => Some(idle.tcp_info()),
            Slot::Opening(_) | Slot::Listener(_) | Slot::Undecided(_) | Slot::Done(_) => None,
        }
    }
}

/// Of what is less than a connection.
fn small_info(tuple: &FourTuple, state: State, timer: (TimerKind, Duration)) -> SocketInfo {
    SocketInfo {
        protocol: Protocol::Tcp,
        state,
        local: tuple.local(),
        peer: Some(tuple.peer()),
        recv_queue: 0,
        send_queue: 0,
        half_open: 0,
        timer: Some(timer),
        owned: false,
    }
}

fn listener_info(listener: &Listener) -> SocketInfo {
    SocketInfo {
        protocol: Protocol::Tcp,
        state: State::Listen,
        local: listener.link.local(),
        peer: None,
        recv_queue: listener.link.len(),
        send_queue: listener.link.backlog(),
        half_open: listener.half_open as usize,
        timer: None,
        owned: true,
    }
}
