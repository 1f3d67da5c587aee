//! Linux and synack on bad paths.
//!
//! `cargo bench --bench path -- [PART OF A PATH'S NAME] [SECONDS PER RUN]`
#![expect(
    unsafe_code,
    reason = "socket options that the standard library does not know"
)]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "support/paths.rs"]
mod paths;
#[path = "support/wan.rs"]
mod wan;

use std::time::Duration;
use synack::{config::Congestion, device::netns};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let only = args.next().unwrap_or_default();
    let time = args.next().and_then(|t| t.parse().ok()).unwrap_or(6);
    netns::enter_private_namespace()?;
    paths::table(&only, &[Congestion::Cubic], Duration::from_secs(time))
}
