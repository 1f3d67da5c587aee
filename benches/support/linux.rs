//! Linux against itself: two namespaces joined by a veth pair, and a server on Linux's TCP.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    process::{self, Command},
    thread,
};

use synack::device::netns::NetNs;

use super::port;

/// Two namespaces with a cable between them.
pub(crate) struct Veth {
    pub(crate) client: NetNs,
    pub(crate) server: NetNs,
}

impl Veth {
    /// Address of the client's end.
    pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 1));
    /// Address of the server's end.
    pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 2));

    /// Makes the pair, with `ip` of iproute2.
    pub(crate) fn new(mtu: usize) -> io::Result<Self> {
        let (client, server) = (NetNs::new()?, NetNs::new()?);
        let other = format!("/proc/{}/fd/{}", process::id(), server.as_fd().as_raw_fd());
        client.run(|| {
            ip(&format!(
                "link add veth0 mtu {mtu} type veth peer name veth1 mtu {mtu}"
            ))?;
            ip(&format!("link set veth1 netns {other}"))?;
            ip(&format!("address add {}/24 dev veth0", Self::CLIENT))?;
            ip("link set veth0 up")
        })??;
        server.run(|| {
            forget_time_wait()?;
            ip(&format!("address add {}/24 dev veth1", Self::SERVER))?;
            ip("link set veth1 up")
        })??;
        Ok(Self { client, server })
    }
}

/// Switches TIME-WAIT off in the network namespace of the calling thread: ports would run out within
/// a second of connecting and closing.
pub(crate) fn forget_time_wait() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0")
}

/// Takes CUBIC for a socket, and for those accepted from it, whatever the system's default is.
pub(crate) fn use_cubic(socket: &impl AsFd) -> io::Result<()> {
    socket2::SockRef::from(socket).set_tcp_congestion(b"cubic")
}

/// Runs `ip` with these arguments in the namespace of the calling thread.
pub(crate) fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if output.status.success() {
        Ok(())
    } else {
        let error = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!(
            "ip {arguments}: {}",
            error.trim()
        )))
    }
}

type Service = fn(TcpStream) -> io::Result<()>;

/// Serves all ports at `address`, with a thread for each connection, until the process ends. It
/// does so in the network namespace and on the processors of the calling thread.
pub(crate) fn serve(address: IpAddr) -> io::Result<()> {
    let services: [(u16, Service); 4] = [
        (port::ECHO, echo),
        (port::DISCARD, discard),
        (port::CHARGEN, generate),
        (port::BOTH, both),
    ];
    for (port, service) in services {
        let listener = TcpListener::bind(SocketAddr::new(address, port))?;
        use_cubic(&listener)?;
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // A connection that fails is the client's to report.
                thread::spawn(move || service(stream));
            }
        });
    }
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut chunk = vec![0; 64 << 10];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            len => stream.write_all(&chunk[..len])?,
        }
    }
}

fn discard(mut stream: TcpStream) -> io::Result<()> {
    let mut chunk = vec![0; 256 << 10];
    while stream.read(&mut chunk)? > 0 {}
    Ok(())
}

fn generate(mut stream: TcpStream) -> io::Result<()> {
    let chunk = vec![7; 256 << 10];
    loop {
        stream.write_all(&chunk)?;
    }
}

fn both(stream: TcpStream) -> io::Result<()> {
    let other = stream.try_clone()?;
    let sender = thread::spawn(move || generate(other));
    discard(stream)?;
    drop(sender);
    Ok(())
}
