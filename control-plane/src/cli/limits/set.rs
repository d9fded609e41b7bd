//! `ipwarden limits set`: a limit from flags or from a file.

use std::io::Read as _;

use clap::{Args, ValueEnum};
use ipwarden::limits::Scope;
use ipwarden::limits::policy::MAX_PAYLOAD_BYTES;
use serde_json::{Map, Value, json};

use super::words::{in_short, mode, on_proxies};
use crate::cli::client::Client;
use crate::cli::config::places;
use crate::cli::error::{CliError, Place, Result};
use crate::cli::output::{Format, GOOD, STRONG, Session};
use crate::cli::replies::LimitSet;
use crate::cli::text::{clean, counted};
use crate::limits::{NameError, mode_of, named};

/// What a limit says.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden limits set login --match-prefix /login --match-prefix /admin \\
      --anonymous 5/1m --authenticated 10/1m
  ipwarden limits set api --host api.example.com --key identity \\
      --anonymous 60/1m,burst=120 --mode shadow
  ipwarden limits show login -o raw > login.json
  ipwarden limits set login --from login.json

It takes the place of the whole limit of that name, be it configured or set before; another name
adds a limit. Everything that a limit can say (tiers, cost, exemptions) can be said in a file, in
JSON as in the plugin's configuration. Buckets keep their state where the key is the same.
-o raw: the limit as it is in force, in JSON.")]
pub struct SetArgs {
    /// Its name: a-z, 0-9, '-' and '_', at most 64
    #[arg(value_name = "NAME", value_parser = super::name)]
    pub name: String,

    /// Requests whose path begins with this (repeat for several)
    #[arg(long, value_name = "PATH", conflicts_with = "from")]
    pub match_prefix: Vec<String>,

    /// Requests with exactly this path (repeat for several)
    #[arg(long, value_name = "PATH", conflicts_with = "from")]
    pub match_path: Vec<String>,

    /// Requests whose path this regular expression describes (repeat for several)
    #[arg(long, value_name = "REGEX", conflicts_with = "from")]
    pub match_regex: Vec<String>,

    /// Requests with this method (repeat for several)
    #[arg(long, value_name = "METHOD", conflicts_with = "from")]
    pub method: Vec<String>,

    /// Requests to this host, or with a leading '*.' to all below it (repeat for several)
    #[arg(long, value_name = "HOST", conflicts_with = "from")]
    pub host: Vec<String>,

    /// What it counts by: ip, identity, ip+route or header:NAME [default: ip]
    #[arg(long, value_name = "KEY", conflicts_with = "from")]
    pub key: Option<String>,

    /// Count in each proxy on its own, or over all of them together [default: proxy]
    #[arg(
        long,
        value_enum,
        value_name = "proxy|fleet",
        hide_possible_values = true,
        conflicts_with = "from"
    )]
    pub scope: Option<ScopeWord>,

    /// For clients whose identity is not known: REQUESTS/TIME[,burst=N], or unlimited
    #[arg(long, value_name = "RATE", value_parser = rate, required_unless_present = "from", conflicts_with = "from")]
    pub anonymous: Option<Value>,

    /// For clients whose identity is verified [default: as anonymous]
    #[arg(long, value_name = "RATE", value_parser = rate, conflicts_with = "from")]
    pub authenticated: Option<Value>,

    /// Refuse, or only record what would be refused [default: enforce]
    #[arg(
        long,
        value_enum,
        value_name = "enforce|shadow",
        hide_possible_values = true,
        conflicts_with = "from"
    )]
    pub mode: Option<ModeWord>,

    /// Tell admitted clients where they stand, too (RateLimit headers)
    #[arg(long, conflicts_with = "from")]
    pub headers: bool,

    /// Read the limit from a file in JSON ('-': standard input)
    #[arg(long, value_name = "FILE")]
    pub from: Option<String>,
}

/// A mode as a word of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeWord {
    /// It refuses
    Enforce,
    /// It records what it would refuse
    Shadow,
}

impl ModeWord {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// A scope as a word of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeWord {
    /// Each proxy on its own
    Proxy,
    /// All proxies together
    Fleet,
}

impl ScopeWord {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => Scope::Proxy.as_str(),
            Self::Fleet => Scope::Fleet.as_str(),
        }
    }
}

/// Runs `limits set`.
///
/// # Errors
/// [`CliError::Input`] for a limit that is none, [`CliError::File`], those of the service.
pub async fn run(session: &mut Session, client: &Client, args: &SetArgs) -> Result<()> {
    let (text, from) = match &args.from {
        Some(file) => (read(file)?, shown(file)),
        None => (from_flags(args).to_string().into_bytes(), "the limit"),
    };
    let text = checked(&args.name, &text, from)?;
    let set = client.set_limit(&args.name, text).await?;
    match session.format {
        Format::Json => session.json(&set),
        Format::Raw => session.json_line(&set.limit),
        Format::Human => session.say(sentence(&args.name, &set)),
    }
}

/// The limit as the configuration writes it.
fn from_flags(args: &SetArgs) -> Value {
    let mut limit = Map::new();
    let mut matches = Map::new();
    for (name, values) in [
        ("path_prefix", &args.match_prefix),
        ("path", &args.match_path),
        ("path_regex", &args.match_regex),
        ("methods", &args.method),
        ("hosts", &args.host),
    ] {
        if !values.is_empty() {
            matches.insert(name.to_owned(), json!(values));
        }
    }
    if !matches.is_empty() {
        limit.insert("match".to_owned(), Value::Object(matches));
    }
    for (name, value) in [
        ("key", args.key.as_ref().map(|key| json!(key))),
        ("anonymous", args.anonymous.clone()),
        ("authenticated", args.authenticated.clone()),
        ("scope", args.scope.map(|scope| json!(scope.as_str()))),
        ("mode", args.mode.map(|mode| json!(mode.as_str()))),
        ("headers", args.headers.then_some(Value::Bool(true))),
    ] {
        if let Some(value) = value {
            limit.insert(name.to_owned(), value);
        }
    }
    Value::Object(limit)
}

/// Asks the filter's own code before anything is sent.
fn checked(name: &str, text: &[u8], from: &str) -> Result<Vec<u8>> {
    let refused = |places: Vec<Place>| {
        let total = places.len() as u64;
        CliError::Input {
            message: format!("{from} has {}; nothing was sent", counted(total, "error", "errors")),
            places,
            total,
        }
    };
    let text = named(name, text).map_err(|error| {
        let place = match error {
            NameError::Other { .. } => "name",
            NameError::NotJson(_) | NameError::NotAnObject => "limit",
        };
        refused(vec![Place { place: place.to_owned(), message: error.to_string() }])
    })?;
    match ipwarden::config::check_limit(&text) {
        Ok(_) => Ok(text),
        Err(errors) => {
            let errors = errors.into_iter().map(|error| (error.place, error.message));
            Err(refused(places(errors)))
        }
    }
}

fn shown(file: &str) -> &str {
    if file == "-" { "standard input" } else { file }
}

fn read(file: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    // One byte more than allowed, so that the check itself can say that it is too much.
    let most = MAX_PAYLOAD_BYTES as u64 + 1;
    let done = if file == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut content)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(most).read_to_end(&mut content))
    };
    done.map(|_| content).map_err(|source| CliError::File { path: shown(file).to_owned(), source })
}

/// `Set login: 5/1m for each address on /login*, enforced on 3 proxies, revision 7.`
fn sentence(name: &str, set: &LimitSet) -> String {
    let limit = &set.limit;
    let replaced = if set.replaced { " It replaces the one set before." } else { "" };
    let proxies = match set.proxies {
        0 => "in force as soon as a proxy follows this service".to_owned(),
        some => format!("{} {}", mode(mode_of(limit)), on_proxies(some)),
    };
    format!(
        "{GOOD}Set{GOOD:#} {STRONG}{name}{STRONG:#}: {}; {proxies}, revision {}.{replaced}",
        clean(&in_short(limit)),
        set.revision,
    )
}

/// Reads `5/1m`, `5/m`, `5/1m,burst=20` or `unlimited`. Bounds are the filter's to check.
fn rate(text: &str) -> Result<Value, String> {
    let refused = || {
        "expected REQUESTS/TIME such as 5/1m, with a burst 5/1m,burst=20, or unlimited".to_owned()
    };
    if text == "unlimited" {
        return Ok(json!(text));
    }
    let (rate, burst) = match text.split_once(',') {
        Some((rate, burst)) => {
            (rate, Some(burst.trim().strip_prefix("burst=").ok_or_else(refused)?))
        }
        None => (text, None),
    };
    let (requests, per) = rate.split_once('/').ok_or_else(refused)?;
    // '5/m' means what it looks like.
    let per = if per.starts_with(|c: char| c.is_ascii_alphabetic()) {
        format!("1{per}")
    } else {
        per.to_owned()
    };
    ipwarden::duration::parse(&per).map_err(|_| refused())?;
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| refused());
    let mut value = json!({ "requests": number(requests)?, "per": per.trim() });
    if let Some(burst) = burst {
        value["burst"] = number(burst)?.into();
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SetArgs,
    }

    fn limit(line: &str) -> Value {
        from_flags(&Line::try_parse_from(line.split(' ')).unwrap().args)
    }

    #[test]
    fn flags_say_what_the_configuration_would() {
        assert_eq!(
            limit("set login --anonymous 5/m"),
            json!({"anonymous": {"requests": 5, "per": "1m"}})
        );
        assert_eq!(
            limit(
                "set api --match-prefix /a --match-prefix /b --match-path /c --match-regex ^/d --method POST --host *.example.com --key header:x-key --anonymous 5/1m,burst=20 --authenticated unlimited --mode shadow --headers"
            ),
            json!({
                "match": {
                    "path_prefix": ["/a", "/b"], "path": ["/c"], "path_regex": ["^/d"],
                    "methods": ["POST"], "hosts": ["*.example.com"],
                },
                "key": "header:x-key",
                "anonymous": {"requests": 5, "per": "1m", "burst": 20},
                "authenticated": "unlimited", "mode": "shadow", "headers": true,
            })
        );
    }

    #[test]
    fn what_is_no_rate_is_told_what_is_expected() {
        for text in ["5", "5/", "/1m", "5/1x", "x/1m", "5/1m,20", "5/1m,burst=", "Unlimited"] {
            assert_eq!(
                rate(text).unwrap_err(),
                "expected REQUESTS/TIME such as 5/1m, with a burst 5/1m,burst=20, or unlimited",
                "{text}"
            );
        }
    }

    #[test]
    fn a_limit_is_checked_before_it_is_sent() {
        let refused = |text: &str| match checked("login", text.as_bytes(), "login.json") {
            Err(CliError::Input { message, places, .. }) => {
                let places: Vec<String> =
                    places.iter().map(|at| format!("{}: {}", at.place, at.message)).collect();
                (message, places)
            }
            other => panic!("{other:?}"),
        };
        let (message, places) = refused(r#"{"name": "api", "anonymous": "unlimited"}"#);
        assert_eq!(message, "login.json has 1 error; nothing was sent");
        assert_eq!(places, ["name: found 'api': expected 'login', or no name"]);
        let (message, places) = refused(r#"{"key": "ipp", "anonymos": "unlimited"}"#);
        assert_eq!(message, format!("login.json has {} errors; nothing was sent", places.len()));
        assert!(places.len() >= 2, "{places:?}");
    }

    #[test]
    fn what_was_set_is_told_in_a_sentence() {
        let mut set = LimitSet {
            revision: 7,
            limit: json!({
                "match": {"path_prefix": "/login"}, "anonymous": {"requests": 5, "per": "1m"},
                "authenticated": {"requests": 10, "per": "1m"},
            }),
            replaced: true,
            proxies: 3,
        };
        let told =
            |set: &LimitSet| anstream::adapter::strip_str(&sentence("login", set)).to_string();
        assert_eq!(
            told(&set),
            "Set login: 5/1m, 10/1m where authenticated, for each address, for /login*; enforced on 3 proxies, revision 7. It replaces the one set before."
        );
        set.limit = json!({"anonymous": {"requests": 5, "per": "1m"}, "mode": "shadow"});
        (set.replaced, set.proxies) = (false, 1);
        assert_eq!(
            told(&set),
            "Set login: 5/1m for each address, for every request; in shadow mode on 1 proxy, revision 7."
        );
        set.proxies = 0;
        assert_eq!(
            told(&set),
            "Set login: 5/1m for each address, for every request; in force as soon as a proxy follows this service, revision 7."
        );
    }
}
