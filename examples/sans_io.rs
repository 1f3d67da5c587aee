//! The engine in a loop of one's own: no runtime and no device, only std.
//!
//! ```sh
//! cargo run --release --example sans_io
//! ```
//!
//! Two threads with an engine each carry their packets over UDP on the loopback interface, and move
//! 100 MB from one to the other.

use std::{
    collections::VecDeque,
    error::Error,
    io::{self, ErrorKind},
    net::UdpSocket,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use synack::{
    config::Config,
    device::Splitter,
    engine::Engine,
    info::State,
    packet::{Meta, Packet},
};

const TOTAL: usize = 100_000_000;
const SERVER: &str = "10.0.0.1:80";

fn main() -> ExitCode {
    match run(TOTAL) {
        Ok(rate) => {
            println!("{TOTAL} bytes at {rate:.2} Gbit/s");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sans_io: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Moves this many bytes; the rate in Gbit/s.
pub fn run(total: usize) -> Result<f64, Box<dyn Error + Send + Sync>> {
    let mut server = Node::new("10.0.0.1/24")?;
    let mut client = Node::new("10.0.0.2/24")?;
    server.socket.connect(client.socket.local_addr()?)?;
    client.socket.connect(server.socket.local_addr()?)?;
    let listener = server.engine.listen(SERVER.parse()?, 16)?;
    let start = now();
    let sender = thread::spawn(move || send(&mut client, total));

    let (mut accepted, mut received) = (None, 0);
    let mut buf = vec![0; 64 << 10];
    server.run(|engine, now| {
        accepted = accepted.or_else(|| engine.accept(listener));
        let Some((stream, _peer)) = accepted else {
            return Ok(false);
        };
        loop {
            match engine.read(stream, &mut buf, now) {
                Ok(0) => {
                    engine.shutdown(stream, now)?;
                    return Ok(engine.state(stream) == Some(State::Closed));
                }
                Ok(len) => received += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    })?;
    sender.join().map_err(|_| "the sender panicked")??;
    if received != total {
        return Err(format!("{received} of {total} bytes arrived").into());
    }
    Ok(received as f64 * 8e-9 / start.elapsed().as_secs_f64())
}

/// Connects, writes everything, closes its side, and waits for the end of the other's.
fn send(client: &mut Node, total: usize) -> io::Result<()> {
    let peer = SERVER.parse().map_err(io::Error::other)?;
    let stream = client.engine.connect(peer, now())?;
    let (data, mut written) = (vec![7; 64 << 10], 0);
    client.run(|engine, now| {
        while written < total {
            let part = &data[..data.len().min(total - written)];
            match engine.write(stream, part, now) {
                Ok(len) => written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        engine.shutdown(stream, now)?;
        match engine.read(stream, &mut [0], now) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            end => end.map(|_| true),
        }
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the loop is where time comes from"
)]
fn now() -> Instant {
    Instant::now()
}

/// An engine and the network that it is on.
struct Node {
    engine: Engine,
    socket: UdpSocket,
    packets: VecDeque<Packet>,
    splitter: Splitter,
}

impl Node {
    fn new(address: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let address = address.parse()?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        Ok(Self {
            engine: Engine::new(Config::default(), &[address], 16_000, now()),
            socket,
            packets: VecDeque::new(),
            splitter: Splitter::new(),
        })
    }

    /// The whole loop: let the application act, send, wait for a packet or a timer; until the
    /// application is done and its last packets are sent.
    fn run(
        &mut self,
        mut act: impl FnMut(&mut Engine, Instant) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut buf = vec![0; 65_536];
        loop {
            let done = act(&mut self.engine, now())?;
            self.send_all()?;
            if done {
                return Ok(());
            }
            let wait = self
                .engine
                .next_deadline()
                .map_or(Duration::from_secs(1), |at| {
                    at.saturating_duration_since(now())
                });
            // Zero would mean to wait for ever.
            self.socket
                .set_read_timeout(Some(wait.max(Duration::from_micros(1))))?;
            match self.socket.recv(&mut buf) {
                Ok(len) => {
                    let bytes = Bytes::copy_from_slice(&buf[..len]);
                    self.engine
                        .on_packet(Packet::received(bytes, Meta::default()), now());
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // The other end is gone, because it has everything.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(()),
                Err(error) => return Err(error),
            }
            self.engine.on_timeout(now());
        }
    }

    fn send_all(&mut self) -> io::Result<()> {
        loop {
            let all = self.engine.poll_packet(now(), 64, &mut self.packets);
            for packet in self.packets.drain(..) {
                for bytes in self.splitter.split(packet) {
                    // A network may lose packets; an error is a loss like any other.
                    let _ = self.socket.send(&bytes);
                }
            }
            if all {
                return Ok(());
            }
        }
    }
}
