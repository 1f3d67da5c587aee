//! Network namespaces: a network of one's own, in which no privileges are needed.

#![expect(unsafe_code, reason = "system calls that std does not have")]

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::rtnetlink::RtNetlink;

/// Where `ip netns` keeps namespaces by name.
const NAMED: &str = "/run/netns";
/// The namespace of the calling thread.
const CURRENT: &str = "/proc/thread-self/ns/net";
/// Index of the loopback interface in every namespace.
const LOOPBACK: u32 = 1;

/// Moves the calling thread, and all that are started by it from now on, into a network of its own,
/// in which it may create devices. The loopback interface is up.
///
/// To be called first thing in `main`, before there are other threads or a runtime. A user without
/// privileges becomes root of a user namespace of its own, as with `unshare -rn`.
///
/// ```no_run
/// // The first thing that the program does, before any thread is there.
/// fn main() -> std::io::Result<()> {
///     synack::device::netns::enter_private_namespace()?;
///     Ok(())
/// }
/// ```
///
/// # Errors
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) where the system forbids it,
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if it takes a user namespace and there are other
/// threads already.
pub fn enter_private_namespace() -> io::Result<()> {
    // SAFETY: plain system calls.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    match unshare(libc::CLONE_NEWNET) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET).map_err(explain)?;
            fs::write("/proc/self/setgroups", "deny").or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()), // Older than Linux 3.19.
                _ => Err(explain(error)),
            })?;
            fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(explain)?;
            fs::write("/proc/self/gid_map", format!("0 {group} 1")).map_err(explain)?;
        }
        result => result?,
    }
    set_loopback_up()
}

fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: a plain system call. It concerns the calling thread, and nothing in this process
    // relies on threads sharing a network.
    check(unsafe { libc::unshare(flags) })
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set_loopback_up() -> io::Result<()> {
    RtNetlink::new()?.set_link(LOOPBACK, None, None, true)
}

/// Whether the file stands for a namespace, and one of this kind.
fn is_network_namespace(file: &File) -> bool {
    // SAFETY: a request without an argument, on a descriptor that we hold.
    unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) == libc::CLONE_NEWNET }
}

/// Says how to get what the system refused.
fn explain(error: io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::InvalidInput => {
            "a private network namespace without privileges can only be entered before the first \
             thread is started"
        }
        _ => {
            "a private network namespace is forbidden here: run as root, or allow unprivileged \
             user namespaces (sysctl user.max_user_namespaces, \
             kernel.apparmor_restrict_unprivileged_userns=0)"
        }
    };
    let kind = match error.kind() {
        io::ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::PermissionDenied,
    };
    io::Error::new(kind, format!("{text} ({error})"))
}

/// Says what it takes to make a namespace or to enter one.
fn explain_capability(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "network namespaces take CAP_SYS_ADMIN: run as root, or in a user namespace of your \
             own (enter_private_namespace, or unshare -rn)",
        ),
        _ => error,
    }
}

/// A network namespace. It lives as long as something refers to it: this handle and its clones, a
/// thread in it, a device.
///
/// ```no_run
/// use std::net::TcpListener;
/// use synack::device::netns::NetNs;
///
/// # fn example() -> std::io::Result<()> {
/// let namespace = NetNs::new()?;
/// // A listener on a loopback interface that nobody else has.
/// let listener = namespace.run(|| TcpListener::bind("127.0.0.1:80"))??;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct NetNs(Arc<OwnedFd>);

impl NetNs {
    /// A new namespace, with nothing in it but the loopback interface, which is up.
    ///
    /// # Errors
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) without `CAP_SYS_ADMIN`, which a
    /// process has after [`enter_private_namespace`].
    pub fn new() -> io::Result<Self> {
        in_new_thread(|| {
            unshare(libc::CLONE_NEWNET).map_err(explain_capability)?;
            set_loopback_up()?;
            Self::current()
        })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// Where there is no `/proc`.
    pub fn current() -> io::Result<Self> {
        File::open(CURRENT).map(|file| Self::from(OwnedFd::from(file)))
    }

    /// A namespace by its name for `ip netns`, or by a path such as `/proc/1234/ns/net`.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound): there is none of that name.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput): there is something else.
    pub fn open(name: impl AsRef<Path>) -> io::Result<Self> {
        let path = Path::new(NAMED).join(name); // An absolute path stays as it is.
        match File::open(&path) {
            Ok(file) if is_network_namespace(&file) => Ok(Self::from(OwnedFd::from(file))),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is no network namespace", path.display()),
            )),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("cannot open network namespace {}: {error}", path.display()),
            )),
        }
    }

    /// Runs `f` on a thread in the namespace and waits for it.
    ///
    /// # Errors
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied): to enter it takes `CAP_SYS_ADMIN`.
    ///
    /// # Panics
    /// If `f` panics.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_new_thread(|| self.enter().map(|()| f()))
    }

    /// Starts a thread in the namespace. Sockets stay in the namespace in which they were made, so
    /// they may be passed out of it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        // A thread begins in the namespace of the one that starts it.
        in_new_thread(|| {
            self.enter()?;
            thread::Builder::new().name("netns".to_owned()).spawn(f)
        })
    }

    /// Moves the calling thread into the namespace.
    fn enter(&self) -> io::Result<()> {
        // SAFETY: a plain system call on a descriptor that lives during it.
        check(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) })
            .map_err(explain_capability)
    }
}

impl From<OwnedFd> for NetNs {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `f` on a thread of its own, whose namespace it may change.
fn in_new_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, f)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_namespace_is_a_network_of_its_own_with_loopback() {
        let namespace = match NetNs::new() {
            Ok(namespace) => namespace,
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let bind = || TcpListener::bind("127.0.0.1:7");
        let inside = namespace.run(bind).unwrap().unwrap();
        namespace.run(bind).unwrap().unwrap_err();
        let other = NetNs::new().unwrap();
        let outside = other.spawn(bind).unwrap().join().unwrap().unwrap();
        drop((inside, outside));
        let reaches = |to: &'static str| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).is_ok()
        };
        assert!(namespace.run(|| reaches("127.0.0.1:9")).unwrap());
        assert!(!namespace.run(|| reaches("192.0.2.1:9")).unwrap());
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named_in_the_error() {
        let error = NetNs::open("no-such-namespace").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/run/netns/no-such-namespace"));
        NetNs::open("/proc/self/ns/net").unwrap();
        // A directory, a file, and a namespace of another kind.
        for other in ["/", "/proc/self/stat", "/proc/self/ns/mnt"] {
            let error = NetNs::open(other).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{other}");
            assert!(error.to_string().contains(other), "{error}");
        }
    }
}
