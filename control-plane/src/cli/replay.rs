//! `ipwarden replay`: existing access logs through the detectors, the hourly pass and the policy
//! of the running system. Stores nothing, asks nobody, needs no service.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use flate2::read::MultiGzDecoder;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use super::error::{CliError, Place, Result};
use super::output::{Format, STRONG, Session, WARN};
use super::progress::Progress;
use super::table::{Grid, fixed, flexible, moment, number};
use super::text::{clean, counted};
use crate::accesslog::{Entry, Format as LogFormat, LINE_BYTES};
use crate::config::Detect;
use crate::detect::pass::hours::{Bounds, Hours};
use crate::detect::policy::{self, Action, Ground};
use crate::detect::{Detectors, Flag, Observation, Rules, Severity, Source, combined_score};

/// Refused lines that are shown.
const EXAMPLES: usize = 5;
/// Most of a refused line that is shown, in bytes.
const EXAMPLE_BYTES: usize = 120;
/// Most suspects kept; those who come later are counted.
const SUSPECTS_MAX: usize = 200_000;
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// Microseconds of an hour.
const HOUR_US: u64 = 3_600_000_000;
/// The bar moves after so many lines.
const PROGRESS_LINES: u64 = 4_096;

/// Which logs.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Lines are given in the order of the files: name older logs first.\n-o raw: address, action, score, rules, requests, first seen, last seen."
)]
pub struct ReplayArgs {
    /// Access logs, gzipped or not; '-' reads standard input
    #[arg(required = true)]
    pub files: Vec<String>,

    /// How lines are written, told apart line by line unless said
    #[arg(long, value_enum, default_value = "auto")]
    pub format: LogFormat,

    /// Other thresholds: an ipwarden.toml (its section detect) or a rule file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Also list addresses of which only the hourly pass has something to say, and nothing worse
    /// than many requests, visits of sensitive paths or being unlike the others
    #[arg(long)]
    pub all: bool,
}

/// What the logs gave.
#[derive(Debug, Default)]
struct Found {
    lines: u64,
    rejected: u64,
    examples: Vec<Place>,
    suspects: BTreeMap<IpNet, Suspect>,
    dropped: u64,
    first_us: u64,
    last_us: u64,
}

#[derive(Debug, Default)]
struct Suspect {
    reasons: Vec<Reason>,
}

#[derive(Debug)]
struct Reason {
    rule: String,
    detail: String,
    severity: Severity,
    source: Source,
    score: f64,
    first_us: u64,
    last_us: u64,
    count: u64,
}

#[derive(Serialize)]
struct ReasonView<'a> {
    rule: &'a str,
    detail: &'a str,
    first_seen: Timestamp,
    count: u64,
}

#[derive(Serialize)]
struct SuspectView<'a> {
    ip: String,
    score: f64,
    reasons: Vec<ReasonView<'a>>,
    action: &'static str,
}

#[derive(Serialize)]
struct View<'a> {
    lines: u64,
    rejected: u64,
    suspects: Vec<SuspectView<'a>>,
}

/// Runs `replay`.
///
/// # Errors
/// [`CliError::File`] for a log that can't be read; [`CliError::Invalid`] for a configuration
/// that is not in order.
pub fn run(session: &mut Session, args: &ReplayArgs) -> Result<()> {
    let (settings, rules) = settings(args.config.as_deref())?;
    let mut detecting = Detecting {
        hours: Hours::new(settings.pass.clone(), Bounds::default()),
        known: rules.clone(),
        detectors: Detectors::new(rules),
        found: Found::default(),
    };
    let progress = Progress::new(session.shows_progress);
    for name in &args.files {
        feed(name, args.format, &mut detecting, &progress)?;
    }
    let found = detecting.finish();
    progress.finish();
    tell(session, &found, &settings, args.all)?;
    notes(session, &found, &settings, args.all)
}

/// Everything that looks at a line, and what it found.
struct Detecting {
    detectors: Detectors,
    hours: Hours,
    known: Rules,
    found: Found,
}

impl Detecting {
    fn observe(&mut self, seen: &Observation<'_>) {
        let found = &mut self.found;
        found.first_us = match found.first_us {
            0 => seen.time_us,
            first => first.min(seen.time_us),
        };
        found.last_us = found.last_us.max(seen.time_us);
        let flags = self.detectors.observe(seen);
        if !flags.is_empty() {
            self.found.take(flags);
        }
        let flags = self.hours.observe(seen);
        if !flags.is_empty() {
            self.take_of_pass(flags);
        }
    }

    fn finish(mut self) -> Found {
        let rest = self.detectors.flush();
        self.found.take(rest);
        let rest = self.hours.finish();
        self.take_of_pass(rest);
        self.found
    }

    /// As in the running system: crawlers that are known by their networks are spared.
    fn take_of_pass(&mut self, mut flags: Vec<Flag>) {
        flags.retain(|flag| !self.known.knows(flag.target.addr()));
        self.found.take(flags);
    }
}

/// The policy and the rules of a file, or the defaults.
fn settings(path: Option<&Path>) -> Result<(Detect, Rules)> {
    let Some(path) = path else { return Ok((Detect::default(), Rules::default_rules())) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| CliError::File { path: name.clone(), source })?;
    if super::rules::is_rule_file(&text) {
        return Ok((Detect::default(), super::rules::parse(&name, &text)?));
    }
    let config = crate::config::check_toml(&text)
        .map_err(|errors| super::config::invalid_file(&name, errors))?;
    let rules = match &config.detect.rules {
        Some(rules) => super::rules::read(rules)?,
        None => Rules::default_rules(),
    };
    Ok((config.detect, rules))
}

fn feed(
    name: &str,
    format: LogFormat,
    detecting: &mut Detecting,
    progress: &Progress,
) -> Result<()> {
    let failed = |source| CliError::File { path: name.to_owned(), source };
    let (source, size): (Box<dyn Read>, _) = if name == "-" {
        (Box::new(std::io::stdin().lock()), None)
    } else {
        let file = std::fs::File::open(name).map_err(failed)?;
        let size = file.metadata().ok().map(|data| data.len());
        (Box::new(file), size)
    };
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, source);
    let is_gzip = reader.fill_buf().map_err(failed)?.starts_with(&[0x1F, 0x8B]);
    progress.bytes("reading", size.filter(|_| !is_gzip));
    if is_gzip {
        // Several members in a row are what log rotation by appending leaves.
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(reader));
        lines(name, &mut reader, format, detecting, progress)
    } else {
        lines(name, &mut reader, format, detecting, progress)
    }
    .map_err(failed)
}

fn lines(
    name: &str,
    reader: &mut impl BufRead,
    format: LogFormat,
    detecting: &mut Detecting,
    progress: &Progress,
) -> std::io::Result<()> {
    let mut line = Vec::new();
    let mut entry = Entry::default();
    let (mut number, mut unshown) = (0_u64, 0_u64);
    loop {
        line.clear();
        // A line without an end must not take all memory: what is beyond the bound is skipped.
        let read = reader.by_ref().take(LINE_BYTES as u64 + 2).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        let mut size = read as u64;
        if line.last() != Some(&b'\n') && line.len() > LINE_BYTES {
            size += skip_line(reader)?;
        }
        number += 1;
        unshown += size;
        if number.is_multiple_of(PROGRESS_LINES) {
            progress.advance(unshown);
            unshown = 0;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        detecting.found.lines += 1;
        match entry.read(&line, format) {
            Ok(()) => detecting.observe(&entry.observation()),
            Err(error) => {
                let found = &mut detecting.found;
                found.rejected += 1;
                if found.examples.len() < EXAMPLES {
                    let shown = line.get(..line.len().min(EXAMPLE_BYTES)).unwrap_or_default();
                    let shown = shown.trim_ascii().escape_ascii();
                    let place = format!("{name}:{number}");
                    found.examples.push(Place { place, message: format!("{error}: {shown}") });
                }
            }
        }
    }
    progress.advance(unshown);
    Ok(())
}

fn skip_line(reader: &mut impl BufRead) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        skipped += used as u64;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}

impl Found {
    /// The same address is one suspect with more reasons.
    fn take(&mut self, flags: Vec<Flag>) {
        for flag in flags {
            if self.suspects.len() >= SUSPECTS_MAX && !self.suspects.contains_key(&flag.target) {
                self.dropped += 1;
                continue;
            }
            let suspect = self.suspects.entry(flag.target).or_default();
            match suspect.reasons.iter_mut().find(|reason| reason.rule == flag.rule) {
                Some(reason) => {
                    reason.count += flag.count;
                    reason.last_us = reason.last_us.max(flag.time_us);
                    reason.detail = flag.detail;
                }
                None => suspect.reasons.push(Reason {
                    first_us: match flag.source {
                        Source::Streaming => {
                            flag.evidence.first().map_or(flag.time_us, |one| one.time_us)
                        }
                        // Some time in its hour, and not before the log.
                        Source::Hourly => {
                            (flag.time_us - flag.time_us % HOUR_US).max(self.first_us)
                        }
                    },
                    last_us: flag.time_us,
                    rule: flag.rule,
                    detail: flag.detail,
                    severity: flag.severity,
                    source: flag.source,
                    score: flag.score,
                    count: flag.count,
                }),
            }
        }
    }
}

/// What the policy would do; addresses that are never blocked are left for a look.
fn action(settings: &Detect, target: &IpNet, suspect: &Suspect) -> Action {
    let grounds: Vec<Ground<'_>> = suspect
        .reasons
        .iter()
        .map(|reason| Ground {
            rule: &reason.rule,
            severity: reason.severity,
            source: reason.source,
            score: reason.score,
        })
        .collect();
    match policy::action(&settings.policy, &grounds, 0) {
        Action::Block(_) if settings.policy.protection(target).is_some() => Action::Review,
        action => action,
    }
}

/// An address as people write it: without a length where it is one.
fn shown(target: &IpNet) -> String {
    if target.prefix_len() == target.max_prefix_len() {
        target.addr().to_string()
    } else {
        target.to_string()
    }
}

fn time(micros: u64) -> Timestamp {
    i64::try_from(micros)
        .ok()
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .unwrap_or(Timestamp::MAX)
}

/// Whether all that is known is what harmless clients do as well: the pass's weak reasons, which
/// say something beside others.
fn is_faint(suspect: &Suspect) -> bool {
    let faint =
        |one: &Reason| one.source == Source::Hourly && one.score < Severity::Medium.weight();
    suspect.reasons.iter().all(faint)
}

fn tell(session: &mut Session, found: &Found, settings: &Detect, all: bool) -> Result<()> {
    let mut rows: Vec<(f64, Action, &IpNet, &Suspect)> = found
        .suspects
        .iter()
        .filter(|(_, suspect)| all || !is_faint(suspect))
        .map(|(target, suspect)| {
            let score = combined_score(suspect.reasons.iter().map(|reason| reason.score));
            (score, action(settings, target, suspect), target, suspect)
        })
        .filter(|(_, action, ..)| *action != Action::None)
        .collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(b.2)));
    match session.format {
        Format::Json => session.json(&View {
            lines: found.lines,
            rejected: found.rejected,
            suspects: rows.iter().map(view).collect(),
        }),
        Format::Raw => rows.iter().try_for_each(|(score, action, target, suspect)| {
            let rules: Vec<&str> = suspect.reasons.iter().map(|one| one.rule.as_str()).collect();
            session.raw(&[
                &shown(target),
                action.as_str().unwrap_or("none"),
                &format!("{score:.3}"),
                &rules.join(","),
                &requests(suspect).to_string(),
                &time(first(suspect)).to_string(),
                &time(last(suspect)).to_string(),
            ])
        }),
        Format::Human => people(session, found, &rows),
    }
}

/// Requests behind the strongest reason: the same request may be behind several.
fn requests(suspect: &Suspect) -> u64 {
    suspect.reasons.iter().map(|reason| reason.count).max().unwrap_or(0)
}

fn first(suspect: &Suspect) -> u64 {
    suspect.reasons.iter().map(|reason| reason.first_us).min().unwrap_or(0)
}

fn last(suspect: &Suspect) -> u64 {
    suspect.reasons.iter().map(|reason| reason.last_us).max().unwrap_or(0)
}

fn view<'a>(row: &(f64, Action, &'a IpNet, &'a Suspect)) -> SuspectView<'a> {
    let (score, action, target, suspect) = row;
    SuspectView {
        ip: shown(target),
        score: *score,
        reasons: suspect
            .reasons
            .iter()
            .map(|reason| ReasonView {
                rule: &reason.rule,
                detail: &reason.detail,
                first_seen: time(reason.first_us),
                count: reason.count,
            })
            .collect(),
        action: action.as_str().unwrap_or("review"),
    }
}

fn people(
    session: &mut Session,
    found: &Found,
    rows: &[(f64, Action, &IpNet, &Suspect)],
) -> Result<()> {
    if !rows.is_empty() {
        let zone = session.zone.clone();
        let mut grid = Grid::new(
            &[
                fixed("address"),
                fixed("would be"),
                number("score"),
                number("requests"),
                moment("first seen").expendable(1),
                flexible("why"),
            ],
            zone.iana_name().unwrap_or("local"),
        );
        for (score, action, target, suspect) in rows {
            let what = match action {
                Action::Block(time) => format!("blocked {}", ipwarden::duration::display(*time)),
                _ => "reviewed".to_owned(),
            };
            let mut reasons: Vec<&Reason> = suspect.reasons.iter().collect();
            reasons.sort_by_key(|reason| std::cmp::Reverse((reason.severity, reason.count)));
            let why: Vec<String> = reasons
                .iter()
                .map(|reason| format!("{}: {}", reason.rule, reason.detail))
                .collect();
            grid.row(vec![
                super::table::cell(shown(target)),
                super::table::cell(what),
                super::table::cell(format!("{score:.2}")),
                super::table::cell(requests(suspect).to_string()),
                super::table::cell(
                    time(first(suspect))
                        .to_zoned(zone.clone())
                        .strftime("%m-%d %H:%M:%S")
                        .to_string(),
                ),
                super::table::cell(why.join("; ")),
            ]);
        }
        session.table(grid)?;
    }
    let blocked = rows.iter().filter(|(_, action, ..)| matches!(action, Action::Block(_))).count();
    let suspects = counted(rows.len() as u64, "suspect", "suspects");
    session.say(format!(
        "{STRONG}{suspects}{STRONG:#} in {}: {blocked} would have been blocked, {} left for review.",
        counted(found.lines, "line", "lines"),
        rows.len() - blocked
    ))?;
    Ok(())
}

/// What could not be read or listed, beside the answer.
fn notes(session: &mut Session, found: &Found, settings: &Detect, all: bool) -> Result<()> {
    let unlisted = |(target, suspect): &(&IpNet, &Suspect)| {
        is_faint(suspect) && action(settings, target, suspect) != Action::None
    };
    let faint = found.suspects.iter().filter(unlisted).count() as u64;
    if faint > 0 && !all {
        let addresses = counted(faint, "address", "addresses");
        session.note(format!(
            "{addresses} more did nothing but what the hourly pass looks at (many requests, sensitive paths, being unlike the others): --all lists them"
        ))?;
    }
    if found.rejected > 0 {
        let lines = counted(found.rejected, "line was", "lines were");
        session.note(format!("{WARN}{lines} not read{WARN:#}, such as:"))?;
        for example in &found.examples {
            session.note(format!("  {}: {}", clean(&example.place), clean(&example.message)))?;
        }
    }
    if found.dropped > 0 {
        let addresses = counted(found.dropped, "flag", "flags");
        session.warn(format!(
            "{addresses} of further addresses are not listed: more than {SUSPECTS_MAX} suspects"
        ))?;
    }
    Ok(())
}
