//! What the device allows: a program that only pretends to be TCP.
//!
//! It answers a real TCP on the other side of a TUN as fast as it can, with no loss recovery,
//! timers or buffers to speak of. What it reaches is what any stack can hope for on the same
//! machine.

#![expect(unsafe_code, reason = "system calls that std does not have")]

use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use synack::device::{Tun, netns::NetNs};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use super::{
    client,
    measure::{self, Sample},
    port,
};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// The kernel sends, we take.
    Sink,
    /// We send, the kernel takes.
    Source,
    /// Both at once.
    Both,
    /// So many bytes there and back.
    PingPong(usize),
    /// Connect, a byte there and back, close.
    Crr,
}

/// How the pretender waits for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// With `poll(2)`.
    Poll,
    /// In tokio's current-thread runtime.
    Tokio,
    /// The same, and another task makes what is sent back: two hops between tasks for each packet.
    Task,
}

/// Where the two ends run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// Wherever the kernel puts them.
    Any,
    /// Both on the first processor.
    One,
    /// Each on its own.
    Two,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) load: Load,
    pub(crate) connections: usize,
    pub(crate) mtu: usize,
    pub(crate) offload: bool,
    /// Copies payload once between a packet's buffer and an application's.
    pub(crate) copy: bool,
    pub(crate) wait: Wait,
    pub(crate) cores: Cores,
    pub(crate) duration: Duration,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            load: Load::Sink,
            connections: 1,
            mtu: 1500,
            offload: true,
            copy: false,
            wait: Wait::Poll,
            cores: Cores::Any,
            duration: Duration::from_secs(2),
        }
    }
}

/// The kernel's address.
const KERNEL: &str = "10.77.0.1/24";
/// The pretender's.
const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Measures one case in a network namespace of its own.
pub(crate) fn run(case: &Case) -> io::Result<Sample> {
    let namespace = NetNs::new()?;
    let tun = Tun::builder()
        .name("ceiling0")
        .address(KERNEL.parse().expect("it is an address"))
        .mtu(case.mtu)
        .offload(case.offload)
        .netns(namespace.clone())
        .build()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            place(case.cores, 0)?;
            Pretender::new(&tun, case).run(case.wait, &is_over)
        });
        let sample = namespace.run(|| {
            place(case.cores, 1)?;
            measure(case.load, OURS.into(), case.connections, case.duration)
        });
        is_over.store(true, Ordering::Relaxed);
        server.join().expect("the pretender does not panic")?;
        sample?
    })
}

/// Puts the calling thread where one of the two ends belongs.
pub(crate) fn place(cores: Cores, end: usize) -> io::Result<()> {
    match cores {
        Cores::Any => Ok(()),
        Cores::One => measure::pin(0),
        Cores::Two => measure::pin(end),
    }
}

/// Runs the client for `load` against a server at `address`, whatever stack that is on.
pub(crate) fn measure(
    load: Load,
    address: std::net::IpAddr,
    connections: usize,
    duration: Duration,
) -> io::Result<Sample> {
    let at = |port| SocketAddr::new(address, port);
    match load {
        Load::Sink => client::sink(at(port::DISCARD), connections, duration),
        Load::Source => client::source(at(port::CHARGEN), connections, duration),
        Load::Both => client::both(at(port::BOTH), connections, duration),
        Load::PingPong(size) => client::pingpong(at(port::ECHO), connections, duration, size),
        Load::Crr => client::crr(at(port::ECHO), connections, duration),
    }
}

const VNET: usize = 10;
const HEADERS: usize = 40;
/// Room for the largest packet.
const ROOM: usize = VNET + 65_536;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// Window scale that we announce.
const SHIFT: u8 = 7;
/// The window that we announce: less than what fills the device's queue at MTU 1500.
const WINDOW: u16 = (4 << 20 >> SHIFT) as u16;

/// How long a sender waits for an acknowledgement before it goes back.
const STALL: Duration = Duration::from_millis(50);

/// What a connection is, which for us is little.
#[derive(Clone, Copy, Default)]
struct Connection {
    ports: u32,
    discards: bool,
    generates: bool,
    snd_una: u32,
    snd_nxt: u32,
    /// Right edge of the window that the peer has announced.
    snd_end: u32,
    shift: u8,
    rcv_nxt: u32,
    is_touched: bool,
    has_ended: bool,
}

struct Pretender {
    fd: RawFd,
    vnet: usize,
    mss: usize,
    /// Payload of one packet to the device.
    segment: usize,
    copy: bool,
    /// What an application would read into or write from.
    application: Vec<u8>,
    /// Buffers of a batch, so that a copy comes as late as in a real stack.
    buffers: Vec<Vec<u8>>,
    /// The same for packets to be sent, and which is next.
    to_send: Vec<Vec<u8>>,
    next_to_send: usize,
    connections: Vec<Connection>,
    /// By the client's port.
    index: Vec<u32>,
    touched: Vec<u32>,
    /// The way to the task that makes what is sent back, when there is one.
    task: Option<mpsc::UnboundedSender<Echo>>,
}

/// What a client has sent, by its port.
type Echo = (u16, Vec<u8>);

impl Pretender {
    fn new(tun: &Tun, case: &Case) -> Self {
        let mss = case.mtu - HEADERS;
        let per_batch = if tun.is_offloading() { 16 } else { 64 };
        let room = if tun.is_offloading() {
            ROOM
        } else {
            VNET + case.mtu
        };
        Self {
            fd: tun.as_fd().as_raw_fd(),
            vnet: if tun.has_vnet_header() { VNET } else { 0 },
            mss,
            segment: if tun.is_offloading() {
                (65_535 - HEADERS) / mss * mss
            } else {
                mss
            },
            copy: case.copy,
            application: vec![7; 256 << 10],
            buffers: vec![vec![0; room]; per_batch],
            to_send: vec![vec![0; room + 64]; per_batch],
            next_to_send: 0,
            connections: Vec::new(),
            index: vec![u32::MAX; 1 << 16],
            touched: Vec::new(),
            task: None,
        }
    }

    fn run(&mut self, wait: Wait, is_over: &AtomicBool) -> io::Result<()> {
        match wait {
            Wait::Poll => {
                while !is_over.load(Ordering::Relaxed) {
                    self.turn()?;
                    let mut poll = libc::pollfd {
                        fd: self.fd,
                        events: libc::POLLIN,
                        revents: 0,
                    };
                    // SAFETY: one structure, which lives during the call.
                    if unsafe { libc::poll(&raw mut poll, 1, STALL.as_millis() as i32) } == 0 {
                        self.go_back();
                    }
                }
                Ok(())
            }
            Wait::Tokio | Wait::Task => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(async {
                    // SAFETY: the device outlives the pretender.
                    let fd = unsafe { AsyncFd::register(self.fd) }?;
                    let mut stall = tokio::time::interval(STALL);
                    let (to_task, mut received) = mpsc::unbounded_channel();
                    let (from_task, mut answers) = mpsc::unbounded_channel();
                    self.task = (wait == Wait::Task).then_some(to_task);
                    let _task = tokio::spawn(async move {
                        while let Some(echo) = received.recv().await {
                            if from_task.send(echo).is_err() {
                                return;
                            }
                        }
                    });
                    while !is_over.load(Ordering::Relaxed) {
                        tokio::select! {
                            biased;
                            guard = fd.readable() => {
                                self.turn()?;
                                guard?.clear_ready();
                            }
                            Some((client, payload)) = answers.recv() => {
                                self.answer(client, &payload)?;
                            }
                            _ = stall.tick() => {
                                self.go_back();
                                self.turn()?;
                            }
                        }
                    }
                    Ok(())
                }),
        }
    }

    /// Sends again what was not acknowledged, for everything stands still.
    fn go_back(&mut self) {
        for connection in &mut self.connections {
            connection.snd_nxt = connection.snd_una;
        }
    }

    /// Reads and answers until there is nothing to read and nothing may be sent.
    fn turn(&mut self) -> io::Result<()> {
        loop {
            let mut buffers = std::mem::take(&mut self.buffers);
            let mut count = 0;
            let mut taken = [(0, 0); 64];
            for buffer in &mut buffers {
                let Some(len) = read(self.fd, buffer)? else {
                    break;
                };
                taken[count] = self.on_packet(&buffer[self.vnet..len]);
                count += 1;
            }
            if self.copy {
                let mut at = 0;
                for (buffer, (start, len)) in buffers.iter().zip(&taken[..count]) {
                    if at + len > self.application.len() {
                        at = 0;
                    }
                    let payload = &buffer[self.vnet + start..][..*len];
                    self.application[at..at + len].copy_from_slice(payload);
                    at += len;
                }
            }
            let drained = count < buffers.len();
            self.buffers = buffers;
            for id in std::mem::take(&mut self.touched) {
                let connection = &mut self.connections[id as usize];
                if std::mem::take(&mut connection.is_touched) {
                    let connection = *connection;
                    self.send(&connection, ACK, connection.snd_nxt, &[])?;
                }
            }
            let mut has_sent = false;
            for id in 0..self.connections.len() {
                has_sent |= self.generate(id)?;
            }
            if drained && !has_sent {
                return Ok(());
            }
        }
    }

    /// Takes a packet, and returns where in it payload in order is.
    fn on_packet(&mut self, packet: &[u8]) -> (usize, usize) {
        if packet.len() < HEADERS || packet[0] != 0x45 || packet[9] != 6 {
            return (0, 0); // The kernel's own IPv6 chatter.
        }
        let header_len = 20 + usize::from(packet[32] >> 4) * 4;
        let total_len = usize::from(u16_at(packet, 2));
        let payload = &packet[header_len..total_len];
        let (seq, ack, flags) = (u32_at(packet, 24), u32_at(packet, 28), packet[33]);
        let (client, server) = (u16_at(packet, 20), u16_at(packet, 22));
        if self.vnet == 0 {
            // Verified as anybody would have to.
            let total = sum(&packet[12..20])
                + u64::from(6_u16.to_be())
                + u64::from(((total_len - 20) as u16).to_be())
                + sum(&packet[20..total_len]);
            assert_eq!(fold(total), 0xffff);
        }
        if flags & SYN != 0 {
            self.open(client, server, seq, &packet[HEADERS..header_len]);
            return (0, 0);
        }
        let id = self.index[usize::from(client)];
        let Some(connection) = self.connections.get_mut(id as usize) else {
            return (0, 0);
        };
        if flags & RST != 0 {
            self.close(client);
            return (0, 0);
        }
        if (ack.wrapping_sub(connection.snd_una) as i32) > 0 {
            connection.snd_una = ack;
            if (ack.wrapping_sub(connection.snd_nxt) as i32) > 0 {
                connection.snd_nxt = ack;
            }
        }
        let window = u32::from(u16_at(packet, 34)) << connection.shift;
        connection.snd_end = ack.wrapping_add(window);
        let is_fin = flags & FIN != 0;
        if payload.is_empty() && !is_fin {
            if connection.has_ended && connection.snd_una == connection.snd_nxt {
                self.close(client);
            }
            return (0, 0);
        }
        if seq != connection.rcv_nxt {
            self.touch(id);
            return (0, 0);
        }
        connection.rcv_nxt = seq.wrapping_add(payload.len() as u32 + u32::from(is_fin));
        let is_echo = !connection.discards && !connection.generates;
        if let Some(task) = self.task.as_ref().filter(|_| is_echo && !is_fin) {
            // It ends with us.
            let _ = task.send((client, payload.to_vec()));
        } else if is_echo || is_fin {
            let fin = if is_fin { FIN } else { 0 };
            let seq = connection.snd_nxt;
            let echoed = if is_echo { payload } else { &[] };
            connection.snd_nxt = seq.wrapping_add(echoed.len() as u32 + u32::from(is_fin));
            connection.has_ended |= is_fin;
            connection.generates &= !is_fin;
            let connection = *connection;
            // What does not get through is sent again by the other side.
            let _ = self.send(&connection, ACK | PSH | fin, seq, echoed);
        } else {
            self.touch(id);
        }
        (header_len, payload.len())
    }

    /// Sends back what the task has made.
    fn answer(&mut self, client: u16, payload: &[u8]) -> io::Result<()> {
        let id = self.index[usize::from(client)];
        let Some(connection) = self.connections.get_mut(id as usize) else {
            return Ok(());
        };
        let seq = connection.snd_nxt;
        connection.snd_nxt = seq.wrapping_add(payload.len() as u32);
        let connection = *connection;
        self.send(&connection, ACK | PSH, seq, payload)
    }

    fn touch(&mut self, id: u32) {
        let connection = &mut self.connections[id as usize];
        if !connection.is_touched {
            connection.is_touched = true;
            self.touched.push(id);
        }
    }

    fn open(&mut self, client: u16, server: u16, seq: u32, options: &[u8]) {
        self.close(client);
        let connection = Connection {
            ports: u32::from(server) << 16 | u32::from(client),
            discards: matches!(server, port::DISCARD | port::BOTH),
            generates: matches!(server, port::CHARGEN | port::BOTH),
            snd_una: 1000,
            snd_nxt: 1001,
            snd_end: 1001,
            shift: window_scale(options),
            rcv_nxt: seq.wrapping_add(1),
            ..Connection::default()
        };
        self.index[usize::from(client)] = self.connections.len() as u32;
        self.connections.push(connection);
        // A lost answer is asked for again.
        let _ = self.send(&connection, SYN | ACK, 1000, &[]);
    }

    fn close(&mut self, client: u16) {
        let id = std::mem::replace(&mut self.index[usize::from(client)], u32::MAX) as usize;
        if id < self.connections.len() {
            self.connections.swap_remove(id);
            // The last one has moved.
            if let Some(moved) = self.connections.get(id) {
                self.index[usize::from(moved.ports as u16)] = id as u32;
            }
            let moved_from = self.connections.len() as u32;
            self.touched.retain(|touched| *touched as usize != id);
            for touched in &mut self.touched {
                if *touched == moved_from {
                    *touched = id as u32;
                }
            }
        }
    }

    /// Sends some segments, if the window allows, and says whether it did.
    fn generate(&mut self, id: usize) -> io::Result<bool> {
        let connection = self.connections[id];
        if !connection.generates || connection.snd_una == 1000 {
            return Ok(false);
        }
        let application = std::mem::take(&mut self.application);
        let mut seq = connection.snd_nxt;
        for burst in 0..16 {
            let room = connection.snd_end.wrapping_sub(seq) as i32;
            let len = self.segment.min(room.max(0) as usize);
            // No silly windows, but for one that is never going to be larger.
            if len < self.mss {
                break;
            }
            let len = len / self.mss * self.mss;
            let at = burst * self.segment % (application.len() - self.segment);
            self.send(&connection, ACK | PSH, seq, &application[at..at + len])?;
            seq = seq.wrapping_add(len as u32);
        }
        self.application = application;
        self.connections[id].snd_nxt = seq;
        Ok(seq != connection.snd_nxt)
    }

    fn send(
        &mut self,
        connection: &Connection,
        flags: u8,
        seq: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let mut bytes = [0; VNET + HEADERS + 8 + 1500];
        let header_len = if flags & SYN != 0 {
            HEADERS + 8
        } else {
            HEADERS
        };
        let packet = &mut bytes[VNET..VNET + header_len];
        let total_len = header_len + payload.len();
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
        packet[6] = 0x40;
        packet[8] = 64;
        packet[9] = 6;
        packet[12..16].copy_from_slice(&OURS.octets());
        packet[16..20].copy_from_slice(&[10, 77, 0, 1]);
        let checksum = !fold(sum(&packet[..20]));
        packet[10..12].copy_from_slice(&checksum.to_ne_bytes());
        packet[20..24].copy_from_slice(&connection.ports.to_be_bytes());
        packet[24..28].copy_from_slice(&seq.to_be_bytes());
        packet[28..32].copy_from_slice(&connection.rcv_nxt.to_be_bytes());
        packet[32] = ((header_len - 20) << 2) as u8;
        packet[33] = flags;
        packet[34..36].copy_from_slice(&WINDOW.to_be_bytes());
        if flags & SYN != 0 {
            let mss = (self.mss as u16).to_be_bytes();
            packet[40..48].copy_from_slice(&[2, 4, mss[0], mss[1], 1, 3, 3, SHIFT]);
        }
        let pseudo = sum(&packet[12..20])
            + u64::from(6_u16.to_be())
            + u64::from(((total_len - 20) as u16).to_be());
        let checksum = if self.vnet > 0 {
            fold(pseudo)
        } else {
            !fold(pseudo + sum(&packet[20..]) + u64::from(fold(sum(payload))))
        };
        packet[36..38].copy_from_slice(&checksum.to_ne_bytes());
        if self.vnet > 0 {
            bytes[0] = 1;
            bytes[6..8].copy_from_slice(&20_u16.to_ne_bytes());
            bytes[8..10].copy_from_slice(&16_u16.to_ne_bytes());
            if payload.len() > self.mss {
                bytes[1] = 1;
                bytes[2..4].copy_from_slice(&(HEADERS as u16).to_ne_bytes());
                bytes[4..6].copy_from_slice(&(self.mss as u16).to_ne_bytes());
            }
        }
        let head = VNET - self.vnet..VNET + header_len;
        if self.copy {
            self.next_to_send = (self.next_to_send + 1) % self.to_send.len();
            let buffer = &mut self.to_send[self.next_to_send][..head.len() + payload.len()];
            buffer[..head.len()].copy_from_slice(&bytes[head.clone()]);
            buffer[head.len()..].copy_from_slice(payload);
            write(self.fd, &[IoSlice::new(buffer)])
        } else if payload.len() <= 1500 {
            let end = head.end + payload.len();
            bytes[head.end..end].copy_from_slice(payload);
            write(self.fd, &[IoSlice::new(&bytes[head.start..end])])
        } else {
            write(
                self.fd,
                &[IoSlice::new(&bytes[head]), IoSlice::new(payload)],
            )
        }
    }
}

/// The window scale option of a SYN.
fn window_scale(mut options: &[u8]) -> u8 {
    while let [kind, rest @ ..] = options {
        match (kind, rest) {
            (0, _) => break,
            (1, _) => options = rest,
            (3, [3, shift, ..]) => return *shift,
            (_, [len, ..]) => options = options.get(usize::from((*len).max(2))..).unwrap_or(&[]),
            _ => break,
        }
    }
    0
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

/// The sum of RFC 1071, not folded.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let words = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)));
    words.sum::<u64>() + u64::from(u32::from_ne_bytes(last))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Reads a packet, if there is one.
fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the buffer may be written to in its whole length.
    let len = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    match usize::try_from(len) {
        Ok(len) => Ok(Some(len)),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error => Err(error),
        },
    }
}

fn write(fd: RawFd, slices: &[IoSlice<'_>]) -> io::Result<()> {
    // SAFETY: `IoSlice` is laid out like `iovec`, and every slice lives during the call.
    let len = unsafe { libc::writev(fd, slices.as_ptr().cast(), slices.len() as i32) };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
