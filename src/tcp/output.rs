//! What to send next: a reset, what was lost, new data, a probe, or a bare acknowledgement.

use std::time::Duration;

use crate::{
    info::State,
    packet::Payload,
    tcp::{
        Context, Outgoing,
        connection::{Connection, Reset},
        recovery::{Frto, Mode, Probe},
        timers::Timer,
    },
    wire::{
        options::{SackBlocks, TcpOptions},
        tcp::{Flags, TcpHeader},
    },
};

mod new_data;

/// Payload of the largest super-segment: with 60 bytes of each header the packet stays below 64 KiB.
pub(super) const SUPER_SEGMENT_MAX: u64 = 65_535 - 120;

/// Chunks of data that one segment may refer to; small writes are joined before they get here.
const SLICES_MAX: usize = 16;

/// A pause after which what comes is not an answer any more (Linux: `TCP_ATO_MIN`).
const ANSWER_WITHIN: Duration = Duration::from_millis(40);

/// A range of the stream to send.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    /// Where it ends, without the FIN.
    end: u64,
    fin: bool,
}

impl Connection {
    /// The next segment to send, until there is none. Then the timers are right.
    pub(crate) fn poll_segment(&mut self, cx: &mut Context<'_>) -> Option<Outgoing> {
        if let Some(last) = self.parting_data(cx) {
            return Some(last);
        }
        if let Some(reset) = self.pending.reset.take() {
            return Some(self.reset_segment(reset, cx));
        }
        match self.state {
            State::Closed => return None,
            State::TimeWait => return self.bare_ack(cx),
            _ => {}
        }
        self.pull(cx);
        self.data(cx)
            .or_else(|| self.window_probe(cx))
            .or_else(|| self.keepalive_probe(cx))
            .or_else(|| self.bare_ack(cx))
    }

    /// What an owner wrote before it left in a way that resets the connection. What cannot go out
    /// at once never will.
    fn parting_data(&mut self, cx: &mut Context<'_>) -> Option<Outgoing> {
        if !self.pending.parting || matches!(self.state, State::Closed | State::TimeWait) {
            return None;
        }
        self.pull(cx);
        let segment = self.pacing_allows(cx).then(|| self.new_data(cx)).flatten();
        if segment.is_none() {
            self.part(cx);
        }
        segment
    }

    /// What congestion control and pacing let out.
    fn data(&mut self, cx: &mut Context<'_>) -> Option<Outgoing> {
        if let Some(probe) = self.loss_probe(cx) {
            return Some(probe);
        }
        let nothing =
            self.recovery.board.lost() == 0 && self.snd.unsent() == 0 && !self.snd.fin_unsent();
        if nothing || !self.pacing_allows(cx) {
            return None;
        }
        self.retransmission(cx).or_else(|| self.new_data(cx))
    }

    /// RFC 9293 §3.10.5.
    fn reset_segment(&mut self, reset: Reset, cx: &mut Context<'_>) -> Outgoing {
        cx.counters.resets_sent += 1;
        let header = match reset {
            Reset::Abort(seq) => TcpHeader {
                seq,
                ..self.header(Flags::RST | Flags::ACK, cx)
            },
            Reset::Refuse(seq) => TcpHeader {
                seq,
                flags: Flags::RST,
                ..TcpHeader::default()
            },
        };
        self.outgoing(header, Payload::new(), 0)
    }

    /// Payload bytes of a full segment that also carries what SACK blocks there are to send.
    pub(super) fn current_mss(&self) -> u64 {
        let blocks = self.sack_block_count();
        let options = if blocks > 0 { 4 + 8 * blocks as u64 } else { 0 };
        u64::from(self.segment_max())
            .saturating_sub(options)
            .max(16)
    }

    fn sack_block_count(&self) -> usize {
        if !self.agreed.sack {
            return 0;
        }
        let max = if self.agreed.timestamps { 3 } else { 4 };
        let held = self.rcv.assembler.range_count() + usize::from(self.lone_fin().is_some());
        (usize::from(!self.rcv.dsack.is_empty()) + held).min(max)
    }

    /// The peer's FIN, when it came before its turn: a number like those of the text.
    fn early_fin(&self) -> Option<u64> {
        self.rcv.fin.filter(|fin| *fin > self.rcv.nxt)
    }

    /// The same, when it is not the end of a range that we hold.
    fn lone_fin(&self) -> Option<u64> {
        self.early_fin()
            .filter(|fin| self.rcv.assembler.end() != Some(*fin))
    }

    /// What congestion control lets out now, in bytes.
    fn allowance(&self) -> u64 {
        let in_flight = self.recovery.in_flight();
        match self.recovery.mode {
            Mode::Cwr { prr, .. } | Mode::Fast { prr, .. } if !self.cc.controls_recovery() => {
                prr.allowance(in_flight)
            }
            Mode::Open | Mode::Cwr { .. } | Mode::Fast { .. } => {
                u64::from(self.cc.window()).saturating_sub(in_flight)
            }
            Mode::Rto { spared, .. } => {
                let counted = in_flight - spared.min(in_flight);
                u64::from(self.cc.window()).saturating_sub(counted)
            }
        }
    }

    /// What is marked as lost goes first, within the window and the current path MTU, never copied.
    fn retransmission(&mut self, cx: &mut Context<'_>) -> Option<Outgoing> {
        let lost = *self.recovery.board.next_lost()?;
        if matches!(
            self.recovery.mode,
            Mode::Rto {
                frto: Frto::Sending,
                ..
            }
        ) {
            let segment = self.new_data(cx);
            if segment.is_some() || self.finds_out() {
                return segment;
            }
        }
        let mss = self.current_mss();
        let allowance = self.allowance();
        let alone = self.recovery.in_flight() == 0;
        if allowance < mss.min(lost.end - lost.start) && !alone {
            return None;
        }
        let window = match self.snd.right_edge().saturating_sub(lost.start) {
            // A window that the peer took back leaves one segment to try (MAY-7), the first: no
            // other could be taken before it.
            0 if lost.start == self.snd.una => mss,
            0 => return None,
            room => room,
        };
        let lost = if lost.end - lost.start < mss {
            let joined = if alone { mss } else { allowance.min(mss) };
            self.recovery.board.join_next_lost(joined.min(window));
            *self.recovery.board.next_lost()?
        } else {
            lost
        };
        let max = allowance.max(mss).min(window).min(self.burst_limit(mss));
        let range = self.sent_range(lost.start, lost.end, whole_segments(max, mss));
        let mut segment = self.data_segment(range, mss, cx);
        if lost.pushed && range.end + u64::from(range.fin) == lost.end {
            segment.header.flags = segment.header.flags | Flags::PSH;
        }
        let len = range.end + u64::from(range.fin) - range.start;
        let snapshot = self.recovery.snapshot(cx.now);
        self.recovery
            .board
            .on_retransmitted_lost(len, cx.now, snapshot);
        self.count_retransmission(range.start, len, cx);
        if let Some(prr) = self.recovery.prr_mut() {
            prr.on_sent(len);
        }
        self.on_paced(len, cx.now);
        if range.start == self.snd.una {
            self.timers.start(Timer::Retransmit, self.rto_at(cx.now));
        }
        self.set_loss_timers(false, cx.now);
        Some(segment)
    }

    /// F-RTO (RFC 5682 §3.1 step 2b): after the first acknowledgement that follows a timeout, new
    /// data goes out and not what is believed to be lost. If there was none to send, that is given
    /// up.
    fn finds_out(&mut self) -> bool {
        let nxt = self.snd.nxt;
        let Mode::Rto {
            recovery_point,
            frto,
            ..
        } = &mut self.recovery.mode
        else {
            return false;
        };
        if nxt == *recovery_point {
            *frto = Frto::Off;
        }
        nxt > *recovery_point
    }

    /// At most `max` bytes of what was sent before from `start` to `end`, the FIN told apart.
    fn sent_range(&self, start: u64, end: u64, max: u64) -> Range {
        let mut end = end.min(start + max);
        end = self.bounded_end(start, end);
        let fin = self.snd.fin.is_some_and(|fin| end > fin);
        Range {
            start,
            end: end - u64::from(fin),
            fin,
        }
    }

    /// Where a segment from `start` has to end for it not to refer to too many chunks, but not
    /// before it is a full one (SHLD-28): that one is joined.
    fn bounded_end(&self, start: u64, end: u64) -> u64 {
        let data_end = self.snd.data_end().min(end);
        if data_end <= start {
            return end;
        }
        let limit = self
            .snd
            .queue
            .end_of_chunks(start - 1, SLICES_MAX)
            .map_or(end, |offset| offset + 1);
        if limit >= data_end {
            return end;
        }
        let mss = self.current_mss();
        let whole = (limit - start) / mss * mss;
        (start + whole.max(mss)).min(end)
    }

    fn count_retransmission(&mut self, start: u64, len: u64, cx: &mut Context<'_>) {
        self.counts.retransmitted += len;
        cx.counters.segments_retransmitted += 1;
        self.recovery
            .on_retransmission(start + len, len, self.ts.val(cx.now));
        tracing::trace!(start, len, "retransmit");
    }

    /// One segment more, new if there is one, else the last (RFC 8985 §7.3).
    fn loss_probe(&mut self, cx: &mut Context<'_>) -> Option<Outgoing> {
        if !std::mem::take(&mut self.pending.loss_probe) {
            return None;
        }
        let mss = self.current_mss();
        let window = self.snd.right_edge().saturating_sub(self.snd.nxt);
        let fresh = self.snd.unsent().min(mss);
        if fresh > 0 && fresh <= window {
            cx.counters.loss_probes += 1;
            let range = self.new_range(fresh);
            let segment = self.send_new(range, mss, cx);
            self.recovery.probe = Some(Probe {
                end: self.snd.nxt,
                retransmitted: false,
            });
            self.timers.stop(Timer::LossProbe);
            return Some(segment);
        }
        let last = *self.recovery.board.last()?;
        // The last segment on the wire: what is left over of a super-segment, and the FIN on it.
        let fin = u64::from(self.snd.fin.is_some_and(|fin| last.end > fin));
        let tail = match last.end - last.start - fin {
            0 => fin,
            text => (text - 1) % mss + 1 + fin,
        };
        let start = last.end - tail;
        if start >= self.snd.right_edge() && start > self.snd.una {
            // The peer took back the window that it was in, and would not take it. The timeout is
            // left, which no second probe may put off, nor this one has: it counts from the head.
            let head = self.recovery.board.head_sent_at().unwrap_or(cx.now);
            let at = self.rto_at(head).max(cx.now);
            self.timers.start(Timer::Retransmit, at);
            self.recovery.probe = Some(Probe {
                end: self.snd.nxt,
                retransmitted: false,
            });
            return None;
        }
        cx.counters.loss_probes += 1;
        let range = self.sent_range(start, last.end, mss + fin);
        let len = range.end + u64::from(range.fin) - range.start;
        let mut segment = self.data_segment(range, mss, cx);
        if last.pushed {
            segment.header.flags = segment.header.flags | Flags::PSH;
        }
        let snapshot = self.recovery.snapshot(cx.now);
        self.recovery.board.on_probed(len, cx.now, snapshot);
        self.recovery.probe = Some(Probe {
            end: self.snd.nxt,
            retransmitted: true,
        });
        self.count_retransmission(range.start, len, cx);
        self.timers.stop(Timer::LossProbe);
        Some(segment)
    }

    fn new_range(&self, len: u64) -> Range {
        let start = self.snd.nxt;
        let end = self.bounded_end(start, start + len);
        Range {
            start,
            end,
            fin: false,
        }
    }

    /// Sends a range for the first time.
    fn send_new(&mut self, range: Range, mss: u64, cx: &mut Context<'_>) -> Outgoing {
        let segment = self.data_segment(range, mss, cx);
        let (len, now) = (range.end - range.start, cx.now);
        let taken = len + u64::from(range.fin);
        let snapshot = self.recovery.snapshot(now);
        let flight = self.recovery.in_flight();
        self.recovery
            .board
            .on_sent(range.start..range.start + taken, now, snapshot);
        if len > 0 && range.end >= self.snd.data_end() {
            self.recovery.board.mark_pushed();
        }
        if let Some(prr) = self.recovery.prr_mut() {
            prr.on_sent(taken);
        }
        self.snd.nxt += taken;
        if len % mss > 0 {
            self.snd.small_end = self.snd.nxt;
        }
        self.pending.push &= self.snd.unsent() > 0;
        self.cc
            .on_sent(taken as u32, flight.min(u64::from(u32::MAX)) as u32, now);
        if self.snd.unsent() == 0 && self.allowance() >= mss {
            self.recovery.set_app_limited();
        }
        // An answer to what was received: further acknowledgements ride on answers.
        if len > 0 && now.since(self.rcv.ack.last_data) < ANSWER_WITHIN && self.rcv.nxt > 1 {
            self.rcv.ack.interactive = true;
        }
        self.data_sent_at = now;
        self.on_paced(taken, now);
        self.set_loss_timers(false, now);
        self.postpone_probe(now);
        segment
    }

    /// A segment of data, and perhaps the FIN. Everything that can ride on it does.
    fn data_segment(&mut self, range: Range, mss: u64, cx: &mut Context<'_>) -> Outgoing {
        let mut flags = Flags::ACK;
        if range.fin {
            flags = flags | Flags::FIN;
        }
        let len = range.end - range.start;
        // MUST-61: what empties the queue is pushed; and as Linux does, what ends a super-segment,
        // for a peer that gathers segments (GRO) to hand them on.
        if len > mss || len > 0 && range.end >= self.snd.data_end() {
            flags = flags | Flags::PSH;
        }
        let fresh = range.start >= self.snd.nxt && len > 0;
        if fresh && std::mem::take(&mut self.ecn.reduced) {
            flags = flags | Flags::CWR;
        }
        let mut payload = Payload::new();
        if len > 0 {
            self.snd
                .queue
                .slice(range.start - 1..range.end - 1, &mut payload);
            if payload.len() > SLICES_MAX {
                let joined = payload.concat();
                payload.clear();
                payload.push(joined.into());
            }
        }
        let mut header = self.header(flags, cx);
        header.seq = self.snd.seq(range.start);
        let gso_size = if len > mss { mss as u16 } else { 0 };
        let mut segment = self.outgoing(header, payload, gso_size);
        segment.ect = self.agreed.ecn && fresh;
        segment
    }

    /// RFC 9293 §3.8.6.1, as Linux does it: a segment without data that the peer must answer; or,
    /// when the window is open but small, what fits into it.
    fn window_probe(&mut self, cx: &mut Context<'_>) -> Option<Outgoing> {
        if !std::mem::take(&mut self.pending.window_probe) {
            return None;
        }
        let window = self.snd.right_edge().saturating_sub(self.snd.nxt);
        let fits = self.snd.unsent().min(window).min(self.current_mss());
        if fits > 0 {
            let range = self.new_range(fits);
            let mss = self.current_mss();
            self.unwatch_window();
            let mut probe = self.send_new(range, mss, cx);
            probe.header.flags = probe.header.flags | Flags::PSH; // As Linux does.
            self.recovery.board.mark_pushed();
            return Some(probe);
        }
        Some(self.probe_segment(cx))
    }

    fn keepalive_probe(&mut self, cx: &mut Context<'_>) -> Option<Outgoing> {
        std::mem::take(&mut self.pending.keepalive).then(|| self.probe_segment(cx))
    }

    /// The number before SND.UNA, which is not acceptable and so is acknowledged.
    fn probe_segment(&mut self, cx: &mut Context<'_>) -> Outgoing {
        let mut header = self.header(Flags::ACK, cx);
        header.seq = self.snd.seq(self.snd.una - 1);
        self.outgoing(header, Payload::new(), 0)
    }

    fn bare_ack(&mut self, cx: &mut Context<'_>) -> Option<Outgoing> {
        if !self.rcv.ack.now {
            return None;
        }
        let mut header = self.header(Flags::ACK, cx);
        let edge = self.snd.right_edge();
        if edge < self.snd.nxt {
            // A peer that has taken back its window would refuse SND.NXT, and with it what it
            // acknowledges (Linux: `tcp_acceptable_seq`).
            header.seq = self.snd.seq(edge);
        }
        Some(self.outgoing(header, Payload::new(), 0))
    }

    /// A header at SND.NXT that acknowledges, advertises, echoes and reports all there is.
    fn header(&mut self, flags: Flags, cx: &mut Context<'_>) -> TcpHeader {
        let mut flags = flags;
        if self.agreed.ecn && self.ecn.echo {
            flags = flags | Flags::ECE;
        }
        let (mut wnd, is_closed) = (0, self.state == State::Closed);
        let rcv = &mut self.rcv;
        let has_opened = self.link.recv.ring_when_free(|look| {
            wnd = rcv.advertise(look.queued, look.allowed);
            if is_closed {
                usize::MAX
            } else {
                rcv.update_at(look.allowed)
            }
        });
        let header = TcpHeader {
            src_port: 0,
            dst_port: 0,
            seq: self.snd.seq(self.snd.nxt),
            ack: Some(self.rcv.seq(self.rcv.nxt)),
            wnd,
            flags,
            urgent: 0,
            options: TcpOptions {
                timestamps: self.agreed.timestamps.then(|| self.ts.option(cx.now)),
                sack: self.sack_blocks(),
                ..TcpOptions::default()
            },
            header_len: 0,
        };
        self.rcv.on_ack_sent();
        self.timers.stop(Timer::DelayedAck);
        self.rcv.ack.now |= has_opened;
        header
    }

    /// What we hold out of order, a duplicate first (RFC 2018 §4, RFC 2883 §4).
    fn sack_blocks(&self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let max = self.sack_block_count();
        let mut push = |(start, end): (u64, u64)| {
            blocks.push(self.rcv.seq(start), self.rcv.seq(end));
        };
        if max == 0 {
            return blocks;
        }
        if let Some(&duplicate) = self.rcv.dsack.first() {
            push(duplicate);
        }
        let held = max - usize::from(!self.rcv.dsack.is_empty());
        let ranges = self.rcv.assembler.sack_blocks(held);
        let fin = self.early_fin();
        for range in &ranges {
            push((range.start, range.end + u64::from(fin == Some(range.end))));
        }
        if let Some(fin) = self.lone_fin().filter(|_| ranges.len() < held) {
            push((fin, fin + 1));
        }
        blocks
    }

    /// Whether the reader has made enough room to tell the peer.
    pub(super) fn window_opened(&self) -> bool {
        let look = self.link.recv.look();
        // As long as nothing was read, there is no more room than there was.
        look.consumed > 0 && look.free >= self.rcv.update_at(look.allowed)
    }

    fn outgoing(&mut self, header: TcpHeader, payload: Payload, gso_size: u16) -> Outgoing {
        self.counts.segments_sent += 1;
        Outgoing {
            header,
            payload,
            gso_size,
            ect: false,
            ttl: self.options.ttl,
            tos: self.options.class(self.overhead > 40),
        }
    }
}

/// The largest multiple of `mss` in `max`, but one segment at least.
fn whole_segments(max: u64, mss: u64) -> u64 {
    if max < mss { max } else { max / mss * mss }
}
