//! `ipwarden explain-ip`: which address is the client, step by step, by the filter's code.

use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;
use ipwarden::address::{parse_peer, parse_target};
use ipwarden::client_ip::{Explanation, ForwardingHeader, MAX_ENTRIES, Source, Step, explain};

use super::error::{CliError, Result};
use super::output::{Format, GOOD, STRONG, Session};
use super::table::{Grid, cell, fixed, flexible, number};
use super::text::clean;

/// A request as it reaches Envoy, and what is trusted.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden explain-ip --peer 10.0.0.2 --xff '1.2.3.4, 203.0.113.7, 10.0.0.9' --trusted-proxy 10.0.0.0/8
  ipwarden explain-ip --peer 10.0.0.2 --forwarded 'for=\"[2001:db8::1]:4711\"' --config edge.json

-o raw: the client's address.")]
pub struct ExplainArgs {
    /// Address of the peer that sent the request, with or without a port
    #[arg(long, value_name = "IP")]
    pub peer: String,

    /// A line of x-forwarded-for; repeat it for several lines
    #[arg(long, value_name = "LINE")]
    pub xff: Vec<String>,

    /// A line of forwarded (RFC 7239); repeat it for several lines
    #[arg(long, value_name = "LINE")]
    pub forwarded: Vec<String>,

    /// A line of any other header, such as 'cf-connecting-ip: 203.0.113.7'
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,

    /// The filter's configuration (JSON), whose `client_ip` says what is trusted
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,

    /// A network of trusted proxies, instead of --config; repeat it or separate with commas
    #[arg(
        long = "trusted-proxy",
        value_name = "CIDR",
        value_delimiter = ',',
        conflicts_with = "config"
    )]
    pub trusted_proxies: Vec<String>,
}

/// A header line as given.
struct Line {
    name: String,
    value: String,
}

/// Runs `explain-ip`.
///
/// # Errors
/// [`CliError::Usage`] for texts that are not what they should be; the errors of the
/// configuration.
pub fn run(session: &mut Session, args: &ExplainArgs) -> Result<()> {
    let peer = parse_peer(args.peer.as_bytes()).ok_or_else(|| {
        CliError::Usage(format!(
            "--peer '{}' is not an address: expected one such as 192.0.2.1, 192.0.2.1:4711 or [2001:db8::1]:4711",
            clean(&args.peer)
        ))
    })?;
    let lines = lines(args)?;
    let source = source(args, &lines)?;
    let read = source.header_name().unwrap_or_default();
    let values: Vec<&[u8]> =
        lines.iter().filter(|line| line.name == read).map(|line| line.value.as_bytes()).collect();
    let explanation = explain(&source, Some(peer), &values);
    if let Some(unread) = lines.iter().find(|line| line.name != read) {
        session.warn(unread_note(&source, &unread.name))?;
    }
    told(session, &source, peer, &explanation)
}

fn lines(args: &ExplainArgs) -> Result<Vec<Line>> {
    let named = |name: &str, values: &[String]| -> Vec<Line> {
        values.iter().map(|value| Line { name: name.to_owned(), value: value.clone() }).collect()
    };
    let mut lines = named(ForwardingHeader::XForwardedFor.name(), &args.xff);
    lines.extend(named(ForwardingHeader::Forwarded.name(), &args.forwarded));
    for text in &args.header {
        let (name, value) = text.split_once(':').filter(|(name, _)| !name.trim().is_empty()).ok_or_else(|| {
            CliError::Usage(format!(
                "--header '{}' has no name: expected 'NAME: VALUE', such as 'cf-connecting-ip: 203.0.113.7'",
                clean(text)
            ))
        })?;
        lines.push(Line { name: name.trim().to_ascii_lowercase(), value: value.trim().to_owned() });
    }
    Ok(lines)
}

fn source(args: &ExplainArgs, lines: &[Line]) -> Result<Source> {
    if let Some(path) = &args.config {
        return super::config::filter_config(path).map(|config| config.client_ip);
    }
    if args.trusted_proxies.is_empty() {
        return Ok(Source::Envoy);
    }
    let mut proxies: Vec<IpNet> = Vec::new();
    for text in &args.trusted_proxies {
        let net = parse_target(text)
            .map_err(|error| CliError::Usage(format!("--trusted-proxy: {error}")))?;
        proxies.push(net);
    }
    let mut names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let forwarding =
        |header| Source::TrustedProxies { proxies: proxies.clone(), header, max_hops: MAX_ENTRIES };
    match names.as_slice() {
        [] | ["x-forwarded-for"] => Ok(forwarding(ForwardingHeader::XForwardedFor)),
        ["forwarded"] => Ok(forwarding(ForwardingHeader::Forwarded)),
        [name] => Ok(Source::Header { name: (*name).to_owned(), trusted_peers: proxies }),
        several => Err(CliError::Usage(format!(
            "which header counts, {}? give the lines of one of them, or say it with --config",
            several.iter().map(|name| clean(name)).collect::<Vec<_>>().join(" or ")
        ))),
    }
}

fn unread_note(source: &Source, name: &str) -> String {
    match source.header_name() {
        None => format!(
            "{} is not read: the source is Envoy's own address, after the connection manager applied its settings; --trusted-proxy or --config choose another",
            clean(name)
        ),
        Some(read) => {
            format!("{} is not read: the configuration reads {}", clean(name), clean(read))
        }
    }
}

fn source_words(source: &Source) -> String {
    match source {
        Source::Envoy => "Envoy's own address".to_owned(),
        Source::TrustedProxies { header, .. } => {
            format!("{} behind trusted proxies", header.name())
        }
        Source::Header { name, .. } => format!("header {} set by trusted peers", clean(name)),
    }
}

const fn source_word(source: &Source) -> &'static str {
    match source {
        Source::Envoy => "envoy",
        Source::TrustedProxies { .. } => "trusted_proxies",
        Source::Header { .. } => "header",
    }
}

fn told(
    session: &mut Session,
    source: &Source,
    peer: IpAddr,
    explanation: &Explanation,
) -> Result<()> {
    let client = explanation.client.map(|ip| ip.to_string());
    match session.format {
        Format::Json => {
            let steps: Vec<serde_json::Value> = explanation.steps.iter().map(step_json).collect();
            session.json(&serde_json::json!({
                "client": client,
                "peer": peer,
                "source": source_word(source),
                "header": source.header_name(),
                "steps": steps,
            }))
        }
        Format::Raw => session.raw(&[client.as_deref().unwrap_or("")]),
        Format::Human => {
            session.say(format!("source: {}", source_words(source)))?;
            session.table(grid(&explanation.steps))?;
            session.say(format!(
                "client: {STRONG}{GOOD}{}{GOOD:#}{STRONG:#}",
                client.as_deref().unwrap_or("unknown")
            ))
        }
    }
}

fn step_json(step: &Step) -> serde_json::Value {
    serde_json::json!({
        "place": step.place.to_string(),
        "text": step.text,
        "address": step.address,
        "finding": step.finding.as_str(),
        "words": step.finding.words(),
    })
}

fn grid(steps: &[Step]) -> Grid {
    let mut grid = Grid::new(
        &[
            number("step"),
            fixed("looked at"),
            flexible("text"),
            fixed("address"),
            flexible("finding"),
        ],
        "",
    );
    for (index, step) in steps.iter().enumerate() {
        grid.row(vec![
            cell((index + 1).to_string()),
            cell(step.place.to_string()),
            cell(step.text.trim()),
            cell(step.address.map_or_else(String::new, |ip| ip.to_string())),
            cell(step.finding.words()),
        ]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ExplainArgs {
        ExplainArgs {
            peer: "10.0.0.1:4711".to_owned(),
            xff: Vec::new(),
            forwarded: Vec::new(),
            header: Vec::new(),
            config: None,
            trusted_proxies: vec!["10.0.0.0/8".to_owned()],
        }
    }

    fn source_of(args: &ExplainArgs) -> Result<Source> {
        source(args, &lines(args)?)
    }

    #[test]
    fn the_lines_given_choose_the_source() {
        let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let forwarded = ExplainArgs { forwarded: vec!["for=1.2.3.4".to_owned()], ..args() };
        assert_eq!(
            source_of(&forwarded).unwrap(),
            Source::TrustedProxies {
                proxies: proxies.clone(),
                header: ForwardingHeader::Forwarded,
                max_hops: MAX_ENTRIES
            }
        );
        let single = ExplainArgs { header: vec!["CF-Connecting-IP: 1.2.3.4".to_owned()], ..args() };
        assert_eq!(
            source_of(&single).unwrap(),
            Source::Header { name: "cf-connecting-ip".to_owned(), trusted_peers: proxies }
        );
        let both = ExplainArgs { xff: vec!["1.2.3.4".to_owned()], ..forwarded };
        assert_eq!(
            source_of(&both).unwrap_err().to_string(),
            "which header counts, forwarded or x-forwarded-for? give the lines of one of them, or say it with --config"
        );
        let none = ExplainArgs { trusted_proxies: Vec::new(), ..args() };
        assert_eq!(source_of(&none).unwrap(), Source::Envoy);
    }

    #[test]
    fn bad_networks_and_headers_are_named() {
        let bad = ExplainArgs { trusted_proxies: vec!["10.0.0.0/33".to_owned()], ..args() };
        assert_eq!(
            source_of(&bad).unwrap_err().to_string(),
            "--trusted-proxy: prefix length '/33' is out of range: expected /0 to /32"
        );
        let bad = ExplainArgs { header: vec!["203.0.113.7".to_owned()], ..args() };
        assert_eq!(
            source_of(&bad).unwrap_err().to_string(),
            "--header '203.0.113.7' has no name: expected 'NAME: VALUE', such as 'cf-connecting-ip: 203.0.113.7'"
        );
    }
}
