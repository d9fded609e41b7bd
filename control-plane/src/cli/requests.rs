//! `ipwarden requests`: search in the stored records; `--follow` is in [`super::follow`].

use clap::Args;
use ipwarden::address::parse_target;
use ipwarden::record::Verdict;
use jiff::{Timestamp, tz::TimeZone};

use super::client::{Client, MAX_RECORDS, Query};
use super::error::{CliError, Result};
use super::output::{Format, Session};
use super::table::{Cell, Grid, cell, fixed, flexible, moment, number};
use super::text::{clean, column_time_ms, relative, time_of_day_ms, zone_name};
use crate::geo::Country;
use crate::model::StoredRecord;

/// Which records.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden requests --ip 203.0.113.0/24 --since 1h
  ipwarden requests --verdict blocked,limited --follow
  ipwarden requests --status 5xx -o json

-o json: an array, newest first; with --follow one object a line.
-o raw: time, ip, method, host, path, status, verdict, country, city, proxy, weight, by.")]
pub struct RequestsArgs {
    /// From this client: an address or a CIDR
    #[arg(long, value_name = "IP|CIDR")]
    pub ip: Option<String>,

    /// Path starts with this
    #[arg(long, value_name = "PREFIX")]
    pub path: Option<String>,

    /// To this host
    #[arg(long)]
    pub host: Option<String>,

    /// With this method
    #[arg(long)]
    pub method: Option<String>,

    /// With this response status, such as 404 or 4xx
    #[arg(long, value_parser = status)]
    pub status: Option<String>,

    /// With one of these verdicts: admitted,blocked,limited,shadow,unready,redirected,unseen
    #[arg(long, value_name = "WORD,…", value_delimiter = ',', value_parser = verdict)]
    pub verdict: Vec<String>,

    /// Client in this country, such as FR
    #[arg(long, value_name = "CODE", value_parser = country)]
    pub country: Option<String>,

    /// From this proxy
    #[arg(long, value_name = "NAME")]
    pub proxy: Option<String>,

    /// Not before: a duration back from now such as 1h, or a time
    #[arg(long, value_name = "1h|TIME")]
    pub since: Option<String>,

    /// Before: a duration back from now, or a time
    #[arg(long, value_name = "1h|TIME")]
    pub until: Option<String>,

    /// At most this many, newest first [default: 100, with --follow 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,

    /// Go on with what arrives, until Ctrl-C
    #[arg(long, short, conflicts_with = "until")]
    pub follow: bool,
}

/// `404` or `4xx`.
fn status(text: &str) -> Result<String, &'static str> {
    let known = match text.as_bytes() {
        [b'1'..=b'5', b'x' | b'X', b'x' | b'X'] => true,
        digits => digits.len() == 3 && digits.iter().all(u8::is_ascii_digit),
    };
    // A request that was never answered has the status 0.
    if known || text == "0" {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected a status such as 404, a class such as 4xx, or 0 for none")
    }
}

fn country(text: &str) -> Result<String, &'static str> {
    Country::new(text)
        .map(|country| country.to_string())
        .ok_or("expected a country's code of two letters such as FR")
}

fn verdict(text: &str) -> Result<String, String> {
    Verdict::from_word(text.trim())
        .map(|verdict| verdict.as_str().to_owned())
        .ok_or_else(|| format!("expected one of {}", Verdict::ALL.map(Verdict::as_str).join(", ")))
}

impl RequestsArgs {
    /// The conditions as the service takes them.
    ///
    /// # Errors
    /// [`CliError::Usage`] for an address or a time that is none.
    pub fn query(&self, zone: &TimeZone) -> Result<Query> {
        let mut query = Query::new();
        if let Some(text) = &self.ip {
            let net =
                parse_target(text).map_err(|error| CliError::Usage(format!("--ip: {error}")))?;
            query.push(("ip", ipwarden::address::display_target(&net)));
        }
        for (name, value) in [
            ("path", &self.path),
            ("host", &self.host),
            ("method", &self.method),
            ("status", &self.status),
            ("country", &self.country),
            ("proxy", &self.proxy),
        ] {
            query.extend(value.clone().map(|value| (name, value)));
        }
        if !self.verdict.is_empty() {
            query.push(("verdict", self.verdict.join(",")));
        }
        for (name, value) in [("since", &self.since), ("until", &self.until)] {
            if let Some(text) = value {
                query.push((name, since_or_until(name, text, zone)?));
            }
        }
        Ok(query)
    }
}

/// A duration back from now as it is (the service's clock counts), or a time.
fn since_or_until(name: &str, text: &str, zone: &TimeZone) -> Result<String> {
    if ipwarden::duration::parse(text).is_ok() {
        return Ok(text.trim().to_owned());
    }
    super::block::parse_time(text, zone).map(|time| time.to_string()).map_err(|_| {
        CliError::Usage(format!(
            "--{name} '{}' is neither a duration back from now such as 1h nor a time such as 2026-11-22T18:00:00Z",
            clean(text)
        ))
    })
}

/// Runs `requests` without `--follow`.
///
/// # Errors
/// Bad conditions, and those of the service.
pub async fn run(session: &mut Session, client: &Client, args: &RequestsArgs) -> Result<()> {
    let query = args.query(&session.zone)?;
    let limit = args.limit.unwrap_or(100) as usize;
    let (records, more) = search(client, &query, limit).await?;
    match session.format {
        Format::Json => session.json(&records),
        Format::Raw => records
            .iter()
            .try_for_each(|record| session.raw(&raw_row(record).each_ref().map(String::as_str))),
        Format::Human if records.is_empty() => session.say(if query.is_empty() {
            "No requests are stored yet. `ipwarden proxies` says whether any proxy ships records."
        } else {
            "No request matches. Try fewer conditions or a longer --since; a record arrives about a second after its request."
        }),
        Format::Human => {
            let now = session.now();
            session.table(grid(&records, now, &session.zone))?;
            if more {
                session.note(format!(
                    "the newest {}; --limit N shows more, --since and --until narrow it",
                    super::text::count(records.len() as u64)
                ))?;
            }
            Ok(())
        }
    }
}

/// At most `limit` records, newest first, and whether there are more.
///
/// # Errors
/// Those of the service.
pub async fn search(
    client: &Client,
    query: &Query,
    limit: usize,
) -> Result<(Vec<StoredRecord>, bool)> {
    let mut records = Vec::new();
    let mut before: Option<i64> = None;
    loop {
        let mut page = query.clone();
        page.push(("limit", (limit - records.len()).min(MAX_RECORDS).to_string()));
        page.extend(before.map(|before| ("before", before.to_string())));
        let found = client.requests(&page).await?;
        records.extend(found.records);
        match found.next {
            Some(next) if records.len() < limit => before = Some(next),
            next => return Ok((records, next.is_some())),
        }
    }
}

fn grid(records: &[StoredRecord], now: Timestamp, zone: &TimeZone) -> Grid {
    let date = |time: Timestamp| time.to_zoned(zone.clone()).date();
    let today = date(now);
    // The date is worth its room only where there is another one.
    let shown_time: fn(Timestamp, &TimeZone) -> String =
        if records.iter().all(|record| date(record.time) == today) {
            time_of_day_ms
        } else {
            column_time_ms
        };
    let mut grid = Grid::new(
        &[
            moment("time"),
            fixed("age").expendable(5),
            fixed("ip"),
            fixed("verdict"),
            fixed("by").expendable(4),
            number("status").expendable(1),
            fixed("method").expendable(2),
            flexible("host").expendable(3),
            flexible("path"),
            flexible("place").expendable(6),
            flexible("proxy").expendable(7),
        ],
        &zone_name(now, zone),
    )
    .one_line_rows();
    for record in records {
        grid.row(vec![
            cell(shown_time(record.time, zone)),
            cell(relative(record.time, now).trim_end_matches(" ago")),
            cell(address(record)),
            verdict_cell(record),
            cell(by(record)),
            cell(status_text(record)),
            cell(&record.method),
            cell(&record.host),
            cell(full_path(record)),
            cell(place(record)),
            cell(&record.proxy),
        ]);
    }
    grid
}

/// The client's address, or a dash where the listener has none.
#[must_use]
pub fn address(record: &StoredRecord) -> String {
    record.ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string())
}

/// The verdict with how many requests it stands for: `blocked ×37`.
#[must_use]
pub fn verdict_text(record: &StoredRecord) -> String {
    if record.weight > 1 {
        format!("{} ×{}", record.verdict, record.weight)
    } else {
        record.verdict.clone()
    }
}

fn verdict_cell(record: &StoredRecord) -> Cell {
    let text = cell(verdict_text(record));
    match Verdict::from_word(&record.verdict) {
        Some(verdict) if verdict.is_refusal() => text.bad(),
        Some(Verdict::Shadow | Verdict::Unseen) => text.warn(),
        _ => text,
    }
}

/// What refused it: the decision's number or the limit's name.
#[must_use]
pub fn by(record: &StoredRecord) -> String {
    match (&record.decision, &record.rule) {
        (Some(id), _) => format!("#{id}"),
        (None, Some(rule)) => rule.clone(),
        (None, None) => String::new(),
    }
}

/// The response status; a dash when none was sent.
#[must_use]
pub fn status_text(record: &StoredRecord) -> String {
    if record.status == 0 { "-".to_owned() } else { record.status.to_string() }
}

/// Path and, where it is stored, query.
#[must_use]
pub fn full_path(record: &StoredRecord) -> String {
    match &record.query {
        Some(query) => format!("{}?{query}", record.path),
        None => record.path.clone(),
    }
}

fn place(record: &StoredRecord) -> String {
    match (&record.country, &record.city) {
        (Some(country), Some(city)) => format!("{country} {city}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => String::new(),
    }
}

/// time, ip, method, host, path, status, verdict, country, city, proxy, weight, by.
#[must_use]
pub fn raw_row(record: &StoredRecord) -> [String; 12] {
    [
        record.time.to_string(),
        record.ip.map_or_else(String::new, |ip| ip.to_string()),
        record.method.clone(),
        record.host.clone(),
        full_path(record),
        record.status.to_string(),
        record.verdict.clone(),
        record.country.clone().unwrap_or_default(),
        record.city.clone().unwrap_or_default(),
        record.proxy.clone(),
        record.weight.to_string(),
        by(record),
    ]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(id: i64, path: &str) -> StoredRecord {
        serde_json::from_value(serde_json::json!({
            "id": id, "time": "2026-11-22T16:00:00.123456Z", "ip": "203.0.113.7", "method": "GET",
            "host": "shop.example", "path": path, "query": null, "status": 403,
            "verdict": "blocked", "decision": 12, "rule": null, "weight": 1, "duration_ms": 0.25,
            "bytes_in": 300, "bytes_out": 900, "flags": null, "user_agent": "curl/8",
            "request_id": "", "country": "FR", "city": "Paris", "proxy": "edge-1",
        }))
        .unwrap()
    }

    #[test]
    fn records_are_a_table_that_clients_cannot_draw_in() {
        let mut flood = record(2, "/\u{1b}[2J\u{7}");
        flood.weight = 37;
        let grid = grid(
            &[flood, record(1, "/a")],
            "2026-11-22T16:02:00Z".parse().unwrap(),
            &TimeZone::UTC,
        );
        assert_eq!(
            anstream::adapter::strip_str(&grid.render(None).text).to_string(),
            "time (UTC)    age  ip           verdict      by   status  method  host          path             place     proxy\n\
             16:00:00.123  2m   203.0.113.7  blocked ×37  #12     403  GET     shop.example  /\\u{1b}[2J\\u{7}  FR Paris  edge-1\n\
             16:00:00.123  2m   203.0.113.7  blocked      #12     403  GET     shop.example  /a               FR Paris  edge-1"
        );
    }

    #[test]
    fn the_date_is_shown_where_there_is_another() {
        let records = [record(1, "/")];
        let shown = |now: &str| {
            let text = grid(&records, now.parse().unwrap(), &TimeZone::UTC).render(None).text;
            text.lines().nth(1).unwrap().split("  ").next().unwrap().to_owned()
        };
        assert_eq!(shown("2026-11-22T23:59:59Z"), "16:00:00.123");
        assert_eq!(shown("2026-11-23T00:00:00Z"), "2026-11-22 16:00:00.123");
    }

    #[test]
    fn conditions_are_checked_before_anything_is_sent() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: RequestsArgs,
        }
        let query = |line: &[&str]| {
            let line = Line::try_parse_from(std::iter::once(&"requests").chain(line))
                .map_err(|error| error.to_string())?;
            line.args.query(&TimeZone::UTC).map_err(|error| error.to_string())
        };
        assert_eq!(
            query(&[
                "--ip",
                "::ffff:203.0.113.0/120",
                "--status",
                "4XX",
                "--verdict",
                "blocked,limited",
                "--country",
                "fr",
                "--since",
                "1h"
            ]),
            Ok(vec![
                ("ip", "203.0.113.0/24".to_owned()),
                ("status", "4xx".to_owned()),
                ("country", "FR".to_owned()),
                ("verdict", "blocked,limited".to_owned()),
                ("since", "1h".to_owned()),
            ])
        );
        assert_eq!(
            query(&["--since", "yesterday"]),
            Err("--since 'yesterday' is neither a duration back from now such as 1h nor a time such as 2026-11-22T18:00:00Z".to_owned())
        );
        assert!(query(&["--status", "40"]).unwrap_err().contains("a class such as 4xx"));
        assert!(
            query(&["--verdict", "maybe"])
                .unwrap_err()
                .contains("expected one of admitted, blocked")
        );
        assert_eq!(
            query(&["--ip", "10.0.0.0/33"]),
            Err("--ip: prefix length '/33' is out of range: expected /0 to /32".to_owned())
        );
    }
}
