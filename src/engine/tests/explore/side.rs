//! One side of an exploration: a real engine, and the application on top of it.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::super::pair::pattern;
use crate::{
    config::Config,
    engine::{ConnId, Engine, slots::Slot},
    info::State,
    link::{Command, StreamLink},
    packet::{Meta, Packet},
};

/// Time that every event takes: what happens in one moment would use one initial sequence number
/// for two connections.
const TICK: Duration = Duration::from_micros(100);

/// Bytes of a write.
const CHUNK: usize = 3;

/// What an application does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    /// Listens.
    Listen,
    /// Connects to the other side, from its fixed port.
    Connect,
    Accept,
    /// Writes three bytes.
    Write,
    /// Reads all there is.
    Read,
    Shutdown,
    Close,
    /// Closes once the peer's end, or an error, was read.
    CloseAtEnd,
    Abort,
}

/// What an application does in the course of its life.
#[derive(Debug)]
pub(super) struct Plan {
    /// Groups of calls: the next begins when all of one were made, in any order.
    pub(super) groups: &'static [&'static [Call]],
    /// It reads whatever comes, at once; otherwise reading is a call of its own.
    pub(super) eager: bool,
}

/// What happens to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Input {
    Call(Call),
    /// A packet arrives: its number among those that were ever sent.
    Packet(u16),
    /// The next timer fires.
    Timeout,
}

/// What the application has done and seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct App {
    group: u8,
    done: u8,
    pub(super) written: usize,
    pub(super) read: usize,
    /// It read the peer's end.
    pub(super) ended: bool,
    pub(super) error: Option<ErrorKind>,
    pub(super) shut: bool,
    pub(super) aborted: bool,
    /// It has let go of its handle.
    pub(super) closed: bool,
    opened: bool,
    accepted: bool,
}

/// One engine and its application.
#[derive(Debug)]
pub(super) struct Side {
    engine: Engine,
    start: Instant,
    now: Instant,
    number: usize,
    plan: &'static Plan,
    pub(super) app: App,
    id: Option<ConnId>,
    listener: Option<ConnId>,
    out: VecDeque<Packet>,
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::from((
        [10, 0, 0, 1 + number as u8],
        if number == 0 { 80 } else { 49_152 },
    ))
}

impl Side {
    pub(super) fn new(
        mut config: Config,
        number: usize,
        plan: &'static Plan,
        start: Instant,
    ) -> Self {
        config.seed(number as u64);
        let net = format!("{}/24", address(number).ip());
        let engine = Engine::new(config, &[net.parse().unwrap()], 1500, start);
        let out = VecDeque::new();
        Self {
            engine,
            start,
            now: start,
            number,
            plan,
            app: App::default(),
            id: None,
            listener: None,
            out,
        }
    }

    /// Makes something happen. `None` if it cannot happen now; else the packets that are sent.
    pub(super) fn step(&mut self, input: Input, packet: Option<&[u8]>) -> Option<Vec<Vec<u8>>> {
        self.now += TICK;
        match input {
            Input::Packet(_) => {
                let bytes = Bytes::copy_from_slice(packet?);
                self.engine
                    .on_packet(Packet::received(bytes, Meta::default()), self.now);
            }
            Input::Timeout => {
                self.now = self.now.max(self.engine.next_deadline()?);
                self.engine.on_timeout(self.now);
            }
            Input::Call(call) => self.call(call)?,
        }
        let mut sent = self.collect();
        if self.plan.eager && self.read().is_some() {
            sent.extend(self.collect());
        }
        Some(sent)
    }

    fn collect(&mut self) -> Vec<Vec<u8>> {
        while !self.engine.poll_packet(self.now, 64, &mut self.out) {}
        self.engine.wakes().clear();
        // The deadlines are settled lazily.
        self.engine.next_deadline();
        let complete = |mut packet: Packet| {
            let ip = crate::wire::ip::parse(packet.first(), packet.len())
                .expect("what we send is well-formed");
            crate::wire::tcp::fill_checksum(&mut packet, ip.header_len);
            packet.to_vec()
        };
        self.out.drain(..).map(complete).collect()
    }

    /// The calls that the plan allows next, whether or not they would block.
    pub(super) fn calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        if let Some(group) = self.plan.groups.get(usize::from(self.app.group)) {
            let open = group
                .iter()
                .enumerate()
                .filter(|(at, _)| self.app.done & 1 << at == 0);
            calls.extend(open.map(|(_, call)| *call));
        }
        if !self.plan.eager && self.id.is_some() && !self.app.ended && self.app.error.is_none() {
            calls.push(Call::Read);
        }
        calls
    }

    fn call(&mut self, call: Call) -> Option<()> {
        match call {
            Call::Listen => {
                self.listener = Some(
                    self.engine
                        .listen(address(self.number), 4)
                        .expect("a free port"),
                )
            }
            Call::Connect => self.connect(),
            Call::Accept => {
                self.id = Some(self.engine.accept(self.listener?)?.0);
                self.app.accepted = true;
            }
            Call::Read => return self.read(),
            // What was let go of can do no more.
            _ if self.app.closed => {}
            Call::Write => self.write()?,
            Call::Shutdown => {
                self.engine.shutdown(self.id?, self.now).ok()?;
                self.app.shut = true;
            }
            Call::Abort => {
                self.engine.abort(self.id?, self.now);
                self.app.aborted = true;
            }
            Call::CloseAtEnd if !self.app.ended && self.app.error.is_none() => return None,
            Call::CloseAtEnd | Call::Close => {
                self.engine.close(self.id.take()?, self.now);
                self.app.closed = true;
            }
        }
        self.tick_off(call);
        Some(())
    }

    fn tick_off(&mut self, call: Call) {
        let group = self.plan.groups[usize::from(self.app.group)];
        let at = (0..group.len()).find(|at| group[*at] == call && self.app.done & 1 << at == 0);
        self.app.done |= 1 << at.expect("only what the plan allows is called");
        if usize::from(self.app.done.count_ones() as u8) == group.len() {
            (self.app.group, self.app.done) = (self.app.group + 1, 0);
        }
    }

    fn connect(&mut self) {
        let (local, peer) = (address(self.number), address(1 - self.number));
        let bound = self
            .engine
            .ports()
            .bind(local, crate::link::Reuse::default(), false)
            .expect("a free port");
        let bell = Arc::clone(self.engine.doorbell());
        let options = self.engine.default_options();
        let link = Arc::new(StreamLink::new(bell, local, peer, options, 4096, 4096));
        self.engine.on_command(
            Command::Connect {
                link: Arc::clone(&link),
                bound: Some(bound),
                peer,
            },
            self.now,
        );
        self.id = link.button.id();
        self.app.opened = true;
    }

    fn write(&mut self) -> Option<()> {
        match self
            .engine
            .write(self.id?, &pattern(self.app.written, CHUNK), self.now)
        {
            Ok(bytes) => self.app.written += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            // Told once; later writes find a broken pipe.
            Err(error) => self.app.error = self.app.error.or_else(|| Some(error.kind())),
        }
        Some(())
    }

    /// Reads all there is; `None` if there is nothing.
    fn read(&mut self) -> Option<()> {
        let id = self.id?;
        let mut found = None;
        while !self.app.ended && self.app.error.is_none() {
            let mut buf = [0; 64];
            match self.engine.read(id, &mut buf, self.now) {
                Ok(0) => self.app.ended = true,
                Ok(bytes) => {
                    assert_eq!(
                        buf[..bytes],
                        pattern(self.app.read, bytes),
                        "wrong bytes at {}",
                        self.app.read
                    );
                    self.app.read += bytes;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.app.error = Some(error.kind()),
            }
            found = Some(());
        }
        found
    }

    /// How long the next timer has to run.
    pub(super) fn timer(&mut self) -> Option<Duration> {
        let now = self.now;
        self.engine
            .next_deadline()
            .map(|at| at.saturating_duration_since(now))
    }

    /// Whether nothing is left of what was opened and accepted.
    pub(super) fn is_clean(&mut self) -> bool {
        let listening = usize::from(self.listener.is_some());
        let slots: Vec<bool> = self
            .engine
            .slots
            .iter()
            .map(|(_, e)| matches!(e.slot, Slot::Listener(_)))
            .collect();
        slots == vec![true; listening]
            && self.engine.demux.len() == 0
            && self.engine.orphans == 0
            && self.engine.next_deadline().is_none()
    }

    /// Whether a connection waits for somebody to accept it.
    pub(super) fn has_backlog(&self) -> bool {
        self.engine
            .sockets(self.now)
            .iter()
            .any(|info| info.state == State::Listen && info.recv_queue > 0)
    }

    /// The state of every connection, for whoever reads a counterexample.
    pub(super) fn states(&self) -> Vec<State> {
        self.engine
            .sockets(self.now)
            .iter()
            .map(|info| info.state)
            .collect()
    }

    /// Everything that decides what this side will do, as text: all fields of all connections, half
    /// open ones and those in TIME-WAIT, the pipes and the application. Times count from now, in
    /// hundredths of a second; plain counters and estimates of the round trip are left out.
    pub(super) fn fingerprint(&mut self, text: &mut String) {
        let Self {
            engine,
            id,
            listener,
            app,
            ..
        } = self;
        let mut all = String::new();
        write!(all, "{app:?} {id:?} {listener:?} ").expect("a string takes everything");
        for (index, entry) in engine.slots.iter() {
            write!(all, "{index} {:?} {:?} ", entry.tuple, entry.slot)
                .expect("a string takes everything");
        }
        for (entry, pending) in engine.half_open.iter() {
            write!(all, "{pending:?} {:?} ", engine.half_open.due(entry))
                .expect("a string takes everything");
        }
        for (record, waiting) in engine.time_wait.iter() {
            write!(all, "{waiting:?} {:?} ", engine.time_wait.due(record))
                .expect("a string takes everything");
        }
        let now = engine.at(self.now).as_nanos() as i64;
        canonical(&all, now, text);
        let deadline = engine
            .next_deadline()
            .map(|at| at.saturating_duration_since(self.now).as_millis() / 10);
        write!(text, "{deadline:?} {}", self.now == self.start).expect("a string takes everything");
    }
}

/// Fields that count or measure, and decide nothing here; and what is shared by all of an engine.
const IGNORED: &[&str] = &[
    "bell",
    "counts",
    "events",
    "min_rtt",
    "recent_at",
    "rttvar",
    "since",
    "snapshot",
    "srtt",
    "tuning",
    "waiters",
];

/// Leaves out the fields that are ignored, and counts times from `now`.
fn canonical(all: &str, now: i64, text: &mut String) {
    let bytes = all.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        if bytes[at].is_ascii_alphabetic() || bytes[at] == b'_' {
            at = end_of(bytes, at, |byte| {
                byte.is_ascii_alphanumeric() || byte == b'_'
            });
            let word = &all[start..at];
            if bytes[at..].starts_with(b": ") && IGNORED.contains(&word) {
                at = end_of_value(bytes, at + 2);
            } else {
                text.push_str(word);
            }
        } else if bytes[at].is_ascii_digit() {
            at = end_of(bytes, at, |byte| byte.is_ascii_digit() || byte == b'.');
            match moment(&all[start..at]).filter(|_| bytes.get(at) == Some(&b's')) {
                Some(nanos) => {
                    let hundredths = (nanos - now + 5_000_000).div_euclid(10_000_000);
                    write!(text, "{hundredths}").expect("a string takes everything");
                }
                None => text.push_str(&all[start..at]),
            }
        } else {
            text.push(char::from(bytes[at]));
            at += 1;
        }
    }
}

fn end_of(bytes: &[u8], from: usize, inside: impl Fn(u8) -> bool) -> usize {
    (from..bytes.len())
        .find(|at| !inside(bytes[*at]))
        .unwrap_or(bytes.len())
}

/// Where the value of a field ends: at the comma or bracket behind it.
fn end_of_value(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' if depth == 0 => return at,
            b'}' | b')' | b']' => depth -= 1,
            b',' if depth == 0 => return at,
            _ => {}
        }
    }
    bytes.len()
}

/// The nanoseconds of a time as it shows itself: seconds with six digits behind the point.
fn moment(text: &str) -> Option<i64> {
    let (seconds, micros) = text
        .split_once('.')
        .filter(|(_, micros)| micros.len() == 6)?;
    let (seconds, micros): (i64, i64) = (seconds.parse().ok()?, micros.parse().ok()?);
    // What never comes stays as it is.
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(micros * 1_000)
}
