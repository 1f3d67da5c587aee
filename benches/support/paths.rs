//! The paths on which stacks are compared, and the table of Linux and synack on them.

use std::{io, thread, time::Duration};

use synack::{
    config::Congestion,
    device::link::{GilbertElliott, Impairment, QueueLimit},
};

use crate::wan::{self, Outcome, Run, Side};

/// A path by its name.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) forward: Impairment,
    pub(crate) backward: Impairment,
    pub(crate) outage: Option<Outage>,
    /// For how long a stream is sent; for how long by algorithms that take every loss for
    /// congestion, which need time to meet enough of them and little of the processor.
    time: u64,
    lossy_time: Option<u64>,
    /// Slow enough for all runs to be at once; by algorithms that take every loss for congestion.
    slow: bool,
    lossy_slow: bool,
    /// As many times the runs, where it is a matter of chance when slow start ends, and whether it
    /// overflows the queue: then a run is one of two kinds, and all that tells is the mean of many.
    more: u64,
    /// How many runs are at once, if not by what else is said here.
    at_once: Option<usize>,
    /// Fast enough to need the processors for itself.
    alone: bool,
    /// As fast as the ends are.
    unlimited: bool,
}

/// When the link goes down, and the length of a run after it is up again.
///
/// A sender tries the path again after times that double, so from the end of an outage it takes
/// between nothing and as long as the outage was until it goes on: which of these is chance, and
/// where every run's outage is as long, all runs have the same luck. So the lengths are spread evenly
/// over one doubling, from 7 to 14 s; their mean is 10 s. What follows is longer than any of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    after: Duration,
    then: Duration,
}

impl Outage {
    /// How long the one of run `run` of `runs` is.
    fn length(run: u64, runs: u64) -> Duration {
        const SHORTEST: f64 = 6.93;
        let part = (run as f64 - 0.5) / runs as f64;
        Duration::from_secs_f64(SHORTEST * part.exp2())
    }
}

const MS: Duration = Duration::from_millis(1);

/// Half of `rtt` in each direction, and a drop-tail queue of one bandwidth-delay product.
fn wire(mbit: u64, rtt: Duration) -> Impairment {
    let bdp = mbit as f64 * 1e6 / 8.0 * rtt.as_secs_f64();
    Impairment::new()
        .delay(rtt / 2)
        .rate(mbit * 1_000_000)
        .queue(QueueLimit::Bytes((bdp as usize).max(30_000)))
}

fn path(
    name: &'static str,
    wire: Impairment,
    forward: impl FnOnce(Impairment) -> Impairment,
) -> Path {
    Path {
        name,
        forward: forward(wire.clone()),
        backward: wire,
        outage: None,
        time: 5,
        lossy_time: None,
        slow: false,
        lossy_slow: false,
        more: 1,
        at_once: None,
        alone: false,
        unlimited: false,
    }
}

impl Path {
    fn lasting(self, time: u64) -> Self {
        Self { time, ..self }
    }

    fn lossy(self, time: u64) -> Self {
        Self {
            lossy_time: Some(time),
            lossy_slow: true,
            ..self
        }
    }

    /// Not slow enough for all runs to be at once, but for those of one seed.
    fn lossy_by_seeds(self, time: u64) -> Self {
        Self {
            lossy_slow: false,
            ..self.lossy(time)
        }
    }

    fn times(self, more: u64) -> Self {
        Self { more, ..self }
    }

    /// Only so many runs at once: what holds the machine up ends slow start early in some of them, as
    /// if something had been lost.
    fn at_once(self, runs: usize) -> Self {
        Self {
            at_once: Some(runs),
            ..self
        }
    }

    /// Goes down after `after` seconds, for 10 s in the mean; then the run lasts `then` seconds more.
    fn outage(self, after: u64, then: u64) -> Self {
        let time = after + 10 + then;
        let [after, then] = [after, then].map(Duration::from_secs);
        Self {
            outage: Some(Outage { after, then }),
            time,
            ..self
        }
    }

    fn slow(self, time: u64) -> Self {
        Self {
            time,
            slow: true,
            ..self
        }
    }

    fn unlimited(self) -> Self {
        Self {
            unlimited: true,
            ..self.alone()
        }
    }

    fn alone(self) -> Self {
        Self {
            alone: true,
            ..self.lasting(2)
        }
    }
}

fn m100() -> Impairment {
    wire(100, 50 * MS)
}

/// The grid: rates, delays, losses, and what else goes wrong.
pub(crate) fn grid() -> Vec<Path> {
    let g1 = || wire(1000, 10 * MS);
    vec![
        path("100M 50ms", m100(), |p| p),
        path("100M 50ms 0.1%", m100(), |p| p.loss(0.001)).lossy(15),
        path("100M 50ms 1%", m100(), |p| p.loss(0.01)).lossy(30),
        path("100M 50ms 3%", m100(), |p| p.loss(0.03)).lossy(75),
        path("1G 10ms", g1(), |p| p).alone(),
        path("1G 10ms 0.1%", g1(), |p| p.loss(0.001))
            .alone()
            .lossy_by_seeds(10)
            .times(2),
        path("1G 10ms 1%", g1(), |p| p.loss(0.01))
            .alone()
            .lossy(30)
            .times(2),
        path("20M 66ms, 1% late", wire(20, 66 * MS), |p| {
            p.reorder(0.01, 4 * MS)
        })
        .slow(20)
        .times(2),
        path("100M 50ms, 5% late", m100(), |p| p.reorder(0.05, 20 * MS))
            .lasting(3)
            .times(4)
            .at_once(2),
        path("100M 50ms, bursts", m100(), |p| {
            p.burst_loss(GilbertElliott::new(0.001, 0.3))
        })
        .lossy(15),
        path("1ms", Impairment::new().delay(MS / 2), |p| p).unlimited(),
        path("50M 200ms", wire(50, 200 * MS), |p| p).lasting(8),
        path(
            "100M 50ms q10",
            m100().queue(QueueLimit::Packets(10)),
            |p| p,
        )
        .lossy(20),
        path("10M 50ms, 10 s out", wire(10, 50 * MS), |p| p)
            .outage(14, 16)
            .times(5)
            .at_once(30),
    ]
}

/// Sender first.
const ENDS: [(Side, Side); 4] = [
    (Side::Linux, Side::Linux),
    (Side::Synack, Side::Linux),
    (Side::Linux, Side::Synack),
    (Side::Synack, Side::Synack),
];

/// What a path made of one combination of ends: means, and the median of short transfers.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    /// Mbit/s.
    goodput: f64,
    /// What was sent again, in percent of what arrived, and what ten segments come to: so much more
    /// or less is no difference.
    again: f64,
    little: f64,
    /// Milliseconds until 100 KB had arrived over a connection of their own.
    small: f64,
    /// Milliseconds until 10 MB of the stream had.
    large: f64,
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    sum / count
}

/// Runs all of `jobs`, at once or one after the other.
fn each<T: Send, J: Sync>(
    jobs: &[J],
    at_once: bool,
    run: impl Fn(&J) -> io::Result<T> + Sync,
) -> io::Result<Vec<T>> {
    if !at_once {
        return jobs.iter().map(run).collect();
    }
    thread::scope(|scope| {
        let running: Vec<_> = jobs.iter().map(|job| scope.spawn(|| run(job))).collect();
        running
            .into_iter()
            .map(|run| run.join().map_err(|_| io::Error::other("a run panicked"))?)
            .collect()
    })
}

impl Path {
    fn run(
        &self,
        (sender, receiver): (Side, Side),
        congestion: Congestion,
        seed: u64,
        outage: Duration,
    ) -> Run {
        Run {
            sender,
            receiver,
            congestion,
            forward: self.forward.clone(),
            backward: self.backward.clone(),
            outage: self.outage.map(|at| (at.after, outage)),
            pauses: !self.unlimited,
            seed,
        }
    }

    /// The figures of the four combinations of ends, of `runs` runs or as many times more.
    fn compare(&self, congestion: Congestion, runs: u64) -> io::Result<[Figures; 4]> {
        let all = runs * self.more;
        let jobs: Vec<_> = (1..=all)
            .flat_map(|run| ENDS.map(|ends| (ends, run)))
            .collect();
        let run = |(ends, run): &((Side, Side), u64)| {
            self.run(*ends, congestion, run * 7, Outage::length(*run, all))
        };
        let at_once = runs as usize * ENDS.len();
        // Short transfers know nothing of an outage.
        let short = match self.outage {
            Some(_) => &jobs[..at_once],
            None => &jobs[..],
        };
        let mut small = Vec::new();
        for jobs in short.chunks(at_once) {
            small.extend(each(jobs, !self.alone, |job| {
                run(job).transfers(100_000, 20)
            })?);
        }
        let thin = self.lossy_time.filter(|_| congestion != Congestion::Bbr);
        let time = Duration::from_secs(thin.unwrap_or(self.time));
        let mut streams = Vec::new();
        let slow = self.slow || thin.is_some() && self.lossy_slow;
        let together = if slow { at_once } else { ENDS.len() };
        for jobs in jobs.chunks(self.at_once.unwrap_or(together)) {
            let at_once = thin.is_some() || !self.alone;
            streams.extend(each(jobs, at_once, |job| {
                let lasts = |at: Outage| at.after + Outage::length(job.1, all) + at.then;
                run(job).stream(self.outage.map_or(time, lasts))
            })?);
        }
        Ok(std::array::from_fn(|at| {
            let of = |value: &dyn Fn(&Outcome) -> f64| {
                mean(streams.iter().skip(at).step_by(ENDS.len()).map(value))
            };
            let small = small.iter().skip(at).step_by(ENDS.len()).flatten();
            let percent = 100.0 / of(&|run| run.bytes).max(1.0);
            Figures {
                goodput: of(&|run| run.goodput / 1e6),
                again: of(&|run| run.retransmitted as f64) * percent,
                little: 15_000.0 * percent,
                small: median(small.map(|time| time.as_secs_f64() * 1e3)),
                // A run that did not get so far would have taken longer than it was given.
                large: of(&|run| run.large.unwrap_or(time).as_secs_f64() * 1e3),
            }
        }))
    }
}

/// What is asked of a figure, as a multiple of Linux's.
type Holds = fn(f64) -> bool;

/// Ratios of synack to Linux as the sender, by which all paths are judged together.
#[derive(Default)]
struct Verdicts {
    goodput: Vec<f64>,
    missed: Vec<String>,
}

impl Verdicts {
    /// Prints one line of a path: four figures, and the three with synack in it over Linux's own.
    fn line(&mut self, name: &str, what: &str, figures: [f64; 4], least: f64, holds: Holds) {
        print!("  {what:14}");
        figures.iter().for_each(|figure| print!(" {figure:>9.2}"));
        print!("  ");
        for (figure, of) in figures[1..].iter().zip(["S-L", "L-S", "S-S"]) {
            let ratio = (figure + least) / (figures[0] + least);
            let is_ours = of != "L-S" || !what.starts_with("sent again");
            let bad = ratio.is_finite() && is_ours && !holds(ratio);
            print!(" {ratio:>6.2}{}", if bad { '!' } else { ' ' });
            if bad {
                self.missed
                    .push(format!("{name}, {of}, {what}: {ratio:.2}"));
            }
            if what.starts_with("goodput") {
                self.goodput.push(ratio);
            }
        }
        println!();
    }

    fn path(&mut self, name: &str, figures: [Figures; 4]) {
        println!("\n{name}");
        let of = |value: fn(&Figures) -> f64| figures.each_ref().map(value);
        self.line(name, "goodput Mbit/s", of(|f| f.goodput), 0.0, |r| {
            r >= 0.95
        });
        // What Linux sends again to us is its own affair: a receiver with room lets it do more.
        let little = figures[0].little;
        self.line(name, "sent again %", of(|f| f.again), little, |r| r <= 1.2);
        self.line(name, "100 KB, ms", of(|f| f.small), 0.0, |r| r <= 1.05);
        self.line(name, "10 MB, ms", of(|f| f.large), 0.0, |r| r <= 1.05);
    }

    fn print(&self) {
        if !self.goodput.is_empty() {
            let least = self.goodput.iter().copied().fold(f64::INFINITY, f64::min);
            let middle = median(self.goodput.iter().copied());
            println!("\ngoodput over Linux's: median {middle:.2}, least {least:.2}");
        }
        println!("{} figures miss what is asked", self.missed.len());
        self.missed.iter().for_each(|missed| println!("  {missed}"));
    }
}

/// What of the table is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Parts of paths' names; `fair` for the bottleneck that is shared. All if there are none.
    pub(crate) paths: Vec<String>,
    pub(crate) algorithms: Vec<Congestion>,
    pub(crate) runs: u64,
}

impl Selection {
    fn has(&self, name: &str) -> bool {
        let is_whole = |part: &str| grid().iter().any(|path| path.name == part);
        let means = |part: &String| name == part || name.contains(part) && !is_whole(part);
        self.paths.is_empty() || self.paths.iter().any(means)
    }
}

/// Prints the table.
pub(crate) fn table(selection: &Selection) -> io::Result<()> {
    println!(
        "Linux (L) and synack (S) on the same link, sender first; {} runs or a multiple.",
        selection.runs
    );
    println!("Asked of synack over L-L: goodput >= 0.95, sent again <= 1.2, times <= 1.05.");
    println!(
        "\n{:16} {:>9} {:>9} {:>9} {:>9}   {:>6}  {:>6}  {:>6}",
        "", "L-L", "S-L", "L-S", "S-S", "S-L", "L-S", "S-S"
    );
    let mut verdicts = Verdicts::default();
    for path in grid().iter().filter(|path| selection.has(path.name)) {
        for &congestion in &selection.algorithms {
            let figures = path.compare(congestion, selection.runs)?;
            verdicts.path(
                &format!("{}, {}", path.name, wan::name(congestion)),
                figures,
            );
        }
    }
    if selection.has("fair") {
        fairness(selection, &mut verdicts)?;
    }
    verdicts.print();
    Ok(())
}

/// A flow of Linux's and one of ours through the same bottleneck.
fn fairness(selection: &Selection, verdicts: &mut Verdicts) -> io::Result<()> {
    println!(
        "\nfair: one bottleneck of 100M 50ms, Mbit/s of a flow of Linux and of synack, Jain's index"
    );
    for &congestion in &selection.algorithms {
        let path = path("fair", m100(), |p| p);
        let seeds: Vec<u64> = (1..=selection.runs).collect();
        let shares = each(&seeds, true, |seed| {
            let ends = (Side::Linux, Side::Linux);
            let run = path.run(ends, congestion, *seed, Duration::ZERO);
            wan::share(&run, Duration::from_secs(25))
        })?;
        let linux = median(shares.iter().map(|share| share[0] / 1e6));
        let synack = median(shares.iter().map(|share| share[1] / 1e6));
        let index = median(
            shares
                .iter()
                .map(|[a, b]| (a + b).powi(2) / (2.0 * (a * a + b * b))),
        );
        println!(
            "  {:14} {linux:>9.2} {synack:>9.2} {index:>9.3}",
            wan::name(congestion)
        );
        if index < 0.9 {
            verdicts
                .missed
                .push(format!("fair, {}: {index:.2}", wan::name(congestion)));
        }
    }
    Ok(())
}
