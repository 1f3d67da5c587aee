//! Everything that a handle shares with the reactor.
//!
//! Shared mutability lives here and nowhere else: two pipes of bytes for each stream, a queue for
//! each listener, two queues for each datagram socket, the ports, and the doorbell by which handles make the reactor look. What is
//! marked \[engine\] is for the engine, which collects the wakers of whom it served and has them
//! fired when all is done. Everything else is for handles, and wakes by itself.
//!
//! Three rules keep wake-ups from being lost: check and register under one lock; change, then
//! press; answer, then look.

mod backlog;
mod blocks;
mod budget;
mod command;
mod datagram;
mod doorbell;
mod incoming;
mod network;
mod ports;
mod recv_pipe;
mod rope;
mod send_pipe;
mod stream;
mod waiters;

use std::task::Waker;

pub use self::doorbell::ConnId;
pub(crate) use self::{
    backlog::ListenerLink,
    command::Command,
    datagram::{Datagram, DatagramLink, Marks, Target},
    doorbell::Doorbell,
    incoming::{Arrival, Decision},
    network::Network,
    ports::{PortGuard, Ports, Reuse},
    rope::Rope,
    stream::StreamLink,
    waiters::Ready,
};

/// Wakers to fire once all locks are released.
pub(crate) type Wakes = Vec<Waker>;

/// Fires them.
fn fire(wakes: Wakes) {
    wakes.into_iter().for_each(Waker::wake);
}
