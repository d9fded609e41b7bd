//! A rule file from text to checked rules: all errors at once, each with its line and field.
//!
//! The shape of a file is described where people look for it, at the top of the default rules
//! (`rules/default.toml`). Unknown fields are errors: a misspelled condition that is ignored
//! would make a rule match more than its author meant.

mod conditions;
mod section;

use std::time::Duration;

use ipwarden::address::parse_target;
use ipwarden::config::ConfigError;
use toml::de::{DeTable, DeValue};

use self::conditions::{conditions, text_condition};
use self::section::{Reader, Section};
use super::matcher::{Builder, Conditions, Matcher, Place, TextCondition};
use super::{Distinct, Example, GroupBy, Innocent, Known, MAX_RULES, Memory, Needs, Rule};
use crate::config::nearest;
use crate::detect::Severity;

/// Longest leak.
const MAX_LEAK: Duration = Duration::from_secs(86_400);
/// Most repetitions of an example.
const MAX_REPEAT: i64 = 10_000;

/// A file that is in order.
#[derive(Debug)]
pub struct Parsed {
    /// Its rules.
    pub rules: Vec<Rule>,
    /// The slow memory.
    pub memory: Memory,
    /// Known networks.
    pub known: Vec<Known>,
    /// What harmless clients send.
    pub innocents: Vec<Innocent>,
    /// The compiled conditions.
    pub matcher: Matcher,
}

/// Checks a file; with `defaults`, their rules come first.
///
/// # Errors
/// Everything that is wrong.
pub fn file(text: &str, defaults: Option<&str>) -> Result<Parsed, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let own = Draft::read(text, &mut errors);
    let mut whole = match defaults {
        Some(defaults) if own.defaults => Draft::read(defaults, &mut errors),
        _ => Draft::default(),
    };
    whole.take(own, &mut errors);
    whole.share_conditions(&mut errors);
    // Fields are looked at by what they mean; people read files by line.
    errors.sort_by_key(|error| {
        let number = error.place.strip_prefix("line ").and_then(|rest| rest.split(':').next());
        number.and_then(|number| number.parse::<usize>().ok())
    });
    let mut builder = Builder::default();
    builder.statics(whole.statics.unwrap_or_default());
    let mut rules = Vec::new();
    for (rule, matches) in whole.rules {
        for conditions in matches.alternatives {
            builder.alternative(rules.len(), conditions);
        }
        rules.push(rule);
    }
    if rules.len() > MAX_RULES {
        let message = format!("{} rules: expected at most {MAX_RULES}", rules.len());
        errors.push(ConfigError { place: "rule".to_owned(), message });
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    match builder.build() {
        Ok(matcher) => {
            let memory = whole.memory.unwrap_or(DEFAULT_MEMORY);
            Ok(Parsed { rules, memory, known: whole.known, innocents: whole.innocents, matcher })
        }
        Err(error) => {
            Err(vec![ConfigError { place: "rule".to_owned(), message: error.to_string() }])
        }
    }
}

const DEFAULT_MEMORY: Memory = Memory { capacity: 24.0, leak_s: 1_800, severity: Severity::Medium };

/// One file, not yet compiled.
#[derive(Default)]
struct Draft {
    defaults: bool,
    disable: Vec<(String, String)>,
    rules: Vec<(Rule, Matches)>,
    adjust: Vec<Adjust>,
    memory: Option<Memory>,
    known: Vec<Known>,
    innocents: Vec<Innocent>,
    statics: Option<TextCondition>,
}

/// What a rule matches, or whose conditions it takes.
#[derive(Default)]
struct Matches {
    alternatives: Vec<Conditions>,
    /// Place in the file and name of the other rule.
    like: Option<(String, String)>,
}

struct Adjust {
    place: String,
    name: String,
    capacity: Option<u32>,
    leak_us: Option<u64>,
    severity: Option<Severity>,
    memory: Option<f32>,
}

impl Draft {
    fn read(text: &str, errors: &mut Vec<ConfigError>) -> Self {
        let mut draft = Self { defaults: true, ..Self::default() };
        let mut at = Reader { text, errors };
        let (table, broken) = DeTable::parse_recoverable(text);
        for error in &broken {
            let place = format!("line {}", at.line(error.span().map_or(0, |span| span.start)));
            let message = format!("not TOML: {}", error.message().replace('\n', ", "));
            at.errors.push(ConfigError { place, message });
        }
        if !broken.is_empty() {
            return draft;
        }
        let mut top = Section::new(table.get_ref(), 0, "");
        draft.defaults = top.boolean(&mut at, "defaults").unwrap_or(true);
        for (place, name) in top.texts(&mut at, "disable") {
            draft.disable.push((at.place(place, "disable"), name));
        }
        for mut section in top.sections(&mut at, "rule") {
            if let Some(rule) = rule(&mut section, &mut at) {
                draft.rules.push(rule);
            }
        }
        if let Some(table) = top.table(&mut at, "adjust") {
            for (name, value) in table.table {
                let DeValue::Table(inner) = value.get_ref() else {
                    at.error(
                        name.span().start,
                        "adjust",
                        "expected a table such as [adjust.probing]",
                    );
                    continue;
                };
                let mut section =
                    Section::new(inner, name.span().start, &format!("adjust {}", name.get_ref()));
                draft.adjust.push(Adjust {
                    place: at.place(name.span().start, "adjust"),
                    name: name.get_ref().to_string(),
                    capacity: section.capacity(&mut at),
                    leak_us: section.duration(&mut at, "leak"),
                    severity: section.severity(&mut at),
                    memory: section.number(&mut at, "memory"),
                });
                section.finish(&mut at);
            }
        }
        if let Some(mut section) = top.table(&mut at, "memory") {
            let memory = Memory {
                capacity: section.number(&mut at, "capacity").unwrap_or(DEFAULT_MEMORY.capacity),
                leak_s: section.duration(&mut at, "leak").map_or(DEFAULT_MEMORY.leak_s, |us| {
                    u32::try_from(us / 1_000_000).unwrap_or(u32::MAX).max(1)
                }),
                severity: section.severity(&mut at).unwrap_or(DEFAULT_MEMORY.severity),
            };
            section.finish(&mut at);
            draft.memory = Some(memory);
        }
        for mut section in top.sections(&mut at, "known") {
            let name = section.text(&mut at, "name").unwrap_or_default();
            let networks = section.networks(&mut at, "networks");
            let domains = section
                .texts(&mut at, "domains")
                .into_iter()
                .map(|(_, text)| text.to_ascii_lowercase())
                .collect();
            section.ignore(&mut at, "source");
            section.finish(&mut at);
            draft.known.push(Known { name, networks, domains });
        }
        for mut section in top.sections(&mut at, "innocent") {
            draft.innocents.extend(innocent(&mut section, &mut at));
            section.finish(&mut at);
        }
        if let Some(mut section) = top.table(&mut at, "static") {
            draft.statics = Some(text_condition(&mut section, &mut at, Place::Path));
            section.finish(&mut at);
        }
        top.finish(&mut at);
        draft
    }

    /// Another file over this one.
    fn take(&mut self, other: Self, errors: &mut Vec<ConfigError>) {
        for (rule, matches) in other.rules {
            self.rules.retain(|(known, _)| known.name != rule.name);
            self.rules.push((rule, matches));
        }
        let names: Vec<String> = self.names();
        let unknown = |name: &str| unknown(name, &names);
        for adjust in other.adjust {
            let Some((rule, _)) = self.rules.iter_mut().find(|(rule, _)| rule.name == adjust.name)
            else {
                errors.push(ConfigError { place: adjust.place, message: unknown(&adjust.name) });
                continue;
            };
            rule.capacity = adjust.capacity.unwrap_or(rule.capacity);
            rule.leak_us = adjust.leak_us.unwrap_or(rule.leak_us);
            rule.severity = adjust.severity.unwrap_or(rule.severity);
            rule.memory = adjust.memory.unwrap_or(rule.memory);
        }
        for (place, name) in other.disable {
            if !names.contains(&name) {
                errors.push(ConfigError { place, message: unknown(&name) });
            }
            self.rules.retain(|(rule, _)| rule.name != name);
        }
        self.memory = other.memory.or(self.memory);
        self.known.extend(other.known);
        self.innocents.extend(other.innocents);
        self.statics = other.statics.or(self.statics.take());
    }

    fn names(&self) -> Vec<String> {
        self.rules.iter().map(|(rule, _)| rule.name.clone()).collect()
    }

    /// Gives rules that match like another one its conditions.
    fn share_conditions(&mut self, errors: &mut Vec<ConfigError>) {
        let own: Vec<(String, Needs, Vec<Conditions>)> = self
            .rules
            .iter()
            .filter(|(_, matches)| matches.like.is_none())
            .map(|(rule, matches)| (rule.name.clone(), rule.needs, matches.alternatives.clone()))
            .collect();
        let names = self.names();
        for (rule, matches) in &mut self.rules {
            let Some((place, name)) = matches.like.take() else { continue };
            match own.iter().find(|(known, ..)| *known == name) {
                Some((_, needs, alternatives)) => {
                    matches.alternatives.clone_from(alternatives);
                    rule.needs.user_agent |= needs.user_agent;
                    rule.needs.query |= needs.query;
                }
                None if names.contains(&name) => {
                    let message = format!("'{name}' has no conditions of its own");
                    errors.push(ConfigError { place, message });
                }
                None => errors.push(ConfigError { place, message: unknown(&name, &names) }),
            }
        }
    }
}

fn unknown(name: &str, names: &[String]) -> String {
    match nearest(name, names.iter().cloned()) {
        Some(meant) => format!("no rule is called '{name}': did you mean '{meant}'?"),
        None => format!("no rule is called '{name}': see `ipwarden rules` for those there are"),
    }
}

fn rule(section: &mut Section<'_>, at: &mut Reader<'_>) -> Option<(Rule, Matches)> {
    let name = section.text(at, "name").unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
        at.error(section.at, &section.path, "expected a name of a-z, 0-9 and '-', at most 64 long");
    }
    section.path = format!("rule {name}");
    let description = section.text(at, "description").unwrap_or_default();
    if description.is_empty() {
        section.missing(at, "description", "what it finds, in a sentence");
    }
    let severity = section.severity(at);
    if severity.is_none() && !section.has("severity") {
        section.missing(at, "severity", "low, medium, high or critical");
    }
    let capacity = section.capacity(at).unwrap_or(0);
    let leak_us = section.duration(at, "leak");
    if capacity > 0 && leak_us.is_none() && !section.has("leak") {
        section.missing(
            at,
            "leak",
            "a duration such as 10s: the time in which one event leaks away",
        );
    }
    let distinct = section.word(
        at,
        "distinct",
        &[
            ("path", Distinct::Path),
            ("path-status", Distinct::PathStatus),
            ("query", Distinct::Query),
            ("query-alone", Distinct::QueryAlone),
            ("user-agent", Distinct::UserAgent),
            ("address", Distinct::Address),
        ],
    );
    let group_by = section.word(
        at,
        "group_by",
        &[("address", GroupBy::Address), ("network", GroupBy::Network), ("asn", GroupBy::Asn)],
    );
    let group_by = group_by.unwrap_or(GroupBy::Address);
    let portion = section.number(at, "portion").unwrap_or(0.0);
    if portion > 1.0 {
        section.wrong(at, "portion", "expected a number from 0 to 1");
    } else if portion > 0.0 && group_by != GroupBy::Address {
        section.wrong(at, "portion", "is of one address: expected no group_by beside it");
    }
    let spread = section.integer(at, "spread", 1, 1_000).unwrap_or(1);
    let share = section.integer(at, "share", 1, 1_000).unwrap_or(1);
    let memory = section.number(at, "memory").unwrap_or(0.0);
    let says = section
        .text(at, "says")
        .unwrap_or_else(|| format!("{{n}} requests within {{span}}: {name}"));
    let references = section.texts(at, "references").into_iter().map(|(_, text)| text).collect();
    let mut alternatives = Vec::new();
    for mut section in section.sections(at, "match") {
        let found = conditions(&mut section, at);
        section.finish(at);
        alternatives.push(found);
    }
    let like = section.texts(at, "match_like").into_iter().next();
    let like = like.map(|(place, name)| (at.place(place, &section.field("match_like")), name));
    if like.is_some() && !alternatives.is_empty() {
        section.wrong(
            at,
            "match_like",
            "takes another rule's conditions: expected no match beside it",
        );
    } else if alternatives.is_empty() && like.is_none() && !section.has("match") {
        section.missing(at, "match", "a table of conditions, or several of which one is enough");
    }
    let mut examples = Vec::new();
    for mut section in section.sections(at, "examples") {
        examples.extend(example(&mut section, at));
        section.finish(at);
    }
    section.finish(at);
    let mut needs = Needs {
        user_agent: distinct == Some(Distinct::UserAgent),
        query: matches!(distinct, Some(Distinct::Query | Distinct::QueryAlone)),
    };
    for found in alternatives.iter().map(Conditions::needs) {
        needs.user_agent |= found.user_agent;
        needs.query |= found.query;
    }
    let rule = Rule {
        name,
        description,
        says,
        severity: severity?,
        capacity,
        leak_us: leak_us.unwrap_or(60_000_000),
        distinct,
        group_by,
        portion,
        spread: u32::try_from(spread).unwrap_or(1),
        share: u32::try_from(share).unwrap_or(1),
        memory,
        references,
        examples,
        needs,
    };
    Some((rule, Matches { alternatives, like }))
}

/// Lines, how often they come, and the time in between.
fn repeated_lines(section: &mut Section<'_>, at: &mut Reader<'_>) -> (Vec<String>, u32, u64) {
    let lines: Vec<String> = section.texts(at, "lines").into_iter().map(|(_, text)| text).collect();
    if lines.is_empty() {
        section.missing(at, "lines", "lines of an access log");
    }
    let repeat = section.integer(at, "repeat", 1, MAX_REPEAT).unwrap_or(1);
    let every_us = section.duration(at, "every").unwrap_or(0);
    (lines, u32::try_from(repeat).unwrap_or(1), every_us)
}

fn innocent(section: &mut Section<'_>, at: &mut Reader<'_>) -> Option<Innocent> {
    let line = at.line(section.at);
    let name = section.text(at, "name");
    if name.is_none() {
        section.missing(at, "name", "who it is, in a few words");
    }
    let (lines, repeat, every_us) = repeated_lines(section, at);
    Some(Innocent { name: name?, lines, repeat, every_us, line })
}

fn example(section: &mut Section<'_>, at: &mut Reader<'_>) -> Option<Example> {
    let line = at.line(section.at);
    let (lines, repeat, every_us) = repeated_lines(section, at);
    let expect = match section.text(at, "expect").as_deref() {
        None => {
            section.missing(at, "expect", "an address, or 'none'");
            return None;
        }
        Some("none") => None,
        Some(text) => match parse_target(text) {
            Ok(net) => Some(crate::detect::target_of(net.addr())),
            Err(error) => {
                section.wrong(at, "expect", &format!("{error}: expected an address, or 'none'"));
                return None;
            }
        },
    };
    Some(Example { lines, repeat, every_us, expect, line })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn errors(text: &str) -> Vec<String> {
        file(text, None).map(|_| ()).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_errors_come_at_once_with_line_and_field() {
        let text = r#"
[[rule]]
name = "probing"
description = "Asks for much that is not there."
severity = "hihg"
capacity = 10
leek = "10s"
match = { status = ["4x"], path = { contains = ["a"], regex = ["("] } }

[[rule]]
name = "Bad Name"
description = "x"
severity = "low"
match = { method = 7 }
[memmory]
"#;
        assert_eq!(
            errors(text),
            [
                "line 2: rule probing: leak: is missing: expected a duration such as 10s: the time in which one event leaks away",
                "line 5: rule probing: severity: expected low, medium, high, critical, found 'hihg'",
                "line 7: rule probing: leek: not a field: did you mean 'leak'?",
                "line 8: rule probing: match: path.contains: a text of one letter matches nearly everything: expected at least two",
                "line 8: rule probing: match: path.regex: not an expression that can be used: error: unclosed group",
                "line 8: rule probing: match.status: expected a status such as \"404\" or a class such as \"4xx\", found '4x'",
                "line 10: rule: expected a name of a-z, 0-9 and '-', at most 64 long",
                "line 14: rule Bad Name: match: method: expected a text or a list of texts, found a value of type integer",
                "line 15: memmory: not a field: did you mean 'memory'?",
            ]
        );
    }

    #[test]
    fn an_operators_file_changes_what_it_names() {
        let defaults = "[[rule]]\nname = \"a\"\ndescription = \"x\"\nseverity = \"low\"\nmatch = { method = \"TRACE\" }\n[[rule]]\nname = \"b\"\ndescription = \"x\"\nseverity = \"low\"\nmatch = { method = \"TRACK\" }\n";
        let own = "disable = [\"b\"]\n[adjust.a]\nseverity = \"high\"\ncapacity = 3\n";
        let parsed = file(own, Some(defaults)).unwrap();
        let told: Vec<_> = parsed
            .rules
            .iter()
            .map(|rule| (rule.name.as_str(), rule.severity, rule.capacity))
            .collect();
        assert_eq!(told, [("a", Severity::High, 3)]);
        let wrong =
            file("disable = [\"c\"]\n[adjust.bb]\n", Some(defaults)).map(|_| ()).unwrap_err();
        let told: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "line 1: disable: no rule is called 'c': see `ipwarden rules` for those there are",
                "line 2: adjust: no rule is called 'bb': see `ipwarden rules` for those there are"
            ]
        );
        assert!(file("defaults = false\n", Some(defaults)).unwrap().rules.is_empty());
    }
}
