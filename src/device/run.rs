//! Segments of one flow that follow each other and differ in nothing that matters, and the
//! super-packet that they are together (what Linux's GRO makes).

use super::headers::{ACK, CWR, ECE, FIN, PSH, Tcp, get_u32};
use crate::{
    checksum::sum,
    packet::{Checksum, Meta, PACKET_MAX},
};

/// What is known of a run; its bytes are somewhere else.
#[derive(Debug)]
pub(super) struct Run {
    tcp: Tcp,
    gso_size: usize,
    total_len: usize,
    next_seq: u32,
    /// Of its last segment.
    flags: u8,
    /// Nothing may follow.
    ended: bool,
}

impl Run {
    /// A run of one, if the segment with these headers may be part of one: plain data. Whether it
    /// is undamaged is for the caller to see.
    pub(super) fn begin(header: &[u8], tcp: Tcp) -> Option<Self> {
        let len = tcp.payload_len();
        let flags = flags(header, tcp);
        let plain = len > 0
            && flags & ACK != 0
            && flags & !(ACK | PSH | FIN | ECE | CWR) == 0
            && (tcp.ip.v6 || (tcp.ip.header_len == 20 && sum(&header[..20]).is_valid()));
        plain.then(|| Self {
            tcp,
            gso_size: len,
            total_len: tcp.ip.total_len,
            next_seq: seq(header, tcp).wrapping_add(len as u32),
            flags,
            ended: flags & (FIN | PSH) != 0,
        })
    }

    pub(super) const fn tcp(&self) -> Tcp {
        self.tcp
    }

    /// Bytes of the super-packet.
    pub(super) const fn total_len(&self) -> usize {
        self.total_len
    }

    /// Whether nothing may follow.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes the segment that begins with `header` as the next, if it is: `first` is the header of
    /// the first one, and `next` a run of the new one alone.
    pub(super) fn push(&mut self, first: &[u8], header: &[u8], next: &Self) -> bool {
        let tcp = next.tcp;
        let len = tcp.payload_len();
        let continues = !self.ended
            && tcp.header_len == self.tcp.header_len
            && self.next_seq.wrapping_add(len as u32) == next.next_seq
            && len <= self.gso_size
            && self.total_len + len <= PACKET_MAX
            && next.flags & CWR == 0
            && is_alike(first, header, tcp);
        if continues {
            self.total_len += len;
            self.next_seq = next.next_seq;
            self.flags = next.flags;
            self.ended = next.ended || len < self.gso_size;
        }
        continues
    }

    /// Makes the first segment's header that of the super-packet.
    pub(super) fn finish(&self, header: &mut [u8]) -> Meta {
        let Tcp { ip, header_len } = self.tcp;
        let is_one = self.total_len == ip.total_len;
        if !is_one {
            let header = &mut header[..header_len];
            header[ip.header_len + 13] |= self.flags & (FIN | PSH);
            ip.set_total_len(header, self.total_len);
        }
        Meta {
            checksum: Checksum::Verified,
            gso_size: if is_one { 0 } else { self.gso_size as u16 },
        }
    }
}

fn flags(header: &[u8], tcp: Tcp) -> u8 {
    header[tcp.ip.header_len + 13]
}

fn seq(header: &[u8], tcp: Tcp) -> u32 {
    get_u32(header, tcp.ip.header_len + 4)
}

/// Whether the headers of two segments are the same but for lengths, sequence number, checksums,
/// IPv4 ID, and the flags that may differ within a super-packet.
fn is_alike(a: &[u8], b: &[u8], tcp: Tcp) -> bool {
    let at = tcp.ip.header_len;
    let flags = !(CWR | FIN | PSH);
    let ip_alike = if tcp.ip.v6 {
        // Version, traffic class, flow label; next header; hop limit, addresses.
        a[..4] == b[..4] && a[6..40] == b[6..40]
    } else {
        // Version, length, TOS; fragmentation, TTL, protocol; addresses.
        a[..2] == b[..2] && a[6..10] == b[6..10] && a[12..20] == b[12..20]
    };
    ip_alike
        && a[at..at + 4] == b[at..at + 4] // Ports.
        && a[at + 8..at + 13] == b[at + 8..at + 13] // Acknowledgement, data offset.
        && a[at + 13] & flags == b[at + 13] & flags
        && a[at + 14..at + 16] == b[at + 14..at + 16] // Window.
        && a.get(at + 20..tcp.header_len) == b.get(at + 20..tcp.header_len) // Options.
}
