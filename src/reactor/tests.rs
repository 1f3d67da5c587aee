//! How long the reactor keeps its thread.

use std::{collections::VecDeque, future::poll_fn};

use bytes::Bytes;

use super::*;
use crate::{Config, device::Capabilities, packet::Meta};

/// Always has as many packets as it is asked for, of this length and of no sense.
struct Flood(usize);

impl Device for Flood {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: 1500,
            checksum_offload: true,
            segmentation_offload: Some(65_535),
        }
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let packet = Packet::received(Bytes::from(vec![0; self.0]), Meta::default());
        packets.extend(std::iter::repeat_n(packet, max));
        Poll::Ready(Ok(max))
    }

    fn poll_send(&mut self, _: &mut Context<'_>, _: &mut VecDeque<Packet>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn reactor(device: impl Device) -> Reactor<impl Device> {
    let now = time::Instant::now().into_std();
    let address = "10.0.0.1/24".parse().unwrap();
    let engine = Engine::new(Config::default(), &[address], 1500, now);
    Reactor::new(Offload::new(device), engine, 68..=65_535)
}

/// A7: other tasks have their turn after so many batches, or so many bytes.
#[tokio::test]
async fn a_flood_keeps_the_thread_for_a_few_batches_only() {
    for (len, turns) in [(100, TURNS as u64), (1500, 1)] {
        let mut reactor = reactor(Flood(len));
        let status = Arc::clone(reactor.status());
        for round in 1..4 {
            let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut reactor).poll(cx))).await;
            assert!(polled.is_pending());
            assert_eq!(status.turns(), round * turns, "packets of {len} bytes");
        }
    }
}
