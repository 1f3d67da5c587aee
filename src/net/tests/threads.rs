//! Real threads and the real clock.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{self, Handle},
    task::JoinSet,
    time::timeout,
};

use super::{SERVER, builder};
use crate::{
    config::{Config, SocketOptions},
    device,
};

const CLIENTS: u32 = 50;
const BYTES: usize = 200_000;

async fn echo_to_many_clients() {
    let (one, other) = device::pair(1500);
    let server = builder(1).spawn(one).unwrap();
    let client = builder(2).spawn_thread(other).unwrap();
    let listener = server.listen(SERVER).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
        }
    });
    let mut clients = JoinSet::new();
    for index in 0..CLIENTS {
        let client = client.clone();
        clients.spawn(async move {
            let stream = client.connect(SERVER).await.unwrap();
            let (mut read, mut write) = stream.into_split();
            let sent: Vec<u8> = (0..BYTES).map(|at| (at as u32 ^ index) as u8).collect();
            let expected = sent.clone();
            let writer = tokio::spawn(async move { write.write_all(&sent).await });
            let mut received = Vec::new();
            read.read_to_end(&mut received).await.unwrap();
            writer.await.unwrap().unwrap();
            assert!(received == expected);
        });
    }
    clients.join_all().await;
    client.shutdown(Duration::from_secs(5)).await;
    client.closed().await.unwrap();
}

#[test]
fn many_clients_on_other_threads_get_back_what_they_sent() {
    for mut runtime in [
        runtime::Builder::new_multi_thread(),
        runtime::Builder::new_current_thread(),
    ] {
        let runtime = runtime.enable_all().build().unwrap();
        let limit = Duration::from_secs(60);
        runtime
            .block_on(async { timeout(limit, echo_to_many_clients()).await })
            .unwrap();
    }
}

#[test]
fn handles_may_be_dropped_and_shut_without_a_runtime() {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (one, other) = device::pair(1500);
    let server = builder(1).spawn_thread(one).unwrap();
    let client = builder(2).spawn_thread(other).unwrap();
    let (a, b) = runtime.block_on(super::connected(&server, &client));
    let (read, write) = a.into_split();
    drop(runtime);
    assert!(Handle::try_current().is_err());
    drop(write);
    let mut buf = [0; 8];
    let read_blocking = || loop {
        match b.try_read(&mut buf) {
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
            Ok(len) => break len,
        }
    };
    assert_eq!({ read_blocking }(), 0);
    drop(read);
}

#[test]
fn a_writer_is_held_up_for_the_reactor_only_where_the_runtime_has_one_thread() {
    const BUFFER: usize = 1 << 20;
    // Whole segments of 192 KiB, and how large these are depends on how long the handshake took.
    let builders = [
        (
            runtime::Builder::new_current_thread(),
            (96 << 10)..=(192 << 10),
        ),
        (runtime::Builder::new_multi_thread(), BUFFER..=BUFFER),
    ];
    for (mut runtime, expected) in builders {
        let runtime = runtime.enable_all().build().unwrap();
        let (one, other) = device::pair(1500);
        let _guard = runtime.enter();
        let mut config = Config::default();
        config.options(SocketOptions {
            send_buffer: Some(BUFFER),
            ..SocketOptions::default()
        });
        let server = builder(1).spawn(one).unwrap();
        let client = builder(2).config(config).spawn(other).unwrap();
        let written = runtime.block_on(async {
            // In a task, for `block_on` itself runs on a thread that is none of the runtime's.
            let task = tokio::spawn(async move {
                let (_accepted, connected) = super::connected(&server, &client).await;
                connected.try_write(&vec![7; BUFFER])
            });
            timeout(Duration::from_secs(60), task).await
        });
        let written = written.unwrap().unwrap().unwrap();
        assert!(expected.contains(&written), "{written}");
    }
}
