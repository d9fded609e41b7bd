//! `ipwarden health`: one question to `/readyz`, so that an image without a shell or curl can
//! check itself.

use std::time::Duration;

use super::client;
use super::error::{CliError, Result};
use super::output::{Format, GOOD, Session};
use super::place::Place;

/// How long the answer may take: less than what health checks usually allow.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Runs `health`.
///
/// # Errors
/// [`CliError::Refused`] while the service is not ready, [`CliError::Unreachable`].
pub async fn run(session: &mut Session, place: &Place) -> Result<()> {
    let base = client::base(place)?;
    let url = base.as_str().trim_end_matches('/');
    let answer =
        client::http(&base)?.get(format!("{url}/readyz")).timeout(TIMEOUT).send().await.map_err(
            |error| CliError::Unreachable { url: url.to_owned(), cause: client::cause(&error) },
        )?;
    let status = answer.status();
    if !status.is_success() {
        let message = format!("the service at {url} is not ready: it answers {}", status.as_u16());
        return Err(CliError::Refused {
            status: status.as_u16(),
            message,
            places: Vec::new(),
            total: 0,
        });
    }
    match session.format {
        Format::Json => session.json(&serde_json::json!({"url": url, "ready": true})),
        Format::Raw => session.raw(&[url, "ready"]),
        Format::Human => session.say(format!("{GOOD}Ready{GOOD:#}: {url}")),
    }
}
