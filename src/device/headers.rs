//! The few header fields that a device has to know in order to split, merge and fill.

use crate::{
    checksum::{self, Sum},
    packet::Packet,
};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

pub(super) const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const ECE: u8 = 0x40;
pub(super) const CWR: u8 = 0x80;

/// Offset of the checksum in a TCP header.
pub(super) const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header.
pub(super) const UDP_CHECKSUM: usize = 6;

/// Two bytes in network order. The caller has checked the length.
pub(super) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Four bytes in network order. The caller has checked the length.
pub(super) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes two bytes in network order. The caller has checked the length.
pub(super) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// What an IP header says of a packet that is whole, no fragment and without extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ip {
    pub(super) v6: bool,
    pub(super) protocol: u8,
    /// Length of the IP header.
    pub(super) header_len: usize,
    /// Length of the packet without any padding behind it.
    pub(super) total_len: usize,
}

impl Ip {
    /// Reads the header at the start of `bytes`, which begin a packet of `len` bytes.
    pub(super) fn parse(bytes: &[u8], len: usize) -> Option<Self> {
        let ip = match bytes.first()? >> 4 {
            4 if bytes.len() >= 20 => Self {
                v6: false,
                protocol: bytes[9],
                header_len: usize::from(bytes[0] & 0xf) * 4,
                total_len: usize::from(get_u16(bytes, 2)),
            },
            6 if bytes.len() >= 40 => Self {
                v6: true,
                protocol: bytes[6],
                header_len: 40,
                total_len: 40 + usize::from(get_u16(bytes, 4)),
            },
            _ => return None,
        };
        let fragment = !ip.v6 && get_u16(bytes, 6) & 0x3fff != 0;
        let lengths = ip.header_len >= 20
            && ip.header_len <= ip.total_len
            && ip.header_len <= bytes.len()
            && ip.total_len <= len;
        (lengths && !fragment).then_some(ip)
    }

    /// Sum over the pseudo-header of a transport packet of `len` bytes.
    pub(super) fn pseudo_header(&self, header: &[u8], len: usize) -> Sum {
        let addresses = if self.v6 {
            &header[8..40]
        } else {
            &header[12..20]
        };
        let len = (len as u32).to_be_bytes();
        checksum::sum(addresses)
            .combine(checksum::sum(&[0, self.protocol]))
            .combine(checksum::sum(&len))
    }

    /// The same as words in the machine's order.
    pub(super) fn pseudo_sum(&self, header: &[u8], len: usize) -> u64 {
        u64::from(self.pseudo_header(header, len).partial().to_be())
    }

    /// Writes the length of the packet, and the header checksum where there is one.
    pub(super) fn set_total_len(&self, header: &mut [u8], total_len: usize) {
        if self.v6 {
            put_u16(header, 4, (total_len - 40) as u16);
        } else {
            put_u16(header, 2, total_len as u16);
            header[10..12].fill(0);
            let checksum = checksum::sum(&header[..self.header_len]).finish();
            put_u16(header, 10, checksum);
        }
    }
}

/// Where the parts of a TCP packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tcp {
    pub(super) ip: Ip,
    /// Length of both headers.
    pub(super) header_len: usize,
}

impl Tcp {
    /// Reads the headers at the start of `bytes`, which begin a packet of `len` bytes.
    pub(super) fn parse(bytes: &[u8], len: usize) -> Option<Self> {
        let ip = Ip::parse(bytes, len).filter(|ip| ip.protocol == TCP)?;
        if bytes.len() < ip.header_len + 20 {
            return None;
        }
        let tcp_len = usize::from(bytes[ip.header_len + 12] >> 4) * 4;
        let header_len = ip.header_len + tcp_len;
        (tcp_len >= 20 && header_len <= bytes.len().min(ip.total_len))
            .then_some(Self { ip, header_len })
    }

    /// The headers of `packet`, if they are those of TCP.
    pub(super) fn of(packet: &Packet) -> Option<Self> {
        Self::parse(packet.first(), packet.len())
    }

    /// Length of the payload.
    pub(super) fn payload_len(&self) -> usize {
        self.ip.total_len - self.header_len
    }
}

/// The sum of some bytes as words in the machine's order.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    u64::from(checksum::sum(bytes).partial().to_be())
}

/// Folds a sum to 16 bits, still in the machine's order.
pub(super) fn fold(total: u64) -> u16 {
    Sum::of_words(total).partial().to_be()
}
