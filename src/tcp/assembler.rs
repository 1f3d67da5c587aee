//! Bytes that came before their turn.

use std::{
    collections::VecDeque,
    fmt,
    ops::{ControlFlow, Range},
};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::{packet::Payload, tcp::ranges::RangeSet};

/// A slice of at least this many bytes is kept by reference: it pins a receive buffer of 64 KiB,
/// about three times itself. Less is copied.
const KEEP_MIN: usize = 20 << 10;

/// Copied bytes that follow one another are kept in blocks of up to this size.
const BLOCK_MAX: usize = 64 << 10;

/// How many SACK blocks fit into a segment (RFC 2018 §3).
const SACK_BLOCKS_MAX: usize = 4;

/// An island for each so many bytes held is no trick: about the least segment (RFC 9293 §3.7.1).
const ISLAND: u64 = 512;

/// But no more than these, whose bookkeeping each segment out of order may have to move.
const ISLANDS_MAX: usize = 2048;

/// What an allocation costs beside its bytes, and the least that it holds, in common allocators.
const ALLOCATION: usize = 8;
const ALLOCATION_MIN: usize = 24;

/// SACK blocks, as stream offsets.
pub(crate) type SackBlocks = SmallVec<[Range<u64>; SACK_BLOCKS_MAX]>;

/// Received bytes that wait for what is missing before them, by their offset in the stream.
///
/// Of bytes that come twice the first copy stays, so nobody can change what was acknowledged. A
/// peer that sends islands of a byte gets no more than [`Limits::ranges`] of them, at about 100
/// bytes each. Apart from those, memory stays below four times the bytes held. Islands of whole
/// segments are as many as there are: a queue that overflows lets every second segment through, and
/// what was reported by SACK and given up looks to the sender as if nothing of it could be relied
/// on.
#[derive(Default)]
pub(crate) struct Assembler(Option<Box<Inner>>);

#[derive(Default)]
struct Inner {
    ranges: RangeSet,
    /// Sorted, without overlap; together they cover `ranges`. Adjacent copied ones are joined as
    /// long as they fit into a block, so that their number is bounded by that of the ranges and of
    /// the bytes.
    chunks: VecDeque<Chunk>,
    /// Bytes that the chunks hold, `chunks` itself not counted.
    held: usize,
    /// An offset in each of the ranges that changed last, the latest first (RFC 2018 §4).
    recent: SmallVec<[u64; SACK_BLOCKS_MAX]>,
}

struct Chunk {
    start: u64,
    data: Data,
}

enum Data {
    /// A slice of a receive buffer.
    Kept(Bytes),
    /// A copy, with room on either side.
    Copied(VecDeque<u8>),
}

/// How much an assembler may hold. The furthest bytes go first when it is too much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Islands, whatever they hold.
    pub(crate) ranges: usize,
    /// Bytes of memory, as [`Assembler::memory`] counts them.
    pub(crate) memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ranges: 256,
            memory: usize::MAX,
        }
    }
}

/// What became of an insertion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Bytes that were not there before.
    pub(crate) new_bytes: u64,
    /// The first part of the payload that had been received before, to report by D-SACK (RFC 2883).
    pub(crate) duplicate: Option<Range<u64>>,
    /// Bytes given up, because of the limits: of this payload or of earlier ones.
    pub(crate) dropped: u64,
}

impl Assembler {
    /// An empty assembler, which has allocated nothing.
    #[cfg(test)]
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Takes a payload whose first byte has this offset in the stream.
    pub(crate) fn insert(&mut self, offset: u64, payload: &Payload, limits: &Limits) -> Inserted {
        let len: usize = payload.iter().map(Bytes::len).sum();
        let Some(end) = offset.checked_add(len as u64).filter(|end| *end > offset) else {
            return Inserted::default();
        };
        let inner = self.0.get_or_insert_default();
        let mut inserted = Inserted::default();
        let mut new = SmallVec::<[Range<u64>; 4]>::new();
        let mut known_to = offset;
        let run = inner.ranges.insert(offset..end, |range| {
            if known_to < range.start && inserted.duplicate.is_none() {
                inserted.duplicate = Some(known_to..range.start);
            }
            known_to = range.end;
            inserted.new_bytes += range.end - range.start;
            new.push(range);
        });
        if known_to < end && inserted.duplicate.is_none() {
            inserted.duplicate = Some(known_to..end);
        }
        for range in new {
            inner.store(offset, payload, range);
        }
        inner.note_recent(offset, &run);
        inserted.dropped = self.enforce(limits);
        inserted
    }

    fn enforce(&mut self, limits: &Limits) -> u64 {
        let before = self.len();
        while self.range_count() > limits.ranges.max(self.islands_of_segments()) {
            self.drop_last_range();
        }
        let excess = self.memory().saturating_sub(limits.memory);
        if excess > 0 {
            self.drop_furthest(excess);
        }
        before - self.len()
    }

    /// How many islands the bytes held would make if they were segments.
    fn islands_of_segments(&self) -> usize {
        usize::try_from(self.len() / ISLAND).map_or(ISLANDS_MAX, |islands| islands.min(ISLANDS_MAX))
    }

    /// Hands out, in order, everything that continues the stream at `rcv_nxt`, and returns the
    /// offset behind it. What lies below `rcv_nxt` is forgotten.
    pub(crate) fn take_in_order(&mut self, rcv_nxt: u64, mut out: impl FnMut(Bytes)) -> u64 {
        let Some(inner) = &mut self.0 else {
            return rcv_nxt;
        };
        if inner.ranges.first().is_none_or(|r| r.start > rcv_nxt) {
            return rcv_nxt;
        }
        let next = inner.ranges.get(rcv_nxt).map_or(rcv_nxt, |r| r.end);
        while let Some(chunk) = inner.chunks.front() {
            if chunk.start >= next && chunk.end() > rcv_nxt {
                break;
            }
            let Some(mut chunk) = inner.chunks.pop_front() else {
                break;
            };
            inner.held -= chunk.data.memory();
            chunk.advance_to(rcv_nxt);
            if !chunk.data.is_empty() {
                out(chunk.data.into_bytes());
            }
        }
        inner.ranges.remove_before(next);
        inner.shrink();
        self.tidy();
        next
    }

    /// The range that comes first.
    pub(crate) fn first(&self) -> Option<Range<u64>> {
        self.0.as_ref()?.ranges.iter().next()
    }

    /// The ranges to report by SACK, `max` and 4 of them at most: those that changed last first
    /// (RFC 2018 §4), then others from the lowest up.
    pub(crate) fn sack_blocks(&self, max: usize) -> SackBlocks {
        let max = max.min(SACK_BLOCKS_MAX);
        let mut blocks = SackBlocks::new();
        let Some(inner) = &self.0 else {
            return blocks;
        };
        let recent = inner.recent.iter().filter_map(|at| inner.ranges.get(*at));
        // No more than four are skipped, so this looks at eight ranges at most.
        let _ = recent.chain(inner.ranges.iter()).try_for_each(|range| {
            if blocks.len() == max {
                return ControlFlow::Break(());
            }
            if !blocks.contains(&range) {
                blocks.push(range);
            }
            ControlFlow::Continue(())
        });
        blocks
    }

    /// Gives up the furthest bytes until `memory` bytes of memory are free, and returns how many
    /// bytes of memory became free. The peer sends them again: it may not forget what was only
    /// selectively acknowledged (RFC 2018 §8).
    pub(crate) fn drop_furthest(&mut self, memory: usize) -> usize {
        let before = self.memory();
        while let Some(inner) = &mut self.0 {
            if before - inner.memory() >= memory {
                break;
            }
            let Some(chunk) = inner.chunks.pop_back() else {
                break;
            };
            inner.held -= chunk.data.memory();
            inner.ranges.remove_from(chunk.start);
            inner.shrink();
            self.tidy();
        }
        before - self.memory()
    }

    fn drop_last_range(&mut self) {
        if let Some(inner) = &mut self.0
            && let Some(range) = inner.ranges.last()
        {
            let keep = inner
                .chunks
                .partition_point(|chunk| chunk.start < range.start);
            for chunk in inner.chunks.drain(keep..) {
                inner.held -= chunk.data.memory();
            }
            inner.ranges.remove_from(range.start);
        }
        self.tidy();
    }

    /// Gives everything up.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// An empty assembler holds nothing.
    fn tidy(&mut self) {
        if self.0.as_ref().is_some_and(|inner| inner.ranges.is_empty()) {
            self.0 = None;
        }
    }

    /// Whether no bytes wait.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many bytes wait.
    pub(crate) fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.ranges.covered())
    }

    /// How many islands there are.
    pub(crate) fn range_count(&self) -> usize {
        self.0.as_ref().map_or(0, |inner| inner.ranges.len())
    }

    /// The offset behind the furthest byte.
    pub(crate) fn end(&self) -> Option<u64> {
        Some(self.0.as_ref()?.ranges.last()?.end)
    }

    /// Bytes of memory held. A slice kept by reference counts with its length: the buffer behind
    /// it is shared with its neighbours.
    pub(crate) fn memory(&self) -> usize {
        self.0.as_ref().map_or(0, |inner| inner.memory())
    }
}

impl Inner {
    /// Stores the part `range` of a payload that begins at `offset`.
    fn store(&mut self, offset: u64, payload: &Payload, range: Range<u64>) {
        let mut slice_start = offset;
        for slice in payload {
            let slice_end = slice_start + slice.len() as u64;
            let start = range.start.max(slice_start);
            let end = range.end.min(slice_end);
            if start < end {
                // Differences within a slice fit its length.
                let part = (start - slice_start) as usize..(end - slice_start) as usize;
                self.store_slice(start, slice, part);
            }
            slice_start = slice_end;
        }
    }

    fn store_slice(&mut self, start: u64, slice: &Bytes, part: Range<usize>) {
        let at = self.chunks.partition_point(|chunk| chunk.start < start);
        if part.len() >= KEEP_MIN {
            let data = Data::Kept(slice.slice(part));
            self.insert_chunk(at, Chunk { start, data });
            return;
        }
        let bytes = &slice[part];
        let joined = at > 0 && {
            let before = &mut self.chunks[at - 1];
            let held = before.data.memory();
            let joined = before.append(start, bytes);
            self.held += before.data.memory() - held;
            joined
        };
        let at = if joined {
            at - 1
        } else {
            let data = Data::Copied(VecDeque::from(bytes.to_vec()));
            self.insert_chunk(at, Chunk { start, data });
            at
        };
        self.join_with_next(at);
    }

    fn insert_chunk(&mut self, at: usize, chunk: Chunk) {
        if self.chunks.len() == self.chunks.capacity() {
            // In small steps: doubling would double the cost of an island.
            self.chunks.reserve_exact(self.chunks.len() / 4 + 2);
        }
        self.held += chunk.data.memory();
        self.chunks.insert(at, chunk);
    }

    /// Joins a copied chunk with the one behind it, if both fit into a block. The smaller moves,
    /// so that a byte moves a logarithmic number of times whatever order bytes come in.
    fn join_with_next(&mut self, at: usize) {
        let (Some(this), Some(next)) = (self.chunks.get(at), self.chunks.get(at + 1)) else {
            return;
        };
        let (Data::Copied(a), Data::Copied(b)) = (&this.data, &next.data) else {
            return;
        };
        if this.end() != next.start || a.len() + b.len() > BLOCK_MAX {
            return;
        }
        let next = self.chunks.remove(at + 1);
        if let (Some(this), Some(next)) = (self.chunks.get_mut(at), next)
            && let (Data::Copied(a), Data::Copied(b)) = (&mut this.data, next.data)
        {
            self.held -= copied_memory(a) + copied_memory(&b);
            join(a, b);
            self.held += copied_memory(a);
        }
        self.shrink();
    }

    /// Puts the range `run`, in which `offset` lies, before the others.
    fn note_recent(&mut self, offset: u64, run: &Range<u64>) {
        self.recent.retain(|at| !run.contains(at));
        self.recent.truncate(SACK_BLOCKS_MAX - 1);
        self.recent.insert(0, offset);
    }

    /// Gives memory of the chunk list back when most of it is unused.
    fn shrink(&mut self) {
        if self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
    }

    fn memory(&self) -> usize {
        size_of::<Self>()
            + self.held
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.ranges.memory()
    }
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }

    /// Appends bytes that begin at `start`, if they follow and fit into a block.
    fn append(&mut self, start: u64, bytes: &[u8]) -> bool {
        if self.end() != start {
            return false;
        }
        match &mut self.data {
            Data::Copied(block) if block.len() + bytes.len() <= BLOCK_MAX => {
                block.extend(bytes);
                true
            }
            Data::Copied(_) | Data::Kept(_) => false,
        }
    }

    /// Drops what lies before `offset`.
    fn advance_to(&mut self, offset: u64) {
        let past = offset.saturating_sub(self.start);
        let cut = usize::try_from(past).map_or(self.data.len(), |cut| cut.min(self.data.len()));
        if cut == 0 {
            return;
        }
        match &mut self.data {
            Data::Kept(bytes) => bytes.advance(cut),
            Data::Copied(block) => drop(block.drain(..cut)),
        }
        self.start += cut as u64;
    }
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::Kept(bytes) => bytes.len(),
            Self::Copied(block) => block.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn memory(&self) -> usize {
        match self {
            Self::Kept(bytes) => bytes.len(),
            Self::Copied(block) => copied_memory(block),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Kept(bytes) => bytes,
            Self::Copied(block) => Bytes::from(Vec::from(block)),
        }
    }
}

fn copied_memory(block: &VecDeque<u8>) -> usize {
    block.capacity().max(ALLOCATION_MIN) + ALLOCATION
}

/// Appends `b` to `a` by moving the smaller of them.
fn join(a: &mut VecDeque<u8>, mut b: VecDeque<u8>) {
    if a.len() >= b.len() {
        a.append(&mut b);
        return;
    }
    let len = a.len();
    b.extend(a.iter());
    // Moves no more than the bytes that go to the front.
    b.rotate_right(len);
    *a = b;
}

impl fmt::Debug for Assembler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        if let Some(inner) = &self.0 {
            list.entries(inner.ranges.iter());
        }
        list.finish()
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const LIMITS: Limits = Limits {
        ranges: 256,
        memory: usize::MAX,
    };

    fn payload(bytes: &[u8]) -> Payload {
        [Bytes::copy_from_slice(bytes)].into_iter().collect()
    }

    fn insert(assembler: &mut Assembler, offset: u64, bytes: &[u8]) -> Inserted {
        assembler.insert(offset, &payload(bytes), &LIMITS)
    }

    fn take(assembler: &mut Assembler, rcv_nxt: u64) -> (u64, Vec<u8>) {
        let mut bytes = Vec::new();
        let next = assembler.take_in_order(rcv_nxt, |chunk| bytes.extend_from_slice(&chunk));
        (next, bytes)
    }

    #[test]
    fn an_empty_one_is_small_and_an_emptied_one_holds_nothing() {
        assert!(size_of::<Assembler>() <= 32);
        let mut assembler = Assembler::new();
        assert_eq!(assembler.memory(), 0);
        insert(&mut assembler, 5, b"later");
        assert!(assembler.memory() > 0 && !assembler.is_empty());
        assert_eq!(take(&mut assembler, 5), (10, b"later".to_vec()));
        assert!(assembler.is_empty() && assembler.memory() == 0);
        insert(&mut assembler, 5, b"");
        assert!(assembler.is_empty());
    }

    #[test]
    fn bytes_come_out_when_the_hole_before_them_is_filled() {
        let mut assembler = Assembler::new();
        insert(&mut assembler, 4, b"ef");
        insert(&mut assembler, 8, b"ij");
        assert_eq!(take(&mut assembler, 3), (3, vec![]));
        insert(&mut assembler, 3, b"d");
        assert_eq!(take(&mut assembler, 3), (6, b"def".to_vec()));
        assert_eq!(assembler.len(), 2);
        assert_eq!(take(&mut assembler, 9), (10, b"j".to_vec()));
        assert!(assembler.is_empty());
    }

    #[test]
    fn s4_of_bytes_that_come_twice_the_first_copy_stays() {
        let mut assembler = Assembler::new();
        insert(&mut assembler, 12, b"cd");
        insert(&mut assembler, 16, b"gh");
        let inserted = insert(&mut assembler, 10, b"ABCDEFGHIJ");
        assert_eq!(inserted.new_bytes, 6);
        assert_eq!(inserted.duplicate, Some(12..14));
        assert_eq!(take(&mut assembler, 10), (20, b"ABcdEFghIJ".to_vec()));
    }

    #[test]
    fn rfc2883_the_first_duplicate_part_is_told() {
        let mut assembler = Assembler::new();
        assert_eq!(insert(&mut assembler, 10, b"abcd").duplicate, None);
        let again = insert(&mut assembler, 11, b"bc");
        assert_eq!((again.new_bytes, again.duplicate), (0, Some(11..13)));
        assert_eq!(insert(&mut assembler, 12, b"cdef").duplicate, Some(12..14));
        assert_eq!(insert(&mut assembler, 8, b"zzab").duplicate, Some(10..12));
    }

    #[test]
    fn rfc2018_4_the_block_that_changed_last_comes_first() {
        let mut assembler = Assembler::new();
        for offset in [10, 20, 30, 40, 50] {
            insert(&mut assembler, offset, b"ab");
        }
        let blocks = |assembler: &Assembler, max| assembler.sack_blocks(max).to_vec();
        assert_eq!(blocks(&assembler, 4), [50..52, 40..42, 30..32, 20..22]);
        assert_eq!(blocks(&assembler, 2), [50..52, 40..42]);
        insert(&mut assembler, 22, b"c");
        assert_eq!(blocks(&assembler, 3), [20..23, 50..52, 40..42]);
        // Blocks that became one leave room, which the others fill.
        insert(&mut assembler, 42, b"cdefghij");
        assert_eq!(blocks(&assembler, 9), [40..52, 20..23, 30..32, 10..12]);
        assert!(blocks(&Assembler::new(), 4).is_empty());
    }

    #[test]
    fn too_many_islands_cost_the_furthest() {
        let mut assembler = Assembler::new();
        for island in 0..256 {
            assert_eq!(insert(&mut assembler, 10 + island * 2, b"x").dropped, 0);
        }
        assert_eq!(insert(&mut assembler, 2, b"abc").dropped, 1);
        assert_eq!(assembler.end(), Some(10 + 254 * 2 + 1));
        assert_eq!(insert(&mut assembler, 9000, b"abc").dropped, 3);
        assert_eq!(assembler.range_count(), 256);
        assert!(
            assembler
                .sack_blocks(4)
                .iter()
                .all(|block| block.end < 9000)
        );
    }

    #[test]
    fn islands_of_segments_are_all_kept_up_to_a_bound() {
        let mut assembler = Assembler::new();
        let segment = [7; 536];
        for island in 0..2048 {
            let dropped = insert(&mut assembler, 1000 + island * 2000, &segment).dropped;
            assert_eq!(dropped, 0, "{island}");
        }
        assert_eq!(
            insert(&mut assembler, 1000 + 2048 * 2000, &segment).dropped,
            536
        );
        // Single bytes among them take their places, the furthest ones.
        assert_eq!(insert(&mut assembler, 1, b"x").dropped, 536);
        for island in 0..20_000 {
            insert(&mut assembler, 100_000_000 + island * 2, b"x");
        }
        assert_eq!(assembler.range_count(), 2048);
    }

    #[test]
    fn islands_of_a_byte_cost_about_100_bytes_each() {
        let mut assembler = Assembler::new();
        for island in 0..256 {
            insert(&mut assembler, 10 + island * 2, b"x");
        }
        let each = assembler.memory() / 256;
        assert!(each <= 120, "{each}");
    }

    #[test]
    fn memory_stays_within_four_times_the_bytes_in_any_order() {
        const LEN: u64 = 100_000;
        let forward: Vec<u64> = (0..LEN).collect();
        let backward: Vec<u64> = (0..LEN).rev().collect();
        let even_then_odd: Vec<u64> = (0..256).step_by(2).chain(1..256).collect();
        for order in [forward, backward, even_then_odd] {
            let mut assembler = Assembler::new();
            for offset in &order {
                insert(&mut assembler, *offset, b"x");
            }
            let (len, memory) = (assembler.len() as usize, assembler.memory());
            assert!(memory <= 4 * len + 512, "{memory} for {len}");
            assert!(assembler.0.as_ref().unwrap().chunks.len() <= 4);
        }
    }

    #[test]
    fn large_slices_are_kept_and_small_ones_copied() {
        let mut assembler = Assembler::new();
        let large = Bytes::from(vec![1; KEEP_MIN]);
        let small = Bytes::from(vec![2; KEEP_MIN - 1]);
        let both = [large.clone(), small.clone()].into_iter().collect();
        assembler.insert(7, &both, &LIMITS);
        let mut out = Vec::new();
        assembler.take_in_order(7, |chunk| out.push(chunk));
        assert_eq!(out, [large.clone(), small.clone()]);
        assert_eq!(out[0].as_ptr(), large.as_ptr());
        assert_ne!(out[1].as_ptr(), small.as_ptr());
    }

    #[test]
    fn under_memory_pressure_the_furthest_go_first() {
        let mut assembler = Assembler::new();
        for block in 0..8 {
            insert(&mut assembler, block * 100_000, &[3; 10_000]);
        }
        let before = assembler.memory();
        let freed = assembler.drop_furthest(15_000);
        assert_eq!(assembler.memory(), before - freed);
        assert!((15_000..40_000).contains(&freed));
        assert_eq!(assembler.end(), Some(510_000));
        let tight = Limits {
            memory: 30_000,
            ..LIMITS
        };
        let inserted = assembler.insert(20_000, &payload(b"x"), &tight);
        assert!(inserted.dropped >= 30_000 && assembler.memory() <= 30_000);
        assembler.drop_furthest(usize::MAX);
        assert!(assembler.is_empty());
        insert(&mut assembler, 1, b"x");
        assembler.clear();
        assert!(assembler.is_empty());
    }

    #[test]
    fn offsets_past_the_end_of_the_number_line_are_refused() {
        let mut assembler = Assembler::new();
        assert_eq!(insert(&mut assembler, u64::MAX, b"xy"), Inserted::default());
        assert!(assembler.is_empty());
    }

    fn check(assembler: &Assembler) {
        let Some(inner) = &assembler.0 else {
            return;
        };
        assert_eq!(
            inner.held,
            inner.chunks.iter().map(|c| c.data.memory()).sum::<usize>()
        );
        let mut of_chunks = RangeSet::new();
        for chunk in &inner.chunks {
            assert!(!chunk.data.is_empty());
            let mut new = 0;
            of_chunks.insert(chunk.start..chunk.end(), |range| {
                new += range.end - range.start;
            });
            assert_eq!(new, chunk.data.len() as u64, "chunks overlap");
        }
        assert_eq!(of_chunks, inner.ranges);
        assert!(inner.chunks.iter().is_sorted_by_key(|chunk| chunk.start));
    }

    #[test]
    fn any_sequence_of_operations_agrees_with_a_byte_map() {
        const SPACE: usize = 80_000;
        for seed in 0..16 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut assembler = Assembler::new();
            let mut model = vec![None; SPACE];
            let mut rcv_nxt = 0;
            for _ in 0..120 {
                let from = rng.random_range(rcv_nxt..SPACE);
                let most = if rng.random_bool(0.1) { 60_000 } else { 2000 };
                let len = rng.random_range(0..most).min(SPACE - from);
                let bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
                let cut = rng.random_range(0..=len);
                let slices = [&bytes[..cut], &bytes[cut..]];
                let payload = slices.into_iter().map(Bytes::copy_from_slice).collect();
                let limits = Limits {
                    ranges: 20,
                    ..LIMITS
                };
                let inserted = assembler.insert(from as u64, &payload, &limits);
                let old = (from..from + len).find(|at| model[*at].is_some());
                assert_eq!(inserted.duplicate.map(|d| d.start as usize), old);
                let mut new = 0;
                for (place, byte) in model[from..].iter_mut().zip(bytes) {
                    new += u64::from(place.is_none());
                    place.get_or_insert(byte);
                }
                assert_eq!(inserted.new_bytes, new);
                let end = assembler.end().unwrap_or(0) as usize;
                let gone = model[end..].iter().flatten().count();
                assert_eq!(inserted.dropped, gone as u64);
                model[end..].fill(None);
                match rng.random_range(0..10) {
                    0 => {
                        assembler.drop_furthest(rng.random_range(0..30_000));
                        model[assembler.end().unwrap_or(0) as usize..].fill(None);
                    }
                    1 => {
                        rcv_nxt = (rcv_nxt + rng.random_range(0..3000)).min(SPACE - 1);
                        let (next, bytes) = take(&mut assembler, rcv_nxt as u64);
                        let run = model[rcv_nxt..].iter().map_while(|byte| *byte);
                        assert!(run.eq(bytes.iter().copied()), "seed {seed}");
                        assert_eq!(next as usize, rcv_nxt + bytes.len());
                        rcv_nxt = next as usize;
                        if !bytes.is_empty() {
                            model[..rcv_nxt].fill(None);
                        }
                        // What lies below is forgotten at the latest with the next bytes.
                        assembler.take_in_order(rcv_nxt as u64, |_| panic!("taken"));
                        model[..rcv_nxt].fill(None);
                        rcv_nxt = rcv_nxt.min(SPACE - 1);
                    }
                    _ => (),
                }
                check(&assembler);
                let held = model.iter().flatten().count();
                assert_eq!(assembler.len(), held as u64, "seed {seed}");
            }
        }
    }
}
