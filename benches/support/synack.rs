//! The same servers on synack, over a TUN.

use std::{
    env, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::mpsc,
    thread,
    time::Duration,
};

use ::synack::{
    Stack,
    config::Config,
    device::{Tun, netns::NetNs},
    net::{TcpListener, TcpStream},
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

use super::{
    ceiling::{self, Case},
    measure::Sample,
    port,
};

const KERNEL: &str = "10.79.0.1/24";
const OURS: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);

/// Bytes of one read or write.
const CHUNK: usize = 256 << 10;

/// Measures one case in a network namespace of its own. Without [`Case::copy`] the server uses
/// `read_chunk` and `write_chunk`. Stack and server are tasks of one current-thread runtime.
pub(crate) fn run(case: &Case) -> io::Result<Sample> {
    let namespace = NetNs::new()?;
    let tun = Tun::builder()
        .name("synack0")
        .address(KERNEL.parse().expect("it is an address"))
        .mtu(case.mtu)
        .offload(case.offload)
        .netns(namespace.clone())
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (started, start) = mpsc::channel();
    thread::scope(|scope| {
        let server = move || -> io::Result<()> {
            ceiling::place(case.cores, 0)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let address = "10.79.0.2/24".parse().expect("it is an address");
                let mut config = Config::default();
                config.time_wait(Duration::ZERO); // As Linux is set: ports would run out.
                let stack = Stack::builder()
                    .address(address)
                    .config(config)
                    .spawn(tun)?;
                serve(&stack, case.copy).await?;
                // Whoever waits for it is told by its being dropped, too.
                let _ = started.send(());
                let _ = stopped.await;
                if env::var_os("COUNTERS").is_some() {
                    eprintln!("{} turns, {:?}", stack.turns(), stack.counters().await?);
                }
                stack.shutdown(Duration::ZERO).await;
                Ok(())
            })
        };
        let server = thread::Builder::new()
            .name("server".to_owned())
            .spawn_scoped(scope, server)?;
        let sample = start.recv().map_err(io::Error::other).and_then(|()| {
            namespace.run(|| {
                ceiling::place(case.cores, 1)?;
                ceiling::measure(case.load, IpAddr::V4(OURS), case.connections, case.duration)
            })?
        });
        drop(stop);
        server.join().expect("the server does not panic")?;
        sample
    })
}

async fn serve(stack: &Stack, copy: bool) -> io::Result<()> {
    let listen = |port| stack.listen(SocketAddr::from((OURS, port)));
    each(listen(port::ECHO).await?, echo);
    if copy {
        each(listen(port::DISCARD).await?, discard);
        each(listen(port::CHARGEN).await?, generate);
    } else {
        each(listen(port::DISCARD).await?, discard_chunks);
        each(listen(port::CHARGEN).await?, generate_chunks);
    }
    each(listen(port::BOTH).await?, both);
    Ok(())
}

/// Serves each connection in a task of its own.
fn each<F>(listener: TcpListener, service: impl Fn(TcpStream) -> F + Send + 'static)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A connection that fails is the client's to report.
            tokio::spawn(service(stream));
        }
    });
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut chunk = vec![0; 64 << 10];
    loop {
        match stream.read(&mut chunk).await? {
            0 => return Ok(()),
            len => stream.write_all(&chunk[..len]).await?,
        }
    }
}

async fn discard(mut stream: TcpStream) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while stream.read(&mut chunk).await? > 0 {}
    Ok(())
}

async fn discard_chunks(stream: TcpStream) -> io::Result<()> {
    while stream.read_chunk(CHUNK).await?.is_some() {}
    Ok(())
}

async fn generate(mut stream: TcpStream) -> io::Result<()> {
    let chunk = vec![7; CHUNK];
    loop {
        stream.write_all(&chunk).await?;
    }
}

async fn generate_chunks(stream: TcpStream) -> io::Result<()> {
    let chunk = Bytes::from(vec![7; CHUNK]);
    loop {
        stream.write_chunk(chunk.clone()).await?;
    }
}

async fn both(stream: TcpStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let sender = tokio::spawn(async move {
        let chunk = vec![7; CHUNK];
        while writer.write_all(&chunk).await.is_ok() {}
    });
    let mut chunk = vec![0; CHUNK];
    while reader.read(&mut chunk).await? > 0 {}
    sender.abort();
    Ok(())
}
