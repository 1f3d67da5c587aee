//! A path whose MTU is less than that of both ends' links, and changes.

use synack::net::TcpStream;
use tokio::net as linux;

use crate::{
    lab::{Ip, Lab, Setup, TUN, in_lab},
    transfer::exchange,
};

const LEN: usize = 4 << 20;

/// Sets the MTU of the way to Linux, and of the way back.
fn set_path_mtu(lab: &Lab, mtu: u16) {
    for (destination, device) in [
        ("10.8.0.0/24", "near"),
        ("10.7.0.0/24", TUN),
        // The metric is that of the route to be replaced.
        ("fd08::/64 metric 256", "near"),
        ("fd07::/64 metric 256", TUN),
    ] {
        lab.run(&format!(
            "ip route replace {destination} dev {device} mtu lock {mtu}"
        ));
    }
}

async fn path_mtu(ours: &TcpStream) -> u32 {
    ours.info().await.unwrap().path_mtu
}

async fn pair(lab: &Lab, ip: Ip) -> (linux::TcpStream, TcpStream) {
    let (theirs, ours) = lab.pair(ip).await;
    assert_eq!(path_mtu(&ours).await, 9000);
    (theirs, ours)
}

fn path_mtu_is_discovered(offload: bool) {
    let setup = Setup {
        mtu: 9000,
        routed: true,
        offload,
        ..Setup::default()
    };
    in_lab(setup, async |lab: &Lab| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for ip in Ip::BOTH {
            set_path_mtu(lab, 9000);
            let (mut theirs, mut ours) = pair(lab, ip).await;
            // Full-sized packets fit.
            ours.write_all(&[1; 100_000]).await.unwrap();
            theirs.read_exact(&mut [0; 100_000]).await.unwrap();
            assert_eq!(path_mtu(&ours).await, 9000);
            for mtu in [4000, 1400] {
                set_path_mtu(lab, mtu);
                ours.write_all(&[2; 100_000]).await.unwrap();
                theirs.read_exact(&mut [0; 100_000]).await.unwrap();
                assert_eq!(path_mtu(&ours).await, mtu.into());
            }
            exchange(
                &format!("path MTU 1400 of 9000, offload {offload}, {ip:?}"),
                theirs,
                ours,
                LEN,
            )
            .await;
        }
        assert!(lab.counters().await.icmp_errors >= 4);
    });
}

#[test]
fn a_path_mtu_that_shrinks_is_discovered() {
    path_mtu_is_discovered(false);
}

#[test]
fn a_path_mtu_that_shrinks_is_discovered_with_super_segments() {
    path_mtu_is_discovered(true);
}
