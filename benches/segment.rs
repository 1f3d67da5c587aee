//! Two engines and no I/O, in virtual time: nanoseconds and allocations per segment.
//!
//! ```sh
//! cargo bench --bench segment             # everything, some seconds
//! cargo bench --bench segment -- bulk     # the cases whose names have this in them
//! ```
//!
//! A segment is a packet that one of the two engines has taken; both ends are in the figures, and
//! so are the application's reads and writes. It fails if anything is allocated per segment in
//! steady state, or if the cost of an acknowledgement grows with what is in flight.

#![expect(unsafe_code, reason = "an allocator is unsafe to write")]
#![expect(
    clippy::disallowed_methods,
    reason = "to measure is to look at the clock"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::VecDeque,
    env, io, mem,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use synack::{
    config::{Config, Congestion, SocketOptions},
    device::{Capabilities, Device, Offload},
    engine::{ConnId, Engine},
    packet::Packet,
};

const MTU: usize = 1500;
const PORT: u16 = 80;

fn main() -> ExitCode {
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wants = |name: &str| words.iter().all(|word| name.contains(word.as_str()));
    println!(
        "{:44}{:>10}{:>12}{:>10}",
        "", "ns/segment", "allocations", "Gbit/s"
    );
    let is_good = Cell::new(true);
    let report = |name: &str, steady: bool, case: &mut dyn FnMut() -> Cost| {
        if !wants(name) {
            return;
        }
        // The first runs open windows, fill pools and let queues grow to their sizes.
        for _ in 0..8 {
            case();
        }
        let mut costs = [case(), case(), case()];
        costs.sort_by(|a, b| a.nanos().total_cmp(&b.nanos()));
        let cost = costs[1];
        let allocations = cost.allocations as f64 / cost.segments as f64;
        if steady && allocations > 1e-3 {
            is_good.set(false);
        }
        let gbits = match cost.bytes {
            0 => String::new(),
            bytes => format!("{:.1}", bytes as f64 * 8.0 / cost.time.as_nanos() as f64),
        };
        println!(
            "{name:44}{:>10.0}{allocations:>12.4}{gbits:>10}",
            cost.nanos()
        );
    };

    for (name, chunks) in [("write, read", false), ("write_chunk, read_chunk", true)] {
        for (way, carry) in [
            ("super-segments", Carry::Whole),
            ("split and merged", Carry::Merged),
            ("of 1,448 bytes", Carry::Split),
        ] {
            let mut bulk = Bulk::new(carry, chunks);
            report(&format!("bulk, {way}: {name}"), true, &mut || bulk.run());
        }
    }
    let mut pair = Pair::new(&Config::default());
    report("1-byte ping-pong", true, &mut || pair.ping_pong(20_000));
    let mut config = Config::default();
    config.time_wait(Duration::ZERO);
    let mut pair = Pair::new(&config);
    report("connect, 1 byte, close", false, &mut || {
        pair.open_and_close(2_000)
    });

    let mut least = f64::INFINITY;
    for in_flight in [10, 1_000, 100_000] {
        let name = format!("acknowledgement, {in_flight} segments in flight");
        let mut acks = Acks::new(in_flight);
        let mut nanos = 0.0;
        report(&name, true, &mut || {
            let cost = acks.run(20_000);
            nanos = cost.nanos();
            cost
        });
        least = least.min(nanos);
        if nanos > 1.5 * least {
            println!("^ more than 1.5 times as much as with less in flight");
            is_good.set(false);
        }
    }
    if is_good.get() {
        ExitCode::SUCCESS
    } else {
        eprintln!("segment: not as good as it has to be");
        ExitCode::FAILURE
    }
}

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps what `dealloc` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps what `realloc` asks for.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What some segments took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    time: Duration,
    allocations: u64,
    segments: u64,
    bytes: u64,
}

impl Cost {
    fn nanos(&self) -> f64 {
        self.time.as_nanos() as f64 / self.segments as f64
    }
}

struct Meter {
    start: Instant,
    allocations: u64,
}

impl Meter {
    fn start() -> Self {
        Self {
            allocations: ALLOCATIONS.load(Ordering::Relaxed),
            start: Instant::now(),
        }
    }

    fn cost(&self, segments: u64, bytes: u64) -> Cost {
        Cost {
            time: self.start.elapsed(),
            allocations: ALLOCATIONS.load(Ordering::Relaxed) - self.allocations,
            segments,
            bytes,
        }
    }
}

/// A client and a server, joined without delay or loss.
struct Pair {
    client: Engine,
    server: Engine,
    listener: ConnId,
    now: Instant,
    packets: VecDeque<Packet>,
    segments: u64,
}

impl Pair {
    fn new(config: &Config) -> Self {
        let now = Instant::now();
        let engine = |net: &str, seed| {
            let net = net.parse().expect("it is an address");
            let config = config.clone().seed(seed).clone();
            Engine::new(config, &[net], MTU, now)
        };
        let mut server = engine("10.0.0.1/24", 1);
        let client = engine("10.0.0.2/24", 2);
        let address = ([10, 0, 0, 1], PORT).into();
        let listener = server.listen(address, 16).expect("the port is free");
        Self {
            client,
            server,
            listener,
            now,
            packets: VecDeque::new(),
            segments: 0,
        }
    }

    /// Carries packets to and fro until both are quiet.
    fn settle(&mut self) {
        self.now += Duration::from_micros(20);
        loop {
            let client = pass(
                &mut self.client,
                &mut self.server,
                self.now,
                &mut self.packets,
            );
            let server = pass(
                &mut self.server,
                &mut self.client,
                self.now,
                &mut self.packets,
            );
            self.segments += client + server;
            if client + server == 0 {
                return;
            }
        }
    }

    fn open(&mut self) -> (ConnId, ConnId) {
        let address = ([10, 0, 0, 1], PORT).into();
        let client = self.client.connect(address, self.now).expect("it is ours");
        self.settle();
        let accepted = self.server.accept(self.listener);
        (client, accepted.expect("the handshake is complete").0)
    }

    fn ping_pong(&mut self, rounds: u64) -> Cost {
        let (client, server) = self.open();
        let mut run = |rounds| {
            for _ in 0..rounds {
                for is_client in [true, false] {
                    let (from, id) = match is_client {
                        true => (&mut self.client, client),
                        false => (&mut self.server, server),
                    };
                    let written = from.write(id, b"x", self.now);
                    assert_eq!(written.expect("there is room"), 1);
                    self.settle();
                    let (to, id) = match is_client {
                        true => (&mut self.server, server),
                        false => (&mut self.client, client),
                    };
                    let read = to.read(id, &mut [0; 16], self.now);
                    assert_eq!(read.expect("it has come"), 1);
                }
            }
            mem::take(&mut self.segments)
        };
        run(1000);
        let meter = Meter::start();
        let segments = run(rounds);
        let cost = meter.cost(segments, 0);
        self.client.abort(client, self.now);
        self.server.abort(server, self.now);
        self.settle();
        cost
    }

    fn open_and_close(&mut self, times: u64) -> Cost {
        self.segments = 0;
        let meter = Meter::start();
        for _ in 0..times {
            let (client, server) = self.open();
            let written = self.client.write(client, b"x", self.now);
            assert_eq!(written.expect("there is room"), 1);
            self.client.shutdown(client, self.now).expect("it is open");
            self.settle();
            let read = self.server.read(server, &mut [0; 16], self.now);
            assert_eq!(read.expect("it has come"), 1);
            self.server.close(server, self.now);
            self.settle();
            self.client.close(client, self.now);
            self.settle();
        }
        assert_eq!(self.client.sockets(self.now).len(), 0);
        meter.cost(self.segments, 0)
    }
}

/// Carries all packets from one engine to the other; says how many they were.
fn pass(from: &mut Engine, to: &mut Engine, now: Instant, packets: &mut VecDeque<Packet>) -> u64 {
    if from.next_deadline().is_some_and(|at| at <= now) {
        from.on_timeout(now);
    }
    while !from.poll_packet(now, 64, packets) {}
    let count = packets.len() as u64;
    for packet in packets.drain(..) {
        to.on_packet(packet, now);
    }
    from.wakes().clear();
    to.wakes().clear();
    count
}

/// In what form data goes from one engine to the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carry {
    Whole,
    /// Split by one adapter and merged by the other, as over a device without offload.
    Merged,
    /// Split, and taken so.
    Split,
}

struct Bulk {
    pair: Pair,
    ids: (ConnId, ConnId),
    carry: Carry,
    chunks: bool,
    data: Bytes,
    buffer: Vec<u8>,
    splitter: Offload<Plain>,
    merger: Offload<Plain>,
    received: Vec<Packet>,
}

impl Bulk {
    const BYTES: u64 = 256 << 20;

    fn new(carry: Carry, chunks: bool) -> Self {
        let mut pair = Pair::new(&Config::default());
        let ids = pair.open();
        Self {
            pair,
            ids,
            carry,
            chunks,
            data: Bytes::from(vec![7; 64 << 10]),
            buffer: vec![0; 64 << 10],
            splitter: Offload::new(Plain::default()),
            merger: Offload::new(Plain::default()),
            received: Vec::new(),
        }
    }

    fn run(&mut self) -> Cost {
        let meter = Meter::start();
        let (mut bytes, mut segments) = (0, 0);
        while bytes < Self::BYTES {
            self.pair.now += Duration::from_micros(20);
            while self.write() {}
            segments += self.carry();
            bytes += self.read();
            let Pair {
                client,
                server,
                now,
                packets,
                ..
            } = &mut self.pair;
            segments += pass(server, client, *now, packets);
        }
        meter.cost(segments, bytes)
    }

    /// Whether there was room.
    fn write(&mut self) -> bool {
        let Pair { client, now, .. } = &mut self.pair;
        let written = if self.chunks {
            client.write_chunk(self.ids.0, &mut self.data.clone(), *now)
        } else {
            client.write(self.ids.0, &self.data, *now)
        };
        match written {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&mut self) -> u64 {
        let Pair { server, now, .. } = &mut self.pair;
        let mut bytes = 0;
        loop {
            let read = if self.chunks {
                let chunk = server.read_chunk(self.ids.1, 64 << 10, *now);
                chunk.map(|chunk| chunk.len())
            } else {
                server.read(self.ids.1, &mut self.buffer, *now)
            };
            match read {
                Ok(count) => bytes += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return bytes,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// From the client to the server; says how many packets went over the wire.
    fn carry(&mut self) -> u64 {
        let Pair {
            client,
            server,
            now,
            packets,
            ..
        } = &mut self.pair;
        if self.carry == Carry::Whole {
            return pass(client, server, *now, packets);
        }
        if client.next_deadline().is_some_and(|at| at <= *now) {
            client.on_timeout(*now);
        }
        while !client.poll_packet(*now, 64, packets) {}
        let cx = &mut Context::from_waker(Waker::noop());
        let sent = self.splitter.poll_send(cx, packets);
        assert!(matches!(sent, Poll::Ready(Ok(()))));
        let wire = &mut self.splitter.get_mut().queue;
        let count = wire.len() as u64;
        if self.carry == Carry::Split {
            wire.drain(..)
                .for_each(|packet| server.on_packet(packet, *now));
        } else {
            mem::swap(wire, &mut self.merger.get_mut().queue);
            while let Poll::Ready(result) = self.merger.poll_recv(cx, &mut self.received, 256) {
                result.expect("the device does not fail");
                for packet in self.received.drain(..) {
                    server.on_packet(packet, *now);
                }
            }
        }
        client.wakes().clear();
        server.wakes().clear();
        count
    }
}

/// A device without offload: what is sent can be received.
#[derive(Debug, Default)]
struct Plain {
    queue: VecDeque<Packet>,
}

impl Device for Plain {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: MTU,
            checksum_offload: false,
            segmentation_offload: None,
        }
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let count = self.queue.len().min(max);
        packets.extend(self.queue.drain(..count));
        match count {
            0 => Poll::Pending,
            count => Poll::Ready(Ok(count)),
        }
    }

    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        self.queue.append(packets);
        Poll::Ready(Ok(()))
    }
}

/// A sender that always has so many segments of one MSS in flight.
struct Acks {
    pair: Pair,
    ids: (ConnId, ConnId),
    in_flight: usize,
    /// Written, and held back by the congestion window.
    is_one_unsent: bool,
    on_the_way: VecDeque<Packet>,
    packets: VecDeque<Packet>,
    buffer: Vec<u8>,
}

impl Acks {
    fn new(in_flight: usize) -> Self {
        const BUFFER: usize = 512 << 20;
        let mut config = Config::default();
        config
            .recv_buffer_max(BUFFER)
            .send_buffer_max(BUFFER)
            .memory(4 * BUFFER)
            .options(SocketOptions {
                nodelay: true,
                recv_buffer: Some(BUFFER),
                send_buffer: Some(BUFFER),
                // Slow start up to whatever is wanted.
                congestion: Congestion::Reno,
                ..SocketOptions::default()
            });
        let mut pair = Pair::new(&config);
        let ids = pair.open();
        Self {
            pair,
            ids,
            in_flight,
            is_one_unsent: false,
            on_the_way: VecDeque::new(),
            packets: VecDeque::new(),
            buffer: vec![0; 64 << 10],
        }
    }

    /// The cost of so many acknowledgements at the sender.
    fn run(&mut self, count: u64) -> Cost {
        let mut total = Cost::default();
        let mut is_full = false;
        while total.segments < count {
            let Pair {
                client,
                server,
                now,
                ..
            } = &mut self.pair;
            *now += Duration::from_micros(1);
            if client.next_deadline().is_some_and(|at| at <= *now) {
                client.on_timeout(*now);
            }
            // Slow start until there is room for all of them, one after the other.
            while self.on_the_way.len() < self.in_flight {
                if !mem::replace(&mut self.is_one_unsent, true) {
                    let written = client.write(self.ids.0, &self.buffer[..1448], *now);
                    assert_eq!(written.expect("there is room"), 1448);
                }
                let before = self.on_the_way.len();
                while !client.poll_packet(*now, 64, &mut self.on_the_way) {}
                if self.on_the_way.len() == before {
                    break;
                }
                self.is_one_unsent = false;
            }
            is_full |= self.on_the_way.len() >= self.in_flight;
            let Some(packet) = self.on_the_way.pop_front() else {
                panic!("nothing is in flight");
            };
            server.on_packet(packet, *now);
            while server.read(self.ids.1, &mut self.buffer, *now).is_ok() {}
            while !server.poll_packet(*now, 64, &mut self.packets) {}
            for packet in self.packets.drain(..) {
                let meter = Meter::start();
                client.on_packet(packet, *now);
                if is_full {
                    let cost = meter.cost(1, 0);
                    total.time += cost.time;
                    total.allocations += cost.allocations;
                    total.segments += 1;
                }
            }
            client.wakes().clear();
            server.wakes().clear();
        }
        total
    }
}
