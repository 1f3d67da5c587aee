//! TCP in user space with the face of `tokio::net`.
//!
//! A [`Stack`] is: addresses, an [engine], a [device] that packets
//! come from and go to, and one background task that drives them. Applications hold a
//! [`net::TcpListener`] and [`net::TcpStream`]s, which behave like tokio's down to the
//! [`ErrorKind`](std::io::ErrorKind).
//!
//! ```
//! use synack::{Stack, device};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two stacks on one cable in memory; with a TUN device, the other end is Linux.
//! let (one, other) = device::pair(1500);
//! let server = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
//! let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
//!
//! let listener = server.listen("10.0.0.1:7").await?;
//! let mut stream = client.connect("10.0.0.1:7").await?;
//! let (mut accepted, _peer) = listener.accept().await?;
//! stream.write_all(b"hello").await?;
//! stream.shutdown().await?;
//! let mut text = String::new();
//! accepted.read_to_string(&mut text).await?;
//! assert_eq!(text, "hello");
//! # Ok(()) }
//! ```
//!
//! # Choose a device
//!
//! - `device::Tun`: a Linux TUN device. Linux is the other side of it, and what it routes there comes
//!   in. Making one takes `CAP_NET_ADMIN`, or a network namespace of one's own
//!   (`device::netns::enter_private_namespace`), which a user without privileges may have on most
//!   systems.
//! - [`device::channel()`]: whole packets to and from your program, as methods or as `Stream` and
//!   `Sink` of `Bytes`. For VPNs: what was decrypted goes in, what comes out is encrypted.
//! - [`device::Io`]: anything that reads and writes one packet at a time.
//! - [`device::pair`] and [`device::Link`]: stacks joined in memory, for tests and simulations.
//! - [`device::Loopback`]: nothing. The stack has itself to talk to.
//! - [`device::Capture`] around any of them writes a file for Wireshark; and
//!   [`Device`](device::Device) is a trait, so your own fits as well.
//! - None: the [`engine`] in a loop of your own, without a runtime.
//!
//! # Explicit or ambient
//!
//! [`Stack::listen`] and [`Stack::connect`] name the stack. Code that was written for tokio names
//! none: [`net::TcpStream::connect`] and its like use the [current](Stack::current) one, which is
//! that of [`Stack::scope`] around the task, or of [`Stack::enter`] in the thread, or the
//! [default](Stack::set_default) of the process. Tasks that are spawned inside of a scope have none
//! to begin with: give them one, or set a default. [`Stack::set_default_with`] gives each runtime a
//! default of its own, as test suites want it.
//!
//! The stack is a task of the current runtime ([`spawn`](net::Builder::spawn)), of another
//! ([`spawn_on`](net::Builder::spawn_on)), or has a thread of its own
//! ([`spawn_thread`](net::Builder::spawn_thread)): the choice for programs that may block all threads
//! of their runtime. On one thread with its users it has the least latency.
//!
//! # Test with a clock that does not wait
//!
//! Time is tokio's. With `#[tokio::test(start_paused = true)]` (tokio's feature `test-util`) it jumps
//! to the next timer whenever nobody has anything to do, and hours of TCP pass in milliseconds, with
//! real segments and real timers. A seed makes the run repeatable, and a
//! [`Link`](device::Link) loses, delays and damages as told:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use synack::{Stack, device::Link};
//! use tokio::{io::{AsyncReadExt, AsyncWriteExt}, time::Instant};
//!
//! let link = Link::builder().seed(7).delay(Duration::from_millis(200)).loss(0.02);
//! let (one, other) = link.build();
//! let server = Stack::builder().address("10.0.0.1/24".parse()?).seed(1).spawn(one)?;
//! let client = Stack::builder().address("10.0.0.2/24".parse()?).seed(2).spawn(other)?;
//!
//! let start = Instant::now();
//! let listener = server.listen("10.0.0.1:80").await?;
//! let mut stream = client.connect("10.0.0.1:80").await?;
//! tokio::spawn(async move { stream.write_all(&vec![7; 100_000]).await });
//! let (mut accepted, _peer) = listener.accept().await?;
//! let mut all = Vec::new();
//! accepted.read_to_end(&mut all).await?;
//! assert_eq!(all.len(), 100_000);
//! // At least a round trip and a half, of which nobody had to wait a moment.
//! assert!(start.elapsed() >= Duration::from_millis(600));
//! # Ok(()) }
//! ```
//!
//! A future that waits for something outside of tokio's time (a thread, a real socket) does not hold
//! the clock: use real time there.
//!
//! # End the TCP of a VPN
//!
//! [`Stack::incoming`] yields connections to any destination *before* they are answered. Dial where
//! they want to go, then [accept](net::Incoming::accept) or [reject](net::Incoming::reject): the
//! client is told what it would be told without you. For UDP there are [`Stack::udp_flows`] and
//! [`Stack::incoming_udp`]. `examples/proxy.rs` is a whole tun2proxy,
//! `examples/wireguard.rs` has a stack at each end of a tunnel, and `examples/packets.rs` the bare
//! packets.
//!
//! # Tune
//!
//! [`Config`] has a setter for everything, with its unit, range and Linux's name; the defaults are
//! Linux's. What is worth a look:
//! - Throughput on a TUN comes from segmentation offload, which is on where the kernel grants it.
//!   Over other devices a larger MTU has most of the effect.
//! - `read_chunk` and `write_chunk` of [`net::TcpStream`] move `Bytes` without a copy.
//! - [`Config::recv_buffer_max`] and [`Config::send_buffer_max`] bound a connection: for full speed
//!   they must hold rate times round-trip time. [`Config::memory`] bounds all of them together.
//! - Paths faster than Linux's 200 ms expect: [`Config::rto_min`].
//! - [`Stack::sockets`], [`Stack::counters`] and [`net::TcpStream::info`] show what goes on. What
//!   happens to a connection is told to the crate `tracing`, at the level `debug` (what is sent again
//!   at `trace`), in a span `connection` with its addresses, `local` and `peer`.
//!
//! # Limits, and what differs from the kernel
//!
//! - No descriptors: `from_std`, `AsRawFd` and what builds on them do not exist. Typed methods are
//!   there in place of socket options.
//! - Fragments are dropped, there is no routing table: a stack has one device, and its first address
//!   of a family is the one that connections start from.
//! - Names are looked up by the operating system, outside of the stack.
//! - A stack that was shut down answers `NotConnected`, one whose device failed `NetworkDown`;
//!   [`Stack::closed`] tells the cause.
//! - Packets out are not sent while the task of the stack does not run: a runtime whose only thread
//!   is blocked stops its TCP, unless the stack has a thread of its own.
//!
//! `docs/tokio-net.md` has the whole face of `tokio::net` row by row, with the tests and what
//! differs.
//!
//! # Cargo features
//!
//! They only add: `tun` (default), `axum`, `hyper`, `tonic`, `tokio-util`, `futures-io`, `serde`.

mod checksum;
pub mod config;
pub mod congestion;
pub mod device;
pub mod engine;
mod error;
pub mod info;
mod link;
pub mod net;
pub mod packet;
mod pool;
mod reactor;
mod seq;
mod tcp;
#[cfg(test)]
mod testing;
mod time;
mod wire;

pub use crate::{
    config::Config,
    error::{Failure, Unreachable},
    net::Stack,
    time::Time,
};

/// The code of README.md, compiled.
#[cfg(all(doctest, feature = "tun"))]
#[doc = include_str!("../README.md")]
struct Readme;
