//! What the filter costs Envoy, beside Envoy's own filters for the same job.
//!
//! `make bench`, or `cargo bench -p ipwarden-e2e --bench filter -- --help`
//!
//! The machine is noisy: what counts is the processor time of the whole Envoy process (from
//! `/proc`, not the clock on the wall), measured in turns within each round, and the ratios
//! within a round. Every measurement checks that all answers were what it claims to measure.

mod contest;
mod native;
mod report;

#[path = "../../../../control-plane/tests/fixtures/mmdb.rs"]
#[allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "written for other tests")]
mod mmdb;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use contest::{Case, Contestant, Data, Setup};

/// The one whose control plane is killed before it is measured.
const RECORDS_HELD: &str = "ipwarden, no control plane";

/// Measures what the filter costs Envoy.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds that count, after one that warms up.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Only these cases (admitted, blocked, blocked-flood, limited-flood, geo-storm).
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Only those whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measure 1 000 to 1 000 000 decisions and 1 to 4 workers, too.
    #[arg(long)]
    scaling: bool,
    /// Measure ipwarden without one of its parts each, too.
    #[arg(long)]
    parts: bool,
    /// Measure what each way between Envoy and the VM costs, too.
    #[arg(long)]
    crossings: bool,
    /// Start all processes anew for each round: where the system lays a process into memory
    /// makes it up to a tenth dearer or cheaper for as long as it lives.
    #[arg(long)]
    fresh: bool,
    /// Measure another build of the module in the same rounds: NAME=FILE.
    #[arg(long = "module", value_parser = named_file)]
    modules: Vec<(String, PathBuf)>,
    /// Writes the figures as JSON.
    #[arg(long)]
    save: Option<PathBuf>,
    /// Compares with figures that were written before.
    #[arg(long)]
    compare: Option<PathBuf>,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE")?;
    let path = std::path::absolute(file).map_err(|error| error.to_string())?;
    if path.is_file() { Ok((name.to_owned(), path)) } else { Err(format!("no file {file}")) }
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}

/// One thread for the load: the other processor is Envoy's.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cases: Vec<Case> = Case::ALL
        .into_iter()
        .filter(|case| {
            arguments.cases.is_empty() || arguments.cases.iter().any(|name| name == case.name())
        })
        .collect();
    let before = arguments.compare.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).expect("the figures to compare with");
        serde_json::from_str(&text).expect("figures as --save writes them")
    });
    let data = Data::make();
    let progress = indicatif::ProgressBar::new((arguments.rounds + 1) as u64)
        .with_message("rounds")
        .with_style(
            indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left")
                .expect("a template"),
        );
    let mut contestants: Vec<Contestant> = Vec::new();
    for round in 0..=arguments.rounds {
        // The first round only warms up; new processes warm up in each.
        if contestants.is_empty() || (arguments.fresh && round > 1) {
            let samples: Vec<_> = contestants.drain(..).map(|ended| ended.samples).collect();
            contestants = start(&arguments, &data).await;
            for (contestant, earlier) in contestants.iter_mut().zip(samples) {
                contestant.samples = earlier;
            }
            measure(&mut contestants, &cases, round, false).await;
        }
        if round > 0 {
            measure(&mut contestants, &cases, round, true).await;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let all_hold = report::print(&contestants, arguments.rounds);
    let figures = report::to_json(&contestants);
    if let Some(before) = before {
        report::compare(&figures, &before);
    }
    if let Some(path) = &arguments.save {
        std::fs::write(path, figures.to_string()).expect("the figures, written");
    }
    if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each in turn; who is first changes with the round.
async fn measure(contestants: &mut [Contestant], cases: &[Case], round: usize, counts: bool) {
    let count = contestants.len().max(1);
    for case in cases {
        for turn in 0..count {
            let Some(contestant) = contestants.get_mut((turn + round) % count) else { continue };
            if contestant.does(*case) {
                contestant.measure(*case, counts).await;
            }
        }
    }
}

/// All that were asked for, ready to be measured.
async fn start(arguments: &Arguments, data: &Data) -> Vec<Contestant> {
    let mut all = start_all(arguments, data).await;
    for contestant in &mut all {
        contestant.warm().await;
        if contestant.name == RECORDS_HELD {
            contestant.system.kill_control_plane().await;
        }
    }
    all
}

async fn start_all(arguments: &Arguments, data: &Data) -> Vec<Contestant> {
    use Case::{Admitted, Blocked, BlockedFlood, GeoStorm, LimitedFlood};
    let mut all = Vec::new();
    let wants = |name: &str| arguments.wants(name);
    if wants("bare Envoy") {
        all.push(Contestant::native("bare Envoy", 1, vec![], false, &[Admitted]).await);
    }
    if wants("empty wasm filter") {
        all.push(Contestant::empty("empty wasm filter", data, &[Admitted]).await);
    }
    let most = [Admitted, Blocked, BlockedFlood, GeoStorm];
    if wants("native") {
        all.push(Contestant::all_native("native", 1, data, &most).await);
        all.push(Contestant::all_native("native, 5/min", 1, data, &[LimitedFlood]).await);
    }
    if wants("native again") {
        all.push(Contestant::all_native("native again", 1, data, &[Admitted]).await);
    }
    if wants("ipwarden 100k") {
        all.push(Contestant::ours("ipwarden 100k", Setup::default(), data, &Case::ALL).await);
    }
    if wants("ipwarden 1M") {
        let setup = Setup { decisions: 1_000_000, ..Setup::default() };
        all.push(Contestant::ours("ipwarden 1M", setup, data, &[Admitted, Blocked]).await);
    }
    if wants(RECORDS_HELD) {
        all.push(Contestant::ours(RECORDS_HELD, Setup::default(), data, &[Admitted]).await);
    }
    for (name, module) in &arguments.modules {
        let setup = Setup { module: Some(module), ..Setup::default() };
        all.push(Contestant::ours(name, setup, data, &Case::ALL).await);
    }
    if arguments.crossings {
        for (number, (name, _)) in native::crossings().iter().enumerate() {
            if !wants(name) {
                continue;
            }
            all.push(Contestant::crossing(number, name, data).await);
        }
    }
    if arguments.parts {
        for part in ["geo", "limits", "control_plane"] {
            let setup = Setup { without: Some(part), ..Setup::default() };
            let name = format!("without {part}");
            if !wants(&name) {
                continue;
            }
            all.push(Contestant::ours(&name, setup, data, &[Admitted]).await);
        }
    }
    if arguments.scaling {
        for decisions in [1_000, 10_000] {
            let name = format!("ipwarden {}k", decisions / 1_000);
            let setup = Setup { decisions, ..Setup::default() };
            all.push(Contestant::ours(&name, setup, data, &[Admitted]).await);
        }
        for workers in [2, 4] {
            let name = format!("native, {workers} workers");
            all.push(Contestant::all_native(&name, workers, data, &[Admitted]).await);
            let name = format!("ipwarden 100k, {workers} workers");
            let setup = Setup { workers, ..Setup::default() };
            all.push(Contestant::ours(&name, setup, data, &[Admitted]).await);
        }
    }
    all
}
