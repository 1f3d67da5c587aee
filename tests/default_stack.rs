//! Tests as they are written for `tokio::net`, each in a runtime of its own: nothing in them names a
//! stack.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{io::ErrorKind, sync::Once, time::Duration};

use synack::{
    Stack,
    device::Loopback,
    net::{TcpListener, TcpStream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Runtime,
    time::{self, Instant},
};

fn make_default() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        Stack::set_default_with(|| {
            let loopback = "127.0.0.1/8".parse().unwrap();
            Stack::builder().address(loopback).spawn(Loopback::new())
        })
        .unwrap();
    });
}

/// A port, the same in all tests: each has a stack of its own.
const SAME: &str = "127.0.0.1:80";

/// The server says how many seconds have gone by.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_stands_still_for_both_ends() {
    make_default();
    let listener = TcpListener::bind(SAME).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let start = Instant::now();
        while stream.read_u8().await.is_ok() {
            stream
                .write_u8(start.elapsed().as_secs().try_into().unwrap())
                .await
                .unwrap();
        }
    });
    let mut stream = TcpStream::connect(SAME).await.unwrap();
    // The timer that a clock would go on to if it saw anybody wait for another thread.
    let alarm = tokio::spawn(time::sleep(Duration::from_millis(900)));
    for _ in 0..3 {
        stream.write_u8(0).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 0);
    }
    assert!(!alarm.is_finished());
    time::advance(Duration::from_secs(1)).await;
    stream.write_u8(0).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_threads_of_a_runtime_have_the_same() {
    make_default();
    let listener = TcpListener::bind(SAME).await.unwrap();
    let clients: Vec<_> = (0..16)
        .map(|_| tokio::spawn(TcpStream::connect(SAME)))
        .collect();
    for client in clients {
        client.await.unwrap().unwrap();
    }
    for _ in 0..16 {
        listener.accept().await.unwrap();
    }
}

#[test]
fn each_runtime_has_its_own_and_one_that_is_gone_leaves_none() {
    make_default();
    for _ in 0..100 {
        let runtime = Runtime::new().unwrap();
        // Nobody else has bound it: not the last runtime, whose number this may have, and not the
        // other tests.
        let listener = runtime.block_on(TcpListener::bind(SAME)).unwrap();
        let (stream, accepted) = runtime.block_on(async {
            let accept = async { listener.accept().await };
            tokio::join!(TcpStream::connect(SAME), accept)
        });
        drop((stream.unwrap(), accepted.unwrap()));
    }
}

#[tokio::test]
async fn one_that_was_shut_down_is_made_anew() {
    make_default();
    let listener = TcpListener::bind(SAME).await.unwrap();
    Stack::current().unwrap().shutdown(Duration::ZERO).await;
    listener.accept().await.unwrap_err();
    TcpListener::bind(SAME).await.unwrap();
}

#[tokio::test]
async fn there_is_no_second_default() {
    make_default();
    let error = Stack::set_default_with(|| unreachable!("never asked")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let error = Stack::current().unwrap().set_default().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn without_a_runtime_the_error_says_what_is_missing() {
    make_default();
    let error = Stack::current().unwrap_err().to_string();
    assert!(error.contains("no runtime is current"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_loopback_addresses_only_reaches_itself_and_nobody_else() {
    make_default();
    for to in ["127.0.0.1:9", "[::1]:9", "127.9.9.9:9"] {
        let error = TcpStream::connect(to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
    for to in ["192.0.2.1:80", "[2001:db8::1]:80"] {
        let error = TcpStream::connect(to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{to}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_leaves_a_stack_over_loopback_is_dropped_and_counted() {
    let builder = Stack::builder().address("10.0.0.1/24".parse().unwrap());
    let stack = builder.spawn(Loopback::new()).unwrap();
    let error = stack.connect("10.0.0.2:80").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    // A SYN, and six more of it.
    assert_eq!(stack.counters().await.unwrap().drop_device, 7);
}
