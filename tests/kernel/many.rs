//! Many connections, and guests who behave badly.

use std::{
    env,
    io::{self, ErrorKind},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use synack::info::{SocketInfo, State};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net as linux,
    time::Instant,
};

use crate::{
    closing::reset_on_drop,
    lab::{Ip, Lab, Setup, echo, in_lab, run, serve},
};

const CONNECTIONS: usize = 2000;

/// Who closes first.
fn client_closes_first(turn: usize) -> bool {
    turn.is_multiple_of(2)
}

/// The client's part: sends its number, gets it back twice, closes.
///
/// When Linux is short of room it sends SYN cookies, and after as many bytes one way as the other a
/// repeated last ACK still fits the cookie: Linux would accept the connection once more.
async fn use_once(mut stream: impl AsyncRead + AsyncWrite + Unpin, turn: usize) -> io::Result<()> {
    stream.write_all(&(turn as u64).to_be_bytes()).await?;
    if client_closes_first(turn) {
        stream.shutdown().await?;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    assert_eq!(answer, [(turn as u64).to_be_bytes(); 2].concat());
    Ok(())
}

/// The server's part.
async fn serve_once(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut number = [0; 8];
    stream.read_exact(&mut number).await?;
    if client_closes_first(u64::from_be_bytes(number) as usize) {
        assert_eq!(stream.read(&mut [0; 1]).await?, 0);
    }
    stream.write_all(&[number; 2].concat()).await
}

/// Opens, uses and closes connections from each side to the other.
async fn open_use_close(lab: &Lab, at_once: usize) {
    let ours = lab.listen(Ip::V4).await;
    let theirs = lab.linux_listen(Ip::V4).await;
    let (our_addr, their_addr) = (ours.local_addr().unwrap(), theirs.local_addr().unwrap());
    let servers = [
        tokio::spawn(async move {
            for _ in 0..CONNECTIONS {
                let (stream, _) = ours.accept().await.unwrap();
                tokio::spawn(async { serve_once(stream).await.unwrap() });
            }
        }),
        tokio::spawn(async move {
            for _ in 0..CONNECTIONS {
                let (stream, _) = theirs.accept().await.unwrap();
                tokio::spawn(async { serve_once(stream).await.unwrap() });
            }
        }),
    ];
    let started = Instant::now();
    stream::iter(0..CONNECTIONS)
        .map(|turn| async move { use_once(linux::TcpStream::connect(our_addr).await?, turn).await })
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await
        .unwrap();
    let to_us = started.elapsed();
    stream::iter(0..CONNECTIONS)
        .map(|turn| async move { use_once(lab.stack.connect(their_addr).await?, turn).await })
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await
        .unwrap();
    let to_linux = started.elapsed() - to_us;
    eprintln!(
        "{CONNECTIONS} connections, {at_once} at once: to us {to_us:.2?}, to Linux {to_linux:.2?}"
    );
    for server in servers {
        server.await.unwrap();
    }
}

#[test]
fn two_thousand_connections_one_after_the_other_leave_nothing_behind() {
    in_lab(Setup::default(), async |lab: &Lab| {
        open_use_close(lab, 1).await;
        lab.until_gone().await;
        assert_eq!(lab.counters().await.timed_out, 0);
    });
}

#[test]
fn two_thousand_connections_256_at_once_leave_nothing_behind() {
    in_lab(Setup::default(), async |lab: &Lab| {
        open_use_close(lab, 256).await;
        lab.until_gone().await;
        assert_eq!(lab.counters().await.timed_out, 0);
    });
}

/// Sends a byte and gets it back.
async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(&[7]).await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
    assert_eq!(byte, [7]);
    Ok(())
}

#[test]
fn two_hundred_clients_that_abort_before_accept_disturb_nobody() {
    in_lab(Setup::default(), async |lab: &Lab| {
        let mut witness = lab.witness().await;
        let listener = lab.listen(Ip::V4).await;
        let addr = listener.local_addr().unwrap();
        let before = lab.counters().await.resets_received;
        for _ in 0..200 {
            reset_on_drop(&linux::TcpStream::connect(addr).await.unwrap());
        }
        while lab.counters().await.resets_received < before + 200 {
            witness.goes_on().await;
        }
        let mut honest = linux::TcpStream::connect(addr).await.unwrap();
        // As on Linux, those who came and went are accepted, and then found to be gone.
        for _ in 0..200 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let error = stream.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        let (stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, honest.local_addr().unwrap());
        tokio::spawn(echo(stream));
        greet(&mut honest).await.unwrap();
        witness.end().await;
        drop(honest);
        lab.until_gone().await;
    });
}

#[test]
fn a_listener_that_nobody_polls_disturbs_nobody_and_loses_nobody() {
    in_lab(Setup::default(), async |lab: &Lab| {
        const CLIENTS: usize = 60;
        let mut witness = lab.witness().await;
        let socket = lab.stack.socket_v4();
        socket.bind(Ip::V4.ours(0)).unwrap();
        let listener = socket.listen(16).unwrap();
        let addr = listener.local_addr().unwrap();
        let clients = (0..CLIENTS).map(|_| {
            tokio::spawn(async move {
                let mut stream = linux::TcpStream::connect(addr).await?;
                greet(&mut stream).await
            })
        });
        let clients = clients.collect::<Vec<_>>();
        // Its queue is full, and more clients want in.
        lab.until_sockets(|sockets| {
            sockets
                .iter()
                .any(|socket| socket.local == addr && socket.recv_queue >= 16)
        })
        .await;
        while lab.counters().await.drop_accept_queue < 20 {
            witness.goes_on().await;
        }
        serve(listener);
        for client in clients {
            client.await.unwrap().unwrap();
        }
        witness.end().await;
        lab.until_gone().await;
    });
}

#[test]
fn a_burst_of_syns_beyond_the_backlog_connects_in_the_end() {
    let clients = if env::var_os("CI").is_some() {
        10_000
    } else {
        2000
    };
    in_lab(Setup::default(), async |lab: &Lab| {
        allow_files();
        let socket = lab.stack.socket_v4();
        socket.bind(Ip::V4.ours(0)).unwrap();
        let listener = socket.listen(1024).unwrap();
        let addr = listener.local_addr().unwrap();
        let clients = (0..clients).map(|_| {
            tokio::spawn(async move {
                let mut stream = linux::TcpStream::connect(addr).await?;
                greet(&mut stream).await
            })
        });
        let clients = clients.collect::<Vec<_>>();
        // Nobody is accepted before there is no room any more.
        let queued = |socket: &SocketInfo| socket.local == addr && socket.recv_queue >= 1024;
        lab.until_sockets(|sockets| sockets.iter().any(queued))
            .await;
        while lab.counters().await.drop_accept_queue == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(lab.counters().await.resets_sent, 0);
        let started = Instant::now();
        serve(listener);
        for client in clients {
            client.await.unwrap().unwrap();
        }
        eprintln!(
            "the burst is served {:.2?} after accepting began",
            started.elapsed()
        );
        lab.until_gone().await;
    });
}

/// Lets this process have as many open files as all tests together need.
fn allow_files() {
    let command = format!("prlimit --pid {} --nofile=16000:", std::process::id());
    run(&command).unwrap();
}

#[test]
fn a_thousand_idle_connections_wake_nobody() {
    // Without IPv6, for the kernel looks for routers of its own accord.
    let setup = Setup {
        ipv6: false,
        ..Setup::default()
    };
    in_lab(setup, async |lab: &Lab| {
        const IDLE: usize = 1000;
        allow_files();
        let addr = lab.echo(Ip::V4).await;
        let mut clients = Vec::new();
        for _ in 0..IDLE {
            let mut stream = linux::TcpStream::connect(addr).await.unwrap();
            greet(&mut stream).await.unwrap();
            clients.push(stream);
        }
        let open = |state: State| state == State::Established;
        lab.until_sockets(|sockets| {
            sockets.iter().filter(|socket| open(socket.state)).count() == IDLE
        })
        .await;
        // The last delayed acknowledgements go.
        let mut turns = 0;
        while lab.stack.turns() != turns {
            turns = lab.stack.turns();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(lab.stack.turns(), turns);
        for stream in &mut clients {
            greet(stream).await.unwrap();
        }
        drop(clients);
        lab.until_gone().await;
    });
}
