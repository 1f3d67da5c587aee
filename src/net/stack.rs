//! A stack: its addresses, one engine, one device, and the task that drives them.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use ipnet::IpNet;
use tokio::{
    net::ToSocketAddrs,
    runtime::{self, Handle},
    sync::oneshot,
    task::coop,
    time,
};

use crate::{
    config::{Config, SocketOptions},
    device::{Device, Offload},
    engine::Engine,
    error::Failure,
    info::{Counters, SocketInfo},
    link::{Command, Doorbell, Network, Ports},
    packet::PACKET_MAX,
    reactor::{Reactor, Status},
    wire::ip::is_unicast_destination,
};

use super::{
    AnyUdpSocket, IncomingStream, TcpListener, TcpSocket, TcpStream, UdpFlowStream, UdpSocket,
    addr, options,
};

/// How long connections that nobody owns any more may take to send what is left, once the last
/// handle of their stack is gone.
const ORPHAN_DRAIN: Duration = Duration::from_secs(120);

/// What every IPv4 link carries (RFC 791).
const MTU_MIN_V4: usize = 68;

/// What every IPv6 link carries (RFC 8200 §5).
const MTU_MIN_V6: usize = 1280;

/// A TCP/IP stack in this process: addresses, one engine, one device.
///
/// This is a handle to it and cheap to clone. The stack runs as one task, the reactor, until it is
/// [shut down](Self::shutdown), its device fails, its runtime goes, or the last `Stack`, stream and
/// listener are dropped; in the last case, what connections still have to send is sent before
/// (for at most 120 s).
///
/// ```no_run
/// # async fn example(device: impl synack::device::Device) -> Result<(), Box<dyn std::error::Error>> {
/// use synack::{Stack, net::TcpStream};
///
/// let stack = Stack::builder().address("10.7.0.2/24".parse()?).spawn(device)?;
/// let stream = stack.connect("10.7.0.1:22").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Stack {
    shared: Arc<Shared>,
}

/// What all handles of a stack share. The reactor does not hold it, so that its end can be seen.
struct Shared {
    doorbell: Arc<Doorbell>,
    ports: Arc<Ports>,
    network: Arc<Network>,
    status: Arc<Status>,
    addresses: Box<[IpNet]>,
    device_name: Option<Box<str>>,
    config: Config,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // An error means that the reactor has ended already.
        let _ = self.doorbell.send(Command::Shutdown {
            drain: ORPHAN_DRAIN,
        });
    }
}

impl Stack {
    /// A stack with default configuration and no address yet.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Listens on the first of the addresses that can be bound, as
    /// [`TcpListener::bind`] does on the current stack. Cancel safe.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub async fn listen<A: ToSocketAddrs>(&self, addr: A) -> io::Result<TcpListener> {
        let mut last = None;
        for addr in addr::resolve(addr).await? {
            match TcpListener::bind_one(self, addr) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = Some(error),
            }
        }
        Err(addr::last_error(last))
    }

    /// Opens a connection to the first of the addresses that answers, as
    /// [`TcpStream::connect`] does from the current stack. Cancel safe: dropping the future abandons
    /// the attempt.
    ///
    /// # Errors
    /// As [`TcpStream::connect`].
    pub async fn connect<A: ToSocketAddrs>(&self, addr: A) -> io::Result<TcpStream> {
        let mut last = None;
        for addr in addr::resolve(addr).await? {
            match TcpStream::open(self, addr, None, self.default_options()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(addr::last_error(last))
    }

    /// Connections to any destination, address and port, to be decided upon one by one before the
    /// peer gets an answer: the door for VPNs and proxies. Listeners go first.
    ///
    /// From now on the stack ends TCP for every unicast address. The latest stream gets them all;
    /// when it is dropped, further ones are refused.
    ///
    /// ```no_run
    /// # async fn example(stack: synack::Stack) -> std::io::Result<()> {
    /// let mut incoming = stack.incoming()?;
    /// while let Some(wanted) = incoming.next().await {
    ///     tokio::spawn(async move {
    ///         // Dial first: who cannot be reached is refused, as if there were no proxy.
    ///         let Ok(mut upstream) = tokio::net::TcpStream::connect(wanted.local_addr()).await else {
    ///             return wanted.reject();
    ///         };
    ///         if let Ok(mut stream) = wanted.accept().await {
    ///             let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
    ///         }
    ///     });
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The stack has ended.
    pub fn incoming(&self) -> io::Result<IncomingStream> {
        IncomingStream::new(self)
    }

    /// A UDP socket on the first of the addresses that can be bound, as
    /// [`UdpSocket::bind`] makes it on the current stack. Cancel safe.
    ///
    /// # Errors
    /// As [`UdpSocket::bind`].
    pub async fn bind_udp<A: ToSocketAddrs>(&self, addr: A) -> io::Result<UdpSocket> {
        let mut last = None;
        for addr in addr::resolve(addr).await? {
            match UdpSocket::bind_one(self, addr) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = Some(error),
            }
        }
        Err(addr::last_error(last))
    }

    /// UDP to any destination, address and port, and answers from there: the door for VPNs and
    /// proxies. Bound sockets go first. While it exists, the stack takes UDP for every unicast
    /// address.
    ///
    /// # Errors
    /// `AddrInUse`: there is one already. Or the stack has ended.
    pub fn incoming_udp(&self) -> io::Result<AnyUdpSocket> {
        AnyUdpSocket::new(self)
    }

    /// UDP to any destination, as one handle for each pair of addresses: what a proxy wants that
    /// holds a socket upstream for each of its clients. There may be 65,536 at one time, of which
    /// 1,024 wait to be taken: datagrams that would begin more are dropped. Bound sockets go first.
    /// While the stream or one of its flows exists, the stack takes UDP for every unicast address.
    ///
    /// ```no_run
    /// # async fn example(stack: synack::Stack) -> std::io::Result<()> {
    /// use std::time::Duration;
    /// use tokio::{net::UdpSocket, time::timeout};
    ///
    /// const IDLE: Duration = Duration::from_secs(60);
    /// let mut flows = stack.udp_flows()?;
    /// while let Some(flow) = flows.next().await {
    ///     tokio::spawn(async move {
    ///         let upstream = UdpSocket::bind("0.0.0.0:0").await?;
    ///         upstream.connect(flow.local_addr()).await?;
    ///         let mut buf = vec![0; 65_535];
    ///         // A flow has no end, so whoever holds it decides when it is over.
    ///         while let Ok(next) = timeout(IDLE, async {
    ///             tokio::select! {
    ///                 question = flow.recv() => upstream.send(&question?).await,
    ///                 len = upstream.recv(&mut buf) => flow.send(&buf[..len?]).await,
    ///             }
    ///         }).await {
    ///             next?;
    ///         }
    ///         std::io::Result::Ok(())
    ///     });
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `AddrInUse`: there is such a stream already, or the socket of
    /// [`incoming_udp`](Self::incoming_udp). Or the stack has ended.
    pub fn udp_flows(&self) -> io::Result<UdpFlowStream> {
        UdpFlowStream::new(self)
    }

    /// Asks `addr` whether it is there (an ICMP echo request that carries `payload`) and tells how
    /// long the answer took.
    ///
    /// Dropping the future calls it off. Any number of pings may be on their way, up to 4,096.
    ///
    /// ```no_run
    /// # async fn example(stack: synack::Stack) -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let time = stack.ping("10.7.0.1".parse().unwrap(), &[0; 56], Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `TimedOut`: no answer within `timeout`. What ICMP says in place of it: `HostUnreachable`,
    /// `NetworkUnreachable` (also when the stack has no address of that family). `EMSGSIZE` (90) if
    /// the payload does not fit in one packet. Or the stack has ended.
    pub async fn ping(
        &self,
        addr: IpAddr,
        payload: &[u8],
        timeout: Duration,
    ) -> io::Result<Duration> {
        let to = addr.to_canonical();
        self.shared.network.check_len(payload.len(), to)?;
        let payload = Bytes::copy_from_slice(payload);
        let answer = self.ask(|reply| Command::Ping { to, payload, reply });
        match time::timeout(timeout, answer).await {
            Ok(answer) => answer?.map_err(io::Error::from),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{to} has not answered for {timeout:?}"),
            )),
        }
    }

    /// A new IPv4 socket of this stack.
    pub fn socket_v4(&self) -> TcpSocket {
        TcpSocket::of_stack(Some(self.clone()), false)
    }

    /// A new IPv6 socket of this stack.
    pub fn socket_v6(&self) -> TcpSocket {
        TcpSocket::of_stack(Some(self.clone()), true)
    }

    /// The addresses of the stack with the sizes of their networks.
    pub fn addresses(&self) -> &[IpNet] {
        &self.shared.addresses
    }

    /// All listeners, connections and UDP sockets: what `netstat` shows. Cancel safe.
    ///
    /// # Errors
    /// The stack has ended.
    pub async fn sockets(&self) -> io::Result<Vec<SocketInfo>> {
        self.ask(Command::Sockets).await
    }

    /// What has been counted so far. Cancel safe.
    ///
    /// # Errors
    /// The stack has ended.
    pub async fn counters(&self) -> io::Result<Counters> {
        self.ask(Command::Counters).await
    }

    /// How often the reactor has looked around so far. Stands still while the stack is idle.
    pub fn turns(&self) -> u64 {
        self.shared.status.turns()
    }

    /// Ends the stack: listeners close at once, connections may send what they have for `drain`,
    /// what is left then is reset. Done when the reactor has ended and the device is dropped.
    ///
    /// Streams fail from then on with `NotConnected`. Dropping the future does not call the
    /// shutdown off; a second call may shorten the time, not prolong it.
    pub async fn shutdown(&self, drain: Duration) {
        // An error means that the reactor is on its way out already.
        let _ = self.send(Command::Shutdown { drain });
        self.shared.status.ended().await;
    }

    /// Waits until the stack has ended. Cancel safe; any number of tasks may wait.
    ///
    /// # Errors
    /// It was not shut down: its device failed (the error's kind and text), or its runtime went.
    pub async fn closed(&self) -> io::Result<()> {
        self.shared.status.ended().await.to_result()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.shared.status.cause().is_some()
    }

    pub(super) fn doorbell(&self) -> &Arc<Doorbell> {
        &self.shared.doorbell
    }

    pub(super) fn ports(&self) -> &Arc<Ports> {
        &self.shared.ports
    }

    pub(super) fn network(&self) -> &Arc<Network> {
        &self.shared.network
    }

    pub(super) fn device_name(&self) -> Option<&str> {
        self.shared.device_name.as_deref()
    }

    pub(super) fn config(&self) -> &Config {
        &self.shared.config
    }

    pub(super) fn default_options(&self) -> SocketOptions {
        self.shared.config.options
    }

    pub(super) fn send(&self, command: Command) -> io::Result<()> {
        self.shared.doorbell.send(command).map_err(io::Error::from)
    }

    /// Sends a question to the reactor and waits for the answer.
    pub(super) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> io::Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.send(question(sender))?;
        receiver.await.map_err(|_| Failure::StackClosed.into())
    }

    /// Where a connection to `peer` goes: as on Linux, "this host" is the address that the socket
    /// is bound to, or else the loopback address, which is the stack itself. What no address of the
    /// stack can reach is refused.
    pub(super) fn destination(
        &self,
        peer: SocketAddr,
        bound: Option<SocketAddr>,
    ) -> io::Result<SocketAddr> {
        let mut peer = addr::canonical(peer);
        let own = bound.map(|bound| bound.ip().to_canonical());
        if let Some(own) = own.filter(|own| own.is_ipv4() == peer.is_ipv4())
            && peer.ip().is_unspecified()
        {
            peer.set_ip(own);
        }
        // Addresses that packets can go out from.
        let mut outward = self.addresses().iter().map(IpNet::addr);
        let of_family = outward.any(|ip| !ip.is_loopback() && ip.is_ipv4() == peer.is_ipv4());
        match peer.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ok((Ipv4Addr::LOCALHOST, peer.port()).into()),
            IpAddr::V6(ip) if ip.is_unspecified() => Ok((Ipv6Addr::LOCALHOST, peer.port()).into()),
            ip if ip.is_loopback() || of_family && !self.network().is_for_many(ip) => Ok(peer),
            _ => Err(io::Error::new(
                io::ErrorKind::NetworkUnreachable,
                format!(
                    "no address of the stack ({:?}) can reach {}",
                    self.addresses(),
                    peer.ip()
                ),
            )),
        }
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("addresses", &self.addresses())
            .field("ended", &self.shared.status.cause())
            .finish_non_exhaustive()
    }
}

/// What a stack is made of: see [`Stack::builder`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::{Config, Stack, device};
///
/// let (device, _other) = device::pair(1500);
/// let mut config = Config::default();
/// config.memory(64 << 20);
/// let stack = Stack::builder()
///     .address("10.7.0.2/24".parse()?)
///     .address("fd07::2/64".parse()?)
///     .config(config)
///     .spawn(device)?;
/// assert_eq!(stack.addresses().len(), 2);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing before it is spawned"]
pub struct Builder {
    addresses: Vec<IpNet>,
    config: Config,
}

impl Builder {
    /// Adds an address with the size of its network. At least one is needed; the first of each
    /// family is the one that connections start from unless they are bound.
    pub fn address(mut self, address: IpNet) -> Self {
        if !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
        self
    }

    /// Replaces the configuration. Default: [`Config::default`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Makes a whole run repeatable; for tests only. See [`Config::seed`].
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed(seed);
        self
    }

    /// Runs the stack as a task of the current runtime, whose timers must be enabled. Tasks that
    /// use its streams have the shortest way to it when they are tasks of the same runtime.
    ///
    /// # Errors
    /// There is no current runtime. `InvalidInput`: there is no address, one of them is no address
    /// of a host, or the MTU of the device is out of range (68, or 1280 with an IPv6 address, to
    /// 65,535).
    pub fn spawn<D: Device>(self, device: D) -> io::Result<Stack> {
        let handle = Handle::try_current().map_err(|_| {
            io::Error::other(
                "no tokio runtime is current here: call `spawn` inside of one, or use `spawn_on` \
                 or `spawn_thread`",
            )
        })?;
        self.spawn_on(&handle, device)
    }

    /// Runs the stack as a task of the given runtime, whose timers must be enabled.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), but for the missing runtime.
    pub fn spawn_on<D: Device>(self, handle: &Handle, device: D) -> io::Result<Stack> {
        let (stack, reactor) = self.prepare(handle, device)?;
        handle.spawn(coop::unconstrained(reactor));
        Ok(stack)
    }

    /// Runs the stack on a thread of its own, named `synack`. For applications that may block all
    /// the threads of their runtime, or have none.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use synack::{Stack, device};
    ///
    /// // No runtime is needed to make it.
    /// let (device, _other) = device::pair(1500);
    /// let stack = Stack::builder().address("10.7.0.2/24".parse()?).spawn_thread(device)?;
    /// let socket = stack.socket_v4();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), or what hinders the thread and its runtime.
    pub fn spawn_thread<D: Device>(self, device: D) -> io::Result<Stack> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stack, reactor) = self.prepare(runtime.handle(), device)?;
        thread::Builder::new()
            .name("synack".to_owned())
            .spawn(move || runtime.block_on(coop::unconstrained(reactor)))?;
        Ok(stack)
    }

    fn prepare<D: Device>(self, handle: &Handle, device: D) -> io::Result<(Stack, Reactor<D>)> {
        // The clock of that runtime, which a test may have paused.
        let _context = handle.enter();
        let mtu = device.capabilities().mtu;
        let device_name = device.name().map(Box::from);
        let mtus = self.check(mtu)?;
        let now = time::Instant::now().into_std();
        let engine = Engine::new(self.config.clone(), &self.addresses, mtu, now);
        let (doorbell, ports) = (engine.doorbell().clone(), engine.ports().clone());
        let network = engine.network().clone();
        let reactor = Reactor::new(Offload::new(device), engine, mtus);
        let shared = Shared {
            doorbell,
            ports,
            network,
            status: reactor.status().clone(),
            addresses: self.addresses.into(),
            device_name,
            config: self.config,
        };
        let stack = Stack {
            shared: Arc::new(shared),
        };
        Ok((stack, reactor))
    }

    /// The range that the MTU must stay in, if it and the addresses are right.
    fn check(&self, mtu: usize) -> io::Result<RangeInclusive<usize>> {
        if self.addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a stack needs at least one address: call `address` before `spawn`",
            ));
        }
        // Nobody would answer it: it counts as that of many, or of none.
        let no_host = |net: &&IpNet| {
            let ip = net.addr();
            Network::is_broadcast_of(net, ip) || !ip.is_loopback() && !is_unicast_destination(ip)
        };
        if let Some(net) = self.addresses.iter().find(no_host) {
            let allowed = "an address that a host can have in its network";
            return Err(options::invalid("address of a stack", net, allowed));
        }
        let has_v6 = self.addresses.iter().any(|net| net.addr().is_ipv6());
        let min = if has_v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
        if !(min..=PACKET_MAX).contains(&mtu) {
            let allowed = format!("{min} to {PACKET_MAX} bytes with these addresses");
            return Err(options::invalid("MTU of the device", mtu, &allowed));
        }
        Ok(min..=PACKET_MAX)
    }
}
