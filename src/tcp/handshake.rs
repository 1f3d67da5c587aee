//! Before a connection is synchronized: a small structure of its own for each side.

use std::time::Duration;

use crate::config::{Config, SocketOptions};

mod half_open;
mod opening;

pub(crate) use self::{
    half_open::{HalfOpen, Reaction},
    opening::{Opening, Progress},
};

/// RFC 6298 §2.1: the first timeout.
const INITIAL_RTO: Duration = Duration::from_secs(1);

/// The window of our SYN or SYN-ACK, which is never scaled (RFC 7323 §2.2).
fn first_window(options: &SocketOptions, config: &Config) -> u16 {
    options
        .recv_buffer
        .unwrap_or(config.recv_buffer)
        .min(usize::from(u16::MAX)) as u16
}
