//! Segments for the tests of devices.

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::headers::{ACK, Ip, TCP, Tcp, put_u16};
use crate::{
    checksum::sum,
    packet::{Checksum, Meta, Packet},
};

/// What a test says of a segment; all else is as in any other.
#[derive(Clone, Copy)]
pub(super) struct Spec {
    pub(super) v6: bool,
    pub(super) port: u16,
    pub(super) id: u16,
    pub(super) seq: u32,
    pub(super) flags: u8,
    pub(super) gso_size: usize,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            v6: false,
            port: 80,
            id: 1,
            seq: 0,
            flags: ACK,
            gso_size: 0,
        }
    }
}

/// A packet as the engine makes it: headers with the sum over the pseudo-header, and slices.
pub(super) fn packet(spec: Spec, payload: &[u8], rng: &mut StdRng) -> Packet {
    let at = if spec.v6 { 40 } else { 20 };
    let mut head = vec![0; at + 32];
    if spec.v6 {
        head[0] = 0x60;
        head[6] = TCP;
        head[7] = 64;
        head[8..40].fill(7);
    } else {
        head[0] = 0x45;
        put_u16(&mut head, 4, spec.id);
        head[6] = 0x40;
        head[8] = 64;
        head[9] = TCP;
        head[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    }
    put_u16(&mut head, at, spec.port);
    head[at + 4..at + 8].copy_from_slice(&spec.seq.to_be_bytes());
    head[at + 12] = 0x80;
    head[at + 13] = spec.flags;
    head[at + 20..].copy_from_slice(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    let total_len = head.len() + payload.len();
    let ip = Ip {
        v6: spec.v6,
        protocol: TCP,
        header_len: at,
        total_len,
    };
    ip.set_total_len(&mut head, total_len);
    let pseudo = ip.pseudo_header(&head, total_len - at).partial();
    put_u16(&mut head, at + 16, pseudo);
    let meta = Meta {
        checksum: Checksum::Partial,
        gso_size: spec.gso_size as u16,
    };
    let mut packet = Packet::with_head(&head, meta);
    let mut rest = Bytes::copy_from_slice(payload);
    while !rest.is_empty() {
        let len = rng.random_range(1..=rest.len().min(30_000));
        packet.body.push(rest.split_to(len));
    }
    packet
}

/// The same as it comes from a network: in one piece, with its checksum.
pub(super) fn bytes(spec: Spec, payload: &[u8]) -> Vec<u8> {
    let mut bytes = packet(spec, payload, &mut StdRng::seed_from_u64(0)).to_vec();
    fix_checksum(&mut bytes);
    bytes
}

/// After its headers were changed.
pub(super) fn fix_checksum(bytes: &mut [u8]) {
    let Tcp { ip, .. } = Tcp::parse(bytes, bytes.len()).unwrap();
    ip.set_total_len(bytes, ip.total_len);
    let at = ip.header_len;
    bytes[at + 16..at + 18].fill(0);
    let pseudo = ip.pseudo_header(bytes, ip.total_len - at);
    let checksum = pseudo.combine(sum(&bytes[at..ip.total_len])).finish();
    put_u16(bytes, at + 16, checksum);
}
