//! Durations as people write them: `30s`, `4h`, `1h30m`, `7d`. One meaning in the plugin's
//! configuration, in `ipwarden.toml` and on the command line.

use core::fmt;
use core::time::Duration;

/// The longest duration accepted: ten years. More is a slip of the keyboard.
pub const MAX_SECONDS: u64 = 10 * 365 * 86_400;

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurationError {
    /// Not `<number><unit>` pairs.
    Syntax,
    /// Beyond [`MAX_SECONDS`].
    TooLong,
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str(
                "not a duration: expected a number with a unit (ms, s, m, h, d, w), such as 30s, 4h or 1h30m",
            ),
            Self::TooLong => f.write_str("duration is longer than ten years"),
        }
    }
}

impl core::error::Error for DurationError {}

/// Reads a duration.
///
/// # Errors
/// [`DurationError`] with the expected form.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Syntax);
    }
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits).ok_or(DurationError::Syntax)?;
        let number: u64 = number
            .parse()
            .map_err(|_| if digits > 0 { DurationError::TooLong } else { DurationError::Syntax })?;
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at_checked(letters).ok_or(DurationError::Syntax)?;
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(DurationError::Syntax),
        };
        total_ms = number
            .checked_mul(unit_ms)
            .and_then(|ms| total_ms.checked_add(ms))
            .ok_or(DurationError::TooLong)?;
        rest = tail;
    }
    if total_ms > MAX_SECONDS * 1_000 {
        return Err(DurationError::TooLong);
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration in its two largest units: `4h`, `1h30m`, `59s`, `250ms`.
#[must_use]
pub fn display(duration: Duration) -> String {
    const UNITS: [(u64, &str); 6] = [
        (604_800_000, "w"),
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
        (1, "ms"),
    ];
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    let mut parts = 0;
    for (unit, name) in UNITS {
        let number = rest / unit;
        rest %= unit;
        if number > 0 {
            text.push_str(&format!("{number}{name}"));
            parts += 1;
        }
        // After the first unit only its neighbour is worth reading.
        if parts == 2 || (parts == 1 && number == 0) {
            break;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("0s", 0),
            ("2w", 1_209_600_000),
            (" 4h ", 14_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "h", "5 h", "-5s", "5y", "1.5h", "s5", "é", "5é"] {
            assert_eq!(parse(text), Err(DurationError::Syntax), "{text}");
        }
        for text in ["99999999999999999999s", "3651d", "18446744073709551615w"] {
            assert_eq!(parse(text), Err(DurationError::TooLong), "{text}");
        }
    }

    #[test]
    fn durations_are_shown_short() {
        for (ms, text) in [
            (14_400_000, "4h"),
            (5_400_000, "1h30m"),
            (59_000, "59s"),
            (1_250, "1s250ms"),
            (86_461_000, "1d"),
            (0, "0s"),
        ] {
            assert_eq!(display(Duration::from_millis(ms)), text);
        }
    }
}
