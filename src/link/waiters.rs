//! Who waits for a direction of a stream or for a listener, and for what.

use std::{
    io, mem,
    ops::{BitAnd, BitOr, BitOrAssign},
    sync::{
        MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

use super::Wakes;

/// What an operation may be tried for without waiting; as an argument, what is waited for.
///
/// Asked for [`READABLE`](Self::READABLE), the end of reading counts too, and so for writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready(u8);

impl Ready {
    /// Nothing.
    pub(crate) const EMPTY: Self = Self(0);
    /// A read may find something.
    pub(crate) const READABLE: Self = Self(1);
    /// A write may find room.
    pub(crate) const WRITABLE: Self = Self(2);
    /// The peer sends no more. Never cleared.
    pub(crate) const READ_CLOSED: Self = Self(4);
    /// Nothing can be sent any more, in a connection that is over both ways. Never cleared.
    pub(crate) const WRITE_CLOSED: Self = Self(8);
    /// The connection has failed. Never cleared.
    pub(crate) const ERROR: Self = Self(16);

    /// All of them.
    const ALL: Self = Self(31);

    /// Whether all of `other` is in it.
    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is nothing in it.
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether they have something in common.
    pub(super) const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What answers this interest: with a direction, its end.
    pub(super) const fn mask(self) -> Self {
        self.or(Self::READ_CLOSED.when(self.intersects(Self::READABLE)))
            .or(Self::WRITE_CLOSED.when(self.intersects(Self::WRITABLE)))
    }

    /// Both.
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Itself if `is`, else nothing.
    pub(super) const fn when(self, is: bool) -> Self {
        if is { self } else { Self::EMPTY }
    }
}

impl BitOr for Ready {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.or(other)
    }
}

impl BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl BitAnd for Ready {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// How an operation that finds nothing to do goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait<'a> {
    /// Not at all.
    Never,
    /// In the slot of its direction, where the last caller displaces the one before.
    InSlot(&'a Waker),
}

/// Names one future that waits, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    /// A key that nobody else has.
    pub(super) fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The tasks that wait for one kind of event: the one in the slot, which `poll_*` calls share, and
/// any number of futures.
///
/// The first future needs no allocation; nor do more, once there have been as many.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    slot: Option<Waker>,
    first: Option<(Key, Waker)>,
    #[expect(clippy::box_collection, reason = "most connections never need it")]
    more: Option<Box<Vec<(Key, Waker)>>>,
}

impl Waiters {
    /// Registers as [`Wait`] says. What comes back is to be dropped under no lock.
    #[must_use]
    pub(super) fn wait(&mut self, wait: Wait<'_>) -> Option<Waker> {
        match (wait, &mut self.slot) {
            (Wait::Never, _) => None,
            (Wait::InSlot(waker), Some(old)) => displace(old, waker),
            (Wait::InSlot(waker), empty) => empty.replace(waker.clone()),
        }
    }

    /// Registers a future, or gives it another waker. What comes back is to be dropped under no
    /// lock.
    #[must_use]
    pub(super) fn register(&mut self, key: Key, waker: &Waker) -> Option<Waker> {
        let more = self.more.iter_mut().flat_map(|more| more.iter_mut());
        let known = self.first.iter_mut().chain(more).find(|(k, _)| *k == key);
        if let Some((_, old)) = known {
            return displace(old, waker);
        }
        if self.first.is_none() {
            self.first = Some((key, waker.clone()));
        } else {
            let more = self.more.get_or_insert_default();
            more.push((key, waker.clone()));
        }
        None
    }

    /// Forgets a future, whether or not it is registered. What comes back is to be dropped under no
    /// lock.
    #[must_use]
    pub(super) fn remove(&mut self, key: Key) -> Option<Waker> {
        let (_, waker) = match &mut self.more {
            _ if self.first.as_ref().is_some_and(|(k, _)| *k == key) => self.first.take()?,
            Some(more) => {
                let at = more.iter().position(|(k, _)| *k == key)?;
                more.swap_remove(at)
            }
            None => return None,
        };
        Some(waker)
    }

    /// Takes all of them out, to be woken.
    pub(super) fn take(&mut self, wakes: &mut Wakes) {
        wakes.extend(self.slot.take());
        wakes.extend(self.first.take().map(|(_, waker)| waker));
        if let Some(more) = &mut self.more {
            wakes.extend(more.drain(..).map(|(_, waker)| waker));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let more = self.more.as_ref().map_or(0, |more| more.len());
        usize::from(self.slot.is_some()) + usize::from(self.first.is_some()) + more
    }
}

/// What a pipe has under its lock, as far as it concerns those that wait.
pub(super) trait Direction {
    /// What may be tried, and what it has come to.
    fn readiness(&self) -> Ready;

    /// Who waits.
    fn waiters(&mut self) -> &mut Waiters;

    /// Counts events, to tell whether one came between a look and a decision.
    fn events(&self) -> u32;
}

/// One direction of a stream, to be waited for.
pub(super) trait Pipe {
    /// What the lock guards.
    type Inner: Direction;

    /// Nothing that panics runs under it.
    fn lock(&self) -> MutexGuard<'_, Self::Inner>;

    /// Whether it may be tried, and what it has come to.
    fn ready(&self) -> Ready {
        self.lock().readiness()
    }

    /// Registers in the slot unless it may be tried.
    fn poll_ready(&self, waker: &Waker) -> Ready {
        self.ready_or(Ready::ALL, |waiters| waiters.wait(Wait::InSlot(waker)))
    }

    /// Registers a future unless it is ready for something in `mask`.
    fn ready_or_register(&self, mask: Ready, key: Key, waker: &Waker) -> Ready {
        self.ready_or(mask, |waiters| waiters.register(key, waker))
    }

    /// Looks and registers under one lock, so that no event is lost in between.
    fn ready_or(&self, mask: Ready, register: impl FnOnce(&mut Waiters) -> Option<Waker>) -> Ready {
        let mut inner = self.lock();
        let ready = inner.readiness() & mask;
        if ready.is_empty() {
            let displaced = register(inner.waiters());
            drop(inner);
            drop(displaced);
        }
        ready
    }

    /// Forgets a future.
    fn deregister(&self, key: Key) {
        let removed = self.lock().waiters().remove(key);
        drop(removed);
    }

    /// The number of the last event.
    fn tick(&self) -> u32 {
        self.lock().events()
    }
}

/// Puts another waker in the place of one that would not wake the same task.
///
/// The old one is not dropped here, under the lock of a pipe: it may be the last that holds a task,
/// and with it handles that take the same lock when they are dropped.
fn displace(old: &mut Waker, new: &Waker) -> Option<Waker> {
    (!old.will_wake(new)).then(|| mem::replace(old, new.clone()))
}

/// The outcome of an attempt that has left the waker where it found that it would block.
pub(super) fn poll<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Wake};

    use super::*;

    struct Unmoved;

    impl Wake for Unmoved {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn everybody_is_taken_once_and_the_slot_holds_one() {
        let (mut waiters, mut wakes) = (Waiters::default(), Wakes::new());
        let keys = [Key::fresh(), Key::fresh(), Key::fresh()];
        let waker = Waker::from(Arc::new(Unmoved));
        assert!(waiters.wait(Wait::Never).is_none());
        assert!(waiters.wait(Wait::InSlot(&waker)).is_none());
        assert!(waiters.wait(Wait::InSlot(&waker)).is_none());
        for key in keys.into_iter().chain(keys) {
            assert!(waiters.register(key, &waker).is_none());
        }
        assert_eq!(waiters.len(), 4);
        let other = Waker::from(Arc::new(Unmoved));
        assert!(waiters.wait(Wait::InSlot(&other)).is_some());
        assert!(waiters.register(keys[1], &other).is_some());
        assert!(waiters.remove(keys[0]).is_some());
        assert!(waiters.remove(keys[2]).is_some());
        assert!(waiters.remove(keys[2]).is_none());
        assert_eq!(waiters.len(), 2);
        waiters.take(&mut wakes);
        assert_eq!((waiters.len(), wakes.len()), (0, 2));
    }

    #[test]
    fn an_interest_covers_the_end_of_its_direction() {
        let both = Ready::READABLE | Ready::WRITABLE;
        assert!(
            both.mask()
                .contains(Ready::READ_CLOSED | Ready::WRITE_CLOSED)
        );
        assert!(!Ready::READABLE.mask().intersects(Ready::WRITE_CLOSED));
        assert!(!both.mask().intersects(Ready::ERROR));
    }
}
