use std::{
    task::{Wake, Waker},
    thread,
};

use futures::executor::block_on;

use super::{super::Ports, *};

fn socket() -> DatagramLink {
    let nets: [ipnet::IpNet; 1] = ["10.7.0.2/24".parse().unwrap()];
    let ports = Ports::new(vec![nets[0].addr()], false, 1);
    let bell = Doorbell::new();
    bell.budget().set_limit(8 << 20);
    let network = Network::new(&nets, 1500, Arc::clone(&ports), Arc::clone(&bell));
    let local = "10.7.0.2:53".parse().unwrap();
    let port = ports
        .bind(local, crate::link::Reuse::default(), true)
        .unwrap();
    let marks = Marks {
        ttl: 64,
        tos: 0,
        tclass: 0,
    };
    let limits = (8192, 8192);
    DatagramLink::bound(bell, network, port, limits, marks)
}

fn peer() -> SocketAddr {
    "10.7.0.9:4000".parse().unwrap()
}

fn datagram(n: u32) -> Datagram {
    Datagram {
        local: "10.7.0.2:53".parse().unwrap(),
        peer: peer(),
        payload: Bytes::copy_from_slice(&n.to_be_bytes()),
    }
}

#[test]
fn memory_is_given_back_whichever_way_datagrams_go() {
    let socket = socket();
    let network = Arc::clone(&socket.network);
    let wakes = &mut Wakes::new();
    for n in 0..4 {
        assert!(socket.deliver(datagram(n), wakes));
        socket.try_send(b"1234", Target::To(peer())).unwrap();
    }
    assert_eq!(network.held(), 8 * (OVERHEAD + 4));
    socket.try_recv().unwrap();
    socket.try_peek().unwrap();
    socket.take_to_send(wakes).unwrap();
    assert_eq!(network.held(), 6 * (OVERHEAD + 4));
    socket.close();
    assert_eq!(network.held(), 3 * (OVERHEAD + 4));
    assert!(!socket.deliver(datagram(9), wakes));
    drop(socket);
    assert_eq!(network.held(), 0);
}

#[test]
fn whoever_waits_is_woken_by_what_it_waits_for_and_leaves_no_trace() {
    let socket = socket();
    let cx = &mut Context::from_waker(Waker::noop());
    let wakes = &mut Wakes::new();
    let waiting = |socket: &DatagramLink| {
        let inner = socket.lock();
        (inner.recv.waiters.len(), inner.send.waiters.len())
    };
    while socket.try_send(b"", Target::To(peer())).is_ok() {}
    {
        let mut both = Box::pin(socket.wait(Ready::READABLE | Ready::WRITABLE));
        let mut error = Box::pin(socket.wait(Ready::ERROR));
        assert!(both.as_mut().poll(cx).is_pending());
        assert!(both.as_mut().poll(cx).is_pending());
        assert!(error.as_mut().poll(cx).is_pending());
        assert!(socket.poll_recv(cx).is_pending());
        assert!(socket.poll_send_ready(cx).is_pending());
        assert_eq!(waiting(&socket), (3, 2));
    }
    assert_eq!(waiting(&socket), (1, 1));
    // Room is told of when half of it is free, and not before.
    let tick = socket.tick();
    for _ in 0..16 {
        assert_eq!(wakes.len(), 0);
        socket.take_to_send(wakes).unwrap();
    }
    assert_eq!((wakes.len(), waiting(&socket)), (1, (1, 0)));
    assert_eq!(socket.ready(Ready::WRITABLE), Ready::WRITABLE);
    socket.clear_ready(Ready::WRITABLE, tick);
    assert_eq!(
        socket.ready(Ready::WRITABLE),
        Ready::WRITABLE,
        "it came since"
    );
    assert!(socket.deliver(datagram(1), wakes));
    assert_eq!((wakes.len(), waiting(&socket)), (2, (0, 0)));
}

#[test]
fn a_waker_may_own_the_socket_that_it_waits_for() {
    struct Owner(Arc<DatagramLink>);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.close(); // Takes the lock of the socket.
        }
    }
    let socket = Arc::new(socket());
    let waker = Waker::from(Arc::new(Owner(Arc::clone(&socket))));
    let poll = |waker: &Waker| {
        socket
            .poll_recv(&mut Context::from_waker(waker))
            .is_pending()
    };
    assert!(poll(&waker));
    drop(waker);
    assert!(poll(Waker::noop()));
    assert!(socket.is_closed());
}

#[test]
fn datagrams_cross_threads_in_order_and_nobody_sleeps_for_ever() {
    const COUNT: u32 = 20_000;
    let socket = &socket();
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..COUNT {
                let mut sent = Err(io::ErrorKind::WouldBlock.into());
                while sent.is_err() {
                    block_on(socket.wait(Ready::WRITABLE));
                    sent = socket.try_send(&n.to_be_bytes(), Target::To(peer()));
                }
            }
        });
        // In the place of the engine: what is sent comes back.
        scope.spawn(|| {
            let mut wakes = Wakes::new();
            let mut moved = 0;
            while moved < COUNT {
                if let Some((datagram, ..)) = socket.take_to_send(&mut wakes) {
                    while !socket.deliver(datagram.clone(), &mut wakes) {
                        super::super::fire(std::mem::take(&mut wakes));
                        thread::yield_now();
                    }
                    moved += 1;
                } else {
                    thread::yield_now();
                }
                super::super::fire(std::mem::take(&mut wakes));
            }
        });
        for n in 0..COUNT {
            let mut got = Err(io::ErrorKind::WouldBlock.into());
            while got.is_err() {
                block_on(socket.wait(Ready::READABLE));
                got = socket.try_recv();
            }
            assert_eq!(got.unwrap(), datagram(n));
        }
    });
}

#[test]
fn what_was_to_be_sent_is_let_go_of_when_the_stack_ends() {
    let socket = socket();
    socket.try_send(b"1234", Target::To(peer())).unwrap();
    socket.deliver(datagram(1), &mut Wakes::new());
    socket.fail(Failure::StackClosed, &mut Wakes::new());
    assert!(!socket.has_to_send());
    assert_eq!(socket.network.held(), OVERHEAD + 4);
    socket.try_recv().unwrap();
    socket.try_recv().unwrap_err();
}

#[test]
fn what_a_path_carries_is_forgotten_with_the_peer_at_its_end() {
    let socket = socket();
    let local = socket.local_addr();
    socket.connect(peer()).unwrap();
    assert!(socket.set_path_mtu((local, peer()), 500));
    let long = [0; 1000];
    let error = socket.try_send(&long, Target::Connected).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(90));
    socket.connect("10.7.0.8:4000".parse().unwrap()).unwrap();
    socket.try_send(&long, Target::Connected).unwrap();
}

#[test]
fn the_end_of_a_flow_gives_nobody_else_the_socket_for_any_destination() {
    let network = Arc::clone(&socket().network);
    let bell = Doorbell::new();
    let marks = Marks {
        ttl: 64,
        tos: 0,
        tclass: 0,
    };
    assert!(network.take_any());
    let local = "192.0.2.1:53".parse().unwrap();
    let limits = (8192, 8192);
    DatagramLink::flow(
        Arc::clone(&bell),
        Arc::clone(&network),
        (local, peer()),
        limits,
        marks,
    )
    .close();
    assert!(!network.take_any());
    DatagramLink::any(bell, Arc::clone(&network), limits, marks).close();
    assert!(network.take_any());
}
