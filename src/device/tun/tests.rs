use std::{
    future::poll_fn,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    task::{Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use ipnet::IpNet;

use super::*;
use crate::{
    checksum::sum,
    device::{
        Offload,
        capture::fill_checksum,
        headers::{self, Ip, TCP, Tcp, put_u16},
        netns::NetNs,
        rtnetlink::RtNetlink,
    },
    packet::{Checksum, Meta},
};

const OURS: &str = "10.9.0.2";

/// A namespace, if this user may make one. Where tests have to run, not being able to is a
/// failure.
fn namespace() -> Option<NetNs> {
    match NetNs::new() {
        Ok(namespace) => Some(namespace),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn builder(namespace: &NetNs) -> TunBuilder {
    Tun::builder()
        .name("syn0")
        .address("10.9.0.1/24".parse().unwrap())
        .netns(namespace.clone())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), future).await })
        .unwrap()
}

/// Receives until there are IPv4 packets, for the kernel also sends IPv6 of its own accord.
async fn recv_v4(tun: &mut impl Device) -> Vec<Packet> {
    let mut packets = Vec::new();
    while packets.is_empty() {
        poll_fn(|cx| tun.poll_recv(cx, &mut packets, 64))
            .await
            .unwrap();
        packets.retain(|packet| packet.first()[0] >> 4 == 4);
    }
    packets
}

async fn send(tun: &mut impl Device, packet: Packet) -> io::Result<()> {
    let mut packets = VecDeque::from([packet]);
    poll_fn(|cx| tun.poll_send(cx, &mut packets)).await
}

/// An ICMP echo request from us to the kernel, its payload apart.
fn echo_request(payload: usize) -> Packet {
    let mut head = [0; 28];
    head[0] = 0x45;
    head[2..4].copy_from_slice(&((28 + payload) as u16).to_be_bytes());
    head[8] = 64;
    head[9] = 1;
    head[12..20].copy_from_slice(&[10, 9, 0, 2, 10, 9, 0, 1]);
    let checksum = sum(&head[..20]).finish();
    put_u16(&mut head, 10, checksum);
    head[20] = 8;
    let payload = vec![7; payload];
    let checksum = sum(&head[20..]).combine(sum(&payload)).finish();
    put_u16(&mut head, 22, checksum);
    let mut packet = Packet::with_head(&head, Meta::default());
    packet.body.push(Bytes::from(payload));
    packet
}

#[test]
fn ipv6_addresses_are_in_use_once_the_device_is_made() {
    let Some(namespace) = namespace() else {
        return;
    };
    let address: IpNet = "fd09::1/64".parse().unwrap();
    // At once after it was made, and often, for it is a race with the kernel.
    let is_local_at_once = || {
        let mut netlink = RtNetlink::new()?;
        let _tun = Tun::builder().address(address).build()?;
        netlink.is_local(address.addr())
    };
    for _ in 0..50 {
        let is_local: io::Result<bool> = namespace.run(is_local_at_once).unwrap();
        assert!(is_local.unwrap());
    }
}

#[test]
fn a_packet_in_more_pieces_than_one_call_takes_goes_out_whole() {
    let Some(namespace) = namespace() else { return };
    for offload in [true, false] {
        let mut tun = builder(&namespace).offload(offload).build().unwrap();
        let mut request = echo_request(1400);
        let payload = request.body.remove(0);
        request.body = (0..payload.len())
            .map(|at| payload.slice(at..at + 1))
            .collect();
        assert!(request.body.len() > SLICES_MAX);
        block_on(async {
            send(&mut tun, request).await.unwrap();
            let reply = recv_v4(&mut tun).await.remove(0);
            assert_eq!(reply.to_vec()[28..], payload);
        });
        assert_eq!(tun.drops(), 0);
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_poll_that_has_drained_the_device_wakes_for_the_next_packet() {
    let Some(namespace) = namespace() else { return };
    for offload in [true, false] {
        let mut tun = builder(&namespace).offload(offload).build().unwrap();
        let kernel = namespace
            .run(|| UdpSocket::bind("10.9.0.1:7"))
            .unwrap()
            .unwrap();
        block_on(async {
            // Woken by the runtime, and then having asked by itself.
            for has_sent in [false, true] {
                let flag = Arc::new(Flag::default());
                let waker = Waker::from(Arc::clone(&flag));
                let cx = &mut Context::from_waker(&waker);
                let mut packets = Vec::new();
                while packets.is_empty() || !tun.is_drained() {
                    packets.clear();
                    kernel.send_to(&[8; 1000], (OURS, 9)).unwrap();
                    tun.unanswered = if has_sent { ASK_AFTER } else { 0 };
                    flag.0.store(false, Ordering::Relaxed);
                    let _ = tun.poll_recv(cx, &mut packets, 64);
                    tokio::task::yield_now().await;
                }
                kernel.send_to(&[8; 1000], (OURS, 9)).unwrap();
                while !flag.0.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
}

#[test]
fn packets_go_both_ways_with_and_without_offload() {
    let Some(namespace) = namespace() else { return };
    for (offload, mtu) in [(true, 1500), (false, 1500), (true, 65_535), (false, 65_535)] {
        let builder = builder(&namespace).offload(offload).mtu(mtu);
        let mut tun = builder.build().unwrap();
        assert_eq!((tun.name(), tun.mtu()), ("syn0", mtu));
        assert_eq!(tun.is_offloading(), offload);
        let kernel = namespace
            .run(|| UdpSocket::bind("10.9.0.1:7"))
            .unwrap()
            .unwrap();
        block_on(async {
            for len in [4, 600, 1400, mtu - 28] {
                let reply = {
                    send(&mut tun, echo_request(len)).await.unwrap();
                    recv_v4(&mut tun).await.remove(0)
                };
                assert_eq!(reply.first()[20], 0, "echo reply");
                assert_eq!(reply.to_vec()[28..], vec![7; len]);
                kernel.send_to(&vec![8; len], (OURS, 9)).unwrap();
                let datagram = recv_v4(&mut tun).await.remove(0);
                assert_eq!(datagram.to_vec()[28..], vec![8; len]);
                let checksum = match (offload, datagram.meta.checksum) {
                    (true, Checksum::Partial) => true,
                    (_, checksum) => checksum == Checksum::Complete && !offload,
                };
                assert!(checksum, "{:?}", datagram.meta);
            }
        });
        assert_eq!(tun.drops(), 0);
    }
}

/// A TCP segment from our port 80 to the kernel, as the engine makes it.
fn segment(port: u16, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Packet {
    let mut head = [0; 40];
    let ip = Ip {
        v6: false,
        protocol: TCP,
        header_len: 20,
        total_len: 40 + payload.len(),
    };
    head[0] = 0x45;
    head[8] = 64;
    head[9] = TCP;
    head[12..20].copy_from_slice(&[10, 9, 0, 2, 10, 9, 0, 1]);
    ip.set_total_len(&mut head, ip.total_len);
    put_u16(&mut head, 20, 80);
    put_u16(&mut head, 22, port);
    head[24..28].copy_from_slice(&seq.to_be_bytes());
    head[28..32].copy_from_slice(&ack.to_be_bytes());
    head[32] = 0x50;
    head[33] = flags;
    put_u16(&mut head, 34, 0xffff);
    let pseudo = ip.pseudo_header(&head, 20 + payload.len()).partial();
    put_u16(&mut head, 36, pseudo);
    let meta = Meta {
        checksum: Checksum::Partial,
        gso_size: 536,
    };
    let mut packet = Packet::with_head(&head, meta);
    let (left, right) = payload.split_at(payload.len() / 3);
    packet.body.push(Bytes::copy_from_slice(left));
    packet.body.push(Bytes::copy_from_slice(right));
    packet
}

#[test]
fn super_packets_go_both_ways_with_and_without_offload() {
    const LEN: usize = 20_000;
    let Some(namespace) = namespace() else { return };
    for offload in [true, false] {
        let tun = builder(&namespace).offload(offload).build().unwrap();
        let mut tun = Offload::new(tun);
        let kernel = namespace
            .spawn(|| {
                let mut stream = TcpStream::connect((OURS, 80)).unwrap();
                stream.write_all(&[8; LEN]).unwrap();
                let mut received = vec![0; LEN];
                stream.read_exact(&mut received).unwrap();
                received
            })
            .unwrap();
        let (mut received, mut largest, mut seq) = (Vec::new(), 0, 1000);
        block_on(async {
            while received.len() < LEN {
                for packet in recv_v4(&mut tun).await {
                    let tcp = Tcp::of(&packet).unwrap();
                    let bytes = packet.to_vec();
                    let port = headers::get_u16(&bytes, 20);
                    let payload = &bytes[tcp.header_len..tcp.ip.total_len];
                    largest = largest.max(payload.len());
                    received.extend_from_slice(payload);
                    let is_syn = bytes[33] & 2 != 0;
                    let len = payload.len() + usize::from(is_syn);
                    let ack = headers::get_u32(&bytes, 24).wrapping_add(len as u32);
                    let (flags, answer) = match received.len() {
                        _ if is_syn => (0x12, &[][..]),
                        LEN => (0x18, &[9; LEN][..]),
                        _ => (0x10, &[][..]),
                    };
                    if len > 0 {
                        let answer = segment(port, seq, ack, flags, answer);
                        send(&mut tun, answer).await.unwrap();
                    }
                    seq += u32::from(is_syn);
                }
            }
        });
        assert_eq!(received, [8; LEN]);
        // Without offload packets are merged that wait together, and on a busy machine none may.
        assert!(!offload || largest > 1500, "{largest}");
        assert_eq!(kernel.join().unwrap(), [9; LEN]);
        assert_eq!(tun.drops(), 0);
    }
}

#[test]
fn what_a_device_cannot_split_or_fill_it_drops() {
    let Some(namespace) = namespace() else { return };
    for asked in [false, true] {
        let mut tun = builder(&namespace).offload(false).build().unwrap();
        if asked {
            assert!(tun.split_sent());
        }
        for gso_size in [0, 536] {
            let meta = Meta {
                checksum: Checksum::Partial,
                gso_size,
            };
            // Neither TCP nor UDP.
            let mut packet = echo_request(2000);
            packet.meta = meta;
            block_on(send(&mut tun, packet)).unwrap();
            tun.readiness = None; // The next runtime is another one.
        }
        assert_eq!(tun.drops(), if asked { 2 } else { 0 });
    }
}

#[test]
fn without_offload_super_packets_go_only_to_who_would_merge_anyway() {
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};

    let Some(namespace) = namespace() else { return };
    for merges in [false, true] {
        let mut tun = builder(&namespace).offload(false).build().unwrap();
        if merges {
            tun.merge_received();
        }
        let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        let socket = namespace.run(raw).unwrap();
        let to = SockAddr::from(SocketAddr::new(OURS.parse().unwrap(), 0));
        for seq in [1, 1001, 2001] {
            let mut packet = segment(80, seq, 1, 0x10, &[8; 1000]).to_vec();
            packet[12..20].copy_from_slice(&[10, 9, 0, 1, 10, 9, 0, 2]);
            fill_checksum(&mut packet);
            socket.send_to(&packet, &to).unwrap();
        }
        let (mut count, mut bytes) = (0, 0);
        block_on(async {
            while bytes < 3000 {
                for packet in recv_v4(&mut tun).await {
                    count += 1;
                    bytes += packet.len() - 40;
                }
            }
        });
        assert_eq!((count, bytes), (if merges { 1 } else { 3 }, 3000));
    }
}

#[test]
fn an_interface_that_is_down_drops_and_one_that_is_gone_fails() {
    let Some(namespace) = namespace() else { return };
    let mut tun = builder(&namespace).build().unwrap();
    tun.port.device.enabled(false).unwrap();
    block_on(send(&mut tun, echo_request(4))).unwrap();
    assert_eq!(tun.drops(), 1);
    tun.readiness = None; // The next runtime is another one.
    namespace
        .run(|| RtNetlink::new().unwrap().delete_link("syn0"))
        .unwrap()
        .unwrap();
    block_on(async {
        send(&mut tun, echo_request(4)).await.unwrap_err();
        poll_fn(|cx| tun.poll_recv(cx, &mut Vec::new(), 16))
            .await
            .unwrap_err();
    });

    let mut tun = builder(&namespace).build().unwrap();
    let error = block_on(async {
        let mut packets = Vec::new();
        let mut is_deleted = false;
        loop {
            let result = poll_fn(|cx| {
                let result = tun.poll_recv(cx, &mut packets, 16);
                if result.is_pending() && !is_deleted {
                    is_deleted = true;
                    let delete = || RtNetlink::new().unwrap().delete_link("syn0");
                    namespace.run(delete).unwrap().unwrap();
                }
                result
            });
            if let Err(error) = result.await {
                break error;
            }
        }
    });
    assert_eq!(error.to_string(), gone().to_string());
}

#[test]
fn a_larger_mtu_set_by_somebody_else_is_noticed() {
    let Some(namespace) = namespace() else { return };
    let mut tun = builder(&namespace).offload(false).build().unwrap();
    tun.port.device.set_mtu(60_000).unwrap();
    let mut packets = Vec::new();
    block_on(async {
        for _ in 0..MTU_PERIOD {
            let _ = poll_fn(|cx| Poll::Ready(tun.poll_recv(cx, &mut packets, 16))).await;
        }
    });
    assert_eq!(tun.capabilities().mtu, 60_000);
}

#[test]
fn a_packet_that_is_cut_off_tells_of_a_larger_mtu() {
    let Some(namespace) = namespace() else { return };
    let mut tun = builder(&namespace).offload(false).build().unwrap();
    tun.port.device.set_mtu(60_000).unwrap();
    let bind = || UdpSocket::bind("10.9.0.1:0").unwrap();
    let socket = namespace.run(bind).unwrap();
    for _ in 0..3 {
        socket.send_to(&[5; 40_000], (OURS, 9)).unwrap();
    }
    let mut packets = Vec::new();
    while !tun.port.read_some(&mut packets, 16).unwrap() {}
    packets.retain(|packet| packet.first()[0] >> 4 == 4);
    // The second of them did not fit behind the first, and is lost.
    let lens: Vec<_> = packets.iter().map(Packet::len).collect();
    assert_eq!((lens, tun.port.mtu), (vec![40_028; 2], 60_000));
}

#[test]
fn addresses_of_both_families_are_set() {
    let Some(namespace) = namespace() else { return };
    let tun = builder(&namespace)
        .address("10.10.0.1/16".parse().unwrap())
        .address("fd09::1/64".parse().unwrap())
        .mtu(1280)
        .build()
        .unwrap();
    namespace
        .run(|| {
            for address in ["10.9.0.1:0", "10.10.0.1:0", "[fd09::1]:0"] {
                UdpSocket::bind(address).unwrap();
            }
        })
        .unwrap();
    drop(tun);
}

#[test]
fn errors_say_what_is_wrong() {
    let kind = |builder: TunBuilder| builder.build().unwrap_err().kind();
    let invalid = io::ErrorKind::InvalidInput;
    for name in ["", "sixteen-bytes-xx", "a/b", "a b", ".."] {
        assert_eq!(kind(Tun::builder().name(name)), invalid, "{name}");
    }
    let v6 = "fd09::1/64".parse().unwrap();
    assert_eq!(kind(Tun::builder().mtu(67)), invalid);
    assert_eq!(kind(Tun::builder().mtu(65_536)), invalid);
    assert_eq!(kind(Tun::builder().mtu(1279).address(v6)), invalid);
    let error = Tun::builder().mtu(67).build().unwrap_err().to_string();
    assert_eq!(error, "MTU 67: 68 to 65535 is allowed");
    for packets in [0, 1_000_001, u32::MAX] {
        assert_eq!(kind(Tun::builder().tx_queue_len(packets)), invalid);
    }
    for nobody in ["0.0.0.0/0", "224.0.0.1/4", "::/0", "ff02::1/64"] {
        let builder = Tun::builder().address(nobody.parse().unwrap());
        assert_eq!(kind(builder), invalid, "{nobody}");
    }

    let Some(namespace) = namespace() else { return };
    let _tun = builder(&namespace).build().unwrap();
    assert_eq!(kind(builder(&namespace)), io::ErrorKind::ResourceBusy);
}

/// A13: a program that is started by ours has no part in the device.
#[test]
fn the_descriptor_is_closed_on_exec() {
    let Some(namespace) = namespace() else { return };
    let tun = builder(&namespace).build().unwrap();
    let info = format!("/proc/self/fdinfo/{}", tun.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(info).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
    assert_ne!(flags & libc::O_CLOEXEC, 0, "{info}");
}
