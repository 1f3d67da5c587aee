//! Bytes both ways at once, and the hashes of what was sent and of what came.

use blake3::{Hash, Hasher};
use synack::net::TcpStream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net as linux,
    time::Instant,
};

use crate::lab::{Ip, Lab, Setup, TUN, in_lab};

const MIB: usize = 1 << 20;

/// Sends bytes that repeat only after a long while, and closes.
pub(crate) async fn send(mut to: impl AsyncWrite + Unpin, len: usize) -> Hash {
    let mut block = vec![0; 4 * MIB + 4096];
    Hasher::new_keyed(&[7; 32]).finalize_xof().fill(&mut block);
    let mut hasher = Hasher::new();
    let (mut left, mut turn) = (len, 0);
    while left > 0 {
        // No two passes over the block are in step with each other, or with segments.
        let start = turn * 61_357 % (4 * MIB);
        let end = block.len().min(start + (60_000 + turn % 11_000).min(left));
        let chunk = &block[start..end];
        hasher.update(chunk);
        to.write_all(chunk).await.unwrap();
        (left, turn) = (left - chunk.len(), turn + 1);
    }
    to.shutdown().await.unwrap();
    hasher.finalize()
}

/// Receives until the end: how much it was, and its hash.
pub(crate) async fn receive(mut from: impl AsyncRead + Unpin) -> (usize, Hash) {
    let mut chunk = vec![0; 256 << 10];
    let (mut total, mut hasher) = (0, Hasher::new());
    loop {
        match from.read(&mut chunk).await.unwrap() {
            0 => return (total, hasher.finalize()),
            len => {
                total += len;
                hasher.update(&chunk[..len]);
            }
        }
    }
}

/// Sends `len` bytes each way at once.
pub(crate) async fn exchange(what: &str, theirs: linux::TcpStream, ours: TcpStream, len: usize) {
    let started = Instant::now();
    let (their_reader, their_writer) = theirs.into_split();
    let (our_reader, our_writer) = ours.into_split();
    let (they_sent, we_sent, they_received, we_received) = tokio::try_join!(
        tokio::spawn(send(their_writer, len)),
        tokio::spawn(send(our_writer, len)),
        tokio::spawn(receive(their_reader)),
        tokio::spawn(receive(our_reader)),
    )
    .unwrap();
    assert_eq!(we_received, (len, they_sent));
    assert_eq!(they_received, (len, we_sent));
    let took = started.elapsed().as_secs_f64();
    let rate = len as f64 * 8.0 / took / 1e9;
    eprintln!(
        "{what}: {} MiB each way, {rate:.2} Gbit/s each way, {took:.2} s",
        len / MIB
    );
}

#[test]
fn one_gibibyte_goes_each_way_at_once() {
    in_lab(Setup::default(), async |lab: &Lab| {
        let (theirs, ours) = lab.pair(Ip::V4).await;
        exchange("bulk", theirs, ours, 1024 * MIB).await;
        lab.until_gone().await;
    });
}

fn at_mtu(mtu: usize) {
    for offload in [true, false] {
        let setup = Setup {
            mtu,
            offload,
            ..Setup::default()
        };
        in_lab(setup, async |lab: &Lab| {
            for ip in Ip::BOTH {
                let what = format!("MTU {mtu}, offload {offload}, {ip:?}");
                let (theirs, ours) = lab.pair(ip).await;
                exchange(&what, theirs, ours, 24 * MIB).await;
                let (theirs, ours) = lab.pair_opened_by_us(ip).await;
                exchange(&what, theirs, ours, 24 * MIB).await;
            }
            let counters = lab.counters().await;
            assert_eq!(
                counters.drop_tcp_checksum
                    + counters.drop_malformed_ip
                    + counters.drop_malformed_tcp,
                0
            );
        });
    }
}

#[test]
fn bytes_go_both_ways_at_mtu_1280() {
    at_mtu(1280);
}

#[test]
fn bytes_go_both_ways_at_mtu_1500() {
    at_mtu(1500);
}

#[test]
fn bytes_go_both_ways_at_mtu_9000() {
    at_mtu(9000);
}

#[test]
fn bytes_go_both_ways_at_mtu_65535() {
    at_mtu(65535);
}

/// Linux's own loss recovery works on real losses when they happen behind its back.
fn at_two_percent_loss(offload: bool) {
    // Super-segments are few, and so are the losses.
    let len = if offload { 32 * MIB } else { 8 * MIB };
    let setup = Setup {
        routed: true,
        offload,
        ..Setup::default()
    };
    in_lab(setup, async |lab: &Lab| {
        lab.filter(
            "add chain inet lab forward { type filter hook forward priority 0; }
             add counter inet lab lost
             add rule inet lab forward numgen random mod 100 < 2 counter name lost drop",
        );
        for ip in Ip::BOTH {
            let (theirs, ours) = lab.pair(ip).await;
            exchange(
                &format!("2 % loss on the way, offload {offload}, {ip:?}"),
                theirs,
                ours,
                len,
            )
            .await;
        }
        assert!(lab.filtered("lost") > 10);
        let counters = lab.counters().await;
        eprintln!(
            "{} sent again, {} timeouts",
            counters.segments_retransmitted, counters.timeouts
        );
        assert!(counters.segments_retransmitted > 0);
    });
}

#[test]
fn bytes_arrive_where_linux_loses_two_percent_of_super_segments() {
    at_two_percent_loss(true);
}

#[test]
fn bytes_arrive_where_linux_loses_two_percent_of_packets() {
    at_two_percent_loss(false);
}

#[test]
fn bytes_arrive_where_linux_loses_two_percent_at_its_own_door() {
    in_lab(Setup::default(), async |lab: &Lab| {
        lab.filter(&format!(
            "add rule inet lab input iifname {TUN} numgen random mod 100 < 2 drop
             add rule inet lab output oifname {TUN} numgen random mod 100 < 2 drop"
        ));
        for ip in Ip::BOTH {
            let (theirs, ours) = lab.pair_opened_by_us(ip).await;
            exchange(
                &format!("2 % loss at the door, {ip:?}"),
                theirs,
                ours,
                8 * MIB,
            )
            .await;
        }
    });
}

#[test]
fn bytes_go_both_ways_whatever_options_linux_has_on_or_off() {
    for settings in [
        "tcp_sack=0",
        "tcp_timestamps=0",
        "tcp_window_scaling=0",
        "tcp_sack=0 net.ipv4.tcp_timestamps=0 net.ipv4.tcp_window_scaling=0",
        // Asks for it, and always sends SYN cookies.
        "tcp_ecn=1 net.ipv4.tcp_syncookies=2",
    ] {
        let mut setup = Setup::default();
        setup.config.ecn(true);
        in_lab(setup, async |lab: &Lab| {
            lab.run(&format!("sysctl -q net.ipv4.{settings}"));
            for pair in [lab.pair(Ip::V4).await, lab.pair_opened_by_us(Ip::V6).await] {
                let info = pair.1.info().await.unwrap();
                assert_eq!(info.sack, !settings.contains("sack"));
                assert_eq!(info.timestamps, !settings.contains("timestamps"));
                assert_eq!(info.rcv_shift > 0, !settings.contains("scaling"));
                if !(info.ecn || info.local.is_ipv4() || settings.contains("cookies")) {
                    eprintln!("{:?}", lab.counters().await);
                }
                // Linux grants it to those who ask by default (`tcp_ecn` is 2).
                assert!(info.ecn || info.local.is_ipv4() || settings.contains("cookies"));
                exchange(settings, pair.0, pair.1, 8 * MIB).await;
            }
        });
    }
}
