//! The device at an end of a path.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
};

use tokio::time::{self, Sleep};

use super::{LinkControl, hub::Hub};
use crate::{
    device::{Capabilities, Device},
    packet::{PACKET_MAX, Packet},
};

/// One end of a [`Link`](super::Link), or a port of a [`Switch`](super::Switch).
///
/// It sends without ever waiting: what finds no room is lost. When all other ends are gone, what is
/// in flight still arrives, then the device reports its end; sending over a link whose other end is
/// gone fails with [`BrokenPipe`](io::ErrorKind::BrokenPipe). The clock is tokio's and wakes up
/// every millisecond at the most often, so packets that are due between arrive together.
///
/// ```
/// use synack::device::{Device, Link};
///
/// let (one, other) = Link::builder().mtu(1400).build();
/// assert_eq!((one.capabilities().mtu, other.capabilities().mtu), (1400, 1400));
/// ```
#[derive(Debug)]
pub struct LinkEnd {
    hub: Arc<Hub>,
    port: usize,
    sleep: Option<Pin<Box<Sleep>>>,
    drops: u64,
}

impl LinkEnd {
    pub(super) fn new(hub: Arc<Hub>, port: usize) -> Self {
        Self {
            hub,
            port,
            sleep: None,
            drops: 0,
        }
    }

    /// What changes and observes the link while it is used.
    ///
    /// # Panics
    /// If this is a port of a switch: its [`Switch`](super::Switch) does that.
    pub fn control(&self) -> LinkControl {
        assert!(
            self.hub.routes.is_none(),
            "a port of a switch has no LinkControl"
        );
        LinkControl {
            hub: Arc::clone(&self.hub),
        }
    }

    /// Where a packet goes: the port, unless none has the destination.
    fn route(&self, packet: &Packet) -> Option<usize> {
        let Some(routes) = &self.hub.routes else {
            return Some(1 - self.port);
        };
        let destination = destination(packet.first())?;
        routes
            .iter()
            .filter(|(prefix, _)| prefix.contains(&destination))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map(|(_, port)| *port)
    }

    fn admits(&self, packet: &Packet) -> bool {
        let max = if self.hub.offload && packet.meta.gso_size > 0 {
            PACKET_MAX
        } else {
            self.hub.mtu.load(Ordering::Relaxed)
        };
        (1..=max).contains(&packet.len())
    }
}

impl Device for LinkEnd {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: self.hub.mtu.load(Ordering::Relaxed),
            checksum_offload: self.hub.offload,
            segmentation_offload: self.hub.offload.then_some(PACKET_MAX),
        }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let now = time::Instant::now().into_std();
            let before = packets.len();
            let deadline = {
                let mut lane = self.hub.lane(self.port);
                while packets.len() - before < max.max(1)
                    && let Some(packet) = lane.path.pop_due(now)
                {
                    packets.push(packet);
                }
                let count = packets.len() - before;
                let deadline = lane.path.next_deadline();
                if count > 0 || (deadline.is_none() && lane.senders == 0) {
                    return Poll::Ready(Ok(count));
                }
                lane.register(cx);
                deadline
            };
            let Some(deadline) = deadline.map(time::Instant::from_std) else {
                return Poll::Pending;
            };
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(time::sleep_until(deadline)));
            if sleep.deadline() != deadline {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(cx));
        }
    }

    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        if packets.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.hub.routes.is_none() && self.hub.lane(1 - self.port).receiver_gone {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the other end of the link is gone",
            )));
        }
        let now = time::Instant::now().into_std();
        let mut wakers = Vec::new();
        for packet in packets.drain(..) {
            let verdict = self.hub.filter(self.port, &packet);
            match self.route(&packet).filter(|_| self.admits(&packet)) {
                Some(port) => wakers.extend(self.hub.lane(port).push(packet, verdict, now)),
                None => {
                    self.drops += 1;
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    fn drops(&self) -> u64 {
        self.drops
    }
}

impl Drop for LinkEnd {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        for port in 0..self.hub.lanes.len() {
            let mut lane = self.hub.lane(port);
            if port == self.port {
                lane.receiver_gone = true;
                lane.receiver = None;
                lane.path.clear();
            } else {
                lane.senders -= 1;
                if lane.senders == 0 {
                    wakers.extend(lane.receiver.take());
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The destination address of an IP packet.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    Some(match packet.first()? >> 4 {
        4 => IpAddr::from(*packet.get(16..20)?.first_chunk::<4>()?),
        6 => IpAddr::from(*packet.get(24..40)?.first_chunk::<16>()?),
        _ => return None,
    })
}
