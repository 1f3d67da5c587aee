//! Writes what passes through a device to a file that Wireshark reads (pcapng).

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufWriter, Write},
    mem,
    path::Path,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::time::Instant;
use tracing::warn;

use self::pcapng::{Direction, head, packet_block};
use super::{
    Capabilities, Device,
    headers::{Ip, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, fold, sum},
};
use crate::packet::{Checksum, Packet};

mod pcapng;
#[cfg(test)]
mod tests;

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
    /// Written before they are sent, and not sent yet.
    left: VecDeque<Packet>,
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
            left: VecDeque::new(),
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
        // device leaves in the queue comes again at its front, but perhaps not all at once; or never,
        // if it was dropped for having waited too long.
        let again = packets.iter().zip(&self.left);
        let known = again
            .take_while(|(packet, left)| is_same(packet, left))
            .count();
        let before = packets.len();
        self.record(packets.iter().skip(known), Direction::Outbound);
        let outcome = self.device.poll_send(cx, packets);
        let mut later = mem::take(&mut self.left);
        later.drain(..before.min(later.len()));
        if known < before {
            later.clear();
        }
        self.left.extend(packets.iter().cloned().chain(later));
        outcome
    }

    fn merge_received(&mut self) {
        self.device.merge_received();
    }

    /// Never, whatever the device says: the poll that finds nothing is the one that flushes.
    fn is_drained(&self) -> bool {
        false
    }

    fn name(&self) -> Option<&str> {
        self.device.name()
    }

    fn drops(&self) -> u64 {
        self.device.drops()
    }
}

/// Whether two packets are copies of one.
fn is_same(one: &Packet, other: &Packet) -> bool {
    let place = |slice: &Bytes| (slice.as_ptr(), slice.len());
    one.head() == other.head() && one.body.iter().map(place).eq(other.body.iter().map(place))
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
