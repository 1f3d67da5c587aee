//! Linux and synack on bad paths.
//!
//! `cargo bench --bench path -- [cubic|reno|bbr|fair|PART OF A PATH'S NAME|NUMBER OF RUNS]…`; about
//! three quarters of an hour for all of it.
#![expect(
    unsafe_code,
    reason = "socket options that the standard library does not know"
)]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "support/estimate.rs"]
mod estimate;
#[path = "support/paths.rs"]
mod paths;
#[path = "support/wan.rs"]
mod wan;

use synack::{config::Congestion, device::netns};

fn main() -> std::io::Result<()> {
    let mut selection = paths::Selection {
        paths: Vec::new(),
        algorithms: Vec::new(),
        runs: None,
    };
    for arg in std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
    {
        match arg.as_str() {
            "cubic" => selection.algorithms.push(Congestion::Cubic),
            "reno" => selection.algorithms.push(Congestion::Reno),
            "bbr" => selection.algorithms.push(Congestion::Bbr),
            other => match other.parse() {
                Ok(runs) => selection.runs = Some(runs),
                Err(_) => selection.paths.push(arg),
            },
        }
    }
    if selection.algorithms.is_empty() {
        selection.algorithms = vec![Congestion::Cubic, Congestion::Reno, Congestion::Bbr];
    }
    netns::enter_private_namespace()?;
    paths::table(&selection)
}
