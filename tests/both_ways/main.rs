//! One program text, compiled against `tokio::net` and against `synack::net`: what it observes on
//! Linux's loopback and on ours is the same.

#![expect(clippy::unwrap_used, reason = "a test may panic anywhere")]

use std::{
    fmt::Debug,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use synack::{Stack, device};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest, Ready},
    time::{sleep, timeout},
};

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// A value, or the kind of an error and its number if the operating system has one.
fn told<T: Debug>(outcome: io::Result<T>) -> String {
    match outcome {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("error {:?}", error.kind()),
    }
}

/// What was tried, and what came of it.
#[derive(Default)]
struct Seen(Vec<(&'static str, String)>);

impl Seen {
    fn see(&mut self, what: &'static str, outcome: String) {
        self.0.push((what, outcome));
    }
}

mod theirs {
    use tokio::net;

    use super::*;

    include!("program.rs");
}

mod ours {
    use synack::net;

    use super::*;

    include!("program.rs");
}

#[tokio::test]
async fn the_same_text_observes_the_same_on_linux_and_on_synack() {
    let limit = Duration::from_secs(60);
    let theirs = theirs::observe([127, 0, 0, 1].into());
    let theirs = timeout(limit, theirs).await.unwrap().unwrap();
    let (device, _other) = device::pair(1500);
    let stack = Stack::builder()
        .address("10.0.0.1/24".parse().unwrap())
        .spawn(device)
        .unwrap();
    let ours = stack.scope(ours::observe([127, 0, 0, 1].into()));
    let ours = timeout(limit, ours).await.unwrap().unwrap();
    assert_eq!(theirs.len(), ours.len());
    let differs = |(theirs, ours): &(&(_, _), &(_, _))| theirs != ours;
    let differences: Vec<_> = theirs.iter().zip(&ours).filter(differs).collect();
    assert!(differences.is_empty(), "Linux, ours: {differences:#?}");
}
