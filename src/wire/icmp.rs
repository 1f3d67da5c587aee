//! ICMP for IPv4 (RFC 792) and IPv6 (RFC 4443): echo, and errors about our packets and theirs.

use std::net::IpAddr;

use bytes::Bytes;

use crate::{
    checksum::{Sum, sum, sum_packet},
    packet::{Checksum, HEAD_MAX, Meta, Packet, Payload},
    seq::SeqNum,
};

use super::{
    Malformed, be16, be32,
    ip::{self, HeaderProblem, IpEmit, IpHeader},
    protocol,
    tcp::peek_ports,
};

#[cfg(test)]
mod tests;

/// Length of the header of every message that we know.
pub(crate) const HEADER_LEN: usize = 8;

/// Bytes at the start of a message that we look at: its header, and of what it quotes the IP
/// headers and the ports. More extension headers than fit in it are not ours.
const START_MAX: usize = 256;

/// RFC 1812 §4.3.2.3: an error is at most this long.
const REPORT_MAX_V4: usize = 576;
/// RFC 4443 §2.4 (c): an error fits in the least MTU.
const REPORT_MAX_V6: usize = 1280;

const V4_ECHO_REPLY: u8 = 0;
const V4_UNREACHABLE: u8 = 3;
const V4_SOURCE_QUENCH: u8 = 4;
const V4_REDIRECT: u8 = 5;
const V4_ECHO_REQUEST: u8 = 8;
const V4_TIME_EXCEEDED: u8 = 11;
const V4_PARAMETER_PROBLEM: u8 = 12;
const V4_CODE_FRAGMENTATION_NEEDED: u8 = 4;

const V6_UNREACHABLE: u8 = 1;
const V6_PACKET_TOO_BIG: u8 = 2;
const V6_TIME_EXCEEDED: u8 = 3;
const V6_PARAMETER_PROBLEM: u8 = 4;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;
const V6_REDIRECT: u8 = 137;

/// A message that has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpMessage {
    /// Somebody asks whether we are there. The data to be returned lie [`HEADER_LEN`] behind the IP
    /// header.
    EchoRequest {
        /// Which of those that are asked.
        echo: Echo,
        /// Zero, but for those who want to know what we make of another.
        code: u8,
    },
    /// Somebody is there.
    EchoReply(Echo),
    /// Something is wrong with a packet that we have sent.
    Error(IcmpError),
    /// Anything else: redirects, router and neighbour discovery, multicast.
    Other,
}

/// What tells one echo from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echo {
    /// Of the one who asks.
    pub(crate) ident: u16,
    /// Of the request.
    pub(crate) sequence: u16,
}

/// What became of a packet. Anybody can say so: believe it only of a segment that is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IcmpError {
    /// What went wrong.
    pub(crate) kind: IcmpErrorKind,
    /// With which packet.
    pub(crate) quote: Quote,
}

/// What went wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpErrorKind {
    /// It could not be delivered.
    Unreachable(Unreachable),
    /// It does not fit; zero if the router is too old to say what would (RFC 1191 §5).
    PacketTooBig {
        /// What would fit.
        mtu: u32,
    },
    /// It went through too many routers, or its fragments came too late.
    TimeExceeded,
    /// Its headers were not understood.
    ParameterProblem,
    /// To be ignored (RFC 6633).
    SourceQuench,
}

/// Why a packet could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// No way to its network.
    Network,
    /// Its host does not answer.
    Host,
    /// Its host does not serve the protocol.
    Protocol,
    /// Nobody is at the port.
    Port,
    /// Somebody does not want it to be.
    AdminProhibited,
    /// It asked for a source route that does not exist.
    SourceRoute,
}

/// What an error quotes of the packet that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    /// Our address.
    pub(crate) src: IpAddr,
    /// The peer's.
    pub(crate) dst: IpAddr,
    /// What follows is meant for TCP.
    pub(crate) protocol: u8,
    /// Our port.
    pub(crate) src_port: u16,
    /// The peer's port.
    pub(crate) dst_port: u16,
    /// SEG.SEQ.
    pub(crate) seq: SeqNum,
    /// What its IP header says of its length: RFC 1191 §5 wants it when the MTU is missing.
    pub(crate) packet_len: usize,
}

impl Quote {
    /// The echo request of ours that it quotes, if it is one: type, code, and the two numbers stand
    /// where TCP has its ports and SEG.SEQ.
    pub(crate) const fn echo_request(&self) -> Option<Echo> {
        let request = match (self.src, self.protocol) {
            (IpAddr::V4(_), protocol::ICMP) => V4_ECHO_REQUEST,
            (IpAddr::V6(_), protocol::ICMPV6) => V6_ECHO_REQUEST,
            _ => return None,
        };
        if self.src_port >> 8 != request as u16 {
            return None;
        }
        let numbers = self.seq.raw();
        Some(Echo {
            ident: (numbers >> 16) as u16,
            sequence: numbers as u16,
        })
    }
}

/// What we report of a packet that we have received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// There is no such host behind us.
    Host,
    /// We do not serve the protocol. For IPv6 that is a parameter problem (RFC 8200 §4).
    Protocol,
    /// Nobody is at the port.
    Port,
    /// We are not allowed to let it through.
    AdminProhibited,
    /// Its headers ask for what we do not know. IPv6 only.
    Header(HeaderProblem),
}

/// Reads and verifies the message in a received packet.
pub(crate) fn parse(packet: &Packet, ip: &IpHeader) -> Result<IcmpMessage, Malformed> {
    let mut start = [0; START_MAX];
    let start = copy_start(packet, ip, &mut start);
    let (header, quote) = start
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(Malformed::IcmpTruncated)?;
    verify(packet, ip)?;
    let echo = Echo {
        ident: be16(header, 4),
        sequence: be16(header, 6),
    };
    let kind = match (ip.src.is_ipv4(), header[0]) {
        (true, V4_ECHO_REQUEST) | (false, V6_ECHO_REQUEST) => {
            let code = header[1];
            return Ok(IcmpMessage::EchoRequest { echo, code });
        }
        (true, V4_ECHO_REPLY) | (false, V6_ECHO_REPLY) => {
            return Ok(IcmpMessage::EchoReply(echo));
        }
        (true, _) => kind_v4(header),
        (false, _) => kind_v6(header),
    };
    match kind {
        Some(kind) => {
            let quote = parse_quote(quote, ip.src.is_ipv4())?;
            Ok(IcmpMessage::Error(IcmpError { kind, quote }))
        }
        None => Ok(IcmpMessage::Other),
    }
}

/// Copies the start of the message to one place: it may lie in several slices.
fn copy_start<'a>(packet: &Packet, ip: &IpHeader, start: &'a mut [u8; START_MAX]) -> &'a [u8] {
    let end = ip.total_len.min(ip.header_len + START_MAX);
    let mut len = 0;
    for slice in packet.slices(ip.header_len..end) {
        start[len..len + slice.len()].copy_from_slice(slice);
        len += slice.len();
    }
    &start[..len]
}

fn verify(packet: &Packet, ip: &IpHeader) -> Result<(), Malformed> {
    match packet.meta.checksum {
        Checksum::Verified | Checksum::Partial => return Ok(()),
        Checksum::Complete => {}
    }
    let len = ip.total_len.saturating_sub(ip.header_len);
    let initial = initial_sum(ip.src, ip.dst, len);
    if sum_packet(packet, ip.header_len..ip.total_len, initial).is_valid() {
        Ok(())
    } else {
        Err(Malformed::IcmpChecksum)
    }
}

/// The sum of the pseudo-header, which only IPv6 has.
fn initial_sum(src: IpAddr, dst: IpAddr, len: usize) -> Sum {
    match src {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => ip::pseudo_sum(src, dst, protocol::ICMPV6, len as u32),
    }
}

fn kind_v4(header: &[u8; HEADER_LEN]) -> Option<IcmpErrorKind> {
    Some(match (header[0], header[1]) {
        (V4_UNREACHABLE, V4_CODE_FRAGMENTATION_NEEDED) => IcmpErrorKind::PacketTooBig {
            mtu: u32::from(be16(header, 6)),
        },
        (V4_UNREACHABLE, code) => IcmpErrorKind::Unreachable(unreachable_v4(code)?),
        (V4_SOURCE_QUENCH, _) => IcmpErrorKind::SourceQuench,
        (V4_TIME_EXCEEDED, _) => IcmpErrorKind::TimeExceeded,
        (V4_PARAMETER_PROBLEM, _) => IcmpErrorKind::ParameterProblem,
        _ => return None,
    })
}

/// The codes of RFC 792 and RFC 1122 §3.2.2.1, and of RFC 1812 §5.2.7.1 from 13 on.
fn unreachable_v4(code: u8) -> Option<Unreachable> {
    Some(match code {
        0 | 6 | 11 => Unreachable::Network,
        1 | 7 | 8 | 12 => Unreachable::Host,
        2 => Unreachable::Protocol,
        3 => Unreachable::Port,
        5 => Unreachable::SourceRoute,
        9 | 10 | 13..=15 => Unreachable::AdminProhibited,
        _ => return None,
    })
}

fn kind_v6(header: &[u8; HEADER_LEN]) -> Option<IcmpErrorKind> {
    Some(match header[0] {
        V6_UNREACHABLE => IcmpErrorKind::Unreachable(match header[1] {
            0 => Unreachable::Network,
            1 | 5 | 6 => Unreachable::AdminProhibited,
            2 | 3 => Unreachable::Host,
            4 => Unreachable::Port,
            7 => Unreachable::SourceRoute,
            _ => return None,
        }),
        V6_PACKET_TOO_BIG => IcmpErrorKind::PacketTooBig {
            mtu: be32(header, 4),
        },
        V6_TIME_EXCEEDED => IcmpErrorKind::TimeExceeded,
        // That the peer does not know TCP comes this way too.
        V6_PARAMETER_PROBLEM => IcmpErrorKind::ParameterProblem,
        _ => return None,
    })
}

/// Reads the quoted packet. Eight bytes of its transport header must be there (RFC 792), which is
/// just enough of TCP's; whether the rest is depends on the router.
fn parse_quote(quote: &[u8], v4: bool) -> Result<Quote, Malformed> {
    let ip = ip::parse_quote(quote).map_err(|_| Malformed::IcmpQuote)?;
    if ip.src.is_ipv4() != v4 || ip.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return Err(Malformed::IcmpQuote);
    }
    let transport = quote
        .get(ip.header_len..)
        .and_then(|transport| transport.first_chunk::<8>())
        .ok_or(Malformed::IcmpQuote)?;
    let (src_port, dst_port) = peek_ports(transport).ok_or(Malformed::IcmpQuote)?;
    Ok(Quote {
        src: ip.src,
        dst: ip.dst,
        protocol: ip.protocol,
        src_port,
        dst_port,
        seq: SeqNum::new(be32(transport, 4)),
        packet_len: ip.total_len,
    })
}

/// The reply to an echo request with this code that came in a packet with the header `ip`: `payload`
/// is what followed the header of the request.
///
/// RFC 792 has no more than the type of the request changed; in RFC 4443 §4.2 the code is 0.
pub(crate) fn echo_reply(ip: &IpHeader, echo: Echo, code: u8, payload: Payload, ttl: u8) -> Packet {
    let mut header = [0; HEADER_LEN];
    (header[0], header[1]) = match ip.src {
        IpAddr::V4(_) => (V4_ECHO_REPLY, code),
        IpAddr::V6(_) => (V6_ECHO_REPLY, 0),
    };
    header[4..6].copy_from_slice(&echo.ident.to_be_bytes());
    header[6..8].copy_from_slice(&echo.sequence.to_be_bytes());
    // The DSCP of the request (RFC 1122 §3.2.2.6), but not its ECN bits: those are TCP's.
    answer(ip, header, payload, ttl, ip.tos & !3)
}

/// A question whether somebody is there.
///
/// # Panics
/// If the addresses are of different families.
pub(crate) fn echo_request(
    src: IpAddr,
    dst: IpAddr,
    echo: Echo,
    payload: Payload,
    ttl: u8,
) -> Packet {
    let mut header = [0; HEADER_LEN];
    header[0] = match src {
        IpAddr::V4(_) => V4_ECHO_REQUEST,
        IpAddr::V6(_) => V6_ECHO_REQUEST,
    };
    header[4..6].copy_from_slice(&echo.ident.to_be_bytes());
    header[6..8].copy_from_slice(&echo.sequence.to_be_bytes());
    message((src, dst), header, payload, ttl, 0)
}

/// Whether an error may be sent about a packet (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)): never about
/// an error, to or from more than one host, or about a later fragment.
pub(crate) fn may_report(packet: &Packet, ip: &IpHeader) -> bool {
    let is_later = ip.fragment.is_some_and(|fragment| fragment.offset != 0);
    // A packet with a loopback address never left its stack, which may tell itself.
    let is_host = |ip: IpAddr| ip.is_loopback() || ip::is_unicast_destination(ip);
    if is_later || !is_host(ip.src) || !is_host(ip.dst) {
        return false;
    }
    let kind = packet.first().get(ip.header_len).copied();
    match (ip.protocol, kind) {
        (protocol::ICMP, None) | (protocol::ICMPV6, None) => false,
        (protocol::ICMP, Some(kind)) => !matches!(
            kind,
            V4_UNREACHABLE
                | V4_SOURCE_QUENCH
                | V4_REDIRECT
                | V4_TIME_EXCEEDED
                | V4_PARAMETER_PROBLEM
        ),
        // Types below 128 are errors (RFC 4443 §2.1).
        (protocol::ICMPV6, Some(kind)) => kind >= 128 && kind != V6_REDIRECT,
        _ => true,
    }
}

/// An error about a packet that we have received, with as much of it as the RFCs allow. Ask
/// [`may_report`] first.
pub(crate) fn report(packet: &Packet, ip: &IpHeader, report: Report, ttl: u8) -> Packet {
    let mut header = [0; HEADER_LEN];
    let mut parameter = |problem: HeaderProblem| {
        header[4..8].copy_from_slice(&(problem.at as u32).to_be_bytes());
        (V6_PARAMETER_PROBLEM, problem.code)
    };
    let (kind, code) = match (ip.src, report) {
        (IpAddr::V4(_), Report::Host) => (V4_UNREACHABLE, 1),
        (IpAddr::V4(_), Report::Protocol) => (V4_UNREACHABLE, 2),
        (IpAddr::V4(_), Report::Port) => (V4_UNREACHABLE, 3),
        (IpAddr::V4(_), Report::AdminProhibited) => (V4_UNREACHABLE, 13),
        (IpAddr::V6(_), Report::Host) => (V6_UNREACHABLE, 3),
        (IpAddr::V4(_), Report::Header(_)) => unreachable!("only IPv6 has such headers"),
        (IpAddr::V6(_), Report::Protocol) => parameter(HeaderProblem::next_header(ip.protocol_at)),
        (IpAddr::V6(_), Report::Header(problem)) => parameter(problem),
        (IpAddr::V6(_), Report::Port) => (V6_UNREACHABLE, 4),
        (IpAddr::V6(_), Report::AdminProhibited) => (V6_UNREACHABLE, 1),
    };
    (header[0], header[1]) = (kind, code);
    let most = match ip.src {
        IpAddr::V4(_) => REPORT_MAX_V4,
        IpAddr::V6(_) => REPORT_MAX_V6,
    };
    let room = most - ip::header_len(ip.src) - HEADER_LEN;
    let mut quote = Vec::with_capacity(room.min(ip.total_len));
    packet
        .slices(0..room.min(ip.total_len))
        .for_each(|slice| quote.extend_from_slice(slice));
    answer(ip, header, Payload::from_iter([Bytes::from(quote)]), ttl, 0)
}

/// A message back to where a packet came from, from where it went to.
fn answer(ip: &IpHeader, header: [u8; HEADER_LEN], payload: Payload, ttl: u8, tos: u8) -> Packet {
    message((ip.dst, ip.src), header, payload, ttl, tos)
}

fn message(
    (src, dst): (IpAddr, IpAddr),
    mut header: [u8; HEADER_LEN],
    payload: Payload,
    ttl: u8,
    tos: u8,
) -> Packet {
    let len = HEADER_LEN + payload.iter().map(Bytes::len).sum::<usize>();
    let emit = IpEmit {
        src,
        dst,
        protocol: match src {
            IpAddr::V4(_) => protocol::ICMP,
            IpAddr::V6(_) => protocol::ICMPV6,
        },
        ttl,
        tos,
        payload_len: len,
    };
    let mut total = initial_sum(emit.src, emit.dst, len).combine(sum(&header));
    payload.iter().for_each(|slice| total.add(slice));
    header[2..4].copy_from_slice(&total.finish().to_be_bytes());
    let mut head = [0; HEAD_MAX];
    let ip_len = ip::emit(&mut head, &emit);
    head[ip_len..ip_len + HEADER_LEN].copy_from_slice(&header);
    let mut packet = Packet::with_head(&head[..ip_len + HEADER_LEN], Meta::default());
    packet.body = payload;
    packet
}
