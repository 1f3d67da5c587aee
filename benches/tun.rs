//! One table from one run: Linux's client against synack over a TUN, against a program that only
//! pretends to be TCP (what the device allows), and against Linux's own server over a veth pair.
//!
//! ```sh
//! cargo bench --bench tun                    # everything, about eleven minutes
//! cargo bench --bench tun -- offload sink    # the cases whose names have all of these in them
//! RUNS=31 SECS=1 cargo bench --bench tun     # so many rounds of every case, and longer ones
//! ONLY=Synack cargo bench --bench tun        # one of those compared, for a profiler
//! ```
//!
//! What is compared runs in turn, round by round, and many short rounds tell more than few long
//! ones, for machines change their speed and have other things to do. A figure is the median of its
//! rounds, and a ratio the median of the rounds' ratios; behind ± is how far the true one may be
//! off. One connection that sends or receives in bulk is what is judged, and runs three times as
//! many rounds as the rest. All of it happens in private network namespaces. CPU is that of the
//! whole process, so of both ends. Latencies are measured with both ends on one processor.

mod support;

use std::{env, io, process::ExitCode, str::FromStr, time::Duration};

use ::synack::device::netns;
use support::{
    ceiling::{self, Case, Cores, Load, Wait},
    linux::{self, Veth},
    measure::{Rounds, Sample},
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

/// Rounds of a case.
const ROUNDS: usize = 17;
/// Rounds of a case that is judged: with fewer, its ratio may be off by a tenth, which is more than
/// what there is to tell apart.
const ROUNDS_JUDGED: usize = 51;

struct Bench {
    /// Rounds of every case, if asked for.
    runs: Option<usize>,
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
            runs: variable("RUNS"),
            duration: Duration::from_secs_f64(variable("SECS").unwrap_or(0.1)),
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
            "{:34}{:>14}{:>16}{:>16}{:>16}{:>13}{:>13}{:>13}",
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
            "{:26}{:>18}{:>18}{:>18}{:>13}{:>13}",
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
            "{:34}{:>14}{:>14}{:>14}{:>13}{:>13}",
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
        let is_judged = connections == 1 && load != Load::Both;
        let count = if is_judged { ROUNDS_JUDGED } else { ROUNDS };
        let rounds = self.compare(&servers, count, |sample| sample.bytes_per_sec)?;
        for (name, ours) in names.iter().zip([Some(0), has_chunks.then_some(4)]) {
            let Some(ours) = ours.filter(|_| self.wants(name)) else {
                continue;
            };
            let [rate, one_copy, none, linux] = [ours, 1, 2, 3].map(|server| {
                let gbits = rounds.median(server) * 8e-9;
                let cpu = rounds.median_of(server, |sample| sample.cpu_s_per_gb);
                format!("{gbits:.1} ({cpu:.2})")
            });
            println!(
                "{name:34}{rate:>14}{one_copy:>16}{none:>16}{linux:>16}{:>13}{:>13}{:>13}",
                rounds.ratio(ours, 1),
                rounds.ratio(ours, 2),
                rounds.ratio(ours, 3)
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
        let rounds = self.compare(&servers, ROUNDS, |sample| sample.p50.as_secs_f64())?;
        let [ours, ceiling, linux] = [0, 1, 2].map(|server| {
            let p99 = rounds.median_of(server, |sample| sample.p99.as_secs_f64());
            format!("{:.1}/{:.1}", rounds.median(server) * 1e6, p99 * 1e6)
        });
        println!(
            "{name:26}{ours:>18}{ceiling:>18}{linux:>18}{:>13}{:>13}",
            rounds.ratio(0, 1),
            rounds.ratio(0, 2)
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
        let rounds = self.compare(&servers, ROUNDS, |sample| sample.ops)?;
        let [ours, ceiling, linux] = [0, 1, 2].map(|server| rounds.median(server));
        println!(
            "{name:34}{ours:>14.0}{ceiling:>14.0}{linux:>14.0}{:>13}{:>13}",
            rounds.ratio(0, 1),
            rounds.ratio(0, 2)
        );
        Ok(())
    }

    /// Runs one after the other, and back again, `count` times or as often as is asked for: what one
    /// leaves to be cleaned up is then not always the same one's burden.
    fn compare(
        &self,
        servers: &[(Server, Case)],
        count: usize,
        figure: fn(&Sample) -> f64,
    ) -> io::Result<Rounds> {
        let mut rounds = Rounds::new(servers.len(), figure);
        let last = servers.len() - 1;
        for round in 0..self.runs.unwrap_or(count) {
            for at in 0..servers.len() {
                let index = if round % 2 == 0 { at } else { last - at };
                let (server, case) = &servers[index];
                let name = format!("{server:?}");
                if self.only.as_ref().is_some_and(|only| *only != name) {
                    continue;
                }
                let sample = match server {
                    Server::Synack => synack::run(case)?,
                    Server::Ceiling => ceiling::run(case)?,
                    Server::Linux => on_linux(case)?,
                };
                rounds.push(index, sample);
            }
        }
        Ok(rounds)
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
