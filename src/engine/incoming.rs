//! Any destination: connections that nobody listens for by address, decided upon one by one before
//! the peer gets an answer.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    engine::{
        Engine,
        demux::{FourTuple, Target},
        slots::Slot,
    },
    error::{Failure, Unreachable},
    link::{Arrival, ConnId, Decision, Reuse, StreamLink},
    packet::Payload,
    tcp::{
        Segment,
        handshake::{HalfOpen, Opening},
    },
    time::Time,
    wire::{
        icmp,
        ip::{self, IpEmit},
        protocol,
        tcp::{self, Flags},
    },
};

/// Whoever decides, and what waits for a decision.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Once somebody has asked for them, packets for any address are ours.
    pub(super) any_destination: bool,
    decider: Option<UnboundedSender<Arrival>>,
    undecided: usize,
    by_source: HashMap<IpAddr, usize>,
}

impl Incoming {
    /// Nobody decides any more: whoever waits sees the end.
    pub(super) fn dismiss(&mut self) {
        self.decider = None;
    }

    fn release(&mut self, source: IpAddr) {
        self.undecided -= 1;
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

/// A SYN that waits for a decision. Repetitions of it are absorbed.
#[derive(Debug)]
pub(crate) struct Undecided {
    seg: Segment,
    pub(crate) deadline: Time,
}

impl Engine {
    /// From now on `decider` is asked about connections to any address.
    pub(super) fn set_decider(&mut self, decider: UnboundedSender<Arrival>) {
        self.incoming.any_destination = true;
        self.incoming.decider = Some(decider);
    }

    /// A segment that neither a connection nor a listener takes. False if it is not for a decider.
    pub(super) fn offer(&mut self, tuple: FourTuple, seg: &Segment, now: Time) -> bool {
        let flags = seg.header.flags;
        let opens = flags.has(Flags::SYN) && !flags.has_any(Flags::ACK | Flags::RST | Flags::FIN);
        let Some(decider) = self.incoming.decider.as_ref().filter(|_| opens) else {
            return false;
        };
        if decider.is_closed() {
            self.incoming.decider = None;
            return false;
        }
        let source = tuple.peer().ip();
        let of_source = self.incoming.by_source.get(&source).copied().unwrap_or(0);
        let full = self.incoming.undecided >= self.config.incoming_max
            || of_source >= self.config.incoming_per_source_max
            || !self.has_room_for(&tuple);
        if full {
            self.counters.drop_syn += 1;
            return true;
        }
        let deadline = now + self.config.incoming_timeout;
        let syn = Segment {
            payload: Payload::new(),
            len: 0,
            ..seg.clone()
        };
        let slot = Slot::Undecided(Box::new(Undecided { seg: syn, deadline }));
        let id = self.slots.insert(tuple, None, slot);
        self.insert_target(&tuple, Target::Slot(id.index()));
        self.deadlines.set(id.index(), Some(deadline));
        self.incoming.undecided += 1;
        *self.incoming.by_source.entry(source).or_default() += 1;
        let arrival = Arrival {
            id,
            local: tuple.local(),
            peer: tuple.peer(),
        };
        if self
            .incoming
            .decider
            .as_ref()
            .is_none_or(|decider| decider.send(arrival).is_err())
        {
            drop(self.remove_slot(id.index()));
            return false;
        }
        true
    }

    /// A segment for a connection that is not decided upon: its SYN again, or its end.
    pub(super) fn in_undecided(&mut self, index: u32, seg: &Segment) {
        let Some(Slot::Undecided(undecided)) = self.slots.get(index).map(|entry| &entry.slot)
        else {
            return;
        };
        let irs = undecided.seg.header.seq;
        if seg.header.flags.has(Flags::RST) && (seg.header.seq == irs + 1 || seg.header.seq == irs)
        {
            self.counters.resets_received += 1;
            drop(self.remove_slot(index));
        } else if !seg.header.flags.has(Flags::SYN) {
            self.counters.drop_bad_flags += 1;
        }
    }

    /// It left the table, whatever for.
    pub(super) fn forget_undecided(&mut self, index: u32, tuple: &FourTuple) {
        self.remove_target(tuple, Target::Slot(index));
        self.incoming.release(tuple.peer().ip());
    }

    /// The decision about one. It may come too late.
    pub(super) fn decide(&mut self, id: ConnId, decision: Decision, now: Time) {
        let index = self.slots.resolve(id);
        let undecided = |index: &u32| {
            matches!(
                self.slots.get(*index).map(|entry| &entry.slot),
                Some(Slot::Undecided(_))
            )
        };
        let entry = match index.filter(undecided) {
            Some(index) => self.remove_slot(index),
            None => None,
        };
        let Some(entry) = entry else {
            if let Decision::Accept(link) = decision {
                // The peer has given up, or the time to decide was over.
                link.fail(Failure::TimedOut, &mut self.wakes);
            }
            return;
        };
        let Slot::Undecided(undecided) = entry.slot else {
            return;
        };
        match decision {
            Decision::Accept(link) => {
                self.accept_undecided(&entry.tuple, &undecided.seg, link, now)
            }
            Decision::Reset => self.reset(&entry.tuple, &undecided.seg, now),
            Decision::Report(unreachable) => {
                let report = match unreachable {
                    Unreachable::Host => icmp::Report::Host,
                    Unreachable::Port => icmp::Report::Port,
                    Unreachable::AdminProhibited => icmp::Report::AdminProhibited,
                };
                self.report_undecided(&entry.tuple, &undecided.seg, report, now);
            }
            Decision::Ignore => {}
        }
    }

    fn accept_undecided(
        &mut self,
        tuple: &FourTuple,
        seg: &Segment,
        link: Arc<StreamLink>,
        now: Time,
    ) {
        let path = self.path(tuple, now);
        let iss = self.keys.isn(tuple.local(), tuple.peer(), now);
        let offset = self.keys.timestamp_offset(tuple.local(), tuple.peer());
        let half = HalfOpen::new(seg, iss, offset, path, &context!(self, now));
        let opening = Opening::accepting(Arc::clone(&link), link.options(), half, path, now);
        let id = self
            .slots
            .insert(*tuple, None, Slot::Opening(Box::new(opening)));
        self.insert_target(tuple, Target::Slot(id.index()));
        // Nobody is bound there, and whoever will be is not hindered.
        self.ports.connection_opened(tuple.local(), Reuse::ALL);
        self.counters.passive_opens += 1;
        link.button.assign(id);
        self.settle(id.index());
        self.look(id.index(), now);
    }

    /// An ICMP error about the SYN, of which it quotes what it must.
    fn report_undecided(
        &mut self,
        tuple: &FourTuple,
        seg: &Segment,
        report: icmp::Report,
        now: Time,
    ) {
        let (local, peer) = (tuple.local(), tuple.peer());
        let envelope = IpEmit {
            src: peer.ip(),
            dst: local.ip(),
            protocol: protocol::TCP,
            ttl: 64,
            tos: 0,
            payload_len: 0,
        };
        let header = tcp::TcpHeader {
            src_port: peer.port(),
            dst_port: local.port(),
            ..seg.header
        };
        let mut packet = tcp::packet(envelope, &header, Payload::new(), 0);
        tcp::fill_checksum(&mut packet, ip::header_len(peer.ip()));
        if let Ok(ip) = ip::parse(packet.first(), packet.len()) {
            self.report(&packet, &ip, report, now);
        }
    }
}
