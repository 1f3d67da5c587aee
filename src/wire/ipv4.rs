//! The header of IPv4 (RFC 791).

use std::net::Ipv4Addr;

use crate::checksum::sum;

use super::{
    Malformed, be16,
    ip::{Fragment, IpEmit, IpHeader},
};

/// Length of a header without options.
pub(super) const HEADER_LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;

/// Reads and checks the header of a packet of `packet_len` bytes that starts with `first`.
pub(super) fn parse(first: &[u8], packet_len: usize) -> Result<IpHeader, Malformed> {
    let ip = read(first)?;
    if ip.total_len < ip.header_len {
        return Err(Malformed::IpTotalLength);
    }
    if ip.total_len > packet_len {
        return Err(Malformed::Truncated);
    }
    let header = &first[..ip.header_len];
    if !sum(header).is_valid() {
        return Err(Malformed::IpChecksum);
    }
    check_options(&header[HEADER_LEN..])?;
    Ok(ip)
}

/// Reads a header that is there in full, and believes what it says of the rest.
pub(super) fn read(first: &[u8]) -> Result<IpHeader, Malformed> {
    let (fixed, _) = first
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(Malformed::Truncated)?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    if header_len < HEADER_LEN {
        return Err(Malformed::IpHeaderLength);
    }
    if header_len > first.len() {
        return Err(Malformed::Truncated);
    }
    let flags = be16(fixed, 6);
    let fragment = (flags & (MORE_FRAGMENTS | OFFSET_MASK) != 0).then(|| Fragment {
        id: u32::from(be16(fixed, 4)),
        offset: (flags & OFFSET_MASK) << 3,
        more: flags & MORE_FRAGMENTS != 0,
    });
    Ok(IpHeader {
        src: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
        dst: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
        protocol: fixed[9],
        protocol_at: 9,
        header_len,
        total_len: usize::from(be16(fixed, 2)),
        ttl: fixed[8],
        tos: fixed[1],
        fragment,
        dont_fragment: flags & DONT_FRAGMENT != 0,
    })
}

/// Options mean nothing to us, except that whoever asks for a source route shall not get an answer
/// by it.
fn check_options(mut area: &[u8]) -> Result<(), Malformed> {
    while let Some((&kind, rest)) = area.split_first() {
        match kind {
            OPTION_END => break,
            OPTION_NOP => area = rest,
            OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE => {
                return Err(Malformed::SourceRoute);
            }
            _ => {
                let len = rest.first().map_or(0, |len| usize::from(*len));
                if len < 2 {
                    return Err(Malformed::IpOption);
                }
                area = area.get(len..).ok_or(Malformed::IpOption)?;
            }
        }
    }
    Ok(())
}

/// Writes a header. Its packet is never fragmented, so its ID means nothing and is zero: a counter
/// would tell others how much we send (RFC 6864 §4.1).
pub(super) fn emit(out: &mut [u8], ip: &IpEmit, src: Ipv4Addr, dst: Ipv4Addr) -> usize {
    let total_len = HEADER_LEN + ip.payload_len;
    debug_assert!(total_len <= usize::from(u16::MAX), "{total_len} bytes");
    let mut header = [0; HEADER_LEN];
    header[0] = 0x45;
    header[1] = ip.tos;
    header[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = ip.ttl;
    header[9] = ip.protocol;
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let check = sum(&header).finish();
    header[10..12].copy_from_slice(&check.to_be_bytes());
    out[..HEADER_LEN].copy_from_slice(&header);
    HEADER_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_from_the_field_is_read() {
        let bytes = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        let ip = parse(&bytes, 115).unwrap();
        assert_eq!(ip.src, Ipv4Addr::new(192, 168, 0, 1));
        assert_eq!(ip.dst, Ipv4Addr::new(192, 168, 0, 199));
        assert_eq!((ip.header_len, ip.total_len), (20, 115));
        assert_eq!((ip.protocol, ip.ttl, ip.fragment), (17, 64, None));
        let again = IpEmit {
            src: ip.src,
            dst: ip.dst,
            protocol: 17,
            ttl: 64,
            tos: 0,
            payload_len: 95,
        };
        let mut out = [0; HEADER_LEN];
        super::super::ip::emit(&mut out, &again);
        assert_eq!(out, bytes);
    }
}
