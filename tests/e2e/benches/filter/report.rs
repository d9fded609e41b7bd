//! Medians, ratios of one round each, budgets; a table and JSON.

use serde_json::{Value, json};

use crate::contest::{Case, Contestant, Sample};

/// What DESIGN.md §7 allows beside Envoy's own filters.
struct Budget {
    ours: &'static str,
    theirs: &'static str,
    case: Case,
    most: f64,
}

/// The one that the others are compared with.
const OURS: &str = "ipwarden 100k";

const BUDGETS: [Budget; 5] = [
    Budget { ours: "ipwarden 100k", theirs: "native", case: Case::Admitted, most: 1.25 },
    Budget { ours: "ipwarden 1M", theirs: "native", case: Case::Admitted, most: 1.25 },
    Budget { ours: "ipwarden 100k", theirs: "native", case: Case::Blocked, most: 1.1 },
    Budget { ours: "ipwarden 100k", theirs: "native", case: Case::BlockedFlood, most: 1.1 },
    Budget { ours: "ipwarden 100k", theirs: "native, 5/min", case: Case::LimitedFlood, most: 1.1 },
];

/// The middle one; of an even number the upper.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn median_of(samples: &[Sample], what: impl Fn(&Sample) -> f64) -> f64 {
    median(samples.iter().map(what).collect())
}

/// Median of the ratios within each round.
fn ratio(ours: &[Sample], theirs: &[Sample]) -> f64 {
    median(ours.iter().zip(theirs).map(|(one, other)| one.cpu_us / other.cpu_us).collect())
}

/// Every other ipwarden beside the one with everything on: the median of the ratios and the
/// quartiles around it. What lies between two quartiles on either side of 1 is noise.
fn compare_builds(contestants: &[Contestant]) {
    let Some(one) = find(contestants, OURS) else { return };
    for contestant in contestants.iter().filter(|other| other.is_ours && other.name != OURS) {
        for case in Case::ALL {
            let ratios: Vec<f64> = (contestant.of(case).iter().zip(one.of(case)))
                .map(|(other, one)| other.cpu_us / one.cpu_us)
                .collect();
            if !ratios.is_empty() {
                let [low, middle, high] = quartiles(ratios);
                println!(
                    "{:13} {} / {OURS} = {middle:.3} ({low:.3}–{high:.3})",
                    case.name(),
                    contestant.name
                );
            }
        }
    }
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    [1, 2, 3].map(|quarter| values.get(last * quarter / 4).copied().unwrap_or(f64::NAN))
}

fn find<'a>(contestants: &'a [Contestant], name: &str) -> Option<&'a Contestant> {
    contestants.iter().find(|contestant| contestant.name == name)
}

/// Prints all; says whether every budget holds.
pub(crate) fn print(contestants: &[Contestant], rounds: usize) -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "\nProcessor time of the whole Envoy process a request, median (least–most) of {rounds} interleaved rounds;\nratios are medians of the ratios within a round. Load of the machine: {}\n",
        load.trim()
    );
    println!(
        "| {:13} | {:22} | {:>22} | {:>6} | {:>7} | {:>8} | {:>11} | {:>6} |",
        "case", "", "CPU µs", "× bare", "req/s", "p50 µs", "p99 µs", "MiB"
    );
    println!(
        "|---------------|------------------------|------------------------|--------|---------|----------|-------------|--------|"
    );
    for case in Case::ALL {
        for contestant in contestants {
            let samples = contestant.of(case);
            if samples.is_empty() {
                continue;
            }
            let cpu: Vec<f64> = samples.iter().map(|sample| sample.cpu_us).collect();
            let (least, most) = cpu.iter().fold((f64::INFINITY, 0.0f64), |(least, most), &one| {
                (least.min(one), most.max(one))
            });
            let bare = find(contestants, "bare Envoy").map(|bare| bare.of(Case::Admitted));
            let beside_bare = bare.map_or(f64::NAN, |bare| ratio(&samples, &bare));
            println!(
                "| {:13} | {:22} | {:6.2} ({:5.1}–{:6.1}) | {:6.2} | {:7.0} | {:8.0} | {:11.0} | {:6.0} |",
                case.name(),
                contestant.name,
                median(cpu),
                least,
                most,
                beside_bare,
                median_of(&samples, |sample| sample.per_second),
                median_of(&samples, |sample| f64::from(sample.p50_us)),
                median_of(&samples, |sample| f64::from(sample.p99_us)),
                median_of(&samples, |sample| sample.resident_kib as f64 / 1024.0),
            );
        }
    }
    println!();
    if let (Some(one), Some(other)) =
        (find(contestants, "native"), find(contestants, "native again"))
    {
        let noise = ratio(&one.of(Case::Admitted), &other.of(Case::Admitted));
        println!("noise: native / native again = {noise:.3} (admitted)");
    }
    compare_builds(contestants);
    let mut all_hold = true;
    for Budget { ours, theirs, case, most } in BUDGETS {
        let (Some(one), Some(other)) = (find(contestants, ours), find(contestants, theirs)) else {
            continue;
        };
        if one.of(case).is_empty() || other.of(case).is_empty() {
            continue;
        }
        let found = ratio(&one.of(case), &other.of(case));
        let holds = found <= most;
        all_hold &= holds;
        let says = if holds { "holds" } else { "MISSED" };
        println!("{:13} {ours} / {theirs} = {found:.3}, budget {most:.2}: {says}", case.name());
    }
    all_hold
}

/// For [`compare`] and for whoever wants to draw it.
pub(crate) fn to_json(contestants: &[Contestant]) -> Value {
    let rows: Vec<Value> = contestants
        .iter()
        .flat_map(|contestant| {
            Case::ALL.into_iter().filter_map(|case| {
                let samples = contestant.of(case);
                (!samples.is_empty()).then(|| {
                    json!({
                        "case": case.name(),
                        "name": contestant.name,
                        "cpu_us": median_of(&samples, |sample| sample.cpu_us),
                        "rounds_cpu_us": samples.iter().map(|sample| sample.cpu_us).collect::<Vec<_>>(),
                        "per_second": median_of(&samples, |sample| sample.per_second),
                        "p50_us": median_of(&samples, |sample| f64::from(sample.p50_us)),
                        "p99_us": median_of(&samples, |sample| f64::from(sample.p99_us)),
                        "resident_kib": median_of(&samples, |sample| sample.resident_kib as f64),
                    })
                })
            })
        })
        .collect();
    json!({ "rows": rows })
}

/// Beside a run of before. Machines differ from day to day: what is compared is each row's
/// distance from the bare Envoy of its own run.
pub(crate) fn compare(now: &Value, before: &Value) {
    let cpu = |run: &Value, case: &str, name: &str| {
        let rows = run["rows"].as_array()?;
        rows.iter().find(|row| row["case"] == case && row["name"] == name)?["cpu_us"].as_f64()
    };
    let bare = |run: &Value| cpu(run, "admitted", "bare Envoy");
    let (Some(bare_now), Some(bare_before)) = (bare(now), bare(before)) else {
        println!("nothing to compare: a run without bare Envoy");
        return;
    };
    println!("\nbeside the saved run, in multiples of each run's own bare Envoy:");
    for row in now["rows"].as_array().into_iter().flatten() {
        let (case, name) =
            (row["case"].as_str().unwrap_or_default(), row["name"].as_str().unwrap_or_default());
        let (Some(one), Some(other)) = (cpu(now, case, name), cpu(before, case, name)) else {
            continue;
        };
        let (one, other) = (one / bare_now, other / bare_before);
        println!(
            "{case:13} {name:22} {other:5.2} -> {one:5.2} ({:+.1} %)",
            (one / other - 1.0) * 100.0
        );
    }
}
