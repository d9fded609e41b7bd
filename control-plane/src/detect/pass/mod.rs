//! The hourly pass: what lasts longer than seconds. Reads rollups, never records.
//!
//! | module | owns |
//! |---|---|
//! | [`features`] | what the forest looks at |
//! | [`hours`] | the hours of a log, without a store |
//! | [`rules`] | pure: from an hour's rollups to flags |
//! | [`run`] | when, once, and where flags go |

pub mod features;
pub mod hours;
pub mod rules;
pub mod run;

/// The settings of the pass, under `[detect]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// More requests of an address or identity in an hour are flagged.
    pub hourly_requests: u64,
    /// Visits of these paths, and of those below them, are flagged.
    pub sensitive_paths: Vec<String>,
    /// The forest looks at addresses with at least so many requests in the hour.
    pub forest_requests: u64,
    /// It flags scores from this percentage on; 100 switches it off.
    pub forest_percent: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hourly_requests: 100,
            sensitive_paths: vec!["/admin".to_owned(), "/login".to_owned()],
            forest_requests: 20,
            forest_percent: 65,
        }
    }
}

/// The middle value; 0 of none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), middle.checked_sub(1).and_then(|below| values.get(below))) {
        (None, _) => 0.0,
        (Some(&upper), Some(&lower)) if values.len().is_multiple_of(2) => (lower + upper) / 2.0,
        (Some(&upper), _) => upper,
    }
}

/// The median, and the median distance from it times 1.4826: a standard deviation that
/// outliers don't move.
pub(crate) fn robust(values: &[u64]) -> (f64, f64) {
    let mut values: Vec<f64> = values.iter().map(|&value| value as f64).collect();
    let middle = median(&mut values);
    let mut distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    (middle, 1.4826 * median(&mut distances))
}
