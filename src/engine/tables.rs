//! What four-tuples lead to, and how connections leave the tables that they stand in.

use std::sync::Arc;

use crate::{
    engine::{
        Engine, REPEATS, Waiting,
        demux::{FourTuple, Target},
        fifo::Fifo,
        listener::Pending,
        slots::{Entry, Slot, Slots},
    },
    tcp::{connection::Connection, time_wait::TimeWait},
    time::Time,
};

impl Engine {
    /// Whether there may be a connection more.
    pub(super) fn has_room_for_connection(&self) -> bool {
        self.connection_count() < self.config.connections_max
            && self.bell.budget().has_room_for_connection()
    }

    /// Open and half-open connections.
    pub(super) fn connection_count(&self) -> usize {
        self.demux.len() - self.time_wait.len()
    }

    /// Whether one more connection may come into being at the wish of a peer.
    pub(super) fn has_room_for(&self, tuple: &FourTuple) -> bool {
        self.has_room_for_connection() && !self.sources.is_full(tuple.peer().ip())
    }

    pub(super) fn insert_target(&mut self, tuple: &FourTuple, target: Target) {
        if !matches!(target, Target::TimeWait(_)) {
            self.sources.add(tuple.peer().ip());
        }
        let (slots, half_open, time_wait) = (&self.slots, &self.half_open, &self.time_wait);
        self.demux.insert(tuple, target, |target| {
            tuple_of(slots, half_open, time_wait, target)
        });
    }

    pub(super) fn remove_target(&mut self, tuple: &FourTuple, target: Target) {
        if !matches!(target, Target::TimeWait(_)) {
            self.sources.remove(tuple.peer().ip());
        }
        self.demux.remove(tuple, target);
    }

    /// Where a segment goes.
    pub(super) fn receiver(&mut self, tuple: &FourTuple) -> Option<Target> {
        let Self {
            demux,
            slots,
            half_open,
            time_wait,
            ..
        } = self;
        demux.find(tuple, |target| {
            tuple_of(slots, half_open, time_wait, target)
        })
    }

    pub(super) fn target(&self, tuple: &FourTuple) -> Option<Target> {
        self.demux.get(tuple, |target| {
            tuple_of(&self.slots, &self.half_open, &self.time_wait, target)
        })
    }

    /// The connection is over. While it has an owner its id stays, and what was received with it.
    pub(super) fn finish(&mut self, index: u32) -> Option<(FourTuple, Box<Connection>)> {
        let entry = self.slots.get_mut(index)?;
        let tuple = entry.tuple;
        let Slot::Open(connection) = &entry.slot else {
            return None;
        };
        let link = Arc::clone(&connection.link);
        let Slot::Open(connection) = std::mem::replace(&mut entry.slot, Slot::Done(link)) else {
            return None;
        };
        entry.bound = None;
        self.deadlines.remove(index);
        self.forget_connection(index, &tuple, connection.is_orphan());
        if connection.is_orphan() {
            self.slots.remove(index);
        }
        Some((tuple, connection))
    }

    /// A connection that never opened is over. Its owner is yet to ask why, and keeps the id.
    pub(super) fn finish_opening(&mut self, index: u32) {
        let Some(entry) = self.slots.get_mut(index) else {
            return;
        };
        let tuple = entry.tuple;
        let Slot::Opening(opening) = &entry.slot else {
            return;
        };
        let link = Arc::clone(&opening.link);
        let gone = link.closed_by_owner().is_some();
        entry.slot = Slot::Done(link);
        let bound = entry.bound.take().is_some();
        self.deadlines.remove(index);
        self.forget_opening(index, &tuple, bound);
        if gone {
            self.slots.remove(index);
        }
    }

    pub(super) fn forget_connection(&mut self, index: u32, tuple: &FourTuple, orphan: bool) {
        self.remove_target(tuple, Target::Slot(index));
        self.orphans -= usize::from(orphan);
        self.ports.connection_closed(tuple.local());
    }

    /// One that is bound has counted for its port by that alone.
    fn forget_opening(&mut self, index: u32, tuple: &FourTuple, bound: bool) {
        self.remove_target(tuple, Target::Slot(index));
        if !bound {
            self.ports.connection_closed(tuple.local());
        }
    }

    /// Takes a slot out of all tables.
    pub(super) fn remove_slot(&mut self, index: u32) -> Option<Entry> {
        let entry = self.slots.remove(index)?;
        self.deadlines.remove(index);
        match &entry.slot {
            Slot::Listener(_) => self.listeners.remove(entry.tuple.local(), index),
            Slot::Opening(_) => self.forget_opening(index, &entry.tuple, entry.bound.is_some()),
            Slot::Open(connection) => {
                self.forget_connection(index, &entry.tuple, connection.is_orphan())
            }
            Slot::Undecided(_) => self.forget_undecided(index, &entry.tuple),
            Slot::Idle(_) | Slot::Done(_) => {}
        }
        Some(entry)
    }

    /// RFC 9293 §3.6.1: the connection becomes a small record for 2 MSL.
    pub(super) fn enter_time_wait(&mut self, index: u32, now: Time) {
        // What it shares the port with must not be forgotten in between.
        let Some(local) = self.slots.get(index).map(|entry| entry.tuple.local()) else {
            return;
        };
        self.ports.connection_lingers(local);
        if !self.wait_out(index, now) {
            self.ports.connection_closed(local);
        }
    }

    fn wait_out(&mut self, index: u32, now: Time) -> bool {
        let Some((tuple, connection)) = self.finish(index) else {
            return false;
        };
        if self.config.time_wait_max == 0 || self.config.time_wait.is_zero() {
            return false;
        }
        if self.time_wait.len() >= self.config.time_wait_max
            && let Some(oldest) = self.time_wait.first(0)
        {
            self.counters.time_wait_recycled += 1;
            self.forget_time_wait(oldest);
        }
        let waiting = Waiting {
            tuple,
            record: TimeWait::new(connection.time_wait()),
        };
        let record = self.time_wait.push(0, now + self.config.time_wait, waiting);
        self.insert_target(&tuple, Target::TimeWait(record));
        true
    }

    pub(super) fn forget_time_wait(&mut self, record: u32) {
        let tuple = self.time_wait.get(record).tuple;
        self.remove_target(&tuple, Target::TimeWait(record));
        self.time_wait.remove(record);
        self.ports.connection_closed(tuple.local());
    }
}

/// The four-tuple that a target belongs to.
pub(super) fn tuple_of<'a>(
    slots: &'a Slots,
    half_open: &'a Fifo<Pending, REPEATS>,
    time_wait: &'a Fifo<Waiting, 1>,
    target: Target,
) -> &'a FourTuple {
    match target {
        Target::Slot(index) => {
            &slots
                .get(index)
                .expect("a slot leaves the table before it goes")
                .tuple
        }
        Target::HalfOpen(entry) => &half_open.get(entry).tuple,
        Target::TimeWait(record) => &time_wait.get(record).tuple,
    }
}
