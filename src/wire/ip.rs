//! What TCP and ICMP need to know of IPv4 and IPv6, in one type for both.

use std::net::IpAddr;

use super::{Malformed, ipv4, ipv6};
use crate::checksum::Sum;

/// The header of a received packet, extension headers included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpHeader {
    /// Where it says it comes from.
    pub(crate) src: IpAddr,
    /// Where it goes to; of the same family.
    pub(crate) dst: IpAddr,
    /// Of what follows all headers.
    pub(crate) protocol: u8,
    /// Where the field lies that names the protocol: what ICMPv6 points to.
    pub(crate) protocol_at: usize,
    /// Length of all headers: where the transport starts.
    pub(crate) header_len: usize,
    /// Length of the packet, headers included. What was received behind it is padding.
    pub(crate) total_len: usize,
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// Type of service, or traffic class: DSCP and ECN.
    pub(crate) tos: u8,
    /// Which part of a larger packet it is. An IPv6 fragment that is all of its packet is none
    /// (RFC 6946).
    pub(crate) fragment: Option<Fragment>,
    /// Whether routers must not fragment it, as they never do IPv6.
    pub(crate) dont_fragment: bool,
}

/// The place of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// What the fragments of one packet have in common.
    pub(crate) id: u32,
    /// In bytes.
    pub(crate) offset: u16,
    /// Whether others come behind it.
    pub(crate) more: bool,
}

/// What is wrong with the headers of an IPv6 packet, in the terms of an ICMPv6 parameter problem
/// (RFC 4443 §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeaderProblem {
    pub(super) code: u8,
    /// Where the byte lies that we cannot do with.
    pub(super) at: usize,
}

impl HeaderProblem {
    /// A type of routing header that we do not know, and have more to do with than to skip it.
    pub(super) const fn routing_type(at: usize) -> Self {
        Self { code: 0, at }
    }

    /// Something follows that we do not know.
    pub(super) const fn next_header(at: usize) -> Self {
        Self { code: 1, at }
    }

    /// An option that we do not know and must not skip.
    pub(super) const fn option(at: usize) -> Self {
        Self { code: 2, at }
    }
}

/// A header to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpEmit {
    /// Our address.
    pub(crate) src: IpAddr,
    /// The peer's, of the same family.
    pub(crate) dst: IpAddr,
    /// Of what follows.
    pub(crate) protocol: u8,
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// Type of service, or traffic class.
    pub(crate) tos: u8,
    /// Bytes that follow the header.
    pub(crate) payload_len: usize,
}

impl IpEmit {
    /// Bytes that [`emit`] writes.
    #[cfg(test)]
    pub(crate) const fn header_len(&self) -> usize {
        header_len(self.src)
    }
}

/// Length of the header that we write in front of packets from or to `address`.
pub(crate) const fn header_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => ipv4::HEADER_LEN,
        IpAddr::V6(_) => ipv6::HEADER_LEN,
    }
}

/// Reads and checks the headers of a packet of `packet_len` bytes that starts with `first`.
pub(crate) fn parse(first: &[u8], packet_len: usize) -> Result<IpHeader, Malformed> {
    let first = &first[..first.len().min(packet_len)];
    match version(first) {
        Some(4) => ipv4::parse(first, packet_len),
        Some(6) => ipv6::parse(first, packet_len),
        Some(_) => Err(Malformed::Version),
        None => Err(Malformed::Truncated),
    }
}

/// The headers of a packet that [`parse`] refuses, if its sender is to be told why.
pub(crate) fn problem(first: &[u8], packet_len: usize) -> Option<(IpHeader, HeaderProblem)> {
    let first = &first[..first.len().min(packet_len)];
    match version(first) {
        Some(6) => ipv6::problem(first, packet_len),
        _ => None,
    }
}

/// Reads the headers of a packet that an ICMP error quotes: cut short, and perhaps changed under
/// way, so that neither its length nor its checksum says anything.
pub(super) fn parse_quote(quote: &[u8]) -> Result<IpHeader, Malformed> {
    match version(quote) {
        Some(4) => ipv4::read(quote),
        Some(6) => ipv6::read(quote),
        _ => Err(Malformed::IcmpQuote),
    }
}

/// Writes a header to the start of `out` and returns its length.
///
/// # Panics
/// If the addresses are of different families, or `out` is too short.
pub(crate) fn emit(out: &mut [u8], ip: &IpEmit) -> usize {
    match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4::emit(out, ip, src, dst),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6::emit(out, ip, src, dst),
        _ => unreachable!("both addresses of a packet are of one family"),
    }
}

/// The sum of the pseudo-header of TCP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1).
pub(crate) fn pseudo_sum(src: IpAddr, dst: IpAddr, protocol: u8, transport_len: u32) -> Sum {
    // Both families have the same fields, if in other places, and places do not matter here.
    Sum::of_words(
        address_words(src)
            + address_words(dst)
            + u64::from(u16::from(protocol).to_be())
            + u64::from(transport_len.to_be()),
    )
}

/// Whether no packet from the network can come from there (RFC 1122 §3.2.1.3, RFC 4291).
pub(crate) fn is_martian_source(address: IpAddr) -> bool {
    !is_unicast_destination(address)
}

/// Whether it can be the address of one host on a network: no multicast, no broadcast, no loopback,
/// and not one that means none or something else.
pub(crate) fn is_unicast_destination(address: IpAddr) -> bool {
    match address {
        // 0/8, 127/8, and from 224/4 on multicast, reserved and broadcast.
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && address.to_ipv4_mapped().is_none()
        }
    }
}

fn version(packet: &[u8]) -> Option<u8> {
    packet.first().map(|byte| byte >> 4)
}

/// The sum of an address's words in the machine's order.
fn address_words(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => {
            let octets = address.octets();
            let (words, _) = octets.as_chunks::<4>();
            let words = words.iter().copied().map(u32::from_ne_bytes);
            words.map(u64::from).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::sum;
    use crate::testing::Rng;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut rng = Rng::new(7);
        for _ in 0..1000 {
            let v6 = rng.below(2) == 1;
            let mut any = || -> IpAddr {
                if v6 {
                    <[u8; 16]>::try_from(rng.bytes(16)).unwrap().into()
                } else {
                    <[u8; 4]>::try_from(rng.bytes(4)).unwrap().into()
                }
            };
            let ip = IpEmit {
                src: any(),
                dst: any(),
                protocol: 6,
                ttl: rng.next() as u8,
                tos: rng.next() as u8,
                payload_len: rng.below(65_515),
            };
            let mut out = [0xee; 128];
            let header_len = emit(&mut out, &ip);
            assert_eq!(header_len, ip.header_len());
            assert!(out[header_len..].iter().all(|byte| *byte == 0xee));
            let total_len = header_len + ip.payload_len;
            let expected = IpHeader {
                src: ip.src,
                dst: ip.dst,
                protocol: 6,
                protocol_at: if v6 { 6 } else { 9 },
                header_len,
                total_len,
                ttl: ip.ttl,
                tos: ip.tos,
                fragment: None,
                dont_fragment: true,
            };
            assert_eq!(parse(&out, total_len + 3), Ok(expected));
            assert_eq!(parse_quote(&out[..header_len]), Ok(expected));
        }
    }

    #[test]
    fn the_pseudo_header_is_summed_as_the_rfcs_lay_it_out() {
        let v4 = [10, 0, 0, 1, 192, 168, 7, 9, 0, 6, 0x12, 0x34];
        let (src, dst) = (address("10.0.0.1"), address("192.168.7.9"));
        assert_eq!(pseudo_sum(src, dst, 6, 0x1234), sum(&v4));
        let (src, dst) = (address("fd07::1"), address("2001:db8::ffff:1"));
        let (IpAddr::V6(a), IpAddr::V6(b)) = (src, dst) else {
            unreachable!()
        };
        let rest = [0, 1, 0x12, 0x34, 0, 0, 0, 58];
        let v6 = [&a.octets()[..], &b.octets(), &rest].concat();
        assert_eq!(pseudo_sum(src, dst, 58, 0x11234), sum(&v6));
    }

    #[test]
    fn martians_are_told_from_hosts() {
        for martian in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_martian_source(address(martian)), "{martian}");
            assert!(!is_unicast_destination(address(martian)), "{martian}");
        }
        for host in [
            "1.0.0.1",
            "10.7.0.1",
            "223.255.255.255",
            "fd07::1",
            "fe80::1",
        ] {
            assert!(!is_martian_source(address(host)), "{host}");
            assert!(is_unicast_destination(address(host)), "{host}");
        }
    }
}
