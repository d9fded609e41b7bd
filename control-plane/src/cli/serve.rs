//! `ipwarden serve`: flags to a checked configuration, then the service itself.

use std::path::PathBuf;

use clap::Args;

use super::config::places;
use super::error::{CliError, Result};
use super::place::Place;
use super::text::counted;
use crate::config::{Config, Flags, process_environment};

/// What `ipwarden.toml` and the environment say otherwise. Values are checked with them.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Settings come from ipwarden.toml, then IPWARDEN_* variables, then flags; the later wins.
The first start writes admin.token and proxy.token into the data directory.")]
pub struct ServeArgs {
    /// Configuration file [default: ipwarden.toml in the working directory, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where to listen [default: 127.0.0.1:8088]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,

    /// Where records are kept: sqlite, or the URL of a ClickHouse server such as
    /// clickhouse://user@host:8123/database. A password belongs into a file (log_password_file):
    /// others see command lines [default: sqlite, in the data directory]
    #[arg(long, value_name = "URL")]
    pub log: Option<String>,
    /// Where the state is: sqlite, or the URL of a PostgreSQL database that several control planes
    /// share. A password belongs into a file (state_password_file): others see command lines
    /// [default: sqlite, in the data directory]
    #[arg(long, value_name = "URL")]
    pub state: Option<String>,

    /// Where limits with the scope `fleet` are counted: memory, or the URL of a Redis or Valkey
    /// that several control planes share, such as redis://user@host:6379. A password belongs into a
    /// file (limits.store_password_file) [default: memory]
    #[arg(long, value_name = "URL")]
    pub limits: Option<String>,

    /// Envoy's admin interface, for `ipwarden doctor`
    #[arg(long, value_name = "URL")]
    pub envoy_admin: Option<String>,

    /// Store the query string of every request: it may hold personal data
    #[arg(long)]
    pub store_query: bool,

    /// Which log lines are written: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// How log lines look: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Checks the configuration.
///
/// # Errors
/// [`CliError::Invalid`] with every error of every source; [`CliError::Input`] when only
/// flags are wrong.
pub fn configure(args: &ServeArgs, place: &Place) -> Result<Config> {
    let flags = Flags {
        listen: args.listen.clone(),
        data_dir: place.data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned()),
        log: args.log.clone(),
        state: args.state.clone(),
        limits: args.limits.clone(),
        envoy_admin: args.envoy_admin.clone(),
        store_query: args.store_query,
        log_level: args.log_level.clone(),
        log_format: args.log_format.clone(),
    };
    Config::load(args.config.as_deref(), process_environment(), &flags).map_err(|errors| {
        let total = errors.0.len() as u64;
        let message = format!(
            "the service does not start: {} in its configuration",
            counted(total, "error", "errors")
        );
        let only_flags = errors.0.iter().all(|error| error.place.starts_with("--"));
        let places = places(errors.0.into_iter().map(|error| (error.place, error.message)));
        if only_flags {
            CliError::Input { message, places, total }
        } else {
            CliError::Invalid { message, places, total }
        }
    })
}

/// Runs the service until it is told to end.
///
/// # Errors
/// A bad configuration; [`CliError::Start`] when the service can't start.
pub fn run(args: &ServeArgs, place: &Place) -> Result<()> {
    let config = configure(args, place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Start(format!("can't start: {error}")))?;
    runtime
        .block_on(crate::serve::serve(config))
        .map_err(|error| CliError::Start(error.to_string()))
}
