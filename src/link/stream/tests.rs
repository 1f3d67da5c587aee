use std::{
    future,
    io::{IoSlice, IoSliceMut},
    pin::pin,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures::executor::block_on;
use smallvec::smallvec;

use super::{readiness::Readiness, *};
use crate::{
    link::{fire, waiters::Ready},
    packet::Payload,
};

const BOTH: Ready = Ready::READABLE.or(Ready::WRITABLE);
const ALL: Ready = BOTH
    .or(Ready::READ_CLOSED)
    .or(Ready::WRITE_CLOSED)
    .or(Ready::ERROR);

fn addr() -> SocketAddr {
    ([10, 7, 0, 2], 80).into()
}

fn link(accepted: bool) -> StreamLink {
    let options = SocketOptions::default();
    let link = StreamLink::new(Doorbell::new(), addr(), addr(), options, 1000, 1000);
    link.button.assign(ConnId::new(1, 1));
    link.set_connected(addr(), accepted, &mut Wakes::new());
    link
}

fn push(link: &StreamLink, bytes: &'static [u8]) -> usize {
    let mut wakes = Wakes::new();
    let mut payload: Payload = smallvec![Bytes::from_static(bytes)];
    link.recv.push(&mut payload, &mut wakes);
    link.rouse_writer(&mut wakes);
    wakes.len()
}

fn fail(link: &StreamLink, failure: Failure) {
    link.fail(failure, &mut Wakes::new());
}

fn read(link: &StreamLink) -> Result<Vec<u8>, io::ErrorKind> {
    let mut buf = [0; 64];
    let mut spare = &mut buf[..];
    let n = link.try_read(&mut spare).map_err(|error| error.kind())?;
    Ok(buf[..n].to_vec())
}

fn write(link: &StreamLink, bytes: &[u8]) -> Result<usize, io::ErrorKind> {
    link.try_write(bytes).map_err(|error| error.kind())
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn rings(link: &StreamLink) -> bool {
    let (mut rung, mut commands) = (Vec::new(), Default::default());
    link.bell().take(&mut rung, &mut commands);
    link.button.answer();
    !rung.is_empty()
}

use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected, WouldBlock};

#[test]
fn an_idle_stream_is_small() {
    let size = size_of::<StreamLink>();
    println!(
        "StreamLink {size}, RecvPipe {}, SendPipe {}, Button {}, Readiness {}",
        size_of::<RecvPipe>(),
        size_of::<SendPipe>(),
        size_of::<Button>(),
        size_of::<Readiness<'_>>(),
    );
    assert!(size <= 352, "{size}");
}

#[test]
fn a_reset_is_told_once_to_whichever_call_is_first() {
    let reset = || {
        let link = link(false);
        fail(&link, Failure::Reset);
        link
    };
    let link = reset();
    assert_eq!(read(&link), Err(ConnectionReset));
    assert_eq!((read(&link), read(&link)), (Ok(vec![]), Ok(vec![])));
    assert_eq!(write(&link, b"x"), Err(BrokenPipe));
    let link = reset();
    assert_eq!(write(&link, b"x"), Err(ConnectionReset));
    assert_eq!(write(&link, b"x"), Err(BrokenPipe));
    assert_eq!(read(&link), Ok(vec![]));
    let link = reset();
    link.shutdown();
    let error = link.take_error().map(|error| error.kind());
    assert_eq!(error, Some(ConnectionReset));
    assert!(link.take_error().is_none());
    assert_eq!(link.peer_addr().unwrap_err().kind(), NotConnected);
    assert_eq!(link.local_addr(), addr());
    assert_eq!(
        link.ready(Ready::READABLE),
        Ready::READABLE | Ready::READ_CLOSED
    );
    assert_eq!(link.ready(BOTH | Ready::ERROR), ALL);
}

#[test]
fn what_came_before_a_reset_is_read_first() {
    let link = link(false);
    push(&link, b"data");
    fail(&link, Failure::Reset);
    fail(&link, Failure::TimedOut);
    push(&link, b"late");
    assert_eq!(read(&link), Ok(b"data".to_vec()));
    assert_eq!(read(&link), Err(ConnectionReset));
    assert_eq!(read(&link), Ok(vec![]));
}

#[test]
fn after_the_peers_fin_reads_end_even_if_a_reset_follows() {
    let link = link(false);
    push(&link, b"data");
    link.recv.finish(&mut Wakes::new());
    push(&link, b"late");
    assert_eq!(link.ready(BOTH), BOTH | Ready::READ_CLOSED);
    assert_eq!(write(&link, b"x"), Ok(1));
    fail(&link, Failure::BrokenPipe);
    assert_eq!(read(&link), Ok(b"data".to_vec()));
    assert_eq!((read(&link), read(&link)), (Ok(vec![]), Ok(vec![])));
    let mut buf = [0; 4];
    assert_eq!(link.try_peek(&mut &mut buf[..]).unwrap(), 0);
    assert_eq!(write(&link, b"x"), Err(BrokenPipe));
}

#[test]
fn after_our_shutdown_writing_is_over_and_reading_is_not() {
    let link = link(false);
    write(&link, b"last").unwrap();
    link.shutdown();
    link.shutdown();
    assert!(rings(&link));
    assert_eq!(write(&link, b"x"), Err(BrokenPipe));
    assert_eq!(link.ready(Ready::WRITABLE), Ready::WRITABLE);
    push(&link, b"data");
    assert_eq!(read(&link), Ok(b"data".to_vec()));
    link.recv.finish(&mut Wakes::new());
    let closed = Ready::READ_CLOSED | Ready::WRITE_CLOSED;
    assert_eq!(link.ready(BOTH), BOTH | closed);
    assert_eq!(link.closed_by_owner(), None);
}

#[test]
fn a_stream_from_connect_starts_as_writable_and_an_accepted_one_as_both() {
    assert_eq!(link(false).ready(BOTH), Ready::WRITABLE);
    let link = link(true);
    assert_eq!(link.ready(BOTH), BOTH);
    assert_eq!(read(&link), Err(WouldBlock));
    assert_eq!(link.ready(BOTH), Ready::WRITABLE);
}

#[test]
fn ready_stays_until_something_would_block() {
    let link = link(false);
    push(&link, b"data");
    assert_eq!(read(&link), Ok(b"data".to_vec()));
    assert_eq!(link.ready(BOTH), BOTH);
    assert_eq!(read(&link), Err(WouldBlock));
    assert_eq!(link.ready(BOTH), Ready::WRITABLE);
    // A poll that empties the pipe and had room for more need not be told twice.
    push(&link, b"data");
    let mut buf = [0; 4];
    let read = link.poll_read(&mut cx(), &mut &mut buf[..]);
    assert!(matches!(read, Poll::Ready(Ok(4))));
    assert_eq!(
        link.ready(BOTH),
        BOTH,
        "it may hold more than was asked for"
    );
    push(&link, b"abc");
    let read = link.poll_read(&mut cx(), &mut &mut buf[..]);
    assert!(matches!(read, Poll::Ready(Ok(3))));
    assert_eq!(link.ready(BOTH), Ready::WRITABLE);
    assert_eq!(write(&link, &[0; 2000]), Ok(1000));
    assert_eq!(link.ready(BOTH), Ready::WRITABLE);
    assert_eq!(write(&link, b"x"), Err(WouldBlock));
    assert!(link.ready(BOTH).is_empty());
}

#[test]
fn empty_buffers_are_read_and_written_when_others_would_be() {
    let link = link(false);
    let mut none: &mut [u8] = &mut [];
    let blocks = |error: io::Error| error.kind() == WouldBlock;
    assert!(link.try_read(&mut none).is_err_and(blocks));
    assert!(link.try_peek(&mut none).is_err_and(blocks));
    push(&link, b"abc");
    assert_eq!(link.try_read(&mut none).unwrap(), 0);
    let read = link.poll_read(&mut cx(), &mut none);
    assert!(matches!(read, Poll::Ready(Ok(0))));
    assert_eq!(link.try_peek(&mut none).unwrap(), 0);
    assert!(link.try_read_chunk(0).unwrap().is_empty());
    assert_eq!(write(&link, b""), Ok(0));
    assert_eq!(link.try_write_chunk(&mut Bytes::new()).unwrap(), 0);
    assert!(!rings(&link));
    write(&link, &[0; 1000]).unwrap();
    assert_eq!(write(&link, b""), Ok(0), "nobody has found it full");
    assert_eq!(write(&link, b"x"), Err(WouldBlock));
    assert_eq!(write(&link, b""), Err(WouldBlock));
}

#[test]
fn no_buffers_at_all_are_read_into_whenever_something_may_be_there() {
    let read = |link: &StreamLink| {
        let none = &mut [IoSliceMut::new(&mut [])];
        link.try_read_vectored(none).map_err(|error| error.kind())
    };
    assert_eq!(read(&link(false)), Err(WouldBlock));
    let link = link(true);
    assert_eq!(read(&link), Ok(0), "nobody has found it empty");
    let mut buf = [0];
    let into = &mut [IoSliceMut::new(&mut buf)];
    assert_eq!(link.try_read_vectored(into).unwrap_err().kind(), WouldBlock);
    assert_eq!(read(&link), Err(WouldBlock));
    fail(&link, Failure::Reset);
    assert_eq!(read(&link), Ok(0));
    let error = link.take_error().map(|error| error.kind());
    assert_eq!(error, Some(ConnectionReset), "it was not told");
}

#[test]
fn connecting_ends_in_a_connection_or_in_an_error() {
    let new = || {
        let options = SocketOptions::default();
        StreamLink::new(Doorbell::new(), addr(), addr(), options, 1000, 1000)
    };
    let (link, mut wakes) = (new(), Wakes::new());
    assert!(link.poll_connected(&mut cx()).is_pending());
    assert_eq!(write(&link, b"x"), Err(WouldBlock));
    assert_eq!(link.peer_addr().unwrap_err().kind(), NotConnected);
    link.set_connected(([10, 7, 0, 2], 40_000).into(), false, &mut wakes);
    assert_eq!((wakes.len(), link.local_addr().port()), (1, 40_000));
    assert!(matches!(
        link.poll_connected(&mut cx()),
        Poll::Ready(Ok(()))
    ));
    assert_eq!(link.peer_addr().unwrap(), addr());
    link.set_closed();
    assert_eq!(link.peer_addr().unwrap_err().kind(), NotConnected);
    let link = new();
    assert!(link.poll_connected(&mut cx()).is_pending());
    fail(&link, Failure::Refused);
    match link.poll_connected(&mut cx()) {
        Poll::Ready(Err(error)) => assert_eq!(error.kind(), ConnectionRefused),
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_are_taken_once_after_each_change() {
    let link = link(false);
    assert_eq!(link.take_options(), None);
    link.set_options(|options| options.nodelay = true);
    assert!(rings(&link));
    assert!(link.take_options().unwrap().nodelay && link.options().nodelay);
    assert_eq!(link.take_options(), None);
}

#[test]
fn closing_tells_whether_anything_was_unread() {
    let read_all = link(false);
    push(&read_all, b"data");
    assert!(read(&read_all).is_ok());
    write(&read_all, b"unsent").unwrap();
    read_all.close();
    assert!(rings(&read_all));
    assert_eq!(read_all.closed_by_owner(), Some(Closing { unread: false }));
    push(&read_all, b"late");
    assert_eq!(read_all.recv.queued(), 0);
    assert_eq!(read_all.unsent(), 6, "still to be sent");
    let link = link(false);
    push(&link, b"data");
    link.abort();
    assert_eq!(link.closed_by_owner(), Some(Closing { unread: true }));
    let linger = link.take_options().unwrap().linger;
    assert_eq!((linger, link.unread()), (Some(Duration::ZERO), 0));
}

#[test]
fn the_last_poll_of_a_direction_and_every_future_are_woken_by_an_event() {
    let link = link(false);
    let mut buf = [0; 4];
    assert!(link.poll_read(&mut cx(), &mut &mut buf[..]).is_pending());
    assert!(link.poll_peek(&mut cx(), &mut &mut buf[..]).is_pending());
    assert!(link.poll_read_ready(&mut cx()).is_pending());
    let mut futures: Vec<_> = (0..5).map(|_| link.wait(Ready::READABLE)).collect();
    for future in &mut futures {
        assert!(pin!(&mut *future).poll(&mut cx()).is_pending());
        assert!(pin!(future).poll(&mut cx()).is_pending());
    }
    futures.pop();
    assert_eq!(push(&link, b"data"), 1 + 4);
    assert_eq!(push(&link, b"data"), 0, "once each");
    for future in futures {
        assert_eq!(block_on(future), Ready::READABLE);
    }
    assert!(link.poll_read_ready(&mut cx()).is_ready());
}

#[test]
fn a_future_for_both_directions_leaves_nothing_behind() {
    let link = link(false);
    write(&link, &[0; 1000]).unwrap();
    assert_eq!(write(&link, b"x"), Err(WouldBlock));
    let mut future = link.wait(BOTH);
    assert!(pin!(&mut future).poll(&mut cx()).is_pending());
    let mut wakes = Wakes::new();
    link.send.release(1000, &mut wakes);
    assert_eq!(wakes.len(), 1);
    assert_eq!(block_on(future), Ready::WRITABLE);
    assert_eq!(push(&link, b"data"), 0, "no longer registered for reading");
    assert!(read(&link).is_ok() && read(&link).is_err());
    let mut future = link.wait(Ready::ERROR);
    assert!(pin!(&mut future).poll(&mut cx()).is_pending());
    fail(&link, Failure::Reset);
    assert_eq!(block_on(future), Ready::ERROR);
}

#[test]
fn what_is_cleared_waits_for_the_next_event_unless_that_came_before() {
    let link = link(false);
    push(&link, b"half");
    let tick = link.tick();
    link.clear_ready(BOTH, tick);
    assert!(link.ready(BOTH).is_empty());
    assert_eq!(push(&link, b"rest"), 0);
    assert_eq!(link.ready(BOTH), BOTH, "as with epoll");
    link.clear_ready(BOTH, tick);
    assert_eq!(link.ready(BOTH), BOTH);
    link.clear_ready(BOTH, link.tick());
    assert_eq!(
        read(&link),
        Ok(b"halfrest".to_vec()),
        "it is there all the same"
    );
}

/// As writev(2) on Linux, which does not get to the socket; send(2) does.
#[test]
fn a_vector_of_nothing_is_written_after_the_end_and_an_empty_write_is_not() {
    let link = link(false);
    link.shutdown();
    for bufs in [&[][..], &[IoSlice::new(b""), IoSlice::new(b"")]] {
        assert_eq!(link.try_write_vectored(bufs).unwrap(), 0);
    }
    assert_eq!(write(&link, b""), Err(BrokenPipe));
    let one = [IoSlice::new(b""), IoSlice::new(b"x")];
    let broken = link.try_write_vectored(&one).unwrap_err();
    assert_eq!(broken.kind(), BrokenPipe);
}

#[test]
fn vectors_and_buffers_that_grow_are_filled_in_order() {
    let link = link(false);
    let bufs = [b"ab".as_slice(), b"", b"cde"].map(IoSlice::new);
    assert_eq!(link.try_write_vectored(&bufs).unwrap(), 5);
    let mut queue = super::super::Rope::new();
    assert!(link.send.take(0, &mut queue, &mut Wakes::new()));
    assert_eq!(queue.pop_front().unwrap(), "abcde");
    push(&link, b"abcdef");
    let (mut one, mut two, mut three) = ([0; 2], [0; 0], [0; 3]);
    let mut bufs = [&mut one[..], &mut two[..], &mut three[..]].map(IoSliceMut::new);
    assert_eq!(link.try_read_vectored(&mut bufs).unwrap(), 5);
    assert_eq!((&one, &three), (b"ab", b"cde"));
    let mut grown = Vec::new();
    assert_eq!(link.try_read(&mut grown).unwrap(), 1);
    assert_eq!(grown, b"f");
}

#[test]
fn a_waker_may_own_the_stream_that_it_waits_for() {
    /// A task of an executor that is gone: only wakers hold it.
    struct Task(Arc<StreamLink>);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Task {
        fn drop(&mut self) {
            self.0.close();
        }
    }

    let task = |link: &Arc<StreamLink>| Waker::from(Arc::new(Task(Arc::clone(link))));
    for displaced_by_poll in [true, false] {
        let link = Arc::new(link(false));
        let waker = task(&link);
        let waiting = &mut Context::from_waker(&waker);
        let mut future = link.wait(Ready::READABLE);
        match displaced_by_poll {
            true => assert!(link.poll_read_ready(waiting).is_pending()),
            false => assert!(pin!(&mut future).poll(waiting).is_pending()),
        }
        drop(waker);
        match displaced_by_poll {
            true => assert!(link.poll_read_ready(&mut cx()).is_pending()),
            false => drop(future),
        }
        assert!(link.closed_by_owner().is_some());
    }
}

#[test]
fn closing_forgets_who_had_waited() {
    let link = link(false);
    assert!(link.poll_read_ready(&mut cx()).is_pending());
    link.close();
    assert_eq!(push(&link, b"late"), 0);
    let mut wakes = Wakes::new();
    link.fail(Failure::Reset, &mut wakes);
    assert!(wakes.is_empty());
}

/// An engine at the other end of a stream: what it is sent, it sends back.
fn echo(link: &StreamLink, total: u64) {
    let bell = Arc::clone(link.bell());
    let (mut rung, mut commands) = (Vec::new(), Default::default());
    let (mut queue, mut wakes) = (super::super::Rope::new(), Wakes::new());
    let mut piece = 1;
    block_on(future::poll_fn(|cx| {
        loop {
            link.button.answer();
            link.send.take(0, &mut queue, &mut Wakes::new());
            while !queue.is_empty() && link.recv.free() > 0 {
                piece = (piece * 7 + 1) % 50_000;
                let start = queue.start();
                let end = queue
                    .end()
                    .min(start + 1 + piece.min(link.recv.free() as u64));
                let mut payload = Payload::new();
                queue.slice(start..end, &mut payload);
                queue.advance_to(end);
                link.recv.push(&mut payload, &mut wakes);
                link.send.release((end - start) as usize, &mut wakes);
            }
            link.recv.ring_when_free(|_| 30_000);
            fire(std::mem::take(&mut wakes));
            if queue.start() == total && link.send.is_shutdown() {
                link.recv.finish(&mut wakes);
                fire(std::mem::take(&mut wakes));
                return Poll::Ready(());
            }
            bell.take_rung(cx, &mut rung, &mut commands);
            if rung.is_empty() {
                return Poll::Pending;
            }
            rung.clear();
        }
    }));
}

#[test]
fn bytes_cross_threads_in_order_and_nobody_sleeps_for_ever() {
    const TOTAL: u64 = 20 << 20;
    let options = SocketOptions::default();
    let (recv, send) = (100_000, 150_000);
    let link = StreamLink::new(Doorbell::new(), addr(), addr(), options, recv, send);
    link.button.assign(ConnId::new(0, 0));
    link.set_connected(addr(), true, &mut Wakes::new());
    let byte = |at: u64| (at * 31 + at / 251) as u8;
    thread::scope(|scope| {
        scope.spawn(|| echo(&link, TOTAL));
        scope.spawn(|| {
            let (mut at, mut len) = (0, 1);
            while at < TOTAL {
                len = (len * 5 + 3) % 100_000;
                let end = TOTAL.min(at + 1 + len);
                let data: Vec<_> = (at..end).map(byte).collect();
                let mut chunk = Bytes::from(data);
                while !chunk.is_empty() {
                    let by_copy = len % 2 == 0;
                    let written = block_on(future::poll_fn(|cx| match by_copy {
                        true => link.poll_write(cx, &chunk),
                        false => link.poll_write_chunk(cx, &mut chunk),
                    }));
                    let written = written.unwrap();
                    if by_copy {
                        chunk = chunk.slice(written..);
                    }
                    at += written as u64;
                }
            }
            link.shutdown();
        });
        let (mut at, mut buf) = (0, vec![0; 70_000]);
        loop {
            let len = 1 + at as usize * 13 % buf.len();
            let n = match at % 3 {
                0 => {
                    block_on(link.wait(Ready::READABLE));
                    match link.try_read(&mut &mut buf[..len]) {
                        Ok(n) => n,
                        Err(error) if error.kind() == WouldBlock => continue,
                        Err(error) => panic!("{error}"),
                    }
                }
                1 => {
                    let read = |cx: &mut Context<'_>| link.poll_read_chunk(cx, len);
                    let chunk = block_on(future::poll_fn(read)).unwrap();
                    buf[..chunk.len()].copy_from_slice(&chunk);
                    chunk.len()
                }
                _ => block_on(future::poll_fn(|cx| {
                    link.poll_read(cx, &mut &mut buf[..len])
                }))
                .unwrap(),
            };
            if n == 0 {
                break;
            }
            assert!(buf[..n].iter().zip(at..).all(|(b, at)| *b == byte(at)));
            at += n as u64;
        }
        assert_eq!(at, TOTAL);
    });
}

#[test]
fn what_the_owner_needs_can_be_sent_between_threads() {
    const fn check<T: Send + Sync + Unpin>() {}
    check::<StreamLink>();
    check::<Readiness<'_>>();
}
