//! Lists of targets: `--from FILE`, `--from -` and the command line itself.
//!
//! One target a line; `#` starts a comment, blank lines are skipped. A list is read line by
//! line with bounded memory and taken as a whole or not at all: every bad line is counted
//! and the first [`MAX_PLACES`] are named. What is sent is the canonical form of each
//! target, once.

use std::io::{self, BufRead};

use hashbrown::HashSet;
use ipnet::IpNet;
use ipwarden::address::{display_target, parse_target};

use super::error::{CliError, MAX_PLACES, Place, Result};
use super::text::{count, counted};

/// Most lines in one list.
pub const MAX_LINES: u64 = 2_000_000;
/// Largest body that the service takes, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// Longest line that is read; the longest target has 49 characters, comments are short.
pub const MAX_LINE_BYTES: usize = 4 * 1024;

/// Valid targets in the order of their first mention.
#[derive(Debug, Default)]
pub struct TargetList {
    /// Folded, each once.
    pub targets: Vec<IpNet>,
    /// How many were named again.
    pub duplicates: u64,
}

impl TargetList {
    /// The body of an import: one target a line.
    ///
    /// # Errors
    /// [`CliError::Input`] when it is larger than the service takes.
    pub fn body(&self) -> Result<Vec<u8>> {
        let mut body = Vec::with_capacity(self.targets.len() * 16);
        for target in &self.targets {
            body.extend_from_slice(display_target(target).as_bytes());
            body.push(b'\n');
        }
        if body.len() > MAX_BODY_BYTES {
            return Err(CliError::Usage(format!(
                "the list takes {} and the service accepts {} at once: split it, or write networks instead of single addresses",
                super::text::bytes(body.len() as u64),
                super::text::bytes(MAX_BODY_BYTES as u64)
            )));
        }
        Ok(body)
    }
}

/// Reads the targets of a command line.
///
/// # Errors
/// [`CliError::Input`] that names each text that is no target.
pub fn from_arguments(texts: &[String]) -> Result<TargetList> {
    let mut collector = Collector::default();
    for text in texts {
        collector.take(text, || super::text::clean(text).into_owned());
    }
    collector.finish(|bad| {
        let what = counted(bad, "target is not valid", "targets are not valid");
        format!("{what}; nothing was sent")
    })
}

/// Reads a list. `name` is what people are told, `progress` hears of every line's length in
/// bytes.
///
/// # Errors
/// [`CliError::Input`] that names the bad lines, [`CliError::Usage`] for a list that is
/// empty or too long, [`CliError::File`] when reading fails.
pub fn from_reader(
    reader: &mut dyn BufRead,
    name: &str,
    mut progress: impl FnMut(u64),
) -> Result<TargetList> {
    let mut collector = Collector::default();
    let mut line = Vec::with_capacity(128);
    let mut number: u64 = 0;
    loop {
        line.clear();
        let read = read_line(reader, &mut line)
            .map_err(|source| CliError::File { path: name.to_owned(), source })?;
        if read == 0 {
            break;
        }
        progress(read);
        number += 1;
        if number > MAX_LINES {
            return Err(CliError::Usage(format!(
                "{name} has more than {} lines: split it, or write networks instead of single addresses; nothing was sent",
                count(MAX_LINES)
            )));
        }
        let content = line.split(|&byte| byte == b'#').next().unwrap_or(&[]).trim_ascii();
        // A byte order mark before the first line is no part of the list.
        let content = if number == 1 {
            content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content)
        } else {
            content
        };
        if content.is_empty() {
            continue;
        }
        let place = || format!("line {}", count(number));
        match std::str::from_utf8(content) {
            Ok(text) => collector.take(text, place),
            Err(_) => collector.take(&String::from_utf8_lossy(content), place),
        }
    }
    let list = collector.finish(|bad| {
        let what = counted(bad, "line", "lines");
        let are = if bad == 1 { "is no target" } else { "are no targets" };
        format!("{what} of {name} {are}; nothing was sent")
    })?;
    if list.targets.is_empty() {
        return Err(CliError::Usage(format!(
            "{name} names no targets: expected one IP address or CIDR a line; nothing was sent"
        )));
    }
    Ok(list)
}

/// Reads up to and including a line feed, keeps at most [`MAX_LINE_BYTES`] of it and returns
/// how much was read.
fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    let mut read: u64 = 0;
    loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            return Ok(read);
        }
        let end = available.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        let room = MAX_LINE_BYTES.saturating_sub(line.len());
        line.extend(available.iter().take(taken.min(room)));
        reader.consume(taken);
        read += taken as u64;
        if end.is_some() {
            return Ok(read);
        }
    }
}

#[derive(Default)]
struct Collector {
    list: TargetList,
    known: HashSet<IpNet>,
    places: Vec<Place>,
    bad: u64,
}

impl Collector {
    fn take(&mut self, text: &str, place: impl Fn() -> String) {
        match parse_target(text) {
            // After the first bad line only the bad ones matter.
            Ok(_) if self.bad > 0 => {}
            Ok(target) if self.known.insert(target) => self.list.targets.push(target),
            Ok(_) => self.list.duplicates += 1,
            Err(error) => {
                self.bad += 1;
                if self.places.len() < MAX_PLACES {
                    let place = place();
                    let message = error.to_string();
                    self.places.push(Place { place, message });
                }
            }
        }
    }

    fn finish(self, message: impl FnOnce(u64) -> String) -> Result<TargetList> {
        if self.bad > 0 {
            let (places, total) = (self.places, self.bad);
            return Err(CliError::Input { message: message(total), places, total });
        }
        Ok(self.list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<TargetList> {
        from_reader(&mut &text[..], "list.txt", |_| {})
    }

    #[test]
    fn comments_blank_lines_and_duplicates_are_folded() {
        let list = read(
            b"\xef\xbb\xbf# FireHOL\r\n\r\n203.0.113.7\r\n 203.0.113.7 # again\n::ffff:203.0.113.7\n2001:db8::/32\n10.0.0.0/8",
        )
        .unwrap();
        assert_eq!(list.duplicates, 2);
        assert_eq!(list.body().unwrap(), b"203.0.113.7\n2001:db8::/32\n10.0.0.0/8\n");
    }

    #[test]
    fn every_bad_line_is_named_and_nothing_is_taken() {
        let error =
            read(b"203.0.113.7\n10.0.0.0/33\n\n10.0.0.1/8\n# fine\n1.2.3\n\xff\xfe\n").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), "4 lines of list.txt are no targets; nothing was sent");
        let (places, total) = error.places();
        assert_eq!(total, 4);
        let named: Vec<String> =
            places.iter().map(|place| format!("{}: {}", place.place, place.message)).collect();
        assert_eq!(
            named,
            [
                "line 2: prefix length '/33' is out of range: expected /0 to /32",
                "line 4: '10.0.0.1/8' has bits set beyond its prefix: write 10.0.0.0/8 for the network or 10.0.0.1 for the single address",
                "line 6: '1.2.3' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24",
                "line 7: '\u{fffd}\u{fffd}' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24",
            ]
        );
    }

    #[test]
    fn only_the_first_bad_lines_are_named() {
        let error = read("x\n".repeat(1_500).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "1 500 lines of list.txt are no targets; nothing was sent");
        assert_eq!(error.places().0.len(), MAX_PLACES);
        assert_eq!(error.places().1, 1_500);
    }

    #[test]
    fn an_empty_list_is_refused() {
        assert_eq!(
            read(b"# nothing\n\n").unwrap_err().to_string(),
            "list.txt names no targets: expected one IP address or CIDR a line; nothing was sent"
        );
    }

    #[test]
    fn a_list_beyond_the_bound_is_refused() {
        struct Endless(u64);
        impl io::Read for Endless {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                unreachable!("read line by line")
            }
        }
        impl BufRead for Endless {
            fn fill_buf(&mut self) -> io::Result<&[u8]> {
                Ok(b"\n")
            }
            fn consume(&mut self, amount: usize) {
                self.0 += amount as u64;
            }
        }
        let mut endless = Endless(0);
        assert_eq!(
            from_reader(&mut endless, "list.txt", |_| {}).unwrap_err().to_string(),
            "list.txt has more than 2 000 000 lines: split it, or write networks instead of single addresses; nothing was sent"
        );
        assert_eq!(endless.0, MAX_LINES + 1);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let line = vec![b'1'; 10_000_000];
        let error = read(&line).unwrap_err();
        assert_eq!(
            error.places().0[0].message,
            "target of 4096 bytes is longer than any address: expected an IP address or a CIDR"
        );
    }

    #[test]
    fn arguments_are_read_all_at_once() {
        let texts = ["10.0.0.0/33", "192.0.2.1", "nonsense"].map(str::to_owned);
        let error = from_arguments(&texts).unwrap_err();
        assert_eq!(error.to_string(), "2 targets are not valid; nothing was sent");
        assert_eq!(error.places().0[0].place, "10.0.0.0/33");
        assert_eq!(error.places().0[1].place, "nonsense");
    }
}
