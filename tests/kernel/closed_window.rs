//! Readers that stop for a minute. Tests run in the order of their names, and this one waits more than
//! it works: it begins first, and the others run beside it.

use std::time::Duration;

use tokio::{io::AsyncReadExt, time::sleep};

use crate::{
    lab::{Ip, Lab, Setup, in_lab, is_probing},
    transfer::{receive, send},
};

/// More than all buffers hold.
const LEN: usize = 24 << 20;

/// How long a reader stops.
const MINUTE: Duration = Duration::from_secs(60);

/// Probes begin after 200 ms or a little more and are twice as far apart each time: 6 or 7 in this
/// time and one or two in the rest of the minute. Were the time between them constant, there would be
/// hundreds.
const FIRST: Duration = Duration::from_secs(25);

fn backed_off(first: u64, rest: u64) {
    println!("{first} probes in 25 s, {rest} in the rest of the minute");
    assert!((4..=8).contains(&first), "{first} probes in 25 s");
    assert!((1..=2).contains(&rest), "{rest} probes in 35 s");
}

/// Our reader stops for a minute while Linux sends.
async fn our_window_closes(lab: &Lab, ip: Ip) {
    let (theirs, mut ours) = lab.pair(ip).await;
    let sender = tokio::spawn(send(theirs, LEN));
    while ours.info().await.unwrap().rcv_wnd > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let start = ours.info().await.unwrap();
    sleep(FIRST).await;
    let middle = ours.info().await.unwrap();
    sleep(MINUTE - FIRST).await;
    let end = ours.info().await.unwrap();
    assert_eq!((end.rcv_wnd, end.received), (0, start.received));
    let probes = [&start, &middle, &end].map(|info| info.segments_received);
    backed_off(probes[1] - probes[0], probes[2] - probes[1]);
    // Each was answered, but for those in the first second: two of them share an answer, as on Linux
    // (`tcp_invalid_ratelimit`).
    assert!(end.segments_sent - start.segments_sent + 2 >= probes[2] - probes[0]);
    assert_eq!(receive(&mut ours).await, (LEN, sender.await.unwrap()));
}

/// Linux's reader stops for a minute while we send.
async fn linux_s_window_closes(lab: &Lab, ip: Ip) {
    let (mut theirs, ours) = lab.pair(ip).await;
    let (local, peer) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
    let (mut reader, writer) = ours.into_split();
    let sender = tokio::spawn(send(writer, LEN));
    // A window too small to be used is closed by the probe that fits.
    while reader.as_ref().info().await.unwrap().snd_wnd > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    lab.until(local, peer, is_probing).await;
    let start = reader.as_ref().info().await.unwrap();
    sleep(FIRST).await;
    let middle = reader.as_ref().info().await.unwrap();
    sleep(MINUTE - FIRST).await;
    let end = reader.as_ref().info().await.unwrap();
    assert_eq!((end.snd_wnd, end.acked), (0, start.acked));
    let probes = [&start, &middle, &end].map(|info| info.segments_sent);
    backed_off(probes[1] - probes[0], probes[2] - probes[1]);
    lab.until(local, peer, is_probing).await;
    assert_eq!(
        receive(&mut theirs).await,
        (LEN, sender.await.unwrap()),
        "over {ip:?}"
    );
    drop(theirs);
    assert_eq!(reader.read(&mut [0; 1]).await.unwrap(), 0);
}

#[test]
fn windows_stay_closed_for_a_minute_both_ways_and_open_again() {
    in_lab(Setup::default(), async |lab: &Lab| {
        tokio::join!(
            our_window_closes(lab, Ip::V4),
            our_window_closes(lab, Ip::V6),
            linux_s_window_closes(lab, Ip::V4),
            linux_s_window_closes(lab, Ip::V6),
        );
    });
}
