//! What the forest looks at: what an address did in an hour, as numbers.

use crate::store::rollup::Rollup;

/// How many.
pub const COUNT: usize = 14;

/// Their names, in order.
pub const NAMES: [&str; COUNT] = [
    "requests",
    "distinct_paths",
    "path_share",
    "client_error_share",
    "server_error_share",
    "bytes_per_request",
    "methods",
    "user_agents",
    "active_minutes",
    "gap_mean_seconds",
    "gap_deviation_seconds",
    "peak_5_minutes",
    "static_share",
    "path_depth",
];

/// The features of a rollup; what has a heavy tail is on a logarithmic scale.
#[must_use]
pub fn of(rollup: &Rollup) -> [f64; COUNT] {
    let requests = rollup.requests.max(1) as f64;
    let share = |count: u64| count as f64 / requests;
    let gaps = rollup.gaps.max(1) as f64;
    let gap_mean = rollup.gap_ms as f64 / 1_000.0 / gaps;
    let variance = (rollup.gap_squares / gaps - gap_mean * gap_mean).max(0.0);
    let active_minutes = (rollup.last_us - rollup.first_us).max(0) as f64 / 60_000_000.0;
    let peak = rollup.pieces.iter().copied().max().unwrap_or(0);
    [
        requests.ln_1p(),
        rollup.paths().ln_1p(),
        (rollup.paths() / requests).min(1.0),
        share(rollup.client_errors),
        share(rollup.server_errors),
        (rollup.bytes as f64 / requests).ln_1p(),
        f64::from(rollup.methods()),
        rollup.agents().ln_1p(),
        active_minutes,
        gap_mean.ln_1p(),
        variance.sqrt().ln_1p(),
        f64::from(peak).ln_1p(),
        share(rollup.statics),
        share(rollup.depth),
    ]
}

/// The median of each feature. All 0 for no points.
#[must_use]
pub fn medians(points: &[[f64; COUNT]]) -> [f64; COUNT] {
    std::array::from_fn(|feature| {
        let mut values: Vec<f64> =
            points.iter().filter_map(|point| point.get(feature).copied()).collect();
        super::median(&mut values)
    })
}
