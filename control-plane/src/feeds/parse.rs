//! Documents to targets. What is no target is counted; too much of it, and the document is not
//! what was expected.

use std::borrow::Cow;

use hashbrown::HashSet;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use ipwarden::address::{fold_net, parse_target};
use serde_json::Value;
use std::net::IpAddr;

use super::definition::Format;

/// Bad places that are named.
const SAMPLES: usize = 5;
/// Of so many items, one may be bad; more, and the document is not taken.
const BAD_ONE_OF: u64 = 20;
/// Most bytes of an attribution that is taken out of a document.
const MAX_ATTRIBUTION: usize = 500;
/// Words by which a line of comment is known to say whose work a list is.
const ATTRIBUTION_WORDS: [&str; 5] = ["copyright", "license", "licence", "(c)", "terms"];

/// How a document is read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Its format.
    pub format: Format,
    /// Pointer to its items.
    pub items: Option<&'a str>,
    /// Where in an item the target stands.
    pub fields: &'a [String],
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// In order, each once.
    pub targets: Vec<IpNet>,
    /// Targets that were named again.
    pub duplicates: u64,
    /// Items that name no target.
    pub rejected: u64,
    /// The first of them, and why.
    pub samples: Vec<String>,
    /// What the document says of whose work it is.
    pub attribution: Option<String>,
}

/// Reads a document of at most `most` targets.
///
/// # Errors
/// Why it is not what was expected, and what may mend it.
pub fn parse(bytes: &[u8], how: &Reading<'_>, most: usize) -> Result<Parsed, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut found = Collector { most, ..Collector::default() };
    match how.format {
        Format::List => list(bytes, &mut found)?,
        Format::JsonLines => json_lines(bytes, how.fields, &mut found)?,
        Format::Json => json(bytes, how, &mut found)?,
        Format::Csv => csv(bytes, how.fields, &mut found)?,
        Format::Crowdsec => return Err("a CrowdSec is asked, not read".to_owned()),
    }
    found.finish()
}

#[derive(Default)]
struct Collector {
    seen: HashSet<IpNet>,
    parsed: Parsed,
    most: usize,
}

impl Collector {
    /// Takes a target, a CIDR or a range, or counts it as bad.
    fn take(&mut self, text: &str, place: impl Fn() -> String) -> Result<(), String> {
        if text.contains('-') {
            let Some(nets) = range(text) else {
                self.reject(format!("{}: '{}' is no range of addresses", place(), short(text)));
                return Ok(());
            };
            return nets.into_iter().try_for_each(|net| self.add(net));
        }
        match parse_target(text) {
            Ok(target) => self.add(target),
            Err(error) => {
                self.reject(format!("{}: {error}", place()));
                Ok(())
            }
        }
    }

    fn add(&mut self, target: IpNet) -> Result<(), String> {
        if !self.seen.insert(target) {
            self.parsed.duplicates += 1;
            return Ok(());
        }
        if self.parsed.targets.len() == self.most {
            return Err(format!("more than {} targets (limits.import_targets)", self.most));
        }
        self.parsed.targets.push(target);
        Ok(())
    }

    fn reject(&mut self, sample: String) {
        self.parsed.rejected += 1;
        if self.parsed.samples.len() < SAMPLES {
            self.parsed.samples.push(sample);
        }
    }

    fn credit(&mut self, text: &str) {
        let text = text.trim();
        let said = self.parsed.attribution.get_or_insert_default();
        if text.is_empty() || said.len() + text.len() > MAX_ATTRIBUTION {
            return;
        }
        if !said.is_empty() {
            said.push_str("; ");
        }
        said.extend(text.chars().filter(|c| !c.is_control()));
    }

    fn finish(mut self) -> Result<Parsed, String> {
        self.parsed.attribution = self.parsed.attribution.filter(|text| !text.is_empty());
        let parsed = self.parsed;
        let good = parsed.targets.len() as u64 + parsed.duplicates;
        if parsed.rejected * BAD_ONE_OF > good + parsed.rejected {
            return Err(format!(
                "{} of {} items are no targets, the first: {}; is it another format?",
                parsed.rejected,
                good + parsed.rejected,
                parsed.samples.first().map_or("", String::as_str)
            ));
        }
        Ok(parsed)
    }
}

fn list(bytes: &[u8], found: &mut Collector) -> Result<(), String> {
    match bytes.trim_ascii_start().first() {
        Some(b'{' | b'[') => {
            return Err("it is JSON: the format json-lines or json reads it".to_owned());
        }
        Some(b'<') => {
            return Err("it is HTML or XML, not a list: is the location right?".to_owned());
        }
        _ => {}
    }
    for (n, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let at = line.iter().position(|byte| matches!(byte, b'#' | b';')).unwrap_or(line.len());
        let (content, comment) = line.split_at(at);
        let comment = String::from_utf8_lossy(comment.get(1..).unwrap_or_default());
        // Who made it stands at its head, before the first target.
        if found.parsed.targets.is_empty() && !comment.is_empty() {
            let lower = comment.to_ascii_lowercase();
            if ATTRIBUTION_WORDS.iter().any(|word| lower.contains(word)) {
                found.credit(comment.trim_start_matches(['#', ';']));
            }
        }
        let content = String::from_utf8_lossy(content.trim_ascii());
        // Some lists name more in further columns.
        let target = content.split(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
        if !target.is_empty() {
            // `a - b` with spaces is one range.
            let whole = content.contains(" - ").then(|| content.replace(' ', ""));
            found.take(whole.as_deref().unwrap_or(target), || format!("line {}", n + 1))?;
        }
    }
    Ok(())
}

fn json_lines(bytes: &[u8], fields: &[String], found: &mut Collector) -> Result<(), String> {
    let usual = ["cidr".to_owned()];
    let fields = if fields.is_empty() { &usual[..] } else { fields };
    for (n, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let place = || format!("line {}", n + 1);
        match serde_json::from_slice::<Value>(line) {
            Ok(item) if item.get("type").and_then(Value::as_str) == Some("metadata") => {
                for field in ["copyright", "terms"] {
                    if let Some(text) = item.get(field).and_then(Value::as_str) {
                        found.credit(text);
                    }
                }
            }
            Ok(item) => take_fields(&item, fields, found, place)?,
            Err(error) => found.reject(format!("{}: no JSON: {error}", place())),
        }
    }
    Ok(())
}

fn json(bytes: &[u8], how: &Reading<'_>, found: &mut Collector) -> Result<(), String> {
    let document: Value = serde_json::from_slice(bytes)
        .map_err(|error| format!("it is no JSON document: {error}"))?;
    let pointer = how.items.unwrap_or_default();
    let items = document.pointer(pointer).and_then(Value::as_array).ok_or_else(|| {
        let keys = document.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
        let keys =
            keys.map_or_else(String::new, |keys| format!("; it has {}", short(&keys.join(", "))));
        format!("there is no array at '{pointer}' (items){keys}")
    })?;
    for field in ["copyright", "attribution", "license"] {
        if let Some(text) = document.get(field).and_then(Value::as_str) {
            found.credit(text);
        }
    }
    for (n, item) in items.iter().enumerate() {
        let place = || format!("{pointer}/{n}");
        match item {
            Value::String(text) if how.fields.is_empty() => found.take(text, place)?,
            _ if how.fields.is_empty() => {
                found.reject(format!("{}: no text, and no fields are named", place()));
            }
            _ => take_fields(item, how.fields, found, place)?,
        }
    }
    Ok(())
}

fn take_fields(
    item: &Value,
    fields: &[String],
    found: &mut Collector,
    place: impl Fn() -> String,
) -> Result<(), String> {
    let mut any = false;
    for field in fields {
        let value = if field.starts_with('/') { item.pointer(field) } else { item.get(field) };
        if let Some(text) = value.and_then(Value::as_str) {
            any = true;
            found.take(text, &place)?;
        }
    }
    if !any {
        found.reject(format!("{}: no text in {}", place(), fields.join(", ")));
    }
    Ok(())
}

fn csv(bytes: &[u8], fields: &[String], found: &mut Collector) -> Result<(), String> {
    let text = first_line(bytes);
    let delimiter = [b',', b';', b'\t']
        .into_iter()
        .max_by_key(|delimiter| {
            let count = text.iter().filter(|byte| *byte == delimiter).count();
            // The first of equals, not the last.
            (count, std::cmp::Reverse(*delimiter != b','))
        })
        .unwrap_or(b',');
    let by_number = fields.iter().all(|field| field.parse::<usize>().is_ok_and(|n| n > 0));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(!by_number)
        .flexible(true)
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .from_reader(bytes);
    let columns: Vec<usize> = if by_number {
        fields.iter().filter_map(|field| field.parse::<usize>().ok()?.checked_sub(1)).collect()
    } else {
        let header = reader.byte_headers().map_err(|error| error.to_string())?.clone();
        let column = |field: &String| header.iter().position(|name| name == field.as_bytes());
        let names: Vec<Cow<'_, str>> = header.iter().map(String::from_utf8_lossy).collect();
        let missing = |field: &String| {
            format!("there is no column '{}': it has {}", short(field), short(&names.join(", ")))
        };
        fields
            .iter()
            .map(|field| column(field).ok_or_else(|| missing(field)))
            .collect::<Result<_, _>>()?
    };
    let mut record = csv::ByteRecord::new();
    loop {
        let line = reader.position().line();
        let place = || format!("line {line}");
        match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) => return Err(format!("line {line}: {error}")),
        }
        let mut any = false;
        for column in &columns {
            let cell = record.get(*column).map(String::from_utf8_lossy).unwrap_or_default();
            if !cell.is_empty() {
                any = true;
                found.take(&cell, place)?;
            }
        }
        if !any {
            found.reject(format!("{}: nothing in the column", place()));
        }
    }
}

fn first_line(bytes: &[u8]) -> &[u8] {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    lines.find(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"#")).unwrap_or_default()
}

/// The networks of `a-b`.
fn range(text: &str) -> Option<Vec<IpNet>> {
    let (first, last) = text.split_once('-')?;
    let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let nets: Vec<IpNet> = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
            Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
            Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
        }
        _ => return None,
    };
    Some(nets.into_iter().map(fold_net).collect())
}

fn short(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipwarden::address::display_target;

    fn read(
        format: Format,
        items: Option<&str>,
        fields: &[&str],
        text: &str,
    ) -> Result<Parsed, String> {
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        parse(text.as_bytes(), &Reading { format, items, fields: &fields }, 1_000)
    }

    fn targets(parsed: &Parsed) -> Vec<String> {
        parsed.targets.iter().map(display_target).collect()
    }

    #[test]
    fn a_netset_is_read_with_its_comments() {
        let text = "#\n# a list of networks\n# License: CC BY 4.0\n\n192.0.2.0/24\r\n198.51.100.7\n2001:db8::/32 # six\n192.0.2.0/24\n";
        let parsed = read(Format::List, None, &[], text).unwrap();
        assert_eq!(targets(&parsed), ["192.0.2.0/24", "198.51.100.7", "2001:db8::/32"]);
        assert_eq!((parsed.duplicates, parsed.rejected), (1, 0));
        assert_eq!(parsed.attribution.as_deref(), Some("License: CC BY 4.0"));
    }

    #[test]
    fn drop_is_read_as_text_and_as_lines_of_json() {
        let text = "; Drop list, (c) 2026 The Publisher\n; Expires: later\n192.0.2.0/24 ; SBL1\n198.51.100.0/24 ; SBL2\n";
        let parsed = read(Format::List, None, &[], text).unwrap();
        assert_eq!(targets(&parsed), ["192.0.2.0/24", "198.51.100.0/24"]);
        assert_eq!(parsed.attribution.as_deref(), Some("Drop list, (c) 2026 The Publisher"));
        let text = concat!(
            r#"{"cidr":"192.0.2.0/24","sblid":"SBL1","rir":"arin"}"#,
            "\n",
            r#"{"cidr":"2001:db8::/32","sblid":"SBL2","rir":"ripencc"}"#,
            "\n",
            r#"{"type":"metadata","timestamp":1,"size":2,"records":2,"copyright":"(c) 2026 The Publisher","terms":"https://example.com/terms"}"#,
            "\n"
        );
        let parsed = read(Format::JsonLines, None, &[], text).unwrap();
        assert_eq!(targets(&parsed), ["192.0.2.0/24", "2001:db8::/32"]);
        assert_eq!(parsed.rejected, 0);
        let said = parsed.attribution.unwrap();
        assert_eq!(said, "(c) 2026 The Publisher; https://example.com/terms");
    }

    #[test]
    fn json_is_read_by_pointer_and_by_several_fields() {
        let text = r#"{"prefixes":[{"ipv4Prefix":"192.0.2.0/24"},{"ipv6Prefix":"2001:db8::/32"}]}"#;
        let fields = ["ipv4Prefix", "/ipv6Prefix"];
        let parsed = read(Format::Json, Some("/prefixes"), &fields, text).unwrap();
        assert_eq!(targets(&parsed), ["192.0.2.0/24", "2001:db8::/32"]);
        let parsed = read(Format::Json, None, &[], r#"["192.0.2.1","192.0.2.2"]"#).unwrap();
        assert_eq!(targets(&parsed), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(
            read(Format::Json, Some("/items"), &[], text).unwrap_err(),
            "there is no array at '/items' (items); it has prefixes"
        );
    }

    #[test]
    fn columns_are_found_by_name_and_by_number() {
        let text = "# made today\nfirst_seen;dst_ip;port\n2026-11-01;192.0.2.1;443\n2026-11-02;192.0.2.2;80\n";
        let parsed = read(Format::Csv, None, &["dst_ip"], text).unwrap();
        assert_eq!(targets(&parsed), ["192.0.2.1", "192.0.2.2"]);
        let parsed =
            read(Format::Csv, None, &["2"], "\"a, b\",192.0.2.1\nc,192.0.2.0/28\n").unwrap();
        assert_eq!(targets(&parsed), ["192.0.2.1", "192.0.2.0/28"]);
        assert_eq!(
            read(Format::Csv, None, &["ip"], text).unwrap_err(),
            "there is no column 'ip': it has first_seen, dst_ip, port"
        );
    }

    #[test]
    fn a_range_becomes_networks() {
        let parsed = read(Format::List, None, &[], "192.0.2.0-192.0.2.130\n").unwrap();
        assert_eq!(targets(&parsed), ["192.0.2.0/25", "192.0.2.128/31", "192.0.2.130"]);
        let parsed = read(Format::List, None, &[], "192.0.2.4 - 192.0.2.7\n").unwrap();
        assert_eq!(targets(&parsed), ["192.0.2.4/30"]);
    }

    #[test]
    fn a_few_bad_lines_are_counted_and_many_refuse_the_document() {
        let good: String = (1..=30).map(|n| format!("192.0.2.{n}\n")).collect();
        let parsed = read(Format::List, None, &[], &format!("{good}localhost\n")).unwrap();
        assert_eq!((parsed.targets.len(), parsed.rejected), (30, 1));
        assert_eq!(
            parsed.samples,
            [
                "line 31: 'localhost' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24"
            ]
        );
        let wrong = read(Format::List, None, &[], "a\nb\n192.0.2.1\n").unwrap_err();
        assert!(
            wrong.starts_with("2 of 3 items are no targets, the first: line 1: 'a' is"),
            "{wrong}"
        );
        assert_eq!(
            read(Format::List, None, &[], "{\"cidr\":1}").unwrap_err(),
            "it is JSON: the format json-lines or json reads it"
        );
        assert!(read(Format::List, None, &[], "<html>").unwrap_err().starts_with("it is HTML"));
    }

    #[test]
    fn more_targets_than_fit_are_refused() {
        let reading = Reading { format: Format::List, items: None, fields: &[] };
        assert_eq!(
            parse(b"192.0.2.1\n192.0.2.2\n192.0.2.3\n", &reading, 2).unwrap_err(),
            "more than 2 targets (limits.import_targets)"
        );
    }
}
