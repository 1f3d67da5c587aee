//! Every byte once and in order, whatever the path does.

use std::time::Duration;

use super::pair::{Pair, transfer_both_ways};
use crate::{
    config::{Config, Congestion, SocketOptions},
    device::link::{GilbertElliott, Impairment, QueueLimit},
    testing::{Rng, seeds},
};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_perfect_path_carries_both_directions_at_once() {
    let mut pair = Pair::new(Config::default(), Impairment::new().delay(5 * MS), 1);
    transfer_both_ways(&mut pair, 3 << 20, 2 << 20, Duration::from_secs(60));
    for engine in &pair.engines {
        assert_eq!(
            engine.counters().segments_retransmitted,
            0,
            "{:?}",
            engine.counters()
        );
    }
}

#[test]
fn one_percent_of_loss_costs_time_and_no_bytes() {
    let mut pair = Pair::new(
        Config::default(),
        Impairment::new().delay(10 * MS).loss(0.01),
        2,
    );
    transfer_both_ways(&mut pair, 4 << 20, 4 << 20, Duration::from_secs(120));
}

#[test]
fn reordering_duplication_and_corruption_change_nothing() {
    let path = Impairment::new()
        .delay(5 * MS)
        .reorder(0.05, 3 * MS)
        .duplicate(0.05)
        .corrupt(0.02);
    let mut pair = Pair::new(Config::default(), path, 3);
    transfer_both_ways(&mut pair, 1 << 20, 1 << 20, Duration::from_secs(120));
}

#[test]
fn without_sack_timestamps_and_scaling_losses_are_repaired_too() {
    let mut config = Config::default();
    config.sack(false).timestamps(false).window_scaling(false);
    let mut pair = Pair::new(config, Impairment::new().delay(5 * MS).loss(0.02), 4);
    transfer_both_ways(&mut pair, 1 << 20, 1 << 20, Duration::from_secs(300));
}

#[test]
fn random_paths_deliver_every_byte_and_leave_nothing() {
    for seed in seeds(150) {
        let mut rng = Rng::new(seed * 7919 + 1);
        let mut share = |max: f64| rng.below(1000) as f64 / 1000.0 * max;
        let mut path = Impairment::new()
            .delay(Duration::from_secs_f64(share(0.1)))
            .jitter(Duration::from_secs_f64(share(0.02)))
            .loss(share(0.08))
            .duplicate(share(0.05))
            .corrupt(share(0.03))
            .reorder(share(0.1), Duration::from_secs_f64(share(0.05)));
        let bursts = GilbertElliott::new(share(0.01), 0.2 + share(0.8));
        if seed % 3 == 0 {
            path = path
                .rate(1_000_000 + rng.below(100_000_000) as u64)
                .queue(QueueLimit::Packets(5 + rng.below(100)));
        }
        if seed % 4 == 1 {
            path = path.burst_loss(bursts);
        }
        let mut config = Config::default();
        let algorithms = [Congestion::Cubic, Congestion::Reno, Congestion::Bbr];
        let congestion = algorithms[rng.below(3)];
        let nodelay = rng.below(2) == 0;
        config.options(SocketOptions {
            congestion,
            nodelay,
            ..SocketOptions::default()
        });
        // A burst ends only by packets, and a timeout sends one: of those that keep four packets
        // in five, one in thirty outlasts the usual fifteen.
        config.retries(60).orphan_retries(60);
        config.pacing(rng.below(3) == 0);
        config
            .sack(seed % 5 != 0)
            .timestamps(seed % 7 != 0)
            .window_scaling(seed % 4 != 0);
        config
            .recv_buffer(4096 + rng.below(200_000))
            .send_buffer(4096 + rng.below(200_000));
        let mtu = [576, 1280, 1500, 9000, 65_535][rng.below(5)];
        let (up, down) = (rng.below(300_000), rng.below(300_000));
        // The path MTU falls in the middle of the transfer, on every ninth.
        let shrinks = (seed % 9 == 4).then(|| Duration::from_millis(rng.below(400) as u64));
        println!(
            "seed {seed}: {congestion:?}, mtu {mtu}, shrinks {shrinks:?}, up {up}, down {down}, {path:?}"
        );
        let mut pair = Pair::with_mtu(config, path, seed, mtu);
        pair.shrinks = shrinks.map(|after| pair.start + after);
        transfer_both_ways(&mut pair, up, down, Duration::from_secs(20_000));
    }
}
