//! No network at all.

use std::{
    collections::VecDeque,
    io,
    task::{Context, Poll},
};

use super::{Capabilities, Device};
use crate::packet::{PACKET_MAX, Packet};

/// A device that nothing comes from, and that drops what is sent, and counts it.
///
/// For a stack that talks to itself only, on its own addresses, 127.0.0.0/8 and ::1: that is how
/// tests run which were written for the loopback of the operating system. The MTU is 65,535.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::{Stack, device::Loopback};
///
/// let stack = Stack::builder().address("127.0.0.1/8".parse()?).spawn(Loopback::new())?;
/// let listener = stack.listen("[::1]:0").await?;
/// let stream = stack.connect(listener.local_addr()?).await?;
/// # drop(stream);
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct Loopback {
    drops: u64,
}

impl Loopback {
    /// One end, with no other.
    pub const fn new() -> Self {
        Self { drops: 0 }
    }
}

impl Device for Loopback {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: PACKET_MAX,
            checksum_offload: true,
            segmentation_offload: None,
        }
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        _: &mut Vec<Packet>,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        self.drops += packets.len() as u64;
        packets.clear();
        Poll::Ready(Ok(()))
    }

    fn drops(&self) -> u64 {
        self.drops
    }
}
