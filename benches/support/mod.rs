//! What the benchmarks share: a client on Linux's TCP, servers to compare with, and measuring.

#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![expect(
    clippy::disallowed_methods,
    reason = "to measure is to look at the clock"
)]

pub(crate) mod ceiling;
pub(crate) mod client;
pub(crate) mod linux;
pub(crate) mod measure;
pub(crate) mod synack;

/// Ports of the servers, which do the same on each stack.
pub(crate) mod port {
    /// Sends back what it receives (RFC 862), and closes when the client has.
    pub(crate) const ECHO: u16 = 7;
    /// Throws away what it receives (RFC 863).
    pub(crate) const DISCARD: u16 = 9;
    /// Sends without end (RFC 864).
    pub(crate) const CHARGEN: u16 = 19;
    /// Does both at once.
    pub(crate) const BOTH: u16 = 20;
}
