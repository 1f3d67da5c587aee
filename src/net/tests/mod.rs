mod buffered;
mod chaos;
mod datagrams;
mod faults;
mod incoming;
mod kernel_answers;
mod loopback;
mod sharing;
mod surface;
mod threads;

use std::{
    cell::Cell,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    task::{Context, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    task::yield_now,
    time::{self, timeout},
};

use super::*;
use crate::{
    config::{Config, KeepAlive},
    device::{self, Channel},
    info::State,
};

const SERVER: &str = "10.0.0.1:80";

/// Two stacks, 10.0.0.1 and 10.0.0.2, also fd00::1 and fd00::2, on one cable.
fn pair() -> (Stack, Stack) {
    let (one, other) = device::pair(1500);
    (spawn(one, 1), spawn(other, 2))
}

fn builder(host: u64) -> Builder {
    Stack::builder()
        .address(format!("10.0.0.{host}/24").parse().unwrap())
        .address(format!("fd00::{host}/64").parse().unwrap())
        .seed(host)
}

fn spawn(device: Channel, host: u64) -> Stack {
    builder(host).spawn(device).unwrap()
}

async fn connected(server: &Stack, client: &Stack) -> (TcpStream, TcpStream) {
    let listener = server.listen("10.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(addr));
    (accepted.unwrap().0, connected.unwrap())
}

/// Lets both reactors and all tasks run until nobody has anything to do.
async fn settle() {
    time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn bytes_go_both_ways_and_the_end_is_seen() {
    let (server, client) = pair();
    let (mut a, mut b) = connected(&server, &client).await;
    assert_eq!(a.peer_addr().unwrap(), b.local_addr().unwrap());
    assert_eq!(a.local_addr().unwrap(), b.peer_addr().unwrap());
    b.write_all(b"ping").await.unwrap();
    let mut buf = [0; 4];
    a.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"ping");
    a.write_all(b"pong").await.unwrap();
    a.shutdown().await.unwrap();
    let mut all = Vec::new();
    b.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"pong");
    b.write_all(b"still open this way").await.unwrap();
    drop(b);
    let mut rest = String::new();
    a.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "still open this way");
}

#[tokio::test(start_paused = true)]
async fn a_megabyte_in_chunks_arrives_whole() {
    let (server, client) = pair();
    let (a, b) = connected(&server, &client).await;
    let sent: Bytes = (0..1 << 20).map(|i: u32| i.to_be_bytes()[2]).collect();
    let copy = sent.clone();
    let writer = tokio::spawn(async move { b.write_chunk(copy).await.map(|()| b.unsent()) });
    let mut received = Vec::new();
    while let Some(chunk) = a.read_chunk(100_000).await.unwrap() {
        received.extend_from_slice(&chunk);
    }
    assert!(received == sent);
    writer.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_refused() {
    let (_server, client) = pair();
    for addr in [SERVER, "[fd00::1]:80", "10.0.0.1:0"] {
        let error = client.connect(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{addr}");
    }
}

#[tokio::test(start_paused = true)]
async fn abort_is_a_reset_for_the_peer() {
    let (server, client) = pair();
    let (mut a, b) = connected(&server, &client).await;
    b.abort();
    let error = a.read(&mut [0; 4]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(a.read(&mut [0; 4]).await.unwrap(), 0);
    let error = a.write(b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert_eq!(a.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
    a.local_addr().unwrap();
}

#[tokio::test(start_paused = true)]
async fn readiness_starts_as_tokios_does() {
    let (server, client) = pair();
    let (accepted, connected) = connected(&server, &client).await;
    let both = Interest::READABLE | Interest::WRITABLE;
    let ready = accepted.ready(both).await.unwrap();
    assert!(ready.is_readable() && ready.is_writable());
    let ready = connected.ready(both).await.unwrap();
    assert!(!ready.is_readable() && ready.is_writable());
    let error = accepted.try_read(&mut [0; 4]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let later = timeout(Duration::from_secs(1), accepted.readable()).await;
    assert!(later.is_err());
}

#[tokio::test(start_paused = true)]
async fn async_io_waits_for_what_the_closure_wants() {
    let (server, client) = pair();
    let (a, b) = connected(&server, &client).await;
    let mut buf = [0; 4];
    let read = a.async_io(Interest::READABLE, || a.try_read(&mut buf));
    let (read, ()) = tokio::join!(read, async {
        settle().await;
        b.write_chunk(Bytes::from_static(b"late")).await.unwrap();
    });
    assert_eq!(read.unwrap(), 4);
    assert_eq!(&buf, b"late");
}

/// As with epoll, which tells of room once: the next thing that happens is waited for, whichever way
/// it goes.
#[tokio::test(start_paused = true)]
async fn a_closure_that_would_block_in_spite_of_room_is_called_again_when_something_happens() {
    let (server, client) = pair();
    let (a, b) = connected(&server, &client).await;
    let calls = Cell::new(0);
    let third = || match calls.replace(calls.get() + 1) {
        0 | 1 => Err(ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    };
    let mut write = pin!(a.async_io(Interest::WRITABLE, third));
    assert!(timeout(Duration::from_secs(1), &mut write).await.is_err());
    assert_eq!(calls.get(), 1);
    b.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    assert!(timeout(Duration::from_secs(1), &mut write).await.is_err());
    assert_eq!(calls.get(), 2);
    b.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    write.await.unwrap();

    calls.set(0);
    assert_eq!(a.try_write(b"to be acknowledged").unwrap(), 18);
    a.async_io(Interest::WRITABLE, || match calls.replace(1) {
        0 => Err(ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    })
    .await
    .unwrap();

    settle().await;
    let never: io::Result<()> = a.try_io(Interest::WRITABLE, || Err(ErrorKind::WouldBlock.into()));
    assert_eq!(never.unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(timeout(Duration::from_secs(1), a.writable()).await.is_err());
    drop(b);
    a.writable().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_owned_write_half_shuts_down_when_dropped_and_not_when_forgotten() {
    let (server, client) = pair();
    let (mut a, b) = connected(&server, &client).await;
    let (read, write) = b.into_split();
    write.forget();
    let nothing = timeout(Duration::from_secs(1), a.read(&mut [0])).await;
    assert!(nothing.is_err());
    drop(read);
    assert_eq!(a.read(&mut [0]).await.unwrap(), 0);

    let (mut a, b) = connected(&server, &client).await;
    let (mut read, write) = b.into_split();
    drop(write);
    assert_eq!(a.read(&mut [0]).await.unwrap(), 0);
    a.write_all(b"x").await.unwrap();
    assert_eq!(read.read(&mut [0]).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn halves_are_reunited_only_with_their_own() {
    let (server, client) = pair();
    let (a, b) = connected(&server, &client).await;
    let (a_read, a_write) = a.into_split();
    let (b_read, b_write) = b.into_split();
    let tcp::ReuniteError(a_read, b_write) = a_read.reunite(b_write).unwrap_err();
    let mut a = a_read.reunite(a_write).unwrap();
    let mut b = b_write.reunite(b_read).unwrap();
    a.write_all(b"x").await.unwrap();
    assert_eq!(b.read(&mut [0]).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn sockets_keep_tokios_rules() {
    let (server, client) = pair();
    let socket = client.socket_v4();
    let v6: SocketAddr = "[fd00::1]:80".parse().unwrap();
    assert_eq!(socket.bind(v6).unwrap_err().raw_os_error(), Some(97));
    socket.bind("10.0.0.2:4000".parse().unwrap()).unwrap();
    let twice = socket.bind("10.0.0.2:4001".parse().unwrap()).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::InvalidInput);
    let unsupported = socket.tclass_v6().unwrap_err();
    assert_eq!(unsupported.kind(), ErrorKind::Unsupported);
    let taken = client.socket_v4().bind("10.0.0.2:4000".parse().unwrap());
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::AddrInUse);
    let foreign = client.listen("10.0.0.9:80").await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::AddrNotAvailable);

    let listener = server.socket_v4();
    listener.set_nodelay(true).unwrap();
    listener
        .set_linger(Some(Duration::from_millis(1500)))
        .unwrap();
    let listener = listener.listen(1).unwrap();
    let local = listener.local_addr().unwrap();
    assert!(local.ip().is_unspecified() && local.port() != 0);
    listener.set_ttl(9).unwrap();
    let to = ([10, 0, 0, 1], local.port()).into();
    let (accepted, connected) = tokio::join!(listener.accept(), socket.connect(to));
    let (accepted, peer) = accepted.unwrap();
    assert_eq!(peer, "10.0.0.2:4000".parse().unwrap());
    assert_eq!(connected.unwrap().local_addr().unwrap(), peer);
    assert_eq!(accepted.ttl().unwrap(), 9);
    assert!(accepted.nodelay().unwrap());
    assert_eq!(accepted.linger().unwrap(), Some(Duration::from_secs(1)));
    for ttl in [0, 256] {
        let error = accepted.set_ttl(ttl).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let never = KeepAlive {
        count: 0,
        ..KeepAlive::default()
    };
    assert!(accepted.set_keepalive(Some(never)).is_err());
}

#[tokio::test(start_paused = true)]
async fn addresses_that_cannot_work_are_refused_with_tokios_kinds() {
    let (_server, client) = pair();
    let kind = async |addr: &str| client.connect(addr).await.unwrap_err().kind();
    assert_eq!(kind("10.0.0.1").await, ErrorKind::InvalidInput);
    assert_eq!(kind("224.0.0.1:80").await, ErrorKind::NetworkUnreachable);
    assert_eq!(kind("10.0.0.255:80").await, ErrorKind::NetworkUnreachable);
    let empty: &[SocketAddr] = &[];
    let error = client.connect(empty).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let (device, _end) = device::channel(1500, 8);
    let only_v4 = Stack::builder()
        .address("10.0.0.1/24".parse().unwrap())
        .spawn(device)
        .unwrap();
    let error = only_v4.connect("[fd00::2]:80").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
}

#[tokio::test(start_paused = true)]
async fn the_current_stack_is_the_innermost() {
    let error = Stack::current().unwrap_err().to_string();
    for way in ["stack.scope", "stack.enter", "stack.set_default"] {
        assert!(error.contains(way), "{error}");
    }
    let (one, other) = pair();
    let address = |stack: Stack| stack.addresses()[0].addr().to_string();
    let first = one.enter();
    let second = other.enter();
    assert_eq!(address(Stack::current().unwrap()), "10.0.0.2");
    drop(first); // Out of order.
    assert_eq!(address(Stack::current().unwrap()), "10.0.0.2");
    let inner = one.scope(async { address(Stack::current().unwrap()) });
    assert_eq!(inner.await, "10.0.0.1");
    drop(second);
    assert!(Stack::current().is_err());
    let server = one.scope(TcpListener::bind(SERVER)).await.unwrap();
    let (accepted, connected) =
        tokio::join!(server.accept(), other.scope(TcpStream::connect(SERVER)));
    accepted.unwrap();
    connected.unwrap();
}

#[tokio::test]
async fn what_a_stack_cannot_be_made_of_is_named() {
    let spawn = |builder: Builder, mtu| {
        let (device, _end) = device::channel(mtu, 8);
        let error = builder.spawn(device).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    };
    assert!(spawn(Stack::builder(), 1500).contains("address"));
    let text = spawn(builder(1), 1279);
    assert!(text.contains("1279") && text.contains("1280"), "{text}");
    let v4 = Stack::builder().address("10.0.0.1/24".parse().unwrap());
    assert!(spawn(v4, 67).contains("68"));
    // None, many, or what cannot come from any host.
    for nobody in [
        "0.0.0.0/0",
        "224.0.0.1/4",
        "240.0.0.1/8",
        "255.255.255.255/32",
        "10.0.0.255/24",
        "::/0",
        "ff02::1/64",
        "::ffff:10.0.0.1/128",
    ] {
        let text = spawn(Stack::builder().address(nobody.parse().unwrap()), 1500);
        assert!(text.contains(nobody), "{text}");
    }
}

#[test]
fn without_a_runtime_spawn_says_so_and_a_thread_works() {
    let (device, _end) = device::channel(1500, 8);
    let error = builder(1).spawn(device).unwrap_err().to_string();
    assert!(error.contains("spawn_thread"), "{error}");
    let (device, _end) = device::channel(1500, 8);
    let stack = builder(1).spawn_thread(device).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert_eq!(stack.counters().await.unwrap().packets_received, 0);
        stack.shutdown(Duration::ZERO).await;
        stack.closed().await.unwrap();
    });
}

#[tokio::test(start_paused = true)]
async fn an_idle_stack_is_not_woken() {
    let (server, client) = pair();
    let (_a, _b) = connected(&server, &client).await;
    settle().await;
    let turns = (server.turns(), client.turns());
    time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((server.turns(), client.turns()), turns);
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_and_then_every_call_fails() {
    let (server, client) = pair();
    let listener = server.listen(SERVER).await.unwrap();
    let (mut a, mut b) = connected(&server, &client).await;
    b.write_all(b"last words").await.unwrap();
    drop(b);
    client.shutdown(Duration::from_secs(5)).await;
    client.closed().await.unwrap();
    let mut all = Vec::new();
    a.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"last words");
    assert!(client.connect(SERVER).await.is_err());
    assert!(client.sockets().await.is_err());
    // The cable is cut at the client's end.
    assert!(server.closed().await.is_err());
    assert!(listener.accept().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn shutdown_resets_what_does_not_drain() {
    let (server, client) = pair();
    let (mut a, b) = connected(&server, &client).await;
    let begin = time::Instant::now();
    client.shutdown(Duration::from_secs(5)).await;
    assert!(begin.elapsed() < Duration::from_secs(6));
    assert!(b.try_write(b"x").is_err());
    let error = a.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn when_the_runtime_goes_nobody_is_left_waiting() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(1)
        .build()
        .unwrap();
    let (device, _end) = device::channel(1500, 8);
    let stack = builder(1).spawn_on(runtime.handle(), device).unwrap();
    let waiting = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    waiting.block_on(async {
        let listener = stack.listen(SERVER).await.unwrap();
        let connect = tokio::spawn({
            let stack = stack.clone();
            async move { stack.connect("10.0.0.7:80").await }
        });
        yield_now().await;
        runtime.shutdown_background();
        assert!(listener.accept().await.is_err());
        assert!(connect.await.unwrap().is_err());
        let error = stack.closed().await.unwrap_err().to_string();
        assert!(error.contains("runtime"), "{error}");
    });
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_stops_the_reactor_and_streams_keep_it() {
    let (server, client) = pair();
    let listener = server.listen(SERVER).await.unwrap();
    let mut stream = client.connect(SERVER).await.unwrap();
    drop(client);
    let (mut accepted, _) = listener.accept().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    drop(stream);
    assert_eq!(accepted.read(&mut [0]).await.unwrap(), 1);
    drop(accepted);
    // The device of the client goes with its reactor.
    timeout(Duration::from_secs(300), server.closed())
        .await
        .unwrap()
        .unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_connect_leaves_nothing_behind() {
    let (device, _end) = device::channel(1500, 64);
    let stack = builder(1).spawn(device).unwrap();
    let connect = stack.connect("10.0.0.7:80");
    assert!(timeout(Duration::from_millis(100), connect).await.is_err());
    settle().await;
    assert_eq!(stack.sockets().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn the_port_of_a_cancelled_connect_is_free_at_once() {
    let (server, client) = pair();
    let (listener, other) = (
        server.listen(SERVER).await,
        server.listen("10.0.0.1:81").await,
    );
    let own: SocketAddr = "10.0.0.2:4000".parse().unwrap();
    let bound = || {
        let socket = client.socket_v4();
        socket.bind(own).map(|()| socket)
    };
    // Nobody has that address; and who has the other is not asked before the future is gone.
    for (peer, wait) in [("10.0.0.7:80", 100), (SERVER, 0)] {
        let connect = bound().unwrap().connect(peer.parse().unwrap());
        let cancelled = timeout(Duration::from_millis(wait), connect).await;
        assert!(cancelled.is_err());
    }
    let stream = bound()
        .unwrap()
        .connect(SERVER.parse().unwrap())
        .await
        .unwrap();
    assert_eq!(stream.local_addr().unwrap(), own);
    assert_eq!(bound().unwrap_err().kind(), ErrorKind::AddrInUse);
    let accepted = timeout(Duration::from_secs(5), listener.unwrap().accept()).await;
    assert_eq!(accepted.unwrap().unwrap().1, own);
    drop((stream, other));
}

#[tokio::test(start_paused = true)]
async fn the_netstat_view_and_the_connection_agree() {
    let (server, client) = pair();
    let _listener = server.listen(SERVER).await.unwrap();
    let stream = client.connect(SERVER).await.unwrap();
    let info = stream.info().await.unwrap();
    assert_eq!(info.state, State::Established);
    assert_eq!(info.peer, stream.peer_addr().unwrap());
    settle().await;
    let sockets = server.sockets().await.unwrap();
    assert!(sockets.iter().any(|socket| socket.state == State::Listen));
    assert_eq!(server.counters().await.unwrap().passive_opens, 1);
}

struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn one_connection_costs_a_listener_one_wake() {
    let (server, client) = pair();
    let listener = server.listen(SERVER).await.unwrap();
    let counted = Arc::new(Counted(AtomicUsize::new(0)));
    let waker = Waker::from(counted.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(listener.poll_accept(&mut cx).is_pending());
    settle().await;
    assert_eq!(counted.0.load(Ordering::Relaxed), 0);
    let _stream = client.connect(SERVER).await.unwrap();
    settle().await;
    assert_eq!(counted.0.load(Ordering::Relaxed), 1);
    assert!(listener.poll_accept(&mut cx).is_ready());
    assert!(listener.poll_accept(&mut cx).is_pending());
}

#[tokio::test(start_paused = true)]
async fn reads_take_part_in_the_cooperative_budget() {
    let (server, client) = pair();
    let (a, mut b) = connected(&server, &client).await;
    b.write_all(&[7; 1000]).await.unwrap();
    settle().await;
    let reads = async {
        for _ in 0..1000 {
            a.peek(&mut [0]).await.unwrap();
        }
    };
    let mut others = 0;
    tokio::select! {
        biased;
        () = reads => {}
        () = async { loop { others += 1; yield_now().await } } => {}
    }
    assert!(others >= 1000 / 128 - 1, "{others}");
}

#[tokio::test(start_paused = true)]
async fn a_set_buffer_size_bounds_what_is_taken() {
    let config = Config::default();
    let (one, other) = device::pair(1500);
    let server = spawn(one, 1);
    let client = builder(2).config(config).spawn(other).unwrap();
    let listener = server.socket_v4();
    listener.set_recv_buffer_size(8192).unwrap();
    listener.bind(SERVER.parse().unwrap()).unwrap();
    let listener = listener.listen(8).unwrap();
    let socket = client.socket_v4();
    socket.set_send_buffer_size(8192).unwrap();
    let stream = socket.connect(SERVER.parse().unwrap()).await.unwrap();
    let _accepted = listener.accept().await.unwrap();
    let mut taken = 0;
    loop {
        match stream.try_write(&[0; 1000]) {
            Ok(len) => taken += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let more = timeout(Duration::from_secs(1), stream.writable()).await;
                if more.is_err() {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!((8192..=3 * 8192).contains(&taken), "{taken}");
}

#[tokio::test(start_paused = true)]
async fn the_polls_of_readiness_wait_and_are_woken() {
    let (server, client) = pair();
    let (near, far) = connected(&server, &client).await;
    far.try_read(&mut [0]).unwrap_err();
    let count = Arc::new(Counted(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let cx = &mut Context::from_waker(&waker);
    assert!(far.poll_read_ready(cx).is_pending());
    assert!(far.poll_write_ready(cx).is_ready());
    near.try_write(b"abc").unwrap();
    settle().await;
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert!(far.poll_read_ready(cx).is_ready());
    let mut buf = [0; 2];
    let mut buf = tokio::io::ReadBuf::new(&mut buf);
    assert!(far.poll_peek(cx, &mut buf).is_ready());
    assert_eq!(buf.filled(), b"ab");
    assert_eq!(far.unread(), 3);
    while near.try_write(&[0; 1 << 16]).is_ok() {}
    assert!(near.poll_write_ready(cx).is_pending());
}

#[tokio::test(start_paused = true)]
async fn vectored_and_growing_buffers_are_filled_in_order() {
    let (server, client) = pair();
    let (near, far) = connected(&server, &client).await;
    let parts = [b"ab", b"cd", b"ef"].map(|part| io::IoSlice::new(part));
    assert_eq!(near.try_write_vectored(&parts).unwrap(), 6);
    settle().await;
    let (mut one, mut other) = ([0; 1], [0; 3]);
    let bufs = &mut [&mut one[..], &mut other[..]].map(io::IoSliceMut::new);
    assert_eq!(far.try_read_vectored(bufs).unwrap(), 4);
    assert_eq!((&one, &other), (b"a", b"bcd"));
    let mut rest = Vec::with_capacity(16);
    assert_eq!(far.try_read_buf(&mut rest).unwrap(), 2);
    assert_eq!(rest, b"ef");
}
