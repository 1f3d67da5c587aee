use std::task::{Wake, Waker};

use futures::{SinkExt, StreamExt};

use super::*;
use crate::packet::Meta;

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn made(payload: &'static [u8]) -> Packet {
    let mut packet = Packet::with_head(b"head:", Meta::default());
    packet.body.push(Bytes::from_static(payload));
    packet
}

fn batch(count: usize) -> VecDeque<Packet> {
    (0..count).map(|_| made(b"x")).collect()
}

async fn device_send(device: &mut Channel, packet: Packet) -> io::Result<()> {
    let mut packets = VecDeque::from([packet]);
    poll_fn(|cx| device.poll_send(cx, &mut packets)).await
}

async fn device_recv(device: &mut Channel) -> io::Result<Vec<Packet>> {
    let mut packets = Vec::new();
    poll_fn(|cx| device.poll_recv(cx, &mut packets, 64)).await?;
    Ok(packets)
}

#[tokio::test]
async fn whole_packets_pass_both_ways_in_order() {
    let (mut device, mut end) = channel(1500, 4);
    device_send(&mut device, made(b"one")).await.unwrap();
    device_send(&mut device, made(b"two")).await.unwrap();
    assert_eq!(end.recv().await.unwrap(), "head:one");
    assert_eq!(end.next().await.unwrap(), "head:two");
    assert!(end.try_recv().is_none());

    end.send(&b"three"[..]).await.unwrap();
    SinkExt::send(&mut end, Bytes::from_static(b"four"))
        .await
        .unwrap();
    let packets = device_recv(&mut device).await.unwrap();
    assert_eq!(packets[0].to_vec(), b"three");
    assert_eq!(packets[1].to_vec(), b"four");
}

#[test]
fn a_packet_in_one_piece_is_not_copied() {
    let bytes = Bytes::from(vec![1; 100]);
    let at = bytes.as_ptr();
    assert_eq!(into_bytes(received(bytes)).as_ptr(), at);
}

#[test]
fn a_full_queue_holds_the_rest_back_and_wakes_once_when_half_is_free() {
    let (mut device, mut end) = channel(1500, 8);
    let wakes = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    let mut packets = batch(20);
    assert!(device.poll_send(&mut cx, &mut packets).is_pending());
    assert!(device.poll_send(&mut cx, &mut packets).is_pending());
    assert_eq!(packets.len(), 12);
    for expected in [0, 0, 0, 1, 1, 1, 1, 1] {
        assert!(end.try_recv().is_some());
        assert_eq!(wakes.get(), expected);
    }
    assert!(device.poll_send(&mut cx, &mut packets).is_pending());
    assert_eq!(packets.len(), 4);
}

#[test]
fn a_receiver_is_woken_once_for_a_batch() {
    let (mut device, end) = channel(1500, 64);
    let wakes = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    let mut received = Vec::new();
    assert!(device.poll_recv(&mut cx, &mut received, 64).is_pending());
    for _ in 0..10 {
        end.try_send(&b"packet"[..]).unwrap();
    }
    assert_eq!(wakes.get(), 1);
    let all = device.poll_recv(&mut cx, &mut received, 64);
    assert!(matches!(all, Poll::Ready(Ok(10))));
}

#[tokio::test]
async fn packets_larger_than_the_mtu_are_dropped_and_counted() {
    let (mut device, mut end) = channel(100, 4);
    end.send(vec![0; 101]).await.unwrap();
    end.try_send(vec![0; 101]).unwrap();
    end.try_send(Vec::new()).unwrap();
    end.send(vec![0; 100]).await.unwrap();
    assert_eq!(device_recv(&mut device).await.unwrap().len(), 1);
    device_send(&mut device, received(Bytes::from(vec![0; 101])))
        .await
        .unwrap();
    assert!(end.try_recv().is_none());
    assert_eq!(device.drops(), 4);

    end.set_mtu(101);
    assert_eq!(device.capabilities().mtu, 101);
    end.send(vec![0; 101]).await.unwrap();
    assert_eq!(device_recv(&mut device).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_dropped_end_lets_the_device_drain_then_end() {
    let (mut device, end) = channel(1500, 4);
    let (sender, receiver) = end.split();
    let clone = sender.clone();
    drop(sender);
    clone.send(&b"last"[..]).await.unwrap();
    drop((clone, receiver));
    assert_eq!(device_recv(&mut device).await.unwrap().len(), 1);
    assert!(device_recv(&mut device).await.unwrap().is_empty());
    let error = device_send(&mut device, made(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_dropped_device_ends_the_stream_and_fails_the_sink() {
    let (mut device, mut end) = channel(1500, 4);
    device_send(&mut device, made(b"last")).await.unwrap();
    drop(device);
    assert_eq!(end.recv().await.unwrap(), "head:last");
    assert!(end.recv().await.is_none());
    assert!(end.next().await.is_none());
    assert!(end.send(&b"x"[..]).await.is_err());
    assert!(end.sender().is_closed());
    let refused = end.try_send(&b"x"[..]).unwrap_err();
    assert_eq!(refused, TrySendError::Closed(Bytes::from_static(b"x")));
}

#[tokio::test]
async fn a_waiting_sender_learns_that_the_device_is_gone() {
    let (device, end) = channel(1500, 1);
    end.try_send(&b"one"[..]).unwrap();
    let full = end.try_send(&b"two"[..]).unwrap_err();
    assert_eq!(full, TrySendError::Full(Bytes::from_static(b"two")));
    let waiting = tokio::spawn(async move { end.send(&b"two"[..]).await });
    tokio::task::yield_now().await;
    drop(device);
    assert!(waiting.await.unwrap().is_err());
}

#[tokio::test]
async fn a_pair_passes_super_packets_with_their_metadata() {
    let (one, mut other) = pair(1500);
    let mut one = one.offload(true);
    assert_eq!(one.capabilities().segmentation_offload, Some(PACKET_MAX));
    let mut packet = made(b"");
    packet.meta.gso_size = 1448;
    packet.body.push(Bytes::from(vec![0; 40_000]));
    let meta = packet.meta;
    device_send(&mut one, packet).await.unwrap();
    let packets = device_recv(&mut other).await.unwrap();
    assert_eq!(packets[0].meta, meta);
    assert_eq!(packets[0].len(), 40_005);
    drop(one);
    assert!(device_recv(&mut other).await.unwrap().is_empty());
}
