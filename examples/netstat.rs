//! What netstat shows, live, while connections open, carry data and close.
//!
//! ```sh
//! cargo run --example netstat
//! ```
//!
//! It needs no privileges: two stacks in this process talk over a link that is slow and loses
//! packets. On a terminal the table is drawn in place; into a file it is written once a second.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use synack::{
    Stack,
    config::Config,
    device::Link,
    info::{SocketInfo, State},
    net::{TcpListener, TcpStream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    time::sleep,
};

const MS: Duration = Duration::from_millis(1);

#[tokio::main]
async fn main() -> io::Result<()> {
    let (client_end, server_end) = Link::builder()
        .delay(150 * MS)
        .rate(4_000_000)
        .loss(0.02)
        .build();
    let mut config = Config::default();
    // TIME-WAIT is a minute; whoever looks on has less.
    config.time_wait(3000 * MS);
    let stack = |address: &str| {
        Stack::builder()
            .address(address.parse().expect("a network"))
            .config(config.clone())
    };
    let server = stack("10.0.0.1/24").spawn(server_end)?;
    let client = stack("10.0.0.2/24").spawn(client_end)?;
    let listener = server.listen("10.0.0.1:80").await?;

    let mut traffic = tokio::spawn(traffic(client.clone(), listener));
    let terminal = io::stdout().is_terminal();
    let (mut seen, mut looks) = (Vec::new(), 0);
    loop {
        // Some states last for a round trip: the table is looked at more often than it is shown.
        let sockets = [client.sockets().await?, server.sockets().await?].concat();
        for socket in &sockets {
            if !seen.contains(&socket.state) {
                seen.push(socket.state);
            }
        }
        if looks % if terminal { 2 } else { 40 } == 0 {
            print(&sockets, &seen, terminal)?;
        }
        looks += 1;
        tokio::select! {
            done = &mut traffic => {
                print(&sockets, &seen, terminal)?;
                break done?;
            }
            () = sleep(25 * MS) => {}
        }
    }
}

/// Clients that do what clients do, one after another and some at once.
async fn traffic(client: Stack, listener: TcpListener) -> io::Result<()> {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8_u32 {
        let client = client.clone();
        clients.spawn(async move {
            let mut stream = client.connect("10.0.0.1:80").await?;
            stream.write_all(&vec![0; 20_000 << number.min(4)]).await?;
            // Every other one ends its side, and waits for the server's end.
            if number % 2 == 0 {
                stream.shutdown().await?;
            }
            copy(&mut stream.take(100_000), &mut sink()).await
        });
        sleep(400 * MS).await;
    }
    while let Some(bytes) = clients.join_next().await {
        bytes??;
    }
    sleep(4000 * MS).await;
    Ok(())
}

/// Gives 100,000 bytes and reads to the end, or closes first.
async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(&[0; 100_000]).await?;
    stream.shutdown().await?;
    sleep(300 * MS).await;
    copy(&mut stream, &mut sink()).await?;
    Ok(())
}

fn print(sockets: &[SocketInfo], seen: &[State], terminal: bool) -> io::Result<()> {
    let mut text = String::new();
    if terminal {
        text += "\x1b[2J\x1b[H";
    }
    text += &format!(
        "{:<5} {:<13} {:>7} {:>7}  {:<15} {:<15} {:<5} timer\n",
        "proto", "state", "recv-q", "send-q", "local", "peer", "owner"
    );
    for socket in sockets {
        let peer = socket
            .peer
            .map_or_else(|| "*".to_owned(), |peer| peer.to_string());
        let timer = socket.timer.map_or_else(String::new, |(kind, left)| {
            format!("{kind:?} in {left:.1?}")
        });
        text += &format!(
            "{:<5} {:<13} {:>7} {:>7}  {:<15} {peer:<15} {:<5} {timer}\n",
            format!("{:?}", socket.protocol).to_lowercase(),
            socket.state,
            socket.recv_queue,
            socket.send_queue,
            socket.local.to_string(),
            if socket.owned { "yes" } else { "" },
        );
    }
    let seen: Vec<String> = seen.iter().map(ToString::to_string).collect();
    text += &format!("seen so far: {}\n\n", seen.join(" "));
    io::stdout().write_all(text.as_bytes())
}
