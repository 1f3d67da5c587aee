//! A TUN device of Linux: one end of a link, the other end of which is the kernel's.

#![expect(unsafe_code, reason = "system calls that std does not have")]

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::tun::AbstractDevice;
use smallvec::SmallVec;
use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

pub use self::builder::TunBuilder;
use super::{
    Capabilities, Device,
    offload::{buffer::Buffer, cut::Cut},
    reader::Reader,
    vnet,
};
use crate::packet::{Checksum, HEAD_MAX, PACKET_MAX, Packet};

mod builder;
#[cfg(test)]
mod tests;

/// Packets up to this length are written from one buffer: cheaper than a second slice.
const SMALL: usize = 640;

/// Slices that one system call takes (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// Polls after which the MTU is looked up anew, for someone may have set another.
const MTU_PERIOD: u32 = 256;

/// Bytes after which a poll has received enough: the next packets come after these have been read,
/// so that they are read out of a cache.
const RECV_BYTES: usize = 512 << 10;

/// Bytes sent after which a poll looks for answers by itself. A runtime that is never idle tells of
/// them late, and what was sent stays in memory, and soon out of a cache, until it is acknowledged.
const ASK_AFTER: usize = 64 << 10;

/// A TUN device.
///
/// Packets that the kernel routes to the interface arrive here, and what is sent here arrives in
/// the kernel. With offload, which is on by default, the two exchange super-packets of up to 64 KiB
/// whose checksums are neither computed nor verified.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::device::Tun;
///
/// let tun = Tun::builder()
///     .name("syn0")
///     .address("10.7.0.1/24".parse()?)
///     .mtu(1500)
///     .build()?;
/// # Ok(())
/// # }
/// ```
pub struct Tun {
    /// Goes before the port, whose descriptor it has registered. Made at the first poll, on the
    /// runtime that polls.
    readiness: Option<Readiness>,
    port: Port,
    name: String,
    polls: u32,
    /// Bytes sent since it was last looked whether there is an answer.
    unanswered: usize,
    /// The last poll has read until there was nothing, and registered its task.
    drained: bool,
}

/// The open device, and what it takes to read and to write one packet.
struct Port {
    device: ::tun::Device,
    mtu: usize,
    /// Each packet has a virtio-net header in front.
    vnet_header: bool,
    offload: bool,
    reader: Reader,
    /// What segments are made in, when that was asked for and the kernel does not do it.
    splitter: Option<Box<Buffer>>,
    /// Packets that could not be written.
    drops: u64,
}

/// The descriptor, which the device owns.
#[derive(Clone, Copy, Debug)]
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Tun {
    /// A device to be created, or to be attached to if it exists and is persistent.
    pub fn builder() -> TunBuilder {
        TunBuilder::default()
    }

    /// The interface's name, which the kernel has chosen if none was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's MTU in bytes, as it was when last looked at.
    pub fn mtu(&self) -> usize {
        self.port.mtu
    }

    /// Whether the kernel takes and gives super-packets and unfilled checksums.
    pub fn is_offloading(&self) -> bool {
        self.port.offload
    }

    /// Whether a virtio-net header of ten bytes stands in front of each packet that is read from
    /// or written to the [descriptor](Self::as_fd).
    pub fn has_vnet_header(&self) -> bool {
        self.port.vnet_header
    }
}

impl Port {
    fn fd(&self) -> Fd {
        Fd(self.device.as_raw_fd())
    }

    /// The longest packet that the kernel gives.
    const fn packet_max(&self) -> usize {
        if self.offload { PACKET_MAX } else { self.mtu }
    }

    /// Reads one packet, which may take more calls to be given.
    fn read(&mut self, packets: &mut Vec<Packet>) -> io::Result<()> {
        let result = self.reader.read(self.fd().0, packets);
        if self.reader.take_cut_off() {
            self.update_mtu(); // Somebody has set a larger one.
        }
        result
    }

    /// Reads a batch of up to `max` packets; whether there are no more.
    fn read_some(&mut self, packets: &mut Vec<Packet>, max: usize) -> io::Result<bool> {
        let start = packets.len();
        let mut is_drained = false;
        let mut bytes = 0;
        for _ in 0..max {
            let before = packets.len();
            match self.read(packets) {
                Ok(()) => {
                    bytes += packets[before..].iter().map(Packet::len).sum::<usize>();
                    if bytes >= RECV_BYTES {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    is_drained = true;
                    break;
                }
                // What was read before it is given first; the error comes again.
                Err(_) if packets.len() > start || self.reader.has_run() => break,
                Err(error) => return Err(error),
            }
        }
        self.reader.flush(packets);
        Ok(is_drained)
    }

    fn update_mtu(&mut self) {
        if let Ok(mtu) = self.device.mtu() {
            self.mtu = usize::from(mtu);
            self.reader.set_packet_max(self.packet_max());
        }
    }

    /// Writes a packet, or the segments that it stands for: of these, `packet` becomes the rest if
    /// there is an error.
    fn send(&mut self, packet: &mut Packet) -> io::Result<()> {
        let fd = self.fd();
        let Some(splitter) = self.splitter.as_mut().filter(|_| !self.offload) else {
            return self.write(packet);
        };
        if packet.meta.gso_size == 0 {
            if packet.meta.checksum == Checksum::Partial && !splitter.fill_checksum(packet) {
                self.drops += 1;
                return Ok(());
            }
            return self.write(packet);
        }
        let Some(mut cut) = Cut::new(packet) else {
            self.drops += 1;
            return Ok(());
        };
        let header: &[u8] = if self.vnet_header {
            &[0; vnet::HEADER_LEN]
        } else {
            &[]
        };
        // One segment after the other in the same place, which stays in the nearest cache.
        while let Some(len) = cut.next_len() {
            splitter.block.clear();
            splitter.reserve(header.len() + len);
            splitter.block.extend_from_slice(header);
            cut.next(&mut splitter.block);
            match write(fd, &[IoSlice::new(&splitter.block)]) {
                Ok(()) => {}
                Err(error) if is_about_one_packet(&error) => self.drops += 1,
                Err(error) => {
                    *packet = cut.rest();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Writes one packet.
    fn write(&self, packet: &Packet) -> io::Result<()> {
        let header = vnet::make(packet);
        let header = if self.vnet_header { &header[..] } else { &[] };
        let len = packet.len();
        if len <= SMALL {
            let mut bytes = [0; vnet::HEADER_LEN + SMALL];
            let mut end = 0;
            let slices = packet.body.iter().map(|slice| &slice[..]);
            for slice in [header, packet.head()].into_iter().chain(slices) {
                bytes[end..end + slice.len()].copy_from_slice(slice);
                end += slice.len();
            }
            return write(self.fd(), &[IoSlice::new(&bytes[..end])]);
        }
        // One slice for both: each costs the kernel more than these bytes cost us.
        let mut bytes = [0; vnet::HEADER_LEN + HEAD_MAX];
        let (front, back) = bytes.split_at_mut(header.len());
        front.copy_from_slice(header);
        back[..packet.head().len()].copy_from_slice(packet.head());
        let end = header.len() + packet.head().len();
        let mut slices = SmallVec::<[IoSlice<'_>; 8]>::new();
        slices.push(IoSlice::new(&bytes[..end]));
        if packet.body.len() + slices.len() <= SLICES_MAX {
            slices.extend(packet.body.iter().map(|slice| IoSlice::new(slice)));
            write(self.fd(), &slices)
        } else {
            let bytes = packet.to_vec();
            write(self.fd(), &[IoSlice::new(header), IoSlice::new(&bytes)])
        }
    }
}

/// What the runtime knows of the descriptor.
struct Readiness {
    fd: Arc<AsyncFd<Fd>>,
    /// Resolves when the interface is removed, which makes nothing readable.
    gone: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Readiness {
    /// Registers with the current runtime.
    fn new(fd: Fd) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::ERROR;
        // SAFETY: the device that owns the descriptor lives longer, as the order of the fields of
        // `Tun` says, and neither closes nor replaces it.
        let fd = Arc::new(unsafe { AsyncFd::register_with_interest(fd, interest) }?);
        let watched = Arc::clone(&fd);
        let gone = Box::pin(async move {
            if let Ok(mut guard) = watched.ready(Interest::ERROR).await {
                guard.clear_ready();
            }
        });
        Ok(Self { fd, gone })
    }

    /// That of the device; registered at the first call.
    fn of(slot: &mut Option<Self>, fd: Fd) -> io::Result<&mut Self> {
        match slot {
            Some(readiness) => Ok(readiness),
            None => Ok(slot.insert(Self::new(fd)?)),
        }
    }
}

/// Writes one packet, which the kernel takes whole or not at all.
fn write(fd: Fd, slices: &[IoSlice<'_>]) -> io::Result<()> {
    loop {
        let len = if let [slice] = slices {
            // SAFETY: the slice lives during the call.
            unsafe { libc::write(fd.0, slice.as_ptr().cast(), slice.len()) }
        } else {
            // SAFETY: `IoSlice` is laid out like `iovec`, and every slice lives during the call.
            // Their number is far below `i32::MAX`.
            unsafe { libc::writev(fd.0, slices.as_ptr().cast(), slices.len() as i32) }
        };
        if len >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Whether an error says something of the packet or the moment, and not of the device. An interface
/// that is down refuses packets with EIO.
pub(super) fn is_about_one_packet(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBADF | libc::EBADFD | libc::ENODEV | libc::ENXIO) | None
    )
}

impl Device for Tun {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: self.port.mtu,
            checksum_offload: self.port.offload,
            segmentation_offload: self.port.offload.then_some(PACKET_MAX),
        }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(MTU_PERIOD) {
            self.port.update_mtu();
        }
        let start = packets.len();
        let readiness = Readiness::of(&mut self.readiness, self.port.fd())?;
        while packets.len() == start {
            // The guard stands for the readiness that was seen before the first read: clearing it
            // does not clear what comes after.
            let guard = match readiness.fd.poll_read_ready(cx) {
                Poll::Ready(guard) => Some(guard?),
                Poll::Pending if mem::take(&mut self.unanswered) >= ASK_AFTER => None,
                Poll::Pending => {
                    ready!(readiness.gone.as_mut().poll(cx));
                    self.readiness = None;
                    return Poll::Ready(Err(gone()));
                }
            };
            let is_drained = self.port.read_some(packets, max)?;
            let is_registered = guard.is_none();
            if let (true, Some(mut guard)) = (is_drained, guard) {
                guard.clear_ready();
            }
            self.drained = is_drained
                && (is_registered || readiness.fd.poll_read_ready(cx).is_pending())
                && readiness.gone.as_mut().poll(cx).is_pending();
        }
        Poll::Ready(Ok(packets.len() - start))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        // Whether it is writable is asked only when a write says no: an interface that is down is
        // not, and would hold everything up instead of dropping it.
        let readiness = Readiness::of(&mut self.readiness, self.port.fd())?;
        let mut seen: Option<AsyncFdReadyGuard<'_, Fd>> = None;
        while let Some(packet) = packets.front_mut() {
            let len = packet.len();
            match self.port.send(packet) {
                Ok(()) => self.unanswered += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(mut guard) = seen.take() {
                        guard.clear_ready();
                    }
                    seen = Some(ready!(readiness.fd.poll_write_ready(cx))?);
                    continue;
                }
                Err(error) if is_about_one_packet(&error) => self.port.drops += 1,
                Err(error) => return Poll::Ready(Err(error)),
            }
            packets.pop_front();
        }
        Poll::Ready(Ok(()))
    }

    fn merge_received(&mut self) {
        self.port.reader.merge();
    }

    fn split_sent(&mut self) -> bool {
        self.port.splitter = Some(Box::new(Buffer::new()));
        true
    }

    fn is_drained(&self) -> bool {
        self.drained
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn drops(&self) -> u64 {
        self.port.drops + self.port.reader.drops()
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NetworkDown, "the TUN device was removed")
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the device keeps its descriptor open for as long as it lives.
        unsafe { BorrowedFd::borrow_raw(self.port.device.as_raw_fd()) }
    }
}

impl fmt::Debug for Tun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tun")
            .field("name", &self.name)
            .field("mtu", &self.port.mtu)
            .field("offload", &self.port.offload)
            .field("drops", &self.drops())
            .finish_non_exhaustive()
    }
}

/// Asks for all that a stack can use, then for what older kernels know.
fn set_offload(fd: Fd) -> io::Result<()> {
    let usual = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    set_offload_mask(fd, usual | libc::TUN_F_TSO_ECN).or_else(|_| set_offload_mask(fd, usual))
}

fn set_offload_mask(fd: Fd, mask: libc::c_uint) -> io::Result<()> {
    // SAFETY: the argument is a number and no pointer.
    check(unsafe { libc::ioctl(fd.0, libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) })
}

/// The length of the virtio-net header belongs to the device as well.
fn set_vnet_header_len(fd: Fd) -> io::Result<()> {
    let len = vnet::HEADER_LEN as libc::c_int;
    // SAFETY: the argument points to an integer that lives during the call.
    check(unsafe { libc::ioctl(fd.0, libc::TUNSETVNETHDRSZ, &raw const len) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
