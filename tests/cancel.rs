//! Futures dropped at any of their await points: nothing leaks, and nobody else loses a byte.

#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

mod common;

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use common::pattern;
use synack::{
    Stack,
    config::{Config, SocketOptions},
    device::{
        self, Link,
        link::{LinkEnd, Verdict},
    },
    info::{SocketInfo, State},
    net::{TcpListener, TcpStream},
    packet::Packet,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::JoinSet,
    time,
};

const SERVER: &str = "10.0.0.1:80";
/// So many clients are cancelled.
const CANCELLED: u64 = 1000;
/// So many go on beside them.
const SURVIVORS: u64 = 500;
const ACCEPTORS: u64 = 4;

/// What a client says first: whether the other end is to live too.
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

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Connect,
    Accept,
    Read,
    Write,
    Shutdown,
}

/// Whether to go on, and what for: each task has one.
struct Life {
    rng: Rng,
    /// How often the task may still find that it has to wait, before it is dropped.
    waits: Option<u64>,
    /// Where its time was up.
    ended: Option<Op>,
}

type SharedLife = Arc<Mutex<Life>>;

impl Life {
    fn new(seed: u64, waits: Option<u64>) -> SharedLife {
        let rng = Rng::new(seed);
        Arc::new(Mutex::new(Self {
            rng,
            waits,
            ended: None,
        }))
    }

    /// The task has to wait.
    fn wait(&mut self, op: Op) {
        match &mut self.waits {
            Some(0) => self.ended = Some(op),
            Some(waits) => *waits -= 1,
            None => {}
        }
    }
}

fn below(life: &SharedLife, end: u64) -> u64 {
    life.lock().unwrap().rng.below(end)
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

/// Runs a task until its time is up: then it is dropped while it waits, with all that it holds.
async fn mortal<T>(life: &SharedLife, task: impl Future<Output = T>) -> Result<T, Op> {
    let mut task = Box::pin(task);
    poll_fn(|cx| {
        let polled = task.as_mut().poll(cx);
        match (polled, life.lock().unwrap().ended) {
            (Poll::Ready(value), _) => Poll::Ready(Ok(value)),
            (Poll::Pending, Some(op)) => Poll::Ready(Err(op)),
            (Poll::Pending, None) => Poll::Pending,
        }
    })
    .await
}

/// Tells the task's life of each time that a future has to wait. Some operations hardly ever do:
/// half of them are made to wait before they begin, as for want of the task's budget.
async fn watched<T>(life: &SharedLife, op: Op, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut waited = false;
    poll_fn(|cx| {
        if !waited && below(life, 2) == 0 {
            waited = true;
            life.lock().unwrap().wait(op);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            life.lock().unwrap().wait(op);
        }
        polled
    })
    .await
}

/// Begins an operation again and again, dropped in between, until it is done.
macro_rules! insist {
    ($life:expr, $op:ident, $operation:expr) => {
        loop {
            let polls = below($life, 4);
            let operation = watched($life, Op::$op, $operation);
            if let Some(done) = some_polls(operation, polls).await {
                break done;
            }
            time::sleep(Duration::from_millis(below($life, 30))).await;
        }
    };
}

/// Writes all of it with a future that is dropped again and again.
async fn write_all(life: &SharedLife, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        written += insist!(life, Write, stream.write(&bytes[written..]))?;
    }
    Ok(())
}

/// Sends bytes to an echo and compares what comes back.
async fn client(stack: Stack, life: &SharedLife, seed: u64, first: u8) -> io::Result<()> {
    let mut stream = insist!(life, Connect, stack.connect(SERVER))?;
    let sent = pattern(seed, below(life, 50_000) as usize);
    write_all(life, &mut stream, &[first]).await?;
    let (mut buf, mut received, mut written) = (vec![0; 4096], Vec::new(), 0);
    // In turns, so that neither end waits for the other with its buffers full.
    while written < sent.len() {
        let part = &sent[written..sent.len().min(written + 10_000)];
        write_all(life, &mut stream, part).await?;
        written += part.len();
        while received.len() < written {
            let len = insist!(life, Read, stream.read(&mut buf))?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(&buf[..len]);
        }
    }
    insist!(life, Shutdown, stream.shutdown())?;
    let end = insist!(life, Read, stream.read(&mut buf))?;
    assert_eq!(end, 0, "client {seed}");
    assert!(received == sent, "client {seed} got back other bytes");
    Ok(())
}

/// How many were cancelled while they waited for what.
#[derive(Clone, Default)]
struct Tally(Arc<Mutex<HashMap<Op, usize>>>);

impl Tally {
    fn add(&self, op: Op) {
        *self.0.lock().unwrap().entry(op).or_default() += 1;
    }

    fn of(&self, op: Op) -> usize {
        self.0.lock().unwrap().get(&op).copied().unwrap_or(0)
    }
}

/// Sends back what comes; cancelled while it waits, unless the client says otherwise.
async fn echo(mut stream: TcpStream, seed: u64, tally: Tally) {
    let life = Life::new(seed, None);
    let echo = async {
        if insist!(&life, Read, stream.read_u8())? == DIES {
            let waits = below(&life, 100);
            life.lock().unwrap().waits = Some(waits);
        }
        let mut buf = vec![0; 4096];
        loop {
            let len = insist!(&life, Read, stream.read(&mut buf))?;
            if len == 0 {
                return insist!(&life, Shutdown, stream.shutdown());
            }
            write_all(&life, &mut stream, &buf[..len]).await?;
        }
    };
    // Its own end or the other may be first, so any error is right, and none either.
    if let Err(op) = mortal(&life, echo).await {
        tally.add(op);
    }
}

/// Accepts, cancelled every now and then, and has connections served.
async fn serve(listener: Arc<TcpListener>, acceptor: u64, tally: Tally) {
    let mut echoes = JoinSet::new();
    for turn in 0.. {
        let life = Life::new(turn << 8 | acceptor, None);
        let waits = (turn % 2 == 0).then(|| below(&life, 3));
        life.lock().unwrap().waits = waits;
        let accept = async { insist!(&life, Accept, listener.accept()) };
        match mortal(&life, accept).await {
            Ok(accepted) => {
                let (stream, peer) = accepted.unwrap();
                echoes.spawn(echo(stream, u64::from(peer.port()), tally.clone()));
            }
            Err(op) => tally.add(op),
        }
    }
}

/// Clients that are cancelled, one after another until one was before it was done.
async fn cancelled_client(stack: Stack, seed: u64, tally: Tally) {
    for attempt in 0.. {
        let seed = seed << 8 | attempt;
        let life = Life::new(seed, None);
        let waits = below(&life, 60);
        life.lock().unwrap().waits = Some(waits);
        if let Err(op) = mortal(&life, client(stack.clone(), &life, seed, DIES)).await {
            return tally.add(op);
        }
    }
}

/// Resets that were sent and never arrived: from where and to where.
#[derive(Clone, Default)]
struct LostResets(Arc<Mutex<HashSet<(SocketAddr, SocketAddr)>>>);

impl LostResets {
    /// The end at `local` may wait for ever, for all that it knows.
    fn concerns(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        self.0.lock().unwrap().contains(&(peer, local))
    }

    /// Notes whether a packet is lost, if it carries a reset.
    fn note(&self, packet: &Packet, lost: bool) {
        let bytes = packet.to_vec();
        let at = |ip: usize, port: usize| {
            let ip = <[u8; 4]>::try_from(&bytes[ip..ip + 4]).unwrap();
            let port = u16::from_be_bytes([bytes[port], bytes[port + 1]]);
            SocketAddr::from((Ipv4Addr::from(ip), port))
        };
        const RST: u8 = 4;
        if bytes[33] & RST != 0 {
            let (way, mut resets) = ((at(12, 20), at(16, 22)), self.0.lock().unwrap());
            if lost {
                resets.insert(way);
            } else {
                resets.remove(&way);
            }
        }
    }
}

fn stack(device: LinkEnd, host: u64) -> Stack {
    let address = format!("10.0.0.{host}/24").parse().unwrap();
    // Writers are to find their buffers full.
    let mut config = Config::default();
    config.options(SocketOptions {
        send_buffer: Some(4096),
        ..SocketOptions::default()
    });
    let builder = Stack::builder().address(address).config(config).seed(host);
    builder.spawn(device).unwrap()
}

/// What sockets there are, but for those that wait for a peer whose reset was lost.
async fn sockets(stack: &Stack, lost: &LostResets) -> Vec<State> {
    let sockets = stack.sockets().await.unwrap();
    let excused = |socket: &&SocketInfo| match socket.peer {
        Some(peer) => socket.owned && lost.concerns(socket.local, peer),
        None => false,
    };
    let left = sockets.iter().filter(|socket| !excused(socket));
    left.map(|socket| socket.state).collect()
}

/// A thousand cancelled clients beside others that live, over a link that loses so much.
async fn cancel_a_thousand(loss_in_1000: u64) -> LostResets {
    let (lost, mut rng) = (LostResets::default(), Rng::new(45));
    let resets = lost.clone();
    let link = Link::builder().delay(Duration::from_millis(5));
    let (one, other) = link
        .filter(move |_, packet| {
            let is_lost = rng.below(1000) < loss_in_1000;
            resets.note(packet, is_lost);
            if is_lost {
                Verdict::Drop
            } else {
                Verdict::Pass
            }
        })
        .build();
    let (server_stack, client_stack) = (stack(one, 1), stack(other, 2));
    let listener = Arc::new(server_stack.listen(SERVER).await.unwrap());
    let (tally, server_tally) = (Tally::default(), Tally::default());
    let mut acceptors = JoinSet::new();
    for acceptor in 0..ACCEPTORS {
        acceptors.spawn(serve(listener.clone(), acceptor, server_tally.clone()));
    }

    // Not all at one instant, so that connections meet each other in all states.
    let permits = Arc::new(Semaphore::new(100));
    let mut clients = JoinSet::new();
    for seed in 0..CANCELLED + SURVIVORS {
        let (stack, permits, tally) = (client_stack.clone(), permits.clone(), tally.clone());
        clients.spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            if seed % 3 != 0 {
                cancelled_client(stack, seed, tally).await;
                return false;
            }
            let life = Life::new(seed, None);
            let lived = client(stack, &life, seed, LIVES).await;
            lived.unwrap_or_else(|error| panic!("client {seed} was to live: {error}"));
            true
        });
    }
    let mut lived = 0;
    while let Ok(Some(done)) = time::timeout(Duration::from_secs(3600), clients.join_next()).await {
        lived += u64::from(done.unwrap());
    }
    assert_eq!(lived, SURVIVORS);
    // Longer than TIME-WAIT, and than all retransmissions of what an owner left behind. Who is there
    // after that waits for an end that was cancelled, and whose reset was lost.
    time::sleep(Duration::from_secs(1200)).await;
    assert_eq!(sockets(&client_stack, &lost).await, []);
    let waiting = clients.len();
    clients.shutdown().await;
    let ops = [Op::Connect, Op::Read, Op::Write, Op::Shutdown].map(|op| tally.of(op));
    assert_eq!((ops.iter().sum::<usize>() + waiting) as u64, CANCELLED);
    assert!(ops.iter().all(|cancelled| *cancelled > 5), "{ops:?}");
    let ops = [Op::Accept, Op::Read, Op::Write, Op::Shutdown].map(|op| server_tally.of(op));
    assert!(ops.iter().all(|cancelled| *cancelled > 5), "{ops:?}");

    time::sleep(Duration::from_secs(1200)).await;
    let none = LostResets::default();
    assert_eq!(sockets(&client_stack, &none).await, []);
    assert_eq!(sockets(&server_stack, &lost).await, [State::Listen]);
    // Whose peer's reset was lost is there as long as its owner is, and no longer.
    acceptors.shutdown().await;
    drop(listener);
    time::sleep(Duration::from_secs(1200)).await;
    assert_eq!(sockets(&server_stack, &none).await, []);
    lost
}

#[tokio::test(start_paused = true)]
async fn tasks_cancelled_anywhere_leak_nothing_and_the_others_lose_nothing() {
    cancel_a_thousand(0).await;
}

/// A reset is sent once. Where that one is lost and the other end has nothing to send, nobody tells
/// it that it waits in vain; keep-alive is there for those who mind (RFC 9293 §3.8.4). So nothing
/// else may be left over.
#[tokio::test(start_paused = true)]
async fn over_a_bad_path_only_who_waits_for_a_lost_reset_is_left() {
    let lost = cancel_a_thousand(10).await;
    assert!(!lost.0.lock().unwrap().is_empty(), "no reset was lost");
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
