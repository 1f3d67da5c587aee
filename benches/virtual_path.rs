//! Bad paths, in virtual time: how much goes over them, what is sent again, how long short transfers
//! take. `cargo bench --bench virtual_path [-- NAME…]`; the same figures in every run.

#[path = "support/sim.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod sim;

use sim::{Cell, Outcome, transfer};
use synack::config::Congestion;

const ALGORITHMS: [Congestion; 3] = [Congestion::Cubic, Congestion::Reno, Congestion::Bbr];

/// The middle one of three runs.
fn median(mut runs: [Outcome; 3], by: impl Fn(&Outcome) -> f64) -> Outcome {
    runs.sort_by(|a, b| by(a).total_cmp(&by(b)));
    runs[1]
}

fn seconds(outcome: Outcome) -> f64 {
    outcome.took.as_secs_f64()
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    println!(
        "{:<30} {:<6} {:>9} {:>8} {:>8} {:>5} {:>5} {:>9} {:>9}",
        "path", "", "Mbit/s", "lost %", "again %", "RTOs", "undo", "100 KB s", "10 MB s"
    );
    for cell in Cell::all() {
        for congestion in ALGORITHMS {
            let label = format!("{congestion:?}").to_lowercase();
            let row = format!("{} {label}", cell.name);
            if !wanted.iter().all(|word| row.contains(word.as_str())) {
                continue;
            }
            let runs = |bytes| [1, 2, 3].map(|seed| transfer(&cell, congestion, bytes, seed));
            let bulk = median(runs(u64::MAX), Outcome::megabits);
            // Short transfers do not meet an outage that comes later.
            let short = median(runs(100_000), |run| seconds(*run));
            let middle = median(runs(10_000_000), |run| seconds(*run));
            let sent = (bulk.bytes + bulk.retransmitted) as f64 / 100.0;
            println!(
                "{:<30} {:<6} {:>9.1} {:>8.3} {:>8.3} {:>5} {:>5} {:>9.3} {:>9.3}",
                cell.name,
                label,
                bulk.megabits(),
                bulk.lost as f64 * 1448.0 / sent,
                bulk.retransmitted as f64 / sent,
                bulk.timeouts,
                bulk.undone,
                seconds(short),
                seconds(middle),
            );
        }
    }
}
