//! Everything that a program can ask of its handles, at random and cancelled at random, over a bad
//! link: no byte is wrong, nothing panics or spins, and in the end nothing is left.
//!
//! `SYNACK_SEED=N` runs one seed, `SYNACK_SEEDS=N` so many, and both so many from that one on.

use tokio::{task::JoinSet, time::Instant};

use super::*;
use crate::{
    Unreachable,
    config::{Congestion, SocketOptions},
    device::{
        Link,
        link::{Impairment, LinkEnd},
    },
    testing::{Rng, seeds},
};

const TASKS: usize = 8;
const OPS: usize = 120;

/// Longer than whatever an owner leaves behind takes to end.
const LONG: Duration = Duration::from_secs(3600);

/// A turn of the reactor for each of these is no spinning.
const TURN: Duration = Duration::from_micros(50);

/// What each end sends: a byte follows from its place alone.
fn pattern(at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|at| ((at * 31) >> 3) as u8).collect()
}

/// A stream, and how far both directions are.
struct Party {
    stream: TcpStream,
    written: usize,
    read: usize,
}

impl Party {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            written: 0,
            read: 0,
        }
    }

    fn took(&mut self, bytes: &[u8]) {
        assert_eq!(bytes, pattern(self.read, bytes.len()), "at {}", self.read);
        self.read += bytes.len();
    }

    /// One thing, for as long as it may take.
    async fn act(&mut self, rng: &mut Rng) {
        let limit = Duration::from_micros([1, 1000, 100_000, 10_000_000][rng.below(4)]);
        match rng.below(12) {
            0..3 => self.write(rng, limit).await,
            3..6 => self.read(rng, limit).await,
            6 => self.peek(limit).await,
            7 => {
                let interests = [Interest::READABLE, Interest::WRITABLE, Interest::ERROR];
                let interest = interests[rng.below(3)].add(interests[rng.below(3)]);
                let _ = timeout(limit, self.stream.ready(interest)).await;
            }
            8 => self.set(rng),
            9 if rng.below(4) == 0 => {
                let _ = timeout(limit, self.stream.shutdown()).await;
            }
            10 => {
                let _ = timeout(limit, self.stream.info()).await;
                let _ = (self.stream.local_addr(), self.stream.peer_addr());
            }
            11 if rng.below(4) == 0 => drop(self.stream.take_error()),
            _ => {}
        }
    }

    async fn write(&mut self, rng: &mut Rng, limit: Duration) {
        let bytes = pattern(self.written, [0, 1, 3000, 300_000][rng.below(4)]);
        let written = match rng.below(4) {
            0 => timeout(limit, self.stream.write(&bytes)).await,
            1 => Ok(self.stream.try_write(&bytes)),
            2 => {
                let (one, other) = bytes.split_at(bytes.len() / 3);
                let both = [io::IoSlice::new(one), io::IoSlice::new(other)];
                timeout(limit, self.stream.write_vectored(&both)).await
            }
            _ => {
                let mut chunk = Bytes::from(bytes);
                Ok(self.stream.try_write_chunk(&mut chunk))
            }
        };
        // What is cancelled has written nothing.
        if let Ok(Ok(written)) = written {
            self.written += written;
        }
    }

    async fn read(&mut self, rng: &mut Rng, limit: Duration) {
        let mut bytes = vec![0; [1, 3000, 300_000][rng.below(3)]];
        let read = match rng.below(3) {
            0 => timeout(limit, self.stream.read(&mut bytes)).await,
            1 => Ok(self.stream.try_read(&mut bytes)),
            _ => {
                let chunk = timeout(limit, self.stream.read_chunk(bytes.len())).await;
                if let Ok(Ok(Some(chunk))) = chunk {
                    self.took(&chunk);
                }
                return;
            }
        };
        if let Ok(Ok(read)) = read {
            self.took(&bytes[..read]);
        }
    }

    async fn peek(&mut self, limit: Duration) {
        let mut bytes = [0; 1000];
        if let Ok(Ok(seen)) = timeout(limit, self.stream.peek(&mut bytes)).await {
            assert_eq!(bytes[..seen], pattern(self.read, seen));
        }
    }

    fn set(&mut self, rng: &mut Rng) {
        let stream = &self.stream;
        let on = rng.below(2) == 0;
        match rng.below(8) {
            0 => drop(stream.set_nodelay(on)),
            1 => drop(stream.set_linger(on.then_some(Duration::from_secs(rng.below(2) as u64)))),
            2 => stream.set_cork(on),
            3 => stream.set_user_timeout(on.then_some(Duration::from_secs(5))),
            4 => drop(stream.set_keepalive(on.then(KeepAlive::default))),
            5 => stream.set_congestion([Congestion::Bbr, Congestion::Reno][rng.below(2)]),
            6 => drop(stream.set_mss(on.then_some(88 + rng.below(2000) as u16))),
            _ => drop(stream.set_quickack(on)),
        }
    }

    /// One of the ways to go.
    async fn leave(self, rng: &mut Rng) {
        match rng.below(6) {
            0 => self.stream.abort(),
            1 => drop(self.stream.into_split()),
            2 => {
                let (read, write) = self.stream.into_split();
                write.forget();
                yield_now().await;
                drop(read);
            }
            3 => {
                let (read, write) = self.stream.into_split();
                drop(read);
                yield_now().await;
                drop(write);
            }
            4 => {
                let (read, write) = self.stream.into_split();
                drop(read.reunite(write));
            }
            _ => drop(self.stream),
        }
    }
}

/// What one program does.
async fn program(stacks: [Stack; 2], listeners: [Arc<TcpListener>; 2], seed: u64) {
    let mut rng = Rng::new(seed);
    let rng = &mut rng;
    let mut parties: Vec<Party> = Vec::new();
    let mut socket = None;
    for _ in 0..OPS {
        let side = rng.below(2);
        let stack = &stacks[side];
        let limit = Duration::from_millis([0, 5, 200, 20_000][rng.below(4)]);
        match rng.below(16) {
            0 | 1 => {
                let to = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:81", "192.0.2.1:80"];
                let connecting = stack.connect(to[rng.below(4)]);
                if let Ok(Ok(stream)) = timeout(limit, connecting).await {
                    parties.push(Party::new(stream));
                }
            }
            2 | 3 => {
                let accepting = listeners[side].accept();
                if let Ok(Ok((stream, _))) = timeout(limit, accepting).await {
                    parties.push(Party::new(stream));
                }
            }
            4 => {
                if let Ok(Ok(bound)) = timeout(limit, stack.bind_udp("0.0.0.0:0")).await {
                    let _ = bound.send_to(&[7; 100], "10.0.0.1:53").await;
                    socket = Some(bound);
                }
            }
            5 => {
                if let Some(socket) = &socket {
                    let _ = timeout(limit, socket.recv_from(&mut [0; 100])).await;
                }
            }
            6 => {
                let to = "10.0.0.1".parse().unwrap();
                let _ = timeout(limit, stack.ping(to, &[7; 100], limit)).await;
            }
            7 if !parties.is_empty() => {
                let party = parties.swap_remove(rng.below(parties.len()));
                party.leave(rng).await;
            }
            _ if !parties.is_empty() => {
                let at = rng.below(parties.len());
                parties[at].act(rng).await;
            }
            _ => yield_now().await,
        }
    }
}

/// Decides about what goes to any destination.
async fn gateway(stack: Stack, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut incoming = stack.incoming().unwrap();
    let mut accepted = JoinSet::new();
    while let Some(wanted) = incoming.next().await {
        match rng.below(4) {
            0 => wanted.reject(),
            1 => wanted.reject_with(Unreachable::Host),
            2 => drop(wanted),
            _ => drop(accepted.spawn(async move {
                if let Ok(stream) = wanted.accept().await {
                    let _ = timeout(LONG, stream.readable()).await;
                }
            })),
        }
    }
}

fn bad_link(rng: &mut Rng) -> (LinkEnd, LinkEnd) {
    let chance = |rng: &mut Rng| [0.0, 0.01, 0.1][rng.below(3)];
    let path = Impairment::new()
        .delay(Duration::from_micros([0, 100, 20_000][rng.below(3)]))
        .loss(chance(rng))
        .duplicate(chance(rng))
        .reorder(chance(rng), Duration::from_millis(7));
    let path = match rng.below(2) {
        0 => path.rate(20_000_000),
        _ => path,
    };
    Link::builder().both(path).seed(rng.next()).build()
}

fn host(end: LinkEnd, host: u64, rng: &mut Rng) -> Stack {
    let mut config = Config::default();
    config
        .memory([2 << 20, 1 << 30][rng.below(2)])
        .ecn(rng.below(2) == 0)
        .time_wait(Duration::from_secs(rng.below(3) as u64))
        .options(SocketOptions {
            send_buffer: [None, Some(5000)][rng.below(2)],
            recv_buffer: [None, Some(5000)][rng.below(2)],
            ..SocketOptions::default()
        });
    let address = format!("10.0.0.{host}/24").parse().unwrap();
    let builder = Stack::builder().address(address).config(config);
    builder.seed(rng.next()).spawn(end).unwrap()
}

async fn live_and_leave(seed: u64) {
    println!("SYNACK_SEED={seed}");
    let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (one, other) = bad_link(&mut rng);
    let stacks = [host(one, 1, &mut rng), host(other, 2, &mut rng)];
    let begin = Instant::now();
    let mut listeners = Vec::new();
    for (stack, at) in stacks.iter().zip(["10.0.0.1:80", "10.0.0.2:80"]) {
        listeners.push(Arc::new(stack.listen(at).await.unwrap()));
    }
    let listeners: [_; 2] = listeners.try_into().unwrap();
    let gateway = tokio::spawn(gateway(stacks[0].clone(), rng.next()));
    let mut programs = JoinSet::new();
    for _ in 0..TASKS {
        programs.spawn(program(stacks.clone(), listeners.clone(), rng.next()));
    }
    let end = Duration::from_millis([100, 3000, 100_000][rng.below(3)]);
    // Some are cut off wherever they are.
    while let Ok(Some(done)) = timeout(end, programs.join_next()).await {
        done.unwrap();
    }
    programs.shutdown().await;
    drop(listeners);
    gateway.abort();
    time::sleep(LONG).await;
    for stack in &stacks {
        assert_eq!(stack.sockets().await.unwrap(), []);
        assert_eq!(stack.doorbell().budget().held(), 0);
        let (turns, time) = (stack.turns(), begin.elapsed());
        assert!(turns < (time.as_nanos() / TURN.as_nanos()) as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_programs_do_and_wherever_they_end_nothing_is_left() {
    for seed in seeds(10) {
        live_and_leave(seed).await;
    }
}
