//! Linux and synack on either end of one impaired link, in real time.
//!
//! The link is the crate's own, in user space. An end that is Linux's is a TUN in a network
//! namespace of its own, whose packets a task carries to and from the link; an end that is synack's
//! has the link for a device. Both see the same packets of MTU size.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use synack::{
    Config, Stack,
    config::{Congestion, SocketOptions},
    device::{
        Device, Tun,
        link::{Impairment, Link, LinkEnd},
        netns::NetNs,
    },
};
use tokio::io::AsyncReadExt;

const SENDER: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
const PORT: u16 = 9000;

/// Whose TCP an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Linux,
    Synack,
}

/// What to run: who sends to whom, over what, for how long.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) sender: Side,
    pub(crate) receiver: Side,
    pub(crate) congestion: Congestion,
    pub(crate) forward: Impairment,
    pub(crate) backward: Impairment,
    pub(crate) time: Duration,
    /// An outage of the link: when, and how long.
    pub(crate) outage: Option<(Duration, Duration)>,
    pub(crate) seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Bits a second that arrived, over the whole time.
    pub(crate) goodput: f64,
    /// Bytes that the sender sent again.
    pub(crate) retransmitted: u64,
    /// When the first 100 KB and the first 10 MB had arrived.
    pub(crate) small: Option<Duration>,
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

/// Runs one transfer.
pub(crate) fn run(run: &Run) -> io::Result<Outcome> {
    let arrived = Arc::new(Arrived::default());
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (one, other) = Link::builder()
            .seed(run.seed)
            .mtu(1500)
            .forward(run.forward.clone())
            .backward(run.backward.clone())
            .build();
        let control = one.control();
        let receiving = receive(run.receiver, other, &arrived, &stop).await?;
        // The kernel's addresses and routes are there when its first packet may be.
        let sending = send(run, one, &stop).await?;
        let started = Instant::now();
        arrived.start(started);
        if let Some((after, lasting)) = run.outage {
            let control = control.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                control.set_down(true);
                tokio::time::sleep(lasting).await;
                control.set_down(false);
            });
        }
        tokio::time::sleep(run.time).await;
        let bytes = arrived.bytes.load(Ordering::Relaxed);
        let elapsed = started.elapsed();
        let retransmitted = sending.retransmitted().await;
        stop.store(true, Ordering::Relaxed);
        drop((sending, receiving));
        Ok(Outcome {
            goodput: bytes as f64 * 8.0 / elapsed.as_secs_f64(),
            retransmitted,
            small: arrived.time(&arrived.small),
            large: arrived.time(&arrived.large),
        })
    })
}

/// What the receiver has seen, and when.
#[derive(Debug, Default)]
struct Arrived {
    bytes: AtomicU64,
    /// Nanoseconds since `origin`, zero for not yet.
    small: AtomicU64,
    large: AtomicU64,
    origin: std::sync::OnceLock<Instant>,
}

impl Arrived {
    fn start(&self, at: Instant) {
        self.origin.get_or_init(|| at);
    }

    fn add(&self, bytes: usize) {
        let total = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let since = self
            .origin
            .get()
            .map_or(0, |origin| origin.elapsed().as_nanos() as u64)
            .max(1);
        for (mark, at) in [(&self.small, 100_000), (&self.large, 10_000_000)] {
            if total >= at && mark.load(Ordering::Relaxed) == 0 {
                mark.store(since, Ordering::Relaxed);
            }
        }
    }

    fn time(&self, mark: &AtomicU64) -> Option<Duration> {
        let nanos = mark.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

/// Keeps an end alive.
enum End {
    Linux {
        _namespace: NetNs,
        socket: Option<TcpStream>,
    },
    Synack {
        _stack: Stack,
        stream: Option<Arc<synack::net::TcpStream>>,
    },
}

impl End {
    async fn retransmitted(&self) -> u64 {
        match self {
            Self::Linux { socket, .. } => socket.as_ref().map_or(0, bytes_retransmitted),
            Self::Synack {
                stream: Some(stream),
                ..
            } => stream.info().await.map_or(0, |info| info.retransmitted),
            Self::Synack { stream: None, .. } => 0,
        }
    }
}

async fn receive(
    side: Side,
    end: LinkEnd,
    arrived: &Arc<Arrived>,
    stop: &Arc<AtomicBool>,
) -> io::Result<End> {
    let (arrived, stop) = (Arc::clone(arrived), Arc::clone(stop));
    match side {
        Side::Linux => {
            let namespace = linux_end(RECEIVER, end)?;
            let listener = namespace.run(|| TcpListener::bind((RECEIVER, PORT)))??;
            thread::spawn(move || {
                let Ok((mut stream, _)) = listener.accept() else {
                    return;
                };
                let mut buf = vec![0; 256 << 10];
                while let Ok(n @ 1..) = stream.read(&mut buf) {
                    arrived.add(n);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            Ok(End::Linux {
                _namespace: namespace,
                socket: None,
            })
        }
        Side::Synack => {
            let stack = synack_end(RECEIVER, end, Congestion::Cubic)?;
            let listener = stack.listen((RECEIVER, PORT)).await?;
            tokio::spawn(async move {
                let Ok((mut stream, _)) = listener.accept().await else {
                    return;
                };
                let mut buf = vec![0; 256 << 10];
                while let Ok(n @ 1..) = stream.read(&mut buf).await {
                    arrived.add(n);
                }
            });
            Ok(End::Synack {
                _stack: stack,
                stream: None,
            })
        }
    }
}

async fn send(run: &Run, end: LinkEnd, stop: &Arc<AtomicBool>) -> io::Result<End> {
    let stop = Arc::clone(stop);
    match run.sender {
        Side::Linux => {
            let namespace = linux_end(SENDER, end)?;
            let congestion = name(run.congestion);
            // The handshake crosses the link, which this thread drives.
            let connecting = tokio::task::spawn_blocking({
                let namespace = namespace.clone();
                move || namespace.run(|| connect(congestion))
            });
            let socket = connecting.await.map_err(io::Error::other)???;
            let mut stream = socket.try_clone()?;
            thread::spawn(move || {
                let chunk = vec![7; 256 << 10];
                while !stop.load(Ordering::Relaxed) && stream.write(&chunk).is_ok() {}
            });
            Ok(End::Linux {
                _namespace: namespace,
                socket: Some(socket),
            })
        }
        Side::Synack => {
            let stack = synack_end(SENDER, end, run.congestion)?;
            let stream = Arc::new(stack.connect((RECEIVER, PORT)).await?);
            let writer = Arc::clone(&stream);
            tokio::spawn(async move {
                let chunk = vec![7; 256 << 10];
                loop {
                    if writer.writable().await.is_err() {
                        return;
                    }
                    match writer.try_write(&chunk) {
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
            });
            Ok(End::Synack {
                _stack: stack,
                stream: Some(stream),
            })
        }
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

fn synack_end(address: Ipv4Addr, end: LinkEnd, congestion: Congestion) -> io::Result<Stack> {
    let mut config = Config::default();
    config.options(SocketOptions {
        congestion,
        ..SocketOptions::default()
    });
    let net = format!("{address}/24").parse().map_err(io::Error::other)?;
    Stack::builder().address(net).config(config).spawn(end)
}

/// A namespace whose only way out is the link.
fn linux_end(address: Ipv4Addr, end: LinkEnd) -> io::Result<NetNs> {
    let namespace = NetNs::new()?;
    let net = format!("{address}/24").parse().map_err(io::Error::other)?;
    let tun = Tun::builder()
        .name("wan0")
        .address(net)
        .mtu(1500)
        .offload(false)
        .tx_queue_len(10_000)
        .netns(namespace.clone())
        .build()?;
    let (up, down) = (Cell::new(tun), Cell::new(end));
    tokio::spawn(carry(Arc::clone(&up), Arc::clone(&down)));
    tokio::spawn(carry(down, up));
    Ok(namespace)
}

/// A device that two tasks of one thread poll in turn.
struct Cell<D>(std::sync::Mutex<D>);

impl<D> Cell<D> {
    fn new(device: D) -> Arc<Self> {
        Arc::new(Self(std::sync::Mutex::new(device)))
    }
}

/// Carries packets from one device to another for as long as both live.
async fn carry<A: Device, B: Device>(from: Arc<Cell<A>>, to: Arc<Cell<B>>) -> io::Result<()> {
    let (mut batch, mut queue) = (Vec::new(), VecDeque::new());
    loop {
        poll_fn(|cx| {
            from.0
                .lock()
                .expect("not poisoned")
                .poll_recv(cx, &mut batch, 64)
        })
        .await?;
        queue.extend(batch.drain(..));
        poll_fn(|cx| to.0.lock().expect("not poisoned").poll_send(cx, &mut queue)).await?;
    }
}
