//! A client on Linux's TCP, the same for every server. It runs in the network namespace and on the
//! processors of the thread that calls it.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    linux,
    measure::{Meter, Sample},
};

/// Time before measuring begins: slow start, growing buffers, caches.
const WARM_UP: Duration = Duration::from_millis(150);

/// Bytes of one read or write.
const CHUNK: usize = 256 << 10;

/// Sends to a server that throws away.
pub(crate) fn sink(
    server: SocketAddr,
    connections: usize,
    duration: Duration,
) -> io::Result<Sample> {
    bulk(server, connections, duration, true, false)
}

/// Receives from a server that sends without end.
pub(crate) fn source(
    server: SocketAddr,
    connections: usize,
    duration: Duration,
) -> io::Result<Sample> {
    bulk(server, connections, duration, false, true)
}

/// Sends and receives at once.
pub(crate) fn both(
    server: SocketAddr,
    connections: usize,
    duration: Duration,
) -> io::Result<Sample> {
    bulk(server, connections, duration, true, true)
}

fn bulk(
    server: SocketAddr,
    connections: usize,
    duration: Duration,
    sends: bool,
    receives: bool,
) -> io::Result<Sample> {
    let streams = (0..connections)
        .map(|_| connect(server))
        .collect::<io::Result<Vec<_>>>()?;
    let bytes = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for stream in &streams {
            if sends {
                threads.push(scope.spawn(|| {
                    let chunk = vec![7; CHUNK];
                    repeat(&bytes, &is_over, || (&*stream).write(&chunk))
                }));
            }
            if receives {
                threads.push(scope.spawn(|| {
                    let mut chunk = vec![0; CHUNK];
                    repeat(&bytes, &is_over, || (&*stream).read(&mut chunk))
                }));
            }
        }
        thread::sleep(WARM_UP);
        let before = bytes.load(Ordering::Relaxed);
        let meter = Meter::start();
        thread::sleep(duration);
        let sample = meter.bytes(bytes.load(Ordering::Relaxed) - before);
        is_over.store(true, Ordering::Relaxed);
        for stream in &streams {
            // The peer may have gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in threads {
            thread.join().expect("the thread does not panic")?;
        }
        Ok(sample)
    })
}

/// Does one transfer after the other until it is over, or fails before.
fn repeat(
    bytes: &AtomicU64,
    is_over: &AtomicBool,
    mut transfer: impl FnMut() -> io::Result<usize>,
) -> io::Result<()> {
    loop {
        let result = transfer();
        if is_over.load(Ordering::Relaxed) {
            return Ok(());
        }
        match result? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.fetch_add(count as u64, Ordering::Relaxed),
        };
    }
}

/// Sends `size` bytes and waits for them to come back, over and over.
pub(crate) fn pingpong(
    server: SocketAddr,
    connections: usize,
    duration: Duration,
    size: usize,
) -> io::Result<Sample> {
    let streams = (0..connections)
        .map(|_| connect(server))
        .collect::<io::Result<Vec<_>>>()?;
    operations(streams.len(), duration, |index| {
        let mut stream = &streams[index];
        let mut buffer = vec![7; size];
        move || {
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)
        }
    })
}

/// Connects, sends a byte, receives a byte, closes; so do `connections` threads at a time.
pub(crate) fn crr(
    server: SocketAddr,
    connections: usize,
    duration: Duration,
) -> io::Result<Sample> {
    linux::forget_time_wait()?;
    operations(connections, duration, |_| {
        move || {
            let mut stream = connect(server)?;
            let mut byte = [7];
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)
        }
    })
}

/// Repeats one operation on each of `threads` threads, the first one of which is the caller.
fn operations<F>(
    threads: usize,
    duration: Duration,
    make: impl Fn(usize) -> F + Sync,
) -> io::Result<Sample>
where
    F: FnMut() -> io::Result<()>,
{
    let start = Instant::now() + WARM_UP;
    let run = |index| -> io::Result<(Option<Meter>, Vec<Duration>)> {
        let mut operation = make(index);
        let mut times = Vec::with_capacity(1 << 20);
        let mut meter = None;
        loop {
            let before = Instant::now();
            operation()?;
            let after = Instant::now();
            if before >= start {
                meter.get_or_insert_with(Meter::start);
                times.push(after - before);
            }
            if after > start + duration {
                return Ok((meter, times));
            }
        }
    };
    thread::scope(|scope| {
        let others = (1..threads)
            .map(|index| {
                let run = &run;
                scope.spawn(move || run(index))
            })
            .collect::<Vec<_>>();
        let (meter, mut times) = run(0)?;
        for other in others {
            times.extend(other.join().expect("the thread does not panic")?.1);
        }
        let meter = meter.ok_or_else(|| io::Error::other("not one operation was in time"))?;
        Ok(meter.operations(times))
    })
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    // Before it connects: a socket that began with BBR is paced for ever, whatever it is told later.
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(server),
        socket2::Type::STREAM,
        None,
    )?;
    linux::use_cubic(&socket)?;
    socket.connect(&server.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}
