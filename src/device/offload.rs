//! Does in front of a device what it cannot do by itself: checksums, late splitting, early merging.

use std::{
    collections::VecDeque,
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use self::{buffer::Buffer, merger::Merger};
use super::{Capabilities, Device};
use crate::packet::{Checksum, PACKET_MAX, Packet};

pub(super) mod buffer;
pub(super) mod cut;
mod merger;
#[cfg(test)]
mod tests;

/// Segments made from super-packets before the device is offered them.
const AHEAD: usize = 64;

/// A device with checksum and segmentation offload, whatever the one inside can do.
///
/// What the device can do is passed through. Where it cannot take super-packets, they are split
/// here, at the last moment, and consecutive segments of one flow that it delivers in one batch are
/// merged into super-packets, as Linux's GSO and GRO do. So everything above works on units of up
/// to 64 KiB over any device.
///
/// ```
/// use synack::device::{self, Device, Offload};
///
/// let (device, _other) = device::pair(1500);
/// let device = Offload::new(device);
/// assert!(device.capabilities().segmentation_offload.is_some());
/// ```
#[derive(Debug)]
pub struct Offload<D> {
    device: D,
    /// The device makes of packets to be sent what it can send.
    splits: bool,
    /// Segments of super-packets on their way to the device; empty between two polls.
    segments: VecDeque<Packet>,
    buffer: Buffer,
    merger: Merger,
    drops: u64,
}

impl<D: Device> Offload<D> {
    /// Wraps `device`.
    pub fn new(mut device: D) -> Self {
        device.merge_received();
        Self {
            splits: device.split_sent(),
            device,
            segments: VecDeque::new(),
            buffer: Buffer::new(),
            merger: Merger::default(),
            drops: 0,
        }
    }

    /// The device inside.
    pub fn get_ref(&self) -> &D {
        &self.device
    }

    /// The device inside. Packets that it is given directly are not prepared for it.
    pub fn get_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Moves packets from the front of `packets` to the queue in front of the device, until that
    /// is long enough for one poll.
    fn prepare(&mut self, packets: &mut VecDeque<Packet>, capabilities: &Capabilities) {
        while self.segments.len() < AHEAD
            && let Some(mut packet) = packets.pop_front()
        {
            let takes_whole = capabilities
                .segmentation_offload
                .is_some_and(|max| packet.len() <= max);
            let done = if packet.meta.gso_size > 0 && !takes_whole {
                self.buffer.split(&packet, &mut self.segments)
            } else {
                let done = capabilities.checksum_offload
                    || packet.meta.checksum != Checksum::Partial
                    || self.buffer.fill_checksum(&mut packet);
                if done {
                    self.segments.push_back(packet);
                }
                done
            };
            self.drops += u64::from(!done);
        }
    }
}

impl<D: Device> Device for Offload<D> {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            checksum_offload: true,
            segmentation_offload: Some(PACKET_MAX),
            ..self.device.capabilities()
        }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let start = packets.len();
        let received = ready!(self.device.poll_recv(cx, packets, max))?;
        if received < 2 || self.device.capabilities().segmentation_offload.is_some() {
            return Poll::Ready(Ok(received));
        }
        self.merger.merge(packets, start, &mut self.buffer);
        Poll::Ready(Ok(packets.len() - start))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        let capabilities = self.device.capabilities();
        let takes_all =
            capabilities.checksum_offload && capabilities.segmentation_offload >= Some(PACKET_MAX);
        if takes_all || self.splits {
            return self.device.poll_send(cx, packets);
        }
        while !packets.is_empty() {
            self.prepare(packets, &capabilities);
            let sent = self.device.poll_send(cx, &mut self.segments);
            if !matches!(sent, Poll::Ready(Ok(()))) {
                // The caller's queue holds whatever was not sent, as for any other device.
                while let Some(packet) = self.segments.pop_back() {
                    packets.push_front(packet);
                }
                return sent;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_drained(&self) -> bool {
        self.device.is_drained()
    }

    fn name(&self) -> Option<&str> {
        self.device.name()
    }

    fn drops(&self) -> u64 {
        self.drops + self.device.drops()
    }
}

/// Makes packets of the engine into packets that a network carries: super-packets are split, and
/// checksums filled in. For loops that drive an [`Engine`](crate::engine::Engine) without a
/// [`Device`]; with one, [`Offload`] does it.
///
/// ```
/// # use std::{collections::VecDeque, time::Instant};
/// # use synack::{config::Config, device::Splitter, engine::Engine};
/// # let now = Instant::now();
/// # let mut engine = Engine::new(Config::default(), &["10.0.0.2/24".parse()?], 1500, now);
/// # engine.connect("10.0.0.1:80".parse()?, now)?;
/// let (mut packets, mut splitter) = (VecDeque::new(), Splitter::new());
/// engine.poll_packet(now, 64, &mut packets);
/// for packet in packets.drain(..) {
///     for bytes in splitter.split(packet) {
///         assert!(bytes.len() <= 1500); // To the network.
///     }
/// }
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Splitter {
    buffer: Buffer,
    segments: VecDeque<Packet>,
}

impl Splitter {
    /// A splitter, which keeps its memory for use again.
    pub fn new() -> Self {
        Self {
            buffer: Buffer::new(),
            segments: VecDeque::new(),
        }
    }

    /// The packets that `packet` stands for, complete and in order. What is not taken from the
    /// iterator is lost.
    pub fn split(&mut self, mut packet: Packet) -> impl Iterator<Item = Bytes> {
        if packet.meta.gso_size > 0 {
            self.buffer.split(&packet, &mut self.segments);
        } else if packet.meta.checksum != Checksum::Partial
            || self.buffer.fill_checksum(&mut packet)
        {
            self.segments.push_back(packet);
        }
        let buffer = &mut self.buffer;
        self.segments
            .drain(..)
            .map(|packet| buffer.in_one_piece(packet))
    }
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new()
    }
}
