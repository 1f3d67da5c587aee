//! LISTEN: half-open connections, the accept queue, and SYN cookies (RFC 9293 §3.10.7.2).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use crate::{
    engine::{
        Engine,
        demux::{FourTuple, Target},
        isn::CookieOptions,
        slots::Slot,
    },
    link::{ConnId, ListenerLink, Reuse, StreamLink},
    tcp::{
        Segment,
        connection::Connection,
        handshake::{HalfOpen, Reaction},
        negotiated::{Negotiated, receive_shift},
        path_mtu::{Path, PathMtu},
    },
    time::Time,
    wire::{
        options::Timestamps,
        tcp::{Flags, TcpHeader},
    },
};

/// After a flood, how long cookies may still come back (threat F2).
const COOKIES_FOR: Duration = Duration::from_secs(120);

/// A listener.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) link: Arc<ListenerLink>,
    /// Half-open connections that are its.
    pub(crate) half_open: u32,
}

/// A half-open connection in the engine's table.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) tuple: FourTuple,
    /// The listener.
    pub(crate) of: ConnId,
    pub(crate) half: HalfOpen,
}

/// Which listener serves an address.
#[derive(Debug, Default)]
pub(crate) struct Listeners(HashMap<u16, SmallVec<[(IpAddr, u32); 2]>>);

impl Listeners {
    pub(crate) fn insert(&mut self, local: SocketAddr, index: u32) {
        self.0
            .entry(local.port())
            .or_default()
            .push((local.ip(), index));
    }

    pub(crate) fn remove(&mut self, local: SocketAddr, index: u32) {
        if let Some(all) = self.0.get_mut(&local.port()) {
            all.retain(|(_, other)| *other != index);
            if all.is_empty() {
                self.0.remove(&local.port());
            }
        }
    }

    /// One bound to the very address goes before one of its family, and that before one of all.
    /// Among equals (`SO_REUSEPORT`) `pick` chooses.
    fn find(&self, local: SocketAddr, pick: usize) -> Option<u32> {
        let all = self.0.get(&local.port())?;
        let rank = |ip: IpAddr| match ip {
            ip if ip == local.ip() => Some(0),
            ip if ip.is_unspecified() && ip.is_ipv4() == local.is_ipv4() => Some(1),
            IpAddr::V6(ip) if ip.is_unspecified() => Some(2),
            _ => None,
        };
        let best = all.iter().filter_map(|(ip, _)| rank(*ip)).min()?;
        let equal: SmallVec<[u32; 4]> = all
            .iter()
            .filter(|(ip, _)| rank(*ip) == Some(best))
            .map(|(_, index)| *index)
            .collect();
        equal.get(pick % equal.len().max(1)).copied()
    }
}

impl Engine {
    /// Which listener takes a segment of this four-tuple.
    pub(super) fn listener_for(&self, tuple: &FourTuple) -> Option<u32> {
        let (local, peer) = (tuple.local(), tuple.peer());
        self.listeners.find(local, usize::from(peer.port()))
    }

    fn listener(&self, index: u32) -> Option<&Listener> {
        match self.slots.get(index).map(|entry| &entry.slot) {
            Some(Slot::Listener(listener)) => Some(listener),
            _ => None,
        }
    }

    /// RFC 9293 §3.10.7.2. RSTs were dropped before.
    pub(super) fn in_listen(&mut self, index: u32, tuple: FourTuple, seg: Segment, now: Time) {
        let flags = seg.header.flags;
        if flags.has(Flags::ACK) {
            if flags.has(Flags::SYN) || !self.try_cookie(index, &tuple, &seg, now) {
                self.reset(&tuple, &seg, now);
            }
            return;
        }
        if !flags.has(Flags::SYN) || flags.has(Flags::FIN) {
            self.counters.drop_bad_flags += 1;
            return;
        }
        let Some(listener) = self.listener(index) else {
            return;
        };
        if listener.link.is_full() {
            self.counters.drop_accept_queue += 1;
            return;
        }
        let iss = self.keys.isn(tuple.local(), tuple.peer(), now);
        self.take_syn(index, tuple, &seg, iss, now);
    }

    /// Makes a half-open connection with this ISS, or sends a cookie when there are too many.
    pub(super) fn take_syn(
        &mut self,
        index: u32,
        tuple: FourTuple,
        seg: &Segment,
        iss: crate::seq::SeqNum,
        now: Time,
    ) {
        let Some(of) = self.slots.id(index) else {
            return;
        };
        if self.sources.is_full(tuple.peer().ip()) {
            self.counters.drop_syn += 1;
            return self.reset(&tuple, seg, now);
        }
        if !self.has_room_for(&tuple) {
            self.counters.drop_syn += 1;
            return;
        }
        if self.half_open.len() >= self.config.half_open_max {
            return self.send_cookie(index, &tuple, seg, now);
        }
        let path = self.path(&tuple, now);
        let ts_offset = self.keys.timestamp_offset(tuple.local(), tuple.peer());
        let half = HalfOpen::new(seg, iss, ts_offset, path, &context!(self, now));
        let at = now + half.next_repeat(&self.config).unwrap_or_default();
        let entry = self.half_open.push(0, at, Pending { tuple, of, half });
        self.insert_target(&tuple, Target::HalfOpen(entry));
        if let Some(Slot::Listener(listener)) =
            self.slots.get_mut(index).map(|entry| &mut entry.slot)
        {
            listener.half_open += 1;
        }
        self.send_syn_ack(entry, now);
    }

    fn send_syn_ack(&mut self, entry: u32, now: Time) {
        let pending = self.half_open.get(entry);
        let Some(options) = self.options_of(pending.of) else {
            return;
        };
        let header =
            pending
                .half
                .syn_ack(&options, self.path(&pending.tuple, now), &self.config, now);
        self.send(pending.tuple, header, &options);
    }

    /// The SYN came again, and is answered again; the timer begins anew, as on Linux.
    fn repeat_syn_ack(&mut self, entry: u32, now: Time) {
        let half = &mut self.half_open.get_mut(entry).half;
        half.set_repeated();
        let retries = usize::from(half.retries);
        if let Some(delay) = half.next_repeat(&self.config) {
            self.half_open.move_to(entry, retries, now + delay);
        }
        self.send_syn_ack(entry, now);
    }

    fn options_of(&self, listener: ConnId) -> Option<crate::config::SocketOptions> {
        let index = self.slots.resolve(listener)?;
        self.listener(index).map(|listener| listener.link.options())
    }

    /// A segment for a half-open connection.
    pub(super) fn in_syn_received(&mut self, entry: u32, seg: Segment, now: Time) {
        let pending = self.half_open.get(entry);
        let (tuple, of) = (pending.tuple, pending.of);
        let Some(options) = self.options_of(of) else {
            // The listener is gone, and with it whoever would take the connection.
            self.forget_half_open(entry);
            return self.reset_unless_rst(&tuple, &seg, now);
        };
        let window = HalfOpen::window(&options, &self.config);
        match self.half_open.get(entry).half.on_segment(&seg, window, now) {
            Reaction::Drop => self.counters.drop_out_of_window += 1,
            Reaction::Repeat | Reaction::Acknowledge
                if !self.half_open.get_mut(entry).half.may_answer(&seg, now) =>
            {
                self.counters.limited += 1;
            }
            Reaction::Repeat => self.repeat_syn_ack(entry, now),
            Reaction::Acknowledge => {
                let half = &self.half_open.get(entry).half;
                let header = half.acknowledgement(&options, &self.config, now);
                if self.send(tuple, header, &options) {
                    self.counters.challenge_acks += 1;
                }
            }
            Reaction::Reset => self.reset(&tuple, &seg, now),
            Reaction::Forget => {
                self.counters.resets_received += 1;
                self.forget_half_open(entry);
            }
            Reaction::Complete => self.complete(entry, of, seg, now),
        }
    }

    /// The handshake is complete: into the accept queue, if there is room. If not, the
    /// acknowledgement is dropped, and the peer, which believes to be connected, gets the SYN-ACK
    /// again and acknowledges it again.
    fn complete(&mut self, entry: u32, of: ConnId, seg: Segment, now: Time) {
        let Some(index) = self.slots.resolve(of) else {
            return;
        };
        let Some(listener) = self.listener(index) else {
            return;
        };
        if listener.link.is_full() {
            self.counters.drop_accept_queue += 1;
            return;
        }
        if !self.bell.budget().has_room_for_connection() {
            self.counters.drop_memory += 1;
            return;
        }
        let Some(pending) = self.forget_half_open(entry) else {
            return;
        };
        self.establish(index, &pending.tuple, &pending.half, seg, now);
    }

    /// Makes the connection, hands it to the listener, and processes what its last ACK carried.
    fn establish(
        &mut self,
        listener: u32,
        tuple: &FourTuple,
        half: &HalfOpen,
        mut seg: Segment,
        now: Time,
    ) {
        let Some(Listener { link: backlog, .. }) = self.listener(listener) else {
            return;
        };
        let backlog = Arc::clone(backlog);
        let options = backlog.options();
        let (local, peer) = seen_by(backlog.local(), tuple);
        let bell = Arc::clone(&self.bell);
        let link = StreamLink::sized(bell, local, peer, options, &self.config);
        let path = self.path(tuple, now);
        let cx = context!(self, now);
        let from = half.established(&options, path, &cx);
        let connection = Connection::new(Arc::clone(&link), options, &from, &cx);
        let id = self
            .slots
            .insert(*tuple, None, Slot::Open(Box::new(connection)));
        self.insert_target(tuple, Target::Slot(id.index()));
        self.ports
            .connection_opened(tuple.local(), Reuse::default());
        self.counters.passive_opens += 1;
        link.button.assign(id);
        link.button.answer();
        link.set_connected(local, true, &mut self.wakes);
        backlog.push(link, &mut self.wakes);
        tracing::debug!(local = %tuple.local(), peer = %tuple.peer(), "accepted");
        self.on_slot_segment(id.index(), &mut seg, now);
    }

    /// Takes an entry out of the table.
    pub(super) fn forget_half_open(&mut self, entry: u32) -> Option<Pending> {
        let tuple = self.half_open.get(entry).tuple;
        self.remove_target(&tuple, Target::HalfOpen(entry));
        let pending = self.half_open.remove(entry)?;
        if let Some(index) = self.slots.resolve(pending.of)
            && let Some(Slot::Listener(listener)) =
                self.slots.get_mut(index).map(|entry| &mut entry.slot)
        {
            listener.half_open -= 1;
        }
        Some(pending)
    }

    /// SYN-ACKs that got no answer are sent again, and after the last of them forgotten.
    pub(super) fn on_half_open_timeouts(&mut self, now: Time) {
        while let Some(entry) = self.half_open.first_due(now) {
            let pending = self.half_open.get_mut(entry);
            pending.half.retries += 1;
            let retries = pending.half.retries;
            let Some(delay) = pending.half.next_repeat(&self.config) else {
                self.counters.timed_out += 1;
                if self.config.reset_half_open {
                    self.reset_half_open(entry, now);
                }
                self.forget_half_open(entry);
                continue;
            };
            self.half_open
                .move_to(entry, usize::from(retries), now + delay);
            self.counters.segments_retransmitted += 1;
            self.send_syn_ack(entry, now);
        }
    }

    /// Tells a peer that may believe to be connected that it is not.
    fn reset_half_open(&mut self, entry: u32, now: Time) {
        let pending = self.half_open.get(entry);
        let Some(options) = self.options_of(pending.of) else {
            return;
        };
        let tuple = pending.tuple;
        let header = TcpHeader {
            flags: Flags::RST | Flags::ACK,
            ..pending.half.acknowledgement(&options, &self.config, now)
        };
        if self.send(tuple, header, &options) {
            self.counters.resets_sent += 1;
        }
    }

    /// RFC 4987 §3.6: everything that we must remember goes into the ISN and the timestamp.
    fn send_cookie(&mut self, index: u32, tuple: &FourTuple, seg: &Segment, now: Time) {
        let Some(options) = self.listener(index).map(|listener| listener.link.options()) else {
            return;
        };
        let (local, peer) = (tuple.local(), tuple.peer());
        let path = self.path(tuple, now);
        let rcv_shift = receive_shift(&options, &self.config);
        let agreed = Negotiated::new(
            &seg.header.options,
            false,
            path.is_v6,
            rcv_shift,
            &self.config,
        );
        let iss = self
            .keys
            .cookie(local, peer, seg.header.seq, agreed.peer_mss, now);
        let offset = self.keys.timestamp_offset(local, peer);
        let half = HalfOpen::new(seg, iss, offset, path, &context!(self, now));
        let mut header = half.syn_ack(&options, path, &self.config, now);
        header.flags = header.flags.without(Flags::ECE);
        match &mut header.options.timestamps {
            Some(Timestamps { val, .. }) => {
                let kept = CookieOptions {
                    shift: agreed.shifts.map(|(snd, _)| snd),
                    sack: agreed.sack,
                    ecn: false,
                };
                *val = kept.encode(val.wrapping_sub(offset)).wrapping_add(offset);
            }
            None => {
                header.options.window_scale = None;
                header.options.sack_permitted = false;
            }
        }
        self.cookies_until = now + COOKIES_FOR;
        if self.send(*tuple, header, &options) {
            self.counters.cookies_sent += 1;
        }
    }

    /// Whether the segment brings back a cookie; then there is a connection now.
    fn try_cookie(&mut self, index: u32, tuple: &FourTuple, seg: &Segment, now: Time) -> bool {
        if now >= self.cookies_until || seg.header.flags.has(Flags::RST) {
            return false;
        }
        let (local, peer) = (tuple.local(), tuple.peer());
        let Some(ack) = seg.header.ack else {
            return false;
        };
        let irs = seg.header.seq - 1;
        let Some(mss) = self.keys.check_cookie(local, peer, irs, ack - 1, now) else {
            return false;
        };
        let Some(listener) = self.listener(index) else {
            return false;
        };
        if !self.has_room_for(tuple) {
            self.counters.drop_syn += 1;
            return false;
        }
        if listener.link.is_full() {
            self.counters.drop_accept_queue += 1;
            return true;
        }
        if !self.bell.budget().has_room_for_connection() {
            self.counters.drop_memory += 1;
            return true;
        }
        let offset = self.keys.timestamp_offset(local, peer);
        let kept = seg
            .header
            .options
            .timestamps
            .filter(|_| self.config.timestamps);
        let kept = kept.map(|ts| CookieOptions::decode(ts.ecr.wrapping_sub(offset)));
        let rcv_shift = receive_shift(&listener.link.options(), &self.config);
        let agreed = Negotiated {
            peer_mss: mss,
            shifts: kept.and_then(|kept| kept.shift).map(|snd| (snd, rcv_shift)),
            sack: kept.is_some_and(|kept| kept.sack),
            timestamps: kept.is_some(),
            ecn: false,
        };
        let Some(half) = HalfOpen::from_cookie(seg, agreed, offset, now) else {
            return false;
        };
        self.counters.cookies_accepted += 1;
        self.establish(index, tuple, &half, seg.clone(), now);
        true
    }

    /// What the SYNs and SYN-ACKs of a four-tuple have to know.
    pub(super) fn path(&self, tuple: &FourTuple, now: Time) -> Path {
        let device = PathMtu::new(self.mtu as u32);
        let found = self.path_mtus.get(tuple.peer().ip(), now);
        Path {
            mtu: found.map_or(device, |(mtu, until)| device.at_most(mtu, until)),
            is_v6: tuple.local().is_ipv6(),
        }
    }
}

/// As on Linux, a dual-stack listener shows IPv4 addresses mapped.
fn seen_by(listener: SocketAddr, tuple: &FourTuple) -> (SocketAddr, SocketAddr) {
    let map = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(v4) if listener.is_ipv6() => {
            SocketAddr::new(v4.to_ipv6_mapped().into(), addr.port())
        }
        _ => addr,
    };
    (map(tuple.local()), map(tuple.peer()))
}
