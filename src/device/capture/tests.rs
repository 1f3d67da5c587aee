use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::{
    pcapng::{INTERFACE_DESCRIPTION, LINKTYPE_RAW, SECTION_HEADER},
    *,
};
use crate::{
    device::{Channel, Offload, pair},
    packet::Meta,
};

/// A file that can be read while it is written, and that fails from some size on.
#[derive(Clone, Debug, Default)]
struct Shared {
    bytes: Arc<Mutex<Vec<u8>>>,
    max: Option<usize>,
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.bytes.lock().unwrap();
        if self.max.is_some_and(|max| file.len() + bytes.len() > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Kind and body of each block.
fn blocks(mut file: &[u8]) -> Vec<(u32, &[u8])> {
    let mut blocks = Vec::new();
    while !file.is_empty() {
        let length = get32(file, 4) as usize;
        assert_eq!(length % 4, 0);
        assert_eq!(get32(file, length - 4) as usize, length);
        blocks.push((get32(file, 0), &file[8..length - 4]));
        file = &file[length..];
    }
    blocks
}

fn options(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
    let mut options = Vec::new();
    loop {
        let code = get32(bytes, 0) & 0xffff;
        let length = (get32(bytes, 0) >> 16) as usize;
        if code == 0 {
            assert_eq!(bytes.len(), 4);
            return options;
        }
        options.push((code, &bytes[4..4 + length]));
        bytes = &bytes[4 + length.next_multiple_of(4)..];
    }
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A segment over IPv4 from 10.0.0.1 to 10.0.0.2, without its checksum.
fn segment(payload: usize) -> Packet {
    let mut head = [0; 40];
    head[0] = 0x45;
    head[8] = 64;
    head[9] = TCP;
    head[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    head[20..24].copy_from_slice(&[0x30, 0x39, 0, 80]);
    head[32] = 0x50;
    head[33] = 0x10;
    let ip = Ip {
        v6: false,
        protocol: TCP,
        header_len: 20,
        total_len: 40 + payload,
    };
    ip.set_total_len(&mut head, ip.total_len);
    let meta = Meta {
        checksum: Checksum::Partial,
        gso_size: if payload > 1460 { 1460 } else { 0 },
    };
    let mut packet = Packet::with_head(&head, meta);
    packet.body.push(Bytes::from(vec![0x5a; payload]));
    packet
}

async fn send<D: Device>(device: &mut D, packets: impl Into<VecDeque<Packet>>) {
    let mut packets = packets.into();
    poll_fn(|cx| device.poll_send(cx, &mut packets))
        .await
        .unwrap();
}

async fn receive<D: Device>(device: &mut D) -> Vec<Packet> {
    let mut packets = Vec::new();
    poll_fn(|cx| device.poll_recv(cx, &mut packets, 64))
        .await
        .unwrap();
    packets
}

fn capture(builder: Builder, file: &Shared) -> (Capture<Channel, Shared>, Channel) {
    let (one, other) = pair(1500);
    let (one, other) = (one.offload(true), other.offload(true));
    (builder.build(one, file.clone()).unwrap(), other)
}

#[tokio::test(start_paused = true)]
async fn what_passes_can_be_read_back() {
    let file = Shared::default();
    let epoch = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let (mut device, mut other) = capture(Builder::new().epoch(epoch), &file);
    send(&mut device, [segment(1), segment(4000)]).await;
    assert_eq!(receive(&mut other).await.len(), 2);
    tokio::time::advance(Duration::from_millis(1500)).await;
    send(&mut other, [segment(3)]).await;
    assert_eq!(receive(&mut device).await.len(), 1);
    assert_eq!(device.captured(), 3);

    let file = file.bytes.lock().unwrap();
    let blocks = blocks(&file);
    let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [SECTION_HEADER, INTERFACE_DESCRIPTION, 6, 6, 6]);
    assert_eq!(get32(blocks[0].1, 0), 0x1a2b_3c4d);
    assert_eq!(get32(blocks[1].1, 0), u32::from(LINKTYPE_RAW));
    assert!(options(&blocks[1].1[8..]).contains(&(9, &[9][..])));
    let expected = [
        (41, 0, Direction::Outbound, ""),
        (
            4040,
            0,
            Direction::Outbound,
            "super-segment, split at 1460 bytes, checksum filled",
        ),
        (43, 1_500_000_000, Direction::Inbound, ""),
    ];
    for ((_, body), (length, after, direction, comment)) in blocks[2..].iter().zip(expected) {
        let nanos = (u64::from(get32(body, 4)) << 32) | u64::from(get32(body, 8));
        assert_eq!(nanos, 1_700_000_000_000_000_000 + after);
        assert_eq!(get32(body, 12), length);
        assert_eq!(get32(body, 16), length);
        let length = length as usize;
        let packet = &body[20..20 + length];
        let ip = Ip::parse(packet, length).unwrap();
        let total = ip.pseudo_sum(packet, length - 20) + sum(&packet[20..]);
        assert_eq!(fold(total), 0xffff);
        let flags = (direction as u32).to_le_bytes();
        let mut expected = vec![(2, &flags[..])];
        if !comment.is_empty() {
            expected.insert(0, (1, comment.as_bytes()));
        }
        let end = 20 + length.next_multiple_of(4);
        assert_eq!(options(&body[end..]), expected);
    }
}

#[tokio::test]
async fn only_the_first_bytes_are_written_if_so_asked() {
    let file = Shared::default();
    let (mut device, _other) = capture(Builder::new().snaplen(60), &file);
    send(&mut device, [segment(1000)]).await;
    let file = file.bytes.lock().unwrap();
    let blocks = blocks(&file);
    assert_eq!(get32(blocks[1].1, 4), 60);
    assert_eq!(get32(blocks[2].1, 12), 60);
    assert_eq!(get32(blocks[2].1, 16), 1040);
}

#[tokio::test]
async fn packets_that_have_to_wait_are_written_once() {
    let file = Shared::default();
    let (mut device, mut other) = capture(Builder::new(), &file);
    let mut packets: VecDeque<Packet> = (0..1000).map(|_| segment(10)).collect();
    let waker = futures::task::noop_waker();
    let mut cx = Context::from_waker(&waker);
    while device.poll_send(&mut cx, &mut packets).is_pending() {
        receive(&mut other).await;
        // What is left may come in parts.
        let rest = packets.split_off(packets.len().min(100));
        let _ = device.poll_send(&mut cx, &mut packets);
        packets.extend(rest);
    }
    assert_eq!(device.captured(), 1000);
}

/// As the reactor does with what waits for a device that takes nothing.
#[tokio::test]
async fn what_comes_after_packets_that_were_dropped_unsent_is_written() {
    let file = Shared::default();
    let (mut device, mut other) = capture(Builder::new(), &file);
    let mut packets: VecDeque<Packet> = (0..1000).map(|_| segment(10)).collect();
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    assert!(device.poll_send(cx, &mut packets).is_pending());
    assert!(!packets.is_empty());
    packets.clear();
    receive(&mut other).await;
    for len in 11..21 {
        send(&mut device, [segment(len)]).await;
        receive(&mut other).await;
    }
    assert_eq!(device.captured(), 1010);
}

#[tokio::test]
async fn what_was_written_is_there_to_be_read_once_nothing_passes() {
    let file = Shared::default();
    let (one, _other) = pair(1500);
    let writer = BufWriter::new(file.clone());
    let mut device = Capture::new(one, writer).unwrap();
    send(&mut device, [segment(1)]).await;
    let packets = || blocks(&file.bytes.lock().unwrap()).len() - 2;
    assert_eq!(packets(), 0, "not yet");
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    let nothing = device.poll_recv(cx, &mut Vec::new(), 1);
    assert!(nothing.is_pending());
    assert_eq!(packets(), 1);
}

#[tokio::test]
async fn a_failed_write_ends_the_capture_and_not_the_device() {
    let file = Shared {
        max: Some(400),
        ..Shared::default()
    };
    let (mut device, mut other) = capture(Builder::new(), &file);
    for _ in 0..10 {
        send(&mut device, [segment(50)]).await;
        assert_eq!(receive(&mut other).await.len(), 1);
    }
    assert!(device.captured() > 0);
    assert_eq!(device.captured() + device.missed(), 10);
    let (_, writer) = device.into_parts();
    assert!(writer.is_none());
    blocks(&file.bytes.lock().unwrap());
}

/// A device that answers what the trait has an answer of its own for.
#[derive(Default)]
struct Particular {
    merges: bool,
    splits: bool,
}

impl Device for Particular {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: 576,
            checksum_offload: true,
            segmentation_offload: Some(9000),
        }
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        _: &mut Vec<Packet>,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_send(&mut self, _: &mut Context<'_>, _: &mut VecDeque<Packet>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn merge_received(&mut self) {
        self.merges = true;
    }

    fn split_sent(&mut self) -> bool {
        self.splits = true;
        true
    }

    fn is_drained(&self) -> bool {
        true
    }

    fn name(&self) -> Option<&str> {
        Some("particular0")
    }

    fn drops(&self) -> u64 {
        7
    }
}

#[test]
fn what_the_device_inside_says_of_itself_shows_through() {
    let device = Particular::default();
    let mut capture = Capture::new(device, Shared::default()).unwrap();
    assert_eq!(capture.capabilities(), capture.get_ref().capabilities());
    assert_eq!(capture.name(), Some("particular0"));
    assert_eq!(capture.drops(), 7);
    capture.merge_received();
    assert!(capture.get_ref().merges);
    // As a stack has it: whoever merges tells the device through the capture.
    let device = Particular::default();
    let capture = Capture::new(device, Shared::default()).unwrap();
    let offload = Offload::new(capture);
    assert!(offload.get_ref().get_ref().merges);
    // What is split behind a capture is not seen as it goes out.
    assert!(!offload.get_ref().get_ref().splits);
    assert!(Offload::new(Particular::default()).get_ref().splits);
    assert_eq!((offload.name(), offload.drops()), (Some("particular0"), 7));
    assert_eq!(offload.capabilities().mtu, 576);
    // It flushes in the poll that finds nothing, so there has to be one.
    assert!(!offload.is_drained());
    assert!(Offload::new(Particular::default()).is_drained());
}
