//! How the scoreboard keeps its segments: in one vector, and in lists by position, age and loss.

use super::{Place, Scoreboard, Sent};

/// No segment.
pub(super) const NIL: u32 = u32::MAX;

/// A list that runs through the segments by their `prev` and `next`.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
    };
}

impl Scoreboard {
    /// Index in `order` of the segment that holds `position`, or of the first behind it.
    pub(super) fn index_of(&self, position: u64) -> usize {
        self.order
            .partition_point(|&id| self.at(id).end <= position)
    }

    /// Cuts the segment at `index` in two at `position`, which lies inside of it.
    pub(super) fn split(&mut self, index: usize, position: u64) {
        let id = self.order[index];
        let front = *self.at(id);
        let back = self.insert(Sent {
            start: position,
            prev: id,
            ..front
        });
        (self.at_mut(id).end, self.at_mut(id).pushed) = (position, false);
        self.order.insert(index + 1, back);
        match front.place {
            Place::Sacked => {}
            Place::Lost => {
                self.lost_segments.insert(position, back);
            }
            Place::InFlight => {
                self.at_mut(id).next = back;
                if front.next == NIL {
                    self.in_flight_list.tail = back;
                } else {
                    self.at_mut(front.next).prev = back;
                }
            }
        }
    }

    pub(super) fn insert(&mut self, sent: Sent) -> u32 {
        if let Some(id) = self.free.pop() {
            *self.at_mut(id) = sent;
            return id;
        }
        self.segments.push(sent);
        (self.segments.len() - 1) as u32
    }

    /// Puts a segment where its place lists it: what is sent now, at the end.
    pub(super) fn append(&mut self, id: u32) {
        if self.at(id).place == Place::Sacked {
            self.at_mut(id).place = Place::InFlight;
        }
        if self.at(id).place == Place::Lost {
            self.lost_segments.insert(self.at(id).start, id);
            return;
        }
        let tail = std::mem::replace(&mut self.in_flight_list.tail, id);
        (self.at_mut(id).prev, self.at_mut(id).next) = (tail, NIL);
        if tail == NIL {
            self.in_flight_list.head = id;
        } else {
            self.at_mut(tail).next = id;
        }
    }

    pub(super) fn prepend(&mut self, id: u32) {
        let head = std::mem::replace(&mut self.in_flight_list.head, id);
        (self.at_mut(id).prev, self.at_mut(id).next) = (NIL, head);
        if head == NIL {
            self.in_flight_list.tail = id;
        } else {
            self.at_mut(head).prev = id;
        }
    }

    pub(super) fn unlink(&mut self, id: u32) {
        let Sent {
            start,
            prev,
            next,
            place,
            ..
        } = *self.at(id);
        if place == Place::Lost {
            self.lost_segments.remove(&start);
            return;
        }
        if prev == NIL {
            self.in_flight_list.head = next;
        } else {
            self.at_mut(prev).next = next;
        }
        if next == NIL {
            self.in_flight_list.tail = prev;
        } else {
            self.at_mut(next).prev = prev;
        }
    }
}
