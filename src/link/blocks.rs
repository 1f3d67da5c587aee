//! Memory that pipes borrow while there are bytes in them.

use std::mem;

use bytes::BytesMut;

use super::rope::Rope;
use crate::pool::Pool;

/// Empty stocks that are kept.
const STOCKS_MAX: usize = 256;

/// A chunk list with more places than this is not kept.
const STORAGE_CHUNKS_MAX: usize = 1024;

/// How large a block is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    /// 512 bytes.
    #[default]
    Small,
    /// 4 KiB.
    Medium,
    /// 64 KiB.
    Large,
}

impl Size {
    /// The least size that holds `bytes`, or the largest there is.
    pub(super) const fn for_bytes(bytes: usize) -> Self {
        match bytes {
            0..=512 => Self::Small,
            513..=4096 => Self::Medium,
            _ => Self::Large,
        }
    }

    /// In bytes.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Small => 512,
            Self::Medium => 4096,
            Self::Large => 64 << 10,
        }
    }

    /// The next larger size, if there is one.
    pub(super) const fn larger(self) -> Self {
        match self {
            Self::Small => Self::Medium,
            Self::Medium | Self::Large => Self::Large,
        }
    }
}

/// What a pipe has only while there are bytes in it.
#[derive(Debug, Default)]
pub(super) struct Stock {
    /// What is older than `tail`.
    pub(super) rope: Rope,
    /// The end of what is queued, in a block that takes more.
    pub(super) tail: BytesMut,
    /// The size of that block, if there is one.
    pub(super) tail_size: Option<Size>,
}

impl Stock {
    pub(super) fn len(&self) -> usize {
        self.rope.len() + self.tail.len()
    }

    /// The offset behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.rope.end() + self.tail.len() as u64
    }

    /// Makes a chunk of the tail; what is free of its block remains in use.
    pub(super) fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let bytes = self.tail.split().freeze();
            self.rope.push(bytes);
        }
    }

    /// Bytes for which there is room in the block.
    pub(super) fn spare(&self) -> usize {
        self.tail.capacity() - self.tail.len()
    }

    /// Goes on in a new block of at least `size`, if memory allows, and of more than the last had.
    pub(super) fn renew_tail(&mut self, size: Size, largest: Size, blocks: &mut Blocks) {
        let mut size = size;
        if let Some(full) = self.tail_size {
            size = size.max(full.larger());
            blocks.put(full, mem::take(&mut self.tail));
        }
        let size = size.min(largest);
        self.tail = blocks.take(size);
        self.tail_size = Some(size);
    }
}

/// Blocks of one size.
#[derive(Debug)]
struct Shelf {
    /// Those that nobody else has a slice of; the last was used last, and may still be in a cache.
    idle: Vec<BytesMut>,
    idle_max: usize,
    /// Those that were given back while slices of them were alive.
    lent: Pool,
}

impl Shelf {
    fn new(size: Size, max: usize) -> Self {
        Self {
            idle: Vec::new(),
            idle_max: max,
            lent: Pool::new(size.bytes(), 2 * max),
        }
    }
}

/// What all pipes of a stack share, so that an empty one holds nothing, and filling it allocates
/// nothing.
#[derive(Debug)]
pub(crate) struct Blocks {
    small: Shelf,
    medium: Shelf,
    large: Shelf,
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    stocks: Vec<Box<Stock>>,
}

impl Blocks {
    /// Nothing yet. No more than 28 MiB are kept, which takes bursts of two connections with the
    /// largest windows.
    pub(super) fn new() -> Self {
        Self {
            small: Shelf::new(Size::Small, 1024),
            medium: Shelf::new(Size::Medium, 256),
            large: Shelf::new(Size::Large, 128),
            stocks: Vec::new(),
        }
    }

    fn shelf(&mut self, size: Size) -> &mut Shelf {
        match size {
            Size::Small => &mut self.small,
            Size::Medium => &mut self.medium,
            Size::Large => &mut self.large,
        }
    }

    /// An empty buffer with room for one block.
    pub(super) fn take(&mut self, size: Size) -> BytesMut {
        let shelf = self.shelf(size);
        shelf.idle.pop().unwrap_or_else(|| shelf.lent.take())
    }

    /// Gives a block back, whoever may still hold slices of it.
    pub(super) fn put(&mut self, size: Size, mut block: BytesMut) {
        block.clear();
        let shelf = self.shelf(size);
        if !block.try_reclaim(size.bytes()) {
            shelf.lent.put(block);
        } else if shelf.idle.len() < shelf.idle_max {
            shelf.idle.push(block);
        }
    }

    /// A place for bytes whose first has this offset.
    pub(super) fn take_stock(&mut self, start: u64) -> Box<Stock> {
        let mut stock = self.stocks.pop().unwrap_or_default();
        stock.rope.start_at(start);
        stock
    }

    /// Takes a stock back, with its block. No chunk is in it any more.
    pub(super) fn put_stock(&mut self, mut stock: Box<Stock>) {
        if let Some(size) = stock.tail_size.take() {
            self.put(size, mem::take(&mut stock.tail));
        }
        debug_assert!(stock.rope.is_empty(), "the stock is in use");
        if self.stocks.len() < STOCKS_MAX {
            stock.rope.limit_storage(STORAGE_CHUNKS_MAX);
            self.stocks.push(stock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_nobody_reads_is_taken_again_at_once() {
        let mut blocks = Blocks::new();
        let mut block = blocks.take(Size::Medium);
        assert_eq!(block.capacity(), 4096);
        block.extend_from_slice(&[1; 4096]);
        let at = block.as_ptr();
        let slice = block.split().freeze();
        blocks.put(Size::Medium, block);
        let other = blocks.take(Size::Medium);
        assert_ne!(other.as_ptr(), at);
        drop(slice);
        blocks.put(Size::Medium, other);
        assert_ne!(blocks.take(Size::Medium).as_ptr(), at, "the last one used");
        let again = blocks.take(Size::Medium);
        assert_eq!((again.as_ptr(), again.capacity()), (at, 4096));
    }

    #[test]
    fn sizes_hold_what_they_are_chosen_for() {
        for bytes in [0, 1, 512, 513, 4096, 4097, 65536] {
            assert!(Size::for_bytes(bytes).bytes() >= bytes);
        }
        assert_eq!(Size::Small.larger().larger().larger(), Size::Large);
    }
}
