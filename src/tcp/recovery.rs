//! Which segments are lost, when an episode of loss recovery begins, ends, or turns out to be for
//! nothing. How much may be sent is congestion control's business, but for the share that RFC 9937
//! hands out during an episode.

use std::{ops::Range, time::Duration};

use crate::{
    tcp::{
        congestion::RateSample,
        connection::TsClock,
        rtt::RttEstimator,
        scoreboard::{Scoreboard, Sent, Snapshot},
    },
    time::Time,
};

mod prr;

pub(crate) use self::prr::Prr;

/// DupThresh (RFC 5681): duplicate acknowledgements, or segments' worth of SACKed bytes, that say
/// loss rather than reordering.
pub(crate) const DUP_THRESH: u64 = 3;

/// Recoveries after which a widened reordering window narrows again (RFC 8985 §6.2).
const REO_WND_PERSIST: u8 = 16;

/// The grain of our timestamp clock.
const TIMESTAMP_TICK: Duration = Duration::from_millis(1);

/// What loss recovery is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing is known to be lost.
    Open,
    /// The same, while an echoed mark brings the window down, until something behind the position is
    /// acknowledged (Linux: `TCP_CA_CWR`).
    Cwr { until: u64, prr: Prr },
    /// Fast recovery, until the position is acknowledged.
    Fast { recovery_point: u64, prr: Prr },
    /// After a retransmission timeout, until the position is acknowledged.
    Rto {
        recovery_point: u64,
        frto: Frto,
        /// Bytes in flight that the timeout did not give up, and that the loss window, which
        /// begins from nothing, does not count.
        spared: u64,
    },
}

/// Whether the timeout was spurious (F-RTO, RFC 5682).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frto {
    /// It was not, or it cannot be found out.
    Off,
    /// The next acknowledgement tells.
    Watching,
    /// Step 2b: new data goes out in place of what is believed to be lost; what acknowledges it
    /// tells.
    Sending,
}

/// Recent acknowledgement (RFC 8985): the time order of what was delivered.
#[derive(Clone, Copy, Debug, Default)]
struct Rack {
    /// RACK.xmit_ts and RACK.end_seq of the segment delivered that was sent last.
    newest: Option<(Time, u64)>,
    rtt: Duration,
    reordering_seen: bool,
    /// By how many bytes at most something was overtaken.
    overtaken_by: u32,
    /// RACK.reo_wnd_mult, less one.
    widened: u8,
    persist: u8,
    /// No more widening until this position is acknowledged: once in a round trip.
    round_end: u64,
}

impl Rack {
    /// So many bytes overtook something.
    fn note_overtaken(&mut self, bytes: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.overtaken_by = self.overtaken_by.max(bytes);
    }

    /// Notes a delivered segment: for RACK, for the RTT and for the delivery rate.
    fn on_delivered(&mut self, sent: &Sent, delivery: &mut Delivery, by: By, now: Time) {
        let rtt = now.since(sent.sent_at);
        delivery.large |= delivery
            .watched
            .is_some_and(|(since, len)| sent.sent_at >= since && sent.end - sent.start > len);
        if sent.retransmitted {
            // Which transmission arrived? Not the last one if the echoed timestamp is older, or
            // if it would have been faster than any (RFC 8985 §6.2 step 2). A SACK comes with the
            // echo of what was in order before, which tells nothing.
            let older = delivery.echo.is_some_and(|(echo, clock)| {
                by == By::Number && echo != 0 && is_before(echo, clock.val(sent.sent_at))
            });
            if !older && rtt >= delivery.min_rtt {
                self.advance(sent, rtt, delivery, by);
            }
            if by == By::Number {
                delivery.retransmitted = true;
                delivery.again_sent_at = delivery.again_sent_at.max(Some(sent.sent_at));
            }
        } else {
            self.advance(sent, rtt, delivery, by);
            let at = sent.sent_at;
            let oldest = match by {
                By::Number => &mut delivery.acked_sent_at,
                By::Sack => &mut delivery.sacked_sent_at,
            };
            *oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
            delivery.newest = delivery.newest.max(Some((at, sent.end)));
            delivery.found_again |= sent.is_lost();
            if sent.end < delivery.high_before {
                self.reordering_seen = true;
                self.note_overtaken(delivery.high_before - sent.start);
            }
            delivery.given_up |= sent.end <= delivery.gave_up_to;
        }
        if delivery.sample.is_none_or(|(_, at)| sent.sent_at >= at) {
            delivery.sample = Some((sent.snapshot, sent.sent_at));
        }
    }

    /// RFC 8985 §6.2 step 2. RACK.rtt is that of what was delivered last, not of what was sent last:
    /// of what the number acknowledges where that is anything, for Linux looks at the blocks first.
    fn advance(&mut self, sent: &Sent, rtt: Duration, delivery: &mut Delivery, by: By) {
        if by == By::Number || !delivery.timed_by_number {
            self.rtt = rtt;
            delivery.timed_by_number = by == By::Number;
        }
        let this = (sent.sent_at, sent.end);
        if self.newest.is_none_or(|newest| this > newest) {
            self.newest = Some(this);
        }
    }
}

/// What a connection has learned about reordering on its path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reordering {
    seen: bool,
    overtaken_by: u32,
    widened: u8,
    persist: u8,
}

/// What it takes to find out that an episode was for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    /// Bytes sent again in the episode and not yet reported as received twice.
    pub(crate) retransmitted: u64,
    /// Something was sent again at all.
    pub(crate) any: bool,
    /// SND.UNA when the episode began.
    pub(crate) marker: u64,
    /// The window may be what it was before. Not where the network has marked something as well.
    pub(crate) window: bool,
}

/// A tail loss probe that is out (RFC 8985 §7).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) end: u64,
    pub(crate) retransmitted: bool,
}

/// Loss recovery of one connection.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) board: Scoreboard,
    pub(crate) mode: Mode,
    rack: Rack,
    /// Bytes that duplicate acknowledgements of a peer without SACK stand for.
    pub(crate) dup_acked: u64,
    pub(crate) probe: Option<Probe>,
    pub(crate) undo: Option<Undo>,
    /// Our timestamp clock when the first of the retransmissions went out that may still be on
    /// their way (Linux: `retrans_stamp`), and where the last of them in the stream ends.
    first_again: Option<u32>,
    again_until: u64,
    pub(crate) delivered: u64,
    pub(crate) delivered_at: Time,
    first_sent_at: Time,
    /// What was sent before so much was delivered was so while the application was the limit;
    /// zero: it is not.
    app_limited_until: u64,
    /// Bytes marked as lost so far, also those that were not.
    pub(crate) lost_total: u64,
    /// Bytes that the peer said to have received twice.
    duplicated: u64,
    /// Without SACK: duplicates of this number, at which the last episode ended, are not counted
    /// (RFC 6582 §3.2 step 2).
    recover: u64,
}

/// What one acknowledgement delivered, as the scoreboard told it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivery {
    pub(crate) bytes: u64,
    /// Bytes of it that SACK blocks told of.
    pub(crate) sacked: u64,
    /// When the oldest of the segments that were sent only once was sent: of those that were
    /// acknowledged by number, and of those by SACK blocks.
    acked_sent_at: Option<Time>,
    sacked_sent_at: Option<Time>,
    /// The same of the newest of either, with its end.
    newest: Option<(Time, u64)>,
    /// Something that was acknowledged by number had been sent more than once.
    pub(crate) retransmitted: bool,
    /// RACK.rtt is that of something that was acknowledged by number.
    timed_by_number: bool,
    /// When the last of that was sent again.
    again_sent_at: Option<Time>,
    /// Something that a timeout gave up arrived without having been sent again.
    pub(crate) given_up: bool,
    /// Something that was marked as lost arrived without having been sent again.
    found_again: bool,
    /// Of the newest segment: the state of delivery when it was sent, and when that was.
    sample: Option<(Snapshot, Time)>,
    /// The highest position delivered before (RACK.fack).
    high_before: u64,
    /// The last position that a timeout gave up, in the episode that it began.
    gave_up_to: u64,
    min_rtt: Duration,
    /// A segment of more bytes, sent since then, is one that the path was thought to swallow; and
    /// whether there was one.
    pub(crate) watched: Option<(Time, u64)>,
    pub(crate) large: bool,
    /// The timestamp that is echoed, and the clock that it is of.
    echo: Option<(u32, TsClock)>,
}

/// How a segment was reported as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Number,
    Sack,
}

impl Delivery {
    /// A round-trip time by Karn's rule: not when anything was sent twice, for then what lies
    /// behind it may have arrived long ago.
    pub(crate) fn rtt(&self, now: Time) -> Option<Duration> {
        let by_number = self.acked_sent_at.filter(|_| !self.retransmitted);
        by_number.or(self.sacked_sent_at).map(|at| now.since(at))
    }

    /// Whether a round-trip time that an echo tells is one. Where the acknowledgement of a segment
    /// was lost, the peer answers the retransmission, which is old to it, with the timestamp of the
    /// first (RFC 7323 §5.3: R2 comes before R3): the time between is our timeout. `twice`: it says
    /// that it received something twice.
    pub(crate) fn believes(&self, rtt: Duration, twice: bool, now: Time) -> bool {
        let again = self.again_sent_at.map(|at| now.since(at));
        again.is_none_or(|since| !twice && since < self.min_rtt || rtt <= since + TIMESTAMP_TICK)
    }

    /// The round-trip time of what was sent last: without what the peer's delay adds.
    pub(crate) fn newest_rtt(&self, now: Time) -> Option<Duration> {
        self.rtt(now)?;
        self.newest.map(|(at, _)| now.since(at))
    }
}

impl Recovery {
    /// What outlasts a pause.
    pub(crate) fn reordering(&self) -> Reordering {
        Reordering {
            seen: self.rack.reordering_seen,
            overtaken_by: self.rack.overtaken_by,
            widened: self.rack.widened,
            persist: self.rack.persist,
        }
    }

    pub(crate) fn reordering_seen(&self) -> bool {
        self.rack.reordering_seen
    }

    /// Takes over what was learned before a pause.
    pub(crate) fn set_reordering(&mut self, before: Reordering) {
        self.rack.reordering_seen = before.seen;
        self.rack.overtaken_by = before.overtaken_by;
        (self.rack.widened, self.rack.persist) = (before.widened, before.persist);
    }

    pub(crate) fn new(now: Time) -> Self {
        Self {
            board: Scoreboard::default(),
            mode: Mode::Open,
            rack: Rack::default(),
            dup_acked: 0,
            probe: None,
            undo: None,
            first_again: None,
            again_until: 0,
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            app_limited_until: 0,
            lost_total: 0,
            duplicated: 0,
            recover: 0,
        }
    }

    /// Bytes believed to be in flight; a duplicate acknowledgement says that one segment is not.
    pub(crate) fn in_flight(&self) -> u64 {
        self.board.in_flight().saturating_sub(self.dup_acked)
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.mode, Mode::Open | Mode::Cwr { .. })
    }

    /// What brings the window down, while something does.
    pub(crate) fn prr_mut(&mut self) -> Option<&mut Prr> {
        match &mut self.mode {
            Mode::Cwr { prr, .. } | Mode::Fast { prr, .. } => Some(prr),
            Mode::Open | Mode::Rto { .. } => None,
        }
    }

    /// What to remember with a segment that is sent now.
    pub(crate) fn snapshot(&mut self, now: Time) -> Snapshot {
        if self.board.is_empty() {
            // A new flight: the sample must not span the pause before it.
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.app_limited_until > 0,
            lost: self.lost_total,
            in_flight: self.in_flight(),
        }
    }

    /// The application has nothing more to send although cwnd would let it.
    pub(crate) fn set_app_limited(&mut self) {
        self.app_limited_until = self.delivered + self.board.in_flight().max(1);
    }

    /// An acknowledgement comes: accounts without an entry.
    pub(crate) fn delivery(
        &self,
        min_rtt: Option<Duration>,
        echo: Option<(u32, TsClock)>,
    ) -> Delivery {
        Delivery {
            high_before: self.board.high_delivered,
            gave_up_to: match self.mode {
                Mode::Rto { recovery_point, .. } => recovery_point,
                _ => 0,
            },
            min_rtt: min_rtt.unwrap_or_default(),
            echo,
            ..Delivery::default()
        }
    }

    /// Everything before `una` is acknowledged. Returns the bytes that this tells of.
    pub(crate) fn on_number(&mut self, una: u64, delivery: &mut Delivery, now: Time) -> u64 {
        let Self { board, rack, .. } = self;
        board.ack_to(una, |sent| {
            rack.on_delivered(sent, delivery, By::Number, now);
        })
    }

    /// The peer holds `block`. Returns the bytes that this tells of.
    pub(crate) fn on_block(
        &mut self,
        block: Range<u64>,
        delivery: &mut Delivery,
        now: Time,
    ) -> u64 {
        let Self { board, rack, .. } = self;
        board.sack(block, |sent| {
            rack.on_delivered(sent, delivery, By::Sack, now);
        })
    }

    /// Closes the accounts of one acknowledgement and returns the delivery rate sample
    /// (draft-cheng-iccrg-delivery-rate-estimation).
    pub(crate) fn on_delivery(&mut self, delivery: &Delivery, now: Time) -> Option<RateSample> {
        if delivery.bytes == 0 {
            return None;
        }
        self.delivered += delivery.bytes;
        self.delivered_at = now;
        if self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
        let (snapshot, sent_at) = delivery.sample?;
        self.first_sent_at = sent_at;
        let send_elapsed = sent_at.since(snapshot.first_sent_at);
        let interval = now.since(snapshot.delivered_at).max(send_elapsed);
        let bytes = self.delivered - snapshot.delivered;
        // §3.3: shorter than any round trip, it tells of compressed acknowledgements only.
        let usable = interval >= delivery.min_rtt;
        let rate = (u128::from(bytes) * 1_000_000_000).checked_div(interval.as_nanos());
        Some(RateSample {
            rate: rate
                .filter(|_| usable)
                .map(|rate| u64::try_from(rate).unwrap_or(u64::MAX)),
            app_limited: snapshot.app_limited,
            prior_delivered: snapshot.delivered,
            delivered: self.delivered,
            lost: self.lost_total.saturating_sub(snapshot.lost),
            in_flight: snapshot.in_flight,
        })
    }

    /// RFC 8985 §6.2 steps 4 and 5. Returns whether anything was marked as lost, and in what time
    /// to look again.
    pub(crate) fn detect_lost(
        &mut self,
        rtt: &RttEstimator,
        mss: u64,
        now: Time,
    ) -> (bool, Option<Duration>) {
        let Some(newest) = self.rack.newest else {
            return (false, None);
        };
        let window = self.rack.rtt + self.reordering_window(rtt, mss);
        let (bytes, again) = self.board.detect_lost(newest, window, now);
        self.lost_total += bytes;
        (bytes > 0, again)
    }

    /// Whether as much is known to have overtaken something as tells of a loss on other paths
    /// (Linux: `tp->reordering`).
    pub(crate) fn is_far_out_of_order(&self, mss: u64) -> bool {
        u64::from(self.rack.overtaken_by) > DUP_THRESH * mss
    }

    /// RACK.reo_wnd.
    fn reordering_window(&self, rtt: &RttEstimator, mss: u64) -> Duration {
        let many = self.board.has_sacked(DUP_THRESH, mss);
        if !self.rack.reordering_seen && (!self.is_open() || many) {
            return Duration::ZERO;
        }
        let min_rtt = rtt.min_rtt().unwrap_or_default();
        let wide = min_rtt / 4 * (u32::from(self.rack.widened) + 1);
        wide.min(rtt.srtt().unwrap_or(Duration::MAX))
    }

    /// After a timeout: what was sent later than this may still be acknowledged (RFC 8985 §6.3).
    pub(crate) fn sent_recently(&self, rtt: &RttEstimator, mss: u64, now: Time) -> Option<Time> {
        let round = self.rack.rtt.max(rtt.srtt()?);
        let window = round + self.reordering_window(rtt, mss);
        Some(Time::from_start(now.since_start().saturating_sub(window)))
    }

    /// A D-SACK came: we retransmitted too early, so wait longer (once in a round trip).
    pub(crate) fn widen_reordering_window(&mut self, una: u64, nxt: u64) {
        // What was sent again arrived the first time: late, not lost.
        self.rack.reordering_seen = true;
        if una >= self.rack.round_end {
            self.rack.widened = self.rack.widened.saturating_add(1);
            self.rack.persist = REO_WND_PERSIST;
            self.rack.round_end = nxt;
        }
    }

    /// An episode ended.
    pub(crate) fn on_exit(&mut self) {
        if let Mode::Fast { recovery_point, .. } | Mode::Rto { recovery_point, .. } = self.mode {
            self.recover = recovery_point;
            self.rack.persist = self.rack.persist.saturating_sub(1);
        }
        self.mode = Mode::Open;
        self.dup_acked = 0;
        if self.rack.persist == 0 {
            self.rack.widened = 0;
        }
    }

    /// Whether duplicates of the number `una` may still be of what the last episode sent again
    /// (RFC 6582 §3.2 step 2).
    pub(crate) fn is_after_episode(&self, una: u64) -> bool {
        una <= self.recover
    }

    /// Remembers what an undo needs, at the begin of an episode, and whether the window may be undone
    /// with it.
    pub(crate) fn begin_episode(&mut self, una: u64, window: bool) {
        if una >= self.again_until {
            self.first_again = None;
        }
        self.undo = Some(Undo {
            retransmitted: 0,
            any: false,
            marker: una,
            window,
        });
    }

    /// `bytes` up to `end` were sent again, when our timestamp clock said `ts`.
    pub(crate) fn on_retransmission(&mut self, end: u64, bytes: u64, ts: u32) {
        self.first_again.get_or_insert(ts);
        self.again_until = self.again_until.max(end);
        if let Some(undo) = &mut self.undo {
            undo.any = true;
            undo.retransmitted += bytes;
        }
    }

    /// A D-SACK block of `bytes`, where `retransmitted` were sent again: whether it can be of them.
    /// What comes twice without that was doubled on its way, and was neither late nor lost (Linux:
    /// `tcp_dsack_seen`).
    pub(crate) fn is_of_retransmission(&mut self, bytes: u64, retransmitted: u64) -> bool {
        self.duplicated = self.duplicated.saturating_add(bytes);
        self.duplicated <= retransmitted
    }

    /// A D-SACK block of `bytes` from `start` on: whether everything that the episode sent again
    /// was for nothing.
    pub(crate) fn on_dsack(&mut self, start: u64, bytes: u64) -> bool {
        let Some(undo) = &mut self.undo else {
            return false;
        };
        // Of more than was sent again, or of what lay before: no duplicate of ours.
        if start < undo.marker || bytes > undo.retransmitted {
            return false;
        }
        undo.retransmitted -= bytes;
        undo.any && undo.retransmitted == 0
    }

    /// The peer echoes a timestamp from before our first retransmission, so it has received the
    /// original (RFC 3522); or it has what was given up and not yet sent again.
    pub(crate) fn acked_original(&self, delivery: &Delivery, echo: Option<u32>) -> bool {
        if self.undo.is_none() {
            return false;
        }
        match self.first_again {
            None => delivery.found_again,
            Some(first) => echo.is_some_and(|echo| is_before(echo, first)),
        }
    }

    /// The losses were none (RFC 3522, RFC 3708, RFC 5682).
    pub(crate) fn undo(&mut self, delivery: &Delivery, now: Time) {
        self.board.unmark_lost();
        let undo = self.undo.take();
        let was_rto = matches!(self.mode, Mode::Rto { .. });
        self.rack.reordering_seen |= !was_rto;
        if let Some(undo) = undo.filter(|_| !was_rto) {
            // What was believed to be lost had been overtaken by all that was SACKed (Linux:
            // `tcp_try_undo_partial`). What a timeout gave up was late, and in order.
            let bytes = self.board.high_delivered.saturating_sub(undo.marker);
            self.rack.note_overtaken(bytes);
        }
        if was_rto {
            // What was sent again for nothing is not what arrived: measured by it, all that was
            // sent before would be lost once more.
            self.rack.newest = delivery.newest;
            self.rack.rtt = delivery
                .newest
                .map_or(self.rack.rtt, |(at, _)| now.since(at));
        }
        self.on_exit();
    }
}

/// Whether timestamp `a` is older than `b`.
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}
