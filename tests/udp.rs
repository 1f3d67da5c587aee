//! UDP and pings between Linux and a stack, over a TUN device in a network of its own.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use common::namespace;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use synack::{
    Stack,
    device::{Tun, netns::NetNs},
};
use tokio::{net::UdpSocket, time::timeout};

const LINUX: [&str; 2] = ["10.9.0.1", "fd09::1"];
const OURS: [&str; 2] = ["10.9.0.2", "fd09::2"];
const LIMIT: Duration = Duration::from_secs(10);

async fn stack(namespace: &NetNs, offload: bool) -> Stack {
    let tun = Tun::builder()
        .name("syn0")
        .address("10.9.0.1/24".parse().unwrap())
        .address("fd09::1/64".parse().unwrap())
        .netns(namespace.clone())
        .offload(offload)
        .build()
        .unwrap();
    let stack = Stack::builder()
        .address("10.9.0.2/24".parse().unwrap())
        .address("fd09::2/64".parse().unwrap())
        .spawn(tun)
        .unwrap();
    // The kernel drops what comes for its own IPv6 address until it has taken that into use, which
    // it does a moment after the device was made.
    let linux = LINUX[1].parse().unwrap();
    let answered = async {
        let brief = Duration::from_millis(20);
        while stack.ping(linux, &[], brief).await.is_err() {}
    };
    timeout(LIMIT, answered).await.expect("IPv6 is ready");
    stack
}

/// A socket of Linux's in the namespace.
fn linux(namespace: &NetNs, host: &str) -> UdpSocket {
    let bind = || std::net::UdpSocket::bind((host, 0));
    let socket = namespace.run(bind).unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    UdpSocket::from_std(socket).unwrap()
}

async fn in_time<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(LIMIT, future).await.expect("in time")
}

#[tokio::test]
async fn datagrams_of_any_length_go_both_ways() {
    let Some(namespace) = namespace() else { return };
    for offload in [true, false] {
        let stack = stack(&namespace, offload).await;
        for (linux_host, host) in LINUX.into_iter().zip(OURS) {
            let theirs = linux(&namespace, linux_host);
            let ours = stack.bind_udp((host, 0)).await.unwrap();
            let (to_theirs, to_ours) = (theirs.local_addr().unwrap(), ours.local_addr().unwrap());
            let longest = if to_ours.is_ipv4() { 1472 } else { 1452 };
            let mut buf = vec![0; 2000];
            for len in [0, 1, 2, 3, 511, 1200, longest] {
                let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
                theirs.send_to(&payload, to_ours).await.unwrap();
                let (got, from) = in_time(ours.recv_from(&mut buf)).await.unwrap();
                assert_eq!((&buf[..got], from), (&payload[..], to_theirs));
                ours.send_to(&payload, from).await.unwrap();
                let (got, from) = in_time(theirs.recv_from(&mut buf)).await.unwrap();
                assert_eq!((&buf[..got], from), (&payload[..], to_ours));
            }
            let too_long = ours.send_to(&vec![0; longest + 1], to_theirs).await;
            assert_eq!(too_long.unwrap_err().raw_os_error(), Some(90));
        }
        let counters = stack.counters().await.unwrap();
        assert_eq!(counters.drop_udp_checksum, 0);
        assert_eq!(counters.datagrams_received, 14);
        stack.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_closed_port_refuses_on_either_side() {
    let Some(namespace) = namespace() else { return };
    let stack = stack(&namespace, true).await;
    for (linux_host, host) in LINUX.into_iter().zip(OURS) {
        let theirs = linux(&namespace, linux_host);
        theirs.connect((host, 9)).await.unwrap();
        theirs.send(b"anybody?").await.unwrap();
        in_time(theirs.ready(tokio::io::Interest::ERROR))
            .await
            .unwrap();
        let refused = theirs.take_error().unwrap().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{host}");

        let ours = stack.bind_udp((host, 0)).await.unwrap();
        ours.connect((linux_host, 9)).await.unwrap();
        ours.send(b"anybody?").await.unwrap();
        let refused = in_time(ours.recv(&mut [0])).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{host}");
    }
}

#[tokio::test]
async fn pings_are_answered_both_ways() {
    let Some(namespace) = namespace() else { return };
    let stack = stack(&namespace, true).await;
    for (linux_host, host) in LINUX.into_iter().zip(OURS) {
        for len in [0, 1, 56, 1400] {
            let to: IpAddr = linux_host.parse().unwrap();
            let time = stack.ping(to, &vec![7; len], LIMIT).await.unwrap();
            assert!(!time.is_zero() && time < LIMIT);
        }
        let namespace = namespace.clone();
        let from_linux = move || namespace.run(|| ping_from_linux(host.parse().unwrap()));
        let pinged = tokio::task::spawn_blocking(from_linux).await.unwrap();
        pinged.unwrap().unwrap();
    }
    assert_eq!(stack.counters().await.unwrap().echo_replies, 2);
}

/// What `ping` does.
fn ping_from_linux(to: IpAddr) -> io::Result<()> {
    let (domain, protocol, request, reply, header_len) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0, 20),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129, 0),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(&SockAddr::from(SocketAddr::new(to, 0)))?;
    let mut message = vec![request, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend_from_slice(b"is somebody there?");
    if to.is_ipv4() {
        // For IPv6 the kernel sums.
        let words = message
            .chunks(2)
            .map(|word| u16::from_be_bytes([word[0], word[1]]));
        let sum: u32 = words.map(u32::from).sum();
        let check = !((sum & 0xffff) + (sum >> 16)) as u16;
        message[2..4].copy_from_slice(&check.to_be_bytes());
    }
    socket.send(&message)?;
    let mut buf = [0; 200];
    loop {
        let len = io::Read::read(&mut socket, &mut buf)?;
        let answer = &buf[header_len..len];
        if answer[0] == reply {
            assert_eq!(answer[4..], message[4..]);
            return Ok(());
        }
    }
}

#[tokio::test]
async fn linux_asks_any_server_and_is_answered_from_there() {
    let Some(namespace) = namespace() else { return };
    let stack = stack(&namespace, true).await;
    for route in ["198.51.100.0/24", "2001:db8::/32"] {
        let add = || {
            Command::new("ip")
                .args(["route", "add", route, "dev", "syn0"])
                .output()
        };
        let added = namespace.run(add).unwrap().expect("iproute2 is installed");
        assert!(added.status.success(), "{added:?}");
    }
    let any = stack.incoming_udp().unwrap();
    tokio::spawn(async move {
        while let Ok(question) = any.recv().await {
            let answer = [b"re: ", &question.payload[..]].concat();
            any.send_from_to(&answer, question.to, question.from)
                .await
                .unwrap();
        }
    });
    for n in 1..50 {
        for (host, server) in [
            (LINUX[0], format!("198.51.100.{n}:53")),
            (LINUX[1], format!("[2001:db8::{n}]:53")),
        ] {
            let socket = linux(&namespace, host);
            // Connected, it takes answers only from where it asked.
            socket.connect(&server).await.unwrap();
            socket.send(server.as_bytes()).await.unwrap();
            let mut buf = [0; 100];
            let len = in_time(socket.recv(&mut buf)).await.unwrap();
            assert_eq!(&buf[..len], format!("re: {server}").as_bytes());
        }
    }
}
