//! Rates, processor time and latencies of one run.

#![expect(unsafe_code, reason = "system calls that std does not have")]

use std::{
    fmt, io, mem,
    time::{Duration, Instant},
};

/// What came out of a run. What does not apply to it is zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Payload bytes a second, both directions together.
    pub(crate) bytes_per_sec: f64,
    /// Processor time of the whole process, so of both ends, in seconds per 10^9 bytes.
    pub(crate) cpu_s_per_gb: f64,
    /// Operations a second.
    pub(crate) ops: f64,
    /// Median time of an operation.
    pub(crate) p50: Duration,
    /// Time that one operation in a hundred exceeds.
    pub(crate) p99: Duration,
    /// Processor time per operation.
    pub(crate) cpu_per_op: Duration,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        if self.ops > 0.0 {
            write!(
                f,
                "{:>9.0} op/s  p50 {:>6.1} µs  p99 {:>6.1} µs  cpu {:>5.1} µs/op",
                self.ops,
                micros(self.p50),
                micros(self.p99),
                micros(self.cpu_per_op)
            )
        } else {
            let gbits = self.bytes_per_sec * 8e-9;
            write!(
                f,
                "{gbits:>6.1} Gbit/s  cpu {:>5.2} s/GB",
                self.cpu_s_per_gb
            )
        }
    }
}

/// Runs of servers that are compared with one another, each once in a round.
pub(crate) struct Rounds {
    /// By server.
    runs: Vec<Vec<Sample>>,
    figure: fn(&Sample) -> f64,
}

/// How two servers compare.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    median: f64,
    /// Half of the interval that the true median is in, 19 times of 20; six rounds tell that.
    error: Option<f64>,
}

impl Rounds {
    /// None yet. The servers are compared by `figure`.
    pub(crate) fn new(servers: usize, figure: fn(&Sample) -> f64) -> Self {
        Self {
            runs: vec![Vec::new(); servers],
            figure,
        }
    }

    pub(crate) fn push(&mut self, server: usize, sample: Sample) {
        self.runs[server].push(sample);
    }

    /// Median of what a server is compared by.
    pub(crate) fn median(&self, server: usize) -> f64 {
        self.median_of(server, self.figure)
    }

    /// Median of another figure of a server; not a number if it did not run.
    pub(crate) fn median_of(&self, server: usize, figure: fn(&Sample) -> f64) -> f64 {
        median(&sorted(self.runs[server].iter().map(figure)))
    }

    /// Median of the rounds' ratios: what slows a whole round down leaves its ratio as it is.
    pub(crate) fn ratio(&self, ours: usize, theirs: usize) -> Ratio {
        let rounds = self.runs[ours].iter().zip(&self.runs[theirs]);
        let ratios =
            sorted(rounds.map(|(ours, theirs)| (self.figure)(ours) / (self.figure)(theirs)));
        Ratio {
            median: median(&ratios),
            error: (ratios.len() >= 6).then(|| {
                let count = ratios.len() as f64;
                // As many of them are below the true median as heads in so many tosses of a coin:
                // standard deviation √count / 2.
                let low = ((count - 1.96 * count.sqrt()) / 2.0) as usize;
                (ratios[ratios.len() - 1 - low] - ratios[low]) / 2.0
            }),
        }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error {
            Some(error) => f.pad(&format!("{:.2} ±{error:.2}", self.median)),
            None => f.pad(&format!("{:.2}", self.median)),
        }
    }
}

/// Takes the time and the processor time from its making on.
pub(crate) struct Meter {
    start: Instant,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            cpu: cpu_time(),
        }
    }

    /// The sample for `bytes` moved since the start.
    pub(crate) fn bytes(&self, bytes: u64) -> Sample {
        Sample {
            bytes_per_sec: bytes as f64 / self.start.elapsed().as_secs_f64(),
            cpu_s_per_gb: (cpu_time() - self.cpu).as_secs_f64() / (bytes as f64 * 1e-9),
            ..Sample::default()
        }
    }

    /// The sample for operations that took `times` each.
    pub(crate) fn operations(&self, mut times: Vec<Duration>) -> Sample {
        let elapsed = self.start.elapsed();
        let cpu = cpu_time() - self.cpu;
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            times.get(index).copied().unwrap_or_default()
        };
        Sample {
            ops: times.len() as f64 / elapsed.as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
            cpu_per_op: cpu / times.len().max(1) as u32,
            ..Sample::default()
        }
    }
}

/// Processor time that this process has taken so far, in user space and in the kernel.
pub(crate) fn cpu_time() -> Duration {
    // SAFETY: all zeros is a value of this plain structure.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: `usage` lives during the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
        .sum()
}

/// Keeps the calling thread, and those that it starts from now on, on one processor.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is as large as is said, and `core` is checked against its size.
    let result = unsafe {
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
