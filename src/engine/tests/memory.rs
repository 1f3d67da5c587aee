//! What connections cost, and the budget that all of them share (threats F7, F9, F10, F12).

use std::time::Duration;

use super::{
    pair::{Pair, SERVER, pattern},
    script::Script,
};
use crate::{
    config::{Config, KeepAlive, SocketOptions},
    device::link::Impairment,
    engine::{ConnId, Engine, slots::Slot},
    info::{State, TcpInfo},
};

fn held(engine: &Engine) -> usize {
    engine.doorbell().budget().held()
}

/// So many connections from engine 1 to engine 0, under one budget.
fn many(count: usize, memory: usize) -> (Pair, [Vec<ConnId>; 2]) {
    let mut config = Config::default();
    config.memory(memory);
    let path = Impairment::new().delay(Duration::from_millis(5));
    let mut pair = Pair::new(config, path, 9);
    let listener = pair.engines[0]
        .listen(SERVER.parse().unwrap(), 1024)
        .unwrap();
    let now = pair.now;
    let clients = (0..count)
        .filter_map(|_| pair.engines[1].connect(SERVER.parse().unwrap(), now).ok())
        .collect();
    let mut servers = Vec::new();
    pair.run_until(Duration::from_secs(5), |pair| {
        servers.extend(std::iter::from_fn(|| pair.engines[0].accept(listener)).map(|(id, _)| id));
        servers.len() == count
    });
    (pair, [servers, clients])
}

#[test]
fn f12_fifty_greedy_connections_stay_within_the_budget_and_all_make_progress() {
    const MEMORY: usize = 1 << 20;
    const ENOUGH: usize = 30_000;
    let (mut pair, ids) = many(50, MEMORY);
    assert_eq!(ids[0].len(), 50);
    let mut written = [[0; 50]; 2];
    let mut read = [[0; 50]; 2];
    let mut most = 0;
    let mut turn = |pair: &mut Pair, reading: bool| {
        let now = pair.now;
        for side in 0..2 {
            for (n, id) in ids[side].iter().enumerate() {
                let data = pattern(written[side][n], 4 << 10);
                if let Ok(more) = pair.engines[side].write(*id, &data, now) {
                    written[side][n] += more;
                }
                let mut buf = [0; 4096];
                while reading && let Ok(more) = pair.engines[side].read(*id, &mut buf, now) {
                    assert_eq!(buf[..more], pattern(read[side][n], more));
                    read[side][n] += more;
                }
            }
            let held = held(&pair.engines[side]);
            most = most.max(held);
            assert!(held <= MEMORY, "{held} bytes");
        }
        pair.settle();
        read.iter().flatten().all(|read| *read >= ENOUGH)
    };
    let mut done = false;
    // Nobody reads at first.
    for round in 0..1000 {
        pair.run_for(Duration::from_millis(20));
        done = turn(&mut pair, round >= 100);
        if done {
            break;
        }
    }
    assert!(done, "{read:?}");
    assert!(most > MEMORY / 2, "the budget was not put to use: {most}");
    for (side, ids) in ids.iter().enumerate() {
        let now = pair.now;
        for id in ids {
            pair.engines[side].abort(*id, now);
            pair.engines[side].close(*id, now);
        }
        pair.settle();
        assert_eq!(held(&pair.engines[side]), 0);
    }
}

#[test]
fn f12_what_would_pass_the_budget_is_not_opened_and_what_is_open_lives() {
    let (mut pair, ids) = many(250, 1 << 20);
    let open = ids[0].len();
    assert!((170..=180).contains(&open), "{open} connections");
    assert!(ids[1].len() <= 180, "{} were opened", ids[1].len());
    assert!(
        ids[0]
            .iter()
            .all(|id| pair.engines[0].state(*id) == Some(State::Established))
    );
    // Room for one is room for one more.
    let now = pair.now;
    for (side, ids) in ids.iter().enumerate() {
        pair.engines[side].abort(ids[0], now);
        pair.engines[side].close(ids[0], now);
    }
    pair.run_for(Duration::from_secs(1));
    assert!(
        pair.engines[1]
            .connect(SERVER.parse().unwrap(), pair.now)
            .is_ok()
    );
}

#[test]
fn f10_a_reader_that_sleeps_holds_no_more_than_four_times_its_buffer() {
    let mut config = Config::default();
    config.recv_buffer(8 << 10).recv_buffer_max(8 << 10);
    let mut s = Script::accepted(config);
    let mut next = 1;
    while s.info().rcv_wnd > 0 && next < 12_000 {
        s.recv(&format!(". {next}:{}(1) ack 1 win 65535", next + 1));
        next += 1;
    }
    assert!(next < 10_000, "{next} bytes were taken");
    assert!(held(&s.engine) <= 4 * (8 << 10), "{}", held(&s.engine));
}

#[test]
fn f9_islands_of_a_byte_are_bounded_in_number_and_memory() {
    let mut s = Script::accepted(Config::default());
    for n in 0..3000_u32 {
        let at = 3 + 20 * n;
        s.recv(&format!(". {at}:{}(1) ack 1 win 65535", at + 1));
    }
    assert!(held(&s.engine) <= 256 << 10, "{}", held(&s.engine));
    assert!(s.info().out_of_order <= 256);
    s.recv(". 1:1001(1000) ack 1 win 65535");
    s.recv(". 1001:2001(1000) ack 1 win 65535");
    assert_eq!(s.read().unwrap(), pattern(0, 2000));
}

#[test]
fn when_memory_is_scarce_data_out_of_order_gives_way_to_data_in_order() {
    let mut config = Config::default();
    config
        .memory(1 << 20)
        .recv_buffer(1 << 20)
        .recv_buffer_max(1 << 20);
    let mut s = Script::accepted(config);
    // A writer takes all that it is given.
    s.recv(". 1:1(0) ack 1 win 0");
    s.set(|options| options.send_buffer = Some(1 << 20));
    while s.engine.write(s.id(), &[0; 10_000], s.now).is_ok() {}
    let mut at = 2001;
    while at < 60_000 {
        s.recv(&format!(". {at}:{}(1000) ack 1 win 0", at + 1000));
        at += 1000;
    }
    assert!(held(&s.engine) <= 1 << 20);
    s.recv(". 1:1001(1000) ack 1 win 0");
    assert!(s.info().received >= 1000);
}

#[test]
fn a_connection_that_was_made_small_is_the_same_when_something_happens() {
    let mut config = Config::default();
    let keepalive = KeepAlive {
        idle: Duration::from_secs(100),
        ..KeepAlive::default()
    };
    config.options(SocketOptions {
        keepalive: Some(keepalive),
        ..SocketOptions::default()
    });
    let mut s = Script::accepted_with(
        config,
        "mss 1000,sackOK,TS val 100 ecr 0,nop,wscale 7",
        60_000,
    );
    s.write(0, 5000);
    s.drain();
    s.wait_ms(30);
    s.recv("P. 1:1001(1000) ack 5001 win 500 <TS val 130 ecr 0>");
    s.read().unwrap();
    s.shutdown();
    s.recv(". 1001:1001(0) ack 5002 win 501 <TS val 131 ecr 0>");
    s.wait_ms(1000);
    s.drain();
    let before = TcpInfo {
        delivery_rate: None,
        ..s.info()
    };
    assert_eq!(before.state, State::FinWait2);
    let now = s.engine.at(s.now);
    s.engine.slots.park_all(now);
    let index = s.engine.slots.resolve(s.id()).unwrap();
    assert!(matches!(
        s.engine.slots.get(index).unwrap().slot,
        Slot::Idle(_)
    ));
    assert_eq!(s.info(), before);
    s.recv("P. 1001:1011(10) ack 5002 win 501 <TS val 132 ecr 0>");
    s.wait_ms(40);
    s.sent(". 5002:5002(0) ack 1011 <TS val 1030 ecr 132>");
    assert_eq!(s.read().unwrap(), pattern(1000, 10));
    s.wait_ms(1000);
    let now = s.engine.at(s.now);
    s.engine.slots.park_all(now);
    s.wait(Duration::from_secs(98));
    s.silence();
    s.wait(Duration::from_secs(1));
    s.sent(". 5001:5001(0) ack 1011");
    s.recv("F. 1011:1011(0) ack 5002 win 501 <TS val 133 ecr 0>");
    s.sent(". 5002:5002(0) ack 1012");
}

#[test]
fn what_is_held_out_of_order_makes_room_for_what_is_in_order_and_not_read() {
    let mut s = Script::accepted(Config::default());
    s.recv(". 1:2001(2000) ack 1 win 65535");
    for at in (3001..50_000).step_by(1000) {
        s.recv(&format!(". {at}:{}(1000) ack 1 win 65535", at + 1000));
    }
    // There is no more memory than is in use, and a connection's own is full.
    let held = held(&s.engine);
    s.engine.doorbell().budget().set_limit(held);
    s.recv(". 2001:3001(1000) ack 1 win 65535");
    assert!(s.info().received >= 3000, "{}", s.info().received);
    assert_eq!(s.counters().drop_memory, 0);
}
