//! What is logged, and of which connection.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use tracing::Level;

use super::script::Script;
use crate::config::Config;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged at `level` and above.
fn logged(level: Level, run: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .without_time()
        .with_writer(Mutex::new(log.clone()))
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// A connection that opens, waits for a peer that does not answer any more, and ends.
fn life() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 10);
    for _ in 0..5 {
        s.wait_for_timer();
        s.drain();
    }
    s.recv("R 1:1(0)");
}

#[test]
fn whatever_is_logged_of_a_connection_names_both_of_its_ends() {
    let ends = {
        let s = Script::new(Config::default());
        format!("local={} peer={}", s.local, s.peer)
    };
    let lines = logged(Level::TRACE, life);
    for line in &lines {
        assert!(line.contains(&ends), "{line}");
        assert_eq!(line.matches("local=").count(), 1, "{line}");
    }
    for what in [
        "accepted",
        "retransmission timeout",
        "does not answer",
        "to=CLOSED",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(what)),
            "{what}: {lines:#?}"
        );
    }
}

/// Peers decide what happens to a connection, and there may be very many of them.
#[test]
fn nothing_that_a_peer_does_is_logged_above_debug() {
    assert_eq!(logged(Level::INFO, life), [""; 0]);
}
