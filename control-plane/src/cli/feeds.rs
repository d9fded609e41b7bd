//! `ipwarden feeds`: lists that are fetched from elsewhere.

use clap::{Args, Subcommand, ValueEnum};

use super::client::Client;
use super::decisions::ActionWord;
use super::error::{CliError, EXIT_REFUSED, Result};
use super::output::{Format, GOOD, STRONG, Session, WARN};
use super::table::{Grid, cell, fixed, flexible, number};
use super::text::{clean, count, counted, relative, zone_name};
use super::unblock::confirm;
use crate::api::feeds::{FeedState, FeedView};
use crate::feeds::definition::{Definition, Format as FeedFormat};
use crate::model::Action;

/// What about feeds.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden feeds add spamhaus-drop https://www.spamhaus.org/drop/drop_v4.json --format json-lines
  ipwarden feeds add firehol https://iplists.firehol.org/files/firehol_level1.netset --every 6h
  ipwarden feeds add crawlers https://example.com/crawlers.json --format json --items /prefixes --field ipv4Prefix --field ipv6Prefix --action allow
  ipwarden feeds add crowdsec http://127.0.0.1:8080 --format crowdsec --key-file crowdsec.key --private-addresses
  ipwarden feeds refresh firehol --accept

-o raw: name, state, entries, location, last heard of, next, problem or why withheld.")]
pub struct FeedsArgs {
    /// What to do [default: list]
    #[command(subcommand)]
    pub command: Option<FeedsCommand>,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum FeedsCommand {
    /// List feeds and how they are doing
    List,
    /// Show one with everything that is known of it
    Show {
        /// Its name
        name: String,
    },
    /// Add one and fetch it
    Add(Box<AddArgs>),
    /// Fetch one now, or all of them
    Refresh {
        /// Its name; all of them if absent
        name: Option<String>,
        /// Take the list that is withheld because it changed too sharply
        #[arg(long, requires = "name")]
        accept: bool,
    },
    /// Remove one and all its decisions
    Remove {
        /// Its name
        name: String,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// How a document is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatWord {
    /// A target a line: plain lists, netsets, Spamhaus' DROP as text
    List,
    /// A JSON object a line: Spamhaus' DROP
    JsonLines,
    /// One JSON document
    Json,
    /// Columns
    Csv,
    /// The local API of a CrowdSec
    Crowdsec,
}

impl From<FormatWord> for FeedFormat {
    fn from(word: FormatWord) -> Self {
        match word {
            FormatWord::List => Self::List,
            FormatWord::JsonLines => Self::JsonLines,
            FormatWord::Json => Self::Json,
            FormatWord::Csv => Self::Csv,
            FormatWord::Crowdsec => Self::Crowdsec,
        }
    }
}

/// What to add.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// Its name: its decisions have the origin feed:NAME
    pub name: String,
    /// https://…, http://…, or file:NAME in the feeds directory of the service
    pub location: String,
    /// How it is read
    #[arg(
        long,
        value_enum,
        default_value = "list",
        value_name = "list|json-lines|json|csv|crowdsec",
        hide_possible_values = true
    )]
    pub format: FormatWord,
    /// What its decisions do
    #[arg(
        long,
        value_enum,
        default_value = "block",
        value_name = "block|allow",
        hide_possible_values = true
    )]
    pub action: ActionWord,
    /// How often it is fetched [default: 1h; 10s for a CrowdSec]
    #[arg(long, value_name = "DURATION")]
    pub every: Option<String>,
    /// Its decisions end when it was not heard of for so long [default: 7d]
    #[arg(long, value_name = "DURATION")]
    pub stale_after: Option<String>,
    /// Of JSON: a pointer to the array of items
    #[arg(long, value_name = "POINTER")]
    pub items: Option<String>,
    /// Where in an item the target stands: name or pointer, name or number of a column; may be repeated
    #[arg(long = "field", value_name = "NAME")]
    pub fields: Vec<String>,
    /// A file in the feeds directory of the service with the publisher's key
    #[arg(long, value_name = "NAME")]
    pub key_file: Option<String>,
    /// The header that the key is sent in [default: x-api-key]
    #[arg(long, value_name = "HEADER", requires = "key_file")]
    pub key_header: Option<String>,
    /// Take only what is signed with this minisign key
    #[arg(long, value_name = "KEY")]
    pub minisign_key: Option<String>,
    /// It may be fetched from private addresses
    #[arg(long)]
    pub private_addresses: bool,
    /// Private and reserved networks are taken, too
    #[arg(long)]
    pub include_reserved: bool,
    /// Whose work it is, where the document does not say
    #[arg(long, value_name = "TEXT")]
    pub attribution: Option<String>,
    /// Make one of that name anew
    #[arg(long)]
    pub replace: bool,
}

impl AddArgs {
    fn definition(&self) -> Definition {
        Definition {
            location: self.location.clone(),
            format: self.format.into(),
            action: self.action.into(),
            every: self.every.clone(),
            stale_after: self.stale_after.clone(),
            items: self.items.clone(),
            fields: self.fields.clone(),
            key_file: self.key_file.clone(),
            key_header: self.key_header.clone(),
            minisign_key: self.minisign_key.clone(),
            private_addresses: self.private_addresses,
            include_reserved: self.include_reserved,
            attribution: self.attribution.clone(),
        }
    }
}

/// Runs `feeds`.
///
/// # Errors
/// Those of the service; [`CliError::Exit`] when a feed could not be fetched or was not taken.
pub async fn run(session: &mut Session, client: &Client, args: &FeedsArgs) -> Result<()> {
    match &args.command {
        None | Some(FeedsCommand::List) => list(session, client).await,
        Some(FeedsCommand::Show { name }) => {
            let feed = client.feed(name).await?;
            show(session, &feed)
        }
        Some(FeedsCommand::Add(add)) => {
            client.put_feed(&add.name, &add.definition(), add.replace).await?;
            let fetched = client.refresh_feed(&add.name, false).await?;
            told(session, &[fetched])
        }
        Some(FeedsCommand::Refresh { name: Some(name), accept }) => {
            let fetched = client.refresh_feed(name, *accept).await?;
            told(session, &[fetched])
        }
        Some(FeedsCommand::Refresh { name: None, .. }) => {
            let mut fetched = Vec::new();
            for feed in client.feeds().await?.feeds {
                fetched.push(match client.refresh_feed(&feed.name, false).await {
                    // One that wants to be left alone must not keep the others from it.
                    Err(CliError::Refused { status: 429, message, .. }) => {
                        session.warn(format!("{}: {message}", clean(&feed.name)))?;
                        feed
                    }
                    other => other?,
                });
            }
            told(session, &fetched)
        }
        Some(FeedsCommand::Remove { name, yes }) => remove(session, client, name, *yes).await,
    }
}

async fn list(session: &mut Session, client: &Client) -> Result<()> {
    let found = client.feeds().await?;
    match session.format {
        Format::Json => session.json(&found),
        Format::Raw => found.feeds.iter().try_for_each(|feed| row(session, feed)),
        Format::Human if found.feeds.is_empty() => session.say(
            "No feeds. `ipwarden feeds add NAME URL` imports a list again and again; see `ipwarden feeds --help`.",
        ),
        Format::Human => {
            let now = session.now();
            let columns = [
                fixed("feed"),
                fixed("state"),
                number("entries"),
                fixed("action").expendable(3),
                fixed("heard of"),
                fixed("next").expendable(2),
                flexible("location").expendable(1),
            ];
            let mut grid = Grid::new(&columns, &zone_name(now, &session.zone));
            let when = |time: Option<jiff::Timestamp>| time.map_or_else(|| "-".to_owned(), |time| relative(time, now));
            for feed in &found.feeds {
                let state = cell(word(feed.state));
                grid.row(vec![
                    cell(&feed.name),
                    if feed.state == FeedState::Ok { state.good() } else { state.bad() },
                    cell(count(feed.entries)),
                    cell(feed.action.as_str()),
                    cell(when(feed.succeeded_at)),
                    cell(when(feed.next_at)),
                    cell(&feed.location),
                ]);
            }
            session.table(grid)?;
            for feed in &found.feeds {
                if let Some(why) = trouble(feed) {
                    session.warn(why)?;
                }
            }
            Ok(())
        }
    }
}

fn show(session: &mut Session, feed: &FeedView) -> Result<()> {
    match session.format {
        Format::Json => session.json(feed),
        Format::Raw => row(session, feed),
        Format::Human => {
            let now = session.now();
            let when = |time: Option<jiff::Timestamp>| {
                time.map_or_else(
                    || "never".to_owned(),
                    |time| format!("{} ({time})", relative(time, now)),
                )
            };
            let left = &feed.left_out;
            let mut lines = vec![
                ("location", feed.location.clone()),
                ("format", feed.format.as_str().to_owned()),
                ("state", word(feed.state).to_owned()),
                ("entries", format!("{} ({})", count(feed.entries), feed.action.as_str())),
                ("fetched", format!("every {}", feed.every)),
                ("ends", format!("when not heard of for {}", feed.stale_after)),
                ("heard of", when(feed.succeeded_at)),
                ("tried", when(feed.checked_at)),
                ("changed", when(feed.changed_at)),
                ("next", when(feed.next_at)),
                ("signed", if feed.signed { "yes, checked" } else { "no" }.to_owned()),
                (
                    "left out",
                    format!(
                        "{} not readable, {} repeated, {} private or reserved, {} never to be blocked, {} of another kind",
                        count(left.rejected),
                        count(left.duplicates),
                        count(left.reserved),
                        count(left.protected),
                        count(left.others)
                    ),
                ),
                (
                    "allowed",
                    counted(feed.overlaps, "entry touches an allow", "entries touch allows"),
                ),
            ];
            lines.extend(feed.attribution.iter().map(|text| ("by", text.clone())));
            for (name, text) in lines {
                session.say(format!("{name:<9} {}", clean(&text)))?;
            }
            for overlap in &feed.overlap_samples {
                session.say(format!(
                    "          {} against the allow of {}",
                    clean(&overlap.entry),
                    clean(&overlap.allow)
                ))?;
            }
            for sample in &feed.samples {
                session.say(format!("          {}", clean(sample)))?;
            }
            if let Some(why) = trouble(feed) {
                session.warn(why)?;
            }
            Ok(())
        }
    }
}

/// Says what a fetch led to.
fn told(session: &mut Session, feeds: &[FeedView]) -> Result<()> {
    match session.format {
        Format::Json => match feeds {
            [one] => session.json(one)?,
            all => session.json(&all)?,
        },
        Format::Raw => feeds.iter().try_for_each(|feed| row(session, feed))?,
        Format::Human => {
            for feed in feeds {
                let name = clean(&feed.name);
                match trouble(feed) {
                    Some(why) => session.warn(why)?,
                    None => session.say(format!(
                        "{GOOD}In force{GOOD:#}: {STRONG}{name}{STRONG:#}, {}{}.",
                        counted(feed.entries, "decision", "decisions"),
                        match feed.action {
                            Action::Block => "",
                            Action::Allow => " that allow",
                        }
                    ))?,
                }
                if feed.overlaps > 0 {
                    session.warn(format!(
                        "{name}: {}: what is allowed stays allowed; `ipwarden feeds show {name}` names them",
                        counted(feed.overlaps, "entry touches an allow", "entries touch allows")
                    ))?;
                }
                if feed.left_out.reserved > 0 {
                    session.note(format!(
                        "{name}: {} left out: private or reserved; --include-reserved takes them",
                        counted(feed.left_out.reserved, "network", "networks")
                    ))?;
                }
            }
        }
    }
    if feeds.iter().any(|feed| trouble(feed).is_some()) {
        return Err(CliError::Exit(EXIT_REFUSED));
    }
    Ok(())
}

/// What is wrong with a feed, in words.
#[must_use]
pub fn trouble(feed: &FeedView) -> Option<String> {
    let name = clean(&feed.name);
    let kept =
        || format!("{} of the last good one", counted(feed.entries, "decision", "decisions"));
    match (&feed.problem, &feed.withheld) {
        (Some(problem), _) => {
            Some(format!("{name} could not be fetched: {}; in force: {}", clean(problem), kept()))
        }
        (None, Some(why)) => Some(format!(
            "{name}: the new list is not taken: {}; in force: {}; `ipwarden feeds refresh {name} --accept` takes it if that is meant",
            clean(why),
            kept()
        )),
        (None, None) if feed.state == FeedState::Stale => Some(format!(
            "{name} was not heard of for {}: its decisions have ended",
            feed.stale_after
        )),
        (None, None) => None,
    }
}

const fn word(state: FeedState) -> &'static str {
    match state {
        FeedState::New => "new",
        FeedState::Ok => "ok",
        FeedState::Withheld => "withheld",
        FeedState::Failing => "failing",
        FeedState::Stale => "stale",
    }
}

fn row(session: &mut Session, feed: &FeedView) -> Result<()> {
    let text =
        |time: Option<jiff::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let (heard, next) = (text(feed.succeeded_at), text(feed.next_at));
    let why = feed.problem.as_ref().or(feed.withheld.as_ref()).map_or("", String::as_str);
    let entries = feed.entries.to_string();
    session.raw(&[&feed.name, word(feed.state), &entries, &feed.location, &heard, &next, why])
}

async fn remove(session: &mut Session, client: &Client, name: &str, yes: bool) -> Result<()> {
    if !yes {
        let feed = client.feed(name).await?;
        let decisions = counted(feed.entries, "decision", "decisions");
        confirm(session, &format!("Remove the feed {name} with {decisions}?"))?;
    }
    let removed = client.remove_feed(name).await?;
    match session.format {
        Format::Json => session.json(&removed),
        Format::Raw => session.raw(&[&removed.name, &removed.decisions.to_string()]),
        Format::Human => session.say(format!(
            "{WARN}Removed{WARN:#} {STRONG}{}{STRONG:#} with {}.",
            clean(&removed.name),
            counted(removed.decisions, "decision", "decisions")
        )),
    }
}
