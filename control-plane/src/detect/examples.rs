//! The lines that each rule carries, run through it, and those of harmless clients, run through
//! all rules: what `ipwarden rules test` does.

use super::rules::{Example, Innocent, Rule, Rules};
use super::streaming::Limits;
use super::{Detectors, Flag};
use crate::accesslog::{Entry, Format};

/// An example that did not lead to what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Name of the rule, or of the harmless client.
    pub rule: String,
    /// Line of the rule file where the example begins.
    pub line: usize,
    /// What was expected and what happened.
    pub message: String,
}

/// What running all examples gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Examples run.
    pub run: usize,
    /// Those that failed.
    pub failures: Vec<Failure>,
}

/// Runs the examples of all rules, each alone, and each harmless client.
#[must_use]
pub fn run(rules: &Rules) -> Outcome {
    let mut outcome = Outcome::default();
    for rule in rules.list() {
        for example in &rule.examples {
            outcome.run += 1;
            if let Err(message) = run_one(rules, rule, example) {
                outcome.failures.push(Failure {
                    rule: rule.name.clone(),
                    line: example.line,
                    message,
                });
            }
        }
    }
    for innocent in rules.innocents() {
        outcome.run += 1;
        let Innocent { name, lines, repeat, every_us, line } = innocent;
        let message = match flags(rules, lines, *repeat, *every_us) {
            Err(message) => message,
            Ok(found) => match found.first() {
                Some(flag) => {
                    format!("harmless, but {} flags {}: {}", flag.rule, flag.target, flag.detail)
                }
                None => continue,
            },
        };
        outcome.failures.push(Failure { rule: name.clone(), line: *line, message });
    }
    outcome
}

/// What lines lead to.
fn flags(rules: &Rules, lines: &[String], repeat: u32, every_us: u64) -> Result<Vec<Flag>, String> {
    let small = Limits { addresses: 4_096, groups: 256, bucket_bytes: 16 << 20 };
    let mut detectors = Detectors::with_limits(rules.clone(), small);
    let mut entry = Entry::default();
    let mut found = Vec::new();
    for round in 0..repeat {
        for line in lines {
            let line = line.replace("{n}", &round.to_string());
            entry
                .read(line.as_bytes(), Format::Auto)
                .map_err(|error| format!("a line of the example can't be read: {error}"))?;
            entry.shift(u64::from(round) * every_us);
            found.extend(detectors.observe(&entry.observation()));
        }
    }
    Ok(found)
}

fn run_one(rules: &Rules, rule: &Rule, example: &Example) -> Result<(), String> {
    let mut found = flags(rules, &example.lines, example.repeat, example.every_us)?;
    found.retain(|flag| flag.rule == rule.name);
    match (&example.expect, found.first()) {
        (None, Some(flag)) => Err(format!("expected no flag, found one: {}", flag.detail)),
        (Some(expected), _) if !found.iter().any(|flag| flag.target == *expected) => {
            Err(format!("expected a flag for {expected}, found {}", found.len()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Severity;

    #[test]
    fn the_examples_of_the_embedded_rules_hold() {
        let outcome = run(&Rules::default_rules());
        let told: Vec<String> = outcome
            .failures
            .iter()
            .map(|failure| format!("line {}: {}: {}", failure.line, failure.rule, failure.message))
            .collect();
        assert!(told.is_empty(), "{}", told.join("\n"));
        assert!(outcome.run >= Rules::default_rules().list().len());
    }

    /// The worst rule that flags one request, if any does.
    fn worst(rules: &Rules, request: &str, status: u16) -> Option<(Severity, String)> {
        let line = format!(
            "203.0.113.7 - - [22/Nov/2026:16:00:00 +0000] \"{request} HTTP/1.1\" {status} 153 \"-\" \"Firefox/145.0\""
        );
        let found = flags(rules, &[line], 1, 0).unwrap();
        found.into_iter().map(|flag| (flag.severity, flag.rule)).max()
    }

    fn requests(text: &'static str) -> impl Iterator<Item = &'static str> {
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    }

    #[test]
    fn each_of_many_attacks_is_found_by_one_request() {
        let rules = Rules::default_rules();
        let text = include_str!("../../tests/fixtures/attacks.txt");
        let missed: Vec<&str> =
            requests(text).filter(|request| worst(&rules, request, 404).is_none()).collect();
        assert!(requests(text).count() > 170);
        assert!(missed.is_empty(), "{}", missed.join("\n"));
    }

    #[test]
    fn none_of_many_ordinary_requests_is_flagged() {
        let rules = Rules::default_rules();
        let text = include_str!("../../tests/fixtures/innocents.txt");
        let flagged: Vec<String> = requests(text)
            .filter_map(|request| Some(format!("{request}: {:?}", worst(&rules, request, 200)?)))
            .collect();
        assert!(requests(text).count() > 130);
        assert!(flagged.is_empty(), "{}", flagged.join("\n"));
    }
}
