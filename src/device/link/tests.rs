use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::time;

use super::*;
use crate::{
    device::Device,
    packet::{Meta, Packet},
};

const MS: Duration = Duration::from_millis(1);

fn packet(number: u8, len: usize) -> Packet {
    Packet::received(Bytes::from(vec![number; len]), Meta::default())
}

async fn send(end: &mut LinkEnd, packet: Packet) -> io::Result<()> {
    let mut packets = VecDeque::from([packet]);
    poll_fn(|cx| end.poll_send(cx, &mut packets)).await
}

/// The first bytes of the packets that arrive together.
async fn receive(end: &mut LinkEnd) -> Vec<u8> {
    let mut packets = Vec::new();
    let count = poll_fn(|cx| end.poll_recv(cx, &mut packets, 64))
        .await
        .unwrap();
    assert_eq!(count, packets.len());
    packets.iter().map(|packet| packet.first()[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn packets_arrive_when_they_should() {
    let (mut one, mut other) = Link::builder()
        .delay(10 * MS)
        .backward(Impairment::new().delay(30 * MS).rate(1_000_000))
        .build();
    let start = time::Instant::now();
    send(&mut one, packet(1, 1000)).await.unwrap();
    send(&mut one, packet(2, 1000)).await.unwrap();
    assert_eq!(receive(&mut other).await, [1, 2]);
    assert_eq!(start.elapsed(), 10 * MS);

    // 1000 bytes take 8 ms.
    let start = time::Instant::now();
    send(&mut other, packet(3, 1000)).await.unwrap();
    send(&mut other, packet(4, 1000)).await.unwrap();
    assert_eq!(receive(&mut one).await, [3]);
    assert_eq!(start.elapsed(), 38 * MS);
    assert_eq!(receive(&mut one).await, [4]);
    assert_eq!(start.elapsed(), 46 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_receiver_is_woken_for_what_comes_earlier() {
    let (mut one, mut other) = Link::builder()
        .filter(|_, packet| match packet.first()[0] {
            1 => Verdict::Delay(500 * MS),
            _ => Verdict::Pass,
        })
        .build();
    let start = time::Instant::now();
    let receiving = tokio::spawn(async move {
        let first = receive(&mut other).await;
        let at = start.elapsed();
        (first, at, receive(&mut other).await, start.elapsed())
    });
    time::sleep(10 * MS).await;
    send(&mut one, packet(1, 40)).await.unwrap();
    time::sleep(10 * MS).await;
    send(&mut one, packet(2, 40)).await.unwrap();
    let expected = (vec![2], 20 * MS, vec![1], 510 * MS);
    assert_eq!(receiving.await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_filter_may_use_the_control() {
    let control: Arc<Mutex<Option<LinkControl>>> = Arc::default();
    let of_filter = Arc::clone(&control);
    let mut seen = 0;
    let (mut one, mut other) = Link::builder()
        .filter(move |direction, _| {
            seen += 1;
            let control = of_filter.lock().unwrap();
            control.as_ref().unwrap().set_down(seen == 2);
            match direction {
                Direction::Forward => Verdict::Pass,
                Direction::Backward => Verdict::Drop,
            }
        })
        .build();
    *control.lock().unwrap() = Some(one.control());
    for number in 1..=3 {
        send(&mut one, packet(number, 40)).await.unwrap();
    }
    send(&mut other, packet(4, 40)).await.unwrap();
    assert_eq!(receive(&mut other).await, [1, 3]);
    let stats = one.control().stats(Direction::Forward);
    assert_eq!((stats.sent, stats.delivered, stats.lost), (3, 2, 1));
    assert_eq!(other.control().stats(Direction::Backward).filtered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_end_is_seen_when_all_has_arrived() {
    let (mut one, mut other) = Link::builder().delay(MS).build();
    send(&mut one, packet(1, 40)).await.unwrap();
    drop(one);
    let error = send(&mut other, packet(2, 40)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(receive(&mut other).await, [1]);
    assert!(receive(&mut other).await.is_empty());

    let (one, mut other) = Link::builder().build();
    let waiting = tokio::spawn(async move { receive(&mut other).await });
    tokio::task::yield_now().await;
    drop(one);
    assert!(waiting.await.unwrap().is_empty());
}

#[tokio::test]
async fn packets_larger_than_the_mtu_are_dropped_and_counted() {
    let (mut one, mut other) = Link::builder().mtu(1000).build();
    send(&mut one, packet(1, 1001)).await.unwrap();
    assert_eq!(one.drops(), 1);
    other.control().set_mtu(1001);
    assert_eq!(one.capabilities().mtu, 1001);
    send(&mut one, packet(2, 1001)).await.unwrap();
    assert_eq!(receive(&mut other).await, [2]);

    let (mut one, mut other) = Link::builder().offload(true).build();
    let mut large = packet(3, 60_000);
    large.meta.gso_size = 1448;
    send(&mut one, large).await.unwrap();
    assert_eq!(receive(&mut other).await, [3]);
}

#[tokio::test(start_paused = true)]
async fn a_switch_sends_packets_on_by_their_destination() {
    let (switch, ends) = Switch::builder()
        .port("10.0.0.1/32".parse().unwrap(), Impairment::new())
        .also("fd00::1/128".parse().unwrap())
        .port("10.0.0.0/8".parse().unwrap(), Impairment::new())
        .port("10.0.0.3/32".parse().unwrap(), Impairment::new().loss(1.0))
        .build();
    let Ok([mut a, mut b, mut c]) = <[LinkEnd; 3]>::try_from(ends) else {
        panic!("three ports");
    };
    let to = |address: &str| {
        let mut bytes = [0; 40];
        match address.parse().unwrap() {
            IpAddr::V4(address) => {
                bytes[0] = 0x45;
                bytes[16..20].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                bytes[0] = 0x60;
                bytes[24..40].copy_from_slice(&address.octets());
            }
        }
        Packet::received(Bytes::copy_from_slice(&bytes), Meta::default())
    };
    send(&mut c, to("10.0.0.1")).await.unwrap();
    send(&mut c, to("fd00::1")).await.unwrap();
    send(&mut c, to("10.9.9.9")).await.unwrap();
    send(&mut a, to("10.0.0.3")).await.unwrap();
    send(&mut a, to("192.0.2.1")).await.unwrap();
    send(&mut a, packet(0, 40)).await.unwrap();
    assert_eq!(receive(&mut a).await, [0x45, 0x60]);
    assert_eq!(receive(&mut b).await, [0x45]);
    assert_eq!(switch.stats(2).lost, 1);
    assert_eq!(a.drops(), 2);
    drop((a, c));
    assert!(receive(&mut b).await.is_empty());
    send(&mut b, to("10.0.0.1")).await.unwrap();
    assert_eq!(switch.stats(0).lost, 1);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run_over_devices() {
    async fn run(seed: u64) -> Vec<(Duration, Vec<u8>)> {
        let (mut one, mut other) = Link::builder()
            .seed(seed)
            .delay(5 * MS)
            .jitter(20 * MS)
            .loss(0.1)
            .duplicate(0.1)
            .reorder(0.1, 10 * MS)
            .build();
        let start = time::Instant::now();
        for number in 0..200 {
            send(&mut one, packet(number, 40)).await.unwrap();
            time::sleep(MS).await;
        }
        drop(one);
        let mut arrivals = Vec::new();
        loop {
            let packets = receive(&mut other).await;
            if packets.is_empty() {
                return arrivals;
            }
            arrivals.push((start.elapsed(), packets));
        }
    }
    let first = run(1).await;
    assert_eq!(first, run(1).await);
    assert_ne!(first, run(2).await);
}
