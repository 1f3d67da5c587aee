//! Linux and synack at the ends of one impaired path, in real time.
//!
//! The path is the crate's own, in user space. An end that is Linux's is a TUN in a network
//! namespace of its own, one that is synack's a pair of queues; a task carries packets from each of
//! them over a [`Path`] to the other. It keeps time by a `timerfd`: tokio's clock has ticks of a
//! millisecond, which would send bursts down the path that fill short queues. Where the machine
//! stands still, the path does, so that it keeps the distances between packets.

use std::{
    collections::VecDeque,
    fs,
    future::poll_fn,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use synack::{
    Config, Stack,
    config::{Congestion, SocketOptions},
    device::{
        self, Device, Tun,
        link::{Impairment, Path},
        netns::NetNs,
    },
    packet::Packet,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest, unix::AsyncFd},
    sync::mpsc,
};

const SENDER: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
/// The second of two senders.
const RIVAL: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 3);
const PORT: u16 = 9000;

/// Whose TCP an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Linux,
    Synack,
}

/// What to run: who sends to whom, over what.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) sender: Side,
    pub(crate) receiver: Side,
    pub(crate) congestion: Congestion,
    pub(crate) forward: Impairment,
    pub(crate) backward: Impairment,
    /// An outage of the link: when, and how long.
    pub(crate) outage: Option<(Duration, Duration)>,
    /// Whether the link's time stands still while the machine does.
    pub(crate) pauses: bool,
    pub(crate) seed: u64,
}

/// What came of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Bits a second that arrived, over the whole time.
    pub(crate) goodput: f64,
    /// Bytes that arrived.
    pub(crate) bytes: f64,
    /// Bytes that the sender sent again.
    pub(crate) retransmitted: u64,
    /// When the first 10 MB had arrived.
    pub(crate) large: Option<Duration>,
}

/// The name of an algorithm as Linux knows it.
pub(crate) fn name(congestion: Congestion) -> &'static str {
    match congestion {
        Congestion::Reno => "reno",
        Congestion::Cubic => "cubic",
        _ => "bbr",
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

impl Run {
    /// The hosts at both ends, joined: the receiver and the sender.
    fn ends(&self) -> io::Result<(End, End, Arc<AtomicBool>)> {
        let (receiving, other) = End::new(self.receiver, RECEIVER, Congestion::Cubic)?;
        let (sending, one) = End::new(self.sender, SENDER, self.congestion)?;
        let down = Wire::spawn(
            [
                (SENDER, one, self.backward.clone()),
                (RECEIVER, other, self.forward.clone()),
            ],
            self,
        )?;
        Ok((receiving, sending, down))
    }

    /// Sends for so long.
    pub(crate) fn stream(&self, time: Duration) -> io::Result<Outcome> {
        runtime()?.block_on(async {
            let arrived = Arc::new(Arrived::new(10_000_000));
            let (receiving, sending, down) = self.ends()?;
            receiving
                .receive({
                    let arrived = Arc::clone(&arrived);
                    move |_| Arc::clone(&arrived)
                })
                .await?;
            let stop = Arc::new(AtomicBool::new(false));
            let socket = sending.stream(&stop).await?;
            arrived.start();
            if let Some((after, lasting)) = self.outage {
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    down.store(true, Ordering::Relaxed);
                    tokio::time::sleep(lasting).await;
                    down.store(false, Ordering::Relaxed);
                });
            }
            tokio::time::sleep(time).await;
            let (goodput, large) = (arrived.goodput(), arrived.at());
            let retransmitted = socket.retransmitted().await;
            stop.store(true, Ordering::Relaxed);
            Ok(Outcome {
                goodput,
                bytes: goodput / 8.0 * time.as_secs_f64(),
                retransmitted,
                large,
            })
        })
    }

    /// Moves so many bytes over one connection after another: how long each took, from its first
    /// SYN to its last byte.
    pub(crate) fn transfers(&self, bytes: u64, count: usize) -> io::Result<Vec<Duration>> {
        runtime()?.block_on(async {
            let (done, mut finished) = mpsc::unbounded_channel();
            let (receiving, sending, _) = self.ends()?;
            receiving
                .receive(move |_| Arc::new(Arrived::telling(bytes, done.clone())))
                .await?;
            let mut times = Vec::new();
            for _ in 0..count {
                let begin = Instant::now();
                let socket = sending.send(bytes).await?;
                let end = tokio::time::timeout(Duration::from_secs(60), finished.recv()).await;
                let end = end.ok().flatten();
                times.push(end.map_or(Duration::MAX, |end: Instant| end - begin));
                drop(socket);
                // What closes the connection is not to meet the next one.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(times)
        })
    }
}

/// Two senders, one of Linux and one of synack, to one receiver behind one bottleneck: what each of
/// them gets.
pub(crate) fn share(run: &Run, time: Duration) -> io::Result<[f64; 2]> {
    runtime()?.block_on(async {
        let arrived = [(); 2].map(|()| Arc::new(Arrived::new(u64::MAX)));
        let (receiving, other) = End::new(Side::Linux, RECEIVER, Congestion::Cubic)?;
        let (linux, one) = End::new(Side::Linux, SENDER, run.congestion)?;
        let (synack, two) = End::new(Side::Synack, RIVAL, run.congestion)?;
        Wire::spawn(
            [
                (SENDER, one, run.backward.clone()),
                (RIVAL, two, run.backward.clone()),
                (RECEIVER, other, run.forward.clone()),
            ],
            run,
        )?;
        receiving
            .receive({
                let arrived = arrived.clone();
                move |peer| Arc::clone(&arrived[usize::from(peer == RIVAL)])
            })
            .await?;
        let stop = Arc::new(AtomicBool::new(false));
        let sockets = (linux.stream(&stop).await?, synack.stream(&stop).await?);
        arrived.iter().for_each(|arrived| arrived.start());
        tokio::time::sleep(time).await;
        let goodput = arrived.map(|arrived| arrived.goodput());
        stop.store(true, Ordering::Relaxed);
        drop(sockets);
        Ok(goodput)
    })
}

/// What the receiver has seen, and when.
#[derive(Debug)]
struct Arrived {
    bytes: AtomicU64,
    /// When so many have come, it is noted and told.
    mark: u64,
    /// Nanoseconds since `origin`, zero for not yet.
    marked: AtomicU64,
    done: Option<mpsc::UnboundedSender<Instant>>,
    origin: OnceLock<Instant>,
}

impl Arrived {
    fn new(mark: u64) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            mark,
            marked: AtomicU64::new(0),
            done: None,
            origin: OnceLock::new(),
        }
    }

    fn telling(mark: u64, done: mpsc::UnboundedSender<Instant>) -> Self {
        let done = Some(done);
        Self {
            done,
            ..Self::new(mark)
        }
    }

    fn start(&self) {
        self.origin.get_or_init(Instant::now);
    }

    fn add(&self, bytes: usize) {
        let total = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if total < self.mark || self.marked.load(Ordering::Relaxed) > 0 {
            return;
        }
        let now = Instant::now();
        let since = self
            .origin
            .get()
            .map_or(0, |origin| (now - *origin).as_nanos() as u64);
        self.marked.store(since.max(1), Ordering::Relaxed);
        if let Some(done) = &self.done {
            // Whoever waited may have given up.
            let _ = done.send(now);
        }
    }

    fn goodput(&self) -> f64 {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let elapsed = self
            .origin
            .get()
            .map_or(0.0, |origin| origin.elapsed().as_secs_f64());
        bytes as f64 * 8.0 / elapsed.max(1e-9)
    }

    fn at(&self) -> Option<Duration> {
        let nanos = self.marked.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

/// A host at one end of the link.
enum End {
    Linux(NetNs, Congestion),
    Synack(Stack),
}

/// A connection that data is sent over.
enum Socket {
    Linux(TcpStream),
    Synack(Arc<synack::net::TcpStream>),
}

impl Socket {
    async fn retransmitted(&self) -> u64 {
        match self {
            Self::Linux(socket) => bytes_retransmitted(socket),
            Self::Synack(stream) => stream.info().await.map_or(0, |info| info.retransmitted),
        }
    }
}

impl End {
    /// A host, and the device that its packets come from.
    fn new(
        side: Side,
        address: Ipv4Addr,
        congestion: Congestion,
    ) -> io::Result<(Self, Box<dyn Device>)> {
        let net = format!("{address}/24").parse().map_err(io::Error::other)?;
        match side {
            Side::Linux => {
                let namespace = NetNs::new()?;
                let tun = Tun::builder()
                    .name("wan0")
                    .address(net)
                    .mtu(1500)
                    .offload(false)
                    .tx_queue_len(10_000)
                    .netns(namespace.clone())
                    .build()?;
                // What one connection has learned of the path is not to help the next one.
                namespace.run(|| fs::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1"))??;
                Ok((Self::Linux(namespace, congestion), Box::new(tun)))
            }
            Side::Synack => {
                let mut config = Config::default();
                config.options(SocketOptions {
                    congestion,
                    ..SocketOptions::default()
                });
                let (ours, other) = device::pair(1500);
                let stack = Stack::builder().address(net).config(config).spawn(ours)?;
                Ok((Self::Synack(stack), Box::new(other)))
            }
        }
    }

    /// Takes connections, and what they bring to the account that `arrived` gives for a peer.
    async fn receive(
        &self,
        arrived: impl Fn(Ipv4Addr) -> Arc<Arrived> + Send + 'static,
    ) -> io::Result<()> {
        let of = move |peer: SocketAddr| match peer.ip() {
            IpAddr::V4(peer) => arrived(peer),
            IpAddr::V6(_) => arrived(Ipv4Addr::UNSPECIFIED),
        };
        match self {
            Self::Linux(namespace, _) => {
                let listener = namespace.run(|| TcpListener::bind((RECEIVER, PORT)))??;
                thread::spawn(move || {
                    while let Ok((mut stream, peer)) = listener.accept() {
                        let arrived = of(peer);
                        thread::spawn(move || {
                            let mut buf = vec![0; 256 << 10];
                            while let Ok(n @ 1..) = stream.read(&mut buf) {
                                arrived.add(n);
                            }
                        });
                    }
                });
            }
            Self::Synack(stack) => {
                let listener = stack.listen((RECEIVER, PORT)).await?;
                tokio::spawn(async move {
                    while let Ok((mut stream, peer)) = listener.accept().await {
                        let arrived = of(peer);
                        tokio::spawn(async move {
                            let mut buf = vec![0; 256 << 10];
                            while let Ok(n @ 1..) = stream.read(&mut buf).await {
                                arrived.add(n);
                            }
                        });
                    }
                });
            }
        }
        Ok(())
    }

    async fn connect(&self) -> io::Result<Socket> {
        Ok(match self {
            Self::Linux(namespace, congestion) => {
                let (namespace, congestion) = (namespace.clone(), name(*congestion));
                // The handshake crosses the link, which this thread drives.
                let connecting =
                    tokio::task::spawn_blocking(move || namespace.run(|| connect(congestion)));
                Socket::Linux(connecting.await.map_err(io::Error::other)???)
            }
            Self::Synack(stack) => Socket::Synack(Arc::new(stack.connect((RECEIVER, PORT)).await?)),
        })
    }

    /// Connects and sends until told to stop.
    async fn stream(&self, stop: &Arc<AtomicBool>) -> io::Result<Socket> {
        let (socket, stop) = (self.connect().await?, Arc::clone(stop));
        let chunk = vec![7; 256 << 10];
        match &socket {
            Socket::Linux(socket) => {
                let mut stream = socket.try_clone()?;
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) && stream.write(&chunk).is_ok() {}
                });
            }
            Socket::Synack(stream) => {
                let writer = Arc::clone(stream);
                tokio::spawn(async move {
                    while writer.writable().await.is_ok() {
                        match writer.try_write(&chunk) {
                            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                            _ => {}
                        }
                    }
                });
            }
        }
        Ok(socket)
    }

    /// Connects, sends so much, and says that there is no more.
    async fn send(&self, bytes: u64) -> io::Result<Socket> {
        let data = vec![7; bytes as usize];
        Ok(match self.connect().await? {
            Socket::Linux(mut socket) => {
                let sending = tokio::task::spawn_blocking(move || {
                    socket.write_all(&data)?;
                    socket.shutdown(Shutdown::Write)?;
                    io::Result::Ok(socket)
                });
                Socket::Linux(sending.await.map_err(io::Error::other)??)
            }
            Socket::Synack(stream) => {
                let mut stream = Arc::into_inner(stream).expect("nobody else has it yet");
                stream.write_all(&data).await?;
                stream.shutdown().await?;
                Socket::Synack(Arc::new(stream))
            }
        })
    }
}

/// Connects with an algorithm that is set before: a connection that began with BBR is paced for
/// ever, whatever it is told later.
fn connect(congestion: &str) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_tcp_congestion(congestion.as_bytes())?;
    socket.connect(&SocketAddr::from((RECEIVER, PORT)).into())?;
    Ok(socket.into())
}

/// `tcpi_bytes_retrans` of `TCP_INFO`, at its place in the kernel's structure.
fn bytes_retransmitted(stream: &TcpStream) -> u64 {
    const AT: usize = 208;
    let mut info = [0_u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the buffer, which is as long.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 || (len as usize) < AT + 8 {
        return 0;
    }
    u64::from_ne_bytes(info[AT..AT + 8].try_into().expect("eight bytes"))
}

/// What joins the hosts: a path to each of them, by the address of its packets.
struct Wire {
    ports: Vec<Port>,
    down: Arc<AtomicBool>,
    clock: AsyncFd<OwnedFd>,
    /// Whether the link's time can stand still, and for how long it has.
    pauses: bool,
    paused: Duration,
    batch: Vec<Packet>,
}

/// A link with a rate that nobody has looked after for longer than this has paused. A machine that is
/// shared stands still for some 20 ms now and then; were all that is due by then to arrive at once, a
/// whole window would go around as one burst and overflow every short queue: the better a sender had
/// been, the more it would lose. Without a rate what is late is late because the ends are busy.
const PAUSE: Duration = Duration::from_micros(500);

struct Port {
    address: Ipv4Addr,
    device: Box<dyn Device>,
    path: Path,
    queue: VecDeque<Packet>,
}

impl Wire {
    /// Joins them for as long as the runtime lives. What it returns takes the paths down.
    fn spawn(
        ends: impl IntoIterator<Item = (Ipv4Addr, Box<dyn Device>, Impairment)>,
        run: &Run,
    ) -> io::Result<Arc<AtomicBool>> {
        let ports =
            ends.into_iter()
                .zip(run.seed..)
                .map(|((address, device, impairment), seed)| Port {
                    address,
                    device,
                    path: Path::new(impairment, seed),
                    queue: VecDeque::new(),
                });
        let down = Arc::new(AtomicBool::new(false));
        let mut wire = Self {
            ports: ports.collect(),
            down: Arc::clone(&down),
            clock: timer()?,
            pauses: run.pauses,
            paused: Duration::ZERO,
            batch: Vec::new(),
        };
        tokio::spawn(poll_fn(move |cx| wire.poll(cx)));
        Ok(down)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let now = self.now();
            self.take(cx, now)?;
            let waits = self.deliver(cx, now)?;
            // What a device does not take now it asks for when it does.
            let Some(next) = self.next_deadline().filter(|_| !waits) else {
                return Poll::Pending;
            };
            set_timer(self.clock.get_ref(), next - now.min(next))?;
            let mut ready = std::task::ready!(self.clock.poll_read_ready(cx))?;
            ready.clear_ready();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.ports
            .iter()
            .filter_map(|port| port.path.next_deadline())
            .min()
    }

    /// The link's time, which stands still while it is not looked after.
    fn now(&mut self) -> Instant {
        let now = Instant::now() - self.paused;
        match self.next_deadline() {
            Some(due) if self.pauses && due + PAUSE < now => {
                self.paused += now - due;
                due
            }
            _ => now,
        }
    }

    /// Puts what the hosts send on its way.
    fn take(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<()> {
        let down = self.down.load(Ordering::Relaxed);
        for from in 0..self.ports.len() {
            while let Poll::Ready(taken) =
                self.ports[from].device.poll_recv(cx, &mut self.batch, 64)
            {
                if taken? == 0 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                for packet in self.batch.drain(..) {
                    let to = packet.first().get(16..20);
                    let port = self
                        .ports
                        .iter_mut()
                        .find(|port| to == Some(&port.address.octets()[..]));
                    let Some(Port { path, .. }) = port else {
                        continue;
                    };
                    path.set_impairment(path.impairment().clone().down(down));
                    path.push(packet, now);
                }
            }
        }
        Ok(())
    }

    /// Hands over what has arrived; whether somebody does not take it.
    fn deliver(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<bool> {
        let mut waits = false;
        for port in &mut self.ports {
            while let Some(packet) = port.path.pop_due(now) {
                port.queue.push_back(packet);
            }
            if !port.queue.is_empty() {
                match port.device.poll_send(cx, &mut port.queue) {
                    Poll::Ready(sent) => sent?,
                    Poll::Pending => waits = true,
                }
            }
        }
        Ok(waits)
    }
}

/// A clock that wakes by the microsecond.
fn timer() -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened just now, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: nobody closes the descriptor while it is registered, for it is owned by what is
    // returned, which lends it out only.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

fn set_timer(timer: &OwnedFd, after: Duration) -> io::Result<()> {
    let zero = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let value = libc::itimerspec {
        it_interval: zero,
        it_value: libc::timespec {
            tv_sec: after.as_secs() as libc::time_t,
            // Zero would stop it.
            tv_nsec: after.subsec_nanos().max(1) as libc::c_long,
        },
    };
    // SAFETY: `value` lives during the call, and the old one is not asked for.
    let result = unsafe {
        libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const value, std::ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
