//! Which stack the functions that name none work on.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    io,
    marker::PhantomData,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::runtime::{self, Handle};

use super::stack::Stack;

tokio::task_local! {
    static SCOPED: Stack;
}

thread_local! {
    static ENTERED: RefCell<Vec<(u64, Stack)>> = const { RefCell::new(Vec::new()) };
    static NEXT_ENTRY: Cell<u64> = const { Cell::new(0) };
}

static DEFAULT: OnceLock<Fallback> = OnceLock::new();

/// What is current where nothing else is.
enum Fallback {
    Process(Stack),
    Runtimes(OfRuntimes),
}

/// A stack for each runtime that asks for one.
struct OfRuntimes {
    make: Box<dyn Fn() -> io::Result<Stack> + Send + Sync>,
    /// Those of runtimes that are gone stay until the next one is made.
    made: Mutex<HashMap<runtime::Id, Stack>>,
}

impl OfRuntimes {
    fn current(&self) -> io::Result<Stack> {
        let handle = Handle::try_current().map_err(|_| {
            io::Error::other(
                "no synack stack is current here: the default is one for each tokio runtime \
                 (`Stack::set_default_with`), and no runtime is current here",
            )
        })?;
        if let Some(stack) = self.of(handle.id()) {
            return Ok(stack);
        }
        // Unlocked, for it may take long, and may ask for the current stack by mistake.
        let new = (self.make)()?;
        let mut made = self.made();
        made.retain(|_, stack| !stack.has_ended());
        // Another thread of the runtime may have been faster; then that is the one.
        Ok(made.entry(handle.id()).or_insert(new).clone())
    }

    fn made(&self) -> MutexGuard<'_, HashMap<runtime::Id, Stack>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, runtime: runtime::Id) -> Option<Stack> {
        let made = self.made();
        // Numbers of runtimes are given out again, but not before their tasks have ended.
        made.get(&runtime)
            .filter(|stack| !stack.has_ended())
            .cloned()
    }
}

/// While it lives, its stack is the current one of its thread: see [`Stack::enter`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (device, _other) = synack::device::pair(1500);
/// # let stack = synack::Stack::builder().address("10.0.0.1/24".parse()?).spawn(device)?;
/// use synack::net::TcpSocket;
///
/// let socket = {
///     let _entered = stack.enter();
///     TcpSocket::new_v4()?
/// };
/// socket.bind("10.0.0.1:80".parse()?)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "the stack is current only while the guard lives"]
pub struct Entered {
    entry: u64,
    /// Bound to its thread.
    here: PhantomData<*mut ()>,
}

impl Stack {
    /// The stack that [`TcpStream::connect`](super::TcpStream::connect) and its like work on here:
    /// that of the innermost [`scope`](Self::scope) around the current task, or else the one that
    /// this thread has [entered](Self::enter) last, or else the
    /// [default](Self::set_default) of the process or [of the runtime](Self::set_default_with).
    ///
    /// # Errors
    /// There is none of these; the text names the ways to provide one. Or that of making the one of
    /// the runtime.
    pub fn current() -> io::Result<Self> {
        SCOPED
            .try_with(Self::clone)
            .ok()
            .or_else(entered)
            .map_or_else(fallback, Ok)
    }

    /// The same future, for which this is the [current](Self::current) stack at each poll.
    ///
    /// Tasks that it spawns have scopes of their own, and none to begin with.
    ///
    /// ```no_run
    /// # async fn example(stack: synack::Stack) -> std::io::Result<()> {
    /// use synack::net::TcpStream;
    /// let stream = stack.scope(TcpStream::connect("10.7.0.1:22")).await?;
    /// # Ok(()) }
    /// ```
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        SCOPED.scope(self.clone(), future)
    }

    /// Makes this the [current](Self::current) stack of the thread until the guard is dropped.
    ///
    /// Guards may be nested, and dropped in any order. For futures, which may move to another
    /// thread while the guard stays, there is [`scope`](Self::scope).
    pub fn enter(&self) -> Entered {
        let entry = NEXT_ENTRY.get();
        NEXT_ENTRY.set(entry + 1);
        ENTERED.with_borrow_mut(|entered| entered.push((entry, self.clone())));
        Entered {
            entry,
            here: PhantomData,
        }
    }

    /// Makes this the [current](Self::current) stack wherever no other is. It then lives as long as
    /// the process, or until it is [shut down](Self::shutdown).
    ///
    /// # Errors
    /// `AlreadyExists` if the process has a default already.
    pub fn set_default(&self) -> io::Result<()> {
        set(Fallback::Process(self.clone()))
    }

    /// Gives each runtime a stack of its own, [current](Self::current) wherever no other is: `make`
    /// is called in the runtime where one is asked for first, and where the last one has ended.
    ///
    /// For test suites, where every test has a runtime, and maybe a clock that is paused: with the
    /// stack in the same runtime, time stands still for both. Where the tests were written for
    /// `tokio::net`, nothing else has to be changed in them but the imports:
    ///
    /// ```
    /// use synack::{Stack, device::Loopback, net::{TcpListener, TcpStream}};
    /// use tokio::io::AsyncReadExt;
    ///
    /// // Once in the process, before the first test.
    /// Stack::set_default_with(|| {
    ///     let loopback = "127.0.0.1/8".parse().expect("an address");
    ///     Stack::builder().address(loopback).spawn(Loopback::new())
    /// })?;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// async fn test() -> std::io::Result<()> {
    ///     let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///     let to = listener.local_addr()?;
    ///     tokio::spawn(async move { listener.accept().await });
    ///     let mut stream = TcpStream::connect(to).await?;
    ///     assert_eq!(stream.read(&mut [0]).await?, 0);
    ///     Ok(())
    /// }
    /// # test()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// `AlreadyExists` if the process has a default already.
    pub fn set_default_with<F>(make: F) -> io::Result<()>
    where
        F: Fn() -> io::Result<Self> + Send + Sync + 'static,
    {
        set(Fallback::Runtimes(OfRuntimes {
            make: Box::new(make),
            made: Mutex::default(),
        }))
    }
}

fn set(fallback: Fallback) -> io::Result<()> {
    DEFAULT.set(fallback).map_err(|_| {
        io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the process has a default stack already, and it cannot be replaced",
        )
    })
}

fn fallback() -> io::Result<Stack> {
    match DEFAULT.get() {
        Some(Fallback::Process(stack)) => Ok(stack.clone()),
        Some(Fallback::Runtimes(runtimes)) => runtimes.current(),
        None => Err(io::Error::other(
            "no synack stack is current here: run the future inside of `stack.scope(future)`, \
             hold the guard of `stack.enter()`, or call `stack.set_default()` or \
             `Stack::set_default_with()` once in the process",
        )),
    }
}

fn entered() -> Option<Stack> {
    let last = |entered: &RefCell<Vec<(u64, Stack)>>| {
        let entered = entered.borrow();
        entered.last().map(|(_, stack)| stack.clone())
    };
    ENTERED.try_with(last).ok().flatten()
}

impl Drop for Entered {
    fn drop(&mut self) {
        let remove = |entered: &RefCell<Vec<(u64, Stack)>>| {
            let mut entered = entered.borrow_mut();
            let at = entered.iter().rposition(|(entry, _)| *entry == self.entry);
            at.map(|at| entered.remove(at))
        };
        // Given out of the closure, so that the stack is dropped when the list is free again.
        drop(ENTERED.try_with(remove));
    }
}
