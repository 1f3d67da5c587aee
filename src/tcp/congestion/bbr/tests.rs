use super::{
    phases::{DRAIN_ROUNDS, FOREIGN_QUEUE_ROUNDS},
    *,
};

const MSS: u32 = 1000;
/// Of the path: a megabyte a second and 100 ms, so 100 segments are one product of both.
const RATE: u64 = 1_000_000;
const RTT: Duration = Duration::from_millis(100);
const PRODUCT: u32 = 100 * MSS;

/// A path that delivers at a rate, and a sender that always fills its window.
struct Drive {
    bbr: Bbr,
    now: Time,
    delivered: u64,
}

/// What one round trip is like.
#[derive(Clone, Copy)]
struct Trip {
    rate: u64,
    rtt: Duration,
    app_limited: bool,
    /// Bytes in flight when it was sent, and after it was acknowledged.
    sent: u32,
    left: u32,
    lost: u32,
}

const TRIP: Trip = Trip {
    rate: RATE,
    rtt: RTT,
    app_limited: false,
    sent: PRODUCT,
    left: PRODUCT,
    lost: 0,
};

impl Drive {
    fn new() -> Self {
        Self {
            bbr: Bbr::new(MSS, 10),
            now: Time::from_millis(1000),
            delivered: 0,
        }
    }

    /// A round trip in ten acknowledgements, of which the first one brings the losses.
    fn trip(&mut self, trip: Trip) {
        let prior_delivered = self.delivered;
        let delivered = (trip.rate * trip.rtt.as_millis() as u64 / 10_000) as u32;
        for n in 0..10 {
            self.now = self.now + trip.rtt / 10;
            self.delivered += u64::from(delivered);
            let lost = if n == 0 { trip.lost } else { 0 };
            let ack = Ack {
                delivered,
                flight_size: trip.sent,
                in_flight: trip.left,
                lost,
                rtt: Some(trip.rtt),
                srtt: Some(trip.rtt),
                min_rtt: Some(trip.rtt),
                sample: Some(RateSample {
                    rate: Some(trip.rate),
                    app_limited: trip.app_limited,
                    prior_delivered,
                    delivered: self.delivered,
                    lost: u64::from(trip.lost),
                    in_flight: u64::from(trip.sent),
                }),
                ..Ack::default()
            };
            self.bbr.on_ack(&ack, self.now);
        }
    }

    fn trips(&mut self, count: u32, trip: Trip) {
        (0..count).for_each(|_| self.trip(trip));
    }

    /// Through startup and drain.
    fn steady() -> Self {
        let mut drive = Self::new();
        drive.trips(6, TRIP);
        assert!(matches!(drive.bbr.phase, Phase::ProbeBandwidth { .. }));
        drive
    }

    fn rate_in_percent(&self) -> u64 {
        self.bbr.pacing_rate().unwrap() * 100 / RATE
    }
}

#[test]
fn it_is_small() {
    assert!(size_of::<Bbr>() <= 320, "{}", size_of::<Bbr>());
}

#[test]
fn startup_paces_the_initial_window_by_the_first_round_trip_time() {
    let mut drive = Drive::new();
    assert_eq!(drive.bbr.pacing_rate(), None);
    let silent = Ack {
        srtt: Some(RTT),
        rtt: Some(RTT),
        ..Ack::default()
    };
    drive.bbr.on_ack(&silent, drive.now);
    // 10 segments in 100 ms, times 2.89.
    assert_eq!(drive.bbr.pacing_rate(), Some(288_671));
    assert_eq!(drive.bbr.window(), 10 * MSS);
}

#[test]
fn startup_goes_on_while_the_rate_grows_by_a_quarter_and_ends_three_rounds_later() {
    let mut drive = Drive::new();
    let mut rate = RATE / 8;
    while rate < RATE {
        drive.trip(Trip { rate, ..TRIP });
        assert_eq!(drive.bbr.phase, Phase::Startup);
        rate = rate * 13 / 10;
    }
    // A fifth a round is too little, three rounds in a row.
    let before = drive.bbr.full_bandwidth;
    for rounds in 1..=3 {
        assert!(!drive.bbr.full);
        drive.trip(Trip {
            rate: before + before / 5,
            ..TRIP
        });
        assert_eq!(drive.bbr.full_rounds, rounds);
    }
    assert!(drive.bbr.full);
}

#[test]
fn drain_empties_the_queue_that_startup_built() {
    let mut drive = Drive::new();
    let queue = Trip {
        left: 3 * PRODUCT,
        ..TRIP
    };
    drive.trips(5, queue);
    assert_eq!(drive.bbr.phase, Phase::Drain);
    // 1 / 2.89.
    assert_eq!(drive.rate_in_percent(), 34);
    drive.trips(2, queue);
    assert_eq!(drive.bbr.phase, Phase::Drain);
    drive.trip(TRIP);
    assert!(matches!(drive.bbr.phase, Phase::ProbeBandwidth { .. }));
}

/// Packets wait for half a round trip, and a twentieth is lost.
const FULL: Trip = Trip {
    rtt: Duration::from_millis(150),
    left: 2 * PRODUCT,
    lost: 8 * MSS,
    ..TRIP
};

#[test]
fn startup_ends_where_the_queue_overflows_but_not_for_losses_or_a_queue_alone() {
    let mut drive = Drive::new();
    for rate in [RATE / 8, RATE / 4, RATE / 2] {
        let lossy = Trip {
            lost: 9 * MSS,
            rate,
            ..TRIP
        };
        drive.trip(lossy);
        assert_eq!(drive.bbr.phase, Phase::Startup);
    }
    drive.trip(Trip { lost: 0, ..FULL });
    drive.trip(Trip {
        lost: MSS / 10,
        ..FULL
    });
    assert_eq!(drive.bbr.phase, Phase::Startup);
    drive.trip(FULL);
    assert_eq!(drive.bbr.phase, Phase::Drain);
    assert_eq!(drive.bbr.bandwidth.max(), RATE);
}

#[test]
fn startup_leaves_no_room_for_offloads_where_packets_wait() {
    let startup = |last: Trip| {
        let mut drive = Drive::new();
        drive.trip(TRIP);
        drive.trip(last);
        drive.trip(last);
        assert_eq!(drive.bbr.phase, Phase::Startup);
        drive.bbr.window()
    };
    assert!(startup(TRIP) >= 2 * PRODUCT + 3 * 2 * MSS);
    // What one acknowledgement of fifteen segments goes too far.
    let enough = PRODUCT * 7 / 4;
    let window = startup(Trip { lost: 0, ..FULL });
    assert!((enough..enough + 15 * MSS).contains(&window), "{window}");
}

#[test]
fn a_queue_that_overflowed_is_emptied_as_a_whole() {
    let mut drive = Drive::steady();
    drive.trips(8, TRIP);
    drive.trip(FULL);
    let queue = Trip { lost: 0, ..FULL };
    for _ in 0..3 {
        assert_eq!(drive.rate_in_percent(), 75);
        drive.trip(queue);
    }
    drive.trip(TRIP);
    assert_eq!(drive.rate_in_percent(), 100);
    // Not in each round trip.
    drive.trip(FULL);
    assert_eq!(drive.rate_in_percent(), 100);
    // And not for ever, where that does not empty it.
    drive.trips(8, TRIP);
    drive.trip(FULL);
    assert_eq!(drive.rate_in_percent(), 75);
    drive.trips(DRAIN_ROUNDS, queue);
    assert_ne!(drive.rate_in_percent(), 75);
}

#[test]
fn a_queue_that_others_keep_full_is_left_to_them() {
    let mut drive = Drive::steady();
    let mut drains = Vec::new();
    for round in 0..300_u64 {
        let before = drive.bbr.drained.round;
        // The least round-trip time is not looked for in between.
        drive.bbr.min_rtt_at = drive.now;
        drive.trip(FULL);
        if drive.bbr.drained.round != before {
            drains.push(round);
        }
    }
    assert_eq!(drains.len(), 3, "{drains:?}");
    assert!(drains.is_sorted_by(|a, b| b - a >= FOREIGN_QUEUE_ROUNDS - 1));
}

#[test]
fn probing_for_bandwidth_asks_for_more_then_gives_back_then_cruises_for_six_rounds() {
    let mut drive = Drive::steady();
    let mut seen = Vec::new();
    for _ in 0..24 {
        // Enough in flight for the probe to be one.
        drive.trip(Trip {
            left: PRODUCT * 5 / 4,
            ..TRIP
        });
        seen.push(drive.rate_in_percent());
    }
    let probe = seen.iter().position(|percent| *percent == 125).unwrap();
    assert_eq!(
        seen[probe..probe + 9],
        [125, 75, 100, 100, 100, 100, 100, 100, 125]
    );
    // Two products, room for three bursts, and for acknowledgements that are for ten segments.
    assert_eq!(drive.bbr.window(), 2 * PRODUCT + 3 * 2 * MSS + 10 * MSS);
}

#[test]
fn a_probe_lasts_until_enough_is_in_flight() {
    let mut drive = Drive::steady();
    while drive.rate_in_percent() != 125 {
        drive.trip(TRIP);
    }
    drive.trips(3, TRIP);
    assert_eq!(drive.rate_in_percent(), 125);
    drive.trip(Trip {
        left: PRODUCT * 5 / 4,
        ..TRIP
    });
    assert_ne!(drive.rate_in_percent(), 125);
}

#[test]
fn bandwidth_is_the_greatest_of_ten_rounds() {
    let mut drive = Drive::steady();
    drive.trip(Trip {
        rate: 2 * RATE,
        ..TRIP
    });
    drive.trips(9, TRIP);
    assert_eq!(drive.bbr.bandwidth.max(), 2 * RATE);
    drive.trips(3, TRIP);
    assert_eq!(drive.bbr.bandwidth.max(), RATE);
}

#[test]
fn a_limited_application_lowers_no_estimate_and_ends_no_startup() {
    let limited = Trip {
        rate: RATE / 10,
        app_limited: true,
        ..TRIP
    };
    let mut drive = Drive::new();
    drive.trip(TRIP);
    drive.trips(30, limited);
    assert_eq!(
        (drive.bbr.bandwidth.max(), drive.bbr.phase),
        (RATE, Phase::Startup)
    );
    // But what it shows to be possible is possible.
    drive.trip(Trip {
        rate: 2 * RATE,
        ..limited
    });
    assert_eq!(drive.bbr.bandwidth.max(), 2 * RATE);
}

#[test]
fn every_ten_seconds_four_segments_in_flight_show_the_least_round_trip_time() {
    let mut drive = Drive::steady();
    let before = drive.bbr.window();
    let longer = RTT + Duration::from_millis(20);
    let queued = Trip {
        rtt: longer,
        left: 5 * MSS,
        ..TRIP
    };
    let mut trips = 0;
    while !matches!(drive.bbr.phase, Phase::ProbeRtt { .. }) {
        drive.trip(queued);
        trips += 1;
    }
    assert!((80..=84).contains(&trips), "{trips} of 120 ms");
    assert_eq!(drive.bbr.window(), 4 * MSS);
    // Not before so little is in flight, and then for 200 ms at the least.
    drive.trips(5, queued);
    assert_eq!(drive.bbr.window(), 4 * MSS);
    let empty = Trip {
        left: 4 * MSS,
        ..TRIP
    };
    drive.trip(empty);
    assert_eq!(drive.bbr.window(), 4 * MSS);
    drive.trips(2, empty);
    assert!(matches!(drive.bbr.phase, Phase::ProbeBandwidth { .. }));
    assert!(drive.bbr.window() >= before, "{}", drive.bbr.window());
    assert_eq!(drive.bbr.min_rtt, Some(RTT));
}

#[test]
fn after_idleness_no_search_for_the_round_trip_time_begins() {
    let mut drive = Drive::steady();
    drive.now = drive.now + Duration::from_secs(11);
    drive.bbr.on_sent(MSS, 0, drive.now);
    drive.trip(TRIP);
    assert!(matches!(drive.bbr.phase, Phase::ProbeBandwidth { .. }));
}

#[test]
fn loss_leaves_the_rate_alone() {
    let mut drive = Drive::steady();
    let rate = drive.rate_in_percent();
    for _ in 0..20 {
        drive.bbr.on_congestion(PRODUCT, Cause::Loss, drive.now);
        drive.trip(Trip {
            lost: 10 * MSS,
            ..TRIP
        });
        drive.bbr.on_recovery_exit(drive.now);
    }
    assert_eq!(drive.bbr.ssthresh(), u32::MAX);
    assert!(drive.rate_in_percent() >= rate.min(74));
    assert!(drive.bbr.window() > PRODUCT);
}

#[test]
fn the_search_for_the_round_trip_time_lowers_no_bandwidth() {
    let mut drive = Drive::steady();
    let queued = Trip {
        rtt: RTT * 6 / 5,
        ..TRIP
    };
    while !matches!(drive.bbr.phase, Phase::ProbeRtt { .. }) {
        drive.trip(queued);
    }
    // Where round trips are short, there are many of them in 200 ms.
    let thin = Trip {
        rate: RATE / 25,
        rtt: RTT / 10,
        left: 4 * MSS,
        ..TRIP
    };
    for _ in 0..25 {
        drive.trip(thin);
    }
    assert!(!matches!(drive.bbr.phase, Phase::ProbeRtt { .. }));
    assert_eq!(drive.bbr.bandwidth.max(), RATE);
}

#[test]
fn acknowledgements_in_clumps_add_to_the_window_and_are_forgotten_after_ten_rounds() {
    let mut clumps = Clumps::default();
    let expected = |clumps: &Clumps, now: Time| bytes_in(RATE, now.since(clumps.since));
    let mut now = Time::from_millis(1000);
    // As fast as the bandwidth: no more than what comes at once.
    for _ in 0..10 {
        now = now + Duration::from_millis(10);
        clumps.add(10 * MSS, expected(&clumps, now), u32::MAX, now);
    }
    assert_eq!(clumps.max(), 10 * MSS);
    // What took 40 ms comes within one.
    now = now + Duration::from_millis(30);
    for _ in 0..4 {
        clumps.add(10 * MSS, expected(&clumps, now), u32::MAX, now);
    }
    assert!((30 * MSS..=40 * MSS).contains(&clumps.max()));
    (0..9).for_each(|_| clumps.on_round());
    assert!(clumps.max() >= 30 * MSS);
    clumps.on_round();
    assert_eq!(clumps.max(), 0);
}

#[test]
fn the_first_round_trip_of_recovery_conserves_packets_and_its_end_restores_the_window() {
    let mut drive = Drive::steady();
    let before = drive.bbr.window();
    drive.bbr.on_congestion(before, Cause::Loss, drive.now);
    let ack = Ack {
        delivered: MSS,
        in_flight: 50 * MSS,
        lost: MSS,
        rtt: Some(RTT),
        sample: Some(RateSample {
            prior_delivered: drive.delivered - 1,
            delivered: drive.delivered,
            ..RateSample::default()
        }),
        ..Ack::default()
    };
    drive.bbr.on_ack(&ack, drive.now);
    assert_eq!(drive.bbr.window(), 51 * MSS);
    drive.bbr.on_recovery_exit(drive.now);
    drive.bbr.on_ack(&Ack { lost: 0, ..ack }, drive.now);
    assert_eq!(drive.bbr.window(), before);
}

#[test]
fn a_recovery_right_behind_another_conserves_nothing() {
    let mut drive = Drive::steady();
    let before = drive.bbr.window();
    let lossy = Trip {
        left: 10 * MSS,
        lost: MSS,
        ..TRIP
    };
    drive.bbr.on_congestion(before, Cause::Loss, drive.now);
    drive.trips(2, lossy);
    let window = drive.bbr.window();
    assert!(window > 2 * PRODUCT, "{window}");
    for _ in 0..10 {
        drive.bbr.on_recovery_exit(drive.now);
        drive.bbr.on_congestion(before, Cause::Loss, drive.now);
        drive.trip(lossy);
        assert!(drive.bbr.window() > 2 * PRODUCT, "{}", drive.bbr.window());
    }
    // Behind one that is over, it does.
    drive.bbr.on_recovery_exit(drive.now);
    drive.trip(TRIP);
    drive.bbr.on_congestion(before, Cause::Loss, drive.now);
    drive.trip(lossy);
    assert!(drive.bbr.window() < 2 * PRODUCT, "{}", drive.bbr.window());
}

#[test]
fn a_timeout_leaves_one_segment_and_keeps_the_model() {
    let mut drive = Drive::steady();
    let (before, bandwidth) = (drive.bbr.window(), drive.bbr.bandwidth.max());
    drive.bbr.on_rto(before, drive.now);
    assert_eq!(drive.bbr.window(), MSS);
    assert_eq!(drive.bbr.bandwidth.max(), bandwidth);
    drive.trip(TRIP);
    assert!(drive.bbr.window() >= PRODUCT);
    drive.bbr.on_rto(before, drive.now);
    drive.bbr.on_spurious(drive.now);
    assert!(drive.bbr.window() >= before);
}

#[test]
fn no_sample_of_a_peer_makes_it_overflow() {
    let mut bbr = Bbr::new(u32::MAX, u32::MAX);
    for n in 0..50_u64 {
        let ack = Ack {
            delivered: u32::MAX,
            flight_size: u32::MAX,
            in_flight: u32::MAX,
            lost: u32::MAX,
            rtt: Some(Duration::from_nanos(n)),
            srtt: Some(Duration::ZERO),
            sample: Some(RateSample {
                rate: Some(u64::MAX >> (n % 40)),
                prior_delivered: n,
                delivered: n + 1,
                lost: u64::MAX >> 20,
                in_flight: u64::MAX,
                ..RateSample::default()
            }),
            ..Ack::default()
        };
        bbr.on_ack(&ack, Time::from_millis(n * 400));
        bbr.on_rto(u32::MAX, Time::from_millis(n * 400));
        assert!(bbr.window() <= MAX_WINDOW);
    }
}
