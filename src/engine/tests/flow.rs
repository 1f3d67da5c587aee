//! cwnd over time: a sender that always has data, and a peer that acknowledges each segment when it
//! has crossed a line of a certain rate and a round trip is over. The numbers are those of RFC 9438 and
//! RFC 5681, worked out by hand, and of BBR's model.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::script::Script;
use crate::config::{Config, Congestion, SocketOptions};

const MSS: u32 = 1000;

/// A sender and the path of its segments.
struct Flow {
    s: Script,
    rtt: Duration,
    /// The time that a segment takes on the line.
    slot: Duration,
    line_free: Duration,
    /// When the next segments are acknowledged, and where they start.
    coming: VecDeque<(Duration, u32)>,
    /// Segments by their number that are lost when they are sent first.
    lose: BTreeSet<u32>,
    next: u32,
    /// The end of what was sent.
    sent: u32,
    held: BTreeSet<u32>,
    written: usize,
    /// Whether the application has more than is sent.
    greedy: bool,
    delivered: u64,
}

impl Flow {
    fn new(congestion: Congestion, window: u32, rtt: u64, slot: Duration) -> Self {
        let mut config = Config::default();
        config
            .initial_window(window)
            .send_buffer(4 << 20)
            .options(SocketOptions {
                congestion,
                ..SocketOptions::default()
            });
        let mut s = Script::listening(config, 16);
        s.recv("S 0:0(0) win 65535 <mss 1000,sackOK,nop,wscale 7>");
        s.sent("S. 0:0(0) ack 1");
        s.wait_ms(rtt);
        s.recv(". 1:1(0) ack 1 win 65535");
        s.accept();
        Self {
            s,
            rtt: Duration::from_millis(rtt),
            slot,
            line_free: Duration::ZERO,
            coming: VecDeque::new(),
            lose: BTreeSet::new(),
            next: 1,
            sent: 1,
            held: BTreeSet::new(),
            written: 0,
            greedy: true,
            delivered: 0,
        }
    }

    /// Puts what was sent on the line, and lets the application write.
    fn pump(&mut self) {
        if self.greedy && self.written as u64 - u64::from(self.next - 1) < 1_000_000 {
            self.write(500_000);
        }
        let now = self.s.elapsed();
        for sent in self.s.drain() {
            let start = sent.header.seq.since(crate::seq::SeqNum::new(self.s.iss()));
            for at in (start..start + sent.payload.len() as u32).step_by(MSS as usize) {
                self.sent = self.sent.max(at + MSS);
                self.line_free = self.line_free.max(now) + self.slot;
                if !self.lose.remove(&(at / MSS)) {
                    self.coming.push_back((self.line_free + self.rtt, at));
                }
            }
        }
    }

    fn write(&mut self, len: usize) {
        self.written += self.s.write(self.written, len);
    }

    /// Runs until the script's clock shows `end`.
    fn run_to(&mut self, end: Duration) {
        self.pump();
        loop {
            let timer = self.s.engine.next_deadline();
            let timer = timer.map(|at| self.s.elapsed() + (at - self.s.now.min(at)));
            let arrival = self.coming.front().map(|(at, _)| *at);
            let Some(next) = timer
                .into_iter()
                .chain(arrival)
                .min()
                .filter(|at| *at <= end)
            else {
                break;
            };
            self.s.wait(next.saturating_sub(self.s.elapsed()));
            while let Some((_, start)) = self.coming.front().copied().filter(|(at, _)| *at <= next)
            {
                self.coming.pop_front();
                self.arrive(start);
            }
            self.pump();
        }
        self.s.wait(end - self.s.elapsed());
    }

    fn run_for(&mut self, millis: u64) {
        self.run_to(self.s.elapsed() + Duration::from_millis(millis));
    }

    /// The peer has the segment that starts here, and acknowledges.
    fn arrive(&mut self, start: u32) {
        if start >= self.next && self.held.insert(start) {
            self.delivered += u64::from(MSS);
        }
        while self.held.remove(&self.next) {
            self.next += MSS;
        }
        let blocks = self.blocks(start);
        let ack = self.next;
        self.s
            .recv(&format!(". 1:1(0) ack {ack} win 65535{blocks}"));
    }

    /// What the peer holds out of order: the last to have changed first, then the highest.
    fn blocks(&self, last: u32) -> String {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for &start in &self.held {
            match ranges.last_mut() {
                Some(range) if range.1 == start => range.1 += MSS,
                _ => ranges.push((start, start + MSS)),
            }
        }
        ranges.sort_by_key(|(start, end)| (!(*start..*end).contains(&last), u32::MAX - start));
        ranges.truncate(4);
        let texts: Vec<_> = ranges.iter().map(|(l, r)| format!("{l}:{r}")).collect();
        if texts.is_empty() {
            return String::new();
        }
        format!(" <nop,nop,sack {}>", texts.join(" "))
    }

    /// Loses the segment that is sent next.
    fn lose_next(&mut self) {
        self.lose.insert(self.sent / MSS);
    }

    fn segments(&self) -> f64 {
        f64::from(self.s.windows().0) / f64::from(MSS)
    }

    #[track_caller]
    fn expect(&self, segments: f64, tolerance: f64) {
        let got = self.segments();
        let at = self.s.elapsed();
        assert!(
            (got - segments).abs() <= tolerance,
            "{got}, not {segments}, at {at:?}"
        );
    }

    /// Until recovery has begun and ended, which it does within some round trips.
    fn recover(&mut self) {
        let mut begun = false;
        for _ in 0..1000 {
            let open = self.s.info().recovery == "open";
            if begun && open {
                return;
            }
            begun |= !open;
            self.run_for(self.rtt.as_millis() as u64 / 10);
        }
        panic!("no recovery: {:?}", self.s.info());
    }
}

const FAST: Duration = Duration::from_micros(1);

/// Of 60 segments one is lost: W_max = 60, cwnd = 42, K = cbrt(18 / 0.4) = 3.557 s.
fn cubic_after_a_loss_at_60() -> Flow {
    let mut flow = Flow::new(Congestion::Cubic, 60, 100, FAST);
    flow.lose.insert(0);
    flow.recover();
    flow.expect(42.0, 1.0);
    flow
}

#[test]
fn rfc9438_4_2_the_window_is_concave_up_to_w_max_and_convex_beyond() {
    let mut flow = cubic_after_a_loss_at_60();
    let begin = flow.s.elapsed();
    // W_cubic(t) = 0.4 (t - 3.557)^3 + 60; the window aims one round trip ahead of it.
    // After 8 s it would be at 95, but Reno is ahead of it (§4.3): 34 round trips of 0.529 segments
    // up to 60, then one in each.
    for (millis, segments) in [(1000, 53.3), (3000, 59.9), (3557, 60.0), (8000, 106.0)] {
        flow.run_to(begin + Duration::from_millis(millis));
        flow.expect(segments, 3.0);
    }
    assert_eq!(flow.s.counters().segments_retransmitted, 1);
}

#[test]
fn rfc9438_4_7_a_loss_below_w_max_lowers_it_for_others() {
    let mut flow = cubic_after_a_loss_at_60();
    flow.run_for(1000);
    let before = flow.segments();
    assert!((52.0..57.0).contains(&before), "{before}");
    flow.lose_next();
    flow.recover();
    flow.expect(before * 0.7, 2.0);
    // W_max = 0.85 of the window it had, and K = cbrt(0.15 of it / 0.4) = 2.7 s. Without fast
    // convergence the window would be larger by four after a second.
    let window = flow.segments() / 0.7;
    let k = (window * 0.15 / 0.4).cbrt();
    flow.run_for(1000);
    flow.expect(0.4 * (1.0 - k).powi(3) + window * 0.85, 1.5);
}

#[test]
fn rfc9438_4_3_over_a_short_path_it_is_as_fast_as_reno() {
    let mut flow = Flow::new(Congestion::Cubic, 20, 10, FAST);
    flow.lose.insert(0);
    flow.recover();
    flow.expect(14.0, 1.0);
    // The curve would give 15.3 after 0.2 s. W_est: 0.529 segments a round trip up to the old
    // window of 20, which takes 11.3 of them, then one.
    flow.run_for(200);
    flow.expect(20.0 + 8.7, 2.0);
}

#[test]
fn rfc5681_3_1_reno_adds_a_segment_each_round_trip() {
    let mut flow = Flow::new(Congestion::Reno, 20, 100, FAST);
    flow.lose.insert(0);
    flow.recover();
    flow.expect(10.0, 1.0);
    for more in [5.0, 10.0, 20.0_f64] {
        let at = flow.segments();
        flow.run_for(100 * more as u64);
        flow.expect(at + more, 1.0);
    }
}

#[test]
fn rfc9406_4_2_a_train_of_acknowledgements_as_long_as_half_the_path_ends_slow_start() {
    // 1 MB/s and 100 ms: 100 segments fill the path.
    for congestion in [Congestion::Cubic, Congestion::Reno] {
        let mut flow = Flow::new(congestion, 10, 100, Duration::from_millis(1));
        flow.run_for(1200);
        let (cwnd, ssthresh, _) = flow.s.windows();
        if congestion == Congestion::Cubic {
            assert!((80 * MSS..=160 * MSS).contains(&ssthresh), "{ssthresh}");
            assert!(cwnd <= ssthresh + 5 * MSS, "{cwnd} after {ssthresh}");
        } else {
            assert!(cwnd > 400 * MSS, "{cwnd}");
        }
    }
}

/// A megabyte a second over 100 ms.
fn bbr() -> Flow {
    Flow::new(Congestion::Bbr, 10, 100, Duration::from_millis(1))
}

#[test]
fn bbr_finds_the_bandwidth_and_drains_what_startup_queued() {
    let mut flow = bbr();
    flow.run_for(3000);
    let rate = flow.s.info().delivery_rate.unwrap();
    assert!((950_000..=1_050_000).contains(&rate), "{rate}");
    let (before, at) = (flow.delivered, flow.s.elapsed());
    let mut most = 0;
    for _ in 0..60 {
        flow.run_for(100);
        most = most.max(flow.s.windows().2);
    }
    let goodput = (flow.delivered - before) as f64 / (flow.s.elapsed() - at).as_secs_f64();
    assert!(goodput > 950_000.0, "{goodput}");
    // No queue that stays: not much more in flight than a probe of five quarters asks for.
    assert!(most < 140 * u64::from(MSS), "{most}");
}

#[test]
fn bbr_keeps_its_rate_when_a_hundredth_is_lost() {
    let mut flow = bbr();
    flow.run_for(2000);
    let before = flow.delivered;
    for _ in 0..50 {
        flow.lose_next();
        flow.run_for(100);
    }
    let goodput = (flow.delivered - before) / 5;
    assert!(goodput > 900_000, "{goodput}");
    assert!(flow.s.counters().segments_retransmitted >= 40);
}

#[test]
fn bbr_empties_the_path_every_ten_seconds_for_two_hundred_milliseconds() {
    let mut flow = bbr();
    flow.run_for(2000);
    // The path becomes longer, so the least that was seen is not seen again.
    flow.rtt += Duration::from_millis(20);
    flow.run_for(7000);
    let mut least = Vec::new();
    for _ in 0..250 {
        flow.run_for(20);
        least.push(flow.s.windows().0 == 4 * MSS);
    }
    let long = least.iter().filter(|small| **small).count() * 20;
    // 200 ms, a round trip until little is in flight, and one until that is known.
    assert!((200..=460).contains(&long), "{long} ms");
    flow.run_for(500);
    assert!(flow.segments() > 150.0, "{}", flow.segments());
}

#[test]
fn bbr_takes_what_an_idle_application_does_not_send_for_no_lack_of_bandwidth() {
    let mut flow = bbr();
    flow.run_for(3000);
    flow.greedy = false;
    flow.run_for(4000);
    assert_eq!(flow.s.windows().2, 0);
    // A segment now and then, longer than the ten round trips for which a sample counts.
    for _ in 0..40 {
        flow.write(MSS as usize);
        flow.run_for(150);
    }
    let before = flow.delivered;
    flow.greedy = true;
    flow.run_for(600);
    // At once as fast as before: half a second's worth after the first 100 ms.
    let burst = flow.delivered - before;
    assert!(burst > 420_000, "{burst}");
}

#[test]
fn a_pause_does_not_count_for_the_rate_of_what_follows_it() {
    let mut s = Script::distant(Config::default(), "sackOK", 100);
    for end in [10_000, 20_000] {
        s.wait_ms(10_000);
        s.write(end - 10_000, 10_000);
        s.drain();
        s.wait_ms(100);
        s.acked(end as u32 + 1, "nop");
        // Ten segments in a round trip.
        assert_eq!(s.info().delivery_rate, Some(100_000));
    }
}
