//! One IP packet on its way between a device and the engine.

use std::{fmt, iter, ops::Range};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

/// Room for the headers of any packet that the engine makes: IPv6 (40) and TCP (60), with some to
/// spare.
pub const HEAD_MAX: usize = 128;

/// The largest packet, headers included: what the length field of IPv4 can say.
pub const PACKET_MAX: usize = 65_535;

/// The payload of a packet: slices of the buffers that its bytes were written to or read into.
///
/// Four fit without an allocation; more are rare, for chunks hold up to 64 KiB each.
///
/// ```
/// use bytes::Bytes;
/// use synack::packet::{Meta, Packet, Payload};
///
/// let mut packet = Packet::with_head(&[0x45], Meta::default());
/// packet.body = Payload::from_iter([Bytes::from_static(b"shared, "), Bytes::from_static(b"not copied")]);
/// assert_eq!(packet.len(), 19);
/// ```
pub type Payload = SmallVec<[Bytes; 4]>;

/// What is known of a packet's transport checksum.
///
/// ```
/// use bytes::Bytes;
/// use synack::packet::{Checksum, Meta, Packet};
///
/// // From a network card that has looked at it already.
/// let meta = Meta { checksum: Checksum::Verified, ..Meta::default() };
/// let packet = Packet::received(Bytes::from_static(&[0x45; 40]), meta);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in its place, and whoever receives the packet must verify it.
    #[default]
    Complete,
    /// Received: the device has verified it (virtio-net `DATA_VALID`).
    Verified,
    /// Only the sum over the pseudo-header is in its place (virtio-net `NEEDS_CSUM`). To be sent:
    /// the device, or the adapter in front of it, adds the rest. Received: the packet never left
    /// this machine, and is taken as correct.
    Partial,
}

/// What travels beside a packet and not in it.
///
/// ```
/// use synack::packet::{Checksum, Meta};
///
/// let meta = Meta::default();
/// assert_eq!((meta.checksum, meta.gso_size), (Checksum::Complete, 0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// What is known of the transport checksum.
    pub checksum: Checksum,
    /// Payload bytes of each of the segments that this packet stands for, the last of which may be
    /// shorter; zero when it stands only for itself.
    pub gso_size: u16,
}

/// An IP packet, or a super-packet of up to 64 KiB that stands for several of one TCP flow.
///
/// A packet to be sent has its headers in [`head`](Self::head), and its payload in
/// [`body`](Self::body) by reference. A received one may have them so, or have an empty head and
/// everything in the one slice of its body.
///
/// ```
/// use bytes::Bytes;
/// use synack::packet::{Meta, Packet};
///
/// let packet = Packet::received(Bytes::from_static(&[0x45, 0, 0, 20]), Meta::default());
/// assert_eq!(packet.first()[0] >> 4, 4, "the version of IP");
/// assert_eq!(packet.to_vec().len(), packet.len());
/// ```
#[derive(Clone)]
pub struct Packet {
    head: [u8; HEAD_MAX],
    head_len: u8,
    /// What follows the head.
    pub body: Payload,
    /// What is known about the packet.
    pub meta: Meta,
}

impl Packet {
    /// A packet as it came from a device: one slice, headers first.
    pub fn received(bytes: Bytes, meta: Meta) -> Self {
        let mut body = Payload::new();
        body.push(bytes);
        Self {
            head: [0; HEAD_MAX],
            head_len: 0,
            body,
            meta,
        }
    }

    /// A packet whose headers are `head`, with no payload yet.
    ///
    /// # Panics
    /// If `head` is longer than [`HEAD_MAX`].
    pub fn with_head(head: &[u8], meta: Meta) -> Self {
        Self::written(meta, Payload::new(), |out| {
            out[..head.len()].copy_from_slice(head);
            head.len()
        })
    }

    /// A packet whose headers are written where they belong, by a function that says how long they
    /// are.
    pub(crate) fn written(
        meta: Meta,
        body: Payload,
        write: impl FnOnce(&mut [u8; HEAD_MAX]) -> usize,
    ) -> Self {
        let mut packet = Self {
            head: [0; HEAD_MAX],
            head_len: 0,
            body,
            meta,
        };
        packet.head_len = write(&mut packet.head) as u8; // HEAD_MAX fits.
        packet
    }

    /// The inline part: all headers, or nothing for a packet that came in one slice.
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_len)]
    }

    /// The inline part, to fill a checksum in.
    pub fn head_mut(&mut self) -> &mut [u8] {
        &mut self.head[..usize::from(self.head_len)]
    }

    /// The contiguous bytes at the start of the packet in which its headers are.
    pub fn first(&self) -> &[u8] {
        match (self.head_len, self.body.first()) {
            (0, Some(bytes)) => bytes,
            _ => self.head(),
        }
    }

    /// Length in bytes of the whole packet.
    pub fn len(&self) -> usize {
        usize::from(self.head_len) + self.body.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slices that lie in a range of the packet's bytes, in order.
    pub(crate) fn slices(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        let body = self.body.iter().map(|slice| &slice[..]);
        let mut at = 0;
        iter::once(self.head()).chain(body).map(move |slice| {
            let start = range.start.saturating_sub(at).min(slice.len());
            let end = range.end.saturating_sub(at).clamp(start, slice.len());
            at += slice.len();
            &slice[start..end]
        })
    }

    /// The whole packet in one piece, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(self.head());
        self.body
            .iter()
            .for_each(|slice| bytes.extend_from_slice(slice));
        bytes
    }

    /// What lies from byte `header_len` up to byte `total_len`: the payload, without padding behind
    /// it. Slices are shared; only payload that stands in the inline head is copied.
    pub fn into_payload(mut self, header_len: usize, total_len: usize) -> Payload {
        self.take_payload(header_len, total_len)
    }

    /// The same; what is left is of no use any more.
    pub(crate) fn take_payload(&mut self, header_len: usize, total_len: usize) -> Payload {
        let head_len = usize::from(self.head_len);
        if let (0, [slice]) = (head_len, &mut self.body[..])
            && header_len < total_len
            && total_len <= slice.len()
        {
            // As devices give nearly all of them.
            let mut slice = std::mem::take(slice);
            slice.truncate(total_len);
            slice.advance(header_len);
            let mut payload = Payload::new();
            payload.push(slice);
            return payload;
        }
        let mut left = total_len.saturating_sub(header_len);
        let mut skip = header_len.saturating_sub(head_len);
        let mut payload = Payload::new();
        if header_len < head_len && left > 0 {
            let end = head_len.min(total_len);
            payload.push(Bytes::copy_from_slice(&self.head[header_len..end]));
            left -= end - header_len;
        }
        for mut slice in self.body.drain(..) {
            let start = skip.min(slice.len());
            let end = start + left.min(slice.len() - start);
            skip -= start;
            left -= end - start;
            if start < end {
                slice.truncate(end);
                slice.advance(start);
                payload.push(slice);
            }
        }
        payload
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("len", &self.len())
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_cut_at_both_ends_wherever_the_headers_are() {
        let whole = Packet::received(Bytes::from_static(b"HHHHpayload--"), Meta::default());
        assert_eq!(whole.into_payload(4, 11).concat(), b"payload");
        let mut split = Packet::with_head(b"HHHHpa", Meta::default());
        split.body.push(Bytes::from_static(b"ylo"));
        split.body.push(Bytes::from_static(b"ad--"));
        assert_eq!(split.to_vec(), b"HHHHpayload--");
        assert_eq!(split.clone().into_payload(4, 11).concat(), b"payload");
        assert_eq!(split.clone().into_payload(8, 11).concat(), b"oad");
        assert_eq!(split.clone().into_payload(4, 5).concat(), b"p");
        assert!(split.into_payload(4, 4).is_empty());
    }
}
