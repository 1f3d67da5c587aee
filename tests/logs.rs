//! What is logged, and of which connection. Apart from other tests: whether somebody listens is known
//! to a whole process.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use synack::{Config, engine::Engine, info::State};
use tracing::Level;

/// One test at a time.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged at `level` and above.
fn logged(level: Level, run: impl FnOnce()) -> Vec<String> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .without_time()
        .with_writer(Mutex::new(log.clone()))
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8_lossy(&log.lines()).into_owned();
    text.lines().map(str::to_owned).collect()
}

/// A connection that opens, waits for a peer that does not answer any more, and is given up.
fn life() -> Result<(), Box<dyn std::error::Error>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "where time begins is of no matter"
    )]
    let mut now = Instant::now();
    let mut server = Engine::new(Config::default(), &["10.0.0.1/24".parse()?], 1500, now);
    let mut client = Engine::new(Config::default(), &["10.0.0.2/24".parse()?], 1500, now);
    let listener = server.listen("10.0.0.1:80".parse()?, 16)?;
    client.connect("10.0.0.1:80".parse()?, now)?;
    let mut packets = VecDeque::new();
    for _ in 0..3 {
        client.poll_packet(now, 64, &mut packets);
        packets
            .drain(..)
            .for_each(|packet| server.on_packet(packet, now));
        server.poll_packet(now, 64, &mut packets);
        packets
            .drain(..)
            .for_each(|packet| client.on_packet(packet, now));
    }
    let (stream, _) = server.accept(listener).ok_or("nobody has come")?;
    server.write(stream, b"lost", now)?;
    while server.state(stream) == Some(State::Established) {
        server.poll_packet(now, 64, &mut packets);
        packets.clear();
        now = server.next_deadline().ok_or("nothing is waited for")?;
        server.on_timeout(now);
    }
    Ok(())
}

#[test]
fn whatever_is_logged_of_a_connection_names_both_of_its_ends() {
    let lines = logged(Level::TRACE, || life().unwrap());
    let ends = |line: &String| {
        let server = "local=10.0.0.1:80 peer=10.0.0.2:";
        let client = "peer=10.0.0.1:80";
        (line.contains(server) || line.contains(client)) && line.matches("local=").count() == 1
    };
    for line in &lines {
        assert!(ends(line), "{line}");
    }
    for what in [
        "accepted",
        "connected",
        "retransmission timeout",
        "does not answer",
        "to=CLOSED",
    ] {
        let found = lines.iter().any(|line| line.contains(what));
        assert!(found, "{what}: {lines:#?}");
    }
}

/// Peers decide what happens to a connection, and there may be very many of them.
#[test]
fn nothing_that_a_peer_does_is_logged_above_debug() {
    assert_eq!(logged(Level::INFO, || life().unwrap()), [""; 0]);
}
