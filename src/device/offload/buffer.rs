//! Splits super-packets, and fills in what is missing from packets.

use std::{collections::VecDeque, mem};

use bytes::{Bytes, BytesMut};

use super::cut::Cut;
use crate::{
    checksum::{Sum, sum_packet},
    device::headers::{Ip, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM},
    packet::{Checksum, Meta, Packet},
    pool::Pool,
};

/// Memory is taken in blocks of this size: the largest packet, and some small ones.
pub(super) const BLOCK: usize = (64 + 4) << 10;

/// Blocks kept for use again: enough for the largest window of one connection.
const BLOCKS_MAX: usize = 128;

/// Where packets are written: the current block, and the pool it is from.
#[derive(Debug)]
pub(in crate::device) struct Buffer {
    pool: Pool,
    pub(in crate::device) block: BytesMut,
}

impl Buffer {
    pub(in crate::device) fn new() -> Self {
        let mut pool = Pool::new(BLOCK, BLOCKS_MAX);
        let block = pool.take();
        Self { pool, block }
    }

    /// Makes room for `len` contiguous bytes at the end of the block.
    pub(in crate::device) fn reserve(&mut self, len: usize) {
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
        let Some(mut cut) = Cut::new(packet) else {
            return false;
        };
        while let Some(len) = cut.next_len() {
            self.reserve(len);
            cut.next(&mut self.block);
            segments.push_back(self.finish(Meta::default()));
        }
        true
    }

    /// Adds the rest of a checksum of which only the pseudo-header is there. False if it is not
    /// known where.
    pub(in crate::device) fn fill_checksum(&mut self, packet: &mut Packet) -> bool {
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
