//! Two engines on a path that delays, loses, reorders, duplicates and corrupts, in virtual time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    config::Config,
    device::link::{Impairment, Path},
    engine::{ConnId, Engine},
    info::State,
    packet::Packet,
};

pub(super) const SERVER: &str = "10.0.0.1:80";

/// Two engines, the path from each to the other, and a clock that moves only by `step`.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) engines: [Engine; 2],
    paths: [Path; 2],
    out: VecDeque<Packet>,
    /// When the devices take 576 bytes only, from then on.
    pub(super) shrinks: Option<Instant>,
    /// Packets that each engine sent.
    pub(super) sent: [u64; 2],
}

impl Pair {
    /// Engine 0 is 10.0.0.1 and fd00::1, engine 1 ends in 2.
    pub(super) fn new(config: Config, impairment: Impairment, seed: u64) -> Self {
        Self::with_mtu(config, impairment, seed, 1500)
    }

    pub(super) fn with_mtu(config: Config, impairment: Impairment, seed: u64, mtu: usize) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "where virtual time begins is of no matter"
        )]
        let now = Instant::now();
        let engine = |n: u8| {
            let nets = [format!("10.0.0.{n}/24"), format!("fd00::{n}/64")];
            let nets: Vec<_> = nets.iter().map(|net| net.parse().unwrap()).collect();
            let mut config = config.clone();
            config.seed(seed * 2 + u64::from(n));
            Engine::new(config, &nets, mtu, now)
        };
        Self {
            now,
            start: now,
            engines: [engine(1), engine(2)],
            paths: [
                Path::new(impairment.clone(), seed),
                Path::new(impairment, seed + 1),
            ],
            out: VecDeque::new(),
            shrinks: None,
            sent: [0; 2],
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Sends what is to be sent and delivers what has arrived, until nothing moves at this moment.
    pub(super) fn settle(&mut self) {
        loop {
            let mut moved = false;
            for side in 0..2 {
                while !self.engines[side].poll_packet(self.now, 64, &mut self.out) {}
                for packet in self.out.drain(..) {
                    moved = true;
                    self.sent[side] += 1;
                    self.paths[side].push(packet, self.now);
                }
                self.engines[side].wakes().clear();
            }
            for side in 0..2 {
                while let Some(packet) = self.paths[side].pop_due(self.now) {
                    moved = true;
                    self.engines[1 - side].on_packet(packet, self.now);
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Moves the clock to the next event; false if there is none.
    pub(super) fn step(&mut self) -> bool {
        self.settle();
        let deadlines = self.engines.iter_mut().map(Engine::next_deadline);
        let arrivals = self.paths.iter().map(Path::next_deadline);
        let Some(next) = deadlines.chain(arrivals).flatten().min() else {
            return false;
        };
        self.now = self.now.max(next);
        if self.shrinks.take_if(|at| *at <= self.now).is_some() {
            self.engines
                .iter_mut()
                .for_each(|engine| engine.set_mtu(576));
        }
        self.engines
            .iter_mut()
            .for_each(|engine| engine.on_timeout(self.now));
        self.settle();
        true
    }

    /// Runs until the clock has moved by `time`.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        loop {
            let deadlines = self.engines.iter_mut().map(Engine::next_deadline);
            let arrivals = self.paths.iter().map(Path::next_deadline);
            match deadlines.chain(arrivals).flatten().min() {
                Some(next) if next <= end => drop(self.step()),
                _ => break,
            }
        }
        self.now = end;
        self.settle();
    }

    /// Runs until `done`, for at most `limit` of virtual time.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = self.now + limit;
        self.settle();
        while !done(self) {
            if self.now > end || !self.step() {
                return done(self);
            }
        }
        true
    }

    /// A connection from engine 1 to engine 0: the ids of both ends.
    pub(super) fn connect(&mut self) -> (ConnId, ConnId) {
        let listener = self.engines[0].listen(SERVER.parse().unwrap(), 16).unwrap();
        let client = self.engines[1]
            .connect(SERVER.parse().unwrap(), self.now)
            .unwrap();
        let mut accepted = None;
        let connected = self.run_until(Duration::from_secs(300), |pair| {
            accepted = accepted.or_else(|| pair.engines[0].accept(listener));
            accepted.is_some() && pair.engines[1].state(client) == Some(State::Established)
        });
        assert!(connected, "not connected after {:?}", self.elapsed());
        (accepted.unwrap().0, client)
    }
}

/// A stream of bytes that can be checked anywhere.
pub(super) fn pattern(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len)
        .map(|i| (i.wrapping_mul(0x9e37_79b1) >> 13) as u8)
        .collect()
}

/// Writes and reads on one connection in one direction as far as it goes.
#[derive(Default)]
pub(super) struct Transfer {
    pub(super) written: usize,
    pub(super) read: usize,
    pub(super) ended: bool,
    shut: bool,
}

impl Transfer {
    pub(super) fn pump(
        &mut self,
        pair: &mut Pair,
        from: (usize, ConnId),
        to: (usize, ConnId),
        total: usize,
    ) {
        let now = pair.now;
        while self.written < total {
            let chunk = pattern(self.written, (total - self.written).min(16 << 10));
            match pair.engines[from.0].write(from.1, &chunk, now) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("write after {}: {error}", self.written),
            }
        }
        if self.written == total && !self.shut {
            self.shut = true;
            pair.engines[from.0].shutdown(from.1, now).unwrap();
        }
        let mut buf = [0; 16 << 10];
        while !self.ended {
            match pair.engines[to.0].read(to.1, &mut buf, now) {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    assert_eq!(buf[..n], pattern(self.read, n), "at byte {}", self.read);
                    self.read += n;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("read after {}: {error}", self.read),
            }
        }
    }
}

/// Sends `up` bytes from the client and `down` bytes from the server at once, closes both sides and
/// checks that everything arrived and nothing is left.
pub(super) fn transfer_both_ways(pair: &mut Pair, up: usize, down: usize, limit: Duration) {
    let (server, client) = pair.connect();
    let (mut to_server, mut to_client) = (Transfer::default(), Transfer::default());
    let done = pair.run_until(limit, |pair| {
        to_server.pump(pair, (1, client), (0, server), up);
        to_client.pump(pair, (0, server), (1, client), down);
        pair.settle();
        to_server.ended && to_client.ended
    });
    assert!(
        done,
        "after {:?}: up {}/{}/{up}, down {}/{}/{down}\n{:#?}\n{:#?}",
        pair.elapsed(),
        to_server.written,
        to_server.read,
        to_client.written,
        to_client.read,
        pair.engines[1].info(client),
        pair.engines[0].info(server)
    );
    assert_eq!((to_server.read, to_client.read), (up, down));
    let now = pair.now;
    pair.engines[0].close(server, now);
    pair.engines[1].close(client, now);
    pair.run_for(Duration::from_secs(20_000));
    for engine in &pair.engines {
        let left: Vec<_> = engine
            .sockets(pair.now)
            .into_iter()
            .filter(|s| s.state != State::Listen)
            .collect();
        assert!(left.is_empty(), "left: {left:#?}");
    }
}
