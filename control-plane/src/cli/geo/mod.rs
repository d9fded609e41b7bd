//! `ipwarden geo`: where addresses are, and the data that says so.
//!
//! | module | owns |
//! |---|---|
//! | [`update`] | bringing data into the service's directory |
//! | `fetch` | one source into a file: npm, URL, path |
//! | `unpack` | the databases out of that file |

mod fetch;
mod unpack;
pub mod update;

use clap::{Args, Subcommand};
use jiff::{Timestamp, tz::TimeZone};

use super::client::{Client, MAX_ADDRESSES};
use super::error::{CliError, MAX_PLACES, Place, Result};
use super::output::{FAINT, Format, Session};
use super::table::{Grid, cell, fixed, flexible, number};
use super::text::{bytes, clean, count, counted, relative, zone_name};
use crate::geo::database::families;
use crate::geo::{Attribution, Databases, Located};

/// Addresses, or something about the data.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  ipwarden geo 81.2.69.160 2a02:c7f::1
  ipwarden geo update --city
  ipwarden geo update --from GeoLite2-City.mmdb

Without an address: the databases. -o json: an array.
-o raw: ip, network, country, region, city, latitude, longitude, timezone, asn, operator."
)]
pub struct GeoArgs {
    /// Addresses to look up
    #[arg(value_name = "IP")]
    pub ips: Vec<String>,

    /// Something about the data
    #[command(subcommand)]
    pub command: Option<GeoCommand>,
}

/// Something about the data.
#[derive(Debug, Clone, Subcommand)]
pub enum GeoCommand {
    /// List the databases: kind, age, licence, what can't be used
    #[command(
        after_help = "-o raw: file, kind, families, built, bytes, source, attribution, problem."
    )]
    Databases,
    /// Bring free data, or data of your own, to where the service reads it
    Update(update::UpdateArgs),
}

/// Runs `geo` but for `geo update`, which needs no service.
///
/// # Errors
/// Texts that are no addresses, and those of the service.
pub async fn run(session: &mut Session, client: &Client, args: &GeoArgs) -> Result<()> {
    if args.ips.is_empty() {
        databases(session, client).await
    } else {
        locate(session, client, args).await
    }
}

async fn locate(session: &mut Session, client: &Client, args: &GeoArgs) -> Result<()> {
    let ips = addresses(&args.ips)?;
    let mut located = Vec::with_capacity(ips.len());
    for ips in ips.chunks(MAX_ADDRESSES) {
        located.extend(client.locate(ips).await?);
    }
    match session.format {
        Format::Json => session.json(&located),
        Format::Raw => located
            .iter()
            .try_for_each(|located| session.raw(&raw_row(located).each_ref().map(String::as_str))),
        Format::Human => {
            session.table(grid(&located))?;
            // A token that may look up may not be one that may list; then nothing is added.
            let attributions =
                client.geo_databases().await.map(|list| owed(&list)).unwrap_or_default();
            attributions
                .iter()
                .try_for_each(|owed| session.note(format!("{FAINT}{}{FAINT:#}", credit(owed))))
        }
    }
}

/// Single addresses, all errors at once.
fn addresses(texts: &[String]) -> Result<Vec<String>> {
    let mut places = Vec::new();
    let mut ips = Vec::with_capacity(texts.len());
    for text in texts {
        match text.trim().parse::<std::net::IpAddr>() {
            Ok(ip) => ips.push(ip.to_string()),
            Err(_) => places.push(Place {
                place: clean(text).into_owned(),
                message: "expected an IP address such as 192.0.2.7 or 2001:db8::1".to_owned(),
            }),
        }
    }
    if places.is_empty() {
        return Ok(ips);
    }
    let total = places.len() as u64;
    places.truncate(MAX_PLACES);
    let what = counted(total, "address is not valid", "addresses are not valid");
    Err(CliError::Input { message: format!("{what}; nothing was sent"), places, total })
}

fn grid(located: &[Located]) -> Grid {
    let mut grid = Grid::new(
        &[
            fixed("ip"),
            fixed("country"),
            flexible("region").expendable(3),
            flexible("city").expendable(1),
            number("asn").expendable(2),
            flexible("operator").expendable(4),
            fixed("network").expendable(5),
        ],
        "",
    );
    for located in located {
        let place = &located.place;
        let text = |text: &Option<String>| cell(text.as_deref().unwrap_or_default());
        let country = match place.country {
            _ if located.reserved => cell("reserved"),
            Some(country) => cell(country.as_str()),
            None => cell("unknown").warn(),
        };
        grid.row(vec![
            cell(located.ip.to_string()),
            country,
            text(&place.region),
            text(&place.city),
            cell(place.asn.map_or_else(String::new, |asn| asn.to_string())),
            text(&place.as_org),
            cell(located.network.to_string()),
        ]);
    }
    grid
}

/// ip, network, country, region, city, latitude, longitude, timezone, asn, operator.
fn raw_row(located: &Located) -> [String; 10] {
    let place = &located.place;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let degrees = |degrees: Option<f64>| degrees.map_or_else(String::new, |d| d.to_string());
    [
        located.ip.to_string(),
        located.network.to_string(),
        place.country.map_or_else(String::new, |country| country.to_string()),
        text(&place.region),
        text(&place.city),
        degrees(place.latitude),
        degrees(place.longitude),
        text(&place.timezone),
        place.asn.map_or_else(String::new, |asn| asn.to_string()),
        text(&place.as_org),
    ]
}

async fn databases(session: &mut Session, client: &Client) -> Result<()> {
    let list = client.geo_databases().await?;
    match session.format {
        Format::Json => session.json(&list),
        Format::Raw => raw_databases(session, &list),
        Format::Human if list.databases.is_empty() => {
            if let Some(problem) = &list.problem {
                session.warn(format!("{} {}", clean(&list.dir), clean(problem)))?;
            }
            session.say(format!(
                "No geolocation data in {}: records carry no country. `ipwarden geo update` brings free country data, with --city also cities.",
                clean(&list.dir)
            ))
        }
        Format::Human => {
            let (now, zone) = (session.now(), session.zone.clone());
            session.table(database_grid(&list, now, &zone))?;
            for (name, problem) in list.problems() {
                session.warn(format!("{} {}", clean(name), clean(problem)))?;
            }
            owed(&list).iter().try_for_each(|owed| session.note(credit(owed)))
        }
    }
}

fn raw_databases(session: &mut Session, list: &Databases) -> Result<()> {
    for database in &list.databases {
        let data = database.data.as_ref();
        let problem = database.problem.clone().unwrap_or_default();
        let row = match data {
            Some(data) => [
                database.file.clone(),
                data.kind.as_str().to_owned(),
                families(data.ipv4, data.ipv6).to_owned(),
                data.built_at.map_or_else(String::new, |built| built.to_string()),
                data.bytes.to_string(),
                data.source.clone().unwrap_or_default(),
                data.attribution.as_ref().map_or_else(String::new, credit),
                problem,
            ],
            None => {
                let mut row: [String; 8] = Default::default();
                row[0].clone_from(&database.file);
                row[7] = problem;
                row
            }
        };
        session.raw(&row.each_ref().map(String::as_str))?;
    }
    Ok(())
}

fn database_grid(list: &Databases, now: Timestamp, zone: &TimeZone) -> Grid {
    let mut grid = Grid::new(
        &[
            flexible("file"),
            fixed("knows"),
            fixed("of"),
            fixed("built"),
            fixed("age"),
            number("size").expendable(1),
            flexible("source").expendable(2),
        ],
        &zone_name(now, zone),
    );
    for database in &list.databases {
        let Some(data) = &database.data else {
            let mut cells = vec![cell(&database.file), cell("not in use").bad()];
            cells.extend(std::iter::repeat_with(|| cell("")).take(5));
            grid.row(cells);
            continue;
        };
        let kind = data.kind.as_str();
        let knows =
            if data.asn && kind != "asn" { format!("{kind}, asn") } else { kind.to_owned() };
        let built = data.built_at.map(|at| at.to_zoned(zone.clone()).date().to_string());
        let age = data.built_at.map(|at| relative(at, now).trim_end_matches(" ago").to_owned());
        grid.row(vec![
            cell(&database.file),
            cell(knows),
            cell(families(data.ipv4, data.ipv6)),
            cell(built.unwrap_or_default()),
            if is_stale(data.age_seconds) {
                cell(age.unwrap_or_default()).warn()
            } else {
                cell(age.unwrap_or_default())
            },
            cell(bytes(data.bytes)),
            cell(data.source.as_deref().unwrap_or_default()),
        ]);
    }
    grid
}

/// Half a year: so many networks have moved by then that answers mislead.
const STALE_SECONDS: u64 = 182 * 86_400;

/// Whether data is too old to be trusted.
#[must_use]
pub fn is_stale(age_seconds: Option<u64>) -> bool {
    age_seconds.is_some_and(|age| age > STALE_SECONDS)
}

/// Whom to name, each once.
fn owed(list: &Databases) -> Vec<Attribution> {
    let mut owed: Vec<Attribution> = Vec::new();
    for attribution in list.in_use().filter_map(|data| data.attribution.clone()) {
        if !owed.contains(&attribution) {
            owed.push(attribution);
        }
    }
    owed
}

/// An attribution on one line.
fn credit(attribution: &Attribution) -> String {
    let Attribution { text, url, license } = attribution;
    format!("{} <{}> ({})", clean(text), clean(url), clean(license))
}

/// Says in words what a number of databases is: for `doctor` and `geo update`.
#[must_use]
pub fn in_words(databases: usize) -> String {
    format!("{} {}", count(databases as u64), if databases == 1 { "database" } else { "databases" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(grid: Grid) -> String {
        anstream::adapter::strip_str(&grid.render(None).text).to_string()
    }

    #[test]
    fn places_are_a_table() {
        let located: Vec<Located> = serde_json::from_value(serde_json::json!([
            {"ip": "81.2.69.160", "network": "81.2.69.160/27", "country": "GB", "region": "England",
             "city": "London", "asn": 20712, "as_org": "Andrews & Arnold Ltd"},
            {"ip": "10.0.0.1", "network": "10.0.0.0/8", "reserved": true},
            {"ip": "200.0.0.1", "network": "200.0.0.0/7"},
        ]))
        .unwrap();
        assert_eq!(
            plain(grid(&located)),
            "ip           country   region   city      asn  operator              network\n\
             81.2.69.160  GB        England  London  20712  Andrews & Arnold Ltd  81.2.69.160/27\n\
             10.0.0.1     reserved                                                10.0.0.0/8\n\
             200.0.0.1    unknown                                                 200.0.0.0/7"
        );
        assert_eq!(raw_row(&located[1])[..3], ["10.0.0.1", "10.0.0.0/8", ""]);
    }

    #[test]
    fn databases_are_a_table_with_what_is_owed() {
        let list: Databases = serde_json::from_value(serde_json::json!({
            "dir": "/srv/geo", "problem": null,
            "databases": [
                {"file": "city.mmdb", "problem": null, "problem_since": null, "data": {
                    "kind": "city", "asn": true, "type": "city ipv4", "ipv4": true, "ipv6": false,
                    "built_at": "2026-11-20T16:00:00Z", "age_seconds": 172_800,
                    "loaded_at": "2026-11-22T15:00:00Z", "bytes": 63_069_790,
                    "source": "npm @x/city@1", "attribution": {"text": "by X", "url": "https://x.example", "license": "CC BY 4.0"},
                }},
                {"file": "b.mmdb", "data": null, "problem": "is empty", "problem_since": "2026-11-22T15:00:00Z"},
            ],
        }))
        .unwrap();
        let now = "2026-11-22T16:00:00Z".parse().unwrap();
        assert_eq!(
            plain(database_grid(&list, now, &TimeZone::UTC)),
            "file       knows       of    built       age      size  source\n\
             city.mmdb  city, asn   IPv4  2026-11-20  2d   60.1 MiB  npm @x/city@1\n\
             b.mmdb     not in use"
        );
        assert_eq!(
            owed(&list).iter().map(credit).collect::<Vec<_>>(),
            ["by X <https://x.example> (CC BY 4.0)"]
        );
        assert!(is_stale(Some(183 * 86_400)) && !is_stale(Some(181 * 86_400)) && !is_stale(None));
    }

    #[test]
    fn every_text_that_is_no_address_is_named() {
        let texts = ["81.2.69.160", "x", "10.0.0.0/8"].map(str::to_owned);
        let CliError::Input { message, places, total } = addresses(&texts).unwrap_err() else {
            panic!()
        };
        assert_eq!((message.as_str(), total), ("2 addresses are not valid; nothing was sent", 2));
        assert_eq!(places[1].place, "10.0.0.0/8");
    }
}
