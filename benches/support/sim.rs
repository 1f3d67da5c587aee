//! Two engines joined by an impaired path, in virtual time: the same figures in every run.

use std::{
    collections::VecDeque,
    io,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use synack::{
    Config,
    config::Congestion,
    device::{
        Capabilities, Device, Offload,
        link::{GilbertElliott, Impairment, Path, QueueLimit},
    },
    engine::{ConnId, Engine},
    info::{State, TcpInfo},
    packet::Packet,
};

const MS: Duration = Duration::from_millis(1);
const MTU: usize = 1500;
const SERVER: &str = "10.0.0.1:80";

/// A network to move data over.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    /// What data meets on its way, and what acknowledgements do.
    pub(crate) forward: Impairment,
    pub(crate) backward: Impairment,
    /// Nothing gets through in this part of the run.
    pub(crate) outage: Option<(Duration, Duration)>,
    /// For how long data is sent to measure goodput.
    pub(crate) time: Duration,
}

impl Cell {
    /// A line of `megabits` a second and a round trip of `rtt`, with room for `queue` bytes.
    fn new(name: &'static str, megabits: u64, rtt: Duration, queue: QueueLimit) -> Self {
        let line = Impairment::new().delay(rtt / 2).rate(megabits * 1_000_000);
        Self {
            name,
            forward: line.clone().queue(queue),
            backward: line,
            outage: None,
            time: Duration::from_secs(20),
        }
    }

    /// With a queue of one bandwidth-delay product.
    fn bdp(name: &'static str, megabits: u64, rtt: Duration) -> Self {
        let bytes = megabits * 125 * rtt.as_millis() as u64;
        Self::new(name, megabits, rtt, QueueLimit::Bytes(bytes as usize))
    }

    fn with(mut self, change: impl FnOnce(Impairment) -> Impairment) -> Self {
        self.forward = change(self.forward);
        self
    }

    fn lasting(self, seconds: u64) -> Self {
        let time = Duration::from_secs(seconds);
        Self { time, ..self }
    }

    /// Every network of the table.
    pub(crate) fn all() -> Vec<Self> {
        let fast = |name| Self::bdp(name, 1000, 10 * MS).lasting(5);
        let middle = |name| Self::bdp(name, 100, 50 * MS);
        vec![
            middle("100M 50ms"),
            middle("100M 50ms loss 0.1%").with(|path| path.loss(0.001)),
            middle("100M 50ms loss 1%").with(|path| path.loss(0.01)),
            middle("100M 50ms loss 3%").with(|path| path.loss(0.03)),
            fast("1G 10ms"),
            fast("1G 10ms loss 0.1%").with(|path| path.loss(0.001)),
            fast("1G 10ms loss 1%").with(|path| path.loss(0.01)),
            Self::bdp("20M 66ms reorder 1% by 4ms", 20, 66 * MS)
                .with(|path| path.reorder(0.01, 4 * MS))
                .lasting(8),
            middle("100M 50ms reorder 5% by 20ms").with(|path| path.reorder(0.05, 20 * MS)),
            middle("100M 50ms bursts of loss")
                .with(|path| path.burst_loss(GilbertElliott::new(0.0005, 0.2))),
            Self {
                name: "no limit 1ms",
                forward: Impairment::new().delay(MS / 2),
                backward: Impairment::new().delay(MS / 2),
                outage: None,
                time: Duration::from_secs(1),
            },
            Self::bdp("50M 200ms", 50, 200 * MS),
            Self::new(
                "100M 50ms queue of 10",
                100,
                50 * MS,
                QueueLimit::Packets(10),
            ),
            Self {
                outage: Some((Duration::from_secs(10), Duration::from_secs(20))),
                ..middle("100M 50ms outage of 10s").lasting(40)
            },
        ]
    }
}

/// What a transfer came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// From the first SYN to the last byte.
    pub(crate) took: Duration,
    /// Bytes that arrived.
    pub(crate) bytes: u64,
    /// Bytes that were sent again.
    pub(crate) retransmitted: u64,
    /// Packets that the path lost, on the way of data.
    pub(crate) lost: u64,
    pub(crate) timeouts: u64,
    pub(crate) undone: u64,
}

impl Outcome {
    pub(crate) fn megabits(&self) -> f64 {
        self.bytes as f64 * 8e-6 / self.took.as_secs_f64()
    }
}

/// One end of the path: what is sent goes into it, what has arrived waits here.
struct Wire {
    path: Path,
    arrived: VecDeque<Packet>,
    now: Instant,
}

impl Device for Wire {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: MTU,
            checksum_offload: true,
            segmentation_offload: None,
        }
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let count = self.arrived.len().min(max);
        packets.extend(self.arrived.drain(..count));
        if count == 0 {
            Poll::Pending
        } else {
            Poll::Ready(Ok(count))
        }
    }

    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        packets
            .drain(..)
            .for_each(|packet| self.path.push(packet, self.now));
        Poll::Ready(Ok(()))
    }
}

/// The two ends. The first one sends.
pub(crate) struct Sim {
    pub(crate) now: Instant,
    start: Instant,
    engines: [Engine; 2],
    wires: [Offload<Wire>; 2],
    cell: Cell,
    down: bool,
    out: VecDeque<Packet>,
    received: Vec<Packet>,
    ends: [ConnId; 2],
    left: u64,
    bytes: u64,
}

impl Sim {
    pub(crate) fn new(cell: &Cell, mut config: Config, seed: u64) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "where virtual time begins does not matter"
        )]
        let now = Instant::now();
        let wire = |impairment: &Impairment, seed| {
            Offload::new(Wire {
                path: Path::new(impairment.clone(), seed),
                arrived: VecDeque::new(),
                now,
            })
        };
        let mut engine = |address: &str, seed| {
            config.seed(seed);
            Engine::new(
                config.clone(),
                &[address.parse().expect("an address")],
                MTU,
                now,
            )
        };
        let mut engines = [
            engine("10.0.0.1/24", 2 * seed),
            engine("10.0.0.2/24", 2 * seed + 1),
        ];
        let listener = engines[0]
            .listen(SERVER.parse().expect("an address"), 1)
            .expect("a free port");
        let client = engines[1]
            .connect(SERVER.parse().expect("an address"), now)
            .expect("a free port");
        let mut sim = Self {
            now,
            start: now,
            engines,
            wires: [wire(&cell.forward, seed), wire(&cell.backward, seed + 1000)],
            cell: cell.clone(),
            down: false,
            out: VecDeque::new(),
            received: Vec::new(),
            ends: [client; 2],
            left: 0,
            bytes: 0,
        };
        loop {
            if let Some((id, _)) = sim.engines[0].accept(listener) {
                sim.ends[0] = id;
                return sim;
            }
            assert!(sim.step(), "the handshake ends");
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// The sender's state.
    pub(crate) fn info(&self) -> Option<TcpInfo> {
        self.engines[0].info(self.ends[0])
    }

    /// Sends `bytes` for at most `limit`, calling `look` after each event.
    pub(crate) fn run(
        &mut self,
        bytes: u64,
        limit: Duration,
        mut look: impl FnMut(&Self),
    ) -> Outcome {
        self.left = bytes;
        let block = Bytes::from(vec![0x5a; 1 << 18]);
        loop {
            self.write(&block);
            self.read();
            self.settle();
            look(self);
            if self.bytes >= bytes || self.elapsed() >= limit || !self.step() {
                break;
            }
        }
        let info = self.info();
        let counters = self.engines[0].counters();
        Outcome {
            took: self.elapsed(),
            bytes: self.bytes,
            retransmitted: info.map_or(0, |info| info.retransmitted),
            lost: {
                let stats = self.wires[0].get_ref().path.stats();
                stats.lost + stats.queue_dropped
            },
            timeouts: counters.timeouts,
            undone: counters.spurious_recoveries,
        }
    }

    fn write(&mut self, block: &Bytes) {
        while self.left > 0 {
            let mut chunk = block.slice(
                ..block
                    .len()
                    .min(usize::try_from(self.left).unwrap_or(usize::MAX)),
            );
            match self.engines[0].write_chunk(self.ends[0], &mut chunk, self.now) {
                Ok(0) | Err(_) => break,
                Ok(n) => self.left -= n as u64,
            }
        }
    }

    fn read(&mut self) {
        while let Ok(chunk) = self.engines[1].read_chunk(self.ends[1], usize::MAX, self.now) {
            if chunk.is_empty() {
                break;
            }
            self.bytes += chunk.len() as u64;
        }
    }

    fn settle(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for side in 0..2 {
                self.wires[side].get_mut().now = self.now;
                while !self.engines[side].poll_packet(self.now, 64, &mut self.out) {}
                moved |= !self.out.is_empty();
                let _ = self.wires[side].poll_send(cx, &mut self.out);
                self.engines[side].wakes().clear();
            }
            for side in 0..2 {
                while let Some(packet) = self.wires[side].get_mut().path.pop_due(self.now) {
                    self.wires[1 - side].get_mut().arrived.push_back(packet);
                }
                while self.wires[1 - side]
                    .poll_recv(cx, &mut self.received, 64)
                    .is_ready()
                {
                    moved = true;
                    for packet in self.received.drain(..) {
                        self.engines[1 - side].on_packet(packet, self.now);
                    }
                }
            }
        }
    }

    /// Moves the clock to what happens next; false if nothing does.
    fn step(&mut self) -> bool {
        self.settle();
        let deadlines = self.engines.iter_mut().map(Engine::next_deadline);
        let arrivals = self
            .wires
            .iter()
            .map(|wire| wire.get_ref().path.next_deadline());
        let edges = self
            .cell
            .outage
            .into_iter()
            .flat_map(|(begin, end)| [begin, end]);
        let edges = edges
            .map(|edge| Some(self.start + edge))
            .filter(|edge| *edge > Some(self.now));
        let next = deadlines.chain(arrivals).chain(edges).flatten().min();
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        let elapsed = self.elapsed();
        let down = self
            .cell
            .outage
            .is_some_and(|(begin, end)| begin <= elapsed && elapsed < end);
        if down != self.down {
            self.down = down;
            for wire in &mut self.wires {
                let path = &mut wire.get_mut().path;
                let impairment = path.impairment().clone().down(down);
                path.set_impairment(impairment);
            }
        }
        for engine in &mut self.engines {
            engine.on_timeout(self.now);
        }
        self.settle();
        true
    }

    /// Whether the sender still has its connection.
    pub(crate) fn is_up(&self) -> bool {
        self.engines[0].state(self.ends[0]) == Some(State::Established)
    }
}

/// A configuration of both ends.
pub(crate) fn config(congestion: Congestion) -> Config {
    let mut config = Config::default();
    config.options(synack::config::SocketOptions {
        congestion,
        ..Default::default()
    });
    config
}

/// Moves `bytes`, or as much as the cell's time allows.
pub(crate) fn transfer(cell: &Cell, congestion: Congestion, bytes: u64, seed: u64) -> Outcome {
    let limit = if bytes == u64::MAX {
        cell.time
    } else {
        Duration::from_secs(600)
    };
    Sim::new(cell, config(congestion), seed).run(bytes, limit, |sim| assert!(sim.is_up()))
}
