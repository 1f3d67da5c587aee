//! Reads packets from a TUN device. Where the kernel gives no super-packets, consecutive segments of
//! one flow are read so that they become one.

#![expect(unsafe_code, reason = "a system call that std does not have")]

use std::{io, mem, os::fd::RawFd};

use bytes::{Buf, BytesMut};

use super::{headers::Tcp, run::Run, tun::is_about_one_packet, vnet};
use crate::{
    checksum::sum,
    packet::{HEAD_MAX, Meta, Packet},
    pool::Pool,
};

/// Memory is taken in blocks of this size: the largest packet, and some small ones.
const BLOCK: usize = (64 + 4) << 10;
/// What is free of a block is given up when it is less than this and a run may begin.
const RUN_ROOM: usize = 16 << 10;
/// Packets that are read whole after a run came to nothing, for flows take turns then.
const HOLD_OFF: u8 = 16;
/// Blocks kept for use again: enough for the largest window of one connection.
const BLOCKS_MAX: usize = 128;

/// The memory that is read into, and what is known of what is in it.
#[derive(Debug)]
pub(super) struct Reader {
    /// Each packet has a virtio-net header in front.
    vnet_header: bool,
    /// What a read must offer so that no packet is cut off.
    room: usize,
    pool: Pool,
    block: BytesMut,
    /// Whether somebody wants super-packets that the kernel does not give.
    merges: bool,
    /// The segments whose super-packet is at the start of the block; only without offload.
    run: Option<Run>,
    /// Packets to read before a run may begin.
    hold_off: u8,
    was_cut_off: bool,
    drops: u64,
}

impl Reader {
    /// For packets of up to `packet_max` bytes.
    pub(super) fn new(vnet_header: bool, packet_max: usize) -> Self {
        let mut pool = Pool::new(BLOCK, BLOCKS_MAX);
        let block = pool.take();
        let mut reader = Self {
            vnet_header,
            room: 0,
            pool,
            block,
            merges: false,
            run: None,
            hold_off: 0,
            was_cut_off: false,
            drops: 0,
        };
        reader.set_packet_max(packet_max);
        reader
    }

    /// From now on segments without offload become super-packets.
    pub(super) const fn merge(&mut self) {
        self.merges = true;
    }

    /// Packets may be as long as this.
    pub(super) const fn set_packet_max(&mut self, bytes: usize) {
        self.room = vnet::HEADER_LEN + bytes + 1; // One more, so that one that is cut off shows.
    }

    /// Whether a packet was longer than it may be since the last call.
    pub(super) const fn take_cut_off(&mut self) -> bool {
        mem::replace(&mut self.was_cut_off, false)
    }

    /// Packets that were read and make no sense, or could not be read whole.
    pub(super) const fn drops(&self) -> u64 {
        self.drops
    }

    /// Whether there is something to [`flush`](Self::flush).
    pub(super) const fn has_run(&self) -> bool {
        self.run.is_some()
    }

    /// Reads one packet, or drops it. If it may [merge](Self::merge) it becomes part of a super-packet
    /// that [`flush`](Self::flush) gives.
    pub(super) fn read(&mut self, fd: RawFd, packets: &mut Vec<Packet>) -> io::Result<()> {
        if self.vnet_header {
            packets.extend(self.read_vnet(fd)?);
            return Ok(());
        }
        if self.run.is_some() && self.spare() < self.room {
            self.flush(packets);
        }
        match self.run.take() {
            Some(run) => self.read_next(fd, run, packets),
            None => self.read_first(fd, packets),
        }
    }

    /// Bytes that a read may put behind what is in the block.
    fn spare(&self) -> usize {
        self.block.capacity() - self.block.len()
    }

    /// Takes a new block unless there is enough room in this one.
    fn reserve(&mut self, room: usize) {
        if self.block.capacity() < room {
            let used = mem::replace(&mut self.block, self.pool.take());
            self.pool.put(used);
        }
    }

    /// Reads a packet to the end of the block: its length, or `None` if it is lost.
    fn fill(&mut self, fd: RawFd) -> io::Result<Option<usize>> {
        let room = self.spare();
        match read(fd, &mut self.block) {
            // The kernel could not express the packet, and has thrown it away.
            Err(error) if is_about_one_packet(&error) => self.drops += 1,
            Err(error) => return Err(error),
            Ok(len) if len == room => {
                self.was_cut_off = true;
                self.drops += 1;
            }
            Ok(len) => return Ok(Some(len)),
        }
        Ok(None)
    }

    fn read_vnet(&mut self, fd: RawFd) -> io::Result<Option<Packet>> {
        self.reserve(self.room);
        let Some(len) = self.fill(fd)? else {
            self.block.clear();
            return Ok(None);
        };
        debug_assert_eq!(len, self.block.len(), "the block was empty");
        let mut packet = self.block.split();
        let meta = packet
            .split_first_chunk::<{ vnet::HEADER_LEN }>()
            .and_then(|(header, rest)| vnet::parse(header, rest));
        let Some(meta) = meta else {
            self.drops += 1;
            return Ok(None);
        };
        packet.advance(vnet::HEADER_LEN);
        Ok(Some(Packet::received(packet.freeze(), meta)))
    }

    /// Reads a packet whole.
    fn read_first(&mut self, fd: RawFd, packets: &mut Vec<Packet>) -> io::Result<()> {
        self.reserve(self.room.max(RUN_ROOM));
        match self.fill(fd)? {
            Some(_) => self.begin(packets),
            None => self.block.clear(),
        }
        Ok(())
    }

    /// Reads a packet such that, if it continues the run, its payload already lies where it belongs:
    /// its header comes over the run's last bytes, which are put back. That is cheaper than a read
    /// into two buffers.
    fn read_next(&mut self, fd: RawFd, mut run: Run, packets: &mut Vec<Packet>) -> io::Result<()> {
        let header_len = run.tcp().header_len;
        let end = self.block.len();
        let at = end - header_len;
        let (mut last, mut header) = ([0; HEAD_MAX], [0; HEAD_MAX]);
        let (last, header) = (&mut last[..header_len], &mut header[..header_len]);
        last.copy_from_slice(&self.block[at..]);
        self.block.truncate(at);
        let filled = self.fill(fd);
        let Ok(Some(len)) = filled else {
            self.block.truncate(at);
            self.block.extend_from_slice(last);
            self.run = Some(run);
            return filled.map(|_| ());
        };
        let in_header = len.min(header_len);
        let header = &mut header[..in_header];
        header.copy_from_slice(&self.block[at..at + in_header]);
        self.block.resize(end.max(at + len), 0);
        self.block[at..end].copy_from_slice(last);
        let (before, payload) = self.block.split_at(end);
        if let Some(next) = begin(header, payload, len)
            && run.push(&before[..header_len], header, &next)
        {
            let is_over = run.has_ended();
            self.run = Some(run);
            if is_over {
                self.flush(packets);
            }
            return Ok(());
        }
        // Another flow's, or the end of this one's run: it gets its headers back.
        if run.total_len() == run.tcp().ip.total_len {
            self.hold_off = HOLD_OFF;
        }
        let rest = self.block.split_off(end);
        self.run = Some(run);
        self.flush(packets);
        self.block = rest;
        let in_block = self.block.len();
        self.block.resize(len, 0);
        self.block.copy_within(..in_block, header.len());
        self.block[..header.len()].copy_from_slice(header);
        self.begin(packets);
        Ok(())
    }

    /// Begins a run with the packet in the block, or gives it as it is.
    fn begin(&mut self, packets: &mut Vec<Packet>) {
        if self.merges && self.hold_off == 0 {
            let packet = &self.block[..];
            let header_len = Tcp::parse(packet, packet.len()).map_or(0, |tcp| tcp.header_len);
            let (header, payload) = packet.split_at(header_len);
            self.run = begin(header, payload, packet.len()).filter(|run| !run.has_ended());
        } else {
            self.hold_off = self.hold_off.saturating_sub(1);
        }
        if self.run.is_none() {
            let packet = self.block.split().freeze();
            packets.push(Packet::received(packet, Meta::default()));
        }
    }

    /// Gives the super-packet that a run has become.
    pub(super) fn flush(&mut self, packets: &mut Vec<Packet>) {
        if let Some(run) = self.run.take() {
            let meta = run.finish(&mut self.block);
            let packet = self.block.split().freeze();
            packets.push(Packet::received(packet, meta));
        }
    }
}

/// A run of one, if the packet of `len` bytes may be part of one and is undamaged.
fn begin(header: &[u8], payload: &[u8], len: usize) -> Option<Run> {
    let tcp = Tcp::parse(header, len)
        .filter(|tcp| tcp.header_len == header.len() && tcp.ip.total_len == len)?;
    let at = tcp.ip.header_len;
    let run = Run::begin(header, tcp)?;
    tcp.ip
        .pseudo_header(header, len - at)
        .combine(sum(&header[at..]))
        .combine(sum(payload))
        .is_valid()
        .then_some(run)
}

/// Reads one packet into what is free of `block`. Returns its length.
fn read(fd: RawFd, block: &mut BytesMut) -> io::Result<usize> {
    loop {
        let spare = block.spare_capacity_mut();
        // SAFETY: `spare` may be written to in its whole length.
        let len = unsafe { libc::read(fd, spare.as_mut_ptr().cast(), spare.len()) };
        if let Ok(len) = usize::try_from(len) {
            // SAFETY: the kernel has written so many bytes behind the old length.
            unsafe { block.set_len(block.len() + len) };
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::net::UnixDatagram};

    use super::*;
    use crate::{
        device::{
            headers::{ACK, PSH},
            samples::{Spec, bytes, fix_checksum},
        },
        packet::Checksum,
    };

    /// What is written to one end is read at the other as a TUN gives it: packet by packet.
    struct Tun {
        kernel: UnixDatagram,
        device: UnixDatagram,
        reader: Reader,
        packets: Vec<Packet>,
    }

    impl Tun {
        fn new(mtu: usize) -> Self {
            let (kernel, device) = UnixDatagram::pair().unwrap();
            device.set_nonblocking(true).unwrap();
            let mut reader = Reader::new(false, mtu);
            reader.merge();
            Self {
                kernel,
                device,
                reader,
                packets: Vec::new(),
            }
        }

        /// Says how many packets were given since the last call.
        fn read(&mut self, packet: &[u8]) -> usize {
            self.kernel.send(packet).unwrap();
            let before = self.packets.len();
            let fd = self.device.as_raw_fd();
            self.reader.read(fd, &mut self.packets).unwrap();
            self.packets.len() - before
        }

        fn flush(&mut self) -> usize {
            let before = self.packets.len();
            self.reader.flush(&mut self.packets);
            self.packets.len() - before
        }

        /// The payload of the packet that was given last.
        fn payload(&self) -> &[u8] {
            let packet = self.packets.last().unwrap();
            let tcp = Tcp::of(packet).unwrap();
            &packet.first()[tcp.header_len..tcp.ip.total_len]
        }
    }

    fn segment(port: u16, seq: u32, flags: u8, len: usize) -> Vec<u8> {
        let spec = Spec {
            port,
            seq,
            flags: ACK | flags,
            ..Spec::default()
        };
        bytes(spec, &vec![seq as u8; len])
    }

    #[test]
    fn what_may_be_continued_waits_and_what_is_pushed_does_not() {
        let mut tun = Tun::new(1500);
        assert_eq!(tun.read(&segment(1, 0, PSH, 100)), 1, "alone");
        assert_eq!(tun.packets[0].meta, Meta::default());
        assert_eq!(tun.read(&segment(1, 100, 0, 100)), 0);
        assert_eq!(tun.read(&segment(1, 200, PSH, 100)), 1, "ends a run");
        assert_eq!(tun.packets[1].meta.gso_size, 100);
        assert_eq!(tun.payload(), [[100; 100], [200; 100]].concat());
        assert_eq!(tun.read(&segment(1, 300, 0, 100)), 0);
        assert_eq!(tun.read(&segment(1, 400, 0, 99)), 1, "so does a short one");
        assert_eq!(tun.read(&segment(1, 499, 0, 100)), 0);
        assert_eq!((tun.flush(), tun.flush()), (1, 0));
        let meta = tun.packets[3].meta;
        assert_eq!((meta.checksum, meta.gso_size), (Checksum::Verified, 0));
    }

    #[test]
    fn flows_that_take_turns_are_read_whole_for_a_while() {
        let mut tun = Tun::new(1500);
        assert_eq!(tun.read(&segment(1, 0, 0, 100)), 0);
        assert_eq!(tun.read(&segment(2, 0, 0, 100)), 2, "neither goes on");
        for n in 1..u32::from(HOLD_OFF) {
            assert_eq!(tun.read(&segment(1, n * 100, 0, 100)), 1);
        }
        let seq = u32::from(HOLD_OFF) * 100;
        assert_eq!(tun.read(&segment(1, seq, 0, 100)), 0, "tried again");
        assert_eq!(tun.read(&segment(1, seq + 100, 0, 100)), 0);
        // A run that came to something is no reason to give up.
        assert_eq!(tun.read(&segment(2, 100, 0, 100)), 1);
        assert_eq!(tun.read(&segment(2, 200, 0, 100)), 0);
        assert_eq!(tun.flush(), 1);
        assert_eq!(tun.payload().len(), 200);
    }

    #[test]
    fn a_run_ends_before_there_is_no_room_for_another_packet() {
        let mut tun = Tun::new(9000);
        for n in 0..30 {
            tun.read(&segment(1, n * 8900, 0, 8900));
        }
        tun.flush();
        assert_eq!(tun.reader.drops(), 0);
        let total: usize = tun.packets.iter().map(|packet| packet.len() - 52).sum();
        assert_eq!(total, 30 * 8900);
    }

    #[test]
    fn what_is_too_long_is_dropped_and_told_of_and_leaves_a_run_as_it_was() {
        let mut tun = Tun::new(500);
        let mut longest = bytes(Spec::default(), &[1; 448]);
        assert_eq!(tun.read(&longest), 0);
        assert!(!tun.reader.take_cut_off());
        assert_eq!(tun.flush(), 1);
        assert_eq!(tun.packets[0].len(), 500);

        tun.read(&segment(1, 0, 0, 100));
        // As much as a read takes is more than there may be.
        longest.resize(2 * BLOCK, 0);
        assert_eq!(tun.read(&longest), 0);
        assert!(tun.reader.take_cut_off() && !tun.reader.take_cut_off());
        assert_eq!(tun.reader.drops(), 1);
        tun.read(&segment(1, 100, 0, 100));
        assert_eq!(tun.flush(), 1);
        assert_eq!(tun.payload(), [[0; 100], [100; 100]].concat());
    }

    #[test]
    fn whatever_is_read_over_the_end_of_a_run_leaves_it_as_it_was() {
        let whole = bytes(Spec::default(), &[1; 2]);
        let header_len = whole.len() - 2;
        for payload in [1, 2, header_len, 100] {
            for junk in [1, 19, header_len - 1, header_len, header_len + 1, 400] {
                let mut tun = Tun::new(1500);
                assert_eq!(tun.read(&segment(1, 0, 0, payload)), 0);
                let fd = tun.device.as_raw_fd();
                let error = tun.reader.read(fd, &mut tun.packets).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                let next = segment(1, payload as u32, 0, payload);
                assert_eq!(tun.read(&next), 0, "{payload}");
                let run = [vec![0; payload], vec![payload as u8; payload]].concat();
                let junk = vec![0x99; junk];
                assert_eq!(tun.read(&junk), 2, "the run, and what ends it");
                assert_eq!(tun.packets[1].to_vec(), junk);
                let first = &tun.packets[0];
                assert_eq!(first.meta.checksum, Checksum::Verified);
                assert_eq!(first.to_vec()[header_len..], run);
            }
        }
    }

    #[test]
    fn padding_is_no_data_even_if_the_sum_is_right_with_it() {
        let mut tun = Tun::new(1500);
        tun.read(&segment(1, 0, 0, 100));
        let mut padded = segment(1, 100, 0, 100);
        // With two bytes more in the length, these come to zero.
        padded.extend([0xff, 0xfd]);
        tun.read(&padded);
        tun.flush();
        for packet in &tun.packets {
            let tcp = Tcp::of(packet).unwrap();
            assert_eq!(tcp.payload_len(), 100, "{:?}", packet.meta);
        }
        assert_eq!(tun.packets.len(), 2);
    }

    #[test]
    fn a_damaged_segment_is_given_as_it_is() {
        let mut tun = Tun::new(1500);
        tun.read(&segment(1, 0, 0, 100));
        let mut damaged = segment(1, 100, 0, 100);
        damaged[80] ^= 1;
        assert_eq!(tun.read(&damaged), 2);
        assert_eq!(tun.packets[1].to_vec(), damaged);
        assert_eq!(tun.packets[1].meta, Meta::default());
        fix_checksum(&mut damaged);
        tun.read(&damaged);
        tun.flush();
        assert_eq!(tun.packets[2].to_vec(), damaged);
    }
}
