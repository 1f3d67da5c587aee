//! Carries all TCP of a network on over the machine's own sockets: what tun2proxy does, in a page.
//!
//! ```sh
//! sudo ip netns add inside
//! sudo -E cargo run --example proxy -- inside     # a TUN device in that network namespace
//! sudo ip -n inside route add default dev proxy0
//! sudo ip netns exec inside curl http://1.1.1.1/
//! ```

use std::{env, error::Error, io, process::ExitCode, time::Duration};

use synack::{
    Stack, Unreachable,
    device::{Tun, netns::NetNs},
    net::{Incoming, IncomingStream},
};
use tokio::{io::copy_bidirectional, net::TcpStream, time::timeout};

/// Time to reach a destination: less than the stack waits for the decision.
const DIAL: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let result = match env::args().nth(1) {
        Some(namespace) => run(&namespace).await,
        None => Err("usage: proxy NETWORK-NAMESPACE".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(namespace: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let tun = Tun::builder()
        .name("proxy0")
        .netns(NetNs::open(namespace)?)
        .address("10.7.0.1/24".parse()?)
        .build()?;
    let stack = Stack::builder()
        .address("10.7.0.2/24".parse()?)
        .spawn(tun)?;
    tracing::info!("carrying all TCP that is routed to proxy0 in {namespace}");
    proxy(stack.incoming()?).await;
    Ok(())
}

/// Carries every connection on, until the stack ends. One that cannot be reached holds up no other.
pub async fn proxy(mut incoming: IncomingStream) {
    while let Some(wanted) = incoming.next().await {
        tokio::spawn(async move {
            let (from, to) = (wanted.peer_addr(), wanted.local_addr());
            match carry(wanted).await {
                Ok((up, down)) => tracing::info!("{from} to {to}: {up} bytes up, {down} down"),
                Err(error) => tracing::info!("{from} to {to}: {error}"),
            }
        });
    }
}

async fn carry(wanted: Incoming) -> io::Result<(u64, u64)> {
    // Dial first, so that the client is told what it would be told without a proxy.
    let mut outside = match timeout(DIAL, TcpStream::connect(wanted.local_addr())).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            match error.kind() {
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    wanted.reject_with(Unreachable::Host);
                }
                _ => wanted.reject(),
            }
            return Err(error);
        }
        // Nobody answers, so neither do we: `wanted` is dropped.
        Err(elapsed) => return Err(elapsed.into()),
    };
    let mut inside = wanted.accept().await?;
    // An end of file goes on as one, while the other direction lives.
    let carried = copy_bidirectional(&mut inside, &mut outside).await;
    if carried.is_err() {
        // One side was reset, so the other is to be reset, too: an end of file would be a lie.
        inside.set_zero_linger()?;
        outside.set_zero_linger()?;
    }
    carried
}
