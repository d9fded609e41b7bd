//! Which form of a refusal a client likes most (RFC 9110 §12.5.1).

/// Bytes of an `accept` header that are read.
const MAX_ACCEPT_BYTES: usize = 2_048;

/// The forms of a refusal, in the order of preference where a client has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Representation {
    Problem,
    Text,
    Html,
}

impl Representation {
    pub(super) const ALL: [Self; 3] = [Self::Problem, Self::Text, Self::Html];

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Problem => "application/problem+json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
        }
    }

    /// How closely a media range names this form: 3 exactly, 2 nearly, 1 by `*/*`, 0 not.
    /// A client that takes any JSON can read a problem.
    fn specificity(self, range: &[u8]) -> u8 {
        let (exact, nearly): (&[&[u8]], &[u8]) = match self {
            Self::Problem => {
                (&[b"application/problem+json", b"application/json"], b"application/*")
            }
            Self::Text => (&[b"text/plain"], b"text/*"),
            Self::Html => (&[b"text/html"], b"text/*"),
        };
        if exact.iter().any(|name| range.eq_ignore_ascii_case(name)) {
            3
        } else if range.eq_ignore_ascii_case(nearly) {
            2
        } else {
            u8::from(range == b"*/*")
        }
    }
}

/// Chooses: for each form the closest range decides its weight; the
/// heaviest form wins, then the one that was named more closely, then our own order. A client
/// that takes none of them gets a problem: a refusal without a body helps nobody.
pub(super) fn negotiate(accept: &[u8]) -> Representation {
    let accept = accept.get(..MAX_ACCEPT_BYTES).unwrap_or(accept);
    let mut best = (0, 0, Representation::Problem);
    for form in Representation::ALL {
        let (specificity, weight) = accept
            .split(|byte| *byte == b',')
            .filter_map(media_range)
            .map(|(range, weight)| (form.specificity(range), weight))
            .filter(|(specificity, _)| *specificity > 0)
            .fold((0, 0), |best, found| if found.0 > best.0 { found } else { best });
        if (weight, specificity) > (best.0, best.1) {
            best = (weight, specificity, form);
        }
    }
    best.2
}

/// A media range and its weight in thousandths; `None` when its weight is malformed.
fn media_range(text: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = text.split(|byte| *byte == b';');
    let range = parts.next()?.trim_ascii();
    let mut weight = 1_000;
    for parameter in parts {
        if let [b'q' | b'Q', b'=', value @ ..] = parameter.trim_ascii() {
            weight = thousandths(value)?;
        }
    }
    Some((range, weight))
}

/// A qvalue of RFC 9110 §12.4.2: `0`, `1`, `0.8`, at most three decimals.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = match text {
        [whole] | [whole, b'.'] => (whole, &b""[..]),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut value: u16 = match whole {
        b'0' => 0,
        b'1' => 1,
        _ => return None,
    };
    for place in 0..3 {
        let digit = decimals.get(place).copied().unwrap_or(b'0');
        value = value * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    (value <= 1_000).then_some(value)
}
