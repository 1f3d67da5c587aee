//! Two engines of which everything is asked at random, over a network that damages packets: nothing
//! panics, nothing runs without end, and when everything was let go of, nothing is left.
//!
//! `SYNACK_SEED=N` runs one seed, `SYNACK_SEEDS=N` so many, and both so many from that one on.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::damaged::damage;
use crate::{
    Unreachable,
    config::{Config, Congestion, KeepAlive, SocketOptions},
    engine::{ConnId, Engine},
    error::Failure,
    link::{Arrival, Command, DatagramLink, Decision, StreamLink, Target},
    packet::{Checksum, Meta, Packet},
    testing::{Rng, seeds},
};

const STEPS: usize = 1500;

/// Packets that one engine sends in one go at the most, however much was asked of it.
const PACKETS_MAX: usize = 50_000;

/// Timers in a row until everything has ended.
const TIMERS_MAX: usize = 200_000;

const MEMORY: usize = 4 << 20;

/// One engine, and what the application has of it.
struct Side {
    engine: Engine,
    connections: Vec<ConnId>,
    listeners: Vec<ConnId>,
    sockets: Vec<ConnId>,
    /// Connections to any destination, accepted.
    streams: Vec<Arc<StreamLink>>,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    flows: Option<mpsc::Receiver<Arc<DatagramLink>>>,
    /// Of flows, and the one that takes them all.
    datagrams: Vec<Arc<DatagramLink>>,
    pings: Vec<oneshot::Receiver<Result<Duration, Failure>>>,
}

impl Side {
    fn new(host: usize, rng: &mut Rng, now: Instant) -> Self {
        let nets = [format!("10.0.0.{host}/24"), format!("fd00::{host}/64")];
        let nets = nets.map(|net| net.parse().unwrap());
        let mut engine = Engine::new(config(rng), &nets, mtu(rng), now);
        let (sender, arrivals) = mpsc::unbounded_channel();
        let mut flows = None;
        if rng.below(2) == 0 {
            engine.on_command(Command::Incoming(sender), now);
        }
        if rng.below(2) == 0 && engine.network().take_any() {
            let (sender, receiver) = mpsc::channel(4);
            engine.on_command(Command::Flows(sender), now);
            flows = Some(receiver);
        }
        Self {
            engine,
            connections: Vec::new(),
            listeners: Vec::new(),
            sockets: Vec::new(),
            streams: Vec::new(),
            arrivals,
            flows,
            datagrams: Vec::new(),
            pings: Vec::new(),
        }
    }
}

/// Small limits, so that they are met.
fn config(rng: &mut Rng) -> Config {
    let mut config = Config::default();
    let on = |rng: &mut Rng| rng.below(4) > 0;
    config
        .seed(rng.next())
        .memory(MEMORY)
        .connections_max([4, 40, 1000][rng.below(3)])
        .half_open_max([1, 4, 100][rng.below(3)])
        .time_wait_max([0, 2, 1000][rng.below(3)])
        .orphans_max([0, 2, 1000][rng.below(3)])
        .incoming_max([1, 8][rng.below(2)])
        .per_source_max([2, 1000][rng.below(2)])
        .recv_buffer([4 << 10, 128 << 10][rng.below(2)])
        .send_buffer([4 << 10, 128 << 10][rng.below(2)])
        .udp_recv_buffer([4 << 10, 128 << 10][rng.below(2)])
        .rto_min(Duration::from_millis([1, 200][rng.below(2)]))
        .delayed_ack(Duration::from_millis([0, 40][rng.below(2)]))
        .sack(on(rng))
        .timestamps(on(rng))
        .window_scaling(on(rng))
        .ecn(on(rng))
        .pacing(on(rng))
        .reset_half_open(on(rng))
        .reset_closed_ports(on(rng))
        .options(options(rng));
    config
}

fn options(rng: &mut Rng) -> SocketOptions {
    let mut options = SocketOptions {
        nodelay: rng.below(2) == 0,
        cork: rng.below(4) == 0,
        quickack: rng.below(2) == 0,
        ttl: 1 + rng.below(255) as u8,
        tos: rng.next() as u8,
        congestion: [Congestion::Cubic, Congestion::Reno, Congestion::Bbr][rng.below(3)],
        ..SocketOptions::default()
    };
    match rng.below(8) {
        0 => options.linger = Some(Duration::from_secs(rng.below(2) as u64)),
        1 => options.user_timeout = Some(Duration::from_millis(rng.below(5000) as u64)),
        2 => options.mss = Some(rng.next() as u16),
        3 => options.recv_buffer = Some(rng.below(300_000)),
        4 => options.send_buffer = Some(rng.below(300_000)),
        5 => {
            options.keepalive = Some(KeepAlive {
                idle: Duration::from_secs(1 + rng.below(3) as u64),
                interval: Duration::from_secs(rng.below(3) as u64),
                count: rng.below(3) as u8,
            });
        }
        _ => {}
    }
    options
}

fn mtu(rng: &mut Rng) -> usize {
    [68, 576, 1280, 1500, 1500, 1500, 9000, 65_535][rng.below(8)]
}

/// Where somebody may want to go.
fn target(rng: &mut Rng) -> SocketAddr {
    let ip = [
        "10.0.0.1",
        "10.0.0.2",
        "fd00::1",
        "fd00::2",
        "10.0.0.1",
        "10.0.0.2",
        "192.0.2.1",
        "2001:db8::1",
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "10.0.0.255",
        "224.0.0.1",
        "ff02::1",
        "::ffff:10.0.0.1",
    ][rng.below(16)];
    SocketAddr::new(ip.parse().unwrap(), [80, 80, 81, 53, 0][rng.below(5)])
}

fn any_of<T: Clone>(all: &[T], rng: &mut Rng) -> Option<T> {
    match all.len() {
        0 => None,
        len => Some(all[rng.below(len)].clone()),
    }
}

struct World {
    sides: [Side; 2],
    now: Instant,
    rng: Rng,
    /// Packets on their way to a side.
    wire: VecDeque<(usize, Packet)>,
    damages: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "where virtual time begins is of no matter"
        )]
        let now = Instant::now();
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let sides = [1, 2].map(|host| Side::new(host, &mut rng, now));
        Self {
            sides,
            now,
            damages: rng.below(3) > 0,
            rng,
            wire: VecDeque::new(),
        }
    }

    fn step(&mut self) {
        let side = self.rng.below(2);
        match self.rng.below(8) {
            0 => self.open(side),
            1 => self.datagrams(side),
            2 => self.any(side),
            3 if self.rng.below(4) == 0 => self.end(side),
            4 => self.look(side),
            _ => self.stream(side),
        }
        let millis = match self.rng.below(1000) {
            0 => 8_000_000,
            1..5 => 60_000,
            5..50 => 1000,
            50..200 => 50,
            200..500 => 1,
            _ => 0,
        };
        self.now += Duration::from_millis(millis) + Duration::from_micros(7);
        for side in 0..2 {
            self.work(side);
        }
        self.carry();
        for side in &self.sides {
            let held = side.engine.doorbell().budget().held();
            assert!(held <= MEMORY, "{held} bytes");
        }
    }

    /// Connects, listens, accepts.
    fn open(&mut self, side: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let side = &mut self.sides[side];
        match rng.below(4) {
            0 => side
                .connections
                .extend(side.engine.connect(target(rng), now)),
            1 => {
                let backlog = rng.below(4);
                side.listeners
                    .extend(side.engine.listen(target(rng), backlog));
            }
            _ => {
                if let Some(listener) = any_of(&side.listeners, rng) {
                    side.connections
                        .extend(side.engine.accept(listener).map(|(id, _)| id));
                }
            }
        }
    }

    /// Moves bytes of one connection.
    fn stream(&mut self, side: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let side = &mut self.sides[side];
        let Some(id) = any_of(&side.connections, rng) else {
            return;
        };
        let len = [1, 100, 5000, 200_000][rng.below(4)];
        let engine = &mut side.engine;
        // What is refused is of no matter: the connection may be in any state.
        match rng.below(5) {
            0 => drop(engine.write(id, &vec![7; len], now)),
            1 => drop(engine.write_chunk(id, &mut Bytes::from(vec![7; len]), now)),
            2 => drop(engine.read(id, &mut vec![0; len], now)),
            3 => drop(engine.read_chunk(id, len, now)),
            _ => drop(engine.set_options(id, |set| *set = options(rng), now)),
        }
    }

    /// Ends something.
    fn end(&mut self, side: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let side = &mut self.sides[side];
        let list = match rng.below(6) {
            0 => &mut side.listeners,
            1 => &mut side.sockets,
            _ => &mut side.connections,
        };
        let Some(id) = any_of(list, rng) else {
            return;
        };
        match rng.below(4) {
            0 => drop(side.engine.shutdown(id, now)),
            1 => side.engine.abort(id, now),
            _ => {
                list.retain(|other| *other != id);
                side.engine.close(id, now);
            }
        }
    }

    /// Sends and takes datagrams, and asks who is there.
    fn datagrams(&mut self, side: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let side = &mut self.sides[side];
        let payload = vec![7; [0, 10, 1400, 70_000][rng.below(4)]];
        let socket = any_of(&side.sockets, rng);
        let engine = &mut side.engine;
        match (rng.below(7), socket) {
            (0, _) => side.sockets.extend(engine.bind_udp(target(rng))),
            (1, _) => side.sockets.extend(engine.any_udp()),
            (2, _) => {
                let (reply, answer) = oneshot::channel();
                let to = target(rng).ip().to_canonical();
                // As the face has it.
                if engine.network().check_len(payload.len(), to).is_ok() {
                    let payload = Bytes::from(payload);
                    engine.on_command(Command::Ping { to, payload, reply }, now);
                    side.pings.push(answer);
                }
            }
            (3, Some(id)) => drop(engine.connect_udp(id, target(rng))),
            (4, Some(id)) => drop(engine.send_from_to(id, &payload, target(rng), target(rng), now)),
            (5, Some(id)) => drop(engine.recv_from(id)),
            (_, Some(id)) => drop(engine.send_to(id, &payload, target(rng), now)),
            _ => {}
        }
    }

    /// Decides about what comes to any destination, and answers it.
    fn any(&mut self, side: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let side = &mut self.sides[side];
        if let Ok(arrival) = side.arrivals.try_recv() {
            let decision = match rng.below(4) {
                0 => Decision::Reset,
                1 => Decision::Report(Unreachable::Host),
                2 => Decision::Ignore,
                _ => {
                    let bell = Arc::clone(side.engine.doorbell());
                    let Arrival { local, peer, .. } = arrival;
                    let (set, config) = (options(rng).clamped(), Config::default());
                    let link = StreamLink::sized(bell, local, peer, set, &config);
                    side.streams.push(Arc::clone(&link));
                    Decision::Accept(link)
                }
            };
            side.engine
                .on_command(Command::Decide(arrival.id, decision), now);
        }
        if let Some(flow) = side.flows.as_mut().and_then(|flows| flows.try_recv().ok()) {
            side.datagrams.push(flow);
        }
        if let Some(link) = any_of(&side.streams, rng) {
            match rng.below(4) {
                0 => drop(link.try_write(&[7; 3000])),
                1 => drop(link.try_read(&mut Vec::with_capacity(3000))),
                2 => link.shutdown(),
                _ => {
                    side.streams.retain(|other| !Arc::ptr_eq(other, &link));
                    link.close();
                }
            }
        }
        if let Some(link) = any_of(&side.datagrams, rng) {
            match rng.below(4) {
                0 => drop(link.try_recv()),
                1 | 2 => drop(link.try_send(&[7; 100], Target::Connected)),
                _ => {
                    side.datagrams.retain(|other| !Arc::ptr_eq(other, &link));
                    link.close();
                }
            }
        }
    }

    fn look(&mut self, side: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let side = &mut self.sides[side];
        let _ = side.engine.sockets(now);
        if let Some(id) = any_of(&side.connections, rng) {
            let _ = (side.engine.info(id), side.engine.state(id));
        }
        if rng.below(16) == 0 {
            side.engine.set_mtu(mtu(rng));
        }
    }

    /// What the reactor does: rings, timers, packets.
    fn work(&mut self, side: usize) {
        let engine = &mut self.sides[side].engine;
        let (mut rung, mut commands) = (Vec::new(), VecDeque::new());
        engine.doorbell().take(&mut rung, &mut commands);
        rung.into_iter().for_each(|id| engine.on_rung(id, self.now));
        let mut out = VecDeque::new();
        for round in 0.. {
            if engine.next_deadline().is_some_and(|at| at <= self.now) {
                engine.on_timeout(self.now);
            }
            let max = 1 + self.rng.below(64);
            while !engine.poll_packet(self.now, max, &mut out) {
                assert!(out.len() < PACKETS_MAX, "it sends without end");
            }
            if engine.next_deadline().is_none_or(|at| at > self.now) {
                break;
            }
            assert!(round < 1000, "a deadline stays in the past");
        }
        engine.wakes().clear();
        self.wire
            .extend(out.into_iter().map(|packet| (1 - side, packet)));
    }

    /// Some packets arrive, in some order, some twice, and some not as they were sent.
    fn carry(&mut self) {
        let count = self.wire.len();
        for _ in 0..count {
            let rng = &mut self.rng;
            let (side, packet) = self.wire.pop_front().expect("they were counted");
            match rng.below(20) {
                0 => continue,
                1 => {
                    self.wire.push_back((side, packet));
                    continue;
                }
                2 => self.wire.push_back((side, packet.clone())),
                _ => {}
            }
            let packet = match self.damages && rng.below(8) == 0 {
                true => damaged(&packet, rng),
                false => packet,
            };
            let to = if rng.below(50) == 0 { 1 - side } else { side };
            self.sides[to].engine.on_packet(packet, self.now);
        }
    }

    /// Everything is let go of, and the network is cut: whether anything is left.
    fn end_all(&mut self) {
        for side in &mut self.sides {
            let all = [&side.connections, &side.listeners, &side.sockets];
            for id in all.into_iter().flatten() {
                side.engine.close(*id, self.now);
            }
            // Nobody took them.
            while let Some(Ok(flow)) = side.flows.as_mut().map(|flows| flows.try_recv()) {
                side.datagrams.push(flow);
            }
            side.streams.drain(..).for_each(|link| link.close());
            side.datagrams.drain(..).for_each(|link| link.close());
            side.pings.clear();
            side.arrivals.close();
        }
        for n in 0.. {
            self.work(0);
            self.work(1);
            self.wire.clear();
            let deadlines = self
                .sides
                .iter_mut()
                .map(|side| side.engine.next_deadline());
            let Some(next) = deadlines.flatten().min() else {
                break;
            };
            self.now = self.now.max(next);
            assert!(n < TIMERS_MAX, "timers without end");
        }
        for side in &self.sides {
            assert_eq!(side.engine.sockets(self.now), [], "nobody has them");
            assert_eq!(side.engine.slots.iter().count(), 0);
            assert_eq!(side.engine.network().held(), 0);
            assert_eq!(side.engine.doorbell().budget().held(), 0);
        }
    }
}

/// [`damage`]d, in two pieces, and with a checksum that is believed.
fn damaged(packet: &Packet, rng: &mut Rng) -> Packet {
    let bytes = damage(packet.to_vec(), rng);
    let meta = Meta {
        checksum: [Checksum::Verified, Checksum::Partial, packet.meta.checksum][rng.below(3)],
        gso_size: [packet.meta.gso_size, 0, 1, u16::MAX][rng.below(4)],
    };
    let mut bytes = Bytes::from(bytes);
    let rest = bytes.split_off(bytes.len().min(20 + rng.below(80)));
    let mut packet = Packet::received(bytes, meta);
    packet.body.push(rest);
    packet
}

fn run(seed: u64) {
    println!("SYNACK_SEED={seed}");
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.end_all();
}

#[test]
fn whatever_is_asked_in_whatever_order_nothing_is_left_in_the_end() {
    seeds(10).for_each(run);
}
