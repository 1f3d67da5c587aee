//! The paths on which stacks are compared, and the table of Linux and synack on them.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use synack::{
    config::Congestion,
    device::link::{GilbertElliott, Impairment, QueueLimit},
};

use crate::{
    estimate::{Estimate, median},
    wan::{self, Outcome, Run, Side},
};

/// A path by its name.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) forward: Impairment,
    pub(crate) backward: Impairment,
    pub(crate) outage: Option<Outage>,
    /// How streams are run that fill the path, and how those of algorithms that take every loss for
    /// congestion, where it loses.
    full: Plan,
    thin: Option<Plan>,
    /// Fast enough to need the processors for itself.
    alone: bool,
    /// As fast as the ends are.
    unlimited: bool,
}

/// How often a stream is run, for how long, and how many runs are at once.
///
/// Both are a matter of what chance does to the figures: the more it decides, the more runs and the
/// longer. As many are at once as the machine has the time for, which is some 400 Mbit/s in all;
/// where it is held up it ends slow start early in some runs, as if something had been lost.
#[derive(Clone, Copy, Debug)]
struct Plan {
    runs: u64,
    seconds: u64,
    at_once: usize,
}

const fn runs(runs: u64, seconds: u64, at_once: usize) -> Plan {
    Plan {
        runs,
        seconds,
        at_once,
    }
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
    full: Plan,
    wire: Impairment,
    forward: impl FnOnce(Impairment) -> Impairment,
) -> Path {
    Path {
        name,
        forward: forward(wire.clone()),
        backward: wire,
        outage: None,
        full,
        thin: None,
        alone: false,
        unlimited: false,
    }
}

impl Path {
    fn thin(self, thin: Plan) -> Self {
        Self {
            thin: Some(thin),
            ..self
        }
    }

    /// Goes down after `after` seconds, for 10 s in the mean; then the run lasts `then` seconds more.
    fn outage(self, after: u64, then: u64) -> Self {
        let [after, then] = [after, then].map(Duration::from_secs);
        Self {
            outage: Some(Outage { after, then }),
            ..self
        }
    }

    fn alone(self) -> Self {
        Self {
            alone: true,
            ..self
        }
    }

    fn unlimited(self) -> Self {
        Self {
            unlimited: true,
            ..self.alone()
        }
    }

    fn plan(&self, congestion: Congestion) -> Plan {
        let thin = self.thin.filter(|_| congestion != Congestion::Bbr);
        thin.unwrap_or(self.full)
    }
}

fn m100() -> Impairment {
    wire(100, 50 * MS)
}

/// The grid: rates, delays, losses, and what else goes wrong.
pub(crate) fn grid() -> Vec<Path> {
    let g1 = || wire(1000, 10 * MS);
    vec![
        path("100M 50ms", runs(4, 5, 4), m100(), |p| p),
        path("100M 50ms 0.1%", runs(8, 5, 4), m100(), |p| p.loss(0.001)).thin(runs(20, 15, 40)),
        path("100M 50ms 1%", runs(16, 5, 4), m100(), |p| p.loss(0.01)).thin(runs(20, 40, 80)),
        path("100M 50ms 3%", runs(16, 5, 4), m100(), |p| p.loss(0.03)).thin(runs(20, 90, 80)),
        path("1G 10ms", runs(4, 2, 1), g1(), |p| p).alone(),
        path("1G 10ms 0.1%", runs(6, 2, 1), g1(), |p| p.loss(0.001))
            .thin(runs(24, 10, 12))
            .alone(),
        path("1G 10ms 1%", runs(6, 2, 1), g1(), |p| p.loss(0.01))
            .thin(runs(30, 12, 30))
            .alone(),
        path(
            "20M 66ms, 1% late",
            runs(10, 20, 20),
            wire(20, 66 * MS),
            |p| p.reorder(0.01, 4 * MS),
        ),
        path("100M 50ms, 5% late", runs(12, 3, 4), m100(), |p| {
            p.reorder(0.05, 20 * MS)
        })
        .thin(runs(40, 3, 4)),
        path("100M 50ms, bursts", runs(8, 5, 4), m100(), |p| {
            p.burst_loss(GilbertElliott::new(0.001, 0.3))
        })
        .thin(runs(24, 15, 32)),
        path("1ms", runs(3, 2, 1), Impairment::new().delay(MS / 2), |p| p).unlimited(),
        path("50M 200ms", runs(6, 8, 8), wire(50, 200 * MS), |p| p),
        path(
            "100M 50ms q10",
            runs(16, 5, 4),
            m100().queue(QueueLimit::Packets(10)),
            |p| p,
        )
        .thin(runs(12, 20, 16)),
        path(
            "10M 50ms, 10 s out",
            runs(15, 40, 30),
            wire(10, 50 * MS),
            |p| p,
        )
        .outage(14, 16),
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
#[derive(Clone, Debug, Default)]
struct Figures {
    /// Mbit/s.
    goodput: Estimate,
    /// What was sent again, in percent of what arrived, and what ten segments come to: so much more
    /// or less is no difference.
    again: Estimate,
    little: f64,
    /// Milliseconds until 100 KB had arrived over a connection of their own.
    small: Estimate,
    /// Milliseconds until 10 MB of the stream had.
    large: Estimate,
}

/// Runs all of `jobs`, so many at once, and gives what came of them in their order.
fn each<T: Send, J: Sync>(
    jobs: &[J],
    at_once: usize,
    run: impl Fn(&J) -> io::Result<T> + Sync,
) -> io::Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(at) else {
                return io::Result::Ok(done);
            };
            done.push((at, run(job)?));
        }
    };
    let mut done = Vec::new();
    thread::scope(|scope| {
        let count = at_once.clamp(1, jobs.len().max(1));
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            done.extend(
                worker
                    .join()
                    .map_err(|_| io::Error::other("a run panicked"))??,
            );
        }
        io::Result::Ok(())
    })?;
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Short transfers: runs, and transfers in each.
const SHORT: (u64, usize) = (3, 20);

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

    /// The figures of the four combinations of ends, of so many runs if not of as many as planned.
    fn compare(&self, congestion: Congestion, runs: Option<u64>) -> io::Result<[Figures; 4]> {
        let jobs = |runs| -> Vec<_> {
            (1..=runs)
                .flat_map(|run| ENDS.map(|ends| (ends, run)))
                .collect()
        };
        let plan = self.plan(congestion);
        let runs = runs.unwrap_or(plan.runs);
        let run = |(ends, run): &((Side, Side), u64)| {
            self.run(*ends, congestion, run * 7, Outage::length(*run, runs))
        };
        let short = jobs(SHORT.0);
        let at_once = if self.alone { 1 } else { short.len() };
        let small = each(&short, at_once, |job| run(job).transfers(100_000, SHORT.1))?;

        let time = Duration::from_secs(plan.seconds);
        let streams = each(&jobs(runs), plan.at_once, |job| {
            let lasts = |at: Outage| at.after + Outage::length(job.1, runs) + at.then;
            run(job).stream(self.outage.map_or(time, lasts))
        })?;
        Ok(std::array::from_fn(|at| {
            let of = |value: &dyn Fn(&Outcome) -> f64| -> Vec<f64> {
                let mine = streams.iter().skip(at).step_by(ENDS.len());
                mine.map(value).collect()
            };
            let small = small.iter().skip(at).step_by(ENDS.len()).flatten();
            let arrived = of(&|run| run.bytes.max(1.0) / 100.0);
            Figures {
                goodput: Estimate::mean(&of(&|run| run.goodput / 1e6)),
                again: Estimate::ratio(&of(&|run| run.retransmitted as f64), &arrived),
                little: 15_000.0 * arrived.len() as f64 / arrived.iter().sum::<f64>(),
                small: Estimate::exact(median(small.map(|time| time.as_secs_f64() * 1e3))),
                // A run that did not get so far would have taken longer than it was given.
                large: Estimate::mean(&of(&|run| run.large.unwrap_or(time).as_secs_f64() * 1e3)),
            }
        }))
    }
}

/// Ratios of synack to Linux as the sender, by which all paths are judged together.
#[derive(Default)]
struct Verdicts {
    goodput: Vec<f64>,
    missed: Vec<String>,
}

impl Verdicts {
    /// Prints one line of a path: four figures, and the three with synack in it over Linux's own,
    /// each with its standard error. `little` more or less of the figures makes no difference.
    fn line(
        &mut self,
        name: &str,
        what: &str,
        figures: [&Estimate; 4],
        little: f64,
        holds: fn(f64) -> bool,
    ) {
        print!("  {what:14}");
        figures
            .iter()
            .for_each(|figure| print!(" {:>9.2}", figure.value));
        print!("  ");
        let figures = figures.map(|figure| figure.clone().plus(little));
        for (figure, of) in figures[1..].iter().zip(["S-L", "L-S", "S-S"]) {
            let (ratio, error) = figure.over(&figures[0]);
            let is_ours = of != "L-S" || !what.starts_with("sent again");
            let bad = ratio.is_finite() && is_ours && !holds(ratio);
            print!(" {ratio:>6.2}{}", if bad { '!' } else { ' ' });
            match error {
                Some(error) => print!("±{error:<4.2}"),
                None => print!("     "),
            }
            if bad {
                let error = error.map_or(String::new(), |error| format!(" ±{error:.3}"));
                self.missed
                    .push(format!("{name}, {of}, {what}: {ratio:.3}{error}"));
            }
            if what.starts_with("goodput") {
                self.goodput.push(ratio);
            }
        }
        println!();
    }

    fn path(&mut self, name: &str, figures: &[Figures; 4]) {
        println!("\n{name}");
        let of = |value: fn(&Figures) -> &Estimate| figures.each_ref().map(value);
        let at_most = |r| r <= 1.05;
        self.line(name, "goodput Mbit/s", of(|f| &f.goodput), 0.0, |r| {
            r >= 0.95
        });
        // What Linux sends again to us is its own affair: a receiver with room lets it do more.
        let little = figures[0].little;
        self.line(name, "sent again %", of(|f| &f.again), little, |r| r <= 1.2);
        self.line(name, "100 KB, ms", of(|f| &f.small), 0.0, at_most);
        self.line(name, "10 MB, ms", of(|f| &f.large), 0.0, at_most);
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
    /// How many runs, if not as many as are planned for each path.
    pub(crate) runs: Option<u64>,
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
    println!("Linux (L) and synack (S) on the same link, sender first.");
    println!("Asked of synack over L-L: goodput >= 0.95, sent again <= 1.2, times <= 1.05;");
    println!("behind ± is the standard error.");
    println!(
        "\n{:16} {:>9} {:>9} {:>9} {:>9}   {:>6} {:>11} {:>11}",
        "", "L-L", "S-L", "L-S", "S-S", "S-L", "L-S", "S-S"
    );
    let mut verdicts = Verdicts::default();
    for path in grid().iter().filter(|path| selection.has(path.name)) {
        for &congestion in &selection.algorithms {
            let figures = path.compare(congestion, selection.runs)?;
            verdicts.path(
                &format!("{}, {}", path.name, wan::name(congestion)),
                &figures,
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
        let plan = runs(4, 25, 2);
        let path = path("fair", plan, m100(), |p| p);
        let seeds: Vec<u64> = (1..=selection.runs.unwrap_or(plan.runs)).collect();
        let shares = each(&seeds, plan.at_once, |seed| {
            let ends = (Side::Linux, Side::Linux);
            let run = path.run(ends, congestion, *seed, Duration::ZERO);
            wan::share(&run, Duration::from_secs(plan.seconds))
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
