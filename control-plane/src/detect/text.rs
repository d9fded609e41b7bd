//! A request's target as a server would read it.
//!
//! Owns decoding: percent-encoding up to three times, `%uXXXX`, overlong UTF-8, full-width
//! letters, plus signs in queries, HTML entities, SQL comments, letter case, doubled slashes and
//! backslashes. What an attacker hides behind an
//! encoding and what a server makes of it is the same text here, so that rules are written once.
//! Decoding never fails and never grows: what is no encoding stays as it is.

/// Times that a text is percent-decoded after the first.
const MORE_TIMES: usize = 2;

/// What was seen while decoding; each is a bit of [`Notes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Note {
    /// ASCII characters encoded twice: no browser does that by itself.
    Double = 1,
    /// UTF-8 longer than needed: always somebody's trick (RFC 3629 forbids it).
    Overlong = 2,
    /// `%uXXXX`, which only some old servers read.
    PercentU = 4,
    /// A zero byte.
    Null = 8,
    /// Control characters other than tab and zero.
    Control = 16,
}

impl Note {
    /// All of them with their words in rules.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("double", Self::Double),
        ("overlong", Self::Overlong),
        ("percent-u", Self::PercentU),
        ("null", Self::Null),
        ("control", Self::Control),
    ];
}

/// A set of [`Note`]s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notes(u8);

impl Notes {
    /// Adds one.
    pub const fn add(&mut self, note: Note) {
        self.0 |= note as u8;
    }

    /// Whether the sets share a note.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A decoded target, `path?query` in one buffer; reused from request to request.
#[derive(Debug, Default)]
pub struct Target {
    text: Vec<u8>,
    path_len: usize,
    notes: Notes,
    /// Work space.
    first: Vec<u8>,
    second: Vec<u8>,
}

impl Target {
    /// Decodes a path and a query.
    pub fn decode(&mut self, path: &[u8], query: &[u8]) {
        self.text.clear();
        self.notes = Notes::default();
        self.append(path, false);
        self.path_len = self.text.len();
        if !query.is_empty() {
            self.text.push(b'?');
            self.append(query, true);
        }
    }

    /// Takes a line that is no request: lower case and percent-decoding only. All of it is
    /// [`Target::path`].
    pub fn take_line(&mut self, line: &[u8]) {
        self.text.clear();
        self.notes = Notes::default();
        percent_decode(line, &mut self.text, false, &mut self.notes);
        self.text.make_ascii_lowercase();
        self.path_len = self.text.len();
    }

    /// `path?query`, decoded, ASCII letters in lower case.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The path: runs of slashes are one, backslashes are slashes, SQL comments are a space, dot
    /// segments stay.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.text.get(..self.path_len).unwrap_or_default()
    }

    /// The query: plus signs are spaces, runs of white space and SQL comments are one space.
    #[must_use]
    pub fn query(&self) -> &[u8] {
        self.text.get(self.path_len + 1..).unwrap_or_default()
    }

    /// Where the path ends in [`Target::text`].
    #[must_use]
    pub const fn path_len(&self) -> usize {
        self.path_len
    }

    /// What was seen while decoding.
    #[must_use]
    pub const fn notes(&self) -> Notes {
        self.notes
    }

    fn append(&mut self, source: &[u8], is_query: bool) {
        let plain = source
            .iter()
            .all(|byte| !matches!(byte, b'%' | b'&' | b'+' | 0..=31 | 127..=255 | b'\\' | b'*'));
        if plain {
            return if is_query {
                self.text.extend(source.iter().map(u8::to_ascii_lowercase));
            } else {
                append_path(&mut self.text, source);
            };
        }
        self.first.clear();
        percent_decode(source, &mut self.first, is_query, &mut self.notes);
        for _ in 0..MORE_TIMES {
            if !self.first.contains(&b'%') {
                break;
            }
            self.second.clear();
            let mut again = Notes::default();
            if percent_decode(&self.first, &mut self.second, false, &mut again) == 0 {
                break;
            }
            self.notes.add(Note::Double);
            self.notes.0 |= again.0;
            std::mem::swap(&mut self.first, &mut self.second);
        }
        if !self.first.is_ascii() {
            self.second.clear();
            if fold_wide(&self.first, &mut self.second) {
                self.notes.add(Note::Overlong);
            }
            std::mem::swap(&mut self.first, &mut self.second);
        }
        for byte in &self.first {
            match byte {
                0 => self.notes.add(Note::Null),
                1..=8 | 10..=31 | 127 => self.notes.add(Note::Control),
                _ => {}
            }
        }
        if is_query {
            if self.first.contains(&b'&') {
                self.second.clear();
                decode_entities(&self.first, &mut self.second);
                std::mem::swap(&mut self.first, &mut self.second);
            }
            append_query(&mut self.text, &self.first);
        } else {
            append_path(&mut self.text, &self.first);
        }
    }
}

fn append_path(text: &mut Vec<u8>, source: &[u8]) {
    // "http://host/" of an absolute form keeps its slashes.
    let scheme = source
        .windows(3)
        .position(|window| window == b"://")
        .filter(|at| *at <= 8 && source.first() != Some(&b'/'))
        .map_or(0, |at| at + 3);
    let mut slash = false;
    let mut at = 0;
    while let Some(byte) = source.get(at) {
        let byte = if *byte == b'\\' { b'/' } else { byte.to_ascii_lowercase() };
        if byte == b'/'
            && let Some(length) = source.get(at + 1..).and_then(closed_comment)
        {
            text.push(b' ');
            slash = false;
            at += 1 + length;
            continue;
        }
        if byte != b'/' || !slash || at < scheme {
            slash = byte == b'/';
            text.push(byte);
        }
        at += 1;
    }
}

/// Bytes of a comment that ends, after its first slash.
fn closed_comment(after: &[u8]) -> Option<usize> {
    let inner = after.strip_prefix(b"*")?;
    let end = inner.windows(2).position(|pair| pair == b"*/")?;
    Some(1 + end + 2)
}

/// A header as it would be read: percent-decoded once, ASCII letters in lower case.
pub fn decode_text(source: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    percent_decode(source, out, false, &mut Notes::default());
    out.get_mut(from..).unwrap_or_default().make_ascii_lowercase();
}

fn append_query(text: &mut Vec<u8>, source: &[u8]) {
    let mut rest = source;
    let mut space = false;
    let mut code = false;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let is_comment = *byte == b'/' && after.first() == Some(&b'*');
        let ends_code = code && *byte == b'*' && after.first() == Some(&b'/');
        if ends_code {
            rest = after.get(1..).unwrap_or_default();
            code = false;
        }
        if is_comment {
            // `/*!50000 select*/` is code to MySQL: only the marks go.
            let inner = after.get(1..).unwrap_or_default();
            rest = match inner.strip_prefix(b"!") {
                Some(inner) => {
                    code = true;
                    let digits = inner.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    inner.get(digits..).unwrap_or_default()
                }
                None => match inner.windows(2).position(|pair| pair == b"*/") {
                    Some(end) => inner.get(end + 2..).unwrap_or_default(),
                    None => inner,
                },
            };
        }
        if is_comment || ends_code || matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 11 | 12) {
            if !space {
                text.push(b' ');
            }
            space = true;
        } else {
            text.push(byte.to_ascii_lowercase());
            space = false;
        }
    }
}

/// Decodes once; how many escapes there were.
fn percent_decode(source: &[u8], out: &mut Vec<u8>, plus: bool, notes: &mut Notes) -> usize {
    let mut decoded = 0;
    let mut rest = source;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' if plus => out.push(b' '),
            b'%' => {
                let wide = after
                    .strip_prefix(b"u")
                    .or_else(|| after.strip_prefix(b"U"))
                    .and_then(|digits| hex(digits.get(..4)?));
                if let Some(code) = wide {
                    notes.add(Note::PercentU);
                    push_wide(out, code);
                    rest = after.get(5..).unwrap_or_default();
                    decoded += 1;
                } else if let Some(code) = after.get(..2).and_then(hex) {
                    out.push(u8::try_from(code).unwrap_or(b'?'));
                    rest = after.get(2..).unwrap_or_default();
                    decoded += 1;
                } else {
                    out.push(b'%');
                }
            }
            other => out.push(*other),
        }
    }
    decoded
}

fn hex(digits: &[u8]) -> Option<u32> {
    let mut value = 0;
    for digit in digits {
        value = value * 16 + char::from(*digit).to_digit(16)?;
    }
    Some(value)
}

/// Full-width forms are what some servers fold to ASCII, and no-break spaces.
const fn folded(code: u32) -> u32 {
    match code {
        0xFF01..=0xFF5E => code - 0xFEE0,
        0xA0 => 0x20,
        _ => code,
    }
}

fn push_wide(out: &mut Vec<u8>, code: u32) {
    let letter = char::from_u32(folded(code)).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Folds what is no ASCII but may be read as such; whether overlong forms were among it.
///
/// In the encodings of before UTF-8, the bytes of an overlong form are ordinary letters (C0 AF
/// is a Korean syllable): a run of such bytes counts only where all of it is overlong, and as a
/// whole word only where it says what nobody but an attacker writes so.
fn fold_wide(source: &[u8], out: &mut Vec<u8>) -> bool {
    let mut found = false;
    let mut rest = source;
    while let Some(first) = rest.first() {
        if first.is_ascii() {
            out.push(*first);
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let length = rest.iter().take_while(|byte| !byte.is_ascii()).count();
        let (run, after) = rest.split_at(length);
        let from = out.len();
        let ends = |byte: Option<&u8>| {
            byte.is_none_or(|byte| matches!(byte, b'/' | b'=' | b'&' | b'?' | b';' | b'+' | b' '))
        };
        let is_word = ends(out.last()) && ends(after.first());
        let mut is_overlong = push_overlong(run, out);
        if is_overlong && is_word {
            let said = out.get(from..).unwrap_or_default();
            is_overlong = said.iter().all(|byte| matches!(byte, b'.' | b'/' | b'\\'));
        }
        if !is_overlong {
            out.truncate(from);
            push_folded(run, out);
        }
        found |= is_overlong;
        rest = after;
    }
    found
}

/// Writes a run of overlong forms as what they mean; whether all of it was.
fn push_overlong(run: &[u8], out: &mut Vec<u8>) -> bool {
    let continuation = |byte: u8| (0x80..0xC0).contains(&byte);
    let mut rest = run;
    loop {
        rest = match *rest {
            [a @ (0xC0 | 0xC1), b, ref after @ ..] if continuation(b) => {
                out.push((a & 1) << 6 | b & 0x3F);
                after
            }
            [0xE0, a @ (0x80 | 0x81), b, ref after @ ..]
            | [0xF0, 0x80, a @ (0x80 | 0x81), b, ref after @ ..]
                if continuation(b) =>
            {
                out.push((a & 1) << 6 | b & 0x3F);
                after
            }
            [] => return true,
            _ => return false,
        };
    }
}

/// Writes a run of letters that are no ASCII.
fn push_folded(run: &[u8], out: &mut Vec<u8>) {
    if run == [0xA0] {
        // Latin-1's no-break space, which MySQL takes for one.
        return out.push(b' ');
    }
    for chunk in run.utf8_chunks() {
        for letter in chunk.valid().chars() {
            push_wide(out, u32::from(letter));
        }
        out.extend_from_slice(chunk.invalid());
    }
}

/// The entities that matter for injected markup.
fn decode_entities(source: &[u8], out: &mut Vec<u8>) {
    const NAMED: [(&[u8], u8); 6] = [
        (b"lt;", b'<'),
        (b"gt;", b'>'),
        (b"quot;", b'"'),
        (b"apos;", b'\''),
        (b"colon;", b':'),
        (b"tab;", b'\t'),
    ];
    let mut rest = source;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'&' {
            out.push(*byte);
            continue;
        }
        if let Some((name, letter)) = NAMED.iter().find(|(name, _)| after.starts_with(name)) {
            out.push(*letter);
            rest = after.get(name.len()..).unwrap_or_default();
        } else if let Some((letter, length)) = numeric_entity(after) {
            out.push(letter);
            rest = after.get(length..).unwrap_or_default();
        } else {
            out.push(b'&');
        }
    }
}

/// `#60;` or `#x3c;`: the ASCII character and how long it was.
fn numeric_entity(text: &[u8]) -> Option<(u8, usize)> {
    let inner = text.strip_prefix(b"#")?;
    let (digits, radix, marks) = match inner.strip_prefix(b"x").or(inner.strip_prefix(b"X")) {
        Some(digits) => (digits, 16, 2),
        None => (inner, 10, 1),
    };
    let length =
        digits.iter().take(8).take_while(|digit| char::from(**digit).is_digit(radix)).count();
    let mut value: u32 = 0;
    for digit in digits.get(..length)? {
        value = value.checked_mul(radix)?.checked_add(char::from(*digit).to_digit(radix)?)?;
    }
    let letter = u8::try_from(value).ok().filter(|value| (9..127).contains(value) && length > 0)?;
    let semicolon = usize::from(digits.get(length) == Some(&b';'));
    Some((letter, marks + length + semicolon))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn decoded(path: &str, query: &str) -> String {
        let mut target = Target::default();
        target.decode(path.as_bytes(), query.as_bytes());
        String::from_utf8_lossy(target.text()).into_owned()
    }

    #[test]
    fn a_target_is_read_as_a_server_would() {
        assert_eq!(decoded("/A//b/./C", "X=1"), "/a/b/./c?x=1");
        assert_eq!(decoded("/%2e%2e%2fetc%2Fpasswd", ""), "/../etc/passwd");
        assert_eq!(decoded("/%252e%252e%255c", ""), "/../");
        assert_eq!(decoded("/..%c0%af..%e0%80%af", ""), "/../../");
        assert_eq!(decoded("/%u002e%uFF0E/", ""), "/../");
        assert_eq!(decoded("/%25252e%25252e/", ""), "/../");
        assert_eq!(decoded("/", "q=UNION%20/**/+SELECT/*!50000x*/1"), "/?q=union select x 1");
        assert_eq!(decoded("/1'/**/union/*a*/select/*", ""), "/1' union select/*");
        assert_eq!(decoded("/", "q=1%A0or%C2%A01"), "/?q=1 or 1");
        assert_eq!(decoded("/", "q=%EF%BC%9Cscript%EF%BC%9E"), "/?q=<script>");
        assert_eq!(decoded("/", "q=&#60;script&#x3e;&lt;"), "/?q=<script><");
        assert_eq!(decoded("http://a.example/x//y", ""), "http://a.example/x/y");
        assert_eq!(decoded("/100%", "a=%zz&b=%"), "/100%?a=%zz&b=%");
        assert_eq!(decoded("/a+b", "a+b"), "/a+b?a b");
    }

    #[test]
    fn tricks_are_noted() {
        let notes = |path: &str| {
            let mut target = Target::default();
            target.decode(path.as_bytes(), b"");
            target.notes()
        };
        let only = |note| {
            let mut notes = Notes::default();
            notes.add(note);
            notes
        };
        assert_eq!(notes("/a%20b%C3%A9"), Notes::default());
        assert_eq!(notes("/%252e"), only(Note::Double));
        assert_eq!(notes("/%c0%ae"), only(Note::Overlong));
        assert_eq!(notes("/a%c0%a7b"), only(Note::Overlong));
        // Korean, as it was written before UTF-8.
        assert_eq!(notes("/%c0%a7"), Notes::default());
        assert_eq!(notes("/%b1%e8%c0%af%bd%c5"), Notes::default());
        assert_eq!(notes("/%00"), only(Note::Null));
        assert_eq!(notes("/%0d%0a"), only(Note::Control));
        assert_eq!(notes("/%u0041"), only(Note::PercentU));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_and_never_grow(path: Vec<u8>, query: Vec<u8>) {
            let mut target = Target::default();
            target.decode(&path, &query);
            // %uXXXX is six bytes and becomes at most three.
            prop_assert!(target.text().len() <= path.len() + query.len() + 1);
            prop_assert!(target.path().len() <= path.len());
            target.take_line(&path);
            prop_assert_eq!(target.path(), target.text());
        }

        #[test]
        fn encoding_hides_nothing(text in "[a-z0-9/._-]{1,40}", twice: bool) {
            let once: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let hidden = if twice { once.replace('%', "%25") } else { once };
            prop_assert_eq!(decoded(&hidden, ""), decoded(&text, ""));
        }
    }
}
