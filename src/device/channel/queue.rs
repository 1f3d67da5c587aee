//! Packets on their way in one direction.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::TrySendError;
use crate::packet::{Meta, PACKET_MAX, Packet};

pub(super) const GONE: &str = "the other end of the packet queue is gone";

/// Packets on their way in one direction. Wakers are fired when the lock is released.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) mtu: Arc<AtomicUsize>,
    pub(super) drops: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) packets: VecDeque<Packet>,
    pub(super) capacity: usize,
    pub(super) senders: usize,
    pub(super) receiver_gone: bool,
    pub(super) receiver: Option<Waker>,
    /// Those who found the queue full. Woken together when half of it is free.
    pub(super) waiting: Vec<Waker>,
}

impl Queue {
    pub(super) fn new(mtu: Arc<AtomicUsize>, capacity: usize) -> Self {
        Self {
            mtu,
            drops: AtomicU64::new(0),
            state: Mutex::new(State {
                packets: VecDeque::new(),
                capacity: capacity.max(1),
                senders: 1,
                receiver_gone: false,
                receiver: None,
                waiting: Vec::new(),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Whether the packet may pass; counted if not.
    fn admits(&self, packet: &Packet, offload: bool) -> bool {
        let max = if offload && packet.meta.gso_size > 0 {
            PACKET_MAX
        } else {
            self.mtu()
        };
        let fits = (1..=max).contains(&packet.len());
        if !fits {
            self.drops.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    pub(super) fn poll_push_all(
        &self,
        cx: &mut Context<'_>,
        packets: &mut VecDeque<Packet>,
        offload: bool,
    ) -> Poll<io::Result<()>> {
        if packets.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.lock();
        if state.receiver_gone {
            return Poll::Ready(Err(gone()));
        }
        while state.packets.len() < state.capacity
            && let Some(packet) = packets.pop_front()
        {
            if self.admits(&packet, offload) {
                state.packets.push_back(packet);
            }
        }
        let outcome = if packets.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            state.wait_for_room(cx);
            Poll::Pending
        };
        let receiver = state.receiver_to_wake();
        drop(state);
        wake(receiver);
        outcome
    }

    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.receiver_gone {
            return Poll::Ready(Err(gone()));
        }
        if state.packets.len() < state.capacity {
            return Poll::Ready(Ok(()));
        }
        state.wait_for_room(cx);
        Poll::Pending
    }

    /// Takes the packet even if another sender has used the room since it was found: the excess is
    /// one packet for each sender.
    pub(super) fn push_always(&self, packet: Packet) -> io::Result<()> {
        let admitted = self.admits(&packet, true);
        let mut state = self.lock();
        if state.receiver_gone {
            return Err(gone());
        }
        if admitted {
            state.packets.push_back(packet);
        }
        let receiver = state.receiver_to_wake();
        drop(state);
        wake(receiver);
        Ok(())
    }

    pub(super) fn try_push(&self, packet: Bytes) -> Result<(), TrySendError> {
        let mut state = self.lock();
        if state.receiver_gone {
            return Err(TrySendError::Closed(packet));
        }
        if state.packets.len() >= state.capacity {
            return Err(TrySendError::Full(packet));
        }
        let packet = received(packet);
        if self.admits(&packet, false) {
            state.packets.push_back(packet);
        }
        let receiver = state.receiver_to_wake();
        drop(state);
        wake(receiver);
        Ok(())
    }

    pub(super) fn try_pop(&self) -> Option<Packet> {
        let mut state = self.lock();
        let packet = state.packets.pop_front();
        let waiting = state.waiting_to_wake();
        drop(state);
        wake(waiting);
        packet
    }

    pub(super) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        let mut state = self.lock();
        let Some(packet) = state.packets.pop_front() else {
            return state.wait_for_packets(cx).map(|()| None);
        };
        let waiting = state.waiting_to_wake();
        drop(state);
        wake(waiting);
        Poll::Ready(Some(packet))
    }

    pub(super) fn poll_pop_many(
        &self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        max: usize,
    ) -> Poll<usize> {
        let mut state = self.lock();
        let count = state.packets.len().min(max);
        if count == 0 {
            return state.wait_for_packets(cx).map(|()| 0);
        }
        packets.extend(state.packets.drain(..count));
        let waiting = state.waiting_to_wake();
        drop(state);
        wake(waiting);
        Poll::Ready(count)
    }

    pub(super) fn close_sender(&self) {
        let mut state = self.lock();
        state.senders -= 1;
        if state.senders > 0 {
            return;
        }
        let receiver = state.receiver.take();
        drop(state);
        wake(receiver);
    }

    pub(super) fn close_receiver(&self) {
        let mut state = self.lock();
        state.receiver_gone = true;
        state.receiver = None;
        let waiting = mem::take(&mut state.waiting);
        let packets = mem::take(&mut state.packets);
        drop(state);
        drop(packets);
        wake(waiting);
    }
}

impl State {
    fn wait_for_room(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|w| w.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }

    fn wait_for_packets(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.senders == 0 {
            return Poll::Ready(());
        }
        if !self
            .receiver
            .as_ref()
            .is_some_and(|w| w.will_wake(cx.waker()))
        {
            self.receiver = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn receiver_to_wake(&mut self) -> Option<Waker> {
        if self.packets.is_empty() {
            return None;
        }
        self.receiver.take()
    }

    fn waiting_to_wake(&mut self) -> Vec<Waker> {
        if self.packets.len() > self.capacity / 2 {
            return Vec::new();
        }
        mem::take(&mut self.waiting)
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, GONE)
}

pub(super) fn received(bytes: Bytes) -> Packet {
    Packet::received(bytes, Meta::default())
}

/// The packet in one piece; not copied if it is.
pub(super) fn into_bytes(mut packet: Packet) -> Bytes {
    if packet.head().is_empty() && packet.body.len() == 1 {
        return packet.body.remove(0);
    }
    Bytes::from(packet.to_vec())
}
