//! The paths on which stacks are compared, and the table of Linux and synack on them.

use std::{io, thread, time::Duration};

use synack::{
    config::Congestion,
    device::link::{GilbertElliott, Impairment, QueueLimit},
};

use crate::wan::{self, Outcome, Run, Side};

/// A path by its name.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) forward: Impairment,
    pub(crate) backward: Impairment,
    pub(crate) outage: Option<(Duration, Duration)>,
}

const MS: Duration = Duration::from_millis(1);

/// Half of `rtt` in each direction, and a drop-tail queue of one bandwidth-delay product.
fn wire(mbit: u64, rtt: Duration) -> Impairment {
    let bdp = mbit as f64 * 1e6 / 8.0 * rtt.as_secs_f64();
    Impairment::new()
        .delay(rtt / 2)
        .rate(mbit * 1_000_000)
        .queue(QueueLimit::Bytes((bdp as usize).max(30_000)))
}

fn path(
    name: &'static str,
    wire: Impairment,
    forward: impl FnOnce(Impairment) -> Impairment,
) -> Path {
    Path {
        name,
        forward: forward(wire.clone()),
        backward: wire,
        outage: None,
    }
}

/// The grid: rates, delays, losses, and what else goes wrong.
pub(crate) fn grid() -> Vec<Path> {
    let m100 = || wire(100, 50 * MS);
    let g1 = || wire(1000, 10 * MS);
    let mut outage = path("100M 50ms, 10 s out", m100(), |p| p);
    outage.outage = Some((4 * 1000 * MS, 10 * 1000 * MS));
    vec![
        path("100M 50ms", m100(), |p| p),
        path("100M 50ms 0.1%", m100(), |p| p.loss(0.001)),
        path("100M 50ms 1%", m100(), |p| p.loss(0.01)),
        path("100M 50ms 3%", m100(), |p| p.loss(0.03)),
        path("1G 10ms", g1(), |p| p),
        path("1G 10ms 0.1%", g1(), |p| p.loss(0.001)),
        path("1G 10ms 1%", g1(), |p| p.loss(0.01)),
        path("20M 66ms, 1% late", wire(20, 66 * MS), |p| {
            p.reorder(0.01, 4 * MS)
        }),
        path("100M 50ms, 5% late", m100(), |p| p.reorder(0.05, 20 * MS)),
        path("100M 50ms, bursts", m100(), |p| {
            p.burst_loss(GilbertElliott::new(0.001, 0.3))
        }),
        path("1ms", Impairment::new().delay(MS / 2), |p| p),
        path("50M 200ms", wire(50, 200 * MS), |p| p),
        path(
            "100M 50ms q10",
            m100().queue(QueueLimit::Packets(10)),
            |p| p,
        ),
        outage,
    ]
}

const ENDS: [(Side, Side); 4] = [
    (Side::Linux, Side::Linux),
    (Side::Synack, Side::Linux),
    (Side::Linux, Side::Synack),
    (Side::Synack, Side::Synack),
];

/// Runs the four combinations of ends on one path, at once where the path is slow enough for them
/// not to be in each other's way.
fn compare(
    path: &Path,
    congestion: Congestion,
    time: Duration,
    seed: u64,
    at_once: bool,
) -> io::Result<Vec<Outcome>> {
    let time = time
        + path
            .outage
            .map_or(Duration::ZERO, |(after, lasting)| after + lasting);
    let run = |(sender, receiver)| Run {
        sender,
        receiver,
        congestion,
        forward: path.forward.clone(),
        backward: path.backward.clone(),
        time,
        outage: path.outage,
        seed,
    };
    if at_once {
        thread::scope(|scope| {
            let runs: Vec<_> = ENDS
                .into_iter()
                .map(|ends| scope.spawn(move || wan::run(&run(ends))))
                .collect();
            runs.into_iter()
                .map(|run| run.join().map_err(|_| io::Error::other("a run panicked"))?)
                .collect()
        })
    } else {
        ENDS.into_iter().map(|ends| wan::run(&run(ends))).collect()
    }
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| format!("{:.2}", time.as_secs_f64()),
    )
}

/// Prints the table; `only` picks paths by a part of their names.
pub(crate) fn table(only: &str, algorithms: &[Congestion], time: Duration) -> io::Result<()> {
    println!(
        "Linux against synack on the same link, {} s each; S is synack, L is Linux, sender first.",
        time.as_secs()
    );
    println!("Goodput in Mbit/s, MB sent again, seconds until 100 KB and 10 MB had arrived.\n");
    println!(
        "{:22}{:6} {:>8} {:>22} {:>22} {:>22} {:>7} {:>7}",
        "path", "cc", "L-L", "S-L", "L-S", "S-S", "S-L/L-L", "100K"
    );
    let mut ratios = Vec::new();
    for path in grid().iter().filter(|path| path.name.contains(only)) {
        for &congestion in algorithms {
            let slow = !path.name.starts_with("1G") && path.name != "1ms";
            let outcomes = compare(path, congestion, time, 7, slow)?;
            let base = outcomes[0];
            print!("{:22}{:6}", path.name, wan::name(congestion));
            for outcome in &outcomes {
                print!(
                    " {:>7.1} {:>5.2} {:>4} {:>5}",
                    outcome.goodput / 1e6,
                    outcome.retransmitted as f64 / 1e6,
                    seconds(outcome.small),
                    seconds(outcome.large)
                );
            }
            let ratio = outcomes[1].goodput / base.goodput.max(1.0);
            let small = outcomes[1]
                .small
                .zip(base.small)
                .map(|(s, l)| s.as_secs_f64() / l.as_secs_f64());
            println!(
                " {ratio:>7.2} {:>7}",
                small.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
            );
            ratios.push(ratio);
        }
    }
    ratios.sort_by(f64::total_cmp);
    if let (Some(least), Some(median)) = (ratios.first(), ratios.get(ratios.len() / 2)) {
        println!("\nsynack over Linux as the sender: least {least:.2}, median {median:.2}");
    }
    Ok(())
}
