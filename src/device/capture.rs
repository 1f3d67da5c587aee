//! Writes what passes through a device to a file that Wireshark reads (pcapng).

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;
use tracing::warn;

use super::{
    Capabilities, Device,
    headers::{Ip, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, fold, sum},
};
use crate::packet::{Checksum, Packet};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Packets begin with their IP header.
const LINKTYPE_RAW: u16 = 101;

/// A device whose packets are written to `W` as they pass.
///
/// A super-packet is written whole, with a comment; a checksum that is left to the device is filled
/// in what is written. The clock is the wall clock at the start plus the time that passed on
/// tokio's clock, so it jumps as a paused clock does.
///
/// Writing happens in the task of the stack: a slow disk slows it down. What is written is flushed
/// whenever no more packets are there. When a write fails, the capture ends with a warning and the
/// device goes on.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::{Stack, device::{self, Capture}};
///
/// let (device, _other) = device::pair(1500);
/// let device = Capture::new(device, std::io::sink())?;
/// let stack = Stack::builder().address("10.7.0.2/24".parse()?).spawn(device)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Capture<D, W> {
    device: D,
    /// `None` once a write has failed.
    writer: Option<W>,
    snaplen: usize,
    epoch: Duration,
    start: Instant,
    /// Packets at the front of the queue to be sent that are written already.
    written_ahead: usize,
    dirty: bool,
    captured: u64,
    missed: u64,
    block: Vec<u8>,
    scratch: Vec<u8>,
}

/// A capture of all that passes through `device` to a new file at `path`.
///
/// # Errors
/// If the file cannot be made or written.
pub fn to_file<D: Device>(
    device: D,
    path: impl AsRef<Path>,
) -> io::Result<Capture<D, BufWriter<File>>> {
    let file = File::create(path)?;
    Builder::new().build(device, BufWriter::new(file))
}

/// How to capture.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::{Stack, device::{self, capture}};
///
/// let (device, _other) = device::pair(1500);
/// // Headers are enough. Any `Write` will do.
/// let captured = capture::Builder::new().snaplen(96).name("tunnel").build(device, Vec::new())?;
/// let stack = Stack::builder().address("10.7.0.2/24".parse()?).spawn(captured)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    snaplen: u32,
    epoch: Option<SystemTime>,
    name: String,
}

impl Builder {
    /// Whole packets, from now, of an interface called `synack`.
    pub fn new() -> Self {
        Self {
            snaplen: 0,
            epoch: None,
            name: String::from("synack"),
        }
    }

    /// Writes no more than the first `bytes` of each packet; zero, the default, writes them whole.
    #[must_use]
    pub fn snaplen(mut self, bytes: u32) -> Self {
        self.snaplen = bytes;
        self
    }

    /// What time it is at the start, instead of the wall clock's: the same run then gives the same
    /// file.
    #[must_use]
    pub fn epoch(mut self, epoch: SystemTime) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// The name of the interface in the file.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Writes the head of the file and wraps the device.
    ///
    /// # Errors
    /// If the writer fails.
    pub fn build<D, W>(self, device: D, mut writer: W) -> io::Result<Capture<D, W>>
    where
        D: Device,
        W: Write + Send + 'static,
    {
        writer.write_all(&head(self.snaplen, &self.name))?;
        writer.flush()?;
        #[expect(clippy::disallowed_methods, reason = "time stamps for people")]
        let epoch = self.epoch.unwrap_or_else(SystemTime::now);
        Ok(Capture {
            device,
            writer: Some(writer),
            snaplen: match self.snaplen {
                0 => usize::MAX,
                bytes => bytes as usize,
            },
            epoch: epoch.duration_since(UNIX_EPOCH).unwrap_or_default(),
            start: Instant::now(),
            written_ahead: 0,
            dirty: false,
            captured: 0,
            missed: 0,
            block: Vec::new(),
            scratch: Vec::new(),
        })
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

/// Which way a packet went; the low bits of `epb_flags`.
#[derive(Clone, Copy, Debug)]
enum Direction {
    Inbound = 1,
    Outbound = 2,
}

impl<D: Device, W: Write + Send + 'static> Capture<D, W> {
    /// A capture of whole packets.
    ///
    /// # Errors
    /// If the writer fails.
    pub fn new(device: D, writer: W) -> io::Result<Self> {
        Builder::new().build(device, writer)
    }

    /// Packets written.
    pub fn captured(&self) -> u64 {
        self.captured
    }

    /// Packets that passed after a write had failed.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The device.
    pub fn get_ref(&self) -> &D {
        &self.device
    }

    /// The device, to change it.
    pub fn get_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The device, and the writer unless it has failed.
    pub fn into_parts(self) -> (D, Option<W>) {
        (self.device, self.writer)
    }

    fn record<'a>(&mut self, packets: impl IntoIterator<Item = &'a Packet>, direction: Direction) {
        let time = self.epoch + self.start.elapsed();
        for packet in packets {
            self.write(packet, direction, time);
        }
    }

    fn write(&mut self, packet: &Packet, direction: Direction, time: Duration) {
        let Some(writer) = &mut self.writer else {
            self.missed += 1;
            return;
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(packet.head());
        for slice in &packet.body {
            self.scratch.extend_from_slice(slice);
        }
        if packet.meta.checksum == Checksum::Partial {
            fill_checksum(&mut self.scratch);
        }
        let comment = comment(packet);
        let captured = &self.scratch[..self.scratch.len().min(self.snaplen)];
        let length = self.scratch.len();
        packet_block(&mut self.block, captured, length, direction, time, &comment);
        match writer.write_all(&self.block) {
            Ok(()) => {
                self.captured += 1;
                self.dirty = true;
            }
            Err(error) => self.stop(&error, 1),
        }
    }

    fn flush(&mut self) {
        if self.dirty
            && let Some(writer) = &mut self.writer
        {
            self.dirty = false;
            if let Err(error) = writer.flush() {
                self.stop(&error, 0);
            }
        }
    }

    fn stop(&mut self, error: &io::Error, missed: u64) {
        warn!(%error, "the capture ends: it cannot be written");
        self.writer = None;
        self.missed += missed;
    }
}

impl<D: Device, W: Write + Send + 'static> Device for Capture<D, W> {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let before = packets.len();
        let outcome = self.device.poll_recv(cx, packets, max);
        self.record(&packets[before.min(packets.len())..], Direction::Inbound);
        if packets.len() == before {
            self.flush();
        }
        outcome
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        // Written before they are sent, so that a question stands before its answer. What the
        // device leaves in the queue comes again at its front, but perhaps not all at once.
        let before = packets.len();
        let known = self.written_ahead;
        self.record(packets.iter().skip(known), Direction::Outbound);
        let outcome = self.device.poll_send(cx, packets);
        let sent = before.saturating_sub(packets.len());
        self.written_ahead = known.max(before) - sent;
        outcome
    }

    fn merge_received(&mut self) {
        self.device.merge_received();
    }

    fn name(&self) -> Option<&str> {
        self.device.name()
    }

    fn drops(&self) -> u64 {
        self.device.drops()
    }
}

/// A remark on a packet that is not what goes over a wire.
fn comment(packet: &Packet) -> String {
    match (packet.meta.gso_size, packet.meta.checksum) {
        (0, _) => String::new(),
        (size, Checksum::Partial) => {
            format!("super-segment, split at {size} bytes, checksum filled")
        }
        (size, Checksum::Complete | Checksum::Verified) => {
            format!("super-segment, split at {size} bytes")
        }
    }
}

/// The blocks before the first packet: section header and interface description.
fn head(snaplen: u32, name: &str) -> Vec<u8> {
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

fn packet_block(
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

/// Puts the whole checksum into a TCP or UDP packet that is in one piece; leaves others alone.
pub(in crate::device) fn fill_checksum(packet: &mut [u8]) {
    let Some(ip) = Ip::parse(packet, packet.len()) else {
        return;
    };
    let at = ip.header_len
        + match ip.protocol {
            TCP => TCP_CHECKSUM,
            UDP => UDP_CHECKSUM,
            _ => return,
        };
    if at + 2 > ip.total_len {
        return;
    }
    packet[at..at + 2].fill(0);
    let segment = &packet[ip.header_len..ip.total_len];
    let checksum = !fold(ip.pseudo_sum(packet, segment.len()) + sum(segment));
    // In UDP zero means that there is none.
    let none = checksum == 0 && ip.protocol == UDP;
    let checksum = if none { !0 } else { checksum };
    packet[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{Arc, Mutex},
    };

    use bytes::Bytes;

    use super::*;
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
    struct Particular {
        merges: bool,
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

        fn poll_send(
            &mut self,
            _: &mut Context<'_>,
            _: &mut VecDeque<Packet>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn merge_received(&mut self) {
            self.merges = true;
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
        let device = Particular { merges: false };
        let mut capture = Capture::new(device, Shared::default()).unwrap();
        assert_eq!(capture.capabilities(), capture.get_ref().capabilities());
        assert_eq!(capture.name(), Some("particular0"));
        assert_eq!(capture.drops(), 7);
        capture.merge_received();
        assert!(capture.get_ref().merges);
        // As a stack has it: whoever merges tells the device through the capture.
        let device = Particular { merges: false };
        let capture = Capture::new(device, Shared::default()).unwrap();
        let offload = Offload::new(capture);
        assert!(offload.get_ref().get_ref().merges);
        assert_eq!((offload.name(), offload.drops()), (Some("particular0"), 7));
        assert_eq!(offload.capabilities().mtu, 576);
    }
}
