//! A place to try synack against Linux: a namespace, a TUN in it, a stack behind that.

use std::{
    env, fmt,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    process::{self, Command},
    time::Duration,
};

use synack::{
    Config, Stack,
    device::{Tun, capture, netns::NetNs},
    info::{Counters, SocketInfo, State, TimerKind},
    net::{TcpListener, TcpStream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net as linux, runtime,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// No test takes nearly as long, except one that hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Set for tests that have begun anew as root of a user namespace.
const INSIDE: &str = "SYNACK_KERNEL_TEST_INSIDE";

/// Where to put, as pcapng, what goes over the TUN. For a look at one test.
const CAPTURE: &str = "SYNACK_KERNEL_TEST_CAPTURE";

/// The interface.
pub(crate) const TUN: &str = "syn0";

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The stack's address.
    pub(crate) fn ours(self, port: u16) -> SocketAddr {
        let ip: IpAddr = match self {
            Self::V4 => [10, 7, 0, 2].into(),
            Self::V6 => [0xfd07, 0, 0, 0, 0, 0, 0, 2].into(),
        };
        (ip, port).into()
    }

    /// Linux's address: that of the TUN, or behind a router that of the far end.
    pub(crate) fn linux(self, routed: bool, port: u16) -> SocketAddr {
        let ip: IpAddr = match (self, routed) {
            (Self::V4, false) => [10, 7, 0, 1].into(),
            (Self::V4, true) => [10, 8, 0, 1].into(),
            (Self::V6, false) => [0xfd07, 0, 0, 0, 0, 0, 0, 1].into(),
            (Self::V6, true) => [0xfd08, 0, 0, 0, 0, 0, 0, 1].into(),
        };
        (ip, port).into()
    }
}

/// What a lab is to be like.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) mtu: usize,
    pub(crate) offload: bool,
    pub(crate) ipv6: bool,
    /// Linux's sockets are not where the TUN is, but one hop behind it.
    pub(crate) routed: bool,
    pub(crate) config: Config,
}

impl Default for Setup {
    fn default() -> Self {
        let mut config = Config::default();
        config.time_wait(Duration::from_millis(500));
        Self {
            mtu: 1500,
            offload: true,
            ipv6: true,
            routed: false,
            config,
        }
    }
}

impl Setup {
    pub(crate) fn config(change: impl FnOnce(&mut Config)) -> Self {
        let mut setup = Self::default();
        change(&mut setup.config);
        setup
    }
}

pub(crate) struct Lab {
    pub(crate) stack: Stack,
    pub(crate) routed: bool,
    /// Where the TUN is.
    router: NetNs,
}

/// Runs a test on a runtime, all threads of which are in a namespace of their own.
pub(crate) fn in_lab<F>(setup: Setup, test: F)
where
    F: AsyncFnOnce(&Lab) + Send,
{
    let tools = ["ip -V", "nft -v"].into_iter().try_for_each(run);
    match tools.and_then(|()| NetNs::new()) {
        Ok(namespace) => namespace.run(|| in_namespace(setup, test)).unwrap(),
        Err(error)
            if error.kind() == ErrorKind::PermissionDenied && env::var_os(INSIDE).is_none() =>
        {
            again_as_root(&error);
        }
        Err(error) => skip(&error),
    }
}

fn in_namespace<F: AsyncFnOnce(&Lab)>(setup: Setup, test: F) {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let lab = match Lab::new(setup) {
            Ok(lab) => lab,
            // No /dev/net/tun, or not for us.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::NotFound
                ) =>
            {
                return skip(&error);
            }
            Err(error) => panic!("{error}"),
        };
        if timeout(LIMIT, test(&lab)).await.is_err() {
            panic!("hangs, with {:#?}", lab.view().await);
        }
        lab.stack.shutdown(Duration::ZERO).await;
    });
    runtime.shutdown_background();
}

fn skip(error: &io::Error) {
    assert!(env::var_os("CI").is_none(), "cannot run: {error}");
    eprintln!("skipped: {error}");
}

/// Without privileges: begins all tests anew, in a process that is root of a user namespace. Only
/// one with a single thread can enter such, so not this one.
fn again_as_root(reason: &io::Error) {
    if run("unshare -r -n true").is_err() {
        return skip(reason);
    }
    let error = Command::new("unshare")
        .args(["-r", "-n"])
        .arg(env::current_exe().unwrap())
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    panic!("unshare: {error}");
}

/// Runs a command whose arguments have no spaces in them.
pub(crate) fn run(command: &str) -> io::Result<()> {
    let mut words = command.split(' ');
    let mut process = Command::new(words.next().unwrap());
    // Not all users have the directories of administrators in their path.
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = process.args(words).env("PATH", path).output();
    let error = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => error,
    };
    Err(io::Error::new(
        error.kind(),
        format!("`{command}`: {error}"),
    ))
}

/// Shown when a test hangs.
#[derive(Debug)]
#[expect(dead_code, reason = "for Debug")]
struct View {
    sockets: Option<Vec<SocketInfo>>,
    counters: Vec<(&'static str, u64)>,
}

impl Lab {
    fn new(setup: Setup) -> io::Result<Self> {
        let here = NetNs::current()?;
        let router = if setup.routed {
            behind_a_router(&here)?
        } else {
            here
        };
        let mut builder = Tun::builder()
            .name(TUN)
            .mtu(setup.mtu)
            .offload(setup.offload)
            .netns(router.clone());
        let mut stack = Stack::builder().config(setup.config);
        let versions = if setup.ipv6 {
            &Ip::BOTH[..]
        } else {
            &Ip::BOTH[..1]
        };
        for ip in versions {
            let net = |addr: SocketAddr| {
                format!("{}/{}", addr.ip(), if addr.is_ipv4() { 24 } else { 64 })
            };
            let parse = |net: String| net.parse().map_err(io::Error::other);
            builder = builder.address(parse(net(ip.linux(false, 0)))?);
            stack = stack.address(parse(net(ip.ours(0)))?);
        }
        let tun = builder.build()?;
        assert_eq!(tun.is_offloading(), setup.offload);
        if !setup.ipv6 {
            // Then the kernel says nothing of its own accord either.
            router.run(|| run(&format!("sysctl -q net.ipv6.conf.{TUN}.disable_ipv6=1")))??;
        }
        let stack = match env::var_os(CAPTURE) {
            Some(path) => stack.spawn(capture::to_file(tun, path)?)?,
            None => stack.spawn(tun)?,
        };
        Ok(Self {
            stack,
            routed: setup.routed,
            router,
        })
    }

    pub(crate) fn linux_addr(&self, ip: Ip, port: u16) -> SocketAddr {
        ip.linux(self.routed, port)
    }

    /// A listener of ours.
    pub(crate) async fn listen(&self, ip: Ip) -> TcpListener {
        self.stack.listen(ip.ours(0)).await.unwrap()
    }

    /// A listener of Linux's.
    pub(crate) async fn linux_listen(&self, ip: Ip) -> linux::TcpListener {
        linux::TcpListener::bind(self.linux_addr(ip, 0))
            .await
            .unwrap()
    }

    /// A connection that Linux has opened.
    pub(crate) async fn pair(&self, ip: Ip) -> (linux::TcpStream, TcpStream) {
        let listener = self.listen(ip).await;
        let theirs = linux::TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (ours, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, theirs.local_addr().unwrap());
        (theirs, ours)
    }

    /// A connection that we have opened.
    pub(crate) async fn pair_opened_by_us(&self, ip: Ip) -> (linux::TcpStream, TcpStream) {
        let listener = self.linux_listen(ip).await;
        let ours = self
            .stack
            .connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (theirs, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, ours.local_addr().unwrap());
        (theirs, ours)
    }

    /// Runs a command where the TUN is.
    pub(crate) fn run(&self, command: &str) {
        self.router.run(|| run(command)).unwrap().unwrap();
    }

    /// Changes the packet filter where the TUN is. It has a chain `input` for what comes from the
    /// stack and one `output` for what goes to it.
    pub(crate) fn filter(&self, commands: &str) {
        let script = format!(
            "add table inet lab
             add chain inet lab input {{ type filter hook prerouting priority -300; }}
             add chain inet lab output {{ type filter hook postrouting priority 300; }}
             {commands}"
        );
        let file = env::temp_dir().join(format!(
            "synack-{}-{:?}",
            process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&file, script).unwrap();
        self.run(&format!("nft -f {}", file.display()));
        std::fs::remove_file(file).unwrap();
    }

    /// Takes away what [`filter`](Self::filter) did.
    pub(crate) fn filter_nothing(&self) {
        self.run("nft flush ruleset");
    }

    /// What a counter of the packet filter has counted.
    pub(crate) fn filtered(&self, counter: &str) -> u64 {
        let list = || {
            Command::new("nft")
                .args(["list", "counter", "inet", "lab", counter])
                .output()
        };
        let text = self.router.run(list).unwrap().unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        let mut words = text
            .split_whitespace()
            .skip_while(|word| *word != "packets");
        words
            .nth(1)
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{text}"))
    }

    pub(crate) async fn counters(&self) -> Counters {
        self.stack.counters().await.unwrap()
    }

    /// All but listeners.
    pub(crate) async fn connections(&self) -> Vec<SocketInfo> {
        let mut sockets = self.stack.sockets().await.unwrap();
        sockets.retain(|socket| socket.state != State::Listen);
        sockets
    }

    /// Waits until what our end of a connection looks like is `right`.
    pub(crate) async fn until(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        right: impl Fn(&SocketInfo) -> bool,
    ) {
        self.until_sockets(|sockets| {
            let of = |socket: &&SocketInfo| socket.local == local && socket.peer == Some(peer);
            sockets.iter().find(of).is_some_and(&right)
        })
        .await;
    }

    /// Waits until there is nothing but listeners.
    pub(crate) async fn until_gone(&self) {
        self.until_sockets(|sockets| sockets.iter().all(|socket| socket.state == State::Listen))
            .await;
    }

    pub(crate) async fn until_sockets(&self, right: impl Fn(&[SocketInfo]) -> bool) {
        while !right(&self.stack.sockets().await.unwrap()) {
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn view(&self) -> View {
        let ask = async {
            (
                self.stack.sockets().await.ok(),
                self.stack.counters().await.ok(),
            )
        };
        let (mut sockets, counters) = timeout(Duration::from_secs(5), ask)
            .await
            .unwrap_or_default();
        sockets.iter_mut().for_each(|sockets| sockets.truncate(20));
        let counters = counters.unwrap_or_default();
        let counters = counters.iter().filter(|(_, count)| *count > 0).collect();
        View { sockets, counters }
    }

    /// A listener whose connections get back what they send.
    pub(crate) async fn echo(&self, ip: Ip) -> SocketAddr {
        let listener = self.listen(ip).await;
        let addr = listener.local_addr().unwrap();
        serve(listener);
        addr
    }

    /// Someone who must not be disturbed by whatever happens beside.
    pub(crate) async fn witness(&self) -> Witness {
        let mut stream = linux::TcpStream::connect(self.echo(Ip::V4).await)
            .await
            .unwrap();
        let (sender, rounds) = watch::channel(0_u64);
        let task = tokio::spawn(async move {
            loop {
                let message = [*sender.borrow() as u8; 200];
                let mut back = [0; 200];
                stream.write_all(&message).await.unwrap();
                stream.read_exact(&mut back).await.unwrap();
                assert_eq!(back, message);
                sender.send_modify(|rounds| *rounds += 1);
                sleep(Duration::from_millis(1)).await;
            }
        });
        Witness { rounds, task }
    }
}

/// Accepts from now on, and echoes.
pub(crate) fn serve(listener: TcpListener) {
    tokio::spawn(async move {
        // Until the stack is shut down.
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
}

/// Sends back what comes until the peer has closed. A peer that resets is no concern of a server's.
pub(crate) async fn echo(mut stream: TcpStream) {
    let mut chunk = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut chunk).await {
        if stream.write_all(&chunk[..len]).await.is_err() {
            return;
        }
    }
}

/// An echo that goes on for ever: see [`Lab::witness`].
pub(crate) struct Witness {
    rounds: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Witness {
    /// Waits until it has seen more round trips. Hangs, or panics, if it has been disturbed.
    pub(crate) async fn goes_on(&mut self) {
        let target = *self.rounds.borrow() + 20;
        let seen = self.rounds.wait_for(|rounds| *rounds >= target).await;
        seen.expect("the connection beside failed");
    }

    /// Does so, and stops it.
    pub(crate) async fn end(mut self) {
        self.goes_on().await;
        self.task.abort();
    }
}

/// Whether the peer's window is closed.
pub(crate) fn is_probing(socket: &SocketInfo) -> bool {
    socket
        .timer
        .is_some_and(|(kind, _)| kind == TimerKind::ZeroWindowProbe)
}

/// The kind of error that something came to.
#[track_caller]
pub(crate) fn kind<T: fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// The namespace of a router between here and the stack.
fn behind_a_router(here: &NetNs) -> io::Result<NetNs> {
    let router = NetNs::new()?;
    let there = format!("/proc/{}/fd/{}", process::id(), router.as_fd().as_raw_fd());
    let commands = |namespace: &NetNs, commands: &[&str]| -> io::Result<()> {
        namespace.run(|| commands.iter().try_for_each(|command| run(command)))?
    };
    // Of a size that no path through here is limited by.
    run(&format!(
        "ip link add far mtu 65535 type veth peer name near mtu 65535 netns {there}"
    ))?;
    commands(
        here,
        &[
            "ip address add 10.8.0.1/24 dev far",
            "ip address add fd08::1/64 dev far nodad",
            "ip link set far up",
        ],
    )?;
    commands(
        &router,
        &[
            "sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            "ip address add 10.8.0.2/24 dev near",
            "ip address add fd08::2/64 dev near nodad",
            "ip link set near up",
        ],
    )?;
    commands(
        here,
        &[
            "ip route add 10.7.0.0/24 via 10.8.0.2",
            "ip route add fd07::/64 via fd08::2",
        ],
    )?;
    Ok(router)
}
