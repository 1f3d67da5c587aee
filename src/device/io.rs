//! A device over anything that carries one packet with each read and each write.

use std::{
    collections::VecDeque,
    future::Future,
    io::{self, ErrorKind, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{Capabilities, Device};
use crate::{
    packet::{Meta, PACKET_MAX, Packet},
    pool::Pool,
};

/// Size of the blocks that packets are read into: many small ones share one.
const BLOCK: usize = 128 * 1024;

/// Blocks that are kept to be used again.
const BLOCKS: usize = 32;

/// Slices of a packet that are written without gathering them first.
const SLICES: usize = 8;

/// A device over an `AsyncRead + AsyncWrite` that keeps packets apart: each read gives one whole IP
/// packet, each write takes one. A TUN is such a thing, and so is a connected datagram or
/// sequenced-packet socket; a byte stream is not.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::{Stack, device::Io};
///
/// // Anything whose `read` gives one packet, and whose `write` takes one.
/// let (tunnel, _other_end) = tokio::io::duplex(1 << 16);
/// let stack = Stack::builder().address("10.7.0.2/24".parse()?).spawn(Io::new(tunnel, 1400))?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Io<T> {
    io: T,
    mtu: usize,
    pool: Pool,
    block: BytesMut,
    scratch: Vec<u8>,
    unflushed: bool,
    ended: bool,
    drops: u64,
}

impl<T> Io<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// A device of the given MTU, which is at most 65,535.
    ///
    /// Packets of any size up to that maximum are received; larger ones than the MTU are not sent.
    pub fn new(io: T, mtu: usize) -> Self {
        Self {
            io,
            mtu: mtu.min(PACKET_MAX),
            pool: Pool::new(BLOCK, BLOCKS),
            block: BytesMut::new(),
            scratch: Vec::new(),
            unflushed: false,
            ended: false,
            drops: 0,
        }
    }

    /// What carries the packets.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// What carries the packets, to change it.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// What carries the packets.
    pub fn into_inner(self) -> T {
        self.io
    }

    /// Sets the MTU anew; at most 65,535.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu.min(PACKET_MAX);
    }

    /// Reads a packet to the end of the block, which is empty before: its length, or zero at the
    /// end of file.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.block.capacity() < PACKET_MAX {
            let block = std::mem::replace(&mut self.block, self.pool.take());
            if block.capacity() > 0 {
                self.pool.put(block);
            }
        }
        // Reading so is cancel-safe: a future that is dropped has read nothing.
        let mut room = (&mut self.block).limit(PACKET_MAX);
        pin!(self.io.read_buf(&mut room)).poll(cx)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, packet: &Packet) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.io);
        let slices = usize::from(!packet.head().is_empty()) + packet.body.len();
        if slices == 1 {
            return io.poll_write(cx, packet.first());
        }
        if io.is_write_vectored() && slices <= SLICES {
            let mut vector = [IoSlice::new(&[]); SLICES];
            let parts = [packet.head()]
                .into_iter()
                .filter(|head| !head.is_empty())
                .chain(packet.body.iter().map(|slice| &slice[..]));
            for (place, part) in vector.iter_mut().zip(parts) {
                *place = IoSlice::new(part);
            }
            return io.poll_write_vectored(cx, &vector[..slices]);
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(packet.head());
        for slice in &packet.body {
            self.scratch.extend_from_slice(slice);
        }
        io.poll_write(cx, &self.scratch)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T> Device for Io<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: self.mtu,
            checksum_offload: false,
            segmentation_offload: None,
        }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let before = packets.len();
        let mut errors = 0;
        while !self.ended && packets.len() - before < max {
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => {
                    let bytes = self.block.split().freeze();
                    packets.push(Packet::received(bytes, Meta::default()));
                }
                Poll::Ready(Err(error)) if is_passing(&error) => {
                    errors += 1;
                    if errors == max {
                        // An error without end must not keep the others from their turn.
                        cx.waker().wake_by_ref();
                        break;
                    }
                }
                // What was received before the error comes first; the error comes again.
                Poll::Ready(Err(_)) if packets.len() > before => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        match packets.len() - before {
            0 if !self.ended => Poll::Pending,
            count => Poll::Ready(Ok(count)),
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        while let Some(packet) = packets.front() {
            let len = packet.len();
            if len == 0 || len > self.mtu {
                self.drops += 1;
                packets.pop_front();
                continue;
            }
            match ready!(self.poll_write(cx, packet)) {
                Ok(written) if written == len => self.unflushed = true,
                // A part of a packet is none.
                Ok(_) => self.drops += 1,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_fatal(&error) => return Poll::Ready(Err(error)),
                Err(_) => self.drops += 1,
            }
            packets.pop_front();
        }
        self.poll_flush(cx)
    }

    fn drops(&self) -> u64 {
        self.drops
    }
}

/// Errors of a read that tell of one packet (datagram sockets report ICMP so), not of the device.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}

/// Errors of a write after which no other can succeed. A device that fails otherwise is found out
/// by reading.
fn is_fatal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
    )
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::{io::ReadBuf, sync::mpsc};

    use super::*;

    /// Carries a packet with each read and each write.
    struct Datagrams {
        incoming: mpsc::UnboundedReceiver<io::Result<Vec<u8>>>,
        outgoing: mpsc::UnboundedSender<Vec<u8>>,
        /// What the next writes do: accept so many bytes, or fail.
        writes: VecDeque<io::Result<usize>>,
        vectored: bool,
        flushes: usize,
    }

    impl AsyncRead for Datagrams {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(packet) = ready!(self.incoming.poll_recv(cx)) {
                buf.put_slice(&packet?);
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Datagrams {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if let Some(outcome) = self.writes.pop_front() {
                return Poll::Ready(outcome);
            }
            self.outgoing.send(bytes.to_vec()).unwrap();
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            assert!(self.vectored);
            let bytes: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
            self.poll_write(cx, &bytes)
        }

        fn is_write_vectored(&self) -> bool {
            self.vectored
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Incoming = mpsc::UnboundedSender<io::Result<Vec<u8>>>;
    type Outgoing = mpsc::UnboundedReceiver<Vec<u8>>;

    fn device(mtu: usize) -> (Io<Datagrams>, Incoming, Outgoing) {
        let (to_device, incoming) = mpsc::unbounded_channel();
        let (outgoing, from_device) = mpsc::unbounded_channel();
        let datagrams = Datagrams {
            incoming,
            outgoing,
            writes: VecDeque::new(),
            vectored: false,
            flushes: 0,
        };
        (Io::new(datagrams, mtu), to_device, from_device)
    }

    fn made(payload: &[u8]) -> Packet {
        let mut packet = Packet::with_head(b"head:", Meta::default());
        packet.body.push(Bytes::copy_from_slice(payload));
        packet
    }

    async fn send(device: &mut Io<Datagrams>, packets: &[Packet]) -> io::Result<()> {
        let mut packets = packets.iter().cloned().collect();
        poll_fn(|cx| device.poll_send(cx, &mut packets)).await
    }

    async fn receive(device: &mut Io<Datagrams>, max: usize) -> io::Result<Vec<Packet>> {
        let mut packets = Vec::new();
        let count = poll_fn(|cx| device.poll_recv(cx, &mut packets, max)).await?;
        assert_eq!(count, packets.len());
        Ok(packets)
    }

    #[tokio::test]
    async fn each_read_is_a_packet_and_the_end_comes_last() {
        let (mut device, incoming, _outgoing) = device(1500);
        for size in [1, 65_535, 3, 40_000, 60_000] {
            incoming.send(Ok(vec![7; size])).unwrap();
        }
        drop(incoming);
        let sizes = |packets: Vec<Packet>| packets.iter().map(Packet::len).collect::<Vec<_>>();
        assert_eq!(sizes(receive(&mut device, 2).await.unwrap()), [1, 65_535]);
        let rest = receive(&mut device, 9).await.unwrap();
        assert_eq!(sizes(rest), [3, 40_000, 60_000]);
        assert!(receive(&mut device, 9).await.unwrap().is_empty());
        assert!(receive(&mut device, 9).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn each_packet_is_one_write() {
        for vectored in [false, true] {
            let (mut device, _incoming, mut outgoing) = device(1500);
            device.get_mut().vectored = vectored;
            let mut long = made(b"a");
            (0..20).for_each(|_| long.body.push(Bytes::from_static(b"b")));
            let whole = Packet::received(Bytes::from_static(b"whole"), Meta::default());
            send(&mut device, &[made(b"one"), whole, long])
                .await
                .unwrap();
            assert_eq!(outgoing.recv().await.unwrap(), b"head:one");
            assert_eq!(outgoing.recv().await.unwrap(), b"whole");
            let long = outgoing.recv().await.unwrap();
            assert_eq!(long, b"head:abbbbbbbbbbbbbbbbbbbb");
            send(&mut device, &[]).await.unwrap();
            assert_eq!(device.get_ref().flushes, 1, "there was nothing to flush");
        }
    }

    #[tokio::test]
    async fn what_one_packet_meets_does_not_stop_the_others() {
        let (mut device, incoming, mut outgoing) = device(100);
        device.get_mut().writes = VecDeque::from([
            Ok(4),
            Err(ErrorKind::Interrupted.into()),
            Err(io::Error::other("no buffer space")),
        ]);
        let too_big = made(&[0; 100]);
        send(
            &mut device,
            &[made(b"short"), made(b"refused"), too_big, made(b"sent")],
        )
        .await
        .unwrap();
        assert_eq!(outgoing.recv().await.unwrap(), b"head:sent");
        assert_eq!(device.drops(), 3);

        let refused = || Err(ErrorKind::ConnectionRefused.into());
        incoming.send(refused()).unwrap();
        incoming.send(refused()).unwrap();
        incoming.send(Ok(vec![1])).unwrap();
        assert_eq!(receive(&mut device, 1).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn errors_of_the_device_are_passed_on() {
        let (mut device, incoming, _outgoing) = device(1500);
        incoming.send(Ok(vec![1])).unwrap();
        incoming.send(Err(io::Error::other("gone"))).unwrap();
        drop(incoming);
        // What came before the error is given first.
        assert_eq!(receive(&mut device, 9).await.unwrap().len(), 1);
        assert!(receive(&mut device, 9).await.unwrap().is_empty(), "the end");
        let (mut device, incoming, _outgoing) = self::device(1500);
        incoming.send(Err(io::Error::other("gone"))).unwrap();
        assert!(receive(&mut device, 9).await.is_err());
        device
            .get_mut()
            .writes
            .push_back(Err(ErrorKind::BrokenPipe.into()));
        let error = send(&mut device, &[made(b"x")]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
