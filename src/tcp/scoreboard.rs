//! What was sent and is not acknowledged yet: which of it is in flight, delivered or lost.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

use self::lists::{List, NIL};
use crate::{tcp::ranges::RangeSet, time::Time};

mod lists;

/// Segments that one acknowledgement may make us look at in vain.
const LOOK_AHEAD: usize = 64;

/// Where a sent range of the stream is believed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On its way. Listed in the order of transmission.
    InFlight,
    /// Gone, and to be sent again.
    Lost,
    /// At the peer, by a SACK block.
    Sacked,
}

/// What the connection had delivered when a segment was sent: the ground of a delivery rate sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Bytes delivered so far.
    pub(crate) delivered: u64,
    /// When the last of them was.
    pub(crate) delivered_at: Time,
    /// When the first segment of the sampled flight was sent.
    pub(crate) first_sent_at: Time,
    /// The application was the limit.
    pub(crate) app_limited: bool,
    /// Bytes marked as lost so far.
    pub(crate) lost: u64,
    /// Bytes in flight before it.
    pub(crate) in_flight: u64,
}

/// A range of the stream that was last sent in one segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// When it was last sent.
    pub(crate) sent_at: Time,
    /// Whether it was sent more than once.
    pub(crate) retransmitted: bool,
    /// What was written ended with it, so that it has the PSH bit each time.
    pub(crate) pushed: bool,
    pub(crate) snapshot: Snapshot,
    place: Place,
    prev: u32,
    next: u32,
}

impl Sent {
    /// Whether it was given up, and was not sent again since.
    pub(crate) fn is_lost(&self) -> bool {
        self.place == Place::Lost
    }

    fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// The retransmission queue with its marks, and counts that are kept as it changes.
///
/// Segments are found by position in O(log n), walked by age in O(1), and split where a SACK block
/// or a retransmission covers a part of one.
#[derive(Debug)]
pub(crate) struct Scoreboard {
    segments: Vec<Sent>,
    free: Vec<u32>,
    /// By position in the stream.
    order: VecDeque<u32>,
    in_flight_list: List,
    /// What is to be sent again, by position: the oldest data goes first (RFC 6675 §4, NextSeg).
    lost_segments: BTreeMap<u64, u32>,
    sacked: RangeSet,
    in_flight: u64,
    lost: u64,
    /// One more than the highest position known to be delivered.
    pub(crate) high_delivered: u64,
}

impl Default for Scoreboard {
    fn default() -> Self {
        Self {
            segments: Vec::new(),
            free: Vec::new(),
            order: VecDeque::new(),
            in_flight_list: List::EMPTY,
            lost_segments: BTreeMap::new(),
            sacked: RangeSet::default(),
            in_flight: 0,
            lost: 0,
            high_delivered: 0,
        }
    }
}

impl Scoreboard {
    /// *Pipe* of RFC 6675: bytes believed to be on their way.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes that are to be sent again.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes that the peer holds out of order.
    pub(crate) fn sacked(&self) -> u64 {
        self.sacked.covered()
    }

    /// Whether the peer holds at least so many segments out of order, however small (RACK.segs_sacked
    /// of RFC 8985).
    pub(crate) fn has_sacked(&self, segments: u64, mss: u64) -> bool {
        let mut count = 0;
        for range in self.sacked.iter() {
            let from = self.index_of(range.start);
            for &id in self.order.range(from..) {
                let sent = self.at(id);
                if sent.start >= range.end {
                    break;
                }
                count += sent.len().div_ceil(mss);
                if count >= segments {
                    return true;
                }
            }
        }
        false
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether there is but one segment, of at most `mss` bytes.
    pub(crate) fn is_single(&self, mss: u64) -> bool {
        self.order.len() == 1 && self.head_len() <= mss
    }

    /// Whether something was sent again and nothing tells of it yet. Looks at all that is
    /// outstanding, for who asks once in a window.
    pub(crate) fn has_sent_again(&self) -> bool {
        let mut all = self.order.iter().map(|&id| self.at(id));
        all.any(|sent| sent.retransmitted && sent.place != Place::Sacked)
    }

    /// Whether what holds `position`, or comes first behind it, was sent more than once.
    pub(crate) fn was_sent_again(&self, position: u64) -> bool {
        self.order
            .get(self.index_of(position))
            .is_some_and(|&id| self.at(id).retransmitted)
    }

    /// When the oldest unacknowledged segment was last sent.
    pub(crate) fn head_sent_at(&self) -> Option<Time> {
        self.order.front().map(|&id| self.at(id).sent_at)
    }

    /// Whether the peer once said that it holds the oldest unacknowledged segment.
    pub(crate) fn first_is_sacked(&self) -> bool {
        self.order
            .front()
            .is_some_and(|&id| self.at(id).place == Place::Sacked)
    }

    fn at(&self, id: u32) -> &Sent {
        &self.segments[id as usize]
    }

    fn at_mut(&mut self, id: u32) -> &mut Sent {
        &mut self.segments[id as usize]
    }

    /// New data was sent.
    pub(crate) fn on_sent(&mut self, range: Range<u64>, now: Time, snapshot: Snapshot) {
        let sent = Sent {
            start: range.start,
            end: range.end,
            sent_at: now,
            retransmitted: false,
            pushed: false,
            snapshot,
            place: Place::InFlight,
            prev: NIL,
            next: NIL,
        };
        self.in_flight += sent.len();
        let id = self.insert(sent);
        self.order.push_back(id);
        self.append(id);
    }

    /// What was written ends with what was sent last.
    pub(crate) fn mark_pushed(&mut self) {
        if let Some(&id) = self.order.back() {
            self.at_mut(id).pushed = true;
        }
    }

    /// What lies right behind the lost segment that is to be sent next, and fits into `max` bytes
    /// with it, goes out with it (Linux: `tcp_retrans_try_collapse`).
    pub(crate) fn join_next_lost(&mut self, max: u64) {
        let Some((_, &id)) = self.lost_segments.first_key_value() else {
            return;
        };
        let index = self.index_of(self.at(id).start);
        while let Some(&next) = self.order.get(index + 1) {
            let (first, second) = (*self.at(id), *self.at(next));
            if second.place == Place::Sacked || first.len() + second.len() > max {
                break;
            }
            self.uncount(second.place, second.len());
            self.unlink(next);
            self.order.remove(index + 1);
            self.free.push(next);
            self.lost += second.len();
            let joined = self.at_mut(id);
            joined.end = second.end;
            joined.pushed |= second.pushed;
        }
    }

    /// The lost range to send again next: the one that comes first in the stream.
    pub(crate) fn next_lost(&self) -> Option<&Sent> {
        let (_, &id) = self.lost_segments.first_key_value()?;
        Some(self.at(id))
    }

    /// The first `len` bytes of what [`next_lost`](Self::next_lost) gave were sent again.
    pub(crate) fn on_retransmitted_lost(&mut self, len: u64, now: Time, snapshot: Snapshot) {
        let Some((_, &id)) = self.lost_segments.first_key_value() else {
            return;
        };
        let end = self.at(id).start + len;
        if end < self.at(id).end {
            let index = self.index_of(self.at(id).start);
            self.split(index, end);
        }
        self.unlink(id);
        self.lost -= len;
        self.in_flight += len;
        self.sent_again(id, now, snapshot);
    }

    /// The last segment in the queue: what a tail loss probe sends again.
    pub(crate) fn last(&self) -> Option<&Sent> {
        self.order.back().map(|&id| self.at(id))
    }

    /// The last `len` bytes of the queue, which are one segment's or a part of it, were sent again
    /// as a probe.
    pub(crate) fn on_probed(&mut self, len: u64, now: Time, snapshot: Snapshot) {
        let Some(last) = self.last() else { return };
        let start = last.end - len;
        if start > last.start {
            self.split(self.order.len() - 1, start);
        }
        let id = self.order[self.order.len() - 1];
        match self.at(id).place {
            Place::Sacked => return,
            Place::Lost => {
                self.lost -= len;
                self.in_flight += len;
            }
            Place::InFlight => {}
        }
        self.unlink(id);
        self.sent_again(id, now, snapshot);
    }

    fn sent_again(&mut self, id: u32, now: Time, snapshot: Snapshot) {
        let sent = self.at_mut(id);
        sent.sent_at = now;
        sent.retransmitted = true;
        sent.snapshot = snapshot;
        sent.place = Place::InFlight;
        self.append(id);
    }

    /// Everything before `una` is acknowledged. Calls `delivered` with each segment that was not
    /// known to be delivered, and returns their bytes.
    pub(crate) fn ack_to(&mut self, una: u64, mut delivered: impl FnMut(&Sent)) -> u64 {
        let mut bytes = 0;
        while let Some(&id) = self.order.front() {
            let sent = *self.at(id);
            if sent.start >= una {
                break;
            }
            let covered = sent.end.min(una) - sent.start;
            if sent.place != Place::Sacked {
                bytes += covered;
                delivered(&Sent {
                    end: sent.end.min(una),
                    ..sent
                });
                self.uncount(sent.place, covered);
            }
            if sent.end > una {
                self.at_mut(id).start = una;
                if sent.place == Place::Lost {
                    self.lost_segments.remove(&sent.start);
                    self.lost_segments.insert(una, id);
                }
                break;
            }
            if sent.place != Place::Sacked {
                self.unlink(id);
            }
            self.order.pop_front();
            self.free.push(id);
        }
        self.sacked.remove_before(una);
        self.high_delivered = self.high_delivered.max(una);
        bytes
    }

    /// What of `block` covers whole segments of `mss` bytes, or the end of what was sent with them:
    /// a block that begins or ends inside of a segment says nothing of that segment (Linux:
    /// `tcp_match_skb_to_sack`).
    pub(crate) fn whole_segments(&self, block: Range<u64>, mss: u64) -> Range<u64> {
        let holding = |position| {
            let &id = self.order.get(self.index_of(position))?;
            let sent = self.at(id);
            (sent.start <= position && sent.place != Place::Sacked).then_some(sent)
        };
        let start = holding(block.start).map_or(block.start, |sent| {
            let whole = (block.start - sent.start).next_multiple_of(mss);
            (sent.start + whole).min(sent.end)
        });
        let end = holding(block.end - 1)
            .filter(|sent| block.end < sent.end)
            .map_or(block.end, |sent| {
                sent.start + (block.end - sent.start) / mss * mss
            });
        start..end.max(start)
    }

    /// The peer holds `block`, which lies between SND.UNA and SND.NXT. As [`ack_to`](Self::ack_to).
    pub(crate) fn sack(&mut self, block: Range<u64>, mut delivered: impl FnMut(&Sent)) -> u64 {
        let mut sacked = std::mem::take(&mut self.sacked);
        let mut bytes = 0;
        sacked.insert(block, |fresh| {
            bytes += self.sack_fresh(fresh, &mut delivered)
        });
        self.sacked = sacked;
        bytes
    }

    fn sack_fresh(&mut self, fresh: Range<u64>, delivered: &mut impl FnMut(&Sent)) -> u64 {
        let mut index = self.index_of(fresh.start);
        if self
            .order
            .get(index)
            .is_some_and(|&id| self.at(id).start < fresh.start)
        {
            self.split(index, fresh.start);
            index += 1;
        }
        let mut bytes = 0;
        while let Some(&id) = self.order.get(index) {
            let sent = *self.at(id);
            if sent.start >= fresh.end {
                break;
            }
            if sent.end > fresh.end {
                self.split(index, fresh.end);
                continue;
            }
            bytes += sent.len();
            delivered(&sent);
            self.uncount(sent.place, sent.len());
            self.unlink(id);
            self.at_mut(id).place = Place::Sacked;
            index += 1;
        }
        self.high_delivered = self.high_delivered.max(fresh.end);
        bytes
    }

    /// RFC 8985 §6.2 step 5: what was sent before the segment last delivered (`rack`), and longer
    /// than `window` ago, is lost. Returns the bytes, and how long until all of the rest are.
    pub(crate) fn detect_lost(
        &mut self,
        rack: (Time, u64),
        window: Duration,
        now: Time,
    ) -> (u64, Option<Duration>) {
        let mut bytes = 0;
        let mut id = self.in_flight_list.head;
        while id != NIL {
            let sent = *self.at(id);
            if (sent.sent_at, sent.end) >= rack {
                break;
            }
            if sent.sent_at + window > now {
                let last = self.last_sent_before(id, rack);
                return (bytes, Some((last + window).since(now)));
            }
            bytes += sent.len();
            self.mark_lost(id);
            id = sent.next;
        }
        (bytes, None)
    }

    /// When the last of those in flight was sent that were sent before `rack`; `id` was. Who has
    /// left more holes than we look at waits for the latest that it can be.
    fn last_sent_before(&self, id: u32, rack: (Time, u64)) -> Time {
        let mut last = self.at(id);
        for _ in 0..LOOK_AHEAD {
            if last.next == NIL {
                return last.sent_at;
            }
            let next = self.at(last.next);
            if (next.sent_at, next.end) >= rack {
                return last.sent_at;
            }
            last = next;
        }
        rack.0
    }

    /// The retransmission timer fired: what is in flight is not believed to arrive any more (RFC
    /// 6298 §5.4), unless it was sent after `recent` and so cannot have been acknowledged yet (RFC
    /// 8985 §6.3). What SACK said is kept unless `forget_sacks` (the peer reneged, RFC 2018 §8).
    pub(crate) fn mark_all_lost(&mut self, forget_sacks: bool, recent: Option<Time>) {
        if forget_sacks {
            self.sacked = RangeSet::default();
        }
        for index in 0..self.order.len() {
            let id = self.order[index];
            let sent = *self.at(id);
            match sent.place {
                Place::InFlight
                    if index > 0 && recent.is_some_and(|recent| sent.sent_at > recent) => {}
                Place::InFlight => self.mark_lost(id),
                Place::Sacked if forget_sacks => {
                    self.in_flight += sent.len();
                    self.append(id);
                    self.mark_lost(id);
                }
                Place::Sacked | Place::Lost => {}
            }
        }
    }

    /// Bytes of the oldest unacknowledged segment.
    pub(crate) fn head_len(&self) -> u64 {
        self.order.front().map_or(0, |&id| self.at(id).len())
    }

    /// What is larger than `mss` does not fit through the path any more.
    pub(crate) fn mark_larger_lost(&mut self, mss: u64) {
        for index in 0..self.order.len() {
            let id = self.order[index];
            if self.at(id).place == Place::InFlight && self.at(id).len() > mss {
                self.mark_lost(id);
            }
        }
    }

    /// Without SACK only the oldest segment can be known to be lost (RFC 6582 §3.2). Returns the
    /// bytes that were marked.
    pub(crate) fn mark_head_lost(&mut self, mss: u64) -> u64 {
        let Some(&id) = self.order.front() else {
            return 0;
        };
        let head = *self.at(id);
        if head.place != Place::InFlight {
            return 0;
        }
        if head.len() > mss {
            self.split(0, head.start + mss);
        }
        self.mark_lost(id);
        self.at(id).len()
    }

    /// The losses were none: what is marked as lost and was not sent again is in flight after all.
    pub(crate) fn unmark_lost(&mut self) {
        let mut found: Vec<u32> = std::mem::take(&mut self.lost_segments)
            .into_values()
            .collect();
        // It was sent before everything that is in flight still, or it would not have been given
        // up; the list is in the order of transmission.
        found.sort_unstable_by_key(|&id| (self.at(id).sent_at, self.at(id).end));
        for id in found.into_iter().rev() {
            let len = self.at(id).len();
            self.lost -= len;
            self.in_flight += len;
            self.at_mut(id).place = Place::InFlight;
            self.prepend(id);
        }
    }

    fn mark_lost(&mut self, id: u32) {
        let len = self.at(id).len();
        self.unlink(id);
        self.in_flight -= len;
        self.lost += len;
        self.at_mut(id).place = Place::Lost;
        self.append(id);
    }

    fn uncount(&mut self, place: Place, len: u64) {
        match place {
            Place::InFlight => self.in_flight -= len,
            Place::Lost => self.lost -= len,
            Place::Sacked => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sent(ends: &[u64]) -> Scoreboard {
        let mut board = Scoreboard::default();
        let mut start = 0;
        for (i, &end) in ends.iter().enumerate() {
            board.on_sent(start..end, Time::from_millis(i as u64), Snapshot::default());
            start = end;
        }
        board
    }

    #[test]
    fn counts_follow_acks_sacks_losses_and_retransmissions() {
        let mut board = sent(&[100, 200, 300, 400]);
        assert_eq!(
            (board.in_flight(), board.lost(), board.sacked()),
            (400, 0, 0)
        );
        let mut seen = Vec::new();
        // A block that covers a half of the third and the whole fourth.
        assert_eq!(board.sack(250..400, |s| seen.push((s.start, s.end))), 150);
        assert_eq!(seen, [(250, 300), (300, 400)]);
        assert_eq!(board.sack(250..400, |_| panic!("told twice")), 0);
        assert_eq!((board.in_flight(), board.sacked()), (250, 150));
        // RACK: the fourth was sent at 3 ms; at 14 ms those sent before with a window of 10 ms are lost.
        let (lost, more) =
            board.detect_lost((Time::from_millis(3), 400), 10 * MS, Time::from_millis(11));
        assert_eq!((lost, more), (200, Some(MS)));
        assert_eq!(board.next_lost().map(|s| (s.start, s.end)), Some((0, 100)));
        board.on_retransmitted_lost(60, Time::from_millis(11), Snapshot::default());
        assert_eq!((board.in_flight(), board.lost()), (110, 140));
        assert_eq!(board.next_lost().map(|s| (s.start, s.end)), Some((60, 100)));
        assert_eq!(board.ack_to(80, |_| {}), 80);
        assert_eq!((board.in_flight(), board.lost()), (50, 120));
        assert_eq!(board.ack_to(400, |_| {}), 170);
        assert_eq!(
            (
                board.in_flight(),
                board.lost(),
                board.sacked(),
                board.is_empty()
            ),
            (0, 0, 0, true)
        );
    }

    #[test]
    fn a_timeout_loses_what_is_in_flight_and_an_undo_finds_it_again() {
        let mut board = sent(&[100, 200, 300]);
        board.sack(100..200, |_| {});
        board.mark_all_lost(false, None);
        assert_eq!(
            (board.in_flight(), board.lost(), board.sacked()),
            (0, 200, 100)
        );
        board.unmark_lost();
        assert_eq!(
            (board.in_flight(), board.lost(), board.sacked()),
            (200, 0, 100)
        );
        board.mark_all_lost(true, None);
        assert_eq!(
            (board.in_flight(), board.lost(), board.sacked()),
            (0, 300, 0)
        );
        assert_eq!(board.next_lost().map(|s| s.start), Some(0));
        assert_eq!(board.ack_to(300, |_| {}), 300);
        assert_eq!((board.in_flight(), board.lost()), (0, 0));
    }

    #[test]
    fn without_sack_one_segment_of_a_super_segment_is_lost() {
        let mut board = sent(&[1000]);
        assert_eq!(board.mark_head_lost(100), 100);
        assert_eq!(board.mark_head_lost(100), 0);
        assert_eq!((board.in_flight(), board.lost()), (900, 100));
    }

    /// Against a naive model that keeps a mark for each byte.
    #[test]
    fn random_operations_agree_with_a_map_of_bytes() {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        for _ in 0..300 {
            let mut board = Scoreboard::default();
            let (mut una, mut nxt, mut clock) = (0_u64, 0_u64, 0);
            let mut sacked = vec![false; 4096];
            for _ in 0..60 {
                clock += 1;
                let now = Time::from_millis(clock);
                match random(6) {
                    0 | 1 if nxt < 4000 => {
                        let len = 1 + random(60);
                        board.on_sent(nxt..nxt + len, now, Snapshot::default());
                        nxt += len;
                    }
                    2 if nxt > una => {
                        let start = una + random(nxt - una);
                        let end = start + 1 + random(nxt - start);
                        let fresh = sacked[start as usize..end as usize]
                            .iter()
                            .filter(|s| !**s)
                            .count();
                        assert_eq!(board.sack(start..end, |_| {}), fresh as u64);
                        sacked[start as usize..end as usize].fill(true);
                    }
                    3 if nxt > una => {
                        let to = una + 1 + random(nxt - una);
                        let fresh = sacked[una as usize..to as usize]
                            .iter()
                            .filter(|s| !**s)
                            .count();
                        assert_eq!(board.ack_to(to, |_| {}), fresh as u64);
                        una = to;
                    }
                    4 => {
                        board.detect_lost((now, u64::MAX), Duration::from_millis(random(20)), now);
                    }
                    _ => {
                        if let Some(lost) = board.next_lost() {
                            let len = 1 + random(lost.len());
                            board.on_retransmitted_lost(len, now, Snapshot::default());
                        }
                    }
                }
                let held = sacked[una as usize..nxt as usize]
                    .iter()
                    .filter(|s| **s)
                    .count() as u64;
                assert_eq!(board.sacked(), held);
                assert_eq!(board.in_flight() + board.lost() + held, nxt - una);
            }
        }
    }
}
