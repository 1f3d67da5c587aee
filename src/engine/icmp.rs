//! ICMP and ICMPv6: echo, and errors about what we sent (RFC 5927).

use crate::{
    engine::{
        Engine,
        demux::{FourTuple, Target},
        segments::count,
        slots::Slot,
    },
    error::Failure,
    packet::Packet,
    time::Time,
    wire::{
        icmp::{self, IcmpError, IcmpErrorKind, IcmpMessage, Report, Unreachable},
        ip::IpHeader,
        protocol,
    },
};

/// The least MTU that we believe a router that says so: 552 for IPv4 (Linux: `min_pmtu`), and what
/// every link has for IPv6 (RFC 8201 §4).
const MIN_PMTU_V4: u32 = 552;
const MIN_PMTU_V6: u32 = 1280;

/// RFC 1191 §7.1: sizes of common networks, for routers that do not say what would fit.
const PLATEAUS: [u32; 8] = [
    32_000,
    17_914,
    8_166,
    4_352,
    2_002,
    1_492,
    1_006,
    MIN_PMTU_V4,
];

impl Engine {
    pub(super) fn on_icmp(&mut self, packet: &mut Packet, ip: &IpHeader, now: Time) {
        match icmp::parse(packet, ip) {
            Ok(IcmpMessage::EchoRequest { echo, code }) => {
                if !self.config.echo_reply {
                    self.counters.limited += 1;
                    return;
                }
                if !self.is_allowed(|limits| &mut limits.icmp, ip.src, now) {
                    return;
                }
                let ttl = self.config.options.ttl;
                let payload = packet.take_payload(ip.header_len + icmp::HEADER_LEN, ip.total_len);
                let reply = icmp::echo_reply(ip, echo, code, payload, ttl);
                let sent = self.route(reply, ip.src);
                self.counters.echo_replies += u64::from(sent);
            }
            // Routers send it to where the packet came from.
            Ok(IcmpMessage::Error(error)) if error.quote.src == ip.dst => {
                self.on_icmp_error(&error, now);
            }
            Ok(IcmpMessage::EchoReply(echo)) => self.on_echo_reply(echo, ip, now),
            Ok(IcmpMessage::Error(_) | IcmpMessage::Other) => self.counters.drop_icmp += 1,
            Err(reason) => count(&mut self.counters, reason),
        }
    }

    /// Tells the sender of a packet what we cannot do with it.
    pub(super) fn report(&mut self, packet: &Packet, ip: &IpHeader, report: Report, now: Time) {
        if !icmp::may_report(packet, ip) {
            return;
        }
        if !self.is_allowed(|limits| &mut limits.icmp, ip.src, now) {
            return;
        }
        let message = icmp::report(packet, ip, report, self.config.options.ttl);
        self.route(message, ip.src);
    }

    /// RFC 5927: believed only of a segment that is in flight, and even then it ends nothing but
    /// an attempt to connect.
    fn on_icmp_error(&mut self, error: &IcmpError, now: Time) {
        let quote = &error.quote;
        match quote.protocol {
            protocol::UDP => return self.on_datagram_error(error),
            protocol::ICMP | protocol::ICMPV6 => return self.on_ping_error(error),
            _ => {}
        }
        let tuple = FourTuple::new(
            (quote.src, quote.src_port).into(),
            (quote.dst, quote.dst_port).into(),
        );
        let target = self
            .target(&tuple)
            .filter(|_| quote.protocol == protocol::TCP);
        let index = match target {
            Some(Target::Slot(index)) => index,
            Some(Target::HalfOpen(entry)) if self.is_in_vain(entry, error) => {
                self.counters.icmp_errors += 1;
                self.forget_half_open(entry);
                return;
            }
            _ => {
                self.counters.drop_icmp += 1;
                return;
            }
        };
        let Some(entry) = self.slots.get_mut(index) else {
            return;
        };
        match &mut entry.slot {
            Slot::Opening(opening) if opening.sent(quote.seq) => {
                let Some((failure, hard)) = failure_of(error.kind) else {
                    return;
                };
                self.counters.icmp_errors += 1;
                let progress = opening.on_icmp(failure, hard, &mut context!(self, now));
                self.progress(index, progress, None, now);
            }
            Slot::Open(connection) if connection.has_in_flight(quote.seq) => {
                let _logged = tuple.logged();
                self.counters.icmp_errors += 1;
                match error.kind {
                    IcmpErrorKind::PacketTooBig { mtu } => {
                        let mtu = believable_mtu(mtu, quote.packet_len, quote.src.is_ipv4());
                        if connection.on_packet_too_big(mtu, now) {
                            self.path_mtus.learn(quote.dst, mtu, now);
                        }
                    }
                    kind => {
                        if let Some((failure, _)) = failure_of(kind) {
                            connection.set_soft_error(failure);
                        }
                    }
                }
                self.settle(index);
            }
            _ => self.counters.drop_icmp += 1,
        }
    }

    /// Whether our SYN-ACK cannot arrive: no reason to send it again (Linux: `tcp_req_err`).
    fn is_in_vain(&self, entry: u32, error: &IcmpError) -> bool {
        let unreachable = matches!(
            error.kind,
            IcmpErrorKind::Unreachable(Unreachable::Network | Unreachable::Host)
        );
        unreachable && error.quote.seq == self.half_open.get(entry).half.iss
    }
}

/// What an error means to the user, and whether it ends an attempt to connect at once
/// (RFC 1122 §4.2.3.9; Linux fails a connect on unreachable ports and protocols).
pub(super) fn failure_of(kind: IcmpErrorKind) -> Option<(Failure, bool)> {
    Some(match kind {
        IcmpErrorKind::Unreachable(Unreachable::Port | Unreachable::Protocol) => {
            (Failure::Refused, true)
        }
        IcmpErrorKind::Unreachable(Unreachable::Network) => (Failure::NetworkUnreachable, false),
        IcmpErrorKind::Unreachable(_) | IcmpErrorKind::TimeExceeded => {
            (Failure::HostUnreachable, false)
        }
        IcmpErrorKind::ParameterProblem
        | IcmpErrorKind::SourceQuench
        | IcmpErrorKind::PacketTooBig { .. } => {
            return None;
        }
    })
}

/// RFC 1191 §5 and §7.1, RFC 8201 §4.
pub(super) fn believable_mtu(mtu: u32, packet_len: usize, is_v4: bool) -> u32 {
    if !is_v4 {
        return mtu.max(MIN_PMTU_V6);
    }
    let told = if mtu == 0 {
        PLATEAUS
            .into_iter()
            .find(|plateau| (*plateau as usize) < packet_len)
            .unwrap_or(MIN_PMTU_V4)
    } else {
        mtu
    };
    told.max(MIN_PMTU_V4)
}
