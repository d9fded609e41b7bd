//! `ipwarden import`: what another system recorded, blocked and suspected.
//!
//! | module | owns |
//! |---|---|
//! | [`source`] | tables in a SQLite file or in CSV files, row by row |
//! | [`rows`] | a row as a record, a block or a suspect; what is odd about it |
//! | [`django`] | the command: what is new, sending, telling |
//!
//! An import may be repeated: how far the last one came is known to the service, not to the
//! machine that the command ran on.

pub mod django;
pub mod rows;
pub mod source;

use clap::{Args, Subcommand};

use super::client::Client;
use super::error::Result;
use super::output::Session;

/// From where.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// From what.
    #[command(subcommand)]
    pub command: ImportCommand,
}

/// From what.
#[derive(Debug, Clone, Subcommand)]
pub enum ImportCommand {
    /// Take over RequestLog, BlockedIP and SuspiciousIP of a Django app
    Django(django::DjangoArgs),
}

/// Runs `import`.
///
/// # Errors
/// Those of the command.
pub async fn run(session: &mut Session, client: &Client, args: &ImportArgs) -> Result<()> {
    let ImportCommand::Django(args) = &args.command;
    django::run(session, client, args).await
}
