//! Bytes from one writer, on their way to the engine.

use std::{
    io::IoSlice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    Wakes,
    blocks::{Size, Stock},
    budget::Charge,
    doorbell::Doorbell,
    rope::Rope,
    waiters::{Direction, Pipe, Ready, Wait, Waiters},
};

/// A chunk of at least this many bytes is kept as it is; a smaller one is copied.
const KEEP_MIN: usize = 4 << 10;

/// No more than this is copied under the lock at one time.
const COPY_MAX: usize = 64 << 10;

/// A writer that has a single thread in common with the reactor lets it send after so many bytes:
/// they are in a cache then, and the blocks they lie in are soon free to be used again. With more
/// threads the two would chase each other from processor to processor.
const AHEAD_MAX: usize = 128 << 10;

/// What is free of a block is given up when it is less than this and the write needs more.
const REST_MIN: usize = 4 << 10;

/// Bytes from one writer, on their way to the engine.
///
/// They are copied once, into blocks that the engine gets slices of. An empty pipe holds no memory.
#[derive(Debug)]
pub(crate) struct SendPipe {
    bell: Arc<Doorbell>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// Written and not taken by the engine, or what is left of a block.
    stock: Option<Box<Stock>>,
    waiters: Waiters,
    capacity: u32,
    charge: Charge,
    /// Counts events, to tell whether one came between a look and a decision.
    events: u32,
    /// Written and not released, taken or not.
    queued: usize,
    /// Payload of the largest segments that the engine makes of what is written; zero as long as
    /// that is not known.
    segment: u32,
    /// There was enough room, and no write has found none since.
    ready: bool,
    /// A write was ended by [`AHEAD_MAX`]: the next goes on when the engine has taken it.
    ahead: bool,
    connected: bool,
    shutdown: bool,
    failed: bool,
}

/// What a write came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// So much of it was taken.
    Some(usize),
    /// Nothing can be written any more.
    Closed,
    /// No room yet.
    Full,
}

/// How far a connection has come that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Pending,
    Connected,
    Failed,
}

impl SendPipe {
    pub(super) fn new(bell: Arc<Doorbell>, capacity: usize) -> Self {
        let inner = Mutex::new(Inner {
            stock: None,
            waiters: Waiters::default(),
            capacity: clamp(capacity),
            charge: Charge::default(),
            events: 0,
            queued: 0,
            segment: 0,
            ready: false,
            ahead: false,
            connected: false,
            shutdown: false,
            failed: false,
        });
        bell.budget().add_pipe();
        Self { bell, inner }
    }

    /// [engine] Moves everything written since the last call to the end of `queue`. False if that
    /// is nothing.
    ///
    /// Best called when something can be sent: what waits here lies in one piece, however small the
    /// writes were. `segment` is the most that is sent at a time: what is written from now on lies
    /// such that few segments are of more than one piece, and few are small.
    pub(crate) fn take(&self, segment: u64, queue: &mut Rope, wakes: &mut Wakes) -> bool {
        let mut inner = self.lock();
        inner.segment = u32::try_from(segment).unwrap_or(0);
        let Some(stock) = inner.stock.as_mut().filter(|stock| stock.len() > 0) else {
            return false;
        };
        queue.push_all(&mut stock.rope);
        if !stock.tail.is_empty() {
            queue.push(stock.tail.split().freeze());
        }
        inner.ahead = false;
        inner.check_room(wakes, &self.bell);
        true
    }

    /// [engine] So many bytes were acknowledged. Writers are woken when a third of the capacity is
    /// free, or the pipe is empty. To be called after the slices were dropped, so that their blocks
    /// can be used again.
    pub(crate) fn release(&self, bytes: usize, wakes: &mut Wakes) {
        let mut inner = self.lock();
        debug_assert!(
            bytes <= inner.queued || inner.failed,
            "more was released than written"
        );
        inner.queued = inner.queued.saturating_sub(bytes);
        inner.recharge(&self.bell);
        inner.check_room(wakes, &self.bell);
        if inner.queued == 0 && inner.is_taken() {
            let retired = inner.stock.take();
            inner.recharge(&self.bell);
            drop(inner);
            self.put(retired);
        }
    }

    /// [engine] Bytes that may be queued.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.lock().capacity as usize
    }

    /// [engine] Changes how many bytes may be queued. What is queued already stays.
    pub(crate) fn set_capacity(&self, capacity: usize, wakes: &mut Wakes) {
        let mut inner = self.lock();
        inner.capacity = clamp(capacity);
        inner.check_room(wakes, &self.bell);
    }

    /// [engine] The same, but what may be queued now becomes no less, unless it is more than `max`.
    pub(crate) fn grow_capacity(&self, capacity: usize, max: usize, wakes: &mut Wakes) {
        let mut inner = self.lock();
        inner.capacity = inner.capacity.max(clamp(capacity)).min(clamp(max));
        inner.check_room(wakes, &self.bell);
    }

    /// Bytes written and not yet acknowledged, taken or not.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queued
    }

    /// [engine] Nothing more will be written; what was may still have to be taken.
    pub(crate) fn shutdown_requested(&self) -> bool {
        self.lock().shutdown
    }

    /// [engine] Nothing more will be written, and everything has been taken: the FIN goes behind
    /// it.
    pub(crate) fn is_shutdown(&self) -> bool {
        let inner = self.lock();
        inner.shutdown && inner.is_taken()
    }

    /// The connection is open: there is room.
    pub(super) fn connect(&self, wakes: &mut Wakes) {
        let mut inner = self.lock();
        inner.connected = true;
        inner.event(wakes);
    }

    /// Whether the connection is open; if that is not known yet, registers in the slot.
    pub(super) fn poll_connected(&self, wait: Wait<'_>) -> Opening {
        let mut inner = self.lock();
        if inner.failed {
            Opening::Failed
        } else if inner.connected {
            Opening::Connected
        } else {
            let displaced = inner.waiters.wait(wait);
            drop(inner);
            drop(displaced);
            Opening::Pending
        }
    }

    /// Nothing more can be written; what was not taken is dropped.
    pub(super) fn fail(&self, wakes: &mut Wakes) {
        let mut inner = self.lock();
        if inner.failed {
            return;
        }
        inner.failed = true;
        inner.event(wakes);
        inner.queued = 0;
        let retired = inner.stock.take();
        inner.recharge(&self.bell);
        drop(inner);
        self.put(retired);
    }

    /// Memory goes back once the pipe is unlocked.
    fn put(&self, retired: Option<Box<Stock>>) {
        if let Some(mut stock) = retired {
            // Before the lock: the owner of a chunk may have code of its own to run.
            stock.rope.clear();
            self.bell.blocks().put_stock(stock);
        }
    }

    /// Nothing more will be written. Writers that wait are to be told.
    pub(super) fn shutdown(&self, wakes: &mut Wakes) {
        let mut inner = self.lock();
        if !inner.shutdown {
            inner.shutdown = true;
            inner.event(wakes);
        }
    }

    /// Takes as much as there is room for from `bufs`, and calls `press` under no lock whenever
    /// there is something to see. If `clears`, a write that fills the pipe and has more to write
    /// counts as one that found no room.
    pub(super) fn write(
        &self,
        bufs: &[IoSlice<'_>],
        clears: bool,
        wait: Wait<'_>,
        press: impl Fn(),
    ) -> Write {
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let mut source = Source { bufs, at: 0 };
        let mut written = 0;
        loop {
            let room = |inner: &Inner| inner.room_to_copy(&self.bell);
            let (mut inner, room) = match self.check(total == 0, written > 0, wait, room) {
                Ok(checked) => checked,
                Err(_) if written > 0 => return Write::Some(written),
                Err(nothing) => return nothing,
            };
            let n = room.min(total - written).min(COPY_MAX);
            source.copy(n, |piece, left| inner.append(piece, left, &self.bell));
            inner.queued += n;
            written += n;
            inner.recharge(&self.bell);
            let full = inner.room_to_copy(&self.bell) == 0;
            inner.ahead = full && inner.room(&self.bell) > 0;
            if full && clears && written < total {
                inner.ready = false;
            }
            drop(inner);
            if n > 0 {
                press();
            }
            if full || written == total {
                return Write::Some(written);
            }
        }
    }

    /// The first step of every write: the lock that it goes on with and the room that there is, or
    /// what the write comes to if there is none.
    fn check(
        &self,
        nothing: bool,
        more: bool,
        wait: Wait<'_>,
        room: impl FnOnce(&Inner) -> usize,
    ) -> Result<(MutexGuard<'_, Inner>, usize), Write> {
        let mut inner = self.lock();
        let room = room(&inner);
        if inner.is_over() {
            Err(Write::Closed)
        } else if nothing && inner.ready {
            Err(Write::Some(0))
        } else if room > 0 && (inner.ready || more) {
            Ok((inner, room))
        } else {
            inner.ready = false;
            inner.ahead |= room == 0 && inner.room(&self.bell) > 0;
            let displaced = inner.waiters.wait(wait);
            drop(inner);
            drop(displaced);
            Err(Write::Full)
        }
    }

    /// Takes a part off the front of `chunk`, without a copy if it is large.
    pub(super) fn write_chunk(&self, chunk: &mut Bytes, wait: Wait<'_>) -> Write {
        let room = |inner: &Inner| inner.room(&self.bell);
        let (mut inner, room) = match self.check(chunk.is_empty(), false, wait, room) {
            Ok(checked) => checked,
            Err(nothing) => return nothing,
        };
        let n = room.min(chunk.len());
        let part = chunk.split_to(n);
        inner.queued += n;
        if n >= KEEP_MIN {
            let stock = inner.stock(&self.bell);
            stock.close_tail();
            stock.rope.push(part);
            inner.recharge(&self.bell);
        } else {
            inner.append(&part, n, &self.bell);
            inner.recharge(&self.bell);
            drop(inner); // The chunk's owner may have code of its own to run.
            drop(part);
        }
        Write::Some(n)
    }

    /// Whether the connection has failed.
    pub(super) fn is_failed(&self) -> bool {
        self.lock().failed
    }

    /// A writer has found nothing of use, if no event has come since `tick`. Says whether it was
    /// cleared although there is enough room for a writer to be called for: only what moves in this
    /// direction would tell of it.
    pub(super) fn clear_ready_since(&self, tick: u32) -> bool {
        let mut inner = self.lock();
        let cleared = inner.events == tick && !inner.is_over();
        inner.ready &= !cleared;
        cleared && inner.has_room(&self.bell)
    }

    /// Tells writers of the room that there is.
    pub(super) fn rouse(&self, wakes: &mut Wakes) {
        self.lock().check_room(wakes, &self.bell);
    }
}

impl Pipe for SendPipe {
    type Inner = Inner;

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Direction for Inner {
    /// Without what only both directions together tell.
    fn readiness(&self) -> Ready {
        Ready::WRITABLE.when(self.ready) | (Ready::WRITE_CLOSED | Ready::ERROR).when(self.failed)
    }

    fn waiters(&mut self) -> &mut Waiters {
        &mut self.waiters
    }

    fn events(&self) -> u32 {
        self.events
    }
}

impl Drop for SendPipe {
    fn drop(&mut self) {
        let charge = self.lock().charge;
        self.bell.budget().remove_pipe(charge);
    }
}

impl Inner {
    fn is_taken(&self) -> bool {
        self.untaken() == 0
    }

    fn is_over(&self) -> bool {
        self.failed || self.shutdown
    }

    /// Whether a writer is worth waking: a wake for each acknowledgement would cost more than it
    /// moves.
    fn has_room(&self, bell: &Doorbell) -> bool {
        let capacity = self.allowed(bell);
        capacity.saturating_sub(self.queued) >= (capacity / 3).max(1) && !self.ahead
    }

    /// Bytes that may be added.
    fn room(&self, bell: &Doorbell) -> usize {
        self.allowed(bell).saturating_sub(self.queued)
    }

    /// The same for bytes that are to be copied.
    fn room_to_copy(&self, bell: &Doorbell) -> usize {
        let room = self.room(bell);
        if bell.is_reactor_here() {
            let segment = (self.segment as usize).clamp(1, AHEAD_MAX);
            let ahead = AHEAD_MAX / segment * segment;
            room.min(ahead.saturating_sub(self.untaken()))
        } else {
            room
        }
    }

    /// Bytes that the engine has not taken.
    fn untaken(&self) -> usize {
        self.stock.as_ref().map_or(0, |stock| stock.len())
    }

    fn check_room(&mut self, wakes: &mut Wakes, bell: &Doorbell) {
        if !self.ready && self.connected && self.has_room(bell) {
            self.event(wakes);
        }
    }

    fn allowed(&self, bell: &Doorbell) -> usize {
        (self.capacity as usize).min(bell.budget().share())
    }

    /// What is held has changed. What the engine took counts until it is released.
    fn recharge(&mut self, bell: &Doorbell) {
        let spare = self.stock.as_ref().map_or(0, |stock| stock.spare());
        self.charge.set(self.queued + spare, bell.budget());
    }

    fn event(&mut self, wakes: &mut Wakes) {
        self.ready = true;
        self.events = self.events.wrapping_add(1);
        self.waiters.take(wakes);
    }

    fn stock(&mut self, bell: &Doorbell) -> &mut Stock {
        self.stock
            .get_or_insert_with(|| bell.blocks().take_stock(0))
    }

    /// Copies a slice behind the tail; `expected` bytes are to come, this slice included.
    fn append(&mut self, mut slice: &[u8], mut expected: usize, bell: &Doorbell) {
        // A small buffer is not worth a block that is larger.
        let largest =
            Size::for_bytes(self.capacity as usize / 16).min(bell.budget().largest_block());
        // The end of a block in which a segment would only begin.
        let large = Size::Large.bytes();
        let segment = self.segment as usize;
        let rest = if segment > large / 2 {
            large.saturating_sub(segment)
        } else {
            0
        };
        let stock = self.stock(bell);
        while !slice.is_empty() {
            let unused = if stock.tail_size == Some(Size::Large) {
                rest
            } else {
                0
            };
            let spare = stock.spare().saturating_sub(unused);
            let whole = stock.tail_size.map_or(0, Size::bytes);
            let wanted = expected.min(REST_MIN).min(whole);
            if spare == 0 || (stock.tail.is_empty() && spare < wanted) {
                next_block(stock, expected, largest, bell);
                continue;
            }
            let (fits, rest) = slice.split_at(slice.len().min(spare));
            stock.tail.extend_from_slice(fits);
            expected -= fits.len();
            slice = rest;
        }
    }
}

/// A block with room for `bytes`, or as large as they come. Small writes that are not acknowledged
/// yet gather in larger and larger blocks.
fn next_block(stock: &mut Stock, bytes: usize, largest: Size, bell: &Doorbell) {
    let size = Size::for_bytes(bytes);
    if let Some(old) = stock.tail_size
        && size <= old
        && stock.tail.is_empty()
        && stock.tail.try_reclaim(old.bytes())
    {
        return;
    }
    stock.close_tail();
    stock.renew_tail(size, largest, &mut bell.blocks());
}

/// Reads slices one after another.
struct Source<'a> {
    bufs: &'a [IoSlice<'a>],
    /// Bytes of the first slice that were read.
    at: usize,
}

impl Source<'_> {
    /// Gives the next `n` bytes to `copy`, piece by piece, with how many there still are.
    fn copy(&mut self, n: usize, mut copy: impl FnMut(&[u8], usize)) {
        let mut left = n;
        while left > 0
            && let Some((first, rest)) = self.bufs.split_first()
        {
            let piece = &first[self.at..];
            let piece = &piece[..piece.len().min(left)];
            copy(piece, left);
            left -= piece.len();
            self.at += piece.len();
            if self.at == first.len() {
                (self.bufs, self.at) = (rest, 0);
            }
        }
    }
}

fn clamp(capacity: usize) -> u32 {
    u32::try_from(capacity.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn pipe(capacity: usize) -> SendPipe {
        let pipe = SendPipe::new(Doorbell::new(), capacity);
        pipe.connect(&mut Wakes::new());
        pipe
    }

    fn write(pipe: &SendPipe, bytes: &[u8]) -> Write {
        let wait = Wait::InSlot(Waker::noop());
        pipe.write(&[IoSlice::new(bytes)], false, wait, || {})
    }

    fn release(pipe: &SendPipe, bytes: usize) -> usize {
        let mut wakes = Wakes::new();
        pipe.release(bytes, &mut wakes);
        wakes.len()
    }

    fn take(pipe: &SendPipe) -> Vec<Bytes> {
        let mut queue = Rope::new();
        pipe.take(0, &mut queue, &mut Wakes::new());
        std::iter::from_fn(|| queue.pop_front()).collect()
    }

    fn memory(pipe: &SendPipe) -> (bool, usize) {
        let inner = pipe.lock();
        let stock = inner.stock.as_ref();
        (
            stock.is_some_and(|stock| stock.rope.has_storage()),
            stock.map_or(0, |stock| stock.tail.capacity()),
        )
    }

    #[test]
    fn what_was_written_since_is_taken_in_one_piece() {
        let pipe = pipe(1000);
        assert!(!pipe.take(0, &mut Rope::new(), &mut Wakes::new()));
        write(&pipe, b"ab");
        write(&pipe, b"cd");
        assert_eq!(take(&pipe), ["abcd"]);
        write(&pipe, b"e");
        assert_eq!(take(&pipe), ["e"]);
        assert_eq!(pipe.queued(), 5);
    }

    #[test]
    fn a_writer_is_woken_when_a_third_is_free_and_not_before() {
        let pipe = pipe(900);
        assert_eq!(write(&pipe, &[0; 1000]), Write::Some(900));
        assert_eq!(write(&pipe, b"x"), Write::Full);
        take(&pipe);
        assert_eq!(release(&pipe, 299), 0);
        assert_eq!(write(&pipe, b"x"), Write::Full, "too little to begin again");
        assert_eq!(release(&pipe, 1), 1);
        assert_eq!(write(&pipe, &[0; 1000]), Write::Some(300));
        assert_eq!(write(&pipe, b"x"), Write::Full);
        let mut wakes = Wakes::new();
        pipe.set_capacity(1350, &mut wakes);
        assert_eq!((wakes.len(), pipe.capacity()), (1, 1350));
        assert_eq!(write(&pipe, b"x"), Write::Some(1));
    }

    #[test]
    fn a_writer_on_the_reactors_thread_lets_it_send_what_is_in_a_cache() {
        let pipe = pipe(1 << 20);
        pipe.bell.set_reactor_thread();
        let data = [0; 200_000];
        assert_eq!(write(&pipe, &data), Write::Some(AHEAD_MAX));
        assert_eq!(write(&pipe, b"x"), Write::Full);
        pipe.clear_ready_since(pipe.tick());
        assert!(pipe.ready().is_empty(), "a writer that polls must not spin");
        assert_eq!(release(&pipe, 0), 0, "there is room, but not yet");
        let mut wakes = Wakes::new();
        pipe.take(0, &mut Rope::new(), &mut wakes);
        assert_eq!((wakes.len(), pipe.ready()), (1, Ready::WRITABLE));
        assert_eq!(write(&pipe, &data), Write::Some(AHEAD_MAX));
        // Another thread has nothing to wait for.
        let elsewhere = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(&pipe, &data));
            writer.join().expect("it writes")
        });
        assert_eq!(elsewhere, Write::Some(200_000));
    }

    #[test]
    fn bulk_lies_in_blocks_that_segments_fill() {
        let pipe = pipe(1 << 20);
        let segment = 45 * 1448;
        write(&pipe, b"a request");
        pipe.take(segment as u64, &mut Rope::new(), &mut Wakes::new());
        pipe.release(9, &mut Wakes::new());
        write(&pipe, &vec![0; 3 * segment + 1]);
        let lens: Vec<_> = take(&pipe).iter().map(Bytes::len).collect();
        assert_eq!(lens, [segment, segment, segment, 1]);
        // Segments of 2 KiB would leave most of a block free.
        pipe.take(2048, &mut Rope::new(), &mut Wakes::new());
        pipe.release(3 * segment + 1, &mut Wakes::new());
        write(&pipe, &[0; 70_000]);
        assert_eq!(take(&pipe)[0].len(), Size::Large.bytes());
    }

    #[test]
    fn a_writer_on_the_reactors_thread_stops_where_a_segment_ends() {
        let pipe = pipe(1 << 20);
        pipe.bell.set_reactor_thread();
        pipe.take(45 * 1448, &mut Rope::new(), &mut Wakes::new());
        assert_eq!(write(&pipe, &[0; 200_000]), Write::Some(2 * 45 * 1448));
        take(&pipe);
        pipe.take(u64::MAX, &mut Rope::new(), &mut Wakes::new());
        assert_eq!(write(&pipe, &[0; 200_000]), Write::Some(AHEAD_MAX));
    }

    #[test]
    fn the_least_capacity_still_moves_bytes() {
        let pipe = pipe(0);
        for _ in 0..3 {
            assert_eq!(write(&pipe, b"xy"), Write::Some(1));
            assert_eq!(write(&pipe, b"y"), Write::Full);
            pipe.clear_ready_since(pipe.tick());
            assert!(pipe.ready().is_empty());
            assert_eq!(take(&pipe).len(), 1);
            assert_eq!(release(&pipe, 1), 1);
        }
    }

    #[test]
    fn bulk_fills_blocks_that_are_used_again() {
        let pipe = pipe(1 << 20);
        let mut seen = Vec::new();
        for round in 0..8_u8 {
            assert_eq!(write(&pipe, &[round; 200_000]), Write::Some(200_000));
            let pieces = take(&pipe);
            let sizes: Vec<_> = pieces.iter().map(Bytes::len).collect();
            assert_eq!(sizes, [65_536, 65_536, 65_536, 200_000 - 3 * 65_536]);
            assert!(pieces.iter().flatten().all(|byte| *byte == round));
            seen.extend(pieces.iter().map(|piece| piece.as_ptr()));
            drop(pieces);
            release(&pipe, 200_000);
            assert_eq!((pipe.queued(), memory(&pipe)), (0, (false, 0)));
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() <= 5, "{}", seen.len());
    }

    #[test]
    fn a_small_write_takes_a_small_block() {
        let pipe = pipe(1 << 20);
        write(&pipe, &[0; 100]);
        assert_eq!(memory(&pipe).1, 512);
        write(&pipe, &[0; 500]);
        assert_eq!(memory(&pipe).1, 4096);
        let pieces = take(&pipe);
        assert_eq!(pieces.concat().len(), 600);
        drop(pieces);
        release(&pipe, 600);
        assert_eq!(memory(&pipe), (false, 0));
        write(&pipe, &[0; 5000]);
        assert_eq!(memory(&pipe).1, 65_536);
    }

    #[test]
    fn a_large_chunk_is_passed_on_and_a_small_one_copied() {
        let pipe = pipe(10_000);
        let mut chunk = Bytes::from(vec![1; 12_000]);
        let at = chunk.as_ptr();
        write(&pipe, b"before");
        let written = pipe.write_chunk(&mut chunk, Wait::Never);
        assert_eq!((written, chunk.len()), (Write::Some(9_994), 2_006));
        assert_eq!(pipe.write_chunk(&mut chunk, Wait::Never), Write::Full);
        let pieces = take(&pipe);
        assert_eq!((&pieces[0][..], pieces[1].as_ptr()), (&b"before"[..], at));
        drop(pieces);
        release(&pipe, 10_000);
        let rest = chunk.as_ptr();
        let written = pipe.write_chunk(&mut chunk, Wait::Never);
        assert_eq!((written, chunk.len()), (Write::Some(2_006), 0));
        assert_ne!(take(&pipe)[0].as_ptr(), rest);
    }

    #[test]
    fn the_fin_goes_behind_what_was_taken() {
        let pipe = pipe(1000);
        write(&pipe, b"last");
        pipe.shutdown(&mut Wakes::new());
        assert!(!pipe.is_shutdown(), "not everything was taken");
        assert_eq!(take(&pipe), ["last"]);
        assert!(pipe.is_shutdown());
        assert_eq!(write(&pipe, b"x"), Write::Closed);
    }

    #[test]
    fn a_writer_that_waits_is_told_of_the_end() {
        for shutdown in [true, false] {
            let (pipe, mut wakes) = (pipe(10), Wakes::new());
            write(&pipe, &[0; 10]);
            assert_eq!(write(&pipe, b"x"), Write::Full);
            match shutdown {
                true => pipe.shutdown(&mut wakes),
                false => pipe.fail(&mut wakes),
            }
            assert_eq!(wakes.len(), 1);
            assert_eq!(write(&pipe, b"x"), Write::Closed);
            assert_eq!(pipe.queued(), if shutdown { 10 } else { 0 });
        }
    }

    #[test]
    fn a_long_write_presses_for_every_part() {
        let pipe = pipe(200_000);
        let presses = std::cell::Cell::new(0);
        let data = [0; 50_000];
        let bufs = [IoSlice::new(&data); 5];
        let press = || presses.set(presses.get() + 1);
        let written = pipe.write(&bufs, true, Wait::Never, press);
        assert_eq!((written, presses.get()), (Write::Some(200_000), 4));
        assert!(pipe.ready().is_empty(), "it filled the pipe");
    }

    #[test]
    fn a_writer_beside_a_chunk_of_more_than_that_waits_until_it_was_taken() {
        let pipe = pipe(1 << 20);
        pipe.bell.set_reactor_thread();
        let mut chunk = Bytes::from(vec![0; 200_000]);
        assert_eq!(
            pipe.write_chunk(&mut chunk, Wait::Never),
            Write::Some(200_000)
        );
        assert_eq!(write(&pipe, b"x"), Write::Full);
        assert_eq!(release(&pipe, 0), 0, "nothing was taken");
        let mut wakes = Wakes::new();
        pipe.take(0, &mut Rope::new(), &mut wakes);
        assert_eq!((wakes.len(), write(&pipe, b"x")), (1, Write::Some(1)));
    }

    #[test]
    fn what_a_failed_pipe_held_is_free_at_once() {
        let pipe = pipe(1 << 20);
        let before = pipe.bell.budget().held();
        write(&pipe, &[0; 100_000]);
        assert!(pipe.bell.budget().held() >= before + 90_000);
        pipe.fail(&mut Wakes::new());
        assert_eq!(pipe.bell.budget().held(), before);
        let bell = Arc::clone(&pipe.bell);
        drop(pipe);
        assert_eq!(bell.budget().held(), 0);
    }

    #[test]
    fn readiness_is_not_cleared_for_who_looked_before_an_event_nor_after_the_end() {
        let pipe = pipe(10);
        let tick = pipe.tick();
        write(&pipe, &[0; 10]);
        assert_eq!(write(&pipe, b"x"), Write::Full);
        take(&pipe);
        release(&pipe, 10);
        assert_eq!(write(&pipe, &[0; 10]), Write::Some(10));
        pipe.clear_ready_since(tick);
        assert_eq!(pipe.ready(), Ready::WRITABLE, "there was room since");
        assert!(!pipe.clear_ready_since(pipe.tick()));
        assert!(pipe.ready().is_empty());
        pipe.shutdown(&mut Wakes::new());
        pipe.clear_ready_since(pipe.tick());
        assert_eq!(pipe.ready(), Ready::WRITABLE, "a write fails at once");
    }
}
