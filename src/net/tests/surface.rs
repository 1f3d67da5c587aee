//! One text that uses everything of `tokio::net`'s TCP and UDP that we have, compiled against it and
//! against ours.

use std::panic::{RefUnwindSafe, UnwindSafe};

fn is_send_sync<T: Send + Sync>(_: &T) {}

fn is_like_tokios<T: Send + Sync + Unpin + UnwindSafe + RefUnwindSafe>() {}

macro_rules! surface {
    ($name:ident, $net:path) => {
        #[allow(dead_code, deprecated, reason = "compiled, not run")]
        mod $name {
            use std::{
                error::Error,
                fmt::{Debug, Display},
                io::{self, IoSlice, IoSliceMut},
                net::{Ipv4Addr, SocketAddr},
                task::{Context, Poll},
                time::Duration,
            };

            use net::{
                TcpListener, TcpSocket, TcpStream, ToSocketAddrs, UdpSocket, lookup_host,
                tcp::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf},
            };
            use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
            use $net as net;

            use super::{is_like_tokios, is_send_sync};

            fn types() {
                is_like_tokios::<TcpListener>();
                is_like_tokios::<TcpSocket>();
                is_like_tokios::<TcpStream>();
                is_like_tokios::<UdpSocket>();
                is_like_tokios::<ReadHalf<'static>>();
                is_like_tokios::<WriteHalf<'static>>();
                is_like_tokios::<OwnedReadHalf>();
                is_like_tokios::<OwnedWriteHalf>();
                is_like_tokios::<ReuniteError>();
                fn is_error<T: Error + Debug + Display + 'static>() {}
                is_error::<ReuniteError>();
                fn is_debug<T: Debug>() {}
                is_debug::<(TcpListener, TcpSocket, TcpStream, UdpSocket)>();
                is_debug::<(ReadHalf<'_>, WriteHalf<'_>, OwnedReadHalf, OwnedWriteHalf)>();
                fn reads<T: AsyncRead>() {}
                fn writes<T: AsyncWrite>() {}
                reads::<TcpStream>();
                reads::<ReadHalf<'_>>();
                reads::<OwnedReadHalf>();
                writes::<TcpStream>();
                writes::<WriteHalf<'_>>();
                writes::<OwnedWriteHalf>();
            }

            async fn generic<A: ToSocketAddrs>(addr: A) -> io::Result<Vec<SocketAddr>> {
                Ok(lookup_host(addr).await?.collect())
            }

            async fn addresses() -> io::Result<()> {
                let addr: SocketAddr = ([10, 0, 0, 1], 80).into();
                TcpStream::connect(addr).await?;
                TcpStream::connect(&[addr, addr][..]).await?;
                TcpStream::connect("10.0.0.1:80").await?;
                TcpStream::connect(("10.0.0.1", 80)).await?;
                TcpStream::connect((Ipv4Addr::LOCALHOST, 80)).await?;
                TcpListener::bind(String::from("10.0.0.1:80")).await?;
                TcpListener::bind((String::from("10.0.0.1"), 80)).await?;
                generic(addr).await?;
                Ok(())
            }

            fn futures(stream: &TcpStream, listener: &TcpListener, socket: TcpSocket) {
                let addr: SocketAddr = ([10, 0, 0, 1], 80).into();
                is_send_sync(&TcpStream::connect(addr));
                is_send_sync(&TcpListener::bind(addr));
                is_send_sync(&listener.accept());
                is_send_sync(&socket.connect(addr));
                is_send_sync(&stream.ready(Interest::READABLE));
                is_send_sync(&stream.readable());
                is_send_sync(&stream.writable());
                is_send_sync(&stream.peek(&mut []));
                is_send_sync(&stream.async_io(Interest::READABLE, || Ok(())));
            }

            async fn udp(s: &UdpSocket, buf: &mut [u8]) -> io::Result<()> {
                let addr: SocketAddr = ([10, 0, 0, 1], 53).into();
                let _: UdpSocket = UdpSocket::bind(addr).await?;
                let _: () = s.connect("10.0.0.1:53").await?;
                let _: (SocketAddr, SocketAddr) = (s.local_addr()?, s.peer_addr()?);
                let _: Option<io::Error> = s.take_error()?;
                let _: Ready = s.ready(Interest::READABLE | Interest::WRITABLE).await?;
                let _: ((), ()) = (s.readable().await?, s.writable().await?);
                let _: (usize, usize) = (s.send(buf).await?, s.try_send(buf)?);
                let _: usize = s.send_to(buf, ("10.0.0.1", 53)).await?;
                let _: usize = s.try_send_to(buf, addr)?;
                let _: (usize, usize) = (s.recv(buf).await?, s.try_recv(buf)?);
                let _: (usize, SocketAddr) = s.recv_from(buf).await?;
                let _: (usize, SocketAddr) = s.try_recv_from(buf)?;
                let mut vec: Vec<u8> = Vec::new();
                let _: (usize, usize) = (s.recv_buf(&mut vec).await?, s.try_recv_buf(&mut vec)?);
                let _: (usize, SocketAddr) = s.recv_buf_from(&mut vec).await?;
                let _: (usize, SocketAddr) = s.try_recv_buf_from(&mut vec)?;
                let _: (usize, usize) = (s.peek(buf).await?, s.try_peek(buf)?);
                let _: (usize, SocketAddr) = s.peek_from(buf).await?;
                let _: (usize, SocketAddr) = s.try_peek_from(buf)?;
                let _: (SocketAddr, SocketAddr) = (s.peek_sender().await?, s.try_peek_sender()?);
                let _: usize = s.try_io(Interest::READABLE, || s.try_recv(buf))?;
                let _: usize = s.async_io(Interest::READABLE, || s.try_recv(buf)).await?;
                is_send_sync(&s.recv_from(buf));
                is_send_sync(&s.send_to(&[], addr));
                is_send_sync(&s.connect(addr));
                is_send_sync(&s.readable());
                is_send_sync(&UdpSocket::bind(addr));
                Ok(())
            }

            fn udp_polls(s: &UdpSocket, cx: &mut Context<'_>) -> io::Result<()> {
                let addr: SocketAddr = ([10, 0, 0, 1], 53).into();
                let mut buf = ReadBuf::new(&mut []);
                let _: Poll<io::Result<()>> = s.poll_recv_ready(cx);
                let _: Poll<io::Result<()>> = s.poll_send_ready(cx);
                let _: Poll<io::Result<()>> = s.poll_recv(cx, &mut buf);
                let _: Poll<io::Result<()>> = s.poll_peek(cx, &mut buf);
                let _: Poll<io::Result<SocketAddr>> = s.poll_recv_from(cx, &mut buf);
                let _: Poll<io::Result<SocketAddr>> = s.poll_peek_from(cx, &mut buf);
                let _: Poll<io::Result<SocketAddr>> = s.poll_peek_sender(cx);
                let _: Poll<io::Result<usize>> = s.poll_send(cx, &[]);
                let _: Poll<io::Result<usize>> = s.poll_send_to(cx, &[], addr);
                let _: u32 = s.ttl()?;
                s.set_ttl(64)
            }

            #[cfg(target_os = "linux")]
            fn udp_on_linux(s: &UdpSocket) -> io::Result<()> {
                let _: (u32, u32, u32) = (s.tos()?, s.tos_v4()?, s.tclass_v6()?);
                s.set_tos(0)?;
                s.set_tos_v4(0)?;
                s.set_tclass_v6(0)
            }

            async fn listener(l: &TcpListener, cx: &mut Context<'_>) -> io::Result<()> {
                let _: Poll<io::Result<(TcpStream, SocketAddr)>> = l.poll_accept(cx);
                let _: u32 = l.ttl()?;
                let _: () = l.set_ttl(1)?;
                let _: SocketAddr = l.local_addr()?;
                let _: (TcpStream, SocketAddr) = l.accept().await?;
                Ok(())
            }

            async fn stream(s: &TcpStream, buf: &mut [u8]) -> io::Result<()> {
                let _: (SocketAddr, SocketAddr) = (s.local_addr()?, s.peer_addr()?);
                let _: Option<io::Error> = s.take_error()?;
                let _: Ready = s.ready(Interest::READABLE | Interest::WRITABLE).await?;
                let _: () = s.readable().await?;
                let _: () = s.writable().await?;
                let _: usize = s.try_read(buf)?;
                let _: usize = s.try_read_vectored(&mut [IoSliceMut::new(buf)])?;
                let mut vec: Vec<u8> = Vec::new();
                let _: usize = s.try_read_buf(&mut vec)?;
                let _: usize = s.try_write(buf)?;
                let _: usize = s.try_write_vectored(&[IoSlice::new(buf)])?;
                let _: usize = s.try_io(Interest::READABLE, || s.try_read(buf))?;
                let _: usize = s.async_io(Interest::READABLE, || s.try_read(buf)).await?;
                let _: usize = s.peek(buf).await?;
                let _: &TcpStream = s.as_ref();
                Ok(())
            }

            fn stream_polls(s: &TcpStream, cx: &mut Context<'_>) {
                let _: Poll<io::Result<()>> = s.poll_read_ready(cx);
                let _: Poll<io::Result<()>> = s.poll_write_ready(cx);
                let _: Poll<io::Result<usize>> = s.poll_peek(cx, &mut ReadBuf::new(&mut []));
            }

            fn stream_options(s: &TcpStream) -> io::Result<()> {
                let _: bool = s.nodelay()?;
                s.set_nodelay(true)?;
                #[cfg(target_os = "linux")]
                let _: bool = s.quickack()?;
                #[cfg(target_os = "linux")]
                s.set_quickack(true)?;
                let _: Option<Duration> = s.linger()?;
                s.set_linger(None)?;
                s.set_zero_linger()?;
                let _: u32 = s.ttl()?;
                s.set_ttl(64)
            }

            fn socket() -> io::Result<()> {
                let s: TcpSocket = TcpSocket::new_v6()?;
                let s: TcpSocket = TcpSocket::new_v4().or(Ok::<_, io::Error>(s))?;
                s.bind(([10, 0, 0, 1], 80).into())?;
                let _: SocketAddr = s.local_addr()?;
                let _: Option<io::Error> = s.take_error()?;
                s.set_keepalive(true)?;
                s.set_reuseaddr(true)?;
                #[cfg(unix)]
                s.set_reuseport(true)?;
                let _: (bool, bool) = (s.keepalive()?, s.reuseaddr()?);
                #[cfg(unix)]
                let _: bool = s.reuseport()?;
                s.set_send_buffer_size(1)?;
                s.set_recv_buffer_size(1)?;
                let _: (u32, u32) = (s.send_buffer_size()?, s.recv_buffer_size()?);
                s.set_linger(Some(Duration::ZERO))?;
                s.set_zero_linger()?;
                let _: Option<Duration> = s.linger()?;
                s.set_nodelay(true)?;
                let _: bool = s.nodelay()?;
                let _: TcpListener = s.listen(1024)?;
                Ok(())
            }

            #[cfg(target_os = "linux")]
            fn socket_on_linux(s: &TcpSocket) -> io::Result<()> {
                s.set_tos_v4(0)?;
                s.set_tclass_v6(0)?;
                let _: (u32, u32) = (s.tos_v4()?, s.tclass_v6()?);
                s.set_tos(0)?;
                let _: u32 = s.tos()?;
                s.bind_device(Some(b"tun0"))?;
                let _: Option<Vec<u8>> = s.device()?;
                Ok(())
            }

            async fn borrowed(s: &mut TcpStream, cx: &mut Context<'_>) -> io::Result<()> {
                let buf = &mut [0];
                let (mut r, w): (ReadHalf<'_>, WriteHalf<'_>) = s.split();
                let _: Poll<io::Result<usize>> = r.poll_peek(cx, &mut ReadBuf::new(buf));
                let _: usize = r.try_read(buf)?;
                let _: usize = r.try_read_vectored(&mut [IoSliceMut::new(buf)])?;
                let _: usize = r.try_read_buf(&mut Vec::<u8>::new())?;
                let _: usize = w.try_write(buf)?;
                let _: usize = w.try_write_vectored(&[IoSlice::new(buf)])?;
                let _: (SocketAddr, SocketAddr) = (r.local_addr()?, r.peer_addr()?);
                let _: (SocketAddr, SocketAddr) = (w.local_addr()?, w.peer_addr()?);
                let _: (&TcpStream, &TcpStream) = (r.as_ref(), w.as_ref());
                let _: (Ready, Ready) = (
                    r.ready(Interest::READABLE).await?,
                    w.ready(Interest::WRITABLE).await?,
                );
                let _: ((), ()) = (r.readable().await?, w.writable().await?);
                let _: usize = r.peek(buf).await?;
                Ok(())
            }

            async fn owned(s: TcpStream, cx: &mut Context<'_>) -> io::Result<()> {
                let buf = &mut [0];
                let (mut r, w): (OwnedReadHalf, OwnedWriteHalf) = s.into_split();
                let _: Poll<io::Result<usize>> = r.poll_peek(cx, &mut ReadBuf::new(buf));
                let _: usize = r.try_read(buf)?;
                let _: usize = r.try_read_vectored(&mut [IoSliceMut::new(buf)])?;
                let _: usize = r.try_read_buf(&mut Vec::<u8>::new())?;
                let _: usize = w.try_write(buf)?;
                let _: usize = w.try_write_vectored(&[IoSlice::new(buf)])?;
                let _: (SocketAddr, SocketAddr) = (r.local_addr()?, r.peer_addr()?);
                let _: (SocketAddr, SocketAddr) = (w.local_addr()?, w.peer_addr()?);
                let _: (&TcpStream, &TcpStream) = (r.as_ref(), w.as_ref());
                let _: (Ready, Ready) = (
                    r.ready(Interest::READABLE).await?,
                    w.ready(Interest::WRITABLE).await?,
                );
                let _: ((), ()) = (r.readable().await?, w.writable().await?);
                let _: usize = r.peek(buf).await?;
                let stream: Result<TcpStream, ReuniteError> = r.reunite(w);
                let (r, w) = stream
                    .map_err(|ReuniteError(..)| io::ErrorKind::Other)?
                    .into_split();
                let stream: Result<TcpStream, ReuniteError> = w.reunite(r);
                let (_, w) = stream
                    .map_err(|ReuniteError(..)| io::ErrorKind::Other)?
                    .into_split();
                w.forget();
                Ok(())
            }
        }
    };
}

surface!(theirs, tokio::net);
surface!(ours, crate::net);

#[test]
fn our_own_types_can_go_where_tokios_can() {
    is_like_tokios::<crate::net::Stack>();
    is_like_tokios::<crate::net::Builder>();
    is_like_tokios::<crate::net::TcpStream>();
}
