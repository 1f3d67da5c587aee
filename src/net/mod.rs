//! The face of the stack: what `tokio::net` offers for TCP and UDP, over a [`Stack`].
//!
//! Names, signatures, error kinds, defaults and readiness are those of `tokio::net`, so that a
//! program changes its imports and nothing else. What needs a descriptor of the operating system
//! (`from_std`, `into_std`, `AsFd` and their like) is not there; in place of socket options set
//! through a descriptor there are typed methods.
//!
//! Functions that name no stack work on the [current one](Stack::current).

mod addr;
mod ambient;
#[cfg(feature = "axum")]
mod axum;
mod buffered;
#[cfg(feature = "futures-io")]
mod futures_io;
#[cfg(feature = "hyper")]
mod hyper;
mod incoming;
mod listener;
mod options;
mod socket;
mod split;
mod stack;
mod stream;
mod stream_io;
mod stream_options;
mod tcp_incoming;
#[cfg(test)]
mod tests;
#[cfg(feature = "tokio-util")]
mod tokio_util;
#[cfg(feature = "tonic")]
mod tonic;
mod udp;
mod udp_any;
mod udp_flow;

use std::task::{Context, Poll, ready};

use tokio::task::coop;

#[cfg(feature = "futures-io")]
pub use self::futures_io::FuturesStream;
#[cfg(feature = "hyper")]
pub use self::hyper::{Connecting, Connector};
pub use self::{
    ambient::Entered,
    incoming::{Incoming, IncomingStream},
    listener::TcpListener,
    socket::TcpSocket,
    stack::{Builder, Stack},
    stream::TcpStream,
    tcp_incoming::TcpIncoming,
    udp::UdpSocket,
    udp_any::AnyUdpSocket,
    udp_flow::{UdpFlow, UdpFlowStream},
};
pub use crate::engine::UdpDatagram;
/// The resolver of the operating system: names are looked up outside of the stack.
pub use tokio::net::{ToSocketAddrs, lookup_host};

/// The halves of a stream: see [`TcpStream::split`] and [`TcpStream::into_split`].
pub mod tcp {
    pub use super::split::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf};
}

/// Polls within the task's cooperative budget, of which a completed operation takes one unit.
fn budgeted<T>(cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let unit = ready!(coop::poll_proceed(cx));
    let value = ready!(poll(cx));
    unit.made_progress();
    Poll::Ready(value)
}
