//! Packets byte by byte, for what no honest peer sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use super::script::Script;
use crate::packet::{Meta, Packet};

/// A segment over either version of IP, its numbers as on the wire.
#[derive(Clone, Debug)]
pub(super) struct Tcp {
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) reserved: u8,
    pub(super) wnd: u16,
    pub(super) urgent: u16,
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;
pub(super) const URG: u8 = 32;

impl Tcp {
    /// From the script's peer, at its `seq`.
    pub(super) fn from_peer(s: &Script, flags: u8, seq: u32) -> Self {
        Self {
            src: s.peer,
            dst: s.local,
            seq: s.peer_isn.wrapping_add(seq),
            ack: 0,
            flags,
            reserved: 0,
            wnd: 65_535,
            urgent: 0,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// The header and what follows, with its checksum.
    pub(super) fn segment(&self) -> Vec<u8> {
        assert_eq!(self.options.len() % 4, 0, "options are padded");
        let mut bytes = vec![0; 20];
        bytes[0..2].copy_from_slice(&self.src.port().to_be_bytes());
        bytes[2..4].copy_from_slice(&self.dst.port().to_be_bytes());
        bytes[4..8].copy_from_slice(&self.seq.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ack.to_be_bytes());
        bytes[12] = ((5 + self.options.len() / 4) as u8) << 4 | self.reserved;
        bytes[13] = self.flags;
        bytes[14..16].copy_from_slice(&self.wnd.to_be_bytes());
        bytes[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        bytes.extend(&self.options);
        bytes.extend(&self.payload);
        fix_tcp_checksum(self.src.ip(), self.dst.ip(), &mut bytes);
        bytes
    }

    /// The whole packet.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, 6, &self.segment()),
            _ => ipv6(v6(self.src), v6(self.dst), 6, &self.segment()),
        }
    }

    pub(super) fn packet(&self) -> Packet {
        packet(&self.bytes())
    }
}

pub(super) fn v4(addr: SocketAddr) -> Ipv4Addr {
    match addr.ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => panic!("{ip} is not IPv4"),
    }
}

pub(super) fn v6(addr: SocketAddr) -> Ipv6Addr {
    match addr.ip() {
        IpAddr::V4(ip) => panic!("{ip} is not IPv6"),
        IpAddr::V6(ip) => ip,
    }
}

pub(super) fn packet(bytes: &[u8]) -> Packet {
    Packet::received(Bytes::copy_from_slice(bytes), Meta::default())
}

/// A packet over IPv4.
pub(super) fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
    bytes[6] = 0x40;
    bytes[8] = 64;
    bytes[9] = protocol;
    bytes[12..16].copy_from_slice(&src.octets());
    bytes[16..20].copy_from_slice(&dst.octets());
    fix_ip_checksum(&mut bytes);
    bytes.extend(body);
    bytes
}

/// A packet over IPv6; `body` may begin with extension headers, of which `next` is the first.
pub(super) fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.extend(body);
    bytes
}

/// Sets the checksum of an IPv4 header without options.
pub(super) fn fix_ip_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub(super) fn fix_tcp_checksum(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, segment: &mut [u8]) {
    segment[16..18].fill(0);
    let sum = transport_checksum(src.into(), dst.into(), 6, segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
}

/// With the pseudo-header.
pub(super) fn transport_checksum(src: IpAddr, dst: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut all = [octets(src), octets(dst), vec![0, protocol]].concat();
    all.extend((body.len() as u16).to_be_bytes());
    all.extend(body);
    checksum(&all)
}

/// RFC 1071, the slow way.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum = words.fold(0, |sum, word| {
        let sum: u32 = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    !(sum as u16)
}

/// An ICMP error of a router about the packet `about`, of which it quotes the headers.
pub(super) fn icmp_error(to: Ipv4Addr, kind: u8, code: u8, rest: u32, about: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest.to_be_bytes());
    body.extend(&about[..about.len().min(28)]);
    let sum = checksum(&body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(Ipv4Addr::new(198, 51, 100, 1), to, 1, &body)
}

/// An ICMPv6 error of a router about the packet `about`, of which it quotes all that fits.
pub(super) fn icmpv6_error(to: Ipv6Addr, kind: u8, code: u8, rest: u32, about: &[u8]) -> Vec<u8> {
    let router = "2001:db8:ffff::1".parse().unwrap();
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest.to_be_bytes());
    body.extend(&about[..about.len().min(1232)]);
    fix_icmpv6_checksum(router, to, &mut body);
    ipv6(router, to, 58, &body)
}

pub(super) fn fix_icmpv6_checksum(src: Ipv6Addr, dst: Ipv6Addr, body: &mut [u8]) {
    body[2..4].fill(0);
    let sum = transport_checksum(src.into(), dst.into(), 58, body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
}
