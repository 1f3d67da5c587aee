//! Which connection next needs the clock.

use std::fmt;

use crate::time::Time;

/// Not in the heap.
const NOWHERE: u32 = u32::MAX;

/// No deadline.
const NEVER: Time = Time::MAX;

/// The next deadline of each connection, by its index, and the earliest of all.
///
/// Nearly every segment moves its connection's deadline back, and few are ever reached. So a later
/// deadline is only noted; the heap still has the earlier one, and is set right when that has come
/// to its top. One entry for each connection is enough, and the earliest deadline is exact: nobody
/// wakes for nothing.
#[derive(Default)]
pub(crate) struct Deadlines {
    slots: Vec<Slot>,
    /// A binary heap of indices, by [`Slot::key`].
    heap: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Slot {
    /// When the connection needs the clock, `NEVER` if it does not.
    at: Time,
    /// Where the heap thinks that is: not later.
    key: Time,
    /// Its place in the heap.
    place: u32,
    /// A connection has this index.
    used: bool,
}

const UNUSED: Slot = Slot {
    at: NEVER,
    key: NEVER,
    place: NOWHERE,
    used: false,
};

impl Deadlines {
    /// No deadlines.
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            heap: Vec::new(),
        }
    }

    /// Sets, moves or (`None`) takes away the deadline of the connection with this index.
    ///
    /// A constant amount of work, unless the deadline becomes earlier.
    pub(crate) fn set(&mut self, index: u32, at: Option<Time>) {
        let place = index as usize;
        if place >= self.slots.len() {
            self.slots.resize(place + 1, UNUSED);
        }
        let at = at.unwrap_or(NEVER);
        let slot = &mut self.slots[place];
        slot.used = true;
        slot.at = at;
        if at == NEVER || slot.key <= at {
            return; // Set right when it has come to the top.
        }
        slot.key = at;
        if slot.place == NOWHERE {
            slot.place = self.heap.len() as u32; // No more entries than indices.
            self.heap.push(index);
        }
        let place = slot.place as usize;
        self.sift_up(place);
    }

    /// The deadline of the connection with this index.
    #[cfg(test)]
    pub(crate) fn get(&self, index: u32) -> Option<Time> {
        self.slots
            .get(index as usize)
            .and_then(|slot| time(slot.at))
    }

    /// The connection with this index is gone; another may get the index.
    pub(crate) fn remove(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        let place = slot.place;
        *slot = UNUSED;
        if place != NOWHERE {
            self.take_out(place as usize);
        }
        while self.slots.pop_if(|slot| !slot.used).is_some() {}
        if self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
            self.heap.shrink_to(self.slots.len() * 2);
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&mut self) -> Option<Time> {
        self.settle();
        let top = *self.heap.first()?;
        time(self.slots[top as usize].key)
    }

    /// Takes away a deadline that has come, the earliest first, and returns whose it was.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<u32> {
        if self.next()? > now {
            return None;
        }
        let index = self.take_out(0)?;
        let slot = &mut self.slots[index as usize];
        slot.at = NEVER;
        Some(index)
    }

    /// Sets the top of the heap right. Each change of a deadline causes at most one step of this.
    fn settle(&mut self) {
        while let Some(top) = self.heap.first() {
            let slot = &mut self.slots[*top as usize];
            if slot.at == slot.key {
                break;
            }
            if slot.at == NEVER {
                self.take_out(0);
            } else {
                slot.key = slot.at;
                self.sift_down(0);
            }
        }
    }

    /// Takes the entry at `place` out of the heap.
    fn take_out(&mut self, place: usize) -> Option<u32> {
        let last = self.heap.pop()?;
        let index = match self.heap.get_mut(place) {
            Some(entry) => std::mem::replace(entry, last),
            None => last,
        };
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.place = NOWHERE;
            slot.key = NEVER;
        }
        if place < self.heap.len() {
            self.sift_down(place);
            self.sift_up(place);
        }
        Some(index)
    }

    fn key(&self, place: usize) -> Time {
        self.slots[self.heap[place] as usize].key
    }

    fn put(&mut self, place: usize, index: u32) {
        self.heap[place] = index;
        self.slots[index as usize].place = place as u32; // No more entries than indices.
    }

    fn sift_up(&mut self, mut place: usize) {
        let index = self.heap[place];
        let key = self.key(place);
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.key(parent) <= key {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, index);
    }

    fn sift_down(&mut self, mut place: usize) {
        let index = self.heap[place];
        let key = self.key(place);
        loop {
            let mut child = 2 * place + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.key(child + 1) < self.key(child) {
                child += 1;
            }
            if key <= self.key(child) {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, index);
    }
}

fn time(at: Time) -> Option<Time> {
    (at != NEVER).then_some(at)
}

impl fmt::Debug for Deadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadlines")
            .field("entries", &self.heap.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const fn ms(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn deadlines_come_in_order_and_once() {
        let mut deadlines = Deadlines::new();
        for (index, at) in [(0, 30), (1, 10), (2, 20), (9, 40)] {
            deadlines.set(index, Some(ms(at)));
        }
        assert_eq!(deadlines.next(), Some(ms(10)));
        assert_eq!(deadlines.pop_due(ms(9)), None);
        assert_eq!(deadlines.pop_due(ms(30)), Some(1));
        assert_eq!(deadlines.pop_due(ms(30)), Some(2));
        assert_eq!(deadlines.pop_due(ms(30)), Some(0));
        assert_eq!(deadlines.pop_due(ms(30)), None);
        assert_eq!((deadlines.get(0), deadlines.get(9)), (None, Some(ms(40))));
    }

    #[test]
    fn a_deadline_that_moved_back_or_away_wakes_nobody() {
        let mut deadlines = Deadlines::new();
        deadlines.set(0, Some(ms(10)));
        deadlines.set(1, Some(ms(15)));
        deadlines.set(0, Some(ms(50)));
        assert_eq!(deadlines.next(), Some(ms(15)));
        deadlines.set(1, None);
        assert_eq!(deadlines.next(), Some(ms(50)));
        assert_eq!(deadlines.pop_due(ms(49)), None);
        deadlines.set(0, None);
        assert_eq!((deadlines.next(), deadlines.pop_due(ms(99))), (None, None));
    }

    #[test]
    fn a_deadline_that_comes_back_or_moves_forward_counts() {
        let mut deadlines = Deadlines::new();
        deadlines.set(0, Some(ms(10)));
        deadlines.set(0, None);
        deadlines.set(0, Some(ms(20)));
        assert_eq!(deadlines.next(), Some(ms(20)));
        deadlines.set(0, Some(ms(5)));
        assert_eq!(deadlines.next(), Some(ms(5)));
    }

    #[test]
    fn removed_connections_leave_neither_deadlines_nor_memory() {
        let mut deadlines = Deadlines::new();
        for index in 0..10_000 {
            deadlines.set(index, Some(ms(u64::from(index))));
        }
        for index in (0..10_000).rev().filter(|index| *index != 7) {
            deadlines.remove(index);
        }
        assert_eq!(deadlines.next(), Some(ms(7)));
        assert!(deadlines.slots.capacity() < 64 && deadlines.heap.capacity() < 64);
        deadlines.remove(7);
        deadlines.remove(12_345);
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn a_hundred_thousand_operations_agree_with_a_map() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut deadlines = Deadlines::new();
        let mut model = BTreeMap::new();
        let mut now = 0;
        for _ in 0..100_000 {
            let index = rng.random_range(0..300);
            match rng.random_range(0..10) {
                0 => {
                    deadlines.set(index, None);
                    model.remove(&index);
                }
                1 => {
                    deadlines.remove(index);
                    model.remove(&index);
                }
                2 => {
                    now += rng.random_range(0..20);
                    while let Some(index) = deadlines.pop_due(ms(now)) {
                        let earliest = model.values().min().copied();
                        let at = model.remove(&index);
                        assert!(at.is_some_and(|at| at <= now) && at == earliest);
                    }
                    assert!(model.values().all(|at| *at > now));
                }
                _ => {
                    let at = now + rng.random_range(0..1000);
                    deadlines.set(index, Some(ms(at)));
                    model.insert(index, at);
                }
            }
            if rng.random_bool(0.3) {
                assert_eq!(deadlines.next(), model.values().min().map(|at| ms(*at)));
            }
            assert!(deadlines.heap.len() <= 300);
            assert_eq!(deadlines.get(index), model.get(&index).map(|at| ms(*at)));
        }
    }
}
