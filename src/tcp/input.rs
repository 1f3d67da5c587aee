//! SEGMENT ARRIVES in the synchronized states (RFC 9293 §3.10.7.4): the RFC's steps in its order.

use std::{
    ops::ControlFlow::{self, Break, Continue},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    error::Failure,
    info::State,
    packet::Payload,
    seq::SeqNum,
    tcp::{
        Context, Segment, assembler::Limits, connection::Connection, state::Event, timers::Timer,
    },
    wire::tcp::Flags,
};

/// Segments that deserve no better bring one acknowledgement in this time, and each connection
/// counts for itself (Linux: `tcp_invalid_ratelimit`; CVE-2016-5696).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(500);

/// How a step ends the processing of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Silently,
    /// Tell the peer what we expect.
    WithAck,
    /// The same, but not too often (RFC 5961 §7).
    Challenge,
    /// The peer has reset the connection.
    Reset,
    /// There is nobody left to take its data. With its acknowledgement.
    Refuse(SeqNum),
}

impl Connection {
    /// A segment for this connection.
    pub(crate) fn on_segment(&mut self, seg: &mut Segment, cx: &mut Context<'_>) {
        self.counts.segments_received += u64::from(seg.count);
        let Break(verdict) = self.process(seg, cx) else {
            return;
        };
        match verdict {
            Verdict::Silently => {}
            Verdict::WithAck => self.rcv.ack.now = true,
            Verdict::Challenge => self.challenge(cx),
            Verdict::Reset => self.on_reset(cx),
            Verdict::Refuse(ack) => self.refuse(ack, cx),
        }
    }

    fn process(&mut self, seg: &mut Segment, cx: &mut Context<'_>) -> ControlFlow<Verdict> {
        if self.state == State::Closed {
            return Break(Verdict::Silently);
        }
        self.check_timestamp(seg, cx)?;
        self.check_sequence(seg, cx)?;
        self.check_rst(seg)?;
        self.check_syn(seg)?;
        self.process_ack(seg, cx)?;
        self.process_urgent(seg, cx);
        self.process_text(seg, cx)
    }

    /// PAWS (RFC 7323 §5.3): an old timestamp makes an old duplicate. A reset is exempt.
    fn check_timestamp(&mut self, seg: &Segment, cx: &mut Context<'_>) -> ControlFlow<Verdict> {
        let Some(ts) = seg
            .header
            .options
            .timestamps
            .filter(|_| self.agreed.timestamps)
        else {
            return Continue(());
        };
        let rst = seg.header.flags.has(Flags::RST);
        if !rst && self.ts.is_old(ts.val, cx.now) {
            cx.counters.drop_paws += 1;
            // Data and FIN make no loop of acknowledgements (Linux: `tcp_oow_rate_limited`).
            let harmless = seg.seq_len() > 0 && !seg.header.flags.has(Flags::SYN);
            return Break(if harmless {
                Verdict::WithAck
            } else {
                Verdict::Challenge
            });
        }
        Continue(())
    }

    /// First: is any of it in the window?
    fn check_sequence(&mut self, seg: &Segment, cx: &mut Context<'_>) -> ControlFlow<Verdict> {
        let seq = seg.header.seq;
        if self.rcv.accepts(seq, seg.seq_len()) {
            return Continue(());
        }
        // "Special allowance should be made to accept valid ACKs, URGs, and RSTs" at a closed window,
        // whatever text they have; process_text keeps that out.
        let nxt = self.rcv.seq(self.rcv.nxt);
        if self.rcv.wnd() == 0 && seq == nxt && !seg.header.flags.has(Flags::SYN) {
            return Continue(());
        }
        if seg.header.flags.has(Flags::RST) {
            cx.counters.drop_out_of_window += 1;
            return Break(Verdict::Silently);
        }
        if seg.header.flags.has(Flags::SYN) {
            return Break(Verdict::Challenge);
        }
        if self.is_current(seq, seg.seq_len()) {
            return Continue(());
        }
        cx.counters.drop_out_of_window += 1;
        if seg.seq_len() > 0 && seq.is_before(nxt) {
            self.note_duplicate(seq, seg.seq_len());
        }
        Break(if seg.seq_len() > 0 {
            Verdict::WithAck
        } else {
            Verdict::Challenge
        })
    }

    /// Whether a segment was on its way while what lies behind it was, or comes from a peer that
    /// has filled our window, or that has not got our last acknowledgement and sends the end of
    /// what we have once more: the four cases would refuse what it acknowledges (Linux:
    /// `tcp_sequence`).
    fn is_current(&self, seq: SeqNum, len: u32) -> bool {
        let oldest = self.rcv.seq(self.rcv.ack.sent);
        let nxt = self.rcv.seq(self.rcv.nxt);
        match len {
            0 => seq.since(oldest) <= self.rcv.seq(self.rcv.adv).since(oldest),
            _ => seq.is_before(nxt) && (seq + len).since(oldest) <= nxt.since(oldest),
        }
    }

    /// Tells the peer with the next acknowledgement that it sent `len` numbers once more, of which
    /// its FIN is one (RFC 2883).
    fn note_duplicate(&mut self, seq: SeqNum, len: u32) {
        if (seq + len).is_at_or_before(self.rcv.seq(self.rcv.nxt)) {
            self.rcv.on_repetition();
        }
        if !self.agreed.sack {
            return;
        }
        let Some(start) = self.rcv.position(seq) else {
            return;
        };
        let end = (start + u64::from(len)).min(self.rcv.nxt);
        self.rcv.report_duplicate(start, end);
        self.rcv.on_duplicate();
    }

    /// Second: a reset must hit RCV.NXT exactly, to blunt blind attacks (RFC 5961 §3.2). Linux takes
    /// the number of a FIN before it as well (`tcp_reset_check`), for peers that do not count it.
    fn check_rst(&self, seg: &Segment) -> ControlFlow<Verdict> {
        if !seg.header.flags.has(Flags::RST) {
            Continue(())
        } else if seg.header.seq == self.rcv.seq(self.rcv.nxt) {
            Break(Verdict::Reset)
        } else {
            Break(Verdict::Challenge)
        }
    }

    /// Fourth: a SYN is never in order here (RFC 5961 §4.2).
    fn check_syn(&self, seg: &Segment) -> ControlFlow<Verdict> {
        if seg.header.flags.has(Flags::SYN) {
            Break(Verdict::Challenge)
        } else {
            Continue(())
        }
    }

    /// The peer is there: timestamps, keep-alive and ECN.
    fn note_heard(&mut self, seg: &Segment, cx: &Context<'_>) {
        self.heard_at = cx.now;
        // RFC 7323 §4.3: only what is in order or overlaps it may update TS.Recent.
        if let Some(ts) = seg
            .header
            .options
            .timestamps
            .filter(|_| self.agreed.timestamps)
        {
            let last_ack_sent = self.rcv.seq(self.rcv.ack.sent);
            if seg.header.seq.is_at_or_before(last_ack_sent) && !self.ts.is_old(ts.val, cx.now) {
                (self.ts.recent, self.ts.recent_at) = (ts.val, cx.now);
            }
        }
        // RFC 3168 §6.1.4: acknowledgements are neither marked nor do they tell of a reduction.
        if self.agreed.ecn && seg.len > 0 {
            if seg.header.flags.has(Flags::CWR) {
                self.ecn.echo = false;
                // The peer's window may be down to a segment: it would wait for a second one.
                self.rcv.ack.now = true;
            }
            if seg.ce && !self.ecn.echo {
                self.ecn.echo = true;
                self.rcv.on_mark();
            }
        }
    }

    /// Fifth: the ACK field. What it acknowledges is handled in `ack`.
    fn process_ack(&mut self, seg: &Segment, cx: &mut Context<'_>) -> ControlFlow<Verdict> {
        let Some(ack) = seg.header.ack else {
            cx.counters.drop_bad_flags += 1;
            return Break(Verdict::Silently);
        };
        // RFC 5961 §5.2: neither of what was never sent, nor older than the window.
        let oldest = self.snd.una.saturating_sub(u64::from(self.snd.max_wnd));
        let oldest = oldest.max(1); // Our SYN was acknowledged before we came here.
        let position = self
            .snd
            .position(ack)
            .filter(|ack| (oldest..=self.snd.nxt).contains(ack));
        let Some(position) = position else {
            cx.counters.drop_bad_ack += 1;
            return Break(Verdict::Challenge);
        };
        self.note_heard(seg, cx);
        if position >= self.snd.una {
            let window_changed = self.update_window(seg, position);
            self.on_ack(position, seg, window_changed, cx);
            self.on_probe_answer(cx.now);
        } else {
            self.on_old_ack(seg, cx);
        }
        if self.state == State::Closed || self.state == State::TimeWait && seg.seq_len() == 0 {
            return Break(Verdict::Silently);
        }
        Continue(())
    }

    /// SND.WND, unless the segment is older than the last that set it. Whether it changed.
    ///
    /// As on Linux what acknowledges anything new counts as newer: were the window kept while
    /// SND.UNA moves, its right edge would move with it.
    fn update_window(&mut self, seg: &Segment, ack: u64) -> bool {
        let Some(seq) = self.rcv.position(seg.header.seq) else {
            return false;
        };
        let snd = &mut self.snd;
        if ack <= snd.una && (snd.wl1 > seq || snd.wl1 == seq && snd.wl2 > ack) {
            return false;
        }
        let wnd = u32::from(seg.header.wnd) << snd.shift;
        let changed = wnd != snd.wnd;
        (snd.wnd, snd.wl1, snd.wl2) = (wnd, seq, ack);
        if wnd > snd.max_wnd {
            // Segments may have been bounded by half of it.
            let bounded = snd.max_wnd / 2 <= u32::from(u16::MAX);
            snd.max_wnd = wnd;
            if bounded {
                self.set_mss();
            }
        }
        changed
    }

    /// Sixth: the URG bit. Urgent data is in line, wherever the pointer points (RFC 6093 §3.2); the
    /// owner is woken, and `TcpInfo` says how much is left of it.
    fn process_urgent(&mut self, seg: &Segment, cx: &mut Context<'_>) {
        let open = matches!(
            self.state,
            State::Established | State::FinWait1 | State::FinWait2
        );
        if !seg.header.flags.has(Flags::URG) || !open {
            return;
        }
        let Some(start) = self.rcv.position(seg.header.seq) else {
            return;
        };
        // MUST-62: the pointer tells the byte behind the urgent data.
        let mark = start + u64::from(seg.header.urgent);
        let advances = mark > self.link.recv.consumed() + 1
            && self.rcv.urgent.is_none_or(|before| mark > before);
        if advances {
            self.rcv.urgent = Some(mark);
            self.link.recv.set_ready(cx.wakes);
            self.link.rouse_writer(cx.wakes);
        }
    }

    /// Seventh and eighth: text and FIN.
    fn process_text(&mut self, seg: &mut Segment, cx: &mut Context<'_>) -> ControlFlow<Verdict> {
        let fin = seg.header.flags.has(Flags::FIN);
        if seg.len == 0 && !fin {
            return Continue(());
        }
        match self.state {
            State::Established | State::FinWait1 | State::FinWait2 => {}
            // The peer has sent its FIN: there can be no more text, only repetitions. "Ignore the
            // segment text."
            _ if !seg.header.seq.is_before(self.rcv.seq(self.rcv.nxt)) => {
                return Break(Verdict::Silently);
            }
            _ => {
                if self.is_current(seg.header.seq, seg.seq_len()) {
                    self.note_duplicate(seg.header.seq, seg.seq_len());
                }
                return Break(Verdict::WithAck);
            }
        }
        let Some(start) = self.rcv.position(seg.header.seq) else {
            return Break(Verdict::WithAck);
        };
        let end = start + u64::from(seg.len);
        if self.orphan && end > self.rcv.nxt {
            return Break(Verdict::Refuse(seg.header.ack.unwrap_or_default()));
        }
        self.measure_segment(seg);
        let nxt_before = self.rcv.nxt;
        if fin
            && (self.rcv.nxt..=self.rcv.adv).contains(&end)
            && self.rcv.fin.is_none_or(|at| end <= at)
        {
            self.rcv.fin = Some(end);
        }
        if seg.len > 0 {
            self.take_text(start, seg, cx);
        }
        if fin || self.rcv.nxt == nxt_before {
            self.rcv.ack.now = true;
        }
        self.check_fin(cx);
        self.schedule_ack(cx);
        Continue(())
    }

    /// Learns what the peer's full-sized segments are.
    fn measure_segment(&mut self, seg: &Segment) {
        let each = seg.len.div_ceil(seg.count.max(1)).min(u32::from(u16::MAX)) as u16;
        let flags = seg.header.flags;
        self.rcv.measure_segment(
            each,
            flags.has(Flags::PSH) || flags.has(Flags::FIN) || flags.has(Flags::URG),
        );
    }

    /// Cuts the text to what is new and in the window, and queues it where it belongs.
    fn take_text(&mut self, start: u64, seg: &mut Segment, cx: &mut Context<'_>) {
        let edge = self
            .rcv
            .fin
            .map_or(self.rcv.adv, |fin| fin.min(self.rcv.adv));
        let end = start + u64::from(seg.len);
        let repeats = start < self.rcv.nxt;
        if repeats {
            self.note_duplicate(seg.header.seq, seg.seq_len());
        }
        let (from, to) = (start.max(self.rcv.nxt), end.min(edge));
        if to <= from {
            cx.counters.drop_out_of_window += u64::from(end > self.rcv.nxt);
            return;
        }
        let payload = &mut seg.payload;
        if (from, to) != (start, end) {
            *payload = cut(payload, (from - start) as usize, (to - start) as usize);
        }
        if from == self.rcv.nxt {
            // RFC 2883 §4: some of it was held already. Of two parts the first is told (§4.2.3).
            if let Some(held) = self.rcv.assembler.first()
                && held.start < to
                && self.agreed.sack
                && !repeats
            {
                self.rcv.report_duplicate(held.start, held.end.min(to));
            }
            self.take_in_order(payload, to, seg.count, cx);
        } else {
            self.take_out_of_order(payload, from, cx);
        }
    }

    fn take_in_order(
        &mut self,
        payload: &mut Payload,
        mut end: u64,
        count: u32,
        cx: &mut Context<'_>,
    ) {
        let before = self.rcv.nxt;
        let len = (end - before) as usize;
        let room = self.make_room(len);
        if room < len {
            // The peer will send the rest again.
            cx.counters.drop_memory += 1;
            self.rcv.ack.now = true;
            *payload = cut(payload, 0, room);
            end = before + room as u64;
        }
        if end == before {
            return;
        }
        self.rcv.nxt = end;
        self.link.recv.push(payload, cx.wakes);
        if !self.rcv.assembler.is_empty() {
            // A hole was filled: the peer's loss recovery waits for this.
            self.rcv.ack.now = true;
            let mut rest = Payload::new();
            self.rcv.nxt = self
                .rcv
                .assembler
                .take_in_order(self.rcv.nxt, |chunk: Bytes| rest.push(chunk));
            self.tell_assembler_memory();
            if !rest.is_empty() {
                self.link.recv.push(&mut rest, cx.wakes);
            }
        }
        self.link.rouse_writer(cx.wakes);
        let bytes = (self.rcv.nxt - before).min(u64::from(u32::MAX)) as u32;
        self.tune_receive_buffer(cx.now, cx.config);
        self.rcv.on_data(bytes, count, self.rtt.rto(), cx.now);
    }

    /// How many of `len` bytes in order there is memory for, if need be in place of what came out
    /// of order (threat F12).
    fn make_room(&mut self, len: usize) -> usize {
        let room = self.link.recv.room();
        if room >= len || self.rcv.assembler.is_empty() {
            return room;
        }
        self.rcv.assembler.drop_furthest(len - room);
        self.tell_assembler_memory();
        self.link.recv.room()
    }

    /// What is held out of order counts like what is queued for the reader.
    pub(super) fn tell_assembler_memory(&self) {
        self.link.recv.set_beside(self.rcv.assembler.memory());
    }

    fn take_out_of_order(&mut self, payload: &Payload, start: u64, cx: &mut Context<'_>) {
        let limits = Limits {
            memory: self.link.bell().budget().share(),
            ..Limits::default()
        };
        let inserted = self.rcv.assembler.insert(start, payload, &limits);
        self.tell_assembler_memory();
        if let Some(duplicate) = inserted.duplicate.filter(|_| self.agreed.sack) {
            self.rcv.report_duplicate(duplicate.start, duplicate.end);
        }
        cx.counters.drop_out_of_order += u64::from(inserted.dropped > 0);
        self.rcv.on_duplicate();
    }

    /// The peer's FIN, when every byte before it has arrived.
    fn check_fin(&mut self, cx: &mut Context<'_>) {
        if self.rcv.fin != Some(self.rcv.nxt) {
            return;
        }
        self.rcv.nxt += 1;
        self.rcv.adv = self.rcv.adv.max(self.rcv.nxt);
        self.forget_out_of_order();
        // Nothing is told any more of what came twice before it (Linux: `tcp_fin`).
        self.rcv.dsack.clear();
        self.rcv.ack.now = true;
        self.link.recv.finish(cx.wakes);
        self.link.rouse_writer(cx.wakes);
        self.transition(Event::FinReceived);
    }

    pub(super) fn forget_out_of_order(&mut self) {
        if !self.rcv.assembler.is_empty() {
            self.rcv.assembler.clear();
            self.tell_assembler_memory();
        }
    }

    /// What is not acknowledged at once is so a little later.
    fn schedule_ack(&mut self, cx: &Context<'_>) {
        if self.rcv.ack.now || self.rcv.ack.pending == 0 {
            return;
        }
        if self.rcv.owes_ack_when_read() && self.link.recv.ring_when_empty() {
            self.rcv.ack.now = true;
        } else if !self.timers.is_running(Timer::DelayedAck) {
            self.timers
                .start(Timer::DelayedAck, cx.now + cx.config.delayed_ack);
        }
    }

    /// One acknowledgement for a segment that deserves no better, unless there was one just now.
    fn challenge(&mut self, cx: &mut Context<'_>) {
        if self
            .challenged_at
            .is_some_and(|at| cx.now.since(at) < CHALLENGE_INTERVAL)
        {
            cx.counters.limited += 1;
            return;
        }
        self.challenged_at = Some(cx.now);
        cx.counters.challenge_acks += 1;
        self.rcv.ack.now = true;
    }

    /// The peer's reset. After its FIN nobody will read what we still write (Linux: EPIPE).
    fn on_reset(&mut self, cx: &mut Context<'_>) {
        if self.state == State::TimeWait {
            return; // RFC 1337.
        }
        cx.counters.resets_received += 1;
        let failure = if self.state == State::CloseWait {
            Failure::BrokenPipe
        } else {
            Failure::Reset
        };
        self.fail(failure, cx);
    }
}

/// Bytes `from` up to `to` of a payload, without a copy.
fn cut(payload: &Payload, from: usize, to: usize) -> Payload {
    let mut at = 0;
    let mut rest = Payload::new();
    for chunk in payload {
        let (start, end) = (at, at + chunk.len());
        at = end;
        let (cut_start, cut_end) = (from.max(start), to.min(end));
        if cut_start < cut_end {
            rest.push(chunk.slice(cut_start - start..cut_end - start));
        }
    }
    rest
}
