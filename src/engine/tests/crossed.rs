//! SYNs and FINs that cross, with every pattern of up to three lost packets (threat S6).

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::pair::pattern;
use crate::{
    config::Config,
    engine::{ConnId, Engine},
    info::State,
    link::{Command, StreamLink},
    packet::Packet,
};

/// From one side to the other.
const DELAY: Duration = Duration::from_millis(10);

/// More bytes than fit in the first segment, and fewer than in two.
const BYTES: usize = 2000;

/// Of so many packets, counted from both sides, any may be lost.
const LOSABLE: usize = 14;

fn address(side: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + side as u8], 4000))
}

/// Two that connect to each other, write, and shut down at the same moments.
struct Crossed {
    engines: [Engine; 2],
    ids: [ConnId; 2],
    now: Instant,
    path: VecDeque<(Instant, usize, Packet)>,
    sent: usize,
    lost: Vec<usize>,
    read: [usize; 2],
    ended: [bool; 2],
}

impl Crossed {
    fn new(lost: &[usize]) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "where virtual time begins is of no matter"
        )]
        let now = Instant::now();
        let mut engines = [0, 1].map(|side| {
            let mut config = Config::default();
            config.seed(side as u64);
            let net = format!("{}/24", address(side).ip());
            Engine::new(config, &[net.parse().unwrap()], 1500, now)
        });
        let ids = [0, 1].map(|side| connect(&mut engines[side], side, now));
        Self {
            engines,
            ids,
            now,
            path: VecDeque::new(),
            sent: 0,
            lost: lost.to_vec(),
            read: [0; 2],
            ended: [false; 2],
        }
    }

    /// Puts on the path what both have to send.
    fn send(&mut self) {
        let mut out = VecDeque::new();
        for side in 0..2 {
            while !self.engines[side].poll_packet(self.now, 64, &mut out) {}
            self.engines[side].wakes().clear();
            for packet in out.drain(..) {
                if !self.lost.contains(&self.sent) {
                    self.path.push_back((self.now + DELAY, 1 - side, packet));
                }
                self.sent += 1;
            }
        }
    }

    /// Moves the clock to the next moment at which something happens, unless it lies behind `end`.
    fn step(&mut self, end: Instant) -> bool {
        self.send();
        let timers = self.engines.iter_mut().filter_map(Engine::next_deadline);
        let arrival = self.path.front().map(|(at, ..)| *at);
        let Some(next) = timers.chain(arrival).min().filter(|next| *next <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        while self.path.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, to, packet) = self.path.pop_front().expect("there is a first");
            self.engines[to].on_packet(packet, now);
        }
        self.engines
            .iter_mut()
            .for_each(|engine| engine.on_timeout(now));
        self.send();
        true
    }

    fn run(&mut self, time: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + time;
        while !done(self) && self.step(end) {}
    }

    fn is_established(&mut self) -> bool {
        (0..2).all(|side| self.engines[side].state(self.ids[side]) == Some(State::Established))
    }

    /// Reads what there is; whether both have come to the other's end.
    fn read(&mut self) -> bool {
        for side in 0..2 {
            let mut buf = [0; 4096];
            while !self.ended[side] {
                match self.engines[side].read(self.ids[side], &mut buf, self.now) {
                    Ok(0) => self.ended[side] = true,
                    Ok(len) => {
                        assert_eq!(buf[..len], pattern(self.read[side], len));
                        self.read[side] += len;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("lost {:?}: {error}", self.lost),
                }
            }
        }
        self.ended == [true; 2]
    }
}

fn connect(engine: &mut Engine, side: usize, now: Instant) -> ConnId {
    let (local, peer) = (address(side), address(1 - side));
    let bound = engine
        .ports()
        .bind(local, crate::link::Reuse::default(), false)
        .unwrap();
    let bell = Arc::clone(engine.doorbell());
    let options = engine.default_options();
    let link = Arc::new(StreamLink::new(bell, local, peer, options, 4096, 4096));
    let command = Command::Connect {
        link: Arc::clone(&link),
        bound: Some(bound),
        peer,
    };
    engine.on_command(command, now);
    link.button.id().expect("it was opened")
}

/// All that was written arrives, and nothing is left.
fn ends_well(lost: &[usize]) -> usize {
    let mut both = Crossed::new(lost);
    both.run(Duration::from_secs(120), Crossed::is_established);
    assert!(both.is_established(), "lost {lost:?}: not connected");
    for side in 0..2 {
        let (id, now) = (both.ids[side], both.now);
        let written = both.engines[side].write(id, &pattern(0, BYTES), now);
        assert_eq!(written.unwrap(), BYTES);
        both.engines[side].shutdown(id, now).unwrap();
    }
    both.run(Duration::from_secs(120), Crossed::read);
    assert_eq!(
        (both.read, both.ended),
        ([BYTES; 2], [true; 2]),
        "lost {lost:?}"
    );
    for side in 0..2 {
        both.engines[side].close(both.ids[side], both.now);
    }
    both.run(Duration::from_secs(600), |_| false);
    for engine in &mut both.engines {
        assert!(engine.sockets(both.now).is_empty(), "lost {lost:?}");
        assert!(engine.demux.len() == 0 && engine.orphans == 0);
        assert_eq!(engine.next_deadline(), None);
        assert_eq!(engine.counters().resets_sent, 0, "lost {lost:?}");
    }
    both.sent
}

#[test]
fn s6_crossed_syns_and_fins_end_well_whichever_three_packets_are_lost() {
    // What is lost is sent again, and may be lost again.
    let sent = ends_well(&[0, 1]);
    assert!(sent < LOSABLE, "{sent} packets");
    ends_well(&[]);
    for a in 0..LOSABLE {
        ends_well(&[a]);
        for b in a + 1..LOSABLE {
            ends_well(&[a, b]);
            for c in b + 1..LOSABLE {
                ends_well(&[a, b, c]);
            }
        }
    }
}
