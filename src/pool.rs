//! Buffers that are used again once nobody reads them any more.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Blocks that slices may still be alive of, looked at for each one that is taken. More than one, so
/// that they become idle faster than they are taken.
const TRIES: usize = 4;

/// Equal blocks, taken again when their last slice is gone.
///
/// A block that is handed out comes back through [`put`](Self::put) while slices of it may still be
/// alive; it is taken again only when none is. Of those, the one that was used last is taken first,
/// for it is the most likely to be in a cache: a burst that took many blocks leaves no large ring
/// behind that everything after it would have to walk round. In steady state nothing is allocated.
#[derive(Debug)]
pub(crate) struct Pool {
    block: usize,
    max_blocks: usize,
    /// Those that slices may be alive of, in the order in which they were put back.
    lent: VecDeque<BytesMut>,
    /// Those that no slice is alive of; the last was used last.
    idle: Vec<BytesMut>,
}

impl Pool {
    /// Blocks of `block` bytes, of which no more than `max_blocks` are kept.
    pub(crate) fn new(block: usize, max_blocks: usize) -> Self {
        Self {
            block,
            max_blocks,
            lent: VecDeque::new(),
            idle: Vec::new(),
        }
    }

    /// An empty buffer with room for one block.
    pub(crate) fn take(&mut self) -> BytesMut {
        // Slices die roughly in the order in which they were made, so the front is the best guess;
        // a few more tries step over blocks that a slow reader still holds.
        self.look_for_idle(TRIES);
        if self.idle.is_empty() {
            // Still cheaper than memory that was never touched.
            self.look_for_idle(self.lent.len());
        }
        let idle = self.idle.pop();
        idle.unwrap_or_else(|| BytesMut::with_capacity(self.block))
    }

    fn look_for_idle(&mut self, tries: usize) {
        for _ in 0..self.lent.len().min(tries) {
            let Some(mut block) = self.lent.pop_front() else {
                break;
            };
            if block.try_reclaim(self.block) {
                self.idle.push(block);
            } else {
                self.lent.push_back(block);
                if !self.idle.is_empty() {
                    break; // There is one to take, and what came later is less likely to be free.
                }
            }
        }
    }

    /// Gives a block back, whoever may still hold slices of it.
    pub(crate) fn put(&mut self, mut block: BytesMut) {
        if self.lent.len() + self.idle.len() < self.max_blocks {
            block.clear();
            self.lent.push_back(block);
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

    #[test]
    fn of_several_free_blocks_the_last_used_is_taken_first() {
        let mut pool = Pool::new(64, 8);
        let blocks: Vec<_> = (0..3).map(|_| pool.take()).collect();
        let at: Vec<_> = blocks.iter().map(|block| block.as_ptr()).collect();
        blocks.into_iter().for_each(|block| pool.put(block));
        let again: Vec<_> = (0..3).map(|_| pool.take().as_ptr()).collect();
        assert_eq!(again, [at[2], at[1], at[0]]);
    }
}
