//! From what the application calls an address to addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::{ToSocketAddrs, lookup_host};

/// All addresses that `addr` stands for; names are looked up outside of the stack.
pub(super) async fn resolve(addr: impl ToSocketAddrs) -> io::Result<Vec<SocketAddr>> {
    lookup_host(addr).await.map(Iterator::collect)
}

/// The error after every address was tried: the last one, if there were any.
pub(super) fn last_error(error: Option<io::Error>) -> io::Error {
    error.unwrap_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name or list given stands for no address at all",
        )
    })
}

/// Without what only the kernel uses.
pub(super) fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}

/// Without what only the kernel uses, and `::ffff:a.b.c.d` as the IPv4 address that it means.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The same address as Linux shows it to a program that named it as one of IPv6.
pub(super) fn shown(addr: SocketAddr, of_v6: bool) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(v4) if of_v6 => SocketAddr::new(v4.to_ipv6_mapped().into(), addr.port()),
        _ => addr,
    }
}
