//! The times that logs write, as Unix microseconds. Written out because a general parser takes
//! longer than everything else that is done with a line.

/// The number of a month's English abbreviation.
#[must_use]
pub fn month(text: &[u8]) -> Option<u32> {
    const MONTHS: [&[u8]; 12] = [
        b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov",
        b"dec",
    ];
    let at = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(text))?;
    u32::try_from(at + 1).ok()
}

/// `22/Nov/2026:16:00:00 +0100`
#[must_use]
pub fn common(text: &[u8]) -> Option<u64> {
    let part = |from: usize, to: usize| text.get(from..to).and_then(number);
    let (day, year) = (part(0, 2)?, part(7, 11)?);
    let month = month(text.get(3..6)?)?;
    let (hour, minute, second) = (part(12, 14)?, part(15, 17)?, part(18, 20)?);
    let zone = match text.get(20..) {
        None | Some([]) => 0,
        Some([b' ', zone @ ..]) => offset(zone)?,
        Some(_) => return None,
    };
    instant(year, month, day, hour, minute, second, 0, zone)
}

/// `2026-11-22T16:00:00.123+01:00`, or with a space, or with `Z`.
#[must_use]
pub fn iso(text: &[u8]) -> Option<u64> {
    let part = |from: usize, to: usize| text.get(from..to).and_then(number);
    if text.get(4) != Some(&b'-') || !matches!(text.get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let mut rest = text.get(19..)?;
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        for at in 0..6 {
            let digit = fraction.get(at).filter(|byte| byte.is_ascii_digit());
            micros = micros * 10 + digit.map_or(0, |byte| u64::from(byte - b'0'));
        }
        rest = fraction.get(digits..)?;
    }
    let zone = match rest {
        [] | [b'Z' | b'z'] => 0,
        zone => offset(zone)?,
    };
    instant(year, month, day, hour, minute, second, micros, zone)
}

/// A number: seconds, or what its size says it must be.
#[must_use]
pub fn epoch(number: f64) -> Option<u64> {
    let micros = match number {
        n if !(n.is_finite() && n > 0.0) => return None,
        n if n < 1e11 => n * 1e6,
        n if n < 1e14 => n * 1e3,
        n if n < 1e17 => n,
        n => n / 1e3,
    };
    // Far less than the largest number, and positive.
    Some(micros.min(1e18) as u64)
}

/// `+0100` or `+01:00` in seconds.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let hours = number(digits.get(..2)?)?;
    let minutes = match digits.get(2..)? {
        [] => 0,
        [b':', rest @ ..] | rest => number(rest.get(..2)?)?,
    };
    (hours <= 18 && minutes < 60).then_some(sign * i64::from(hours * 3_600 + minutes * 60))
}

fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0'))
    })
}

#[expect(clippy::too_many_arguments, reason = "the parts of a time")]
fn instant(
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    micros: u64,
    zone_s: i64,
) -> Option<u64> {
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !valid {
        return None;
    }
    // Days since 1970-03-01 in years that begin in March: leap days come last.
    let (year, month) = (i64::from(year), i64::from(month));
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + i64::from(hour * 3_600 + minute * 60 + second) - zone_s;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(micros)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn same(micros: Option<u64>, text: &str) {
        let expected = text.parse::<Timestamp>().unwrap().as_microsecond();
        assert_eq!(micros.map(|micros| micros as i64), Some(expected), "{text}");
    }

    #[test]
    fn times_with_zones_are_read() {
        same(common(b"22/Nov/2026:16:00:01 +0100"), "2026-11-22T15:00:01Z");
        same(common(b"29/Feb/2024:00:00:00 -0330"), "2024-02-29T03:30:00Z");
        same(iso(b"2026-11-22T16:00:01.25Z"), "2026-11-22T16:00:01.25Z");
        same(iso(b"2026-11-22T16:00:01.123456789+01:00"), "2026-11-22T15:00:01.123456Z");
        same(iso(b"2026-01-01 00:00:00"), "2026-01-01T00:00:00Z");
        same(epoch(1_795_363_200.5), "2026-11-22T16:00:00.5Z");
        same(epoch(1_795_363_200_500.0), "2026-11-22T16:00:00.5Z");
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["", "22/Nov/2026", "99/Nov/2026:16:00:01 +0100", "22/Nix/2026:16:00:01 +0100"]
        {
            assert_eq!(common(text.as_bytes()), None, "{text}");
        }
        assert_eq!(iso(b"2026-11-22"), None);
        assert_eq!(epoch(f64::NAN), None);
    }

    proptest! {
        #[test]
        fn every_day_agrees_with_the_calendar(seconds in 0_i64..32_000_000_000) {
            let time = Timestamp::from_second(seconds).unwrap();
            prop_assert_eq!(iso(time.to_string().as_bytes()), Some(seconds as u64 * 1_000_000));
        }

        #[test]
        fn no_bytes_are_too_odd(text: Vec<u8>) {
            let _ = (common(&text), iso(&text));
        }
    }
}
