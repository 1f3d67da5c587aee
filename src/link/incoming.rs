//! Connections to any destination, on their way to whoever decides about them.

use std::{net::SocketAddr, sync::Arc};

use super::{ConnId, StreamLink};
use crate::error::Unreachable;

/// A SYN that waits for a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Names it to the engine.
    pub(crate) id: ConnId,
    /// Where the peer wants to go.
    pub(crate) local: SocketAddr,
    /// Where it comes from.
    pub(crate) peer: SocketAddr,
}

/// What is to become of it.
#[derive(Debug)]
pub(crate) enum Decision {
    /// A SYN-ACK; what the handle shares with the connection.
    Accept(Arc<StreamLink>),
    /// A reset: refused.
    Reset,
    /// An ICMP error.
    Report(Unreachable),
    /// Nothing at all.
    Ignore,
}
