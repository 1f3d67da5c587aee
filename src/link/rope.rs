//! A queue of shared chunks, in which a byte is found by its offset.

use std::{collections::VecDeque, ops::Range};

use bytes::{Buf, Bytes};

use crate::packet::Payload;

/// A chunk and the offset of its first byte.
#[derive(Debug)]
pub(super) struct Chunk {
    at: u64,
    bytes: Bytes,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

/// Bytes of a stream from one offset to another, in chunks that are shared and never copied.
///
/// Offsets count from the start of the stream and never wrap (2^64 bytes). The chunks lie without
/// gaps between [`start`](Self::start) and [`end`](Self::end), and none is empty.
#[derive(Debug, Default)]
pub(crate) struct Rope {
    chunks: VecDeque<Chunk>,
    start: u64,
    end: u64,
}

impl Rope {
    /// An empty rope that starts at offset zero. It allocates nothing.
    #[cfg(test)]
    pub(crate) const fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            start: 0,
            end: 0,
        }
    }

    /// Offset of the first byte.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// Offset behind the last byte.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Number of bytes.
    pub(crate) const fn len(&self) -> usize {
        (self.end - self.start) as usize // It is in memory, so it fits.
    }

    /// Whether there are no bytes.
    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Number of chunks.
    #[cfg(test)]
    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Appends a chunk; an empty one is dropped.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            let chunk = Chunk {
                at: self.end,
                bytes,
            };
            self.end = chunk.end();
            self.chunks.push_back(chunk);
        }
    }

    /// Moves all chunks of `other` to the end; there they have the offsets that follow.
    pub(crate) fn push_all(&mut self, other: &mut Self) {
        while let Some(bytes) = other.pop_front() {
            self.push(bytes);
        }
    }

    /// Takes the first chunk out.
    pub(crate) fn pop_front(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.pop_front()?;
        self.start = chunk.end();
        Some(chunk.bytes)
    }

    /// The first chunk, which stays where it is.
    pub(super) fn front(&self) -> Option<&Bytes> {
        self.chunks.front().map(|chunk| &chunk.bytes)
    }

    /// Takes up to `max` bytes of the first chunk out, without a copy.
    pub(crate) fn split_front(&mut self, max: usize) -> Option<Bytes> {
        let chunk = self.chunks.front_mut()?;
        if chunk.bytes.len() <= max {
            return self.pop_front();
        }
        let bytes = chunk.bytes.split_to(max);
        chunk.at += max as u64;
        self.start = chunk.at;
        Some(bytes)
    }

    /// Appends what lies in `range` to `out` as shared slices. What of the range is not in the rope
    /// is left out.
    pub(crate) fn slice(&self, range: Range<u64>, out: &mut Payload) {
        let first = self
            .chunks
            .partition_point(|chunk| chunk.end() <= range.start);
        for chunk in self.chunks.range(first..) {
            if chunk.at >= range.end {
                break;
            }
            let from = range.start.saturating_sub(chunk.at) as usize;
            let to = chunk.bytes.len().min((range.end - chunk.at) as usize);
            if from < to {
                out.push(if (from, to) == (0, chunk.bytes.len()) {
                    chunk.bytes.clone()
                } else {
                    chunk.bytes.slice(from..to)
                });
            }
        }
    }

    /// Offset behind the `max` chunks that begin with the one at `offset`; `None` if the rope ends
    /// before.
    pub(crate) fn end_of_chunks(&self, offset: u64, max: usize) -> Option<u64> {
        if self.chunks.len() <= max {
            return None;
        }
        let first = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        self.chunks.get(first + max - 1).map(Chunk::end)
    }

    /// Drops what lies before `offset`. An offset behind the end drops everything and moves no
    /// further than to the end.
    pub(crate) fn advance_to(&mut self, offset: u64) {
        let offset = offset.min(self.end);
        while let Some(chunk) = self.chunks.front_mut()
            && chunk.at < offset
        {
            if chunk.end() <= offset {
                self.chunks.pop_front();
            } else {
                chunk.bytes.advance((offset - chunk.at) as usize);
                chunk.at = offset;
            }
        }
        self.start = self.start.max(offset);
    }

    /// Copies from the front to `buf` and drops what was copied; says how much that was.
    #[cfg(test)]
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> usize {
        let mut filled = 0;
        self.for_each(buf.len(), |piece| {
            buf[filled..][..piece.len()].copy_from_slice(piece);
            filled += piece.len();
        });
        self.advance_to(self.start + filled as u64);
        filled
    }

    /// Shows the first `max` bytes, piece by piece; says how many there were.
    pub(super) fn for_each(&self, max: usize, mut show: impl FnMut(&[u8])) -> usize {
        let mut left = max;
        for chunk in &self.chunks {
            if left == 0 {
                break;
            }
            let piece = &chunk.bytes[..left.min(chunk.bytes.len())];
            left -= piece.len();
            show(piece);
        }
        max - left
    }

    /// Counts bytes that passed beside an empty rope.
    pub(super) fn skip(&mut self, bytes: usize) {
        debug_assert!(self.is_empty(), "bytes overtake those in the rope");
        self.start += bytes as u64;
        self.end = self.start;
    }

    /// Starts an empty rope at another offset.
    pub(crate) fn start_at(&mut self, offset: u64) {
        debug_assert!(self.is_empty(), "bytes overtake those in the rope");
        (self.start, self.end) = (offset, offset);
    }

    /// Drops everything: the rope is empty at its end.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.start = self.end;
    }

    /// Gives memory back that an empty rope does not need, or a full one has far too much of.
    #[cfg(test)]
    pub(crate) fn shrink(&mut self) {
        if self.chunks.capacity() > 4 * self.chunks.len() {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
    }

    /// Whether there is a place for one more chunk without an allocation.
    #[cfg(test)]
    pub(super) fn has_storage(&self) -> bool {
        self.chunks.capacity() > 0
    }

    /// Gives the memory of an empty rope back if it is for more chunks than this.
    pub(super) fn limit_storage(&mut self, chunks: usize) {
        if self.chunks.capacity() > chunks {
            self.chunks = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(pieces: &[&'static str]) -> Rope {
        let mut rope = Rope::new();
        for piece in pieces {
            rope.push(Bytes::from_static(piece.as_bytes()));
        }
        rope
    }

    fn slice(rope: &Rope, range: Range<u64>) -> String {
        let mut out = Payload::new();
        rope.slice(range, &mut out);
        assert!(out.iter().all(|bytes| !bytes.is_empty()));
        String::from_utf8(out.concat()).unwrap()
    }

    #[test]
    fn every_range_is_what_it_would_be_in_one_piece() {
        let mut rope = rope(&["abc", "", "d", "efgh", "ij"]);
        let whole = "abcdefghij";
        for start in 0..=10 {
            rope.advance_to(start as u64);
            assert_eq!(rope.start(), start as u64);
            assert_eq!(rope.len(), 10 - start);
            for from in 0..=12 {
                for to in from..=12 {
                    let expected = &whole[from.clamp(start, 10)..to.clamp(start, 10)];
                    assert_eq!(slice(&rope, from as u64..to as u64), expected);
                }
            }
        }
        assert_eq!(rope.chunk_count(), 0);
    }

    #[test]
    fn offsets_go_on_after_the_rope_was_emptied() {
        let mut rope = rope(&["abc", "def"]);
        rope.advance_to(99);
        assert_eq!((rope.start(), rope.end()), (6, 6));
        rope.push(Bytes::from_static(b"ghi"));
        assert_eq!(slice(&rope, 6..8), "gh");
        rope.clear();
        rope.shrink();
        assert_eq!(
            (rope.start(), rope.end(), rope.has_storage()),
            (9, 9, false)
        );
        rope.skip(3);
        rope.push(Bytes::from_static(b"m"));
        assert_eq!(slice(&rope, 12..13), "m");
    }

    #[test]
    fn chunks_are_moved_and_taken_without_a_copy() {
        let (mut first, mut second) = (rope(&["abc"]), rope(&["defg", "h"]));
        let at = second.chunks[0].bytes.as_ptr();
        first.push_all(&mut second);
        assert!(second.is_empty() && second.start() == 5);
        assert_eq!(slice(&first, 0..8), "abcdefgh");
        assert_eq!(first.pop_front().unwrap(), "abc");
        let taken = first.split_front(3).unwrap();
        assert_eq!((&taken[..], taken.as_ptr()), (&b"def"[..], at));
        assert_eq!(first.split_front(3).unwrap(), "g");
        let mut buf = [0; 4];
        assert_eq!((first.read(&mut buf), buf[0]), (1, b'h'));
        assert_eq!((first.start(), first.split_front(3)), (8, None));
    }
}
