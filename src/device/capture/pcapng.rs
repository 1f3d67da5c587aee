//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng).

use std::time::Duration;

pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Packets begin with their IP header.
pub(super) const LINKTYPE_RAW: u16 = 101;

/// Which way a packet went; the low bits of `epb_flags`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Inbound = 1,
    Outbound = 2,
}

/// The blocks before the first packet: section header and interface description.
pub(super) fn head(snaplen: u32, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let at = begin(&mut out, SECTION_HEADER);
    put32(&mut out, 0x1a2b_3c4d); // What byte order this is.
    put16(&mut out, 1); // Version 1.0.
    put16(&mut out, 0);
    out.extend_from_slice(&u64::MAX.to_le_bytes()); // The length of the section is not given.
    option(
        &mut out,
        4,
        concat!("synack ", env!("CARGO_PKG_VERSION")).as_bytes(),
    );
    option(&mut out, 0, &[]);
    end(&mut out, at);

    let at = begin(&mut out, INTERFACE_DESCRIPTION);
    put16(&mut out, LINKTYPE_RAW);
    put16(&mut out, 0);
    put32(&mut out, snaplen);
    option(&mut out, 2, name.as_bytes());
    option(&mut out, 9, &[9]); // if_tsresol: nanoseconds.
    option(&mut out, 0, &[]);
    end(&mut out, at);
    out
}

/// One packet, of which `captured` is the front.
pub(super) fn packet_block(
    out: &mut Vec<u8>,
    captured: &[u8],
    length: usize,
    direction: Direction,
    time: Duration,
    comment: &str,
) {
    out.clear();
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let at = begin(out, ENHANCED_PACKET);
    put32(out, 0); // The interface.
    put32(out, (nanos >> 32) as u32);
    put32(out, nanos as u32);
    put32(out, captured.len() as u32);
    put32(out, length as u32);
    out.extend_from_slice(captured);
    pad(out);
    if !comment.is_empty() {
        option(out, 1, comment.as_bytes());
    }
    option(out, 2, &(direction as u32).to_le_bytes()); // epb_flags
    option(out, 0, &[]);
    end(out, at);
}

/// Begins a block, whose length is not known yet.
fn begin(out: &mut Vec<u8>, kind: u32) -> usize {
    let at = out.len();
    put32(out, kind);
    put32(out, 0);
    at
}

/// Ends the block that begins at `at`: its length stands at both ends.
fn end(out: &mut Vec<u8>, at: usize) {
    let length = (out.len() - at + 4) as u32;
    out[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
    put32(out, length);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    put16(out, code);
    put16(out, value.len() as u16);
    out.extend_from_slice(value);
    pad(out);
}

/// Blocks and options are multiples of four bytes.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}
