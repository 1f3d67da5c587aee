//! TCP through WireGuard in one process: stack, boringtun, UDP on the loopback interface, and back.
//!
//! ```sh
//! cargo run --release --example wireguard
//! ```
//!
//! It needs no privileges. The same transfer runs without WireGuard first, to see what that costs.

use std::{error::Error, io, process::ExitCode, time::Duration};

use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::{PublicKey, StaticSecret},
};
use bytes::Bytes;
use synack::{
    Stack,
    device::{self, channel::ChannelEnd},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    time,
};

/// What WireGuard leaves of 1,500 bytes, whatever the outer IP version.
const MTU: usize = 1420;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    for wireguard in [false, true] {
        match run(wireguard, 256 << 20).await {
            Ok(rate) => println!("WireGuard {wireguard:5}: {rate:.2} Gbit/s"),
            Err(error) => {
                eprintln!("wireguard: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Moves this many bytes from one stack to the other; the rate in Gbit/s.
pub async fn run(wireguard: bool, bytes: usize) -> Result<f64> {
    let (here, there) = (bind().await?, bind().await?);
    here.connect(there.local_addr()?).await?;
    there.connect(here.local_addr()?).await?;
    let (key, other_key) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32])); // Make yours.
    let (public, other_public) = (PublicKey::from(&key), PublicKey::from(&other_key));
    let peer =
        |key, public, index| wireguard.then(|| Tunn::new(key, public, None, None, index, None));
    let client = stack("10.9.0.1/24", here, peer(key, other_public, 1))?;
    let server = stack("10.9.0.2/24", there, peer(other_key, public, 2))?;

    let listener = server.listen("10.9.0.2:80").await?;
    let sender = tokio::spawn(async move {
        let mut stream = client.connect("10.9.0.2:80").await?;
        let (data, mut left) = (Bytes::from(vec![7; 64 << 10]), bytes);
        while left > 0 {
            let chunk = data.slice(..left.min(data.len()));
            left -= chunk.len();
            stream.write_chunk(chunk).await?;
        }
        stream.shutdown().await?;
        stream.read_u8().await // The other end says that it has everything.
    });
    let (mut stream, _peer) = listener.accept().await?;
    let start = time::Instant::now();
    let mut received = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX).await? {
        received += chunk.len();
    }
    let rate = received as f64 * 8e-9 / start.elapsed().as_secs_f64();
    stream.write_u8(1).await?;
    sender.await??;
    if received != bytes {
        return Err(format!("{received} of {bytes} bytes arrived").into());
    }
    Ok(rate)
}

async fn bind() -> io::Result<UdpSocket> {
    UdpSocket::bind("127.0.0.1:0").await
}

/// A stack whose packets go through the socket, in WireGuard if there is a tunnel.
fn stack(address: &str, socket: UdpSocket, tunnel: Option<Tunn>) -> Result<Stack> {
    let (device, end) = device::channel(MTU, 1024);
    tokio::spawn(async move {
        if let Err(error) = carry(end, socket, tunnel).await {
            tracing::warn!("the tunnel ended: {error}");
        }
    });
    Ok(Stack::builder().address(address.parse()?).spawn(device)?)
}

/// Carries packets until the stack is gone. What is sent may be lost, like anything in a network,
/// hence errors of sending are ignored.
async fn carry(
    mut stack: ChannelEnd,
    socket: UdpSocket,
    mut tunnel: Option<Tunn>,
) -> io::Result<()> {
    let (mut datagram, mut out) = (vec![0; 2048], vec![0; 2048]);
    let mut timer = time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            packet = stack.recv() => {
                let Some(packet) = packet else { return Ok(()) };
                let mut next = Some(packet);
                while let Some(packet) = next {
                    let sealed = match &mut tunnel {
                        None => Some(&packet[..]),
                        Some(tunnel) => to_send(tunnel.encapsulate(&packet, &mut out)),
                    };
                    if let Some(bytes) = sealed {
                        let _ = socket.send(bytes).await;
                    }
                    next = stack.try_recv();
                }
            }
            _ = socket.readable() => {
                // An error is that the other end is not there, which may change.
                while let Ok(len) = socket.try_recv(&mut datagram) {
                    let received = &datagram[..len];
                    let packet = match &mut tunnel {
                        None => Some(Bytes::copy_from_slice(received)),
                        Some(tunnel) => open(tunnel, received, &mut out, &socket).await,
                    };
                    if let Some(packet) = packet {
                        let _ = stack.send(packet).await;
                    }
                }
            }
            _ = timer.tick() => {
                let due = tunnel.as_mut().map(|tunnel| tunnel.update_timers(&mut out));
                if let Some(bytes) = due.and_then(to_send) {
                    let _ = socket.send(bytes).await;
                }
            }
        }
    }
}

/// The packet in a datagram, if there is one in it. Answers that WireGuard itself gives are sent.
async fn open(
    tunnel: &mut Tunn,
    datagram: &[u8],
    out: &mut [u8],
    socket: &UdpSocket,
) -> Option<Bytes> {
    let mut next = tunnel.decapsulate(None, datagram, out);
    // After an answer there may be packets that have waited for the handshake.
    while let TunnResult::WriteToNetwork(bytes) = next {
        let _ = socket.send(bytes).await;
        next = tunnel.decapsulate(None, &[], out);
    }
    match next {
        TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
            Some(Bytes::copy_from_slice(packet))
        }
        _ => None,
    }
}

/// What WireGuard wants to be sent.
fn to_send(result: TunnResult<'_>) -> Option<&[u8]> {
    match result {
        TunnResult::WriteToNetwork(bytes) => Some(bytes),
        _ => None,
    }
}
