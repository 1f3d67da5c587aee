//! Devices that fail, and what the application sees of it.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{self, timeout};

use super::{builder, settle};
use crate::{
    device::{Capabilities, Device},
    packet::{Meta, Packet},
};

/// Never delivers anything, and does one thing when it is to send.
struct Faulty(fn() -> Poll<io::Result<()>>);

impl Device for Faulty {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: 1500,
            checksum_offload: false,
            segmentation_offload: None,
        }
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        _: &mut Vec<Packet>,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_send(&mut self, _: &mut Context<'_>, _: &mut VecDeque<Packet>) -> Poll<io::Result<()>> {
        self.0()
    }
}

/// As one that has a name.
struct Named(Faulty);

impl Device for Named {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, packets, max)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_send(cx, packets)
    }

    fn name(&self) -> Option<&str> {
        Some("syn7")
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_is_bound_to_the_device_of_its_stack_and_to_no_other() {
    const ENODEV: Option<i32> = Some(19);
    let faulty = || Faulty(|| Poll::Ready(Ok(())));
    let stack = builder(1).spawn(Named(faulty())).unwrap();
    let socket = stack.socket_v4();
    let error = socket.bind_device(Some(b"eth0")).unwrap_err();
    assert_eq!(error.raw_os_error(), ENODEV);
    assert_eq!(socket.device().unwrap(), None);
    socket.bind_device(Some(b"syn7")).unwrap();
    assert_eq!(socket.device().unwrap().unwrap(), b"syn7");
    socket.bind_device(None).unwrap();
    socket.bind_device(Some(b"")).unwrap();
    assert_eq!(socket.device().unwrap(), None);
    let error = socket.bind_device(Some(&[b'x'; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // A device that is no interface has no name to be bound to.
    let nameless = builder(2).spawn(faulty()).unwrap().socket_v6();
    let error = nameless.bind_device(Some(b"syn7")).unwrap_err();
    assert_eq!(error.raw_os_error(), ENODEV);
}

#[tokio::test(start_paused = true)]
async fn a_device_error_is_the_cause_of_the_end() {
    let fails = || Poll::Ready(Err(io::Error::new(ErrorKind::NotFound, "unplugged")));
    let stack = builder(1).spawn(Faulty(fails)).unwrap();
    let listener = stack.listen("10.0.0.1:80").await.unwrap();
    let error = stack.connect("10.0.0.2:80").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkDown);
    let cause = stack.closed().await.unwrap_err();
    assert_eq!(cause.kind(), ErrorKind::NotFound);
    assert_eq!(cause.to_string(), "unplugged");
    let error = listener.accept().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkDown);
    stack.listen("10.0.0.1:81").await.unwrap_err();
    stack.shutdown(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_reactor_leaves_nobody_waiting() {
    let stack = builder(1).spawn(Faulty(|| panic!("a bug"))).unwrap();
    let listener = stack.listen("10.0.0.1:80").await.unwrap();
    stack.connect("10.0.0.2:80").await.unwrap_err();
    listener.accept().await.unwrap_err();
    let cause = stack.closed().await.unwrap_err();
    assert!(cause.to_string().contains("panicked"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_takes_nothing_hinders_no_time_limit_and_makes_nothing_spin() {
    let stack = builder(1).spawn(Faulty(|| Poll::Pending)).unwrap();
    let begin = time::Instant::now();
    let error = stack.connect("10.0.0.2:80").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(begin.elapsed() < Duration::from_secs(300));
    assert!(stack.turns() < 1000, "{}", stack.turns());
    let connect = stack.connect("10.0.0.2:80");
    timeout(Duration::from_secs(1), connect).await.unwrap_err();
    let drain = Duration::from_secs(5);
    let in_time = timeout(2 * drain, stack.shutdown(drain)).await;
    in_time.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stack_reaches_itself_without_its_device() {
    let panics = || panic!("nothing goes out");
    let stack = builder(1).spawn(Faulty(panics)).unwrap();
    let listener = stack.listen("0.0.0.0:80").await.unwrap();
    // As on Linux, "this host" is the loopback address.
    for (addr, own) in [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
    ] {
        let (accepted, connected) = tokio::join!(listener.accept(), stack.connect(addr));
        let (accepted, peer) = accepted.unwrap();
        let connected = connected.unwrap();
        assert_eq!(connected.local_addr().unwrap(), peer);
        let own = own.parse().unwrap();
        assert_eq!(connected.peer_addr().unwrap(), own);
        assert_eq!(accepted.local_addr().unwrap(), own);
    }
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_a_device_that_takes_nothing_no_longer_than_it_was_allowed() {
    let stack = builder(1).spawn(Faulty(|| Poll::Pending)).unwrap();
    let connecting = stack.connect("10.0.0.2:80");
    timeout(Duration::from_millis(10), connecting)
        .await
        .unwrap_err();
    let begin = time::Instant::now();
    stack.shutdown(Duration::from_millis(200)).await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_stalled_device_loses_is_counted_and_a_slow_one_loses_nothing() {
    let stalled = builder(1).spawn(Faulty(|| Poll::Pending)).unwrap();
    let connecting = stalled.connect("10.0.0.2:80");
    let limit = Duration::from_millis(1500);
    timeout(limit, connecting).await.unwrap_err();
    assert_eq!(stalled.counters().await.unwrap().drop_device, 1);

    // Takes a packet in almost the time after which it would be stalled.
    let slow = builder(1).spawn(Slow::default()).unwrap();
    let socket = slow.bind_udp("10.0.0.1:0").await.unwrap();
    for _ in 0..20 {
        socket.send_to(b"in time", "10.0.0.2:9").await.unwrap();
    }
    time::sleep(Duration::from_secs(30)).await;
    let counters = slow.counters().await.unwrap();
    assert_eq!((counters.datagrams_sent, counters.drop_device), (20, 0));
}

/// Takes one packet at a time, with a pause behind it.
#[derive(Default)]
struct Slow(Option<std::pin::Pin<Box<time::Sleep>>>);

impl Device for Slow {
    fn capabilities(&self) -> Capabilities {
        Faulty(|| Poll::Pending).capabilities()
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        _: &mut Vec<Packet>,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
    ) -> Poll<io::Result<()>> {
        while !packets.is_empty() {
            if let Some(pause) = &mut self.0 {
                std::task::ready!(pause.as_mut().poll(cx));
            }
            packets.pop_front();
            self.0 = Some(Box::pin(time::sleep(Duration::from_millis(900))));
        }
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_of_a_stack_at_its_end_is_answered() {
    let (one, other) = crate::device::pair(1500);
    let stack = builder(1).spawn(one).unwrap();
    settle().await;
    // The reactor finds all of it at once, when it runs next.
    drop(other);
    let listener = stack.listen("10.0.0.1:80").await.unwrap();
    let socket = stack.bind_udp("10.0.0.1:53").await.unwrap();
    let limit = Duration::from_secs(1);
    let accepted = timeout(limit, listener.accept()).await.unwrap();
    assert_eq!(accepted.unwrap_err().kind(), ErrorKind::NetworkDown);
    let received = timeout(limit, socket.recv_from(&mut [0])).await.unwrap();
    assert_eq!(received.unwrap_err().kind(), ErrorKind::NetworkDown);
}

#[tokio::test(start_paused = true)]
async fn an_mtu_that_no_link_can_have_changes_nothing() {
    let (device, end) = crate::device::channel(1500, 64);
    let stack = builder(1).spawn(device).unwrap();
    let socket = stack.bind_udp("10.0.0.1:0").await.unwrap();
    for (mtu, len, fits) in [(20, 1000, true), (1280, 1300, false), (1500, 1300, true)] {
        end.set_mtu(mtu);
        // Whatever wakes the reactor has it look.
        let _ = stack.counters().await.unwrap();
        let sent = socket.send_to(&vec![0; len], "10.0.0.2:9").await;
        assert_eq!(sent.is_ok(), fits, "{mtu}");
    }
}

/// Delivers one packet of an unknown kind, counts how often it is asked, and may tell that this one
/// was all.
struct Single {
    polls: Arc<AtomicUsize>,
    tells: bool,
}

impl Device for Single {
    fn capabilities(&self) -> Capabilities {
        Faulty(|| Poll::Pending).capabilities()
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        if self.polls.fetch_add(1, Ordering::Relaxed) > 0 {
            return Poll::Pending;
        }
        packets.push(Packet::received(vec![0; 20].into(), Meta::default()));
        Poll::Ready(Ok(1))
    }

    fn poll_send(&mut self, _: &mut Context<'_>, _: &mut VecDeque<Packet>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_drained(&self) -> bool {
        self.tells
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_tells_that_it_is_drained_is_not_asked_again() {
    for (tells, expected) in [(true, 1), (false, 2)] {
        let polls = Arc::new(AtomicUsize::new(0));
        let device = Single {
            polls: Arc::clone(&polls),
            tells,
        };
        let stack = builder(1).spawn(device).unwrap();
        settle().await;
        assert_eq!(polls.load(Ordering::Relaxed), expected, "{tells}");
        // It was processed all the same.
        assert_eq!(stack.counters().await.unwrap().packets_received, 1);
    }
}
