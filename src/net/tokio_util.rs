//! Code that is generic over tokio-util's listeners takes ours.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use super::{TcpListener, TcpStream};

impl tokio_util::net::Listener for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        Self::poll_accept(self, cx)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}
