//! The header of UDP (RFC 768).

use bytes::Bytes;

use crate::{
    checksum::{sum, sum_packet},
    packet::{Checksum, HEAD_MAX, Meta, PACKET_MAX, Packet, Payload},
};

use super::{
    Malformed, be16,
    ip::{self, IpEmit, IpHeader, pseudo_sum},
    protocol,
};

/// Length of a header.
pub(crate) const HEADER_LEN: usize = 8;

/// A header that has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UdpHeader {
    /// The sender's port; zero if it wants no answer.
    pub(crate) src_port: u16,
    /// The receiver's port.
    pub(crate) dst_port: u16,
    /// Length of the datagram, header included. What follows it is padding.
    pub(crate) len: usize,
}

impl UdpHeader {
    /// Reads and verifies the datagram in a received packet. Its payload is what
    /// `packet.into_payload(ip.header_len + HEADER_LEN, ip.header_len + header.len)` gives.
    pub(crate) fn of(packet: &Packet, ip: &IpHeader) -> Result<Self, Malformed> {
        let transport_len = ip.total_len.saturating_sub(ip.header_len);
        let bytes = packet.first().get(ip.header_len..);
        let bytes = bytes.map(|bytes| &bytes[..bytes.len().min(transport_len)]);
        let fixed = bytes
            .and_then(<[u8]>::first_chunk::<HEADER_LEN>)
            .ok_or(Malformed::UdpTruncated)?;
        let header = Self {
            src_port: be16(fixed, 0),
            dst_port: be16(fixed, 2),
            len: usize::from(be16(fixed, 4)),
        };
        if !(HEADER_LEN..=transport_len).contains(&header.len) {
            return Err(Malformed::UdpLength);
        }
        verify(packet, ip, header.len, be16(fixed, 6))?;
        Ok(header)
    }
}

/// A zero means that the sender has not summed: allowed in IPv4 only (RFC 768, RFC 8200 §8.1).
fn verify(packet: &Packet, ip: &IpHeader, len: usize, field: u16) -> Result<(), Malformed> {
    match packet.meta.checksum {
        Checksum::Verified | Checksum::Partial => return Ok(()),
        Checksum::Complete => {}
    }
    if field == 0 && ip.src.is_ipv4() {
        return Ok(());
    }
    let pseudo = pseudo_sum(ip.src, ip.dst, protocol::UDP, len as u32);
    let range = ip.header_len..ip.header_len + len;
    if field != 0 && sum_packet(packet, range, pseudo).is_valid() {
        Ok(())
    } else {
        Err(Malformed::UdpChecksum)
    }
}

/// The longest payload of a datagram to or from `address` in packets of up to `mtu` bytes.
pub(crate) fn payload_max(address: std::net::IpAddr, mtu: usize) -> usize {
    mtu.min(PACKET_MAX)
        .saturating_sub(ip::header_len(address) + HEADER_LEN)
}

/// A packet to be sent, its checksum in place. The protocol and length of `ip` are set here.
///
/// # Panics
/// In debug builds, if it would be longer than [`PACKET_MAX`].
pub(crate) fn packet(mut ip: IpEmit, src_port: u16, dst_port: u16, payload: Bytes) -> Packet {
    let len = HEADER_LEN + payload.len();
    ip.protocol = protocol::UDP;
    ip.payload_len = len;
    let mut header = [0; HEADER_LEN];
    header[0..2].copy_from_slice(&src_port.to_be_bytes());
    header[2..4].copy_from_slice(&dst_port.to_be_bytes());
    header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    let mut total = pseudo_sum(ip.src, ip.dst, ip.protocol, len as u32).combine(sum(&header));
    total.add(&payload);
    let check = match total.finish() {
        0 => 0xffff, // Zero would mean that there is none.
        check => check,
    };
    header[6..8].copy_from_slice(&check.to_be_bytes());
    let mut head = [0; HEAD_MAX];
    let ip_len = ip::emit(&mut head, &ip);
    head[ip_len..ip_len + HEADER_LEN].copy_from_slice(&header);
    let mut packet = Packet::with_head(&head[..ip_len + HEADER_LEN], Meta::default());
    packet.body = Payload::from_iter([payload]);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{testing::Rng, wire::tests::envelope};

    fn parse(bytes: &[u8]) -> Result<UdpHeader, Malformed> {
        let packet = Packet::received(Bytes::copy_from_slice(bytes), Meta::default());
        let ip = ip::parse(packet.first(), packet.len())?;
        UdpHeader::of(&packet, &ip)
    }

    /// Where the UDP header starts.
    fn at(v6: bool) -> usize {
        if v6 { 40 } else { 20 }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut rng = Rng::new(3);
        for round in 0..1000 {
            let v6 = round % 2 == 1;
            let len = rng.below(2000);
            let payload = Bytes::from(rng.bytes(len));
            let (src_port, dst_port) = (rng.next() as u16, rng.next() as u16);
            let packet = packet(envelope(v6), src_port, dst_port, payload.clone());
            let bytes = packet.to_vec();
            let expected = UdpHeader {
                src_port,
                dst_port,
                len: HEADER_LEN + len,
            };
            assert_eq!(parse(&bytes), Ok(expected));
            assert_eq!(bytes[at(v6) + HEADER_LEN..], payload[..]);
        }
    }

    #[test]
    fn a_datagram_from_the_field_is_read() {
        // A DNS query of 29 bytes from 10.0.0.1:53124 to 10.0.0.53:53, its checksum by hand.
        let packet = packet(
            IpEmit {
                src: "10.0.0.1".parse().unwrap(),
                dst: "10.0.0.53".parse().unwrap(),
                ..envelope(false)
            },
            1,
            2,
            Bytes::from_static(&[0, 3]),
        );
        // 0a00 + 0001 + 0a00 + 0035 + 0011 + 000a + 0001 + 0002 + 000a + 0003 = 1461
        assert_eq!(packet.to_vec()[20..], [0, 1, 0, 2, 0, 10, 0xeb, 0x9e, 0, 3]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for v6 in [false, true] {
            let good = packet(envelope(v6), 53, 4000, Bytes::from_static(b"hello")).to_vec();
            for bit in at(v6) * 8..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(parse(&bad).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn without_a_checksum_it_is_taken_in_ipv4_only() {
        for v6 in [false, true] {
            let mut bytes = packet(envelope(v6), 53, 4000, Bytes::from_static(b"hello")).to_vec();
            bytes[at(v6) + 6..at(v6) + 8].fill(0);
            let read = parse(&bytes).map(|header| header.len);
            assert_eq!(
                read,
                if v6 {
                    Err(Malformed::UdpChecksum)
                } else {
                    Ok(13)
                }
            );
        }
    }

    #[test]
    fn a_sum_of_zero_is_written_as_its_other_form() {
        for v6 in [false, true] {
            // The payload that makes the sum come out as zero.
            let zeroes = packet(envelope(v6), 53, 4000, Bytes::from_static(&[0, 0])).to_vec();
            let missing = Bytes::copy_from_slice(&zeroes[at(v6) + 6..at(v6) + 8]);
            let bytes = packet(envelope(v6), 53, 4000, missing).to_vec();
            assert_eq!(bytes[at(v6) + 6..at(v6) + 8], [0xff, 0xff]);
            parse(&bytes).unwrap();
        }
    }

    #[test]
    fn lengths_must_agree_and_what_is_behind_is_padding() {
        let good = packet(envelope(false), 53, 4000, Bytes::from_static(b"hello")).to_vec();
        let with_len = |len: u16| {
            let mut bytes = good.clone();
            bytes[24..26].copy_from_slice(&len.to_be_bytes());
            bytes[26..28].fill(0);
            parse(&bytes).map(|header| header.len)
        };
        for len in (0..8).chain([14, 15, u16::MAX]) {
            assert_eq!(with_len(len), Err(Malformed::UdpLength), "{len}");
        }
        assert_eq!(with_len(8), Ok(8));
        assert_eq!(with_len(12), Ok(12));
        for len in 0..good.len() {
            assert!(parse(&good[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn the_longest_payload_fits_exactly() {
        let (v4, v6) = (envelope(false).src, envelope(true).src);
        assert_eq!(payload_max(v4, 1500), 1472);
        assert_eq!(payload_max(v6, 1500), 1452);
        assert_eq!(payload_max(v4, usize::MAX), 65_507);
        let longest = Bytes::from(vec![0; payload_max(v6, usize::MAX)]);
        let packet = packet(envelope(true), 1, 2, longest);
        assert_eq!(packet.len(), PACKET_MAX);
        parse(&packet.to_vec()).unwrap();
    }
}
