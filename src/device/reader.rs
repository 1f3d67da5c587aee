//! Reads packets from a TUN device. Where the kernel gives no super-packets, consecutive segments of
//! one flow are read so that they become one.

#![expect(unsafe_code, reason = "a system call that std does not have")]

use std::{io, mem, os::fd::RawFd};

use bytes::BytesMut;

use super::{
    headers::Tcp,
    run::Run,
    tun::{VNET_HEADER, is_about_one_packet, parse_vnet},
};
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
        self.room = VNET_HEADER + bytes + 1; // One more, so that one that is cut off shows.
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

    /// Reads `header` and what is free of the block full: how many bytes in the block, or `None` if
    /// the packet is lost.
    fn fill(&mut self, fd: RawFd, header: &mut [u8]) -> io::Result<Option<usize>> {
        let room = header.len() + self.spare();
        match read(fd, header, &mut self.block) {
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
        let Some(len) = self.fill(fd, &mut [])? else {
            self.block.clear();
            return Ok(None);
        };
        debug_assert_eq!(len, self.block.len(), "the block was empty");
        let mut packet = self.block.split();
        let meta = packet
            .split_first_chunk::<VNET_HEADER>()
            .and_then(|(header, rest)| parse_vnet(header, rest));
        let Some(meta) = meta else {
            self.drops += 1;
            return Ok(None);
        };
        let _ = packet.split_to(VNET_HEADER);
        Ok(Some(Packet::received(packet.freeze(), meta)))
    }

    /// Reads a packet whole.
    fn read_first(&mut self, fd: RawFd, packets: &mut Vec<Packet>) -> io::Result<()> {
        self.reserve(self.room.max(RUN_ROOM));
        match self.fill(fd, &mut [])? {
            Some(_) => self.begin(packets),
            None => self.block.clear(),
        }
        Ok(())
    }

    /// Reads a packet in two parts: if it continues the run, its payload already lies where it
    /// belongs, and nothing needs to be copied.
    fn read_next(&mut self, fd: RawFd, mut run: Run, packets: &mut Vec<Packet>) -> io::Result<()> {
        let header_len = run.tcp().header_len;
        let mut header = [0; HEAD_MAX];
        let header = &mut header[..header_len];
        let end = self.block.len();
        let filled = self.fill(fd, header);
        let Ok(Some(len)) = filled else {
            self.block.truncate(end);
            self.run = Some(run);
            return filled.map(|_| ());
        };
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
        let header = &header[..len - in_block];
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

/// Reads one packet into `header` and, what does not fit, into what is free of `block`. Returns its
/// length.
fn read(fd: RawFd, header: &mut [u8], block: &mut BytesMut) -> io::Result<usize> {
    loop {
        let spare = block.spare_capacity_mut();
        let slices = [
            libc::iovec {
                iov_base: header.as_mut_ptr().cast(),
                iov_len: header.len(),
            },
            libc::iovec {
                iov_base: spare.as_mut_ptr().cast(),
                iov_len: spare.len(),
            },
        ];
        let len = if header.is_empty() {
            // SAFETY: `spare` may be written to in its whole length.
            unsafe { libc::read(fd, spare.as_mut_ptr().cast(), spare.len()) }
        } else {
            // SAFETY: both slices may be written to in their whole lengths, and live during the
            // call.
            unsafe { libc::readv(fd, slices.as_ptr(), 2) }
        };
        if let Ok(len) = usize::try_from(len) {
            let in_block = len.saturating_sub(header.len());
            // SAFETY: the kernel has written so many bytes behind the old length.
            unsafe { block.set_len(block.len() + in_block) };
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
