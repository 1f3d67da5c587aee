//! Splits super-packets, and fills in what is missing from packets.

use std::{collections::VecDeque, mem};

use bytes::{Bytes, BytesMut};

use crate::{
    checksum::{Sum, sum, sum_packet},
    device::headers::{
        CWR, FIN, Ip, PSH, TCP, TCP_CHECKSUM, Tcp, UDP, UDP_CHECKSUM, get_u16, get_u32, put_u16,
    },
    packet::{Checksum, HEAD_MAX, Meta, Packet},
    pool::Pool,
};

/// Memory is taken in blocks of this size: the largest packet, and some small ones.
pub(super) const BLOCK: usize = (64 + 4) << 10;

/// Blocks kept for use again: enough for the largest window of one connection.
const BLOCKS_MAX: usize = 128;

/// Where packets are written: the current block, and the pool it is from.
#[derive(Debug)]
pub(super) struct Buffer {
    pool: Pool,
    pub(super) block: BytesMut,
}

impl Buffer {
    pub(super) fn new() -> Self {
        let mut pool = Pool::new(BLOCK, BLOCKS_MAX);
        let block = pool.take();
        Self { pool, block }
    }

    /// Makes room for `len` contiguous bytes at the end of the block.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.block.capacity() - self.block.len() < len {
            let used = mem::replace(&mut self.block, self.pool.take());
            self.pool.put(used);
        }
    }

    /// The bytes of a packet, copied unless they are in one piece already.
    pub(super) fn in_one_piece(&mut self, mut packet: Packet) -> Bytes {
        if packet.head().is_empty() && packet.body.len() == 1 {
            return packet.body.swap_remove(0);
        }
        self.reserve(packet.len());
        let slices = packet.slices(0..packet.len());
        slices.for_each(|slice| self.block.extend_from_slice(slice));
        self.block.split().freeze()
    }

    /// The packet that was written since the last call.
    pub(super) fn finish(&mut self, meta: Meta) -> Packet {
        Packet::received(self.block.split().freeze(), meta)
    }

    /// Splits the super-packet `packet` into the segments that it stands for. False if its headers
    /// make no sense.
    pub(super) fn split(&mut self, packet: &Packet, segments: &mut VecDeque<Packet>) -> bool {
        let Some(tcp) = Tcp::of(packet).filter(|tcp| tcp.header_len <= HEAD_MAX) else {
            return false;
        };
        let Tcp { ip, header_len } = tcp;
        let mut template = [0; HEAD_MAX];
        let template = &mut template[..header_len];
        template.copy_from_slice(&packet.first()[..header_len]);
        let at = ip.header_len;
        let flags = template[at + 13];
        let seq = get_u32(template, at + 4);
        let id = get_u16(template, 4);
        let gso_size = usize::from(packet.meta.gso_size);
        let payload_len = tcp.payload_len();
        let mut payload = packet.slices(header_len..ip.total_len);
        let mut rest: &[u8] = &[];

        for (index, start) in (0..payload_len.max(1)).step_by(gso_size).enumerate() {
            let len = gso_size.min(payload_len - start);
            let is_last = start + len == payload_len;
            let mut cleared = if is_last { 0 } else { FIN | PSH };
            if index > 0 {
                cleared |= CWR;
            }
            template[at + 13] = flags & !cleared;
            template[at + 4..at + 8].copy_from_slice(&seq.wrapping_add(start as u32).to_be_bytes());
            if !ip.v6 {
                put_u16(template, 4, id.wrapping_add(index as u16));
            }
            template[at + TCP_CHECKSUM..at + TCP_CHECKSUM + 2].fill(0);
            ip.set_total_len(template, header_len + len);

            self.reserve(header_len + len);
            self.block.extend_from_slice(template);
            let mut missing = len;
            while missing > 0 {
                if rest.is_empty() {
                    rest = payload.next().expect("the lengths were checked");
                }
                let (now, later) = rest.split_at(missing.min(rest.len()));
                self.block.extend_from_slice(now);
                missing -= now.len();
                rest = later;
            }
            // The copy has just brought all of it into the nearest cache.
            let segment = &mut self.block[..];
            let total = ip
                .pseudo_header(template, segment.len() - at)
                .combine(sum(&segment[at..]));
            put_u16(segment, at + TCP_CHECKSUM, total.finish());
            segments.push_back(self.finish(Meta::default()));
        }
        true
    }

    /// Adds the rest of a checksum of which only the pseudo-header is there. False if it is not
    /// known where.
    pub(super) fn fill_checksum(&mut self, packet: &mut Packet) -> bool {
        let Some(ip) = Ip::parse(packet.first(), packet.len()) else {
            return false;
        };
        let offset = match ip.protocol {
            TCP => TCP_CHECKSUM,
            UDP => UDP_CHECKSUM,
            _ => return false,
        };
        let at = ip.header_len + offset;
        if at + 2 > ip.total_len {
            return false;
        }
        let total = sum_packet(packet, ip.header_len..ip.total_len, Sum::default());
        let checksum = match total.finish() {
            0 if ip.protocol == UDP => 0xffff, // Zero would mean that there is none.
            checksum => checksum,
        }
        .to_be_bytes();
        if let Some(field) = packet.head_mut().get_mut(at..at + 2) {
            field.copy_from_slice(&checksum);
        } else {
            self.reserve(ip.total_len);
            packet
                .slices(0..ip.total_len)
                .for_each(|slice| self.block.extend_from_slice(slice));
            self.block[at..at + 2].copy_from_slice(&checksum);
            *packet = self.finish(packet.meta);
        }
        packet.meta.checksum = Checksum::Complete;
        true
    }
}
