//! A socket that neither connects nor listens yet.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    config::{Congestion, KeepAlive, SocketOptions},
    link::{PortGuard, Reuse},
};

use super::{
    Stack, TcpListener, TcpStream, addr,
    options::{self, Buffer},
};

/// EAFNOSUPPORT: what the kernel answers to an address of the other family.
const WRONG_FAMILY: i32 = 97;

/// The longest name of an interface in Linux (`IFNAMSIZ`, less the zero behind it).
const DEVICE_NAME_MAX: usize = 15;

/// There is no such device.
const ENODEV: i32 = 19;

/// The longest queue of connections not yet accepted; more is cut down to it.
const BACKLOG_MAX: u32 = 65_535;

/// A TCP socket that can be configured and bound before it connects or listens.
///
/// It belongs to the stack that is [current](Stack::current) where it is made, or else to the one
/// that is where it is first used; [`Stack::socket_v4`] and [`Stack::socket_v6`] name the stack.
/// Dropping it gives the bound port back.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::net::TcpSocket;
///
/// let socket = TcpSocket::new_v4()?;
/// socket.bind("10.7.0.2:4000".parse()?)?;
/// let stream = socket.connect("10.7.0.1:22".parse()?).await?;
/// # Ok(()) }
/// ```
pub struct TcpSocket {
    v6: bool,
    state: Mutex<State>,
}

struct State {
    stack: Option<Stack>,
    options: SocketOptions,
    reuse: Reuse,
    device: Option<Vec<u8>>,
    bound: Option<PortGuard>,
}

impl State {
    fn set_reuse(&mut self, change: impl FnOnce(&mut Reuse)) {
        change(&mut self.reuse);
        if let Some(port) = &self.bound {
            port.set_reuse(self.reuse);
        }
    }

    /// The stack that the socket belongs to, from now on at the latest.
    fn stack(&mut self) -> io::Result<Stack> {
        if let Some(stack) = &self.stack {
            return Ok(stack.clone());
        }
        let stack = Stack::current()?;
        self.stack = Some(stack.clone());
        Ok(stack)
    }
}

options::common_options!(TcpSocket);
options::older_names!(TcpSocket);

impl TcpSocket {
    /// A socket for IPv4. Needs neither a stack nor a runtime yet.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn new_v4() -> io::Result<Self> {
        Ok(Self::of_stack(Stack::current().ok(), false))
    }

    /// A socket for IPv6. Needs neither a stack nor a runtime yet.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn new_v6() -> io::Result<Self> {
        Ok(Self::of_stack(Stack::current().ok(), true))
    }

    pub(super) fn of_stack(stack: Option<Stack>, v6: bool) -> Self {
        let options = stack.as_ref().map(Stack::default_options);
        Self {
            v6,
            state: Mutex::new(State {
                stack,
                options: options.unwrap_or_default(),
                reuse: Reuse::default(),
                device: None,
                bound: None,
            }),
        }
    }

    /// Binds to an address of the stack, or with the unspecified address to all. Port 0 picks a free
    /// one.
    ///
    /// # Errors
    /// `AddrInUse`; `AddrNotAvailable`: not an address of the stack. `InvalidInput`: bound already,
    /// or an address of IPv4 for a socket of IPv6. The operating system's error 97 (`EAFNOSUPPORT`):
    /// the other way round. Or there is no current stack.
    pub fn bind(&self, addr: SocketAddr) -> io::Result<()> {
        self.check_family(addr)?;
        let mut state = self.state();
        if let Some(port) = &state.bound {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the socket is bound to {} already, and can be bound only once",
                    port.local()
                ),
            ));
        }
        let stack = state.stack()?;
        let addr = addr::plain(addr);
        let port = stack.ports().bind(addr, state.reuse, false)?;
        state.bound = Some(port);
        Ok(())
    }

    /// Opens a connection, from the address that the socket is bound to or from one that is picked.
    ///
    /// Cancel safe: dropping the future abandons the attempt.
    ///
    /// # Errors
    /// As [`TcpStream::connect`]; and for an address of the other family as [`bind`](Self::bind).
    /// `AddrNotAvailable`: there is a connection from the address bound to, to that peer, already.
    pub async fn connect(self, addr: SocketAddr) -> io::Result<TcpStream> {
        self.check_family(addr)?;
        let (stack, state) = self.into_parts()?;
        TcpStream::open(&stack, addr, state.bound, state.options).await
    }

    /// Listens, on the address that the socket is bound to or else on all addresses with a port that
    /// is picked. Up to `backlog` connections (at most 65,535) wait to be accepted, and one more as
    /// in Linux.
    ///
    /// # Errors
    /// `AddrInUse`: another socket listens there. Or there is no current stack.
    pub fn listen(self, backlog: u32) -> io::Result<TcpListener> {
        let unbound = self.unspecified();
        let (stack, state) = self.into_parts()?;
        let port = match state.bound {
            Some(port) => {
                port.listen()?;
                port
            }
            None => stack.ports().bind(unbound, state.reuse, true)?,
        };
        let backlog = backlog.min(BACKLOG_MAX) as usize;
        TcpListener::start(&stack, port, backlog, state.options)
    }

    /// The address bound to, with the port that was picked; before, the unspecified address and port
    /// 0.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let bound = self.state().bound.as_ref().map(PortGuard::local);
        Ok(bound.unwrap_or_else(|| self.unspecified()))
    }

    /// The error that the socket has met: none, since every call reports its own.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }

    /// Whether keep-alive probes are sent (`SO_KEEPALIVE`). Default: false.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn keepalive(&self) -> io::Result<bool> {
        Ok(self.options().keepalive.is_some())
    }

    /// Switches keep-alive probes on or off. First after 2 h of silence, then every 75 s, nine times,
    /// unless [`set_keepalive_times`](Self::set_keepalive_times) says otherwise.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn set_keepalive(&self, keepalive: bool) -> io::Result<()> {
        self.change(|options| {
            options.keepalive = keepalive.then(|| options.keepalive.unwrap_or_default());
        });
        Ok(())
    }

    /// Switches keep-alive probes on, with these times (`TCP_KEEPIDLE`, `TCP_KEEPINTVL`,
    /// `TCP_KEEPCNT`). Times are 1 ms to 32,767 s, the count is 1 to 127.
    ///
    /// # Errors
    /// `InvalidInput`: outside of these ranges.
    pub fn set_keepalive_times(&self, probes: KeepAlive) -> io::Result<()> {
        let probes = options::keepalive(probes)?;
        self.change(|options| options.keepalive = Some(probes));
        Ok(())
    }

    /// Whether the remains of closed connections hinder binding (`SO_REUSEADDR`). Default: false,
    /// they do.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn reuseaddr(&self) -> io::Result<bool> {
        Ok(self.state().reuse.addr)
    }

    /// Lets the port be shared with sockets that set this too and do not listen, and with what
    /// remains of their connections. Once bound it counts for those that are bound later.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn set_reuseaddr(&self, reuseaddr: bool) -> io::Result<()> {
        self.state().set_reuse(|reuse| reuse.addr = reuseaddr);
        Ok(())
    }

    /// Whether several sockets may listen on the port (`SO_REUSEPORT`). Default: false.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn reuseport(&self) -> io::Result<bool> {
        Ok(self.state().reuse.port)
    }

    /// Lets several sockets that all set this listen on one port, over which connections are spread.
    /// Once bound it counts for those that are bound later.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn set_reuseport(&self, reuseport: bool) -> io::Result<()> {
        self.state().set_reuse(|reuse| reuse.port = reuseport);
        Ok(())
    }

    /// The size of the send buffer in bytes, as Linux would report it: the double of what was set;
    /// or what the stack starts with.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn send_buffer_size(&self) -> io::Result<u32> {
        let state = self.state();
        let default = state.stack.as_ref().map(|stack| stack.config().send_buffer);
        let default = default.unwrap_or(128 << 10);
        Ok(Buffer::Send.to_report(state.options.send_buffer, default))
    }

    /// Fixes the size of the send buffer in bytes, which then does not grow with use: 2304 to 2^30,
    /// clamped.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn set_send_buffer_size(&self, size: u32) -> io::Result<()> {
        let held = Buffer::Send.to_hold(size);
        self.change(|options| options.send_buffer = Some(held));
        Ok(())
    }

    /// The size of the receive buffer in bytes, as Linux would report it: the double of what was
    /// set; or what the stack starts with.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn recv_buffer_size(&self) -> io::Result<u32> {
        let state = self.state();
        let default = state.stack.as_ref().map(|stack| stack.config().recv_buffer);
        let default = default.unwrap_or(128 << 10);
        Ok(Buffer::Recv.to_report(state.options.recv_buffer, default))
    }

    /// Fixes the size of the receive buffer in bytes, which then does not grow with use and bounds
    /// the window: 1152 to 2^30, clamped.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn set_recv_buffer_size(&self, size: u32) -> io::Result<()> {
        let held = Buffer::Recv.to_hold(size);
        self.change(|options| options.recv_buffer = Some(held));
        Ok(())
    }

    /// The type of service of packets of IPv4 (`IP_TOS`). Default: 0.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn tos_v4(&self) -> io::Result<u32> {
        Ok(self.options().tos.into())
    }

    /// Sets the type of service of packets of IPv4: 0 to 255. The two lowest bits are for congestion
    /// notification and stay the stack's, as in Linux.
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range.
    pub fn set_tos_v4(&self, tos: u32) -> io::Result<()> {
        let tos = options::tos(tos)?;
        self.change(|options| options.tos = tos);
        Ok(())
    }

    /// The traffic class of packets of IPv6 (`IPV6_TCLASS`). Default: 0.
    ///
    /// # Errors
    /// `Unsupported`: the socket is for IPv4.
    pub fn tclass_v6(&self) -> io::Result<u32> {
        self.check_tclass()?;
        Ok(self.options().tclass.into())
    }

    /// Sets the traffic class of packets sent: as [`set_tos_v4`](Self::set_tos_v4).
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range. `Unsupported`: the socket is for IPv4.
    pub fn set_tclass_v6(&self, tclass: u32) -> io::Result<()> {
        self.check_tclass()?;
        let tclass = options::tos(tclass)?;
        self.change(|options| options.tclass = tclass);
        Ok(())
    }

    /// The name given to [`bind_device`](Self::bind_device). Default: `None`.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn device(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state().device.clone())
    }

    /// Ties the socket to an interface by its name, which can only be that of the stack's device
    /// ([`Device::name`](crate::device::Device::name)); `None` or an empty name unties it.
    ///
    /// A stack has one device, so a socket is never elsewhere: for one on another interface, take
    /// the stack of that one.
    ///
    /// # Errors
    /// The operating system's error 19 (`ENODEV`): the stack's device has another name, or none.
    /// `InvalidInput`: the name is longer than 15 bytes. Or there is no current stack.
    pub fn bind_device(&self, interface: Option<&[u8]>) -> io::Result<()> {
        let name = interface.filter(|name| !name.is_empty());
        if let Some(name) = name.filter(|name| name.len() > DEVICE_NAME_MAX) {
            let name = String::from_utf8_lossy(name);
            return Err(options::invalid("interface", name, "up to 15 bytes"));
        }
        let mut state = self.state();
        if let Some(name) = name {
            let stack = state.stack()?;
            if stack.device_name().map(str::as_bytes) != Some(name) {
                return Err(io::Error::from_raw_os_error(ENODEV));
            }
        }
        state.device = name.map(<[u8]>::to_vec);
        Ok(())
    }

    fn check_family(&self, addr: SocketAddr) -> io::Result<()> {
        match (self.v6, addr) {
            (true, SocketAddr::V6(_)) | (false, SocketAddr::V4(_)) => Ok(()),
            (false, _) => Err(io::Error::from_raw_os_error(WRONG_FAMILY)),
            (true, _) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("an IPv6 socket takes no address of IPv4 such as {addr}"),
            )),
        }
    }

    fn check_tclass(&self) -> io::Result<()> {
        if self.v6 {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "an IPv4 socket has no traffic class: use `set_tos_v4`",
        ))
    }

    fn unspecified(&self) -> SocketAddr {
        if self.v6 {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        }
    }

    fn options(&self) -> SocketOptions {
        self.state().options
    }

    fn change(&self, change: impl FnOnce(&mut SocketOptions)) {
        change(&mut self.state().options);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn into_parts(self) -> io::Result<(Stack, State)> {
        let state = self.state.into_inner();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        Ok((state.stack()?, state))
    }
}

impl fmt::Debug for TcpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("TcpSocket")
            .field("local", &state.bound.as_ref().map(PortGuard::local))
            .field("options", &state.options)
            .finish_non_exhaustive()
    }
}
