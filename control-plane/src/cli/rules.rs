//! `ipwarden rules`: which detection rules there are, and whether their examples hold. Works
//! without the service.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::error::{CliError, EXIT_REFUSED, Result};
use super::output::{BAD, Format, GOOD, STRONG, Session};
use super::table::{Grid, cell, fixed, flexible, number};
use super::text::{clean, counted};
use crate::detect::rules::RulesError;
use crate::detect::{Rules, examples};

/// What about rules.
#[derive(Debug, Clone, Args)]
pub struct RulesArgs {
    /// What to do; list when left out
    #[command(subcommand)]
    pub command: Option<RulesCommand>,
}

/// What to do with rules.
#[derive(Debug, Clone, Subcommand)]
pub enum RulesCommand {
    /// List the rules: those that ipwarden brings, or with a file of your own over them
    List {
        /// A rule file
        file: Option<PathBuf>,
    },
    /// Run the examples that each rule carries
    Test {
        /// A rule file
        file: Option<PathBuf>,
    },
}

/// Runs `rules`.
///
/// # Errors
/// [`CliError::Invalid`] for a file that is not in order, [`CliError::Exit`] for examples that
/// fail.
pub fn run(session: &mut Session, args: &RulesArgs) -> Result<()> {
    match &args.command {
        None => list(session, None),
        Some(RulesCommand::List { file }) => list(session, file.as_deref()),
        Some(RulesCommand::Test { file }) => test(session, file.as_deref()),
    }
}

/// Whether a TOML text has what only a rule file has.
#[must_use]
pub fn is_rule_file(text: &str) -> bool {
    text.lines().map(str::trim).any(|line| {
        ["[[rule]]", "[adjust.", "[memory]", "[[known]]", "[[innocent]]", "[static]"]
            .iter()
            .any(|head| line.starts_with(head))
            || ["disable", "defaults"].iter().any(|key| {
                line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
            })
    })
}

/// Reads a rule file.
///
/// # Errors
/// [`CliError::File`], [`CliError::Invalid`].
pub fn read(path: &Path) -> Result<Rules> {
    Rules::read(path).map_err(|error| match error {
        RulesError::Read { path, error } => CliError::File { path, source: error },
        RulesError::Invalid { path, errors } => super::config::invalid_file(&path, errors),
    })
}

/// Checks the text of a rule file.
///
/// # Errors
/// [`CliError::Invalid`].
pub fn parse(name: &str, text: &str) -> Result<Rules> {
    Rules::parse(text).map_err(|errors| super::config::invalid_file(name, errors))
}

fn rules(file: Option<&Path>) -> Result<Rules> {
    file.map_or_else(|| Ok(Rules::default_rules()), read)
}

fn list(session: &mut Session, file: Option<&Path>) -> Result<()> {
    let rules = rules(file)?;
    match session.format {
        Format::Json => {
            let list: Vec<serde_json::Value> = rules
                .list()
                .iter()
                .map(|rule| {
                    serde_json::json!({
                        "name": rule.name,
                        "description": rule.description,
                        "severity": rule.severity.as_str(),
                        "capacity": rule.capacity,
                        "leak_seconds": rule.leak_us as f64 / 1e6,
                        "memory": rule.memory,
                        "references": rule.references,
                        "examples": rule.examples.len(),
                    })
                })
                .collect();
            session.json(&list)
        }
        Format::Raw => rules.list().iter().try_for_each(|rule| {
            session.raw(&[&rule.name, rule.severity.as_str(), &rule.capacity.to_string()])
        }),
        Format::Human => {
            let columns = [
                fixed("rule"),
                fixed("severity"),
                number("fits"),
                fixed("leaks"),
                flexible("finds"),
            ];
            let mut grid = Grid::new(&columns, "");
            for rule in rules.list() {
                let leak = std::time::Duration::from_micros(rule.leak_us);
                let leak = if rule.capacity == 0 {
                    String::new()
                } else if leak.subsec_millis() > 0 {
                    format!("1 in {} ms", leak.as_millis())
                } else {
                    format!("1 in {}", ipwarden::duration::display(leak))
                };
                grid.row(vec![
                    cell(rule.name.clone()),
                    cell(rule.severity.as_str()),
                    cell(rule.capacity.to_string()),
                    cell(leak),
                    cell(rule.description.clone()),
                ]);
            }
            session.table(grid)?;
            session.say(format!("{}.", counted(rules.list().len() as u64, "rule", "rules")))
        }
    }
}

fn test(session: &mut Session, file: Option<&Path>) -> Result<()> {
    let rules = rules(file)?;
    let outcome = examples::run(&rules);
    let failed = outcome.failures.len();
    if session.format == Format::Json {
        let failures: Vec<serde_json::Value> = outcome
            .failures
            .iter()
            .map(|failure| {
                serde_json::json!({
                    "rule": failure.rule, "line": failure.line, "message": failure.message,
                })
            })
            .collect();
        session.json(&serde_json::json!({
            "rules": rules.list().len(), "examples": outcome.run, "failures": failures,
        }))?;
    } else {
        for failure in &outcome.failures {
            session.note(format!(
                "{BAD}failed{BAD:#}: {STRONG}{}{STRONG:#}, line {}: {}",
                failure.rule,
                failure.line,
                clean(&failure.message)
            ))?;
        }
        let style = if failed == 0 { GOOD } else { BAD };
        session.say(format!(
            "{style}{} of {}{style:#} of {} hold.",
            outcome.run - failed,
            counted(outcome.run as u64, "example", "examples"),
            counted(rules.list().len() as u64, "rule", "rules"),
        ))?;
    }
    if failed == 0 { Ok(()) } else { Err(CliError::Exit(EXIT_REFUSED)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_files_are_told_from_settings() {
        assert!(is_rule_file("# mine\n[[rule]]\nname = \"x\""));
        assert!(is_rule_file("disable = [\"crawling\"]"));
        assert!(!is_rule_file("listen = \"127.0.0.1:1\"\n[detect]\nrules = \"r.toml\""));
    }
}
