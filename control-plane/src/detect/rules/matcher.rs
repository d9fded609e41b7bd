//! All conditions of all rules, compiled: a request is looked at once.
//!
//! Literal texts of all rules are one Aho-Corasick automaton over the decoded target and one
//! over the user agent. A hit leads to the few alternatives that need it; only what needs no
//! text is tried for every request. Regular expressions run only where one of their literals
//! (`near`) was found, and take linear time.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, MatchKind};
use ipwarden::record::Verdict;
use regex::bytes::Regex;

use super::Needs;
use crate::detect::Observation;
use crate::detect::shape::{LineKind, is_random};
use crate::detect::text::{Notes, Target, decode_text};

/// Which text a condition looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The decoded path.
    Path,
    /// The decoded query.
    Query,
    /// Path, question mark and query; or a line that is no request.
    Target,
    /// The user agent in lower case.
    Agent,
    /// User agent, referer and host, each on a line of its own, decoded once, in lower case.
    Headers,
}

/// How a literal lies in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is all of it.
    Exact,
    /// It begins so.
    Prefix,
    /// It ends so.
    Suffix,
    /// Somewhere.
    Contains,
    /// A whole segment of a path; the literal begins with a slash.
    Segment,
    /// The name of a query parameter; the literal ends with an equals sign.
    Param,
    /// A regular expression is worth a try.
    Near,
}

/// A condition on a text: one of its literals or expressions.
#[derive(Debug, Default, Clone)]
pub struct TextCondition {
    /// Literals in lower case.
    pub literals: Vec<(How, Vec<u8>)>,
    /// Expressions over the decoded text.
    pub regexes: Vec<Regex>,
}

/// Conditions that must all hold.
#[derive(Debug, Default, Clone)]
pub struct Conditions {
    /// On texts.
    pub texts: Vec<(Place, TextCondition)>,
    /// None of these.
    pub not_texts: Vec<(Place, TextCondition)>,
    /// One of these methods; all when empty.
    pub methods: Vec<String>,
    /// None of these.
    pub not_methods: Vec<String>,
    /// One of these statuses; all when empty.
    pub statuses: Vec<Range<u16>>,
    /// None of these.
    pub not_statuses: Vec<Range<u16>>,
    /// Whether the path is one of the site's static files or of those that browsers ask for
    /// by themselves.
    pub is_static: Option<bool>,
    /// A name in the path, or a value in the query, looks generated.
    pub random: Option<Place>,
    /// The target is that of a proxy.
    pub proxy_form: bool,
    /// Seen while decoding.
    pub notes: Notes,
    /// Kinds of lines that are no requests; none when empty.
    pub lines: Vec<LineKind>,
    /// The raw target is at least so long.
    pub min_bytes: usize,
    /// Whether there is a user agent.
    pub has_agent: Option<bool>,
}

impl Conditions {
    /// What they look at.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let looks = |wanted: &[Place]| self.texts.iter().any(|(place, _)| wanted.contains(place));
        Needs {
            user_agent: looks(&[Place::Agent, Place::Headers]) || self.has_agent.is_some(),
            query: looks(&[Place::Query, Place::Target]) || self.random == Some(Place::Query),
        }
    }
}

#[derive(Debug)]
struct Pattern {
    place: Place,
    how: How,
    atom: u32,
    /// Index into the expressions of the atom.
    regexes: Range<usize>,
}

#[derive(Debug)]
struct Alternative {
    rule: usize,
    atoms: Vec<u32>,
    not_atoms: Vec<u32>,
    rest: Conditions,
}

/// The compiled conditions.
#[derive(Debug)]
pub struct Matcher {
    target: Option<AhoCorasick>,
    target_patterns: Vec<Pattern>,
    agent: Option<AhoCorasick>,
    agent_patterns: Vec<Pattern>,
    headers: Option<AhoCorasick>,
    headers_patterns: Vec<Pattern>,
    regexes: Vec<Regex>,
    atoms: usize,
    alternatives: Vec<Alternative>,
    /// Alternatives by the first text condition that they need.
    by_atom: Vec<Vec<u32>>,
    /// Alternatives that need none.
    always: Vec<u32>,
    static_atom: Option<u32>,
}

/// What a rule matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Index of the rule.
    pub rule: usize,
    /// Where in [`Scratch::fragment`]'s text; empty when the rule looks at no text.
    pub at: Range<usize>,
    /// Which text.
    pub place: Place,
}

/// Work space, reused from request to request.
#[derive(Debug, Default)]
pub struct Scratch {
    target: Target,
    agent: Vec<u8>,
    headers: Vec<u8>,
    /// Generation of the hit and where it was, by atom.
    hits: Vec<(u32, Place2)>,
    hit_list: Vec<u32>,
    matches: Vec<Match>,
    generation: u32,
}

/// Where an atom hit.
#[derive(Debug, Clone, Copy)]
struct Place2 {
    start: u32,
    end: u32,
    place: Place,
}

/// No hit: of no generation.
const NOWHERE: (u32, Place2) = (0, Place2 { start: 0, end: 0, place: Place::Target });

impl Scratch {
    /// The text that a match is about.
    #[must_use]
    pub fn fragment(&self, found: &Match) -> &[u8] {
        let text = match found.place {
            Place::Agent => &self.agent,
            Place::Headers => &self.headers,
            Place::Path | Place::Query | Place::Target => self.target.text(),
        };
        text.get(found.at.clone()).unwrap_or_default()
    }

    /// What matched, after [`Matcher::run`].
    #[must_use]
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// The decoded target.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }
}

/// Why conditions can't be compiled: together they are too large.
#[derive(Debug, thiserror::Error)]
#[error("the texts of all rules together can't be compiled: {0}: use fewer or shorter ones")]
pub struct TooLarge(aho_corasick::BuildError);

/// Puts conditions together.
#[derive(Debug, Default)]
pub struct Builder {
    target: (Vec<Vec<u8>>, Vec<Pattern>),
    agent: (Vec<Vec<u8>>, Vec<Pattern>),
    headers: (Vec<Vec<u8>>, Vec<Pattern>),
    regexes: Vec<Regex>,
    atoms: u32,
    alternatives: Vec<Alternative>,
    static_atom: Option<u32>,
}

impl Builder {
    /// What counts as static.
    pub fn statics(&mut self, condition: TextCondition) {
        self.static_atom = Some(self.atom(Place::Path, condition));
    }

    /// One alternative of a rule.
    pub fn alternative(&mut self, rule: usize, mut conditions: Conditions) {
        let mut compile = |texts: Vec<(Place, TextCondition)>| -> Vec<u32> {
            texts.into_iter().map(|(place, condition)| self.atom(place, condition)).collect()
        };
        let atoms = compile(std::mem::take(&mut conditions.texts));
        let not_atoms = compile(std::mem::take(&mut conditions.not_texts));
        self.alternatives.push(Alternative { rule, atoms, not_atoms, rest: conditions });
    }

    fn atom(&mut self, place: Place, condition: TextCondition) -> u32 {
        let atom = self.atoms;
        self.atoms += 1;
        let first = self.regexes.len();
        self.regexes.extend(condition.regexes);
        let regexes = first..self.regexes.len();
        let (literals, patterns) = match place {
            Place::Agent => &mut self.agent,
            Place::Headers => &mut self.headers,
            Place::Path | Place::Query | Place::Target => &mut self.target,
        };
        for (how, literal) in condition.literals {
            literals.push(literal);
            let regexes = if how == How::Near { regexes.clone() } else { 0..0 };
            patterns.push(Pattern { place, how, atom, regexes });
        }
        atom
    }

    /// Compiles everything.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn build(self) -> Result<Matcher, TooLarge> {
        let automaton = |literals: &[Vec<u8>]| -> Result<Option<AhoCorasick>, TooLarge> {
            if literals.is_empty() {
                return Ok(None);
            }
            AhoCorasickBuilder::new()
                .match_kind(MatchKind::Standard)
                .kind(Some(AhoCorasickKind::DFA))
                .build(literals)
                .map(Some)
                .map_err(TooLarge)
        };
        let mut by_atom = vec![Vec::new(); self.atoms as usize];
        let mut always = Vec::new();
        for (index, alternative) in self.alternatives.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            match alternative.atoms.first() {
                Some(atom) => by_atom[*atom as usize].push(index),
                None => always.push(index),
            }
        }
        Ok(Matcher {
            target: automaton(&self.target.0)?,
            target_patterns: self.target.1,
            agent: automaton(&self.agent.0)?,
            agent_patterns: self.agent.1,
            headers: automaton(&self.headers.0)?,
            headers_patterns: self.headers.1,
            regexes: self.regexes,
            atoms: self.atoms as usize,
            alternatives: self.alternatives,
            by_atom,
            always,
            static_atom: self.static_atom,
        })
    }
}

impl Matcher {
    /// Finds the rules that a request matches; see [`Scratch::matches`].
    pub fn run(&self, observed: &Observation<'_>, scratch: &mut Scratch) {
        scratch.generation = scratch.generation.wrapping_add(1);
        if scratch.hits.len() != self.atoms || scratch.generation == 0 {
            scratch.hits = vec![NOWHERE; self.atoms];
            scratch.generation = 1;
        }
        scratch.hit_list.clear();
        scratch.matches.clear();
        match observed.raw {
            Some(line) => scratch.target.take_line(line),
            None => scratch.target.decode(observed.path, observed.query),
        }
        scratch.agent.clear();
        scratch.agent.extend(observed.user_agent.iter().map(u8::to_ascii_lowercase));
        self.look_at_target(observed.raw.is_some(), scratch);
        self.look_at_agent(scratch);
        self.look_at_headers(observed, scratch);
        let is_static = self.static_atom.is_some_and(|atom| hit(scratch, atom).is_some());
        let facts = Facts {
            observed,
            status: match observed.verdict {
                // Whatever it is answered with, a limit's refusal says what 429 says.
                Verdict::Limited => 429,
                // Our other refusals say nothing about what the client asked for.
                verdict if verdict.is_refusal() => 0,
                _ => observed.status,
            },
            is_static,
            line: observed.raw.map(LineKind::of),
        };
        for index in &self.always {
            // What asks for no text would match every broken line that has its status.
            if facts.line.is_some() && self.alternatives[*index as usize].rest.lines.is_empty() {
                continue;
            }
            self.try_alternative(*index, &facts, scratch);
        }
        for n in 0..scratch.hit_list.len() {
            let atom = scratch.hit_list[n];
            for index in &self.by_atom[atom as usize] {
                self.try_alternative(*index, &facts, scratch);
            }
        }
    }

    fn look_at_target(&self, is_line: bool, scratch: &mut Scratch) {
        let Some(automaton) = &self.target else { return };
        let Scratch { target, hits, hit_list, generation, .. } = scratch;
        let text = target.text();
        let path_len = target.path_len();
        for found in automaton.find_overlapping_iter(text) {
            let pattern = &self.target_patterns[found.pattern().as_usize()];
            if hits[pattern.atom as usize].0 == *generation {
                continue;
            }
            let (start, end) = (found.start(), found.end());
            let (from, to) = match pattern.place {
                Place::Target => (0, text.len()),
                _ if is_line => continue,
                Place::Path => (0, path_len),
                Place::Query => ((path_len + 1).min(text.len()), text.len()),
                Place::Agent | Place::Headers => continue,
            };
            if start < from || end > to {
                continue;
            }
            let range = match pattern.how {
                How::Exact if start != from || end != to => continue,
                How::Prefix if start != from => continue,
                How::Suffix if end != to => continue,
                How::Segment if end != to && !matches!(text[end], b'/' | b';') => continue,
                How::Param if start != from && !matches!(text[start - 1], b'&' | b';') => continue,
                How::Near => match self.expression(pattern, &text[from..to]) {
                    Some(range) => range.start + from..range.end + from,
                    None => continue,
                },
                _ => start..end,
            };
            note(hits, hit_list, *generation, pattern.atom, &range, Place::Target);
        }
    }

    fn look_at_agent(&self, scratch: &mut Scratch) {
        let Some(automaton) = &self.agent else { return };
        let Scratch { agent, hits, hit_list, generation, .. } = scratch;
        for found in automaton.find_overlapping_iter(agent.as_slice()) {
            let pattern = &self.agent_patterns[found.pattern().as_usize()];
            if hits[pattern.atom as usize].0 == *generation {
                continue;
            }
            let (start, end) = (found.start(), found.end());
            let range = match pattern.how {
                How::Exact if start != 0 || end != agent.len() => continue,
                How::Prefix if start != 0 => continue,
                How::Suffix if end != agent.len() => continue,
                How::Near => match self.expression(pattern, agent) {
                    Some(range) => range,
                    None => continue,
                },
                _ => start..end,
            };
            note(hits, hit_list, *generation, pattern.atom, &range, Place::Agent);
        }
    }

    /// Only whole headers are looked at: where one begins and ends says nothing here.
    fn look_at_headers(&self, observed: &Observation<'_>, scratch: &mut Scratch) {
        let Some(automaton) = &self.headers else { return };
        let Scratch { headers, hits, hit_list, generation, .. } = scratch;
        headers.clear();
        // Nothing is hidden in a header without one of these.
        let is_odd = |byte: &u8| matches!(byte, b'{' | b'<' | b'\'' | b'`' | b'$' | b'|' | b'%');
        for header in [observed.user_agent, observed.referer, observed.host] {
            if header.iter().any(is_odd) {
                decode_text(header, headers);
                headers.push(b'\n');
            }
        }
        for found in automaton.find_overlapping_iter(headers.as_slice()) {
            let pattern = &self.headers_patterns[found.pattern().as_usize()];
            if hits[pattern.atom as usize].0 == *generation {
                continue;
            }
            let range = match pattern.how {
                How::Near => match self.expression(pattern, headers) {
                    Some(range) => range,
                    None => continue,
                },
                _ => found.start()..found.end(),
            };
            note(hits, hit_list, *generation, pattern.atom, &range, Place::Headers);
        }
    }

    fn expression(&self, pattern: &Pattern, text: &[u8]) -> Option<Range<usize>> {
        let regexes = &self.regexes[pattern.regexes.clone()];
        regexes.iter().find_map(|regex| regex.find(text)).map(|found| found.range())
    }

    fn try_alternative(&self, index: u32, facts: &Facts<'_>, scratch: &mut Scratch) {
        let alternative = &self.alternatives[index as usize];
        if !facts.meet(&alternative.rest, &scratch.target)
            || !alternative.atoms.iter().all(|atom| hit(scratch, *atom).is_some())
            || alternative.not_atoms.iter().any(|atom| hit(scratch, *atom).is_some())
            || scratch.matches.iter().any(|found| found.rule == alternative.rule)
        {
            return;
        }
        let at = alternative.atoms.first().and_then(|atom| hit(scratch, *atom));
        scratch.matches.push(Match {
            rule: alternative.rule,
            at: at.map_or(0..0, |at| at.start as usize..at.end as usize),
            place: at.map_or(Place::Target, |at| at.place),
        });
    }
}

fn note(
    hits: &mut [(u32, Place2)],
    list: &mut Vec<u32>,
    generation: u32,
    atom: u32,
    range: &Range<usize>,
    place: Place,
) {
    let small = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let place = Place2 { start: small(range.start), end: small(range.end), place };
    hits[atom as usize] = (generation, place);
    list.push(atom);
}

fn hit(scratch: &Scratch, atom: u32) -> Option<Place2> {
    let (generation, place) = scratch.hits[atom as usize];
    (generation == scratch.generation).then_some(place)
}

/// What is known of a request beside its texts.
struct Facts<'a> {
    observed: &'a Observation<'a>,
    status: u16,
    is_static: bool,
    line: Option<LineKind>,
}

impl Facts<'_> {
    fn meet(&self, conditions: &Conditions, target: &Target) -> bool {
        let seen = self.observed;
        let is_method = |method: &String| method.as_bytes() == seen.method;
        let line_fits = match self.line {
            // Lines that are no requests meet texts anywhere in the target, or their kind.
            Some(kind) => conditions.lines.is_empty() || conditions.lines.contains(&kind),
            None => conditions.lines.is_empty(),
        };
        line_fits
            && (conditions.statuses.is_empty()
                || conditions.statuses.iter().any(|range| range.contains(&self.status)))
            && !conditions.not_statuses.iter().any(|range| range.contains(&self.status))
            && (conditions.methods.is_empty() || conditions.methods.iter().any(is_method))
            && !conditions.not_methods.iter().any(is_method)
            && conditions.is_static.is_none_or(|wanted| wanted == self.is_static)
            && conditions
                .has_agent
                .is_none_or(|wanted| wanted != matches!(seen.user_agent, b"" | b"-"))
            && (conditions.notes.is_empty() || conditions.notes.meets(target.notes()))
            && (conditions.min_bytes == 0
                || seen.path.len() + seen.query.len() >= conditions.min_bytes)
            && (!conditions.proxy_form || is_proxy_form(seen))
            && match conditions.random {
                None => true,
                Some(Place::Query) => has_random_value(seen.query),
                Some(_) => seen.path.split(|byte| *byte == b'/').any(is_random),
            }
    }
}

fn has_random_value(query: &[u8]) -> bool {
    query
        .split(|byte| matches!(byte, b'&' | b'='))
        .any(|part| is_random(part) || (part.len() >= 8 && part.iter().all(u8::is_ascii_digit)))
}

/// CONNECT, or an absolute form that names another host than the one asked.
fn is_proxy_form(seen: &Observation<'_>) -> bool {
    if seen.method == b"CONNECT" {
        return true;
    }
    let Some(at) = seen.path.windows(3).take(9).position(|window| window == b"://") else {
        return false;
    };
    let rest = &seen.path[at + 3..];
    let host = rest.split(|byte| matches!(byte, b'/' | b'?')).next().unwrap_or_default();
    let bare = |host: &[u8]| {
        let port = host
            .iter()
            .rposition(|byte| *byte == b':')
            .filter(|at| host[at + 1..].iter().all(u8::is_ascii_digit));
        host[..port.unwrap_or(host.len())].to_ascii_lowercase()
    };
    at > 0 && seen.path[0] != b'/' && (seen.host.is_empty() || bare(host) != bare(seen.host))
}
