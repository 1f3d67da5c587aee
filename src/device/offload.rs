//! Does in front of a device what it cannot do by itself: checksums, late splitting, early merging.

use std::{
    collections::VecDeque,
    io, mem,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};

use super::{
    Capabilities, Device,
    headers::{
        CWR, FIN, Ip, PSH, TCP, TCP_CHECKSUM, Tcp, UDP, UDP_CHECKSUM, get_u16, get_u32, put_u16,
    },
    run::Run,
};
use crate::{
    checksum::{Sum, sum, sum_packet},
    packet::{Checksum, HEAD_MAX, Meta, PACKET_MAX, Packet},
    pool::Pool,
};

/// Memory is taken in blocks of this size: the largest packet, and some small ones.
const BLOCK: usize = (64 + 4) << 10;

/// Blocks kept for use again: enough for the largest window of one connection.
const BLOCKS_MAX: usize = 128;

/// Segments made from super-packets before the device is offered them.
const AHEAD: usize = 64;

/// Flows that are merged at one time; the next one closes the oldest.
const FLOWS_MAX: usize = 8;

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
        if capabilities.checksum_offload && capabilities.segmentation_offload >= Some(PACKET_MAX) {
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

/// Where packets are written: the current block, and the pool it is from.
#[derive(Debug)]
struct Buffer {
    pool: Pool,
    block: BytesMut,
}

impl Buffer {
    fn new() -> Self {
        let mut pool = Pool::new(BLOCK, BLOCKS_MAX);
        let block = pool.take();
        Self { pool, block }
    }

    /// Makes room for `len` contiguous bytes at the end of the block.
    fn reserve(&mut self, len: usize) {
        if self.block.capacity() - self.block.len() < len {
            let used = mem::replace(&mut self.block, self.pool.take());
            self.pool.put(used);
        }
    }

    /// The bytes of a packet, copied unless they are in one piece already.
    fn in_one_piece(&mut self, mut packet: Packet) -> Bytes {
        if packet.head().is_empty() && packet.body.len() == 1 {
            return packet.body.swap_remove(0);
        }
        self.reserve(packet.len());
        let slices = packet.slices(0..packet.len());
        slices.for_each(|slice| self.block.extend_from_slice(slice));
        self.block.split().freeze()
    }

    /// The packet that was written since the last call.
    fn finish(&mut self, meta: Meta) -> Packet {
        Packet::received(self.block.split().freeze(), meta)
    }

    /// Splits the super-packet `packet` into the segments that it stands for. False if its headers
    /// make no sense.
    fn split(&mut self, packet: &Packet, segments: &mut VecDeque<Packet>) -> bool {
        let Some(tcp) = Tcp::of(packet).filter(|tcp| tcp.header_len <= HEAD_MAX) else {
            return false;
        };
        let Tcp { ip, header_len } = tcp;
        let mut template = [0; HEAD_MAX];
        let template = &mut template[..header_len];
        template.copy_from_slice(&packet.first()[..header_len]);
        let at = ip.header_len;
        let flags = template[at + 13];
        let seq = get_u32(template, at + 4);
        let id = get_u16(template, 4);
        let gso_size = usize::from(packet.meta.gso_size);
        let payload_len = tcp.payload_len();
        let mut payload = packet.slices(header_len..ip.total_len);
        let mut rest: &[u8] = &[];

        for (index, start) in (0..payload_len.max(1)).step_by(gso_size).enumerate() {
            let len = gso_size.min(payload_len - start);
            let is_last = start + len == payload_len;
            let mut cleared = if is_last { 0 } else { FIN | PSH };
            if index > 0 {
                cleared |= CWR;
            }
            template[at + 13] = flags & !cleared;
            template[at + 4..at + 8].copy_from_slice(&seq.wrapping_add(start as u32).to_be_bytes());
            if !ip.v6 {
                put_u16(template, 4, id.wrapping_add(index as u16));
            }
            template[at + TCP_CHECKSUM..at + TCP_CHECKSUM + 2].fill(0);
            ip.set_total_len(template, header_len + len);

            self.reserve(header_len + len);
            self.block.extend_from_slice(template);
            let mut missing = len;
            while missing > 0 {
                if rest.is_empty() {
                    rest = payload.next().expect("the lengths were checked");
                }
                let (now, later) = rest.split_at(missing.min(rest.len()));
                self.block.extend_from_slice(now);
                missing -= now.len();
                rest = later;
            }
            // The copy has just brought all of it into the nearest cache.
            let segment = &mut self.block[..];
            let total = ip
                .pseudo_header(template, segment.len() - at)
                .combine(sum(&segment[at..]));
            put_u16(segment, at + TCP_CHECKSUM, total.finish());
            segments.push_back(self.finish(Meta::default()));
        }
        true
    }

    /// Adds the rest of a checksum of which only the pseudo-header is there. False if it is not
    /// known where.
    fn fill_checksum(&mut self, packet: &mut Packet) -> bool {
        let Some(ip) = Ip::parse(packet.first(), packet.len()) else {
            return false;
        };
        let offset = match ip.protocol {
            TCP => TCP_CHECKSUM,
            UDP => UDP_CHECKSUM,
            _ => return false,
        };
        let at = ip.header_len + offset;
        if at + 2 > ip.total_len {
            return false;
        }
        let total = sum_packet(packet, ip.header_len..ip.total_len, Sum::default());
        let checksum = match total.finish() {
            0 if ip.protocol == UDP => 0xffff, // Zero would mean that there is none.
            checksum => checksum,
        }
        .to_be_bytes();
        if let Some(field) = packet.head_mut().get_mut(at..at + 2) {
            field.copy_from_slice(&checksum);
        } else {
            self.reserve(ip.total_len);
            packet
                .slices(0..ip.total_len)
                .for_each(|slice| self.block.extend_from_slice(slice));
            self.block[at..at + 2].copy_from_slice(&checksum);
            *packet = self.finish(packet.meta);
        }
        packet.meta.checksum = Checksum::Complete;
        true
    }
}

/// Merges consecutive segments of one flow within a batch.
#[derive(Debug, Default)]
struct Merger {
    /// Flows that the next segment may continue.
    open: VecDeque<Chain>,
    /// Runs of more than one segment that nothing can continue.
    closed: Vec<Chain>,
    /// One for each packet of the batch.
    links: Vec<Link>,
}

/// A packet's place in a run.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The packet that continues it.
    next: Option<usize>,
    /// It continues another one and is no packet of its own any more.
    merged: bool,
}

/// A run, and where it is in the batch.
#[derive(Debug)]
struct Chain {
    flow: [u8; 36],
    first: usize,
    last: usize,
    run: Run,
}

impl Merger {
    /// Merges what it can of `packets[start..]`. Packets of one flow stay in their order.
    fn merge(&mut self, packets: &mut Vec<Packet>, start: usize, buffer: &mut Buffer) {
        self.links.clear();
        self.links.resize(packets.len(), Link::default());
        for index in start..packets.len() {
            if let Some(tcp) = Tcp::of(&packets[index]) {
                self.add(packets, index, tcp);
            }
        }
        while !self.open.is_empty() {
            self.close(0);
        }
        if self.closed.is_empty() {
            return;
        }
        for chain in self.closed.drain(..) {
            packets[chain.first] = build(&chain, packets, &self.links, buffer);
        }
        let mut links = self.links.iter();
        packets.retain(|_| links.next().is_none_or(|link| !link.merged));
    }

    /// Lets a segment continue the run of its flow, or begin one, or end it.
    fn add(&mut self, packets: &mut [Packet], index: usize, tcp: Tcp) {
        let flow = flow_of(packets[index].first(), tcp.ip);
        let at = self.open.iter().position(|chain| chain.flow == flow);
        let Some(run) = begin(&mut packets[index], tcp) else {
            if let Some(at) = at {
                self.close(at);
            }
            return;
        };
        if let Some(at) = at {
            let chain = &mut self.open[at];
            let (first, header) = (packets[chain.first].first(), packets[index].first());
            let continues = chain.run.push(first, header, &run);
            if continues {
                self.links[chain.last].next = Some(index);
                self.links[index].merged = true;
                chain.last = index;
            }
            // What ends a run need not be part of it.
            if !continues || chain.run.has_ended() {
                self.close(at);
            }
            if continues {
                return;
            }
        }
        if run.has_ended() {
            return;
        }
        if self.open.len() == FLOWS_MAX {
            self.close(0);
        }
        self.open.push_back(Chain {
            flow,
            first: index,
            last: index,
            run,
        });
    }

    fn close(&mut self, at: usize) {
        if let Some(chain) = self.open.remove(at)
            && chain.first != chain.last
        {
            self.closed.push(chain);
        }
    }
}

/// Addresses and ports, as they stand in the packet.
fn flow_of(header: &[u8], ip: Ip) -> [u8; 36] {
    let mut flow = [0; 36];
    if ip.v6 {
        flow[..32].copy_from_slice(&header[8..40]);
    } else {
        flow[..8].copy_from_slice(&header[12..20]);
    }
    flow[32..].copy_from_slice(&header[ip.header_len..ip.header_len + 4]);
    flow
}

/// A run of one, if the packet may be part of one and is undamaged.
fn begin(packet: &mut Packet, tcp: Tcp) -> Option<Run> {
    if packet.meta.gso_size > 0 {
        return None;
    }
    let run = Run::begin(packet.first(), tcp)?;
    if packet.meta.checksum == Checksum::Complete {
        let at = tcp.ip.header_len;
        let pseudo = tcp.ip.pseudo_header(packet.first(), tcp.ip.total_len - at);
        if !sum_packet(packet, at..tcp.ip.total_len, pseudo).is_valid() {
            return None;
        }
        packet.meta.checksum = Checksum::Verified;
    }
    Some(run)
}

/// The super-packet that a run is, with the headers of its first segment.
fn build(chain: &Chain, packets: &[Packet], links: &[Link], buffer: &mut Buffer) -> Packet {
    let Tcp { ip, header_len } = chain.run.tcp();
    buffer.reserve(chain.run.total_len());
    let mut index = chain.first;
    let (mut from, mut to) = (0, ip.total_len);
    loop {
        packets[index]
            .slices(from..to)
            .for_each(|slice| buffer.block.extend_from_slice(slice));
        let Some(next) = links[index].next else {
            break;
        };
        index = next;
        from = header_len;
        to = Tcp::of(&packets[index]).map_or(from, |tcp| tcp.ip.total_len);
    }
    let meta = chain.run.finish(&mut buffer.block);
    buffer.finish(meta)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, task::Waker};

    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

    use super::*;
    use crate::device::{
        headers::{ACK, ECE},
        samples::{Spec, bytes, fix_checksum, packet},
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
}
