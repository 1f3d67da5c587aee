//! Buffers that are used again once nobody reads them any more.

use std::collections::VecDeque;

use bytes::BytesMut;

/// A ring of equal blocks, taken from its front when their last slice is gone.
///
/// A block that is handed out comes back through [`put`](Self::put) while slices of it may still be
/// alive; it is taken again only when none is. In steady state nothing is allocated.
#[derive(Debug)]
pub(crate) struct Pool {
    block: usize,
    max_blocks: usize,
    blocks: VecDeque<BytesMut>,
}

impl Pool {
    /// Blocks of `block` bytes, of which no more than `max_blocks` are kept.
    pub(crate) fn new(block: usize, max_blocks: usize) -> Self {
        Self {
            block,
            max_blocks,
            blocks: VecDeque::new(),
        }
    }

    /// An empty buffer with room for one block.
    pub(crate) fn take(&mut self) -> BytesMut {
        // Slices die roughly in the order in which they were made, so the front is the best guess;
        // a few more tries step over blocks that a slow reader still holds.
        for _ in 0..self.blocks.len().min(4) {
            let Some(mut block) = self.blocks.pop_front() else {
                break;
            };
            block.clear();
            if block.try_reclaim(self.block) {
                return block;
            }
            self.blocks.push_back(block);
        }
        BytesMut::with_capacity(self.block)
    }

    /// Gives a block back, whoever may still hold slices of it.
    pub(crate) fn put(&mut self, block: BytesMut) {
        if self.blocks.len() < self.max_blocks {
            self.blocks.push_back(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_only_when_its_last_slice_is_gone() {
        let mut pool = Pool::new(64, 8);
        let mut block = pool.take();
        block.extend_from_slice(&[7; 64]);
        let slice = block.split().freeze();
        let at = slice.as_ptr();
        pool.put(block);
        let other = pool.take();
        assert_ne!(other.as_ptr(), at);
        drop(slice);
        assert_eq!(pool.take().as_ptr(), at);
    }
}
