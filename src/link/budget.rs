//! How much memory the buffers of all connections may hold together.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::blocks::Size;

/// Bytes that a pipe may always queue, whatever the others hold: every connection makes progress.
pub(super) const ALWAYS: usize = 2 << 10;

/// Memory that so many bytes may take, which is set aside for each pipe: them, and what is free of
/// a small block.
const ASIDE: usize = ALWAYS + Size::Small.bytes();

/// The byte budget of a stack (threat F12).
///
/// For each pipe a little is set aside. The rest is shared: what a pipe holds beyond its own is
/// charged, and none may hold more than a quarter of what is left. So a few that are greedy leave
/// room for others; the more there are, the less each of them gets; and the limit is never reached,
/// without a look at more than one pipe at a time (Choudhury and Hahne: dynamic thresholds).
#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicUsize,
    pipes: AtomicUsize,
    /// What pipes hold beyond what is set aside for them.
    charged: AtomicUsize,
}

impl Budget {
    /// No limit yet.
    pub(super) const fn new() -> Self {
        Self {
            limit: AtomicUsize::new(usize::MAX >> 1),
            pipes: AtomicUsize::new(0),
            charged: AtomicUsize::new(0),
        }
    }

    /// [engine] Bytes that all pipes may hold.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Whether there is room for a connection more: its pipes' own, and something to share.
    pub(crate) fn has_room_for_connection(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.held().saturating_add(2 * ASIDE) <= limit - limit / 8
    }

    /// Bytes that are charged or set aside.
    pub(crate) fn held(&self) -> usize {
        let aside = self.pipes.load(Ordering::Relaxed).saturating_mul(ASIDE);
        aside.saturating_add(self.charged.load(Ordering::Relaxed))
    }

    /// Bytes that may still be charged. A little is never given away, for several may look at once.
    pub(super) fn free(&self) -> usize {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit - limit / 32).saturating_sub(self.held())
    }

    /// Bytes that one pipe may queue.
    pub(crate) fn share(&self) -> usize {
        ALWAYS + self.free() / 4
    }

    /// Whether memory need not be saved.
    pub(super) fn is_ample(&self) -> bool {
        self.free() > self.limit.load(Ordering::Relaxed) / 2
    }

    /// The largest block that a pipe may take: what of it is not in use counts too.
    pub(super) fn largest_block(&self) -> Size {
        let (free, limit) = (self.free(), self.limit.load(Ordering::Relaxed));
        match free {
            free if free > limit / 2 => Size::Large,
            free if free > limit / 8 => Size::Medium,
            _ => Size::Small,
        }
    }

    /// Something that is no pipe holds memory.
    pub(super) fn charge(&self, bytes: usize) {
        self.charged.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It has given it back.
    pub(super) fn discharge(&self, bytes: usize) {
        self.charged.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_pipe(&self) {
        self.pipes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_pipe(&self, charge: Charge) {
        self.pipes.fetch_sub(1, Ordering::Relaxed);
        self.charged.fetch_sub(charge.0 as usize, Ordering::Relaxed);
    }
}

/// What is charged for one pipe.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Charge(u32);

impl Charge {
    /// The pipe holds so many bytes now.
    pub(super) fn set(&mut self, held: usize, budget: &Budget) {
        let charge = u32::try_from(held.saturating_sub(ASIDE)).unwrap_or(u32::MAX);
        if charge > self.0 {
            budget
                .charged
                .fetch_add((charge - self.0) as usize, Ordering::Relaxed);
        } else if charge < self.0 {
            budget
                .charged
                .fetch_sub((self.0 - charge) as usize, Ordering::Relaxed);
        }
        self.0 = charge;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_greedy_pipes_stay_within_the_limit() {
        for pipes in [1, 10, 100] {
            let budget = Budget::new();
            budget.set_limit(1 << 20);
            let mut charges = vec![Charge::default(); pipes];
            charges.iter().for_each(|_| budget.add_pipe());
            for _ in 0..100 {
                for charge in &mut charges {
                    let held = (charge.0 as usize + ASIDE).max(budget.share());
                    charge.set(held, &budget);
                }
            }
            assert!(budget.held() <= 1 << 20, "{pipes}: {}", budget.held());
            assert!(budget.held() >= 200 << 10, "{pipes}: {}", budget.held());
            charges
                .into_iter()
                .for_each(|charge| budget.remove_pipe(charge));
            assert_eq!(budget.held(), 0);
        }
    }

    #[test]
    fn there_is_an_end_to_connections_before_there_is_one_to_memory() {
        let budget = Budget::new();
        budget.set_limit(1 << 20);
        let mut connections = 0;
        while budget.has_room_for_connection() {
            budget.add_pipe();
            budget.add_pipe();
            connections += 1;
        }
        assert_eq!(connections, 179);
    }
}
