//! The header of TCP (RFC 9293 §3.1).

use std::{fmt, ops::BitOr};

use crate::{
    checksum::{Sum, sum_packet},
    packet::{Checksum, Meta, Packet, Payload},
    seq::SeqNum,
};

use super::{
    Malformed, be16, be32,
    ip::{self, IpEmit, IpHeader, pseudo_sum},
    options::TcpOptions,
    protocol,
};

/// Length of a header without options.
pub(crate) const HEADER_LEN: usize = 20;

/// Length of the longest header.
#[cfg(test)]
pub(crate) const HEADER_LEN_MAX: usize = HEADER_LEN + super::options::OPTIONS_MAX;

/// Where the checksum stands in a header.
pub(crate) const CHECKSUM_AT: usize = 16;

/// The control bits of a segment.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Flags(u8);

impl Flags {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const FIN: Self = Self(0x01);
    pub(crate) const SYN: Self = Self(0x02);
    pub(crate) const RST: Self = Self(0x04);
    pub(crate) const PSH: Self = Self(0x08);
    pub(crate) const ACK: Self = Self(0x10);
    pub(crate) const URG: Self = Self(0x20);
    pub(crate) const ECE: Self = Self(0x40);
    pub(crate) const CWR: Self = Self(0x80);
}

impl Flags {
    /// The bits as they stand in a header.
    #[cfg(test)]
    pub(crate) const fn new(raw: u8) -> Self {
        Self(raw)
    }

    /// The bits as they stand in a header.
    pub(crate) const fn raw(self) -> u8 {
        self.0
    }

    /// Whether every bit of `bits` is set.
    pub(crate) const fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// Whether any bit of `bits` is set.
    pub(crate) const fn has_any(self, bits: Self) -> bool {
        self.0 & bits.0 != 0
    }

    /// All bits but those of `bits`.
    #[must_use]
    pub(crate) const fn without(self, bits: Self) -> Self {
        Self(self.0 & !bits.0)
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        // tcpdump's letters.
        let set = (0..8).filter(|bit| self.0 & 1 << bit != 0);
        set.map(|bit| &"FSRPAUEW"[bit..=bit])
            .try_for_each(|letter| f.write_str(letter))
    }
}

/// A header. Fields are the `SEG.*` of RFC 9293 §3.3.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpHeader {
    /// The sender's port.
    pub(crate) src_port: u16,
    /// The receiver's port.
    pub(crate) dst_port: u16,
    /// The number of the first byte, or of SYN.
    pub(crate) seq: SeqNum,
    /// The next number expected; `None` when the ACK bit is off.
    pub(crate) ack: Option<SeqNum>,
    /// As on the wire, before scaling.
    pub(crate) wnd: u16,
    /// The control bits. When a header is written its ACK bit follows [`ack`](Self::ack).
    pub(crate) flags: Flags,
    /// The urgent pointer, as on the wire.
    pub(crate) urgent: u16,
    /// The options.
    pub(crate) options: TcpOptions,
    /// Length with options, where the payload starts. Of no meaning in a header to be written: ask
    /// [`emit_len`](Self::emit_len).
    pub(crate) header_len: usize,
}

impl TcpHeader {
    /// Reads and verifies the segment in a received packet. Its payload is what
    /// `packet.into_payload(ip.header_len + header.header_len, ip.total_len)` gives.
    pub(crate) fn of(packet: &Packet, ip: &IpHeader) -> Result<Self, Malformed> {
        let first = packet.first();
        let bytes = first.get(ip.header_len..).ok_or(Malformed::TcpTruncated)?;
        let header = Self::parse(bytes, ip.total_len.saturating_sub(ip.header_len))?;
        verify(packet, ip)?;
        Ok(header)
    }

    /// Reads the header of a segment of `transport_len` bytes that starts with `bytes`, without
    /// regard to its checksum. Reserved bits are ignored, and so are options out of their place:
    /// those of a SYN elsewhere, and SACK blocks in a SYN.
    pub(crate) fn parse(bytes: &[u8], transport_len: usize) -> Result<Self, Malformed> {
        let bytes = &bytes[..bytes.len().min(transport_len)];
        let (fixed, _) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(Malformed::TcpTruncated)?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        let options = bytes
            .get(HEADER_LEN..header_len)
            .ok_or(Malformed::DataOffset)?;
        let mut options = TcpOptions::parse(options);
        let flags = Flags(fixed[13]);
        options.retain_for(flags.has(Flags::SYN));
        Ok(Self {
            src_port: be16(fixed, 0),
            dst_port: be16(fixed, 2),
            seq: SeqNum::new(be32(fixed, 4)),
            ack: flags.has(Flags::ACK).then(|| SeqNum::new(be32(fixed, 8))),
            wnd: be16(fixed, 14),
            flags,
            urgent: be16(fixed, 18),
            options,
            header_len,
        })
    }

    /// Bytes that [`emit`](Self::emit) writes.
    pub(crate) fn emit_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Writes the header to the start of `out`, its checksum zero, and returns its length.
    ///
    /// # Panics
    /// If `out` is shorter than [`emit_len`](Self::emit_len).
    pub(crate) fn emit(&self, out: &mut [u8]) -> usize {
        let header_len = HEADER_LEN + self.options.emit(&mut out[HEADER_LEN..]);
        let mut flags = self.flags.without(Flags::ACK);
        if self.ack.is_some() {
            flags = flags | Flags::ACK;
        }
        let ack = self.ack.map_or(0, SeqNum::raw);
        out[0..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..8].copy_from_slice(&self.seq.raw().to_be_bytes());
        out[8..12].copy_from_slice(&ack.to_be_bytes());
        out[12] = (header_len as u8 / 4) << 4;
        out[13] = flags.raw();
        out[14..16].copy_from_slice(&self.wnd.to_be_bytes());
        out[16..18].fill(0);
        out[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        header_len
    }
}

/// A packet to be sent: both headers in its head, `payload` behind it, and the checksum
/// [`Partial`](Checksum::Partial). The protocol and length of `ip` are set here.
pub(crate) fn packet(
    mut ip: IpEmit,
    header: &TcpHeader,
    payload: Payload,
    gso_size: u16,
) -> Packet {
    let payload_len: usize = payload.iter().map(|slice| slice.len()).sum();
    let transport_len = header.emit_len() + payload_len;
    ip.protocol = protocol::TCP;
    ip.payload_len = transport_len;
    let meta = Meta {
        checksum: Checksum::Partial,
        gso_size,
    };
    Packet::written(meta, payload, |head| {
        let ip_len = ip::emit(head, &ip);
        let tcp_len = header.emit(&mut head[ip_len..]);
        fill_partial(&mut head[ip_len..], &ip);
        ip_len + tcp_len
    })
}

/// Puts the sum of the pseudo-header, not complemented, into the checksum field of the TCP header
/// that `transport` starts with: what whoever adds the rest starts with (Linux's
/// `CHECKSUM_PARTIAL`, virtio-net's `NEEDS_CSUM`).
///
/// # Panics
/// If `transport` is shorter than a header.
pub(crate) fn fill_partial(transport: &mut [u8], ip: &IpEmit) {
    let sum = pseudo_sum(ip.src, ip.dst, ip.protocol, ip.payload_len as u32);
    let field = &mut transport[CHECKSUM_AT..CHECKSUM_AT + 2];
    field.copy_from_slice(&sum.partial().to_be_bytes());
}

/// Completes the checksum of a packet to be sent, if it is [`Partial`](Checksum::Partial). The
/// TCP header is in its head, after `ip_len` bytes.
///
/// # Panics
/// If the head is shorter than that.
pub(crate) fn fill_checksum(packet: &mut Packet, ip_len: usize) {
    if packet.meta.checksum != Checksum::Partial {
        return;
    }
    // The field holds the sum of the pseudo-header, so what covers it too is the sum of all.
    let sum = sum_packet(packet, ip_len..packet.len(), Sum::default());
    let field = &mut packet.head_mut()[ip_len + CHECKSUM_AT..ip_len + CHECKSUM_AT + 2];
    field.copy_from_slice(&sum.finish().to_be_bytes());
    packet.meta.checksum = Checksum::Complete;
}

/// Verifies the checksum of the segment in a received packet, unless the device vouches for it.
pub(crate) fn verify(packet: &Packet, ip: &IpHeader) -> Result<(), Malformed> {
    match packet.meta.checksum {
        Checksum::Verified | Checksum::Partial => return Ok(()),
        Checksum::Complete => {}
    }
    let transport_len = ip.total_len.saturating_sub(ip.header_len);
    let pseudo = pseudo_sum(ip.src, ip.dst, protocol::TCP, transport_len as u32);
    if sum_packet(packet, ip.header_len..ip.total_len, pseudo).is_valid() {
        Ok(())
    } else {
        Err(Malformed::TcpChecksum)
    }
}

/// The source and destination port of whatever starts with `bytes`, if it is long enough.
pub(crate) fn peek_ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let ports = bytes.first_chunk::<4>()?;
    Some((be16(ports, 0), be16(ports, 2)))
}

#[cfg(test)]
mod tests {
    use crate::testing::Rng;
    use bytes::Bytes;

    use super::{
        super::options::{SackBlocks, Timestamps},
        *,
    };

    fn envelope(v6: bool) -> IpEmit {
        let (src, dst) = if v6 {
            ("fd07::2", "fd07::1")
        } else {
            ("10.7.0.2", "10.7.0.1")
        };
        IpEmit {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol: 0,
            ttl: 64,
            tos: 2,
            payload_len: 0,
        }
    }

    fn any_header(rng: &mut Rng) -> TcpHeader {
        let flags = Flags(rng.next() as u8);
        let mut sack = SackBlocks::default();
        for _ in 0..rng.below(4) {
            let left = SeqNum::new(rng.next() as u32);
            sack.push(left, left + 9);
        }
        let mut options = TcpOptions {
            mss: Some(rng.next() as u16),
            window_scale: Some(rng.next() as u8),
            sack_permitted: rng.below(2) == 0,
            timestamps: (rng.below(2) == 0).then(|| Timestamps {
                val: rng.next() as u32,
                ecr: rng.next() as u32,
            }),
            sack,
        };
        options.retain_for(flags.has(Flags::SYN));
        TcpHeader {
            src_port: rng.next() as u16,
            dst_port: rng.next() as u16,
            seq: SeqNum::new(rng.next() as u32),
            ack: flags
                .has(Flags::ACK)
                .then(|| SeqNum::new(rng.next() as u32)),
            wnd: rng.next() as u16,
            flags,
            urgent: rng.next() as u16,
            options,
            header_len: HEADER_LEN + options.len(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut rng = Rng::new(9);
        for _ in 0..5000 {
            let header = any_header(&mut rng);
            let mut out = [0xee; HEADER_LEN_MAX];
            let len = header.emit(&mut out);
            assert_eq!(len, header.emit_len());
            assert!(out[len..].iter().all(|byte| *byte == 0xee));
            assert_eq!(TcpHeader::parse(&out, len), Ok(header));
            assert_eq!(TcpHeader::parse(&out[..len], len + 100), Ok(header));
            let ports = (header.src_port, header.dst_port);
            assert_eq!(peek_ports(&out), Some(ports));
        }
        assert_eq!(peek_ports(&[0, 1, 0]), None);
    }

    #[test]
    fn a_packet_survives_the_way_in_one_piece_or_in_several() {
        let mut rng = Rng::new(10);
        for round in 0..500 {
            let header = any_header(&mut rng);
            let slices: Vec<_> = (0..rng.below(6))
                .map(|_| {
                    let len = rng.below(200);
                    Bytes::from(rng.bytes(len))
                })
                .collect();
            let data = slices.concat();
            let ip_len = if round % 2 == 0 { 40 } else { 20 };
            let ip = envelope(round % 2 == 0);
            let mut sent = packet(ip, &header, slices.into_iter().collect(), 0);
            assert_eq!(sent.meta.checksum, Checksum::Partial);
            fill_checksum(&mut sent, ip_len);
            assert_eq!(sent.meta.checksum, Checksum::Complete);
            let whole = Packet::received(sent.to_vec().into(), Meta::default());
            for packet in [sent, whole] {
                let ip = ip::parse(packet.first(), packet.len()).unwrap();
                assert_eq!(ip.protocol, protocol::TCP);
                assert_eq!(TcpHeader::of(&packet, &ip), Ok(header));
                let at = ip.header_len + header.header_len;
                assert_eq!(packet.into_payload(at, ip.total_len).concat(), data);
            }
        }
    }

    #[test]
    fn a_wrong_checksum_is_refused_unless_the_device_vouches() {
        for v6 in [false, true] {
            let header = any_header(&mut Rng::new(11));
            let payload = Payload::from_iter([Bytes::from_static(b"odd")]);
            let mut sent = packet(envelope(v6), &header, payload, 0);
            let ip = ip::parse(sent.first(), sent.len()).unwrap();
            assert_eq!(verify(&sent, &ip), Ok(()), "taken as it is");
            sent.meta.checksum = Checksum::Complete;
            assert_eq!(verify(&sent, &ip), Err(Malformed::TcpChecksum));
            sent.meta.checksum = Checksum::Partial;
            fill_checksum(&mut sent, ip.header_len);
            let good = sent.to_vec();
            for bit in ip.header_len * 8..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let mut packet = Packet::received(bad.into(), Meta::default());
                assert_eq!(verify(&packet, &ip), Err(Malformed::TcpChecksum));
                packet.meta.checksum = Checksum::Verified;
                assert_eq!(verify(&packet, &ip), Ok(()));
            }
        }
    }

    #[test]
    fn both_forms_of_a_zero_checksum_are_accepted() {
        let ip = envelope(false);
        let zero = (0..=u16::MAX).find_map(|wnd| {
            let header = TcpHeader {
                wnd,
                ..TcpHeader::default()
            };
            let mut sent = packet(ip, &header, Payload::new(), 0);
            fill_checksum(&mut sent, 20);
            (sent.head()[36..38] == [0, 0]).then_some(sent)
        });
        let mut sent = zero.unwrap();
        let ip = ip::parse(sent.first(), sent.len()).unwrap();
        assert_eq!(verify(&sent, &ip), Ok(()));
        sent.head_mut()[36..38].fill(0xff);
        assert_eq!(verify(&sent, &ip), Ok(()));
    }

    #[test]
    fn every_data_offset_against_every_length() {
        let bytes = [0; 64];
        for offset in 0..16_usize {
            for len in 0..=60 {
                let mut bytes = bytes;
                bytes[12] = (offset as u8) << 4;
                let expected = if len < HEADER_LEN {
                    Err(Malformed::TcpTruncated)
                } else if offset < 5 || offset * 4 > len {
                    Err(Malformed::DataOffset)
                } else {
                    Ok(offset * 4)
                };
                let by_bytes = TcpHeader::parse(&bytes[..len], 1000);
                assert_eq!(by_bytes.map(|header| header.header_len), expected);
                let by_len = TcpHeader::parse(&bytes, len);
                assert_eq!(by_len.map(|header| header.header_len), expected);
            }
        }
    }

    #[test]
    fn reserved_bits_and_options_out_of_place_are_ignored() {
        let mut bytes = [0; 32];
        bytes[12] = 0x8f;
        bytes[13] = Flags::ACK.raw();
        bytes[20..].copy_from_slice(&[2, 4, 5, 0xb4, 4, 2, 3, 3, 7, 1, 1, 1]);
        let header = TcpHeader::parse(&bytes, 32).unwrap();
        assert_eq!(header.flags, Flags::ACK);
        assert_eq!(header.options, TcpOptions::default());
        bytes[13] = Flags::SYN.raw();
        let options = TcpHeader::parse(&bytes, 32).unwrap().options;
        assert_eq!((options.mss, options.window_scale), (Some(1460), Some(7)));
        assert!(options.sack_permitted);
    }

    #[test]
    fn flags_print_as_letters() {
        assert_eq!(format!("{:?}", Flags::SYN | Flags::ACK), "SA");
        assert_eq!(format!("{:?}", Flags::new(0xff)), "FSRPAUEW");
        assert_eq!(format!("{:?}", Flags::NONE), "-");
        let both = Flags::SYN | Flags::FIN;
        assert!(both.has(Flags::SYN) && !Flags::SYN.has(both) && Flags::SYN.has_any(both));
    }
}
