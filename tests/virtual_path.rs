//! A few figures of `benches/virtual_path.rs`, in virtual time and so the same everywhere. A change of them
//! has to be explained by the commit that brings it.

#[path = "../benches/support/sim.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod sim;

use sim::{Cell, transfer};
use synack::config::Congestion;

const ALGORITHMS: [Congestion; 3] = [Congestion::Cubic, Congestion::Reno, Congestion::Bbr];

fn cell(name: &str) -> Cell {
    let cells = Cell::all();
    cells
        .into_iter()
        .find(|cell| cell.name == name)
        .expect("a path of this name")
}

#[test]
fn transfers_over_bad_paths_take_as_long_and_send_again_as_much_as_they_did() {
    let mut figures = String::new();
    for name in [
        "100M 50ms",
        "100M 50ms loss 1%",
        "100M 50ms queue of 10",
        "100M 50ms reorder 5% by 20ms",
        "100M 50ms bursts of loss",
    ] {
        for congestion in ALGORITHMS {
            let short = transfer(&cell(name), congestion, 100_000, 1);
            let long = transfer(&cell(name), congestion, 1_000_000, 1);
            figures += &format!(
                "{name}, {congestion:?}: {} ms, {} ms, {} of {} again\n",
                short.took.as_millis(),
                long.took.as_millis(),
                long.retransmitted.div_ceil(1448),
                long.lost,
            );
        }
    }
    assert_eq!(
        figures,
        include_str!("virtual_path.txt"),
        "now it is\n{figures}"
    );
}

#[test]
fn the_same_seed_gives_the_same_transfer() {
    let lossy = cell("100M 50ms loss 1%");
    for congestion in ALGORITHMS {
        let once = transfer(&lossy, congestion, 500_000, 7);
        assert_eq!(once, transfer(&lossy, congestion, 500_000, 7));
        assert_ne!(once.took, transfer(&lossy, congestion, 500_000, 8).took);
    }
}

#[test]
fn what_is_lost_is_sent_again_and_nothing_else() {
    for name in ["100M 50ms loss 1%", "100M 50ms bursts of loss"] {
        for congestion in ALGORITHMS {
            let run = transfer(&cell(name), congestion, 2_000_000, 3);
            let again = run.retransmitted.div_ceil(1448);
            assert!(
                run.lost > 0 && again <= run.lost + 2,
                "{name}, {congestion:?}: {run:?}"
            );
        }
    }
}

#[test]
fn a_queue_that_overflows_leaves_more_islands_than_hundreds_and_none_is_given_up() {
    for (name, bytes) in [("100M 50ms", 6_000_000), ("50M 200ms", 8_000_000)] {
        let run = transfer(&cell(name), Congestion::Reno, bytes, 5);
        let again = run.retransmitted.div_ceil(1448);
        assert!(run.lost > 400 && run.timeouts == 0, "{name}: {run:?}");
        assert!(again <= run.lost + run.lost / 4, "{name}: {run:?}");
    }
}

#[test]
fn slow_start_ends_before_the_queue_overflows_where_segments_are_late() {
    let late = cell("100M 50ms reorder 5% by 20ms");
    // Some that have nothing special, and those of eight hundred that overflowed it before the trains
    // of a round counted together.
    for seed in (1..=10).chain([89, 94, 1118]) {
        for congestion in [Congestion::Cubic, Congestion::Reno] {
            let outcome = transfer(&late, congestion, 3_000_000, seed);
            assert_eq!(outcome.lost, 0, "{congestion:?}, {seed}");
        }
    }
}

#[test]
fn bbr_does_not_take_every_loss_for_congestion() {
    let mut lossy = cell("100M 50ms loss 1%");
    lossy.time = std::time::Duration::from_secs(4);
    let [cubic, bbr] = [Congestion::Cubic, Congestion::Bbr]
        .map(|congestion| transfer(&lossy, congestion, u64::MAX, 1).megabits());
    assert!(bbr > 60.0 && bbr > 5.0 * cubic, "{bbr} and {cubic}");
}

#[test]
fn an_algorithm_of_ones_own_decides_what_is_in_flight() {
    use std::time::Duration;
    use synack::{
        Time,
        congestion::{Ack, Cause, CongestionControl},
    };

    #[derive(Debug)]
    struct Fixed(u32);

    impl CongestionControl for Fixed {
        fn name(&self) -> &'static str {
            "fixed"
        }
        fn window(&self) -> u32 {
            4 * self.0
        }
        fn ssthresh(&self) -> u32 {
            4 * self.0
        }
        fn set_mss(&mut self, mss: u32) {
            self.0 = mss;
        }
        fn on_ack(&mut self, _: &Ack, _: Time) {}
        fn on_congestion(&mut self, _: u32, _: Cause, _: Time) {}
        fn on_rto(&mut self, _: u32, _: Time) {}
        fn on_spurious(&mut self, _: Time) {}
        fn on_idle_restart(&mut self, _: Duration, _: Duration) {}
    }

    let mut config = sim::config(Congestion::Custom);
    config.congestion_factory(|mss, _| Box::new(Fixed(mss)));
    let mut sim = sim::Sim::new(&cell("100M 50ms"), config, 1);
    let mut most = 0;
    let run = sim.run(100_000, Duration::from_secs(60), |sim| {
        let info = sim.info().expect("the connection is open");
        assert_eq!(info.congestion, "fixed");
        most = most.max(info.in_flight);
    });
    assert_eq!((run.bytes, most), (100_000, 4 * 1448));
}
