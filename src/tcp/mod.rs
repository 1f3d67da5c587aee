//! One connection. It knows no addresses, no device and no other connection: segments, rings and
//! timeouts go in, segments come out.
//!
//! ```text
//!                 Segment                                    Outgoing
//!                    │                                           ▲
//!   input: SEGMENT ARRIVES, a method per step        output: what to send next
//!                    │                                           │
//!   ack: scoreboard, RTT, recovery ──────────────────────────────┤
//!                    │                                           │
//!   recv: window, when to acknowledge            send: window, what is in flight
//!                    │                                           │
//!   assembler ─► link::RecvPipe                      link::SendPipe ─► queue
//! ```
//!
//! Before a connection is synchronized it is an [`Opening`](handshake::Opening) (we connect) or a
//! [`HalfOpen`](handshake::HalfOpen) (the peer does); after it was closed it is a
//! [`TimeWait`](time_wait::TimeWait). Both of the latter are small.

mod ack;
pub(crate) mod assembler;
pub(crate) mod congestion;
pub(crate) mod connection;
pub(crate) mod handshake;
pub(crate) mod idle;
mod input;
mod liveness;
pub(crate) mod negotiated;
mod output;
mod pacing;
pub(crate) mod path_mtu;
mod ranges;
mod recovery;
mod recv;
mod rtt;
mod scoreboard;
mod send;
mod state;
pub(crate) mod time_wait;
mod timeouts;
pub(crate) mod timers;

use crate::{
    config::Config,
    info::Counters,
    link::Wakes,
    packet::Payload,
    time::Time,
    wire::tcp::{Flags, TcpHeader},
};

/// What every event comes with.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Time,
    pub(crate) config: &'a Config,
    pub(crate) counters: &'a mut Counters,
    /// Wakers to fire once all locks are released.
    pub(crate) wakes: &'a mut Wakes,
}

/// A TCP segment as it arrived, or a super-segment that stands for several.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) header: TcpHeader,
    pub(crate) payload: Payload,
    /// Bytes of payload.
    pub(crate) len: u32,
    /// Segments on the wire that it stands for.
    pub(crate) count: u32,
    /// It was marked by a congested router (RFC 3168).
    pub(crate) ce: bool,
    /// Its packet is ECN-capable, or marked.
    pub(crate) ect: bool,
}

impl Segment {
    /// SEG.LEN: the sequence space it takes, counting SYN and FIN.
    pub(crate) fn seq_len(&self) -> u32 {
        let flags = self.header.flags;
        self.len + u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN))
    }
}

/// A segment to be sent. Ports are filled in by whoever knows them.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) header: TcpHeader,
    pub(crate) payload: Payload,
    /// Payload bytes of each segment on the wire, when there are several.
    pub(crate) gso_size: u16,
    /// ECN-capable transport (RFC 3168).
    pub(crate) ect: bool,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
}
