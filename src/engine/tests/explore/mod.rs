//! Every order in which packets can arrive, get lost or come twice, applications can call and
//! timers can fire, within bounds, between two real engines: open, a few bytes, close.
//!
//! In every state: no panic, no byte that was not sent, none twice, none out of order, no end before
//! all bytes. From every state on, if the path is good from then on: no deadlock and no livelock,
//! both sides end CLOSED (some through TIME-WAIT), all bytes arrive or the sides are told, and no
//! record is left.

mod search;
mod side;
mod table;

use std::{iter, panic::resume_unwind, sync::Mutex, thread, time::Instant};

use search::{Bounds, Scenario, explore};
use side::{
    Call::{self, *},
    Plan,
};

use crate::config::{Config, KeepAlive, SocketOptions};

/// States that one exploration may have; `EXPLORE_STATES` sets another number, for a longer run, and
/// `EXPLORE_BOUNDS=1,1,1` other bounds.
const STATES_MAX: usize = 220_000;

const fn script(groups: &'static [&'static [Call]]) -> Plan {
    Plan {
        groups,
        eager: true,
    }
}

static CLIENT_ENDS: Plan = script(&[&[Connect], &[Write], &[Write], &[Shutdown], &[CloseAtEnd]]);
static SERVER_FOLLOWS: Plan = script(&[&[Listen], &[Accept], &[Write], &[CloseAtEnd]]);
static SERVER_ENDS: Plan = script(&[
    &[Listen],
    &[Accept],
    &[Write],
    &[Write],
    &[Shutdown],
    &[CloseAtEnd],
]);
static CLIENT_FOLLOWS: Plan = script(&[&[Connect], &[Write], &[CloseAtEnd]]);
static CLIENT_HALF_CLOSES: Plan = script(&[&[Connect], &[Shutdown], &[CloseAtEnd]]);
static SERVER_WRITES_ON: Plan = script(&[&[Listen], &[Accept], &[Write], &[Write], &[CloseAtEnd]]);
static CLIENT_WRITES_AND_ENDS: Plan = script(&[&[Connect], &[Write], &[Shutdown], &[CloseAtEnd]]);
static SERVER_ONLY_ENDS: Plan = script(&[&[Listen], &[Accept], &[Shutdown], &[CloseAtEnd]]);
static CONNECTS_AND_ENDS: Plan = script(&[&[Connect], &[Shutdown], &[CloseAtEnd]]);
static CLIENT_ABORTS: Plan = script(&[&[Connect], &[Write, Abort], &[Close]]);
static SERVER_ABORTS: Plan = script(&[&[Listen], &[Accept], &[Write, Abort], &[Close]]);
static CLIENT_LEAVES: Plan = Plan {
    groups: &[&[Connect], &[Write], &[Close]],
    eager: false,
};
static SERVER_LEAVES: Plan = Plan {
    groups: &[&[Listen], &[Accept], &[Write], &[Close]],
    eager: false,
};
static CLIENT_DOES_ANYTHING: Plan = Plan {
    groups: &[&[Connect], &[Write, Shutdown, Close, Abort]],
    eager: false,
};
static SERVER_DOES_ANYTHING: Plan = Plan {
    groups: &[&[Listen], &[Accept], &[Shutdown, Close, Abort]],
    eager: false,
};

/// Every order, and nothing lost.
const NOTHING: Bounds = [0, 0, 0];
/// Any one packet is lost.
const LOSS: Bounds = [1, 0, 0];
/// Any two packets are lost, or three.
const TWO_LOSSES: Bounds = [2, 0, 0];
const THREE_LOSSES: Bounds = [3, 0, 0];
/// Any one packet is lost, and any other comes twice.
const LOSS_AND_COPY: Bounds = [1, 1, 0];
/// Any one packet comes twice, however late.
const COPY: Bounds = [0, 1, 0];
/// One timer fires although something else could have happened.
const TIMEOUT: Bounds = [0, 0, 1];

const LISTENING: &[(u8, Call)] = &[(0, Listen)];

static SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "anything in any order",
        plans: [&SERVER_DOES_ANYTHING, &CLIENT_DOES_ANYTHING],
        before: LISTENING,
        bounds: &[NOTHING],
        orderly: false,
    },
    Scenario {
        name: "the client closes first",
        plans: [&SERVER_FOLLOWS, &CLIENT_ENDS],
        before: LISTENING,
        bounds: &[LOSS],
        orderly: true,
    },
    Scenario {
        name: "the server closes first",
        plans: [&SERVER_ENDS, &CLIENT_FOLLOWS],
        before: LISTENING,
        bounds: &[TWO_LOSSES],
        orderly: true,
    },
    Scenario {
        name: "both close at once",
        plans: [&SERVER_ONLY_ENDS, &CLIENT_WRITES_AND_ENDS],
        before: LISTENING,
        bounds: &[THREE_LOSSES, LOSS_AND_COPY, TIMEOUT],
        orderly: true,
    },
    Scenario {
        name: "half-close",
        plans: [&SERVER_WRITES_ON, &CLIENT_HALF_CLOSES],
        before: LISTENING,
        bounds: &[THREE_LOSSES, COPY, TIMEOUT],
        orderly: true,
    },
    Scenario {
        name: "both connect",
        plans: [&CLIENT_WRITES_AND_ENDS, &CONNECTS_AND_ENDS],
        before: &[(0, Connect), (1, Connect)],
        bounds: &[TWO_LOSSES],
        orderly: true,
    },
    Scenario {
        name: "the client aborts",
        plans: [&SERVER_FOLLOWS, &CLIENT_ABORTS],
        before: LISTENING,
        bounds: &[THREE_LOSSES, LOSS_AND_COPY, TIMEOUT],
        orderly: false,
    },
    Scenario {
        name: "the server aborts",
        plans: [&SERVER_ABORTS, &CLIENT_FOLLOWS],
        before: LISTENING,
        bounds: &[THREE_LOSSES, LOSS_AND_COPY, TIMEOUT],
        orderly: false,
    },
    Scenario {
        name: "both leave without reading",
        plans: [&SERVER_LEAVES, &CLIENT_LEAVES],
        before: LISTENING,
        bounds: &[LOSS],
        orderly: false,
    },
    Scenario {
        name: "both connect, perhaps too early or too late",
        plans: [&CONNECTS_AND_ENDS, &CONNECTS_AND_ENDS],
        before: &[],
        bounds: &[NOTHING],
        orderly: false,
    },
];

#[expect(
    clippy::disallowed_methods,
    reason = "measures itself, and virtual time starts somewhere"
)]
fn run(scenario: &Scenario) -> usize {
    let limit = std::env::var("EXPLORE_STATES")
        .ok()
        .and_then(|states| states.parse().ok());
    let mut config = Config::default();
    // With timestamps no two packets would be equal, and no two states either.
    config.timestamps(false);
    if !scenario.orderly {
        // When a reset is lost nothing but keep-alive tells.
        let keepalive = Some(KeepAlive::default());
        config.options(SocketOptions {
            keepalive,
            ..SocketOptions::default()
        });
    }
    let bounds = std::env::var("EXPLORE_BOUNDS").ok().map(|text| {
        let numbers: Vec<u8> = text
            .split(',')
            .map(|number| number.parse().expect("three numbers"))
            .collect();
        [Bounds::try_from(numbers).expect("three numbers")]
    });
    let mut states = 0;
    for bounds in bounds.as_ref().map_or(scenario.bounds, |bounds| bounds) {
        let start = Instant::now();
        let found = explore(
            scenario,
            *bounds,
            &config,
            limit.unwrap_or(STATES_MAX),
            start,
        );
        println!(
            "{:>8} states, {:>8} transitions, {:>5} + {:>5} of the sides, {:>4} ends, {:>5.1} s: {}, {bounds:?}{}",
            found.states,
            found.transitions,
            found.sides[0],
            found.sides[1],
            found.ends,
            start.elapsed().as_secs_f64(),
            scenario.name,
            if found.cut { ", cut off" } else { "" }
        );
        states += found.states;
    }
    states
}

#[test]
fn every_order_of_events_ends_well() {
    let next = Mutex::new(SCENARIOS.iter());
    let take = || next.lock().expect("nobody panics while taking").next();
    let work = || iter::from_fn(take).map(run).sum::<usize>();
    let states: usize = thread::scope(|scope| {
        let other = scope.spawn(work);
        work() + other.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    println!("{states} distinct states");
    assert!(
        states >= 1_000_000
            || std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("EXPLORE_")),
        "only {states} states"
    );
}
