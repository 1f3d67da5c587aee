//! One table from one run: Linux's client against synack over a TUN, against a program that only
//! pretends to be TCP (what the device allows), and against Linux's own server over a veth pair.
//!
//! ```sh
//! cargo bench --bench tun                    # everything, about three minutes
//! cargo bench --bench tun -- offload sink    # the cases whose names have all of these in them
//! RUNS=5 SECS=2 cargo bench --bench tun      # more and longer runs for each figure
//! ONLY=Synack cargo bench --bench tun        # one of those compared, for a profiler
//! ```
//!
//! The runs of what is compared alternate, and each figure is a median, for the machine may have
//! other things to do. All of it happens in private network namespaces. CPU is that of the whole
//! process, so of both ends. Latencies are measured with both ends on one processor.

mod support;

use std::{env, io, process::ExitCode, str::FromStr, time::Duration};

use ::synack::device::netns;
use support::{
    ceiling::{self, Case, Cores, Load, Wait},
    linux::{self, Veth},
    measure::Sample,
    synack,
};

fn main() -> ExitCode {
    match netns::enter_private_namespace().and_then(|()| Bench::new().run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tun: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    runs: usize,
    duration: Duration,
    /// What the names of cases must have in them.
    words: Vec<String>,
    only: Option<String>,
}

/// One of those that are compared.
#[derive(Clone, Copy, Debug)]
enum Server {
    Synack,
    Ceiling,
    Linux,
}

impl Bench {
    fn new() -> Self {
        Self {
            runs: variable("RUNS").unwrap_or(3),
            duration: Duration::from_secs_f64(variable("SECS").unwrap_or(0.4)),
            words: env::args()
                .skip(1)
                .filter(|word| !word.starts_with('-'))
                .collect(),
            only: variable("ONLY"),
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.words.iter().all(|word| name.contains(word.as_str()))
    }

    fn run(&self) -> io::Result<()> {
        println!(
            "Bulk, MTU 1500: Gbit/s of payload (CPU s/GB, both ends); then what part synack reaches"
        );
        println!(
            "{:34}{:>14}{:>16}{:>16}{:>16}{:>9}{:>9}{:>7}",
            "",
            "synack",
            "ceiling, 1 copy",
            "ceiling, none",
            "Linux, veth",
            "/1 copy",
            "/none",
            "/Linux"
        );
        for offload in [true, false] {
            for connections in [1, 4] {
                for load in [Load::Sink, Load::Source, Load::Both] {
                    Self::tell(self.bulk(offload, connections, load))?;
                }
            }
        }
        println!();
        println!("Latency, both ends on one processor: µs, and what multiple of it synack takes");
        println!(
            "{:26}{:>18}{:>18}{:>18}{:>10}{:>8}",
            "", "synack p50/p99", "ceiling, task", "Linux, veth", "/ceiling", "/Linux"
        );
        for (name, size) in [("1-byte ping-pong", 1), ("1-KiB ping-pong", 1024)] {
            for offload in [true, false] {
                let name = format!("{name}, {}", offload_name(offload));
                Self::tell(self.ping_pong(&name, size, offload))?;
            }
        }
        println!();
        println!("Operations a second, and what part synack reaches");
        println!(
            "{:34}{:>14}{:>14}{:>14}{:>10}{:>8}",
            "", "synack", "ceiling, task", "Linux, veth", "/ceiling", "/Linux"
        );
        for (cores, place) in [(Cores::One, "one processor"), (Cores::Any, "any processor")] {
            for connections in [1, 16] {
                let name = format!("connect-request-close x{connections}, {place}");
                Self::tell(self.operations(&name, cores, connections))?;
            }
        }
        Ok(())
    }

    /// A case that fails on a machine with too much else to do does not end the table. One that is
    /// forbidden is as much as all.
    fn tell(result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                println!("(failed: {error})");
                Ok(())
            }
            result => result,
        }
    }

    fn bulk(&self, offload: bool, connections: usize, load: Load) -> io::Result<()> {
        let what = match load {
            Load::Sink => "sink",
            Load::Source => "source",
            _ => "both",
        };
        let name = |door: &str| format!("{} x{connections} {what}{door}", offload_name(offload));
        let copying = Case {
            load,
            connections,
            offload,
            duration: self.duration,
            copy: true,
            ..Case::default()
        };
        let chunks = Case {
            copy: false,
            ..copying
        };
        let door = if load == Load::Source {
            " write_chunk"
        } else {
            " read_chunk"
        };
        let has_chunks = load != Load::Both;
        let names = [name(""), name(door)];
        if !names.iter().any(|name| self.wants(name)) {
            return Ok(());
        }
        let mut servers = vec![
            (Server::Synack, copying),
            (Server::Ceiling, copying),
            (Server::Ceiling, chunks),
            (Server::Linux, copying),
        ];
        if has_chunks {
            servers.push((Server::Synack, chunks));
        }
        let samples = self.compare(&servers, |sample| sample.bytes_per_sec)?;
        let [_, one_copy, none, linux, ..] = samples[..] else {
            unreachable!("as many as servers")
        };
        let ours = [Some(samples[0]), samples.get(4).copied()];
        for (name, ours) in names.iter().zip(ours) {
            let Some(ours) = ours.filter(|_| self.wants(name)) else {
                continue;
            };
            let rate = |sample: Sample| {
                let gbits = sample.bytes_per_sec * 8e-9;
                format!("{gbits:.1} ({:.2})", sample.cpu_s_per_gb)
            };
            let ratio = |to: Sample| ours.bytes_per_sec / to.bytes_per_sec;
            println!(
                "{name:34}{:>14}{:>16}{:>16}{:>16}{:>9.2}{:>9.2}{:>7.2}",
                rate(ours),
                rate(one_copy),
                rate(none),
                rate(linux),
                ratio(one_copy),
                ratio(none),
                ratio(linux)
            );
        }
        Ok(())
    }

    fn ping_pong(&self, name: &str, size: usize, offload: bool) -> io::Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let case = Case {
            load: Load::PingPong(size),
            offload,
            wait: Wait::Task,
            cores: Cores::One,
            copy: true,
            duration: self.duration,
            ..Case::default()
        };
        let servers = [Server::Synack, Server::Ceiling, Server::Linux].map(|s| (s, case));
        let samples = self.compare(&servers, |sample| sample.p50.as_secs_f64())?;
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let [ours, ceiling, linux] = samples[..] else {
            unreachable!("as many as servers")
        };
        let show = |s: Sample| format!("{:.1}/{:.1}", micros(s.p50), micros(s.p99));
        let ratio = |to: Sample| micros(ours.p50) / micros(to.p50);
        println!(
            "{name:26}{:>18}{:>18}{:>18}{:>10.2}{:>8.2}",
            show(ours),
            show(ceiling),
            show(linux),
            ratio(ceiling),
            ratio(linux)
        );
        Ok(())
    }

    fn operations(&self, name: &str, cores: Cores, connections: usize) -> io::Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let case = Case {
            load: Load::Crr,
            connections,
            wait: Wait::Task,
            cores,
            copy: true,
            duration: self.duration,
            ..Case::default()
        };
        let servers = [Server::Synack, Server::Ceiling, Server::Linux].map(|s| (s, case));
        let samples = self.compare(&servers, |sample| sample.ops)?;
        let [ours, ceiling, linux] = samples[..] else {
            unreachable!("as many as servers")
        };
        println!(
            "{name:34}{:>14.0}{:>14.0}{:>14.0}{:>10.2}{:>8.2}",
            ours.ops,
            ceiling.ops,
            linux.ops,
            ours.ops / ceiling.ops,
            ours.ops / linux.ops
        );
        Ok(())
    }

    /// The medians, by `figure`, of alternating runs.
    fn compare(
        &self,
        servers: &[(Server, Case)],
        figure: impl Fn(&Sample) -> f64,
    ) -> io::Result<Vec<Sample>> {
        let mut samples = vec![Vec::new(); servers.len()];
        for _ in 0..self.runs {
            for (samples, (server, case)) in samples.iter_mut().zip(servers) {
                let name = format!("{server:?}");
                if self.only.as_ref().is_some_and(|only| *only != name) {
                    continue;
                }
                samples.push(match server {
                    Server::Synack => synack::run(case)?,
                    Server::Ceiling => ceiling::run(case)?,
                    Server::Linux => on_linux(case)?,
                });
            }
        }
        let median = |mut samples: Vec<Sample>| {
            samples.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
            samples.get(samples.len() / 2).copied().unwrap_or_default()
        };
        Ok(samples.into_iter().map(median).collect())
    }
}

fn on_linux(case: &Case) -> io::Result<Sample> {
    let veth = Veth::new(case.mtu)?;
    veth.server.run(|| {
        ceiling::place(case.cores, 0)?;
        linux::serve(Veth::SERVER)
    })??;
    veth.client.run(|| {
        ceiling::place(case.cores, 1)?;
        ceiling::measure(case.load, Veth::SERVER, case.connections, case.duration)
    })?
}

fn offload_name(offload: bool) -> &'static str {
    if offload { "offload" } else { "no offload" }
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}
