// Included twice, below `use tokio::net` and below `use synack::net`.

use net::{TcpListener, TcpSocket, TcpStream};

/// What a program sees of the network on a host whose own address is `ip`.
pub(super) async fn observe(ip: IpAddr) -> io::Result<Vec<(&'static str, String)>> {
    let mut seen = Seen::default();
    sockets(ip, &mut seen).await?;
    failures(ip, &mut seen).await?;
    let listener = TcpListener::bind((ip, 0)).await?;
    streams(&listener, &mut seen).await?;
    half_closed(&listener, &mut seen).await?;
    resets(&listener, &mut seen).await?;
    drops(listener, &mut seen).await?;
    Ok(seen.0)
}

/// Before they are connected.
#[allow(deprecated, reason = "tokio's own lingering")]
async fn sockets(ip: IpAddr, seen: &mut Seen) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    seen.see("socket: nodelay", told(socket.nodelay()));
    seen.see("socket: keepalive", told(socket.keepalive()));
    seen.see("socket: reuseaddr", told(socket.reuseaddr()));
    seen.see("socket: reuseport", told(socket.reuseport()));
    seen.see("socket: linger", told(socket.linger()));
    seen.see("socket: tos", told(socket.tos_v4()));
    seen.see("socket: device", told(socket.device()));
    seen.see("socket: local_addr", told(socket.local_addr()));
    seen.see("socket: take_error", told(socket.take_error()));
    seen.see("socket: tclass of IPv4", told(socket.tclass_v6()));
    socket.set_recv_buffer_size(100)?;
    socket.set_send_buffer_size(100)?;
    seen.see("socket: least receive buffer", told(socket.recv_buffer_size()));
    seen.see("socket: least send buffer", told(socket.send_buffer_size()));
    socket.set_linger(Some(Duration::from_millis(1500)))?;
    seen.see("socket: linger is whole seconds", told(socket.linger()));
    seen.see("socket: other family, bind", told(socket.bind("[::1]:0".parse().unwrap())));
    let v6 = TcpSocket::new_v6()?;
    seen.see("socket: IPv4 for IPv6, bind", told(v6.bind((ip, 0).into())));
    seen.see("socket: IPv4 for IPv6, connect", told(v6.connect((ip, 1).into()).await.map(drop)));
    seen.see("socket: not local", told(socket.bind("203.0.113.1:0".parse().unwrap())));
    seen.see("socket: bind", told(socket.bind((ip, 0).into())));
    seen.see("socket: bind twice", told(socket.bind((ip, 0).into())));
    let taken = socket.local_addr()?;
    seen.see("listener: in use", told(TcpListener::bind(taken).await.map(drop)));
    let other = socket.connect("[::1]:1".parse().unwrap()).await;
    seen.see("socket: other family, connect", told(other.map(drop)));
    let unbound = TcpSocket::new_v4()?.listen(8)?;
    seen.see("socket: listen unbound", told(unbound.local_addr().map(|addr| addr.ip())));
    Ok(())
}

/// What there is to be refused.
async fn failures(ip: IpAddr, seen: &mut Seen) -> io::Result<()> {
    let none: &[SocketAddr] = &[];
    seen.see("connect: no address", told(TcpStream::connect(none).await.map(drop)));
    seen.see("bind: no address", told(TcpListener::bind(none).await.map(drop)));
    seen.see("connect: no port", told(TcpStream::connect("127.0.0.1").await.map(drop)));
    seen.see("connect: port 0", told(TcpStream::connect((ip, 0)).await.map(drop)));
    let closed = TcpListener::bind((ip, 0)).await?.local_addr()?;
    seen.see("connect: nobody listens", told(TcpStream::connect(closed).await.map(drop)));
    given_up(ip, seen).await
}

/// One waits for a place in a queue that is full, until nobody wants it any more.
async fn given_up(ip: IpAddr, seen: &mut Seen) -> io::Result<()> {
    let full = TcpSocket::new_v4()?;
    full.bind((ip, 0).into())?;
    let full = full.listen(0)?;
    let at = full.local_addr()?;
    let first = TcpStream::connect(at).await?;
    let second = TcpSocket::new_v4()?;
    second.bind((ip, 0).into())?;
    let own = second.local_addr()?;
    let waited = timeout(Duration::from_millis(20), second.connect(at)).await;
    seen.see("connect: no room in the queue", told(waited.map(drop).map_err(io::Error::from)));
    let again = TcpSocket::new_v4()?;
    seen.see("connect: given up, its port", told(again.bind(own)));
    full.accept().await?;
    let again = again.connect(at).await?;
    seen.see("connect: from there again", told(again.local_addr().map(|it| it == own)));
    drop(first);
    Ok(())
}

/// What a connection starts with, and its bytes.
async fn streams(listener: &TcpListener, seen: &mut Seen) -> io::Result<()> {
    seen.see("listener: ttl", told(listener.ttl()));
    seen.see("listener: ttl 0", told(listener.set_ttl(0)));
    seen.see("listener: ttl 256", told(listener.set_ttl(256)));
    listener.set_ttl(33)?;
    let (near, far) = connected(listener).await?;
    seen.see("stream: inherited ttl", told(far.ttl()));
    seen.see("stream: nodelay", told(near.nodelay()));
    seen.see("stream: quickack", told(near.quickack()));
    seen.see("stream: ttl", told(near.ttl()));
    seen.see("stream: linger", told(near.linger()));
    seen.see("stream: fresh from connect", told(near.ready(BOTH).await));
    seen.see("stream: fresh from accept", told(far.ready(BOTH).await));
    seen.see("stream: addresses", (near.local_addr()? == far.peer_addr()?).to_string());
    seen.see("stream: readv of nothing into nothing", told(far.try_read_vectored(&mut [])));
    seen.see("stream: try_read of nothing", told(far.try_read(&mut [0; 4])));
    seen.see("stream: readv of nothing again", told(far.try_read_vectored(&mut [])));
    seen.see("stream: try_read of nothing into nothing", told(far.try_read(&mut [])));
    seen.see("stream: no longer readable", told(far.ready(BOTH).await));
    seen.see("stream: try_io unready", told(far.try_io(Interest::READABLE, || Ok(()))));
    seen.see("stream: write nothing", told(near.try_write(&[])));
    seen.see("stream: read into nothing", told(near.try_read(&mut [])));
    near.try_write(b"four")?;
    far.readable().await?;
    seen.see("stream: peek", told(far.peek(&mut [0; 8]).await));
    seen.see("stream: peeked bytes stay", told(far.try_read(&mut [0; 8])));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let error = near_read.reunite(far_write).unwrap_err();
    seen.see("halves: of two streams", "given back".to_owned());
    drop((error, near_write, far_read));
    Ok(())
}

/// After a FIN.
async fn half_closed(listener: &TcpListener, seen: &mut Seen) -> io::Result<()> {
    let (mut near, mut far) = connected(listener).await?;
    near.shutdown().await?;
    seen.see("shutdown: write", told(near.write(b"x").await));
    seen.see("shutdown: again", told(near.shutdown().await));
    let ready = near.ready(Interest::WRITABLE).await?;
    seen.see("shutdown: writable, not closed", format!("{ready:?}"));
    until(&far, Ready::is_read_closed).await?;
    seen.see("end of file: ready", told(far.ready(BOTH).await));
    seen.see("end of file: peek", told(far.peek(&mut [0]).await));
    seen.see("end of file: read", told(far.read(&mut [0]).await));
    seen.see("end of file: write goes on", told(far.write(b"yz").await));
    near.readable().await?;
    seen.see("shutdown: read goes on", told(near.read(&mut [0; 8]).await));
    Ok(())
}

/// Who is told of a reset.
async fn resets(listener: &TcpListener, seen: &mut Seen) -> io::Result<()> {
    for queued in [&b""[..], b"four"] {
        let mut far = reset(listener, queued).await?;
        seen.see("reset: ready", told(far.ready(BOTH).await));
        seen.see("reset: peer_addr", told(far.peer_addr().map(drop)));
        seen.see("reset: local_addr", told(far.local_addr().map(drop)));
        seen.see("reset: first read", told(far.read(&mut [0; 8]).await));
        seen.see("reset: second read", told(far.read(&mut [0; 8]).await));
        seen.see("reset: third read", told(far.read(&mut [0; 8]).await));
        seen.see("reset: write then", told(far.write(b"x").await));
        seen.see("reset: shutdown", told(far.shutdown().await));
    }
    let mut far = reset(listener, b"").await?;
    seen.see("reset: first write", told(far.write(b"x").await));
    seen.see("reset: second write", told(far.write(b"x").await));
    seen.see("reset: read after writes", told(far.read(&mut [0; 8]).await));
    let far = reset(listener, b"").await?;
    seen.see("reset: take_error", told(far.take_error().map(|it| it.map(|error| error.kind()))));
    seen.see("reset: take_error again", told(far.take_error().map(|it| it.map(|error| error.kind()))));
    Ok(())
}

/// What a handle leaves behind.
async fn drops(listener: TcpListener, seen: &mut Seen) -> io::Result<()> {
    let (mut near, far) = connected(&listener).await?;
    near.write_all(b"unread").await?;
    far.readable().await?;
    far.peek(&mut [0]).await?;
    drop(far);
    until(&near, Ready::is_read_closed).await?;
    seen.see("dropped unread: read", told(near.read(&mut [0]).await));
    let (mut near, far) = connected(&listener).await?;
    near.write_all(b"unread").await?;
    far.readable().await?;
    far.peek(&mut [0]).await?;
    far.try_write(b"answer")?;
    drop(far);
    until(&near, Ready::is_write_closed).await?;
    seen.see("dropped unread after an answer: read", told(near.read(&mut [0; 8]).await));
    seen.see("dropped unread after an answer: then", told(near.read(&mut [0; 8]).await));
    let (mut near, far) = connected(&listener).await?;
    near.write_all(b"unread").await?;
    far.readable().await?;
    far.peek(&mut [0]).await?;
    drop(far.into_split());
    until(&near, Ready::is_write_closed).await?;
    seen.see("halves dropped unread: read", told(near.read(&mut [0; 8]).await));
    seen.see("halves dropped unread: write", told(near.write(b"x").await));
    let (mut near, far) = connected(&listener).await?;
    drop(far);
    until(&near, Ready::is_read_closed).await?;
    seen.see("dropped: write", told(near.write(b"x").await));
    until(&near, Ready::is_write_closed).await?;
    seen.see("dropped: second write", told(near.write(b"x").await));
    seen.see("dropped: read", told(near.read(&mut [0]).await));
    let mut waiting = TcpStream::connect(listener.local_addr()?).await?;
    drop(listener);
    until(&waiting, Ready::is_read_closed).await?;
    seen.see("never accepted: read", told(waiting.read(&mut [0]).await));
    Ok(())
}

async fn connected(listener: &TcpListener) -> io::Result<(TcpStream, TcpStream)> {
    let connect = TcpStream::connect(listener.local_addr()?);
    let (near, far) = tokio::join!(connect, listener.accept());
    Ok((near?, far?.0))
}

/// A stream whose peer has sent `queued` and reset the connection.
async fn reset(listener: &TcpListener, queued: &[u8]) -> io::Result<TcpStream> {
    let (mut near, far) = connected(listener).await?;
    near.write_all(queued).await?;
    if !queued.is_empty() {
        far.readable().await?;
        far.peek(&mut [0]).await?;
    }
    near.set_zero_linger()?;
    drop(near);
    until(&far, Ready::is_write_closed).await?;
    Ok(far)
}

/// Waits until the readiness of a stream is as asked.
async fn until(stream: &TcpStream, is: impl Fn(Ready) -> bool) -> io::Result<()> {
    while !is(stream.ready(BOTH).await?) {
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
