//! Which stack the functions that name none work on.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    marker::PhantomData,
    sync::OnceLock,
};

use super::stack::Stack;

tokio::task_local! {
    static SCOPED: Stack;
}

thread_local! {
    static ENTERED: RefCell<Vec<(u64, Stack)>> = const { RefCell::new(Vec::new()) };
    static NEXT_ENTRY: Cell<u64> = const { Cell::new(0) };
}

static DEFAULT: OnceLock<Stack> = OnceLock::new();

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
    /// [default](Self::set_default) of the process.
    ///
    /// # Errors
    /// There is none of these; the text names the three ways to provide one.
    pub fn current() -> io::Result<Self> {
        SCOPED
            .try_with(Self::clone)
            .ok()
            .or_else(entered)
            .or_else(|| DEFAULT.get().cloned())
            .ok_or_else(|| {
                io::Error::other(
                    "no synack stack is current here: run the future inside of \
                     `stack.scope(future)`, hold the guard of `stack.enter()`, or call \
                     `stack.set_default()` once in the process",
                )
            })
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
        DEFAULT.set(self.clone()).map_err(|_| {
            io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the process has a default stack already, and it cannot be replaced",
            )
        })
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
