//! Connections, openings and listeners by their ids.

use std::{collections::VecDeque, sync::Arc};

use slab::Slab;

use crate::{
    engine::{demux::FourTuple, incoming::Undecided, listener::Listener},
    link::{ConnId, PortGuard, StreamLink},
    tcp::{connection::Connection, handshake::Opening, idle::Idle},
    time::Time,
};

/// Connections that are quiet and nevertheless ready for more: these are not worth the trouble.
const QUIET_MAX: usize = 256;

/// What an id names.
#[derive(Debug)]
pub(crate) enum Slot {
    Listener(Box<Listener>),
    Opening(Box<Opening>),
    Open(Box<Connection>),
    /// The same, when nothing is going on. [`Slots::get_mut`] makes it one of the former.
    Idle(Box<Idle>),
    /// Somebody is deciding about it.
    Undecided(Box<Undecided>),
    /// Closed, or remembered in TIME-WAIT: its owner may still read what came, and has not let go.
    Done(Arc<StreamLink>),
}

/// A slot with what the engine has to know of every kind of it.
#[derive(Debug)]
pub(crate) struct Entry {
    generation: u32,
    /// It is in the list of those that may have something to send.
    pub(crate) ready: bool,
    /// It is in the list of those that became quiet last.
    quiet: bool,
    pub(crate) tuple: FourTuple,
    /// The port that was bound for it.
    pub(crate) bound: Option<Box<PortGuard>>,
    pub(crate) slot: Slot,
}

impl Entry {
    fn wake(&mut self) {
        let link = match &self.slot {
            Slot::Idle(idle) => Arc::clone(&idle.link),
            _ => return,
        };
        if let Slot::Idle(idle) = std::mem::replace(&mut self.slot, Slot::Done(link)) {
            self.slot = Slot::Open(Box::new(idle.wake()));
        }
    }

    /// Makes a quiet connection small; whether it is too early for that.
    fn park(&mut self, now: Time) -> bool {
        let link = match &self.slot {
            Slot::Open(connection) if connection.is_idle() && !self.ready => {
                if !connection.is_settled(now) {
                    return true;
                }
                Arc::clone(&connection.link)
            }
            _ => return false,
        };
        if let Slot::Open(connection) = std::mem::replace(&mut self.slot, Slot::Done(link)) {
            self.slot = Slot::Idle(Box::new(connection.park()));
        }
        false
    }
}

/// All of them. An id that is out of date finds nothing.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slab: Slab<Entry>,
    quiet: VecDeque<u32>,
    generation: u32,
}

impl Slots {
    pub(crate) fn insert(
        &mut self,
        tuple: FourTuple,
        bound: Option<PortGuard>,
        slot: Slot,
    ) -> ConnId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let index = self.slab.insert(Entry {
            generation,
            ready: false,
            quiet: false,
            tuple,
            bound: bound.map(Box::new),
            slot,
        });
        ConnId::new(index as u32, generation)
    }

    /// The index of a slot that still has this id.
    pub(crate) fn resolve(&self, id: ConnId) -> Option<u32> {
        let entry = self.slab.get(id.index() as usize)?;
        (entry.generation == id.generation()).then_some(id.index())
    }

    pub(crate) fn id(&self, index: u32) -> Option<ConnId> {
        self.get(index)
            .map(|entry| ConnId::new(index, entry.generation))
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Entry> {
        self.slab.get(index as usize)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Entry> {
        let entry = self.slab.get_mut(index as usize)?;
        if matches!(entry.slot, Slot::Idle(_)) {
            entry.wake();
        }
        Some(entry)
    }

    /// A connection has become quiet. The few that were last are left as they are, for those that
    /// answer each other are quiet most of the time, and so are those that may still hear of what
    /// was on its way; of the others only what is needed is kept.
    pub(crate) fn on_quiet(&mut self, index: u32, now: Time) {
        let Some(entry) = self.slab.get_mut(index as usize) else {
            return;
        };
        if !std::mem::replace(&mut entry.quiet, true) {
            self.quiet.push_back(index);
        }
        // Two for one, so that the list does not stay long after many were busy.
        for _ in 0..2 {
            if self.quiet.len() <= QUIET_MAX {
                return;
            }
            let Some(index) = self.quiet.pop_front() else {
                return;
            };
            if let Some(entry) = self.slab.get_mut(index as usize) {
                entry.quiet = false;
                if entry.park(now) {
                    entry.quiet = true;
                    self.quiet.push_back(index);
                }
            }
        }
    }

    /// Makes every quiet connection small at once.
    #[cfg(test)]
    pub(crate) fn park_all(&mut self, now: Time) {
        for (_, entry) in &mut self.slab {
            entry.park(now);
        }
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<Entry> {
        self.get_mut(index)?;
        self.slab.try_remove(index as usize)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.slab.iter().map(|(index, entry)| (index as u32, entry))
    }

    /// Nothing is left but what owners have not let go of.
    pub(crate) fn is_quiet(&self) -> bool {
        self.slab
            .iter()
            .all(|(_, entry)| matches!(entry.slot, Slot::Done(_)))
    }
}
