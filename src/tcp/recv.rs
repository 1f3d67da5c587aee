//! RCV.*: what is received, the window to advertise, and when to acknowledge.

use std::time::Duration;

use smallvec::SmallVec;

use crate::{
    seq::SeqNum,
    tcp::{assembler::Assembler, send::nearest},
    time::Time,
};

/// Segments acknowledged at once when a connection starts, at most (Linux: `TCP_MAX_QUICKACKS`).
const QUICK_ACKS: u8 = 16;

/// Acknowledgements for duplicates that may be due at one time.
const DUPLICATES_MAX: u8 = 64;

/// Segments acknowledged at once after a mark of congestion: the window may be down to one.
const QUICK_ACKS_MARKED: u8 = 2;

/// The receiving half of a connection. Positions count like those of
/// [`Send`](crate::tcp::send::Send).
#[derive(Debug)]
pub(crate) struct Recv {
    pub(crate) irs: SeqNum,
    /// Next expected.
    pub(crate) nxt: u64,
    /// The right edge of the window that we advertised; never moves left.
    pub(crate) adv: u64,
    /// Rcv.Wind.Shift.
    pub(crate) shift: u8,
    /// What came before its turn.
    pub(crate) assembler: Assembler,
    /// The position of the peer's FIN, once we have seen it.
    pub(crate) fin: Option<u64>,
    pub(crate) ack: AckState,
    /// What the peer's full-sized segments hold (Linux: `rcv_mss`).
    pub(crate) mss: u16,
    /// Blocks to report as received twice, one with each acknowledgement (RFC 2883).
    pub(crate) dsack: SmallVec<[(u64, u64); 1]>,
    /// What the last segment held.
    last_len: u16,
    pub(crate) tuning: Tuning,
    /// The byte behind the urgent data (RCV.UP).
    pub(crate) urgent: Option<u64>,
}

/// When to acknowledge.
#[derive(Debug)]
pub(crate) struct AckState {
    /// An acknowledgement is to go out now.
    pub(crate) now: bool,
    /// Acknowledgements due for segments that came out of order or twice. Senders count them, and
    /// each can report one block (RFC 5681 §4.2), so they are not merged into one.
    pub(crate) duplicates: u8,
    /// Bytes received and not acknowledged.
    pub(crate) pending: u32,
    /// Segments that are still acknowledged at once.
    pub(crate) quick: u8,
    /// We answer what we receive: acknowledgements ride on the answers.
    pub(crate) interactive: bool,
    /// Segments not acknowledged that seem to end what the peer has to send for now: it may wait for
    /// the acknowledgement, and nothing will come to bring it on.
    pub(crate) ends: u8,
    /// When data last came.
    pub(crate) last_data: Time,
    /// RCV.NXT as last told to the peer.
    pub(crate) sent: u64,
}

/// Measures how fast the application reads, to size the buffer (dynamic right-sizing).
#[derive(Debug, Default)]
pub(crate) struct Tuning {
    /// When this round trip began.
    pub(crate) since: Time,
    /// What the application had read then.
    pub(crate) consumed: u64,
    /// What it read in the best round trip so far.
    pub(crate) space: u64,
}

impl Recv {
    pub(crate) fn new(irs: SeqNum, now: Time) -> Self {
        Self {
            irs,
            nxt: 1,
            adv: 1,
            shift: 0,
            assembler: Assembler::default(),
            fin: None,
            ack: AckState {
                now: false,
                duplicates: 0,
                pending: 0,
                quick: 0,
                interactive: false,
                ends: 0,
                last_data: now,
                sent: 1,
            },
            mss: 536,
            dsack: SmallVec::new(),
            last_len: 0,
            urgent: None,
            tuning: Tuning {
                since: now,
                ..Tuning::default()
            },
        }
    }

    /// The sequence number of a position.
    pub(crate) fn seq(&self, position: u64) -> SeqNum {
        self.irs + position as u32
    }

    /// The position nearest to RCV.NXT that has this number; `None` if it lies before the stream.
    pub(crate) fn position(&self, seq: SeqNum) -> Option<u64> {
        nearest(self.nxt, self.seq(self.nxt), seq)
    }

    /// RCV.WND: what is left of the window that we advertised.
    pub(crate) fn wnd(&self) -> u64 {
        self.adv.saturating_sub(self.nxt)
    }

    /// The largest window that the field can tell.
    pub(crate) fn wnd_max(&self) -> u64 {
        u64::from(u16::MAX) << self.shift
    }

    /// The four cases of RFC 9293 §3.10.7.4: whether any of `len` numbers from `start` on is in the
    /// window. `start` may lie before the stream.
    pub(crate) fn accepts(&self, start: SeqNum, len: u32) -> bool {
        let nxt = self.seq(self.nxt);
        let wnd = self.wnd().min(u64::from(u32::MAX >> 1)) as u32;
        match (len, wnd) {
            (0, 0) => start == nxt,
            (0, _) => start.in_window(nxt, wnd),
            (_, 0) => false,
            (_, _) => start.in_window(nxt, wnd) || (start + (len - 1)).in_window(nxt, wnd),
        }
    }

    /// Moves the right edge to what `queued` bytes leave of the buffer, unless that is not worth telling
    /// (RFC 9293 §3.8.6.2.2), and returns the value of the window field.
    pub(crate) fn advertise(&mut self, queued: usize, capacity: usize) -> u16 {
        let max = self.wnd_max();
        let full = (capacity as u64).min(max);
        let worth = (full / 2).min(u64::from(self.mss));
        // No more than the field can tell: what was not told is not in the window.
        let free = (capacity.saturating_sub(queued) as u64).min(max);
        let edge = self.nxt + free;
        let unit = 1_u64 << self.shift;
        if edge >= self.adv + worth || edge > self.adv && free >= full {
            // The field counts in units. What is less than one and worth telling is told as one, or it
            // would be said again and again that the window is closed (Linux: `__tcp_select_window`).
            let units = (free / unit).max(u64::from(free > 0));
            self.adv = self.adv.max(self.nxt + units * unit);
        }
        let wnd = self.wnd().min(max);
        // What was promised need not be whole units. Rounded up, the edge creeps to the right with
        // each segment received, and single bytes would keep the window open for ever: beyond an
        // eighth of the buffer it is rounded down, and the peer sees the edge move left by less
        // than a unit (RFC 7323 §2.4). What it sends there is taken all the same.
        let slack = (capacity as u64 / 8).max(2 * unit);
        let bound = (capacity as u64 + slack).saturating_sub(queued as u64);
        let field = match wnd.div_ceil(unit) {
            field if field * unit <= bound => field,
            _ => wnd / unit,
        };
        self.adv = self.adv.max(self.nxt + field * unit);
        field as u16 // At most u16::MAX, for wnd is at most `max`.
    }

    /// The room at which an update of the window is worth a segment: twice what the peer may send
    /// now (Linux: `tcp_cleanup_rbuf`), and never less than silly-window avoidance asks for.
    pub(crate) fn update_at(&self, capacity: usize) -> usize {
        let capacity = capacity.min(self.wnd_max() as usize);
        let wnd = self.wnd() as usize;
        let worth = (capacity / 2).min(usize::from(self.mss));
        let at = (2 * wnd).max(wnd + worth);
        // A window that cannot double need not be watched.
        if at > capacity { usize::MAX } else { at }
    }

    /// Data came: says whether to acknowledge now, or later.
    pub(crate) fn on_data(&mut self, bytes: u32, segments: u32, rto: Duration, now: Time) {
        // At first and after a pause the peer starts slowly and waits for acknowledgements.
        let first = self.ack.sent == 1 && self.ack.pending == 0;
        if first || now > self.ack.last_data + rto {
            self.ack.quick = self.ack.quick.max(self.quick_acks());
        }
        self.ack.last_data = now;
        self.ack.pending = self.ack.pending.saturating_add(bytes);
        let full = u32::from(self.mss).max(1);
        // SHLD-19: at least every second full-sized segment. As on Linux, what comes behind one
        // counts as the second.
        if segments >= 2 || self.ack.pending > full || (self.ack.quick > 0 && !self.ack.interactive)
        {
            self.ack.now = true;
        }
    }

    /// Whether to acknowledge as soon as the application has read everything (Linux:
    /// `tcp_cleanup_rbuf`).
    pub(crate) fn owes_ack_when_read(&self) -> bool {
        let enough = if self.ack.interactive { 2 } else { 1 };
        self.ack.pending > 0 && self.ack.ends >= enough
    }

    /// The peer sent what we had: it has not got our acknowledgements in time (Linux:
    /// `tcp_enter_quickack_mode`).
    pub(crate) fn on_repetition(&mut self) {
        self.hurry(self.quick_acks());
    }

    /// How many segments are acknowledged at once: those of half a window, beyond which the peer
    /// has enough to go on with (Linux: `tcp_incr_quickack`).
    fn quick_acks(&self) -> u8 {
        let window = self.adv.saturating_sub(self.ack.sent);
        match window / (2 * u64::from(self.mss.max(1))) {
            0 => 2,
            segments => segments.min(u64::from(QUICK_ACKS)) as u8,
        }
    }

    /// The first segment with a mark of congestion.
    pub(crate) fn on_mark(&mut self) {
        self.hurry(QUICK_ACKS_MARKED);
    }

    /// The buffer has grown. Linux opens the window of a larger one by two segments for each that
    /// comes, and acknowledges each of these at once (`tcp_grow_window`). So can we at once, but the
    /// acknowledgements are also what a sender times its slow start by: on a path that takes longer
    /// than a millisecond for a segment, every second one comes too rarely for HyStart's trains.
    pub(crate) fn on_growth(&mut self, bytes: usize) {
        let steps = bytes / (2 * usize::from(self.mss.max(1)));
        self.ack.quick = self.ack.quick.max(u8::try_from(steps).unwrap_or(u8::MAX));
    }

    /// Acknowledges at least so many segments at once.
    fn hurry(&mut self, segments: u8) {
        self.ack.quick = self.ack.quick.max(segments);
        self.ack.interactive = false;
    }

    /// A segment out of order, or one that came before.
    pub(crate) fn on_duplicate(&mut self) {
        self.ack.duplicates = (self.ack.duplicates + 1).min(DUPLICATES_MAX);
        self.ack.now = true;
    }

    /// Reports a block as received twice with one of the next acknowledgements.
    pub(crate) fn report_duplicate(&mut self, start: u64, end: u64) {
        if self.dsack.len() < usize::from(DUPLICATES_MAX) {
            self.dsack.push((start, end));
        }
    }

    /// `TCP_QUICKACK`: acknowledge at once from now on, or not before we must.
    pub(crate) fn set_quickack(&mut self, on: bool) {
        self.ack.interactive = !on;
        if on {
            self.ack.quick = QUICK_ACKS;
            self.ack.now |= self.ack.pending > 0;
        }
    }

    /// Learns what the peer's full-sized segments are (Linux: `tcp_measure_rcv_mss`): the largest,
    /// or a smaller size that came twice and was not the end of anything. Any other that is smaller
    /// ends something.
    pub(crate) fn measure_segment(&mut self, len: u16, is_end: bool) {
        let mut ends = is_end && len == self.mss;
        if len >= self.mss {
            self.mss = len;
        } else {
            ends = true;
            if len >= 536 || len >= 88 && !is_end {
                if len == self.last_len {
                    self.mss = len;
                    ends = false;
                }
                self.last_len = len;
            }
        }
        self.ack.ends = self.ack.ends.saturating_add(u8::from(ends));
    }

    /// No answer of ours came in time for the acknowledgement to ride on it.
    pub(crate) fn on_ack_timeout(&mut self) {
        self.ack.now = self.ack.pending > 0;
        self.ack.interactive = false;
    }

    /// An acknowledgement went out, alone or on data.
    pub(crate) fn on_ack_sent(&mut self) {
        self.ack.quick = self
            .ack
            .quick
            .saturating_sub(u8::from(self.ack.pending > 0));
        (self.ack.pending, self.ack.ends) = (0, 0);
        self.ack.sent = self.nxt;
        if !self.dsack.is_empty() {
            self.dsack.remove(0);
        }
        // Every segment out of order, and every one that came twice, has its own.
        self.ack.duplicates = self.ack.duplicates.saturating_sub(1);
        self.ack.now = self.ack.duplicates > 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recv() -> Recv {
        let mut rcv = Recv::new(SeqNum::new(u32::MAX), Time::ZERO);
        rcv.advertise(0, 1000);
        rcv
    }

    #[test]
    fn the_four_cases_of_acceptability() {
        let mut rcv = recv();
        let seq = SeqNum::new;
        assert!(rcv.accepts(seq(0), 0) && rcv.accepts(seq(999), 0) && !rcv.accepts(seq(1000), 0));
        assert!(!rcv.accepts(seq(u32::MAX), 0));
        assert!(rcv.accepts(seq(u32::MAX), 2) && !rcv.accepts(seq(u32::MAX), 1));
        assert!(rcv.accepts(seq(999), 5) && !rcv.accepts(seq(1000), 5));
        rcv.nxt = rcv.adv;
        assert!(
            rcv.accepts(seq(1000), 0) && !rcv.accepts(seq(1001), 0) && !rcv.accepts(seq(1000), 1)
        );
    }

    #[test]
    fn full_sized_is_the_largest_segment_or_a_smaller_one_that_came_twice() {
        let mut rcv = recv();
        for (len, is_end, mss) in [
            (1000, false, 1000),
            (600, true, 1000),
            (600, true, 600),
            (1000, false, 1000),
            // So small, and the end of something: that it came twice says nothing.
            (200, true, 1000),
            (200, true, 1000),
            (200, false, 1000),
            (200, false, 200),
            (80, false, 200),
            (80, false, 200),
        ] {
            rcv.measure_segment(len, is_end);
            assert_eq!(rcv.mss, mss, "{len}, {is_end}");
        }
    }

    #[test]
    fn the_edge_moves_only_when_it_is_worth_it_and_never_left() {
        let mut rcv = recv();
        rcv.mss = 100;
        rcv.nxt += 1000;
        assert_eq!(rcv.advertise(1000, 1000), 0);
        assert_eq!(rcv.advertise(901, 1000), 0);
        assert_eq!(rcv.advertise(900, 1000), 100);
        assert_eq!(rcv.advertise(990, 1000), 100);
        rcv.shift = 7;
        rcv.adv = rcv.nxt + 130;
        let edge = rcv.adv;
        let field = rcv.advertise(870, 1000);
        assert!(rcv.nxt + (u64::from(field) << 7) >= edge);
    }

    #[test]
    fn what_was_told_is_not_worth_telling_again_and_an_empty_buffer_is_open() {
        for shift in 0..=14 {
            for capacity in [1152, 4096, 65_535, 300_000] {
                for (mss, promised) in [(16, 0), (88, 0), (88, 30), (536, 1), (1460, 700)] {
                    for free in (0..300).chain([capacity / 2, capacity - 1, capacity]) {
                        let mut rcv = recv();
                        (rcv.shift, rcv.mss) = (shift, mss);
                        rcv.nxt = rcv.adv - promised;
                        let field = rcv.advertise(capacity - free, capacity);
                        let text = format!("{shift} {capacity} {mss} {promised} {free}");
                        assert!(free < rcv.update_at(capacity), "{text}");
                        assert!(field > 0 || free < capacity, "{text}");
                        let over = (u64::from(field) << shift).saturating_sub(free as u64);
                        assert!(over < promised.max(1) + (1 << shift), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_second_full_segment_is_acknowledged_at_once() {
        let mut rcv = recv();
        rcv.ack.interactive = true;
        rcv.on_data(536, 1, Duration::MAX, Time::ZERO);
        assert!(!rcv.ack.now);
        rcv.on_data(536, 1, Duration::MAX, Time::ZERO);
        assert!(rcv.ack.now);
        rcv.on_ack_sent();
        rcv.on_data(5000, 4, Duration::MAX, Time::ZERO);
        assert!(rcv.ack.now);
    }
}
