//! Cuts a super-packet into the segments that it stands for.

use bytes::BytesMut;

use crate::{
    checksum::sum,
    device::headers::{CWR, FIN, PSH, TCP_CHECKSUM, Tcp, get_u16, get_u32, put_u16},
    packet::{HEAD_MAX, Packet},
};

/// A super-packet of which some segments have been made.
#[derive(Debug)]
pub(in crate::device) struct Cut<'a> {
    packet: &'a Packet,
    tcp: Tcp,
    /// The headers of the super-packet, in which the next segment's are made.
    template: [u8; HEAD_MAX],
    flags: u8,
    seq: u32,
    id: u16,
    /// Payload of the segments that were made, and how many these are.
    done: usize,
    count: u16,
}

impl<'a> Cut<'a> {
    /// Nothing is made yet. `None` if the headers make no sense.
    pub(in crate::device) fn new(packet: &'a Packet) -> Option<Self> {
        let tcp =
            Tcp::of(packet).filter(|tcp| tcp.header_len <= HEAD_MAX && packet.meta.gso_size > 0)?;
        let at = tcp.ip.header_len;
        let mut template = [0; HEAD_MAX];
        template[..tcp.header_len].copy_from_slice(&packet.first()[..tcp.header_len]);
        Some(Self {
            packet,
            tcp,
            flags: template[at + 13],
            seq: get_u32(&template, at + 4),
            id: get_u16(&template, 4),
            template,
            done: 0,
            count: 0,
        })
    }

    /// Length of the next segment, headers included, unless all were made.
    pub(in crate::device) fn next_len(&self) -> Option<usize> {
        let is_over = self.count > 0 && self.done == self.tcp.payload_len();
        (!is_over).then(|| self.tcp.header_len + self.next_payload())
    }

    fn next_payload(&self) -> usize {
        let gso_size = usize::from(self.packet.meta.gso_size);
        gso_size.min(self.tcp.payload_len() - self.done)
    }

    /// Appends the next segment, complete, to `block`, in which there is room for it.
    pub(in crate::device) fn next(&mut self, block: &mut BytesMut) {
        let Tcp { ip, header_len } = self.tcp;
        let len = self.next_payload();
        let is_last = self.done + len == self.tcp.payload_len();
        self.set_header(if is_last { 0 } else { FIN | PSH }, len);
        let begin = block.len();
        block.extend_from_slice(&self.template[..header_len]);
        let from = header_len + self.done;
        for slice in self.packet.slices(from..from + len) {
            block.extend_from_slice(slice);
        }
        // The copy has just brought all of it into the nearest cache.
        let (segment, at) = (&mut block[begin..], ip.header_len);
        let total = ip
            .pseudo_header(&self.template, segment.len() - at)
            .combine(sum(&segment[at..]));
        put_u16(segment, at + TCP_CHECKSUM, total.finish());
        self.done += len;
        self.count += 1;
    }

    /// Makes the template the headers of what begins with the next segment and has `len` bytes of
    /// payload, all but the checksum of TCP. Of the flags of the super-packet it lacks `cleared`.
    fn set_header(&mut self, cleared: u8, len: usize) {
        let Tcp { ip, header_len } = self.tcp;
        let at = ip.header_len;
        let header = &mut self.template[..header_len];
        let first_only = if self.count > 0 { CWR } else { 0 };
        header[at + 13] = self.flags & !(cleared | first_only);
        let seq = self.seq.wrapping_add(self.done as u32);
        header[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
        if !ip.v6 {
            put_u16(header, 4, self.id.wrapping_add(self.count));
        }
        put_u16(header, at + TCP_CHECKSUM, 0);
        ip.set_total_len(header, header_len + len);
    }

    /// The super-packet of the last segment that was made and of those that were not, to be cut later.
    #[cfg(any(test, all(feature = "tun", target_os = "linux")))]
    pub(in crate::device) fn rest(mut self) -> Packet {
        let Tcp { ip, header_len } = self.tcp;
        self.count = self.count.saturating_sub(1);
        self.done = usize::from(self.count) * usize::from(self.packet.meta.gso_size);
        self.set_header(0, self.tcp.payload_len() - self.done);
        let mut rest = Packet::with_head(&self.template[..header_len], self.packet.meta);
        let from = header_len + self.done;
        rest.body = self.packet.clone().into_payload(from, ip.total_len);
        rest
    }
}
