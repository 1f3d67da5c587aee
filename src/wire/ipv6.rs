//! The header of IPv6 and its extension headers (RFC 8200).

use std::net::Ipv6Addr;

use super::{
    Malformed, be16, be32,
    ip::{Fragment, HeaderProblem, IpEmit, IpHeader},
};

/// Length of a header without extensions.
pub(super) const HEADER_LEN: usize = 40;

/// Extension headers in one packet that we walk through. RFC 8200 §4.1 has a use for seven.
const EXTENSIONS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

const OPTION_PAD1: u8 = 0;
/// Of an option's type: what to do if we do not know it. The other two ask for an error, and differ
/// in what came to a group, which we answer never.
const OPTION_ACTION: u8 = 0xc0;
const OPTION_SKIP: u8 = 0;
const OPTION_DISCARD: u8 = 0x40;
/// The fragment field: M, and three bits to each side of it that are not the offset.
const MORE_FRAGMENTS: u16 = 1;
const OFFSET_MASK: u16 = 0xfff8;

/// Reads and checks the headers of a packet of `packet_len` bytes that starts with `first`.
///
/// A payload length of zero is what it says, not a jumbogram (RFC 2675): the option that makes it
/// one lies behind the end then.
pub(super) fn parse(first: &[u8], packet_len: usize) -> Result<IpHeader, Malformed> {
    read(inside(first, packet_len)?)
}

/// Reads headers that are there in full, and believes what they say of the rest.
pub(super) fn read(first: &[u8]) -> Result<IpHeader, Malformed> {
    let (header, refused) = read_all(first)?;
    refused.map_or(Ok(header), |refused| Err(refused.reason))
}

/// The headers of a packet that [`parse`] refuses, if its sender is to be told why.
pub(super) fn problem(first: &[u8], packet_len: usize) -> Option<(IpHeader, HeaderProblem)> {
    let (header, refused) = read_all(inside(first, packet_len).ok()?).ok()?;
    Some((header, refused?.problem?))
}

/// The packet without what is padded to it.
fn inside(first: &[u8], packet_len: usize) -> Result<&[u8], Malformed> {
    let total_len = total_len(first).ok_or(Malformed::Truncated)?;
    if total_len > packet_len {
        return Err(Malformed::Truncated);
    }
    Ok(&first[..first.len().min(total_len)])
}

fn read_all(first: &[u8]) -> Result<(IpHeader, Option<Refused>), Malformed> {
    let (fixed, _) = first
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(Malformed::Truncated)?;
    let upper = walk(first, fixed[6])?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&fixed[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    let header = IpHeader {
        src: address(8).into(),
        dst: address(24).into(),
        protocol: upper.protocol,
        protocol_at: upper.protocol_at,
        header_len: upper.at,
        total_len: HEADER_LEN + usize::from(be16(fixed, 4)),
        ttl: fixed[7],
        tos: (be16(fixed, 0) >> 4) as u8,
        fragment: upper.fragment,
        dont_fragment: true,
    };
    Ok((header, upper.refused))
}

fn total_len(first: &[u8]) -> Option<usize> {
    let (fixed, _) = first.split_first_chunk::<HEADER_LEN>()?;
    Some(HEADER_LEN + usize::from(be16(fixed, 4)))
}

/// What follows the extension headers.
struct Upper {
    protocol: u8,
    protocol_at: usize,
    at: usize,
    fragment: Option<Fragment>,
    refused: Option<Refused>,
}

/// Why a packet whose headers can be read is not taken all the same.
struct Refused {
    reason: Malformed,
    /// What its sender is told, if anything.
    problem: Option<HeaderProblem>,
}

/// Goes through the extension headers of a packet whose fixed header names `next`.
///
/// One that is refused does not end it: an error is never answered with an error, and what the
/// packet is comes last.
fn walk(packet: &[u8], next: u8) -> Result<Upper, Malformed> {
    let mut upper = Upper {
        protocol: next,
        protocol_at: 6,
        at: HEADER_LEN,
        fragment: None,
        refused: None,
    };
    for _ in 0..=EXTENSIONS_MAX {
        let kind = upper.protocol;
        if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            return Ok(upper);
        }
        if kind == HOP_BY_HOP && upper.at != HEADER_LEN {
            // RFC 8200 §4: as a header that nobody knows.
            upper.refused.get_or_insert_with(|| Refused {
                reason: Malformed::ExtensionHeaders,
                problem: Some(HeaderProblem::next_header(upper.protocol_at)),
            });
            return Ok(upper);
        }
        let extension = packet.get(upper.at..).unwrap_or_default();
        let (start, _) = extension
            .split_first_chunk::<8>()
            .ok_or(Malformed::Truncated)?;
        let len = match kind {
            FRAGMENT => 8,
            _ => (usize::from(start[1]) + 1) * 8,
        };
        let extension = extension.get(..len).ok_or(Malformed::Truncated)?;
        let refused = match kind {
            FRAGMENT => None,
            ROUTING => check_routing(start, upper.at),
            _ => check_options(extension, upper.at)?,
        };
        upper = Upper {
            protocol: start[0],
            protocol_at: upper.at,
            at: upper.at + len,
            fragment: (kind == FRAGMENT).then(|| fragment(start)).flatten(),
            refused: upper.refused.or(refused),
        };
        if upper.fragment.is_some() {
            return Ok(upper); // What follows may be the middle of something.
        }
    }
    Err(Malformed::ExtensionHeaders)
}

fn fragment(header: &[u8; 8]) -> Option<Fragment> {
    let field = be16(header, 2);
    (field & (OFFSET_MASK | MORE_FRAGMENTS) != 0).then(|| Fragment {
        id: be32(header, 4),
        offset: field & OFFSET_MASK,
        more: field & MORE_FRAGMENTS != 0,
    })
}

/// We forward nothing, so a route must have come to its end (RFC 8200 §4.4).
fn check_routing(header: &[u8; 8], at: usize) -> Option<Refused> {
    let [_, _, kind, segments_left, ..] = *header;
    (kind == 0 || segments_left != 0).then(|| Refused {
        reason: Malformed::RoutingHeader,
        problem: (segments_left != 0).then(|| HeaderProblem::routing_type(at + 2)),
    })
}

/// We know no option but padding: the others say themselves whether they can be skipped, and
/// whether their sender wants to know (RFC 8200 §4.2).
fn check_options(extension: &[u8], at: usize) -> Result<Option<Refused>, Malformed> {
    let mut refused = None;
    let mut area = &extension[2..];
    while let Some((&kind, rest)) = area.split_first() {
        if kind == OPTION_PAD1 {
            area = rest;
            continue;
        }
        let option_at = at + extension.len() - area.len();
        let (&len, data) = rest.split_first().ok_or(Malformed::Ipv6Option)?;
        if kind & OPTION_ACTION != OPTION_SKIP {
            refused.get_or_insert_with(|| Refused {
                reason: Malformed::Ipv6Option,
                problem: (kind & OPTION_ACTION != OPTION_DISCARD)
                    .then(|| HeaderProblem::option(option_at)),
            });
        }
        area = data.get(usize::from(len)..).ok_or(Malformed::Ipv6Option)?;
    }
    Ok(refused)
}

/// Writes a header. Its flow label is zero.
pub(super) fn emit(out: &mut [u8], ip: &IpEmit, src: Ipv6Addr, dst: Ipv6Addr) -> usize {
    let payload_len = ip.payload_len;
    debug_assert!(payload_len <= usize::from(u16::MAX), "{payload_len} bytes");
    let out = &mut out[..HEADER_LEN];
    let start = 0x6000_0000 | u32::from(ip.tos) << 20;
    out[0..4].copy_from_slice(&start.to_be_bytes());
    out[4..6].copy_from_slice(&(payload_len as u16).to_be_bytes());
    out[6] = ip.protocol;
    out[7] = ip.ttl;
    out[8..24].copy_from_slice(&src.octets());
    out[24..40].copy_from_slice(&dst.octets());
    HEADER_LEN
}
