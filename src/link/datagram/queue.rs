//! One direction of a datagram socket.

use std::collections::VecDeque;

use super::Datagram;
use crate::link::{Network, Wakes, waiters::Waiters};

/// One direction.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) datagrams: VecDeque<Datagram>,
    pub(super) bytes: usize,
    pub(super) limit: usize,
    /// An operation may be tried: until one would block.
    pub(super) ready: bool,
    /// Counts what made it ready.
    pub(super) tick: u64,
    pub(super) waiters: Waiters,
}

impl Queue {
    pub(super) fn new(limit: usize, ready: bool) -> Self {
        Self {
            datagrams: VecDeque::new(),
            bytes: 0,
            limit,
            ready,
            tick: 0,
            waiters: Waiters::default(),
        }
    }

    /// One always has room, however long it is.
    pub(super) fn has_room(&self, size: usize) -> bool {
        self.datagrams.is_empty() || self.bytes + size <= self.limit
    }

    pub(super) fn push(&mut self, datagram: Datagram) {
        self.bytes += datagram.size();
        self.datagrams.push_back(datagram);
    }

    pub(super) fn pop(&mut self, network: &Network) -> Option<Datagram> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.size();
        network.release(datagram.size());
        Some(datagram)
    }

    pub(super) fn clear(&mut self, network: &Network) {
        network.release(self.bytes);
        self.bytes = 0;
        self.datagrams = VecDeque::new();
    }

    /// Something for which this direction is to be tried again.
    pub(super) fn happened(&mut self, wakes: &mut Wakes) {
        self.ready = true;
        self.tick += 1;
        self.waiters.take(wakes);
    }
}
