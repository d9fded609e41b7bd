//! What a text looks like, whatever it says: random names, bytes of other protocols.

/// How sure a judgement about randomness needs to be: shorter names are never random.
const RANDOM_MIN: usize = 9;
/// Longer ones are not looked at beyond this.
const RANDOM_MAX: usize = 96;

/// Pairs of letters that ordinary words consist of (English, German, French and technical
/// words share most of them). A word has most of its pairs among these; random letters have
/// less than a third.
const COMMON_PAIRS: &[u8] = b"thheinerananreonatenndtiestorteofedisitalarstontngsehasouioleveco\
meneararimeicelildewihicaeliseuritanersoeleaticnctraceveliteratirooslolielmaspadinreradusho\
wsecuchinsiposshtrampepuploabsuiunigrrsemdaavoxydrprimgagemactnsurlplblackeybooiltavifefoarchap\
peusgeqackckdeklokumtunksydmisuocigacaitoofnoamopidmpllnklyweblogupfirytyurupsviwaccoegogluhowkikemb";

/// Whether a name (a path segment, a value) looks like generated letters rather than a word, a
/// number, a date, a UUID or a hash: those are ordinary in paths.
#[must_use]
pub fn is_random(name: &[u8]) -> bool {
    let name = match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if name.len() - dot <= 6 => name.get(..dot).unwrap_or_default(),
        _ => name,
    };
    if !(RANDOM_MIN..=RANDOM_MAX).contains(&name.len()) {
        return false;
    }
    if !name.iter().all(u8::is_ascii_alphanumeric) || name.iter().all(u8::is_ascii_hexdigit) {
        return false;
    }
    let digits = name.iter().filter(|byte| byte.is_ascii_digit()).count();
    let letters = name.len() - digits;
    if letters < 6 {
        return false;
    }
    let mut pairs = 0_u32;
    let mut common = 0_u32;
    let mut changes = 0_usize;
    for pair in name.windows(2) {
        let [a, b] = pair else { continue };
        if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() {
            pairs += 1;
            common += u32::from(is_common(a.to_ascii_lowercase(), b.to_ascii_lowercase()));
        }
        changes += usize::from(a.is_ascii_digit() != b.is_ascii_digit());
    }
    // "item2a3b" changes often, "version2024" once.
    let scattered = digits >= 2 && changes * 4 >= name.len();
    scattered || (pairs >= 6 && common * 5 < pairs * 2)
}

fn is_common(a: u8, b: u8) -> bool {
    COMMON_PAIRS.windows(2).any(|pair| pair == [a, b])
}

/// What a line that is no request is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// Nothing at all: an idle connection, a health check of a load balancer.
    Empty,
    /// The start of a TLS connection: somebody speaks HTTPS to a plain port.
    Tls,
    /// Bytes of another protocol.
    Binary,
    /// Text that is no request line.
    Text,
}

impl LineKind {
    /// All of them with their words in rules.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("empty", Self::Empty),
        ("tls", Self::Tls),
        ("binary", Self::Binary),
        ("text", Self::Text),
    ];

    /// The kind of a line.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        match line {
            [] | [b'-'] => Self::Empty,
            // A handshake record of SSL 3 or TLS, or an SSL 2 hello.
            [0x16, 3, ..] | [0x80, _, 1, 0 | 3, ..] => Self::Tls,
            _ if line.iter().any(|byte| matches!(byte, 0..=8 | 14..=31 | 127..=255)) => {
                Self::Binary
            }
            _ => Self::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_and_programs_choose_are_not_random() {
        for name in [
            "apple-touch-icon-precomposed.png",
            "administration",
            "2026-11-22",
            "550e8400-e29b-41d4-a716-446655440000",
            "d41d8cd98f00b204e9800998ecf8427e",
            "getCustomerInformation",
            "Rechtsschutzversicherung",
            "internationalization",
            "wp-content",
            "version20241122",
            "jquery.min.js",
            "checkout",
            "bibliotheque",
        ] {
            assert!(!is_random(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn generated_names_are_random() {
        for name in
            ["xkqzvjwpfh", "Zq8xK2vP7w", "qwzxjkvbpmf.php", "a8f3k2l9x7q1", "hgfjqkzxwvu.html"]
        {
            assert!(is_random(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn lines_of_other_protocols_are_known() {
        assert_eq!(LineKind::of(b"\x16\x03\x01\x02\x00"), LineKind::Tls);
        assert_eq!(LineKind::of(b"\x03\x00\x00/*\xe0\x00Cookie: mstshash=a"), LineKind::Binary);
        assert_eq!(LineKind::of(b"-"), LineKind::Empty);
        assert_eq!(LineKind::of(b"SSH-2.0-Go"), LineKind::Text);
    }
}
