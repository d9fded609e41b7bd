//! The lines that each rule carries, run through it: what `ipwarden rules test` does.

use super::rules::{Example, Rule, Rules};
use super::streaming::Limits;
use super::{Detectors, Flag};
use crate::accesslog::{Entry, Format};

/// An example that did not lead to what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Name of the rule.
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

/// Runs the examples of all rules, each alone.
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
    outcome
}

fn run_one(rules: &Rules, rule: &Rule, example: &Example) -> Result<(), String> {
    let small = Limits { addresses: 4_096, groups: 256, bucket_bytes: 16 << 20 };
    let mut detectors = Detectors::with_limits(rules.clone(), small);
    let mut entry = Entry::default();
    let mut found = Vec::new();
    for round in 0..example.repeat {
        for line in &example.lines {
            let line = line.replace("{n}", &round.to_string());
            entry
                .read(line.as_bytes(), Format::Auto)
                .map_err(|error| format!("a line of the example can't be read: {error}"))?;
            entry.shift(u64::from(round) * example.every_us);
            let flags = detectors.observe(&entry.observation());
            found.extend(flags.into_iter().filter(|flag: &Flag| flag.rule == rule.name));
        }
    }
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
}
