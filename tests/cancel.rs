//! Futures dropped at any of their await points: nothing leaks, and nobody else loses a byte.

#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

mod common;

use std::{future::poll_fn, io, pin::pin, sync::Arc, task::Poll, time::Duration};

use common::pattern;
use synack::{
    Stack,
    config::{Config, KeepAlive, SocketOptions},
    device::{self, Link, link::LinkEnd},
    info::State,
    net::{TcpListener, TcpStream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::JoinSet,
    time,
};

const SERVER: &str = "10.0.0.1:80";
const TASKS: u64 = 1000;
const ACCEPTORS: u64 = 4;

/// What a client says first: whether both ends are to live.
const LIVES: u8 = 1;
const DIES: u8 = 0;

/// A generator (xorshift64*): the same seed gives the same numbers.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8) % end
    }
}

/// Polls a future up to so many times, then drops it: `None` if it was not done.
async fn some_polls<T>(future: impl Future<Output = T>, mut polls: u64) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Begins an operation again and again, dropped in between, until it is done.
macro_rules! insist {
    ($rng:expr, $operation:expr) => {
        loop {
            let polls = $rng.below(4);
            if let Some(done) = some_polls($operation, polls).await {
                break done;
            }
            time::sleep(Duration::from_millis($rng.below(30))).await;
        }
    };
}

/// Writes all of it with a future that is dropped again and again.
async fn write_all(rng: &mut Rng, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        written += insist!(rng, stream.write(&bytes[written..]))?;
    }
    Ok(())
}

/// Sends bytes to an echo and compares what comes back.
async fn client(stack: Stack, seed: u64, first: u8) -> io::Result<()> {
    let mut rng = Rng::new(seed);
    let mut stream = insist!(rng, stack.connect(SERVER))?;
    let sent = pattern(seed, rng.below(50_000) as usize);
    write_all(&mut rng, &mut stream, &[first]).await?;
    let (mut buf, mut received, mut written) = (vec![0; 4096], Vec::new(), 0);
    // In turns, so that neither end waits for the other with its buffers full.
    while written < sent.len() {
        let part = &sent[written..sent.len().min(written + 10_000)];
        write_all(&mut rng, &mut stream, part).await?;
        written += part.len();
        while received.len() < written {
            let len = insist!(rng, stream.read(&mut buf))?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(&buf[..len]);
        }
    }
    insist!(rng, stream.shutdown())?;
    assert_eq!(insist!(rng, stream.read(&mut buf))?, 0, "client {seed}");
    assert!(received == sent, "client {seed} got back other bytes");
    Ok(())
}

/// Sends back what comes; dropped at a random await point unless the client says otherwise.
async fn echo(mut stream: TcpStream, mut rng: Rng) -> io::Result<()> {
    let first = insist!(rng, stream.read_u8())?;
    let polls = if first == LIVES {
        u64::MAX
    } else {
        rng.below(100)
    };
    let echo = async {
        let mut buf = vec![0; 4096];
        loop {
            let len = insist!(rng, stream.read(&mut buf))?;
            if len == 0 {
                return insist!(rng, stream.shutdown());
            }
            write_all(&mut rng, &mut stream, &buf[..len]).await?;
        }
    };
    some_polls(echo, polls).await.unwrap_or(Ok(()))
}

async fn serve(listener: Arc<TcpListener>, acceptor: u64) {
    let mut rng = Rng::new(u64::MAX - acceptor);
    loop {
        let (stream, peer) = insist!(rng, listener.accept()).unwrap();
        tokio::spawn(echo(stream, Rng::new(u64::from(peer.port()))));
    }
}

fn stack(device: LinkEnd, host: u64) -> Stack {
    let address = format!("10.0.0.{host}/24").parse().unwrap();
    // A reset may be lost, and is sent once: who only waits finds out by asking.
    let mut config = Config::default();
    config.options(SocketOptions {
        keepalive: Some(KeepAlive {
            idle: Duration::from_secs(10),
            interval: Duration::from_secs(5),
            count: 9,
        }),
        ..SocketOptions::default()
    });
    let builder = Stack::builder().address(address).config(config).seed(host);
    builder.spawn(device).unwrap()
}

async fn states(stack: &Stack) -> Vec<State> {
    let sockets = stack.sockets().await.unwrap();
    sockets.iter().map(|socket| socket.state).collect()
}

#[tokio::test(start_paused = true)]
async fn tasks_cancelled_anywhere_leak_nothing_and_the_others_lose_nothing() {
    let link = Link::builder()
        .seed(42)
        .delay(Duration::from_millis(5))
        .loss(0.01);
    let (one, other) = link.build();
    let (server_stack, client_stack) = (stack(one, 1), stack(other, 2));
    let listener = Arc::new(server_stack.listen(SERVER).await.unwrap());
    let mut acceptors = JoinSet::new();
    for acceptor in 0..ACCEPTORS {
        acceptors.spawn(serve(listener.clone(), acceptor));
    }

    // Not all at one instant, so that connections meet each other in all states.
    let permits = Arc::new(Semaphore::new(100));
    let mut clients = JoinSet::new();
    for seed in 0..TASKS {
        let (stack, permits) = (client_stack.clone(), permits.clone());
        clients.spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            if seed % 2 == 0 {
                let lived = client(stack, seed, LIVES).await;
                return lived.map(|()| false).map_err(|error| (seed, error));
            }
            // Its own end or the other may be first, so any error is right, and none either.
            let polls = Rng::new(!seed).below(25);
            let done = some_polls(client(stack, seed, DIES), polls).await;
            Ok(done.is_none())
        });
    }
    let mut cut = 0;
    while let Some(done) = clients.join_next().await {
        match done.unwrap() {
            Ok(true) => cut += 1,
            Ok(false) => {}
            Err((seed, error)) => panic!("client {seed} was to live: {error}"),
        }
    }
    assert!(
        cut > TASKS / 4,
        "only {cut} were dropped before they were done"
    );

    // Longer than TIME-WAIT, and than all retransmissions of what an owner left behind.
    time::sleep(Duration::from_secs(1200)).await;
    assert_eq!(states(&client_stack).await, []);
    assert_eq!(states(&server_stack).await, [State::Listen]);
    acceptors.shutdown().await;
    drop(listener);
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(states(&server_stack).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_accept_leaves_its_connection_to_the_next() {
    let (one, other) = device::pair(1500);
    let build = |device, address: &str| {
        let builder = Stack::builder().address(address.parse().unwrap());
        builder.spawn(device).unwrap()
    };
    let (server, client) = (build(one, "10.0.0.1/24"), build(other, "10.0.0.2/24"));
    let listener = server.listen(SERVER).await.unwrap();
    for polls in 0..50 {
        // The waiting `accept` is woken by the connection and dropped without another poll.
        let mut accept = Box::pin(listener.accept());
        let polled = some_polls(accept.as_mut(), polls % 2).await;
        assert!(polled.is_none());
        let stream = client.connect(SERVER).await.unwrap();
        time::sleep(Duration::from_millis(10)).await;
        drop(accept);
        let next = time::timeout(Duration::from_secs(1), listener.accept()).await;
        let (_, peer) = next.expect("the connection is still there").unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
    }
}
