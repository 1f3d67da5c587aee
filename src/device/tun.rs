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
use super::{Capabilities, Device, reader::Reader, vnet};
use crate::packet::{HEAD_MAX, PACKET_MAX, Packet};

mod builder;

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
}

/// The open device, and what it takes to read and to write one packet.
struct Port {
    device: ::tun::Device,
    mtu: usize,
    /// Each packet has a virtio-net header in front.
    vnet_header: bool,
    offload: bool,
    reader: Reader,
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
        // SAFETY: `IoSlice` is laid out like `iovec`, and every slice lives during the call. Their
        // number is far below `i32::MAX`.
        let len = unsafe { libc::writev(fd.0, slices.as_ptr().cast(), slices.len() as i32) };
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
            if let (true, Some(mut guard)) = (is_drained, guard) {
                guard.clear_ready();
            }
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
        while let Some(packet) = packets.front() {
            match self.port.write(packet) {
                Ok(()) => self.unanswered += packet.len(),
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

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io::{Read, Write},
        net::{SocketAddr, TcpStream, UdpSocket},
        time::Duration,
    };

    use bytes::Bytes;
    use ipnet::IpNet;

    use super::*;
    use crate::{
        checksum::sum,
        device::{
            Offload,
            capture::fill_checksum,
            headers::{self, Ip, TCP, Tcp, put_u16},
            netns::NetNs,
            rtnetlink::RtNetlink,
        },
        packet::{Checksum, Meta},
    };

    const OURS: &str = "10.9.0.2";

    /// A namespace, if this user may make one. Where tests have to run, not being able to is a
    /// failure.
    fn namespace() -> Option<NetNs> {
        match NetNs::new() {
            Ok(namespace) => Some(namespace),
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn builder(namespace: &NetNs) -> TunBuilder {
        Tun::builder()
            .name("syn0")
            .address("10.9.0.1/24".parse().unwrap())
            .netns(namespace.clone())
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), future).await })
            .unwrap()
    }

    /// Receives until there are IPv4 packets, for the kernel also sends IPv6 of its own accord.
    async fn recv_v4(tun: &mut impl Device) -> Vec<Packet> {
        let mut packets = Vec::new();
        while packets.is_empty() {
            poll_fn(|cx| tun.poll_recv(cx, &mut packets, 64))
                .await
                .unwrap();
            packets.retain(|packet| packet.first()[0] >> 4 == 4);
        }
        packets
    }

    async fn send(tun: &mut impl Device, packet: Packet) -> io::Result<()> {
        let mut packets = VecDeque::from([packet]);
        poll_fn(|cx| tun.poll_send(cx, &mut packets)).await
    }

    /// An ICMP echo request from us to the kernel, its payload apart.
    fn echo_request(payload: usize) -> Packet {
        let mut head = [0; 28];
        head[0] = 0x45;
        head[2..4].copy_from_slice(&((28 + payload) as u16).to_be_bytes());
        head[8] = 64;
        head[9] = 1;
        head[12..20].copy_from_slice(&[10, 9, 0, 2, 10, 9, 0, 1]);
        let checksum = sum(&head[..20]).finish();
        put_u16(&mut head, 10, checksum);
        head[20] = 8;
        let payload = vec![7; payload];
        let checksum = sum(&head[20..]).combine(sum(&payload)).finish();
        put_u16(&mut head, 22, checksum);
        let mut packet = Packet::with_head(&head, Meta::default());
        packet.body.push(Bytes::from(payload));
        packet
    }

    #[test]
    fn ipv6_addresses_are_in_use_once_the_device_is_made() {
        let Some(namespace) = namespace() else {
            return;
        };
        let address: IpNet = "fd09::1/64".parse().unwrap();
        // At once after it was made, and often, for it is a race with the kernel.
        let is_local_at_once = || {
            let mut netlink = RtNetlink::new()?;
            let _tun = Tun::builder().address(address).build()?;
            netlink.is_local(address.addr())
        };
        for _ in 0..50 {
            let is_local: io::Result<bool> = namespace.run(is_local_at_once).unwrap();
            assert!(is_local.unwrap());
        }
    }

    #[test]
    fn a_packet_in_more_pieces_than_one_call_takes_goes_out_whole() {
        let Some(namespace) = namespace() else { return };
        for offload in [true, false] {
            let mut tun = builder(&namespace).offload(offload).build().unwrap();
            let mut request = echo_request(1400);
            let payload = request.body.remove(0);
            request.body = (0..payload.len())
                .map(|at| payload.slice(at..at + 1))
                .collect();
            assert!(request.body.len() > SLICES_MAX);
            block_on(async {
                send(&mut tun, request).await.unwrap();
                let reply = recv_v4(&mut tun).await.remove(0);
                assert_eq!(reply.to_vec()[28..], payload);
            });
            assert_eq!(tun.drops(), 0);
        }
    }

    #[test]
    fn packets_go_both_ways_with_and_without_offload() {
        let Some(namespace) = namespace() else { return };
        for (offload, mtu) in [(true, 1500), (false, 1500), (true, 65_535), (false, 65_535)] {
            let builder = builder(&namespace).offload(offload).mtu(mtu);
            let mut tun = builder.build().unwrap();
            assert_eq!((tun.name(), tun.mtu()), ("syn0", mtu));
            assert_eq!(tun.is_offloading(), offload);
            let kernel = namespace
                .run(|| UdpSocket::bind("10.9.0.1:7"))
                .unwrap()
                .unwrap();
            block_on(async {
                for len in [4, 600, 1400, mtu - 28] {
                    let reply = {
                        send(&mut tun, echo_request(len)).await.unwrap();
                        recv_v4(&mut tun).await.remove(0)
                    };
                    assert_eq!(reply.first()[20], 0, "echo reply");
                    assert_eq!(reply.to_vec()[28..], vec![7; len]);
                    kernel.send_to(&vec![8; len], (OURS, 9)).unwrap();
                    let datagram = recv_v4(&mut tun).await.remove(0);
                    assert_eq!(datagram.to_vec()[28..], vec![8; len]);
                    let checksum = match (offload, datagram.meta.checksum) {
                        (true, Checksum::Partial) => true,
                        (_, checksum) => checksum == Checksum::Complete && !offload,
                    };
                    assert!(checksum, "{:?}", datagram.meta);
                }
            });
            assert_eq!(tun.drops(), 0);
        }
    }

    /// A TCP segment from our port 80 to the kernel, as the engine makes it.
    fn segment(port: u16, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Packet {
        let mut head = [0; 40];
        let ip = Ip {
            v6: false,
            protocol: TCP,
            header_len: 20,
            total_len: 40 + payload.len(),
        };
        head[0] = 0x45;
        head[8] = 64;
        head[9] = TCP;
        head[12..20].copy_from_slice(&[10, 9, 0, 2, 10, 9, 0, 1]);
        ip.set_total_len(&mut head, ip.total_len);
        put_u16(&mut head, 20, 80);
        put_u16(&mut head, 22, port);
        head[24..28].copy_from_slice(&seq.to_be_bytes());
        head[28..32].copy_from_slice(&ack.to_be_bytes());
        head[32] = 0x50;
        head[33] = flags;
        put_u16(&mut head, 34, 0xffff);
        let pseudo = ip.pseudo_header(&head, 20 + payload.len()).partial();
        put_u16(&mut head, 36, pseudo);
        let meta = Meta {
            checksum: Checksum::Partial,
            gso_size: 536,
        };
        let mut packet = Packet::with_head(&head, meta);
        let (left, right) = payload.split_at(payload.len() / 3);
        packet.body.push(Bytes::copy_from_slice(left));
        packet.body.push(Bytes::copy_from_slice(right));
        packet
    }

    #[test]
    fn super_packets_go_both_ways_with_and_without_offload() {
        const LEN: usize = 20_000;
        let Some(namespace) = namespace() else { return };
        for offload in [true, false] {
            let tun = builder(&namespace).offload(offload).build().unwrap();
            let mut tun = Offload::new(tun);
            let kernel = namespace
                .spawn(|| {
                    let mut stream = TcpStream::connect((OURS, 80)).unwrap();
                    stream.write_all(&[8; LEN]).unwrap();
                    let mut received = vec![0; LEN];
                    stream.read_exact(&mut received).unwrap();
                    received
                })
                .unwrap();
            let (mut received, mut largest, mut seq) = (Vec::new(), 0, 1000);
            block_on(async {
                while received.len() < LEN {
                    for packet in recv_v4(&mut tun).await {
                        let tcp = Tcp::of(&packet).unwrap();
                        let bytes = packet.to_vec();
                        let port = headers::get_u16(&bytes, 20);
                        let payload = &bytes[tcp.header_len..tcp.ip.total_len];
                        largest = largest.max(payload.len());
                        received.extend_from_slice(payload);
                        let is_syn = bytes[33] & 2 != 0;
                        let len = payload.len() + usize::from(is_syn);
                        let ack = headers::get_u32(&bytes, 24).wrapping_add(len as u32);
                        let (flags, answer) = match received.len() {
                            _ if is_syn => (0x12, &[][..]),
                            LEN => (0x18, &[9; LEN][..]),
                            _ => (0x10, &[][..]),
                        };
                        if len > 0 {
                            let answer = segment(port, seq, ack, flags, answer);
                            send(&mut tun, answer).await.unwrap();
                        }
                        seq += u32::from(is_syn);
                    }
                }
            });
            assert_eq!(received, [8; LEN]);
            // Without offload packets are merged that wait together, and on a busy machine none may.
            assert!(!offload || largest > 1500, "{largest}");
            assert_eq!(kernel.join().unwrap(), [9; LEN]);
            assert_eq!(tun.drops(), 0);
        }
    }

    #[test]
    fn without_offload_super_packets_go_only_to_who_would_merge_anyway() {
        use socket2::{Domain, Protocol, SockAddr, Socket, Type};

        let Some(namespace) = namespace() else { return };
        for merges in [false, true] {
            let mut tun = builder(&namespace).offload(false).build().unwrap();
            if merges {
                tun.merge_received();
            }
            let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
            let socket = namespace.run(raw).unwrap();
            let to = SockAddr::from(SocketAddr::new(OURS.parse().unwrap(), 0));
            for seq in [1, 1001, 2001] {
                let mut packet = segment(80, seq, 1, 0x10, &[8; 1000]).to_vec();
                packet[12..20].copy_from_slice(&[10, 9, 0, 1, 10, 9, 0, 2]);
                fill_checksum(&mut packet);
                socket.send_to(&packet, &to).unwrap();
            }
            let (mut count, mut bytes) = (0, 0);
            block_on(async {
                while bytes < 3000 {
                    for packet in recv_v4(&mut tun).await {
                        count += 1;
                        bytes += packet.len() - 40;
                    }
                }
            });
            assert_eq!((count, bytes), (if merges { 1 } else { 3 }, 3000));
        }
    }

    #[test]
    fn an_interface_that_is_down_drops_and_one_that_is_gone_fails() {
        let Some(namespace) = namespace() else { return };
        let mut tun = builder(&namespace).build().unwrap();
        tun.port.device.enabled(false).unwrap();
        block_on(send(&mut tun, echo_request(4))).unwrap();
        assert_eq!(tun.drops(), 1);
        tun.readiness = None; // The next runtime is another one.
        namespace
            .run(|| RtNetlink::new().unwrap().delete_link("syn0"))
            .unwrap()
            .unwrap();
        block_on(async {
            send(&mut tun, echo_request(4)).await.unwrap_err();
            poll_fn(|cx| tun.poll_recv(cx, &mut Vec::new(), 16))
                .await
                .unwrap_err();
        });

        let mut tun = builder(&namespace).build().unwrap();
        let error = block_on(async {
            let mut packets = Vec::new();
            let mut is_deleted = false;
            loop {
                let result = poll_fn(|cx| {
                    let result = tun.poll_recv(cx, &mut packets, 16);
                    if result.is_pending() && !is_deleted {
                        is_deleted = true;
                        let delete = || RtNetlink::new().unwrap().delete_link("syn0");
                        namespace.run(delete).unwrap().unwrap();
                    }
                    result
                });
                if let Err(error) = result.await {
                    break error;
                }
            }
        });
        assert_eq!(error.to_string(), gone().to_string());
    }

    #[test]
    fn a_larger_mtu_set_by_somebody_else_is_noticed() {
        let Some(namespace) = namespace() else { return };
        let mut tun = builder(&namespace).offload(false).build().unwrap();
        tun.port.device.set_mtu(60_000).unwrap();
        let mut packets = Vec::new();
        block_on(async {
            for _ in 0..MTU_PERIOD {
                let _ = poll_fn(|cx| Poll::Ready(tun.poll_recv(cx, &mut packets, 16))).await;
            }
        });
        assert_eq!(tun.capabilities().mtu, 60_000);
    }

    #[test]
    fn a_packet_that_is_cut_off_tells_of_a_larger_mtu() {
        let Some(namespace) = namespace() else { return };
        let mut tun = builder(&namespace).offload(false).build().unwrap();
        tun.port.device.set_mtu(60_000).unwrap();
        let bind = || UdpSocket::bind("10.9.0.1:0").unwrap();
        let socket = namespace.run(bind).unwrap();
        for _ in 0..3 {
            socket.send_to(&[5; 40_000], (OURS, 9)).unwrap();
        }
        let mut packets = Vec::new();
        while !tun.port.read_some(&mut packets, 16).unwrap() {}
        packets.retain(|packet| packet.first()[0] >> 4 == 4);
        // The second of them did not fit behind the first, and is lost.
        let lens: Vec<_> = packets.iter().map(Packet::len).collect();
        assert_eq!((lens, tun.port.mtu), (vec![40_028; 2], 60_000));
    }

    #[test]
    fn addresses_of_both_families_are_set() {
        let Some(namespace) = namespace() else { return };
        let tun = builder(&namespace)
            .address("10.10.0.1/16".parse().unwrap())
            .address("fd09::1/64".parse().unwrap())
            .mtu(1280)
            .build()
            .unwrap();
        namespace
            .run(|| {
                for address in ["10.9.0.1:0", "10.10.0.1:0", "[fd09::1]:0"] {
                    UdpSocket::bind(address).unwrap();
                }
            })
            .unwrap();
        drop(tun);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let kind = |builder: TunBuilder| builder.build().unwrap_err().kind();
        let invalid = io::ErrorKind::InvalidInput;
        for name in ["", "sixteen-bytes-xx", "a/b", "a b", ".."] {
            assert_eq!(kind(Tun::builder().name(name)), invalid, "{name}");
        }
        let v6 = "fd09::1/64".parse().unwrap();
        assert_eq!(kind(Tun::builder().mtu(67)), invalid);
        assert_eq!(kind(Tun::builder().mtu(65_536)), invalid);
        assert_eq!(kind(Tun::builder().mtu(1279).address(v6)), invalid);
        let error = Tun::builder().mtu(67).build().unwrap_err().to_string();
        assert_eq!(error, "MTU 67: 68 to 65535 is allowed");
        for packets in [0, 1_000_001, u32::MAX] {
            assert_eq!(kind(Tun::builder().tx_queue_len(packets)), invalid);
        }
        for nobody in ["0.0.0.0/0", "224.0.0.1/4", "::/0", "ff02::1/64"] {
            let builder = Tun::builder().address(nobody.parse().unwrap());
            assert_eq!(kind(builder), invalid, "{nobody}");
        }

        let Some(namespace) = namespace() else { return };
        let _tun = builder(&namespace).build().unwrap();
        assert_eq!(kind(builder(&namespace)), io::ErrorKind::ResourceBusy);
    }
}
