use std::{
    collections::{HashMap, VecDeque},
    io,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{buffer::BLOCK, cut::Cut, merger::flow_of, *};
use crate::{
    checksum::sum,
    device::{
        headers::{ACK, CWR, ECE, FIN, Ip, PSH, TCP, Tcp, UDP, get_u16, put_u16},
        samples::{Spec, bytes, fix_checksum, packet},
    },
    packet::Meta,
};

const MTU: usize = 1500;

/// A device that can do nothing unless it is told, and takes `room` packets before it is full.
#[derive(Default)]
struct Plain {
    sent: VecDeque<Packet>,
    to_deliver: VecDeque<Packet>,
    room: usize,
    segmentation_offload: Option<usize>,
    drops: u64,
    /// Packets that it was offered at one time, at the most.
    offered: usize,
}

impl Device for Plain {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: MTU,
            checksum_offload: self.segmentation_offload.is_some(),
            segmentation_offload: self.segmentation_offload,
        }
    }

    fn drops(&self) -> u64 {
        self.drops
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let count = self.to_deliver.len().min(max);
        packets.extend(self.to_deliver.drain(..count));
        Poll::Ready(Ok(count))
    }

    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        self.offered = self.offered.max(packets.len());
        while let Some(packet) = packets.pop_front() {
            if self.sent.len() == self.room {
                packets.push_front(packet);
                return Poll::Pending;
            }
            self.sent.push_back(packet);
        }
        Poll::Ready(Ok(()))
    }
}

fn split(packets: impl IntoIterator<Item = Packet>, rng: &mut StdRng) -> Vec<Packet> {
    let mut offload = Offload::new(Plain::default());
    let mut packets = VecDeque::from_iter(packets);
    let cx = &mut Context::from_waker(Waker::noop());
    loop {
        offload.device.room = offload.device.sent.len() + rng.random_range(1..100);
        match offload.poll_send(cx, &mut packets) {
            Poll::Ready(result) => break result.unwrap(),
            Poll::Pending => assert!(!packets.is_empty()),
        }
    }
    assert_eq!(offload.drops(), 0);
    offload.device.sent.into()
}

fn merge(packets: impl IntoIterator<Item = Packet>) -> Vec<Packet> {
    let mut offload = Offload::new(Plain::default());
    offload.device.to_deliver.extend(packets);
    let mut merged = Vec::new();
    let cx = &mut Context::from_waker(Waker::noop());
    let result = offload.poll_recv(cx, &mut merged, usize::MAX);
    assert!(matches!(result, Poll::Ready(Ok(count)) if count == merged.len()));
    merged
}

/// What a TUN device without offload makes of packets that come one after the other.
#[cfg(all(feature = "tun", target_os = "linux"))]
fn read(packets: &[Packet]) -> Vec<Packet> {
    use std::os::{fd::AsRawFd, unix::net::UnixDatagram};

    use crate::device::reader::Reader;

    let (kernel, device) = UnixDatagram::pair().unwrap();
    device.set_nonblocking(true).unwrap();
    let mut reader = Reader::new(false, MTU);
    reader.merge();
    let mut merged = Vec::new();
    for packet in packets {
        kernel.send(&packet.to_vec()).unwrap();
        reader.read(device.as_raw_fd(), &mut merged).unwrap();
    }
    let error = reader.read(device.as_raw_fd(), &mut merged).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    reader.flush(&mut merged);
    assert_eq!(reader.drops(), 0);
    merged
}

/// Elsewhere there is none.
#[cfg(not(all(feature = "tun", target_os = "linux")))]
fn read(packets: &[Packet]) -> Vec<Packet> {
    merge(packets.iter().cloned())
}

/// The sum of RFC 1071 as it says it.
fn is_zero_sum(bytes: &[u8]) -> bool {
    let mut total = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum::<u32>();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total == 0xffff
}

fn assert_valid(bytes: &[u8]) {
    let (at, addresses) = if bytes[0] >> 4 == 4 {
        assert!(is_zero_sum(&bytes[..20]));
        assert_eq!(usize::from(get_u16(bytes, 2)), bytes.len());
        (20, &bytes[12..20])
    } else {
        assert_eq!(usize::from(get_u16(bytes, 4)) + 40, bytes.len());
        (40, &bytes[8..40])
    };
    let len = (bytes.len() - at) as u16;
    let pseudo = [addresses, &[0, TCP], &len.to_be_bytes(), &bytes[at..]].concat();
    assert!(is_zero_sum(&pseudo));
}

fn random_payload(len: usize, rng: &mut StdRng) -> Vec<u8> {
    let mut payload = vec![0; len];
    rng.fill_bytes(&mut payload);
    payload
}

#[test]
fn super_packets_survive_splitting_and_merging() {
    let rng = &mut StdRng::seed_from_u64(1);
    for round in 0..200 {
        let len = rng.random_range(1..=65_535 - 72);
        let payload = random_payload(len, rng);
        let gso_size = rng.random_range(200..=1428);
        let spec = Spec {
            v6: round % 2 == 0,
            id: rng.random(),
            seq: rng.random(),
            flags: ACK | [0, PSH, FIN, CWR | PSH][rng.random_range(0..4)],
            gso_size,
            ..Spec::default()
        };
        let whole = packet(spec, &payload, rng);
        let headers = whole.head().to_vec();
        let segments = split([whole], rng);
        assert_eq!(segments.len(), len.div_ceil(gso_size));
        for (index, segment) in segments.iter().enumerate() {
            let bytes = segment.first();
            assert!(bytes.len() <= MTU && segment.meta == Meta::default());
            assert_valid(bytes);
            let flags = bytes[if spec.v6 { 53 } else { 33 }];
            let is_last = index + 1 == segments.len();
            assert_eq!(flags & CWR != 0, spec.flags & CWR != 0 && index == 0);
            assert_eq!(
                flags & (PSH | FIN),
                spec.flags & if is_last { PSH | FIN } else { 0 }
            );
        }
        for merged in [read(&segments), merge(segments)] {
            assert_eq!(merged.len(), 1);
            let bytes = merged[0].first();
            assert_eq!(bytes[headers.len()..], payload);
            let at = if spec.v6 { 40 } else { 20 };
            assert_eq!(bytes[..at + 16], headers[..at + 16]);
            if len > gso_size {
                assert_eq!(usize::from(merged[0].meta.gso_size), gso_size);
                assert_eq!(merged[0].meta.checksum, Checksum::Verified);
            }
        }
    }
}

#[test]
fn what_a_device_had_no_room_for_is_cut_later_as_it_would_have_been() {
    let cut = |packet: &Packet, max: usize| {
        let (mut cut, mut segments) = (Cut::new(packet).unwrap(), Vec::new());
        while let Some(len) = cut.next_len().filter(|_| segments.len() < max) {
            let mut block = BytesMut::new();
            cut.next(&mut block);
            assert_eq!(block.len(), len);
            segments.push(block);
        }
        (segments, cut.rest())
    };
    let rng = &mut StdRng::seed_from_u64(21);
    for round in 0..200 {
        let gso_size = rng.random_range(200..=1428);
        let spec = Spec {
            v6: round % 2 == 0,
            id: rng.random(),
            seq: rng.random(),
            flags: ACK | [0, PSH, FIN, CWR | PSH][rng.random_range(0..4)],
            gso_size,
            ..Spec::default()
        };
        let len = rng.random_range(1..=10 * gso_size);
        let payload = random_payload(len, rng);
        let whole = packet(spec, &payload, rng);
        let (all, _) = cut(&whole, usize::MAX);
        assert_eq!(all.len(), len.div_ceil(gso_size));
        // Nothing was tried, or the last that was made found no room.
        let tried = rng.random_range(0..=all.len());
        let (mut sent, rest) = cut(&whole, tried);
        sent.pop();
        assert_eq!(rest.meta, whole.meta);
        sent.extend(cut(&rest, usize::MAX).0);
        assert_eq!(sent, all);
    }
    let nonsense = Packet::with_head(&[0x45; 30], Meta::default());
    assert!(Cut::new(&nonsense).is_none());
}

#[test]
fn merging_keeps_every_segment_and_the_order_within_a_flow() {
    let rng = &mut StdRng::seed_from_u64(2);
    let by_flow = |packets: &[Packet]| {
        let mut flows = HashMap::<_, Vec<_>>::new();
        for packet in packets {
            let mut bytes = packet.to_vec();
            let tcp = Tcp::of(packet).unwrap();
            if !tcp.ip.v6 {
                bytes[4..6].fill(0); // IPv4 IDs are made up anew.
                bytes[10..12].fill(0);
            }
            flows
                .entry(flow_of(&bytes, tcp.ip))
                .or_default()
                .push(bytes);
        }
        flows
    };
    let (mut merges, mut reads) = (0, 0);
    for _ in 0..200 {
        let mut next_seq = [0_u32; 12];
        let mut packets = Vec::new();
        let mut flow = 0;
        for _ in 0..rng.random_range(1..120) {
            if rng.random_bool(0.3) {
                flow = rng.random_range(0..12).min(rng.random_range(0..12));
            }
            let len = [0, 1, 99, 100, 100, 100, 100, 100, 101][rng.random_range(0..9)];
            let flags = match rng.random_range(0..20) {
                0 => PSH,
                1 => FIN,
                2 => 0x04,
                3 => 0x20,
                4 => 0x02,
                5 => CWR,
                6 => ECE,
                _ => 0,
            };
            let spec = Spec {
                v6: flow % 2 == 0,
                port: flow as u16,
                seq: next_seq[flow],
                flags: ACK | flags,
                ..Spec::default()
            };
            if rng.random_bool(0.9) {
                next_seq[flow] += len as u32;
            }
            let payload = random_payload(len, rng);
            let mut packet = packet(spec, &payload, rng);
            if rng.random_bool(0.9) {
                packet = split([packet], rng).remove(0);
            }
            packets.push(packet);
        }
        if rng.random_bool(0.1) {
            packets.shuffle(rng);
        }
        let merged = merge(packets.clone());
        merges += packets.len() - merged.len();
        let mut whole = packets;
        whole.iter_mut().for_each(|packet| {
            *packet = split([packet.clone()], &mut StdRng::seed_from_u64(0)).remove(0);
        });
        assert_eq!(by_flow(&split(merged, rng)), by_flow(&whole));
        let read = read(&whole);
        reads += whole.len() - read.len();
        assert_eq!(by_flow(&split(read, rng)), by_flow(&whole));
    }
    assert!(merges > 1000 && reads > 100, "{merges}, {reads}");
}

#[test]
fn what_differs_or_is_damaged_is_not_merged() {
    let rng = &mut StdRng::seed_from_u64(3);
    let pair = |change: &dyn Fn(&mut [u8]), fix: bool| {
        let mut rng = StdRng::seed_from_u64(4);
        let spec = |seq| Spec {
            seq,
            ..Spec::default()
        };
        let first = split([packet(spec(0), &[1; 100], &mut rng)], &mut rng).remove(0);
        let second = packet(spec(100), &[2; 100], &mut rng);
        let mut bytes = split([second], &mut rng)[0].to_vec();
        change(&mut bytes);
        if fix {
            fix_checksum(&mut bytes);
        }
        let packets = [first, Packet::received(bytes.into(), Meta::default())];
        let merged = merge(packets.clone()).len();
        assert_eq!(read(&packets).len(), merged);
        merged
    };
    assert_eq!(pair(&|_| {}, true), 1);
    assert_eq!(pair(&|bytes| bytes[4] ^= 9, true), 1, "IPv4 ID");
    for at in [1, 6, 8, 27, 31, 35, 45] {
        // TOS, DF, TTL, sequence number, acknowledgement, window, timestamp.
        assert_eq!(pair(&|bytes| bytes[at] ^= 0x40, true), 2, "byte {at}");
    }
    for at in [8, 10, 36, 52, 151] {
        assert_eq!(pair(&|bytes| bytes[at] ^= 1, false), 2, "damaged byte {at}");
    }
    // Padding behind the packet is not part of it.
    let packets = split([packet(Spec::default(), &[1; 100], rng)], rng);
    let mut padded = packets[0].to_vec();
    padded.extend([9; 30]);
    let next = Spec {
        seq: 100,
        ..Spec::default()
    };
    let next = packet(next, &[2; 50], rng);
    let merged = merge([Packet::received(padded.into(), Meta::default()), next]);
    assert_eq!(merged.len(), 1);
    assert_eq!(
        merged[0].to_vec()[52..],
        [vec![1; 100], vec![2; 50]].concat()
    );
}

#[test]
fn checksums_of_small_packets_are_filled_wherever_their_headers_are() {
    let rng = &mut StdRng::seed_from_u64(5);
    for v6 in [false, true] {
        for len in [0, 1, 2, 99, 1400] {
            let spec = Spec {
                v6,
                ..Spec::default()
            };
            let payload = random_payload(len, rng);
            let in_head = packet(spec, &payload, rng);
            let in_body = Packet::received(in_head.to_vec().into(), in_head.meta);
            for filled in split([in_head, in_body], rng) {
                assert_eq!(filled.meta, Meta::default());
                assert_valid(&filled.to_vec());
            }
        }
    }
}

#[test]
fn nonsense_is_dropped_and_counted() {
    let rng = &mut StdRng::seed_from_u64(6);
    let mut offload = Offload::new(Plain::default());
    offload.device.room = usize::MAX;
    let mut packets = VecDeque::new();
    for _ in 0..10_000 {
        let mut bytes = random_payload(rng.random_range(0..100), rng);
        if let Some(first) = bytes.first_mut() {
            *first = [0x45, 0x60, 0x4f, 0x00][rng.random_range(0..4)];
        }
        let meta = Meta {
            checksum: Checksum::Partial,
            gso_size: rng.random_range(0..3),
        };
        packets.push_back(Packet::received(bytes.into(), meta));
    }
    merge(packets.clone());
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(offload.poll_send(cx, &mut packets).is_ready());
    assert!(offload.drops() > 9000);
}

#[test]
fn in_steady_state_memory_is_used_again() {
    let rng = &mut StdRng::seed_from_u64(7);
    let mut offload = Offload::new(Plain::default());
    offload.device.room = usize::MAX;
    let mut addresses = Vec::new();
    let cx = &mut Context::from_waker(Waker::noop());
    for _ in 0..100 {
        let spec = Spec {
            gso_size: 1400,
            ..Spec::default()
        };
        let mut packets = VecDeque::from([packet(spec, &[0; 60_000], rng)]);
        assert!(offload.poll_send(cx, &mut packets).is_ready());
        addresses.push(offload.device.sent[0].first().as_ptr() as usize);
        offload.device.sent.clear();
    }
    addresses.sort_unstable();
    let blocks = addresses.chunk_by(|a, b| b - a < BLOCK / 2).count();
    assert!(blocks <= 4, "{blocks}");
}

#[test]
fn what_a_device_can_do_is_left_to_it() {
    let rng = &mut StdRng::seed_from_u64(8);
    let device = Plain {
        room: usize::MAX,
        segmentation_offload: Some(20_000),
        drops: 7,
        ..Plain::default()
    };
    let mut offload = Offload::new(device);
    let spec = Spec {
        gso_size: 1400,
        ..Spec::default()
    };
    let lens = [10_000, 30_000];
    let mut packets = lens.map(|len| packet(spec, &vec![1; len], rng)).into();
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(offload.poll_send(cx, &mut packets).is_ready());
    // The first is small enough for it; the other is 22 segments.
    let sizes: Vec<_> = offload.device.sent.iter().map(Packet::len).collect();
    assert_eq!((sizes.len(), sizes[0]), (23, 10_052));
    assert_eq!(offload.drops(), 7);
    // Who gives super-packets has merged what there is to merge.
    let pair = [0, 100].map(|seq| bytes(Spec { seq, ..spec }, &[1; 100]));
    let pair = pair.map(|bytes| Packet::received(bytes.into(), Meta::default()));
    offload.device.to_deliver.extend(pair);
    let mut received = Vec::new();
    let result = offload.poll_recv(cx, &mut received, 9);
    assert!(matches!(result, Poll::Ready(Ok(2))));
}

#[test]
fn a_device_is_never_offered_more_segments_than_it_may_take_soon() {
    let rng = &mut StdRng::seed_from_u64(9);
    let spec = Spec {
        gso_size: 100,
        ..Spec::default()
    };
    let mut offload = Offload::new(Plain::default());
    let mut packets: VecDeque<_> = (0..9).map(|_| packet(spec, &[1; 3000], rng)).collect();
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(offload.poll_send(cx, &mut packets).is_pending());
    assert!(offload.device.offered < 100, "64 and a packet's more");
    assert!(packets.len() > 60, "what was split stays so");
}

#[test]
fn a_run_ends_where_no_packet_can_be_longer() {
    let segments: Vec<_> = (0..60)
        .map(|n| {
            let seq = n * 1400;
            let bytes = bytes(
                Spec {
                    seq,
                    ..Spec::default()
                },
                &[n as u8; 1400],
            );
            Packet::received(bytes.into(), Meta::default())
        })
        .collect();
    for merged in [read(&segments), merge(segments.clone())] {
        // In what was left of a block not many could follow.
        assert!((2..=3).contains(&merged.len()));
        let mut payloads = Vec::new();
        for packet in merged {
            let tcp = Tcp::of(&packet).unwrap();
            assert_eq!(tcp.ip.total_len, packet.len());
            payloads.extend_from_slice(&packet.to_vec()[tcp.header_len..]);
        }
        assert!(payloads.chunks(1400).zip(0..).all(|(c, n)| c == [n; 1400]));
    }
}

#[test]
fn what_an_ip_header_says_besides_keeps_segments_apart() {
    let first = |v6| {
        bytes(
            Spec {
                v6,
                ..Spec::default()
            },
            &[1; 100],
        )
    };
    let next = |v6, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes(
            Spec {
                v6,
                seq: 100,
                ..Spec::default()
            },
            &[2; 100],
        );
        change(&mut bytes);
        fix_checksum(&mut bytes);
        bytes
    };
    let run = |packets: [Vec<u8>; 2]| {
        let packets = packets.map(|bytes| Packet::received(bytes.into(), Meta::default()));
        let merged = merge(packets.clone());
        assert_eq!(read(&packets).len(), merged.len());
        merged.len()
    };
    for v6 in [false, true] {
        assert_eq!(run([first(v6), next(v6, &|_| {})]), 1);
    }
    // Version, traffic class and flow label are of the packet's own.
    for at in [1, 2, 3, 7] {
        assert_eq!(run([first(true), next(true, &|bytes| bytes[at] ^= 1)]), 2);
    }
    // Options of IPv4 would have to be told apart.
    let options = |bytes: Vec<u8>| {
        let mut longer = [&bytes[..20], &[0; 4], &bytes[20..]].concat();
        longer[0] = 0x46;
        put_u16(&mut longer, 2, bytes.len() as u16 + 4);
        fix_checksum(&mut longer);
        longer
    };
    assert_eq!(
        run([options(first(false)), options(next(false, &|_| {}))]),
        2
    );
}

#[test]
fn a_datagram_whose_sum_is_zero_says_ones() {
    let mut head = [0; 28];
    head[0] = 0x45;
    (head[8], head[9]) = (64, UDP);
    let ip = Ip {
        v6: false,
        protocol: UDP,
        header_len: 20,
        total_len: 28,
    };
    ip.set_total_len(&mut head, 28);
    put_u16(&mut head, 24, 8);
    // What makes the sum of all others come to minus zero.
    let rest = ip
        .pseudo_header(&head, 8)
        .combine(sum(&head[20..28]))
        .finish();
    put_u16(&mut head, 20, rest);
    let partial = ip.pseudo_header(&head, 8).partial();
    put_u16(&mut head, 26, partial);
    let meta = Meta {
        checksum: Checksum::Partial,
        gso_size: 0,
    };
    let mut offload = Offload::new(Plain::default());
    offload.device.room = 1;
    let mut packets = VecDeque::from([Packet::with_head(&head, meta)]);
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(offload.poll_send(cx, &mut packets).is_ready());
    assert_eq!(offload.device.sent[0].head()[26..28], [0xff, 0xff]);
}

#[test]
fn what_is_not_taken_of_a_split_packet_is_not_given_for_the_next() {
    let rng = &mut StdRng::seed_from_u64(10);
    let spec = Spec {
        gso_size: 1000,
        ..Spec::default()
    };
    let mut splitter = Splitter::new();
    let first = splitter
        .split(packet(spec, &[1; 3000], rng))
        .next()
        .unwrap();
    assert_eq!(first[52..], [1; 1000]);
    let rest: Vec<_> = splitter.split(packet(spec, &[3; 2000], rng)).collect();
    assert_eq!(rest.len(), 2);
    assert!(rest.iter().all(|bytes| bytes[52..] == [3; 1000]));
}
