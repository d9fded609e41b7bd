//! ClickHouse's HTTP interface: one statement a request, answers in whole.

use std::time::Duration;

use reqwest::header::{self, HeaderName};
use reqwest::{Client, StatusCode};

use super::schema::Server;
use super::url::ClickHouseUrl;
use crate::store::{Result, StoreError};

/// From the question to the whole answer.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The same while batches wait for it.
const SOON: Duration = Duration::from_secs(30);
/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Characters of a server's explanation that are kept.
const WHY_CHARS: usize = 300;
/// Most groups that one answer is made of; what exceeds them is approximate.
pub(super) const MAX_GROUPS: u64 = 2_000_000;

/// Talks to one server. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client,
    url: ClickHouseUrl,
}

impl Http {
    pub(super) fn new(url: ClickHouseUrl) -> Result<Self> {
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(2))
            .build()
            .map_err(|error| StoreError::Internal(format!("no HTTP client: {error}")))?;
        Ok(Self { client, url })
    }

    pub(super) fn url(&self) -> &ClickHouseUrl {
        &self.url
    }

    /// Asks; the answer comes as RowBinary.
    pub(super) async fn ask(&self, sql: &str) -> Result<Vec<u8>> {
        let sql = format!("{sql} FORMAT RowBinary");
        self.send(&[], sql.into_bytes()).await
    }

    /// Asks while batches wait for the answer.
    pub(super) async fn ask_soon(&self, sql: &str) -> Result<Vec<u8>> {
        let sql = format!("{sql} FORMAT RowBinary");
        self.send_within(SOON, &[], sql.into_bytes()).await
    }

    /// Asks for groups, of which there may be too many.
    pub(super) async fn ask_groups(&self, sql: &str) -> Result<Vec<u8>> {
        let sql = format!("{sql} FORMAT RowBinary");
        let most = MAX_GROUPS.to_string();
        let settings = [("max_rows_to_group_by", most.as_str()), ("group_by_overflow_mode", "any")];
        self.send(&settings, sql.into_bytes()).await
    }

    /// Does something without an answer.
    pub(super) async fn run(&self, sql: &str) -> Result<()> {
        self.send(&[], sql.as_bytes().to_vec()).await.map(drop)
    }

    /// Inserts what a question finds, all of it at once: one part, or nothing.
    pub(super) async fn insert_found(&self, sql: &str, id: &str, server: Server) -> Result<()> {
        let settings = [
            ("query_id", id),
            ("min_insert_block_size_rows", "1000000000"),
            ("min_insert_block_size_bytes", "1000000000000"),
            ("max_insert_threads", "1"),
        ];
        // The last is unknown to old servers, which have one thread.
        let settings = if server.is_durable() { &settings[..] } else { &settings[..3] };
        self.send(settings, sql.as_bytes().to_vec()).await.map(drop)
    }

    /// Inserts rows; `id` names the statement, so that it can be asked for.
    pub(super) async fn insert(&self, into: &str, rows: Vec<u8>, id: Option<&str>) -> Result<()> {
        let sql = format!("INSERT INTO {into} FORMAT RowBinary");
        let mut parameters = vec![("query", sql.as_str())];
        parameters.extend(id.map(|id| ("query_id", id)));
        self.send_within(SOON, &parameters, rows).await.map(drop)
    }

    async fn send(&self, parameters: &[(&str, &str)], body: Vec<u8>) -> Result<Vec<u8>> {
        self.send_within(TIMEOUT, parameters, body).await
    }

    async fn send_within(
        &self,
        timeout: Duration,
        parameters: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Vec<u8>> {
        let common = [
            ("database", self.url.database.as_str()),
            // A failure half-way must not look like an answer.
            ("wait_end_of_query", "1"),
            ("max_query_size", "16777216"),
            // What is asked about addresses is nobody else's.
            ("log_queries", "0"),
        ];
        let cluster = [
            // A batch is stored when its shard has it.
            ("insert_distributed_sync", "1"),
            ("distributed_product_mode", "global"),
        ];
        let cluster = if self.url.cluster.is_some() { &cluster[..] } else { &[] };
        let request = self
            .client
            .post(self.url.base.clone())
            .query(&common)
            .query(cluster)
            .query(parameters)
            .header(HeaderName::from_static("x-clickhouse-user"), &self.url.user)
            .header(HeaderName::from_static("x-clickhouse-key"), &self.url.password)
            // An old server refuses a body without a length, and none is sent with an empty one.
            .header(header::CONTENT_LENGTH, body.len())
            .timeout(timeout)
            .body(body);
        let lost = |error: reqwest::Error| {
            StoreError::Unavailable(format!("{}: {}", self.url, causes(&error.without_url())))
        };
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let answer = response.bytes().await.map_err(lost)?;
        if status.is_success() {
            return Ok(answer.to_vec());
        }
        Err(self.failure(status, &String::from_utf8_lossy(&answer)))
    }

    fn failure(&self, status: StatusCode, told: &str) -> StoreError {
        let code = code_of(told);
        let why: String = told.chars().take(WHY_CHARS).map(plain).collect();
        let why = format!("{}: {}", self.url, why.trim());
        match code {
            // No such database.
            Some(81) => StoreError::Unusable(format!(
                "{why}; make it (CREATE DATABASE {}) or name another in the URL",
                self.url.database
            )),
            // Unknown user, wrong password, not allowed from here, no rights.
            Some(192..=195 | 497 | 516) => StoreError::Unusable(format!(
                "{why}; check the user of the URL, log_password_file, and what the user may do (docs/operating.md, \"The log on ClickHouse\")"
            )),
            // Too slow, too many at once, read-only, no memory, too many parts, network, Keeper,
            // shutting down.
            Some(3 | 159 | 202 | 209 | 210 | 225 | 236 | 241 | 242 | 243 | 252 | 319 | 999) => {
                StoreError::Unavailable(why)
            }
            None if status.is_server_error() && status != StatusCode::INTERNAL_SERVER_ERROR => {
                StoreError::Unavailable(why)
            }
            _ => StoreError::Internal(why),
        }
    }
}

/// The number in `Code: 81. …`.
fn code_of(told: &str) -> Option<u32> {
    let rest = told.split_once("Code: ")?.1;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    rest.get(..digits)?.parse().ok()
}

fn plain(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        said = format!("{said}: {cause}");
        next = cause.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_whether_trying_again_helps() {
        let http =
            Http::new(ClickHouseUrl::parse("clickhouse://u:secret@h/logs").unwrap()).unwrap();
        let kind = |status: u16, told: &str| {
            http.failure(StatusCode::from_u16(status).unwrap(), told).to_string()
        };
        assert_eq!(
            kind(500, "Code: 193, e.displayText() = DB::Exception: Wrong password\n"),
            "store can't be used: clickhouse://h:8123/logs: Code: 193, e.displayText() = DB::Exception: Wrong password; check the user of the URL, log_password_file, and what the user may do (docs/operating.md, \"The log on ClickHouse\")"
        );
        assert_eq!(
            kind(404, "Code: 81, e.displayText() = DB::Exception: Database logs doesn't exist"),
            "store can't be used: clickhouse://h:8123/logs: Code: 81, e.displayText() = DB::Exception: Database logs doesn't exist; make it (CREATE DATABASE logs) or name another in the URL"
        );
        assert!(kind(500, "Code: 252. Too many parts").starts_with("store is unavailable: "));
        assert!(kind(503, "busy").starts_with("store is unavailable: "));
        assert!(kind(400, "Code: 62. Syntax").starts_with("store failed: "));
        assert!(kind(500, "boom").starts_with("store failed: "));
    }
}
