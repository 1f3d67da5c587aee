//! Packets that Linux's TCP did not write, sent from its side.

use std::{
    io::ErrorKind,
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use synack::info::{SocketInfo, State};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net as linux,
};

use crate::lab::{Ip, Lab, Setup, in_lab, kind};

const SYN: u8 = 2;
const RST: u8 = 4;

/// Sends IPv4 packets, and sees those that come from the stack.
struct Raw {
    sender: Socket,
    receiver: Socket,
}

/// A segment without data or options.
#[derive(Clone, Copy, Debug)]
struct Segment {
    from: SocketAddrV4,
    to: SocketAddrV4,
    seq: u32,
    ack: u32,
    flags: u8,
}

impl Segment {
    fn to_packet(self) -> [u8; 40] {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[3] = 40;
        packet[8] = 64;
        packet[9] = 6;
        packet[12..16].copy_from_slice(&self.from.ip().octets());
        packet[16..20].copy_from_slice(&self.to.ip().octets());
        packet[20..22].copy_from_slice(&self.from.port().to_be_bytes());
        packet[22..24].copy_from_slice(&self.to.port().to_be_bytes());
        packet[24..28].copy_from_slice(&self.seq.to_be_bytes());
        packet[28..32].copy_from_slice(&self.ack.to_be_bytes());
        packet[32] = 5 << 4;
        packet[33] = self.flags;
        packet[34..36].copy_from_slice(&[0xff, 0xff]);
        // The pseudo-header is the addresses, the protocol, and the segment's length. The kernel
        // fills in the sum of the IP header.
        let words = packet[12..]
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum = words.sum::<u32>() + 6 + 20;
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        packet
    }
}

impl Raw {
    fn new() -> Self {
        let receiver = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let sender = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        sender.set_send_buffer_size(4 << 20).unwrap();
        Self { sender, receiver }
    }

    fn send(&self, segment: Segment) {
        let to = SocketAddr::from((*segment.to.ip(), 0));
        self.sender
            .send_to(&segment.to_packet(), &to.into())
            .unwrap();
    }

    /// The next segment of the stack's in a connection: its sequence and acknowledgement numbers.
    fn next(&self, from: SocketAddr, to: SocketAddr) -> (u32, u32) {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        loop {
            let len = self.receiver.recv(&mut buffer).unwrap();
            let packet = buffer[..len].iter().map(|byte| {
                // A copy of what was received; beyond `len` nothing is looked at.
                #[expect(unsafe_code, reason = "socket2 gives uninitialized buffers back")]
                // SAFETY: `recv` has written `len` bytes.
                unsafe {
                    byte.assume_init()
                }
            });
            let packet = packet.collect::<Vec<u8>>();
            let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            if packet[20..24] == ports {
                let number = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
                return (number(24), number(28));
            }
        }
    }
}

fn v4(addr: SocketAddr) -> SocketAddrV4 {
    match addr {
        SocketAddr::V4(addr) => addr,
        SocketAddr::V6(_) => panic!("{addr} is no IPv4 address"),
    }
}

#[test]
fn only_a_reset_with_the_exact_sequence_number_resets() {
    in_lab(Setup::default(), async |lab: &Lab| {
        let (mut theirs, mut ours) = lab.pair(Ip::V4).await;
        let raw = Raw::new();
        let (local, peer) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
        theirs.write_all(b"hello").await.unwrap();
        ours.read_exact(&mut [0; 5]).await.unwrap();
        ours.write_all(b"hello").await.unwrap();
        theirs.read_exact(&mut [0; 5]).await.unwrap();
        // Its acknowledgement of ours may be on its way: this one counts.
        let mut next = raw.next(local, peer).1;
        ours.write_all(b"!").await.unwrap();
        theirs.read_exact(&mut [0; 1]).await.unwrap();
        loop {
            let (_, ack) = raw.next(local, peer);
            if ack == next {
                break;
            }
            next = ack;
        }
        let reset = |seq| Segment {
            from: v4(peer),
            to: v4(local),
            seq,
            ack: 0,
            flags: RST,
        };
        let before = lab.counters().await;

        // RFC 5961 §3.2: outside of the window it is dropped, inside it is challenged.
        raw.send(reset(next.wrapping_sub(1)));
        raw.send(reset(next.wrapping_add(1 << 30)));
        while lab.counters().await.drop_out_of_window < before.drop_out_of_window + 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lab.counters().await.challenge_acks, before.challenge_acks);
        raw.send(reset(next.wrapping_add(1)));
        while lab.counters().await.challenge_acks == before.challenge_acks {
            tokio::task::yield_now().await;
        }
        // A SYN is challenged wherever it is (§4.2), though not so soon after another challenge.
        raw.send(Segment {
            flags: SYN,
            ..reset(next.wrapping_add(1))
        });
        theirs.write_all(b"still here").await.unwrap();
        ours.read_exact(&mut [0; 10]).await.unwrap();
        assert_eq!(ours.info().await.unwrap().state, State::Established);

        raw.send(reset(next.wrapping_add(10)));
        assert_eq!(
            kind(ours.read(&mut [0; 1]).await),
            ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn honest_clients_are_served_through_a_flood_of_syns() {
    let setup = Setup::config(|config| {
        config.half_open_max(256).syn_ack_retries(1);
    });
    in_lab(setup, async |lab: &Lab| {
        let mut witness = lab.witness().await;
        let addr = lab.echo(Ip::V4).await;
        let flood = tokio::task::spawn_blocking(move || {
            let raw = Raw::new();
            for turn in 0..30_000_u32 {
                // Of the network for benchmarks (RFC 2544), where nobody answers.
                let ip =
                    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + turn % 100_000);
                let from = SocketAddrV4::new(ip, 1024 + (turn % 60_000) as u16);
                let seq = turn.wrapping_mul(0x9e37_79b9);
                raw.send(Segment {
                    from,
                    to: v4(addr),
                    seq,
                    ack: 0,
                    flags: SYN,
                });
            }
        });
        lab.until_sockets(|sockets| sockets.iter().any(|socket| socket.half_open >= 256))
            .await;
        let mut served = 0;
        while served < 100 || !flood.is_finished() {
            let mut honest = linux::TcpStream::connect(addr).await.unwrap();
            honest.write_all(b"honest").await.unwrap();
            honest.read_exact(&mut [0; 6]).await.unwrap();
            served += 1;
        }
        flood.await.unwrap();
        witness.goes_on().await;
        let counters = lab.counters().await;
        eprintln!("{served} served, {} cookies sent", counters.cookies_sent);
        assert!(counters.cookies_sent > 0 && counters.cookies_accepted > 0);
        let half_open = |socket: &SocketInfo| socket.half_open;
        assert!(
            lab.stack
                .sockets()
                .await
                .unwrap()
                .iter()
                .map(half_open)
                .sum::<usize>()
                <= 256
        );
        // Those who never answer are forgotten.
        lab.until_sockets(|sockets| sockets.iter().map(half_open).sum::<usize>() == 0)
            .await;
        witness.end().await;
    });
}
