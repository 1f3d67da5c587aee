//! Connections, openings and listeners by their ids.

use std::sync::Arc;

use slab::Slab;

use crate::{
    engine::{demux::FourTuple, incoming::Undecided, listener::Listener},
    link::{ConnId, PortGuard, StreamLink},
    tcp::{connection::Connection, handshake::Opening},
};

/// What an id names.
#[derive(Debug)]
pub(crate) enum Slot {
    Listener(Box<Listener>),
    Opening(Box<Opening>),
    Open(Box<Connection>),
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
    pub(crate) tuple: FourTuple,
    /// The port that was bound for it.
    pub(crate) bound: Option<PortGuard>,
    pub(crate) slot: Slot,
}

/// All of them. An id that is out of date finds nothing.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slab: Slab<Entry>,
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
            tuple,
            bound,
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
        self.slab.get_mut(index as usize)
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<Entry> {
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
