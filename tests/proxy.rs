//! The example `proxy`, with Linux on both sides of it: a network inside that reaches the one
//! outside through a TUN device only.

#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]
#![cfg(all(feature = "tun", target_os = "linux"))]

mod common;
#[allow(dead_code, unreachable_pub, reason = "an example, tested as it is")]
#[path = "../examples/proxy.rs"]
mod proxy_example;

use std::{future::Future, io::ErrorKind, net::SocketAddr, process::Command, time::Duration};

use common::{behind_tun, namespace, pattern};
use synack::{Stack, device::netns::NetNs, info::State};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time,
};

const SERVER: &str = "198.51.100.1:80";
const DOWNLOADS: u64 = 200;
const BYTES: usize = 256 << 10;
const BLACK_HOLES: u8 = 20;

/// No test is to wait for ever.
const LIMIT: Duration = Duration::from_secs(120);

fn ip(namespace: &NetNs, args: &str) {
    let run = || Command::new("ip").args(args.split(' ')).output();
    let output = namespace.run(run).unwrap();
    let output = output.expect("the tests need the program `ip` (iproute2)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {errors}");
}

/// Runs a test in the network outside, with the proxy between it and the network inside.
fn with_proxy<F: Future<Output = ()>>(test: impl FnOnce(Stack, NetNs) -> F + Send) {
    let Some(inside) = namespace() else { return };
    let outside = NetNs::new().unwrap();
    ip(&outside, "address add 198.51.100.1/32 dev lo");
    // What goes there is heard by nobody.
    ip(&outside, "link add hole type veth peer name nobody");
    ip(&outside, "link set hole arp off up");
    ip(&outside, "link set nobody up");
    ip(&outside, "route add 203.0.113.0/24 dev hole");
    let run = || {
        // Its threads, and so its sockets, are in the network outside.
        Runtime::new().unwrap().block_on(async {
            let stack = behind_tun(&inside);
            ip(&inside, "route add default dev syn0");
            let proxy = tokio::spawn(proxy_example::proxy(stack.incoming().unwrap()));
            time::timeout(LIMIT, test(stack.clone(), inside))
                .await
                .expect("in time");
            stack.shutdown(Duration::ZERO).await;
            proxy.await.unwrap();
        });
    };
    outside.run(run).unwrap();
}

/// A connection of an ordinary program inside.
async fn connect(inside: &NetNs, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    inside.run(TcpSocket::new_v4)??.connect(to).await
}

/// The two ends of a connection through the proxy: inside, outside.
async fn connected(inside: &NetNs) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SERVER).await.unwrap();
    let (near, far) = tokio::join!(connect(inside, SERVER), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Answers a number with the bytes that belong to it, once the client has closed its side.
async fn serve_downloads(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut seed = Vec::new();
            stream.read_to_end(&mut seed).await.unwrap();
            let seed = u64::from_be_bytes(seed.try_into().unwrap());
            stream.write_all(&pattern(seed, BYTES)).await.unwrap();
        });
    }
}

#[test]
fn two_hundred_downloads_arrive_whole_while_others_wait_for_black_holes() {
    with_proxy(async |stack, inside| {
        let server = TcpListener::bind(SERVER).await.unwrap();
        let server = tokio::spawn(serve_downloads(server));
        let mut lost = JoinSet::new();
        for host in 1..=BLACK_HOLES {
            let inside = inside.clone();
            lost.spawn(async move { connect(&inside, &format!("203.0.113.{host}:80")).await });
        }
        let undecided = async || {
            let sockets = stack.sockets().await.unwrap();
            let waiting = sockets.iter().filter(|it| it.state == State::SynReceived);
            waiting.count()
        };
        while undecided().await < usize::from(BLACK_HOLES) {
            time::sleep(Duration::from_millis(10)).await;
        }

        let mut downloads = JoinSet::new();
        for seed in 0..DOWNLOADS {
            let inside = inside.clone();
            downloads.spawn(async move {
                let mut stream = connect(&inside, SERVER).await.unwrap();
                stream.write_u64(seed).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                let expected = blake3::hash(&pattern(seed, BYTES));
                assert_eq!(blake3::hash(&all), expected, "download {seed}");
            });
        }
        downloads.join_all().await;
        assert!(lost.try_join_next().is_none(), "a black hole answered");
        assert_eq!(undecided().await, usize::from(BLACK_HOLES));
        server.abort();
    });
}

#[test]
fn what_cannot_be_reached_is_reported_as_without_a_proxy() {
    with_proxy(async |_stack, inside| {
        let refused = connect(&inside, "198.51.100.1:81").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let unreachable = connect(&inside, "192.0.2.1:80").await.unwrap_err();
        assert_eq!(unreachable.kind(), ErrorKind::HostUnreachable);
    });
}

#[test]
fn half_closes_go_through_in_both_directions() {
    with_proxy(async |_stack, inside| {
        for near_first in [true, false] {
            let (near, far) = connected(&inside).await;
            let (mut first, mut second) = if near_first { (near, far) } else { (far, near) };
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            let mut text = String::new();
            second.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "question");
            second.write_all(b"answer").await.unwrap();
            drop(second);
            text.clear();
            first.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "answer");
        }
    });
}

#[test]
fn resets_go_through_in_both_directions_and_are_no_end_of_file() {
    with_proxy(async |stack, inside| {
        for near_first in [true, false] {
            let (near, far) = connected(&inside).await;
            let (mut first, mut second) = if near_first { (near, far) } else { (far, near) };
            first.write_all(b"x").await.unwrap();
            assert_eq!(second.read_u8().await.unwrap(), b'x');
            first.set_zero_linger().unwrap();
            drop(first);
            let error = second.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        // Nothing lingers of a connection that was reset.
        while !stack.sockets().await.unwrap().is_empty() {
            time::sleep(Duration::from_millis(10)).await;
        }
    });
}
