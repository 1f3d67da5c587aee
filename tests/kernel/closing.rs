//! Ends of connections: half-close, simultaneous close, refusal, reset.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use socket2::SockRef;
use synack::{info::State, net::TcpStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net as linux,
};

use crate::{
    lab::{Ip, Lab, Setup, TUN, in_lab, is_probing, kind},
    transfer::{receive, send},
};

const LEN: usize = 8 << 20;

/// Makes dropping a socket of Linux's reset its connection.
pub(crate) fn reset_on_drop(stream: &linux::TcpStream) {
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// The four-tuple as our end sees it.
fn tuple(ours: &TcpStream) -> (SocketAddr, SocketAddr) {
    (ours.local_addr().unwrap(), ours.peer_addr().unwrap())
}

#[test]
fn linux_closes_its_half_first_and_still_receives() {
    in_lab(Setup::default(), async |lab: &Lab| {
        for ip in Ip::BOTH {
            let (mut theirs, mut ours) = lab.pair(ip).await;
            theirs.write_all(b"request").await.unwrap();
            theirs.shutdown().await.unwrap();
            let mut request = String::new();
            ours.read_to_string(&mut request).await.unwrap();
            assert_eq!(request, "request");
            let (local, peer) = tuple(&ours);
            lab.until(local, peer, |socket| socket.state == State::CloseWait)
                .await;
            let (sent, received) = tokio::join!(send(&mut ours, LEN), receive(&mut theirs));
            assert_eq!(received, (LEN, sent));
            drop((theirs, ours));
            lab.until_gone().await;
        }
    });
}

#[test]
fn we_close_our_half_first_and_still_receive() {
    in_lab(Setup::default(), async |lab: &Lab| {
        for ip in Ip::BOTH {
            let (mut theirs, mut ours) = lab.pair_opened_by_us(ip).await;
            ours.write_all(b"request").await.unwrap();
            ours.shutdown().await.unwrap();
            let mut request = String::new();
            theirs.read_to_string(&mut request).await.unwrap();
            assert_eq!(request, "request");
            let (local, peer) = tuple(&ours);
            lab.until(local, peer, |socket| socket.state == State::FinWait2)
                .await;
            let (sent, received) = tokio::join!(send(&mut theirs, LEN), receive(&mut ours));
            assert_eq!(received, (LEN, sent));
            lab.until(local, peer, |socket| socket.state == State::TimeWait)
                .await;
            drop((theirs, ours));
            lab.until_gone().await;
        }
    });
}

#[test]
fn a_half_is_closed_in_the_middle_of_a_transfer_the_other_way() {
    in_lab(Setup::default(), async |lab: &Lab| {
        for we_send_less in [true, false] {
            let (theirs, ours) = lab.pair(Ip::V4).await;
            let (their_reader, their_writer) = theirs.into_split();
            let (our_reader, our_writer) = ours.into_split();
            let (our_len, their_len) = if we_send_less {
                (LEN / 8, LEN)
            } else {
                (LEN, LEN / 8)
            };
            let (they_sent, we_sent, they_received, we_received) = tokio::join!(
                send(their_writer, their_len),
                send(our_writer, our_len),
                receive(their_reader),
                receive(our_reader)
            );
            assert_eq!(we_received, (their_len, they_sent));
            assert_eq!(they_received, (our_len, we_sent));
        }
        lab.until_gone().await;
    });
}

#[test]
fn both_sides_close_at_the_same_time() {
    in_lab(Setup::default(), async |lab: &Lab| {
        for ip in Ip::BOTH {
            let (mut theirs, mut ours) = lab.pair(ip).await;
            let (local, peer) = tuple(&ours);
            // Our FIN is lost, so that Linux sends its own without having seen it.
            lab.filter(&format!(
                "add rule inet lab input iifname {TUN} tcp sport {} drop",
                local.port()
            ));
            ours.shutdown().await.unwrap();
            lab.until(local, peer, |socket| socket.state == State::FinWait1)
                .await;
            theirs.shutdown().await.unwrap();
            lab.until(local, peer, |socket| socket.state == State::Closing)
                .await;
            lab.filter_nothing();
            lab.until(local, peer, |socket| socket.state == State::TimeWait)
                .await;
            assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
            assert_eq!(ours.read(&mut [0; 1]).await.unwrap(), 0);
            lab.until_gone().await;
        }
    });
}

#[test]
fn a_closed_port_refuses_on_either_side() {
    in_lab(Setup::default(), async |lab: &Lab| {
        for ip in Ip::BOTH {
            let to_us = linux::TcpStream::connect(ip.ours(9)).await;
            assert_eq!(kind(to_us), ErrorKind::ConnectionRefused);
            let to_linux = lab.stack.connect(lab.linux_addr(ip, 9)).await;
            assert_eq!(kind(to_linux), ErrorKind::ConnectionRefused);
        }
        // A port that was open and is not any more.
        let listener = lab.listen(Ip::V4).await;
        let addr = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(
            kind(linux::TcpStream::connect(addr).await),
            ErrorKind::ConnectionRefused
        );
        assert_eq!(lab.stack.sockets().await.unwrap(), []);
    });
}

#[test]
fn a_reset_by_linux_is_seen_as_such_by_reader_and_writer() {
    in_lab(Setup::default(), async |lab: &Lab| {
        for ip in Ip::BOTH {
            let (theirs, mut ours) = lab.pair(ip).await;
            reset_on_drop(&theirs);
            let (result, ()) = tokio::join!(ours.read_u8(), async { drop(theirs) });
            assert_eq!(kind(result), ErrorKind::ConnectionReset);
            // Told once; then it is a connection that is not there any more.
            assert_eq!(ours.read(&mut [0; 1]).await.unwrap(), 0);
            assert_eq!(kind(ours.write(&[0]).await), ErrorKind::BrokenPipe);

            // One that waits for room.
            let (theirs, mut ours) = lab.pair_opened_by_us(ip).await;
            let (local, peer) = tuple(&ours);
            reset_on_drop(&theirs);
            let writer = async {
                loop {
                    if let Err(error) = ours.write(&[0; 65_536]).await {
                        return error.kind();
                    }
                }
            };
            let (error, ()) = tokio::join!(writer, async {
                lab.until(local, peer, is_probing).await;
                drop(theirs);
            });
            assert_eq!(error, ErrorKind::ConnectionReset);
        }
        lab.until_gone().await;
    });
}

#[test]
fn a_reset_by_us_is_seen_as_such_by_linux() {
    in_lab(Setup::default(), async |lab: &Lab| {
        for ip in Ip::BOTH {
            for abort in [true, false] {
                let (mut theirs, ours) = lab.pair(ip).await;
                if abort {
                    ours.abort();
                } else {
                    ours.set_zero_linger().unwrap();
                }
                drop(ours);
                assert_eq!(
                    kind(theirs.read(&mut [0; 1]).await),
                    ErrorKind::ConnectionReset
                );
            }
            // Whoever closes without having read everything has lost something.
            let (mut theirs, ours) = lab.pair(ip).await;
            theirs.write_all(b"unread").await.unwrap();
            ours.peek(&mut [0; 1]).await.unwrap();
            drop(ours);
            assert_eq!(
                kind(theirs.read(&mut [0; 1]).await),
                ErrorKind::ConnectionReset
            );
        }
        assert_eq!(lab.connections().await, []);
    });
}

#[test]
fn a_fin_rides_on_data_in_both_directions() {
    in_lab(Setup::default(), async |lab: &Lab| {
        lab.filter(
            "add counter inet lab ours
             add counter inet lab theirs
             add rule inet lab input tcp flags & fin == fin meta length > 500 counter name ours
             add rule inet lab output tcp flags & fin == fin meta length > 500 counter name theirs",
        );
        for ip in Ip::BOTH {
            let (mut theirs, mut ours) = lab.pair(ip).await;
            let mut received = Vec::new();
            SockRef::from(&theirs).set_tcp_cork(true).unwrap();
            theirs.write_all(&[1; 600]).await.unwrap();
            theirs.shutdown().await.unwrap();
            ours.read_to_end(&mut received).await.unwrap();
            assert_eq!(received, [1; 600]);
            received.clear();
            ours.set_cork(true);
            ours.write_all(&[2; 700]).await.unwrap();
            ours.shutdown().await.unwrap();
            theirs.read_to_end(&mut received).await.unwrap();
            assert_eq!(received, [2; 700]);
        }
        assert_eq!((lab.filtered("ours"), lab.filtered("theirs")), (2, 2));
        lab.until_gone().await;
    });
}
