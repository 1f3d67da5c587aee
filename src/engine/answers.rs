//! Packets that no connection sends: a bounded queue of them, and those to ourselves.

use std::net::IpAddr;

use crate::{
    config::SocketOptions,
    engine::{Engine, Limits, demux::FourTuple, limiter::Limiter},
    packet::{Packet, Payload},
    time::Time,
    wire::tcp::TcpHeader,
};

/// Answers that may wait for the device. What makes more of them comes again.
const ANSWERS_MAX: usize = 4096;

impl Engine {
    /// Queues a packet that no connection sends, for the device or for ourselves. `false` if too
    /// many wait already, as in [`send`](Self::send).
    pub(super) fn route(&mut self, packet: Packet, to: IpAddr) -> bool {
        if self.network.is_local(to) {
            self.looped.push_back(packet);
            return true;
        }
        let may = self.may_answer();
        if may {
            self.answer(packet);
        }
        may
    }

    /// Queues a segment that no connection sends. `false` if too many wait already: then it is
    /// counted as held back, and is not to be counted as what it would have been.
    pub(super) fn send(
        &mut self,
        tuple: FourTuple,
        header: TcpHeader,
        options: &SocketOptions,
    ) -> bool {
        let to = tuple.peer().ip();
        if !self.network.is_local(to) && !self.may_answer() {
            return false;
        }
        let class = (options.ttl, options.class(tuple.local().is_ipv6()));
        let packet = self.packet(&tuple, header, Payload::new(), 0, class);
        self.route(packet, to)
    }

    /// Whether the limit of its kind lets an answer to `to` out. What it does not is counted as held
    /// back. What we send to ourselves floods nobody, and has no limit (nor has it on Linux).
    pub(super) fn is_allowed(
        &mut self,
        kind: fn(&mut Limits) -> &mut Limiter,
        to: IpAddr,
        now: Time,
    ) -> bool {
        let allowed =
            self.network.is_local(to) || kind(&mut self.limits).allows(now, &mut self.rng);
        self.counters.limited += u64::from(!allowed);
        allowed
    }

    /// Whether one more answer may wait for the device. What may not is counted as held back.
    pub(super) fn may_answer(&mut self) -> bool {
        let has_room = self.answers.len() < ANSWERS_MAX;
        self.counters.limited += u64::from(!has_room);
        has_room
    }

    /// Queues a packet that belongs to no connection, and that [may](Self::may_answer) be.
    pub(super) fn answer(&mut self, packet: Packet) {
        self.counters.packets_sent += 1;
        self.answers.push_back(packet);
    }
}
