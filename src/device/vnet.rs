//! The virtio-net header, in which Linux and a TUN device tell each other what the packet behind it
//! lacks: its checksum, and that it be split.

use super::headers::{CWR, Ip, TCP, TCP_CHECKSUM, Tcp, UDP, UDP_CHECKSUM};
use crate::packet::{Checksum, Meta, PACKET_MAX, Packet};

/// Length of the virtio-net header in front of each packet.
pub(super) const HEADER_LEN: usize = 10;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// What a received packet's virtio-net header says, as far as the packet itself bears it out.
/// `None` if the two contradict each other.
pub(super) fn parse(header: &[u8; HEADER_LEN], packet: &[u8]) -> Option<Meta> {
    // The length of the headers, at offset 2, is a hint that nobody needs.
    let [
        flags,
        gso_type,
        _,
        _,
        size,
        size_,
        start,
        start_,
        offset,
        offset_,
    ] = *header;
    let gso_size = u16::from_ne_bytes([size, size_]);
    let start = usize::from(u16::from_ne_bytes([start, start_]));
    let offset = usize::from(u16::from_ne_bytes([offset, offset_]));
    let ip = Ip::parse(packet, packet.len());
    let mut meta = Meta::default();
    if flags & NEEDS_CSUM != 0 {
        let expected = ip.and_then(|ip| checksum_offset(ip).map(|offset| (ip.header_len, offset)));
        let is_borne_out = match expected {
            Some(expected) => expected == (start, offset),
            // Extension headers, a fragment, another protocol: inside of it is all one can ask.
            None => start >= 20 && start + offset + 2 <= packet.len(),
        };
        if !is_borne_out {
            return None;
        }
        meta.checksum = Checksum::Partial;
    } else if flags & DATA_VALID != 0 {
        meta.checksum = Checksum::Verified;
    }
    if gso_type == GSO_NONE {
        return Some(meta);
    }
    let tcp = Tcp::parse(packet, packet.len())?;
    let expected = if tcp.ip.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
    if gso_type & !GSO_ECN != expected || gso_size == 0 || packet.len() > PACKET_MAX {
        return None;
    }
    if tcp.payload_len() > usize::from(gso_size) {
        meta.gso_size = gso_size;
    }
    Some(meta)
}

/// Offset of the checksum in the transport header, where it is known.
fn checksum_offset(ip: Ip) -> Option<usize> {
    match ip.protocol {
        TCP => Some(TCP_CHECKSUM),
        UDP => Some(UDP_CHECKSUM),
        _ => None,
    }
}

/// The virtio-net header for a packet to be sent.
pub(super) fn make(packet: &Packet) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let Meta { checksum, gso_size } = packet.meta;
    let mut put = |at: usize, value: u16| {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    };
    if checksum == Checksum::Partial
        && let Some(ip) = Ip::parse(packet.first(), packet.len())
        && let Some(offset) = checksum_offset(ip)
    {
        put(6, ip.header_len as u16);
        put(8, offset as u16);
        header[0] = NEEDS_CSUM;
        if let Some(tcp) = Tcp::of(packet).filter(|tcp| {
            // A single segment is no super-packet to the kernel.
            gso_size > 0 && tcp.payload_len() > usize::from(gso_size)
        }) {
            let flags = packet.first()[ip.header_len + 13];
            header[1] = if ip.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
            if flags & CWR != 0 {
                header[1] |= GSO_ECN; // The flag belongs to the first segment only.
            }
            header[2..4].copy_from_slice(&(tcp.header_len as u16).to_ne_bytes());
            header[4..6].copy_from_slice(&gso_size.to_ne_bytes());
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn what_we_say_of_a_packet_is_what_we_would_believe() {
        let mut head = [0; 40];
        head[0] = 0x45;
        head[2..4].copy_from_slice(&4040_u16.to_be_bytes());
        head[9] = TCP;
        head[32] = 0x50;
        let meta = Meta {
            checksum: Checksum::Partial,
            gso_size: 1460,
        };
        let mut packet = Packet::with_head(&head, meta);
        packet.body.push(Bytes::from(vec![0; 4000]));
        let header = make(&packet);
        assert_eq!(parse(&header, &packet.to_vec()), Some(meta));
        packet.head_mut()[33] = CWR;
        assert_eq!(make(&packet)[1], GSO_TCPV4 | GSO_ECN);
    }

    #[test]
    fn m15_no_virtio_net_header_is_believed_against_its_packet() {
        let mut rng = StdRng::seed_from_u64(7);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..100_000 {
            let mut packet = [0; 200];
            let len = rng.random_range(0..packet.len());
            let packet = &mut packet[..len];
            rng.fill_bytes(packet);
            // Often close to the real thing, or everything would be refused at the first look.
            if len > 60 && rng.random_bool(0.9) {
                packet[0] = if rng.random_bool(0.5) { 0x45 } else { 0x60 };
                let total = rng.random_range(len - 50..len + 2) as u16;
                let at = if packet[0] == 0x45 { 20 } else { 40 };
                let (field, protocol) = if at == 20 { (2, 9) } else { (4, 6) };
                let total = if at == 20 {
                    total
                } else {
                    total.saturating_sub(40)
                };
                packet[field..field + 2].copy_from_slice(&total.to_be_bytes());
                packet[protocol] = if rng.random_bool(0.8) { TCP } else { UDP };
                packet[6] &= if at == 20 { 0x40 } else { 0xff };
                packet[7] &= if at == 20 { 0 } else { 0xff };
                packet[at + 12] = 0x50;
            }
            let mut header = [0; HEADER_LEN];
            rng.fill_bytes(&mut header);
            if rng.random_bool(0.8) {
                header[0] &= 3;
                header[1] = [0, 1, 4, 0x81, 0x84, 3][rng.random_range(0..6)];
                header[5] &= 7;
                header[6] = [20, 40][rng.random_range(0..2)];
                header[8] = [16, 6][rng.random_range(0..2)];
                (header[7], header[9]) = (0, 0);
            }
            match parse(&header, packet) {
                Some(meta) => {
                    taken += 1;
                    if meta.gso_size > 0 {
                        let tcp = Tcp::parse(packet, packet.len()).unwrap();
                        assert!(tcp.payload_len() > usize::from(meta.gso_size));
                    }
                    if meta.checksum == Checksum::Partial {
                        assert!(
                            usize::from(header[6]) + usize::from(header[8]) + 2 <= packet.len()
                        );
                    }
                }
                None => refused += 1,
            }
        }
        assert!(taken > 10_000 && refused > 10_000, "{taken} {refused}");
    }
}
