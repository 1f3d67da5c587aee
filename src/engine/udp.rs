//! Datagrams: which socket takes them, and what is answered when none does.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use hashbrown::HashMap;
use slab::Slab;
use tokio::sync::mpsc;

use crate::{
    engine::{Engine, icmp::believable_mtu, icmp::failure_of, segments::count},
    error::Failure,
    info::{Protocol, SocketInfo, State},
    link::{ConnId, Datagram, DatagramLink},
    packet::Packet,
    time::Time,
    wire::{
        icmp::{IcmpError, IcmpErrorKind, Report, Unreachable},
        ip::{IpEmit, IpHeader},
        udp::{self, UdpHeader},
    },
};

/// Set in the index of the id of a datagram socket, and in that of no connection.
const TAG: u32 = 1 << 31;

/// Flows that there may be at one time.
const FLOWS_MAX: usize = 1 << 16;

/// All datagram sockets.
#[derive(Debug, Default)]
pub(super) struct Udp {
    sockets: Slab<Socket>,
    generation: u32,
    /// Those that are bound, by their ports. Hardly ever more than one or two to a port: addresses
    /// and connections are asked of each.
    by_port: HashMap<u16, Vec<u32>>,
    /// The one for any destination.
    any: Option<u32>,
    /// Who is given a flow for each pair of addresses.
    flows: Option<mpsc::Sender<Arc<DatagramLink>>>,
    /// Flows by their addresses: ours, or what is taken for one, and the peer's.
    by_flow: HashMap<(SocketAddr, SocketAddr), u32>,
    /// Those that have something to send.
    ready: VecDeque<u32>,
}

#[derive(Debug)]
struct Socket {
    generation: u32,
    /// It is in the list of those that have something to send.
    ready: bool,
    link: Arc<DatagramLink>,
}

impl Udp {
    /// Whether somebody takes datagrams to any address.
    pub(super) fn takes_any(&self) -> bool {
        self.any.is_some() || self.flows.is_some() || !self.by_flow.is_empty()
    }

    /// From now on there is a flow for each pair of addresses.
    pub(super) fn set_flows(&mut self, flows: mpsc::Sender<Arc<DatagramLink>>) {
        self.flows = Some(flows);
    }

    /// Whether a datagram waits to be sent.
    pub(super) fn has_to_send(&self) -> bool {
        !self.ready.is_empty()
    }

    fn insert(&mut self, link: Arc<DatagramLink>) -> ConnId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let (bound, flow) = (link.local_bound(), link.flow_addrs());
        let index = self.sockets.insert(Socket {
            generation,
            ready: false,
            link,
        }) as u32;
        match (bound, flow) {
            (Some(local), _) => self.by_port.entry(local.port()).or_default().push(index),
            (None, Some(addrs)) => drop(self.by_flow.insert(addrs, index)),
            (None, None) => self.any = Some(index),
        }
        ConnId::new(index | TAG, generation)
    }

    /// The index of a socket that still has this id.
    fn resolve(&self, id: ConnId) -> Option<u32> {
        let index = id.index() & !TAG;
        let socket = self.sockets.get(index as usize)?;
        (socket.generation == id.generation()).then_some(index)
    }

    /// What the socket of this id shares with its owner.
    pub(super) fn link(&self, id: ConnId) -> Option<&Arc<DatagramLink>> {
        if id.index() & TAG == 0 {
            return None;
        }
        let index = self.resolve(id)?;
        let link = &self.sockets[index as usize].link;
        (!link.is_closed()).then_some(link)
    }

    /// Lines of the netstat view. As Linux has it, a socket that is not connected is CLOSED.
    pub(super) fn infos(&self) -> impl Iterator<Item = SocketInfo> {
        self.sockets.iter().map(|(_, socket)| {
            let (recv_queue, send_queue) = socket.link.queued();
            let peer = socket.link.peer_addr().ok();
            SocketInfo {
                protocol: Protocol::Udp,
                state: peer.map_or(State::Closed, |_| State::Established),
                local: socket.link.local_addr(),
                peer,
                recv_queue,
                send_queue,
                half_open: 0,
                timer: None,
                owned: !socket.link.is_closed(),
            }
        })
    }

    /// It gets no more datagrams.
    fn unbind(&mut self, index: u32) {
        let Some(socket) = self.sockets.get(index as usize) else {
            return;
        };
        if let Some(addrs) = socket.link.flow_addrs() {
            if self.by_flow.get(&addrs) == Some(&index) {
                self.by_flow.remove(&addrs);
            }
            return;
        }
        let Some(local) = socket.link.local_bound() else {
            self.any = self.any.filter(|any| *any != index);
            return;
        };
        if let Some(bound) = self.by_port.get_mut(&local.port()) {
            bound.retain(|other| *other != index);
            if bound.is_empty() {
                self.by_port.remove(&local.port());
            }
        }
    }

    /// Those that are bound to a port.
    fn at_port(&self, port: u16) -> impl Iterator<Item = &Arc<DatagramLink>> {
        let indices = self.by_port.get(&port).into_iter().flatten();
        indices.filter_map(|index| Some(&self.sockets.get(*index as usize)?.link))
    }

    /// The flow between two addresses.
    fn flow(&self, addrs: (SocketAddr, SocketAddr)) -> Option<&Arc<DatagramLink>> {
        let index = *self.by_flow.get(&addrs)?;
        Some(&self.sockets.get(index as usize)?.link)
    }

    /// Who takes a datagram: the socket that fits it best, else its flow, else the one for any
    /// destination.
    fn socket_for(&self, datagram: &Datagram) -> Option<&Arc<DatagramLink>> {
        let Datagram { local, peer, .. } = *datagram;
        let scored = self.at_port(local.port());
        let scored = scored.filter_map(|link| Some((link.score(local, peer)?, link)));
        let best = scored.max_by_key(|(score, _)| *score);
        let any = || Some(&self.sockets.get(self.any? as usize)?.link);
        let flow = || self.flow((local, peer));
        best.map(|(_, link)| link).or_else(flow).or_else(any)
    }

    /// Puts a socket into the list of those that have something to send, if it has.
    fn look(&mut self, index: u32) {
        let Some(socket) = self.sockets.get_mut(index as usize) else {
            return;
        };
        if !socket.ready && socket.link.has_to_send() {
            socket.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Forgets a socket without an owner once it has sent everything.
    fn remove_if_done(&mut self, index: u32) {
        let done = |socket: &Socket| !socket.ready && socket.link.is_closed();
        if self.sockets.get(index as usize).is_some_and(done) {
            self.unbind(index);
            self.sockets.remove(index as usize);
        }
    }
}

impl Engine {
    /// Registers a socket. Its port is reserved already.
    pub(super) fn open_datagrams(&mut self, link: Arc<DatagramLink>) {
        if self.abort_at.is_some() {
            return link.fail(Failure::StackClosed, &mut self.wakes);
        }
        let id = self.udp.insert(Arc::clone(&link));
        link.button.assign(id);
        self.look_at_datagrams(id);
    }

    /// Answers the button of a datagram socket, then looks. False if the id names none.
    pub(super) fn look_at_datagrams(&mut self, id: ConnId) -> bool {
        if id.index() & TAG == 0 {
            return false;
        }
        if let Some(index) = self.udp.resolve(id) {
            let link = &self.udp.sockets[index as usize].link;
            link.button.answer();
            if link.is_closed() {
                self.udp.unbind(index);
            }
            self.udp.look(index);
            self.udp.remove_if_done(index);
        }
        true
    }

    /// Takes one datagram from the next socket that has any. False if none has.
    pub(super) fn poll_datagram(&mut self) -> bool {
        let Some(index) = self.udp.ready.pop_front() else {
            return false;
        };
        let Some(socket) = self.udp.sockets.get_mut(index as usize) else {
            return true;
        };
        let taken = socket.link.take_to_send(&mut self.wakes);
        socket.ready = taken.as_ref().is_some_and(|(.., more)| *more);
        if socket.ready {
            // Others have their turn before the next one.
            self.udp.ready.push_back(index);
        }
        self.udp.remove_if_done(index);
        if let Some((datagram, marks, _)) = taken {
            let ip = IpEmit {
                src: datagram.local.ip(),
                dst: datagram.peer.ip(),
                protocol: 0,
                ttl: marks.ttl,
                tos: match datagram.peer {
                    SocketAddr::V4(_) => marks.tos,
                    SocketAddr::V6(_) => marks.tclass,
                },
                payload_len: 0,
            };
            self.send_datagram(datagram, ip);
        }
        true
    }

    fn send_datagram(&mut self, datagram: Datagram, ip: IpEmit) {
        let Datagram {
            local,
            peer,
            payload,
        } = datagram;
        let local_max = udp::payload_max(ip.dst, usize::MAX);
        let is_local = self.network.is_local(ip.dst);
        let max = if is_local {
            local_max
        } else {
            udp::payload_max(ip.dst, self.mtu)
        };
        if payload.len() > max {
            self.counters.drop_datagram_size += 1;
            return;
        }
        let packet = udp::packet(ip, local.port(), peer.port(), payload);
        let sent = self.route(packet, ip.dst);
        self.counters.datagrams_sent += u64::from(sent);
    }

    /// A datagram from the device or from ourselves.
    pub(super) fn on_datagram(&mut self, packet: &Packet, ip: &IpHeader, now: Time) {
        let header = match UdpHeader::of(packet, ip) {
            Ok(header) => header,
            Err(reason) => return count(&mut self.counters, reason),
        };
        if header.dst_port == 0 {
            self.counters.drop_malformed_udp += 1;
            return;
        }
        let start = ip.header_len + udp::HEADER_LEN;
        let mut datagram = Datagram {
            local: (ip.dst, header.dst_port).into(),
            peer: (ip.src, header.src_port).into(),
            payload: Bytes::new(),
        };
        let link = self.udp.socket_for(&datagram).map(Arc::clone);
        let Some(link) = link.or_else(|| self.open_flow(&datagram)) else {
            self.counters.drop_no_socket += 1;
            if self.config.reset_closed_ports {
                self.report(packet, ip, Report::Port, now);
            }
            return;
        };
        // Copied, so that it pins nothing but itself while it waits to be read.
        let mut payload = Vec::with_capacity(header.len - udp::HEADER_LEN);
        packet
            .slices(start..ip.header_len + header.len)
            .for_each(|slice| payload.extend_from_slice(slice));
        datagram.payload = payload.into();
        if link.deliver(datagram, &mut self.wakes) {
            self.counters.datagrams_received += 1;
        } else {
            self.counters.drop_datagram += 1;
        }
    }

    /// A flow for a datagram that nobody else takes, if anybody is to be given one, and has taken
    /// those before.
    fn open_flow(&mut self, datagram: &Datagram) -> Option<Arc<DatagramLink>> {
        let flows = self.udp.flows.as_ref()?;
        if flows.is_closed() {
            self.udp.flows = None;
            return None;
        }
        let full = self.udp.by_flow.len() >= FLOWS_MAX;
        if full || self.abort_at.is_some() || !is_from_somebody(datagram) {
            return None;
        }
        let place = flows.clone().try_reserve_owned().ok()?;
        let (limits, marks) = self.datagram_defaults();
        let link = Arc::new(DatagramLink::flow(
            Arc::clone(&self.bell),
            Arc::clone(&self.network),
            (datagram.local, datagram.peer),
            limits,
            marks,
        ));
        self.open_datagrams(Arc::clone(&link));
        place.send(Arc::clone(&link));
        Some(link)
    }

    /// An ICMP error about a datagram. As on Linux, only a socket that is connected to where it was
    /// sent hears of it, and only if the error is final.
    pub(super) fn on_datagram_error(&mut self, error: &IcmpError) {
        let quote = &error.quote;
        let tuple = (
            (quote.src, quote.src_port).into(),
            (quote.dst, quote.dst_port).into(),
        );
        let Self { udp, wakes, .. } = self;
        let mut sockets = udp.at_port(quote.src_port).chain(udp.flow(tuple));
        let heard = match error.kind {
            IcmpErrorKind::PacketTooBig { mtu } => {
                let mtu = believable_mtu(mtu, quote.packet_len, quote.src.is_ipv4());
                sockets.any(|link| link.set_path_mtu(tuple, mtu as usize))
            }
            kind if is_final(kind) => failure_of(kind).is_some_and(|(failure, _)| {
                sockets.any(|link| link.set_error(tuple, failure, wakes))
            }),
            _ => false,
        };
        let counter = if heard {
            &mut self.counters.icmp_errors
        } else {
            &mut self.counters.drop_icmp
        };
        *counter += 1;
    }

    /// The stack has ended.
    pub(super) fn fail_datagrams(&mut self, failure: Failure) {
        for (_, socket) in &self.udp.sockets {
            socket.link.fail(failure, &mut self.wakes);
        }
        self.udp = Udp::default();
        self.pings.clear();
    }
}

/// Whether an answer can be sent to where a datagram is from.
const fn is_from_somebody(datagram: &Datagram) -> bool {
    datagram.peer.port() != 0
}

/// Linux: `fatal` in `icmp_err_convert`. Anything else may pass.
const fn is_final(kind: IcmpErrorKind) -> bool {
    matches!(
        kind,
        IcmpErrorKind::Unreachable(
            Unreachable::Port | Unreachable::Protocol | Unreachable::AdminProhibited
        )
    )
}
