//! Draws what congestion control does on a bad path, as an SVG.
//!
//! ```text
//! cargo run --release --example cwnd_plot -- bbr "100M 50ms loss 1%" > bbr.svg
//! ```
//!
//! The paths are those of `benches/virtual_path.rs`; without arguments it lists them. Time is virtual, so
//! the picture is the same each time.

#[path = "../benches/support/sim.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod sim;

use std::{fmt::Write, time::Duration};

use sim::{Cell, Sim};
use synack::config::Congestion;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 70.0;

/// The state at one moment.
struct Look {
    at: f64,
    cwnd: f64,
    in_flight: f64,
    rtt: f64,
}

/// Something that happened.
struct Mark {
    at: f64,
    color: &'static str,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let cells = Cell::all();
    let [algorithm, name, ..] = args.as_slice() else {
        eprintln!("usage: cwnd_plot cubic|reno|bbr PATH [SECONDS], where PATH is one of");
        cells.iter().for_each(|cell| eprintln!("  {:?}", cell.name));
        std::process::exit(2);
    };
    let congestion = match algorithm.as_str() {
        "reno" => Congestion::Reno,
        "bbr" => Congestion::Bbr,
        _ => Congestion::Cubic,
    };
    let Some(cell) = cells.iter().find(|cell| cell.name == name) else {
        eprintln!("no path has the name {name:?}");
        std::process::exit(2);
    };
    let seconds = args.get(2).and_then(|arg| arg.parse().ok());
    let time = seconds.map_or(cell.time, Duration::from_secs);

    let (mut looks, mut marks) = (Vec::new(), Vec::new());
    let (mut before, mut timeouts) = ("open", 0);
    let mut next = Duration::ZERO;
    let mut sim = Sim::new(cell, sim::config(congestion), 1);
    let outcome = sim.run(u64::MAX, time, |sim| {
        let Some(info) = sim.info() else { return };
        let at = sim.elapsed().as_secs_f64();
        if info.recovery != before {
            let color = match info.recovery {
                "recovery" => Some("#e0a030"),
                "loss" => Some("#d03030"),
                _ => None,
            };
            timeouts += u32::from(info.recovery == "loss");
            marks.extend(color.map(|color| Mark { at, color }));
            before = info.recovery;
        }
        if sim.elapsed() >= next {
            next = sim.elapsed() + time / 2400;
            looks.push(Look {
                at,
                cwnd: f64::from(info.cwnd) / 1e3,
                in_flight: info.in_flight as f64 / 1e3,
                rtt: info.srtt.unwrap_or_default().as_secs_f64() * 1e3,
            });
        }
    });
    let title = format!(
        "{algorithm} over {name}: {:.1} Mbit/s, {} packets lost, {timeouts} timeouts",
        outcome.megabits(),
        outcome.lost
    );
    print!("{}", draw(&title, time.as_secs_f64(), &looks, &marks));
}

fn draw(title: &str, seconds: f64, looks: &[Look], marks: &[Mark]) -> String {
    let mut svg = String::new();
    let (width, height) = (LEFT + WIDTH + 40.0, TOP + 2.0 * HEIGHT + 120.0);
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"15\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"32\" font-size=\"21\">{}</text>",
        title.replace('&', "&amp;").replace('<', "&lt;")
    );
    let legend = [
        ("#2060c0", "cwnd"),
        ("#40a060", "in flight"),
        ("#8040a0", "SRTT"),
        ("#e0a030", "fast recovery"),
        ("#d03030", "timeout"),
    ];
    for (index, (color, label)) in legend.iter().enumerate() {
        let x = LEFT + 150.0 * index as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"44\" width=\"22\" height=\"5\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"52\">{label}</text>",
            x + 28.0
        );
    }
    let lower = TOP + HEIGHT + 50.0;
    let bytes = [
        (
            "#40a060",
            looks.iter().map(|look| (look.at, look.in_flight)).collect(),
        ),
        (
            "#2060c0",
            looks.iter().map(|look| (look.at, look.cwnd)).collect(),
        ),
    ];
    let rtt = [(
        "#8040a0",
        looks.iter().map(|look| (look.at, look.rtt)).collect(),
    )];
    chart(&mut svg, TOP, "KB", seconds, marks, &bytes);
    chart(&mut svg, lower, "ms", seconds, &[], &rtt);
    svg.push_str("</svg>\n");
    svg
}

/// One diagram, its upper edge at `top`.
fn chart(
    svg: &mut String,
    top: f64,
    unit: &str,
    seconds: f64,
    marks: &[Mark],
    lines: &[(&str, Vec<(f64, f64)>)],
) {
    let points = lines.iter().flat_map(|(_, points)| points);
    let most = points.map(|(_, value)| *value).fold(1.0, f64::max) * 1.05;
    let x = |at: f64| LEFT + at / seconds * WIDTH;
    let y = |value: f64| top + HEIGHT - value / most * HEIGHT;
    for mark in marks {
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{1}\" stroke=\"{2}\" \
             stroke-opacity=\"0.5\"/>",
            x(mark.at),
            top + HEIGHT,
            mark.color
        );
    }
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{1}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{value:.0} {unit}</text>",
            y(value),
            LEFT + WIDTH,
            LEFT - 8.0,
            y(value) + 5.0
        );
    }
    for step in 0..=5 {
        let at = seconds * f64::from(step) / 5.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{at:.1} s</text>",
            x(at),
            top + HEIGHT + 20.0
        );
    }
    for (color, points) in lines {
        let path: Vec<String> = points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\" points=\"{}\"/>",
            path.join(" ")
        );
    }
}
