//! How handles make the reactor look again.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Waker},
};

use super::{blocks::Blocks, budget::Budget, command::Command};
use crate::{config::SocketOptions, error::Failure};

/// Different sets of options that are kept to be shared.
const OPTIONS_KEPT: usize = 8;

/// Names a connection or a listener to the engine that made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// The name of what lies at `index`, different for all that ever lay there.
    pub(crate) const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// Where it lies.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// How many lay there before it.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index, self.generation)
    }
}

/// How handles make the reactor look at their connections again, and ask it for everything else.
#[derive(Debug)]
pub(crate) struct Doorbell {
    inner: Mutex<Inner>,
    /// Memory that all pipes share. Its lock is taken under that of a pipe, never around it.
    blocks: Mutex<Blocks>,
    budget: Budget,
    options: Mutex<Vec<Arc<SocketOptions>>>,
    /// The only thread of the reactor's runtime, as [`this_thread`] names it; else zero.
    reactor_thread: AtomicUsize,
}

/// A number that no other living thread has, and that is never zero.
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

#[derive(Debug, Default)]
struct Inner {
    rung: Vec<ConnId>,
    commands: VecDeque<Command>,
    reactor: Option<Waker>,
    closed: Option<Failure>,
}

impl Doorbell {
    /// A bell that nobody has rung.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            blocks: Mutex::new(Blocks::new()),
            budget: Budget::new(),
            options: Mutex::default(),
            reactor_thread: AtomicUsize::new(0),
        })
    }

    /// [reactor] Nothing else of the runtime runs while this thread does something.
    pub(crate) fn set_reactor_thread(&self) {
        self.reactor_thread.store(this_thread(), Ordering::Relaxed);
    }

    /// Whether the reactor has to wait until the caller yields.
    pub(super) fn is_reactor_here(&self) -> bool {
        self.reactor_thread.load(Ordering::Relaxed) == this_thread()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much memory all pipes may hold.
    pub(crate) const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Queues a command and wakes the reactor.
    ///
    /// # Errors
    /// Why the reactor is gone, if it is.
    pub(crate) fn send(&self, command: Command) -> Result<(), Failure> {
        let reactor = {
            let mut inner = self.lock();
            if let Some(failure) = inner.closed {
                drop(inner); // The command may own things that lock again when they are dropped.
                drop(command);
                return Err(failure);
            }
            inner.commands.push_back(command);
            inner.reactor.take()
        };
        if let Some(waker) = reactor {
            waker.wake();
        }
        Ok(())
    }

    /// Appends what rang and what was asked for, and registers the reactor for what comes then.
    ///
    /// What rang is to be handled before the commands: a listener that was closed is then seen as
    /// closed before another takes its port.
    pub(crate) fn take_rung(
        &self,
        cx: &Context<'_>,
        rung: &mut Vec<ConnId>,
        commands: &mut VecDeque<Command>,
    ) {
        let mut inner = self.lock();
        inner.take(rung, commands);
        let known = inner.reactor.as_ref();
        if known.is_none_or(|reactor| !reactor.will_wake(cx.waker())) {
            let displaced = inner.reactor.replace(cx.waker().clone());
            drop(inner);
            drop(displaced);
        }
    }

    /// The connection that rang last and was not taken yet.
    pub(crate) fn pop_rung(&self) -> Option<ConnId> {
        self.lock().rung.pop()
    }

    /// Appends what rang and what was asked for.
    #[cfg(test)]
    pub(crate) fn take(&self, rung: &mut Vec<ConnId>, commands: &mut VecDeque<Command>) {
        self.lock().take(rung, commands);
    }

    /// Takes no more commands, and gives those back that nobody has looked at. The first failure
    /// counts.
    #[must_use = "whoever sent these commands waits for an answer"]
    pub(crate) fn close(&self, failure: Failure) -> VecDeque<Command> {
        let (commands, reactor) = {
            let mut inner = self.lock();
            inner.closed.get_or_insert(failure);
            inner.rung = Vec::new();
            (mem::take(&mut inner.commands), inner.reactor.take())
        };
        drop(reactor);
        commands
    }

    /// Why the reactor is gone, if it is.
    #[cfg(test)]
    pub(crate) fn closed(&self) -> Option<Failure> {
        self.lock().closed
    }

    fn ring(&self, id: &AtomicU64) {
        let reactor = {
            let mut inner = self.lock();
            match unpack(id.load(Ordering::Relaxed)) {
                Some(id) if inner.closed.is_none() => inner.rung.push(id),
                _ => return,
            }
            inner.reactor.take()
        };
        if let Some(waker) = reactor {
            waker.wake();
        }
    }

    /// These options, shared with others that have the same: most sockets of a stack do.
    pub(crate) fn share(&self, options: SocketOptions) -> Arc<SocketOptions> {
        let mut kept = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = kept.iter().find(|kept| ***kept == options) {
            return Arc::clone(same);
        }
        if kept.len() >= OPTIONS_KEPT {
            kept.remove(0);
        }
        let options = Arc::new(options);
        kept.push(Arc::clone(&options));
        options
    }
}

impl Inner {
    fn take(&mut self, rung: &mut Vec<ConnId>, commands: &mut VecDeque<Command>) {
        if rung.is_empty() {
            mem::swap(&mut self.rung, rung);
        } else {
            rung.append(&mut self.rung);
        }
        if commands.is_empty() {
            mem::swap(&mut self.commands, commands);
        } else {
            commands.append(&mut self.commands);
        }
    }
}

/// One connection's or listener's button. Pressed twice before it is answered, it rings once.
///
/// A handle changes what the engine is to see, and then presses. The engine answers, and then
/// looks.
#[derive(Debug)]
pub(crate) struct Button {
    bell: Arc<Doorbell>,
    /// Written under the bell's lock.
    id: AtomicU64,
    pressed: AtomicBool,
}

impl Button {
    /// A button that the engine does not know yet: it rings nothing until it is assigned.
    pub(crate) const fn new(bell: Arc<Doorbell>) -> Self {
        Self {
            bell,
            id: AtomicU64::new(UNASSIGNED),
            pressed: AtomicBool::new(false),
        }
    }

    /// Makes later presses ring under this name. Whoever assigns then answers and looks, and so
    /// sees what was changed before the presses that rang nothing.
    pub(crate) fn assign(&self, id: ConnId) {
        let _bell = self.bell.lock();
        self.id.store(pack(id), Ordering::Relaxed);
    }

    /// Its name, if it has one yet.
    pub(crate) fn id(&self) -> Option<ConnId> {
        let _bell = self.bell.lock();
        unpack(self.id.load(Ordering::Relaxed))
    }

    /// Rings, unless it has rung and not been answered. To be called after the change that the
    /// engine should see, and under no lock.
    pub(crate) fn press(&self) {
        // Rung and not yet answered: the engine will look later than now.
        if !self.pressed.swap(true, Ordering::AcqRel) {
            self.bell.ring(&self.id);
        }
    }

    /// To be called by the engine before it looks. A swap and not a store: it synchronizes with the
    /// presses that it absorbs, whatever the pipes are made of.
    pub(crate) fn answer(&self) {
        self.pressed.swap(false, Ordering::AcqRel);
    }

    pub(super) const fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }
}

/// No slab has an entry of this index and generation.
const UNASSIGNED: u64 = u64::MAX;

const fn pack(id: ConnId) -> u64 {
    (id.index as u64) << 32 | id.generation as u64
}

const fn unpack(id: u64) -> Option<ConnId> {
    match id {
        UNASSIGNED => None,
        id => Some(ConnId::new((id >> 32) as u32, id as u32)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicUsize,
        task::Wake,
        thread::{self, Thread},
    };

    use super::*;

    const ID: ConnId = ConnId::new(7, 1);

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(bell: &Doorbell) -> (Vec<ConnId>, usize) {
        let (mut rung, mut commands) = (Vec::new(), VecDeque::new());
        bell.take(&mut rung, &mut commands);
        (rung, commands.len())
    }

    #[test]
    fn a_press_after_the_answer_rings_again() {
        let bell = Doorbell::new();
        let button = Button::new(Arc::clone(&bell));
        button.assign(ID);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = &mut Context::from_waker(&waker);
        let (mut rung, mut commands) = (Vec::new(), VecDeque::new());
        bell.take_rung(cx, &mut rung, &mut commands);
        assert_eq!(rung, []);
        button.press();
        button.press();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        bell.take_rung(cx, &mut rung, &mut commands);
        assert_eq!(rung, [ID]);
        button.press();
        assert_eq!(take(&bell).0, [], "not answered yet");
        button.answer();
        button.press();
        bell.take_rung(cx, &mut rung, &mut commands);
        assert_eq!(rung, [ID, ID], "appended");
        button.answer();
        button.press();
        let wakes = count.0.load(Ordering::Relaxed);
        assert_eq!(wakes, 3, "registered whether or not anything rang");
    }

    #[test]
    fn a_button_without_a_name_rings_after_it_was_assigned_and_answered() {
        let bell = Doorbell::new();
        let button = Button::new(Arc::clone(&bell));
        button.press();
        assert_eq!((button.id(), take(&bell).0), (None, vec![]));
        button.assign(ID);
        button.answer();
        button.press();
        assert_eq!((button.id(), take(&bell).0), (Some(ID), vec![ID]));
    }

    #[test]
    fn a_closed_bell_takes_no_commands_and_gives_the_old_ones_back() {
        let bell = Doorbell::new();
        let button = Button::new(Arc::clone(&bell));
        button.assign(ID);
        bell.send(Command::Abort(ID)).unwrap();
        assert_eq!(bell.close(Failure::DeviceGone).len(), 1);
        assert_eq!(bell.close(Failure::StackClosed).len(), 0);
        assert_eq!(bell.closed(), Some(Failure::DeviceGone));
        let refused = bell.send(Command::Abort(ID));
        assert_eq!(refused, Err(Failure::DeviceGone));
        button.press();
        assert_eq!(take(&bell), (vec![], 0));
    }

    #[test]
    fn equal_options_are_shared() {
        let bell = Doorbell::new();
        let options = SocketOptions::default();
        let first = bell.share(options);
        assert!(Arc::ptr_eq(&first, &bell.share(options)));
        for ttl in 100..200 {
            assert_eq!(bell.share(SocketOptions { ttl, ..options }).ttl, ttl);
        }
        assert!(bell.options.lock().unwrap().len() <= OPTIONS_KEPT);
    }

    /// Parks the thread that polls until it is woken.
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn no_press_is_lost_between_threads() {
        const CHANGES: u64 = 30_000;
        let bell = Doorbell::new();
        let buttons: Vec<_> = (0..3).map(|_| Button::new(Arc::clone(&bell))).collect();
        let changes: Vec<_> = (0..3).map(|_| AtomicU64::new(0)).collect();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        thread::scope(|scope| {
            for (button, change) in buttons.iter().zip(&changes) {
                scope.spawn(move || {
                    for n in 1..=CHANGES {
                        change.store(n, Ordering::Relaxed); // Change, then press.
                        button.press();
                        if n % 64 == 0 {
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut seen = [0; 3];
            for (n, button) in buttons.iter().enumerate() {
                button.assign(ConnId::new(n as u32, 0));
                button.answer();
                seen[n] = changes[n].load(Ordering::Relaxed);
            }
            let (mut rung, mut commands) = (Vec::new(), VecDeque::new());
            while seen.iter().any(|&n| n < CHANGES) {
                let cx = &mut Context::from_waker(&waker);
                bell.take_rung(cx, &mut rung, &mut commands);
                if rung.is_empty() {
                    thread::park();
                }
                for id in rung.drain(..) {
                    let n = id.index() as usize;
                    buttons[n].answer(); // Answer, then look.
                    seen[n] = changes[n].load(Ordering::Relaxed);
                }
            }
        });
    }
}
