//! The only loop, the only clock: moves packets between the device and the engine.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

mod alarm;
#[cfg(test)]
mod tests;

use alarm::Alarm;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::watch,
    time::{self, Sleep},
};

use crate::{
    device::{Device, Offload},
    engine::Engine,
    error::Failure,
    link::{Command, ConnId, Doorbell},
    packet::Packet,
};

/// Packets taken from the device before the engine answers. Many, for a device without offload
/// merges what comes in one batch, and each batch is acknowledged once.
const RECV_BATCH: usize = 256;

/// Packets given to the device before it is asked again for what it has received.
const SEND_BATCH: usize = 64;

/// Turns in a row before other tasks of the runtime get theirs.
const TURNS: usize = 8;

/// A device that has taken nothing for this long loses what waits for it, like any full queue in a
/// network: retransmission and its time limits go on, so that no call waits for ever.
const STALL: Duration = Duration::from_secs(1);

/// Bytes received after which they do too: who reads these does so while they are in a cache.
const BYTES: usize = 256 << 10;

/// How much too early the timer may be. Almost every packet moves the next deadline back a little,
/// and to move the timer as well costs more than to look once in vain.
const TIMER_SLACK: Duration = Duration::from_millis(250);

/// A wait for pacing that is shorter than this is too short for the runtime's timer, whose ticks are
/// of a millisecond.
const SHORT_WAIT: Duration = Duration::from_millis(5);

/// Why a stack ended.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// It was shut down.
    Shutdown,
    /// Anything else: the kind and the text of the error.
    Failed(io::ErrorKind, Arc<str>),
}

impl Cause {
    /// As the result that the application gets; each caller gets its own.
    pub(crate) fn to_result(&self) -> io::Result<()> {
        match self {
            Self::Shutdown => Ok(()),
            Self::Failed(kind, text) => Err(io::Error::new(*kind, text.to_string())),
        }
    }
}

/// What a stack can see of its reactor.
#[derive(Debug)]
pub(crate) struct Status {
    turns: AtomicU64,
    ended: watch::Sender<Option<Cause>>,
}

impl Status {
    fn new() -> Self {
        Self {
            turns: AtomicU64::new(0),
            ended: watch::Sender::new(None),
        }
    }

    /// How often the reactor was woken and looked around. Stands still while nothing happens.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Why the reactor ended, if it has.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.ended.borrow().clone()
    }

    /// Waits until the reactor has ended and its device is dropped.
    pub(crate) async fn ended(&self) -> Cause {
        let mut receiver = self.ended.subscribe();
        let seen = receiver.wait_for(Option::is_some).await;
        // The sender lives in `self`, hence neither arm is taken without a cause.
        seen.ok()
            .and_then(|cause| cause.clone())
            .unwrap_or(Cause::Shutdown)
    }
}

/// Owns the device and the engine. As a future, it is done when the stack has been shut down or its
/// device has failed; dropped before that, it fails every handle.
pub(crate) struct Reactor<D: Device> {
    engine: Engine,
    doorbell: Arc<Doorbell>,
    status: Arc<Status>,
    mtu: usize,
    mtus: RangeInclusive<usize>,
    received: Vec<Packet>,
    to_send: VecDeque<Packet>,
    rung: Vec<ConnId>,
    commands: VecDeque<Command>,
    /// When what waits for the device is dropped; `None` while it takes packets.
    stalled_at: Option<Instant>,
    /// Packets dropped so.
    stall_drops: u64,
    /// When a shutdown stops waiting for a device that takes nothing.
    abort_at: Option<Instant>,
    cause: Option<Cause>,
    /// In its place for ever, so that arming it allocates nothing; `None` while there is no deadline.
    timer: Pin<Box<Option<Sleep>>>,
    /// Whether the runtime has one thread only; `None` before the first poll.
    single_threaded: Option<bool>,
    /// The task that the timer wakes.
    timer_waker: Option<Waker>,
    /// Together with the timer, where pacing holds something back.
    alarm: Alarm,
    /// How often it had, when that was last looked at.
    paced: u64,
    device: Offload<D>,
    /// Dropped last: whoever waits for the end finds the device gone.
    announcement: Announcement,
}

/// Tells the end when it is dropped.
struct Announcement {
    status: Arc<Status>,
    cause: Cause,
}

/// What a turn has come to.
enum Turn {
    /// Everything has been done that could be; whatever comes next wakes the task.
    Idle,
    /// There may be more to do. So many bytes were received.
    Busy { bytes: usize },
    /// The stack is shut down.
    Finished,
}

impl<D: Device> Reactor<D> {
    /// The MTU of the device may change later, within `mtus`.
    pub(crate) fn new(device: Offload<D>, engine: Engine, mtus: RangeInclusive<usize>) -> Self {
        let status = Arc::new(Status::new());
        Self {
            doorbell: engine.doorbell().clone(),
            mtu: device.capabilities().mtu,
            mtus,
            engine,
            received: Vec::with_capacity(RECV_BATCH),
            to_send: VecDeque::with_capacity(SEND_BATCH),
            rung: Vec::new(),
            commands: VecDeque::new(),
            stalled_at: None,
            stall_drops: 0,
            abort_at: None,
            cause: None,
            timer: Box::pin(None),
            timer_waker: None,
            single_threaded: None,
            alarm: Alarm::default(),
            paced: 0,
            device,
            announcement: Announcement {
                status: status.clone(),
                cause: Cause::Shutdown,
            },
            status,
        }
    }

    pub(crate) fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// One batch in, one batch out.
    fn turn(&mut self, cx: &mut Context<'_>) -> io::Result<Turn> {
        self.status.turns.fetch_add(1, Ordering::Relaxed);
        let received = self.receive(cx)?;
        let bytes = self.received.iter().map(Packet::len).sum();
        // After the packets were read and before they are processed: a listener that existed before
        // a peer's SYN was sent is always known before the SYN is looked at.
        self.doorbell
            .take_rung(cx, &mut self.rung, &mut self.commands);
        let now = time::Instant::now().into_std();
        self.process(now);
        let more = self.send(cx, now)?;
        self.fire_wakes();
        if self.is_finished(now) {
            return Ok(Turn::Finished);
        }
        // Turns that follow each other look at the deadline without a timer.
        let busy = received || more || self.poll_timer(cx, now).is_ready();
        Ok(if busy {
            Turn::Busy { bytes }
        } else {
            Turn::Idle
        })
    }

    /// Whether there may be more packets. Otherwise the device wakes the task when there are.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match self.device.poll_recv(cx, &mut self.received, RECV_BATCH) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the other end of the stack's device is gone",
            )),
            Poll::Ready(result) => result.map(|_| !self.device.is_drained()),
        }
    }

    fn process(&mut self, now: Instant) {
        // Handles before commands: a listener that was dropped has left its port before another
        // one takes it.
        for id in self.rung.drain(..) {
            self.engine.on_rung(id, now);
        }
        while let Some(command) = self.commands.pop_front() {
            self.before_command(&command, now);
            self.engine.on_command(command, now);
        }
        for packet in self.received.drain(..) {
            self.engine.on_packet(packet, now);
        }
        if self.engine.next_deadline().is_some_and(|at| at <= now) {
            self.engine.on_timeout(now);
        }
    }

    /// What concerns the reactor in a command.
    fn before_command(&mut self, command: &Command, now: Instant) {
        match command {
            Command::Shutdown { drain } => {
                let at = now.checked_add(*drain);
                self.abort_at = [self.abort_at, at].into_iter().flatten().min();
            }
            Command::Counters(_) => {
                let drops = self.device.drops() + self.stall_drops;
                self.engine.set_device_drops(drops);
            }
            _ => {}
        }
    }

    /// Sends a batch; whether there may be more. While the device takes nothing, the engine is asked
    /// for nothing, so that nothing piles up.
    fn send(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<bool> {
        let all =
            self.to_send.is_empty() && self.engine.poll_packet(now, SEND_BATCH, &mut self.to_send);
        let waiting = self.to_send.len();
        if waiting > 0 {
            match self.device.poll_send(cx, &mut self.to_send) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if self.to_send.len() < waiting {
                        self.stalled_at = None;
                    }
                    return Ok(self.drop_if_stalled(now));
                }
            }
        }
        self.stalled_at = None;
        Ok(!all)
    }

    /// The device takes nothing: whether it has not for too long, and there is room again.
    fn drop_if_stalled(&mut self, now: Instant) -> bool {
        let at = *self.stalled_at.get_or_insert(now + STALL);
        if now < at {
            return false;
        }
        let packets = self.to_send.len();
        tracing::trace!(packets, "dropped: the device is stalled");
        self.stall_drops += packets as u64;
        self.to_send.clear();
        self.stalled_at = None;
        true
    }

    fn fire_wakes(&mut self) {
        self.engine.wakes().drain(..).for_each(Waker::wake);
    }

    fn is_finished(&self, now: Instant) -> bool {
        if self.to_send.is_empty() {
            self.engine.is_finished()
        } else {
            // A device that takes nothing holds a shutdown up no longer than was allowed.
            self.abort_at.is_some_and(|at| at <= now)
        }
    }

    /// Arms the timer for the next deadline: `Ready` when that has come already.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let deadline = match self.stalled_at {
            Some(at) => Some(self.abort_at.map_or(at, |abort| abort.min(at))),
            None => self.engine.next_deadline(),
        };
        let Some(at) = deadline else {
            if self.timer.is_some() {
                self.timer.set(None);
            }
            return Poll::Pending;
        };
        if at <= now {
            return Poll::Ready(());
        }
        let paced = self.engine.counters().paced;
        if std::mem::replace(&mut self.paced, paced) != paced && at - now < SHORT_WAIT {
            self.alarm.set(at, cx.waker());
        }
        if self.is_armed_for(at, now, cx.waker()) {
            return Poll::Pending;
        }
        self.timer_waker = Some(cx.waker().clone());
        let at = time::Instant::from_std(at);
        match self.timer.as_mut().as_pin_mut() {
            Some(sleep) => sleep.reset(at),
            None => self.timer.set(Some(time::sleep_until(at))),
        }
        match self.timer.as_mut().as_pin_mut() {
            Some(sleep) => sleep.poll(cx),
            None => Poll::Pending,
        }
    }

    /// Whether the timer will wake the task in time, and not far too early.
    fn is_armed_for(&self, at: Instant, now: Instant, waker: &Waker) -> bool {
        let Some(armed) = self.timer.as_ref().as_pin_ref() else {
            return false;
        };
        let armed = armed.deadline().into_std();
        let known = self.timer_waker.as_ref();
        armed > now
            && armed <= at
            && at - armed <= TIMER_SLACK
            && known.is_some_and(|known| known.will_wake(waker))
    }

    /// Ends every handle and every call that waits, now and from now on.
    fn end(&mut self, failure: Failure) {
        let mut wakes = Vec::new();
        let left = self.doorbell.close(failure);
        for command in self.commands.drain(..).chain(left) {
            match command {
                Command::Connect { link, .. } => link.fail(failure, &mut wakes),
                Command::Listen(listener) => listener.fail(failure, &mut wakes),
                Command::Datagrams(link) => link.fail(failure, &mut wakes),
                // Whoever waits for an answer sees its sender go.
                _ => {}
            }
        }
        self.engine.fail(failure);
        wakes.append(self.engine.wakes());
        wakes.into_iter().for_each(Waker::wake);
    }

    fn finish(&mut self, cause: Cause) {
        let failure = match cause {
            Cause::Shutdown => Failure::StackClosed,
            Cause::Failed(..) => Failure::DeviceGone,
        };
        self.cause = Some(cause);
        self.end(failure);
    }
}

fn is_single_threaded() -> bool {
    Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

/// Nothing is pinned to its place but the timer, which is in a box.
impl<D: Device> Unpin for Reactor<D> {}

impl<D: Device> Future for Reactor<D> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mtu = self.device.capabilities().mtu;
        if mtu != self.mtu && self.mtus.contains(&mtu) {
            self.mtu = mtu;
            self.engine.set_mtu(mtu);
        }
        if *self.single_threaded.get_or_insert_with(is_single_threaded) {
            self.doorbell.set_reactor_thread();
        }
        let mut received = 0;
        for _ in 0..TURNS {
            match self.turn(cx) {
                Ok(Turn::Busy { bytes }) => {
                    received += bytes;
                    if received >= BYTES {
                        break;
                    }
                }
                Ok(Turn::Idle) => return Poll::Pending,
                Ok(Turn::Finished) => {
                    tracing::debug!("the stack is shut down");
                    self.finish(Cause::Shutdown);
                    return Poll::Ready(());
                }
                Err(error) => {
                    tracing::debug!(%error, "the device of the stack failed");
                    let text = error.to_string().into();
                    self.finish(Cause::Failed(error.kind(), text));
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<D: Device> Drop for Reactor<D> {
    /// A reactor that goes before its time (its task was aborted, its runtime is gone, it panicked)
    /// leaves nobody waiting.
    fn drop(&mut self) {
        let cause = self.cause.take().unwrap_or_else(|| {
            // The engine may be what panicked, and must not do so again where that aborts.
            let _ = catch_unwind(AssertUnwindSafe(|| self.end(Failure::StackClosed)));
            let text = if thread::panicking() {
                "the reactor of the stack panicked"
            } else {
                "the runtime that the stack was spawned on is gone"
            };
            Cause::Failed(io::ErrorKind::Other, text.into())
        });
        self.announcement.cause = cause;
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.status.ended.send_replace(Some(self.cause.clone()));
    }
}

impl<D: Device> fmt::Debug for Reactor<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("mtu", &self.mtu)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
