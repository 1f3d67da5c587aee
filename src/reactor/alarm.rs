//! Wakes the reactor between the ticks of the runtime's clock.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::Waker,
    thread,
    time::{Duration, Instant},
};

/// What is paced is so regularly: the thread looks again after as long as it took from the last
/// alarm to this one, and need not be told of the next. Alarms further apart are no series.
const SERIES_GAP: Duration = Duration::from_millis(2);

/// So late is on time: it is what the kernel allows itself with any sleep.
const SLACK: Duration = Duration::from_micros(50);

/// A thread that sleeps in the reactor's place.
///
/// The runtime's timers have ticks of a millisecond, in which a connection that is paced at
/// 100 Mbit/s sends eight segments: a burst of them each time is what pacing is to avoid. The thread
/// comes into being when it is first needed, and what goes wrong with it costs precision only, for
/// the runtime's timer runs as well.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// `None` before it is needed; without a thread where there can be none.
    shared: Option<Option<Arc<Shared>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    set: Option<(Instant, Waker)>,
    /// Until when the thread sleeps, if it does and not until it is told.
    looks_at: Option<Instant>,
    closed: bool,
}

impl Alarm {
    /// Wakes `waker` at `at`, in place of what was set before.
    pub(super) fn set(&mut self, at: Instant, waker: &Waker) {
        let Some(shared) = self.shared.get_or_insert_with(|| Shared::spawn().ok()) else {
            return;
        };
        let mut state = shared.lock();
        match &mut state.set {
            Some((set, known)) if known.will_wake(waker) => *set = at,
            set => *set = Some((at, waker.clone())),
        }
        // It finds out by itself when it wakes too early.
        let sleeps_on = state.looks_at.is_none_or(|looks| at + SLACK < looks);
        drop(state);
        if sleeps_on {
            shared.changed.notify_one();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(Some(shared)) = &self.shared {
            let mut state = shared.lock();
            state.closed = true;
            state.set = None;
            drop(state);
            shared.changed.notify_one();
        }
    }
}

impl Shared {
    fn spawn() -> io::Result<Arc<Self>> {
        let shared = Arc::new(Self::default());
        let its = Arc::clone(&shared);
        thread::Builder::new()
            .name("synack-alarm".into())
            .stack_size(64 << 10)
            .spawn(move || its.run())?;
        Ok(shared)
    }

    /// Nothing that panics runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        let (mut last, mut next) = (None, None);
        while !state.closed {
            let Some(at) = state.set.as_ref().map(|set| set.0).or_else(|| next.take()) else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = at.saturating_duration_since(now());
            if !left.is_zero() {
                state.looks_at = Some(at);
                let woken = self.changed.wait_timeout(state, left);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                state.looks_at = None;
                continue;
            }
            let Some((at, waker)) = state.set.take() else {
                continue;
            };
            let gap = last
                .replace(at)
                .map(|last| at.saturating_duration_since(last));
            next = gap.filter(|gap| *gap <= SERIES_GAP).map(|gap| at + gap);
            drop(state);
            waker.wake();
            state = self.lock();
        }
    }
}

/// Real time: where a test has stopped the runtime's clock, its own timer is what counts.
#[expect(clippy::disallowed_methods, reason = "part of the reactor")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Weak, mpsc},
        task::Wake,
        time::Duration,
    };

    use super::*;

    struct Tell(mpsc::Sender<Instant>);

    impl Wake for Tell {
        fn wake(self: Arc<Self>) {
            // The test may be over.
            let _ = self.0.send(now());
        }
    }

    fn teller() -> (Waker, mpsc::Receiver<Instant>) {
        let (sender, receiver) = mpsc::channel();
        (Waker::from(Arc::new(Tell(sender))), receiver)
    }

    #[test]
    fn it_wakes_once_and_not_before_its_time() {
        let (waker, woken) = teller();
        let mut alarm = Alarm::default();
        for micros in [300, 0, 2000] {
            let at = now() + Duration::from_micros(micros);
            alarm.set(at, &waker);
            assert!(woken.recv().unwrap() >= at);
        }
        assert!(woken.try_recv().is_err());
    }

    #[test]
    fn what_is_set_last_counts_be_it_sooner_or_later() {
        let (waker, woken) = teller();
        let mut alarm = Alarm::default();
        for _ in 0..5 {
            alarm.set(now() + Duration::from_secs(3600), &waker);
            // Long enough for the thread to fall asleep, as a rule: then it has to be told.
            thread::sleep(Duration::from_millis(5));
            alarm.set(now(), &waker);
            woken.recv().unwrap();
        }
        let late = now() + Duration::from_millis(20);
        alarm.set(late - Duration::from_millis(19), &waker);
        alarm.set(late, &waker);
        let first = woken.recv().unwrap();
        // The thread may have been faster than the second call.
        assert!(first >= late || woken.recv().unwrap() >= late);
        let (other, told) = teller();
        alarm.set(now() + Duration::from_secs(3600), &waker);
        alarm.set(now(), &other);
        told.recv().unwrap();
        assert!(woken.try_recv().is_err());
    }

    #[test]
    fn a_series_is_on_time_and_holds_nothing_up_that_comes_in_between() {
        let (waker, woken) = teller();
        let mut alarm = Alarm::default();
        let mut at = now();
        for _ in 0..20 {
            at += SERIES_GAP / 2;
            alarm.set(at, &waker);
            assert!(woken.recv().unwrap() >= at);
        }
        let hour = Duration::from_secs(3600);
        for gap in [Duration::ZERO, SERIES_GAP / 4, 2 * SERIES_GAP] {
            let at = now() + gap;
            alarm.set(at + hour, &waker);
            alarm.set(at, &waker);
            assert!(woken.recv().unwrap() >= at);
        }
        assert!(woken.try_recv().is_err());
    }

    #[test]
    fn its_thread_ends_with_it() {
        let (waker, woken) = teller();
        let mut alarm = Alarm::default();
        alarm.set(now() + Duration::from_secs(3600), &waker);
        let shared = alarm.shared.clone().flatten().unwrap();
        let left: Weak<Shared> = Arc::downgrade(&shared);
        drop((shared, waker, alarm));
        // Nobody holds the waker any more.
        assert!(woken.recv().is_err());
        while left.strong_count() > 0 {
            thread::yield_now();
        }
    }
}
