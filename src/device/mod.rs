//! Where packets come from and go to.

pub mod capture;
pub mod channel;
mod headers;
pub mod io;
pub mod link;
mod loopback;
#[cfg(all(feature = "tun", target_os = "linux"))]
pub mod netns;
mod offload;
#[cfg(all(feature = "tun", target_os = "linux"))]
mod reader;
#[cfg(all(feature = "tun", target_os = "linux"))]
mod rtnetlink;
mod run;
#[cfg(test)]
mod samples;
#[cfg(all(feature = "tun", target_os = "linux"))]
mod tun;
#[cfg(all(feature = "tun", target_os = "linux"))]
mod vnet;

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use crate::packet::Packet;

#[cfg(all(feature = "tun", target_os = "linux"))]
pub use self::tun::{Tun, TunBuilder};
pub use self::{
    capture::Capture,
    channel::{Channel, channel, pair},
    io::Io,
    link::Link,
    loopback::Loopback,
    offload::{Offload, Splitter},
};

/// What a device can do by itself.
///
/// ```
/// use synack::device::{self, Device};
///
/// let (device, _other) = device::pair(9000);
/// let capabilities = device.capabilities();
/// assert_eq!(capabilities.mtu, 9000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest IP packet in bytes, headers included, that goes over the device in one piece.
    pub mtu: usize,
    /// Takes packets whose transport checksum is [`Partial`](crate::packet::Checksum::Partial).
    pub checksum_offload: bool,
    /// Takes super-packets up to this many bytes, headers included, and delivers them too.
    pub segmentation_offload: Option<usize>,
}

/// A source and sink of IP packets, polled by the reactor.
///
/// A device moves packets and knows nothing of what is in them. It works in batches: one poll
/// should move as much as it can.
///
/// ```
/// use std::{collections::VecDeque, io, task::{Context, Poll}};
/// use synack::{device::{Capabilities, Device}, packet::Packet};
///
/// /// Swallows everything.
/// struct BlackHole;
///
/// impl Device for BlackHole {
///     fn capabilities(&self) -> Capabilities {
///         Capabilities { mtu: 1500, checksum_offload: true, segmentation_offload: Some(65_535) }
///     }
///     fn poll_recv(&mut self, _: &mut Context<'_>, _: &mut Vec<Packet>, _: usize) -> Poll<io::Result<usize>> {
///         Poll::Pending
///     }
///     fn poll_send(&mut self, _: &mut Context<'_>, packets: &mut VecDeque<Packet>) -> Poll<io::Result<()>> {
///         packets.clear();
///         Poll::Ready(Ok(()))
///     }
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stack = synack::Stack::builder().address("10.7.0.2/24".parse()?).spawn(BlackHole)?;
/// # Ok(()) }
/// ```
pub trait Device: Send + 'static {
    /// What the device can do; may change while it is used (an MTU that is set anew).
    fn capabilities(&self) -> Capabilities;

    /// Appends up to `max` received packets to `packets`: `Ready` with their number, or with an
    /// error after which the device is of no use any more, or `Pending` when there is none.
    ///
    /// `Ready(Ok(0))` is returned by a device whose other end is gone for good and that will never
    /// deliver a packet again.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<std::io::Result<usize>>;

    /// Sends from the front of `packets` until it is empty (`Ready`) or the device takes no more
    /// for now (`Pending`, the rest stays in the queue).
    ///
    /// Packets that the device refuses one by one are dropped and counted by it, like a network
    /// does; an error is for a device that is of no use any more.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<std::io::Result<()>>;

    /// Allows the device to deliver super-packets although it takes none: who calls this merges
    /// segments anyway, as [`Offload`] does. For devices that do it at less cost while they read.
    fn merge_received(&mut self) {}

    /// Asks the device to take super-packets and packets without a checksum although its capabilities
    /// do not say so, and to make of them what it can send. Whether it does; otherwise who asks, as
    /// [`Offload`] does, makes it. For devices that do it at less cost while they write.
    fn split_sent(&mut self) -> bool {
        false
    }

    /// Whether the last [`poll_recv`](Self::poll_recv) has not only delivered packets but taken all
    /// there were, and will have the task woken for the next: to poll once more, and to be told that
    /// there is none, would be for nothing. A device that does not know says no.
    fn is_drained(&self) -> bool {
        false
    }

    /// The name of the interface, if it is one.
    fn name(&self) -> Option<&str> {
        None
    }

    /// Packets that the device has refused or thrown away so far.
    fn drops(&self) -> u64 {
        0
    }
}
