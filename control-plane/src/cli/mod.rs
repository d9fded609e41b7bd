//! The command line: what a person or a script types, and what they get to read.
//!
//! Owns arguments, output and exit codes. Decides nothing about decisions or records: it
//! asks the running service over HTTP (see [`client`]); only `check-config` and
//! `explain-ip` work alone, with the filter's own code, and `geo update`, which brings files
//! to where the service reads them. Input is checked here first, so that
//! a slip never reaches the service.
//!
//! | module | owns |
//! |---|---|
//! | [`error`] | what can go wrong, exit codes |
//! | [`output`], [`table`] | the three formats, colours, tables |
//! | [`text`] | cleaning of foreign text, times, counts |
//! | [`place`] | where the service is, which token |
//! | [`client`], [`replies`] | the service's API |
//! | [`lists`], [`progress`] | lists of targets from files |
//! | [`sse`], [`follow`] | the live stream |
//! | the others | one group of commands each |

pub mod block;
pub mod check;
pub mod client;
pub mod config;
pub mod decisions;
pub mod detect;
pub mod doctor;
#[cfg(test)]
mod documentation;
pub mod error;
pub mod explain;
pub mod feeds;
pub mod fleet;
pub mod follow;
pub mod geo;
pub mod health;
pub mod import;
pub mod limits;
pub mod lists;
pub mod notify;
pub mod output;
pub mod place;
pub mod privacy;
pub mod progress;
pub mod regions;
pub mod replay;
pub mod replies;
pub mod requests;
pub mod rules;
#[cfg(test)]
mod samples;
pub mod serve;
mod sight;
pub mod sse;
pub mod suspects;
pub mod table;
pub mod text;
pub mod unblock;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use self::client::Client;
use self::error::{CliError, EXIT_DONE, EXIT_USAGE, Result};
use self::output::{Format, Session};
use crate::model::Action;

/// Address security for Envoy and Istio: decide who is refused, see who came
#[derive(Debug, Parser)]
#[command(
    name = "ipwarden",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 refused or not found, 2 usage, 3 the service can't be reached.\n\
                  Environment: IPWARDEN_URL, IPWARDEN_TOKEN, IPWARDEN_DATA_DIR, NO_COLOR."
)]
struct Cli {
    /// For people, one JSON document, or tab-separated bare values
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "human|json|raw",
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    output: Format,

    #[command(flatten)]
    place: place::Place,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service: decisions, records, API
    Serve(serve::ServeArgs),
    /// Check a configuration file, all errors at once
    CheckConfig(config::CheckConfigArgs),
    /// Look at everything and say how to mend what is not in order
    Doctor(doctor::DoctorArgs),
    /// Say whether the service is ready: for the health checks of containers
    #[command(after_help = "Needs no token. Exit code 0: ready, 1: not yet, 3: nobody answers.")]
    Health,
    /// Refuse requests from addresses or networks, or from a country at a path
    #[command(after_help = block::BLOCK_HELP)]
    Block(block::BlockArgs),
    /// Take blocks back
    #[command(after_help = unblock::HELP)]
    Unblock(unblock::UnblockArgs),
    /// Let addresses or networks pass whatever any block says
    #[command(after_help = block::ALLOW_HELP)]
    Allow(block::AddArgs),
    /// Take allows back
    #[command(after_help = unblock::HELP)]
    Unallow(unblock::RemoveArgs),
    /// List or export decisions
    Decisions(decisions::DecisionsArgs),
    /// Say whether an address is blocked, why, and until when
    Check(check::CheckArgs),
    /// Say which address is the client, step by step
    ExplainIp(explain::ExplainArgs),
    /// List and change limits: how many requests a client may make
    Limits(limits::LimitsArgs),
    /// List suspects, tell why, confirm or dismiss them
    Suspects(suspects::SuspectsArgs),
    /// List who is told of suspects and blocks, or test it
    Notify(notify::NotifyArgs),
    /// Look at an hour of stored requests for what is suspicious
    Detect(detect::DetectArgs),
    /// Feed access logs through the detectors: who would have been found, who blocked
    Replay(replay::ReplayArgs),
    /// List the detection rules, or run their examples
    Rules(rules::RulesArgs),
    /// Search the stored requests, or follow them live
    Requests(requests::RequestsArgs),
    /// Tell or erase everything that is held on an address
    Subject(privacy::subject::SubjectArgs),
    /// Say what is hidden and deleted when; do it now
    Retention(privacy::retention::RetentionArgs),
    /// List, replace and destroy the keys of pseudonyms
    Keys(privacy::keys::KeysArgs),
    /// Say which address a pseudonym stands for, and note why
    Reveal(privacy::keys::RevealArgs),
    /// Import lists of others again and again
    Feeds(feeds::FeedsArgs),
    /// Say where addresses are; list and update the data that says so
    Geo(geo::GeoArgs),
    /// Take over what another system recorded, blocked and suspected
    Import(import::ImportArgs),
    /// List the Envoys: last seen, revision, records lost
    #[command(
        after_help = "-o raw: name, version, last seen, revision, revisions behind, workers, requests seen, stored, lost, skipped, clock offset in ms."
    )]
    Proxies,
    /// Say who did what
    Audit(fleet::AuditArgs),
    /// Make, list and revoke tokens
    Token {
        #[command(subcommand)]
        command: Option<fleet::TokenCommand>,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error, &arguments)),
    };
    let mut session = Session::of_process(cli.output);
    let outcome = run(&mut session, cli).and_then(|()| Ok(session.stdout.flush()?));
    ExitCode::from(match outcome {
        Ok(()) => EXIT_DONE,
        Err(error) => session.report(&error),
    })
}

fn run(session: &mut Session, cli: Cli) -> Result<()> {
    let here = std::env::current_dir()
        .map_err(|source| CliError::File { path: "the working directory".to_owned(), source })?;
    match &cli.command {
        Command::Serve(args) => serve::run(args, &cli.place),
        Command::CheckConfig(args) => config::run(session, args),
        Command::ExplainIp(args) => explain::run(session, args),
        Command::Replay(args) => replay::run(session, args),
        Command::Rules(args) => rules::run(session, args),
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| CliError::Start(format!("can't start: {error}")))?;
            runtime.block_on(ask(session, &cli, &here))
        }
    }
}

/// The commands that ask the service.
async fn ask(session: &mut Session, cli: &Cli, here: &Path) -> Result<()> {
    if let Command::Doctor(args) = &cli.command {
        return doctor::run(session, &cli.place, here, args).await;
    }
    if let Command::Geo(geo::GeoArgs { command: Some(geo::GeoCommand::Update(args)), .. }) =
        &cli.command
    {
        return geo::update::run(session, &cli.place, here, args).await;
    }
    if let Command::Health = &cli.command {
        return health::run(session, &cli.place).await;
    }
    if let Command::Keys(privacy::keys::KeysArgs {
        command: Some(privacy::keys::KeysCommand::ExportEdge),
    }) = &cli.command
    {
        return privacy::keys::export_edge(session, &cli.place, here);
    }
    let client = Client::new(&cli.place, here)?;
    match &cli.command {
        Command::Block(args) => block::block(session, &client, args).await,
        Command::Allow(args) => block::run(session, &client, Action::Allow, args).await,
        Command::Unblock(args) => unblock::unblock(session, &client, args).await,
        Command::Unallow(args) => unblock::run(session, &client, Action::Allow, args).await,
        Command::Decisions(args) => decisions::run(session, &client, args).await,
        Command::Check(args) => check::run(session, &client, args).await,
        Command::Limits(args) => limits::run(session, &client, args).await,
        Command::Detect(args) => detect::run(session, &client, args).await,
        Command::Suspects(args) => suspects::run(session, &client, args).await,
        Command::Notify(args) => notify::run(session, &client, args).await,
        Command::Requests(args) if args.follow => follow::run(session, &client, args).await,
        Command::Requests(args) => requests::run(session, &client, args).await,
        Command::Subject(args) => privacy::subject::run(session, &client, args).await,
        Command::Retention(args) => privacy::retention::run(session, &client, args).await,
        Command::Keys(args) => privacy::keys::run(session, &client, args).await,
        Command::Reveal(args) => privacy::keys::reveal(session, &client, args).await,
        Command::Feeds(args) => feeds::run(session, &client, args).await,
        Command::Geo(args) => geo::run(session, &client, args).await,
        Command::Import(args) => import::run(session, &client, args).await,
        Command::Proxies => fleet::proxies(session, &client).await,
        Command::Audit(args) => fleet::audit(session, &client, args).await,
        Command::Token { command } => fleet::token(session, &client, command.as_ref()).await,
        Command::Serve(_)
        | Command::CheckConfig(_)
        | Command::ExplainIp(_)
        | Command::Replay(_)
        | Command::Rules(_)
        | Command::Health
        | Command::Doctor(_) => Ok(()),
    }
}

/// Tells a slip on the command line, or the help that was asked for.
fn usage(error: &clap::Error, arguments: &[OsString]) -> u8 {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !asked_for && wants_json(arguments) {
        let text = error.render().to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim().to_owned();
        let mut session = Session::of_process(Format::Json);
        return session.report(&CliError::Usage(message));
    }
    // A closed pipe is no reason to say more.
    let _ = error.print();
    if asked_for { EXIT_DONE } else { EXIT_USAGE }
}

/// Whether `-o json` stands somewhere in a command line that could not be parsed.
fn wants_json(arguments: &[OsString]) -> bool {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    words.windows(2).any(|pair| matches!(pair, ["-o" | "--output", "json"]))
        || words.iter().any(|word| matches!(*word, "-ojson" | "-o=json" | "--output=json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_recognised_in_a_command_line_that_is_wrong() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&words("ipwarden blok -o json")));
        assert!(wants_json(&words("ipwarden --output=json blok")));
        assert!(!wants_json(&words("ipwarden blok -o raw json")));
    }
}
