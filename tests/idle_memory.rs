//! What an established connection costs on which nothing is going on, everything included.
#![expect(unsafe_code, reason = "an allocator that counts")]
#![expect(clippy::disallowed_methods, reason = "a test may read the clock")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use synack::{config::Config, engine::Engine};

/// Bytes allocated, each rounded up as common allocators do.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

/// A word for the allocator, and sizes of multiples of sixteen bytes.
fn cost(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(cost(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(cost(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Carries packets to and fro until both are quiet.
fn settle(engines: &mut [Engine; 2], now: Instant) {
    let mut packets = VecDeque::new();
    loop {
        let mut moved = false;
        for side in 0..2 {
            while !engines[side].poll_packet(now, 64, &mut packets) {}
            engines[side].wakes().clear();
            moved |= !packets.is_empty();
            for packet in packets.drain(..) {
                engines[1 - side].on_packet(packet, now);
            }
        }
        if !moved {
            return;
        }
    }
}

#[test]
fn f6_an_idle_connection_costs_a_kibibyte_at_most() {
    const COUNT: usize = 4096;
    let mut now = Instant::now();
    let engine = |net: &str| Engine::new(Config::default(), &[net.parse().unwrap()], 1500, now);
    let mut engines = [engine("10.0.0.1/24"), engine("10.0.0.2/24")];
    let server = "10.0.0.1:80".parse().unwrap();
    let listener = engines[0].listen(server, 16).unwrap();
    let mut ids = [
        Vec::with_capacity(COUNT + 512),
        Vec::with_capacity(COUNT + 512),
    ];
    let mut open = |engines: &mut [Engine; 2], now: &mut Instant, count: usize| {
        for _ in 0..count {
            let client = engines[1].connect(server, *now).unwrap();
            settle(engines, *now);
            let (accepted, _) = engines[0]
                .accept(listener)
                .expect("the handshake is complete");
            // Bytes each way, so that whatever is made for them has been made.
            let mut buf = [0; 100];
            engines[1].write(client, &[7; 100], *now).unwrap();
            settle(engines, *now);
            assert_eq!(engines[0].read(accepted, &mut buf, *now).unwrap(), 100);
            engines[0].write(accepted, &[9; 100], *now).unwrap();
            settle(engines, *now);
            assert_eq!(engines[1].read(client, &mut buf, *now).unwrap(), 100);
            *now += Duration::from_millis(50);
            engines
                .iter_mut()
                .for_each(|engine| engine.on_timeout(*now));
            settle(engines, *now);
            ids[0].push(accepted);
            ids[1].push(client);
        }
    };
    // What the engines need once, and the few that are kept ready for more.
    open(&mut engines, &mut now, 512);
    let before = ALLOCATED.load(Ordering::Relaxed);
    open(&mut engines, &mut now, COUNT);
    let after = ALLOCATED.load(Ordering::Relaxed);
    let each = (after - before) / (2 * COUNT);
    println!("an idle connection costs {each} bytes");
    assert!(each <= 1024, "{each} bytes");
    // They still work.
    for (accepted, client) in ids[0].iter().zip(&ids[1]) {
        let mut buf = [0; 8];
        engines[1].write(*client, b"question", now).unwrap();
        settle(&mut engines, now);
        assert_eq!(engines[0].read(*accepted, &mut buf, now).unwrap(), 8);
        engines[0].write(*accepted, b"answer", now).unwrap();
        settle(&mut engines, now);
        assert_eq!(engines[1].read(*client, &mut buf, now).unwrap(), 6);
    }
}
