//! Bytes to headers and back: pure functions that keep nothing and trust nothing.

pub(crate) mod icmp;
pub(crate) mod ip;
mod ipv4;
mod ipv6;
pub(crate) mod options;
pub(crate) mod tcp;
pub(crate) mod udp;

/// Why bytes are no packet, segment or message. Counted and dropped, never told to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Malformed {
    /// Shorter than an IP header, or than its headers say it is.
    Truncated,
    /// Neither IPv4 nor IPv6.
    Version,
    /// An IPv4 header of fewer than five words.
    IpHeaderLength,
    /// An IPv4 total length that is less than the header's.
    IpTotalLength,
    /// The checksum of an IPv4 header is wrong.
    IpChecksum,
    /// An IPv4 option that runs past its header.
    IpOption,
    /// An IPv4 source route, loose or strict (RFC 7126 §4.3).
    SourceRoute,
    /// An IPv6 option that runs past its header, or that we do not know and that asks to be
    /// discarded then (RFC 8200 §4.2).
    Ipv6Option,
    /// An IPv6 routing header that is not at its end, or of type 0 (RFC 5095).
    RoutingHeader,
    /// A hop-by-hop header that is not the first, or more headers than anybody needs.
    ExtensionHeaders,
    /// Shorter than a TCP header.
    TcpTruncated,
    /// A TCP header of fewer than five words, or longer than the segment.
    DataOffset,
    /// The TCP checksum is wrong.
    TcpChecksum,
    /// Shorter than a UDP header.
    UdpTruncated,
    /// A UDP length that is less than the header's, or more than there is.
    UdpLength,
    /// The UDP checksum is wrong, or missing in IPv6.
    UdpChecksum,
    /// Shorter than an ICMP header.
    IcmpTruncated,
    /// The ICMP checksum is wrong.
    IcmpChecksum,
    /// An ICMP error that quotes too little or nothing sensible.
    IcmpQuote,
}

/// Numbers in the protocol field of IPv4 and the next-header field of IPv6.
pub(crate) mod protocol {
    /// ICMP for IPv4.
    pub(crate) const ICMP: u8 = 1;
    /// TCP.
    pub(crate) const TCP: u8 = 6;
    /// UDP.
    pub(crate) const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub(crate) const ICMPV6: u8 = 58;
    /// Nothing (RFC 8200 §4.7).
    pub(crate) const NONE: u8 = 59;
}

/// Two bytes of a header of fixed size.
fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// Four bytes of a header of fixed size.
fn be32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        icmp::{self, IcmpMessage, Report},
        ip::{self, IpEmit, IpHeader},
        options::{SackBlocks, TcpOptions, Timestamps},
        tcp::{self, Flags, TcpHeader},
        udp::{self, UdpHeader},
        *,
    };
    use crate::{
        checksum::sum,
        packet::{Meta, Packet, Payload},
        seq::SeqNum,
        testing::Rng,
    };

    pub(super) fn envelope(v6: bool) -> IpEmit {
        let [src, dst] = if v6 {
            ["fd07::2", "fd07::1"]
        } else {
            ["10.7.0.2", "10.7.0.1"]
        };
        IpEmit {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol: protocol::TCP,
            ttl: 64,
            tos: 0,
            payload_len: 0,
        }
    }

    fn segment(v6: bool) -> Packet {
        let mut sack = SackBlocks::default();
        sack.push(SeqNum::new(5), SeqNum::new(9));
        let header = TcpHeader {
            src_port: 80,
            dst_port: 4000,
            seq: SeqNum::new(7),
            ack: Some(SeqNum::new(3)),
            flags: Flags::PSH,
            options: TcpOptions {
                timestamps: Some(Timestamps { val: 1, ecr: 2 }),
                sack,
                ..TcpOptions::default()
            },
            ..TcpHeader::default()
        };
        let payload = Payload::from_iter([Bytes::from_static(b"hello, world")]);
        let mut packet = tcp::packet(envelope(v6), &header, payload, 0);
        tcp::fill_checksum(&mut packet, if v6 { 40 } else { 20 });
        packet
    }

    /// What the engine does with a packet, as far as this module goes.
    fn receive(first: &[u8], packet_len: usize) -> Result<(), Malformed> {
        let ip = ip::parse(first, packet_len)?;
        assert!(ip.header_len <= ip.total_len && ip.total_len <= packet_len);
        let packet = Packet::received(Bytes::copy_from_slice(first), Meta::default());
        // A quote is read with less care than a packet, so try it on everything.
        let _ = ip::parse_quote(first);
        let _ = icmp::report(&packet, &ip, Report::Protocol, 64);
        let _ = icmp::may_report(&packet, &ip);
        match ip.protocol {
            protocol::TCP => {
                let tcp = TcpHeader::of(&packet, &ip)?;
                assert!(ip.header_len + tcp.header_len <= ip.total_len);
            }
            protocol::UDP => {
                let udp = UdpHeader::of(&packet, &ip)?;
                assert!(ip.header_len + udp.len <= ip.total_len);
            }
            protocol::ICMP | protocol::ICMPV6 => {
                icmp::parse(&packet, &ip)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A valid packet of each kind.
    fn samples() -> Vec<Vec<u8>> {
        let mut samples = Vec::new();
        for v6 in [false, true] {
            let segment = segment(v6);
            let ip = ip::parse(segment.first(), segment.len()).unwrap();
            let echo = icmp::Echo {
                ident: 1,
                sequence: 2,
            };
            let ping = Payload::from_iter([Bytes::from_static(b"ping")]);
            samples.push(segment.to_vec());
            samples.push(icmp::echo_reply(&ip, echo, 0, ping, 64).to_vec());
            samples.push(udp::packet(envelope(v6), 53, 4000, Bytes::from_static(b"dig")).to_vec());
            for report in [
                Report::Host,
                Report::Protocol,
                Report::Port,
                Report::AdminProhibited,
            ] {
                samples.push(icmp::report(&segment, &ip, report, 64).to_vec());
            }
        }
        samples.push(with_ipv4_options(&samples[0], &[1, 7, 7, 4, 0, 0, 0, 0]));
        let hop_by_hop = [6, 0, 5, 2, 0, 0, 1, 0];
        let at = samples.len() / 2;
        samples.push(with_extension(&samples[at], 0, &hop_by_hop));
        samples
    }

    fn with_ipv4_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
        let mut bytes = [&packet[..20], options, &packet[20..]].concat();
        bytes[0] += (options.len() / 4) as u8;
        let total_len = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&total_len.to_be_bytes());
        fill_ipv4_checksum(&mut bytes);
        bytes
    }

    fn with_extension(packet: &[u8], kind: u8, extension: &[u8]) -> Vec<u8> {
        let mut bytes = [&packet[..40], extension, &packet[40..]].concat();
        let payload_len = (bytes.len() - 40) as u16;
        bytes[4..6].copy_from_slice(&payload_len.to_be_bytes());
        bytes[6] = kind;
        bytes
    }

    fn fill_ipv4_checksum(bytes: &mut [u8]) {
        let header_len = usize::from(bytes[0] & 15) * 4;
        bytes[10..12].fill(0);
        let check = sum(&bytes[..header_len]).finish();
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
    }

    #[test]
    fn every_sample_is_received() {
        for sample in samples() {
            assert_eq!(receive(&sample, sample.len()), Ok(()), "{sample:02x?}");
        }
    }

    #[test]
    fn every_truncation_is_refused_and_none_panics() {
        for sample in samples() {
            for len in 0..sample.len() {
                assert!(receive(&sample[..len], len).is_err(), "{len}");
                // The headers cut short, although the packet as a whole is longer.
                let _ = receive(&sample[..len], sample.len());
            }
        }
    }

    #[test]
    fn padding_behind_the_packet_is_not_data() {
        for sample in samples() {
            let padded = [&sample[..], &[0xaa; 9]].concat();
            let ip = ip::parse(&padded, padded.len()).unwrap();
            assert_eq!(ip.total_len, sample.len());
            assert_eq!(receive(&padded, padded.len()), Ok(()));
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = Rng::new(1);
        for _ in 0..100_000 {
            let len = rng.below(120);
            let mut bytes = rng.bytes(len);
            if let Some(first) = bytes.first_mut() {
                *first = [0x45, 0x46, 0x60, *first][rng.below(4)];
            }
            let _ = receive(&bytes, len);
            let _ = TcpHeader::parse(&bytes, len);
            let _ = TcpOptions::parse(&bytes);
        }
    }

    #[test]
    fn damaged_packets_with_right_checksums_never_panic() {
        let (samples, mut rng) = (samples(), Rng::new(2));
        for _ in 0..100_000 {
            let mut bytes = samples[rng.below(samples.len())].clone();
            for _ in 0..=rng.below(4) {
                let at = rng.below(bytes.len());
                bytes[at] = [0, 1, 0x7f, 0xff, rng.next() as u8][rng.below(5)];
            }
            bytes.truncate(20 + rng.below(2 * bytes.len()));
            if bytes[0] >> 4 == 4 && usize::from(bytes[0] & 15) * 4 <= bytes.len() {
                fill_ipv4_checksum(&mut bytes);
            }
            let verified = Meta {
                checksum: crate::packet::Checksum::Verified,
                ..Meta::default()
            };
            let len = bytes.len();
            let _ = receive(&bytes, len);
            let Ok(ip) = ip::parse(&bytes, len) else {
                continue;
            };
            let packet = Packet::received(bytes.into(), verified);
            let _ = TcpHeader::of(&packet, &ip);
            let _ = UdpHeader::of(&packet, &ip);
            if let Ok(IcmpMessage::Error(error)) = icmp::parse(&packet, &ip) {
                assert_eq!(error.quote.src.is_ipv4(), ip.src.is_ipv4());
            }
        }
    }

    #[test]
    fn ipv4_lengths_must_agree() {
        let good = segment(false).to_vec();
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            fill_ipv4_checksum(&mut bytes);
            ip::parse(&bytes, bytes.len()).unwrap_err()
        };
        for words in 0..5 {
            let error = refused(&|bytes| bytes[0] = 0x40 | words);
            assert_eq!(error, Malformed::IpHeaderLength);
        }
        for total in 0..20 {
            let error = refused(&|bytes| bytes[2..4].copy_from_slice(&[0, total]));
            assert_eq!(error, Malformed::IpTotalLength);
        }
        assert_eq!(refused(&|bytes| bytes[2] = 9), Malformed::Truncated);
        for version in (0..16).filter(|version| ![4, 6].contains(version)) {
            let error = refused(&|bytes| bytes[0] = version << 4 | 5);
            assert_eq!(error, Malformed::Version);
        }
        // One flip of the version makes it IPv6.
        for bit in (0..160).filter(|bit| *bit != 5) {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ip::parse(&bytes, bytes.len()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn ipv4_options_are_skipped_but_source_routes_are_refused() {
        let good = segment(false).to_vec();
        let parse = |options: &[u8]| {
            let bytes = with_ipv4_options(&good, options);
            receive(&bytes, bytes.len())
        };
        assert_eq!(parse(&[1, 1, 1, 1]), Ok(()));
        assert_eq!(parse(&[148, 4, 0, 0]), Ok(())); // Router alert.
        assert_eq!(parse(&[0, 131, 0, 0]), Ok(())); // Behind the end of the list.
        assert_eq!(parse(&[131, 3, 4, 0]), Err(Malformed::SourceRoute));
        assert_eq!(parse(&[1, 137, 3, 4]), Err(Malformed::SourceRoute));
        assert_eq!(parse(&[7, 0, 0, 0]), Err(Malformed::IpOption));
        assert_eq!(parse(&[7, 1, 0, 0]), Err(Malformed::IpOption));
        assert_eq!(parse(&[7, 5, 0, 0]), Err(Malformed::IpOption));
        assert_eq!(parse(&[1, 1, 1, 7]), Err(Malformed::IpOption));
    }

    #[test]
    fn ipv4_fragments_are_recognised() {
        let fragment = |flags: u16| {
            let mut bytes = segment(false).to_vec();
            bytes[6..8].copy_from_slice(&flags.to_be_bytes());
            fill_ipv4_checksum(&mut bytes);
            ip::parse(&bytes, bytes.len()).unwrap()
        };
        let whole = fragment(0x4000);
        assert!(whole.fragment.is_none() && whole.dont_fragment);
        assert!(fragment(0x8000).fragment.is_none());
        assert!(fragment(0x2000).fragment.unwrap().more);
        assert_eq!(fragment(0x1fff).fragment.unwrap().offset, 65_528);
    }

    #[test]
    fn ipv6_extension_headers_are_walked() {
        let good = segment(true).to_vec();
        let parse = |kind, extension: &[u8]| -> Result<IpHeader, Malformed> {
            let bytes = with_extension(&good, kind, extension);
            ip::parse(&bytes, bytes.len())
        };
        let options = parse(60, &[6, 0, 1, 4, 0, 0, 0, 0]).unwrap();
        assert_eq!((options.header_len, options.protocol_at), (48, 40));
        assert!(parse(0, &[6, 0, 0, 0, 0x1e, 2, 9, 9]).is_ok());
        for kind in [0x5e, 0x9e, 0xde, 0xc2, 0xc9] {
            let error = parse(0, &[6, 0, kind, 4, 0, 0, 0, 0]).unwrap_err();
            assert_eq!(error, Malformed::Ipv6Option);
        }
        let past_the_end = parse(60, &[6, 0, 1, 5, 0, 0, 0, 0]).unwrap_err();
        assert_eq!(past_the_end, Malformed::Ipv6Option);
        assert!(parse(43, &[6, 0, 2, 0, 0, 0, 0, 0]).is_ok());
        for refused in [[6, 0, 2, 1], [6, 0, 0, 0], [6, 0, 0, 1]] {
            let error = parse(43, &[&refused[..], &[0; 4]].concat()).unwrap_err();
            assert_eq!(error, Malformed::RoutingHeader);
        }
        let second = [[60, 0, 1, 4, 0, 0, 0, 0], [0, 0, 1, 4, 0, 0, 0, 0]].concat();
        let second = [&second[..], &[6, 0, 1, 4, 0, 0, 0, 0]].concat();
        let error = parse(60, &second).unwrap_err();
        assert_eq!(error, Malformed::ExtensionHeaders);
        let many = [60, 0, 1, 4, 0, 0, 0, 0].repeat(50);
        assert_eq!(parse(60, &many).unwrap_err(), Malformed::ExtensionHeaders);
        let long = parse(60, &[6, 200, 0, 0, 0, 0, 0, 0]).unwrap_err();
        assert_eq!(long, Malformed::Truncated);
        assert_eq!(parse(59, &[]).unwrap().protocol, 59);
    }

    #[test]
    fn ipv6_fragments_are_recognised_and_atomic_ones_taken() {
        let good = segment(true).to_vec();
        let parse = |field: u16| {
            let [high, low] = field.to_be_bytes();
            let bytes = with_extension(&good, 44, &[6, 0, high, low, 0, 0, 0, 1]);
            ip::parse(&bytes, bytes.len()).unwrap()
        };
        assert!(parse(0).fragment.is_none());
        assert!(parse(6).fragment.is_none()); // Reserved bits are ignored.
        assert!(parse(1).fragment.unwrap().more);
        let last = parse(0xfff8).fragment.unwrap();
        assert_eq!((last.offset, last.more, last.id), (65_528, false, 1));
    }

    #[test]
    fn ipv6_payload_length_zero_is_no_jumbogram() {
        let mut bytes = segment(true).to_vec();
        bytes[4..6].fill(0);
        let ip = ip::parse(&bytes, bytes.len()).unwrap();
        assert_eq!(ip.total_len, 40);
        let packet = Packet::received(bytes.clone().into(), Meta::default());
        let error = TcpHeader::of(&packet, &ip).unwrap_err();
        assert_eq!(error, Malformed::TcpTruncated);
        let jumbo = [6, 0, 0xc2, 4, 0, 1, 0, 0];
        let mut bytes = with_extension(&bytes, 0, &jumbo);
        bytes[4..6].fill(0);
        assert!(ip::parse(&bytes, bytes.len()).is_err());
    }
}
