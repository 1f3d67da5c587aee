//! All connections of a stack, without I/O: packets, time and randomness are arguments.
//!
//! [`Engine`] is what the background task drives, and it can be driven by any other loop. Its
//! methods are of four kinds, and the prefix says which: `on_*` tells it that something happened,
//! `poll_*` takes output until there is no more, `next_*` says when to come back, and nouns only
//! look. After any number of `on_*` calls, drain [`Engine::poll_packet`]; only then does
//! [`Engine::next_deadline`] mean anything. Time never goes back.
//!
//! ```
//! use std::{collections::VecDeque, time::Instant};
//! use synack::{config::Config, engine::Engine};
//!
//! let now = Instant::now();
//! let mut server = Engine::new(Config::default(), &["10.0.0.1/24".parse()?], 1500, now);
//! let mut client = Engine::new(Config::default(), &["10.0.0.2/24".parse()?], 1500, now);
//!
//! let listener = server.listen("10.0.0.1:80".parse()?, 16)?;
//! let stream = client.connect("10.0.0.1:80".parse()?, now)?;
//!
//! // Carry packets to and fro until both are quiet.
//! let mut packets = VecDeque::new();
//! loop {
//!     client.poll_packet(now, 64, &mut packets);
//!     packets.drain(..).for_each(|packet| server.on_packet(packet, now));
//!     server.poll_packet(now, 64, &mut packets);
//!     if packets.is_empty() {
//!         break;
//!     }
//!     packets.drain(..).for_each(|packet| client.on_packet(packet, now));
//! }
//! let (accepted, peer) = server.accept(listener).expect("the handshake is complete");
//! assert_eq!(client.state(stream), Some(synack::info::State::Established));
//! # let _ = (accepted, peer);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

/// What a connection is called with: a macro, for it borrows some fields and leaves the others.
macro_rules! context {
    ($engine:expr, $now:expr) => {
        crate::tcp::Context {
            now: $now,
            config: &$engine.config,
            counters: &mut $engine.counters,
            wakes: &mut $engine.wakes,
        }
    };
}

mod answers;
mod api;
mod api_udp;
mod commands;
mod deadlines;
mod demux;
mod ephemeral;
mod fifo;
mod icmp;
mod incoming;
mod isn;
mod limiter;
mod listener;
mod path_mtus;
mod ping;
mod segments;
mod slots;
mod sources;
mod tables;
#[cfg(test)]
mod tests;
mod udp;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::Waker,
    time::Instant,
};

use ipnet::IpNet;
use rand::{Rng, SeedableRng, rngs::StdRng};

pub use self::api_udp::UdpDatagram;
pub use crate::link::ConnId;
use crate::{
    config::{Config, SocketOptions},
    engine::{
        deadlines::Deadlines,
        demux::{Demux, FourTuple},
        ephemeral::EphemeralPorts,
        fifo::Fifo,
        incoming::Incoming,
        isn::SecretKeys,
        limiter::Limiter,
        listener::{Listeners, Pending},
        path_mtus::PathMtus,
        ping::Pings,
        slots::{Slot, Slots},
        sources::Sources,
        udp::Udp,
    },
    error::Failure,
    info::{Counters, State},
    link::{Doorbell, Network, Ports, Wakes},
    packet::{Packet, Payload},
    tcp::time_wait::TimeWait,
    time::Time,
    wire::{
        ip::IpEmit,
        tcp::{self, TcpHeader},
    },
};

/// Resets that may be sent in a second, in the mean, and as many ICMP messages, and as many
/// acknowledgements that answer for no connection.
const ANSWERS_PER_SECOND: u32 = 1000;

/// Lists of half-open connections: one for each number of SYN-ACKs sent again.
const REPEATS: usize = 17;

/// A record in TIME-WAIT.
#[derive(Debug)]
struct Waiting {
    tuple: FourTuple,
    record: TimeWait,
}

/// Limits for packets that anybody can make us send, one for each kind: a flood of one kind does
/// not silence the others.
#[derive(Debug)]
struct Limits {
    resets: Limiter,
    icmp: Limiter,
    acks: Limiter,
}

impl Limits {
    const fn new() -> Self {
        Self {
            resets: Limiter::new(ANSWERS_PER_SECOND),
            icmp: Limiter::new(ANSWERS_PER_SECOND),
            acks: Limiter::new(ANSWERS_PER_SECOND),
        }
    }
}

/// All connections of a stack.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    epoch: Instant,
    /// The last moment that the engine was told, in both its forms.
    clock: (Instant, Time),
    addresses: Vec<IpNet>,
    mtu: usize,
    bell: Arc<Doorbell>,
    ports: Arc<Ports>,
    keys: SecretKeys,
    rng: StdRng,
    ephemeral: EphemeralPorts,
    limits: Limits,
    sources: Sources,
    slots: Slots,
    demux: Demux,
    listeners: Listeners,
    half_open: Fifo<Pending, REPEATS>,
    time_wait: Fifo<Waiting, 1>,
    deadlines: Deadlines,
    /// Slots that may have something to send.
    ready: VecDeque<u32>,
    /// Answers that belong to no connection.
    answers: VecDeque<Packet>,
    /// Packets to ourselves.
    looped: VecDeque<Packet>,
    wakes: Wakes,
    counters: Counters,
    orphans: usize,
    incoming: Incoming,
    network: Arc<Network>,
    udp: Udp,
    pings: Pings,
    path_mtus: PathMtus,
    /// SYN cookies are valid until then.
    cookies_until: Time,
    /// Shutting down: what is left then is reset.
    abort_at: Option<Time>,
    aborted: bool,
}

impl Engine {
    /// A stack with these addresses, over a device that takes packets of up to `mtu` bytes.
    pub fn new(config: Config, addresses: &[IpNet], mtu: usize, now: Instant) -> Self {
        let mut rng = match config.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => rand::make_rng(),
        };
        let keys = SecretKeys::new(&mut rng);
        let ips: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
        let ports = Ports::new(ips.clone(), false, rng.next_u64());
        let demux = Demux::new((rng.next_u64(), rng.next_u64()));
        let udp_ports = Ports::new(ips, false, rng.next_u64());
        let bell = Doorbell::new();
        bell.budget().set_limit(config.memory);
        let network = Network::new(addresses, mtu, udp_ports, Arc::clone(&bell));
        Self {
            epoch: now,
            clock: (now, Time::ZERO),
            addresses: addresses.to_vec(),
            mtu,
            bell,
            ports,
            network,
            udp: Udp::default(),
            pings: Pings::default(),
            path_mtus: PathMtus::new(),
            keys,
            ephemeral: EphemeralPorts::new(ephemeral::DEFAULT_RANGE, &mut rng),
            limits: Limits::new(),
            sources: Sources::new(config.per_source_max),
            slots: Slots::default(),
            demux,
            listeners: Listeners::default(),
            half_open: Fifo::new(),
            time_wait: Fifo::new(),
            deadlines: Deadlines::new(),
            ready: VecDeque::new(),
            answers: VecDeque::new(),
            looped: VecDeque::new(),
            wakes: Wakes::new(),
            counters: Counters::default(),
            orphans: 0,
            incoming: Incoming::default(),
            cookies_until: Time::ZERO,
            abort_at: None,
            aborted: false,
            rng,
            config,
        }
    }

    /// The engine's time at `now`.
    fn at(&self, now: Instant) -> Time {
        Time::from_start(now.saturating_duration_since(self.epoch))
    }

    /// The same, remembered: all that one turn of a reactor brings comes at one time.
    fn tick(&mut self, now: Instant) -> Time {
        if self.clock.0 != now {
            self.clock = (now, self.at(now));
        }
        self.clock.1
    }

    pub(crate) fn doorbell(&self) -> &Arc<Doorbell> {
        &self.bell
    }

    pub(crate) fn ports(&self) -> &Arc<Ports> {
        &self.ports
    }

    pub(crate) fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// What new sockets start with.
    pub fn default_options(&self) -> SocketOptions {
        self.config.options
    }

    /// Counts what a device has thrown away.
    pub fn set_device_drops(&mut self, drops: u64) {
        self.counters.drop_device = drops;
    }

    /// All counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The device takes packets of up to `mtu` bytes from now on.
    pub fn set_mtu(&mut self, mtu: usize) {
        if mtu == self.mtu {
            return;
        }
        self.mtu = mtu;
        self.network.set_mtu(mtu);
        self.path_mtus = PathMtus::new();
        let open: Vec<u32> = self.slots.iter().map(|(index, _)| index).collect();
        for index in open {
            if let Some(Slot::Open(connection)) =
                self.slots.get_mut(index).map(|entry| &mut entry.slot)
            {
                connection.set_path_mtu(mtu as u32);
                self.settle(index);
            }
        }
    }

    /// Timers are due.
    pub fn on_timeout(&mut self, now: Instant) {
        let now = self.at(now);
        while let Some(index) = self.deadlines.pop_due(now) {
            self.on_slot_timeout(index, now);
        }
        self.on_half_open_timeouts(now);
        while let Some(entry) = self.time_wait.first_due(now) {
            self.forget_time_wait(entry);
        }
        if self.abort_at.is_some_and(|at| at <= now) && !self.aborted {
            self.abort_all(now);
        }
    }

    /// Appends packets to `out`, until there is nothing more to send now (true) or `max` were
    /// appended (false).
    pub fn poll_packet(&mut self, now: Instant, max: usize, out: &mut VecDeque<Packet>) -> bool {
        let end = out.len() + max;
        let at = self.tick(now);
        loop {
            while out.len() < end {
                if let Some(packet) = self.answers.pop_front() {
                    out.push_back(packet);
                    continue;
                }
                // Connections and datagram sockets take turns.
                let index = self.ready.pop_front();
                if let Some(index) = index {
                    self.poll_slot(index, at, out);
                }
                if !self.poll_datagram() && index.is_none() {
                    break;
                }
            }
            if out.len() >= end {
                return !self.has_to_send() && self.looped.is_empty();
            }
            if self.looped.is_empty() {
                return true;
            }
            // What we sent to ourselves comes in again.
            while let Some(packet) = self.looped.pop_front() {
                self.on_looped(packet, at);
            }
        }
    }

    /// Whether anything waits to be sent.
    fn has_to_send(&self) -> bool {
        !self.answers.is_empty() || !self.ready.is_empty() || self.udp.has_to_send()
    }

    /// When to call [`on_timeout`](Self::on_timeout) next. Only meaningful after
    /// [`poll_packet`](Self::poll_packet) has returned true.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let abort = self.abort_at.filter(|_| !self.aborted);
        let times = [
            self.deadlines.next(),
            self.half_open.next(),
            self.time_wait.next(),
            abort,
        ];
        let earliest = times.into_iter().flatten().min()?;
        self.epoch.checked_add(earliest.since_start())
    }

    /// Wakers of whom something happened to, to be fired after the packets were sent.
    pub fn wakes(&mut self) -> &mut Vec<Waker> {
        &mut self.wakes
    }

    /// The engine was shut down, and everything has come to its end.
    pub fn is_finished(&self) -> bool {
        self.abort_at.is_some() && self.slots.is_quiet() && !self.has_to_send()
    }

    /// The device is gone: every handle is told.
    pub fn fail(&mut self, failure: Failure) {
        let all: Vec<u32> = self.slots.iter().map(|(index, _)| index).collect();
        for index in all {
            if let Some(entry) = self.remove_slot(index) {
                match entry.slot {
                    Slot::Listener(listener) => {
                        listener.link.fail(failure, &mut self.wakes);
                        for link in listener.link.drain() {
                            link.fail(failure, &mut self.wakes);
                        }
                    }
                    Slot::Opening(opening) => opening.link.fail(failure, &mut self.wakes),
                    Slot::Open(connection) => connection.link.fail(failure, &mut self.wakes),
                    Slot::Idle(_) | Slot::Undecided(_) | Slot::Done(_) => {}
                }
            }
        }
        self.fail_datagrams(failure);
        self.incoming.dismiss();
        self.ready.clear();
        self.answers.clear();
        self.looped.clear();
    }

    /// Whether this address is one of the stack's.
    fn is_ours(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == ip)
    }

    /// Marks a slot as one that may have something to send, and sets its deadline.
    fn settle(&mut self, index: u32) {
        let Some(entry) = self.slots.get_mut(index) else {
            return;
        };
        if !entry.ready {
            entry.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Takes one packet from a slot. When there is none, the slot is settled: its deadline is set,
    /// or it becomes a record in TIME-WAIT, or it is forgotten.
    fn poll_slot(&mut self, index: u32, now: Time, out: &mut VecDeque<Packet>) {
        let Some(entry) = self.slots.get_mut(index) else {
            return;
        };
        let tuple = entry.tuple;
        match &mut entry.slot {
            Slot::Idle(_) | Slot::Listener(_) | Slot::Undecided(_) | Slot::Done(_) => {
                entry.ready = false;
            }
            Slot::Opening(opening) => {
                entry.ready = false;
                let (deadline, options) = (opening.deadline, opening.options);
                let header = opening.poll_segment(&context!(self, now));
                self.deadlines.set(index, Some(deadline));
                if let Some(header) = header {
                    let class = (options.ttl, options.class(tuple.local().is_ipv6()));
                    let packet = self.packet(&tuple, header, Payload::new(), 0, class);
                    self.emit(packet, &tuple, out);
                }
            }
            Slot::Open(connection) => {
                let _logged = tuple.logged();
                if let Some(seg) = connection.poll_segment(&mut context!(self, now)) {
                    // Others have their turn before the next one.
                    self.ready.push_back(index);
                    let tos = if seg.ect { seg.tos & !3 | 2 } else { seg.tos };
                    let class = (seg.ttl, tos);
                    let packet = self.packet(&tuple, seg.header, seg.payload, seg.gso_size, class);
                    return self.emit(packet, &tuple, out);
                }
                entry.ready = false;
                let connection_is_idle = connection.is_idle();
                let (state, deadline, finished) = (
                    connection.state,
                    connection.next_deadline(),
                    connection.is_finished(),
                );
                match state {
                    State::TimeWait => self.enter_time_wait(index, now),
                    State::Closed if finished => drop(self.finish(index)),
                    _ => {
                        self.deadlines.set(index, deadline);
                        if connection_is_idle {
                            self.slots.on_quiet(index, now);
                        }
                    }
                }
            }
        }
    }

    /// A connection's packet goes out, or is for ourselves.
    fn emit(&mut self, packet: Packet, tuple: &FourTuple, out: &mut VecDeque<Packet>) {
        if self.network.is_local(tuple.peer().ip()) {
            self.looped.push_back(packet);
        } else {
            self.counters.packets_sent += 1;
            out.push_back(packet);
        }
    }

    /// The packet of a segment.
    fn packet(
        &mut self,
        tuple: &FourTuple,
        mut header: TcpHeader,
        payload: Payload,
        gso_size: u16,
        (ttl, tos): (u8, u8),
    ) -> Packet {
        let (local, peer) = (tuple.local(), tuple.peer());
        (header.src_port, header.dst_port) = (local.port(), peer.port());
        let ip = IpEmit {
            src: local.ip(),
            dst: peer.ip(),
            protocol: 0,
            ttl,
            tos,
            payload_len: 0,
        };
        self.counters.segments_sent += 1;
        tcp::packet(ip, &header, payload, gso_size)
    }
}

/// What is bound where nothing was asked for.
fn unspecified(of: IpAddr) -> SocketAddr {
    match of {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    }
}
