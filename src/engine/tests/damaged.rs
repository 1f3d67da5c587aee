//! Packets damaged anywhere, their checksums vouched for: nothing that comes from outside breaks
//! what we rely on, whatever the arithmetic that it goes through.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use super::{
    family::Family,
    raw::{self, ACK, SYN},
    script::Script,
};
use crate::{
    config::Config,
    packet::{Checksum, Meta, Packet},
    testing::Rng,
};

const STEPS: usize = 300;

/// Something that a peer may send about or to a connection.
fn honest(s: &Script, rng: &mut Rng) -> Vec<u8> {
    let near =
        |rng: &mut Rng, of: u32| of.wrapping_add((rng.below(12_000) as u32).wrapping_sub(2000));
    let mut seg = raw::Tcp::from_peer(s, rng.next() as u8 | ACK, 0);
    seg.seq = near(rng, seg.seq);
    seg.ack = near(rng, s.iss());
    seg.wnd = rng.next() as u16;
    seg.urgent = rng.next() as u16;
    let (left, right) = (near(rng, s.iss()), near(rng, s.iss()));
    seg.options = [
        &[1, 1, 5, 10][..],
        &left.to_be_bytes(),
        &right.to_be_bytes(),
    ]
    .concat();
    let len = [0, 1, 100, 1400][rng.below(4)];
    seg.payload = rng.bytes(len);
    let about = |s: &Script, seq: u32| {
        let mut ours = raw::Tcp::from_peer(s, ACK, 0);
        (ours.src, ours.dst, ours.seq) = (s.local, s.peer, seq);
        ours.bytes()
    };
    let code = rng.below(8) as u8;
    match (rng.below(4), s.local.is_ipv4()) {
        (0, true) => {
            let kind = [3, 4, 5, 11, 12][rng.below(5)];
            let quoted = about(s, near(rng, s.iss()));
            raw::icmp_error(raw::v4(s.local), kind, code, rng.next() as u32, &quoted)
        }
        (0, false) => {
            let kind = 1 + rng.below(4) as u8;
            let quoted = about(s, near(rng, s.iss()));
            raw::icmpv6_error(raw::v6(s.local), kind, code, rng.next() as u32, &quoted)
        }
        (1, false) => {
            let headers = [60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
            let body = [&headers, &seg.segment()[..]].concat();
            raw::ipv6(raw::v6(s.peer), raw::v6(s.local), 60, &body)
        }
        _ => seg.bytes(),
    }
}

/// Some bytes changed, most of them in the headers; cut short, or longer than it says.
pub(super) fn damage(mut bytes: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    for _ in 0..rng.below(4) {
        let at = rng.below(bytes.len().min(100));
        bytes[at] = [0, 1, 0x7f, 0x80, 0xff, rng.next() as u8][rng.below(6)];
    }
    match rng.below(8) {
        0 => bytes.truncate(rng.below(bytes.len()) + 1),
        1 => bytes.extend(rng.bytes(7)),
        _ => {}
    }
    if bytes[0] == 0x45 && bytes.len() >= 20 && rng.below(8) > 0 {
        raw::fix_ip_checksum(&mut bytes);
    }
    bytes
}

/// In one slice or in two, perhaps a super-packet, and with a checksum that is believed.
fn vouched(bytes: Vec<u8>, rng: &mut Rng) -> Packet {
    let meta = Meta {
        checksum: [Checksum::Verified, Checksum::Partial][rng.below(2)],
        gso_size: [0, 0, 1, 100, u16::MAX][rng.below(5)],
    };
    let mut bytes = Bytes::from(bytes);
    let rest = bytes.split_off(bytes.len().min(20 + rng.below(80)));
    let mut packet = Packet::received(bytes, meta);
    packet.body.push(rest);
    packet
}

/// Sends `STEPS` of them to a connection that reads and writes; afterwards somebody else connects.
fn endure(mut s: Script, rng: &mut Rng) {
    let mut out = VecDeque::new();
    let mut buf = [0; 2000];
    for _ in 0..STEPS {
        let bytes = honest(&s, rng);
        let packet = vouched(damage(bytes, rng), rng);
        s.engine.on_packet(packet, s.now);
        if rng.below(4) == 0 {
            let _ = s.engine.write(s.id(), &buf[..rng.below(2000)], s.now);
            let _ = s.engine.read(s.id(), &mut buf, s.now);
        }
        s.now += Duration::from_millis([0, 1, 50, 1000][rng.below(4)]);
        s.engine.on_timeout(s.now);
        while !s.engine.poll_packet(s.now, 64, &mut out) {}
        out.clear();
    }
    s.peer.set_port(7);
    s.engine
        .on_packet(raw::Tcp::from_peer(&s, SYN, 0).packet(), s.now);
    while !s.engine.poll_packet(s.now, 64, &mut out) {}
    let at = if s.local.is_ipv4() { 20 } else { 40 };
    let answered = out.iter().map(Packet::to_vec).any(|packet| {
        packet[at + 2..at + 4] == 7_u16.to_be_bytes() && packet[at + 13] == SYN | ACK
    });
    assert!(answered, "an honest peer gets no SYN-ACK");
}

#[test]
fn whatever_was_damaged_before_an_honest_peer_is_served() {
    let mut rng = Rng::new(11);
    for _ in 0..30 {
        endure(Script::accepted(Config::default()), &mut rng);
        endure(Family::V6.accepted(), &mut rng);
    }
}
