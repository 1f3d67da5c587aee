//! What Linux answers through `tokio::net` in each case, and what we do.

use std::{io::ErrorKind, time::Duration};

use futures::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    time::timeout,
};

use super::{SERVER, builder, connected, pair, settle};
use crate::{
    device,
    net::{Stack, TcpStream},
};

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// A stream whose peer has written `queued` and then reset the connection, with both stacks.
async fn reset(queued: &[u8]) -> (TcpStream, (Stack, Stack)) {
    let stacks = pair();
    let (mut a, b) = connected(&stacks.0, &stacks.1).await;
    a.write_all(queued).await.unwrap();
    settle().await;
    a.set_zero_linger().unwrap();
    drop(a);
    settle().await;
    (b, stacks)
}

async fn read(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    let mut buf = [0; 16];
    let limit = Duration::from_secs(1);
    let read = timeout(limit, stream.read(&mut buf)).await.unwrap();
    read.map_err(|error| error.kind())
}

async fn write(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    let limit = Duration::from_secs(1);
    let written = timeout(limit, stream.write(b"x")).await.unwrap();
    written.map_err(|error| error.kind())
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_told_once_to_whoever_is_first() {
    let (mut stream, _stacks) = reset(b"").await;
    assert_eq!(read(&mut stream).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(read(&mut stream).await, Ok(0));
    assert_eq!(write(&mut stream).await, Err(ErrorKind::BrokenPipe));

    let (mut stream, _stacks) = reset(b"four").await;
    assert_eq!(read(&mut stream).await, Ok(4));
    assert_eq!(read(&mut stream).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(read(&mut stream).await, Ok(0));

    let (mut stream, _stacks) = reset(b"").await;
    assert_eq!(write(&mut stream).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(write(&mut stream).await, Err(ErrorKind::BrokenPipe));
    assert_eq!(read(&mut stream).await, Ok(0));

    let (stream, _stacks) = reset(b"").await;
    let error = stream.take_error().unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(stream.take_error().unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn after_a_reset_everything_is_ready_and_closed() {
    let (mut stream, _stacks) = reset(b"").await;
    let ready = stream.ready(BOTH).await.unwrap();
    assert!(ready.is_readable() && ready.is_writable());
    assert!(ready.is_read_closed() && ready.is_write_closed());
    stream.shutdown().await.unwrap();
    let gone = stream.peer_addr().unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotConnected);
    stream.local_addr().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_drops_what_it_has_not_read_resets() {
    let (server, client) = pair();
    let (mut a, b) = connected(&server, &client).await;
    a.write_all(b"unread").await.unwrap();
    settle().await;
    drop(b);
    settle().await;
    assert_eq!(read(&mut a).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test(start_paused = true)]
async fn writing_to_a_peer_that_has_gone_cleanly_breaks_the_pipe() {
    let (server, client) = pair();
    let (mut a, b) = connected(&server, &client).await;
    drop(b);
    settle().await;
    assert_eq!(write(&mut a).await, Ok(1));
    settle().await;
    assert_eq!(write(&mut a).await, Err(ErrorKind::BrokenPipe));
    assert_eq!(read(&mut a).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn half_closed_is_seen_at_both_ends() {
    let (server, client) = pair();
    let (mut a, mut b) = connected(&server, &client).await;
    b.shutdown().await.unwrap();
    settle().await;
    let ready = a.ready(BOTH).await.unwrap();
    assert!(ready.is_readable() && ready.is_writable() && ready.is_read_closed());
    assert!(!ready.is_write_closed());
    assert_eq!(a.peek(&mut [0; 4]).await.unwrap(), 0);

    assert_eq!(write(&mut b).await, Err(ErrorKind::BrokenPipe));
    b.shutdown().await.unwrap();
    let ready = b.ready(Interest::WRITABLE).await.unwrap();
    assert!(ready.is_writable() && !ready.is_write_closed());
    a.write_all(b"on").await.unwrap();
    assert_eq!(read(&mut b).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn empty_buffers_move_nothing() {
    let (server, client) = pair();
    let (mut a, mut b) = connected(&server, &client).await;
    assert_eq!(a.write(&[]).await.unwrap(), 0);
    b.write_all(b"x").await.unwrap();
    settle().await;
    assert_eq!(a.read(&mut []).await.unwrap(), 0);
    assert_eq!(a.try_read(&mut [0; 2]).unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn empty_buffers_wait_as_others_do() {
    let (server, client) = pair();
    let (mut a, b) = connected(&server, &client).await;
    let blocked = |result: std::io::Result<usize>| result.unwrap_err().kind();
    assert_eq!(blocked(a.try_read(&mut [])), ErrorKind::WouldBlock);
    assert_eq!(blocked(a.try_read_vectored(&mut [])), ErrorKind::WouldBlock);
    assert!(a.read(&mut []).now_or_never().is_none());
    while a.try_write(&[0; 1 << 16]).is_ok() {
        settle().await;
    }
    assert_eq!(blocked(a.try_write(&[])), ErrorKind::WouldBlock);
    assert!(a.write(&[]).now_or_never().is_none());
    b.set_zero_linger().unwrap();
    drop(b);
    settle().await;
    let reset = a.try_read(&mut []).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    assert_eq!(a.try_read(&mut []).unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_a_reset_arrives_before_it() {
    // Linux sends it when it is written; closing discards what is left.
    for unread in [false, true] {
        let (server, client) = pair();
        let (mut a, mut b) = connected(&server, &client).await;
        if unread {
            b.write_all(b"a question nobody reads").await.unwrap();
            settle().await;
        } else {
            a.set_zero_linger().unwrap();
        }
        a.write_all(b"answer").await.unwrap();
        drop(a);
        settle().await;
        assert_eq!(read(&mut b).await, Ok(6), "{unread}");
        assert_eq!(read(&mut b).await, Err(ErrorKind::ConnectionReset));
        let left = server.sockets().await.unwrap();
        assert!(left.iter().all(|socket| socket.peer.is_none()), "{left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_windows_do_not_let_out_before_a_reset_is_dropped() {
    let (server, client) = pair();
    let (a, mut b) = connected(&server, &client).await;
    let mut written = 0;
    while let Ok(len) = a.try_write(&[0; 1 << 16]) {
        written += len;
    }
    a.set_zero_linger().unwrap();
    drop(a);
    settle().await;
    let mut bytes = Vec::new();
    let error = b.read_to_end(&mut bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!((1..written).contains(&bytes.len()), "{}", bytes.len());
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_told_goes_before_the_reset_of_what_was_not_read() {
    for halves in [false, true] {
        let (server, client) = pair();
        let (mut a, mut b) = connected(&server, &client).await;
        b.write_all(b"a question nobody reads").await.unwrap();
        // In one case it has told its end, too.
        if halves {
            b.shutdown().await.unwrap();
        }
        settle().await;
        a.write_all(b"answer").await.unwrap();
        if halves {
            let (reader, writer) = a.into_split();
            drop(reader);
            drop(writer);
        } else {
            a.shutdown().await.unwrap();
            drop(a);
        }
        settle().await;
        assert_eq!(read(&mut b).await, Ok(6), "{halves}");
        assert_eq!(read(&mut b).await, Ok(0), "{halves}");
        assert_eq!(write(&mut b).await, Err(ErrorKind::BrokenPipe));
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_the_queue_of_a_dropped_listener_is_reset() {
    let (server, client) = pair();
    let listener = server.listen(SERVER).await.unwrap();
    let mut stream = client.connect(SERVER).await.unwrap();
    settle().await;
    drop(listener);
    settle().await;
    assert_eq!(read(&mut stream).await, Err(ErrorKind::ConnectionReset));
    let refused = client.connect(SERVER).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    server.listen(SERVER).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_tasks_that_wait_are_woken() {
    let (server, client) = pair();
    let (a, mut b) = connected(&server, &client).await;
    a.try_read(&mut [0]).unwrap_err();
    let mut buf = [0];
    let late = async {
        settle().await;
        b.write_all(b"x").await.unwrap();
    };
    let (one, two, peeked, ()) = tokio::join!(
        a.readable(),
        a.ready(Interest::READABLE),
        a.peek(&mut buf),
        late
    );
    one.unwrap();
    assert!(two.unwrap().is_readable());
    assert_eq!(peeked.unwrap(), 1);

    let listener = server.listen(SERVER).await.unwrap();
    let (one, two, ..) = tokio::join!(
        listener.accept(),
        listener.accept(),
        client.connect(SERVER),
        client.connect(SERVER),
    );
    one.unwrap();
    two.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_type_of_service_and_the_traffic_class_are_two_settings() {
    let (device, end) = device::channel(1500, 8);
    let stack = builder(1).spawn(device).unwrap();
    let (_sender, mut packets) = end.split();
    let tcp = stack.socket_v6();
    tcp.set_tos_v4(0x10).unwrap();
    tcp.set_tclass_v6(0x20).unwrap();
    assert_eq!(
        (tcp.tos_v4().unwrap(), tcp.tclass_v6().unwrap()),
        (0x10, 0x20)
    );
    let udp = stack.bind_udp("[::]:1").await.unwrap();
    udp.set_tos_v4(0x30).unwrap();
    udp.set_tclass_v6(0x40).unwrap();
    assert_eq!(
        (udp.tos_v4().unwrap(), udp.tclass_v6().unwrap()),
        (0x30, 0x40)
    );
    udp.send_to(b"x", "[fd00::2]:1").await.unwrap();
    let class = |packet: &[u8]| packet[0] << 4 | packet[1] >> 4;
    assert_eq!(class(&packets.recv().await.unwrap()), 0x40);
    udp.send_to(b"x", "[::ffff:10.0.0.2]:1").await.unwrap();
    assert_eq!(packets.recv().await.unwrap()[1], 0x30);
    let connecting = tcp.connect("[fd00::2]:1".parse().unwrap());
    let syn = async { class(&packets.recv().await.unwrap()) };
    tokio::select! {
        class = syn => assert_eq!(class, 0x20),
        _ = connecting => panic!("nobody answers"),
    }
}
