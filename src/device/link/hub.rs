//! What the ends of one link share.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    task::{Context, Waker},
    time::Instant,
};

use ipnet::IpNet;

use super::{Impairment, Path, Verdict, chance::Chance};
use crate::packet::{PACKET_MAX, Packet};

/// What the ends share. A lane belongs to the port that receives from it.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) mtu: AtomicUsize,
    pub(super) offload: bool,
    pub(super) lanes: Vec<Mutex<Lane>>,
    /// A link has none: what one end sends is for the other.
    pub(super) routes: Option<Vec<(IpNet, usize)>>,
    /// Never locked together with a lane.
    pub(super) filter: Mutex<Filter>,
    pub(super) has_filter: bool,
}

impl Hub {
    pub(super) fn new(
        seed: u64,
        mtu: usize,
        offload: bool,
        impairments: Vec<Impairment>,
        routes: Option<Vec<(IpNet, usize)>>,
        filter: Filter,
    ) -> Arc<Self> {
        let senders = impairments.len().saturating_sub(1);
        // Each lane has a stream of random numbers of its own.
        let mut seeds = Chance::new(seed);
        let lanes = impairments
            .into_iter()
            .map(|impairment| {
                Mutex::new(Lane {
                    path: Path::new(impairment, seeds.next()),
                    senders,
                    receiver_gone: false,
                    receiver: None,
                })
            })
            .collect();
        Arc::new(Self {
            mtu: AtomicUsize::new(mtu.min(PACKET_MAX)),
            offload,
            lanes,
            routes,
            has_filter: filter.0.is_some(),
            filter: Mutex::new(filter),
        })
    }

    pub(super) fn lane(&self, port: usize) -> MutexGuard<'_, Lane> {
        self.lanes[port]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn modify(&self, port: usize, change: impl FnOnce(Impairment) -> Impairment) {
        let mut lane = self.lane(port);
        let changed = change(lane.path.impairment().clone());
        lane.path.set_impairment(changed);
    }

    pub(super) fn filter(&self, from: usize, packet: &Packet) -> Verdict {
        if !self.has_filter {
            return Verdict::Pass;
        }
        let mut filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut filter.0 {
            Some(filter) => filter(from, packet),
            None => Verdict::Pass,
        }
    }
}

/// A path and who is at its ends.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) path: Path,
    pub(super) senders: usize,
    pub(super) receiver_gone: bool,
    pub(super) receiver: Option<Waker>,
}

impl Lane {
    /// Sends a packet: whom to wake, because there is now something to receive earlier than before.
    pub(super) fn push(&mut self, packet: Packet, verdict: Verdict, now: Instant) -> Option<Waker> {
        let before = self.path.next_deadline();
        self.path.push_with(packet, verdict, now);
        if self.receiver_gone {
            self.path.clear();
        }
        if self.path.next_deadline() == before {
            return None;
        }
        self.receiver.take()
    }

    pub(super) fn register(&mut self, cx: &Context<'_>) {
        let known = self.receiver.as_ref();
        if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.receiver = Some(cx.waker().clone());
        }
    }
}

type Decide = dyn FnMut(usize, &Packet) -> Verdict + Send;

/// Decides on a packet by the port that it comes from.
pub(super) struct Filter(pub(super) Option<Box<Decide>>);

impl Filter {
    pub(super) fn new(decide: impl FnMut(usize, &Packet) -> Verdict + Send + 'static) -> Self {
        Self(Some(Box::new(decide)))
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Filter" } else { "None" })
    }
}
