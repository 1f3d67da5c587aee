//! Two stacks, each on a TUN device in a network of its own, and the kernel routing between them.
//!
//! ```sh
//! cargo run --example two_namespaces
//! ```
//!
//! ```text
//!   left network                                         right network
//!   stack 10.1.0.2 ── TUN ── Linux 10.9.0.1 ── veth ── Linux 10.9.0.2 ── TUN ── stack 10.2.0.2
//! ```
//!
//! synack talks to synack, to Linux, and Linux to synack.

use std::{
    error::Error,
    fs, io,
    os::fd::{AsFd, AsRawFd},
    process::{self, Command, ExitCode},
    time::Duration,
};

use synack::{
    Stack,
    device::{
        Tun,
        netns::{self, NetNs},
    },
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    // A namespace belongs to threads, so this comes before the runtime starts its own.
    let result = netns::enter_private_namespace()
        .and_then(|()| tokio::runtime::Runtime::new())
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("two_namespaces: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let (left, right) = (NetNs::new()?, NetNs::new()?);
    let left_stack = stack(&left, "10.1.0.1/24", "10.1.0.2/24")?;
    let right_stack = stack(&right, "10.2.0.1/24", "10.2.0.2/24")?;
    let other_end = format!("/proc/{}/fd/{}", process::id(), right.as_fd().as_raw_fd());
    ip(
        &left,
        &format!("link add wire type veth peer name wire netns {other_end}"),
    )?;
    route(&left, "10.9.0.1/30", "10.2.0.0/24 via 10.9.0.2")?;
    route(&right, "10.9.0.2/30", "10.1.0.0/24 via 10.9.0.1")?;

    let listener = right_stack.listen("10.2.0.2:7").await?;
    let (ours, theirs) = tokio::join!(left_stack.connect("10.2.0.2:7"), listener.accept());
    talk("synack to synack", ours?, theirs?.0).await?;

    let linux = right.run(|| std::net::TcpListener::bind("10.9.0.2:7"))??;
    linux.set_nonblocking(true)?;
    let linux = tokio::net::TcpListener::from_std(linux)?;
    let (ours, theirs) = tokio::join!(left_stack.connect("10.9.0.2:7"), linux.accept());
    talk("synack to Linux", ours?, theirs?.0).await?;

    // A socket stays in the namespace in which it was made.
    let linux = left.run(tokio::net::TcpSocket::new_v4)??;
    let (theirs, ours) = tokio::join!(linux.connect("10.2.0.2:7".parse()?), listener.accept());
    talk("Linux to synack", theirs?, ours?.0).await?;

    left_stack.shutdown(Duration::from_secs(1)).await;
    right_stack.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// A stack behind a TUN device in a namespace.
fn stack(net: &NetNs, linux: &str, ours: &str) -> Result<Stack> {
    let tun = Tun::builder()
        .name("syn0")
        .netns(net.clone())
        .address(linux.parse()?)
        .build()?;
    Ok(Stack::builder().address(ours.parse()?).spawn(tun)?)
}

/// Makes Linux forward what comes from its stack to the other network.
fn route(net: &NetNs, address: &str, route: &str) -> Result<()> {
    ip(net, &format!("address add {address} dev wire"))?;
    ip(net, "link set wire up")?;
    ip(net, &format!("route add {route}"))?;
    let forward = "/proc/sys/net/ipv4/ip_forward";
    net.run(|| fs::write(forward, "1"))?
        .map_err(|error| format!("{forward}: {error}").into())
}

fn ip(net: &NetNs, args: &str) -> Result<()> {
    let output = net.run(|| Command::new("ip").args(args.split(' ')).output())?;
    let output = output.map_err(|error| format!("the program `ip` (iproute2): {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {args}: {}", reason.trim_end()).into())
}

/// One end sends until its end of file, the other counts and answers.
async fn talk<A, B>(who: &str, mut near: A, mut far: B) -> Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let sent = vec![7; 1 << 20];
    let ask = async {
        near.write_all(&sent).await?;
        near.shutdown().await?;
        let mut answer = String::new();
        near.read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let reply = async {
        let mut received = Vec::new();
        far.read_to_end(&mut received).await?;
        let answer = format!("{} bytes arrived", received.len());
        far.write_all(answer.as_bytes()).await?;
        far.shutdown().await
    };
    let (answer, replied) = tokio::join!(ask, reply);
    replied?;
    println!("{who}: {}", answer?);
    Ok(())
}
