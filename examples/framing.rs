//! TCP carries a stream of bytes, and the messages in it are the application's business.
//!
//! ```sh
//! cargo run --example framing
//! ```
//!
//! It needs no privileges: two stacks in this process talk over a link of 20 ms.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use synack::{
    Stack,
    device::Link,
    net::{TcpListener, TcpStream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};
use tokio_util::codec::{Framed, LengthDelimitedCodec, LinesCodec};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let (client_end, server_end) = Link::builder().delay(Duration::from_millis(20)).build();
    let server = Stack::builder()
        .address("10.0.0.1/24".parse()?)
        .spawn(server_end)?;
    let client = Stack::builder()
        .address("10.0.0.2/24".parse()?)
        .spawn(client_end)?;
    let listener = server.listen("10.0.0.1:7").await?;

    println!("1. Two writes, one read:");
    let (mut ours, mut theirs) = pair(&client, &listener).await?;
    ours.write_all(b"hello ").await?;
    ours.write_all(b"world").await?;
    sleep(Duration::from_millis(200)).await;
    let mut buf = [0; 64];
    let n = theirs.read(&mut buf).await?;
    println!(
        "   wrote \"hello \" and \"world\", read {:?}\n",
        std::str::from_utf8(&buf[..n])?
    );

    println!("2. What Nagle's algorithm does to 100 writes of 10 bytes, 1 ms apart:");
    for nodelay in [false, true] {
        let (mut ours, mut theirs) = pair(&client, &listener).await?;
        ours.set_nodelay(nodelay)?;
        let before = ours.info().await?.segments_sent;
        for _ in 0..100 {
            ours.write_all(b"0123456789").await?;
            sleep(Duration::from_millis(1)).await;
        }
        theirs.read_exact(&mut [0; 1000]).await?;
        println!(
            "   nodelay {nodelay:<5}: {} segments",
            ours.info().await?.segments_sent - before
        );
    }

    println!("\n3. Messages with their length before them:");
    let (ours, theirs) = pair(&client, &listener).await?;
    let (mut ours, mut theirs) = (
        Framed::new(ours, LengthDelimitedCodec::new()),
        Framed::new(theirs, LengthDelimitedCodec::new()),
    );
    for message in ["hello ", "world", "any\nbytes"] {
        ours.feed(Bytes::from(message)).await?;
    }
    SinkExt::<Bytes>::close(&mut ours).await?;
    while let Some(message) = theirs.next().await {
        println!("   {:?}", std::str::from_utf8(&message?)?);
    }

    println!("\n4. Messages that end with their line:");
    let (ours, theirs) = pair(&client, &listener).await?;
    let (mut ours, mut theirs) = (
        Framed::new(ours, LinesCodec::new()),
        Framed::new(theirs, LinesCodec::new()),
    );
    for message in ["hello ", "world"] {
        ours.feed(message).await?;
    }
    SinkExt::<&str>::close(&mut ours).await?;
    while let Some(message) = theirs.next().await {
        println!("   {:?}", message?);
    }
    Ok(())
}

/// Both ends of a new connection.
async fn pair(client: &Stack, listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let (ours, theirs) = tokio::join!(client.connect("10.0.0.1:7"), listener.accept());
    Ok((ours?, theirs?.0))
}
