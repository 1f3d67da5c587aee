//! Peers that say nothing: dead hosts, keep-alive.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use synack::{config::KeepAlive, net::TcpStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::lab::{Ip, Lab, Setup, in_lab, kind};

/// Cuts a peer of ours off, both ways.
fn cut_off(lab: &Lab, peer: SocketAddr) {
    let port = peer.port();
    lab.filter(&format!(
        "add rule inet lab input tcp dport {port} drop
         add rule inet lab output tcp sport {port} drop"
    ));
}

#[test]
fn a_client_that_vanishes_in_mid_transfer_times_out_and_disturbs_nobody() {
    let setup = Setup::config(|config| {
        config.retries(3);
    });
    in_lab(setup, async |lab: &Lab| {
        let mut witness = lab.witness().await;
        let (mut theirs, mut ours) = lab.pair(Ip::V4).await;
        let (local, peer) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
        let sender = tokio::spawn(async move {
            loop {
                if let Err(error) = ours.write_all(&[9; 50_000]).await {
                    return error.kind();
                }
            }
        });
        let mut chunk = [0; 50_000];
        for _ in 0..100 {
            theirs.read_exact(&mut chunk).await.unwrap();
        }
        cut_off(lab, peer);
        while !sender.is_finished() {
            witness.goes_on().await;
        }
        assert_eq!(sender.await.unwrap(), ErrorKind::TimedOut);
        let sockets = lab.connections().await;
        assert!(
            sockets
                .iter()
                .all(|socket| socket.local != local || socket.peer != Some(peer))
        );
        assert_eq!(lab.counters().await.timed_out, 1);
        witness.end().await;
    });
}

/// Linux answers such probes of a connection at most every 500 ms (`tcp_invalid_ratelimit`).
fn keep_alive(stream: &TcpStream) {
    let probes = KeepAlive {
        idle: Duration::from_millis(600),
        interval: Duration::from_millis(100),
        count: 2,
    };
    stream.set_keepalive(Some(probes)).unwrap();
}

#[test]
fn linux_answers_keep_alive_probes() {
    in_lab(Setup::default(), async |lab: &Lab| {
        let (mut theirs, mut ours) = lab.pair(Ip::V4).await;
        keep_alive(&ours);
        let before = ours.info().await.unwrap();
        // More than go unanswered before a connection ends.
        while ours.info().await.unwrap().segments_received < before.segments_received + 4 {
            sleep(Duration::from_millis(5)).await;
        }
        assert!(ours.info().await.unwrap().segments_sent >= before.segments_sent + 4);
        theirs.write_all(b"still here").await.unwrap();
        ours.read_exact(&mut [0; 10]).await.unwrap();
    });
}

#[test]
fn we_answer_keep_alive_probes_of_linux() {
    in_lab(Setup::default(), async |lab: &Lab| {
        let (mut theirs, mut ours) = lab.pair(Ip::V4).await;
        let second = Duration::from_secs(1);
        let probes = TcpKeepalive::new()
            .with_time(second)
            .with_interval(second)
            .with_retries(1);
        SockRef::from(&theirs).set_tcp_keepalive(&probes).unwrap();
        // More than go unanswered before Linux gives up.
        let before = ours.info().await.unwrap().segments_received;
        while ours.info().await.unwrap().segments_received < before + 3 {
            sleep(Duration::from_millis(5)).await;
        }
        theirs.write_all(b"still here").await.unwrap();
        ours.read_exact(&mut [0; 10]).await.unwrap();
    });
}

#[test]
fn keep_alive_notices_that_linux_is_gone() {
    in_lab(Setup::default(), async |lab: &Lab| {
        let witness = lab.witness().await;
        for ip in Ip::BOTH {
            let (_theirs, mut ours) = lab.pair_opened_by_us(ip).await;
            keep_alive(&ours);
            cut_off(lab, ours.peer_addr().unwrap());
            assert_eq!(kind(ours.read(&mut [0; 1]).await), ErrorKind::TimedOut);
            lab.filter_nothing();
        }
        witness.end().await;
    });
}
