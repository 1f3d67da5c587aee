//! Connections to any destination.

use super::*;
use crate::Unreachable;

const ANYWHERE: &str = "93.184.216.34:443";

fn connect(client: &Stack) -> tokio::task::JoinHandle<io::Result<TcpStream>> {
    let client = client.clone();
    tokio::spawn(async move { client.connect(ANYWHERE).await })
}

async fn arrival(incoming: &mut IncomingStream) -> Incoming {
    timeout(Duration::from_secs(5), incoming.next())
        .await
        .expect("a SYN arrives")
        .expect("the stack lives")
}

#[tokio::test(start_paused = true)]
async fn a_connection_to_a_foreign_address_is_accepted_and_carries_bytes() {
    let (server, client) = pair();
    let mut incoming = server.incoming().unwrap();
    let connecting = connect(&client);
    let wanted = arrival(&mut incoming).await;
    assert_eq!(wanted.local_addr(), ANYWHERE.parse().unwrap());
    assert_eq!(wanted.peer_addr().ip().to_string(), "10.0.0.2");
    let mut accepted = wanted.accept().await.unwrap();
    let mut connected = connecting.await.unwrap().unwrap();
    assert_eq!(accepted.local_addr().unwrap(), ANYWHERE.parse().unwrap());
    connected.write_all(b"to anywhere").await.unwrap();
    connected.shutdown().await.unwrap();
    let mut all = String::new();
    accepted.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "to anywhere");
    accepted.write_all(b"and back").await.unwrap();
    drop(accepted);
    all.clear();
    connected.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "and back");
}

#[tokio::test(start_paused = true)]
async fn the_peer_hears_nothing_before_the_decision_and_its_repetitions_are_absorbed() {
    let (server, client) = pair();
    let mut incoming = server.incoming().unwrap();
    let connecting = connect(&client);
    let wanted = arrival(&mut incoming).await;
    // The SYN is sent again after 1, 3 and 7 seconds.
    time::sleep(Duration::from_secs(8)).await;
    assert!(!connecting.is_finished());
    assert!(
        timeout(Duration::from_millis(1), incoming.next())
            .await
            .is_err(),
        "one SYN, one decision"
    );
    let sockets = server.sockets().await.unwrap();
    assert_eq!(
        sockets
            .iter()
            .map(|socket| socket.state)
            .collect::<Vec<_>>(),
        [State::SynReceived]
    );
    drop(wanted.accept().await.unwrap());
    connecting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn rejected_with_a_reset_the_peer_is_refused() {
    let (server, client) = pair();
    let mut incoming = server.incoming().unwrap();
    let connecting = connect(&client);
    arrival(&mut incoming).await.reject();
    assert_eq!(
        connecting.await.unwrap().unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    assert!(server.sockets().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn rejected_with_icmp_the_peer_is_told_why() {
    let (server, client) = pair();
    let mut incoming = server.incoming().unwrap();
    let connecting = connect(&client);
    arrival(&mut incoming).await.reject_with(Unreachable::Port);
    assert_eq!(
        connecting.await.unwrap().unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[tokio::test(start_paused = true)]
async fn dropped_it_is_silence_and_the_next_syn_is_a_new_one() {
    let (server, client) = pair();
    let mut incoming = server.incoming().unwrap();
    let connecting = connect(&client);
    drop(arrival(&mut incoming).await);
    let again = arrival(&mut incoming).await;
    assert!(!connecting.is_finished());
    again.reject();
    assert!(connecting.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_comes_too_late_fails_and_leaves_nothing() {
    let (one, other) = device::pair(1500);
    let mut config = Config::default();
    config
        .incoming_timeout(Duration::from_secs(2))
        .incoming_max(1);
    let (server, client) = (
        builder(1).config(config).spawn(one).unwrap(),
        spawn(other, 2),
    );
    let mut incoming = server.incoming().unwrap();
    let connecting = connect(&client);
    let late = arrival(&mut incoming).await;
    // At 3 s the SYN comes again, as a new one; it must not be taken for the old.
    time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(late.accept().await.unwrap_err().kind(), ErrorKind::TimedOut);
    arrival(&mut incoming).await.reject();
    assert!(connecting.await.unwrap().is_err());
    assert!(server.sockets().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_source_cannot_take_all_places() {
    let (one, other) = device::pair(1500);
    let mut config = Config::default();
    config.incoming_per_source_max(2);
    let (server, client) = (
        builder(1).config(config).spawn(one).unwrap(),
        spawn(other, 2),
    );
    let mut incoming = server.incoming().unwrap();
    for port in 1..=3 {
        let client = client.clone();
        tokio::spawn(async move { client.connect(("1.1.1.1", port)).await });
    }
    let (first, _second) = (arrival(&mut incoming).await, arrival(&mut incoming).await);
    assert!(
        timeout(Duration::from_millis(500), incoming.next())
            .await
            .is_err()
    );
    first.reject();
    let third = arrival(&mut incoming).await;
    assert!(server.counters().await.unwrap().drop_syn >= 1);
    third.reject();
}

#[tokio::test(start_paused = true)]
async fn a_listener_of_the_stack_goes_first() {
    let (server, client) = pair();
    let _incoming = server.incoming().unwrap();
    let _both = connected(&server, &client).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_decider_further_peers_are_refused_and_connections_live_on() {
    let (server, client) = pair();
    let mut incoming = server.incoming().unwrap();
    let connecting = connect(&client);
    let mut accepted = arrival(&mut incoming).await.accept().await.unwrap();
    let mut stream = connecting.await.unwrap().unwrap();
    drop(incoming);
    assert_eq!(
        client.connect(ANYWHERE).await.unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    stream.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_resets_before_the_decision_is_forgotten() {
    let (server, client) = pair();
    let mut incoming = server.incoming().unwrap();
    let mut connecting = Box::pin(client.connect(ANYWHERE));
    let wanted = tokio::select! {
        _ = &mut connecting => panic!("connected before it was accepted"),
        wanted = arrival(&mut incoming) => wanted,
    };
    // Abandoned: the SYN-ACK meets a reset.
    drop(connecting);
    settle().await;
    let error = wanted.accept().await.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::TimedOut
        ),
        "{error}"
    );
    settle().await;
    assert!(server.sockets().await.unwrap().is_empty());
}
