//! Openings that cross each other.

use std::net::SocketAddr;

use synack::{info::State, net::TcpStream};
use tokio::{net as linux, task::yield_now};

use crate::{
    lab::{Ip, Lab, Setup, TUN, in_lab},
    transfer::exchange,
};

const PORT: u16 = 4000;
const LEN: usize = 1 << 20;

/// Linux connects from its port to ours.
async fn connect_to_us(ours: SocketAddr, theirs: SocketAddr) -> linux::TcpStream {
    let socket = match theirs {
        SocketAddr::V4(_) => linux::TcpSocket::new_v4().unwrap(),
        SocketAddr::V6(_) => linux::TcpSocket::new_v6().unwrap(),
    };
    socket.bind(theirs).unwrap();
    socket.connect(ours).await.unwrap()
}

/// We connect from our port to Linux's.
async fn connect_to_linux(lab: &Lab, ours: SocketAddr, theirs: SocketAddr) -> TcpStream {
    let socket = match theirs {
        SocketAddr::V4(_) => lab.stack.socket_v4(),
        SocketAddr::V6(_) => lab.stack.socket_v6(),
    };
    socket.bind(ours).unwrap();
    socket.connect(theirs).await.unwrap()
}

/// Loses all SYNs, those with ACK too, that come into or go out of Linux.
fn lose_syns(lab: &Lab, chain: &str) {
    let interface = if chain == "input" {
        "iifname"
    } else {
        "oifname"
    };
    lab.filter(&format!(
        "add counter inet lab lost
         add rule inet lab {chain} {interface} {TUN} tcp flags & syn == syn counter name lost drop"
    ));
}

async fn until_lost(lab: &Lab) {
    while lab.filtered("lost") == 0 {
        yield_now().await;
    }
}

/// Both connections were opened from both ends, and nobody was reset.
async fn assert_two_active_opens(lab: &Lab) {
    let counters = lab.counters().await;
    assert_eq!(
        (
            counters.active_opens,
            counters.passive_opens,
            counters.resets_sent
        ),
        (2, 0, 0)
    );
}

#[test]
fn linux_s_syn_crosses_ours_while_we_wait() {
    in_lab(Setup::default(), async |lab: &Lab| {
        for ip in Ip::BOTH {
            let (ours, theirs) = (ip.ours(PORT), lab.linux_addr(ip, PORT));
            lose_syns(lab, "input");
            let crossing = async {
                until_lost(lab).await;
                let connecting = tokio::spawn(connect_to_us(ours, theirs));
                lab.until(ours, theirs, |socket| socket.state == State::SynReceived)
                    .await;
                lab.filter_nothing();
                connecting.await.unwrap()
            };
            let (ours, theirs) = tokio::join!(connect_to_linux(lab, ours, theirs), crossing);
            exchange("simultaneous open", theirs, ours, LEN).await;
            lab.until_gone().await;
        }
        assert_two_active_opens(lab).await;
    });
}

#[test]
fn our_syn_crosses_linux_s_while_it_waits() {
    in_lab(Setup::default(), async |lab: &Lab| {
        for ip in Ip::BOTH {
            let (ours, theirs) = (ip.ours(PORT), lab.linux_addr(ip, PORT));
            lab.filter(&format!(
                "add counter inet lab lost
                 add rule inet lab output oifname {TUN} tcp flags & (syn | ack) == syn counter name lost drop"
            ));
            let connecting = tokio::spawn(connect_to_us(ours, theirs));
            until_lost(lab).await;
            let ours = connect_to_linux(lab, ours, theirs).await;
            let theirs = connecting.await.unwrap();
            lab.filter_nothing();
            exchange("simultaneous open", theirs, ours, LEN).await;
            lab.until_gone().await;
        }
        assert_two_active_opens(lab).await;
    });
}
