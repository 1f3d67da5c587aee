//! Bytes received in order, on their way from the engine to one reader.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Wakes,
    blocks::{Size, Stock},
    budget::{ALWAYS, Charge},
    doorbell::Doorbell,
    waiters::{Direction, Pipe, Ready, Wait, Waiters},
};
use crate::packet::Payload;

/// A slice of at least this many bytes is kept as it is: it pins at most about three times itself,
/// for buffers are 64 KiB. A smaller one is copied.
const KEEP_MIN: usize = 20 << 10;

/// The same when memory is scarce: it pins next to nothing but itself.
const KEEP_MIN_SCARCE: usize = 56 << 10;

/// No more than this is copied to a reader under the lock.
const COPY_MAX: usize = 16 << 10;

/// For [`ring_when_free`](RecvPipe::ring_when_free).
const NEVER: u32 = u32::MAX;

/// Bytes received in order, on their way from the engine to one reader.
///
/// Large slices pass as they are; small ones are copied into blocks, so that none pins much more
/// than itself. An empty pipe holds no memory: it gives its block and its list of chunks back to
/// the [`Doorbell`].
#[derive(Debug)]
pub(crate) struct RecvPipe {
    bell: Arc<Doorbell>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// What is queued, if anything is. Its offsets are those of the stream.
    stock: Option<Box<Stock>>,
    /// The offset of the next byte, when there is none.
    start: u64,
    waiters: Waiters,
    capacity: u32,
    ring_when_free: u32,
    /// The engine wants to know when everything is read.
    ring_when_empty: bool,
    /// Bytes of memory that the engine holds beside the pipe, for what came out of order.
    beside: u32,
    charge: Charge,
    /// Counts events, to tell whether one came between a look and a decision.
    events: u32,
    /// An event came, and no read has found the pipe empty since.
    ready: bool,
    /// The peer's FIN is behind what is queued.
    finished: bool,
    /// The connection has failed.
    failed: bool,
    /// Nobody will read any more.
    discarding: bool,
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<T> {
    /// Bytes, and whether the engine wants to know.
    Some { taken: T, press: bool },
    /// The peer has sent everything.
    End,
    /// The connection has failed, and nothing is left.
    Failed,
    /// Nothing yet.
    Empty,
}

/// All figures of a [`RecvPipe`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecvLook {
    /// Bytes that wait for the reader.
    pub(crate) queued: usize,
    /// Bytes that may still come.
    pub(crate) free: usize,
    /// Bytes that may be queued as long as others hold what they do.
    pub(crate) allowed: usize,
    /// Bytes that may be queued.
    pub(crate) capacity: usize,
    /// Bytes that the reader has taken so far.
    pub(crate) consumed: u64,
}

impl RecvPipe {
    pub(super) fn new(bell: Arc<Doorbell>, capacity: usize) -> Self {
        let inner = Mutex::new(Inner {
            stock: None,
            start: 0,
            waiters: Waiters::default(),
            capacity: clamp(capacity),
            ring_when_free: NEVER,
            ring_when_empty: false,
            beside: 0,
            charge: Charge::default(),
            events: 0,
            ready: false,
            finished: false,
            failed: false,
            discarding: false,
        });
        bell.budget().add_pipe();
        Self { bell, inner }
    }

    /// [engine] Appends what was received, and has the readers woken, unless the owner has closed,
    /// or after an end. What is left in `payload` is for the caller to drop: under no lock, for the
    /// owner of a slice may have code of its own to run.
    pub(crate) fn push(&self, payload: &mut Payload, wakes: &mut Wakes) {
        let mut inner = self.lock();
        if inner.discarding || inner.finished || inner.failed {
            return;
        }
        let keep_min = if self.bell.budget().is_ample() {
            KEEP_MIN
        } else {
            KEEP_MIN_SCARCE
        };
        inner.ring_when_empty = false;
        let before = inner.queued();
        for slice in payload {
            if slice.len() >= keep_min {
                let stock = inner.stock(&self.bell);
                stock.close_tail();
                stock.rope.push(mem::take(slice));
            } else {
                inner.append(slice, &self.bell);
            }
        }
        inner.recharge(&self.bell);
        if inner.queued() > before {
            inner.event(wakes);
        }
    }

    /// [engine] The peer's FIN: what is left can be read, then end of file, for ever.
    pub(crate) fn finish(&self, wakes: &mut Wakes) {
        let mut inner = self.lock();
        if !inner.finished && !inner.failed {
            inner.finished = true;
            inner.event(wakes);
        }
    }

    /// What is left can be read, then the failure.
    pub(super) fn fail(&self, wakes: &mut Wakes) {
        let mut inner = self.lock();
        if !inner.failed {
            inner.failed = true;
            inner.event(wakes);
        }
    }

    /// [engine] A reader may try at once although nothing has come: so starts an accepted
    /// connection, and so urgent data is told of.
    pub(crate) fn set_ready(&self, wakes: &mut Wakes) {
        self.lock().event(wakes);
    }

    /// [engine] All figures under one lock.
    pub(crate) fn look(&self) -> RecvLook {
        self.lock().look(&self.bell)
    }

    /// [engine] Bytes that may still come: capacity less what is queued, or zero.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.lock().free(&self.bell)
    }

    /// Bytes that wait for the reader.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queued()
    }

    /// [engine] Bytes that the reader has taken so far.
    pub(crate) fn consumed(&self) -> u64 {
        self.lock().consumed()
    }

    /// [engine] Bytes that there is memory for at this moment, whatever was promised to the peer.
    pub(crate) fn room(&self) -> usize {
        if self.bell.budget().is_ample() {
            return usize::MAX;
        }
        let inner = self.lock();
        let own = ALWAYS.saturating_sub(inner.queued());
        own.max(self.bell.budget().free())
    }

    /// [engine] Bytes of memory held for what came out of order.
    pub(crate) fn set_beside(&self, bytes: usize) {
        let mut inner = self.lock();
        inner.beside = clamp(bytes);
        inner.recharge(&self.bell);
    }

    /// [engine] Bytes that may be queued.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.lock().capacity as usize
    }

    /// [engine] Changes how many bytes may be queued. What is queued already stays.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        self.lock().capacity = clamp(capacity);
    }

    /// [engine] Has the reader press the button when it leaves at least as many bytes of room as
    /// `free` makes of the figures; `usize::MAX`: never. Says whether there is as much already, for
    /// a reader that has read before presses only when it reads again.
    pub(crate) fn ring_when_free(&self, free: impl FnOnce(&RecvLook) -> usize) -> bool {
        let mut inner = self.lock();
        let look = inner.look(&self.bell);
        inner.ring_when_free = u32::try_from(free(&look)).unwrap_or(NEVER);
        inner.is_as_free(look.free)
    }

    /// [engine] Has the reader press the button when it leaves nothing; says whether there is
    /// nothing already. It holds until something is pushed again.
    pub(crate) fn ring_when_empty(&self) -> bool {
        let mut inner = self.lock();
        inner.ring_when_empty = true;
        inner.queued() == 0
    }

    /// Takes up to `max` bytes, shown to `copy` piece by piece. If `clears`, a read that empties
    /// the pipe without having filled its buffer counts as one that found nothing.
    pub(super) fn read(
        &self,
        max: usize,
        clears: bool,
        wait: Wait<'_>,
        mut copy: impl FnMut(&[u8]),
    ) -> Read<usize> {
        let mut inner = match self.lock().check(wait) {
            Ok(inner) if max > 0 => inner,
            Ok(_) => return Read::some(0, false),
            Err(nothing) => return nothing,
        };
        let taken = inner.queued().min(max);
        let mut pieces = SmallVec::<[Bytes; 8]>::new();
        if taken <= COPY_MAX {
            inner.show(taken, &mut copy);
            inner.skip(taken);
        } else {
            // Cut out under the lock and copied outside, so that the engine need not wait.
            let mut left = taken;
            while left > 0 {
                let piece = inner.split(left);
                left -= piece.len();
                pieces.push(piece);
            }
        }
        if clears && taken < max {
            inner.clear_ready();
        }
        let press = inner.wants_press(&self.bell);
        let retired = inner.retire();
        inner.recharge(&self.bell);
        drop(inner);
        // None is dropped in between: that waits for the last store of the copy before it.
        for piece in &pieces {
            copy(piece);
        }
        drop(pieces);
        self.put(retired);
        Read::some(taken, press)
    }

    /// Takes a part of up to `max` bytes without a copy.
    pub(super) fn read_chunk(&self, max: usize, wait: Wait<'_>) -> Read<Bytes> {
        if max == 0 {
            return Read::some(Bytes::new(), false);
        }
        let mut inner = match self.lock().check(wait) {
            Ok(inner) => inner,
            Err(nothing) => return nothing,
        };
        let taken = inner.split(max);
        let press = inner.wants_press(&self.bell);
        let retired = inner.retire();
        inner.recharge(&self.bell);
        drop(inner);
        self.put(retired);
        Read::some(taken, press)
    }

    /// What lies in one piece at the front, without a copy. It stays queued.
    pub(super) fn front(&self, wait: Wait<'_>) -> Read<Bytes> {
        match self.lock().check(wait) {
            Ok(mut inner) => Read::some(inner.front(), false),
            Err(nothing) => nothing,
        }
    }

    /// Drops bytes from the front, or all if there are fewer; says whether to press.
    pub(super) fn consume(&self, bytes: usize) -> bool {
        let mut inner = self.lock();
        let bytes = bytes.min(inner.queued());
        inner.skip(bytes);
        let press = inner.wants_press(&self.bell);
        let retired = inner.retire();
        inner.recharge(&self.bell);
        drop(inner);
        self.put(retired);
        press
    }

    /// Shows up to `max` bytes and leaves them queued.
    pub(super) fn peek(
        &self,
        max: usize,
        wait: Wait<'_>,
        mut copy: impl FnMut(&[u8]),
    ) -> Read<usize> {
        match self.lock().check(wait) {
            Ok(inner) => Read::some(inner.show(max, &mut copy), false),
            Err(nothing) => nothing,
        }
    }

    /// A reader has found nothing of use, if no event has come since `tick`.
    pub(super) fn clear_ready_since(&self, tick: u32) {
        let mut inner = self.lock();
        if inner.events == tick && !inner.finished && !inner.failed {
            inner.ready = false;
        }
    }

    /// Drops what is queued, and whatever will be pushed. Says whether anything was unread. Nobody
    /// waits any more: the wakers are those of tasks that gave up.
    pub(super) fn discard(&self, wakers: &mut Wakes) -> bool {
        let mut inner = self.lock();
        inner.discarding = true;
        inner.waiters.take(wakers);
        let unread = inner.queued();
        let retired = inner.stock.take();
        inner.start = retired.as_ref().map_or(inner.start, |stock| stock.end());
        inner.recharge(&self.bell);
        drop(inner);
        self.put(retired);
        unread > 0
    }

    /// Memory goes back once the pipe is unlocked.
    fn put(&self, retired: Option<Box<Stock>>) {
        if let Some(mut stock) = retired {
            // Before the lock: the owner of a chunk may have code of its own to run.
            stock.rope.clear();
            self.bell.blocks().put_stock(stock);
        }
    }
}

impl Pipe for RecvPipe {
    type Inner = Inner;

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Direction for Inner {
    fn readiness(&self) -> Ready {
        Ready::READABLE.when(self.ready)
            | Ready::READ_CLOSED.when(self.finished || self.failed)
            | Ready::ERROR.when(self.failed)
    }

    fn waiters(&mut self) -> &mut Waiters {
        &mut self.waiters
    }

    fn events(&self) -> u32 {
        self.events
    }
}

impl Drop for RecvPipe {
    fn drop(&mut self) {
        let charge = self.lock().charge;
        self.bell.budget().remove_pipe(charge);
    }
}

impl Inner {
    fn queued(&self) -> usize {
        self.stock.as_ref().map_or(0, |stock| stock.len())
    }

    fn consumed(&self) -> u64 {
        self.stock
            .as_ref()
            .map_or(self.start, |stock| stock.rope.start())
    }

    fn stock(&mut self, bell: &Doorbell) -> &mut Stock {
        let start = self.start;
        self.stock
            .get_or_insert_with(|| bell.blocks().take_stock(start))
    }

    fn look(&self, bell: &Doorbell) -> RecvLook {
        let (queued, allowed) = (self.queued(), self.allowed(bell));
        RecvLook {
            queued,
            free: allowed.saturating_sub(queued),
            allowed,
            capacity: self.capacity as usize,
            consumed: self.consumed(),
        }
    }

    fn allowed(&self, bell: &Doorbell) -> usize {
        (self.capacity as usize).min(bell.budget().share())
    }

    fn free(&self, bell: &Doorbell) -> usize {
        self.allowed(bell).saturating_sub(self.queued())
    }

    /// What is held has changed.
    fn recharge(&mut self, bell: &Doorbell) {
        let queued = self
            .stock
            .as_ref()
            .map_or(0, |stock| stock.len() + stock.spare());
        self.charge
            .set(queued + self.beside as usize, bell.budget());
    }

    fn wants_press(&self, bell: &Doorbell) -> bool {
        self.ring_when_empty && self.queued() == 0 || self.is_as_free(self.free(bell))
    }

    fn is_as_free(&self, free: usize) -> bool {
        self.ring_when_free != NEVER && free >= self.ring_when_free as usize
    }

    fn event(&mut self, wakes: &mut Wakes) {
        self.ready = true;
        self.events = self.events.wrapping_add(1);
        self.waiters.take(wakes);
    }

    /// A read has found nothing, or all there was.
    fn clear_ready(&mut self) {
        if self.queued() == 0 && !self.finished && !self.failed {
            self.ready = false;
        }
    }

    /// Copies a small slice behind the tail, in the next block if the tail's is full. A pipe that
    /// fills takes larger and larger blocks.
    fn append(&mut self, mut slice: &[u8], bell: &Doorbell) {
        // A small buffer is not worth a block that is larger.
        let largest =
            Size::for_bytes(self.capacity as usize / 16).min(bell.budget().largest_block());
        let stock = self.stock(bell);
        while !slice.is_empty() {
            let (fits, rest) = slice.split_at(slice.len().min(stock.spare()));
            stock.tail.extend_from_slice(fits);
            slice = rest;
            if slice.is_empty() || stock.tail.is_empty() && stock.tail.try_reclaim(slice.len()) {
                continue;
            }
            stock.close_tail();
            stock.renew_tail(Size::for_bytes(slice.len()), largest, &mut bell.blocks());
        }
    }

    /// Shows up to `max` bytes from the front; says how many there were.
    fn show(&self, max: usize, copy: &mut impl FnMut(&[u8])) -> usize {
        let Some(stock) = &self.stock else { return 0 };
        let shown = stock.rope.for_each(max, &mut *copy);
        let from_tail = stock.tail.len().min(max - shown);
        if from_tail > 0 {
            copy(&stock.tail[..from_tail]);
        }
        shown + from_tail
    }

    /// Drops bytes from the front.
    fn skip(&mut self, bytes: usize) {
        let Some(stock) = &mut self.stock else { return };
        let from_rope = bytes.min(stock.rope.len());
        stock.rope.advance_to(stock.rope.start() + from_rope as u64);
        let from_tail = bytes - from_rope;
        if from_tail > 0 {
            bytes::Buf::advance(&mut stock.tail, from_tail);
            stock.rope.skip(from_tail);
        }
    }

    /// The piece at the front; the open block's part becomes a chunk if there is no other.
    fn front(&mut self) -> Bytes {
        let Some(stock) = &mut self.stock else {
            return Bytes::new();
        };
        if stock.rope.is_empty() {
            stock.close_tail();
        }
        stock.rope.front().cloned().unwrap_or_default()
    }

    /// Takes a part of up to `max` bytes from the front of what is queued.
    fn split(&mut self, max: usize) -> Bytes {
        let Some(stock) = &mut self.stock else {
            return Bytes::new();
        };
        stock.rope.split_front(max).unwrap_or_else(|| {
            let bytes = stock.tail.split_to(max.min(stock.tail.len())).freeze();
            stock.rope.skip(bytes.len());
            bytes
        })
    }

    /// What an empty pipe does not need.
    fn retire(&mut self) -> Option<Box<Stock>> {
        if self.queued() > 0 {
            return None;
        }
        self.start = self.consumed();
        self.stock.take()
    }
}

/// The first step of every read, under the lock that it goes on with.
trait Check<'a> {
    fn check<T>(self, wait: Wait<'_>) -> Result<MutexGuard<'a, Inner>, Read<T>>;
}

impl<'a> Check<'a> for MutexGuard<'a, Inner> {
    /// The lock, if something is queued; else what the read comes to, and the reader waits if it
    /// wants to.
    fn check<T>(mut self, wait: Wait<'_>) -> Result<Self, Read<T>> {
        if self.queued() > 0 {
            return Ok(self);
        }
        Err(if self.finished {
            Read::End // Even if a reset came later, as on Linux.
        } else if self.failed {
            Read::Failed
        } else {
            self.ready = false;
            let displaced = self.waiters.wait(wait);
            drop(self);
            drop(displaced);
            Read::Empty
        })
    }
}

impl<T> Read<T> {
    const fn some(taken: T, press: bool) -> Self {
        Self::Some { taken, press }
    }
}

fn clamp(capacity: usize) -> u32 {
    u32::try_from(capacity).unwrap_or(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(capacity: usize) -> RecvPipe {
        RecvPipe::new(Doorbell::new(), capacity)
    }

    fn push(pipe: &RecvPipe, bytes: impl Into<Bytes>) {
        let mut payload = Payload::from_iter([bytes.into()]);
        pipe.push(&mut payload, &mut Wakes::new());
    }

    fn read(pipe: &RecvPipe, max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let copy = |piece: &[u8]| bytes.extend_from_slice(piece);
        let _ = pipe.read(max, false, Wait::Never, copy);
        bytes
    }

    fn memory(pipe: &RecvPipe) -> (bool, usize) {
        let inner = pipe.lock();
        let stock = inner.stock.as_ref();
        (
            stock.is_some_and(|stock| stock.rope.chunk_count() > 0),
            stock.map_or(0, |stock| stock.tail.capacity()),
        )
    }

    #[test]
    fn a_large_slice_is_kept_and_a_small_one_pins_nothing() {
        let pipe = pipe(1 << 20);
        let large = Bytes::from(vec![1; KEEP_MIN]);
        let small = Bytes::from(vec![2; KEEP_MIN - 1]);
        let at = large.as_ptr();
        push(&pipe, small.clone());
        push(&pipe, large);
        push(&pipe, small.clone());
        assert!(small.is_unique());
        let chunk = |max| match pipe.read_chunk(max, Wait::Never) {
            Read::Some { taken, .. } => taken,
            other => panic!("{other:?}"),
        };
        assert_eq!(chunk(usize::MAX), small);
        let first = chunk(10);
        assert_eq!((first.as_ptr(), first.len()), (at, 10));
        assert_eq!(chunk(usize::MAX).len(), KEEP_MIN - 10);
        assert_eq!(chunk(5), small.slice(..5));
        assert_eq!(chunk(usize::MAX), small.slice(5..));
        assert_eq!(pipe.consumed(), 3 * KEEP_MIN as u64 - 2);
    }

    #[test]
    fn small_slices_take_larger_blocks_as_they_gather_and_an_empty_pipe_none() {
        let pipe = pipe(1 << 20);
        assert_eq!(memory(&pipe), (false, 0));
        for _ in 0..3 {
            push(&pipe, &b"x"[..]);
            assert_eq!(memory(&pipe), (false, 512));
            for _ in 0..512 {
                push(&pipe, &b"x"[..]);
            }
            assert_eq!(memory(&pipe), (true, 4096));
            push(&pipe, vec![b'x'; 4096]);
            assert_eq!(memory(&pipe), (true, 65_536));
            for max in [1, 1000, 5000] {
                assert!(read(&pipe, max).iter().all(|byte| *byte == b'x'));
            }
            assert_eq!((pipe.queued(), memory(&pipe)), (0, (false, 0)));
        }
        assert_eq!(pipe.consumed(), 3 * (1 + 512 + 4096));
    }

    #[test]
    fn every_split_of_what_is_queued_reads_the_same() {
        let whole: Vec<u8> = (0..100_000_u32).map(|n| (n / 3) as u8).collect();
        for max in [1_000, 7_919, 16_384, 16_385, 50_000, 200_000] {
            let pipe = pipe(1 << 20);
            let (mut rest, mut size) = (&whole[..], 1);
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                push(&pipe, piece.to_vec());
                (rest, size) = (after, size * 3 % 30_011);
            }
            let mut peeked = Vec::new();
            let copy = |piece: &[u8]| peeked.extend_from_slice(piece);
            pipe.peek(usize::MAX, Wait::Never, copy);
            assert!(peeked == whole);
            let mut bytes = Vec::new();
            while pipe.queued() > 0 {
                bytes.extend(read(&pipe, max));
            }
            assert!(bytes == whole);
        }
    }

    #[test]
    fn the_reader_rings_when_all_is_read_if_the_engine_asked_for_it_since_the_last_push() {
        let pipe = pipe(1000);
        let press = |max| {
            let read = pipe.read(max, false, Wait::Never, |_| {});
            matches!(read, Read::Some { press: true, .. })
        };
        push(&pipe, vec![0; 900]);
        assert!(!pipe.ring_when_empty());
        assert!(!press(899));
        assert!(press(1));
        assert!(pipe.ring_when_empty(), "there is nothing already");
        assert!(!pipe.ring_when_free(|_| usize::MAX), "another question");
        push(&pipe, vec![0; 900]);
        assert!(!press(900), "nobody asked");
    }

    #[test]
    fn the_reader_rings_when_as_much_is_free_as_the_engine_asked_for() {
        let pipe = pipe(1000);
        push(&pipe, vec![0; 900]);
        let press = |max| {
            let read = pipe.read(max, false, Wait::Never, |_| {});
            matches!(read, Read::Some { press: true, .. })
        };
        assert!(!press(100), "nobody asked");
        assert!(!pipe.ring_when_free(|_| 500));
        assert!(!press(299));
        assert!(press(1));
        assert!(press(1), "until it asks again");
        assert!(pipe.ring_when_free(|_| 501), "there is as much already");
        assert!(!pipe.ring_when_free(|_| usize::MAX));
        assert!(!press(499));
        let look = RecvLook {
            queued: 0,
            free: 1000,
            allowed: 1000,
            capacity: 1000,
            consumed: 900,
        };
        assert_eq!(pipe.look(), look);
    }

    #[test]
    fn capacity_bounds_the_window_and_not_what_is_queued() {
        let pipe = pipe(1000);
        push(&pipe, vec![0; 1200]);
        assert_eq!((pipe.free(), pipe.queued()), (0, 1200));
        pipe.set_capacity(1500);
        assert_eq!((pipe.free(), pipe.capacity()), (300, 1500));
    }

    #[test]
    fn what_nobody_will_read_is_dropped() {
        let pipe = pipe(1000);
        assert!(!pipe.discard(&mut Wakes::new()));
        push(&pipe, &b"late"[..]);
        assert_eq!(pipe.queued(), 0);
        let pipe = self::pipe(100_000);
        push(&pipe, &b"small"[..]);
        push(&pipe, vec![0; KEEP_MIN]);
        push(&pipe, &b"small"[..]);
        assert!(pipe.discard(&mut Wakes::new()));
        assert_eq!((pipe.queued(), memory(&pipe)), (0, (false, 0)));
    }

    #[test]
    fn nothing_clears_the_end() {
        for failed in [false, true] {
            let pipe = pipe(1000);
            match failed {
                true => pipe.fail(&mut Wakes::new()),
                false => pipe.finish(&mut Wakes::new()),
            }
            pipe.clear_ready_since(pipe.tick());
            assert!(pipe.ready().contains(Ready::READABLE | Ready::READ_CLOSED));
        }
    }

    #[test]
    fn memory_that_is_scarce_is_pinned_by_what_fills_it_only() {
        for (scarce, len, copied) in [
            (false, KEEP_MIN, false),
            (true, KEEP_MIN, true),
            (true, KEEP_MIN_SCARCE, false),
        ] {
            let pipe = pipe(1 << 20);
            if scarce {
                pipe.bell.budget().set_limit(200_000);
                pipe.bell.budget().charge(110_000);
            }
            let slice = Bytes::from(vec![7; len]);
            let at = slice.as_ptr();
            push(&pipe, slice);
            let Read::Some { taken, .. } = pipe.read_chunk(usize::MAX, Wait::Never) else {
                panic!("it was pushed");
            };
            assert_eq!(taken.as_ptr() != at, copied, "{scarce} {len}");
        }
    }

    #[test]
    fn what_lies_beside_counts_and_room_is_what_there_is_memory_for() {
        let pipe = pipe(1 << 20);
        let budget = pipe.bell.budget();
        assert_eq!(pipe.room(), usize::MAX);
        let before = budget.held();
        pipe.set_beside(50_000);
        assert!(budget.held() > before + 40_000);
        pipe.set_beside(0);
        assert_eq!(budget.held(), before);
        budget.set_limit(1 << 20);
        budget.charge(600_000);
        assert_eq!(pipe.room(), budget.free());
        budget.charge(500_000);
        assert_eq!((pipe.room(), budget.free()), (ALWAYS, 0));
    }
}
