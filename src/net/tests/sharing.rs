//! Who may bind to a port that others use, as on Linux.

use std::{net::SocketAddr, time::Duration};

use super::{SERVER, builder, pair, settle, spawn};
use crate::{
    device,
    net::{Stack, TcpSocket},
};

/// `SO_REUSEADDR` and `SO_REUSEPORT`.
const REUSES: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

fn reusing(stack: &Stack, (addr, port): (bool, bool)) -> TcpSocket {
    let socket = stack.socket_v4();
    socket.set_reuseaddr(addr).unwrap();
    socket.set_reuseport(port).unwrap();
    socket
}

/// Binds to what is written, and gives it back at once.
fn binds(stack: &Stack, reuse: (bool, bool), addr: SocketAddr) -> bool {
    reusing(stack, reuse).bind(addr).is_ok()
}

#[tokio::test(start_paused = true)]
async fn who_is_bound_may_still_agree_to_share_or_refuse() {
    let (server, _client) = pair();
    for late in REUSES {
        let first = server.socket_v4();
        first.bind(SERVER.parse().unwrap()).unwrap();
        first.set_reuseaddr(late.0).unwrap();
        first.set_reuseport(late.1).unwrap();
        for second in REUSES {
            let shared = late.0 && second.0 || late.1 && second.1;
            let bound = binds(&server, second, SERVER.parse().unwrap());
            assert_eq!(bound, shared, "{late:?} {second:?}");
        }
        first.set_reuseaddr(false).unwrap();
        assert!(!binds(&server, (true, false), SERVER.parse().unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_port_of_a_connection_is_shared_if_its_listener_agreed_to_the_same() {
    for first in REUSES {
        for second in REUSES {
            for is_over in [false, true] {
                let (server, client) = pair();
                let socket = reusing(&server, first);
                socket.bind(SERVER.parse().unwrap()).unwrap();
                let listener = socket.listen(4).unwrap();
                let (a, b) = tokio::join!(listener.accept(), client.connect(SERVER));
                drop(listener);
                let open = (!is_over).then(|| (a.unwrap().0, b.unwrap()));
                settle().await;
                let shared = first.0 && second.0 || first.1 && second.1;
                let bound = binds(&server, second, SERVER.parse().unwrap());
                assert_eq!(bound, shared, "{first:?} {second:?} {is_over}");
                drop(open);
                // TIME-WAIT does not last.
                tokio::time::sleep(Duration::from_secs(200)).await;
                assert!(binds(&server, second, SERVER.parse().unwrap()));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_connections_of_several_addresses_share_is_free_on_another() {
    let (one, other) = device::pair(1500);
    let server = builder(1).address("10.0.0.8/24".parse().unwrap());
    let server = server.address("10.0.0.9/24".parse().unwrap());
    let server = server.spawn(one).unwrap();
    let client = spawn(other, 2);
    let listener = reusing(&server, (false, false));
    listener.bind("0.0.0.0:80".parse().unwrap()).unwrap();
    let listener = listener.listen(4).unwrap();
    let (a, b) = tokio::join!(client.connect("10.0.0.1:80"), client.connect("10.0.0.8:80"));
    let open = (
        a.unwrap(),
        b.unwrap(),
        listener.accept().await,
        listener.accept().await,
    );
    drop(listener);
    settle().await;
    for reuse in REUSES {
        for (ip, free) in [
            ("10.0.0.9", true),
            ("10.0.0.8", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
        ] {
            let addr = SocketAddr::new(ip.parse().unwrap(), 80);
            assert_eq!(binds(&server, reuse, addr), free, "{reuse:?} {ip}");
        }
    }
    // Who only connects hinders no listener (RFC 9293 MUST-42).
    let own = open.0.local_addr().unwrap();
    for reuse in REUSES {
        assert_eq!(binds(&client, reuse, own), reuse.0, "{reuse:?}");
    }
}
